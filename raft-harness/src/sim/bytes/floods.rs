//! Faults that come with the work that makes them felt: many commands at once for a leader whose
//! disk is slow or full, or whose machine is going to leave out an answer; and lanes that go down
//! just when somebody has something in them.
//!
//! Either alone comes about by chance in any run; both at once hardly do.

use super::clients::FLOOD_BYTES_MAX;
use super::faults::{Chore, Fault, PlannedFault};
use super::network::{PipeId, Place};
use super::options::Options;
use super::swarm::Swarm;
use super::world::World;
use crate::sim::rng::Rng;
use raft_transport::Lane;

/// The cluster is up by then.
const FIRST_US: u64 = 4_000_000;

/// From one flood to the next it takes at least so long, and no log works longer on one: what comes
/// behind it would wait, in the end for longer than a run has to recover.
const PAUSE_US: u64 = 3_000_000;

/// Syncs that a change of segment costs a log: of the segment that ends, of the spare that is made,
/// of its header, and of the two copies of the note beside the log.
const SYNCS_PER_SEGMENT: u64 = 5;

/// What frames are made of, and what a segment begins with.
const BLOCK_BYTES: u64 = 4 << 10;

/// What a command takes in a log beside its padding, at most, if it has a frame of its own.
const BESIDE_BYTES: u64 = 256;

/// Waits for a lane that is in use in a certain way, and goes down then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snare {
    pub(super) waits_for: Use,
    pub(super) until: u64,
}

/// What a lane is used for at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// Appends wait for room in it.
    Busy,
    /// It carries appends to two replicas of one group.
    Shared,
}

/// Adds them to the faults of a run: floods in a third of the seeds, snares in another third, and
/// deaths in the middle of a log's housekeeping in a quarter.
pub(super) fn append(
    rng: &mut Rng,
    swarm: &Swarm,
    options: &Options,
    faults: &mut Vec<PlannedFault>,
) {
    let end = options.faults_s * 1_000_000;
    // What links that are slow are asked for besides would not have crossed when a run ends.
    let floods = rng.chance(1, 3) && swarm.pace.is_none() && !swarm.groups.is_empty();
    let mut at = FIRST_US + rng.below(1_000_000);
    while floods && at + 4_000_000 < end {
        let group = rng.below(swarm.groups.len() as u64) as usize;
        let (kind, spare, bytes) =
            (rng.below(3), rng.below(24 << 10), rng.below(FLOOD_BYTES_MAX + 1));
        let mut plan = |at: u64, lasts: u64, fault: Fault| {
            let draw = rng.bits();
            faults.push(PlannedFault { at, lasts, draw, fault });
        };
        // More than the log may have to do, or what a few batches hold.
        let most = swarm.log_pending_bytes.min(256 << 10) + 2 * swarm.settings.append_bytes_max;
        let heavy = (most * 3 / 2 / FLOOD_BYTES_MAX).clamp(20, 200);
        let heavy = heavy.min(commands_max(swarm, FLOOD_BYTES_MAX));
        let few = 12.min(commands_max(swarm, bytes) / 4);
        match kind {
            0 => {
                plan(at, 3_000_000, Fault::SlowLeader { group, by_us: 2_500_000 });
                plan(at + 2_000, 0, Fault::Flood { group, count: heavy, bytes: FLOOD_BYTES_MAX });
            }
            1 => {
                plan(at, 1_500_000, Fault::FullLeader { group, spare });
                for part in 0..4 {
                    plan(at + 2_000 + part * 50_000, 0, Fault::Flood { group, count: few, bytes });
                }
            }
            _ => {
                plan(at, 1_000_000, Fault::Miscount);
                for group in 0..swarm.groups.len().min(4) {
                    plan(at + 2_000, 0, Fault::Flood { group, count: 8, bytes: 16 });
                }
            }
        }
        at += PAUSE_US + rng.below(4_000_000);
    }
    let snares = if rng.chance(1, 3) { rng.range(1..=3) } else { 0 };
    for _ in 0..snares {
        let at = rng.range(FIRST_US..=end.max(FIRST_US + 1));
        let fault = if rng.chance(1, 2) { Fault::ResetBusy } else { Fault::ResetShared };
        let lasts = rng.range(1_000_000..=8_000_000);
        faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
    }
    // As large as needs a bulk lane that is full at once, and that goes down then.
    let mut at = FIRST_US + rng.below(1_000_000);
    while swarm.busy_bulk && !swarm.groups.is_empty() && at + 4_000_000 < end {
        let group = rng.below(swarm.groups.len() as u64) as usize;
        let count = 12.min(commands_max(swarm, FLOOD_BYTES_MAX));
        let mut plan = |at: u64, lasts: u64, fault: Fault| {
            faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
        };
        plan(at, 2_000_000, Fault::ResetBusy);
        plan(at + 1_000, 0, Fault::Flood { group, count, bytes: FLOOD_BYTES_MAX });
        at += PAUSE_US + rng.below(4_000_000);
    }
    let chores = if rng.chance(1, 4) { rng.range(2..=6) } else { 0 };
    for _ in 0..chores {
        let at = rng.range(FIRST_US..=end.max(FIRST_US + 1));
        let chore = if rng.chance(1, 2) { Chore::Checkpoint } else { Chore::Reuse };
        let lasts = rng.range(2_000_000..=8_000_000);
        let fault = Fault::CrashChore { chore };
        faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
    }
    faults.retain(|planned| planned.at < end);
}

/// How many commands with so much padding the slowest sync of a log leaves time for. It takes
/// small segments to make them few, each of which waits for syncs of its own.
fn commands_max(swarm: &Swarm, bytes: u64) -> u64 {
    let frame = (bytes + BESIDE_BYTES).next_multiple_of(BLOCK_BYTES);
    let in_segment = ((swarm.log.segment_bytes - BLOCK_BYTES) / frame).max(1);
    let segments = PAUSE_US / (swarm.sync_us.1 * SYNCS_PER_SEGMENT);
    in_segment * segments
}

impl World {
    /// A lane that a snare waits for goes down.
    pub(super) fn spring_snare(&mut self, place: Place) {
        let Some(snare) = self.snare else { return };
        let Some(process) = &self.nodes[place].process else { return };
        let found = match snare.waits_for {
            Use::Busy => process.busy_bulk(),
            Use::Shared => {
                process.lane_to_two().map(|(shard, peer)| (Lane::Data { shard: shard as u8 }, peer))
            }
        };
        let there = found.and_then(|(lane, peer)| Some((lane, self.swarm.place_of(peer)?)));
        let Some((lane, to)) = there else { return };
        let mut net = self.net.lock();
        let is_it = |(_, from, at, of): &(PipeId, Place, Place, Lane)| {
            let shards = self.swarm.shards[to] as u8;
            (*from, *at) == (place, to) && (*of == lane || *of == lane.at_receiver(shards))
        };
        let pipes: Vec<PipeId> =
            net.connections().into_iter().filter(is_it).map(|(pipe, ..)| pipe).collect();
        pipes.iter().for_each(|pipe| net.reset(*pipe, [0, 0]));
        drop(net);
        if !pipes.is_empty() {
            self.note(Some(place), || format!("its lane {lane} to place {to} is reset"));
            self.snare = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raft_core::{Entry, EntryKind, GroupId, GroupIncarnation, LogIndex, LogTime, Term};
    use raft_storage::{Expected, GroupCreate, GroupWrite, InitOptions, Log, StoreId, init_on};

    use super::*;
    use crate::sim::bytes::disk::SimDisk;
    use crate::sim::bytes::fuse::Fuse;
    use crate::sim::bytes::process::CLUSTER;
    use crate::sim::rng::Streams;

    /// How many syncs a log of the swarm waits for that takes a flood, each command alone.
    fn syncs(swarm: &Swarm, count: u64, bytes: u64) -> u64 {
        let disk = SimDisk::new(u64::MAX, Arc::new(Fuse::default()), Rng::new(1));
        let store = InitOptions { store: Some(StoreId::new(1)) };
        let (node, group) = (swarm.nodes[0], GroupId::new(1));
        init_on(&disk, CLUSTER, node, &store).expect("room");
        disk.process_died();
        let expected = Expected { cluster: Some(CLUSTER.to_owned()), node: Some(node) };
        let opened = Log::open_on(disk.clone(), &expected, &swarm.log).expect("a new log");
        let mut log = opened.writer;
        let incarnation = GroupIncarnation::new(1);
        let mut write = GroupWrite::new(group);
        write.create = Some(GroupCreate { incarnation, spec: Bytes::new() });
        log.append(&[write]).expect("room");
        let before = disk.syncs();
        for index in 1..=count {
            let payload = Bytes::from(vec![7; bytes as usize + 32]);
            let (index, term) = (LogIndex::new(index), Term::new(1));
            let kind = EntryKind::Command;
            let mut write = GroupWrite::new(group);
            write.entries.push(Entry { index, term, kind, time: LogTime::new(0), payload });
            log.append(&[write]).expect("room");
        }
        log.sync().expect("a disk that works");
        disk.syncs() - before
    }

    #[test]
    fn no_flood_keeps_a_log_busy_until_the_next() {
        let options = Options::default();
        let slow = |seed: &u64| {
            let swarm = Swarm::draw(Streams::new(*seed), &options);
            swarm.sync_us.1 > 10_000 && swarm.log.segment_bytes < 64 << 10
        };
        let mut heaviest = 0;
        // The first is one whose groups said nothing for half a minute.
        for seed in std::iter::once(40_911).chain((0..400).filter(slow)) {
            let swarm = Swarm::draw(Streams::new(seed), &options);
            let mut faults = Vec::new();
            append(&mut Streams::new(seed).stream("floods", &[]), &swarm, &options, &mut faults);
            for planned in faults {
                let Fault::Flood { count, bytes, .. } = planned.fault else { continue };
                let took = syncs(&swarm, count, bytes) * swarm.sync_us.1;
                assert!(took <= PAUSE_US + 2 * swarm.sync_us.1, "seed {seed}: {count} take {took}");
                heaviest = heaviest.max(took);
            }
        }
        assert!(heaviest > PAUSE_US / 2, "{heaviest}: less than a log can bear");
    }
}
