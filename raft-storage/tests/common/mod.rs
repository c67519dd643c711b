//! What the tests share: a small log, entries, randomness from a seed, and the expected state.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::{
    Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, NodeId, Term,
};
use raft_storage::{
    Disk, Expected, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, MemDisk, OpenError,
    Opened, Preparation, StoreId, init_on,
};

/// Segments of 64 KiB, made on demand: every run is the same.
pub(crate) fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, preparation: Preparation::OnDemand, ..Default::default() }
}

/// Segments of 16 KiB: a segment holds three small frames.
pub(crate) fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ..options() }
}

pub(crate) fn new_disk() -> MemDisk {
    let disk = MemDisk::new();
    let options = InitOptions { store: Some(StoreId::new(0x5eed)) };
    init_on(&disk, "test", NodeId::new(1), &options).expect("an empty disk");
    disk
}

pub(crate) fn open<D: Disk>(disk: &D) -> Opened<D> {
    open_with(disk, &options()).expect("a sound log")
}

pub(crate) fn open_with<D: Disk>(disk: &D, options: &LogOptions) -> Result<Opened<D>, OpenError> {
    Log::open_on(disk.clone(), &Expected::default(), options)
}

pub(crate) fn group(id: u32) -> GroupId {
    GroupId::new(id)
}

pub(crate) fn create(id: u32) -> GroupWrite {
    create_again(id, 1)
}

pub(crate) fn create_again(id: u32, incarnation: u32) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.create = Some(GroupCreate {
        incarnation: GroupIncarnation::new(incarnation),
        spec: Bytes::from(format!("spec of {id}, life {incarnation}")),
    });
    write
}

pub(crate) fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let mut random = Random(index << 32 | term);
    Entry {
        index: LogIndex::new(index),
        term: Term::new(term),
        kind: if bytes == 0 { EntryKind::Noop } else { EntryKind::Command },
        time: LogTime::new(1_000 + index),
        payload: random.bytes(bytes),
    }
}

/// `count` entries of 40 bytes from `first` on.
pub(crate) fn append(id: u32, first: u64, count: u64, term: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.entries = (first..first + count).map(|index| entry(index, term, 40)).collect();
    write
}

/// splitmix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes.into()
    }
}

/// What a log should hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Model {
    pub(crate) groups: BTreeMap<GroupId, ModelGroup>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ModelGroup {
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) spec: Bytes,
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

impl Model {
    pub(crate) fn apply(&mut self, writes: &[GroupWrite]) {
        for write in writes {
            if let Some(create) = &write.create {
                let fresh = ModelGroup {
                    incarnation: create.incarnation,
                    spec: create.spec.clone(),
                    ..ModelGroup::default()
                };
                self.groups.insert(write.group, fresh);
            }
            let group = self.groups.get_mut(&write.group).expect("created before");
            if let Some(state) = write.hard_state {
                group.hard_state = state;
            }
            if let Some(from) = write.truncate_from {
                group.entries.retain(|entry| entry.index < from);
            }
            group.entries.extend(write.entries.iter().cloned());
        }
    }

    /// What an opened log holds, all of it read back.
    pub(crate) fn of<D: Disk>(opened: &Opened<D>) -> Self {
        let mut model = Self::default();
        for (id, found) in &opened.groups {
            let (first, last) = (found.first_index, found.last_index);
            let entries = opened
                .reader
                .entries(*id, first, last, u64::MAX)
                .expect("recovered entries are readable");
            assert_eq!(entries.len() as u64, last.next().since(first), "{id:?}");
            assert_eq!(opened.reader.last_index(*id), Some(last));
            assert_eq!(opened.reader.durable_index(*id), Some(last));
            assert_eq!(found.last_time, entries.last().map_or(LogTime::new(0), |e| e.time));
            let mut runs: Vec<(LogIndex, Term)> = Vec::new();
            for entry in &entries {
                assert_eq!(opened.reader.term(*id, entry.index), Some(entry.term));
                if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                    runs.push((entry.index, entry.term));
                }
            }
            assert_eq!(found.term_runs, runs, "{id:?}");
            let group = ModelGroup {
                incarnation: found.incarnation,
                spec: found.spec.clone(),
                hard_state: found.hard_state,
                entries,
            };
            model.groups.insert(*id, group);
        }
        model
    }
}
