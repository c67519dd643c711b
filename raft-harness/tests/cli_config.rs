//! The command line as a person or a script meets it: output, errors and exit codes.

#![cfg(feature = "raftd")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
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

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The example, with a data directory of its own and ports that were free a moment ago.
fn write_config(directory: &Path) -> String {
    let held: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let port = |index: usize| held[index].local_addr().expect("bound").port().to_string();
    let example = stdout(&raftd(&["config", "example"]));
    let data = directory.join("data").display().to_string();
    let text = example
        .replace("./data/node-1", &data)
        .replace("127.0.0.1:7001", &format!("127.0.0.1:{}", port(0)))
        .replace("127.0.0.1:6371", &format!("127.0.0.1:{}", port(1)))
        .replace("127.0.0.1:6471", &format!("127.0.0.1:{}", port(2)))
        .replace("127.0.0.1:9071", &format!("127.0.0.1:{}", port(3)));
    let file = directory.join("node.toml");
    fs::write(&file, text).expect("written");
    file.display().to_string()
}

#[test]
fn a_misspelt_level_is_refused_where_it_stands() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let text = fs::read_to_string(&file).expect("written");
    let wrong = text.replace("filter = \"info\"", "filter = \"warn,infoo\"");
    let line = wrong.lines().position(|line| line.contains("infoo")).expect("replaced") + 1;
    fs::write(&file, wrong).expect("written");
    for arguments in [&["config", "check", &file][..], &["serve", "--config", &file]] {
        let refused = raftd(arguments);
        assert_eq!(code(&refused), 2);
        let said = stderr(&refused) + &stdout(&refused);
        assert!(said.contains(&format!("{file}:{line}:")), "{said}");
        assert!(said.contains("`infoo`, at character 6 of the filter"), "{said}");
    }
}

#[test]
fn a_directory_that_is_made_already_is_told_with_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    assert_eq!(code(&raftd(&["init", "--config", &file])), 0);
    // What a node leaves beside the file that says whose it is.
    fs::write(directory.path().join("data/a-segment"), b"1").expect("written");
    fs::write(directory.path().join("data/log"), b"1").expect("written");
    let again = raftd(&["init", "--config", &file]);
    assert_eq!(code(&again), 3);
    let said = stderr(&again);
    assert!(said.contains("it belongs to node 1 of cluster \"example\""), "{said}");
    assert!(!said.contains("not empty"), "{said}");
}

#[test]
fn the_example_passes_its_own_check() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let checked = raftd(&["config", "check", &file, "--strict"]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    assert!(stdout(&checked).contains("is valid"));
}

#[test]
fn a_wrong_file_is_told_with_every_problem_and_code_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let text = fs::read_to_string(&file).expect("readable");
    let wrong = text
        .replace("half_open_max =", "half_opne_max =")
        .replace("heartbeat_interval_ms = 100", "heartbeat_interval_ms = 400")
        .replace("count = 16 ", "count = 0 ");
    fs::write(&file, wrong).expect("written");
    for arguments in [
        &["config", "check", &file][..],
        &["serve", "--config", &file],
        &["init", "--config", &file],
    ] {
        let checked = raftd(arguments);
        let told = stderr(&checked);
        assert_eq!(code(&checked), 2, "{told}");
        for part in ["E012", "did you mean `half_open_max`?", "E120", "E014"] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
    }
    let missing = raftd(&["config", "check", "/nowhere/node.toml"]);
    assert_eq!(code(&missing), 2);
    assert!(stderr(&missing).contains("E001"));
}

#[test]
fn values_are_explained_for_people_and_for_scripts() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let text = fs::read_to_string(&file).expect("readable");
    let (before, _) = text.split_once("[groups]").expect("a section");
    let text = before.replace("deployment = \"none\"", "deployment = \"cloud-3\"");
    fs::write(&file, text).expect("written");
    let all = raftd(&["config", "explain", &file]);
    assert_eq!(code(&all), 0, "{}", stderr(&all));
    let all = stdout(&all);
    let line = all.lines().find(|line| line.starts_with("network.bulk.window_bytes = 33554432 "));
    assert!(line.is_some_and(|line| line.ends_with("  preset cloud-3")), "{all}");
    let one = raftd(&["config", "explain", &file, "network.bulk", "--json"]);
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).expect("JSON");
    let of = |key: &str| {
        let list = one.as_array().expect("a list").iter();
        list.clone().find(|value| value["key"] == key).unwrap_or_else(|| panic!("{key}")).clone()
    };
    let window = of("network.bulk.window_bytes");
    assert_eq!(window["value"], 33_554_432);
    assert_eq!(window["source"]["kind"], "preset");
    assert_eq!(window["source"]["name"], "cloud-3");
    assert_eq!(of("network.bulk.nodelay")["source"]["kind"], "default");
    assert!(one.as_array().expect("a list").iter().all(|value| value["meaning"].is_string()));
    assert_eq!(code(&raftd(&["config", "explain", &file, "network.bluk"])), 2);
    assert_eq!(code(&raftd(&["config", "explain", "/nowhere/node.toml"])), 2);
}

#[test]
fn wrong_usage_is_code_2_and_help_is_code_0() {
    for arguments in [
        &["no-such-command"][..],
        &["demo", "--nodes", "0"],
        &["demo", "--groups", "16385"],
        &["serve"],
        &["init"],
        &["init", "--data-dir", "/tmp/x"],
        &["status", "--admin", "nonsense"],
    ] {
        let output = raftd(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
    }
    let help = raftd(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("Exit codes:"));
}

#[test]
fn a_data_directory_is_made_once_and_by_init_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let served = raftd(&["serve", "--config", &file, "--exit-with-stdin"]);
    assert_eq!(code(&served), 3, "{}", stderr(&served));
    assert!(stderr(&served).contains("raftd init"), "{}", stderr(&served));
    assert!(!directory.path().join("data").exists());

    let made = raftd(&["init", "--config", &file]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let again = raftd(&["init", "--config", &file]);
    assert_eq!(code(&again), 3, "{}", stderr(&again));
    assert!(stderr(&again).contains("help: "), "{}", stderr(&again));

    let mut served = Command::new(env!("CARGO_BIN_EXE_raftd"))
        .args(["serve", "--config", &file, "--exit-with-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("raftd runs");
    let mut lines = BufReader::new(served.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    assert_eq!(line, "serving node=1 groups=16");
    drop(served.stdin.take());
    assert!(served.wait().expect("it ends").success());

    // Whoever started it is gone before it serves: it ends in order all the same.
    let orphan = raftd(&["serve", "--config", &file, "--exit-with-stdin"]);
    assert_eq!(code(&orphan), 0, "{}", stderr(&orphan));
}

#[test]
fn a_foreign_or_damaged_directory_is_code_3() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write_config(directory.path());
    let data = directory.path().join("data").display().to_string();
    let made = raftd(&["init", "--data-dir", &data, "--node", "2", "--name", "example"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let served = raftd(&["serve", "--config", &file, "--exit-with-stdin"]);
    assert_eq!(code(&served), 3, "{}", stderr(&served));
    assert!(stderr(&served).contains("belongs to node 2"), "{}", stderr(&served));

    fs::write(directory.path().join("data/identity"), b"nonsense").expect("written");
    let served = raftd(&["serve", "--config", &file, "--exit-with-stdin"]);
    assert_eq!(code(&served), 3, "{}", stderr(&served));
}

#[test]
fn a_node_that_is_not_there_is_code_4() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let status = raftd(&["status", "--admin", &address]);
    assert_eq!(code(&status), 4, "{}", stderr(&status));
    assert!(stderr(&status).contains("help: "), "{}", stderr(&status));
}

#[test]
fn a_held_cluster_can_be_asked_and_ends_with_its_input() {
    let mut held = Command::new(env!("CARGO_BIN_EXE_raftd"))
        .args(["demo", "--hold", "--groups", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("raftd runs");
    let mut lines = BufReader::new(held.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    assert!(line.starts_with(r#"{"event":"ready","data_dir":""#), "{line}");
    let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(ready["nodes"].as_array().map(Vec::len), Some(3));
    let admin = ready["nodes"][0]["admin"].as_str().expect("an address");

    let table = raftd(&["status", "--admin", admin]);
    assert_eq!(code(&table), 0, "{}", stderr(&table));
    assert!(stdout(&table).contains("leaderless 0"), "{}", stdout(&table));
    let json = raftd(&["status", "--admin", admin, "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    assert_eq!(status["groups"].as_array().map(Vec::len), Some(4));
    assert!(status["groups"][0]["applied_commands_total"].is_u64());

    // The data directory of a running node is locked.
    let node = Path::new(ready["data_dir"].as_str().expect("a path")).join("node-1.toml");
    let twice = raftd(&["serve", "--config", &node.display().to_string()]);
    assert_eq!(code(&twice), 3, "{}", stderr(&twice));

    drop(held.stdin.take());
    assert!(held.wait().expect("it ends").success());
    assert!(!node.exists(), "the temporary folder is removed");
}
