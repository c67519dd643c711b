//! Single bits that flip at rest, and blocks that cannot be read, anywhere in random logs: each is seen, or it
//! changes nothing.
//!
//! `cargo xtask flips` runs more of them than a test run has time for.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use raft_core::{Entry, GroupId, HardState, LogIndex, Promise, ReplicaId, Term};
use raft_storage::{
    CrashPolicy, Disk, GroupWrite, LiveEntries, Log, LogOptions, MemDisk, OnDamage, OpenError,
    Opened, Preparation, ReadError, Tending,
};

/// So many bits of each log are flipped, one at a time.
const FLIPS: u64 = 40;
const GROUPS: u32 = 4;

/// A log and all that its groups ever were.
struct History {
    disk: MemDisk,
    options: LogOptions,
    past: BTreeMap<GroupId, Vec<ModelGroup>>,
    newest: Model,
}

/// Index and term say which entry it is, and so how long.
fn length(index: u64, term: u64) -> usize {
    Random(index << 32 | term).below(900) as usize
}

fn write_history(random: &mut Random) -> History {
    let checkpoint_bytes = (16 << 10) << random.below(5);
    let options = LogOptions { checkpoint_bytes, ..tiny() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let mut model = Model::default();
    let mut past: BTreeMap<GroupId, Vec<ModelGroup>> = BTreeMap::new();
    let mut terms = BTreeMap::new();
    for round in 0..20 + random.below(60) {
        let mut batch = Vec::new();
        for id in 1..=GROUPS {
            let Some(known) = model.groups.get(&group(id)) else {
                if round == 0 || random.below(8) == 0 {
                    let mut write = create(id);
                    write.hard_state = Some(HardState { term: Term::new(1), vote: None });
                    batch.push(write);
                }
                continue;
            };
            if random.below(3) > 0 {
                continue;
            }
            let term: &mut u64 = terms.entry(id).or_insert(1);
            let mut write = GroupWrite::new(group(id));
            if random.below(4) == 0 {
                *term += random.below(3);
                let vote = (random.below(2) == 0).then(|| ReplicaId::new(1 + random.below(3)));
                write.hard_state = Some(HardState { term: Term::new(*term), vote });
            }
            let base = known.base.index.get();
            let mut last = base + known.entries.len() as u64;
            if last > base && random.below(6) == 0 {
                last -= random.below(last - base).min(3) + 1;
                write.truncate_from = Some(LogIndex::new(last + 1));
            }
            let count = random.below(4);
            let begins = *term;
            let of_term = |index| entry(index, begins, length(index, begins));
            write.entries = (last + 1..=last + count).map(of_term).collect();
            if write.truncate_from.is_none() && last > base + 4 && random.below(6) == 0 {
                let upto = base + 1 + random.below(last - base - 3);
                let term = known.entries[(upto - base - 1) as usize].term.get();
                write.compact = Some(compaction(upto, term, 3));
                let held = known.held(LogIndex::new(upto));
                let mut live = LiveEntries::default();
                for entry in held.into_iter().filter(|_| random.below(3) == 0) {
                    // What was fetched of a later term than what follows is none of this log.
                    let _ = live.push(entry.index, entry.term);
                }
                write.live = Some(Arc::new(live));
            }
            if random.below(10) == 0 {
                // What the same write keeps may be one of them.
                write.drop_fetched = random.below(3) == 0 && write.live.is_none();
                // Of a snapshot that is on its way here.
                let term = *term + 10;
                let ahead = (0..3).map(|step| last + count + 20 + 7 * step);
                let ahead = ahead.map(|index| entry(index, term, length(index, term)));
                write.fetched = ahead.filter(|entry| !entry.payload.is_empty()).collect();
            }
            batch.push(write);
        }
        opened.writer.append(&batch).unwrap();
        opened.writer.sync().unwrap();
        model.apply(&batch);
        for write in &batch {
            let state = model.groups[&write.group].clone();
            past.entry(write.group).or_default().push(state);
        }
        while opened.writer.tend(false).unwrap() != Tending::Done {}
    }
    match random.below(2) {
        0 => opened.writer.close().unwrap(),
        _ => {
            opened.writer.idle().unwrap();
            drop(opened);
        }
    }
    History { disk: disk.crash(CrashPolicy::KeepAll), options, past, newest: model }
}

/// Reads every entry; the first group of which one cannot be read, and whether it is one of its log.
fn unreadable(opened: &Opened<MemDisk>) -> Option<(GroupId, Place)> {
    let corrupt = |read: Result<(), ReadError>| match read {
        Ok(()) => false,
        Err(error) if error.is_damage() => true,
        Err(other) => panic!("{other:?}"),
    };
    opened.groups.iter().find_map(|(id, found)| {
        let reader = &opened.reader;
        let log = reader.entries(*id, found.first_index, found.last_index, u64::MAX);
        let beside = |(index, term)| corrupt(reader.entry(*id, index, term).map(drop));
        if corrupt(log.map(drop)) {
            Some((*id, Place::Log))
        } else if reader.fetched(*id).into_iter().any(beside) {
            Some((*id, Place::Fetched))
        } else {
            reader.live(*id).iter().any(beside).then_some((*id, Place::Kept))
        }
    })
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Log,
    /// Beside the log, named by a snapshot.
    Kept,
    /// Beside the log, for a snapshot that is on its way here.
    Fetched,
}

/// Whether a log is what it was at some time, up to some entry.
fn once_was(after: &ModelGroup, past: &[ModelGroup]) -> bool {
    past.iter().any(|before| {
        after.entries.iter().all(|entry| before.entries.contains(entry))
            && after.base.index.plus(after.entries.len() as u64) >= before.base.index
    })
}

#[derive(Debug, Default)]
struct Seen {
    nothing: u64,
    refused: u64,
    read: u64,
    repaired: u64,
    /// Of entries beside the log.
    kept: u64,
    fetched: u64,
}

/// Where some entry lies that is kept for a snapshot, or was fetched for one.
fn beside_the_log<'a>(
    history: &History,
    random: &mut Random,
    files: &[&'a String],
) -> Option<(&'a String, usize)> {
    let groups = history.newest.groups.values();
    let all = groups.flat_map(|group| group.kept.values().chain(group.fetched.values()));
    let all: Vec<&Entry> = all.filter(|entry| entry.payload.len() >= 16).collect();
    let entry = all.get(random.below(all.len().max(1) as u64) as usize)?;
    let lies = |name: &&'a String| {
        let bytes = history.disk.read(name).unwrap();
        let at = bytes.windows(entry.payload.len()).position(|window| window == entry.payload)?;
        Some((*name, at))
    };
    files.iter().find_map(lies)
}

fn flip_one(history: &History, random: &mut Random, told: &str) -> Seen {
    let mut seen = Seen::default();
    let names = history.disk.list().unwrap();
    let files: Vec<&String> =
        names.iter().filter(|name| name.contains("log-") || name.contains("checkpoint")).collect();
    let beside = if random.below(4) == 0 { beside_the_log(history, random, &files) } else { None };
    let name = match beside {
        Some((name, _)) => name,
        None => files[random.below(files.len() as u64) as usize],
    };
    let mut bytes = history.disk.read(name).unwrap();
    let bit = match beside {
        Some((_, at)) => (at * 8) as u64 + random.below(128),
        None => random.below(bytes.len() as u64 * 8),
    };
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    let is_lost = random.below(3) == 0;
    let told = format!("{told}, {name}, bit {bit}, unreadable: {is_lost}");
    let flipped = || {
        let copy = history.disk.crash(CrashPolicy::KeepAll);
        match is_lost {
            true => copy.lose_block(name, bit / 8),
            false => copy.overwrite(name, &bytes),
        }
        copy
    };
    // Looked at: what is called sound is what it was.
    let verified = Log::inspect_on(flipped()).unwrap().verify().unwrap();
    let disk = flipped();
    match open_with(&disk, &history.options) {
        Ok(opened) => match unreadable(&opened) {
            None => {
                seen.nothing += 1;
                assert!(Model::of(&opened) == history.newest, "{told}: cut silently");
                assert!(verified.is_sound(), "{told}: {verified:?}");
            }
            Some((id, place)) => {
                match place {
                    Place::Log => seen.read += 1,
                    Place::Kept => seen.kept += 1,
                    Place::Fetched => seen.fetched += 1,
                }
                assert!(!verified.is_sound(), "{told}: {id:?} {verified:?}");
                let named = verified.findings.iter().filter_map(|found| found.groups.as_ref());
                assert!(named.into_iter().any(|groups| groups.contains(&id)), "{told}");
            }
        },
        Err(OpenError::Corrupt { .. }) => {
            seen.refused += 1;
            assert!(verified.opens.is_none(), "{told}");
        }
        Err(other) => panic!("{told}: {other:?}"),
    }
    // Frames that another thread reads ahead say the same, in whatever order the two come along.
    for on_damage in [OnDamage::Refuse, OnDamage::Repair] {
        let alone = LogOptions { on_damage, ..history.options.clone() };
        let helped = LogOptions { preparation: Preparation::Background, ..alone.clone() };
        let told_by = |options| {
            let opened = open_with(&flipped(), options);
            let found = |opened: Opened<MemDisk>| {
                let groups: BTreeMap<_, _> = opened.groups.iter().collect();
                format!("{groups:?} {:?}", opened.report)
            };
            opened.map(found).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(told_by(&alone), told_by(&helped), "{told}: {on_damage:?}");
    }
    // Opened by a replica: at once, or in the life after one that met the damage.
    let options = LogOptions { on_damage: OnDamage::Repair, ..history.options.clone() };
    let disk = flipped();
    let opened = match open_with(&disk, &options) {
        Ok(opened) if unreadable(&opened).is_some() => {
            // Whoever is refused a read for long enough.
            opened.reader.doubt();
            drop(opened);
            open_with(&disk, &options).unwrap_or_else(|error| panic!("{told}: {error:?}"))
        }
        Ok(opened) => opened,
        Err(OpenError::Corrupt { .. }) => return seen,
        Err(other) => panic!("{told}: {other:?}"),
    };
    let found = Model::of_repaired(&opened);
    for (id, before) in &history.newest.groups {
        // A group that a hole may have held can be gone; then none may be founded here.
        let Some(after) = found.groups.get(id) else {
            assert!(opened.report.creations_lost, "{told}: {id:?} is forgotten");
            continue;
        };
        // What lies beside the log is what it was, or is asked for again.
        let kept = after.kept.values().all(|kept| {
            let all = history.past[id].iter();
            let mut all = all.flat_map(|past| past.kept.values().chain(&past.entries));
            all.any(|was| was == kept)
        });
        assert!(kept, "{told}: {id:?}");
        let fetched = after.fetched.iter().all(|(at, entry)| {
            let was = |past: &ModelGroup| past.fetched.get(at) == Some(entry);
            history.past[id].iter().any(was)
        });
        assert!(fetched, "{told}: {id:?}");
        match after.promise.promise {
            Promise::Kept => {
                let moved = after.base.index > before.base.index;
                let same = after.hard_state == before.hard_state
                    && before.entries.ends_with(&after.entries)
                    && (moved || after.base == before.base)
                    && after.base.index <= before.base.snapshot.max(before.base.index);
                assert!(same, "{told}: {id:?} is trusted");
            }
            Promise::Damaged => {
                seen.repaired += 1;
                assert_eq!(after.hard_state, before.hard_state, "{told}: {id:?} is proven");
                assert!(once_was(after, &history.past[id]), "{told}: {id:?} never was so");
            }
            Promise::Unproven => {
                seen.repaired += 1;
                assert!(after.hard_state.term <= before.hard_state.term, "{told}");
                assert!(once_was(after, &history.past[id]), "{told}: {id:?} never was so");
            }
            Promise::Lost => panic!("{told}: {id:?}"),
        }
    }
    seen
}

#[test]
fn a_flipped_bit_is_seen_or_changes_nothing() {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    };
    let first: u64 = number("RAFT_FLIPS_FIRST", 0);
    let histories = number("RAFT_FLIPS_HISTORIES", 50);
    let mut all = Seen::default();
    for seed in first..first + histories {
        let mut random = Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let history = write_history(&mut random);
        for sample in 0..FLIPS {
            let told = format!("seed {seed}, sample {sample}");
            let seen = flip_one(&history, &mut random, &told);
            all.nothing += seen.nothing;
            all.refused += seen.refused;
            all.read += seen.read;
            all.repaired += seen.repaired;
            all.kept += seen.kept;
            all.fetched += seen.fetched;
        }
    }
    println!("{} bits: {all:?}", histories * FLIPS);
    assert!(all.nothing > 0 && all.refused > 0 && all.read > 0 && all.repaired > 0, "{all:?}");
    assert!(all.kept > 0 && all.fetched > 0, "{all:?}");
}
