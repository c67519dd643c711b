//! No output that cannot be written ends a node or panics in a command: full disks, readers that
//! went away or stopped reading, closed descriptors.

#![cfg(all(feature = "raftd", target_os = "linux"))]

mod raftd_support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use raftd_support::{Node, code, end, raftd, text_of};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("there is one")
}

/// Starts a node with this as standard error and waits until it serves.
fn served(node: &Node, stderr: impl Into<Stdio>) -> Child {
    let mut command = node.serve();
    // So that there is something to write at every moment.
    command.env("RUST_LOG", "trace").stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().expect("raftd runs");
    wait_for(&mut child, "resp_proxy=");
    child
}

/// Reads standard output until there is a line with this in it.
fn wait_for(child: &mut Child, needle: &str) {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let found = lines.any(|line| line.expect("text").contains(needle));
    assert!(found, "it ended without {needle:?}: {:?}", child.wait());
    // From here on nobody reads standard output, which must not matter either.
}

fn healthy(node: &Node) {
    // One voter of one: it leads after its first election, so health is all that is sure at once.
    let asked = node.status(&["--format", "json"]).output().expect("raftd runs");
    assert!(text_of(&asked.stdout).contains("\"node\": 1"), "{}", text_of(&asked.stderr));
}

#[test]
fn a_node_whose_log_lines_find_a_full_disk_lives() {
    let node = Node::one_of(1);
    let child = served(&node, full());
    healthy(&node);
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_node_outlives_whoever_read_its_log_lines() {
    let node = Node::one_of(1);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let child = served(&node, writer);
    drop(reader);
    healthy(&node);
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_node_does_not_wait_for_a_reader_that_stopped_reading() {
    let node = Node::one_of(1);
    let (_unread, writer) = std::io::pipe().expect("a pipe");
    // Fills the pipe, however much it holds, and is stuck then as the node must not be.
    let mut stuck = writer.try_clone().expect("a descriptor");
    std::thread::spawn(move || while stuck.write_all(&[b'x'; 4096]).is_ok() {});
    let child = served(&node, writer);
    healthy(&node);
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_node_without_standard_streams_lives() {
    let node = Node::one_of(1);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" serve --exit-with-stdin --config \"$1\" >&- 2>&-"]);
    shell.arg(env!("CARGO_BIN_EXE_raftd")).arg(&node.config).stdin(Stdio::piped());
    let child = shell.spawn().expect("a shell runs");
    let mut patience = 2000;
    while node.status(&[]).output().expect("raftd runs").status.code() == Some(4) {
        patience -= 1;
        assert!(patience > 0, "it never answered");
    }
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_node_whose_standard_output_is_full_lives() {
    let node = Node::one_of(1);
    let mut command = node.serve();
    command.stdout(full()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("raftd runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("text").contains("serving Redis protocol")));
    healthy(&node);
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_no_panic() {
    let node = Node::one_of(1);
    let child = served(&node, Stdio::null());
    let config = node.config.display().to_string();
    let admin = node.admin.as_str();
    for arguments in [
        &["status", "--admin", admin][..],
        &["status", "--admin", admin, "--format", "json"],
        &["config", "example"],
        &["config", "check", &config],
        &["--help"],
    ] {
        let output = raftd().args(arguments).stdout(full()).output().expect("raftd runs");
        assert_eq!(code(&output), Some(1), "{arguments:?}: {}", text_of(&output.stderr));
        // Nor does it matter if the complaint cannot be written.
        let status = raftd().args(arguments).stdout(full()).stderr(full()).status();
        assert_eq!(status.expect("raftd runs").code(), Some(1), "{arguments:?}");
    }
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for arguments in [&["config", "example"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = raftd().args(arguments).stdout(writer).output().expect("raftd runs");
        assert_eq!(code(&output), Some(0), "{arguments:?}: {}", text_of(&output.stderr));
        assert_eq!(text_of(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
#[cfg(feature = "raft-sim")]
fn a_finding_of_the_simulator_that_cannot_be_written_is_a_failure_and_no_panic() {
    let run = |stdout: Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_raft-sim"));
        command.args(["--seed", "1", "--set", "groups=1", "--set", "faults_us=1000"]);
        command.args(["--set", "clients=1"]).stdout(stdout).stderr(full());
        command.status().expect("raft-sim runs").code()
    };
    assert_eq!(run(full().into()), Some(2));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(run(writer.into()), Some(0));
}

#[test]
fn a_command_that_cannot_say_what_is_wrong_exits_with_its_own_code() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    for (arguments, expected) in [
        (&["status", "--admin", address.as_str()][..], 4),
        (&["serve", "--config", "/nonexistent.toml"], 2),
        (&["no-such-command"], 2),
    ] {
        let status = raftd().args(arguments).stderr(full()).status().expect("raftd runs");
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn a_demo_that_nobody_hears_runs_to_its_end() {
    let mut held = raftd();
    held.args(["demo", "--hold", "--groups", "4"]).stdin(Stdio::piped());
    let mut held = held.stdout(Stdio::piped()).stderr(full()).spawn().expect("raftd runs");
    wait_for(&mut held, "\"event\":\"ready\"");
    assert_eq!(end(held), Some(0));
}
