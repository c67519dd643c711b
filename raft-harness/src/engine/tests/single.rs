//! One engine, one hostile or unlucky moment at a time.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::{
    Append, AppendResult, Entry, EntryKind, GroupId, GroupIncarnation, HardState, Incarnation,
    LogIndex, LogTime, Message, Micros, NodeId, ReplicaId, Session, Sparse, Term, TermRun,
};
use raft_storage::RecoveredGroup;
use raft_transport::{ConnectionId, Direction, Envelope, Frame};

use super::journal::{Journal, command};
use super::node::Node;
use crate::engine::{
    CreateGroup, CreateRefusal, Created, Durability, EngineInput, PersistTicket, Route, Source,
};
use crate::group_spec::GroupSpec;
use crate::request::{Request, RequestError, RequestKind, Ticket};
use crate::state_machine::ApplyMode;

const GROUP: GroupId = GroupId::new(1);

/// Node 1 of some, with no one around but the test.
struct Solo {
    node: Node,
    now: Micros,
    created: Arc<Mutex<Vec<Result<Created, CreateRefusal>>>>,
}

impl Solo {
    fn new(nodes: u64) -> Self {
        let mut node = Node::new(NodeId::new(1));
        let peers: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        node.start(1, Durability::Log, &peers);
        Self { node, now: Micros::ZERO, created: Arc::default() }
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
            machine: Box::new(move |_| journal.machine(ApplyMode::Inline)),
            recovered,
            done: Box::new(move |ended| {
                created.lock().expect("no thread panics while it holds this").push(ended);
            }),
        };
        self.take(EngineInput::Create(Box::new(create)));
    }

    fn created(&self) -> Vec<Result<Created, CreateRefusal>> {
        self.created.lock().expect("no thread panics while it holds this").clone()
    }

    fn take(&mut self, input: EngineInput) {
        let wall = self.node.wall(self.now);
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
        let wall = self.node.wall(self.now);
        let engine = self.node.engine.as_mut().expect("it runs");
        engine.set_time(self.now, wall);
        engine.fire_timers(&mut self.node.out);
        engine.finish_turn(&mut self.node.out);
        self.sync();
        assert_eq!(self.engine().led(), 1);
    }

    fn engine(&mut self) -> &mut crate::engine::ShardEngine {
        self.node.engine.as_mut().expect("it runs")
    }

    fn propose(&mut self) -> Ticket<crate::request::Proposed> {
        let (request, ticket) = Request::new(GROUP, RequestKind::Propose(command(1, 0)));
        self.take(EngineInput::Request(request));
        ticket
    }

    fn read(&mut self) -> Ticket<Bytes> {
        let (request, ticket) = Request::new(GROUP, RequestKind::Read(Bytes::new()));
        self.take(EngineInput::Request(request));
        ticket
    }

    fn transfer(&mut self) -> Ticket<()> {
        let (request, ticket) = Request::new(GROUP, RequestKind::Read(Bytes::new()));
        self.take(EngineInput::Transfer(GROUP, None, request.reply));
        ticket
    }

    /// An append of one entry, as a leader of `term` sends it.
    fn append(&mut self, from: u64, term: u64, time: u64, route: Route) {
        let source = Source { node: NodeId::new(from), incarnation: Incarnation::new(1), route };
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
                configs: Sparse::new(),
                time: LogTime::default(),
                commit: LogIndex::ZERO,
            }),
            entries: vec![Entry {
                index,
                term,
                kind: EntryKind::Command,
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
        last_time: LogTime::new(9),
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
fn a_group_the_log_cannot_start_is_not_made_anew() {
    let mut solo = Solo::new(1);
    let recovered = RecoveredGroup {
        spec: Bytes::new(),
        incarnation: GroupIncarnation::new(1),
        hard_state: HardState::default(),
        first_index: LogIndex::new(1),
        last_index: LogIndex::new(5),
        term_runs: vec![(LogIndex::new(1), Term::new(3))],
        last_time: LogTime::new(9),
    };
    solo.create(1, Some(recovered));
    solo.create(1, None);
    assert_eq!(solo.created(), vec![Err(CreateRefusal::Unusable); 2]);
    assert!(solo.node.out.persist.is_empty(), "what the group had promised stays in the log");
}

#[test]
fn after_the_log_failed_all_is_answered_and_nothing_is_promised() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let (proposed, read, transfer) = (solo.propose(), solo.read(), solo.transfer());
    solo.create(1, None);
    let tickets = std::mem::take(&mut solo.node.out.persist_tickets);
    assert!(tickets.iter().any(|(_, ticket)| matches!(ticket, PersistTicket::Op(_))));
    solo.engine().fail();
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
    solo.engine().fail();
    solo.create(1, None);
    assert_eq!(Arc::strong_count(&solo.created), 1, "none waits");
    assert_eq!(solo.created(), vec![]);
}
