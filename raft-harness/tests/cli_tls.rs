//! `raftd tls init`, as a newcomer meets it.

#![cfg(all(feature = "raftd", feature = "certificates"))]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn raftd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RAFT_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).output().expect("raftd runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

/// The example with the certificates of one node in `tls`.
fn config(directory: &Path, tls: &Path, node: u64, listen: &str) -> String {
    let example = said(&raftd(&["config", "example"]));
    let file = |name: String| tls.join(name).display().to_string();
    let text = example
        .replacen("raft = \"127.0.0.1:7001\"", &format!("raft = \"{listen}\""), 1)
        .replace(
            "certificate = \"\"",
            &format!("certificate = {:?}", file(format!("node-{node}.pem"))),
        )
        .replace("key = \"\"", &format!("key = {:?}", file(format!("node-{node}.key"))))
        .replace("ca = \"\"", &format!("ca = {:?}", file("ca.pem".to_owned())));
    let path = directory.join("node.toml");
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[test]
fn a_first_set_fits_its_configuration_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().expect("a directory");
    let tls = directory.path().join("tls");
    let at = tls.display().to_string();
    let init = || raftd(&["tls", "init", "--name", "example", "--nodes", "1,2,3", &at]);
    let made = init();
    assert_eq!(code(&made), 0, "{}", said(&made));
    assert!(said(&made).contains("node-3.key"), "{}", said(&made));
    for name in ["ca.key", "node-1.key", "node-2.key", "node-3.key"] {
        let mode = fs::metadata(tls.join(name)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = fs::read(tls.join("ca.pem")).expect("made");
    let again = init();
    assert_eq!(code(&again), 3);
    assert!(said(&again).contains("exists already"), "{}", said(&again));
    assert_eq!(fs::read(tls.join("ca.pem")).expect("there"), before);

    // With them others may reach the port, and without them that is warned of.
    let file = config(directory.path(), &tls, 1, "0.0.0.0:7001");
    let checked = raftd(&["config", "check", "--strict", &file]);
    assert_eq!(code(&checked), 0, "{}", said(&checked));
    let plain = fs::read_to_string(&file).expect("written").replace("certificate = \"/", "# \"/");
    let plain = plain.replace("key = \"/", "# \"/").replace("ca = \"/", "# \"/");
    fs::write(&file, plain).expect("written");
    let checked = raftd(&["config", "check", "--strict", &file]);
    assert_eq!(code(&checked), 1);
    assert!(said(&checked).contains("[W145]") && said(&checked).contains("pretend to be a node"));

    // Another node of the same cluster by the same CA, and nobody else's.
    let more = directory.path().join("more").display().to_string();
    let add =
        |name: &str| raftd(&["tls", "init", "--name", name, "--nodes", "4", "--ca", &at, &more]);
    let other = add("other");
    assert_eq!(code(&other), 2, "{}", said(&other));
    assert_eq!(code(&add("example")), 0);
    assert!(!directory.path().join("more/ca.key").exists());
}

#[test]
fn a_number_that_is_there_twice_makes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let tls = directory.path().join("tls");
    let at = tls.display().to_string();
    let made = raftd(&["tls", "init", "--name", "example", "--nodes", "1,2,2", &at]);
    assert_eq!(code(&made), 2, "{}", said(&made));
    assert!(said(&made).contains("--nodes has a number twice"), "{}", said(&made));
    assert!(!tls.exists());
}

#[test]
fn what_is_wrong_with_certificates_is_said_before_a_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let tls = directory.path().join("tls");
    let at = tls.display().to_string();
    let made = raftd(&["tls", "init", "--name", "example", "--nodes", "1,2", "--days", "20", &at]);
    assert_eq!(code(&made), 0, "{}", said(&made));
    let check = |node, listen: &str| {
        let file = config(directory.path(), &tls, node, listen);
        raftd(&["config", "check", &file])
    };
    let soon = check(1, "127.0.0.1:7001");
    assert_eq!(code(&soon), 0);
    assert!(
        said(&soon).contains("[W144]") && said(&soon).contains("expires in 19 days"),
        "{}",
        said(&soon)
    );

    let other = check(2, "127.0.0.1:7001");
    assert_eq!(code(&other), 2);
    let text = said(&other);
    assert!(text.contains("[E144]") && text.contains("of node 2, and this is node 1"), "{text}");

    fs::copy(tls.join("node-2.key"), tls.join("node-1.key")).expect("copied");
    let text = said(&check(1, "127.0.0.1:7001"));
    assert!(text.contains("the key is not that of the certificate"), "{text}");
    assert!(text.contains("key = "), "it is shown where it stands: {text}");

    fs::remove_file(tls.join("ca.pem")).expect("removed");
    let text = said(&check(1, "127.0.0.1:7001"));
    assert!(text.contains("cannot read") && text.contains("ca.pem"), "{text}");
}
