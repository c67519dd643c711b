//! Leaderships that are handed over because this node is not to lead: it is going to stop, or its
//! log ails, or the replica here cannot serve one that lags behind.
//!
//! A few groups at a time, since a hand-over takes rounds of messages and flushes of two logs, and
//! of a thousand at once each would wait for all the others. A group that is not its turn yet is
//! led and serves as before, and so is one that nobody can take over.
//!
//! Bound: each group is in one of the lists at most once.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use raft_core::{Input, Micros, Outcome, Refusal, Token};
use tracing::info;

use super::io::TurnOutput;
use super::requests::TRANSFER_TOKEN;
use super::shard_engine::ShardEngine;
use crate::counters::Counters;

/// Groups of a shard that are handed over at a time.
const UNDER_WAY_MAX: usize = 32;

/// When a group is asked about again that nobody could take over.
const NO_HEIR_PAUSE: Duration = Duration::from_secs(1);

/// The token of hand-overs that nobody waits for by a reply.
pub(super) const HAND_OVER_TOKEN: Token = Token::new(TRANSFER_TOKEN);

/// What is still to be handed over. Each group led here that is to be is in one of these, or done.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    queue: VecDeque<u32>,
    under_way: Vec<UnderWay>,
    /// Nobody could take these over; they are tried again, the earliest first.
    again: VecDeque<(Micros, u32)>,
    /// All that are in one of them.
    known: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    at: u32,
    /// Until when its new leader is waited for, once it is not led here any more.
    until: Option<Micros>,
}

impl HandOvers {
    /// A group is to be handed over, when it is its turn.
    pub(super) fn add(&mut self, at: u32) {
        if self.known.insert(at) {
            self.queue.push_back(at);
        }
    }

    /// Those that are not under way need not be any more.
    pub(super) fn call_off(&mut self) {
        let waiting = self.queue.drain(..).chain(self.again.drain(..).map(|(_, at)| at));
        for at in waiting {
            self.known.remove(&at);
        }
    }

    /// The groups that are worth waiting for.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.known.iter().copied()
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let waits = self.under_way.iter().filter_map(|group| group.until);
        waits.chain(self.again.front().map(|(due, _)| *due)).min()
    }

    /// The replica left.
    pub(super) fn forget(&mut self, at: u32) {
        self.queue.retain(|other| *other != at);
        self.again.retain(|(_, other)| *other != at);
        self.give_up(at);
    }

    fn try_again(&mut self, at: u32, due: Micros) {
        self.under_way.retain(|group| group.at != at);
        let place = self.again.partition_point(|(other, _)| *other <= due);
        self.again.insert(place, (due, at));
    }

    fn give_up(&mut self, at: u32) {
        self.under_way.retain(|group| group.at != at);
        self.known.remove(&at);
    }
}

impl ShardEngine {
    /// Goes on with what is to be handed over.
    pub(super) fn tend_hand_overs(&mut self, out: &mut TurnOutput) {
        if self.hand_overs.known.is_empty() {
            return;
        }
        let mut hand_overs = std::mem::take(&mut self.hand_overs);
        while let Some((_, at)) = hand_overs.again.pop_front_if(|(due, _)| *due <= self.now) {
            hand_overs.queue.push_back(at);
        }
        let patience = self.options.settings.election_timeout_max;
        let known = &mut hand_overs.known;
        let queue = &mut hand_overs.queue;
        hand_overs.under_way.retain_mut(|group| {
            if self.slots[group.at as usize].leads() {
                // Who took over did not get far, and it is led here again: the next of its hand-overs.
                let is_over = group.until.is_some();
                queue.extend(is_over.then_some(group.at));
                return !is_over;
            }
            let until = *group.until.get_or_insert_with(|| self.now.after(patience));
            let waits = until > self.now && !self.is_settled(group.at);
            if !waits {
                known.remove(&group.at);
            }
            waits
        });
        self.hand_overs = hand_overs;
        while self.hand_overs.under_way.len() < UNDER_WAY_MAX
            && let Some(at) = self.hand_overs.queue.pop_front()
        {
            let is_due = self.stopping || self.belongs_elsewhere(at) || self.serves_badly(at);
            if is_due && self.slots[at as usize].leads() {
                self.hand_overs.under_way.push(UnderWay { at, until: None });
                #[cfg(feature = "sim")]
                if !self.stopping && self.belongs_elsewhere(at) {
                    self.show_hand_over(at);
                }
                self.step(at, Input::Transfer { token: HAND_OVER_TOKEN, to: None }, out);
            } else {
                self.hand_overs.known.remove(&at);
            }
        }
    }

    /// Whether a peer that lacks what a snapshot names here cannot be served.
    pub(super) fn serves_badly(&self, at: u32) -> bool {
        self.slots[at as usize].snapshots.unreadable_named().is_some()
    }

    /// Whether somebody else is heard to lead a group, and, where this node is going to be gone,
    /// what was proposed here is decided.
    fn is_settled(&self, at: u32) -> bool {
        let slot = &self.slots[at as usize];
        let led = slot.known_leader.is_some() || slot.core.fault().is_some();
        let owes = || !slot.waiters.is_empty() || self.replies.owes(slot.spec.group);
        slot.is_gone || led && !(self.stopping && owes())
    }

    /// A hand-over ended. Where it did not happen, the group is still led here.
    pub(super) fn note_handed_over(&mut self, at: u32, outcome: Outcome) {
        match outcome {
            Outcome::Refused(Refusal::TransferFailed | Refusal::Transferring) => {
                let again = self.now.after(self.options.settings.heartbeat_interval);
                self.hand_overs.try_again(at, again);
            }
            Outcome::Refused(Refusal::NoHeir) if !self.stopping => {
                // Who cannot now may later; until then it is led here as well as it goes.
                self.hand_overs.try_again(at, self.now.after(NO_HEIR_PAUSE));
            }
            Outcome::Refused(Refusal::NoHeir | Refusal::Faulted) => {
                info!(group = %self.slots[at as usize].spec.group, "nobody takes over");
                self.hand_overs.give_up(at);
            }
            Outcome::Transferred if !self.stopping => {
                Counters::add(&self.counters.leaderships_moved_off_log, 1);
            }
            Outcome::Transferred
            | Outcome::Refused(_)
            | Outcome::Committed { .. }
            | Outcome::Superseded
            | Outcome::Unknown
            | Outcome::ReadReady { .. } => {}
        }
    }
}
