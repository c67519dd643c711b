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
//! Damage is drawn without a budget: how much a group survives depends on where its promises are
//! at that moment, and the profile skips what would go beyond.

mod directed;
mod generate;

use raft_core::{GroupId, NodeId};

pub use self::directed::Directed;
pub(in crate::sim) use self::directed::STANDING_US;
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
    /// Nodes that stop in order.
    Stops,
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
        Self::Stops,
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
    /// Clients, each with one request at a time in a group of its own choice.
    pub clients: u64,
    /// How long a client thinks between two requests on average, in microseconds.
    pub think_us: u64,
    /// The shares of the operations.
    pub mix: Mix,
}

/// Shares of the operations; zero leaves one out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mix {
    /// Linearizable reads at the leader, confirmed by a quorum.
    pub read: u32,
    /// Linearizable reads at the leader from its lease, where leases are in use.
    pub lease_read: u32,
    /// Linearizable reads at a follower.
    pub follower_read: u32,
    /// Writes of registers.
    pub set: u32,
    /// Appends to lists.
    pub append: u32,
    /// Compare-and-set on registers.
    pub compare_and_set: u32,
}

/// Settings of the cluster and its surroundings, for the profile to translate. Ranges include tiny
/// values on purpose: back-pressure paths run all the time then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knobs {
    /// Between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The least election timeout, in milliseconds; at least three heartbeats.
    pub election_min_ms: u64,
    /// The most.
    pub election_max_ms: u64,
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
    /// How far a learner may lag and still be promoted, in entries.
    pub promotion_lag_max: u64,
    /// After how long with a hung disk a leader gives up, in milliseconds.
    pub disk_stall_ms: u64,
    /// After how long without work a group goes to sleep, in milliseconds; zero for never.
    pub quiesce_ms: u64,
    /// Whether leaders answer reads from a lease.
    pub leases: Choice,
    /// How far clocks run fast or slow, in millionths.
    pub drift_ppm: u64,
    /// How far leases allow for; at least as far.
    pub lease_drift_ppm: u64,
    /// Whether entries count as soon as they are written, without a sync.
    pub count_written: Choice,
    /// The least latency of a link, in microseconds.
    pub latency_us: u64,
    /// Up to so much more.
    pub jitter_us: u64,
    /// Messages that are lost, out of a thousand.
    pub drop_permille: u64,
    /// Messages that arrive twice.
    pub duplicate_permille: u64,
    /// Messages that are held back.
    pub straggle_permille: u64,
    /// For up to so long.
    pub straggle_us: u64,
    /// Mean time of a sync, in microseconds.
    pub sync_us: u64,
    /// Entries applied in one turn.
    pub apply_max: u64,
    /// How often an operator acts on a group, in microseconds; zero for never.
    pub operator_us: u64,
    /// Whether the operator changes memberships.
    pub changes: Choice,
    /// Whether it hands leaderships over.
    pub transfers: Choice,
    /// Whether it takes snapshots and compacts.
    pub snapshots: Choice,
    /// Whether it has replicas campaign.
    pub campaigns: Choice,
    /// Whether replicas are unlike eager to lead.
    pub priorities: Choice,
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
    /// Nodes; numbered from 1.
    pub nodes: u64,
    /// Voters of each group at the beginning, on as many of the nodes.
    pub voters: u64,
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
        let sizes = [(1, 4), (2, 4), (3, 45), (4, 15), (5, 22), (6, 5), (7, 5)];
        let weights = sizes.map(|(_, weight)| weight);
        let nodes = rng.weighted(&weights).map_or(3, |at| sizes[at].0);
        let voters = match nodes {
            1 | 2 => nodes,
            3 | 4 if rng.chance(1, 10) => 2,
            3 | 4 => 3,
            _ => [3, 5][usize::from(rng.chance(2, 3))],
        };
        // One or two mostly: many groups make a run slow and show little of each.
        let groups = match rng.below(12) {
            0..=7 => 1 + rng.below(2),
            8..=10 => 2 + rng.below(6),
            _ => 10 + rng.below(GROUPS_MAX - 9),
        };
        let mut swarm = Self {
            nodes,
            voters,
            groups,
            faults_us: 30_000_000,
            healing_us: 30_000_000,
            troubles: Vec::new(),
            directed: None,
            workload: Workload::draw(&mut streams.stream("workload", &[]), groups),
            knobs: Knobs::draw(&mut streams.stream("knobs", &[])),
        };
        for family in Family::ALL {
            let mut rng = streams.stream("family", &[family as u64]);
            // Each run has a few families, so that each is seen with and without each other.
            if rng.chance(1, 4) {
                let per_minute = 2 + rng.skewed(50) as u32;
                swarm.troubles.push(Trouble { family, per_minute });
            }
        }
        let mut rng = streams.stream("directed", &[]);
        if rng.chance(1, 3) {
            // What is lost must be missed by somebody at the right moment, which is rare.
            swarm.directed = if rng.chance(1, 6) {
                Some(Directed::LostPromises)
            } else {
                rng.pick(&Directed::ALL).copied()
            };
        }
        if let Some(directed) = swarm.directed {
            directed.prepare(&mut swarm);
        }
        swarm
    }

    /// The nodes that the voters of a group are on at the beginning, in ascending order.
    pub fn placement(&self, streams: Streams, group: GroupId) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = (1..=self.nodes).map(NodeId::new).collect();
        streams.stream("placement", &[u64::from(group.get())]).shuffle(&mut nodes);
        nodes.truncate(self.voters.max(1) as usize);
        nodes.sort_unstable();
        nodes
    }

    /// Passes every number of this swarm to `each` by its name and takes back what it answers.
    ///
    /// Troubles and directed sequences are not among them: they are what the schedule was drawn
    /// from, and a saved run has its schedule.
    pub(super) fn numbers(&mut self, mut each: impl FnMut(&'static str, u64) -> u64) {
        let mut visit = |name, value: &mut u64| *value = each(name, *value);
        visit("nodes", &mut self.nodes);
        visit("voters", &mut self.voters);
        visit("groups", &mut self.groups);
        visit("faults_us", &mut self.faults_us);
        visit("healing_us", &mut self.healing_us);
        let Workload { clients, think_us, mix } = &mut self.workload;
        visit("clients", clients);
        visit("think_us", think_us);
        let Mix { read, lease_read, follower_read, set, append, compare_and_set } = mix;
        let mut share = |name, value: &mut u32| {
            let mut wide = u64::from(*value);
            visit(name, &mut wide);
            *value = u32::try_from(wide).unwrap_or(u32::MAX);
        };
        share("mix_read", read);
        share("mix_lease_read", lease_read);
        share("mix_follower_read", follower_read);
        share("mix_set", set);
        share("mix_append", append);
        share("mix_compare_and_set", compare_and_set);
        let knobs = &mut self.knobs;
        visit("heartbeat_ms", &mut knobs.heartbeat_ms);
        visit("election_min_ms", &mut knobs.election_min_ms);
        visit("election_max_ms", &mut knobs.election_max_ms);
        visit("inflight_appends_max", &mut knobs.inflight_appends_max);
        visit("inflight_bytes_max", &mut knobs.inflight_bytes_max);
        visit("append_bytes_max", &mut knobs.append_bytes_max);
        visit("uncommitted_bytes_max", &mut knobs.uncommitted_bytes_max);
        visit("reads_pending_max", &mut knobs.reads_pending_max);
        visit("promotion_lag_max", &mut knobs.promotion_lag_max);
        visit("disk_stall_ms", &mut knobs.disk_stall_ms);
        visit("quiesce_ms", &mut knobs.quiesce_ms);
        visit("drift_ppm", &mut knobs.drift_ppm);
        visit("lease_drift_ppm", &mut knobs.lease_drift_ppm);
        visit("latency_us", &mut knobs.latency_us);
        visit("jitter_us", &mut knobs.jitter_us);
        visit("drop_permille", &mut knobs.drop_permille);
        visit("duplicate_permille", &mut knobs.duplicate_permille);
        visit("straggle_permille", &mut knobs.straggle_permille);
        visit("straggle_us", &mut knobs.straggle_us);
        visit("sync_us", &mut knobs.sync_us);
        visit("apply_max", &mut knobs.apply_max);
        visit("operator_us", &mut knobs.operator_us);
        let mut choice = |name, value: &mut Choice| {
            let mut wide = u64::from(*value == Choice::On);
            visit(name, &mut wide);
            *value = if wide == 0 { Choice::Off } else { Choice::On };
        };
        choice("leases", &mut knobs.leases);
        choice("count_written", &mut knobs.count_written);
        choice("changes", &mut knobs.changes);
        choice("transfers", &mut knobs.transfers);
        choice("snapshots", &mut knobs.snapshots);
        choice("campaigns", &mut knobs.campaigns);
        choice("priorities", &mut knobs.priorities);
    }

    fn some_group(&self, rng: &mut Rng) -> GroupId {
        GroupId::new(1 + rng.below(self.groups.max(1)) as u32)
    }
}

impl Workload {
    fn draw(rng: &mut Rng, groups: u64) -> Self {
        let mut share = |most: u64| rng.below(most) as u32;
        let mut mix = Mix {
            read: 5 + share(20),
            lease_read: share(20),
            follower_read: share(20),
            set: share(30),
            append: share(30),
            compare_and_set: share(20),
        };
        // Nothing is found out where nobody writes.
        mix.set += if mix.append == 0 { 10 } else { 0 };
        let clients = 3 + rng.below(4) + groups;
        Self { clients, think_us: 100_000 + rng.below(400_000) + groups * 20_000, mix }
    }
}

impl Choice {
    fn draw(rng: &mut Rng, numerator: u64, denominator: u64) -> Self {
        if rng.chance(numerator, denominator) { Self::On } else { Self::Off }
    }
}

impl Knobs {
    fn draw(rng: &mut Rng) -> Self {
        let heartbeat_ms = 20 + rng.below(100);
        let election_min_ms = heartbeat_ms * (3 + rng.below(4));
        // The narrower the range, the sooner after each other patience ends.
        let narrow = if rng.chance(1, 3) { election_min_ms / 10 } else { election_min_ms / 2 };
        let election_max_ms = election_min_ms + narrow + rng.below(election_min_ms);
        let drift_ppm = match rng.below(4) {
            0 => rng.below(100_000),
            1 => rng.below(30_000),
            _ => rng.below(200),
        };
        let tiny = rng.chance(1, 3);
        let mut size = |least: u64, tiny_width: u64, large: u64| {
            if tiny { least + rng.below(tiny_width) } else { large }
        };
        let (append_bytes_max, inflight_appends_max) = (size(1, 400, 1 << 20), size(1, 4, 64));
        let (inflight_bytes_max, reads_pending_max) = (size(1, 2000, 1 << 20), size(1, 8, 1 << 12));
        let uncommitted_bytes_max = size(500, 8000, 1 << 20);
        // Half of the networks are faultless but for what the schedule does to them.
        let mut permille = |most: u64| if rng.chance(1, 2) { rng.below(most) } else { 0 };
        let (drop_permille, duplicate_permille) = (permille(60), permille(50));
        let straggle_permille = permille(40);
        let quiesces = rng.chance(1, 4);
        Self {
            heartbeat_ms,
            election_min_ms,
            election_max_ms,
            inflight_appends_max,
            inflight_bytes_max,
            append_bytes_max,
            uncommitted_bytes_max,
            reads_pending_max,
            promotion_lag_max: rng.below(64),
            disk_stall_ms: election_max_ms * (1 + rng.below(4)),
            quiesce_ms: if quiesces { election_min_ms + rng.below(500) } else { 0 },
            leases: Choice::draw(rng, 1, 2),
            drift_ppm,
            lease_drift_ppm: drift_ppm + rng.below(5_000),
            count_written: Choice::draw(rng, 1, 4),
            latency_us: 100 + rng.below(3_000),
            jitter_us: rng.below(5_000),
            drop_permille,
            duplicate_permille,
            straggle_permille,
            straggle_us: rng.below(3_000_000),
            sync_us: 200 + rng.below(4_000),
            apply_max: if rng.chance(1, 6) { 1 + rng.below(3) } else { 64 },
            operator_us: 300_000 + rng.below(1_500_000),
            changes: Choice::draw(rng, 1, 2),
            transfers: Choice::draw(rng, 1, 2),
            snapshots: Choice::draw(rng, 1, 2),
            campaigns: Choice::draw(rng, 1, 4),
            priorities: Choice::draw(rng, 1, 5),
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
            assert!((1..=swarm.nodes).contains(&swarm.voters));
            assert!(swarm.knobs.election_min_ms >= 3 * swarm.knobs.heartbeat_ms);
            assert!(swarm.knobs.lease_drift_ppm >= swarm.knobs.drift_ppm);
            let placement = swarm.placement(Streams::new(seed), GroupId::new(1));
            assert_eq!(placement.len() as u64, swarm.voters);
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
        let mut expected: BTreeSet<_> = FaultKind::WORDS.iter().copied().collect();
        // It stands for what a profile plans, and is not drawn.
        expected.remove("planned");
        assert_eq!(words, expected);
    }
}
