//! Admission: every rule an operation must meet, checked before anything is written.
//!
//! The writer's own small table (incarnation, first and last index of every group) answers
//! without the lock that readers use. A refused batch leaves it as it was: what earlier
//! operations of the batch changed is noted and put back.
//!
//! Invariant: slots here and in the [`Index`] are the same numbers.

use raft_core::{EntryKind, GroupId, GroupIncarnation, LogIndex, Membership};

use crate::append::write::{Compaction, ENTRY_BYTES_MAX, GroupWrite, SPEC_BYTES_MAX};
use crate::error::LogError;
use crate::format::record::TIME_MAX;
use crate::read::index::{GroupSlots, Index, Presence};

/// What admission knows of a group.
#[derive(Clone, Copy, Debug)]
struct Tail {
    presence: Presence,
    incarnation: GroupIncarnation,
    first: LogIndex,
    last: LogIndex,
}

/// Where an admitted operation goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) slot: u32,
    pub(crate) incarnation: GroupIncarnation,
}

/// The ends of all groups' logs.
#[derive(Default)]
pub(crate) struct Tails {
    slots: GroupSlots,
    tails: Vec<Tail>,
    /// One per operation of the batch admitted last.
    pub(crate) admitted: Vec<Admitted>,
    undo: Vec<Undo>,
}

enum Undo {
    Restore { slot: u32, tail: Tail },
    Forget { group: GroupId },
}

impl Tails {
    pub(crate) fn from_index(index: &Index) -> Self {
        let tails = index.groups.iter().map(|group| Tail {
            presence: group.presence,
            incarnation: group.incarnation,
            first: group.first,
            last: group.last(),
        });
        Self { slots: index.slots.clone(), tails: tails.collect(), ..Self::default() }
    }

    /// Admits all operations or none.
    pub(crate) fn admit(&mut self, writes: &[GroupWrite]) -> Result<(), LogError> {
        self.admitted.clear();
        self.undo.clear();
        for write in writes {
            match self.admit_one(write) {
                Ok(admitted) => self.admitted.push(admitted),
                Err(error) => {
                    self.undo();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Which life of a group is here.
    pub(crate) fn incarnation(&self, group: GroupId) -> Option<GroupIncarnation> {
        let tail = self.tails[*self.slots.get(&group)? as usize];
        (tail.presence == Presence::Here).then_some(tail.incarnation)
    }

    /// Takes back the batch admitted last; nothing of it was written.
    pub(crate) fn undo(&mut self) {
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Restore { slot, tail } => self.tails[slot as usize] = tail,
                Undo::Forget { group } => {
                    self.slots.remove(&group);
                    self.tails.pop();
                }
            }
        }
    }

    fn admit_one(&mut self, write: &GroupWrite) -> Result<Admitted, LogError> {
        let group = write.group;
        let (slot, mut tail) = match (self.slots.get(&group), &write.create) {
            (None, None) => return Err(LogError::UnknownGroup { group }),
            (Some(&slot), None) => match self.tails[slot as usize] {
                Tail { presence: Presence::Destroyed, .. } => {
                    return Err(LogError::UnknownGroup { group });
                }
                tail => (slot, tail),
            },
            (known, Some(create)) => {
                let bytes = create.spec.len() as u64;
                if bytes > SPEC_BYTES_MAX {
                    let bytes_max = SPEC_BYTES_MAX;
                    return Err(LogError::SpecTooLarge { group, bytes, bytes_max });
                }
                let fresh = Tail {
                    presence: Presence::Here,
                    incarnation: create.incarnation,
                    first: LogIndex::new(1),
                    last: LogIndex::ZERO,
                };
                if let Some(&slot) = known {
                    let Tail { presence, incarnation, .. } = self.tails[slot as usize];
                    let asked = create.incarnation;
                    let allowed = match presence {
                        Presence::Here => asked > incarnation,
                        Presence::Destroyed => asked >= incarnation,
                    };
                    if !allowed {
                        return Err(LogError::GroupExists { group, incarnation, asked });
                    }
                    (slot, fresh)
                } else {
                    let slot = self.tails.len() as u32;
                    self.slots.insert(group, slot);
                    self.tails.push(fresh);
                    self.undo.push(Undo::Forget { group });
                    (slot, fresh)
                }
            }
        };
        if let Some(meta) = &write.install {
            if meta.index < tail.first.prev() {
                let (base, first) = (meta.index, tail.first);
                return Err(LogError::BeginsEarlier { group, base, first });
            }
            tail.first = meta.index.next();
            tail.last = meta.index;
        }
        if let Some(from) = write.truncate_from {
            if from < tail.first {
                return Err(LogError::TruncateBelowFirst { group, from, first: tail.first });
            }
            tail.last = tail.last.min(from.prev());
        }
        for entry in &write.entries {
            let expected = tail.last.next();
            if entry.index != expected || expected == tail.last {
                return Err(LogError::Gap { group, expected, got: entry.index });
            }
            let bytes = entry.payload.len() as u64;
            if bytes > ENTRY_BYTES_MAX {
                let (index, bytes_max) = (entry.index, ENTRY_BYTES_MAX);
                return Err(LogError::EntryTooLarge { group, index, bytes, bytes_max });
            }
            if entry.time.get() > TIME_MAX {
                let (index, time) = (entry.index, entry.time);
                return Err(LogError::TimeOutOfRange { group, index, time });
            }
            if entry.kind == EntryKind::Config {
                let index = entry.index;
                Membership::decode(&entry.payload).map_err(|source| LogError::NotAMembership {
                    group,
                    index,
                    source,
                })?;
            }
            tail.last = expected;
        }
        if let Some(Compaction { base, .. }) = &write.compact {
            if base.index < tail.first.prev() {
                let (base, first) = (base.index, tail.first);
                return Err(LogError::BeginsEarlier { group, base, first });
            }
            if base.index > tail.last {
                let (base, last) = (base.index, tail.last);
                return Err(LogError::CompactBeyondLast { group, base, last });
            }
            tail.first = base.index.next();
        }
        if write.destroy.is_some() {
            tail.presence = Presence::Destroyed;
        }
        let before = std::mem::replace(&mut self.tails[slot as usize], tail);
        self.undo.push(Undo::Restore { slot, tail: before });
        Ok(Admitted { slot, incarnation: tail.incarnation })
    }
}
