//! Faults in an order that leads to what nobody would wait for: snapshots against logs.
//!
//! They only prepare the ground. Whether it happens is up to the cluster, and marks tell whether
//! it did: a crash while a snapshot replaces what contradicts it, snapshots taken faster than they
//! move, by a machine far behind its log, for a peer that declines; a membership in a tail that a
//! restart loses.

use raft_core::GroupId;

use super::faults::{Fault, PlannedFault, Power};
use super::network::Place;
use super::options::Options;
use super::swarm::Swarm;
use super::world::World;
use crate::sim::rng::Rng;

/// When the first round begins: the cluster is up.
const FIRST_US: u64 = 4_000_000;

/// Adds the rounds of a run to its faults, in a quarter of the seeds.
pub(super) fn append(
    rng: &mut Rng,
    swarm: &Swarm,
    options: &Options,
    faults: &mut Vec<PlannedFault>,
) {
    if !(rng.chance(1, 4) || swarm.contradicts) || swarm.groups.is_empty() {
        return;
    }
    let election = swarm.settings.election_timeout_max.as_micros() as u64;
    let end = options.faults_s * 1_000_000;
    let mut start = FIRST_US + rng.below(1_000_000);
    while start + 3 * election + 3_000_000 < end {
        let group = rng.below(swarm.groups.len() as u64) as usize;
        let node = rng.below(swarm.nodes.len() as u64) as Place;
        let mut plan = |rng: &mut Rng, at: u64, lasts: u64, fault: Fault| {
            let at = start + at + rng.below(5_000);
            faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
        };
        let apart = 2 * election + rng.below(1_000_000);
        match if swarm.contradicts { 0 } else { rng.below(6) } {
            // A leader cut off goes on appending, and returns to a snapshot that knows better.
            0 | 4 => {
                plan(rng, 0, apart, Fault::CutLeader { group });
                // More than the others will have taken when they take a snapshot.
                let (count, bytes) = (rng.range(20..=80), rng.below(64));
                plan(rng, 6_000, 0, Fault::Flood { group, count, bytes });
                plan(rng, 100_000, 0, Fault::Change { group });
                plan(rng, apart / 2, 0, Fault::TakeSnapshots { group });
                plan(rng, apart - 200_000, 0, Fault::TakeSnapshots { group });
                let (effects, power) = (rng.skewed(24), some_power(rng));
                plan(rng, apart - 5_000, 1_500_000, Fault::CrashInstall { effects, power });
            }
            // Somebody has no room while the others compact.
            1 => {
                let spare = rng.skewed(8 << 10);
                plan(rng, 0, apart + 500_000, Fault::DiskFull { node, spare });
                for part in 1..=4 {
                    plan(rng, apart * part / 4, 0, Fault::TakeSnapshots { group });
                }
            }
            // A snapshot is fetched of a leader that is cut off then. Another one sends the log
            // instead, and the receiver compacts that when the fetch has hardly ended.
            3 => {
                let away = election + 300_000;
                plan(rng, 0, away, Fault::CutFollower { group });
                plan(rng, away - 60_000, 0, Fault::TakeSnapshot { group });
                let cut = 2 * election + 1_500_000;
                plan(rng, away - 10_000, cut, Fault::CutSource);
                for part in 2..=4 {
                    plan(rng, away + cut * part / 4, 0, Fault::TakeSnapshots { group });
                }
                start += cut;
            }
            // A machine that lags gives its state.
            2 => {
                let by_us = rng.range(20_000..=300_000);
                plan(rng, 0, apart + 1_000_000, Fault::SlowApply { node, by_us });
                plan(rng, apart / 2, 0, Fault::TakeSnapshots { group });
                plan(rng, apart + 900_000, 0, Fault::TakeSnapshots { group });
            }
            // A membership that nobody else has is in a tail that may be lost.
            _ => {
                plan(rng, 0, apart, Fault::CutLeader { group });
                plan(rng, 20_000, 0, Fault::Change { group });
                let (at, power) = (25_000 + rng.below(80_000), some_power(rng));
                plan(rng, at, 300_000, Fault::CrashLeader { group, power });
            }
        }
        start += 2 * election + 2_000_000 + rng.below(2_000_000);
    }
}

fn some_power(rng: &mut Rng) -> Power {
    if rng.chance(2, 3) { Power::Fails } else { Power::Stays }
}

impl World {
    /// What a fault is at this moment that names whoever leads a group.
    pub(super) fn resolved(&self, fault: &Fault, rng: &mut Rng) -> Option<Fault> {
        let (Fault::CutLeader { group }
        | Fault::CutFollower { group }
        | Fault::FullLeader { group, .. }
        | Fault::SlowLeader { group, .. }
        | Fault::CrashLeader { group, .. }) = *fault
        else {
            return Some(fault.clone());
        };
        let group = self.swarm.groups.get(group)?.group;
        let leaders = self.judge.lock().onlooker.leaders();
        let leads: Vec<Place> =
            leads_of(&leaders, group).filter(|at| self.nodes[*at].is_member()).collect();
        let node = rng.pick(&leads).copied()?;
        Some(match *fault {
            Fault::CrashLeader { power, .. } => {
                Fault::Crash { node, effects: rng.skewed(16), power }
            }
            Fault::FullLeader { spare, .. } => Fault::DiskFull { node, spare },
            Fault::SlowLeader { by_us, .. } => Fault::SlowDisk { node, by_us },
            Fault::CutFollower { .. } => {
                let mut places = self.operator.places_of(group).into_iter();
                let node = places.find(|place| !leads.contains(place))?;
                Fault::Cut { shape: "cut-follower", links: self.links_of(node) }
            }
            _ => Fault::Cut { shape: "cut-leader", links: self.links_of(node) },
        })
    }

    /// What joins a node with all others.
    pub(super) fn links_of(&self, node: Place) -> Vec<(Place, Place)> {
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        others.flat_map(|other| [(node, other), (other, node)]).collect()
    }

    /// What a node fetches contradicts what its log says.
    pub(super) fn fetches_contradiction(&self, place: Place) -> bool {
        let Some(process) = &self.nodes[place].process else { return false };
        process.desk.wanted().any(|name| {
            process.replicas().any(|replica| {
                let core = replica.core();
                core.id() == name.group
                    && core.last_index() >= name.index
                    && core.entry_term(name.index) != Some(name.term)
                    && core.commit_index() < name.index
            })
        })
    }
}

fn leads_of(leaders: &[(GroupId, Place)], group: GroupId) -> impl Iterator<Item = Place> {
    leaders.iter().filter(move |(of, _)| *of == group).map(|(_, place)| *place)
}
