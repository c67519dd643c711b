//! Lanes that carry a protocol which is not Raft: a store whose groups copy values to a second node.
//!
//! Node 1 sends each value on the data lane, a large one among them, and on the control lane a pulse
//! of all its groups every few milliseconds, in one frame, and how far it is, of which only the newest word
//! counts. Node 2 answers what it holds. A node of another version of the protocol is refused.
//!
//! Run: `cargo run -p raft-transport --example foreign`

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use raft_core::{GroupId, Incarnation, Micros, NodeId};
use raft_transport::{
    Frame, Identity, Lane, LaneClass, LaneConfig, LaneCounters, LaneEvent, LaneLayout, Lanes,
    MemoryHub, MemoryNetwork, Network, PeerRegistry, Protocol, UserFrame, UserItem, UserKind,
};

const GROUPS: u32 = 200;
const LARGE: usize = 2 << 20;
const LAYOUT: LaneLayout = LaneLayout::ControlBulk;

/// What this protocol says; it knows nothing of frames.
#[derive(Debug, Eq, PartialEq)]
enum Message {
    /// Here is a value.
    Copy { key: u64, value: Bytes },
    /// I have it.
    Copied { key: u64 },
    /// So many were sent.
    Progress { sent: u64 },
}

impl Message {
    fn frame(&self, group: GroupId) -> Frame {
        let (kind, class, number, payloads) = match self {
            Self::Copy { key, value } => (0, LaneClass::Data, key, vec![value.clone()]),
            Self::Copied { key } => (1, LaneClass::Data, key, Vec::new()),
            Self::Progress { sent } => (2, LaneClass::Control, sent, Vec::new()),
        };
        Frame::User(UserFrame {
            kind: UserKind::new(kind).expect("below 32"),
            group,
            class,
            newer_replaces: matches!(self, Self::Progress { .. }),
            body: Bytes::copy_from_slice(&number.to_be_bytes()),
            payloads,
        })
    }

    fn of(frame: &UserFrame) -> Option<Self> {
        let number = u64::from_be_bytes(frame.body[..].try_into().ok()?);
        match (frame.kind.number(), &frame.payloads[..]) {
            (0, [value]) => Some(Self::Copy { key: number, value: value.clone() }),
            (1, []) => Some(Self::Copied { key: number }),
            (2, []) => Some(Self::Progress { sent: number }),
            _ => None,
        }
    }
}

struct Node {
    lanes: Vec<(Lanes, Arc<LaneCounters>)>,
    values: BTreeMap<u64, Bytes>,
    copied: u64,
    pulses: u64,
    progress: u64,
    refused: Option<String>,
}

impl Node {
    fn new(network: MemoryNetwork, id: NodeId, peer: NodeId, version: u32) -> Self {
        let identity = Identity {
            cluster: "stores".to_owned(),
            node: id,
            store: u128::from(id.get()),
            incarnation: Incarnation::new(1),
            life: u128::from(version),
            past: Vec::new(),
            shards: 1,
            features: 0,
        };
        let protocol = Protocol { name: "copy".to_owned(), version };
        let registry = PeerRegistry::speaking(protocol, identity, |_, _| {});
        registry.set_peer(peer, "");
        let network: Arc<dyn Network> = Arc::new(network);
        let lanes = LAYOUT.lanes(1).into_iter().map(|lane| {
            let counters = Arc::new(LaneCounters::default());
            let (network, registry) = (network.clone(), registry.clone());
            let config = LaneConfig::default();
            (Lanes::new(network, registry, lane, config, counters.clone()), counters)
        });
        Self {
            lanes: lanes.collect(),
            values: BTreeMap::new(),
            copied: 0,
            pulses: 0,
            progress: 0,
            refused: None,
        }
    }

    fn lane(&mut self, class: LaneClass) -> &mut Lanes {
        let lane = LAYOUT.lane(class, 0);
        let found = self.lanes.iter_mut().find(|(lanes, _)| lanes.lane() == lane);
        &mut found.expect("every lane of the layout was made").0
    }

    fn turn(&mut self, cx: &mut std::task::Context<'_>, now: Micros) {
        let mut events = VecDeque::new();
        for at in 0..self.lanes.len() {
            self.lanes[at].0.poll(cx, now, &mut events);
            for event in events.drain(..) {
                self.hear(at, event);
            }
            self.lanes[at].0.flush(cx, now);
            let refusal = self.lanes[at].0.refusals().find_map(|(_, refusal)| refusal);
            self.refused =
                refusal.map(|refusal| format!("{refusal:?}")).or_else(|| self.refused.take());
        }
    }

    fn hear(&mut self, at: usize, event: LaneEvent) {
        let LaneEvent::Frame { connection, bytes, frame, .. } = event else { return };
        match frame {
            Frame::User(user) => match Message::of(&user) {
                Some(Message::Copy { key, value }) => {
                    self.values.insert(key, value);
                    self.lanes[at].0.reply(connection, Message::Copied { key }.frame(user.group));
                }
                Some(Message::Copied { .. }) => self.copied += 1,
                Some(Message::Progress { sent }) => self.progress = sent,
                // Nobody's message: what came is dropped, as this protocol has it.
                None => {}
            },
            Frame::UserItems(items) => self.pulses += items.len() as u64,
            // The lanes keep frames apart; of Raft's, none is of this protocol.
            _ => {}
        }
        self.lanes[at].0.consumed(connection, bytes);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (a, b) = (NodeId::new(1), NodeId::new(2));
    let hub = MemoryHub::new();
    let lanes = LAYOUT.lanes(1);
    let mut first = Node::new(hub.node(a, &lanes), a, b, 1);
    let mut second = Node::new(hub.node(b, &lanes), b, a, 1);
    let clock = Instant::now();
    let now = || Micros::new(clock.elapsed().as_micros() as u64);
    let values: Vec<Bytes> =
        (0..20_u8).map(|key| vec![key; if key == 7 { LARGE } else { 100 }].into()).collect();
    let (mut unsent, mut pulses) = (values.iter().zip(0_u64..).peekable(), 0);
    poll_fn(|cx| {
        first.turn(cx, now());
        second.turn(cx, now());
        let group = GroupId::new(1);
        let is_up = first.lane(LaneClass::Control).is_up(b);
        while let Some((value, key)) = unsent.peek().filter(|_| is_up) {
            let copy = Message::Copy { key: *key, value: Bytes::clone(value) };
            if first.lane(LaneClass::Data).send(b, copy.frame(group)).is_err() {
                break;
            }
            let progress = Message::Progress { sent: key + 1 }.frame(group);
            let _ = first.lane(LaneClass::Control).send(b, progress);
            unsent.next();
            cx.waker().wake_by_ref();
        }
        if pulses < 5 && is_up {
            let pulse = |group| UserItem { group: GroupId::new(group), bytes: Bytes::new() };
            let batch = Frame::UserItems((1..=GROUPS).map(pulse).collect());
            pulses += u64::from(first.lane(LaneClass::Control).send(b, batch).is_ok());
            cx.waker().wake_by_ref();
        }
        let done = first.copied == 20 && second.pulses == 5 * u64::from(GROUPS);
        if done && second.progress == 20 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    ensure!(second.values.values().eq(values.iter()), "values arrive as they were sent");
    for (lanes, counters) in &first.lanes {
        let seen = counters.snapshot();
        println!("{:>7}: {} frames out, {} in", lanes.lane(), seen.frames_out, seen.frames_in);
    }
    println!("{} pulses of {GROUPS} groups in 5 frames", second.pulses);

    let hub = MemoryHub::new();
    let mut first = Node::new(hub.node(a, &lanes), a, b, 2);
    let mut second = Node::new(hub.node(b, &lanes), b, a, 1);
    let refused = poll_fn(|cx| {
        first.turn(cx, now());
        second.turn(cx, now());
        first.refused.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    println!("version 2 is refused: {refused}");
    ensure!(first.lane(LaneClass::Data).lane() == Lane::Bulk, "this layout has two lanes");
    Ok(())
}
