//! What the tests share: a small log, entries, randomness from a seed, and the expected state.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;

use bytes::Bytes;
use std::sync::Arc;

use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership,
    NodeId, PromiseRecord, ReplicaId, SnapshotMeta, Term,
};
use raft_storage::{
    Compaction, Disk, Expected, GroupCreate, GroupWrite, InitOptions, LiveEntries, Log, LogOptions,
    LogReader, MemDisk, OpenError, Opened, Preparation, StoreId, init_on,
};

/// Segments of 64 KiB, made on demand: every run is the same.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        preparation: Preparation::OnDemand,
        checkpoint_bytes: 64 << 10,
        ..Default::default()
    }
}

/// Segments of 16 KiB: a segment holds three small frames.
pub(crate) fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, checkpoint_bytes: 16 << 10, ..options() }
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

/// An entry that says who belongs to the group: this many voters.
pub(crate) fn config(index: u64, term: u64, voters: u64) -> Entry {
    Entry {
        kind: EntryKind::Config,
        payload: members(voters).encode().into(),
        ..entry(index, term, 0)
    }
}

pub(crate) fn members(voters: u64) -> Arc<Membership> {
    Arc::new(Membership::of_voters((1..=voters).map(ReplicaId::new)).expect("a sound membership"))
}

/// A snapshot with the time of its last entry.
pub(crate) fn snapshot(index: u64, term: u64, voters: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex::new(index),
        term: Term::new(term),
        time: time_at(LogIndex::new(index)),
        config_index: LogIndex::new(index / 2),
        membership: members(voters),
    }
}

/// The log begins after `index`, by a snapshot that reaches a little further.
pub(crate) fn compaction(index: u64, term: u64, voters: u64) -> Compaction {
    let base = Base {
        index: LogIndex::new(index),
        term: Term::new(term),
        config_index: LogIndex::new(index / 2),
        membership: Some(members(voters)),
        snapshot: LogIndex::new(index + 2),
    };
    Compaction { time: time_at(base.index), base }
}

/// The time of the entry at `index`, in these tests.
pub(crate) fn time_at(index: LogIndex) -> LogTime {
    LogTime::new(if index == LogIndex::ZERO { 0 } else { 1_000 + index.get() })
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
    pub(crate) promise: PromiseRecord,
    pub(crate) base: Base,
    pub(crate) entries: Vec<Entry>,
    pub(crate) kept: BTreeMap<LogIndex, Entry>,
    pub(crate) fetched: BTreeMap<LogIndex, Entry>,
}

impl ModelGroup {
    /// All that is held up to an index, or may be named as staying.
    pub(crate) fn held(&self, upto: LogIndex) -> Vec<&Entry> {
        let all = self.fetched.values().chain(self.kept.values()).chain(&self.entries);
        let all: BTreeMap<_, _> = all.map(|entry| (entry.index, entry)).collect();
        all.into_values().take_while(|entry| entry.index <= upto).collect()
    }

    fn named(&self, live: Option<&LiveEntries>, upto: LogIndex) -> BTreeMap<LogIndex, Entry> {
        let named = live.into_iter().flat_map(|live| live.iter());
        let find = |(index, term)| {
            let of = |entry: &&Entry| (entry.index, entry.term) == (index, term);
            let mut all =
                self.entries.iter().chain(self.kept.values()).chain(self.fetched.values());
            (index, all.find(of).expect("it is held").clone())
        };
        named.take_while(|(index, _)| *index <= upto).map(find).collect()
    }
}

/// Names entries as those that stay.
pub(crate) fn names<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Arc<LiveEntries> {
    let mut live = LiveEntries::default();
    for entry in entries {
        assert!(live.push(entry.index, entry.term), "{entry:?}");
    }
    Arc::new(live)
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
            if let Some(promise) = write.promise {
                group.promise = promise;
            }
            if write.drop_fetched {
                group.fetched.clear();
            }
            group.fetched.extend(write.fetched.iter().map(|entry| (entry.index, entry.clone())));
            if let Some(meta) = &write.install {
                group.kept = group.named(write.live.as_deref(), meta.index);
                group.fetched.clear();
                group.entries.clear();
                group.base = Base::of_snapshot(meta);
            }
            if let Some(from) = write.truncate_from {
                group.entries.retain(|entry| entry.index < from);
            }
            group.entries.extend(write.entries.iter().cloned());
            if let Some(compaction) = &write.compact {
                group.kept = group.named(write.live.as_deref(), compaction.base.index);
                group.entries.retain(|entry| entry.index > compaction.base.index);
                group.base = compaction.base.clone();
            }
            if write.destroy.is_some() {
                self.groups.remove(&write.group);
            }
        }
    }

    /// What an opened log holds, all of it read back.
    pub(crate) fn of<D: Disk>(opened: &Opened<D>) -> Self {
        for found in opened.groups.values() {
            assert_eq!(found.log_time, time_at(found.last_index));
        }
        let model = Self::of_repaired(opened);
        for (id, group) in &model.groups {
            assert_eq!(group.kept.len() as u64, opened.reader.live(*id).count(), "{id:?}");
        }
        model
    }

    /// The same of a log that was opened without what it had lost: where nothing of a group's log is
    /// left behind an entry that cannot be read, nobody knows the time of that one, and of those that a
    /// snapshot keeps some may be gone.
    pub(crate) fn of_repaired<D: Disk>(opened: &Opened<D>) -> Self {
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
            assert_eq!(first, found.base.index.next());
            if last > found.base.index {
                assert_eq!(found.log_time, time_at(last), "{id:?}");
            } else {
                assert!(found.log_time <= time_at(last), "{id:?}");
            }
            let configs = entries.iter().filter(|entry| entry.kind == EntryKind::Config);
            let configs: Vec<_> = configs
                .map(|entry| {
                    let membership = Membership::decode(&entry.payload).expect("written by us");
                    (entry.index, Arc::new(membership))
                })
                .collect();
            assert_eq!(found.configs, configs, "{id:?}");
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
                promise: found.promise,
                base: found.base.clone(),
                entries,
                kept: readable(&opened.reader, *id),
                fetched: named(&opened.reader, *id, opened.reader.fetched(*id)),
            };
            model.groups.insert(*id, group);
        }
        model
    }

    /// Checks that readers of a log that goes on see these entries.
    pub(crate) fn is_read_by(&self, reader: &LogReader) {
        for (id, expected) in &self.groups {
            let first = expected.base.index.next();
            let last = expected.base.index.plus(expected.entries.len() as u64);
            assert_eq!(reader.first_index(*id), Some(first), "{id:?}");
            assert_eq!(reader.last_index(*id), Some(last), "{id:?}");
            let entries = reader.entries(*id, first, last, u64::MAX).expect("readable");
            assert_eq!(entries, expected.entries, "{id:?}");
            assert_eq!(named(reader, *id, reader.live(*id).iter()), expected.kept, "{id:?}");
            let fetched: Vec<_> = expected.fetched.values().map(|e| (e.index, e.term)).collect();
            assert_eq!(reader.fetched(*id), fetched, "{id:?}");
            for entry in expected.fetched.values() {
                assert_eq!(reader.entry(*id, entry.index, entry.term).expect("readable"), *entry);
            }
        }
    }
}

/// The entries that a snapshot keeps, as far as they can be read.
fn readable(reader: &LogReader, id: GroupId) -> BTreeMap<LogIndex, Entry> {
    let live = reader.live(id);
    live.iter()
        .filter_map(|(index, term)| Some((index, reader.entry(id, index, term).ok()?)))
        .collect()
}

fn named(
    reader: &LogReader,
    id: GroupId,
    names: impl IntoIterator<Item = (LogIndex, Term)>,
) -> BTreeMap<LogIndex, Entry> {
    let read = |(index, term)| (index, reader.entry(id, index, term).expect("readable"));
    names.into_iter().map(read).collect()
}
