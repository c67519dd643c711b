//! Every entry any log of a group ever held (log matching, paper 5.3).
//!
//! An entry is made once, by one leader, after one predecessor. So index and term name its
//! content and its predecessor's term for good, and checking each entry against this table when it
//! first appears in a log proves by induction that all logs match: no log is ever compared with
//! another.

use raft_core::{LogIndex, Term};

use crate::sim::observe::EntryIdentity;

/// An entry and what came before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) identity: EntryIdentity,
    pub(super) prev_term: Term,
}

/// Whether an entry was seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Noted {
    First,
    Again,
}

/// Why an entry cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mismatch {
    /// Index and term name another entry already.
    Differs(Known),
    /// Nobody ever had an entry at the index before.
    Hole,
}

/// The entries by index and term. Grows with the run's longest log.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Most positions only ever see one entry.
    first: Known,
    others: Vec<Known>,
}

impl Entries {
    pub(super) fn note(
        &mut self,
        index: LogIndex,
        prev_term: Term,
        identity: EntryIdentity,
    ) -> Result<Noted, Mismatch> {
        let known = Known { identity, prev_term };
        let Some(at) = index.get().checked_sub(1).map(|at| at as usize) else {
            return Err(Mismatch::Hole);
        };
        let Some(slot) = self.slots.get_mut(at) else {
            if at > self.slots.len() {
                return Err(Mismatch::Hole);
            }
            self.slots.push(Slot { first: known, others: Vec::new() });
            return Ok(Noted::First);
        };
        match std::iter::once(&slot.first)
            .chain(&slot.others)
            .find(|other| other.identity.term == identity.term)
        {
            Some(other) if *other == known => Ok(Noted::Again),
            Some(other) => Err(Mismatch::Differs(*other)),
            None => {
                slot.others.push(known);
                Ok(Noted::First)
            }
        }
    }

    pub(super) fn find(&self, index: LogIndex, term: Term) -> Option<&Known> {
        let slot = self.slots.get(index.get().checked_sub(1)? as usize)?;
        std::iter::once(&slot.first).chain(&slot.others).find(|known| known.identity.term == term)
    }
}
