//! Strategies: which of a group's operations the log may tell of early, and who is trusted after a
//! crash.

use std::time::Duration;

use raft_core::PromiseRecord;

use super::*;
use crate::engine::LogEnded;
use crate::persistence::{FlushPolicy, Persistence, Strategy};

const DURABLE: GroupId = GroupId::new(2);

const FAST: Persistence = Persistence {
    strategy: Strategy::MemFirst,
    flush: FlushPolicy::Batch { threshold: 100, interval: Duration::from_millis(20) },
};

impl Solo {
    fn begin(&mut self, spec: GroupSpec, recovered: Option<RecoveredGroup>) {
        let created = Arc::clone(&self.created);
        let journal = Journal::default();
        let create = CreateGroup {
            spec,
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

    fn promise_of(&mut self, group: GroupId) -> Promise {
        let statuses = self.engine().statuses();
        let status = statuses.iter().find(|status| status.group == group);
        status.expect("it is here").promise
    }

    fn commit(&mut self) -> LogIndex {
        self.engine().statuses()[0].commit_index
    }

    /// The log has written what it was given, and not synced it.
    fn written(&mut self) -> Vec<(GroupId, PersistTicket)> {
        self.node.out.persist.clear();
        let tickets = std::mem::take(&mut self.node.out.persist_tickets);
        self.take(EngineInput::Written(tickets.clone()));
        tickets
    }
}

fn alone(group: GroupId) -> GroupSpec {
    GroupSpec::on_nodes(group, [NodeId::new(1)])
}

/// As a log has it that held two entries of a group of three.
fn in_log() -> RecoveredGroup {
    RecoveredGroup {
        incarnation: GroupIncarnation::new(1),
        hard_state: HardState { term: Term::new(1), vote: None },
        first_index: LogIndex::new(1),
        last_index: LogIndex::new(2),
        term_runs: vec![(LogIndex::new(1), Term::new(1))],
        ..RecoveredGroup::default()
    }
}

fn of_three(group: GroupId, strategy: Strategy) -> GroupSpec {
    let spec = GroupSpec::on_nodes(group, [1, 2, 3].map(NodeId::new));
    GroupSpec { strategy: Some(strategy), ..spec }
}

/// Both had records in the same frames. What the configuration says by now is of no account.
#[test]
fn after_an_unclear_end_exactly_the_groups_recorded_as_mem_first_may_have_forgotten() {
    for (log_ended, lost) in [(LogEnded::Unclear, Promise::Lost), (LogEnded::Whole, Promise::Kept)]
    {
        for configured in [Strategy::DiskFirst, Strategy::MemFirst] {
            let mut node = Node::new(NodeId::new(1));
            node.log_ended = log_ended;
            node.persistence.strategy = configured;
            let mut solo = Solo::on(3, node);
            solo.begin(of_three(GROUP, Strategy::MemFirst), Some(in_log()));
            solo.begin(of_three(DURABLE, Strategy::DiskFirst), Some(in_log()));
            assert_eq!(solo.promise_of(GROUP), lost);
            assert_eq!(solo.promise_of(DURABLE), Promise::Kept);
            // It is on disk before an orderly end could make the next start forget it.
            let noted: Vec<_> =
                solo.node.out.persist.iter().map(|write| (write.group, write.promise)).collect();
            let record = PromiseRecord { promise: Promise::Lost, loss_epoch: 0 };
            let expected = match lost {
                Promise::Lost => vec![(GROUP, Some(record))],
                Promise::Kept | Promise::Damaged | Promise::Unproven => vec![],
            };
            assert_eq!(noted, expected);
        }
    }
}

#[test]
fn entries_count_once_written_and_what_rests_on_the_disk_does_not() {
    let mut node = Node::new(NodeId::new(1));
    node.persistence = FAST;
    // What begins in this life has nothing it could have forgotten.
    node.log_ended = LogEnded::Unclear;
    let mut solo = Solo::on(1, node);
    solo.begin(alone(GROUP), None);
    solo.sync();
    solo.now = solo.engine().next_deadline().expect("a voter has a deadline");
    let wall = solo.wall();
    let engine = solo.node.engine.as_mut().expect("it runs");
    engine.set_time(solo.now, wall);
    engine.fire_timers(&mut solo.node.out);
    engine.finish_turn(&mut solo.node.out);
    let vote = solo.written();
    assert!(matches!(vote[..], [(GROUP, PersistTicket::Op(_))]), "a vote waits for the disk");
    assert_eq!(solo.engine().handing_over().led, 0);
    solo.take(EngineInput::Persisted(vote));
    assert_eq!(solo.engine().handing_over().led, 1);
    let noop = solo.written();
    let at_once = FlushPolicy::Immediate;
    assert!(matches!(noop[..], [(_, PersistTicket::Early(_, flush))] if flush == at_once));
    assert_eq!(solo.commit(), LogIndex::ZERO, "a term begins on disk");
    solo.take(EngineInput::Persisted(noop));
    assert_eq!(solo.commit(), LogIndex::new(1));

    let proposed = solo.propose();
    let entry = solo.written();
    assert!(matches!(entry[..], [(_, PersistTicket::Early(_, flush))] if flush == FAST.flush));
    assert_eq!(proposed.wait().map(|proposed| proposed.index), Ok(LogIndex::new(2)));

    // Of what could still be forgotten nothing is kept elsewhere.
    let (request, _ticket): (Request, Ticket<()>) =
        Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
    solo.take(EngineInput::Snapshot(GROUP, request.reply));
    let taken = |solo: &mut Solo| {
        let inputs = solo.node.out.snapshots.drain(..);
        inputs.filter(|input| matches!(input, DeskInput::Take(_))).count()
    };
    assert_eq!(taken(&mut solo), 0);
    solo.take(EngineInput::Persisted(entry));
    assert_eq!(taken(&mut solo), 1);
}

#[test]
fn a_group_keeps_the_strategy_it_was_made_with() {
    let mut node = Node::new(NodeId::new(1));
    node.persistence = FAST;
    let mut solo = Solo::on(1, node);
    solo.begin(alone(GROUP), None);
    let recorded = solo.node.out.persist[0].create.clone().expect("a creation");
    let recorded = GroupSpec::decode(&recorded.spec).expect("as it was written");
    assert_eq!(recorded.strategy, Some(Strategy::MemFirst));
    solo.sync();
    solo.begin(alone(GROUP), None);
    let wanted = alone(GROUP).with_persistence(Persistence::default());
    solo.begin(wanted, None);
    let refusal = CreateRefusal::SpecDiffers(recorded);
    assert_eq!(solo.created(), [Ok(Created::New), Ok(Created::Existed), Err(refusal)]);
    solo.begin(alone(DURABLE).with_persistence(Persistence::default()), None);
    let strategies: Vec<_> = solo.engine().statuses().iter().map(|s| s.strategy).collect();
    assert_eq!(strategies, [Strategy::MemFirst, Strategy::DiskFirst]);
}
