//! Leaders go back to where they belong.
//!
//! First campaigns are ranked, so that of many groups each node comes to lead its share. A node
//! that comes up late, or was away, finds its share led by others, and there it would stay. So a
//! leader that is not the first by rank yields to the one that is, once that one's node has been
//! reached without a break for long enough that one which comes and goes moves nothing to and fro.
//! The core sees to the rest: the other was heard, holds what is committed, has applied it, and is
//! as eager to lead.
//!
//! This balances nothing: it knows ranks, not loads, and moves no group twice.
//!
//! Invariants: a group is yielded at most once per leadership, unless the attempt fails, and then
//! with growing pauses; nothing is yielded by or to a node that is going to stop, or one whose log
//! ails or did lately.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft_core::{DiskSpace, Input, LogIndex, Micros, Token};

use super::io::TurnOutput;
use super::requests::TRANSFER_TOKEN;
use super::shard_engine::ShardEngine;

/// How long a node must have been reached. Longer than what makes a node that comes and goes a
/// nuisance; a group that was just created, and was never led by anybody else, need not wait so
/// long.
const REACHED_MIN: Duration = Duration::from_secs(10);

/// How long its log must have been well, if it ever was not: a disk that hung is likely to hang
/// again, and each time all that it leads would move.
const WELL_MIN: Duration = Duration::from_secs(60);

/// Between two looks at the groups concerned.
const PERIOD: Duration = Duration::from_millis(500);

/// Groups of a shard that are yielded at a time.
const UNDER_WAY_MAX: usize = 8;

/// The first and the longest pause after an attempt that failed.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The token of hand-overs that are done for the sake of spread.
pub(super) const SPREADING_TOKEN: Token = Token::new(TRANSFER_TOKEN | 1 << 61);

/// The groups led here by another than the first by rank. Empties by itself.
#[derive(Debug, Default)]
pub(super) struct Spreading {
    astray: BTreeMap<u32, Attempts>,
    under_way: BTreeSet<u32>,
    due: Option<Micros>,
}

/// When a group is tried next, and how long it then rests if that fails.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    next: Micros,
    pause: Duration,
}

impl Spreading {
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        self.due
    }

    /// A group is being yielded.
    pub(super) fn begun(&mut self, at: u32) {
        self.under_way.insert(at);
    }

    /// An attempt ended, either way.
    pub(super) fn ended(&mut self, at: u32) {
        self.under_way.remove(&at);
    }

    /// The replica left: whatever was under way for it has no end of its own.
    pub(super) fn forget(&mut self, at: u32) {
        self.under_way.remove(&at);
        self.astray.remove(&at);
    }

    /// How many groups are being yielded.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }
}

impl ShardEngine {
    /// A group has come to be led here, or is not any more.
    pub(super) fn note_place(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let first = slot.core.first_by_rank();
        if slot.leads() && first.is_some_and(|first| first != slot.core.replica()) {
            let fresh = Attempts { next: self.now, pause: PAUSE_MIN };
            self.spreading.astray.entry(at).or_insert(fresh);
            self.spreading.due.get_or_insert_with(|| self.now.after(PERIOD));
        } else {
            self.spreading.astray.remove(&at);
        }
    }

    /// Yields what may be yielded, if it is time to look.
    pub(super) fn spread(&mut self, out: &mut TurnOutput) {
        if self.spreading.due.is_none_or(|due| self.now < due) {
            return;
        }
        let idle = !self.stopping && self.disk == DiskSpace::Ample && self.ailing.is_well();
        let groups: Vec<u32> = self.spreading.astray.keys().copied().collect();
        for at in groups {
            if !idle || self.spreading.under_way() >= UNDER_WAY_MAX {
                break;
            }
            self.yield_if_due(at, out);
        }
        let more = !self.stopping && !self.spreading.astray.is_empty();
        self.spreading.due = more.then(|| self.now.after(PERIOD));
    }

    fn yield_if_due(&mut self, at: u32, out: &mut TurnOutput) {
        let slot = &self.slots[at as usize];
        let first = slot.core.first_by_rank().filter(|first| *first != slot.core.replica());
        let (true, Some(to)) = (slot.leads(), first) else {
            // A membership may be joint for now; once it is left, this is looked at again.
            self.spreading.astray.remove(&at);
            return;
        };
        let is_new = slot.core.leads_since() == Some(LogIndex::new(1));
        let patience =
            if is_new { self.options.settings.election_timeout_max } else { REACHED_MIN };
        let place = slot.peers.get(to).map(|peer| peer.at);
        let reached = place.and_then(|place| self.data_up[place]);
        let well = place.and_then(|place| self.ailing.well_since(place));
        let long_enough = reached.is_some_and(|since| self.now.since(since) >= patience)
            && well.is_none_or(|since| self.now >= since.after(WELL_MIN));
        let Some(attempts) = self.spreading.astray.get_mut(&at) else { return };
        if !long_enough || self.now < attempts.next {
            return;
        }
        attempts.next = self.now.after(attempts.pause);
        attempts.pause = (attempts.pause * 2).min(PAUSE_MAX);
        self.spreading.begun(at);
        self.step(at, Input::Yield { token: SPREADING_TOKEN, to }, out);
    }
}
