//! Faults as data: what is done to a cluster, when and for how long.
//!
//! A run is its seed, its knobs and its schedule, and the schedule is the part that lasts: a
//! change of the code changes what a seed means, but not what "cut 1 from 2" means. So faults are
//! drawn before the run and written down, one a line; a saved schedule is replayed, and shrunk by
//! leaving lines out.
//!
//! The `bytes` profile plans its faults by itself, and its schedules name them by their places in
//! that plan. What a profile cannot do, it skips.

mod field;
mod shape;

use std::fmt;

use raft_core::{GroupId, NodeId};

use self::field::{Field, Fields};
pub use self::field::{MessageKind, NodeSet, Stop, Target};
pub use self::shape::Shape;

/// A fault, or an operator's action.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// When it begins, in microseconds of virtual time.
    pub at_us: u64,
    /// How long it lasts; nothing for what is done at once.
    pub lasts_us: u64,
    /// What.
    pub kind: FaultKind,
}

impl Fault {
    /// When it is over.
    pub const fn ends_us(&self) -> u64 {
        self.at_us.saturating_add(self.lasts_us)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $word:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        /// What is done.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub enum FaultKind {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl FaultKind {
            /// The words of all kinds, in the order of their definition.
            pub const WORDS: &[&'static str] = &[$($word,)*];

            /// The word for it: in schedules, and in the statistics of a sweep.
            pub const fn word(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $word,)*
                }
            }

            fn read(word: &str, fields: &mut Fields<'_>) -> Result<Self, Problem> {
                match word {
                    $($word => Ok(Self::$name { $($field: fields.take(stringify!($field))?,)* }),)*
                    _ => Err(Problem::UnknownKind(word.to_owned())),
                }
            }

            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name { $($field,)* } => {
                        f.write_str($word)?;
                        $(write!(f, " {}={}", stringify!($field), Field::print($field))?;)*
                        Ok(())
                    })*
                }
            }
        }
    };
}

kinds! {
    /// Nothing passes from the one set to the other. The way back is another fault.
    Cut "cut" {
        /// Who is not heard.
        from: NodeSet,
        /// Who does not hear.
        to: NodeSet,
    }
    /// A node neither hears nor is heard.
    Isolate "isolate" {
        /// Which.
        node: Target,
    }
    /// The nodes only reach one another as the shape says.
    Partition "partition" {
        /// Which shape.
        shape: Shape,
        /// Where each node stands in it.
        order: Vec<NodeId>,
    }
    /// Every message takes so much longer.
    LinkSlow "link-slow" {
        /// Senders.
        from: NodeSet,
        /// Receivers.
        to: NodeSet,
        /// In microseconds.
        extra_us: u64,
    }
    /// Messages are lost, doubled and overtaken, each so many times out of a thousand.
    LinkLossy "link-lossy" {
        /// Senders.
        from: NodeSet,
        /// Receivers.
        to: NodeSet,
        /// Lost.
        drop: u32,
        /// Delivered twice.
        duplicate: u32,
        /// Held back behind later ones.
        reorder: u32,
    }
    /// Messages of one kind take so much longer, everywhere.
    Hold "hold" {
        /// Which kind.
        message: MessageKind,
        /// In microseconds.
        extra_us: u64,
    }
    /// A node stops, and starts again when the fault is over.
    Crash "crash" {
        /// Which.
        node: Target,
        /// How many effects of its next steps are still carried out; with none it stops at once.
        after_effects: u32,
        /// What stops.
        stop: Stop,
    }
    /// A node is asked to stop: it takes no office any more, hands over what it leads, and goes
    /// down in order. It starts again when the fault is over.
    StopNode "stop-node" {
        /// Which.
        node: Target,
        /// How long it hands over at most, in microseconds.
        patience_us: u64,
    }
    /// All of these crash at once and then again, at times of their own, so many times each.
    RestartStorm "restart-storm" {
        /// Which.
        nodes: NodeSet,
        /// What stops.
        stop: Stop,
        /// How often.
        rounds: u32,
    }
    /// A node crashes and its disk is replaced by an empty one.
    Wipe "wipe" {
        /// Which.
        node: NodeId,
    }
    /// A node stands still, its clock does not; messages wait for it.
    Pause "pause" {
        /// Which.
        node: Target,
    }
    /// A node's monotonic clock leaps forward.
    ClockJump "clock-jump" {
        /// Which.
        node: Target,
        /// By so many microseconds.
        by_us: u64,
    }
    /// A node's wall clock is set, forward or back. It must not matter to anything but log time.
    WallJump "wall-jump" {
        /// Which.
        node: Target,
        /// By so many milliseconds.
        by_ms: i64,
    }
    /// A node's clock runs fast or slow by so many millionths.
    ClockDrift "clock-drift" {
        /// Which.
        node: NodeId,
        /// Millionths.
        ppm: i32,
    }
    /// Nothing a node submits to its disk completes.
    DiskStall "disk-stall" {
        /// Which.
        node: Target,
    }
    /// Every completion takes so much longer.
    DiskSlow "disk-slow" {
        /// Which.
        node: Target,
        /// In microseconds.
        extra_us: u64,
    }
    /// A node's disk takes no new entries.
    DiskFull "disk-full" {
        /// Which.
        node: Target,
    }
    /// A node's next sync fails. The node stops, and starts again when the fault is over.
    FsyncFail "fsync-fail" {
        /// Which.
        node: Target,
    }
    /// A node loses power and comes back when the fault is over, to find the log of a group
    /// damaged below what it had promised.
    Damage "damage" {
        /// Which.
        node: Target,
        /// Of which group.
        group: GroupId,
    }
    /// The operator adds a replica on this node as a learner.
    AddLearner "add-learner" {
        /// To which group.
        group: GroupId,
        /// On which node.
        node: NodeId,
    }
    /// The operator makes the learner on this node a voter.
    Promote "promote" {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: NodeId,
    }
    /// The operator removes the replica on this node.
    Remove "remove" {
        /// From which group.
        group: GroupId,
        /// On which node.
        node: Target,
    }
    /// The operator replaces one voter by another in one joint change.
    Replace "replace" {
        /// Of which group.
        group: GroupId,
        /// Who goes.
        old: Target,
        /// Where its successor lives; the same node gets a new replica.
        new: NodeId,
    }
    /// The operator hands leadership over.
    Transfer "transfer" {
        /// Of which group.
        group: GroupId,
        /// To the replica on this node.
        to: NodeId,
    }
    /// A snapshot is taken.
    Snapshot "snapshot" {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: Target,
    }
    /// The log is cut behind the last snapshot.
    Compact "compact" {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: Target,
    }
    /// A replica campaigns without waiting for its timeout.
    CampaignNow "campaign-now" {
        /// Of which group.
        group: GroupId,
        /// On which node.
        node: Target,
    }
    /// A client writes so many entries to a group's leader, wherever others write.
    Burst "burst" {
        /// To which group.
        group: GroupId,
        /// How many.
        entries: u32,
    }
    /// A fault that the profile itself has planned for its seed, by its place in that plan.
    Planned "planned" {
        /// Which, from zero.
        index: u32,
    }
    /// A client reads at this node, linearizably.
    ReadAt "read-at" {
        /// In which group.
        group: GroupId,
        /// Where.
        node: Target,
    }
}

impl FaultKind {
    /// The one-way cuts it stands for among `nodes`, as (from, to); empty for other kinds.
    /// `resolve` says which node a target is at the moment.
    pub fn cuts(
        &self,
        nodes: NodeSet,
        resolve: impl Fn(Target) -> Option<NodeId>,
    ) -> Vec<(NodeSet, NodeSet)> {
        match self {
            Self::Cut { from, to } => vec![(*from, *to)],
            Self::Isolate { node } => match resolve(*node) {
                Some(node) => {
                    let (one, others) = (NodeSet::one(node), nodes.without(node));
                    vec![(one, others), (others, one)]
                }
                None => vec![],
            },
            Self::Partition { shape, order } => shape.cuts(order),
            Self::LinkSlow { .. }
            | Self::LinkLossy { .. }
            | Self::Hold { .. }
            | Self::Crash { .. }
            | Self::StopNode { .. }
            | Self::RestartStorm { .. }
            | Self::Wipe { .. }
            | Self::Pause { .. }
            | Self::ClockJump { .. }
            | Self::WallJump { .. }
            | Self::ClockDrift { .. }
            | Self::DiskStall { .. }
            | Self::DiskSlow { .. }
            | Self::DiskFull { .. }
            | Self::FsyncFail { .. }
            | Self::Damage { .. }
            | Self::AddLearner { .. }
            | Self::Promote { .. }
            | Self::Remove { .. }
            | Self::Replace { .. }
            | Self::Transfer { .. }
            | Self::Snapshot { .. }
            | Self::Compact { .. }
            | Self::CampaignNow { .. }
            | Self::Burst { .. }
            | Self::ReadAt { .. }
            | Self::Planned { .. } => vec![],
        }
    }
}

impl FaultKind {
    /// Whether a replica forgets by it what it promised.
    pub const fn forgets(&self) -> bool {
        matches!(self, Self::Damage { .. } | Self::Wipe { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at_us, self.lasts_us)?;
        self.kind.write(f)
    }
}

/// Faults in the order in which they begin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Schedule {
    faults: Vec<Fault>,
}

impl Schedule {
    /// In the order of their beginnings; those that begin together stay as they are given.
    pub fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.at_us);
        Self { faults }
    }

    /// In the order in which they begin.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// When the last is over.
    pub fn ends_us(&self) -> u64 {
        self.faults.iter().map(Fault::ends_us).max().unwrap_or(0)
    }

    /// Reads what [`Display`](fmt::Display) has written: one fault a line, as
    /// `<begins> <lasts> <kind> <field>=<value> ...`, times in microseconds. Empty lines and
    /// lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that is none, and why.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut faults = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault =
                parse_line(line).map_err(|problem| ParseError { line: at as u64 + 1, problem })?;
            faults.push(fault);
        }
        Ok(Self::new(faults))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

fn parse_line(line: &str) -> Result<Fault, Problem> {
    let mut words = line.split_whitespace();
    let mut time = |what| {
        let word = words.next().ok_or(Problem::Missing(what))?;
        u64::parse(word).ok_or_else(|| Problem::bad(what, word))
    };
    let (at_us, lasts_us) = (time("begins")?, time("lasts")?);
    let word = words.next().ok_or(Problem::Missing("kind"))?;
    let mut fields = Fields::parse(words)?;
    let kind = FaultKind::read(word, &mut fields)?;
    fields.finish()?;
    Ok(Fault { at_us, lasts_us, kind })
}

/// A line that is no fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// Which line, from 1.
    pub line: u64,
    /// Why.
    pub problem: Problem,
}

/// Why a line is no fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// It ends too early, or a field is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// No such kind of fault.
    #[error("there is no fault {0:?}")]
    UnknownKind(String),
    /// A word that is not `field=value`.
    #[error("{0:?} is not field=value")]
    NotAField(String),
    /// The kind has no such field.
    #[error("there is no field {0:?}")]
    UnknownField(String),
    /// A value that cannot be.
    #[error("{field} cannot be {value:?}")]
    BadValue {
        /// Of which field.
        field: &'static str,
        /// What it says.
        value: String,
    },
}

impl Problem {
    fn bad(field: &'static str, value: &str) -> Self {
        Self::BadValue { field, value: value.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "\
0 500000 cut from=1,2 to=3
1000 2000 isolate node=leader:5
1500 0 transfer group=5 to=2
2000 100 partition shape=bridge order=3,1,2,5,4
2500 900 link-lossy from=1 to=2,3 drop=10 duplicate=20 reorder=0
3000 10 crash node=4 after_effects=3 stop=power
3100 0 wall-jump node=1 by_ms=-500
3200 9 clock-drift node=2 ppm=-200
3300 9 hold message=timeout-now extra_us=700
3400 0 replace group=1 old=leader:1 new=6
";

    #[test]
    fn a_schedule_reads_back_as_it_was_written() {
        let schedule = Schedule::parse(EXAMPLE).expect("it is well-formed");
        assert_eq!(schedule.to_string(), EXAMPLE);
        assert_eq!(schedule.ends_us(), 500_000);
    }

    #[test]
    fn comments_are_skipped_and_lines_are_sorted() {
        let text = "# a comment\n\n  20 0 wipe node=1\n 10 0 wipe node=2\n";
        let schedule = Schedule::parse(text).expect("it is well-formed");
        assert_eq!(schedule.to_string(), "10 0 wipe node=2\n20 0 wipe node=1\n");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        let bad = |field, value: &str| Problem::bad(field, value);
        for (line, expected) in [
            ("", None),
            ("12", Some(Problem::Missing("lasts"))),
            ("12 x wipe node=1", Some(bad("lasts", "x"))),
            ("12 0", Some(Problem::Missing("kind"))),
            ("12 0 melt node=1", Some(Problem::UnknownKind("melt".to_owned()))),
            ("12 0 wipe", Some(Problem::Missing("node"))),
            ("12 0 wipe node", Some(Problem::NotAField("node".to_owned()))),
            ("12 0 wipe node=0", Some(bad("node", "0"))),
            ("12 0 wipe node=1 node=2", Some(Problem::UnknownField("node".to_owned()))),
            ("12 0 wipe node=1 colour=2", Some(Problem::UnknownField("colour".to_owned()))),
            ("12 0 cut from=1,99 to=2", Some(bad("from", "1,99"))),
            ("12 0 cut from=1 to=", Some(bad("to", ""))),
            ("12 0 crash node=leader after_effects=0", Some(bad("node", "leader"))),
            ("12 0 partition shape=blob order=1", Some(bad("shape", "blob"))),
            ("-1 0 wipe node=1", Some(bad("begins", "-1"))),
        ] {
            let text = format!("# first\n{line}");
            let problem = Schedule::parse(&text).err();
            assert_eq!(problem.as_ref().map(|p| &p.problem), expected.as_ref(), "{line}");
            assert!(problem.is_none_or(|p| p.line == 2));
        }
    }

    #[test]
    fn isolation_cuts_both_ways() {
        let nodes = NodeSet::first(3);
        let node = NodeId::new(2);
        let kind = FaultKind::Isolate { node: Target::Node(node) };
        let cuts = kind.cuts(nodes, |target| match target {
            Target::Node(node) => Some(node),
            Target::Leader(_) => None,
        });
        let others: NodeSet = [NodeId::new(1), NodeId::new(3)].into_iter().collect();
        assert_eq!(cuts, [(NodeSet::one(node), others), (others, NodeSet::one(node))]);
    }
}
