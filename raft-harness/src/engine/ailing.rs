//! Nodes whose log ails: others are to lead.
//!
//! One log serves all groups of a node, so a disk that hangs is no group's affair. While the log here
//! is not well, this node stands for no election and hands over what it leads, idle groups and those
//! that sleep as well. Peers say the same of themselves, and are no heirs until they are well.
//!
//! A move takes a majority whose disks answer. Where there is none among the *other* voters of a
//! group, in either half of a joint membership, nobody moves and nobody is kept from standing: a new
//! leader would be no better off, and the old one can still answer reads.
//!
//! Invariants: a word that is older than the longest election timeout counts for nothing, so whoever
//! said it and is gone keeps nobody from office; each group that is led here and belongs elsewhere is
//! being handed over.

use std::time::Duration;

use raft_core::{Candidacy, Input, Micros, NodeId, ReplicaId};
use raft_transport::Condition;

use super::io::TurnOutput;
use super::shard_engine::ShardEngine;

/// What is known of the log here and of those of the other nodes.
#[derive(Debug)]
pub(super) struct Ailing {
    own: Condition,
    /// By the place of a node in the engine's table, if it ever ailed.
    peers: Vec<Option<Peer>>,
    /// How long a word counts.
    counts_for: Duration,
    /// Groups that have come to be led here, or have other members, since one ails.
    changed: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Until when it is taken to ail.
    until: Micros,
    /// The groups have been told.
    is_told: bool,
}

impl Ailing {
    pub(super) fn new(counts_for: Duration) -> Self {
        Self { own: Condition::Well, peers: Vec::new(), counts_for, changed: Vec::new() }
    }

    pub(super) fn is_well(&self) -> bool {
        self.own == Condition::Well
    }

    /// Whether a node ails, as far as is known.
    fn ails(&self, place: usize, now: Micros) -> bool {
        let peer = self.peers.get(place).copied().flatten();
        peer.is_some_and(|peer| peer.until > now)
    }

    /// Since when a node is well again, if it ever was not.
    pub(super) fn well_since(&self, place: usize) -> Option<Micros> {
        Some(self.peers.get(place).copied().flatten()?.until)
    }

    /// When a word that was acted upon counts no more.
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let told = self.peers.iter().flatten().filter(|peer| peer.is_told);
        told.map(|peer| peer.until).min()
    }

    fn is_of_account(&self) -> bool {
        !self.is_well() || self.peers.iter().flatten().any(|peer| peer.is_told)
    }
}

impl ShardEngine {
    /// The log here ails, or is well again.
    pub(super) fn on_own_condition(&mut self, condition: Condition, out: &mut TurnOutput) {
        self.ailing.own = condition;
        if condition == Condition::Well && !self.stopping {
            self.hand_overs.call_off();
        }
        for at in 0..self.slots.len() as u32 {
            self.settle_office(at, out);
        }
    }

    /// A node said at `heard` how its log is.
    pub(super) fn on_peer_condition(
        &mut self,
        node: NodeId,
        condition: Condition,
        heard: Micros,
        out: &mut TurnOutput,
    ) {
        let place = self.place_of(node);
        let until = match condition {
            Condition::Ailing => heard.after(self.ailing.counts_for),
            Condition::Well => heard.min(self.now),
        };
        if self.ailing.peers.len() <= place {
            self.ailing.peers.resize(place + 1, None);
        }
        match &mut self.ailing.peers[place] {
            Some(peer) => peer.until = until,
            // It was well as far as is known here.
            none if condition == Condition::Ailing => {
                *none = Some(Peer { until, is_told: false });
            }
            None => {}
        }
        self.follow_peers(out);
    }

    /// Acts upon what was said, and upon what counts no more.
    pub(super) fn tend_ailing(&mut self, out: &mut TurnOutput) {
        self.follow_peers(out);
        for at in std::mem::take(&mut self.ailing.changed) {
            if self.slots[at as usize].is_gone {
                continue;
            }
            for replica in self.ailing_in(at) {
                self.step(at, Input::PeerCandidacy(replica, Candidacy::Withheld), out);
            }
            self.settle_office(at, out);
        }
    }

    fn follow_peers(&mut self, out: &mut TurnOutput) {
        for place in 0..self.ailing.peers.len() {
            let ails = self.ailing.ails(place, self.now);
            let Some(peer) = &mut self.ailing.peers[place] else { continue };
            if std::mem::replace(&mut peer.is_told, ails) == ails {
                continue;
            }
            let candidacy = if ails { Candidacy::Withheld } else { Candidacy::Ready };
            for at in 0..self.slots.len() as u32 {
                let slot = &self.slots[at as usize];
                let there: Vec<ReplicaId> = slot.peers.on(place).map(|peer| peer.replica).collect();
                if there.is_empty() || slot.is_gone {
                    continue;
                }
                if slot.leads() {
                    for replica in there {
                        self.step(at, Input::PeerCandidacy(replica, candidacy), out);
                    }
                }
                self.settle_office(at, out);
            }
        }
    }

    /// A group has come to be led here, or has other members.
    pub(super) fn note_office(&mut self, at: u32) {
        if self.ailing.is_of_account() {
            self.ailing.changed.push(at);
        }
    }

    /// The replicas of a group on nodes that ail.
    fn ailing_in(&self, at: u32) -> Vec<ReplicaId> {
        let peers = self.slots[at as usize].peers.iter();
        let ail = peers.filter(|peer| self.ailing.ails(peer.at, self.now));
        ail.map(|peer| peer.replica).collect()
    }

    /// Tells the replica of a group whether it takes office, and has the group handed over if it is
    /// led here and is not to be.
    fn settle_office(&mut self, at: u32, out: &mut TurnOutput) {
        if self.slots[at as usize].is_gone {
            return;
        }
        let elsewhere = self.belongs_elsewhere(at);
        let slot = &mut self.slots[at as usize];
        let is_withheld = elsewhere || self.stopping;
        if std::mem::replace(&mut slot.is_withheld, is_withheld) != is_withheld {
            let candidacy = if is_withheld { Candidacy::Withheld } else { Candidacy::Ready };
            self.step(at, Input::Candidacy(candidacy), out);
        }
        let slot = &self.slots[at as usize];
        let stays = raft_core::planted!(IdleGroupsStayWithHungDisk)
            && slot.core.waits_for_disk_since().is_none();
        if elsewhere && slot.leads() && !stays {
            self.hand_overs.add(at);
        }
    }

    /// Whether the log here ails, and a majority of the group has one that does not.
    pub(super) fn belongs_elsewhere(&self, at: u32) -> bool {
        if self.ailing.is_well() {
            return false;
        }
        let slot = &self.slots[at as usize];
        let is_well = |replica| {
            let peer = slot.peers.get(replica);
            peer.is_some_and(|peer| !self.ailing.ails(peer.at, self.now))
        };
        let membership = slot.core.membership();
        let known = membership.members().iter().map(|member| member.replica);
        let known = known.map(|replica| (replica, is_well(replica)));
        membership.joint().reached(known) == Some(true) || raft_core::planted!(HungMajorityMoves)
    }
}
