//! What a caller may say about a run, and what the run says afterwards.

use std::collections::BTreeMap;

use super::faults::PlannedFault;
use crate::sim::marks::Marks;

/// How a run is made. The default is the small profile with everything on.
#[derive(Clone, Debug)]
pub struct Options {
    /// How large the cluster is.
    pub size: Size,
    /// How long faults last, in virtual seconds. Default 30.
    pub faults_s: u64,
    /// How long the cluster then has to recover, in virtual seconds. Default 30, at least 20.
    pub healing_s: u64,
    /// The faults, instead of those the seed draws: for replays of a shrunk run.
    pub schedule: Option<Vec<PlannedFault>>,
    /// What the weather is like.
    pub weather: Weather,
    /// Connections carry little until some seconds after the faults, and values are large, whatever
    /// the seed. Default no: one run in six draws it of those that are small and short, with any
    /// weather.
    pub slow_links: bool,
    /// Keep the last so many events, for a person to read. Default 0.
    pub trace: usize,
}

/// How large a run is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Size {
    /// 3 to 5 nodes, 1 to 4 groups.
    Small,
    /// 1 to 7 nodes, 1 to 50 groups.
    Wide,
}

/// What kinds of faults are drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weather {
    /// All of them.
    Any,
    /// None.
    Calm,
    /// One partial partition from beginning to end that leaves a majority of every group
    /// connected, with a node that reaches them all. The cluster must serve all the while.
    StaticPartition,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            size: Size::Small,
            faults_s: 30,
            healing_s: 30,
            schedule: None,
            weather: Weather::Any,
            slow_links: false,
            trace: 0,
        }
    }
}

impl Options {
    /// Whether it lives so long that it has to live quietly.
    pub(super) fn is_long(&self) -> bool {
        self.faults_s > 60
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// A hash of everything that happened: equal runs have equal ones.
    pub trace_hash: u64,
    /// What was wrong. Empty if all is well.
    pub violations: Vec<crate::sim::violation::Violation>,
    /// How often rare things happened that only this profile knows.
    pub marks: BTreeMap<&'static str, u64>,
    /// Where the run has been that others go to as well.
    pub seen: Marks,
    /// What the run consisted of.
    pub stats: Stats,
    /// The faults as they were planned, to be replayed or shrunk.
    pub schedule: Vec<PlannedFault>,
    /// The last events, if they were asked for.
    pub trace: Vec<TraceLine>,
}

/// One event, for a person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceLine {
    /// When, in virtual microseconds.
    pub at: u64,
    /// On which node, by its place from zero; `None` for the world.
    pub place: Option<usize>,
    /// What.
    pub what: String,
}

/// What a run consisted of.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Faults that took effect, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Client operations that ended with success.
    pub operations: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Operations whose outcome the client never learned.
    pub unknown: u64,
    /// Events of the simulation.
    pub events: u64,
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
    /// Bytes that nodes wrote to one another.
    pub bytes: u64,
    /// Entries applied, over all replicas and lives.
    pub applied: u64,
    /// Promises heard on the wire and compared with the disks.
    pub promises: u64,
}
