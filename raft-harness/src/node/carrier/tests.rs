//! What waits for a lane, and in which order it goes.

use std::task::{Context, Waker};

use crossbeam::channel::{Receiver, unbounded};
use raft_core::{GroupIncarnation, Incarnation, LogIndex, Micros, ReadIndex, ReplicaId, Term};
use raft_transport::{Identity, Lane, LaneConfig, LaneEvent, MemoryHub};

use super::super::bulk_thread::Bulk;
use super::super::starting::registry;
use super::*;

const NODES: [NodeId; 2] = [NodeId::new(1), NodeId::new(2)];

/// The bulk thread of node 1 and the bulk lanes of node 2, which takes one frame at a time.
struct Pair {
    hub: MemoryHub,
    inbox: Arc<Inbox<BulkInput>>,
    bulk: Bulk,
    desk: Receiver<DeskInput>,
    peer: Lanes,
    events: VecDeque<LaneEvent>,
    now: Micros,
}

impl Pair {
    fn new() -> Self {
        let hub = MemoryHub::new();
        let (to_desk, desk) = unbounded();
        let [ours, peer] = [0, 1].map(|at| lanes(&hub, at));
        let inbox: Arc<Inbox<BulkInput>> = Arc::default();
        let bulk = Bulk::new(Arc::clone(&inbox), vec![Arc::default()].into(), to_desk, ours);
        let (events, now) = (VecDeque::new(), Micros::new(1));
        let mut pair = Self { hub, inbox, bulk, desk, peer, events, now };
        pair.turn();
        assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneUp(_))));
        pair
    }

    /// Both sides, until nothing more happens.
    fn turn(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..20 {
            self.bulk.round(cx, self.now);
            self.peer.poll(cx, self.now, &mut self.events);
            self.peer.flush(cx, self.now);
        }
    }

    fn ask(&mut self, offset: u64) {
        let _ = self.inbox.push(BulkInput::Carry(CarrierInput::Ask(NODES[1], pull(offset))));
        self.turn();
    }

    /// What node 2 was sent and is not done with: questions by their offsets, and appends.
    fn sent(&self) -> Vec<Option<u64>> {
        let frames = self.events.iter().filter_map(|event| match event {
            LaneEvent::Frame { frame: Frame::SnapshotPull(pull), .. } => Some(Some(pull.offset)),
            LaneEvent::Frame { .. } => Some(None),
            LaneEvent::Up { .. } | LaneEvent::Down { .. } => None,
        });
        frames.collect()
    }

    /// Node 2 is done with what came: there is room again.
    fn consume(&mut self) {
        for event in std::mem::take(&mut self.events) {
            if let LaneEvent::Frame { connection, bytes, .. } = event {
                self.peer.consumed(connection, bytes);
            }
        }
        self.turn();
    }
}

fn lanes(hub: &MemoryHub, at: usize) -> Lanes {
    let identity = Identity {
        cluster: "test".to_owned(),
        node: NODES[at],
        store: at as u128 + 1,
        incarnation: Incarnation::new(1),
        life: at as u128 + 1,
        past: Vec::new(),
        shards: 1,
        features: 0,
    };
    let registry = registry(identity, &[(NODES[1 - at], "")], &[], |_, _| {});
    let config = LaneConfig { window_bytes: 1, ..LaneConfig::bulk() };
    let network = Arc::new(hub.node(NODES[at], &[Lane::Bulk]));
    Lanes::new(network, registry, Lane::Bulk, config, Arc::default()).without_timer()
}

fn pull(offset: u64) -> SnapshotPull {
    SnapshotPull {
        group: GroupId::new(7),
        group_incarnation: GroupIncarnation::new(1),
        index: LogIndex::new(11),
        term: Term::new(5),
        offset,
    }
}

fn append() -> BulkInput {
    let envelope = Envelope {
        group: GroupId::new(8),
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        message: Message::ReadIndex(ReadIndex { term: Term::new(1), id: 1 }),
        entries: Vec::new(),
    };
    BulkInput::Carry(CarrierInput::Send { shard: 0, peer: NODES[1], envelope, bytes: 1 })
}

/// To the desk a lane that is full looked like one that is down, and it waited for it to come
/// up, which a lane that is up never does.
#[test]
fn a_question_waits_for_room_and_goes_before_appends() {
    let mut pair = Pair::new();
    let _ = pair.inbox.push(append());
    pair.turn();
    let _ = pair.inbox.push(append());
    pair.ask(0);
    pair.ask(0);
    assert!(pair.desk.try_recv().is_err(), "the lane is full, and not down");
    assert_eq!(pair.sent(), [None]);
    pair.consume();
    assert_eq!(pair.sent(), [Some(0)]);
    pair.consume();
    assert_eq!(pair.sent(), [None]);
    pair.consume();
    assert_eq!(pair.sent(), [], "no question goes a second time");
}

#[test]
fn what_waits_when_a_lane_breaks_is_told_as_lost() {
    let mut pair = Pair::new();
    let _ = pair.inbox.push(append());
    pair.turn();
    pair.ask(0);
    pair.hub.cut(NODES[0], NODES[1]);
    pair.turn();
    assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneDown(_))));
    pair.ask(0);
    assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneDown(_))), "there is none");
    pair.hub.heal(NODES[0], NODES[1]);
    pair.now = Micros::new(10_000_000);
    pair.events.clear();
    pair.turn();
    assert!(matches!(pair.desk.try_recv(), Ok(DeskInput::LaneUp(_))));
    assert_eq!(pair.sent(), [], "the desk asks again");
    pair.ask(1);
    assert_eq!(pair.sent(), [Some(1)]);
}

#[test]
fn questions_that_nobody_takes_are_bounded() {
    let mut queue = Queue::default();
    (0..5000).for_each(|offset| queue.add_question(pull(offset)));
    assert_eq!(queue.questions.len(), QUESTIONS_MAX);
    assert_eq!(queue.questions.back(), Some(&pull(4999)), "the newest is kept");
}

/// Of these groups, so many bytes each; what goes when there is this much room, in order.
fn order(appends: &[(u32, u64)], takes_long: &[bool]) -> Vec<(u32, u64)> {
    let mut queue = Queue::default();
    for (group, bytes) in appends {
        let BulkInput::Carry(CarrierInput::Send { shard, mut envelope, .. }) = append() else {
            unreachable!("it is one");
        };
        envelope.group = GroupId::new(*group);
        queue.add_append(Waiting { shard, envelope, bytes: *bytes }, 100);
    }
    let rooms = takes_long.iter().map(|long| Room { bytes: 1, short_max: 100, takes_long: *long });
    let went = rooms.filter_map(|room| queue.next(room));
    went.map(|waiting| (waiting.envelope.group.get(), waiting.bytes)).collect()
}

#[test]
fn short_appends_pass_long_ones_of_other_groups_and_take_turns_with_them() {
    let appends = [(1, 500), (2, 10), (3, 10), (1, 20), (4, 500), (5, 30)];
    let short_only = order(&appends, &[false; 9]);
    assert_eq!(
        short_only,
        [(2, 10), (3, 10), (5, 30)],
        "that of group 1 stays behind its long one"
    );
    let all = order(&appends, &[true; 9]);
    assert_eq!(all, [(2, 10), (1, 500), (3, 10), (1, 20), (5, 30), (4, 500)]);
}

#[test]
fn appends_of_a_group_leave_in_order_whatever_their_sizes() {
    let sizes = [10, 500, 20, 600, 30, 40, 700];
    let appends: Vec<_> = sizes.iter().flat_map(|size| [(1, *size), (2, *size + 1)]).collect();
    for rooms in [vec![true; 20], [true, false].repeat(20), [false, false, true].repeat(20)] {
        let went = order(&appends, &rooms);
        for (group, beside) in [(1, 0), (2, 1)] {
            let of_group = went.iter().filter(|(of, _)| *of == group);
            let went: Vec<u64> = of_group.map(|(_, bytes)| *bytes - beside).collect();
            assert_eq!(went, sizes);
        }
    }
}

#[test]
fn what_is_given_up_waits_no_more_and_holds_nobody() {
    let mut queue = Queue::default();
    for (group, bytes) in [(8, 500), (8, 10), (9, 10)] {
        let BulkInput::Carry(CarrierInput::Send { shard, mut envelope, .. }) = append() else {
            unreachable!("it is one");
        };
        envelope.group = GroupId::new(group);
        queue.add_append(Waiting { shard, envelope, bytes }, 100);
    }
    assert_eq!(queue.give_up(GroupId::new(8)).len(), 2);
    assert_eq!((queue.appends(), queue.held.len(), queue.short_of.len()), (1, 0, 1));
    assert!(queue.drop_appends());
    assert!(!queue.drop_appends());
}
