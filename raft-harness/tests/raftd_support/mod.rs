//! Real `raftd` processes for tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A node of a cluster on this machine, not started.
pub struct Node {
    pub config: PathBuf,
    pub proxy: String,
    pub admin: String,
    _root: tempfile::TempDir,
}

pub fn raftd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RAFT_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

impl Node {
    /// Node 1 of so many, with a data directory. The others exist in its configuration only.
    pub fn one_of(nodes: u64) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let held: Vec<TcpListener> = (0..2 + 2 * nodes)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let address = |at: u64| held[at as usize].local_addr().expect("bound").to_string();
        let (proxy, admin) = (address(0), address(1));
        let mut text = format!(
            "[node]\nid = 1\ncluster = \"test\"\ndata_dir = {:?}\n\n[listen]\nraft = \"{}\"\n\
             resp = \"{}\"\nresp_proxy = \"{proxy}\"\nadmin = \"{admin}\"\n\n\
             [groups]\ncount = 16\n\n[log]\nsegment_bytes = 1048576\n",
            root.path().join("data"),
            address(2),
            address(3),
        );
        for peer in 1..=nodes {
            let (raft, resp) = (address(2 * peer), address(2 * peer + 1));
            let entry = format!("\n[[peers]]\nid = {peer}\nraft = \"{raft}\"\nresp = \"{resp}\"\n");
            text.push_str(&entry);
        }
        let config = root.path().join("node.toml");
        fs::write(&config, text).expect("written");
        let node = Self { config, proxy, admin, _root: root };
        let made = raftd().args(["init", "--config"]).arg(&node.config).output();
        let made = made.expect("raftd runs");
        assert!(made.status.success(), "{}", text_of(&made.stderr));
        node
    }

    /// A command that serves it until its standard input, a pipe, is closed.
    pub fn serve(&self) -> Command {
        let mut command = raftd();
        command.args(["serve", "--exit-with-stdin", "--config"]).arg(&self.config);
        command.stdin(Stdio::piped());
        command
    }

    pub fn status(&self, more: &[&str]) -> Command {
        let mut command = raftd();
        command.args(["status", "--admin", &self.admin]).args(more);
        command
    }

    pub fn directory(&self) -> &Path {
        self.config.parent().expect("it is in a directory")
    }
}

/// Closes its standard input and waits for its end.
pub fn end(mut child: Child) -> Option<i32> {
    drop(child.stdin.take());
    child.wait().expect("it ends").code()
}

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

pub fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
