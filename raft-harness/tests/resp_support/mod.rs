//! A scripted engine behind the front, and a client that says exactly what it is told to.
//!
//! Each integration test is a program of its own and uses a part of this.
#![allow(dead_code, reason = "every test program uses another part")]
#![allow(unreachable_pub, reason = "`pub` means shared among the test programs")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft_core::{Entry, EntryKind, GroupId, LogIndex, LogTime, NodeId, Term};
use raft_harness::kv::{Command, KvMachine, SlotMap};
use raft_harness::resp::{
    Answered, Backend, BackendStats, FrontNode, Limits, Mode, Operation, OperationKind, Refusal,
    RespServer, Topology,
};
use raft_harness::{GroupSpec, StateMachine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub type Answer = Result<Answered, Refusal>;

/// An engine of one node: real state machines, scripted everything else.
#[derive(Clone, Default)]
pub struct Engine(Arc<Mutex<Inner>>);

#[derive(Default)]
pub struct Inner {
    pub machines: BTreeMap<GroupId, KvMachine>,
    pub leaders: HashMap<GroupId, NodeId>,
    /// What the leader would stamp.
    pub wall_time: u64,
    /// What the front's own clock shows, if that is something else.
    pub front_time: Option<u64>,
    /// The next operations are refused like this, in order.
    pub refusals: VecDeque<Refusal>,
    /// Operations of this kind wait for `finish`; the others end at once.
    pub hold_reads: bool,
    pub hold_writes: bool,
    pub held: VecDeque<(Operation, oneshot::Sender<Answer>)>,
    pub history: Vec<Operation>,
    /// Bytes of all answers to reads.
    pub read_bytes: usize,
    /// Nodes that are not reached.
    pub unreached: Vec<NodeId>,
    /// Grows with every change of a leader.
    pub version: u64,
    /// How often somebody asked for a leader.
    pub asked: usize,
    index: u64,
}

impl Engine {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics while it holds the lock")
    }

    /// All groups of a map are led by these nodes, in turn.
    pub fn led_by(groups: u32, leaders: &[u64]) -> Self {
        let engine = Self::default();
        engine.lock().wall_time = 1_000_000;
        for (group, leader) in (1..=groups).zip(leaders.iter().cycle()) {
            engine.set_leader(group, Some(*leader));
        }
        engine
    }

    pub fn set_leader(&self, group: u32, leader: Option<u64>) {
        let mut inner = self.lock();
        inner.version += 1;
        match leader {
            Some(leader) => inner.leaders.insert(GroupId::new(group), NodeId::new(leader)),
            None => inner.leaders.remove(&GroupId::new(group)),
        };
    }

    pub fn hold(&self, reads: bool, writes: bool) {
        let mut inner = self.lock();
        (inner.hold_reads, inner.hold_writes) = (reads, writes);
    }

    pub fn refuse_next(&self, refusals: impl IntoIterator<Item = Refusal>) {
        self.lock().refusals.extend(refusals);
    }

    /// Carries out the held operation with this number.
    pub fn finish(&self, index: usize) {
        let mut inner = self.lock();
        let (operation, reply) = inner.held.remove(index).expect("an operation is held");
        let answer = inner.run(&operation);
        let _ = reply.send(Ok(answer));
    }

    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Lets the other tasks run until so many operations are held.
    pub async fn until_held(&self, count: usize) {
        let held = async {
            while self.held() != count {
                assert!(self.held() < count, "{} operations are held", self.held());
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, held).await.expect("the server hands over what was sent");
    }

    /// How many operations of a kind have been handed over, ticks aside.
    pub fn count(&self, kind: OperationKind) -> usize {
        let counts = |operation: &&Operation| operation.kind == kind && !is_tick(operation);
        self.lock().history.iter().filter(counts).count()
    }

    pub fn ticks(&self) -> usize {
        self.lock().history.iter().filter(|operation| is_tick(operation)).count()
    }
}

fn is_tick(operation: &Operation) -> bool {
    operation.kind == OperationKind::Write
        && Command::decode(&operation.payload) == Ok(Command::Tick)
}

impl Inner {
    /// The time that this leader would stamp is its wall clock.
    pub fn run(&mut self, operation: &Operation) -> Answered {
        let time = self.wall_time;
        Answered { output: self.output(operation), time }
    }

    fn output(&mut self, operation: &Operation) -> Bytes {
        let machine = self.machines.entry(operation.group).or_default();
        if operation.kind == OperationKind::Read {
            let answer = machine.read(&operation.payload);
            self.read_bytes += answer.len();
            return answer;
        }
        self.index += 1;
        let entry = Entry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            kind: EntryKind::Command,
            time: LogTime::new(self.wall_time),
            payload: operation.payload.clone(),
        };
        let mut outputs = Vec::new();
        machine.apply(&[entry], &mut outputs);
        outputs.pop().expect("one output per entry")
    }
}

impl Backend for Engine {
    type Pending = Pending;

    fn submit(&self, operations: &mut Vec<Operation>, pending: &mut Vec<Pending>) {
        let mut inner = self.lock();
        for operation in operations.drain(..) {
            inner.history.push(operation.clone());
            let (reply, receiver) = oneshot::channel();
            pending.push(Pending(receiver));
            let held = match operation.kind {
                OperationKind::Read => inner.hold_reads,
                OperationKind::Write => inner.hold_writes,
            };
            if let Some(refusal) = inner.refusals.pop_front() {
                let _ = reply.send(Err(refusal));
            } else if held {
                inner.held.push_back((operation, reply));
            } else {
                let answer = inner.run(&operation);
                let _ = reply.send(Ok(answer));
            }
        }
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let mut inner = self.lock();
        inner.asked += 1;
        inner.leaders.get(&group).copied()
    }

    fn leaders_version(&self) -> Option<u64> {
        Some(self.lock().version)
    }

    fn is_reached(&self, node: NodeId) -> bool {
        !self.lock().unreached.contains(&node)
    }

    fn stats(&self) -> BackendStats {
        let inner = self.lock();
        let groups = inner.leaders.len() as u64;
        BackendStats { applied_commands: inner.index, groups, groups_led: groups }
    }

    fn wall_time(&self) -> u64 {
        let inner = self.lock();
        inner.front_time.unwrap_or(inner.wall_time)
    }
}

pub struct Pending(oneshot::Receiver<Answer>);

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(Refusal::Unknown)))
    }
}

/// Three nodes hold all groups; node `n` is at `ports[n - 1]`.
pub fn topology(node: u64, groups: u32, ports: [u16; 3]) -> Topology {
    let nodes = [1, 2, 3].map(NodeId::new);
    let front = |(node, port)| FrontNode { node, host: "127.0.0.1".to_owned(), port };
    let specs: Vec<GroupSpec> =
        (1..=groups).map(|group| GroupSpec::on_nodes(GroupId::new(group), nodes)).collect();
    let slots = SlotMap::new(groups).expect("a legal number of groups");
    let fronts = nodes.into_iter().zip(ports).map(front).collect();
    Topology::new(NodeId::new(node), fronts, slots, &specs, true).expect("consistent")
}

pub async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// The cluster port of node 1, with nodes 2 and 3 at ports 7002 and 7003.
pub async fn serve(engine: &Engine, groups: u32, limits: Limits) -> (RespServer, Client) {
    let (listener, port) = listener().await;
    let topology = topology(1, groups, [port, 7002, 7003]);
    let server = RespServer::start(listener, engine.clone(), topology, Mode::Cluster, limits)
        .expect("a bound listener");
    let client = Client::connect(server.address()).await;
    (server, client)
}

/// A client on a plain socket.
pub struct Client {
    pub stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Self { stream, buffer: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the server reads");
    }

    async fn read(&mut self) -> usize {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        read.expect("the server answers").expect("the server writes")
    }

    /// The next bytes are exactly these.
    pub async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        while self.buffer.len() < expected.len() {
            if self.read().await == 0 {
                break;
            }
        }
        let got = self.buffer.split_to(expected.len().min(self.buffer.len()));
        assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Sends lines as one pipeline and expects the replies.
    pub async fn talk(&mut self, lines: &[&str], replies: &str) {
        self.send(lines.iter().map(|line| format!("{line}\r\n")).collect::<String>()).await;
        self.expect(replies).await;
    }

    /// Sends a line and returns the reply up to its first line break.
    pub async fn line(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let reply = self.buffer.split_to(end + 2);
                return String::from_utf8_lossy(&reply[..end]).into_owned();
            }
            assert_ne!(self.read().await, 0, "the server closed");
        }
    }

    /// Sends a line and returns the bulk string it is answered with.
    pub async fn bulk(&mut self, line: &str) -> String {
        let header = self.line(line).await;
        let length: usize = header.strip_prefix('$').expect(&header).parse().expect("a length");
        while self.buffer.len() < length + 2 {
            assert_ne!(self.read().await, 0, "the server closed");
        }
        let bulk = self.buffer.split_to(length + 2);
        String::from_utf8_lossy(&bulk[..length]).into_owned()
    }

    /// The server closes, whatever it still had to say.
    pub async fn expect_end(&mut self) {
        let end = async {
            loop {
                self.buffer.clear();
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        timeout(PATIENCE, end).await.expect("the server closes");
    }

    /// Nothing more comes, and the server has closed.
    pub async fn expect_close(&mut self) {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "the server is still there");
        assert_eq!(self.buffer.escape_ascii().to_string(), "");
    }
}
