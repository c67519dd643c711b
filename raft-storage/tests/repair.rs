//! A log that lost durable bytes is opened without them: nothing that was promised is taken for kept that
//! may be forgotten, and what is not concerned goes on as before.

mod common;

use std::collections::BTreeSet;

use common::*;
use raft_core::{Entry, GroupId, HardState, LogIndex, Promise, ReplicaId, Term};
use raft_storage::{
    CrashPolicy, Damage, Disk, Fault, GroupWrite, LogOptions, MemDisk, OnDamage, OpenError, Opened,
    ReadError, Scrub, Tending,
};

fn repairing() -> LogOptions {
    LogOptions { on_damage: OnDamage::Repair, ..tiny() }
}

fn repair(disk: &MemDisk) -> Opened<MemDisk> {
    open_with(disk, &repairing()).expect("it can be repaired")
}

fn vote(id: u32, term: u64, vote: u64) -> GroupWrite {
    let mut write = GroupWrite::new(group(id));
    write.hard_state = Some(HardState { term: Term::new(term), vote: Some(ReplicaId::new(vote)) });
    write
}

/// Each batch is a frame of 4 KiB, durable before the next.
struct Script {
    disk: MemDisk,
    opened: Opened<MemDisk>,
    model: Model,
    /// The model after each batch, and where its frame lies.
    states: Vec<(Model, String, usize)>,
}

impl Script {
    fn new(options: &LogOptions) -> Self {
        let disk = new_disk();
        let opened = open_with(&disk, options).unwrap();
        Self { disk, opened, model: Model::default(), states: Vec::new() }
    }

    fn write(&mut self, batch: &[GroupWrite]) {
        let before = self.opened.writer.end_lsn().get() as usize;
        self.opened.writer.append(batch).unwrap();
        self.opened.writer.sync().unwrap();
        self.model.apply(batch);
        // In tiny segments of one length that follow one another.
        let mut at = before;
        if at.is_multiple_of(16 << 10) {
            at += 4096;
        }
        let (slot, offset) = (at / (16 << 10), at % (16 << 10));
        self.states.push((self.model.clone(), format!("log-{slot:08}.seg"), offset));
    }

    fn end(mut self) -> (MemDisk, Vec<(Model, String, usize)>) {
        self.opened.writer.idle().unwrap();
        drop(self.opened);
        (self.disk.crash(CrashPolicy::KeepAll), self.states)
    }
}

fn flip(disk: &MemDisk, name: &str, at: usize) {
    let mut bytes = disk.read(name).unwrap();
    bytes[at] ^= 0x10;
    disk.overwrite(name, &bytes);
}

fn promise(opened: &Opened<MemDisk>, id: u32) -> Promise {
    opened.groups[&group(id)].promise.promise
}

fn last(opened: &Opened<MemDisk>, id: u32) -> u64 {
    opened.groups[&group(id)].last_index.get()
}

/// Two groups; term and vote of both at the beginning, then entries.
fn entries_only() -> (MemDisk, Vec<(Model, String, usize)>) {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), create(2), vote(1, 1, 1), vote(2, 1, 2)]);
    for at in 0..6 {
        script.write(&[append(1, at * 2 + 1, 2, 1), append(2, at * 2 + 1, 2, 1)]);
    }
    script.end()
}

#[test]
fn a_damaged_entry_costs_its_group_the_entries_from_there_on_and_the_others_nothing() {
    let (disk, states) = entries_only();
    let payload = entry(5, 1, 40).payload;
    let (model, name, frame) = &states[3];
    let bytes = disk.read(name).unwrap();
    // The first of the two groups' entries with this content is that of group 1.
    let at = bytes[*frame..].windows(40).position(|window| window == payload).unwrap();
    flip(&disk, name, frame + at);
    assert!(matches!(open_with(&disk, &tiny()), Err(OpenError::Corrupt { .. })));
    let mut opened = repair(&disk);
    assert_eq!((promise(&opened, 1), last(&opened, 1)), (Promise::Damaged, 4));
    assert_eq!((promise(&opened, 2), last(&opened, 2)), (Promise::Kept, 12));
    let hole = &opened.report.damage[0];
    assert_eq!(hole.groups, Some(vec![group(1)]));
    assert_eq!(format!("log-{:08}.seg", hole.segment), *name);
    assert!(!opened.report.creations_lost);
    // It goes on.
    let more = [append(1, 5, 1, 2), append(2, 13, 1, 2)];
    opened.writer.append(&more).unwrap();
    opened.writer.close().unwrap();
    // And is no more damaged than before: the rest of it is behind two checkpoints.
    let opened = open_with(&disk, &tiny()).unwrap();
    assert_eq!((promise(&opened, 1), last(&opened, 1)), (Promise::Damaged, 5));
    assert_eq!((promise(&opened, 2), last(&opened, 2)), (Promise::Kept, 13));
    assert!(opened.report.damage.is_empty());
    assert_eq!(
        Model::of(&opened).groups[&group(1)].entries[..4],
        model.groups[&group(1)].entries[..4]
    );
}

#[test]
fn a_lost_frame_without_terms_and_votes_leaves_those_of_all_groups_proven() {
    let (disk, states) = entries_only();
    let (_, name, frame) = &states[3];
    flip(&disk, name, frame + 20);
    let opened = repair(&disk);
    for id in [1, 2] {
        assert_eq!((promise(&opened, id), last(&opened, id)), (Promise::Damaged, 4));
        let vote = Some(ReplicaId::new(u64::from(id)));
        let kept = HardState { term: Term::new(1), vote };
        assert_eq!(opened.groups[&group(id)].hard_state, kept);
    }
    assert!(!opened.report.creations_lost);
}

/// The record of a vote is in the hole: whose vote it was is proven only by a newer one.
#[test]
fn a_group_whose_vote_may_be_forgotten_is_told_from_one_that_voted_later() {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), create(2), create(3), vote(1, 1, 1), vote(2, 1, 1), vote(3, 1, 1)]);
    script.write(&[append(1, 1, 1, 1), append(2, 1, 1, 1)]);
    script.write(&[vote(1, 2, 9), vote(2, 2, 9)]);
    script.write(&[vote(2, 3, 8), append(2, 2, 1, 3)]);
    script.write(&[append(1, 2, 1, 2)]);
    let (disk, states) = script.end();
    let (_, name, frame) = &states[2];
    flip(&disk, name, frame + 20);
    let opened = repair(&disk);
    assert_eq!(promise(&opened, 1), Promise::Unproven);
    assert_eq!(promise(&opened, 2), Promise::Damaged);
    assert_eq!(promise(&opened, 3), Promise::Unproven, "it may have voted as well");
    let newest = HardState { term: Term::new(3), vote: Some(ReplicaId::new(8)) };
    assert_eq!(opened.groups[&group(2)].hard_state, newest);
    assert_eq!(
        (last(&opened, 1), last(&opened, 2)),
        (1, 1),
        "what lies behind follows what is lost"
    );
    assert!(opened.report.creations_lost, "a group may have begun there");
    drop(opened);
    // Whatever happens to the newest checkpoint: the other one says the same.
    let disk = disk.crash(CrashPolicy::KeepAll);
    let names: Vec<String> = disk.list().unwrap();
    for name in names.iter().filter(|name| name.starts_with("checkpoint")) {
        let copy = disk.crash(CrashPolicy::KeepAll);
        flip(&copy, name, 60);
        let opened = repair(&copy);
        assert_eq!(promise(&opened, 1), Promise::Unproven);
        assert_eq!(promise(&opened, 2), Promise::Damaged);
        assert!(opened.report.creations_lost);
    }
}

#[test]
fn a_log_that_lost_its_end_has_no_proof_of_any_vote() {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), create(2), vote(1, 1, 1)]);
    script.write(&[append(1, 1, 2, 1)]);
    script.write(&[append(2, 1, 2, 1)]);
    script.opened.writer.close().unwrap();
    let disk = script.disk.crash(CrashPolicy::KeepAll);
    let (_, name, frame) = &script.states[2];
    // The word that closes the log is gone with the last batch.
    for (name, from) in [(name.as_str(), *frame), ("log-00000001.seg", 4096)] {
        let mut bytes = disk.read(name).unwrap();
        bytes[from..].fill(0);
        disk.overwrite(name, &bytes);
    }
    let opened = repair(&disk);
    let whys: Vec<Damage> = opened.report.damage.iter().map(|hole| hole.why).collect();
    let lost = |why: &Damage| matches!(why, Damage::FrameLost { .. });
    assert!(whys.len() == 2 && whys.iter().all(lost), "{whys:?}");
    for id in [1, 2] {
        assert_eq!(promise(&opened, id), Promise::Unproven);
    }
    assert_eq!((last(&opened, 1), last(&opened, 2)), (2, 0));
    drop(opened);
    let opened = repair(&disk);
    assert!(opened.report.damage.is_empty());
    assert_eq!(promise(&opened, 1), Promise::Unproven, "nor has the next life");
}

#[test]
fn a_group_whose_beginning_is_lost_keeps_the_log_closed_by_name() {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), vote(1, 1, 1)]);
    script.write(&[create(2), vote(2, 1, 1)]);
    script.write(&[append(1, 1, 1, 1), append(2, 1, 1, 1)]);
    let (disk, states) = script.end();
    let (_, name, frame) = &states[1];
    flip(&disk, name, frame + 20);
    let before = disk.read(name);
    match open_with(&disk, &repairing()).err() {
        Some(OpenError::Corrupt { groups, .. }) => assert_eq!(groups, Some(vec![group(2)])),
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.read(name), before, "nothing is changed");
}

/// Twenty segments, most of them below a checkpoint; group 1 has a snapshot up to 20.
fn checkpointed() -> (MemDisk, LogOptions) {
    let options = LogOptions { checkpoint_bytes: 96 << 10, ..repairing() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let fat = |id, first: u64, count: u64| {
        let mut write = GroupWrite::new(group(id));
        write.entries = (first..first + count).map(|index| entry(index, 1, 900)).collect();
        write
    };
    opened.writer.append(&[create(1), create(2), vote(1, 1, 1), vote(2, 1, 1)]).unwrap();
    for at in 0..60 {
        let id = if at % 2 == 0 { 1 } else { 2 };
        let mut write = fat(id, at / 2 * 3 + 1, 3);
        if at == 24 {
            let mut compaction = compaction(18, 1, 3);
            compaction.base.snapshot = LogIndex::new(20);
            write.compact = Some(compaction);
        }
        opened.writer.append(&[write]).unwrap();
        opened.writer.sync().unwrap();
        while opened.writer.tend(false).unwrap() != Tending::Done {}
    }
    assert!(opened.writer.stats().checkpoints > 0);
    opened.writer.close().unwrap();
    (disk.crash(CrashPolicy::KeepAll), options)
}

/// Where the payload of an entry lies: of which group it is nobody can tell, so the n-th is asked for.
fn find(disk: &MemDisk, payload: &[u8], nth: usize) -> (String, usize) {
    let names = disk.list().unwrap();
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| name.ends_with(".seg")) {
        let bytes = disk.read(&name).unwrap();
        let places = bytes.windows(payload.len()).enumerate();
        let places = places.filter(|(_, window)| *window == payload).map(|(at, _)| at);
        found.extend(places.map(|at| (name.clone(), at)));
    }
    found.sort();
    found.swap_remove(nth)
}

#[test]
fn a_segment_that_is_gone_costs_what_no_snapshot_covers() {
    let (disk, options) = checkpointed();
    let sound = Model::of(&open_with(&disk.crash(CrashPolicy::KeepAll), &options).unwrap());
    // Entry 19 of group 1 lies in a segment of its own with neighbours of group 2.
    let (name, _) = find(&disk, &entry(40, 1, 900).payload, 0);
    disk.remove(&name).unwrap();
    disk.sync_dir().unwrap();
    let refused = open_with(&disk, &LogOptions { on_damage: OnDamage::Refuse, ..options.clone() });
    assert!(matches!(refused.err(), Some(OpenError::Corrupt { .. })));
    let opened = open_with(&disk, &options).unwrap();
    let found = Model::of(&opened);
    for id in [1, 2] {
        let before = &sound.groups[&group(id)];
        let after = &found.groups[&group(id)];
        let kept = after.entries.len();
        assert_eq!(before.entries[..kept], after.entries[..], "what is left is as it was");
        assert_eq!(after.hard_state, before.hard_state, "term and vote are in the checkpoint");
        let expected = if kept < before.entries.len() { Promise::Damaged } else { Promise::Kept };
        assert_eq!(promise(&opened, id), expected);
    }
    assert!(found != sound);
}

#[test]
fn a_lost_entry_that_a_snapshot_covers_costs_no_promise() {
    let (disk, options) = checkpointed();
    // Of entry 19 the first is that of group 1, which has a snapshot up to 20.
    let (name, at) = find(&disk, &entry(19, 1, 900).payload, 0);
    flip(&disk, &name, at);
    // Nobody looks at it until the header of its segment is gone as well.
    flip(&disk, &name, 8);
    let opened = open_with(&disk, &options).unwrap();
    assert!(!opened.report.damage.is_empty());
    let first = &opened.groups[&group(1)];
    assert_eq!(first.promise.promise, Promise::Kept);
    assert_eq!(first.base.index, LogIndex::new(19));
    assert_eq!(first.base.membership, Some(members(3)));
    assert_eq!(first.last_index.get(), 90);
    assert_eq!(promise(&opened, 2), Promise::Kept, "its entries there can be read");
}

#[test]
fn where_all_checkpoints_are_damaged_and_a_segment_is_gone_the_log_stays_closed() {
    let (disk, options) = checkpointed();
    for name in disk.list().unwrap().iter().filter(|name| name.starts_with("checkpoint")) {
        flip(&disk, name, 60);
    }
    // As long as all of the log is there it says all there is to say, damaged or not.
    let copy = disk.crash(CrashPolicy::KeepAll);
    let (name, at) = find(&copy, &entry(80, 1, 900).payload, 0);
    flip(&copy, &name, at);
    let opened = open_with(&copy, &options).unwrap();
    assert_eq!(
        (promise(&opened, 1), last(&opened, 1)),
        (Promise::Damaged, 78),
        "a run is lost as a whole"
    );
    // A segment that is gone may have been used again, or be lost.
    disk.remove("log-00000000.seg").unwrap();
    disk.sync_dir().unwrap();
    assert!(matches!(open_with(&disk, &options).err(), Some(OpenError::Corrupt { .. })));
}

/// Whatever is damaged: a group that is said to keep its promises has them all.
#[test]
fn whatever_is_flipped_no_group_is_trusted_that_forgot_something() {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), create(2), vote(1, 1, 1), vote(2, 1, 1)]);
    script.write(&[append(1, 1, 3, 1), append(2, 1, 2, 1)]);
    script.write(&[vote(2, 2, 3)]);
    script.write(&[append(1, 4, 2, 1), append(2, 3, 2, 2)]);
    let mut cut = append(1, 4, 1, 3);
    cut.truncate_from = Some(LogIndex::new(4));
    script.write(&[vote(1, 3, 2), cut]);
    script.write(&[append(2, 5, 3, 2)]);
    script.opened.writer.close().unwrap();
    let disk = script.disk.crash(CrashPolicy::KeepAll);
    let sound = script.model;
    let names = disk.list().unwrap();
    let mut seen = BTreeSet::new();
    for name in names.iter().filter(|name| name.ends_with(".seg")) {
        let length = disk.read(name).unwrap().len();
        for at in 0..length {
            // Behind the records of a frame there are zeros: a few of them will do.
            if at % 4096 > 512 && at % 97 != 0 {
                continue;
            }
            let copy = disk.crash(CrashPolicy::KeepAll);
            flip(&copy, name, at);
            let opened = match open_with(&copy, &repairing()) {
                Ok(opened) => opened,
                Err(OpenError::Corrupt { .. }) => {
                    seen.insert("refused");
                    continue;
                }
                Err(other) => panic!("{name} {at}: {other:?}"),
            };
            let found = Model::of(&opened);
            for (id, before) in &sound.groups {
                let after = &found.groups[id];
                let state = after.hard_state;
                match after.promise.promise {
                    Promise::Kept => {
                        seen.insert("kept");
                        assert_eq!(after, before, "{name} {at}");
                    }
                    Promise::Damaged => {
                        seen.insert("damaged");
                        assert_eq!(state, before.hard_state, "{name} {at}: proven");
                    }
                    Promise::Unproven => {
                        seen.insert("unproven");
                        assert!(state.term <= before.hard_state.term, "{name} {at}");
                    }
                    Promise::Lost => panic!("{name} {at}"),
                }
            }
            // The next life knows no less.
            let promises = |opened: &Opened<MemDisk>| -> Vec<(GroupId, Promise)> {
                opened.groups.iter().map(|(id, group)| (*id, group.promise.promise)).collect()
            };
            let before = promises(&opened);
            drop(opened);
            let again = repair(&copy.crash(CrashPolicy::DropUnsynced));
            assert_eq!(promises(&again), before, "{name} {at}");
            assert!(again.report.damage.is_empty(), "{name} {at}");
        }
    }
    assert_eq!(seen, ["damaged", "kept", "refused", "unproven"].into());
}

/// The mark is durable before anything of the damaged region can be written again.
#[test]
fn an_open_that_is_cut_short_anywhere_is_repeated_with_the_same_judgement() {
    let (sound, states) = entries_only();
    let mut cuts = 0;
    for (frame, at) in [(3, 20), (0, 20), (3, 200)] {
        let (_, name, begin) = &states[frame];
        let disk = sound.crash(CrashPolicy::KeepAll);
        flip(&disk, name, begin + at);
        let promises = |opened: &Opened<MemDisk>| -> Vec<(GroupId, Promise)> {
            opened.groups.iter().map(|(id, group)| (*id, group.promise.promise)).collect()
        };
        let whole = open_with(&disk.crash(CrashPolicy::KeepAll), &repairing());
        let Ok(whole) = whole else { continue };
        let expected = promises(&whole);
        let operations = {
            let copy = disk.crash(CrashPolicy::KeepAll);
            let before = copy.operations();
            drop(open_with(&copy, &repairing()));
            copy.operations() - before
        };
        for operation in 0..operations {
            for seed in 0..3 {
                let copy = disk.crash(CrashPolicy::KeepAll);
                copy.fail_at(copy.operations() + operation, Fault::PowerCut);
                drop(open_with(&copy, &repairing()));
                let policy = match seed {
                    0 => CrashPolicy::DropUnsynced,
                    seed => CrashPolicy::RandomSectors { seed },
                };
                let again = repair(&copy.crash(policy));
                for ((id, found), (_, first)) in promises(&again).iter().zip(&expected) {
                    // It may know less than the first time, never more.
                    let is_as_strict = *found == *first || *found == Promise::Unproven;
                    assert!(is_as_strict, "operation {operation}: {id:?} {found:?}, was {first:?}");
                }
                cuts += 1;
            }
        }
    }
    assert!(cuts > 50, "{cuts}");
}

/// Nobody looks at entries below the checkpoint until they are read.
#[test]
fn an_entry_that_is_found_damaged_is_left_out_by_the_next_open() {
    let (disk, options) = checkpointed();
    let (name, at) = find(&disk, &entry(40, 1, 900).payload, 0);
    flip(&disk, &name, at);
    let opened = open_with(&disk, &options).unwrap();
    assert!(opened.report.damage.is_empty(), "it is not looked at");
    for _ in 0..2 {
        let read = opened.reader.entries(group(1), LogIndex::new(40), LogIndex::new(41), u64::MAX);
        assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
    }
    drop(opened);
    let opened = open_with(&disk, &options).unwrap();
    let whys: Vec<Damage> = opened.report.damage.iter().map(|hole| hole.why).collect();
    assert_eq!(whys, [Damage::Entry { index: LogIndex::new(40) }]);
    assert_eq!((promise(&opened, 1), last(&opened, 1)), (Promise::Damaged, 39));
    assert_eq!((promise(&opened, 2), last(&opened, 2)), (Promise::Kept, 90));
    drop(opened);
    let opened = open_with(&disk, &options).unwrap();
    assert!(opened.report.damage.is_empty());
    assert_eq!((promise(&opened, 1), last(&opened, 1)), (Promise::Damaged, 39));
}

#[test]
fn a_scrub_reads_every_entry_once_and_names_what_is_damaged() {
    let (disk, options) = checkpointed();
    let (name, at) = find(&disk, &entry(40, 1, 900).payload, 0);
    flip(&disk, &name, at);
    let opened = open_with(&disk, &options).unwrap();
    let (mut at, mut bytes, mut damaged) = (Scrub::default(), 0, Vec::new());
    let mut steps = 0;
    loop {
        let scrubbed = opened.reader.scrub(at, 4 << 10);
        bytes += scrubbed.bytes;
        damaged.extend(scrubbed.damage);
        let Some(next) = scrubbed.next else { break };
        (at, steps) = (next, steps + 1);
    }
    assert!(steps > 30, "a little at a time: {steps}");
    let Some(ReadError::Corrupt { group: id, index, .. }) = damaged.pop() else { panic!("unseen") };
    assert_eq!((id, index.get(), damaged.len()), (group(1), 40, 0));
    // 72 of group 1 and 90 of group 2 are left; those read together with the damaged one come later.
    assert!(bytes > 155 * 900 && bytes < 163 * 1_000, "{bytes}");
}

/// A snapshot is not whole without the entries it leaves in the log. Where some of them were in a hole, the
/// log stays what it was before that snapshot, until one comes that has all of its own.
#[test]
fn a_snapshot_that_lost_entries_with_a_hole_is_passed_over_and_the_next_one_is_taken() {
    let mut script = Script::new(&tiny());
    script.write(&[create(1), vote(1, 1, 1)]);
    script.write(&[append(1, 1, 4, 1)]);
    let some = |entries: &[Entry]| {
        let mut write = GroupWrite::new(group(1));
        write.fetched = entries.to_vec();
        write
    };
    let entries: Vec<Entry> = [12, 15].map(|index| entry(index, 1, 40)).into();
    script.write(&[some(&entries[..1])]);
    script.write(&[some(&entries[1..])]);
    let begins = |upto: u64, entries: &[Entry]| {
        let mut write = append(1, upto + 1, 2, 1);
        write.install = Some(snapshot(upto, 1, 3));
        write.live = Some(names(entries));
        write
    };
    script.write(&[begins(20, &entries)]);
    let mut dropped = GroupWrite::new(group(1));
    dropped.drop_fetched = true;
    script.write(&[dropped]);
    let disk = script.disk.crash(CrashPolicy::KeepAll);
    let (_, name, frame) = &script.states[2].clone();
    flip(&disk, name, frame + 20);
    let opened = repair(&disk);
    assert_eq!((promise(&opened, 1), last(&opened, 1)), (Promise::Damaged, 4));
    assert_eq!(opened.groups[&group(1)].hard_state.term, Term::new(1));
    assert!(!opened.groups[&group(1)].has_fetched);
    drop(opened);
    // One that leaves none in the log is whole.
    script.write(&[begins(30, &[])]);
    let (disk, _) = script.end();
    flip(&disk, name, frame + 20);
    let opened = repair(&disk);
    let found = &opened.groups[&group(1)];
    assert_eq!((found.promise.promise, found.base.index.get()), (Promise::Damaged, 30));
    assert_eq!(found.last_index.get(), 32);
}

/// What was fetched of a snapshot on its way was promised to nobody.
#[test]
fn fetched_entries_that_cannot_be_read_are_forgotten_and_cost_nothing() {
    let options = LogOptions { checkpoint_bytes: 96 << 10, ..repairing() };
    let disk = new_disk();
    let mut opened = open_with(&disk, &options).unwrap();
    let mut fetch = append(1, 1, 3, 1);
    fetch.fetched = vec![entry(12, 1, 900), entry(15, 1, 900)];
    opened.writer.append(&[create(1), create(2), vote(1, 1, 1), vote(2, 1, 1)]).unwrap();
    opened.writer.append(&[fetch]).unwrap();
    for at in 0..60 {
        opened.writer.append(&[append(2, at * 20 + 1, 20, 1)]).unwrap();
        opened.writer.sync().unwrap();
        while opened.writer.tend(false).unwrap() != Tending::Done {}
    }
    assert!(opened.writer.stats().checkpoints > 0);
    opened.writer.close().unwrap();
    let mut sound = Model::of(&open_with(&disk.crash(CrashPolicy::KeepAll), &options).unwrap());
    assert_eq!(sound.groups[&group(1)].fetched.len(), 2);
    let (name, at) = find(&disk, &entry(15, 1, 900).payload, 0);
    flip(&disk, &name, at);
    flip(&disk, &name, 8);
    let opened = open_with(&disk, &options).unwrap();
    assert!(!opened.report.damage.is_empty() && !opened.groups[&group(1)].has_fetched);
    sound.groups.get_mut(&group(1)).unwrap().fetched.clear();
    assert!(Model::of(&opened) == sound);
    drop(opened);
    assert!(Model::of(&open_with(&disk, &tiny()).unwrap()) == sound);
}
