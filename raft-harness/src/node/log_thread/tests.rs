//! What the log thread does with logs that fail, fill up, hang or have something left to tidy.

use super::ahead::FOLLOWS;
use super::*;
use crate::persistence::FlushPolicy;
use bytes::Bytes;
use crossbeam::channel::{Sender, unbounded};
use raft_core::LogTime;
use raft_storage::{
    AppendInfo, CrashPolicy, Expected, Fault, InitOptions, Large, Log, LogOptions, LogReader,
    LogWriter, MemDisk, MemoryLog, Piece, Preparation, StoreId, SyncInfo, init_on,
};

/// Fails at its `fails_at`-th sync, or when it is idle.
struct Failing {
    log: MemoryLog,
    syncs: usize,
    fails_at: usize,
}

fn refused() -> LogError {
    let group = GroupId::new(1);
    LogError::TimeOutOfRange { group, index: Default::default(), time: LogTime::default() }
}

impl LogStore for Failing {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.syncs += 1;
        if self.syncs == self.fails_at { Err(refused()) } else { self.log.sync() }
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Err(refused())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

/// Has room for so many appends with entries, and then refuses so many before it has again; for
/// pieces of large entries it has none.
struct Cramped {
    log: MemoryLog,
    room: usize,
    refusals: usize,
}

impl LogStore for Cramped {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        if writes.iter().any(|write| !write.entries.is_empty()) {
            if self.room > 0 {
                self.room -= 1;
            } else if self.refusals > 0 {
                self.refusals -= 1;
                let source = io::ErrorKind::StorageFull.into();
                return Err(LogError::NoSegment { source });
            }
        }
        self.log.append(writes)
    }

    fn large(&self) -> Option<Large> {
        Some(Large { entry_bytes_min: 5_000, piece_bytes_max: 1_000 })
    }

    fn append_piece(&mut self, _: GroupId, _: &Bytes) -> Result<(AppendInfo, Piece), LogError> {
        Err(LogError::NoSegment { source: io::ErrorKind::StorageFull.into() })
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.log.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

fn group(id: u32) -> GroupId {
    GroupId::new(id)
}

fn create(id: u32) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.create = Some(raft_storage::GroupCreate {
        incarnation: raft_core::GroupIncarnation::new(1),
        spec: bytes::Bytes::new(),
    });
    write
}

/// Entries of 1,000 bytes.
fn entries(id: u32, first: u64, count: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    let entry = |index| Entry {
        index: raft_core::LogIndex::new(index),
        term: raft_core::Term::new(1),
        kind: raft_core::EntryKind::Command,
        time: LogTime::new(0),
        payload: vec![7; 1_000].into(),
    };
    write.entries = (first..first + count).map(entry).collect();
    write
}

fn vote(id: u32) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.hard_state = Some(raft_core::HardState::default());
    write
}

/// Each operation has the number of its group as its ticket.
fn batch(writes: Vec<GroupWrite>) -> LogBatch {
    let ticket = |write: &GroupWrite| {
        let seq = raft_core::PersistSeq::new(u64::from(write.group.get()));
        (write.group, PersistTicket::Op(seq))
    };
    LogBatch { shard: 0, tickets: writes.iter().map(ticket).collect(), writes }
}

fn work(store: impl LogStore + 'static) -> LogWork {
    LogWork::new(Box::new(store), Arc::new(LogLoad::new(u64::MAX)), 10_000)
}

fn groups_of(tickets: &[(GroupId, PersistTicket)]) -> Vec<u32> {
    tickets.iter().map(|(group, _)| group.get()).collect()
}

/// What a shard has heard: the groups of acknowledged operations, or of the disk.
fn heard_by(shard: &Inbox<ShardInput>) -> Vec<String> {
    let mut items = Vec::new();
    shard.drain(&mut items);
    let told = items.into_iter().map(|item| match item {
        ShardInput::Engine(EngineInput::Disk(space)) => format!("{space:?}"),
        ShardInput::Engine(EngineInput::Written(tickets)) => {
            format!("written {:?}", groups_of(&tickets))
        }
        ShardInput::Engine(EngineInput::Persisted(tickets)) => format!("{:?}", groups_of(&tickets)),
        _ => "something else".to_owned(),
    });
    told.collect()
}

#[test]
fn a_log_without_room_says_so_and_goes_on_when_there_is_some() {
    let links = links(1);
    let (send, receive) = unbounded();
    let _ = send.send(batch(vec![create(1)]));
    let _ = send.send(batch(vec![entries(1, 1, 1)]));
    let work = work(Cramped { log: MemoryLog::new(), room: 0, refusals: 2 });
    std::thread::scope(|scope| {
        let (links, shards) = (&links, &links.shards);
        scope.spawn(move || run(work, &receive, links));
        let mut heard = Vec::new();
        let mut told = Vec::new();
        while heard.len() < 4 {
            heard.extend(heard_by(&shards[0]));
            told.push(links.watch.without_room(links.clock.now()).is_some());
            std::thread::yield_now();
        }
        drop(send);
        told.dedup();
        assert!(told.contains(&true), "its status told of it: {told:?}");
        assert_eq!(heard, ["Full", "[1]", "Ample", "[1]"]);
    });
}

fn links(shards: usize) -> LogLinks {
    LogLinks {
        shards: (0..shards).map(|_| Arc::default()).collect(),
        counters: Arc::default(),
        watch: Arc::new(LogWatch::new(Duration::ZERO)),
        clock: Clock::new(),
        pace: LogPace::default(),
        failure: Arc::default(),
    }
}

/// Hangs in its sync until it is let go.
struct Hanging {
    log: MemoryLog,
    hangs: Sender<()>,
    go: Receiver<()>,
}

impl LogStore for Hanging {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        let _ = self.hangs.send(());
        let _ = self.go.recv();
        self.log.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

#[test]
fn a_disk_that_hangs_is_seen_by_others_and_so_is_that_it_goes_on() {
    let links = links(1);
    let (send, receive) = unbounded();
    let (hangs, hanging) = unbounded();
    let (go, goes) = unbounded();
    let _ = send.send(batch(vec![create(1)]));
    let work = work(Hanging { log: MemoryLog::new(), hangs, go: goes });
    std::thread::scope(|scope| {
        let links = &links;
        scope.spawn(move || run(work, &receive, links));
        hanging.recv().expect("the log syncs");
        let stalled = links.watch.stalled(links.clock.now());
        assert!(stalled.is_some(), "the bound of this test is zero");
        go.send(()).expect("it waits for this");
        let mut items = Vec::new();
        while items.is_empty() {
            links.shards[0].drain(&mut items);
            std::thread::yield_now();
        }
        // What it does after that takes a moment as well.
        while links.watch.stalled(links.clock.now()).is_some() {
            std::thread::yield_now();
        }
        drop(send);
    });
}

/// A log with room for so many more portions with entries, which was given some.
fn crammed(room: usize, writes: Vec<GroupWrite>) -> (LogWork, Vec<Arc<Inbox<ShardInput>>>) {
    let (_send, receive) = unbounded();
    let mut work = work(Cramped { log: MemoryLog::new(), room, refusals: 1 });
    work.take(batch(writes), &receive);
    (work, vec![Arc::default()])
}

fn finish(work: &mut LogWork, shards: &[Arc<Inbox<ShardInput>>]) -> Vec<String> {
    if let Some(Departure { flight, .. }) = work.depart(Ending::AtOnce).unwrap() {
        work.land(flight.land(), &Counters::default()).unwrap();
    }
    work.acknowledge(shards);
    heard_by(&shards[0])
}

#[test]
fn what_a_full_disk_took_is_acknowledged_and_the_rest_of_the_batch_waits() {
    let writes = vec![create(1), create(2), entries(1, 1, 8), entries(2, 1, 8), vote(1)];
    let (mut work, shards) = crammed(1, writes);
    let before = work.waiting.iter().map(|waiting| waiting.cost).sum();
    work.load.add(before);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Partly);
    // The vote follows entries of its group that are written, so it need not wait.
    assert_eq!(finish(&mut work, &shards), ["Full", "[1, 2, 1, 1]"]);
    assert!(work.has_waiting() && work.load.bytes() > 8_000 && work.load.bytes() < 9_500);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Ready);
    assert_eq!(finish(&mut work, &shards), ["Ample", "[2]"]);
    assert_eq!((work.has_waiting(), work.load.bytes()), (false, 0));
}

#[test]
fn votes_pass_entries_that_find_no_room_but_none_of_their_own_group() {
    let (mut work, shards) = crammed(0, vec![create(1), create(2)]);
    work.stage(&shards).unwrap();
    assert_eq!(finish(&mut work, &shards), ["[1, 2]"]);
    let (_send, receive) = unbounded();
    work.take(batch(vec![entries(1, 1, 1), vote(1), vote(2)]), &receive);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Partly);
    assert_eq!(finish(&mut work, &shards), ["Full", "[2]"]);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Ready);
    assert_eq!(finish(&mut work, &shards), ["Ample", "[1, 1]"]);
}

#[test]
fn a_large_entry_that_finds_no_room_holds_up_no_small_one() {
    let (mut work, shards) = crammed(100, vec![create(1), create(2)]);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Ready);
    assert_eq!(finish(&mut work, &shards), ["[1, 2]"]);
    let (_send, receive) = unbounded();
    let mut large = entries(1, 1, 1);
    large.entries[0].payload = vec![7; 6_000].into();
    work.take(batch(vec![large]), &receive);
    assert_eq!(work.stage(&shards).unwrap(), Staged::NoSegment);
    work.take(batch(vec![entries(2, 1, 1)]), &receive);
    assert_eq!(work.stage(&shards).unwrap(), Staged::Ready);
    assert_eq!(finish(&mut work, &shards), ["Full", "[2]"]);
    assert!(work.has_waiting(), "the large one is tried again");
}

#[test]
fn an_operation_that_is_too_large_is_divided_and_acknowledged_once_it_is_whole() {
    for room in 0..4 {
        let (mut work, shards) = crammed(room, vec![create(1), entries(1, 1, 35)]);
        assert_eq!(work.stage(&shards).unwrap(), Staged::Partly);
        assert_eq!(finish(&mut work, &shards), ["Full", "[1]"], "room for {room}");
        let reader = work.reader();
        let last = reader.last_index(group(1)).unwrap().get();
        assert!(last < 35 && (last > 0) == (room > 0), "{last} with room for {room}");
        assert_eq!(work.stage(&shards).unwrap(), Staged::Ready);
        assert_eq!(finish(&mut work, &shards), ["Ample", "[1]"]);
        assert_eq!(reader.last_index(group(1)).unwrap().get(), 35);
    }
}

#[test]
fn a_disk_without_room_is_asked_less_and_less_often() {
    let mut work = work(Cramped { log: MemoryLog::new(), room: 0, refusals: 0 });
    let pauses: Vec<_> = (0..8).map(|_| work.pause().as_millis()).collect();
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
    work.stage(&[]).unwrap();
    assert_eq!(work.pause(), PAUSE_FIRST, "once there was room, it begins anew");
}

/// Has so many pieces of housekeeping left, of which it looks after some later.
struct Untidy {
    log: MemoryLog,
    left: Vec<Tending>,
    /// What was asked of it.
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl LogStore for Untidy {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.log.append(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.asked.lock().push("sync");
        self.log.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        self.asked.lock().push("idle");
        Ok(())
    }

    fn tend(&mut self, idle: bool) -> Result<Tending, LogError> {
        self.asked.lock().push(if idle { "tend idle" } else { "tend" });
        Ok(self.left.pop().unwrap_or(Tending::Done))
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

#[test]
fn housekeeping_follows_each_sync_goes_on_while_nothing_comes_and_ends_with_a_seal() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let left = vec![Tending::Now, Tending::Soon, Tending::Now];
    let store = Untidy { log: MemoryLog::new(), left, asked: Arc::clone(&asked) };
    let (mut work, counters) = (work(store), Counters::default());
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    work.stage(&[]).unwrap();
    let departure = work.depart(Ending::AtOnce).unwrap().expect("something was staged");
    work.land(departure.flight.land(), &counters).unwrap();
    work.tend(&counters).unwrap();
    let mut waits = Vec::new();
    loop {
        waits.push(work.wait());
        if !work.rest(&counters).unwrap() {
            break;
        }
    }
    assert_eq!(waits, [Duration::ZERO, LOOK_AFTER, Duration::ZERO, IDLE_AFTER]);
    let expected = ["sync", "tend", "tend", "tend", "tend", "idle", "tend idle", "idle"];
    assert_eq!(*asked.lock(), expected);
    assert!(!work.rest(&counters).unwrap(), "there is nothing left to do");
    assert_eq!(asked.lock().len(), expected.len());
}

/// How often the shards hear of a batch, and of a failure.
fn heard(fails_at: usize) -> (usize, usize) {
    let links = links(2);
    let work = work(Failing { log: MemoryLog::new(), syncs: 0, fails_at });
    let (send, receive) = unbounded();
    let _ = send.send(batch(vec![create(1)]));
    // The sender lives on: an idle log is not an ending one.
    run(work, &receive, &links);
    let (mut persisted, mut failed) = (0, 0);
    assert!(links.failure.lock().is_some(), "whether shards hear of it or not");
    for shard in links.shards.iter() {
        let mut items = Vec::new();
        shard.drain(&mut items);
        for item in items {
            match item {
                ShardInput::Engine(EngineInput::Persisted(_)) => persisted += 1,
                ShardInput::LogFailed(_) => failed += 1,
                _ => {}
            }
        }
    }
    drop(send);
    (persisted, failed)
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_every_shard_is_told() {
    assert_eq!(heard(1), (0, 2));
}

#[test]
fn a_log_that_fails_when_idle_has_failed() {
    assert_eq!(heard(usize::MAX), (1, 2));
}

/// A log on a disk that loses what is not synced when the power goes.
fn on_disk(disk: &MemDisk) -> LogWriter<MemDisk> {
    let options = LogOptions { preparation: Preparation::OnDemand, ..LogOptions::default() };
    Log::open_on(disk.clone(), &Expected::default(), &options).expect("a sound log").writer
}

/// Hands in batches large enough that both threads of the log have to do with them, while the disk
/// fails at its `fails_at`-th operation. Returns how many groups were told of each, and what a power cut
/// leaves of each. The first group counts its entries once they are written, if it is said so.
fn flown(fails_at: Option<u64>, is_mixed: bool) -> (Vec<usize>, Vec<u64>) {
    const GROUPS: u32 = 5;
    const BATCHES: u64 = 40;
    let disk = MemDisk::new();
    let store = Some(StoreId::new(1));
    let node = raft_core::NodeId::new(1);
    init_on(&disk, "test", node, &InitOptions { store }).expect("an empty disk");
    let mut writer = on_disk(&disk);
    let creates: Vec<GroupWrite> = (1..=GROUPS).map(create).collect();
    writer.commit(&creates).expect("a sound disk");
    let reader = writer.reader();
    let links = links(1);
    let work = LogWork::new(Box::new(writer), Arc::new(LogLoad::new(u64::MAX)), 1 << 20);
    let (send, receive) = unbounded();
    if let Some(operation) = fails_at {
        disk.fail_at(operation, Fault::Error);
    }
    let mut told = vec![0; GROUPS as usize];
    std::thread::scope(|scope| {
        let links = &links;
        let log = scope.spawn(move || run(work, &receive, links));
        let mut is_over = false;
        let mut rounds = 0..BATCHES;
        let mut sent = 0;
        while !is_over && (sent > told.iter().sum() || !rounds.is_empty()) {
            // A few rounds ahead, so that there is always something to prepare.
            if sent < told.iter().sum::<usize>() + 20
                && let Some(round) = rounds.next()
            {
                for id in 1..=GROUPS {
                    let writes = vec![entries(id, 10 * round + 1, 10)];
                    let batch = if is_mixed && id == 1 { early(writes, 1) } else { batch(writes) };
                    sent += usize::from(send.send(batch).is_ok());
                }
            }
            is_over = log.is_finished();
            let mut items = Vec::new();
            links.shards[0].drain(&mut items);
            for item in items {
                let ShardInput::Engine(EngineInput::Persisted(tickets)) = item else { continue };
                for (group, _) in tickets {
                    let of = &mut told[group.get() as usize - 1];
                    *of += 1;
                    let durable = reader.durable_index(group).map_or(0, |index| index.get());
                    assert!(durable >= 10 * *of as u64, "{group}: {durable} of {of}");
                }
            }
            std::thread::yield_now();
        }
        drop(send);
    });
    let crashed = disk.crash(CrashPolicy::DropUnsynced);
    let reader = on_disk(&crashed).reader();
    let left = (1..=GROUPS).map(|id| reader.last_index(group(id)).map_or(0, |index| index.get()));
    (told, left.collect())
}

#[test]
fn what_two_threads_have_made_durable_together_is_told_in_order_and_survives() {
    for is_mixed in [false, true] {
        let (told, left) = flown(None, is_mixed);
        assert_eq!(told, [40; 5]);
        assert_eq!(left, [400; 5]);
    }
}

#[test]
fn a_disk_that_fails_under_the_second_thread_ends_the_log_and_nothing_is_told_that_is_lost() {
    for (fails_at, is_mixed) in [0, 1, 2, 4, 6].into_iter().flat_map(|at| [(at, false), (at, true)])
    {
        let (told, left) = flown(Some(fails_at), is_mixed);
        assert!(told.iter().sum::<usize>() < 200, "it failed: {told:?}");
        for (told, left) in told.iter().zip(&left) {
            assert!(
                *left >= 10 * *told as u64,
                "{told} batches were told of, {left} entries are left"
            );
        }
    }
}

/// Notes what is asked of it.
struct Noting {
    log: MemoryLog,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl LogStore for Noting {
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.asked.lock().push("append");
        self.log.append(writes)
    }

    fn append_cached(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.asked.lock().push("cached");
        self.log.append(writes)
    }

    fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        self.asked.lock().push("commit");
        self.log.commit(writes)
    }

    fn sync(&mut self) -> Result<SyncInfo, LogError> {
        self.asked.lock().push("sync");
        self.log.sync()
    }

    fn idle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        false
    }

    fn reader(&self) -> LogReader {
        self.log.reader()
    }
}

fn noting() -> (LogWork, Arc<Mutex<Vec<&'static str>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    (work(Noting { log: MemoryLog::new(), asked: Arc::clone(&asked) }), asked)
}

/// Of a group that counts its entries once they are written.
fn early(writes: Vec<GroupWrite>, interval_ms: u64) -> LogBatch {
    let interval = Duration::from_millis(interval_ms);
    let policy = FlushPolicy::Batch { threshold: 1_000, interval };
    let mut batch = batch(writes);
    for (_, ticket) in &mut batch.tickets {
        if let PersistTicket::Op(seq) = *ticket {
            *ticket = PersistTicket::Early(seq, policy);
        }
    }
    batch
}

/// What is to depart is made, and told of.
fn fly(work: &mut LogWork, shards: &[Arc<Inbox<ShardInput>>]) {
    if let Some(departure) = work.depart(Ending::AtOnce).unwrap() {
        work.land(departure.flight.land(), &Counters::default()).unwrap();
        work.acknowledge(shards);
    }
}

fn stage(work: &mut LogWork, shards: &[Arc<Inbox<ShardInput>>]) {
    assert_eq!(work.stage(shards).unwrap(), Staged::Ready);
    work.acknowledge_written(shards);
}

#[test]
fn what_counts_once_written_is_told_of_at_once_and_again_when_it_is_on_disk() {
    let (mut work, asked) = noting();
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1), create(2)]), &receive);
    stage(&mut work, &shards);
    assert!(heard_by(&shards[0]).is_empty(), "nobody is told of it before");
    fly(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["[1, 2]"]);
    asked.lock().clear();

    work.set_time(Micros::new(1_000));
    work.take(early(vec![entries(1, 1, 2)], 50), &receive);
    stage(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["written [1]"]);
    assert_eq!(work.sync_due(), Some(Micros::new(51_000)));
    assert_eq!(work.wait(), Duration::from_millis(50), "then it is looked after");
    assert!(work.depart(Ending::AtOnce).unwrap().is_none(), "and not before");
    assert_eq!(asked.lock().split_off(0), ["cached"]);

    // Whoever may not wait takes it along, and what comes with that is written before.
    work.take(batch(vec![vote(2)]), &receive);
    work.take(early(vec![entries(1, 3, 1)], 50), &receive);
    stage(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["written [1]"]);
    fly(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["[1, 1, 2]"]);
    assert_eq!(work.sync_due(), None);
    assert_eq!(asked.lock().split_off(0), ["cached", "cached", "sync"], "it follows the others");

    // Nobody comes, and its time does.
    work.take(early(vec![entries(1, 4, 1)], 50), &receive);
    stage(&mut work, &shards);
    work.set_time(Micros::new(51_000));
    fly(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["written [1]", "[1]"]);
    assert_eq!(asked.lock().split_off(0), ["cached", "sync"]);
}

#[test]
fn what_counts_once_written_waits_for_a_flight_and_not_for_one_of_its_own() {
    let (mut work, asked) = noting();
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1), create(2)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    work.take(batch(vec![vote(2)]), &receive);
    stage(&mut work, &shards);
    let flying = work.depart(Ending::AtOnce).unwrap().unwrap();
    heard_by(&shards[0]);
    asked.lock().clear();

    work.take(early(vec![entries(1, 1, 1)], 50), &receive);
    stage(&mut work, &shards);
    assert!(work.has_waiting() && !work.has_departing(), "it is not prepared for a sync");
    work.land(flying.flight.land(), &Counters::default()).unwrap();
    work.acknowledge(&shards);
    stage(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["[2]", "written [1]"]);

    // Beside others that have departed and that are to follow, it goes with those.
    work.set_time(Micros::new(0).after(FOLLOWS));
    work.take(batch(vec![vote(2)]), &receive);
    stage(&mut work, &shards);
    let flying = work.depart(Ending::AtOnce).unwrap().unwrap();
    work.take(batch(vec![vote(2)]), &receive);
    stage(&mut work, &shards);
    work.take(early(vec![entries(1, 2, 1)], 50), &receive);
    stage(&mut work, &shards);
    assert!(!work.has_waiting());
    work.land(flying.flight.land(), &Counters::default()).unwrap();
    work.acknowledge(&shards);
    fly(&mut work, &shards);
    assert_eq!(heard_by(&shards[0]), ["[1, 2]", "[2, 1]"]);
    // From then on nothing is prepared for a flight while some of its kind may come.
    assert!(asked.lock().ends_with(&["append", "append", "sync"]));
    work.take(batch(vec![vote(2)]), &receive);
    stage(&mut work, &shards);
    assert!(work.has_departing() && !work.has_staged());
    assert!(asked.lock().ends_with(&["cached"]));
}

#[test]
fn what_nobody_vouches_for_is_told_of_when_it_is_on_disk() {
    let (work, _) = noting();
    let mut work = work.vouched_by(Vouching::Later(Box::new(|| Err("no tmpfs".to_owned()))));
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    heard_by(&shards[0]);
    for index in 1..=2 {
        work.take(early(vec![entries(1, index, 1)], 50), &receive);
        stage(&mut work, &shards);
        assert!(heard_by(&shards[0]).is_empty());
        assert!(work.has_departing(), "it is not to wait");
        fly(&mut work, &shards);
        assert_eq!(heard_by(&shards[0]), ["[1]"]);
    }
}

/// Notes how far it was told to vouch.
struct Told(Arc<Mutex<Vec<Lsn>>>);

impl crate::node::vouching::Voucher for Told {
    fn vouch(&mut self, written: Lsn) -> io::Result<()> {
        self.0.lock().push(written);
        Ok(())
    }

    fn withdraw(self: Box<Self>) {}
}

#[test]
fn a_word_that_was_given_is_renewed_though_nothing_is_written_and_none_is_given_for_nothing() {
    let (work, _) = noting();
    let told = Arc::new(Mutex::new(Vec::new()));
    let voucher = Told(Arc::clone(&told));
    let mut work = work.vouched_by(Vouching::Later(Box::new(|| Ok(Box::new(voucher) as Box<_>))));
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    work.set_time(Micros::new(5_000_000));
    work.acknowledge_written(&shards);
    assert!(told.lock().is_empty(), "nobody has needed it");
    work.take(early(vec![entries(1, 1, 1)], 50), &receive);
    stage(&mut work, &shards);
    assert_eq!(told.lock().len(), 1);
    for at in 51..=80 {
        work.set_time(Micros::new(at * 100_000));
        work.acknowledge_written(&shards);
    }
    assert_eq!(told.lock().split_off(1), [Lsn::ZERO; 3], "a second each");
}

#[test]
fn no_sync_carries_much_more_than_what_may_wait() {
    let (mut work, asked) = noting();
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    stage(&mut work, &shards);
    fly(&mut work, &shards);
    asked.lock().clear();
    // The threshold of the policy is reached first here: 1,000 entries.
    for first in 0..300 {
        work.take(early(vec![entries(1, 8 * first + 1, 8)], 50), &receive);
    }
    stage(&mut work, &shards);
    assert!(work.has_waiting() && work.has_departing() && !work.has_staged());
    assert_eq!(asked.lock().len(), 125, "a portion each, and none after that");
    fly(&mut work, &shards);
    stage(&mut work, &shards);
    assert_eq!(asked.lock().len(), 251);
}

/// A node whose shards may hand in nothing more until something is on disk does not wait.
#[test]
fn a_log_that_has_been_given_all_it_takes_syncs_at_once() {
    let load = Arc::new(LogLoad::new(3_000));
    let log = Noting { log: MemoryLog::new(), asked: Arc::default() };
    let mut work = LogWork::new(Box::new(log), Arc::clone(&load), 10_000);
    let shards: Vec<Arc<Inbox<ShardInput>>> = vec![Arc::default()];
    let (_send, receive) = unbounded();
    work.take(batch(vec![create(1)]), &receive);
    stage(&mut work, &shards);
    load.add(1_000);
    fly(&mut work, &shards);
    work.take(early(vec![entries(1, 1, 2)], 50), &receive);
    stage(&mut work, &shards);
    assert!(!work.is_due());
    load.add(3_000);
    assert!(work.is_due());
}

#[test]
fn the_thread_flushes_when_the_time_has_come_and_not_before_it_has_told_of_what_is_written() {
    let links = links(1);
    let (send, receive) = unbounded();
    let _ = send.send(batch(vec![create(1)]));
    let (work, _) = noting();
    std::thread::scope(|scope| {
        let (links, shards) = (&links, &links.shards);
        scope.spawn(move || run(work, &receive, links));
        let mut heard = Vec::new();
        while heard.is_empty() {
            heard.extend(heard_by(&shards[0]));
            std::thread::yield_now();
        }
        let _ = send.send(early(vec![entries(1, 1, 2)], 1));
        while heard.len() < 3 {
            heard.extend(heard_by(&shards[0]));
            std::thread::yield_now();
        }
        drop(send);
        assert_eq!(heard, ["[1]", "written [1]", "[1]"]);
    });
}

mod beside;
mod large;
mod portions;
