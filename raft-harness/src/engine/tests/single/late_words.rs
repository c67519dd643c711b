//! What a worker, or whoever reads the log, says of something that another has replaced since.

use raft_core::{SnapshotMeta, SnapshotOffer, Sparse};
use raft_storage::{LiveEntries, LogReader, LogStore as _, MemoryLog};

use super::*;
use crate::bodies::Bodies;
use crate::snapshot::format::Left;
use crate::snapshot::{Restored, SnapshotName};
use crate::state_machine::{SnapshotPieces, StateMachine};

/// Leaves its first command in the log, and reads it with whatever it is asked.
#[derive(Default)]
struct Keeper {
    bodies: Option<Bodies>,
    first: Option<LogIndex>,
}

/// A command for which it has no output.
const BREAKS: &[u8] = b"breaks";

impl Keeper {
    fn body(&self) -> Bytes {
        let body = self.bodies.as_ref().zip(self.first).map(|(bodies, first)| bodies.get(first));
        body.and_then(Result::ok).unwrap_or_default()
    }
}

impl StateMachine for Keeper {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            if entry.kind == EntryKind::Command {
                self.first.get_or_insert(entry.index);
            }
            if entry.payload != BREAKS {
                outputs.push(self.body());
            }
        }
    }

    fn read(&self, _: &[u8]) -> Bytes {
        self.body()
    }

    fn digest(&self) -> u64 {
        self.body().len() as u64
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        Some(Box::new(std::iter::empty()))
    }

    fn keeps_entries(&self) -> bool {
        true
    }

    fn attach(&mut self, bodies: Bodies) {
        self.bodies = Some(bodies);
    }

    fn live_entries(&self) -> Box<dyn Iterator<Item = LogIndex> + '_> {
        Box::new(self.first.into_iter())
    }
}

fn keeper(spec: &GroupSpec, log: &LogReader) -> NewMachine {
    NewMachine::new(Box::<Keeper>::default(), spec, Some(log))
}

/// A follower of node 2 whose machine keeps entries, with a worker that does what the test lets it.
struct Follower {
    solo: Solo,
    log: MemoryLog,
    spec: GroupSpec,
}

impl Follower {
    fn new() -> Self {
        let mut solo = Solo::new(3);
        let log = MemoryLog::new();
        let reader = log.reader();
        let spec = GroupSpec::on_nodes(GROUP, (1..=3).map(NodeId::new));
        let create = CreateGroup {
            spec: spec.clone(),
            maker: Arc::new(move |spec| keeper(spec, &reader)),
            recovered: None,
            restored: None,
            done: Box::new(|_| {}),
        };
        solo.take(EngineInput::Create(Box::new(create)));
        let mut follower = Self { solo, log, spec };
        follower.sync();
        follower
    }

    fn sync(&mut self) {
        while !self.solo.node.out.persist.is_empty() {
            let writes = std::mem::take(&mut self.solo.node.out.persist);
            self.log.append(&writes).expect("it is in order");
            let tickets = std::mem::take(&mut self.solo.node.out.persist_tickets);
            self.solo.take(EngineInput::Persisted(tickets));
        }
        let jobs = self.solo.node.out.apply.drain(..);
        self.solo.node.worker.jobs.extend(jobs);
    }

    /// The worker does so many jobs; what it tells is not on its way yet.
    fn work(&mut self, jobs: usize) -> Vec<EngineInput> {
        let mut told = Vec::new();
        for _ in 0..jobs.min(self.solo.node.worker.jobs.len()) {
            let done = self.solo.node.worker.work();
            told.extend(self.solo.node.worker.reports.drain(..));
            told.extend(done);
        }
        told
    }

    fn hear(&mut self, told: Vec<EngineInput>) {
        for input in told {
            self.solo.take(input);
            self.sync();
        }
    }

    /// The worker does all there is.
    fn settle(&mut self) {
        self.sync();
        while !self.solo.node.worker.jobs.is_empty() {
            let told = self.work(usize::MAX);
            self.hear(told);
        }
    }

    /// The leader of term 1 speaks, and the log does what follows.
    fn says(&mut self, message: Message, entries: Vec<Entry>) {
        self.speaks(message, entries);
        self.sync();
    }

    fn speaks(&mut self, message: Message, entries: Vec<Entry>) {
        let node = NodeId::new(2);
        let (incarnation, route) = (Incarnation::new(1), route(1));
        let source = Source { node, incarnation, route, clock: None };
        let envelope = Envelope {
            group: GROUP,
            group_incarnation: GroupIncarnation::new(1),
            from: ReplicaId::new(2),
            to: ReplicaId::new(1),
            message,
            entries,
        };
        self.solo.take(EngineInput::Message(source, envelope));
    }

    /// An entry, behind all others, that everybody holds.
    fn appends(&mut self, index: u64, payload: &'static [u8]) {
        let (index, term) = (LogIndex::new(index), Term::new(1));
        let prev_term = if index.get() == 1 { Term::ZERO } else { term };
        let append = Append {
            term,
            session: Session::new(1),
            prev_index: index.prev(),
            prev_term,
            runs: [TermRun { term, count: 1 }].into_iter().collect(),
            configs: Sparse::new(),
            time: LogTime::default(),
            commit: index,
            quorum_durable: index,
            acknowledge: Acknowledge::Durable,
        };
        let payload = Bytes::from_static(payload);
        let kind = EntryKind::Command;
        let entry = Entry { index, term, kind, time: LogTime::new(7), payload };
        self.says(Message::Append(append), vec![entry]);
    }

    /// A snapshot at this index comes, which leaves nothing in the log, and is installed.
    fn installs(&mut self, index: u64) {
        self.hears_of(index, LiveEntries::default());
        self.sync();
        assert_eq!(self.solo.base(), LogIndex::new(index), "and is installed");
        assert_eq!(self.log.reader().held_term(GROUP, LogIndex::new(1)), None);
    }

    /// A snapshot at this index is offered, and comes, which leaves these in the log.
    fn hears_of(&mut self, index: u64, live: LiveEntries) {
        let engine = self.solo.engine();
        let meta = SnapshotMeta {
            index: LogIndex::new(index),
            term: Term::new(1),
            time: LogTime::new(7),
            config_index: LogIndex::ZERO,
            membership: Arc::clone(engine.slots[0].core.membership()),
        };
        let (term, session) = (Term::new(1), Session::new(1));
        self.speaks(
            Message::Snapshot(SnapshotOffer { term, session, meta: meta.clone() }),
            Vec::new(),
        );
        let asked = self.solo.node.out.snapshots.drain(..);
        let fetches = asked.filter(|input| matches!(input, DeskInput::Fetch(_))).count();
        assert_eq!(fetches, 1, "it lacks it");
        let new = keeper(&self.spec, &self.log.reader());
        let live = Arc::new(live);
        let bodies = new.bodies.as_ref().expect("it keeps entries");
        bodies.stand_at(meta.index, Arc::clone(&live));
        let name = SnapshotName {
            group: GROUP,
            incarnation: GroupIncarnation::new(1),
            index: meta.index,
            term: meta.term,
        };
        let restored = Restored { new, meta, left: Left { live, bytes: 0 }, bytes: 100 };
        self.solo.take(EngineInput::SnapshotFetched(name, Box::new(restored)));
    }

    fn wants_snapshot(&mut self) -> Ticket<crate::request::Proposed> {
        let (request, ticket) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        self.solo.take(EngineInput::Snapshot(GROUP, request.reply));
        self.sync();
        ticket
    }

    fn taken(&mut self) -> Vec<LogIndex> {
        let taken = self.solo.node.out.snapshots.drain(..).filter_map(|input| match input {
            DeskInput::Take(taking) => Some(taking.name.index),
            _ => None,
        });
        taken.collect()
    }

    /// How far the machine is, and what is wrong with the group.
    fn status(&mut self) -> (u64, Option<String>) {
        let status = self.solo.engine().statuses().remove(0);
        (status.applied_index.get(), status.fault)
    }
}

/// The worker is behind by some jobs of the old machine when a snapshot is installed, and what those
/// would read is gone from the log. That is no fault: the machine of the snapshot takes its place.
#[test]
fn what_a_machine_misses_once_a_snapshot_has_replaced_it_is_no_fault() {
    for done in 0..=3 {
        let mut follower = Follower::new();
        follower.appends(1, b"first");
        follower.appends(2, b"second");
        let waits = follower.wants_snapshot();
        let (digest, _ticket): (Request, Ticket<(LogIndex, u64)>) =
            Request::new(GROUP, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
        follower.solo.take(EngineInput::Digest(GROUP, digest.reply));
        follower.sync();
        // The machine begins, two times entries, its state, and a digest.
        assert_eq!(follower.solo.node.worker.jobs.len(), 5);
        let mut told = follower.work(1 + done);
        follower.installs(9);
        assert_eq!(follower.solo.node.worker.jobs.len(), 5 - done, "the other machine as well");
        told.extend(follower.work(usize::MAX));
        follower.hear(told);
        assert_eq!(follower.status(), (9, None), "with {done} done before");
        assert_eq!(follower.taken(), [], "of the machine that was replaced");
        assert!(waits.wait().is_err());

        // The one in its place works, and gives its state.
        follower.appends(10, b"tenth");
        follower.settle();
        assert_eq!(follower.status(), (10, None), "with {done} done before");
        drop(follower.wants_snapshot());
        follower.settle();
        assert_eq!(follower.taken(), [LogIndex::new(10)]);
        // What it does wrong is its own.
        follower.appends(11, BREAKS);
        follower.settle();
        let (applied, fault) = follower.status();
        assert!(applied == 10 && fault.is_some(), "{applied} {fault:?}");
    }
}

/// An entry is found damaged, and by the time the shard hears of it another has taken its place: in
/// the log of the same replica, or in that of the one that followed it.
#[test]
fn a_late_word_of_damage_is_looked_into_before_anything_is_forgotten() {
    let first = LogIndex::new(1);
    let mut solo = Solo::with_group(3);
    solo.append(2, 1, 7, route(1));
    solo.sync();
    solo.append(3, 2, 7, route(1));
    solo.sync();
    let log = |solo: &mut Solo| {
        let slots = &solo.engine().slots;
        let status = slots[slots.len() - 1].core.status();
        (status.last_index, status.promise.promise, status.fault)
    };
    let whole = (first, Promise::Kept, None);
    assert_eq!(log(&mut solo), whole);
    solo.take(EngineInput::LogDamaged(GROUP, first));
    assert_eq!(log(&mut solo), whole);
    // It is read once more, in this replica's name, and is sound.
    let fetch = solo.node.out.fetches.pop().expect("it is read once more");
    assert_eq!((fetch.group, fetch.first, fetch.last), (GROUP, first, first));
    let entry = Entry {
        index: first,
        term: Term::new(2),
        kind: EntryKind::Command,
        time: LogTime::new(7),
        payload: Bytes::new(),
    };
    solo.take(EngineInput::Fetched(GROUP, vec![entry]));
    assert_eq!(log(&mut solo), whole);
    assert_eq!(solo.node.out.fetches.len(), 0);

    // While it is read, the log is cut: that is no damage.
    solo.take(EngineInput::LogDamaged(GROUP, first));
    solo.append(2, 3, 7, route(1));
    solo.sync();
    // One read is enough at a time, and what was said meanwhile is looked into after it.
    solo.take(EngineInput::LogDamaged(GROUP, first));
    assert_eq!(solo.node.out.fetches.drain(..).len(), 1);
    solo.take(EngineInput::FetchFailed(GROUP, first));
    assert_eq!(log(&mut solo), whole);
    assert_eq!(solo.node.out.fetches.drain(..).len(), 1);
    // It is damaged.
    solo.take(EngineInput::FetchFailed(GROUP, first));
    solo.sync();
    assert_eq!(log(&mut solo), (LogIndex::ZERO, Promise::Damaged, None));
    solo.take(EngineInput::LogDamaged(GROUP, first));
    assert_eq!(solo.node.out.fetches.len(), 0, "it is not there any more");
}

/// Nobody could fill the log of a sole voter anew. A word that was meant for another log of the same
/// group must not mute it.
#[test]
fn a_late_word_of_damage_mutes_no_sole_voter() {
    let mut solo = Solo::with_group(1);
    solo.lead();
    let proposed = solo.propose();
    let status = |solo: &mut Solo| {
        let status = solo.engine().statuses().remove(0);
        (status.last_index, status.fault)
    };
    let last = status(&mut solo).0;
    solo.take(EngineInput::LogDamaged(GROUP, last));
    assert_eq!(status(&mut solo), (last, None));
    assert_eq!(solo.node.out.fetches.len(), 0, "it is not in the log yet");
    solo.sync();
    assert!(proposed.wait().is_ok());
}

/// What a snapshot leaves in the log was there when its machine was made of it, and is on its way to be
/// cut off: installed at once, it would name what the log does not hold, and no log bears that.
#[test]
fn a_snapshot_that_names_what_is_being_cut_off_is_not_installed_yet() {
    let mut follower = Follower::new();
    follower.appends(1, b"first");
    follower.appends(2, b"second");
    follower.settle();
    let names_second = || {
        let mut live = LiveEntries::default();
        assert!(live.push(LogIndex::new(2), Term::new(1)));
        live
    };
    // A peer needs it, and it is damaged.
    follower.solo.take(EngineInput::FetchFailed(GROUP, LogIndex::new(2)));
    follower.hears_of(9, names_second());
    let declined = |follower: &mut Follower| {
        let said = follower.solo.node.out.replies.drain(..);
        let failed = AppendResult::Declined(Declined::SnapshotFailed);
        said.filter(|(_, frame)| match frame {
            Frame::Message(Envelope { message: Message::AppendReply(reply), .. }) => {
                reply.result == failed
            }
            _ => false,
        })
        .count()
    };
    assert_eq!(declined(&mut follower), 1, "for now");
    follower.sync();
    assert_eq!(follower.solo.base(), LogIndex::ZERO);
    // Once that is done, whoever makes a machine finds it missing and has it fetched first.
    let new = keeper(&follower.spec, &follower.log.reader());
    let bodies = new.bodies.as_ref().expect("it keeps entries");
    assert_eq!(bodies.missing(&names_second()), names_second());
    follower.hears_of(9, LiveEntries::default());
    follower.sync();
    assert_eq!(follower.solo.base(), LogIndex::new(9));
}

/// It was begun before the log was found damaged below what it stands for, and stands for more than the
/// replica says of itself now.
#[test]
fn a_snapshot_that_ends_after_its_log_was_found_damaged_lets_nothing_go() {
    let mut follower = Follower::new();
    for (index, payload) in [(1, &b"first"[..]), (2, b"second"), (3, b"third")] {
        follower.appends(index, payload);
    }
    let waits = follower.wants_snapshot();
    follower.settle();
    assert_eq!(follower.taken(), [LogIndex::new(3)]);
    follower.solo.take(EngineInput::FetchFailed(GROUP, LogIndex::new(2)));
    follower.sync();
    let name = SnapshotName {
        group: GROUP,
        incarnation: GroupIncarnation::new(1),
        index: LogIndex::new(3),
        term: Term::new(1),
    };
    follower.solo.take(EngineInput::SnapshotDone(name, Some(100)));
    follower.sync();
    assert_eq!(waits.wait(), Err(RequestError::NoSnapshot(GROUP)));
    let status = follower.solo.engine().statuses().remove(0);
    assert_eq!((status.snapshot_index, status.last_index), (LogIndex::ZERO, LogIndex::new(1)));
    assert_eq!(follower.solo.engine().slots[0].snapshots.left_in_log(), None);
}
