//! A node that is going to stop: it takes no office any more, and hands over what it leads.
//!
//! A few groups at a time, since a hand-over takes rounds of messages and flushes of two logs, and
//! of a thousand at once each would wait for all the others. A group that is not its turn yet is
//! led and serves as before. One that was handed over is done once its new leader was heard here
//! and what was proposed here is decided, so that a stop after that leaves no outcome unknown.
//!
//! Invariants: once told, this node comes to lead nothing; each group led here is waited for until
//! it is done, nobody can take it over, or its time is up.

use std::collections::{HashSet, VecDeque};

use raft_core::{Candidacy, Input, LogIndex, Micros, Outcome, Refusal, Token};
use tracing::info;

use super::io::{HandingOver, TurnOutput};
use super::requests::TRANSFER_TOKEN;
use super::shard_engine::ShardEngine;

/// Groups of a shard that are handed over at a time.
const UNDER_WAY_MAX: usize = 32;

/// Entries that an heir's state machine may lack: it gets through them while it is elected. One
/// that lacks more would let everybody wait, and another is asked.
const HEIR_LAG_MAX: u64 = 64;

/// The token of hand-overs that nobody waits for by a reply.
pub(super) const STOPPING_TOKEN: Token = Token::new(TRANSFER_TOKEN);

/// What is still to be handed over. Each group led here is in one of these, or done.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    queue: VecDeque<u32>,
    under_way: Vec<UnderWay>,
    /// Nobody could take these over; they are tried again.
    again: VecDeque<(Micros, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    at: u32,
    /// Until when its new leader is waited for, once it is not led here any more.
    until: Option<Micros>,
}

impl Stopping {
    /// The groups that are worth waiting for.
    fn all(&self) -> impl Iterator<Item = u32> {
        let under_way = self.under_way.iter().map(|group| group.at);
        self.queue.iter().copied().chain(under_way).chain(self.again.iter().map(|(_, at)| *at))
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let waits = self.under_way.iter().filter_map(|group| group.until);
        waits.chain(self.again.front().map(|(due, _)| *due)).min()
    }
}

impl ShardEngine {
    /// The node is going to stop. Said again, groups that were given up are tried once more.
    pub(super) fn on_stopping(&mut self, out: &mut TurnOutput) {
        let mut stopping = self.stopping.take().unwrap_or_default();
        let known: HashSet<u32> = stopping.all().collect();
        let led = (0..self.slots.len() as u32).filter(|at| self.slots[*at as usize].leads());
        stopping.queue.extend(led.filter(|at| !known.contains(at)));
        self.stopping = Some(stopping);
        for at in 0..self.slots.len() as u32 {
            if !self.slots[at as usize].is_gone {
                self.step(at, Input::Candidacy(Candidacy::Withheld), out);
            }
        }
        for place in 0..self.peers.len() {
            if self.data_up[place].is_none() {
                self.count_out(place, out);
            }
        }
        self.tend_stopping(out);
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

    /// Goes on with what is to be handed over.
    pub(super) fn tend_stopping(&mut self, out: &mut TurnOutput) {
        let Some(mut stopping) = self.stopping.take() else { return };
        while let Some((_, at)) = stopping.again.pop_front_if(|(due, _)| *due <= self.now) {
            stopping.queue.push_back(at);
        }
        let patience = self.options.settings.election_timeout_max;
        stopping.under_way.retain_mut(|group| {
            if self.slots[group.at as usize].leads() {
                return true;
            }
            let until = *group.until.get_or_insert_with(|| self.now.after(patience));
            until > self.now && !self.is_settled(group.at)
        });
        self.stopping = Some(stopping);
        while let Some(stopping) = &mut self.stopping
            && stopping.under_way.len() < UNDER_WAY_MAX
            && let Some(at) = stopping.queue.pop_front()
        {
            if self.slots[at as usize].leads() {
                stopping.under_way.push(UnderWay { at, until: None });
                self.step(at, Input::Transfer { token: STOPPING_TOKEN, to: None }, out);
            }
        }
    }

    /// Whether somebody else is heard to lead a group, and what was proposed here is decided.
    fn is_settled(&self, at: u32) -> bool {
        let slot = &self.slots[at as usize];
        let led = slot.known_leader.is_some() || slot.core.fault().is_some();
        slot.is_gone || led && slot.waiters.is_empty() && !self.replies.owes(slot.spec.group)
    }

    /// A hand-over ended. Where it did not happen, the group is still led here.
    pub(super) fn note_handed_over(&mut self, at: u32, outcome: Outcome) {
        let again = self.now.after(self.options.settings.heartbeat_interval);
        let Some(stopping) = &mut self.stopping else { return };
        match outcome {
            Outcome::Refused(Refusal::TransferFailed | Refusal::Transferring) => {
                stopping.under_way.retain(|group| group.at != at);
                stopping.again.push_back((again, at));
            }
            Outcome::Refused(Refusal::NoHeir | Refusal::Faulted) => {
                info!(group = %self.slots[at as usize].spec.group, "nobody takes over");
                stopping.under_way.retain(|group| group.at != at);
            }
            Outcome::Transferred
            | Outcome::Refused(_)
            | Outcome::Committed { .. }
            | Outcome::Superseded
            | Outcome::Unknown
            | Outcome::ReadReady { .. } => {}
        }
    }

    /// How far handing over is.
    pub(crate) fn handing_over(&self) -> HandingOver {
        let led = self.slots.iter().filter(|slot| slot.leads()).count();
        let all = || self.stopping.iter().flat_map(Stopping::all);
        let unfinished = all().filter(|at| self.slots[*at as usize].leads()).count();
        HandingOver { led, open: all().count(), unfinished }
    }

    /// The leader of a group, which has committed up to `commit`, asks its replica here to take
    /// over: the core is told whether it may.
    pub(super) fn judge_candidacy(&mut self, at: u32, commit: LogIndex, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let known = slot.core.commit_index().max(commit);
        let candidacy = if self.stopping.is_some() {
            Candidacy::Withheld
        } else if known > slot.applied.index.plus(HEIR_LAG_MAX) {
            Candidacy::Behind
        } else {
            Candidacy::Ready
        };
        self.step(at, Input::Candidacy(candidacy), out);
    }
}
