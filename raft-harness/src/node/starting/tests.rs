//! Starts that end before anything runs.

use raft_core::{Entry, EntryKind, GroupIncarnation, LogIndex, LogTime, Term};
use raft_storage::{GroupCreate, InitOptions, init};

use super::*;

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
