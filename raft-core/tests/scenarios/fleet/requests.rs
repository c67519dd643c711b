//! What a test asks of a fleet: writes, reads, changes, snapshots.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Input, LogIndex, LogTime, MemberChange, Membership, ReadPath, ReplicaId, SnapshotMeta, Token,
};

use super::Fleet;
use crate::bench::*;

impl Fleet {
    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::new(self.tokens)
    }

    pub(crate) fn propose(&mut self, id: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Propose { token, bytes: 100, time: LogTime::default() });
        token
    }

    pub(crate) fn read(&mut self, id: ReplicaId, path: ReadPath) -> Token {
        let token = self.token();
        self.checker.asks_to_read(token);
        self.input(id, Input::Read { token, path });
        token
    }

    pub(crate) fn transfer(&mut self, id: ReplicaId, to: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Transfer { token, to: Some(to) });
        token
    }

    pub(crate) fn transfer_to_anybody(&mut self, id: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Transfer { token, to: None });
        token
    }

    pub(crate) fn yields(&mut self, id: ReplicaId, to: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Yield { token, to });
        token
    }

    pub(crate) fn change(&mut self, id: ReplicaId, changes: &[MemberChange]) -> Token {
        let token = self.token();
        self.input(id, Input::ChangeMembership { token, changes: changes.to_vec() });
        token
    }

    /// It campaigns, and is elected.
    pub(crate) fn elect(&mut self, id: ReplicaId) {
        self.input(id, Input::Campaign);
        self.settle();
        assert!(self.group(id).is_leader(), "{id} is not elected");
    }

    /// Everybody's patience with the last leader ends, and this one stands before anybody else.
    pub(crate) fn stand_first(&mut self, id: ReplicaId) {
        let others: Vec<ReplicaId> = self.ids().into_iter().filter(|other| *other != id).collect();
        for other in &others {
            self.pause(*other);
        }
        self.live(Duration::from_millis(500));
        for other in others {
            self.resume(other);
        }
        self.input(id, Input::Campaign);
        self.settle();
    }

    /// A write goes through whoever leads.
    pub(crate) fn works(&mut self) {
        let leader = self.leader().expect("somebody leads");
        let write = self.propose(leader);
        self.settle();
        assert!(self.is_committed(write), "{:?}", self.outcome(write));
    }

    /// A snapshot of everything applied is durable; `true` if there is any.
    pub(crate) fn take_snapshot(&mut self, id: ReplicaId) -> LogIndex {
        let at = self.group(id).status().appliable_index;
        let meta = self.group(id).snapshot_meta(at).expect("something is applied");
        self.check_snapshot(&meta);
        self.node_mut(id).disk.snapshot = Some(meta);
        self.input(id, Input::SnapshotTaken(at));
        at
    }

    /// Snapshot, and forget the log it covers.
    pub(crate) fn compact(&mut self, id: ReplicaId) {
        let upto = self.take_snapshot(id);
        self.input(id, Input::Compact(upto));
    }

    /// What is on its way to this replica has arrived.
    pub(crate) fn arrive_snapshot(&mut self, id: ReplicaId) -> bool {
        let up = self.node_mut(id).up.as_mut();
        let Some((from, meta)) = up.and_then(|up| up.fetch.take()) else { return false };
        let there = self.node(from).disk.snapshot.as_ref() == Some(&meta);
        if there && !self.cut.contains(&(from, id)) {
            self.check_snapshot(&meta);
            let (index, term) = (meta.index, meta.term);
            self.input(id, Input::SnapshotReceived { index, term });
        } else {
            self.input(id, Input::SnapshotFailed { index: meta.index });
        }
        true
    }

    /// A snapshot stands for a committed prefix, with the last membership in it.
    fn check_snapshot(&self, meta: &SnapshotMeta) {
        let committed = &self.checker.committed[..meta.index.get() as usize];
        assert_eq!(committed.last().map(|record| record.term), Some(meta.term));
        let decided = committed.iter().zip(1..).filter(|(record, _)| record.membership.is_some());
        let (at, membership): (u64, &Arc<Membership>) = match decided.last() {
            Some((record, at)) => (at, record.membership.as_ref().expect("it was filtered")),
            None => (0, self.nodes[0].first.membership.as_ref().expect("the first of all")),
        };
        assert_eq!((meta.config_index, &meta.membership), (index(at), membership));
    }
}
