//! `raftd log`: what a person or a script learns of a log, and what a running node is spared.

#![cfg(feature = "raftd")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, NodeId, Term};
use raft_storage::{
    Expected, FileDisk, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, Opened, init,
};
use serde_json::Value;

fn raftd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftd"));
    command.args(arguments).stdin(Stdio::null()).output().expect("raftd runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn open(directory: &Path) -> Opened<FileDisk> {
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    Log::open(directory, &Expected::default(), &options).expect("a sound log")
}

/// Two groups with three entries each, in a log that is closed.
fn write_log(directory: &Path) {
    init(directory, "example", NodeId::new(1), &InitOptions::default())
        .expect("an empty directory");
    let mut opened = open(directory);
    for id in [7, 8] {
        let mut write = GroupWrite::new(GroupId::new(id));
        let (incarnation, spec) = (GroupIncarnation::new(1), "spec".into());
        write.create = Some(GroupCreate { incarnation, spec });
        write.entries = (1..=3)
            .map(|index| Entry {
                index: LogIndex::new(index),
                term: Term::new(1),
                kind: EntryKind::Command,
                time: LogTime::new(index),
                payload: format!("payload {index} of {id}").into(),
            })
            .collect();
        opened.writer.append(&[write]).expect("there is room");
        opened.writer.sync().expect("a sound disk");
    }
    opened.writer.close().expect("a sound disk");
}

fn damage(directory: &Path, payload: &str) {
    let file = directory.join("log-00000000.seg");
    let mut bytes = fs::read(&file).expect("a segment");
    let found = bytes.windows(payload.len()).position(|window| window == payload.as_bytes());
    bytes[found.expect("it was written")] ^= 1;
    fs::write(&file, bytes).expect("written");
}

#[test]
fn a_sound_log_is_code_0_and_its_records_are_printed() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    write_log(&data);
    let name = data.display().to_string();
    let verified = raftd(&["log", "verify", &name]);
    assert_eq!(code(&verified), 0, "{verified:?}");
    assert!(stdout(&verified).contains("2 groups with 6 sound entries"), "{verified:?}");
    assert!(stdout(&verified).ends_with(": sound\n"), "{verified:?}");
    let dumped = raftd(&["log", "dump", &name, "--group", "8"]);
    assert_eq!(code(&dumped), 0);
    let lines = stdout(&dumped);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("GroupCreate") && lines.contains("entries 1-3 term 1"), "{lines}");
    let json = raftd(&["log", "dump", &name, "--entries", "2", "--format", "json", "--limit", "1"]);
    let shown: Value = serde_json::from_str(stdout(&json).trim()).expect("an object");
    assert_eq!((&shown["group"], &shown["entries"]), (&Value::from(7), &Value::from(3)));
}

#[test]
fn a_damaged_log_is_told_by_place_and_group_and_code_3() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    write_log(&data);
    damage(&data, "payload 2 of 7");
    let name = data.display().to_string();
    let verified = raftd(&["log", "verify", &name]);
    assert_eq!(code(&verified), 3);
    assert!(stdout(&verified).starts_with("segment 0, offset 4096: "), "{verified:?}");
    assert!(stdout(&verified).contains("groups 7\n"), "{verified:?}");
    let json = raftd(&["log", "verify", &name, "--format", "json"]);
    let told: Value = serde_json::from_str(&stdout(&json)).expect("an object");
    assert_eq!(told["sound"], Value::from(false));
    assert_eq!(told["findings"][0]["groups"], Value::from(vec![7]));
    let dumped = raftd(&["log", "dump", &name]);
    assert_eq!(code(&dumped), 3);
    assert!(stdout(&dumped).contains("4096 bytes without a frame: body checksum"), "{dumped:?}");
    assert!(stdout(&dumped).contains("group 8"), "{dumped:?}");
}

#[test]
fn a_log_in_use_and_a_directory_without_one_are_refused_with_code_3() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    write_log(&data);
    let opened = open(&data);
    for command in ["verify", "dump"] {
        let refused = raftd(&["log", command, &data.display().to_string()]);
        assert_eq!(code(&refused), 3);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("in use") && said.contains("stop the node first"), "{said}");
        let refused = raftd(&["log", command, &directory.path().display().to_string()]);
        assert_eq!(code(&refused), 3);
        assert!(refused.stdout.is_empty());
    }
    drop(opened);
}
