//! Faults that come with the work that makes them felt: many commands at once for a leader whose
//! disk is slow or full, or whose machine is going to leave out an answer; and lanes that go down
//! just when somebody has something in them.
//!
//! Either alone comes about by chance in any run; both at once hardly do.

use super::clients::FLOOD_BYTES_MAX;
use super::faults::{Fault, PlannedFault};
use super::network::{PipeId, Place};
use super::options::Options;
use super::swarm::Swarm;
use super::world::World;
use crate::sim::rng::Rng;
use raft_transport::Lane;

/// The cluster is up by then.
const FIRST_US: u64 = 4_000_000;

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

/// Adds them to the faults of a run: floods in a third of the seeds, snares in another third.
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
        match kind {
            0 => {
                plan(at, 3_000_000, Fault::SlowLeader { group, by_us: 2_500_000 });
                plan(at + 2_000, 0, Fault::Flood { group, count: heavy, bytes: FLOOD_BYTES_MAX });
            }
            1 => {
                plan(at, 1_500_000, Fault::FullLeader { group, spare });
                for part in 0..4 {
                    plan(at + 2_000 + part * 50_000, 0, Fault::Flood { group, count: 12, bytes });
                }
            }
            _ => {
                plan(at, 1_000_000, Fault::Miscount);
                for group in 0..swarm.groups.len().min(4) {
                    plan(at + 2_000, 0, Fault::Flood { group, count: 8, bytes: 16 });
                }
            }
        }
        at += 3_000_000 + rng.below(4_000_000);
    }
    let snares = if rng.chance(1, 3) { rng.range(1..=3) } else { 0 };
    for _ in 0..snares {
        let at = rng.range(FIRST_US..=end.max(FIRST_US + 1));
        let fault = if rng.chance(1, 2) { Fault::ResetBusy } else { Fault::ResetShared };
        let lasts = rng.range(1_000_000..=8_000_000);
        faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
    }
    faults.retain(|planned| planned.at < end);
}

impl World {
    /// A lane that a snare waits for goes down.
    pub(super) fn spring_snare(&mut self, place: Place) {
        let Some(snare) = self.snare else { return };
        let Some(process) = &self.nodes[place].process else { return };
        let found = match snare.waits_for {
            Use::Busy => process.busy_bulk().map(|peer| (Lane::Bulk, peer)),
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
