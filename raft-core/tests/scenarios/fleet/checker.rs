//! What must be true of a fleet over its whole history (paper, figure 3; thesis 3.8 and 6.4).
//!
//! The checker sees every replica from outside, and remembers everything.

use std::collections::BTreeMap;

use raft_core::{
    Acknowledge, AppendResult, LogIndex, Message, Outcome, Promise, ReplicaId, Term, Token, Verdict,
};

use super::disk::{Disk, Record};
use super::{Node, Packet};
use crate::bench::*;

#[derive(Debug, Default)]
pub(crate) struct Checker {
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    /// For each index and term ever in a log: the entry, and the term of the one before it.
    entries: BTreeMap<(LogIndex, Term), (Record, Option<Term>)>,
    pub(crate) committed: Vec<Record>,
    pub(crate) outcomes: BTreeMap<Token, Outcome>,
    /// For each open read, what clients had been told when it was asked.
    floors: BTreeMap<Token, LogIndex>,
    told: LogIndex,
}

impl Checker {
    /// Looks at one replica after a step of it.
    pub(crate) fn look(&mut self, node: &Node, fleet: &[Node]) {
        let Some(up) = &node.up else { return };
        let (group, log) = (&up.group, &up.log);
        let status = group.status();
        if status.fault.is_some() {
            return;
        }
        let id = node.id;
        assert_eq!(log.last(), status.last_index, "{id} and its driver disagree about the log");
        for (at, record) in log.iter() {
            assert_eq!(group.entry_term(at), Some(record.term), "{id} at {at}");
            let before = log.term(at.prev()).filter(|_| at > log.base.index.next());
            let key = (at, record.term);
            let (first, earlier) =
                self.entries.entry(key).or_insert_with(|| (record.clone(), before));
            assert_eq!(first, record, "{id}: log matching at {at}");
            assert!(before.is_none() || earlier.is_none() || *earlier == before, "{id} at {at}");
        }
        let (config_index, membership) = log.membership_at(status.last_index);
        if let Some(membership) = membership {
            assert_eq!(group.membership(), membership, "{id}: not the last membership in its log");
            assert_eq!(group.membership_index(), config_index, "{id}");
        }
        self.look_at_office(node);
        for at in up.commit_seen.get() + 1..=status.commit_index.get() {
            self.commits(node, index(at), fleet);
        }
        for at in log.base.index.get() + 1..=status.durable_index.get() {
            let on_disk = node.disk.log.record(index(at));
            // What is compacted here or there was compared before.
            if index(at) > node.disk.log.base.index {
                assert_eq!(on_disk, log.record(index(at)), "{id} vouches for {at}");
            }
        }
        for at in up.applied_seen.get() + 1..=status.appliable_index.get() {
            let committed = self.committed.get(at as usize - 1);
            let committed = committed.unwrap_or_else(|| panic!("{id} applies {at} too early"));
            assert!(node.disk.holds(index(at), committed), "{id} applies {at} before its disk");
        }
    }

    /// Election safety, leader completeness, one vote a term over all lives.
    fn look_at_office(&mut self, node: &Node) {
        let Some(up) = &node.up else { return };
        if let Some((term, vote)) = node.disk.vote() {
            self.votes(node.id, term, vote);
        }
        if up.group.is_leader() {
            let term = up.group.term();
            let first = *self.leaders.entry(term).or_insert(node.id);
            assert_eq!(first, node.id, "two leaders in term {term}");
            if self.leaders.keys().next_back() == Some(&term) {
                for (at, record) in (1..).map(index).zip(&self.committed) {
                    let held = at <= up.log.base.index || up.log.record(at) == Some(record);
                    assert!(held, "leader {} of term {term} misses committed {at}", node.id);
                }
            }
        }
    }

    fn votes(&mut self, voter: ReplicaId, term: Term, vote: ReplicaId) {
        let first = *self.votes.entry((voter, term)).or_insert(vote);
        assert_eq!(first, vote, "{voter} voted twice in term {term}");
    }

    fn commits(&mut self, node: &Node, at: LogIndex, fleet: &[Node]) {
        let Some(up) = &node.up else { return };
        let position = at.get() as usize - 1;
        let Some(record) = up.log.record(at) else {
            assert!(position < self.committed.len(), "{} commits {at}, unseen", node.id);
            return;
        };
        if let Some(first) = self.committed.get(position) {
            assert_eq!(first, record, "{} commits another entry at {at}", node.id);
            return;
        }
        assert_eq!(position, self.committed.len(), "a commit skips {at}");
        assert!(up.led || up.group.is_leader(), "{} commits {at} before any leader", node.id);
        if node.settings.acknowledge == Acknowledge::Durable {
            // A joint membership is left in the very step that commits it.
            let joint = up.in_force.as_ref().filter(|membership| membership.is_joint());
            let membership = joint.unwrap_or(up.group.membership());
            for half in [membership.incoming(), membership.outgoing()] {
                let holds = |voter: &&ReplicaId| {
                    fleet.iter().any(|other| other.id == **voter && counts(&other.disk, at, record))
                };
                let holding = half.iter().filter(holds).count();
                let enough = holding > half.len() / 2 || half.is_empty();
                assert!(enough, "{at} is committed, but on {holding} of {half:?}");
            }
        }
        self.committed.push(record.clone());
    }

    /// Nothing leaves that promises more than the disk can keep.
    pub(crate) fn leaves(&mut self, packet: &Packet, disk: &Disk) {
        let (known, to) = (disk.hard_state, packet.to);
        let vote_is = |term: Term, vote: ReplicaId| {
            known.term > term || (known.term == term && known.vote == Some(vote))
        };
        match &packet.message {
            Message::PreVote(_) => return,
            Message::PreVoteReply(reply) if reply.verdict == Verdict::Granted => return,
            Message::Vote(request) => {
                assert!(vote_is(request.term, packet.from), "asks before its own vote: {packet:?}");
            }
            Message::VoteReply(reply) if reply.verdict == Verdict::Granted => {
                assert!(vote_is(reply.term, to), "grants before its disk: {packet:?}");
                self.votes(packet.from, reply.term, to);
            }
            Message::AppendReply(reply) => {
                if let AppendResult::Accepted { durable, .. } = reply.result {
                    assert!(durable <= disk.log.last(), "acknowledges before its disk: {packet:?}");
                }
            }
            Message::PreVoteReply(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => {}
        }
        assert!(known.term >= packet.message.term(), "speaks of a term not durable: {packet:?}");
    }

    pub(crate) fn asks_to_read(&mut self, token: Token) {
        self.floors.insert(token, self.told);
    }

    /// One outcome for each token, and reads that see what clients had been told of before.
    pub(crate) fn ends(&mut self, token: Token, outcome: Outcome) {
        let earlier = self.outcomes.insert(token, outcome);
        assert_eq!(earlier, None, "{token} ended twice");
        let floor = self.floors.remove(&token);
        match outcome {
            Outcome::Committed { index, term } => {
                let record = self.committed.get(index.get() as usize - 1);
                assert_eq!(record.map(|r| r.term), Some(term), "{token} is said to be committed");
                self.told = self.told.max(index);
            }
            Outcome::ReadReady { index } => {
                let floor = floor.expect("only a read is ready to be read");
                assert!(index >= floor, "{token} reads at {index}, {floor} was told before");
                assert!(index.get() <= self.committed.len() as u64, "{token} reads the future");
                self.told = self.told.max(index);
            }
            Outcome::Superseded
            | Outcome::Unknown
            | Outcome::Transferred
            | Outcome::Refused(_) => {}
        }
    }
}

/// Whether what a disk has may count toward a commit.
fn counts(disk: &Disk, at: LogIndex, record: &Record) -> bool {
    disk.promise.promise == Promise::Kept && disk.holds(at, record)
}
