//! Strategies: which of a group's operations the log may tell of early.

use std::time::Duration;

use super::*;
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

#[test]
fn entries_count_once_written_and_what_rests_on_the_disk_does_not() {
    let mut node = Node::new(NodeId::new(1));
    node.persistence = FAST;
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
