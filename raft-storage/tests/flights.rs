//! Batches that are staged while others are in the air: in whatever order things happen, a power cut
//! leaves all that has landed and nothing that has not departed.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;

use common::*;
use raft_core::{HardState, LogIndex, ReplicaId, Term, Tombstone};
use raft_storage::{
    CrashPolicy, DiskOp, Ending, Fault, Flight, GroupWrite, LogError, LogWriter, MemDisk, Opened,
};

const GROUPS: u32 = 3;

fn arc(writes: Vec<GroupWrite>) -> Arc<Vec<GroupWrite>> {
    Arc::new(writes)
}

/// Somebody who stages and lets depart as a seed says.
struct Pilot {
    random: Random,
    /// After each part of an operation that was staged, the first one before all.
    states: Vec<Model>,
    /// How many of them are durable, are read, and have departed.
    landed: usize,
    read: usize,
    departed: usize,
    air: VecDeque<(Flight, Ending, usize)>,
    ends: Vec<u64>,
    /// Times something was staged while something was in the air, or written while a sync was.
    overlaps: usize,
    beside: usize,
}

impl Pilot {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            states: vec![Model::default()],
            landed: 0,
            read: 0,
            departed: 0,
            air: VecDeque::new(),
            ends: vec![0; GROUPS as usize],
            overlaps: 0,
            beside: 0,
        }
    }

    fn staged(&self) -> usize {
        self.states.len() - 1
    }

    fn batch(&mut self) -> Vec<GroupWrite> {
        let mut writes = Vec::new();
        for _ in 0..=self.random.below(3) {
            let at = self.random.below(u64::from(GROUPS)) as usize;
            let id = at as u32 + 1;
            let mut write =
                if self.ends[at] == 0 { create(id) } else { GroupWrite::new(group(id)) };
            let last = self.ends[at];
            match self.random.below(8) {
                0 if last > 4 => write.compact = Some(compaction(last - 2, 1, 3)),
                1 if last > 4 && write.create.is_none() => {
                    write.truncate_from = Some(LogIndex::new(last));
                    write.entries = vec![entry(last, 2, 40)];
                }
                _ => {
                    let bytes = [0, 40, 400, 5_000][self.random.below(4) as usize];
                    self.ends[at] += 1;
                    write.entries = vec![entry(self.ends[at], 1, bytes)];
                }
            }
            // A frame that is full may end between two parts of an operation.
            let mut parts = vec![GroupWrite::new(write.group)];
            if write.create.is_some() || write.truncate_from.is_some() {
                parts[0].create.clone_from(&write.create);
                parts[0].truncate_from = write.truncate_from;
                parts.push(GroupWrite::new(write.group));
            }
            if let Some(last) = parts.last_mut() {
                last.entries.clone_from(&write.entries);
                last.compact.clone_from(&write.compact);
            }
            for part in parts {
                let mut state = self.states[self.states.len() - 1].clone();
                state.apply(&[part]);
                self.states.push(state);
            }
            writes.push(write);
        }
        writes
    }

    /// Does something. What cannot be taken back is counted before it is done.
    fn turn(&mut self, writer: &mut LogWriter<MemDisk>) -> Result<(), LogError> {
        match self.random.below(16) {
            8..=10 => {
                let (states, departed, ends) =
                    (self.states.len(), self.departed, self.ends.clone());
                let batch = self.batch();
                self.departed = self.staged();
                let end = writer.end_lsn();
                match writer.append_cached(&batch) {
                    Ok(_) => {
                        self.read = self.staged();
                        self.beside += usize::from(!self.air.is_empty());
                    }
                    Err(LogError::UnderWay { flights }) => {
                        assert_eq!(flights, self.air.len());
                        self.states.truncate(states);
                        (self.departed, self.ends) = (departed, ends);
                        if writer.end_lsn() > end {
                            // What was staged went before.
                            (self.departed, self.read) = (self.staged(), self.staged());
                        }
                    }
                    Err(failure) => return Err(failure),
                }
            }
            11 | 12 if self.air.len() < 3 => {
                let flight = writer.depart_sync()?;
                self.departed = self.staged();
                self.air.push_back((flight, Ending::Sync, self.departed));
            }
            0..=2 => {
                let batch = arc(self.batch());
                self.overlaps += usize::from(!self.air.is_empty());
                writer.stage(&batch)?;
            }
            3 if self.air.len() < 3 => {
                let ending = match self.random.below(5) {
                    0 | 1 => Ending::AtOnce,
                    2 | 3 => Ending::Sync,
                    _ => Ending::Written,
                };
                let flight = writer.depart(ending)?;
                self.departed = self.staged();
                self.air.push_back((flight, ending, self.departed));
            }
            4 | 5 => {
                if let Some((flight, ..)) = self.air.front_mut() {
                    flight.step();
                }
            }
            6 | 13 | 14 => {
                if let Some((flight, ending, upto)) = self.air.pop_front() {
                    let is_sync = flight.is_sync();
                    let landing = flight.land();
                    let syncs = ending != Ending::Written;
                    self.landed = if landing.is_safe() && syncs { upto } else { self.landed };
                    writer.land(landing)?;
                    self.read = self.read.max(upto);
                    assert!(is_sync || !syncs || writer.durable_lsn() >= writer.end_lsn());
                    self.states[self.read].is_read_by(&writer.reader());
                }
            }
            _ => {
                if self.air.is_empty() && self.random.below(2) == 0 {
                    self.departed = self.staged();
                    writer.sync()?;
                    writer.idle()?;
                    self.landed = self.staged();
                    self.read = self.landed;
                } else {
                    writer.tend(self.random.below(4) == 0)?;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_what_has_landed_and_nothing_that_has_not_departed() {
    let (mut overlaps, mut beside) = (0, 0);
    for seed in 0..30 {
        // Until nothing fails any more.
        for operation in (seed % 3..).step_by(3) {
            let disk = new_disk();
            disk.fail_at(operation, Fault::PowerCut);
            let Ok(Opened { mut writer, .. }) = open_with(&disk, &tiny()) else { continue };
            let mut pilot = Pilot::new(seed);
            let failed = (0..120).any(|_| pilot.turn(&mut writer).is_err());
            overlaps += pilot.overlaps;
            beside += pilot.beside;
            for policy in [
                CrashPolicy::DropUnsynced,
                CrashPolicy::KeepAll,
                CrashPolicy::RandomSectors { seed: operation },
            ] {
                let crashed = disk.crash(policy);
                let opened = open_with(&crashed, &tiny()).unwrap_or_else(|error| {
                    panic!("seed {seed}, operation {operation}, {policy:?}: {error:?}")
                });
                let found = Model::of(&opened);
                assert!(
                    pilot.states[pilot.landed..=pilot.departed].contains(&found),
                    "seed {seed}, operation {operation}, {policy:?}: {} landed and {} departed",
                    pilot.landed,
                    pilot.departed
                );
            }
            if !failed {
                break;
            }
        }
    }
    assert!(overlaps > 5_000 && beside > 200, "{overlaps} {beside}");
}

#[test]
fn nobody_reads_what_has_not_landed_and_batches_share_a_flight() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    let reader = writer.reader();
    writer.commit(&[create(1), append(1, 1, 2, 1)]).unwrap();
    let (operations, syncs) = (disk.operations(), disk.syncs());
    for first in 3..10 {
        writer.stage(&arc(vec![append(1, first, 1, 1)])).unwrap();
    }
    assert_eq!(disk.operations(), operations, "nothing was asked of the disk");
    let flight = writer.depart(Ending::AtOnce).unwrap();
    assert_eq!(flight.info().frames, 1, "they are one frame");
    writer.stage(&arc(vec![append(1, 10, 1, 1)])).unwrap();
    let landing = flight.land();
    assert_eq!(disk.syncs() - syncs, 1);
    assert_eq!(reader.last_index(group(1)), Some(LogIndex::new(2)));
    writer.land(landing).unwrap();
    assert_eq!(reader.last_index(group(1)), Some(LogIndex::new(9)));
    assert_eq!(reader.durable_index(group(1)), Some(LogIndex::new(9)));
    assert_eq!(reader.term(group(1), LogIndex::new(10)), None);
    // A call that writes by itself takes along what was staged.
    writer.sync().unwrap();
    assert_eq!(reader.durable_index(group(1)), Some(LogIndex::new(10)));
    drop(writer);
    let opened = open(&disk.crash(CrashPolicy::DropUnsynced));
    assert_eq!(opened.groups[&group(1)].last_index, LogIndex::new(10));
}

#[test]
fn what_is_refused_leaves_what_was_staged() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.stage(&arc(vec![create(1), append(1, 1, 2, 1)])).unwrap();
    let gap = writer.stage(&arc(vec![append(1, 3, 1, 1), append(1, 7, 1, 1)]));
    assert!(matches!(gap, Err(LogError::Gap { .. })), "{gap:?}");
    writer.stage(&arc(vec![append(1, 3, 1, 2)])).unwrap();
    let landing = writer.depart(Ending::Sync).unwrap().land();
    writer.land(landing).unwrap();
    assert_eq!(writer.reader().last_index(group(1)), Some(LogIndex::new(3)));
    assert_eq!(writer.reader().term(group(1), LogIndex::new(3)), Some(Term::new(2)));
}

#[test]
fn a_call_that_writes_by_itself_waits_until_all_have_landed() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.commit(&[create(1)]).unwrap();
    writer.stage(&arc(vec![append(1, 1, 1, 1)])).unwrap();
    let flight = writer.depart(Ending::AtOnce).unwrap();
    let under_way =
        |result: Result<(), LogError>| matches!(result, Err(LogError::UnderWay { flights: 1 }));
    assert!(under_way(writer.append(&[append(1, 2, 1, 1)]).map(drop)));
    assert!(under_way(writer.commit(&[append(1, 2, 1, 1)]).map(drop)));
    assert!(under_way(writer.sync().map(drop)) && under_way(writer.idle()));
    writer.tend(true).unwrap();
    writer.land(flight.land()).unwrap();
    writer.append(&[append(1, 2, 1, 1)]).unwrap();
    writer.close().unwrap();
}

#[test]
fn after_a_failure_nothing_that_departed_later_is_written() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.commit(&[create(1)]).unwrap();
    let mut flights = Vec::new();
    for index in 1..4 {
        writer.stage(&arc(vec![append(1, index, 1, 1)])).unwrap();
        flights.push(writer.depart(Ending::AtOnce).unwrap());
    }
    disk.fail_at(0, Fault::Error);
    let mut flights = flights.into_iter().map(Flight::land);
    let first = flights.next().unwrap();
    let operations = disk.operations();
    let later: Vec<_> = flights.collect();
    assert!(!first.is_safe() && later.iter().all(|landing| !landing.is_safe()));
    assert_eq!(disk.operations(), operations);
    let failed = writer.land(first);
    assert!(matches!(failed, Err(LogError::Io { op: DiskOp::Commit, .. })), "{failed:?}");
    for landing in later {
        assert!(matches!(writer.land(landing), Err(LogError::Poisoned { .. })));
    }
    let staged = writer.stage(&arc(vec![append(1, 4, 1, 1)]));
    assert!(matches!(staged, Err(LogError::Poisoned { .. })), "{staged:?}");
}

#[test]
fn no_flight_overtakes_another_and_one_that_is_lost_stops_those_behind_it() {
    for lost in [false, true] {
        let disk = new_disk();
        let mut writer = open(&disk).writer;
        writer.commit(&[create(1)]).unwrap();
        let mut depart = |index| {
            writer.stage(&arc(vec![append(1, index, 1, 1)])).unwrap();
            writer.depart(Ending::AtOnce).unwrap()
        };
        let (first, second) = (depart(1), depart(2));
        if lost {
            drop(first);
        }
        let operations = disk.operations();
        let landing = second.land();
        assert!(!landing.is_safe());
        assert_eq!(disk.operations(), operations);
        assert!(matches!(writer.land(landing), Err(LogError::Io { .. })));
        assert!(writer.is_poisoned());
    }
}

#[test]
fn a_flight_that_only_writes_is_durable_with_the_next_one_that_syncs() {
    for ending in [Ending::AtOnce, Ending::Sync] {
        let disk = new_disk();
        let mut writer = open(&disk).writer;
        writer.commit(&[create(1), append(1, 1, 1, 1)]).unwrap();
        let (synced, syncs) = (writer.durable_lsn(), disk.syncs());
        for index in 2..=3 {
            writer.stage(&arc(vec![append(1, index, 1, 1)])).unwrap();
            let landing = writer.depart(Ending::Written).unwrap().land();
            assert!(landing.is_safe());
            writer.land(landing).unwrap();
        }
        let reader = writer.reader();
        assert_eq!(reader.last_index(group(1)), Some(LogIndex::new(3)), "it is read");
        assert_eq!(reader.durable_index(group(1)), Some(LogIndex::new(1)), "and not promised");
        assert_eq!((writer.durable_lsn(), disk.syncs()), (synced, syncs));
        let last = |disk: &MemDisk| {
            let Opened { reader, .. } = open(&disk.crash(CrashPolicy::DropUnsynced));
            reader.last_index(group(1)).map(LogIndex::get)
        };
        assert_eq!(last(&disk), Some(1));
        writer.stage(&arc(vec![append(1, 4, 1, 1)])).unwrap();
        let landing = writer.depart(ending).unwrap().land();
        writer.land(landing).unwrap();
        assert_eq!(reader.durable_index(group(1)), Some(LogIndex::new(4)));
        assert_eq!(last(&disk), Some(4), "{ending:?} covers what was only written before");
        // Nor does anything have to follow: a sync by itself does as well.
        writer.stage(&arc(vec![append(1, 5, 1, 1)])).unwrap();
        let landing = writer.depart(Ending::Written).unwrap().land();
        writer.land(landing).unwrap();
        writer.sync().unwrap();
        assert_eq!(last(&disk), Some(5));
    }
}

/// Entries of group 1 after a power cut.
fn left(disk: &MemDisk, policy: CrashPolicy) -> u64 {
    let opened = open_with(&disk.crash(policy), &options());
    let opened = opened.unwrap_or_else(|error| panic!("{policy:?}: {error:?}"));
    opened.groups[&group(1)].last_index.get()
}

#[test]
fn what_is_written_beside_a_sync_is_read_and_waits_for_the_next_one() {
    for steps_first in [true, false] {
        let disk = new_disk();
        let mut writer = open(&disk).writer;
        let reader = writer.reader();
        let durable = || reader.durable_index(group(1)).map(LogIndex::get);
        writer.commit(&[create(1), append(1, 1, 1, 1)]).unwrap();
        writer.append_cached(&[append(1, 2, 1, 1)]).unwrap();
        let begin = writer.end_lsn();
        let mut flight = writer.depart_sync().unwrap();
        assert!(flight.is_sync());
        if steps_first {
            // The disk covers nothing that is written later.
            flight.step();
        }
        for index in 3..=5 {
            writer.append_cached(&[append(1, index, 1, 1)]).unwrap();
            assert_eq!(reader.last_index(group(1)), Some(LogIndex::new(index)));
        }
        assert_eq!(durable(), Some(1), "nothing has landed");
        writer.land(flight.land()).unwrap();
        assert_eq!((durable(), writer.durable_lsn()), (Some(2), begin));
        if steps_first {
            assert_eq!(left(&disk, CrashPolicy::DropUnsynced), 2);
        }
        // A write that is made durable by itself would not take along what lies before it.
        writer.stage(&arc(vec![append(1, 6, 1, 1)])).unwrap();
        let landing = writer.depart(Ending::AtOnce).unwrap().land();
        writer.land(landing).unwrap();
        assert_eq!((durable(), writer.durable_lsn()), (Some(6), writer.end_lsn()));
        assert_eq!(left(&disk, CrashPolicy::DropUnsynced), 6);
    }
}

#[test]
fn frames_beside_a_sync_promise_nothing_of_it() {
    let mut kept = [0_usize; 8];
    for seed in 0..200 {
        let disk = new_disk();
        let mut writer = open(&disk).writer;
        writer.commit(&[create(1), append(1, 1, 1, 1)]).unwrap();
        for index in 2..=4 {
            writer.append_cached(&[append(1, index, 1, 1)]).unwrap();
        }
        // Whatever becomes of it, a frame behind a hole is no damage.
        let flight = writer.depart_sync().unwrap();
        for index in 5..=7 {
            writer.append_cached(&[append(1, index, 1, 1)]).unwrap();
        }
        let last = left(&disk, CrashPolicy::RandomSectors { seed });
        assert!((1..=7).contains(&last));
        kept[last as usize] += 1;
        // Nor is it when the sync has landed, and they hold what was before it.
        writer.land(flight.land()).unwrap();
        for index in 8..=9 {
            writer.append_cached(&[append(1, index, 1, 1)]).unwrap();
        }
        assert!(left(&disk, CrashPolicy::RandomSectors { seed }) >= 4);
    }
    assert!(kept[1..4].iter().all(|count| *count > 0), "{kept:?}");
}

#[test]
fn no_segment_begins_beside_a_sync() {
    let disk = new_disk();
    let mut writer = open_with(&disk, &tiny()).unwrap().writer;
    writer.commit(&[create(1)]).unwrap();
    let (mut index, mut waited) = (0, 0);
    for _ in 0..40 {
        index += 1;
        writer.append_cached(&[append(1, index, 1, 1)]).unwrap();
        let flight = writer.depart_sync().unwrap();
        for _ in 0..3 {
            match writer.append_cached(&[append(1, index + 1, 1, 1)]) {
                Ok(_) => index += 1,
                Err(LogError::UnderWay { flights: 1 }) => waited += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        writer.land(flight.land()).unwrap();
    }
    assert!(waited > 5, "{waited}");
    writer.sync().unwrap();
    assert_eq!(left(&disk, CrashPolicy::DropUnsynced), index);
}

#[test]
fn beside_other_flights_nothing_is_written_and_a_sync_takes_along_what_was_staged() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.commit(&[create(1)]).unwrap();
    for (index, ending) in [(1, Ending::AtOnce), (2, Ending::Written)] {
        writer.stage(&arc(vec![append(1, index, 1, 1)])).unwrap();
        let flight = writer.depart(ending).unwrap();
        assert!(!flight.is_sync());
        let refused = writer.append_cached(&[append(1, index + 1, 1, 1)]);
        assert!(matches!(refused, Err(LogError::UnderWay { flights: 1 })), "{refused:?}");
        writer.land(flight.land()).unwrap();
    }
    // Also what is written in between, as it lies behind it.
    let first = writer.depart_sync().unwrap();
    writer.stage(&arc(vec![append(1, 3, 1, 1)])).unwrap();
    writer.append_cached(&[append(1, 4, 1, 1)]).unwrap();
    writer.stage(&arc(vec![append(1, 5, 1, 1)])).unwrap();
    let second = writer.depart_sync().unwrap();
    assert!(first.is_sync() && !second.is_sync());
    writer.land(first.land()).unwrap();
    assert_eq!(left(&disk, CrashPolicy::KeepAll), 4);
    writer.land(second.land()).unwrap();
    assert_eq!(left(&disk, CrashPolicy::DropUnsynced), 5);
}

#[test]
fn a_sync_that_fails_ends_the_log_whatever_was_written_beside_it() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.commit(&[create(1), append(1, 1, 1, 1)]).unwrap();
    writer.append_cached(&[append(1, 2, 1, 1)]).unwrap();
    let mut first = writer.depart_sync().unwrap();
    disk.fail_at(0, Fault::Error);
    assert!(!first.step());
    writer.append_cached(&[append(1, 3, 1, 1)]).unwrap();
    let second = writer.depart_sync().unwrap();
    let syncs = disk.syncs();
    let (first, second) = (first.land(), second.land());
    assert!(!first.is_safe() && !second.is_safe(), "the next one is not made");
    assert_eq!(disk.syncs(), syncs);
    let failed = writer.land(first);
    assert!(matches!(failed, Err(LogError::Io { op: DiskOp::Sync, .. })), "{failed:?}");
    assert!(matches!(writer.land(second), Err(LogError::Poisoned { .. })));
    let refused = writer.append_cached(&[append(1, 4, 1, 1)]);
    assert!(matches!(refused, Err(LogError::Poisoned { .. })), "{refused:?}");
    assert_eq!(writer.reader().durable_index(group(1)), Some(LogIndex::new(1)));
}

#[test]
fn the_directory_is_locked_until_the_last_flight_is_gone() {
    let disk = new_disk();
    let mut writer = open(&disk).writer;
    writer.stage(&arc(vec![create(1)])).unwrap();
    let flight = writer.depart(Ending::AtOnce).unwrap();
    drop(writer);
    assert!(open_with(&disk, &options()).is_err(), "somebody may still write");
    drop(flight.land());
    assert!(open(&disk).groups.contains_key(&group(1)), "it was durable, whoever heard of it");
}

/// Entries of groups 2 to 14, which lie alone in segments that are to be emptied; the checkpoint that
/// found them is made.
fn log_to_be_emptied(disk: &MemDisk, model: &mut Model, in_pieces: bool) -> LogWriter<MemDisk> {
    let Opened { mut writer, .. } = open_with(disk, &tiny()).unwrap();
    let creates: Vec<_> = (1..=14).map(create).collect();
    writer.commit(&creates).unwrap();
    model.apply(&creates);
    for round in 0..130 {
        let mut batch = vec![append(1, round * 4 + 1, 4, 1)];
        if round % 10 == 0 {
            let id = 2 + (round / 10) as u32;
            let mut write = append(id, 1, 3, 1);
            model.apply(&[write.clone()]);
            if in_pieces {
                for entry in write.entries.clone() {
                    let half = entry.payload.len() / 2;
                    let halves = [entry.payload.slice(..half), entry.payload.slice(half..)];
                    let mut pieces = Vec::new();
                    for half in halves {
                        pieces.push(writer.append_piece(group(id), &half).unwrap().1);
                    }
                    write.put_in_pieces(entry.index, &pieces);
                }
            }
            writer.commit(&[write]).unwrap();
        }
        if round > 0 {
            let mut compact = GroupWrite::new(group(1));
            compact.compact = Some(compaction(round * 4, 1, 3));
            batch.push(compact);
        }
        writer.commit(&batch).unwrap();
        model.apply(&batch);
    }
    for _ in 0..10_000 {
        if writer.stats().checkpoints > 0 {
            break;
        }
        writer.tend(true).unwrap();
    }
    assert_eq!(writer.stats().checkpoints, 1);
    writer
}

/// What a group loses something by.
type Loss<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<GroupWrite>);

#[test]
fn what_is_about_to_go_is_not_moved_behind_its_end() {
    let compact = |id| {
        let mut write = GroupWrite::new(group(id));
        write.compact = Some(compaction(2, 1, 3));
        vec![write]
    };
    let truncate = |id| {
        let mut write = GroupWrite::new(group(id));
        write.truncate_from = Some(LogIndex::new(2));
        write.entries = vec![entry(2, 2, 40)];
        vec![write]
    };
    let install = |id| {
        let mut write = GroupWrite::new(group(id));
        write.install = Some(snapshot(40, 2, 3));
        vec![write]
    };
    let destroy = |id| {
        let mut write = GroupWrite::new(group(id));
        let replica = ReplicaId::new(1);
        let hard_state = HardState::default();
        write.destroy = Some(Tombstone { group: group(id), replica, hard_state });
        vec![write]
    };
    let create_anew = |id| {
        let mut writes = destroy(id);
        writes.push(create_again(id, 2));
        writes
    };
    let kinds: [Loss<'_>; 5] = [
        ("compact", &compact),
        ("truncate", &truncate),
        ("install", &install),
        ("destroy", &destroy),
        ("create anew", &create_anew),
    ];
    for ((name, kind), in_pieces) in
        kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)])
    {
        let (disk, mut model) = (new_disk(), Model::default());
        let mut writer = log_to_be_emptied(&disk, &mut model, in_pieces);
        if in_pieces {
            // Of the first one a piece is moved, and the others are known.
            writer.tend(true).unwrap();
            assert!(writer.stats().bytes_moved > 0);
        }
        // All but one of them change; those in pieces all do, as one of them is moved at a time.
        let first = if in_pieces { 2 } else { 3 };
        for staged in (first..=14).map(kind) {
            for write in staged {
                model.apply(std::slice::from_ref(&write));
                writer.stage(&arc(vec![write])).unwrap();
            }
        }
        let before = writer.stats().bytes_moved;
        let first = writer.depart(Ending::AtOnce).unwrap();
        writer.tend(true).unwrap();
        assert_eq!(writer.stats().bytes_moved > before, !in_pieces, "{name}: what stays is moved");
        let second = writer.depart(Ending::AtOnce).unwrap();
        writer.land(first.land()).unwrap();
        writer.land(second.land()).unwrap();
        model.is_read_by(&writer.reader());
        for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll] {
            let opened = open_with(&disk.crash(policy), &tiny());
            let opened = opened.unwrap_or_else(|error| panic!("{name}, {policy:?}: {error:?}"));
            assert_eq!(Model::of(&opened), model, "{name}, {policy:?}");
        }
        // And later nothing of them is forgotten.
        for _ in 0..1_000 {
            writer.tend(true).unwrap();
        }
        model.is_read_by(&writer.reader());
    }
}
