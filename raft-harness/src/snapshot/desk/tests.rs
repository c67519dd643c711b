//! The desk against a store that is slow, lanes that break, and questions in any order.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use raft_core::{Entry, EntryKind, LogTime, Membership, ReplicaId, Term};
use raft_storage::{
    Expected, GroupCreate, GroupWrite, InitOptions, LiveEntries, Log, LogOptions, LogStore,
    MemDisk, MemoryLog, Preparation, init_on,
};

use super::*;
use crate::bodies::NewMachine;
use crate::engine::Via;
use crate::snapshot::fitting::newest_fit;
use crate::snapshot::format::Left;
use crate::snapshot::workshop::Workshop;
use crate::snapshot::{Compression, MemoryStore, SnapshotStore};
use crate::state_machine::{RestoreError, SnapshotPieces, StateMachine};

const GROUP: GroupId = GroupId::new(7);
const SENDER: NodeId = NodeId::new(2);

/// Holds the bytes it was restored from.
struct Holder(Vec<u8>);

impl StateMachine for Holder {
    fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) {}

    fn read(&self, _: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn digest(&self) -> u64 {
        0
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        pieces.for_each(|piece| self.0.extend_from_slice(&piece));
        Ok(())
    }
}

/// A store that counts how often it was asked what it has.
#[derive(Default)]
struct Counting {
    store: MemoryStore,
    listings: Arc<AtomicUsize>,
}

impl SnapshotStore for Counting {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        self.listings.fetch_add(1, Relaxed);
        self.store.names()
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        self.store.begin(name)
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        self.store.bytes(name)
    }

    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
        self.store.read(name, offset, bytes)
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        self.store.remove(name)
    }
}

/// A store that does not let go of what is at index 3.
struct Stubborn(MemoryStore);

impl SnapshotStore for Stubborn {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        self.0.names()
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        self.0.begin(name)
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        self.0.bytes(name)
    }

    fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
        self.0.read(name, offset, bytes)
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        match name.index.get() {
            3 => Err(io::ErrorKind::PermissionDenied.into()),
            _ => self.0.remove(name),
        }
    }
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex::new(11),
        term: Term::new(5),
        time: LogTime::new(7),
        config_index: LogIndex::new(3),
        membership: Arc::new(Membership::of_voters([ReplicaId::new(2)]).unwrap()),
    }
}

fn name() -> SnapshotName {
    let incarnation = GroupIncarnation::new(1);
    SnapshotName { group: GROUP, incarnation, index: meta().index, term: meta().term }
}

fn of_group(group: u32, index: u64) -> SnapshotName {
    SnapshotName { group: GroupId::new(group), index: LogIndex::new(index), ..name() }
}

fn state(byte: u8) -> Vec<u8> {
    (0..700_000_u32).map(|at| (at >> 3) as u8 ^ byte).collect()
}

fn taking(name: SnapshotName, bytes: &[u8], keep_from: u64) -> DeskInput {
    let pieces: Vec<Bytes> = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect();
    let pieces: SnapshotPieces = Box::new(pieces.into_iter());
    let meta = SnapshotMeta { index: name.index, ..meta() };
    let keep_from = LogIndex::new(keep_from);
    DeskInput::Take(Box::new(Taking { name, meta, left: Left::default(), pieces, keep_from }))
}

fn wanted(name: SnapshotName) -> Box<Wanted> {
    Box::new(Wanted {
        name,
        meta: SnapshotMeta { index: name.index, ..meta() },
        node: SENDER,
        #[cfg(feature = "sim")]
        term: Term::new(5),
        maker: Arc::new(|spec| NewMachine::new(Box::new(Holder(Vec::new())), spec, None)),
        spec: Arc::new(GroupSpec::on_nodes(name.group, [SENDER])),
    })
}

/// A node's desk and workshop.
struct Side {
    desk: Desk,
    workshop: Workshop,
    store: MemoryStore,
    now: Micros,
}

impl Side {
    fn new(options: DeskOptions) -> Self {
        let store = MemoryStore::default();
        let shelf = Arc::new(Shelf::open(Arc::new(store.clone())).unwrap());
        let desk = Desk::new(Arc::clone(&shelf), None, options);
        Self { desk, workshop: Workshop::new(shelf, Compression::None), store, now: Micros::ZERO }
    }

    /// What the desk says at once; its work waits in the workshop.
    fn hear(&mut self, input: DeskInput) -> Vec<DeskOutput> {
        let mut out = Vec::new();
        self.desk.handle(self.now, input, &mut out);
        self.put_away(out)
    }

    fn time(&mut self) -> Vec<DeskOutput> {
        self.now = self.desk.next_deadline().expect("something is open");
        let mut out = Vec::new();
        self.desk.on_time(self.now, &mut out);
        self.put_away(out)
    }

    fn put_away(&mut self, out: Vec<DeskOutput>) -> Vec<DeskOutput> {
        let mut rest = Vec::new();
        for output in out {
            match output {
                DeskOutput::Work(job) => self.workshop.add(job),
                said => rest.push(said),
            }
        }
        rest
    }

    /// The workshop does all it has to do.
    fn work(&mut self) -> Vec<DeskOutput> {
        let mut out = Vec::new();
        while !self.workshop.is_idle() {
            let mut made = Vec::new();
            self.workshop.work(&mut made);
            made.into_iter().for_each(|made| self.desk.on_made(self.now, made, &mut out));
        }
        self.put_away(out)
    }

    fn names(&self) -> Vec<SnapshotName> {
        self.store.names().unwrap()
    }
}

fn pulls(out: &[DeskOutput]) -> Vec<SnapshotPull> {
    let pulls = out.iter().map(|output| match output {
        DeskOutput::Pull(SENDER, pull) => *pull,
        _ => panic!("only questions were expected"),
    });
    pulls.collect()
}

fn offsets(pulls: &[SnapshotPull]) -> Vec<u64> {
    pulls.iter().map(|pull| pull.offset).collect()
}

struct Pair {
    sender: Side,
    receiver: Side,
}

impl Pair {
    fn new() -> Self {
        let options = DeskOptions { pieces_ahead: 2, ..DeskOptions::default() };
        let (mut sender, receiver) = (Side::new(options), Side::new(options));
        sender.hear(taking(name(), &state(0), 0));
        sender.work();
        Self { sender, receiver }
    }

    fn fetch(&mut self) -> Vec<DeskOutput> {
        self.receiver.hear(DeskInput::Fetch(wanted(name())))
    }

    fn deliver(&mut self, chunk: SnapshotChunk) -> Vec<DeskOutput> {
        self.receiver.hear(DeskInput::Chunk(SENDER, chunk))
    }

    /// Answers in the order of the questions, up to the end; how many, and what the engine heard.
    fn finish(&mut self, out: Vec<DeskOutput>) -> (usize, EngineInput) {
        let mut open: std::collections::VecDeque<DeskOutput> = out.into();
        let mut answers = 0;
        while let Some(output) = open.pop_front() {
            match output {
                DeskOutput::Engine(GROUP, input) => return (answers, input),
                DeskOutput::Pull(SENDER, pull) => {
                    let chunk = self.sender.desk.answer(pull).0;
                    answers += 1;
                    open.extend(self.deliver(chunk));
                    open.extend(self.receiver.work());
                }
                _ => panic!("nothing else is said"),
            }
        }
        panic!("it neither came nor failed");
    }
}

fn came(input: EngineInput) -> Vec<u8> {
    match input {
        EngineInput::SnapshotFetched(_, restored) => restored.new.machine.read(b"").to_vec(),
        _ => panic!("it did not come"),
    }
}

fn failed(input: &EngineInput) -> bool {
    matches!(input, EngineInput::SnapshotFetchFailed(_))
}

const PIECE: u64 = SNAPSHOT_DATA_MAX as u64;

#[test]
fn several_questions_are_open_and_a_broken_lane_costs_only_what_was_on_it() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    assert_eq!(offsets(&pulls(&out)), [0], "the length is not known yet");
    let first = pair.sender.desk.answer(pulls(&out)[0]).0;
    let open = pulls(&pair.deliver(first.clone()));
    assert_eq!(offsets(&open), [PIECE, 2 * PIECE]);
    assert!(pair.deliver(first).is_empty(), "the same answer once more is no news");
    let second = pair.sender.desk.answer(open[0]).0;
    assert_eq!(offsets(&pulls(&pair.deliver(second))), [3 * PIECE]);
    // The lane breaks: two questions are lost with it, and nothing that came.
    assert!(pair.receiver.hear(DeskInput::LaneDown(SENDER)).is_empty());
    let late = pair.sender.desk.answer(open[1]).0;
    assert!(pair.deliver(late).is_empty(), "it came too late");
    let again = pair.receiver.hear(DeskInput::LaneUp(SENDER));
    assert_eq!(offsets(&pulls(&again)), [2 * PIECE, 3 * PIECE]);
    let (answers, input) = pair.finish(again);
    assert_eq!((answers, came(input)), (2, state(0)));
    assert_eq!(pair.receiver.desk.next_deadline(), None);
    // What is here already is not asked for again.
    let mut out = pair.fetch();
    out.extend(pair.receiver.work());
    let (answers, input) = pair.finish(out);
    assert_eq!((answers, came(input).len()), (0, 700_000));
}

/// The leader that a replica says it fetches from serves it with nothing else: whoever fetches
/// and cannot ask has to say so.
#[test]
fn without_a_lane_it_is_given_up_and_a_new_offer_is_asked_for_whatever_was_said_of_the_lane() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    let first = pair.sender.desk.answer(pulls(&out)[0]).0;
    pair.deliver(first);
    pair.receiver.hear(DeskInput::LaneDown(SENDER));
    pair.receiver.now = pair.receiver.now.after(Duration::from_secs(1));
    assert!(pair.receiver.hear(DeskInput::LaneDown(SENDER)).is_empty(), "no news");
    let out = pair.receiver.time();
    assert_eq!(pair.receiver.now.since(Micros::ZERO), CUT_OFF_MAX, "since it broke");
    let [DeskOutput::Engine(GROUP, input)] = &out[..] else { panic!("it is told once") };
    assert!(failed(input));
    // No lane is told of as up.
    let again = pair.fetch();
    assert_eq!(offsets(&pulls(&again)), [PIECE, 2 * PIECE], "it goes on where it stopped");
    pair.receiver.hear(DeskInput::LaneDown(SENDER));
    let again = pair.receiver.hear(DeskInput::LaneUp(SENDER));
    let (answers, input) = pair.finish(again);
    assert_eq!((answers, came(input)), (3, state(0)));
    assert_eq!(pair.receiver.desk.next_deadline(), None);
}

#[test]
fn silence_between_answers_makes_nobody_wait_longer_and_longer() {
    let mut pair = Pair::new();
    pair.sender.desk.options.piece_bytes = 10_000;
    pair.fetch();
    for _ in 0..20 {
        let before = pair.receiver.now;
        let open = pulls(&pair.receiver.time());
        assert!(pair.receiver.now.since(before) <= PATIENCE_MAX);
        let chunk = pair.sender.desk.answer(open[0]).0;
        pair.deliver(chunk);
    }
}

#[test]
fn bytes_of_two_snapshots_are_never_mixed() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    let first = pair.sender.desk.answer(pulls(&out)[0]).0;
    let second = pair.deliver(first);
    // Another node, or another life, wrote the same state in other bytes.
    pair.sender.hear(taking(name(), &state(1), 0));
    pair.sender.work();
    let (answers, input) = pair.finish(second);
    // The first of the others shows it; the next was under way and is for the wrong place.
    assert_eq!(answers, 2 + 4, "from the beginning");
    assert_eq!(came(input), state(1));
}

#[test]
fn a_sender_with_other_pieces_is_asked_for_what_it_has() {
    let mut pair = Pair::new();
    pair.sender.desk.options.piece_bytes = 100_000;
    let out = pair.fetch();
    let (_, input) = pair.finish(out);
    assert_eq!(came(input), state(0));
}

#[test]
fn silence_is_met_with_fewer_questions_and_what_came_is_kept_for_the_next_offer() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    let first = pair.sender.desk.answer(pulls(&out)[0]).0;
    pair.deliver(first);
    let mut waits = Vec::new();
    let input = loop {
        let before = pair.receiver.now;
        let out = pair.receiver.time();
        waits.push(pair.receiver.now.since(before).as_secs());
        if let Some(DeskOutput::Engine(GROUP, input)) = out.into_iter().next_back() {
            break input;
        }
    };
    assert!(failed(&input));
    assert_eq!(waits, [3, 6, 12, 24, 48]);
    // The same is offered again: it goes on where it stopped.
    let again = pair.fetch();
    assert_eq!(offsets(&pulls(&again)), [PIECE, 2 * PIECE]);
    let (answers, input) = pair.finish(again);
    assert_eq!((answers, came(input)), (3, state(0)));

    // Nobody offers it again: what came is let go.
    let mut pair = Pair::new();
    let out = pair.fetch();
    let first = pair.sender.desk.answer(pulls(&out)[0]).0;
    pair.deliver(first);
    while pair.receiver.desk.next_deadline().is_some() {
        pair.receiver.time();
    }
    assert_eq!(offsets(&pulls(&pair.fetch())), [0]);
}

#[test]
fn what_comes_damaged_or_is_gone_is_given_up() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    let mut damaged = pair.sender.desk.answer(pulls(&out)[0]).0;
    let mut bytes = damaged.data.to_vec();
    bytes[100_000] ^= 1;
    damaged.data = bytes.into();
    let out = pair.deliver(damaged);
    let (_, input) = pair.finish(out);
    assert!(failed(&input));
    assert_eq!(pair.receiver.names(), [], "it may be fetched anew");

    let mut pair = Pair::new();
    pair.sender = Side::new(DeskOptions::default());
    let out = pair.fetch();
    assert!(failed(&pair.finish(out).1), "the sender has it no more");
}

fn doubt() -> DeskInput {
    DeskInput::Doubt(GROUP, name().incarnation, name().index)
}

/// Whether the engine is told, and nothing else is said.
fn is_told_useless(out: &[DeskOutput]) -> bool {
    match out {
        [DeskOutput::Engine(GROUP, EngineInput::SnapshotUseless(GROUP, incarnation, index))] => {
            (*incarnation, *index) == (name().incarnation, name().index)
        }
        [] => false,
        _ => panic!("nothing else is said"),
    }
}

/// A bit flips in a snapshot.
fn rot(side: &Side, at: usize) {
    let mut bytes = side.store.read(name(), 0, usize::MAX).unwrap().to_vec();
    bytes[at] ^= 1;
    let mut part = side.store.begin(name()).unwrap();
    part.append(&bytes).unwrap();
    part.finish().unwrap();
}

/// Its bytes came again and again, and were of no use again and again.
#[test]
fn a_snapshot_that_rotted_at_its_sender_is_found_out_when_a_peer_says_so() {
    for at in [3, 100, 400_000, 700_000] {
        let mut pair = Pair::new();
        rot(&pair.sender, at);
        let out = pair.fetch();
        assert!(failed(&pair.finish(out).1), "{at}");
        assert_eq!(pair.sender.names(), [name()]);
        assert!(pair.sender.hear(doubt()).is_empty());
        let out = pair.sender.work();
        assert!(is_told_useless(&out), "{at}");
        assert_eq!(pair.sender.names(), [], "nobody begins with it either");
        // The engine has been told, and tries as long as it takes. It is told again after a minute.
        assert!(pair.sender.hear(doubt()).is_empty() && pair.sender.workshop.is_idle());
        pair.sender.now = pair.sender.now.after(VERIFY_PAUSE);
        let out = pair.sender.hear(doubt());
        assert!(is_told_useless(&out) && pair.sender.workshop.is_idle());
        pair.sender.hear(taking(name(), &state(0), 0));
        pair.sender.work();
        let out = pair.fetch();
        assert_eq!(came(pair.finish(out).1), state(0), "{at}");
    }
}

/// A peer may say so for ever: that costs a look now and then, and no snapshot.
#[test]
fn a_sound_snapshot_that_is_doubted_is_looked_at_once_a_minute_and_stays() {
    let mut side = Pair::new().sender;
    let mut looks = 0;
    for _ in 0..1_200 {
        assert!(side.hear(doubt()).is_empty());
        looks += u32::from(!side.workshop.is_idle());
        assert!(side.work().is_empty());
        side.now = side.now.after(Duration::from_millis(100));
    }
    assert_eq!((looks, side.names()), (2, vec![name()]));
}

/// A store whose disk refuses to read.
struct Unreadable(MemoryStore);

impl SnapshotStore for Unreadable {
    fn names(&self) -> io::Result<Vec<SnapshotName>> {
        self.0.names()
    }

    fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
        self.0.begin(name)
    }

    fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
        self.0.bytes(name)
    }

    fn read(&self, _: SnapshotName, _: u64, _: usize) -> io::Result<Bytes> {
        Err(io::Error::other("the disk refuses"))
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        self.0.remove(name)
    }
}

/// As on a full disk: the engine can take none in its place, and the peer says so for ever.
#[test]
fn one_that_stays_useless_is_told_of_once_a_minute() {
    let unreadable = |side: &mut Side| {
        let shelf = Shelf::open(Arc::new(Unreadable(side.store.clone()))).unwrap();
        side.desk.shelf = Arc::new(shelf);
        let shelf = Arc::clone(&side.desk.shelf);
        side.workshop = Workshop::new(shelf, Compression::None);
    };
    let gone = |side: &mut Side| side.desk.shelf.remove(name()).unwrap();
    let rotten = |side: &mut Side| rot(side, 400_000);
    for make_useless in [&unreadable as &dyn Fn(&mut Side), &gone, &rotten] {
        let mut side = Pair::new().sender;
        make_useless(&mut side);
        let mut told = 0;
        for _ in 0..1_200 {
            let mut out = side.hear(doubt());
            out.extend(side.work());
            told += u32::from(is_told_useless(&out));
            side.now = side.now.after(Duration::from_millis(100));
        }
        assert_eq!(told, 2);
    }
}

#[test]
fn one_found_here_and_of_no_use_is_fetched() {
    let mut pair = Pair::new();
    let mut part = pair.receiver.store.begin(name()).unwrap();
    part.append(b"useless").unwrap();
    pair.receiver.desk.shelf.put(name(), part).unwrap();
    let mut out = pair.fetch();
    assert!(out.is_empty());
    out.extend(pair.receiver.work());
    let (answers, input) = pair.finish(out);
    assert_eq!((answers, came(input)), (4, state(0)));
}

#[test]
fn one_found_here_and_of_no_use_is_fetched_only_while_it_is_wanted() {
    let found_useless = || {
        let mut pair = Pair::new();
        let mut part = pair.receiver.store.begin(name()).unwrap();
        part.append(b"useless").unwrap();
        pair.receiver.desk.shelf.put(name(), part).unwrap();
        assert!(pair.fetch().is_empty());
        pair
    };
    // The replica leaves before the workshop comes to it; nothing is left, and nothing comes.
    let mut pair = found_useless();
    pair.receiver.hear(DeskInput::Abort(GROUP));
    pair.receiver.hear(DeskInput::Forget(GROUP, name().incarnation));
    let out = pair.receiver.work();
    assert!(matches!(out[..], [DeskOutput::Engine(GROUP, EngineInput::SnapshotsForgotten(GROUP))]));
    assert!(pair.receiver.desk.fetches.is_empty() && pair.receiver.names().is_empty());

    // Its leader changes.
    let mut pair = found_useless();
    pair.receiver.hear(DeskInput::Abort(GROUP));
    assert!(pair.receiver.work().is_empty() && pair.receiver.desk.fetches.is_empty());

    // And the next one offers the same.
    let mut pair = found_useless();
    pair.receiver.hear(DeskInput::Abort(GROUP));
    assert!(pair.fetch().is_empty());
    let out = pair.receiver.work();
    let (answers, input) = pair.finish(out);
    assert_eq!((answers, came(input)), (4, state(0)));

    // Or a newer one, which waits for its lane.
    let mut pair = found_useless();
    pair.receiver.hear(DeskInput::LaneDown(SENDER));
    pair.receiver.hear(DeskInput::Fetch(wanted(of_group(7, 12))));
    pair.receiver.work();
    let fetches = pair.receiver.desk.fetches.values();
    let waits: Vec<SnapshotName> = fetches.map(|fetch| fetch.wanted.name).collect();
    assert_eq!(waits, [of_group(7, 12)]);
}

#[test]
fn one_that_cannot_be_removed_keeps_no_other() {
    let store = Stubborn(MemoryStore::default());
    let kept = store.0.clone();
    for index in [3, 5] {
        kept.begin(of_group(7, index)).unwrap().finish().unwrap();
    }
    let mut side = Side::new(DeskOptions::default());
    side.workshop =
        Workshop::new(Arc::new(Shelf::open(Arc::new(store)).unwrap()), Compression::None);
    side.hear(DeskInput::Forget(GROUP, name().incarnation));
    side.work();
    assert_eq!(kept.names().unwrap(), [of_group(7, 3)]);
}

fn some_connection() -> CarrierConnection {
    let connection = raft_transport::ConnectionId::new(1, raft_transport::Direction::Incoming);
    CarrierConnection { via: Via::Bulk, connection }
}

#[test]
fn bytes_are_handed_out_while_the_workshop_is_busy_and_what_came_goes_before_what_is_taken() {
    let mut pair = Pair::new();
    let out = pair.fetch();
    for group in 100..2100 {
        assert!(pair.sender.hear(taking(of_group(group, 5), b"state", 0)).is_empty());
        assert!(pair.receiver.hear(taking(of_group(group, 5), b"state", 0)).is_empty());
    }
    // Nobody has turned the sender's workshop, and each question finds its answer.
    let connection = some_connection();
    let mut open = pulls(&out);
    while let Some(pull) = open.pop() {
        let said = pair.sender.hear(DeskInput::Pull(connection, pull));
        let [DeskOutput::Chunk(_, chunk)] = &said[..] else { panic!("one answer") };
        open.splice(0..0, pulls(&pair.deliver(chunk.clone())).into_iter().rev());
    }
    // The receiver's does the one thing first that a replica waits for.
    let mut made = Vec::new();
    pair.receiver.workshop.work(&mut made);
    let came = |made: &Made| matches!(made, Made::Engine(GROUP, EngineInput::SnapshotFetched(..)));
    assert!(made.iter().any(came));
}

#[test]
fn only_some_fetches_ask_at_a_time() {
    let mut side = Side::new(DeskOptions { fetches_max: 2, ..DeskOptions::default() });
    let mut asked = Vec::new();
    for group in 1..=4 {
        let out = side.hear(DeskInput::Fetch(wanted(of_group(group, 11))));
        asked.extend(pulls(&out).iter().map(|pull| pull.group.get()));
    }
    assert_eq!(asked, [1, 2]);
    let out = side.hear(DeskInput::Abort(GroupId::new(1)));
    assert_eq!(pulls(&out)[0].group.get(), 3);
    // Who has been silent for long makes room, and comes again in its turn.
    side.now = side.desk.next_deadline().unwrap();
    let mut out = Vec::new();
    side.desk.on_time(side.now, &mut out);
    assert_eq!(out.len(), 2);
}

#[test]
fn a_new_snapshot_makes_old_ones_go_but_those_still_asked_for() {
    let mut side = Side::new(DeskOptions::default());
    let mut take = |index: u64, keep_from: u64| {
        side.hear(taking(of_group(7, index), b"", keep_from));
        side.work();
        side.names().iter().map(|name| name.index.get()).collect::<Vec<_>>()
    };
    assert_eq!(take(10, 0), [10]);
    assert_eq!(take(20, 10), [10, 20]);
    assert_eq!(take(30, 20), [20, 30]);
    assert_eq!(take(40, 20), [20, 30, 40]);
    side.hear(DeskInput::Forget(GROUP, GroupIncarnation::new(1)));
    side.work();
    assert_eq!(side.names(), []);
}

#[test]
fn the_store_is_listed_once_whatever_is_taken_and_forgotten() {
    let store = Counting::default();
    let listings = Arc::clone(&store.listings);
    for group in 0..1000 {
        store.store.begin(of_group(group, 3)).unwrap().finish().unwrap();
    }
    let kept = store.store.clone();
    let shelf = Arc::new(Shelf::open(Arc::new(store)).unwrap());
    shelf.forget_strangers(|(group, _)| group.get() < 900).unwrap();
    let recovered = raft_storage::RecoveredGroup {
        last_index: LogIndex::new(10),
        term_runs: vec![(LogIndex::new(1), name().term)],
        ..Default::default()
    };
    let maker: MakeMachine =
        Arc::new(|spec| NewMachine::new(Box::new(Holder(Vec::new())), spec, None));
    for group in 0..900 {
        // Empty files are of no use, and are looked at all the same.
        let spec = GroupSpec::on_nodes(GroupId::new(group), [SENDER]);
        assert!(newest_fit(&shelf, &recovered, &spec, &maker).unwrap().is_none());
    }
    let mut side = Side::new(DeskOptions::default());
    side.desk.shelf = Arc::clone(&shelf);
    side.workshop = Workshop::new(shelf, Compression::None);
    for group in 0..900 {
        side.hear(taking(of_group(group, 5), b"state", 5));
    }
    side.work();
    assert_eq!(kept.names().unwrap().len(), 900, "one of each");
    side.hear(DeskInput::Forget(GROUP, GroupIncarnation::new(1)));
    side.work();
    assert_eq!(kept.names().unwrap().len(), 899);
    assert_eq!(listings.load(Relaxed), 1);
}

#[cfg(unix)]
#[test]
fn the_end_of_either_process_costs_a_fetch_less_than_eight_mebibytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = DeskOptions { pieces_ahead: 2, ..DeskOptions::default() };
    let start = || {
        let store = crate::snapshot::FileStore::open(dir.path()).unwrap();
        let shelf = Arc::new(Shelf::open(Arc::new(store)).unwrap());
        shelf.forget_strangers(|_| true).unwrap();
        let workshop = Workshop::new(Arc::clone(&shelf), Compression::None);
        Side {
            desk: Desk::new(shelf, None, options),
            workshop,
            store: MemoryStore::default(),
            now: Micros::ZERO,
        }
    };
    let large: Vec<u8> = (0..20_u32 << 20).map(|at| (at >> 12) as u8).collect();
    let mut sender = Side::new(options);
    sender.hear(taking(name(), &large, 0));
    sender.work();
    let mut pair = Pair { sender, receiver: start() };
    let mut open: std::collections::VecDeque<SnapshotPull> = pulls(&pair.fetch()).into();
    let answers = |bytes: usize| bytes.div_ceil(SNAPSHOT_DATA_MAX);
    for _ in 0..answers(17 << 20) {
        let chunk = pair.sender.desk.answer(open.pop_front().unwrap()).0;
        open.extend(pulls(&pair.deliver(chunk)));
    }
    // Both end and begin again: the sender has its snapshot still, the receiver what it got.
    let Side { workshop, store, now, .. } = pair.sender;
    let shelf = Arc::new(Shelf::open(Arc::new(store.clone())).unwrap());
    pair.sender = Side { desk: Desk::new(shelf, None, options), workshop, store, now };
    pair.receiver = start();
    let out = pair.fetch();
    assert_eq!(offsets(&pulls(&out)), [0], "which bytes they are is asked first");
    let (asked, input) = pair.finish(out);
    assert_eq!(asked, 1 + answers(large.len() + 200 - (16 << 20)));
    assert!(came(input) == large);
    assert_eq!(start().desk.shelf.of(GROUP, name().incarnation), [name()]);

    // One that is not wanted any more leaves nothing.
    let left = || std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left(), 1);
    let other = SnapshotName { index: LogIndex::new(name().index.get() + 1), ..name() };
    pair.sender.hear(taking(other, &large, 0));
    pair.sender.work();
    let asked = pulls(&pair.receiver.hear(DeskInput::Fetch(wanted(other))));
    let chunk = pair.sender.desk.answer(asked[0]).0;
    pair.deliver(chunk);
    assert_eq!(left(), 2);
    pair.receiver.hear(DeskInput::Abort(GROUP));
    assert_eq!(left(), 1);
}

/// Leaves entries in the log.
struct Keeper;

impl StateMachine for Keeper {
    fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) {}

    fn read(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn digest(&self) -> u64 {
        0
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        pieces.for_each(drop);
        Ok(())
    }

    fn keeps_entries(&self) -> bool {
        true
    }
}

fn entry(index: u64, term: u64) -> Entry {
    // Some do not fit into one answer.
    let bytes = if index.is_multiple_of(3) { 500_000 } else { 1_000 };
    Entry {
        index: LogIndex::new(index),
        term: Term::new(term),
        kind: EntryKind::Command,
        time: LogTime::new(index),
        payload: vec![(index * 10 + term) as u8; bytes].into(),
    }
}

/// A log in which the group has these terms, from its first entry on.
fn log_of(terms: &[u64]) -> MemoryLog {
    let mut log = MemoryLog::new();
    let mut write = GroupWrite::new(GROUP);
    write.create = Some(GroupCreate { incarnation: name().incarnation, spec: Bytes::new() });
    write.entries = (1..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
    log.append(&[write]).unwrap();
    log
}

/// Answers every question and makes durable what comes, until so many entries have come or all is
/// there; which entries came, and whether the snapshot did.
fn exchange(pair: &mut Pair, log: &mut MemoryLog, entries_max: usize) -> (Vec<u64>, bool) {
    let reader = log.reader();
    let maker: MakeMachine =
        Arc::new(move |spec| NewMachine::new(Box::new(Keeper), spec, Some(&reader)));
    let wanted = Wanted { maker, ..*wanted(name()) };
    let mut open: std::collections::VecDeque<DeskOutput> =
        pair.receiver.hear(DeskInput::Fetch(Box::new(wanted))).into();
    open.extend(pair.receiver.work());
    let mut came = Vec::new();
    while let Some(output) = open.pop_front() {
        match output {
            DeskOutput::Pull(SENDER, pull) => {
                let chunk = pair.sender.desk.answer(pull).0;
                open.extend(pair.deliver(chunk));
            }
            DeskOutput::Engine(GROUP, EngineInput::SnapshotEntries(name, entries)) => {
                let mut write = GroupWrite::new(GROUP);
                let bytes = entries.iter().map(Entry::cost).sum();
                came.extend(entries.iter().map(|entry| entry.index.get()));
                write.fetched = entries;
                log.append(&[write]).unwrap();
                if came.len() >= entries_max {
                    return (came, false);
                }
                open.extend(pair.receiver.hear(DeskInput::Stored(name, bytes)));
            }
            DeskOutput::Engine(GROUP, EngineInput::SnapshotFetched(_, restored)) => {
                let live = &restored.left.live;
                let held = log.reader().holding(GROUP, live).unwrap();
                assert!(held.missing.is_empty() && live.count() == 9);
                return (came, true);
            }
            _ => panic!("nothing else is said"),
        }
        open.extend(pair.receiver.work());
    }
    panic!("it neither came nor failed");
}

/// Of what a snapshot leaves in the log only what is lacking comes: another entry at the same index is
/// not the one that is named, and what came before a restart is there after it.
#[test]
fn entries_that_a_log_lacks_come_once_whatever_is_restarted() {
    for stop_after in [0, 1, 2, 4, 6] {
        let mut pair = Pair::new();
        let mut live = LiveEntries::default();
        for index in [1, 2, 3, 5, 6, 7, 8, 9, 10] {
            assert!(live.push(LogIndex::new(index), Term::new(5)));
        }
        pair.sender.desk.log = Some(log_of(&[5; 11]).reader());
        let DeskInput::Take(mut taken) = taking(name(), &state(0), 0) else {
            panic!("it is one");
        };
        taken.left = Left { live: Arc::new(live), bytes: 9 * 160_000 };
        pair.sender.hear(DeskInput::Take(taken));
        pair.sender.work();
        // It has entries 1 and 2, another one at 3, and nothing behind that.
        let mut log = log_of(&[5, 5, 4]);
        let mut came = Vec::new();
        if stop_after > 0 {
            let (before, done) = exchange(&mut pair, &mut log, stop_after);
            assert!(!done);
            came = before;
            let Side { store, now, .. } = pair.receiver;
            let shelf = Arc::new(Shelf::open(Arc::new(store.clone())).unwrap());
            let options = DeskOptions { pieces_ahead: 2, ..DeskOptions::default() };
            let desk = Desk::new(Arc::clone(&shelf), None, options);
            let workshop = Workshop::new(shelf, Compression::None);
            pair.receiver = Side { desk, workshop, store, now };
        }
        let (after, done) = exchange(&mut pair, &mut log, usize::MAX);
        assert!(done);
        came.extend(after);
        came.sort_unstable();
        assert_eq!(came, [3, 5, 6, 7, 8, 9, 10], "stopped after {stop_after}");
    }
}

/// Who does not hold an entry any more says so, and the leader may offer something newer.
#[test]
fn an_entry_that_is_gone_at_its_sender_ends_the_fetch() {
    let mut pair = Pair::new();
    pair.sender.desk.log = Some(log_of(&[5; 4]).reader());
    let mut live = LiveEntries::default();
    assert!(live.push(LogIndex::new(7), Term::new(5)));
    let mut entries = Entries::new(live, 1_000);
    let question = entries.next(1, PIECE).unwrap();
    let chunk = pair.sender.desk.answer(place_of(name(), question)).0;
    assert_eq!((chunk.total, chunk.data.len()), (0, 0));
    assert!(entries.take(chunk.total, chunk.sum, &chunk.data).is_err());
}

/// A sound snapshot names it, so a look at that finds nothing: the peer failed and was offered the same
/// for ever.
#[test]
fn an_entry_that_rots_at_its_sender_is_told_to_its_engine_once_a_minute() {
    const SEGMENT: &str = "log-00000000.seg";
    let disk = MemDisk::new();
    init_on(&disk, "test", SENDER, &InitOptions::default()).unwrap();
    let options = LogOptions { preparation: Preparation::OnDemand, ..LogOptions::default() };
    let mut opened = Log::open_on(disk.clone(), &Expected::default(), &options).unwrap();
    let mut write = GroupWrite::new(GROUP);
    write.create = Some(GroupCreate { incarnation: name().incarnation, spec: Bytes::new() });
    opened.writer.commit(&[write]).unwrap();
    for index in 1..=2 {
        let mut write = GroupWrite::new(GROUP);
        write.entries.push(entry(index, 5));
        opened.writer.commit(&[write]).unwrap();
    }
    let mut side = Side::new(DeskOptions::default());
    side.desk.log = Some(opened.reader.clone());
    let mut live = LiveEntries::default();
    assert!(live.push(LogIndex::new(1), Term::new(5)));
    let question = Entries::new(live, 1_000).next(1, PIECE).unwrap();
    let ask = |side: &mut Side| {
        let out = side.hear(DeskInput::Pull(some_connection(), place_of(name(), question)));
        let told = out.iter().filter(|output| match output {
            DeskOutput::Engine(GROUP, EngineInput::KeptUnreadable(life, index, term)) => {
                let named = (*index, *term) == (LogIndex::new(1), Term::new(5));
                *life == (GROUP, name().incarnation) && named
            }
            _ => false,
        });
        (told.count(), out.len())
    };
    assert_eq!(ask(&mut side), (0, 1));
    // The disk refuses for a moment, then for long: two minutes at an eighth of a second.
    let at = disk.read(SEGMENT).unwrap().windows(500).position(|all| all == [15; 500]).unwrap();
    let sound = disk.read(SEGMENT).unwrap();
    let times = |side: &mut Side, count: u32| {
        let mut told = 0;
        for _ in 0..count {
            told += ask(side).0;
            side.now = side.now.after(Duration::from_millis(125));
        }
        told
    };
    disk.lose_block(SEGMENT, at as u64);
    assert_eq!(times(&mut side, 200), 0, "25 s");
    disk.overwrite(SEGMENT, &sound);
    assert_eq!(times(&mut side, 160), 0, "it can be read again, for 20 s");
    disk.lose_block(SEGMENT, at as u64);
    assert_eq!(times(&mut side, 8 * 25), 0, "refused anew, and not for long");
    side.now = side.now.after(Duration::from_secs(10));
    assert_eq!(times(&mut side, 8 * 25), 0, "nobody asked for it meanwhile");
    assert_eq!(times(&mut side, 8 * 75), 2, "after 30 s, and a minute later");
    disk.overwrite(SEGMENT, &sound);
    side.now = side.now.after(VERIFY_PAUSE);
    // What is damaged is so at once.
    let mut rotten = sound;
    rotten[at] ^= 1;
    disk.overwrite(SEGMENT, &rotten);
    assert_eq!(times(&mut side, 8 * 70), 2);
}
