//! Lanes over TLS: who greets as somebody else, certificates that change under load, a node that
//! comes back.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use raft_core::{Incarnation, LogTime, Micros, NodeId};
use raft_mux::MuxAcceptor;
use raft_transport::{
    Frame, HelloRefusal, Identity, Lane, LaneConfig, LaneCounters, LaneEvent, Lanes, PeerRefusal,
    PeerRegistry, RefusalReason, Refuser, TcpNetwork, Tls, TlsRefusal, TlsStream,
};
use tokio::time::Instant;

use super::certificates::{CLUSTER, Ca};
use super::{PATIENCE, bind, tls};

const A: NodeId = NodeId::new(1);
const B: NodeId = NodeId::new(2);
const LANES: [Lane; 3] = [Lane::Control, Lane::Data { shard: 0 }, Lane::Bulk];

struct Node {
    lanes: Vec<(Lanes, Arc<LaneCounters>)>,
    frames: u64,
    downs: u64,
}

fn registry(node: NodeId, incarnation: u64) -> PeerRegistry {
    let identity = Identity {
        cluster: CLUSTER.to_owned(),
        node,
        store: node.get().into(),
        incarnation: Incarnation::new(incarnation),
        life: incarnation.into(),
        past: vec![1; incarnation as usize - 1],
        shards: 1,
        features: 0,
    };
    PeerRegistry::new(identity, |_, _| {})
}

impl Node {
    fn new(acceptor: &MuxAcceptor<TlsStream>, tls: &Tls, registry: &PeerRegistry) -> Self {
        let network =
            TcpNetwork::covered(acceptor.clone(), tls.clone(), &LANES, registry.clone()).unwrap();
        let network = Arc::new(network);
        let lanes = LANES.map(|lane| {
            let counters = Arc::new(LaneCounters::default());
            let lanes = Lanes::new(
                network.clone(),
                registry.clone(),
                lane,
                LaneConfig::data(),
                counters.clone(),
            );
            (lanes, counters)
        });
        Self { lanes: lanes.into(), frames: 0, downs: 0 }
    }

    fn is_up(&self, peer: NodeId) -> bool {
        self.lanes.iter().all(|(lanes, _)| lanes.is_up(peer))
    }

    fn refusal(&self, peer: NodeId) -> Option<PeerRefusal> {
        let (control, _) = &self.lanes[0];
        let mut refusals = control.refusals().filter(|(of, _)| *of == peer);
        refusals.next().and_then(|(_, refusal)| refusal.cloned())
    }
}

async fn drive(nodes: &mut [&mut Node], mut done: impl FnMut(&mut [&mut Node]) -> bool) {
    thread_local!(static START: Instant = Instant::now());
    let work = poll_fn(|cx| {
        let now = Micros::new(START.with(Instant::elapsed).as_micros() as u64);
        let mut events = VecDeque::new();
        for node in nodes.iter_mut() {
            for (lanes, _) in &mut node.lanes {
                lanes.poll(cx, now, &mut events);
                for event in events.drain(..) {
                    match event {
                        LaneEvent::Frame { connection, bytes, .. } => {
                            lanes.consumed(connection, bytes);
                            node.frames += 1;
                        }
                        LaneEvent::Down { .. } => node.downs += 1,
                        LaneEvent::Up { .. } => {}
                    }
                }
            }
        }
        let done = done(nodes);
        for node in nodes.iter_mut() {
            node.lanes.iter_mut().for_each(|(lanes, _)| lanes.flush(cx, now));
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(PATIENCE, work).await.expect("it happens in time");
}

async fn pair(material: [&Tls; 2]) -> ([Node; 2], [MuxAcceptor<TlsStream>; 2], [PeerRegistry; 2]) {
    let acceptors = [bind(material[0]).await, bind(material[1]).await];
    let registries = [registry(A, 1), registry(B, 1)];
    registries[0].set_peer(B, acceptors[1].local_addr().to_string());
    registries[1].set_peer(A, acceptors[0].local_addr().to_string());
    let nodes = [0, 1].map(|at: usize| Node::new(&acceptors[at], material[at], &registries[at]));
    (nodes, acceptors, registries)
}

/// Right CA, right cluster, and the certificate of node 3: what it says of itself is compared with it.
#[tokio::test]
async fn whoever_greets_as_another_than_its_certificate_says_is_refused_and_both_know_why() {
    let ca = Ca::new();
    let (thief, host) = (tls(3, ca.node(3)), tls(2, ca.node(2)));
    let ([mut a, mut b], ..) = pair([&thief, &host]).await;
    drive(&mut [&mut a, &mut b], |nodes| {
        nodes[0].refusal(B).is_some() && nodes[1].refusal(A).is_some()
    })
    .await;
    let reason = HelloRefusal::OtherCertificate { certified: NodeId::new(3), theirs: A };
    let by_peer = PeerRefusal { by: Refuser::Peer, reason: RefusalReason::Hello(reason) };
    assert_eq!(a.refusal(B), Some(by_peer));
    // And when it is dialed as node 1 it is not node 1.
    let reason = TlsRefusal::WrongNode { wanted: A, theirs: NodeId::new(3) };
    let by_us = PeerRefusal { by: Refuser::Us, reason: RefusalReason::Tls(reason) };
    assert_eq!(b.refusal(A), Some(by_us));
    let counted = b.lanes[0].1.snapshot();
    assert!(counted.refused_other_certificate > 0 && counted.connections_in_open == 0);
    assert!(host.snapshot().refused_wrong_node > 0);
    assert_eq!((a.frames, b.frames), (0, 0));
}

/// Traffic goes on over the connections there are; new ones are made with the new certificates.
#[tokio::test]
async fn certificates_change_under_load_and_no_lane_notices() {
    let ca = Ca::new();
    let (one, two) = (tls(1, ca.node(1)), tls(2, ca.node(2)));
    let ([mut a, mut b], acceptors, _) = pair([&one, &two]).await;
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    let mut sent = 0;
    drive(&mut [&mut a, &mut b], |nodes| {
        let [a, b] = nodes else { panic!("there are two nodes") };
        for (lanes, _) in &mut a.lanes {
            while sent < 30_000 && lanes.budget(B) > 0 {
                lanes.send(B, Frame::Clock { wall: LogTime::new(1_000) }).expect("there is budget");
                sent += 1;
                if sent % 10_000 == 0 {
                    assert!(one.replace(ca.node(1)).unwrap() && two.replace(ca.node(2)).unwrap());
                }
            }
        }
        b.frames == 30_000
    })
    .await;
    assert_eq!((a.downs, b.downs), (0, 0));
    assert_eq!((one.snapshot().reloads, two.snapshot().reloads), (3, 3));
    // A node that comes back does so with them.
    let handshakes = two.snapshot().handshakes;
    a.lanes.iter_mut().for_each(|(lanes, _)| lanes.close());
    drop(a);
    let second = registry(A, 2);
    second.set_peer(B, acceptors[1].local_addr().to_string());
    let mut a = Node::new(&acceptors[0], &one, &second);
    // Until the other has noticed, it is up from before.
    drive(&mut [&mut a, &mut b], |nodes| nodes[1].downs > 0).await;
    drive(&mut [&mut a, &mut b], |nodes| nodes[0].is_up(B) && nodes[1].is_up(A)).await;
    assert!(two.snapshot().handshakes > handshakes);
}

/// A node with peers comes back: each lane goes on from an earlier session where its peer has one.
#[tokio::test]
async fn a_node_that_comes_back_has_its_lanes_up_again() {
    const PEERS: u64 = 10;
    let ca = Ca::new();
    let host = tls(1, ca.node(1));
    let acceptor = bind(&host).await;
    let at = acceptor.local_addr().to_string();
    let first = registry(A, 1);
    let mut peers = Vec::new();
    for id in 2..2 + PEERS {
        let (node, tls) = (NodeId::new(id), tls(id, ca.node(id)));
        let (acceptor, registry) = (bind(&tls).await, registry(node, 1));
        registry.set_peer(A, at.clone());
        first.set_peer(node, acceptor.local_addr().to_string());
        peers.push((node, Node::new(&acceptor, &tls, &registry), acceptor, tls));
    }
    let ids: Vec<NodeId> = peers.iter().map(|(node, ..)| *node).collect();
    let mut back = Node::new(&acceptor, &host, &first);
    for life in 1..=2 {
        let mut all: Vec<&mut Node> =
            [&mut back].into_iter().chain(peers.iter_mut().map(|(_, node, ..)| node)).collect();
        drive(&mut all, |nodes| {
            nodes[1..].iter().all(|node| node.is_up(A)) && ids.iter().all(|id| nodes[0].is_up(*id))
        })
        .await;
        if life == 1 {
            // Its lanes are gone, and its port knows nobody for a moment.
            for (lanes, _) in &mut back.lanes {
                lanes.close();
            }
            drop(back);
            let second = registry(A, 2);
            for (node, _, acceptor, _) in &peers {
                second.set_peer(*node, acceptor.local_addr().to_string());
            }
            back = Node::new(&acceptor, &host, &second);
            // Until the peers have noticed, they are up from before.
            let mut all: Vec<&mut Node> =
                [&mut back].into_iter().chain(peers.iter_mut().map(|(_, node, ..)| node)).collect();
            drive(&mut all, |nodes| nodes[1..].iter().all(|node| node.downs > 0)).await;
        }
    }
    let resumed: u64 = peers.iter().map(|(.., tls)| tls.snapshot().resumed).sum();
    assert!(resumed >= PEERS, "{resumed} sessions were gone on from");
    assert_eq!(host.snapshot().timeouts, 0);
}
