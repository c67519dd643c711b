//! Check `front`: the Redis ports against clients of other minds.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::scene::{POLL, ask, data, outcome, serving, set, until};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::{Client, Reply};

const GROUPS: u32 = 8;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Clients that announce much and send little.
const ANNOUNCERS: usize = 1000;
const ANNOUNCED_BYTES: usize = 64 << 20;
const SENT_BYTES: usize = 60 << 10;
/// Requests of the client that writes before it reads, and the bytes of each value.
const PIPELINE: usize = 300_000;
const PIPELINE_VALUE: usize = 1024;
/// Longest a client that does not read may be kept without an answer or an end.
const PIPELINE_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the clock while nothing can be written.
const STEP: Duration = Duration::from_millis(200);
/// Values that a client asks for and does not read, how long they are and how often it asks.
const UNREAD_VALUES: usize = 8;
const UNREAD_BYTES: usize = 8 << 20;
const UNREAD_GETS: usize = 100;
/// What such a client may cost, of the 800 MiB that it asks for.
const UNREAD_COST_MAX: u64 = 96 << 20;
/// How long the memory of the node is watched.
const UNREAD_WATCH: Duration = Duration::from_secs(5);
/// A dead node must be told as such after so long.
const DEAD_LIMIT: Duration = Duration::from_secs(15);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let data = data(setting, 3);
    let layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
    let mut cluster = serving(&layout)?;
    let proxy = cluster.ports(0).proxy;
    let resp = cluster.ports(0).resp;
    let mut outcomes = vec![
        outcome("refused MULTI leaves nothing", || transaction(proxy)),
        outcome("HTTP is no Redis: proxy port", || http(proxy, proxy)),
        outcome("HTTP is no Redis: cluster port", || http(resp, proxy)),
        outcome("announced bytes cost nothing", || announced(&cluster)),
        outcome("a pipeline that reads late ends", || late_reader(proxy)),
        outcome("who does not read costs little", || never_reader(&cluster)),
    ];
    outcomes.push(match keepalive(&cluster) {
        Ok(Some(note)) => Outcome::passed("client sockets are kept alive", note),
        Ok(None) => Outcome::skipped("client sockets are kept alive", "apt-get install iproute2"),
        Err(error) => Outcome::failed("client sockets are kept alive", "-", format!("{error:#}")),
    });
    outcomes.push(outcome("a dead node is told as dead", || dead_node(&mut cluster)));
    Ok(outcomes)
}

/// `MULTI, SET, INCR, EXEC`: refused, and then nothing of it happened; or carried out whole.
fn transaction(proxy: SocketAddr) -> Result<String> {
    let mut client = Client::connect(proxy)?;
    for request in
        [&[&b"MULTI"[..]][..], &[b"SET", b"{multi}a", b"1"], &[b"INCR", b"{multi}b"], &[b"EXEC"]]
    {
        client.push(request);
    }
    client.flush()?;
    let replies: Vec<String> = (0..4)
        .map(|_| client.reply().map(|reply| format!("{reply:?}")))
        .collect::<Result<_, _>>()?;
    let refused = replies[0].contains("ERR");
    for key in [&b"{multi}a"[..], b"{multi}b"] {
        let found = ask(proxy, &[b"GET", key])?;
        let right =
            if refused { found == Reply::Null } else { found == Reply::Bulk(b"1".to_vec()) };
        ensure!(right, "{replies:?}, and then {found:?}");
    }
    Ok(if refused { "refused whole" } else { "carried out whole" }.to_owned())
}

/// The body of a request that a browser was tricked into sending is not run.
fn http(port: SocketAddr, proxy: SocketAddr) -> Result<String> {
    for verb in ["POST", "PUT", "GET", "OPTIONS"] {
        let key = format!("pwned:{verb}:{}", port.port());
        let mut stream = TcpStream::connect_timeout(&port, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let body = format!("SET {key} 1\r\n");
        // Whether all of it can still be written depends on how soon the other end closes.
        let _ = write!(
            stream,
            "{verb} / HTTP/1.1\r\nHost: {port}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => bail!("{verb}: the connection stays open: {error}"),
        }
        let found = ask(proxy, &[b"GET", key.as_bytes()])?;
        ensure!(found == Reply::Null, "{verb}: the body was run");
    }
    Ok("closed, nothing run".to_owned())
}

/// Memory grows with the bytes that came, not with those that were promised.
fn announced(cluster: &Cluster) -> Result<String> {
    let pid = cluster.pid(1)?;
    let proxy = cluster.ports(1).proxy;
    let before = resident_bytes(pid)?;
    let mut clients = Vec::new();
    let piece = vec![b'x'; SENT_BYTES];
    for _ in 0..ANNOUNCERS {
        let mut stream = TcpStream::connect_timeout(&proxy, ANSWER_LIMIT)?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${ANNOUNCED_BYTES}\r\n");
        // A server may close whom it has no room for.
        if stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&piece).is_ok() {
            clients.push(stream);
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let grown = resident_bytes(pid)?.saturating_sub(before);
    let sent = (ANNOUNCERS * SENT_BYTES) as u64;
    // Twice for a buffer that has just grown, and a bit for each connection's task.
    let allowed = 2 * sent + (ANNOUNCERS as u64) * (16 << 10);
    ensure!(
        grown <= allowed,
        "{ANNOUNCERS} clients sent {} MiB and cost {} MiB",
        sent >> 20,
        grown >> 20
    );
    drop(clients);
    ensure!(set(proxy, b"after", b"1")? == Reply::Ok, "it does not serve any more");
    Ok(format!("{} MiB sent, {} MiB grown", sent >> 20, grown >> 20))
}

pub(super) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    Ok(kilobytes.context("VmRSS is no number")? * 1024)
}

/// A client that writes a long pipeline before it reads is served, or told its end.
fn late_reader(proxy: SocketAddr) -> Result<String> {
    ensure!(set(proxy, b"late", &vec![b'v'; PIPELINE_VALUE])? == Reply::Ok, "the value is not set");
    let mut stream = TcpStream::connect_timeout(&proxy, ANSWER_LIMIT)?;
    let begun = Instant::now();
    let mut requests = Vec::new();
    for _ in 0..PIPELINE {
        requests.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$4\r\nlate\r\n");
    }
    stream.set_write_timeout(Some(STEP))?;
    let mut written = 0;
    while written < requests.len() && begun.elapsed() < PIPELINE_LIMIT {
        match stream.write(&requests[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    ensure!(begun.elapsed() < PIPELINE_LIMIT, "hung with {written} bytes written");
    stream.set_read_timeout(Some(PIPELINE_LIMIT))?;
    let expected = PIPELINE * (PIPELINE_VALUE + "$1024\r\n\r\n".len());
    let mut read = 0;
    let mut buffer = vec![0; 1 << 16];
    while read < expected {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => bail!("hung after {read} of {expected} bytes: {error}"),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    if read == expected {
        return Ok(format!("served in {seconds:.1} s"));
    }
    Ok(format!("closed after {seconds:.1} s"))
}

/// A client that asks a proxy port for much and reads nothing takes a bounded part of the memory,
/// whichever node has what it asks for; and the others are served.
fn never_reader(cluster: &Cluster) -> Result<String> {
    let pid = cluster.pid(0)?;
    let proxy = cluster.ports(0).proxy;
    let key = |index: usize| format!("unread:{}", index % UNREAD_VALUES);
    for index in 0..UNREAD_VALUES {
        let value = vec![b'v'; UNREAD_BYTES];
        ensure!(set(proxy, key(index).as_bytes(), &value)? == Reply::Ok, "a value is not set");
    }
    let before = resident_bytes(pid)?;
    let mut stream = TcpStream::connect_timeout(&proxy, ANSWER_LIMIT)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let gets: String = (0..UNREAD_GETS).map(|index| format!("GET {}\r\n", key(index))).collect();
    stream.write_all(gets.as_bytes())?;
    let mut most = 0;
    let begun = Instant::now();
    while begun.elapsed() < UNREAD_WATCH {
        most = most.max(resident_bytes(pid)?.saturating_sub(before));
        std::thread::sleep(POLL);
    }
    ensure!(most <= UNREAD_COST_MAX, "a client that reads nothing cost {} MiB", most >> 20);
    for index in 0..UNREAD_VALUES {
        let Reply::Bulk(value) = ask(proxy, &[b"GET", key(index).as_bytes()])? else {
            bail!("another client is not given {}", key(index))
        };
        ensure!(value.len() == UNREAD_BYTES, "{} bytes", value.len());
    }
    drop(stream);
    for index in 0..UNREAD_VALUES {
        ask(proxy, &[b"DEL", key(index).as_bytes()])?;
    }
    Ok(format!("{} MiB asked for, {} MiB grown", (UNREAD_GETS * UNREAD_BYTES) >> 20, most >> 20))
}

/// A timer of the kernel watches every client socket.
fn keepalive(cluster: &Cluster) -> Result<Option<String>> {
    let client = Client::connect(cluster.ports(0).proxy)?;
    let local = client.local_address()?.port();
    let mut ss = Command::new("ss");
    ss.args(["-Htno", &format!("dport = :{local}")]);
    let Ok(finished) = Job::new(ss).limit(ANSWER_LIMIT).merged() else { return Ok(None) };
    ensure!(finished.stdout.contains("keepalive"), "no timer: {}", finished.evidence());
    Ok(Some("keepalive timer".to_owned()))
}

/// Clients that ask for the topology are told who is not there.
fn dead_node(cluster: &mut Cluster) -> Result<String> {
    let id = "3";
    let resp = cluster.ports(0).resp;
    let dead_port = cluster.ports(2).resp.port().to_string();
    cluster.kill(2);
    let line = until(&format!("node {id} is not told as dead"), DEAD_LIMIT, || {
        let Reply::Bulk(nodes) = ask(resp, &[b"CLUSTER", b"NODES"])? else {
            bail!("no list of nodes")
        };
        let nodes = String::from_utf8_lossy(&nodes).into_owned();
        let line = nodes.lines().find(|line| line.contains(&dead_port)).unwrap_or_default();
        Ok(line.contains("fail").then(|| line.to_owned()))
    })?;
    ensure!(line.contains("disconnected"), "{line}");
    cluster.start(2)?;
    until("it is not told as back", DEAD_LIMIT, || {
        let Reply::Bulk(nodes) = ask(resp, &[b"CLUSTER", b"NODES"])? else {
            bail!("no list of nodes")
        };
        let nodes = String::from_utf8_lossy(&nodes).into_owned();
        let line = nodes.lines().find(|line| line.contains(&dead_port)).unwrap_or_default();
        Ok((!line.contains("fail") && !line.contains("disconnected")).then_some(()))
    })?;
    Ok("fail, disconnected; and back".to_owned())
}
