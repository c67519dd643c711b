//! Replication: appends, pulled by whoever has room for them, and what their answers say
//! (paper, section 5.3).
//!
//! Invariants: nothing is queued per peer, so nothing has to be dropped; an answer moves a mark
//! only if it is of the live session; a peer that needs what is compacted gets a snapshot.

use alloc::boxed::Box;

use crate::group::{Group, Role};
use crate::id::{LogIndex, LogTime, Micros, ReplicaId};
use crate::io::{Effects, Fault, SnapshotEffect, StepResult};
use crate::message::{Append, AppendReply, AppendResult, Declined, Session};
use crate::progress::State;
use crate::sparse::Sparse;
use crate::term_runs::TermRuns;

/// The most entries in one append, whatever their size: a transport may rely on it.
const APPEND_ENTRIES_MAX: u64 = 1 << 16;

impl Group {
    /// Whether [`make_append`](Self::make_append) has something for this peer.
    #[inline]
    pub fn wants_append(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let last = self.log.last_index();
        leader.peer(peer).is_some_and(|p| p.may_send(self.now, last, &self.settings))
    }

    /// Builds the next append for a peer, when a lane has room for it: at most `budget` bytes
    /// and [`append_bytes_max`](crate::Settings::append_bytes_max), but always at least one entry if one is due.
    ///
    /// `cost_of` tells an entry's [`cost`](crate::Entry::cost); it is a lookup in the driver's
    /// index and must not block. `None` from it ends the append before that entry: the driver
    /// does not have it at hand. Returns `None` when nothing is due, or the very first entry is
    /// not at hand; nothing changes then.
    ///
    /// The driver attaches the entries, and sets [`Append::time`] to the last one's. What is in
    /// flight and finds no answer is asked about by an empty append: once per heartbeat interval
    /// if the window is full, else after each [`election_timeout_min`](crate::Settings::election_timeout_min).
    #[inline]
    pub fn make_append(
        &mut self,
        now: Micros,
        peer: ReplicaId,
        budget: u64,
        cost_of: impl FnMut(LogIndex) -> Option<u64>,
    ) -> Option<Append> {
        self.now = self.now.max(now);
        // Drivers ask until there is nothing more, so half of all calls end here.
        if self.wants_append(peer) { self.build_append(peer, budget, cost_of) } else { None }
    }

    fn build_append(
        &mut self,
        peer: ReplicaId,
        budget: u64,
        mut cost_of: impl FnMut(LogIndex) -> Option<u64>,
    ) -> Option<Append> {
        let last = self.log.last_index();
        let commit = self.commit;
        let quorum_durable = self.quorum_durable_index();
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        let term = leader.term;
        let progress = leader.peer_mut(peer)?;
        let prev_index = progress.next_index.prev();
        let prev_term = self.log.term(prev_index)?;
        let limit = budget.min(self.settings.append_bytes_max);
        let mut bytes = 0u64;
        let mut end = prev_index;
        // A probe asks where the logs agree; entries would likely be sent in vain.
        let streams = progress.streams(self.now, &self.settings);
        while streams && end < last && end.since(prev_index) < APPEND_ENTRIES_MAX {
            let Some(cost) = cost_of(end.next()) else {
                break;
            };
            if end > prev_index && bytes.saturating_add(cost) > limit {
                break;
            }
            bytes = bytes.saturating_add(cost);
            end = end.next();
        }
        if streams && end == prev_index {
            return None;
        }
        let first = prev_index.next();
        let (runs, configs) = if end >= first {
            (self.log.runs(first, end), self.configs.within(first, end).into())
        } else {
            (TermRuns::new(), Sparse::new())
        };
        progress.sent(self.now, end, bytes);
        Some(Append {
            term,
            session: progress.session,
            prev_index,
            prev_term,
            runs,
            configs,
            commit,
            quorum_durable,
            acknowledge: self.settings.acknowledge,
            time: LogTime::default(),
        })
    }

    /// Everybody this leader replicates to: all members but itself, and for a while those who
    /// were just removed.
    pub fn replicated_to(&self) -> alloc::vec::Vec<ReplicaId> {
        match &self.role {
            Role::Leader(leader) => leader.peers.iter().map(|peer| peer.replica).collect(),
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => alloc::vec::Vec::new(),
        }
    }

    /// The first entry the next append for this peer needs, if it streams entries.
    pub fn next_index(&self, peer: ReplicaId) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        leader.peer(peer).map(|progress| progress.next_index)
    }

    /// Up to where this leader knows the peer's log to be equal to its own, on the peer's disk.
    pub fn match_index(&self, peer: ReplicaId) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        leader.peer(peer).map(|progress| progress.match_index)
    }

    /// The session whose answers this leader takes from the peer: it changes with the connection,
    /// and with the peer's life.
    pub fn session(&self, peer: ReplicaId) -> Option<Session> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        leader.peer(peer).map(|progress| progress.session)
    }

    /// Whether an append to this peer waits for its answer. A driver with several lanes changes
    /// lanes only when nothing is in flight, so that no append overtakes another.
    pub fn has_in_flight(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.peer(peer).is_some_and(|progress| progress.in_flight())
    }

    /// Whether the next append to this peer carries entries, and not just a question.
    pub fn sends_entries_to(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.peer(peer).is_some_and(|progress| progress.streams(self.now, &self.settings))
    }

    /// Whether appends to this peer carry entries: where the logs agree has been found.
    pub fn streams_to(&self, peer: ReplicaId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        leader.peer(peer).is_some_and(|progress| matches!(progress.state, State::Replicate(_)))
    }

    /// Up to where every member has said its log is durable; everything below is never sent
    /// again, except to a peer that starts over. `None` unless leading.
    pub fn match_of_all(&self) -> Option<LogIndex> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let own = self.durability.durable();
        Some(leader.peers.iter().map(|peer| peer.match_index).fold(own, LogIndex::min))
    }

    pub(crate) fn on_append_reply(
        &mut self,
        from: ReplicaId,
        reply: AppendReply,
        effects: &mut Effects,
    ) -> StepResult {
        if reply.term > self.hard_state.term {
            self.become_follower(reply.term, None, effects);
            return Ok(());
        }
        let last = self.log.last_index();
        let (now, log) = (self.now, &self.log);
        let base = log.base();
        let Role::Leader(leader) = &mut self.role else {
            return Ok(());
        };
        let term = leader.term;
        let Some(progress) = leader.peer_mut(from) else {
            return Ok(());
        };
        let is_live = reply.session == progress.session || crate::planted!(AckOfOlderSessionCounts);
        if reply.term != term || !is_live {
            return Ok(());
        }
        progress.heard(now);
        match reply.result {
            AppendResult::Accepted { durable, written, verified, promise } => {
                let acknowledged = durable.max(written).max(verified);
                if acknowledged > last {
                    return Err(Box::new(Fault::AckBeyondLog { peer: from, acknowledged, last }));
                }
                let changed = progress.promise != promise;
                progress.promise = promise;
                let grew = progress.accepted(now, durable, written, verified, base);
                if grew || changed {
                    let moved = progress.match_index.max(progress.written_index);
                    self.advance_commit(moved, effects);
                    self.continue_transfer(effects);
                }
            }
            AppendResult::Rejected { prev_index, .. }
                if prev_index <= progress.match_index && !crate::planted!(MatchOutlivesDamage) =>
            {
                // It had that. Either this was overtaken, and asking again costs little; or it has lost
                // what it said to hold, and the word of that did not arrive.
                let (promise, next) = (progress.promise, last.next());
                let session = self.sessions.bump();
                if let Some(progress) = leader.peer_mut(from) {
                    progress.restart(session, next);
                    progress.promise = promise;
                }
            }
            AppendResult::Rejected { prev_index, hint_index, hint_term } => {
                // Only an answer about entries beyond `match` can be news.
                let news = match &progress.state {
                    State::Probe { sent } => {
                        sent.is_some() && prev_index == progress.next_index.prev()
                    }
                    State::Replicate(_) => prev_index > progress.match_index,
                    State::Snapshot { .. } => false,
                };
                if crate::planted!(NackAdvancesMatch) && news {
                    progress.match_index = progress.match_index.max(prev_index.prev());
                }
                if news {
                    let agreed = log.last_at_most(hint_index.min(prev_index.prev()), hint_term);
                    let session = progress.session;
                    progress.probe_again(session, base);
                    let agreed = agreed.max(progress.match_index);
                    if crate::planted!(HintStoredAsMatch) {
                        progress.match_index = agreed;
                    }
                    if agreed < base {
                        progress.state = State::Snapshot { offered: None };
                        self.offer_snapshots(effects);
                    } else {
                        progress.next_index = agreed.next();
                    }
                }
            }
            AppendResult::StaleTerm => {}
            AppendResult::Receiving { index } => progress.fetches(index, self.snapshot),
            // The offer is repeated when its time has come; whatever came instead goes on.
            AppendResult::Declined(Declined::SnapshotFailed) => {
                if let State::Snapshot { offered: Some(offered) } = &progress.state {
                    effects.snapshot = Some(SnapshotEffect::Doubted { index: offered.0 });
                }
            }
            AppendResult::Declined(Declined::DiskFull | Declined::OtherStrategy) => {
                // It is asked again after a while, and what is in flight is not asked about.
                progress.declines_until = now.after(self.settings.election_timeout_min);
                if let State::Replicate(_) = progress.state {
                    let session = self.sessions.bump();
                    if let Some(progress) = leader.peer_mut(from) {
                        progress.probe_again(session, base);
                    }
                }
            }
        }
        Ok(())
    }
}
