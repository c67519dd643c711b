//! Scenarios as scripts: what the protocol does, told by files that read like documentation.
//!
//! Each file below this folder claims one thing, in its name and in its first sentence, and shows
//! it on a small cluster of real [`Group`](raft_core::Group)s: their disks, links and clocks do
//! what the script says and nothing else. A file is a list of blocks: commands, `---`, and what
//! they brought about, up to an empty line.
//!
//! `RAFT_SCRIPTS=write cargo test -p raft-core --test scripts` rewrites what the files expect.
//! Read the difference as you would read code.
//!
//! Vocabulary (`vocabulary.rs` knows every word):
//!
//! ```text
//! cluster nodes=3 leader=1      replicas 1..3 on nodes 1..3, and who leads at the beginning
//! start 4                       a replica that joins; or one of a `stopped` cluster, with a log
//! campaign, propose, read, transfer, change, snapshot, compact      requests to one replica
//! stabilize                     messages flow until none is left; no time passes
//! wait 1s                       time passes, deadlines come, messages flow at once
//! tick 1s                       time passes, deadlines come, messages stay where they are
//! isolate, cut, partition, heal             links that lose what is sent
//! hold, release, deliver, drop, duplicate   single messages, by link and kind
//! hold-lane, pull, release-lane             room for appends
//! hold-disk, write, persist, release-disk   what a disk has, step by step
//! disk-full, disk-ample, disk-fails, unreadable     disks in trouble
//! crash, restart, unreachable, wake, accept-loss, clock    nodes and their operators
//! status, log, state, messages, progress, lease, leaders    questions
//! quietly ...                   does it and tells nothing; show-messages: tells of each message
//! ```
//!
//! What is told of a replica: changes of role, term and known leader (`follower@2 of n1` follows
//! node 1 in term 2), votes, entries, commits, memberships, outcomes, sleep, faults. Every script
//! also checks that nobody commits two things in one place and that no term has two leaders.

mod cluster;
mod describe;
mod disk;
mod explore;
mod history;
mod network;
mod questions;
mod replica;
mod requests;
mod script;
mod trouble;
mod vocabulary;

use std::path::{Path, PathBuf};

use script::Script;
use vocabulary::Stage;

fn scripts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut open = vec![root];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder of scripts can be read") {
            let path = entry.expect("an entry of a folder of scripts").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "txt") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Names the place in a script when the core itself panics there.
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:{}: this command made the core panic", self.path.display(), self.line);
        }
    }
}

/// Runs a script; gives back what each block brought about.
fn play(path: &Path, script: &Script) -> Result<Vec<Vec<String>>, String> {
    let mut stage = Stage::default();
    let mut place = Place { path, line: 0 };
    let mut outputs = Vec::new();
    for block in &script.blocks {
        let mut output = Vec::new();
        for (line, command) in block.commands() {
            place.line = line;
            let told = stage
                .play(command)
                .map_err(|why| format!("{}:{line}: {why}: {command}", path.display()))?;
            output.extend(told);
        }
        if output.is_empty() {
            output.push(String::from("(nothing)"));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

#[test]
fn every_script_tells_what_it_expects() {
    let write = std::env::var("RAFT_SCRIPTS").is_ok_and(|wish| wish == "write");
    let paths = scripts();
    assert!(paths.len() >= 60, "only {} scripts were found", paths.len());
    let mut complaints = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a script can be read");
        let played = Script::parse(&text)
            .map_err(|why| format!("{}: {why}", path.display()))
            .and_then(|script| Ok((play(path, &script)?, script)));
        let (outputs, script) = match played {
            Ok(played) => played,
            Err(why) => {
                complaints.push(why);
                continue;
            }
        };
        let told = script.with_outputs(&outputs);
        if told == text {
            continue;
        }
        if write {
            std::fs::write(path, told).expect("a script can be rewritten");
        } else {
            complaints.push(script::difference(&path.display().to_string(), &text, &told));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
