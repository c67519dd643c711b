//! Admission: every rule an operation must meet, checked before anything is written.
//!
//! The writer's own small table (incarnation, first and last index of every group) answers
//! without the lock that readers use. A refused batch leaves it as it was: what earlier
//! operations of the batch changed is noted and put back.
//!
//! What is to stay below a base is looked up in what the log holds ([`Holdings`]), as far as that has
//! landed, and followed through the operations of the group since then and in the batch: there are few
//! such.
//!
//! Invariant: slots here and in the [`Index`] are the same numbers.

use std::collections::BTreeMap;

use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, Membership, Term};

use crate::append::write::{Compaction, ENTRY_BYTES_MAX, GroupWrite, SPEC_BYTES_MAX};
use crate::error::LogError;
use crate::format::live::{LIVE_BYTES_MAX, LiveEntries};
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

    /// Admits all operations or none. `unlanded`: what was asked for a group that `holdings` do not
    /// show yet, the oldest first.
    pub(crate) fn admit<'a>(
        &mut self,
        writes: &'a [GroupWrite],
        unlanded: impl Fn(GroupId) -> Vec<&'a GroupWrite>,
        holdings: &impl Holdings,
    ) -> Result<(), LogError> {
        self.admitted.clear();
        self.undo.clear();
        for (at, write) in writes.iter().enumerate() {
            let admitted = self.admit_one(write).and_then(|admitted| {
                if write.live.is_some() {
                    let before = unlanded(write.group);
                    check_live(before.into_iter().chain(&writes[..=at]), write.group, holdings)?;
                }
                Ok(admitted)
            });
            match admitted {
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
        for entry in &write.fetched {
            check_size(group, entry)?;
            if entry.kind != EntryKind::Command || entry.index == LogIndex::ZERO {
                return Err(LogError::NotFetchable { group, index: entry.index });
            }
        }
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
            check_size(group, entry)?;
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

fn check_size(group: GroupId, entry: &Entry) -> Result<(), LogError> {
    let (index, bytes) = (entry.index, entry.payload.len() as u64);
    if bytes > ENTRY_BYTES_MAX {
        let bytes_max = ENTRY_BYTES_MAX;
        return Err(LogError::EntryTooLarge { group, index, bytes, bytes_max });
    }
    let time = entry.time;
    if time.get() > TIME_MAX {
        return Err(LogError::TimeOutOfRange { group, index, time });
    }
    Ok(())
}

/// What a log holds of a group.
pub(crate) trait Holdings {
    /// The term of an entry of the log.
    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term>;
    /// Whether an entry is kept from before the log.
    fn keeps(&self, group: GroupId, index: LogIndex, term: Term) -> bool;
    /// Whether an entry was fetched.
    fn fetched(&self, group: GroupId, index: LogIndex, term: Term) -> bool;
}

impl Holdings for Index {
    fn term(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.group(group)?.term(index)
    }

    fn keeps(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        let aside = self.group(group).and_then(|group| group.aside.as_ref());
        aside.is_some_and(|aside| aside.kept.term(index) == Some(term))
    }

    fn fetched(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        self.group(group).is_some_and(|group| group.fetched_at(index, term).is_some())
    }
}

/// Whether the last operation names only what its group holds by then.
fn check_live<'a>(
    mut writes: impl Iterator<Item = &'a GroupWrite>,
    group: GroupId,
    holdings: &impl Holdings,
) -> Result<(), LogError> {
    let mut held = Held::before(group, holdings);
    writes.try_for_each(|write| if write.group == group { held.apply(write) } else { Ok(()) })
}

/// What a group holds behind what has landed, in the middle of a batch.
struct Held<'a, H> {
    group: GroupId,
    holdings: &'a H,
    /// What the log held before the batch is as it was from here on, and up to there.
    first: LogIndex,
    unchanged: LogIndex,
    /// The entries behind that.
    appended: BTreeMap<LogIndex, Term>,
    /// What is kept from before the log, if the batch changes it.
    kept: Option<LiveEntries>,
    /// Whether nothing that was fetched before the batch is left.
    dropped: bool,
    fetched: BTreeMap<LogIndex, Term>,
}

impl<'a, H: Holdings> Held<'a, H> {
    fn before(group: GroupId, holdings: &'a H) -> Self {
        Self {
            group,
            holdings,
            first: LogIndex::ZERO,
            unchanged: LogIndex::new(u64::MAX),
            appended: BTreeMap::new(),
            kept: None,
            dropped: false,
            fetched: BTreeMap::new(),
        }
    }

    fn holds(&self, index: LogIndex, term: Term) -> bool {
        let before = || self.holdings.term(self.group, index).filter(|_| index <= self.unchanged);
        let in_log =
            index >= self.first && self.appended.get(&index).copied().or_else(before) == Some(term);
        let is_kept = || match &self.kept {
            Some(kept) => kept.term(index) == Some(term),
            None => self.holdings.keeps(self.group, index, term),
        };
        let is_fetched = || match self.fetched.get(&index) {
            Some(fetched) => *fetched == term,
            None => !self.dropped && self.holdings.fetched(self.group, index, term),
        };
        in_log || is_kept() || is_fetched()
    }

    fn truncate(&mut self, from: LogIndex) {
        self.unchanged = self.unchanged.min(from.prev());
        self.appended.split_off(&from);
    }

    /// The log begins behind an index, and nothing of before stays but what is named.
    fn begin_after(&mut self, base: LogIndex, write: &GroupWrite) -> Result<(), LogError> {
        let live = write.live_upto(base);
        let bytes = live.encode().len() as u64;
        if bytes > LIVE_BYTES_MAX {
            let (group, bytes_max) = (self.group, LIVE_BYTES_MAX);
            return Err(LogError::LiveTooMany { group, bytes, bytes_max });
        }
        if let Some((index, term)) = live.iter().find(|(index, term)| !self.holds(*index, *term)) {
            return Err(LogError::LiveMissing { group: self.group, index, term });
        }
        self.first = base.next();
        self.kept = Some(live);
        Ok(())
    }

    fn apply(&mut self, write: &GroupWrite) -> Result<(), LogError> {
        if write.create.is_some() {
            self.truncate(LogIndex::ZERO);
            (self.kept, self.first) = (Some(LiveEntries::default()), LogIndex::ZERO);
        }
        if write.create.is_some() || write.drop_fetched {
            self.dropped = true;
            self.fetched.clear();
        }
        self.fetched.extend(write.fetched.iter().map(|entry| (entry.index, entry.term)));
        if let Some(meta) = &write.install {
            self.begin_after(meta.index, write)?;
            self.truncate(LogIndex::ZERO);
            self.dropped = true;
            self.fetched.clear();
        }
        if let Some(from) = write.truncate_from {
            self.truncate(from);
        }
        self.appended.extend(write.entries.iter().map(|entry| (entry.index, entry.term)));
        if let Some(compaction) = &write.compact {
            self.begin_after(compaction.base.index, write)?;
        }
        Ok(())
    }
}
