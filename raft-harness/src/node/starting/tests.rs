//! Starts that end before anything runs.

use raft_core::{
    Entry, EntryKind, GroupIncarnation, LogIndex, LogTime, Membership, ReplicaId, Term,
};
use raft_storage::{Expected, GroupCreate, InitOptions, Log, MemDisk, init, init_on};

use super::super::log_end::tests::fill_with_votes;
use super::*;
use crate::bodies::NewMachine;
use crate::snapshot::format::Left;

const FAST: GroupId = GroupId::new(1);

/// Lost power is found by the first start. That one ends before its groups run, and leaves a word of its
/// own in memory: the next one must not take that for the word of the life that was lost.
#[test]
fn a_start_that_ends_early_hides_no_lost_promise() {
    let (root, words) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let node = NodeId::new(1);
    init(root.path(), "test", node, &InitOptions::default()).unwrap();
    let options = NodeOptions {
        node,
        cluster: "test".to_owned(),
        log: LogKind::Directory { path: root.path().to_owned(), options: LogOptions::default() },
        certificate_dir: Some(words.path().to_owned()),
        ..NodeOptions::default()
    };
    let promise = |opened: &OpenLog| opened.groups[&FAST].promise.promise;

    let mut first = open_log(&options).unwrap();
    let spec = GroupSpec::on_nodes(FAST, [1, 2, 3].map(NodeId::new));
    let spec = GroupSpec { strategy: Some(crate::persistence::Strategy::MemFirst), ..spec };
    let mut write = GroupWrite::new(FAST);
    let incarnation = GroupIncarnation::new(1);
    write.create = Some(GroupCreate { incarnation, spec: spec.encode() });
    write.entries.push(Entry {
        index: LogIndex::new(1),
        term: Term::new(1),
        time: LogTime::default(),
        kind: EntryKind::Noop,
        payload: bytes::Bytes::new(),
    });
    first.store.as_mut().unwrap().commit(&[write]).unwrap();
    drop(first);
    for word in std::fs::read_dir(words.path()).unwrap() {
        std::fs::remove_file(word.unwrap().path()).unwrap();
    }

    let second = open_log(&options).unwrap();
    assert_eq!(promise(&second), Promise::Lost);
    drop(second);
    let third = open_log(&options).unwrap();
    assert_eq!(promise(&third), Promise::Lost);
    // Nor does an orderly end hide it.
    third.store.unwrap().close().unwrap();
    assert_eq!(promise(&open_log(&options).unwrap()), Promise::Lost);
}

struct Idle;

impl crate::state_machine::StateMachine for Idle {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<bytes::Bytes>) {
        let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
        outputs.extend(commands.map(|_| bytes::Bytes::new()));
    }

    fn read(&self, _: &[u8]) -> bytes::Bytes {
        bytes::Bytes::new()
    }

    fn digest(&self) -> u64 {
        0
    }
}

/// It lost its end, and its snapshot reaches further. Without room the leader tells it what is missing.
#[test]
fn a_log_without_room_to_begin_behind_a_newer_snapshot_stays_as_it_is() {
    let disk = MemDisk::new();
    let expected = Expected { cluster: None, node: None };
    let options = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
    init_on(&disk, "test", NodeId::new(1), &InitOptions::default()).unwrap();
    let spec = GroupSpec::on_nodes(FAST, [1, 2, 3].map(NodeId::new));
    let mut opened = Log::open_on(disk.clone(), &expected, &options).unwrap();
    let mut write = GroupWrite::new(FAST);
    let incarnation = GroupIncarnation::new(1);
    write.create = Some(GroupCreate { incarnation, spec: spec.encode() });
    opened.writer.commit(&[write]).unwrap();
    fill_with_votes(&disk, &mut opened.writer, FAST);
    drop(opened);
    let mut opened = Log::open_on(disk.clone(), &expected, &options).unwrap();
    let membership = Membership::of_voters([1, 2, 3].map(ReplicaId::new)).unwrap();
    let meta = SnapshotMeta {
        index: LogIndex::new(9),
        term: Term::new(1),
        time: LogTime::new(7),
        config_index: LogIndex::ZERO,
        membership: Arc::new(membership),
    };
    let new = NewMachine::new(Box::new(Idle), &spec, None);
    let newer = Restored { new, meta, left: Left::default(), bytes: 100 };
    let mut recovered = opened.groups[&FAST].clone();
    let before = recovered.clone();
    assert!(!begin_behind(&mut opened.writer, FAST, &mut recovered, &newer).unwrap());
    assert_eq!(recovered, before);
    disk.limit_bytes(None);
    assert!(begin_behind(&mut opened.writer, FAST, &mut recovered, &newer).unwrap());
    assert_eq!(recovered.last_index, LogIndex::new(9));
    opened.writer.close().unwrap();
    let opened = Log::open_on(disk, &expected, &options).unwrap();
    assert_eq!(opened.groups[&FAST].last_index, LogIndex::new(9));
}
