//! Two nodes in one process, a control and a data lane between them, over loopback TCP.
//!
//! Node 1 leads three groups. It sends one heartbeat batch for all of them on the control lane
//! and one append on the data lane; node 2 answers each on the socket it came on.
//!
//! Run: `cargo run -p raft-transport --example two_lanes`

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use raft_core::{
    Append, AppendReply, AppendResult, Entry, EntryKind, GroupId, GroupIncarnation, Heartbeat,
    HeartbeatReply, Incarnation, LogIndex, LogTime, Message, Micros, NodeId, Promise, ReplicaId,
    Rest, Session, Term, TermRun, TermRuns,
};
use raft_mux::{MuxAcceptor, MuxConfig};
use raft_transport::{
    Envelope, Frame, HeartbeatItem, HeartbeatReplyItem, Identity, Lane, LaneConfig, LaneCounters,
    LaneEvent, LaneLayout, LanePolicy, Lanes, Network, PeerRegistry, TcpNetwork,
};

const LANES: [Lane; 2] = [Lane::Control, Lane::Data { shard: 0 }];

struct Node {
    id: NodeId,
    acceptor: MuxAcceptor,
    registry: PeerRegistry,
    lanes: Vec<(Lanes, Arc<LaneCounters>)>,
}

impl Node {
    async fn start(id: u64) -> anyhow::Result<Self> {
        let acceptor = MuxAcceptor::bind("127.0.0.1:0".parse()?, MuxConfig::default()).await?;
        let identity = Identity {
            cluster: "example".to_owned(),
            node: NodeId::new(id),
            store: u128::from(id),
            incarnation: Incarnation::new(1),
            life: 1,
            past: Vec::new(),
            shards: 1,
            features: 0,
        };
        // A real node has the life of a peer written to disk.
        let registry = PeerRegistry::new(identity, move |peer, life| {
            println!("node {id} meets node {peer} with store {:x}", life.store);
        });
        let network: Arc<dyn Network> =
            Arc::new(TcpNetwork::new(acceptor.clone(), &LANES, registry.clone())?);
        let lanes = LANES.map(|lane| {
            let config = match lane {
                Lane::Control => LaneConfig::control(),
                Lane::Data { .. } => LaneConfig::data(),
                Lane::Bulk => LaneConfig::bulk(),
            };
            let counters = Arc::new(LaneCounters::default());
            let (network, registry) = (network.clone(), registry.clone());
            (Lanes::new(network, registry, lane, config, counters.clone()), counters)
        });
        Ok(Self { id: NodeId::new(id), acceptor, registry, lanes: lanes.into() })
    }

    fn lanes(&mut self, lane: Lane) -> &mut Lanes {
        let found = self.lanes.iter_mut().find(|(lanes, _)| lanes.lane() == lane);
        &mut found.expect("every lane of LANES was made").0
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut nodes = [Node::start(1).await?, Node::start(2).await?];
    for [a, b] in [[0, 1], [1, 0]] {
        let addr = nodes[b].acceptor.advertised_addr()?.to_string();
        nodes[a].registry.set_peer(nodes[b].id, addr);
    }

    let clock = Instant::now();
    let (mut sent, mut answers) = (false, 0);
    let mut events = VecDeque::new();
    poll_fn(|cx| {
        let now = Micros::new(clock.elapsed().as_micros() as u64);
        for node in &mut nodes {
            let id = node.id;
            for (lanes, _) in &mut node.lanes {
                lanes.poll(cx, now, &mut events);
                for event in events.drain(..) {
                    answers += u32::from(on_event(id, lanes, event));
                }
                lanes.flush(cx, now);
            }
        }
        let [leader, follower] = &mut nodes;
        if !sent && LANES.iter().all(|&lane| leader.lanes(lane).is_up(follower.id)) {
            sent = true;
            lead(leader, follower.id);
            cx.waker().wake_by_ref();
        }
        if answers == 2 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;

    for node in &nodes {
        for (lanes, counters) in &node.lanes {
            let seen = counters.snapshot();
            println!(
                "node {} {:>7}: {} frames out, {} in; {} bytes out, {} in",
                node.id,
                lanes.lane(),
                seen.frames_out,
                seen.frames_in,
                seen.bytes_out,
                seen.bytes_in,
            );
        }
        node.acceptor.close();
    }
    Ok(())
}

/// What the leader of three groups has to say.
fn lead(leader: &mut Node, follower: NodeId) {
    let (from, to) = (ReplicaId::new(leader.id.get()), ReplicaId::new(follower.get()));
    let group_incarnation = GroupIncarnation::new(1);
    let term = Term::new(1);
    let commit = LogIndex::new(1);
    let (sent, rest) = (Micros::ZERO, Rest::Awake);
    let heartbeat = Heartbeat { term, commit, quorum_durable: commit, read_seq: 0, sent, rest };
    let beat = |group| {
        let group = GroupId::new(group);
        HeartbeatItem { group, group_incarnation, from, to, heartbeat }
    };
    let beats = Frame::Heartbeats([10, 11, 12].map(beat).into());
    leader.lanes(Lane::Control).send(follower, beats).expect("the control lane is up and empty");

    let entry = Entry {
        index: LogIndex::new(1),
        term,
        kind: EntryKind::Command,
        time: LogTime::new(0),
        payload: "x = 1".into(),
    };
    let message = Message::Append(Append {
        term,
        session: Session::new(1),
        prev_index: LogIndex::ZERO,
        prev_term: Term::ZERO,
        runs: TermRuns::from_iter([TermRun { term, count: 1 }]),
        configs: raft_core::Sparse::new(),
        commit: LogIndex::ZERO,
        quorum_durable: LogIndex::ZERO,
        acknowledge: raft_core::Acknowledge::Durable,
        time: LogTime::default(),
    });
    let class = LanePolicy::default().class_for(&message, entry.payload.len() as u64);
    let lane = LaneLayout::ControlDataBulk.lane(class, 0);
    let group = GroupId::new(10);
    let entries = vec![entry];
    let append = Envelope { group, group_incarnation, from, to, message, entries };
    leader
        .lanes(lane)
        .send(follower, Frame::Message(append))
        .expect("the data lane is up and empty");
}

/// Prints what came, answers questions, and says whether it was an answer.
fn on_event(node: NodeId, lanes: &mut Lanes, event: LaneEvent) -> bool {
    let lane = lanes.lane();
    match event {
        LaneEvent::Up { peer, connection, .. } => {
            println!("node {node} {lane:>7}: {connection:?} with node {peer} is up");
            false
        }
        LaneEvent::Down { peer, reason, .. } => {
            println!("node {node} {lane:>7}: node {peer} is gone: {reason}");
            false
        }
        LaneEvent::Frame { connection, from, bytes, frame, .. } => {
            println!("node {node} {lane:>7}: {bytes} bytes from node {from}: {frame:?}");
            lanes.consumed(connection, bytes);
            match answer(frame) {
                Some(answer) => {
                    lanes.reply(connection, answer);
                    false
                }
                None => true,
            }
        }
    }
}

/// What a follower that agrees would say.
fn answer(frame: Frame) -> Option<Frame> {
    match frame {
        Frame::Heartbeats(items) => {
            let reply = |item: HeartbeatItem| HeartbeatReplyItem {
                group: item.group,
                group_incarnation: item.group_incarnation,
                from: item.to,
                to: item.from,
                reply: HeartbeatReply {
                    term: item.heartbeat.term,
                    read_seq: 0,
                    sent: item.heartbeat.sent,
                },
            };
            Some(Frame::HeartbeatReplies(items.into_iter().map(reply).collect()))
        }
        Frame::Message(Envelope { group, group_incarnation, from, to, message, .. }) => {
            let Message::Append(append) = message else {
                return None;
            };
            let index = append.last_index();
            let (durable, written, verified) = (index, index, index);
            let promise = Promise::Kept;
            let result = AppendResult::Accepted { durable, written, verified, promise };
            let message = Message::AppendReply(AppendReply {
                term: append.term,
                session: append.session,
                result,
            });
            let (from, to, entries) = (to, from, Vec::new());
            Some(Frame::Message(Envelope { group, group_incarnation, from, to, message, entries }))
        }
        Frame::ReadConfirms(_)
        | Frame::SnapshotPull(_)
        | Frame::SnapshotChunk(_)
        | Frame::HeartbeatReplies(_)
        | Frame::Clock { .. }
        | Frame::Condition(_)
        | Frame::Credit { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. }
        | Frame::Chunk(_)
        | Frame::Grant { .. }
        | Frame::User(_)
        | Frame::UserItems(_) => None,
    }
}
