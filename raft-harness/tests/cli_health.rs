//! What a node says of itself, as operators and their tools see it: never better than it is.

#![cfg(all(feature = "raftd", target_os = "linux"))]

mod raftd_support;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use raftd_support::{Node, code, end, raftd, text_of};

fn serve(node: &Node) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = node.serve();
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("raftd runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines)
}

/// The next line that begins so; those before it.
fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, start: &str) -> (String, Vec<String>) {
    let mut before = Vec::new();
    for line in lines {
        let line = line.expect("text");
        if line.starts_with(start) {
            return (line, before);
        }
        before.push(line);
    }
    panic!("it ended without {start:?}: {before:?}");
}

/// Status line and body.
fn get(node: &Node, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(&node.admin).expect("the admin port is open");
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn a_node_alone_says_that_it_serves_and_what_it_lacks() {
    let node = Node::one_of(3);
    let (child, mut lines) = serve(&node);
    wait_for(&mut lines, "serving node=1 groups=16");
    let (line, before) = wait_for(&mut lines, "serving; ");
    assert_eq!(line, "serving; 16 of 16 groups without a leader");
    assert!(before.iter().all(|line| !line.starts_with("ready")), "{before:?}");

    let (head, body) = get(&node, "/readyz");
    assert!(head.contains(" 503 "), "{head}");
    assert_eq!(body, "16 of 16 groups without a leader\n");
    // It lives: starting it again would help nobody.
    let (head, body) = get(&node, "/healthz");
    assert!(head.contains(" 200 ") && body == "ok\n", "{head}: {body}");

    let status = node.status(&[]).output().expect("raftd runs");
    let table = text_of(&status.stdout);
    assert_eq!(code(&status), Some(1), "{table}");
    assert!(table.contains("NOT READY: 16 of 16 groups without a leader"), "{table}");
    assert_eq!(table.matches("not reached, never heard").count(), 2, "{table}");
    assert_eq!(end(child), Some(0));
}

#[test]
fn a_node_goes_on_when_its_terminal_hangs_up_and_says_so() {
    let node = Node::one_of(1);
    let mut command = node.serve();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("raftd runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    wait_for(&mut lines, "ready ");
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    kill_process(pid, Signal::HUP).expect("our own child");
    let said = log.by_ref().map(|line| line.expect("text")).find(|line| line.contains("SIGHUP"));
    assert!(said.expect("it goes on to write").contains("SIGHUP is ignored"));
    let (head, _) = get(&node, "/readyz");
    assert!(head.contains(" 200 "), "{head}");
    // What stops it in order still does.
    kill_process(pid, Signal::TERM).expect("our own child");
    let rest: Vec<String> = log.map(|line| line.expect("text")).collect();
    assert!(rest.iter().any(|line| line.contains("asked to stop by a signal")), "{rest:?}");
    // Nobody else is there to take over: that is no lack of time.
    assert!(rest.iter().any(|line| line.contains("nobody takes over")), "{rest:?}");
    assert!(rest.iter().all(|line| !line.contains("in time")), "{rest:?}");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_node_that_has_everything_says_that_it_is_ready() {
    let node = Node::one_of(1);
    let (child, mut lines) = serve(&node);
    let (line, _) = wait_for(&mut lines, "ready ");
    assert_eq!(line, "ready node=1 groups=16");
    let (head, body) = get(&node, "/readyz");
    assert!(head.contains(" 200 ") && body == "ready\n", "{head}: {body}");
    let status = node.status(&[]).output().expect("raftd runs");
    assert_eq!(code(&status), Some(0), "{}", text_of(&status.stdout));
    // By the name of this machine as well.
    let (_, port) = node.admin.rsplit_once(':').expect("host and port");
    let named = raftd().args(["status", "--admin", &format!("localhost:{port}")]).output();
    let named = named.expect("raftd runs");
    assert_eq!(code(&named), Some(0), "{}", text_of(&named.stderr));
    let (_, metrics) = get(&node, "/metrics");
    for line in ["raft_ready 1", "raft_healthy 1", "raft_log_stalled_ms 0", "raft_failed 0"] {
        assert!(metrics.lines().any(|told| told == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(end(child), Some(0));
}
