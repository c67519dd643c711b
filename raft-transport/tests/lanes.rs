//! Lanes as their user sees them. In memory under virtual time; over TCP where sockets matter.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft_core::{
    Append, Entry, EntryKind, GroupId, GroupIncarnation, Heartbeat, Incarnation, LogIndex, LogTime,
    Message, Micros, NodeId, ReplicaId, Rest, Session, Term, TermRun, TermRuns,
};
use raft_mux::{MuxAcceptor, MuxConfig};
use raft_transport::{
    Accepted, BoxFuture, BoxStream, ConnectionId, Direction, Envelope, Frame, Handshake,
    HeartbeatItem, Hello, HelloRefusal, Identity, Lane, LaneConfig, LaneCounters, LaneError,
    LaneEvent, LaneSnapshot, Lanes, MemoryHub, Network, NetworkError, PeerRefusal, PeerRegistry,
    RefusalReason, Refuser, TcpNetwork, decode_handshake, encode_handshake,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const DATA: Lane = Lane::Data { shard: 0 };
const LANES: [Lane; 2] = [Lane::Control, DATA];
const A: NodeId = NodeId::new(1);
const B: NodeId = NodeId::new(2);
const C: NodeId = NodeId::new(3);

struct Node {
    registry: PeerRegistry,
    lanes: Vec<(Lanes, Arc<LaneCounters>)>,
    events: Vec<(Lane, LaneEvent)>,
}

impl Node {
    fn new(network: Arc<dyn Network>, registry: PeerRegistry, config: &LaneConfig) -> Self {
        Self::with_lanes(network, registry, config, &LANES)
    }

    fn with_lanes(
        network: Arc<dyn Network>,
        registry: PeerRegistry,
        config: &LaneConfig,
        lanes: &[Lane],
    ) -> Self {
        let make = |&lane: &Lane| {
            let counters = Arc::new(LaneCounters::default());
            let (network, registry) = (network.clone(), registry.clone());
            let lanes = Lanes::new(network, registry, lane, config.clone(), counters.clone());
            (lanes, counters)
        };
        let lanes = lanes.iter().map(make).collect();
        Self { registry, lanes, events: Vec::new() }
    }

    fn in_memory(hub: &MemoryHub, node: NodeId, peers: &[NodeId], config: &LaneConfig) -> Self {
        let registry = registry(node, 1);
        peers.iter().for_each(|&peer| registry.set_peer(peer, ""));
        Self::new(Arc::new(hub.node(node, &LANES)), registry, config)
    }

    fn find(&self, lane: Lane) -> usize {
        let position = self.lanes.iter().position(|(lanes, _)| lanes.lane() == lane);
        position.expect("the node has this lane")
    }

    fn lane(&mut self, lane: Lane) -> &mut Lanes {
        let at = self.find(lane);
        &mut self.lanes[at].0
    }

    fn counted(&self, lane: Lane) -> LaneSnapshot {
        self.lanes[self.find(lane)].1.snapshot()
    }

    fn is_up(&self, peer: NodeId) -> bool {
        self.lanes.iter().all(|(lanes, _)| lanes.is_up(peer))
    }

    fn downs(&self, lane: Lane) -> Vec<LaneError> {
        let down = |(on, event): &(Lane, LaneEvent)| match event {
            LaneEvent::Down { reason, .. } if *on == lane => Some(reason.clone()),
            LaneEvent::Down { .. } | LaneEvent::Up { .. } | LaneEvent::Frame { .. } => None,
        };
        self.events.iter().filter_map(down).collect()
    }
}

fn identity(node: NodeId, incarnation: u64) -> Identity {
    Identity {
        cluster: "test".to_owned(),
        node,
        store: u128::from(node.get()),
        incarnation: Incarnation::new(incarnation),
        life: u128::from(incarnation),
        past: Vec::new(),
        shards: 1,
        features: 0,
    }
}

fn registry(node: NodeId, incarnation: u64) -> PeerRegistry {
    PeerRegistry::new(identity(node, incarnation), |_, _| {})
}

/// Polls until `done`; panics after a minute, which under virtual time passes at once.
async fn drive(nodes: &mut [&mut Node], done: impl FnMut(&mut [&mut Node]) -> bool) {
    drive_lanes(nodes, |_, _| true, done).await;
}

/// As `drive`, but polls only the lanes for which `polled` holds: the others hang.
async fn drive_lanes(
    nodes: &mut [&mut Node],
    polled: impl Fn(usize, Lane) -> bool,
    mut done: impl FnMut(&mut [&mut Node]) -> bool,
) {
    let work = poll_fn(|cx| {
        let now = now();
        for (at, node) in nodes.iter_mut().enumerate() {
            for (lanes, _) in &mut node.lanes {
                let lane = lanes.lane();
                if polled(at, lane) {
                    let mut events = VecDeque::new();
                    lanes.poll(cx, now, &mut events);
                    node.events.extend(events.into_iter().map(|event| (lane, event)));
                }
            }
        }
        let done = done(nodes);
        for (at, node) in nodes.iter_mut().enumerate() {
            for (lanes, _) in &mut node.lanes {
                if polled(at, lanes.lane()) {
                    lanes.flush(cx, now);
                }
            }
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it happens within a minute");
}

/// Microseconds of the runtime's clock, which may be a virtual one.
fn now() -> Micros {
    thread_local!(static START: Instant = Instant::now());
    let since = START.with(|start| Instant::now().saturating_duration_since(*start));
    Micros::new(since.as_micros() as u64)
}

fn append(index: u64, size: usize) -> Frame {
    let term = Term::new(1);
    let entry = Entry {
        index: LogIndex::new(index),
        term,
        kind: EntryKind::Command,
        time: LogTime::new(0),
        payload: Bytes::from(vec![7; size]),
    };
    let append = Append {
        term,
        session: Session::new(1),
        prev_index: LogIndex::new(index - 1),
        prev_term: if index == 1 { Term::ZERO } else { term },
        runs: TermRuns::from_iter([TermRun { term, count: 1 }]),
        configs: raft_core::Sparse::new(),
        commit: LogIndex::ZERO,
        quorum_durable: LogIndex::ZERO,
        acknowledge: raft_core::Acknowledge::Durable,
        time: LogTime::default(),
    };
    Frame::Message(Envelope {
        group: GroupId::new(1),
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        message: Message::Append(append),
        entries: vec![entry],
    })
}

fn beats(groups: u32) -> Frame {
    let (term, commit) = (Term::new(1), LogIndex::new(9));
    let (sent, rest) = (Micros::ZERO, Rest::Awake);
    let heartbeat = Heartbeat { term, commit, quorum_durable: commit, read_seq: 0, sent, rest };
    let beat = |group| HeartbeatItem {
        group: GroupId::new(group),
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        heartbeat,
    };
    Frame::Heartbeats((1..=groups).map(beat).collect())
}

async fn over_tcp() -> [Node; 2] {
    let bind = async || {
        let any_port = "127.0.0.1:0".parse().unwrap();
        MuxAcceptor::bind(any_port, MuxConfig::default()).await.unwrap()
    };
    let acceptors = [bind().await, bind().await];
    let addrs = acceptors.each_ref().map(|acceptor| acceptor.local_addr().to_string());
    let [at_a, at_b] = acceptors;
    [(A, at_a, B, &addrs[1]), (B, at_b, A, &addrs[0])].map(|(node, acceptor, peer, addr)| {
        let registry = registry(node, 1);
        registry.set_peer(peer, addr);
        let network = TcpNetwork::new(acceptor, &LANES, registry.clone()).unwrap();
        Node::new(Arc::new(network), registry, &LaneConfig::data())
    })
}

#[tokio::test]
async fn killing_one_lane_over_tcp_leaves_the_other_untouched() {
    let [mut a, mut b] = over_tcp().await;
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    b.lane(DATA).close();
    let mut sent = 0;
    drive(&mut [&mut a, &mut b], |nodes| {
        // Heartbeats go on while the data lane dies.
        if sent < 100 && nodes[0].lane(Lane::Control).send(B, beats(10)).is_ok() {
            sent += 1;
        }
        nodes[0].downs(DATA).len() == 2 && nodes[1].counted(Lane::Control).frames_in == 100
    })
    .await;
    assert!(!a.lane(DATA).is_up(B) && a.lane(Lane::Control).is_up(B));
    assert!(a.downs(Lane::Control).is_empty() && b.downs(Lane::Control).is_empty());
    assert_eq!(b.counted(Lane::Control).connections_in_open, 1);
}

#[test]
fn lane_runs_on_the_runtime_of_its_own_thread() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mux_runtime, lane_runtime) = (runtime(), runtime());
    let [mut a, mut b] = mux_runtime.block_on(over_tcp());
    let up = |nodes: &mut [&mut Node]| nodes[0].is_up(B) && nodes[1].is_up(A);
    std::thread::scope(|scope| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let mux_runtime = &mux_runtime;
        scope.spawn(move || mux_runtime.block_on(stopped));
        lane_runtime.block_on(drive(&mut [&mut a, &mut b], up));
        stop.send(()).unwrap();
    });
    // Nobody runs the mux's runtime any more: a socket still registered there would be dead.
    lane_runtime.block_on(async {
        let mut next = 1;
        drive(&mut [&mut a, &mut b], |nodes| {
            let [a, b] = nodes else { panic!("there are two nodes") };
            let arrived = b.counted(DATA).frames_in;
            if next <= 100 && arrived + 1 == next && a.lane(DATA).send(B, append(next, 100)).is_ok()
            {
                next += 1;
            }
            arrived == 100
        })
        .await;
    });
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_a_hundred_groups_are_one_frame_and_one_write_per_peer() {
    let hub = MemoryHub::new();
    let peers: Vec<_> = (2..=5).map(NodeId::new).collect();
    let config = LaneConfig::control();
    let mut leader = Node::in_memory(&hub, A, &peers, &config);
    let mut followers: Vec<_> =
        peers.iter().map(|&peer| Node::in_memory(&hub, peer, &[A], &config)).collect();
    let mut all: Vec<&mut Node> = [&mut leader].into_iter().chain(&mut followers).collect();
    drive(&mut all, |nodes| peers.iter().all(|&peer| nodes[0].is_up(peer))).await;
    let before = all[0].counted(Lane::Control);
    for &peer in &peers {
        all[0].lane(Lane::Control).send(peer, beats(100)).unwrap();
    }
    drive(&mut all, |nodes| {
        nodes[1..].iter().all(|node| node.counted(Lane::Control).heartbeat_frames_in == 1)
    })
    .await;
    let after = all[0].counted(Lane::Control);
    assert_eq!(after.heartbeat_frames_out - before.heartbeat_frames_out, 4);
    assert_eq!(after.writes - before.writes, 4);
}

#[tokio::test(start_paused = true)]
async fn hanging_lane_is_closed_by_its_keepalive_and_no_other_is() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    let started = Instant::now();
    let hangs = |at, lane| (at, lane) != (1, DATA);
    drive_lanes(&mut [&mut a, &mut b], hangs, |nodes| !nodes[0].downs(DATA).is_empty()).await;
    let waited = started.elapsed();
    assert!((4000..4100).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(a.downs(DATA)[0], LaneError::KeepaliveTimeout);
    assert!(a.downs(Lane::Control).is_empty() && b.downs(Lane::Control).is_empty());
    assert!(a.counted(DATA).keepalive_timeouts > 0);
}

#[tokio::test(start_paused = true)]
async fn lane_that_takes_no_bytes_is_closed_as_stalled() {
    let hub = MemoryHub::new();
    let config = LaneConfig { keepalive_interval: Duration::from_secs(100), ..LaneConfig::data() };
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    for index in 1..=2 {
        assert!(a.lane(DATA).budget(B) > 0);
        a.lane(DATA).send(B, append(index, 900_000)).unwrap();
    }
    assert_eq!(a.lane(DATA).budget(B), 0);
    assert!(a.lane(DATA).send(B, append(3, 900_000)).is_err());
    assert!(a.lane(DATA).room(B).bytes > 0, "a short one need not wait");
    let hangs = |at, lane| (at, lane) != (1, DATA);
    drive_lanes(&mut [&mut a, &mut b], hangs, |nodes| !nodes[0].downs(DATA).is_empty()).await;
    assert!(matches!(a.downs(DATA)[..], [LaneError::Stalled { queued }] if queued > 1 << 20));
    assert_eq!((a.counted(DATA).stalls, a.counted(DATA).credit_stalls), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn inbound_hello_resets_the_back_off_of_every_lane() {
    let hub = MemoryHub::new();
    let hour = Duration::from_secs(3600);
    let config = LaneConfig { backoff_min: hour, backoff_max: hour, ..LaneConfig::control() };
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    drive(&mut [&mut a], |nodes| nodes[0].counted(DATA).dial_failures == 1).await;
    // Node 2 greets on the control lane only.
    let registry = registry(B, 1);
    registry.set_peer(A, "");
    let network = Arc::new(hub.node(B, &LANES));
    let mut b = Node::with_lanes(network, registry, &config, &[Lane::Control]);
    let started = Instant::now();
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].counted(DATA).dials == 2).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dials_back_off_to_the_cap_and_go_on_for_ever() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let started = Instant::now();
    drive(&mut [&mut a], |nodes| nodes[0].counted(DATA).dials == 20).await;
    // Pauses of 20, 40, 80, 160, 320 and fourteen times 400 ms, less up to half as jitter.
    let waited = started.elapsed().as_millis();
    assert!((3100..=6300).contains(&waited), "{waited} ms");
}

async fn greet(stream: &mut BoxStream, hello: &Hello) -> Option<Handshake> {
    stream.write_all(&encode_handshake(&Handshake::Hello(hello.clone()))).await.unwrap();
    let mut buffer = BytesMut::new();
    while stream.read_buf(&mut buffer).await.unwrap() > 0 {
        if let Some(answer) = decode_handshake(&mut buffer).unwrap() {
            return Some(answer);
        }
    }
    None
}

/// Node 1's lanes, and a hand-made peer on the other end of the wire.
async fn with_peer<T>(work: impl AsyncFnOnce(&MemoryHub) -> T) -> (Node, T) {
    let hub = MemoryHub::new();
    let mut a = Node::in_memory(&hub, A, &[B], &LaneConfig::control());
    let (done, mut finished) = tokio::sync::oneshot::channel();
    let driving = async {
        let nodes = &mut [&mut a];
        tokio::select! {
            () = drive(nodes, |_| false) => panic!("it never ends by itself"),
            result = &mut finished => result.unwrap(),
        }
    };
    let working = async {
        assert!(done.send(work(&hub).await).is_ok(), "the driver waits for this");
    };
    let (result, ()) = tokio::join!(driving, working);
    drive(&mut [&mut a], |_| true).await;
    (a, result)
}

#[tokio::test(start_paused = true)]
async fn newer_connection_of_a_lane_replaces_the_older() {
    let (node, ()) = with_peer(async |hub| {
        let network = hub.node(B, &[]);
        let peer = registry(B, 1);
        let open = async || {
            let timeout = Duration::from_secs(1);
            let mut stream = network.dial(A, Lane::Control, timeout).await.unwrap();
            let hello = peer.hello(A, Lane::Control, 1 << 20);
            let answer = greet(&mut stream, &hello).await;
            assert!(matches!(answer, Some(Handshake::Welcome(_))), "{answer:?}");
            stream
        };
        let mut older = open().await;
        let _newer = open().await;
        assert_eq!(older.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
    })
    .await;
    let incoming: Vec<_> = node
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            LaneEvent::Up { connection, .. } => Some((*connection, None)),
            LaneEvent::Down { connection, reason, .. } => Some((*connection, Some(reason))),
            LaneEvent::Frame { .. } => None,
        })
        .filter(|(connection, _)| connection.direction() == Direction::Incoming)
        .collect();
    let [(first, None), (gone, Some(LaneError::Fenced)), (second, None), ..] = incoming[..] else {
        panic!("{incoming:?}");
    };
    assert!(first == gone && second != first);
    assert_eq!(node.counted(Lane::Control).fenced, 1);
}

#[tokio::test(start_paused = true)]
async fn refused_dialer_reads_the_reason_before_the_stream_ends() {
    let (node, ()) = with_peer(async |hub| {
        let network = hub.node(B, &[]);
        let mut hello = registry(B, 1).hello(A, Lane::Control, 1 << 20);
        hello.cluster = "other".to_owned();
        let mut stream = network.dial(A, Lane::Control, Duration::from_secs(1)).await.unwrap();
        let answer = greet(&mut stream, &hello).await;
        let (ours, theirs) = ("test".to_owned(), "other".to_owned());
        let refusal = HelloRefusal::WrongCluster { ours, theirs };
        assert_eq!(answer, Some(Handshake::Refusal(refusal)));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    assert_eq!(node.counted(Lane::Control).refused, 1);
    assert!(node.events.is_empty(), "who never was up does not go down");
}

#[tokio::test(start_paused = true)]
async fn silent_dialer_is_closed_after_the_handshake_timeout() {
    with_peer(async |hub| {
        let network = hub.node(B, &[]);
        let mut stream = network.dial(A, Lane::Control, Duration::from_secs(1)).await.unwrap();
        let started = Instant::now();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        let waited = started.elapsed().as_millis();
        assert!((1000..1100).contains(&waited), "{waited} ms");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn crowd_of_silent_dialers_costs_the_oldest_its_place() {
    let (node, ()) = with_peer(async |hub| {
        let network = hub.node(B, &[]);
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(network.dial(A, Lane::Control, Duration::from_secs(1)).await.unwrap());
            tokio::task::yield_now().await;
        }
        assert_eq!(streams[0].read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    let counted = node.counted(Lane::Control);
    assert_eq!((counted.accepted, counted.handshakes_dropped), (100, 36));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_refuses_is_told_apart_from_one_that_is_not_there() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B, C], &config);
    // It knows nobody.
    let mut b = Node::in_memory(&hub, B, &[], &config);
    let refused = |node: &Node| {
        let lanes = &node.lanes[0].0;
        let refusals = lanes.refusals().map(|(peer, refusal)| (peer, refusal.cloned()));
        (lanes.refusals_version(), refusals.collect::<Vec<_>>())
    };
    assert_eq!(refused(&a).0, 0);
    drive(&mut [&mut a, &mut b], |nodes| refused(nodes[0]).0 > 0).await;
    let reason = HelloRefusal::UnknownNode { node: A };
    let told = PeerRefusal { by: Refuser::Peer, reason: RefusalReason::Hello(reason) };
    assert_eq!(refused(&a), (1, vec![(B, Some(told)), (C, None)]));
    // The same again is no news; an end of it is.
    b.registry.set_peer(A, "");
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B)).await;
    assert_eq!(refused(&a), (2, vec![(B, None), (C, None)]));
}

/// Counts what would be logged by a program that logs warnings and information.
#[derive(Clone, Default)]
struct LogLines(Arc<AtomicUsize>);

impl tracing::Subscriber for LogLines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn strangers_choose_no_number_of_log_lines() {
    const ROUNDS: usize = 5;
    let lines = LogLines::default();
    let _logging = tracing::subscriber::set_default(lines.clone());
    let (node, ()) = with_peer(async |hub| {
        let network = hub.node(B, &[]);
        for round in 0..ROUNDS {
            let mut streams = Vec::new();
            for dialer in 0..100 {
                let dialing = network.dial(A, Lane::Control, Duration::from_secs(1));
                let mut stream = dialing.await.unwrap();
                if dialer % 3 == 0 {
                    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
                }
                streams.push(stream);
                tokio::task::yield_now().await;
            }
            // Those who say nothing are closed for it.
            let last = streams.last_mut().unwrap();
            assert_eq!(last.read(&mut [0; 1]).await.unwrap(), 0, "round {round}");
        }
    })
    .await;
    let counted = node.counted(Lane::Control);
    assert_eq!(counted.accepted, 100 * ROUNDS as u64);
    // Of each kind (bytes that are no handshake, none in time, too many) one line in 10 s.
    let lines = lines.0.load(Relaxed);
    assert!((1..=6).contains(&lines), "{lines} lines");
}

#[tokio::test(start_paused = true)]
async fn peers_come_and_go_while_lanes_run() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].counted(DATA).refused > 0).await;
    a.registry.set_peer(B, "");
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    a.registry.remove_peer(B);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].downs(DATA).len() == 2).await;
    assert_eq!(a.downs(DATA), [LaneError::PeerRemoved, LaneError::PeerRemoved]);
    assert_eq!(a.lane(DATA).budget(B), 0);
}

#[tokio::test(start_paused = true)]
async fn newer_life_of_a_peer_fences_all_lanes_of_the_older() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut old = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut old], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    // The old process hangs with its sockets open; a new one greets on the control lane.
    let registry = registry(B, 2);
    registry.set_peer(A, "");
    let network = Arc::new(hub.node(B, &LANES));
    let mut new = Node::with_lanes(network, registry, &config, &[Lane::Control]);
    let started = Instant::now();
    drive(&mut [&mut a, &mut new], |nodes| nodes[0].downs(DATA).len() == 2).await;
    assert!(started.elapsed() < Duration::from_millis(100));
    assert_eq!(a.downs(DATA), [LaneError::Fenced, LaneError::Fenced]);
}

#[tokio::test(start_paused = true)]
async fn cut_wire_is_noticed_at_once_and_mended_by_itself() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    hub.cut(A, B);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].downs(DATA).len() == 2).await;
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].counted(DATA).dial_failures > 10).await;
    hub.heal(A, B);
    let started = Instant::now();
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    assert!(started.elapsed() <= Duration::from_millis(410), "{:?}", started.elapsed());
    assert_eq!(a.counted(DATA).reconnects, 1);
}

#[tokio::test(start_paused = true)]
async fn one_poll_reads_a_bounded_number_of_bytes_and_comes_back_for_more() {
    let hub = MemoryHub::new();
    let config = LaneConfig::data();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    a.lane(DATA).send(B, append(1, 3 << 20)).unwrap();
    let mut before = b.counted(DATA).bytes_in;
    let mut most = 0;
    drive(&mut [&mut a, &mut b], |nodes| {
        let bytes = nodes[1].counted(DATA).bytes_in;
        most = most.max(bytes - before);
        before = bytes;
        nodes[1].counted(DATA).frames_in == 1
    })
    .await;
    assert!(most <= 512 << 10, "{most} bytes in one poll");
}

#[tokio::test(start_paused = true)]
async fn sender_with_more_shards_reaches_a_receiver_with_fewer() {
    let hub = MemoryHub::new();
    let config = LaneConfig::data();
    let wide = Identity { shards: 4, ..identity(A, 1) };
    let registry = PeerRegistry::new(wide, |_, _| {});
    registry.set_peer(B, "");
    let lane = |shard| Lane::Data { shard };
    let lanes = [0, 1, 2, 3].map(lane);
    let network = Arc::new(hub.node(A, &lanes));
    let mut a = Node::with_lanes(network, registry, &config, &lanes);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B)).await;
    assert_eq!(b.counted(DATA).connections_in_open, 4);
}

#[tokio::test(start_paused = true)]
async fn close_reports_every_connection_down_and_stays_closed() {
    let hub = MemoryHub::new();
    let config = LaneConfig::control();
    let mut a = Node::in_memory(&hub, A, &[B], &config);
    let mut b = Node::in_memory(&hub, B, &[A], &config);
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    a.lane(DATA).close();
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].downs(DATA).len() == 2).await;
    assert_eq!(a.downs(DATA), [LaneError::ShutDown, LaneError::ShutDown]);
    let counted = a.counted(DATA);
    assert_eq!((counted.connections_in_open, counted.connections_out_open), (0, 0));
    assert!(a.lane(DATA).send(B, append(1, 1)).is_err());
    let gone = ConnectionId::new(1, Direction::Incoming);
    a.lane(DATA).reply(gone, append(1, 1));
    a.lane(DATA).consumed(gone, 1);
}

/// A network that reaches nobody and remembers how long it was given.
struct Nowhere(std::sync::Mutex<Vec<Duration>>);

impl Network for Nowhere {
    fn dial(
        &self,
        peer: NodeId,
        _lane: Lane,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BoxStream, NetworkError>> {
        self.0.lock().unwrap().push(timeout);
        Box::pin(async move { Err(NetworkError::Timeout { peer, timeout }) })
    }

    fn accept(&self, _lane: Lane) -> BoxFuture<'_, Result<Accepted, NetworkError>> {
        Box::pin(std::future::pending())
    }

    fn set_peer(&self, _peer: NodeId, _addr: String) {}

    fn close(&self) {}
}

#[tokio::test(start_paused = true)]
async fn dials_are_given_the_configured_connect_timeout() {
    let network = Arc::new(Nowhere(std::sync::Mutex::default()));
    let connect_timeout = Duration::from_millis(123);
    let config = LaneConfig { connect_timeout, ..LaneConfig::control() };
    let registry = registry(A, 1);
    registry.set_peer(B, "");
    let mut a = Node::with_lanes(network.clone(), registry, &config, &[DATA]);
    drive(&mut [&mut a], |nodes| nodes[0].counted(DATA).dial_failures == 3).await;
    assert_eq!(network.0.lock().unwrap()[..], [connect_timeout; 3]);
}
