//! One engine, one hostile or unlucky moment at a time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use bytes::Bytes;
use raft_core::{
    Acknowledge, Append, AppendReply, AppendResult, Campaign, Declined, DiskSpace, Entry,
    EntryKind, GroupId, GroupIncarnation, HardState, Heartbeat, Incarnation, LogIndex, LogTime,
    MemberChange, Message, Micros, NodeId, Promise, ReadIndexReply, ReadPath, ReplicaId, Rest,
    Session, Term, TermRun, Verdict, VoteReply, VoteRequest,
};
use raft_storage::{GroupWrite, RecoveredGroup};
use raft_transport::{ConnectionId, Direction, Envelope, Frame, HeartbeatItem, Room};

use super::journal::{Journal, command};
use super::node::Node;
use crate::bodies::NewMachine;
use crate::engine::{
    CreateGroup, CreateRefusal, Created, Durability, EngineInput, LogLoad, PersistTicket, Route,
    SendLane, Source, Told,
};
use crate::group_spec::GroupSpec;
use crate::request::{Removal, Request, RequestError, RequestKind, Ticket};
use crate::snapshot::desk::DeskInput;
use crate::state_machine::ApplyMode;

mod answers;
mod kept;
mod late_words;
mod persisting;
mod replaced;
mod unusable;

/// A lane that takes anything.
const ROOM: Room = Room { bytes: 1 << 20, short_max: u64::MAX, takes_long: true };

const GROUP: GroupId = GroupId::new(1);

/// How much of the log is kept for peers here.
const HOLD_BYTES: u64 = 16 << 10;

/// Node 1 of some, with no one around but the test.
struct Solo {
    node: Node,
    now: Micros,
    /// What the wall clock shows, if it is not right.
    wrong: Option<u64>,
    created: Arc<Mutex<Vec<Result<Created, CreateRefusal>>>>,
}

impl Solo {
    fn new(nodes: u64) -> Self {
        Self::on(nodes, Node::new(NodeId::new(1)))
    }

    /// A group of one voter whose snapshots are due by these numbers of entries and bytes.
    fn with_snapshots(every: (Option<u64>, Option<u64>)) -> Self {
        let mut node = Node::new(NodeId::new(1));
        node.snapshot_every = every;
        node.snapshot_tail = 1 << 20;
        let mut solo = Self::on(1, node);
        solo.create(1, None);
        solo.sync();
        solo
    }

    fn on(nodes: u64, mut node: Node) -> Self {
        let peers: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        node.hold_bytes = HOLD_BYTES;
        node.start(1, Durability::Log, &peers);
        Self { node, now: Micros::ZERO, wrong: None, created: Arc::default() }
    }

    /// A group on all of `nodes`, durable.
    fn with_group(nodes: u64) -> Self {
        let mut solo = Self::new(nodes);
        solo.create(nodes, None);
        solo.sync();
        solo
    }

    fn create(&mut self, nodes: u64, recovered: Option<RecoveredGroup>) {
        let created = Arc::clone(&self.created);
        let journal = Journal::default();
        let create = CreateGroup {
            spec: GroupSpec::on_nodes(GROUP, (1..=nodes).map(NodeId::new)),
            maker: Arc::new(move |spec| {
                NewMachine::new(journal.machine(ApplyMode::Inline), spec, None)
            }),
            recovered,
            restored: None,
            done: Box::new(move |ended| {
                created.lock().expect("no thread panics while it holds this").push(ended);
            }),
        };
        self.take(EngineInput::Create(Box::new(create)));
    }

    fn created(&self) -> Vec<Result<Created, CreateRefusal>> {
        self.created.lock().expect("no thread panics while it holds this").clone()
    }

    fn wall(&self) -> LogTime {
        self.wrong.map_or_else(|| self.node.wall(self.now), LogTime::new)
    }

    fn take(&mut self, input: EngineInput) {
        let wall = self.wall();
        let engine = self.node.engine.as_mut().expect("it runs");
        engine.set_time(self.now, wall);
        engine.handle(input, &mut self.node.out);
        engine.finish_turn(&mut self.node.out);
    }

    /// Makes everything durable that was asked for, until nothing is.
    fn sync(&mut self) {
        while !self.node.out.persist.is_empty() {
            self.node.out.persist.clear();
            let tickets = std::mem::take(&mut self.node.out.persist_tickets);
            self.take(EngineInput::Persisted(tickets));
        }
    }

    /// Lets time pass until the group, which has one voter, leads.
    fn lead(&mut self) {
        self.now = self.engine().next_deadline().expect("a voter has a deadline");
        let wall = self.wall();
        let engine = self.node.engine.as_mut().expect("it runs");
        engine.set_time(self.now, wall);
        engine.fire_timers(&mut self.node.out);
        engine.finish_turn(&mut self.node.out);
        self.sync();
        assert_eq!(self.engine().handing_over().led, 1);
    }

    fn engine(&mut self) -> &mut crate::engine::ShardEngine {
        self.node.engine.as_mut().expect("it runs")
    }

    fn fail(&mut self) {
        let engine = self.node.engine.as_mut().expect("it runs");
        engine.fail(&mut self.node.out);
    }

    fn propose(&mut self) -> Ticket<crate::request::Proposed> {
        let (request, ticket) = Request::new(GROUP, RequestKind::Propose(command(1, 0)));
        self.take(EngineInput::Request(request));
        ticket
    }

    fn read(&mut self) -> Ticket<Bytes> {
        self.read_of(ReadPath::Quorum)
    }

    fn read_of(&mut self, path: ReadPath) -> Ticket<Bytes> {
        let (request, ticket) = Request::new(GROUP, RequestKind::Read(path, Bytes::new()));
        self.take(EngineInput::Request(request));
        ticket
    }

    fn snapshot(&mut self) -> Ticket<crate::request::Proposed> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        self.take(EngineInput::Snapshot(GROUP, request.reply));
        ticket
    }

    fn digest(&mut self) -> Ticket<(LogIndex, u64)> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        self.take(EngineInput::Digest(GROUP, request.reply));
        ticket
    }

    fn transfer(&mut self) -> Ticket<()> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        self.take(EngineInput::Transfer(GROUP, None, request.reply));
        ticket
    }

    fn join(&mut self, replica: u64) {
        let created = Arc::clone(&self.created);
        let journal = Journal::default();
        let create = CreateGroup {
            spec: GroupSpec::joining(GROUP, ReplicaId::new(replica), NodeId::new(1)),
            maker: Arc::new(move |spec| {
                NewMachine::new(journal.machine(ApplyMode::Inline), spec, None)
            }),
            recovered: None,
            restored: None,
            done: Box::new(move |ended| {
                created.lock().expect("no thread panics while it holds this").push(ended);
            }),
        };
        self.take(EngineInput::Create(Box::new(create)));
    }

    /// To whom appends leave over the data lane of a node.
    fn pull_all(&mut self, node: NodeId) -> Vec<ReplicaId> {
        let engine = self.node.engine.as_mut().expect("it runs");
        let mut to = Vec::new();
        while let Some(Frame::Message(envelope)) = engine.pull(node, ROOM, &mut self.node.out) {
            to.push(envelope.to);
        }
        to
    }

    /// Proposes until a snapshot is to be taken; its name.
    fn propose_until_taking(&mut self) -> crate::snapshot::SnapshotName {
        for _ in 0..1000 {
            drop(self.propose());
            self.sync();
            let taken = self.node.out.snapshots.drain(..).find_map(|input| match input {
                DeskInput::Take(taking) => Some(taking.name),
                _ => None,
            });
            if let Some(name) = taken {
                return name;
            }
        }
        panic!("none is due");
    }

    /// A learner comes, replica 2 on node 2.
    fn add_learner(&mut self) {
        let (request, _ticket): (Request, Ticket<()>) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        let learner = MemberChange::AddLearner { replica: ReplicaId::new(2), node: NodeId::new(2) };
        self.take(EngineInput::ChangeMembers(GROUP, vec![learner], request.reply));
        self.sync();
    }

    /// The next append for the learner.
    fn pull(&mut self) -> Option<Append> {
        let engine = self.node.engine.as_mut().expect("it runs");
        let frame = engine.pull(NodeId::new(2), ROOM, &mut self.node.out)?;
        match frame {
            Frame::Message(Envelope { message: Message::Append(append), .. }) => Some(append),
            _ => panic!("an append was expected"),
        }
    }

    /// Whom a message went to answers it.
    fn answer_to(&mut self, node: NodeId, asked: Envelope, message: Message) {
        let (incarnation, route) = (Incarnation::new(1), Route::Control);
        let source = Source { node, incarnation, route, clock: None };
        let answer = Envelope { from: asked.to, to: asked.from, message, ..asked };
        self.take(EngineInput::Message(source, answer));
    }

    /// The learner answers.
    fn answer(&mut self, session: Session, result: AppendResult) {
        let route = Route::Control;
        let source =
            Source { node: NodeId::new(2), incarnation: Incarnation::new(1), route, clock: None };
        let envelope = Envelope {
            group: GROUP,
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(2),
            to: ReplicaId::new(1),
            message: Message::AppendReply(AppendReply { term: Term::new(1), session, result }),
            entries: Vec::new(),
        };
        self.take(EngineInput::Message(source, envelope));
        self.sync();
    }

    fn base(&mut self) -> LogIndex {
        self.engine().statuses()[0].base_index
    }

    fn remove(&mut self, removal: Removal) -> Ticket<()> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        self.take(EngineInput::Remove(GROUP, removal, request.reply));
        ticket
    }

    /// Replica `from` stands for election in `term`.
    fn vote(&mut self, from: u64, term: u64) {
        let (node, incarnation) = (NodeId::new(from), Incarnation::new(1));
        let source = Source { node, incarnation, route: Route::Control, clock: None };
        let envelope = Envelope {
            group: GROUP,
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(from),
            to: ReplicaId::new(1),
            message: Message::Vote(VoteRequest {
                term: Term::new(term),
                last_index: LogIndex::new(9),
                last_term: Term::new(8),
                attempt: 1,
                cause: Campaign::Timeout,
                acknowledge: Acknowledge::Durable,
            }),
            entries: Vec::new(),
        };
        self.take(EngineInput::Message(source, envelope));
    }

    /// An append of one entry, as a leader of `term` sends it.
    fn append(&mut self, from: u64, term: u64, time: u64, route: Route) {
        self.append_of(from, term, time, route, EntryKind::Command);
    }

    fn append_of(&mut self, from: u64, term: u64, time: u64, route: Route, kind: EntryKind) {
        let source = Source {
            node: NodeId::new(from),
            incarnation: Incarnation::new(1),
            route,
            clock: None,
        };
        let (index, term) = (LogIndex::new(1), Term::new(term));
        let envelope = Envelope {
            group: GROUP,
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(from),
            to: ReplicaId::new(1),
            message: Message::Append(Append {
                term,
                session: Session::new(1),
                prev_index: LogIndex::ZERO,
                prev_term: Term::ZERO,
                runs: [TermRun { term, count: 1 }].into_iter().collect(),
                configs: raft_core::Sparse::new(),
                time: LogTime::default(),
                commit: LogIndex::ZERO,
                quorum_durable: LogIndex::ZERO,
                acknowledge: Acknowledge::Durable,
            }),
            entries: vec![Entry {
                index,
                term,
                kind,
                time: LogTime::new(time),
                payload: Bytes::new(),
            }],
        };
        self.take(EngineInput::Message(source, envelope));
    }
}

fn route(number: u64) -> Route {
    let connection = ConnectionId::new(number, Direction::Incoming);
    Route::Data { shard: 0, connection }
}

#[test]
fn an_entry_the_log_would_refuse_does_not_reach_it() {
    let mut solo = Solo::with_group(3);
    solo.append(2, 1, 1 << 56, route(1));
    assert!(solo.node.out.persist.is_empty(), "a peer's number would end this node");
    solo.append(2, 1, (1 << 56) - 1, route(1));
    assert_eq!(solo.node.out.persist[0].entries.len(), 1);
}

#[test]
fn a_replica_that_left_refuses_candidates_and_its_id_never_comes_back() {
    let mut solo = Solo::with_group(3);
    solo.append(2, 5, 7, route(1));
    solo.sync();
    solo.node.out.replies.clear();
    let removed = solo.remove(Removal::OfFormerMember);
    assert_eq!(removed.wait(), Err(RequestError::StillMember(GROUP)));
    let removed = solo.remove(Removal::OfAnyone);
    let write = solo.node.out.persist.last().expect("the tombstone").clone();
    let tombstone = write.destroy.expect("the tombstone");
    assert_eq!((tombstone.replica, tombstone.hard_state.term), (ReplicaId::new(1), Term::new(5)));
    assert!(solo.engine().statuses().is_empty());
    solo.create(3, None);
    assert_eq!(solo.created().pop(), Some(Err(CreateRefusal::Leaving)));
    solo.sync();
    // Its place is not free before its snapshots are gone, with all that the desk does for it.
    let forgets = |input: &DeskInput| matches!(input, DeskInput::Forget(GROUP, _));
    assert_eq!(solo.node.out.snapshots.iter().filter(|input| forgets(input)).count(), 1);
    solo.create(3, None);
    assert_eq!(solo.created().pop(), Some(Err(CreateRefusal::Leaving)));
    solo.take(EngineInput::SnapshotsForgotten(GROUP));
    assert_eq!(removed.wait(), Ok(()));

    let refusal = |solo: &mut Solo| {
        solo.vote(3, 9);
        let (to, answer) = solo.node.out.control.pop().expect("a candidate is answered");
        assert_eq!((to, answer.from), (NodeId::new(3), ReplicaId::new(1)));
        answer.message
    };
    let refused =
        Message::VoteReply(VoteReply { term: Term::new(5), attempt: 1, verdict: Verdict::Refused });
    assert_eq!(refusal(&mut solo), refused);
    solo.create(3, None);
    let used = CreateRefusal::ReplicaUsed(ReplicaId::new(1));
    assert_eq!(solo.created().pop(), Some(Err(used.clone())));

    // The next life of the node hears of it from the log.
    let mut again = Solo::new(3);
    again.take(EngineInput::Remember(GroupIncarnation::new(1), tombstone));
    assert_eq!(refusal(&mut again), refused);
    again.create(3, None);
    assert_eq!(again.created().pop(), Some(Err(used)));
    again.join(4);
    again.sync();
    assert_eq!(again.created().pop(), Some(Ok(Created::New)));
}

#[test]
fn a_read_by_lease_is_served_at_once_unless_the_thread_stood_still() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    solo.sync();
    let read = |solo: &mut Solo, pause: u64| {
        let (request, ticket) =
            Request::new::<Bytes>(GROUP, RequestKind::Read(ReadPath::Lease, Bytes::new()));
        let tokens = solo.engine().read_tokens;
        solo.take(EngineInput::Request(request));
        assert!(solo.engine().has_leased());
        solo.now = Micros::new(solo.now.get() + pause);
        let wall = solo.wall();
        let engine = solo.node.engine.as_mut().expect("it runs");
        engine.set_time(solo.now, wall);
        engine.confirm_leased();
        engine.finish_turn(&mut solo.node.out);
        assert!(ticket.wait().is_ok());
        solo.engine().read_tokens - tokens
    };
    assert_eq!(read(&mut solo, 1000), 1, "the lease answered");
    assert_eq!(read(&mut solo, 10_000_000), 2, "the quorum was asked as well");
}

#[test]
fn a_full_disk_is_said_so_and_room_ends_it() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    solo.take(EngineInput::Disk(DiskSpace::Full));
    assert_eq!(solo.propose().wait().unwrap_err(), RequestError::DiskFull);
    solo.take(EngineInput::Disk(DiskSpace::Ample));
    let proposed = solo.propose();
    solo.sync();
    assert!(proposed.wait().is_ok());
}

#[test]
fn a_log_that_is_behind_takes_no_proposals_until_it_has_caught_up() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let load = Arc::new(LogLoad::new(10_000));
    solo.engine().options.log_load = Arc::clone(&load);
    // Another shard's.
    load.add(10_000);
    let refused = solo.propose().wait().unwrap_err();
    assert_eq!(refused, RequestError::Overloaded { pending_bytes: 10_000 });
    assert!(solo.node.out.persist.is_empty());
    assert_eq!(solo.engine().handing_over().led, 1, "a slow disk is no reason to lead elsewhere");
    load.remove(1);
    let proposed = solo.propose();
    assert!(load.bytes() > 9_999, "counted before the log was given it");
    solo.node.out.count_load(&load);
    let given: u64 = solo.node.out.persist.iter().map(GroupWrite::cost).sum();
    assert_eq!(load.bytes(), 9_999 + given, "and once");
    solo.sync();
    assert!(proposed.wait().is_ok());
}

#[test]
fn a_log_that_is_behind_declines_entries_and_goes_on_with_votes_and_heartbeats() {
    let mut solo = Solo::with_group(3);
    let load = Arc::new(LogLoad::new(10_000));
    solo.engine().options.log_load = Arc::clone(&load);
    load.add(10_000);
    let answers = |solo: &mut Solo, term| {
        solo.append(2, term, 7, route(1));
        solo.sync();
        let replies = solo.node.out.replies.drain(..);
        let results = replies.filter_map(|(_, frame)| match frame {
            Frame::Message(Envelope { message: Message::AppendReply(reply), .. }) => {
                Some(reply.result)
            }
            _ => None,
        });
        results.collect::<Vec<_>>()
    };
    let declined = AppendResult::Declined(Declined::DiskFull);
    assert_eq!(answers(&mut solo, 1), [declined]);
    assert_eq!(solo.engine().statuses()[0].last_index, LogIndex::ZERO);
    assert_eq!(solo.node.counters.log_overloaded.load(Relaxed), 1);
    // A vote is persisted however much there is to do.
    solo.now = Micros::new(60_000_000);
    solo.vote(3, 2);
    assert!(solo.node.out.persist.iter().any(|write| write.hard_state.is_some()));
    solo.sync();
    assert_eq!(solo.engine().statuses()[0].term, Term::new(2));
    // Not at the first byte that is done: it would be told again and again.
    load.remove(1);
    assert_eq!(answers(&mut solo, 3), [declined]);
    load.remove(load.bytes() - 5_000);
    assert!(matches!(answers(&mut solo, 4)[..], [AppendResult::Accepted { .. }]));
}

#[test]
fn a_membership_that_is_none_does_not_reach_the_core() {
    let mut solo = Solo::with_group(3);
    solo.append_of(2, 1, 7, route(1), EntryKind::Config);
    assert!(solo.node.out.persist.is_empty(), "a log with it could not be opened again");
    assert_eq!(solo.node.counters.messages_dropped.load(Relaxed), 1);
}

#[test]
fn an_item_for_a_group_that_is_not_here_costs_no_other_group_its_heartbeat() {
    let mut solo = Solo::with_group(3);
    let item = |group: u32, life: u32| HeartbeatItem {
        group: GroupId::new(group),
        group_incarnation: GroupIncarnation::new(life),
        from: ReplicaId::new(2),
        to: ReplicaId::new(1),
        heartbeat: Heartbeat {
            term: Term::new(3),
            commit: LogIndex::ZERO,
            quorum_durable: LogIndex::ZERO,
            read_seq: 0,
            sent: Micros::ZERO,
            rest: Rest::Awake,
        },
    };
    let items = vec![item(0, 1), item(1, 7), item(1, 1), item(9, 1)];
    let (node, incarnation) = (NodeId::new(2), Incarnation::new(1));
    let source = Source { node, incarnation, route: Route::Control, clock: None };
    solo.take(EngineInput::Heartbeats(source, items));
    solo.sync();
    let answered: Vec<_> =
        solo.node.out.heartbeat_replies.iter().map(|(to, item)| (*to, item.group)).collect();
    assert_eq!(answered, [(node, GROUP)]);
}

#[test]
fn an_acknowledgement_leaves_by_the_way_its_leader_came() {
    let mut solo = Solo::with_group(3);
    solo.append(2, 2, 7, route(1));
    // A leader of an earlier term is told so on its own connection ...
    solo.append(3, 1, 7, route(2));
    let stale = solo.node.out.replies.iter().any(|(to, _)| *to == route(2));
    assert!(!stale, "nothing is said in a term that is not durable");
    solo.sync();
    let accepted = |frame: &Frame| match frame {
        Frame::Message(Envelope { message: Message::AppendReply(reply), .. }) => {
            matches!(reply.result, AppendResult::Accepted { .. })
        }
        _ => false,
    };
    let ways: Vec<(Route, bool)> =
        solo.node.out.replies.iter().map(|(to, frame)| (*to, accepted(frame))).collect();
    // ... and the leader of this one hears of its entries on its own.
    assert!(ways.contains(&(route(1), true)), "{ways:?}");
    assert!(ways.contains(&(route(2), false)), "{ways:?}");
    assert!(!ways.contains(&(route(2), true)), "{ways:?}");
}

#[test]
fn a_group_that_goes_mute_answers_reads_that_are_confirmed_and_cannot_be_served() {
    let mut solo = Solo::new(1);
    let recovered = RecoveredGroup {
        spec: Bytes::new(),
        incarnation: GroupIncarnation::new(1),
        hard_state: HardState { term: Term::new(3), vote: None },
        first_index: LogIndex::new(1),
        last_index: LogIndex::new(5),
        term_runs: vec![(LogIndex::new(1), Term::new(3))],
        log_time: LogTime::new(9),
        ..RecoveredGroup::default()
    };
    solo.create(1, Some(recovered));
    solo.lead();
    let fetch = solo.node.out.fetches.pop().expect("entries 1 to 5 are in the log");
    let (read, proposed) = (solo.read(), solo.propose());
    solo.sync();
    solo.take(EngineInput::FetchFailed(fetch.group, fetch.first));
    assert_eq!(read.wait(), Err(RequestError::Faulted(GROUP)));
    assert_eq!(proposed.wait(), Err(RequestError::Unknown));
    assert_eq!(solo.read().wait(), Err(RequestError::Faulted(GROUP)));
    assert_eq!(solo.propose().wait(), Err(RequestError::Faulted(GROUP)));
}

#[test]
fn after_the_log_failed_all_is_answered_and_nothing_is_promised() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let (proposed, read, transfer) = (solo.propose(), solo.read(), solo.transfer());
    solo.create(1, None);
    let tickets = std::mem::take(&mut solo.node.out.persist_tickets);
    assert!(tickets.iter().any(|(_, ticket)| matches!(ticket, PersistTicket::Op(_))));
    solo.fail();
    assert_eq!(proposed.wait(), Err(RequestError::Unknown));
    // With one voter the read needed nobody; the transfer had nobody to go to.
    assert!(read.wait().is_ok());
    assert_eq!(transfer.wait(), Err(RequestError::Transferring));
    // Even if some thread said so.
    solo.take(EngineInput::Persisted(tickets));
    assert_eq!(solo.engine().statuses()[0].commit_index, LogIndex::new(1));
    assert_eq!(solo.propose().wait(), Err(RequestError::LogFailed));
    assert_eq!(solo.read().wait(), Err(RequestError::LogFailed));
    assert_eq!(solo.transfer().wait(), Err(RequestError::LogFailed));
}

#[test]
fn who_waits_for_a_creation_when_the_log_fails_waits_no_more() {
    let mut solo = Solo::new(1);
    solo.create(1, None);
    solo.create(1, None);
    assert_eq!(Arc::strong_count(&solo.created), 3, "two wait");
    solo.fail();
    solo.create(1, None);
    assert_eq!(Arc::strong_count(&solo.created), 1, "none waits");
    assert_eq!(solo.created(), vec![]);
}

/// Groups come and go for as long as a node runs.
#[test]
fn the_place_of_a_replica_that_left_is_used_again() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    for replica in 2..8 {
        // It leaves while it hands its group over.
        solo.engine().spreading.begun(0);
        let removed = solo.remove(Removal::OfAnyone);
        solo.sync();
        assert_eq!(solo.engine().slots.len(), 1);
        solo.take(EngineInput::SnapshotsForgotten(GROUP));
        assert_eq!(removed.wait(), Ok(()));
        assert_eq!(solo.engine().spreading.under_way(), 0, "it ended with its leader");
        solo.join(replica);
        solo.sync();
        assert_eq!(solo.created().pop(), Some(Ok(Created::New)));
        assert_eq!(solo.engine().slots.len(), 1, "after {replica} replicas");
        let status = solo.engine().statuses().remove(0);
        assert_eq!((status.last_index, status.fault), (LogIndex::ZERO, None));
    }
}

/// Where a snapshot finds no room, the next one is not begun at once, or a node with a full disk
/// would do nothing else.
#[test]
fn a_snapshot_that_was_not_taken_is_tried_again_when_the_next_is_due() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let taken = |solo: &mut Solo| {
        let mut names = solo.node.out.snapshots.drain(..).filter_map(|input| match input {
            DeskInput::Take(taking) => Some(taking.name),
            _ => None,
        });
        (names.next(), names.count())
    };
    let mut tickets = Vec::new();
    let (first, more) = loop {
        tickets.push(solo.propose());
        solo.sync();
        let (name, more) = taken(&mut solo);
        if let Some(name) = name {
            break (name, more);
        }
        assert!(tickets.len() < 100, "none is due");
    };
    assert_eq!(more, 0);
    for proposals in 0..30 {
        solo.take(EngineInput::SnapshotDone(first, None));
        assert_eq!(taken(&mut solo), (None, 0), "after {proposals} more");
        tickets.push(solo.propose());
        solo.sync();
    }
    while tickets.len() < 100 {
        tickets.push(solo.propose());
        solo.sync();
    }
    let (second, _) = taken(&mut solo);
    assert!(second.is_some_and(|second| second.index > first.index), "{second:?}");
}

/// While a replica replaces another on its node, both are replicated to, and both have something on
/// the lane when it goes.
#[test]
fn a_lane_that_goes_down_is_told_to_every_replica_behind_it() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let (node, first, second) = (NodeId::new(2), ReplicaId::new(20), ReplicaId::new(21));
    let request = Request::new::<()>(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new())).0;
    let change = [first, second].map(|replica| MemberChange::AddLearner { replica, node }).to_vec();
    solo.take(EngineInput::ChangeMembers(GROUP, change, request.reply));
    solo.sync();
    assert_eq!(solo.pull_all(node), [first, second]);
    assert_eq!(solo.pull_all(node), []);
    solo.take(EngineInput::LaneDown(node, SendLane::Data));
    assert_eq!(solo.pull_all(node), [first, second], "each is probed again, at once");
}

/// A learner that fetches a snapshot while many others are taken goes on by appends when it has
/// it; but the log is not kept for one that is silent, and not without end for one that is not.
#[test]
fn the_log_behind_a_snapshot_on_its_way_is_kept_until_it_is_there() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let first = solo.propose_until_taking();
    solo.take(EngineInput::SnapshotDone(first, Some(100)));
    solo.sync();
    let tail = LogIndex::new(first.index.get() - 3);
    assert_eq!(solo.base(), tail);
    solo.add_learner();
    let probe = solo.pull().expect("a newcomer is asked what it has");
    let session = probe.session;
    let nothing = AppendResult::Rejected {
        prev_index: probe.prev_index,
        hint_index: LogIndex::ZERO,
        hint_term: Term::ZERO,
    };
    solo.answer(session, nothing);
    solo.answer(session, AppendResult::Receiving { index: first.index });
    for _ in 0..3 {
        let next = solo.propose_until_taking();
        solo.take(EngineInput::SnapshotDone(next, Some(100)));
        solo.sync();
        solo.answer(session, AppendResult::Receiving { index: first.index });
        assert_eq!(solo.base(), tail, "what follows the first is still needed");
    }
    let has = |index| AppendResult::Accepted {
        durable: index,
        written: index,
        verified: index,
        promise: Promise::Kept,
    };
    solo.answer(session, has(first.index));
    let append = solo.pull().expect("it goes on by appends");
    assert_eq!(append.prev_index, first.index);
    // It has all of it: what was kept for it goes, without another snapshot.
    let last = solo.engine().statuses()[0].last_index;
    solo.answer(session, has(last));
    assert!(solo.base() > first.index);

    // It falls behind and says so, for more than is kept.
    let (mut takings, behind) = (0, solo.base());
    while solo.base() == behind {
        let next = solo.propose_until_taking();
        solo.answer(session, has(last));
        solo.take(EngineInput::SnapshotDone(next, Some(100)));
        solo.sync();
        takings += 1;
        assert!(takings < 100, "its log would grow for ever");
    }
    assert!(takings > 3, "{takings}");
    assert_eq!(solo.node.counters.compactions_forced.load(Relaxed), 1);
}

/// The names of the snapshots that are to be taken, and how many are doubted.
fn taken_and_doubted(solo: &mut Solo) -> (Vec<LogIndex>, usize) {
    let (mut taken, mut doubted) = (Vec::new(), 0);
    for input in solo.node.out.snapshots.drain(..) {
        match input {
            DeskInput::Take(taking) => taken.push(taking.name.index),
            DeskInput::Doubt(..) => doubted += 1,
            _ => {}
        }
    }
    (taken, doubted)
}

/// Nothing is proposed any more, so no other snapshot was ever due.
#[test]
fn a_snapshot_that_serves_nobody_is_taken_anew_in_a_group_at_rest() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let first = solo.propose_until_taking();
    solo.take(EngineInput::SnapshotDone(first, Some(100)));
    solo.sync();
    solo.add_learner();
    let probe = solo.pull().expect("a newcomer is asked what it has");
    let nothing = AppendResult::Rejected {
        prev_index: probe.prev_index,
        hint_index: LogIndex::ZERO,
        hint_term: Term::ZERO,
    };
    solo.answer(probe.session, nothing);
    solo.answer(probe.session, AppendResult::Receiving { index: first.index });
    assert_eq!(taken_and_doubted(&mut solo), (vec![], 0));
    // What its peers say makes it look, and take none.
    for _ in 0..3 {
        solo.answer(probe.session, AppendResult::Declined(Declined::SnapshotFailed));
        assert_eq!(taken_and_doubted(&mut solo), (vec![], 1));
    }
    let useless =
        |index: u64| EngineInput::SnapshotUseless(GROUP, first.incarnation, LogIndex::new(index));
    let applied = solo.engine().statuses()[0].applied_index;
    assert!(applied > first.index, "its learner is in the log");
    solo.take(useless(first.index.get() - 1));
    assert_eq!(taken_and_doubted(&mut solo), (vec![], 0), "an older one");
    for taken in [vec![applied], vec![]] {
        solo.take(useless(first.index.get()));
        assert_eq!(taken_and_doubted(&mut solo), (taken, 0), "one at a time");
    }
    let name = crate::snapshot::SnapshotName { index: applied, ..first };
    solo.take(EngineInput::SnapshotDone(name, Some(100)));
    solo.sync();
    // At the very index of the one that is of no use; and it is tried again if that fails.
    for written in [None, Some(100)] {
        solo.take(useless(applied.get()));
        assert_eq!(taken_and_doubted(&mut solo), (vec![applied], 0));
        solo.take(EngineInput::SnapshotDone(name, written));
        solo.sync();
        assert_eq!(taken_and_doubted(&mut solo), (vec![], 0));
    }
    assert_eq!(solo.node.counters.snapshots_retaken.load(Relaxed), 2);
    assert_eq!(solo.snapshot().wait().map(|taken| taken.index), Ok(applied));
}

#[test]
fn snapshots_are_due_by_bytes_and_no_more_often_than_they_are_long() {
    let mut solo = Solo::with_snapshots((None, Some(10_000)));
    solo.lead();
    let first = solo.propose_until_taking();
    solo.take(EngineInput::SnapshotDone(first, Some(20_000)));
    solo.sync();
    let entries = first.index.get();
    assert!(solo.base().get() > entries / 2, "a quarter of the bytes stay");
    assert!(solo.base().get() < entries, "{entries}");
    let second = solo.propose_until_taking();
    assert!(second.index.get() > entries + entries * 3 / 2, "as many as the first is long");
}

/// Far ahead of every clock.
const AHEAD: u64 = 1 << 40;

fn stamp_of(solo: &mut Solo) -> u64 {
    let proposed = solo.propose();
    solo.sync();
    proposed.wait().expect("nobody else leads").time.get()
}

#[test]
fn a_wall_clock_that_was_ahead_for_a_moment_leaves_no_trace() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    solo.wrong = Some(AHEAD);
    let looked = solo.read();
    solo.wrong = None;
    assert_eq!(stamp_of(&mut solo), solo.wall().get());
    assert!(looked.wait().is_ok());
}

#[test]
fn a_log_that_is_ahead_of_its_only_clock_goes_on_at_half_pace() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    solo.wrong = Some(AHEAD);
    assert_eq!(stamp_of(&mut solo), AHEAD);
    solo.wrong = None;
    solo.now = Micros::new(solo.now.get() + 1_000_000);
    assert_eq!(stamp_of(&mut solo), AHEAD + 500);
}

#[test]
fn a_restarted_replica_goes_on_from_the_last_stamp_of_its_log() {
    let mut solo = Solo::new(1);
    let log_time = LogTime::new(AHEAD);
    solo.create(1, Some(RecoveredGroup { log_time, ..RecoveredGroup::default() }));
    solo.lead();
    let stamp = stamp_of(&mut solo);
    assert!((AHEAD..AHEAD + 60_000).contains(&stamp), "{stamp}");
}

#[test]
fn a_leader_goes_by_the_clocks_of_those_who_elected_it_from_its_first_stamp_on() {
    for wrong in [1, AHEAD, u64::MAX] {
        let mut solo = Solo::with_group(3);
        solo.now = solo.engine().next_deadline().expect("a voter has a deadline");
        solo.wrong = Some(wrong);
        let wall = solo.wall();
        let engine = solo.node.engine.as_mut().expect("it runs");
        engine.set_time(solo.now, wall);
        engine.fire_timers(&mut solo.node.out);
        engine.finish_turn(&mut solo.node.out);
        let right = 5_000_000;
        // The pre-vote, and then the vote: two voters that are right, one of which is enough.
        for _ in 0..2 {
            solo.sync();
            for (voter, envelope) in std::mem::take(&mut solo.node.out.control) {
                let message = match envelope.message {
                    Message::PreVote(asked) => Message::PreVoteReply(granted(&asked)),
                    Message::Vote(asked) => Message::VoteReply(granted(&asked)),
                    _ => continue,
                };
                let told = Told { wall: LogTime::new(right), heard: solo.now };
                let source = Source {
                    node: voter,
                    incarnation: Incarnation::new(1),
                    route: Route::Control,
                    clock: Some(told),
                };
                let (from, to) = (envelope.to, envelope.from);
                let answer = Envelope { from, to, message, ..envelope };
                solo.take(EngineInput::Message(source, answer));
            }
        }
        assert_eq!(solo.engine().handing_over().led, 1);
        let at = solo.engine().slot_of(GROUP).expect("it is here");
        assert_eq!(solo.engine().stamp(at).time().get(), right, "{wrong}");
    }
}

fn granted(asked: &VoteRequest) -> VoteReply {
    VoteReply { term: asked.term, attempt: asked.attempt, verdict: Verdict::Granted }
}

/// What it waits for is told to members only, and it is none any more.
#[test]
fn a_read_at_a_replica_that_was_removed_while_it_was_out_of_reach_ends() {
    let mut solo = Solo::with_group(3);
    solo.append(2, 1, 7, route(1));
    solo.sync();
    let (request, mut read): (Request, Ticket<Bytes>) =
        Request::new(GROUP, RequestKind::Read(ReadPath::Follower, Bytes::new()));
    solo.take(EngineInput::Request(request));
    let asked = std::mem::take(&mut solo.node.out.control);
    for (node, envelope) in asked {
        let Message::ReadIndex(asked) = &envelope.message else { continue };
        let index = Some(LogIndex::new(9));
        let reply = ReadIndexReply { term: asked.term, id: asked.id, index };
        solo.answer_to(node, envelope, Message::ReadIndexReply(reply));
    }
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut read).poll(cx).is_pending(), "it waits for entry 9");
    // Its leader is silent, so it asks the others whether it may lead.
    for _ in 0..2 {
        solo.now = solo.engine().next_deadline().expect("a voter has a deadline");
        let wall = solo.wall();
        let engine = solo.node.engine.as_mut().expect("it runs");
        engine.set_time(solo.now, wall);
        engine.fire_timers(&mut solo.node.out);
        engine.finish_turn(&mut solo.node.out);
    }
    for (node, envelope) in std::mem::take(&mut solo.node.out.control) {
        let Message::PreVote(asked) = &envelope.message else { continue };
        let verdict = Verdict::Removed;
        let reply = VoteReply { term: Term::new(1), attempt: asked.attempt, verdict };
        solo.answer_to(node, envelope, Message::PreVoteReply(reply));
    }
    assert_eq!(read.wait(), Err(RequestError::LeadershipLost));
}
