//! Swarm testing: every seed draws its own kind of trouble.
//!
//! A run with every fault at once explores less than it seems: crashes hide what slow links would
//! have shown. So a seed first draws its [`Swarm`]: how many nodes and groups, which families of
//! faults at what rate, which workload, how small the windows. From it, and from streams of their
//! own for each family, comes the [schedule](super::schedule).
//!
//! Some races are too rare to wait for. A share of the seeds gets a [`Directed`] sequence on top:
//! a script of faults whose details are drawn.
//!
//! The budget of damage is kept here: disks are wiped and flipped on fewer than half of the nodes,
//! so that no run loses what it has promised by fault of the faults alone.

mod directed;
mod generate;

use raft_core::{GroupId, NodeId};

pub use self::directed::Directed;
pub use self::generate::generate;
use super::rng::{Rng, Streams};

/// The most nodes of a drawn cluster, without spare ones.
pub const NODES_MAX: u64 = 7;
/// The most groups of a drawn cluster.
pub const GROUPS_MAX: u64 = 50;

/// A family of faults that is switched on or off together.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// One-way cuts between two sets.
    Cuts,
    /// Single nodes cut off, leaders mostly.
    Isolation,
    /// Bridges, chains, rings, stars and splits.
    Shapes,
    /// Slow links.
    Slow,
    /// Loss, duplicates, reordering.
    Lossy,
    /// Messages of one kind held back.
    Holds,
    /// Lanes that stall or die.
    Lanes,
    /// Crashes of single nodes.
    Crashes,
    /// Many restarts at once.
    Storms,
    /// Disks replaced.
    Wipes,
    /// Nodes that stand still.
    Pauses,
    /// Clocks that leap or drift.
    Clocks,
    /// Disks that stall or are slow.
    SlowDisks,
    /// Disks that are full.
    FullDisks,
    /// Syncs that fail.
    FailedSyncs,
    /// Torn writes and flipped bits.
    Damage,
    /// Changes of membership.
    Membership,
    /// Transfers and campaigns.
    Leadership,
    /// Snapshots and compaction.
    Snapshots,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Cuts,
        Self::Isolation,
        Self::Shapes,
        Self::Slow,
        Self::Lossy,
        Self::Holds,
        Self::Lanes,
        Self::Crashes,
        Self::Storms,
        Self::Wipes,
        Self::Pauses,
        Self::Clocks,
        Self::SlowDisks,
        Self::FullDisks,
        Self::FailedSyncs,
        Self::Damage,
        Self::Membership,
        Self::Leadership,
        Self::Snapshots,
    ];
}

/// A family that is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// Which.
    pub family: Family,
    /// How many faults of it begin in a minute of the fault phase, on average.
    pub per_minute: u32,
}

/// What clients do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Workload {
    /// Clients, each with one request at a time. At most eight share a key, so that the search
    /// for an order stays small.
    pub clients: u64,
    /// Keys per group.
    pub keys: u64,
    /// A client's longest pause between two requests, in microseconds.
    pub think_us_max: u64,
    /// Largest value in bytes, drawn skewed towards small ones.
    pub value_bytes_max: u64,
    /// The shares of the operations.
    pub mix: Mix,
}

/// Shares of the operations; zero leaves one out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mix {
    /// Linearizable reads at the leader.
    pub read: u32,
    /// Linearizable reads at a follower.
    pub follower_read: u32,
    /// Reads that may be stale.
    pub stale_read: u32,
    /// Writes of registers.
    pub set: u32,
    /// Appends to lists.
    pub append: u32,
    /// Compare-and-set on registers.
    pub compare_and_set: u32,
    /// Deletions.
    pub delete: u32,
}

/// Settings of the cluster, for the profile to translate. Ranges include tiny values on purpose:
/// back-pressure paths run all the time then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knobs {
    /// The least election timeout, in milliseconds; the most is twice as long.
    pub election_ms: u64,
    /// Heartbeats for each least election timeout; at least three.
    pub heartbeats: u64,
    /// Appends in flight to a peer.
    pub inflight_appends_max: u64,
    /// Bytes in flight to a peer.
    pub inflight_bytes_max: u64,
    /// Bytes of an append.
    pub append_bytes_max: u64,
    /// Bytes a leader takes on uncommitted.
    pub uncommitted_bytes_max: u64,
    /// Reads a leader holds.
    pub reads_pending_max: u64,
    /// Bytes a lane may have under way.
    pub lane_credit_bytes: u64,
    /// Entries between two snapshots a node takes by itself; zero for never.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot when the log is compacted.
    pub compact_keeps: u64,
    /// How far clocks may drift apart that leases allow for, in millionths.
    pub drift_ppm_max: u64,
    /// Mean latency of a link, in microseconds.
    pub latency_us: u64,
    /// Mean time of a sync, in microseconds.
    pub sync_us: u64,
    /// Whether leaders answer reads from a lease.
    pub leases: Choice,
    /// Whether idle groups go to sleep.
    pub quiescence: Choice,
}

/// Whether a capability is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// In use.
    On,
    /// Not in use.
    Off,
}

/// One seed's kind of run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Swarm {
    /// Nodes with a voter of each group at the beginning; numbered from 1.
    pub nodes: u64,
    /// Further nodes for replicas that are added.
    pub spares: u64,
    /// Groups; numbered from 1.
    pub groups: u64,
    /// How long there are faults, in microseconds.
    pub faults_us: u64,
    /// How long there are none afterwards.
    pub healing_us: u64,
    /// The families that are on, in the order of [`Family::ALL`].
    pub troubles: Vec<Trouble>,
    /// A directed sequence on top.
    pub directed: Option<Directed>,
    /// What clients do.
    pub workload: Workload,
    /// How the cluster is set.
    pub knobs: Knobs,
}

impl Swarm {
    /// The swarm of this seed.
    pub fn draw(streams: Streams) -> Self {
        let mut rng = streams.stream("swarm", &[]);
        // Three nodes most of the time; one and seven sometimes.
        let sizes = [(1, 4), (2, 3), (3, 50), (4, 8), (5, 25), (6, 3), (7, 7)];
        let weights = sizes.map(|(_, weight)| weight);
        let nodes = rng.weighted(&weights).map_or(3, |at| sizes[at].0);
        let groups = 1 + rng.skewed(GROUPS_MAX - 1);
        let mut swarm = Self {
            nodes,
            spares: rng.below(3),
            groups,
            faults_us: 30_000_000,
            healing_us: 30_000_000,
            troubles: Vec::new(),
            directed: None,
            workload: Workload::draw(&mut streams.stream("workload", &[])),
            knobs: Knobs::draw(&mut streams.stream("knobs", &[])),
        };
        for family in Family::ALL {
            let mut rng = streams.stream("family", &[family as u64]);
            // Each run has a few families, so that each is seen with and without each other.
            if rng.chance(1, 4) {
                let per_minute = 1 + rng.skewed(40) as u32;
                swarm.troubles.push(Trouble { family, per_minute });
            }
        }
        let mut rng = streams.stream("directed", &[]);
        if rng.chance(1, 4) {
            swarm.directed = rng.pick(&Directed::ALL).copied();
        }
        swarm
    }

    /// The nodes with a voter at the beginning.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.nodes).map(NodeId::new)
    }

    /// All nodes.
    pub const fn nodes_total(&self) -> u64 {
        self.nodes + self.spares
    }

    /// How many nodes may lose what they have promised: fewer than half of the voters.
    pub const fn damaged_max(&self) -> u64 {
        self.nodes.saturating_sub(1) / 2
    }

    /// How many voters the operator must leave to each group. With damaged disks about, a smaller
    /// one could lose to them what it has promised.
    pub fn voters_min(&self) -> u64 {
        let damages = self.directed == Some(Directed::LostPromises)
            || self.troubles.iter().any(|t| matches!(t.family, Family::Wipes | Family::Damage));
        if damages { 2 * self.damaged_max() + 1 } else { 1 }
    }

    /// Passes every number of this swarm to `each` by its name and takes back what it answers.
    ///
    /// Troubles and directed sequences are not among them: they are what the schedule was drawn
    /// from, and a saved run has its schedule.
    pub(super) fn numbers(&mut self, mut each: impl FnMut(&'static str, u64) -> u64) {
        let mut visit = |name, value: &mut u64| *value = each(name, *value);
        visit("nodes", &mut self.nodes);
        visit("spares", &mut self.spares);
        visit("groups", &mut self.groups);
        visit("faults_us", &mut self.faults_us);
        visit("healing_us", &mut self.healing_us);
        let Workload { clients, keys, think_us_max, value_bytes_max, mix } = &mut self.workload;
        visit("clients", clients);
        visit("keys", keys);
        visit("think_us_max", think_us_max);
        visit("value_bytes_max", value_bytes_max);
        let Mix { read, follower_read, stale_read, set, append, compare_and_set, delete } = mix;
        let mut share = |name, value: &mut u32| {
            let mut wide = u64::from(*value);
            visit(name, &mut wide);
            *value = u32::try_from(wide).unwrap_or(u32::MAX);
        };
        share("mix_read", read);
        share("mix_follower_read", follower_read);
        share("mix_stale_read", stale_read);
        share("mix_set", set);
        share("mix_append", append);
        share("mix_compare_and_set", compare_and_set);
        share("mix_delete", delete);
        let knobs = &mut self.knobs;
        visit("election_ms", &mut knobs.election_ms);
        visit("heartbeats", &mut knobs.heartbeats);
        visit("inflight_appends_max", &mut knobs.inflight_appends_max);
        visit("inflight_bytes_max", &mut knobs.inflight_bytes_max);
        visit("append_bytes_max", &mut knobs.append_bytes_max);
        visit("uncommitted_bytes_max", &mut knobs.uncommitted_bytes_max);
        visit("reads_pending_max", &mut knobs.reads_pending_max);
        visit("lane_credit_bytes", &mut knobs.lane_credit_bytes);
        visit("snapshot_every", &mut knobs.snapshot_every);
        visit("compact_keeps", &mut knobs.compact_keeps);
        visit("drift_ppm_max", &mut knobs.drift_ppm_max);
        visit("latency_us", &mut knobs.latency_us);
        visit("sync_us", &mut knobs.sync_us);
        let mut choice = |name, value: &mut Choice| {
            let mut wide = u64::from(*value == Choice::On);
            visit(name, &mut wide);
            *value = if wide == 0 { Choice::Off } else { Choice::On };
        };
        choice("leases", &mut knobs.leases);
        choice("quiescence", &mut knobs.quiescence);
    }

    fn some_group(&self, rng: &mut Rng) -> GroupId {
        GroupId::new(1 + rng.below(self.groups.max(1)) as u32)
    }
}

impl Workload {
    fn draw(rng: &mut Rng) -> Self {
        let registers = rng.chance(1, 2);
        let mut share = |from: u32, most: u64| from + rng.below(most) as u32;
        let mix = Mix {
            read: share(5, 40),
            follower_read: share(0, 20),
            stale_read: share(0, 5),
            set: if registers { share(5, 30) } else { 0 },
            append: if registers { 0 } else { share(10, 40) },
            compare_and_set: if registers { share(0, 20) } else { 0 },
            delete: share(0, 3),
        };
        Self {
            clients: 1 + rng.below(8),
            keys: 1 + rng.below(3),
            think_us_max: 1000 << rng.below(9),
            value_bytes_max: 8 << rng.below(12),
            mix,
        }
    }
}

impl Knobs {
    fn draw(rng: &mut Rng) -> Self {
        let leases = if rng.chance(1, 3) { Choice::On } else { Choice::Off };
        let quiescence = if rng.chance(1, 4) { Choice::On } else { Choice::Off };
        // Half of the seeds live with windows of one to four.
        let tiny = rng.chance(1, 2);
        let mut size = |tiny_max: u64, large: u64| {
            if tiny { 1 + rng.below(tiny_max) } else { large }
        };
        Self {
            inflight_appends_max: size(4, 256),
            inflight_bytes_max: size(4096, 8 << 20),
            append_bytes_max: size(1024, 1 << 20),
            uncommitted_bytes_max: size(8192, 64 << 20),
            reads_pending_max: size(4, 1 << 16),
            lane_credit_bytes: 1024 * size(16, 4096),
            election_ms: 100 + rng.below(900),
            heartbeats: 3 + rng.below(8),
            snapshot_every: if rng.chance(1, 2) { 5 + rng.skewed(200) } else { 0 },
            compact_keeps: rng.skewed(20),
            drift_ppm_max: 200 + rng.below(1800),
            latency_us: 50 + rng.skewed(5_000),
            sync_us: 20 + rng.skewed(10_000),
            leases,
            quiescence,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::schedule::FaultKind;
    use super::*;

    #[test]
    fn a_seed_has_one_swarm_and_one_schedule() {
        for seed in 0..50 {
            let streams = Streams::new(seed);
            let swarm = Swarm::draw(streams);
            assert_eq!(swarm, Swarm::draw(streams));
            assert_eq!(generate(streams, &swarm), generate(streams, &swarm));
        }
    }

    #[test]
    fn seeds_differ_and_stay_within_their_ranges() {
        let mut sizes = BTreeSet::new();
        let mut families = BTreeSet::new();
        let mut sequences = BTreeSet::new();
        for seed in 0..500 {
            let swarm = Swarm::draw(Streams::new(seed));
            assert!((1..=NODES_MAX).contains(&swarm.nodes));
            assert!((1..=GROUPS_MAX).contains(&swarm.groups));
            assert!((1..=8).contains(&swarm.workload.clients));
            assert!(swarm.knobs.heartbeats >= 3);
            assert!(swarm.damaged_max() * 2 < swarm.nodes);
            sizes.insert(swarm.nodes);
            families.extend(swarm.troubles.iter().map(|trouble| trouble.family));
            sequences.extend(swarm.directed);
        }
        assert_eq!(sizes.len() as u64, NODES_MAX);
        assert_eq!(families.len(), Family::ALL.len());
        assert_eq!(sequences.len(), Directed::ALL.len());
    }

    #[test]
    fn removing_a_family_leaves_the_faults_of_the_others_alone() {
        let mut compared = 0;
        for seed in 0..100 {
            let streams = Streams::new(seed);
            let swarm = Swarm::draw(streams);
            let all = generate(streams, &swarm);
            for at in 0..swarm.troubles.len() {
                let mut less = swarm.clone();
                less.troubles.remove(at);
                let rest = generate(streams, &less);
                assert!(rest.faults().iter().all(|fault| all.faults().contains(fault)), "{seed}");
                compared += 1;
            }
        }
        assert!(compared > 100);
    }

    #[test]
    fn schedules_end_with_the_fault_phase_and_read_back_from_text() {
        let mut words = BTreeSet::new();
        for seed in 0..400 {
            let streams = Streams::new(seed);
            let swarm = Swarm::draw(streams);
            let schedule = generate(streams, &swarm);
            assert!(schedule.ends_us() <= swarm.faults_us, "seed {seed}");
            let text = schedule.to_string();
            let read = super::super::schedule::Schedule::parse(&text);
            assert_eq!(read.as_ref(), Ok(&schedule), "seed {seed}");
            words.extend(schedule.faults().iter().map(|fault| fault.kind.word()));
        }
        let expected: BTreeSet<_> = FaultKind::WORDS.iter().copied().collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn damage_stays_within_its_budget() {
        for seed in 0..400 {
            let streams = Streams::new(seed);
            let swarm = Swarm::draw(streams);
            let damaged: BTreeSet<NodeId> = generate(streams, &swarm)
                .faults()
                .iter()
                .filter_map(|fault| match fault.kind {
                    FaultKind::Wipe { node } | FaultKind::BitFlip { node } => Some(node),
                    _ => None,
                })
                .collect();
            assert!(damaged.len() as u64 <= swarm.damaged_max(), "seed {seed}: {damaged:?}");
        }
    }
}
