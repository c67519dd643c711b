//! A node that is going to stop: it takes no office any more, and hands over what it leads.
//!
//! One group that was handed over is done once its new leader was heard here and what was proposed
//! here is decided, so that a stop after that leaves no outcome unknown.
//!
//! Invariants: once told, this node comes to lead nothing; each group led here is waited for until
//! it is done, nobody can take it over, or its time is up.

use raft_core::{Candidacy, Input, LogIndex};

use super::io::{HandingOver, TurnOutput};
use super::shard_engine::ShardEngine;

/// Entries that an heir's state machine may lack: it gets through them while it is elected. One
/// that lacks more would let everybody wait, and another is asked.
const HEIR_LAG_MAX: u64 = 64;

impl ShardEngine {
    /// The node is going to stop. Said again, groups that were given up are tried once more.
    pub(super) fn on_stopping(&mut self, out: &mut TurnOutput) {
        self.stopping = true;
        for at in 0..self.slots.len() as u32 {
            if self.slots[at as usize].leads() {
                self.hand_overs.add(at);
            }
            if !self.slots[at as usize].is_gone {
                self.step(at, Input::Candidacy(Candidacy::Withheld), out);
            }
        }
        for place in 0..self.peers.len() {
            if self.data_up[place].is_none() {
                self.count_out(place, out);
            }
        }
        self.tend_hand_overs(out);
    }

    /// A node is out of reach: nothing led here is handed over to it.
    pub(super) fn count_out(&mut self, place: usize, out: &mut TurnOutput) {
        for at in 0..self.slots.len() as u32 {
            let slot = &self.slots[at as usize];
            // One, but for a replica that replaces another there.
            let there = slot.peers.on(place).filter(|_| slot.leads()).map(|peer| peer.replica);
            for replica in there.collect::<Vec<_>>() {
                self.step(at, Input::PeerUnreachable(replica), out);
            }
        }
    }

    /// How far handing over is.
    pub(crate) fn handing_over(&self) -> HandingOver {
        let led = self.slots.iter().filter(|slot| slot.leads()).count();
        let all = || self.hand_overs.all().filter(|_| self.stopping);
        let unfinished = all().filter(|at| self.slots[*at as usize].leads()).count();
        HandingOver { led, open: all().count(), unfinished }
    }

    /// The leader of a group, which has committed up to `commit`, asks its replica here to take
    /// over: the core is told whether it may.
    pub(super) fn judge_candidacy(&mut self, at: u32, commit: LogIndex, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let known = slot.core.commit_index().max(commit);
        let candidacy = if self.stopping || self.belongs_elsewhere(at) {
            Candidacy::Withheld
        } else if known > slot.applied.index.plus(HEIR_LAG_MAX) || self.serves_badly(at) {
            Candidacy::Behind
        } else {
            Candidacy::Ready
        };
        self.slots[at as usize].is_withheld = candidacy == Candidacy::Withheld;
        self.step(at, Input::Candidacy(candidacy), out);
    }
}
