//! What goes wrong, and when: drawn before the run begins, so that a run can be replayed with
//! some of its faults taken away.
//!
//! Whatever a fault leaves to chance it draws from a number of its own, so its fellows do not
//! notice when it is gone.

use super::disk::SEGMENT;
use super::floods;
use super::hangs;
use super::network::Place;
use super::options::{Options, Weather};
use super::races;
use super::swarm::Swarm;
use crate::group_spec::GroupSpec;
use crate::sim::rng::{Rng, Streams};

/// A fault and its moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlannedFault {
    /// When it begins, in virtual microseconds.
    pub at: u64,
    /// How long it lasts, in virtual microseconds, where that means something.
    pub lasts: u64,
    /// Decides what the fault leaves to chance.
    pub draw: u64,
    /// What happens.
    pub fault: Fault,
}

/// What can happen. Nodes are named by their places from zero.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// These directed links are cut: partitions of any shape.
    Cut {
        /// Which shape it was drawn as, for the record.
        shape: &'static str,
        /// From where to where.
        links: Vec<(Place, Place)>,
    },
    /// A link gets slow and narrow.
    SlowLink {
        /// From.
        from: Place,
        /// To.
        to: Place,
        /// Added latency, in microseconds.
        latency_us: u64,
    },
    /// A link loses packets.
    LossyLink {
        /// From.
        from: Place,
        /// To.
        to: Place,
        /// Of a thousand.
        permille: u32,
    },
    /// Some connection is reset at some byte.
    Reset,
    /// One end of some connection dies without a word.
    HalfOpen,
    /// Some connection is stuck in one direction.
    StallLane,
    /// A bit flips in what some connection carries next.
    Garble,
    /// A node refuses connections.
    Refuse {
        /// Which.
        node: Place,
    },
    /// A node answers connections late.
    SlowConnect {
        /// Which.
        node: Place,
        /// By how much, in microseconds.
        by_us: u64,
    },
    /// A node dies after so many more effects, and comes back.
    Crash {
        /// Which.
        node: Place,
        /// Writes to disk and network that still happen.
        effects: u64,
        /// Whether its machine dies with it.
        power: Power,
    },
    /// Whichever node next works on a snapshot that is on its way to it dies after so many more
    /// effects, and comes back.
    CrashInstall {
        /// Writes to disk and network that still happen.
        effects: u64,
        /// Whether its machine dies with it.
        power: Power,
    },
    /// All nodes die, one after another or at once.
    CrashAll {
        /// Within so long, in microseconds.
        within_us: u64,
        /// Whether their machines die with them.
        power: Power,
    },
    /// A process is stopped and goes on.
    Pause {
        /// Which.
        node: Place,
    },
    /// A thread stands still within a turn, at a look at its clocks.
    Still {
        /// Of which node; `None`: of whichever comes there first.
        node: Option<Place>,
        /// Just before this look, counted from one; the first: just after it.
        before_look: u32,
    },
    /// A wall clock jumps.
    WallJump {
        /// Which node's.
        node: Place,
        /// By so many milliseconds.
        by_ms: i64,
    },
    /// The next sync of a node's disk fails.
    SyncFails {
        /// Which.
        node: Place,
    },
    /// A node's disk is full but for a little.
    DiskFull {
        /// Which.
        node: Place,
        /// Bytes left.
        spare: u64,
    },
    /// Syncs take so much longer.
    SlowDisk {
        /// Which node's.
        node: Place,
        /// Added to each sync, in microseconds.
        by_us: u64,
    },
    /// The disks of some nodes answer nothing, for a while and again after a pause.
    Hang {
        /// Which nodes'.
        nodes: Vec<Place>,
        /// So long they answer nothing, in microseconds.
        on_us: u64,
        /// And so long they do.
        off_us: u64,
        /// Added to each sync when they do.
        slow_us: u64,
        /// Whether somebody who leads instead dies after the first time.
        crashes: bool,
    },
    /// Whoever leads a group is cut off from all others.
    CutLeader {
        /// Which group, by its place.
        group: usize,
    },
    /// Whoever leads a group dies, and comes back.
    CrashLeader {
        /// Which group, by its place.
        group: usize,
        /// Whether its machine dies with it.
        power: Power,
    },
    /// A replica of a group that does not lead it, the first by its place, is cut off from all.
    CutFollower {
        /// Which group, by its place.
        group: usize,
    },
    /// Whichever node next works on a snapshot that is on its way to it: who leads that group is
    /// cut off from all.
    CutSource,
    /// The disk of whoever leads a group is full but for a little.
    FullLeader {
        /// Which group, by its place.
        group: usize,
        /// Bytes left.
        spare: u64,
    },
    /// Syncs of whoever leads a group take so much longer.
    SlowLeader {
        /// Which group, by its place.
        group: usize,
        /// Added to each sync, in microseconds.
        by_us: u64,
    },
    /// Whoever leads a group is asked for many commands at once.
    Flood {
        /// Which group, by its place.
        group: usize,
        /// How many.
        count: u64,
        /// How large each is.
        bytes: u64,
    },
    /// The next bulk lane that something waits for is reset.
    ResetBusy,
    /// The next data lane that carries appends to two replicas of a group is reset.
    ResetShared,
    /// The machine of whichever node is next to have done this for its log dies at once, and comes
    /// back.
    CrashChore {
        /// What it has just done.
        chore: Chore,
    },
    /// Whoever leads a group is asked for a snapshot.
    TakeSnapshot {
        /// Which group, by its place.
        group: usize,
    },
    /// Every replica of a group is asked for a snapshot.
    TakeSnapshots {
        /// Which group, by its place.
        group: usize,
    },
    /// Whoever leads a group is asked to change its members, where operators do that.
    Change {
        /// Which group, by its place.
        group: usize,
    },
    /// The apply worker of a node takes so much longer for each job.
    SlowApply {
        /// Which node's.
        node: Place,
        /// Added to each job, in microseconds.
        by_us: u64,
    },
    /// A node crashes and a bit of its log or its identity flips before it comes back, or a block of it
    /// cannot be read any more.
    Flip {
        /// Which.
        node: Place,
        /// Files whose names begin so.
        file: &'static str,
    },
    /// A node crashes once its log has fallen idle, and a bit of the last batch flips, or it cannot be read.
    FlipIdle {
        /// Which.
        node: Place,
    },
    /// A bit flips in an older part of a node's log while it runs, or the disk cannot read it any more.
    Rot {
        /// Which.
        node: Place,
    },
    /// Bits flip in a node's snapshots while it runs.
    RotSnapshot {
        /// Which.
        node: Place,
    },
    /// The machine of some leader leaves out an answer; whoever runs the node starts it again.
    Miscount,
    /// A node's disk is copied while it restarts, and later put back to the copy.
    PutBack {
        /// Which.
        node: Place,
    },
    /// A node comes back with an empty disk.
    Wipe {
        /// Which.
        node: Place,
    },
}

/// Housekeeping of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chore {
    /// A checkpoint was made.
    Checkpoint,
    /// A segment that was used before is written again.
    Reuse,
}

/// What dies with a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Power {
    /// Nothing: the kernel keeps the page cache and closes the sockets.
    Stays,
    /// The machine: what was not synced is at the mercy of the disk.
    Fails,
}

impl Fault {
    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut { shape, .. } => shape,
            Self::SlowLink { .. } => "slow-link",
            Self::LossyLink { .. } => "lossy-link",
            Self::Reset => "reset",
            Self::HalfOpen => "half-open",
            Self::StallLane => "stall-lane",
            Self::Garble => "garble",
            Self::Refuse { .. } => "refuse",
            Self::SlowConnect { .. } => "slow-connect",
            Self::Crash { power: Power::Stays, .. } => "kill",
            Self::Crash { power: Power::Fails, .. } => "power-cut",
            Self::CrashInstall { .. } => "crash-install",
            Self::CrashAll { .. } => "storm",
            Self::Pause { .. } => "pause",
            Self::Still { .. } => "still",
            Self::WallJump { .. } => "wall-jump",
            Self::SyncFails { .. } => "sync-fails",
            Self::DiskFull { .. } => "disk-full",
            Self::SlowDisk { .. } => "slow-disk",
            Self::Hang { nodes, .. } if nodes.len() > 1 => "hang-many",
            Self::Hang { .. } => "hang",
            Self::CutLeader { .. } => "cut-leader",
            Self::CrashLeader { .. } => "crash-leader",
            Self::CutFollower { .. } => "cut-follower",
            Self::CutSource => "cut-source",
            Self::FullLeader { .. } => "full-leader",
            Self::SlowLeader { .. } => "slow-leader",
            Self::Flood { .. } => "flood",
            Self::ResetBusy => "reset-busy",
            Self::ResetShared => "reset-shared",
            Self::CrashChore { chore: Chore::Checkpoint } => "crash-checkpoint",
            Self::CrashChore { chore: Chore::Reuse } => "crash-reuse",
            Self::TakeSnapshot { .. } => "snapshot",
            Self::TakeSnapshots { .. } => "snapshots",
            Self::Change { .. } => "change",
            Self::SlowApply { .. } => "slow-apply",
            Self::Flip { .. } => "flip",
            Self::FlipIdle { .. } => "flip-idle",
            Self::Rot { .. } => "rot",
            Self::RotSnapshot { .. } => "rot-snapshot",
            Self::Miscount => "miscount",
            Self::Wipe { .. } => "wipe",
            Self::PutBack { .. } => "put-back",
        }
    }
}

/// The faults of a run.
pub(super) fn draw(streams: Streams, swarm: &Swarm, options: &Options) -> Vec<PlannedFault> {
    let mut rng = streams.stream("faults", &[]);
    match options.weather {
        Weather::Calm => Vec::new(),
        Weather::StaticPartition => vec![static_partition(&mut rng, swarm, options)],
        Weather::Any => {
            let mut faults = any(&mut rng, swarm, options);
            races::append(&mut streams.stream("races", &[]), swarm, options, &mut faults);
            floods::append(&mut streams.stream("floods", &[]), swarm, options, &mut faults);
            hangs::append(&mut streams.stream("hangs", &[]), swarm, options, &mut faults);
            faults.sort_by_key(|fault| fault.at);
            // Behind the others, whose places in the plan are what saved cases name.
            rot_snapshots(
                &mut streams.stream("rotten-snapshots", &[]),
                swarm,
                options,
                &mut faults,
            );
            faults
        }
    }
}

/// Faults begin once the cluster is up, and peers know one another.
const FIRST_US: u64 = 3_000_000;

fn any(rng: &mut Rng, swarm: &Swarm, options: &Options) -> Vec<PlannedFault> {
    // Each seed has its own mix: some kinds often, some not at all.
    let weights: Vec<u32> =
        (0..KINDS).map(|_| if rng.chance(1, 3) { 0 } else { rng.range(1..=8) as u32 }).collect();
    let mut pause = rng.range(400_000..=3_000_000);
    if options.is_long() {
        pause *= 3;
    }
    let end = options.faults_s * 1_000_000;
    let mut faults = Vec::new();
    let mut at = FIRST_US + rng.below(pause);
    while at < end {
        if let Some(kind) = rng.weighted(&weights) {
            let fault = draw_kind(rng, kind as u64, swarm);
            let lasts = 20_000 + rng.skewed(8_000_000);
            faults.push(PlannedFault { at, lasts: lasts.min(end - at), draw: rng.bits(), fault });
        }
        at += rng.range(pause / 4..=pause);
    }
    // Damage for good: at most one node in a run, and only where every group can spare it.
    if lasts_for_good(swarm) && rng.chance(2, 5) && spares_one(swarm) && end > FIRST_US {
        let node = rng.below(swarm.nodes.len() as u64) as Place;
        let fault = match rng.below(10) {
            0 | 1 => Fault::Wipe { node },
            8 | 9 => Fault::Rot { node },
            2 => Fault::Flip { node, file: SEGMENT },
            3 => Fault::PutBack { node },
            4..=6 => Fault::FlipIdle { node },
            _ => {
                let files = ["identity", "incarnation", "checkpoint-", "checkpoint-"];
                Fault::Flip { node, file: rng.pick(&files).expect("four") }
            }
        };
        let at = rng.range(FIRST_US..=end - 1);
        let lasts = match fault {
            // So that its peers meet the life that is then forgotten.
            Fault::PutBack { .. } => rng.range(2_000_000..=6_000_000),
            _ => 100_000 + rng.skewed(3_000_000),
        };
        faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// A group that counts what is written spares nobody for good: others may forget beside it.
fn lasts_for_good(swarm: &Swarm) -> bool {
    !swarm.counts_written()
}

fn spares_one(swarm: &Swarm) -> bool {
    swarm.groups.iter().all(|group: &GroupSpec| group.replicas.len() >= 3)
}

/// Snapshots of one node rot, now and then, where no other damage is for good.
fn rot_snapshots(rng: &mut Rng, swarm: &Swarm, options: &Options, faults: &mut Vec<PlannedFault>) {
    let end = options.faults_s * 1_000_000;
    // Disks that hang have the stage to themselves.
    let rules_it_out = |fault: &PlannedFault| {
        matches!(
            fault.fault,
            Fault::Hang { .. }
                | Fault::Wipe { .. }
                | Fault::Rot { .. }
                | Fault::Flip { .. }
                | Fault::FlipIdle { .. }
                | Fault::PutBack { .. }
        )
    };
    let bears_it = lasts_for_good(swarm) && spares_one(swarm) && !faults.iter().any(rules_it_out);
    if !bears_it || end <= FIRST_US || !rng.chance(1, 2) {
        return;
    }
    let node = rng.below(swarm.nodes.len() as u64) as Place;
    let fault = Fault::RotSnapshot { node };
    for _ in 0..rng.range(1..=6) {
        let (at, draw) = (rng.range(FIRST_US..=end - 1), rng.bits());
        faults.push(PlannedFault { at, lasts: 0, draw, fault: fault.clone() });
    }
}

const KINDS: usize = 23;

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

fn draw_kind(rng: &mut Rng, kind: u64, swarm: &Swarm) -> Fault {
    let count = swarm.nodes.len() as u64;
    let node = rng.below(count) as Place;
    let other =
        if count < 2 { node } else { (node + 1 + rng.below(count - 1) as Place) % count as Place };
    let power = if rng.chance(1, 2) { Power::Fails } else { Power::Stays };
    match kind {
        0 => both("cut-pair", [(node, other)]),
        1 => Fault::Cut { shape: "cut-one-way", links: vec![(node, other)] },
        2 => both("isolate", (0..count as Place).map(|to| (node, to))),
        3 => split(rng, count as Place),
        4 => shape(rng, count as Place),
        5 => Fault::SlowLink { from: node, to: other, latency_us: rng.skewed(400_000) },
        6 => Fault::LossyLink { from: node, to: other, permille: rng.range(10..=400) as u32 },
        7 => Fault::Reset,
        8 => Fault::HalfOpen,
        9 => Fault::StallLane,
        10 => {
            if rng.chance(1, 2) {
                Fault::Refuse { node }
            } else {
                Fault::SlowConnect { node, by_us: rng.skewed(1_500_000) }
            }
        }
        11 | 12 => Fault::Crash { node, effects: rng.skewed(64), power },
        13 => Fault::CrashAll { within_us: rng.skewed(500_000), power },
        14 => Fault::Pause { node },
        15 => {
            // From what a bad clock is off to what a bad battery makes of it, and in between.
            let most = rng.pick(&[20_000, 3_600_000, 5 * YEAR_MS]).expect("a list");
            let by = rng.skewed(*most) as i64;
            Fault::WallJump { node, by_ms: if rng.chance(1, 2) { by } else { -by } }
        }
        16 => Fault::SyncFails { node },
        17 => Fault::Garble,
        18 => Fault::CrashInstall { effects: rng.skewed(16), power },
        // The third look is the one at a lease that has just vouched for a read: that is rare.
        21 => match rng.range(1..=4) as u32 {
            look @ 1..=2 => Fault::Still { node: Some(node), before_look: look },
            _ => Fault::Still { node: None, before_look: 3 },
        },
        19 => Fault::DiskFull { node, spare: rng.skewed(64 << 10) },
        20 => Fault::Miscount,
        _ => Fault::SlowDisk { node, by_us: rng.skewed(3_000_000) },
    }
}

fn both(shape: &'static str, pairs: impl IntoIterator<Item = (Place, Place)>) -> Fault {
    let pairs = pairs.into_iter().filter(|(a, b)| a != b);
    Fault::Cut { shape, links: pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect() }
}

/// Two camps that hear nothing of each other, or one that only listens.
fn split(rng: &mut Rng, count: Place) -> Fault {
    let camp: Vec<bool> = (0..count).map(|_| rng.chance(1, 2)).collect();
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    let apart = pairs.filter(|(a, b)| camp[*a] && !camp[*b]);
    if rng.chance(1, 4) {
        Fault::Cut { shape: "split-one-way", links: apart.collect() }
    } else {
        both("split", apart)
    }
}

/// Partitions that are not transitive.
fn shape(rng: &mut Rng, count: Place) -> Fault {
    let mut order: Vec<Place> = (0..count).collect();
    rng.shuffle(&mut order);
    let pairs: Vec<(Place, Place)> =
        (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect();
    let name = |(a, b): &(Place, Place)| (order[*a], order[*b]);
    match rng.below(3) {
        // Two camps and one node that hears both.
        0 => {
            let middle = count / 2;
            let cut = pairs.iter().filter(|(a, b)| *a < middle && *b > middle);
            both("bridge", cut.map(name))
        }
        // Each hears only its neighbours.
        1 => both("chain", pairs.iter().filter(|(a, b)| b - a > 1).map(name)),
        // All hear one, and nobody else.
        _ => both("star", pairs.iter().filter(|(a, _)| *a > 0).map(name)),
    }
}

/// Some links cut for good, so that in every group a majority still hear one another.
fn static_partition(rng: &mut Rng, swarm: &Swarm, options: &Options) -> PlannedFault {
    let count = swarm.nodes.len();
    let pairs: Vec<(Place, Place)> =
        (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect();
    let mut cut = Vec::new();
    for _ in 0..100 {
        cut = pairs.iter().copied().filter(|_| rng.chance(1, 2)).collect();
        if swarm.groups.iter().all(|group| has_connected_majority(group, swarm, &cut)) {
            break;
        }
        cut.clear();
    }
    let lasts = options.faults_s * 1_000_000 - FIRST_US;
    PlannedFault { at: FIRST_US, lasts, draw: rng.bits(), fault: both("static", cut) }
}

/// Whether some majority of the replicas are connected each with each. Less than that is not
/// enough: a node that reaches a majority may lack an entry that its voters have.
fn has_connected_majority(group: &GroupSpec, swarm: &Swarm, cut: &[(Place, Place)]) -> bool {
    let place = |node| swarm.nodes.iter().position(|other| *other == node);
    let places: Vec<Place> = group.replicas.iter().filter_map(|(_, node)| place(*node)).collect();
    let majority = places.len() / 2 + 1;
    (0..1_u32 << places.len()).any(|chosen| {
        let chosen: Vec<Place> =
            (0..places.len()).filter(|at| chosen >> at & 1 == 1).map(|at| places[at]).collect();
        let joined = |a: Place, b: Place| !cut.contains(&(a.min(b), a.max(b)));
        chosen.len() >= majority
            && chosen.iter().all(|a| chosen.iter().all(|b| a == b || joined(*a, *b)))
    })
}
