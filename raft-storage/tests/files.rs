//! The same claims on real files.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use raft_core::{GroupId, LogIndex, NodeId};
use raft_storage::{
    Expected, FileDisk, GroupWrite, InitError, InitOptions, Log, LogOptions, OpenError, Opened,
    Preparation, init,
};

fn small() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..Default::default() }
}

fn open_dir(dir: &Path) -> Result<Opened<FileDisk>, OpenError> {
    Log::open(dir, &Expected::default(), &small())
}

fn new_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), "test", NodeId::new(1), &InitOptions::default()).unwrap();
    dir
}

#[test]
fn opening_never_makes_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for path in [&missing, &dir.path().to_path_buf()] {
        let outcome = open_dir(path);
        let Err(error @ OpenError::NotInitialised { .. }) = outcome else { panic!("opened") };
        assert!(error.to_string().contains("run `init`"));
    }
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn init_makes_missing_parents_and_refuses_what_is_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("a/b/c");
    let make = |path: &Path| init(path, "test", NodeId::new(1), &InitOptions::default());
    let first = make(&nested).unwrap();
    assert!(matches!(make(&nested), Err(InitError::AlreadyInitialised { .. })));
    assert_eq!(open_dir(&nested).unwrap().identity, first);
    assert!(matches!(make(&dir.path().join("a")), Err(InitError::NotEmpty { .. })));
    let second = make(&dir.path().join("other")).unwrap();
    assert_ne!(first.store, second.store, "two directories never share an id");
    let unnamed = init(&dir.path().join("x"), "", NodeId::new(1), &InitOptions::default());
    assert!(matches!(unnamed, Err(InitError::ClusterName { bytes: 0 })));
}

#[test]
fn an_interrupted_init_can_be_repeated() {
    let dir = new_dir();
    fs::rename(dir.path().join("identity"), dir.path().join("identity.tmp")).unwrap();
    assert!(matches!(open_dir(dir.path()), Err(OpenError::NotInitialised { .. })));
    init(dir.path(), "test", NodeId::new(1), &InitOptions::default()).unwrap();
    open_dir(dir.path()).unwrap();
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused_with_both_names() {
    let dir = new_dir();
    let ask = |cluster: &str, node| {
        let expected = Expected { cluster: Some(cluster.into()), node: Some(NodeId::new(node)) };
        Log::open(dir.path(), &expected, &small())
    };
    let Err(OpenError::ForeignCluster { expected, found, .. }) = ask("other", 1) else {
        panic!("opened")
    };
    assert_eq!((expected.as_str(), found.as_str()), ("other", "test"));
    let Err(OpenError::ForeignNode { expected, found, .. }) = ask("test", 2) else {
        panic!("opened")
    };
    assert_eq!((expected.get(), found.get()), (2, 1));
    // Being refused is not a life.
    assert_eq!(ask("test", 1).unwrap().incarnation.get(), 1);
}

#[test]
fn a_directory_is_open_once() {
    let dir = new_dir();
    let first = open_dir(dir.path()).unwrap();
    assert!(matches!(open_dir(dir.path()), Err(OpenError::Locked { .. })));
    drop(first.writer);
    assert_eq!(open_dir(dir.path()).unwrap().incarnation.get(), 2);
}

#[test]
fn damaged_identity_files_are_errors() {
    for name in ["identity", "incarnation"] {
        let dir = new_dir();
        let path = dir.path().join(name);
        let sound = fs::read(&path).unwrap();
        for damaged in [&sound[..sound.len() - 1], &[][..], &[0; 400]] {
            fs::write(&path, damaged).unwrap();
            let outcome = open_dir(dir.path());
            assert!(
                matches!(outcome, Err(OpenError::IdentityDamaged { name: n, .. }) if n == name)
            );
        }
    }
}

#[test]
fn many_rotations_with_the_helper_thread_keep_everything() {
    let dir = new_dir();
    let mut opened = open_dir(dir.path()).unwrap();
    let mut model = Model::default();
    let mut batches = vec![vec![create(1), create(2)]];
    for round in 0..60 {
        batches.push(vec![append(1, round * 20 + 1, 20, 1), append(2, round + 1, 1, 1)]);
    }
    for batch in &batches {
        opened.writer.append(batch).unwrap();
        opened.writer.sync().unwrap();
        model.apply(batch);
    }
    drop(opened);
    let again = open_dir(dir.path()).unwrap();
    assert_eq!(Model::of(&again), model);
    assert!(again.report.segments > 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_of_many_segments_holds_few_descriptors() {
    let dir = new_dir();
    let tiny = LogOptions { segment_bytes: 16 << 10, ..Default::default() };
    // Descriptors of this process that lead into the directory.
    let held = || {
        let all = fs::read_dir("/proc/self/fd").unwrap();
        let targets = all.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(dir.path())).count()
    };
    for life in 0..2 {
        let mut opened = Log::open(dir.path(), &Expected::default(), &tiny).unwrap();
        if life == 0 {
            opened.writer.append(&[create(1)]).unwrap();
        }
        let mut peak = held();
        for index in life * 150 + 1..=life * 150 + 150 {
            let mut write = GroupWrite::new(group(1));
            write.entries.push(entry(index, 1, 9_000));
            opened.writer.append(&[write]).unwrap();
            let index = LogIndex::new(index);
            assert_eq!(opened.reader.entries(group(1), index, index, 1).unwrap().len(), 1);
            peak = peak.max(held());
        }
        opened.writer.close().unwrap();
        assert!(peak <= 45, "{peak} descriptors, life {life}");
    }
}

#[test]
fn an_entry_of_20_mib_is_written_read_and_recovered() {
    let dir = new_dir();
    let options = LogOptions::default();
    let mut opened = Log::open(dir.path(), &Expected::default(), &options).unwrap();
    let mut large = GroupWrite::new(group(1));
    large.entries.push(entry(1, 1, 20 << 20));
    let sizes = [entry(2, 1, 10), entry(3, 1, 70 << 20)];
    opened.writer.append(&[create(1), large]).unwrap();
    let mut model = Model::default();
    for entry in sizes {
        let mut write = GroupWrite::new(group(1));
        write.entries.push(entry);
        opened.writer.append(&[write]).unwrap();
    }
    opened.writer.sync().unwrap();
    let mut all = GroupWrite::new(group(1));
    all.entries = vec![entry(1, 1, 20 << 20), entry(2, 1, 10), entry(3, 1, 70 << 20)];
    model.apply(&[create(1), all]);
    let (first, last) = (LogIndex::new(1), LogIndex::new(3));
    let read = opened.reader.entries(group(1), first, last, u64::MAX).unwrap();
    assert!(read == model.groups[&group(1)].entries);
    // What cannot be paid for is left out, also where the index does not know the length.
    assert_eq!(opened.reader.entries(group(1), first, last, 30 << 20).unwrap().len(), 2);
    drop(opened);
    let again = Log::open(dir.path(), &Expected::default(), &options).unwrap();
    assert!(Model::of(&again) == model);
}

#[test]
fn what_goes_into_a_segment_that_is_not_prepared_is_durable_and_counted() {
    for (preparation, counted) in [(Preparation::Background, true), (Preparation::OnDemand, false)]
    {
        let dir = new_dir();
        let options = LogOptions { preparation, ..small() };
        let mut opened = Log::open(dir.path(), &Expected::default(), &options).unwrap();
        let (info, _) = opened.writer.commit(&[create(1), append(1, 1, 2, 1)]).unwrap();
        assert_eq!(info.unprepared_bytes, 0, "a log does not begin slowly");
        // Longer than a segment: nobody could prepare one for it.
        let mut large = GroupWrite::new(group(1));
        large.entries.push(entry(3, 1, 150_000));
        let (info, sync) = opened.writer.commit(&[large]).unwrap();
        assert_eq!(info.unprepared_bytes, if counted { info.bytes } else { 0 });
        assert_eq!(sync.durable_lsn, info.end_lsn);
        drop(opened);
        let again = Log::open(dir.path(), &Expected::default(), &options).unwrap();
        assert_eq!(again.groups[&group(1)].last_index, LogIndex::new(3));
    }
}

#[test]
fn a_file_cut_at_every_byte_of_the_last_batch_opens_to_the_synced_state() {
    let dir = new_dir();
    let on_demand = LogOptions { preparation: Preparation::OnDemand, ..small() };
    let mut opened = Log::open(dir.path(), &Expected::default(), &on_demand).unwrap();
    opened.writer.append(&[create(1), append(1, 1, 2, 1)]).unwrap();
    opened.writer.sync().unwrap();
    let begin = opened.writer.end_lsn().get() as usize;
    opened.writer.append(&[append(1, 3, 2, 1)]).unwrap();
    let end = opened.writer.end_lsn().get() as usize;
    drop(opened);
    let segment = dir.path().join("log-00000000.seg");
    let sound = fs::read(&segment).unwrap();
    let body = u32::from_le_bytes(sound[begin + 32..begin + 36].try_into().unwrap()) as usize;
    for cut in (begin..begin + 64 + body).chain([end]) {
        let mut bytes = sound.clone();
        bytes[cut..].fill(0);
        fs::write(&segment, &bytes).unwrap();
        // The note of the last open is what it was before the last batch.
        let opened = Log::open(dir.path(), &Expected::default(), &on_demand).unwrap();
        let last = opened.groups[&GroupId::new(1)].last_index.get();
        // The last byte of the last payload may be a zero anyway.
        assert!(last == 2 || cut == end || bytes == sound, "cut at {cut}");
        assert_eq!(last == 4, bytes == sound, "cut at {cut}");
    }
}
