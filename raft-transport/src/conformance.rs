//! What every [`Network`] must do, as one function to call from a test.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use raft_transport::{LaneLayout, MemoryHub, Network, conformance};
//! # async fn test() {
//! conformance::run(async |registries| {
//!     let hub = MemoryHub::new();
//!     let ids = registries.each_ref().map(|registry| registry.identity().node);
//!     registries[0].set_peer(ids[1], "");
//!     registries[1].set_peer(ids[0], "");
//!     ids.map(|id| Arc::new(hub.node(id, &conformance::LANES)) as Arc<dyn Network>)
//! })
//! .await;
//! # }
//! ```
//!
//! It panics with the claim that does not hold. It takes real time only where something is lost.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Append, Entry, EntryKind, GroupId, GroupIncarnation, Incarnation, LogIndex, LogTime, Message,
    Micros, NodeId, ReplicaId, Session, Term, TermRun, TermRuns,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::{
    BoxStream, Envelope, Frame, Identity, Lane, LaneConfig, LaneCounters, LaneEvent, Lanes,
    Network, NetworkError, PeerRegistry,
};

/// The lanes each of the two networks must accept.
pub const LANES: [Lane; 3] = [Lane::Control, Lane::Data { shard: 0 }, Lane::Bulk];

/// Longest time any one step may take.
const PATIENCE: Duration = Duration::from_secs(10);

const IDS: [NodeId; 2] = [NodeId::new(1), NodeId::new(2)];

type Networks = [Arc<dyn Network>; 2];

/// Runs the suite. `make` builds the networks of two nodes from their registries, for each check
/// anew, and makes each node known to the other.
///
/// # Panics
/// If a claim does not hold.
pub async fn run(make: impl AsyncFn([PeerRegistry; 2]) -> Networks) {
    let start = async || {
        let registries = IDS.map(|node| {
            let identity = Identity {
                cluster: "conformance".to_owned(),
                node,
                store: u128::from(node.get()),
                incarnation: Incarnation::new(1),
                life: 1,
                past: Vec::new(),
                shards: 1,
                features: 0,
            };
            PeerRegistry::new(identity, |_, _| {})
        });
        (make(registries.clone()).await, registries)
    };
    bytes_arrive_in_order_both_ways(start().await.0).await;
    end_of_a_stream_is_seen(start().await.0).await;
    lanes_are_kept_apart(start().await.0).await;
    dropped_accept_loses_no_stream(start().await.0).await;
    what_does_not_exist_is_an_error(start().await.0).await;
    close_ends_every_accept(start().await.0).await;
    let (networks, registries) = start().await;
    ten_thousand_frames_arrive_in_order(networks, registries).await;
    let (networks, registries) = start().await;
    lost_lane_comes_back_and_others_do_not_notice(networks, registries).await;
}

async fn in_time<T>(claim: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{claim}: not within {PATIENCE:?}"),
    }
}

async fn connect([a, b]: &Networks, lane: Lane) -> (BoxStream, BoxStream) {
    let work = async { tokio::join!(a.dial(IDS[1], lane, PATIENCE), b.accept(lane)) };
    let (dialed, accepted) = in_time("a dialed stream is accepted", work).await;
    let accepted = accepted.expect("its stream is accepted");
    (dialed.expect("a known peer can be dialed"), accepted.stream)
}

async fn bytes_arrive_in_order_both_ways(networks: Networks) {
    let (mut a, mut b) = connect(&networks, Lane::Bulk).await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    for _ in 0..2 {
        let mut arrived = vec![0; data.len()];
        let (written, read) = in_time("bytes arrive", async {
            let write = async {
                a.write_all(&data).await?;
                // A stream may keep back what was not flushed.
                a.flush().await
            };
            tokio::join!(write, b.read_exact(&mut arrived))
        })
        .await;
        written.expect("an open stream takes bytes");
        read.expect("an open stream gives bytes");
        assert!(arrived == data, "bytes arrive in order and unchanged");
        std::mem::swap(&mut a, &mut b);
    }
}

async fn end_of_a_stream_is_seen(networks: Networks) {
    let (a, mut b) = connect(&networks, Lane::Control).await;
    drop(a);
    let read = in_time("the end of a stream is seen", b.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "a closed stream gives no bytes");
}

async fn lanes_are_kept_apart(networks: Networks) {
    let [a, b] = &networks;
    let mut dialed = Vec::new();
    for lane in LANES {
        let stream = in_time("a dial ends", a.dial(IDS[1], lane, PATIENCE)).await;
        let mut stream = stream.expect("each lane can be dialed");
        stream.write_all(lane.to_string().as_bytes()).await.expect("it takes bytes");
        stream.flush().await.expect("it sends them");
        dialed.push(stream);
    }
    for lane in LANES.into_iter().rev() {
        let stream = in_time("an accept ends", b.accept(lane)).await;
        let mut name = vec![0; lane.to_string().len()];
        let mut stream = stream.expect("each lane is accepted").stream;
        in_time("bytes arrive", stream.read_exact(&mut name)).await.expect("it gives bytes");
        assert_eq!(name, lane.to_string().as_bytes(), "a stream arrives on its own lane");
    }
}

async fn dropped_accept_loses_no_stream(networks: Networks) {
    let [a, b] = &networks;
    let mut accept = b.accept(Lane::Control);
    let polled = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx).is_ready())).await;
    assert!(!polled, "nobody has dialed");
    let dialed = in_time("a dial ends", a.dial(IDS[1], Lane::Control, PATIENCE)).await;
    drop(accept);
    let accepted = in_time("a later accept gets it", b.accept(Lane::Control)).await;
    drop((dialed.expect("it was dialed"), accepted.expect("it was accepted")));
}

async fn what_does_not_exist_is_an_error(networks: Networks) {
    let [a, b] = &networks;
    let dialed = in_time("a dial ends", a.dial(NodeId::new(99), Lane::Control, PATIENCE)).await;
    assert!(dialed.is_err(), "an unknown peer cannot be dialed");
    let accepted = in_time("an accept ends", b.accept(Lane::Data { shard: 9 })).await;
    let refused = matches!(accepted, Err(NetworkError::NotServed { .. }));
    assert!(refused, "a lane not served accepts nothing");
}

async fn close_ends_every_accept(networks: Networks) {
    let [_, b] = &networks;
    let mut pending = b.accept(Lane::Control);
    let polled = poll_fn(|cx| Poll::Ready(pending.as_mut().poll(cx).is_ready())).await;
    assert!(!polled, "nobody has dialed");
    b.close();
    b.close();
    assert!(in_time("a pending accept ends", pending).await.is_err(), "with an error");
    assert!(in_time("a later accept ends", b.accept(Lane::Control)).await.is_err(), "likewise");
}

/// Lanes of one node, with what they said.
struct Node {
    lanes: Vec<Lanes>,
    events: VecDeque<(Lane, LaneEvent)>,
}

impl Node {
    fn new(network: &Arc<dyn Network>, registry: &PeerRegistry) -> Self {
        let make = |lane| {
            let (network, registry) = (network.clone(), registry.clone());
            let counters = Arc::new(LaneCounters::default());
            Lanes::new(network, registry, lane, LaneConfig::data(), counters)
        };
        Self { lanes: LANES.map(make).into(), events: VecDeque::new() }
    }

    fn lane(&mut self, lane: Lane) -> &mut Lanes {
        let found = self.lanes.iter_mut().find(|lanes| lanes.lane() == lane);
        found.expect("a node has all lanes of LANES")
    }
}

/// Polls both nodes until `done`, which is asked after every round.
async fn drive(claim: &str, nodes: &mut [Node; 2], mut done: impl FnMut(&mut [Node; 2]) -> bool) {
    let started = Instant::now();
    let work = poll_fn(|cx| {
        // One clock for a connection's whole life, also over several calls.
        let now = now();
        for node in nodes.iter_mut() {
            for lanes in &mut node.lanes {
                let mut events = VecDeque::new();
                lanes.poll(cx, now, &mut events);
                let lane = lanes.lane();
                node.events.extend(events.into_iter().map(|event| (lane, event)));
            }
        }
        let done = done(nodes);
        for node in nodes.iter_mut() {
            node.lanes.iter_mut().for_each(|lanes| lanes.flush(cx, now));
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    });
    in_time(claim, work).await;
    assert!(started.elapsed() <= PATIENCE + Duration::from_secs(1), "{claim}");
}

fn now() -> Micros {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let micros = Instant::now().saturating_duration_since(start).as_micros();
    Micros::new(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn all_up(a: &Node, b: &Node) -> bool {
    a.lanes.iter().all(|lanes| lanes.is_up(IDS[1]))
        && b.lanes.iter().all(|lanes| lanes.is_up(IDS[0]))
}

/// An append that carries `number` as its index and a payload that grows and shrinks with it.
fn numbered(number: u64) -> Frame {
    let term = Term::new(1);
    let size = if number.is_multiple_of(1000) { 500_000 } else { (number % 97) as usize * 20 };
    let entry = Entry {
        index: LogIndex::new(number + 1),
        term,
        kind: EntryKind::Command,
        time: LogTime::new(number),
        payload: Bytes::from(vec![number as u8; size]),
    };
    let append = Append {
        term,
        session: Session::new(1),
        prev_index: LogIndex::new(number),
        prev_term: if number == 0 { Term::ZERO } else { term },
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
        from: ReplicaId::new(IDS[0].get()),
        to: ReplicaId::new(IDS[1].get()),
        message: Message::Append(append),
        entries: vec![entry],
    })
}

async fn ten_thousand_frames_arrive_in_order(networks: Networks, registries: [PeerRegistry; 2]) {
    const FRAMES: u64 = 10_000;
    let lane = Lane::Data { shard: 0 };
    let mut nodes = [0, 1].map(|i| Node::new(&networks[i], &registries[i]));
    drive("all lanes come up", &mut nodes, |[a, b]| all_up(a, b)).await;
    let (mut sent, mut arrived) = (0, 0);
    drive("ten thousand frames arrive", &mut nodes, |[a, b]| {
        let outgoing = a.lane(lane);
        while sent < FRAMES && outgoing.budget(IDS[1]) > 0 {
            outgoing.send(IDS[1], numbered(sent)).expect("there is budget");
            sent += 1;
        }
        for (on, event) in std::mem::take(&mut b.events) {
            let LaneEvent::Frame { connection, from, frame, bytes, .. } = event else {
                continue;
            };
            assert_eq!((on, from), (lane, IDS[0]), "a frame comes on its lane");
            assert!(frame == numbered(arrived), "frames arrive in order and unchanged");
            arrived += 1;
            b.lane(lane).consumed(connection, bytes);
        }
        arrived == FRAMES
    })
    .await;
}

async fn lost_lane_comes_back_and_others_do_not_notice(
    networks: Networks,
    registries: [PeerRegistry; 2],
) {
    let mut nodes = [0, 1].map(|i| Node::new(&networks[i], &registries[i]));
    drive("all lanes come up", &mut nodes, |[a, b]| all_up(a, b)).await;
    nodes.iter_mut().for_each(|node| node.events.clear());

    // Node 2 loses its bulk lanes and makes new ones.
    let counters = Arc::new(LaneCounters::default());
    let (network, registry) = (networks[1].clone(), registries[1].clone());
    let fresh = Lanes::new(network, registry, Lane::Bulk, LaneConfig::bulk(), counters);
    *nodes[1].lane(Lane::Bulk) = fresh;

    let (mut down, mut up) = (0, 0);
    drive("a lost lane comes back", &mut nodes, |[a, b]| {
        for (lane, event) in a.events.drain(..) {
            match event {
                LaneEvent::Down { .. } => {
                    assert_eq!(lane, Lane::Bulk, "no other lane is touched");
                    down += 1;
                }
                LaneEvent::Up { .. } => {
                    assert_eq!(lane, Lane::Bulk, "no other lane is touched");
                    up += 1;
                }
                LaneEvent::Frame { .. } => {}
            }
        }
        for (lane, event) in b.events.drain(..) {
            assert!(lane == Lane::Bulk, "no other lane is touched: {event:?}");
        }
        down == 2 && up == 2 && all_up(a, b)
    })
    .await;
}
