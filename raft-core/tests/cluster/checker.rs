//! What must be true of a whole cluster, over its whole history (paper, figure 3).
//!
//! The checker sees every replica from outside and remembers everything; no replica can.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{LogIndex, Outcome, ReplicaId, Term, Token};

use crate::disk::{Image, Record};

#[derive(Debug, Default)]
pub(crate) struct Checker {
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    /// For each (index, term) ever in a log: the entry, and the term of the one before it.
    entries: BTreeMap<(LogIndex, Term), (u64, Term)>,
    /// What is committed, by position.
    committed: Vec<Record>,
    outcomes: BTreeMap<Token, Outcome>,
    /// The highest index that any client was told of.
    told: LogIndex,
    /// For each open read, what `told` was when it was asked.
    reads: BTreeMap<Token, LogIndex>,
    pub(crate) commits: u64,
    pub(crate) reads_answered: u64,
    pub(crate) superseded: u64,
}

impl Checker {
    /// Election safety, and leader completeness: a leader holds all that was ever committed.
    pub(crate) fn leads(&mut self, replica: ReplicaId, term: Term, log: &[Record]) {
        let first = *self.leaders.entry(term).or_insert(replica);
        assert_eq!(first, replica, "two leaders in term {term}");
        let newest = self.leaders.keys().next_back().copied();
        if newest == Some(term) {
            assert!(
                log.len() >= self.committed.len()
                    && log[..self.committed.len()] == self.committed[..],
                "leader {replica} of term {term} misses committed entries"
            );
        }
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    pub(crate) fn is_leader_of(&self, replica: ReplicaId, term: Term) -> bool {
        self.leaders.get(&term) == Some(&replica)
    }

    /// One vote a term, over all lives of a replica.
    pub(crate) fn votes(&mut self, voter: ReplicaId, term: Term, candidate: ReplicaId) {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(first, candidate, "{voter} voted twice in term {term}");
    }

    /// Log matching: an index and a term name one entry and, by induction, all before it.
    pub(crate) fn holds(&mut self, index: LogIndex, record: Record, before: Term) {
        let seen = *self.entries.entry((index, record.term)).or_insert((record.identity, before));
        assert_eq!(seen, (record.identity, before), "log matching at {index}");
    }

    /// State machine safety: an index is committed once, as one entry.
    pub(crate) fn commits(&mut self, replica: ReplicaId, index: LogIndex, record: Record) {
        let at = index.get() as usize - 1;
        match self.committed.get(at) {
            Some(first) => assert_eq!(*first, record, "{replica} commits another {index}"),
            None => {
                assert_eq!(at, self.committed.len(), "commit skips an index");
                self.committed.push(record);
                self.commits += 1;
            }
        }
    }

    pub(crate) fn applies(&self, replica: ReplicaId, index: LogIndex, disk: &Image) {
        let committed = self.committed.get(index.get() as usize - 1).copied();
        assert!(committed.is_some(), "{replica} applies {index} too early");
        assert_eq!(disk.record(index), committed, "{replica} applies {index} before it is durable");
    }

    /// A leader commits only what a majority has on disk.
    pub(crate) fn is_on_quorum<'a>(
        &self,
        index: LogIndex,
        record: Record,
        disks: impl Iterator<Item = &'a Image>,
    ) {
        let (mut all, mut holding) = (0, 0);
        for disk in disks {
            all += 1;
            holding += usize::from(disk.record(index) == Some(record));
        }
        assert!(holding > all / 2, "{index} is committed, but on {holding} of {all} disks");
    }

    pub(crate) fn reads(&mut self, token: Token) {
        self.reads.insert(token, self.told);
    }

    /// One outcome for each token, and a read that sees all that was acknowledged before it.
    pub(crate) fn ends(&mut self, token: Token, outcome: Outcome) {
        let earlier = self.outcomes.insert(token, outcome);
        assert_eq!(earlier, None, "{token} ended twice");
        let floor = self.reads.remove(&token);
        match outcome {
            Outcome::Committed { index, term } => {
                let record = self.committed.get(index.get() as usize - 1);
                let want = Record { term, identity: token.get() };
                assert_eq!(record, Some(&want), "{token} is said to be committed");
                self.told = self.told.max(index);
            }
            Outcome::ReadReady { index } => {
                let floor = floor.expect("only a read ends in ReadReady, and only once");
                assert!(index >= floor, "{token} reads at {index}, {floor} was told before");
                self.told = self.told.max(index);
                self.reads_answered += 1;
            }
            Outcome::Superseded => self.superseded += 1,
            Outcome::Unknown | Outcome::Transferred | Outcome::Refused(_) => {}
        }
    }

    pub(crate) fn outcome(&self, token: Token) -> Option<Outcome> {
        self.outcomes.get(&token).copied()
    }

    pub(crate) fn committed(&self) -> &[Record] {
        &self.committed
    }

    /// What was refused or superseded never happened, whatever came later.
    pub(crate) fn settle(&self) {
        let happened: BTreeSet<u64> = self.committed.iter().map(|r| r.identity).collect();
        assert_eq!(happened.len(), self.committed.len(), "an entry twice");
        for (token, outcome) in &self.outcomes {
            match outcome {
                Outcome::Superseded | Outcome::Refused(_) => {
                    assert!(
                        !happened.contains(&token.get()),
                        "{token} ended as {outcome:?}, but is in the log"
                    );
                }
                Outcome::Committed { .. } => assert!(happened.contains(&token.get())),
                Outcome::ReadReady { .. } | Outcome::Unknown | Outcome::Transferred => {}
            }
        }
    }
}
