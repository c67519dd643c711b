//! What one seed draws: cluster, settings, workload, weather.
//!
//! Limits are drawn small as often as large: queues, windows and segments that are never full
//! would never be tested.

use std::time::Duration;

use raft_core::{GroupId, Lease, NodeId, ReadPath, ReplicaId, Settings};
use raft_storage::{Ending, Large, LogOptions, OnDamage, Preparation};
use raft_transport::{Lane, LaneConfig, LanePolicy, SNAPSHOT_DATA_MAX};

use super::network::{Chop, Link, Place};
use super::options::{Options, Size, Weather};
use crate::group_spec::GroupSpec;
use crate::persistence::{FlushPolicy, Persistence, Strategy};
use crate::sim::rng::{Rng, Streams};
use crate::snapshot::desk::DeskOptions;
use crate::state_machine::ApplyMode;

/// A read of the log takes at most so long on a node that is well, in microseconds.
pub(super) const READ_US: u64 = 5_000;

/// Everything that is fixed for a run.
#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) nodes: Vec<NodeId>,
    /// Shards of each node.
    pub(super) shards: Vec<usize>,
    pub(super) groups: Vec<GroupSpec>,
    /// Whether a quorum of a group that counts what is written may forget, and somebody accepts that.
    pub(super) accepts_losses: bool,
    pub(super) settings: Settings,
    pub(super) lane: LaneConfig,
    pub(super) policy: LanePolicy,
    pub(super) log: LogOptions,
    /// What is handed to the log at once, and what may wait for it on a node.
    pub(super) log_portion_bytes: u64,
    pub(super) log_pending_bytes: u64,
    /// How what the log writes becomes durable.
    pub(super) log_ending: Ending,
    pub(super) window_bytes: u64,
    pub(super) requests_max: usize,
    pub(super) bulk_bytes_max: u64,
    pub(super) apply: ApplyMode,
    pub(super) chop: Chop,
    pub(super) socket_bytes: usize,
    /// Bytes per millisecond that each direction of a connection carries, where that is little,
    /// until some seconds after the faults.
    pub(super) pace: Option<u64>,
    /// Bulk lanes are soon full, and go down when they are.
    pub(super) busy_bulk: bool,
    /// Room of a node for messages that no window holds.
    pub(super) grant_bytes_max: u64,
    /// Leaders come back again and again to a snapshot that contradicts what they have appended.
    pub(super) contradicts: bool,
    /// The largest frame that a control lane accepts.
    pub(super) control_frame_max: u64,
    /// A sync takes from so long to so long, in microseconds.
    pub(super) sync_us: (u64, u64),
    /// A woken thread runs after at most so long, in microseconds.
    pub(super) wake_us: u64,
    /// The apply worker takes at most so long for a job, and the log's reader for a read.
    pub(super) apply_us: u64,
    pub(super) read_us: u64,
    pub(super) clients: usize,
    /// Pause of a client between operations, at most, in microseconds.
    pub(super) pause_us: u64,
    /// Keys of each kind in each group.
    pub(super) keys: u64,
    /// Payload padding, at most, and how many of a thousand commands are so large.
    pub(super) padding: u64,
    pub(super) large_permille: u32,
    /// Whether clients ask all at once, and of one group.
    pub(super) bursts: bool,
    /// How clients read.
    pub(super) read_paths: Vec<ReadPath>,
    /// Pause of an operator between orders, on average, in microseconds; nothing without one.
    pub(super) operator_us: u64,
    /// Whether they destroy groups and begin them anew under their old ids.
    pub(super) rebirths: bool,
    /// A group's snapshot is taken when so many entries were applied, and so many stay in the log.
    pub(super) snapshot_every: Option<u64>,
    pub(super) snapshot_tail: u64,
    /// It is taken as well when so many bytes were.
    pub(super) snapshot_bytes: Option<u64>,
    /// So many bytes of the log are kept for whoever fetches or lags.
    pub(super) snapshot_hold_bytes: u64,
    /// Bytes that every snapshot holds on top of the state.
    pub(super) snapshot_padding: usize,
    /// Whether machines leave commands in the log.
    pub(super) keeps_entries: bool,
    /// How snapshots are fetched.
    pub(super) desk: DeskOptions,
    /// The snapshot desk takes at most so long for one thing, in microseconds.
    pub(super) desk_us: u64,
    /// And the workshop.
    pub(super) workshop_us: u64,
    /// Drift of each node's clock, at most, in parts per million.
    pub(super) drift_ppm: u64,
}

impl Swarm {
    pub(super) fn draw(streams: Streams, options: &Options) -> Self {
        let mut rng = streams.stream("swarm", &[]);
        let operator_us = match options.weather {
            Weather::Any => *rng.pick(&[0, 0, 150_000, 500_000, 2_000_000]).expect("a list"),
            // Nobody moves a group to where a partition leaves it no majority.
            Weather::Calm | Weather::StaticPartition => 0,
        };
        let (nodes, groups) = match options.size {
            Size::Small if operator_us > 0 => (rng.range(4..=5), rng.range(1..=3)),
            Size::Small => (draw_nodes(&mut rng), rng.range(1..=4)),
            Size::Wide => (rng.range(1..=7), rng.range(1..=50)),
        };
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        let groups: Vec<GroupSpec> =
            (1..=groups).map(|group| draw_group(&mut rng, group, &nodes)).collect();
        let mut persistence = streams.stream("persistence", &[]);
        let groups = draw_persistence(&mut persistence, groups);
        // Nobody accepts a loss in the middle of a change of members.
        let accepts_losses = operator_us == 0 && persistence.chance(2, 3);
        let is_long = options.is_long();
        let heartbeat_ms = *rng.pick(&[50, 100, 100, 150, 200]).expect("a list");
        let heartbeat_ms = if is_long { 200 } else { heartbeat_ms };
        let election_ms = heartbeat_ms * rng.range(4..=10);
        let few = rng.chance(1, 4);
        let drift_ppm = *rng.pick(&[0, 200, 50_000]).expect("a list");
        let lease = if rng.chance(1, 2) {
            Lease::Within { drift_ppm: drift_ppm as u32 }
        } else {
            Lease::Never
        };
        let mut settings = Settings {
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            election_timeout_min: Duration::from_millis(election_ms),
            election_timeout_max: Duration::from_millis(election_ms * rng.range(15..=25) / 10),
            append_bytes_max: *rng.pick(&[512, 4 << 10, 64 << 10, 1 << 20]).expect("a list"),
            inflight_appends_max: if few { rng.range(1..=4) as usize } else { 256 },
            inflight_bytes_max: if few { rng.range(1..=16) << 10 } else { 8 << 20 },
            uncommitted_bytes_max: if few { rng.range(4..=64) << 10 } else { 64 << 20 },
            reads_pending_max: if few { rng.range(1..=8) as usize } else { 1 << 16 },
            lease,
            ..Settings::default()
        };
        let bound_ms = *streams.stream("stalls", &[]).pick(&[1_000, 1_500]).expect("a list");
        settings.disk_stall_max =
            Duration::from_millis(bound_ms).max(settings.election_timeout_min);
        let bulk = *rng.pick(&[None, Some(1 << 10), Some(4 << 10)]).expect("a list");
        let window = if rng.chance(1, 4) { rng.range(2..=64) << 10 } else { 1 << 20 };
        let mut lane = LaneConfig {
            window_bytes: window,
            write_buffer_max: if few { rng.range(1..=16) << 10 } else { 1 << 20 },
            keepalive_interval: Duration::from_millis(rng.range(1000..=3000)),
            keepalive_timeout: Duration::from_millis(rng.range(1000..=3000)),
            stall_timeout: Duration::from_millis(rng.range(2000..=5000)),
            ..LaneConfig::default()
        };
        let snapshot_every = rng.chance(1, 2).then(|| rng.range(5..=80));
        let snapshot_padding = if rng.chance(1, 6) { rng.range(100..=500) << 10 } else { 0 };
        let slow_disk = rng.chance(1, 5);
        let segment_kib = *rng.pick(&[16, 32, 64, 128, 256]).expect("a list");
        // From a stream of their own, so that all else stays what its seed made it.
        let mut slow = streams.stream("slow-lanes", &[]);
        let mut large = streams.stream("large-entries", &[]);
        let mut links = streams.stream("slow-links", &[]);
        let mut commits = streams.stream("log-commits", &[]);
        let mut damage = streams.stream("damaged-logs", &[]);
        let pace = *links.pick(&[96, 128, 256]).expect("a list");
        // Probes of a static partition have little time, and large values cross in seconds.
        let may_be_slow =
            options.weather == Weather::Any && options.size == Size::Small && !is_long;
        let is_slow = options.slow_links || may_be_slow && links.chance(1, 6);
        let pace = is_slow.then_some(pace);
        if pace.is_some() {
            // As the lanes ask for it: well below what a peer waits for a word.
            lane.keepalive_interval = lane.keepalive_timeout / 3;
        }
        // Room for the heartbeats of a dozen groups or two, and for a snapshot that is offered to as
        // many members as there can be: fewer where nobody adds any.
        let stays = operator_us == 0;
        let is_tiny = slow.chance(1, 2) || stays && options.size == Size::Wide;
        let control_frame_max = match (is_tiny, stays && slow.chance(2, 3)) {
            (true, true) => slow.range(offer_bytes_max(&groups)..=200),
            (true, false) => slow.range(320..=640),
            (false, _) => lane.frame_bytes_max,
        };
        // Bulk lanes that are full with a command or two.
        let mut busy = streams.stream("busy-bulk", &[]);
        let busy_bulk = pace.is_none() && options.weather == Weather::Any && busy.chance(1, 8);
        if busy_bulk {
            lane.window_bytes = busy.range(2..=8) << 10;
            // A large command each, so that several appends are ready at once.
            settings.append_bytes_max = 4 << 10;
        }
        // Chunks that a small append is cut into, and little room for what has to be alone.
        let mut chunks = streams.stream("chunks", &[]);
        lane.chunk_bytes = *chunks.pick(&[0, 512, 2 << 10, 32 << 10]).expect("a list");
        let grant_bytes_max = *chunks.pick(&[1, 64 << 10, 128 << 20]).expect("a list");
        lane.long_messages_max = *chunks.pick(&[1, 3, 63]).expect("a list");
        // Snapshots that replace logs which contradict them, and are long on their way.
        let mut against = streams.stream("contradictions", &[]);
        let contradicts = pace.is_none() && may_be_slow && against.chance(1, 12);
        let bulk = if busy_bulk { Some(1 << 10) } else { bulk };
        let wake_us = *rng.pick(&[20, 100, 1_000]).expect("a list");
        let bursts = rng.chance(1, 4);
        let rebirths = operator_us > 0 && rng.chance(1, 2);
        let accepts_losses = accepts_losses && groups.iter().any(GroupSpec::counts_written);
        let mut swarm = Self {
            pace,
            busy_bulk,
            grant_bytes_max,
            contradicts,
            control_frame_max,
            shards: nodes.iter().map(|_| rng.range(1..=2) as usize).collect(),
            nodes,
            groups,
            accepts_losses,
            settings,
            lane,
            policy: LanePolicy { bulk_append_min: bulk },
            log: LogOptions {
                segment_bytes: segment_kib << 10,
                frame_bytes_max: *rng.pick(&[4 << 10, 8 << 10, 4 << 20, 4 << 20]).expect("a list"),
                preparation: Preparation::OnDemand,
                checkpoint_bytes: 0,
                on_damage: match damage.chance(3, 4) {
                    true => OnDamage::Repair,
                    false => OnDamage::Refuse,
                },
                large: Large {
                    entry_bytes_min: *large.pick(&[4 << 10, 8 << 10, 256 << 10]).expect("a list"),
                    // A block or two each, so that pieces take little more than what is in them.
                    piece_bytes_max: *large.pick(&[3_900, 8_000]).expect("a list"),
                },
            },
            log_ending: match commits.chance(1, 2) {
                true => Ending::AtOnce,
                false => Ending::Sync,
            },
            window_bytes: *rng.pick(&[0, 16 << 10, 8 << 20]).expect("a list"),
            requests_max: if few { rng.range(2..=8) as usize } else { 1 << 10 },
            bulk_bytes_max: if few { 4 << 10 } else { 4 << 20 },
            apply: if rng.chance(1, 3) { ApplyMode::Worker } else { ApplyMode::Inline },
            chop: if rng.chance(1, 4) { Chop::Permille(200) } else { Chop::Whole },
            // A kernel that takes at once what a slow link carries in seconds.
            socket_bytes: match (*rng.pick(&[2 << 10, 16 << 10, 256 << 10]).expect("a list"), pace)
            {
                (_, Some(_)) => 1 << 20,
                (bytes, None) => bytes,
            },
            sync_us: if slow_disk { (2_000, 40_000) } else { (100, 3_000) },
            wake_us,
            apply_us: if rng.chance(1, 3) { 300_000 } else { wake_us * 4 },
            read_us: if rng.chance(1, 4) { 300_000 } else { READ_US },
            clients: if is_long { 2 } else { rng.range(2..=6) as usize },
            pause_us: match *rng.pick(&[50_000, 150_000, 400_000]).expect("a list") {
                pause if is_long => pause * 2,
                pause => pause,
            },
            bursts,
            keys: rng.range(1..=4),
            padding: match (*rng.pick(&[64, 3_000, 12_000]).expect("a list"), pace) {
                // Larger than what the link carries while a lane waits for a word.
                (_, Some(pace)) => (pace * 5_000).min(600_000),
                (bytes, None) => bytes,
            },
            large_permille: match (*rng.pick(&[0, 50, 300]).expect("a list"), pace) {
                (_, Some(_)) => 5,
                (permille, None) => permille,
            },
            read_paths: if !bursts && rng.chance(1, 2) {
                vec![ReadPath::Quorum]
            } else {
                vec![ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower]
            },
            operator_us,
            rebirths,
            snapshot_every: snapshot_every.map(|every| every.max(snapshot_padding / 4096)),
            snapshot_tail: *rng.pick(&[0, 0, 5, 40]).expect("a list"),
            snapshot_padding: snapshot_padding as usize,
            keeps_entries: streams.stream("kept entries", &[]).chance(1, 2),
            snapshot_bytes: rng.chance(1, 4).then(|| rng.range(2..=64) << 10),
            snapshot_hold_bytes: *rng.pick(&[0, 8 << 10, 1 << 20]).expect("a list"),
            desk: DeskOptions {
                piece_bytes: *rng.pick(&[256, 4 << 10, SNAPSHOT_DATA_MAX]).expect("a list"),
                pieces_ahead: rng.range(1..=8),
                fetches_max: rng.range(1..=4) as usize,
            },
            desk_us: *rng.pick(&[1_000, 10_000]).expect("a list"),
            workshop_us: *rng.pick(&[5_000, 40_000, 400_000]).expect("a list"),
            drift_ppm,
            log_portion_bytes: *rng.pick(&[2 << 10, 16 << 10, 4 << 20]).expect("a list"),
            log_pending_bytes: if rng.chance(1, 3) { rng.range(64..=256) << 10 } else { 64 << 20 },
        };
        if contradicts {
            (swarm.snapshot_tail, swarm.snapshot_hold_bytes) = (0, 0);
            swarm.snapshot_padding = swarm.snapshot_padding.max(64 << 10);
            swarm.snapshot_every = swarm.snapshot_every.map(|every| every.max(16));
            swarm.desk.piece_bytes = 4 << 10;
        }
        swarm
    }

    /// How a lane behaves.
    pub(super) fn lane_config(&self, lane: Lane) -> LaneConfig {
        let frame_bytes_max = match lane {
            Lane::Control => self.control_frame_max,
            Lane::Data { .. } | Lane::Bulk => self.lane.frame_bytes_max,
        };
        LaneConfig { frame_bytes_max, ..self.lane.clone() }
    }

    /// How a group counts, in each of its lives.
    pub(super) fn persistence_of(&self, group: GroupId) -> (Option<Strategy>, Option<FlushPolicy>) {
        let spec = self.groups.iter().find(|spec| spec.group == group);
        spec.map_or((None, None), |spec| (spec.strategy, spec.flush))
    }

    /// Whether some groups count what is written.
    pub(super) fn counts_written(&self) -> bool {
        self.groups.iter().any(GroupSpec::counts_written)
    }

    /// The place of a node.
    pub(super) fn place_of(&self, node: NodeId) -> Option<Place> {
        self.nodes.iter().position(|other| *other == node)
    }

    /// The link between two nodes as long as nothing is wrong with it.
    pub(super) fn link(&self, rng: &mut Rng) -> Link {
        Link {
            cuts: 0,
            cut_since: 0,
            latency_us: 50 + rng.skewed(4_000),
            jitter_us: rng.skewed(3_000),
            rate: *rng.pick(&[1_000, 12_500, 125_000]).expect("a list"),
            busy_until: 0,
            loss_permille: 0,
        }
    }
}

/// What the offer of a snapshot takes in a frame, where nobody changes a membership: the longest
/// message of the control lane. Ids, terms and indexes of a run are small.
fn offer_bytes_max(groups: &[GroupSpec]) -> u64 {
    /// The frame's header, and everything but the members.
    const BESIDE: u64 = 70;
    /// Replica, node and standing.
    const MEMBER: u64 = 17;
    let members = groups.iter().map(|spec| spec.replicas.len() as u64).max();
    BESIDE + MEMBER * members.unwrap_or(0)
}

/// In two of five runs some groups count what is written.
fn draw_persistence(rng: &mut Rng, mut groups: Vec<GroupSpec>) -> Vec<GroupSpec> {
    if rng.chance(2, 5) {
        for group in &mut groups {
            let flush = match rng.below(4) {
                0 => FlushPolicy::Immediate,
                _ => FlushPolicy::Batch {
                    threshold: *rng.pick(&[1, 3, 20, 1_000]).expect("a list"),
                    interval: Duration::from_millis(
                        *rng.pick(&[1, 5, 20, 100, 1_000]).expect("a list"),
                    ),
                },
            };
            if rng.chance(3, 5) {
                let persistence = Persistence { strategy: Strategy::MemFirst, flush };
                *group = group.clone().with_persistence(persistence);
            }
        }
    }
    groups
}

/// Mostly three, four or five: enough for every kind of partition.
fn draw_nodes(rng: &mut Rng) -> u64 {
    *rng.pick(&[3, 3, 3, 4, 5, 5]).expect("a list")
}

/// A group on some of the nodes: an odd number of replicas as a rule.
fn draw_group(rng: &mut Rng, group: u64, nodes: &[NodeId]) -> GroupSpec {
    let mut places = nodes.to_vec();
    rng.shuffle(&mut places);
    let wanted = *rng.pick(&[3, 3, 3, 5, 5, 4, 2, 1]).expect("a list");
    places.truncate(wanted.min(nodes.len()));
    places.sort_unstable();
    let mut spec = GroupSpec::on_nodes(GroupId::new(group as u32), places);
    // Replicas are not named as their nodes are: whoever confuses the two shall be caught.
    for (replica, node) in &mut spec.replicas {
        *replica = replica_at_first(*node);
    }
    spec
}

/// The replica on a node of a group that begins: in each of its lives the same.
pub(super) fn replica_at_first(node: NodeId) -> ReplicaId {
    ReplicaId::new(node.get() * 10 + 1)
}
