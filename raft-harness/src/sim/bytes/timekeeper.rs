//! Log time, judged by clocks that nobody in the run can read.
//!
//! Virtual time is the right one. A stamp may lead it by as much as a majority of the voters'
//! wall clocks lead it, in each half of the membership, or led it a moment ago; or by as much as
//! an earlier stamp of the group led it, since a log never goes back. So whatever a minority of
//! clocks does, it moves no log. Stamps must not lie behind all clocks either, and must go on:
//! what lives for a while ends.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogTime, NodeId, Term};

use super::clock::NodeClock;
use super::network::Place;
use super::sightings::Sightings;
use super::swarm::Swarm;
use crate::engine::Replica;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

/// How long a word on a clock may be under way: stuck in a lane, and then before a process that
/// was stopped, in virtual microseconds. It counts for an election timeout after that.
const WORD_US: u64 = 12_000_000;

/// Clocks show milliseconds.
const ROUNDING_US: u64 = 2_000;

/// Rounding, and turns that take a while.
const SLACK_MS: i64 = 100;

/// A stamp is behind all clocks only by what a word may be late, and by what clocks drift in a
/// whole run.
const LATE_MS: i64 = 30_000;

/// A clock that is off by so much is wrong.
const WRONG_MS: i64 = 10_000;

/// What is known of clocks and stamps.
pub(super) struct Timekeeper {
    /// By place: since when each wall clock has been off by how much.
    walls: Vec<Vec<(u64, i64)>>,
    groups: BTreeMap<GroupId, Stamps>,
    offices: BTreeMap<(Place, GroupId), Office>,
    nodes: Vec<NodeId>,
    /// How long a word on a clock counts.
    window_us: u64,
    /// Of a node's monotonic clock, in parts per million.
    drift_ppm: i64,
    sightings: Sightings,
}

/// The stamps of a group that led further than any smaller one: the stamp, by how much it led
/// virtual time when it was given, and when that was.
#[derive(Default)]
struct Stamps(BTreeMap<u64, (i64, u64)>);

/// A replica that leads.
struct Office {
    term: Term,
    /// The newest stamp of its log, and since when.
    last: (LogTime, u64),
    /// Whether it is ahead of the clocks.
    is_ahead: bool,
}

impl Timekeeper {
    pub(super) fn new(swarm: &Swarm, sightings: Sightings) -> Self {
        let patience = swarm.settings.election_timeout_max.as_micros() as u64;
        Self {
            walls: vec![Vec::new(); swarm.nodes.len()],
            groups: BTreeMap::new(),
            offices: BTreeMap::new(),
            nodes: swarm.nodes.clone(),
            window_us: WORD_US + patience * 2,
            drift_ppm: swarm.drift_ppm as i64,
            sightings,
        }
    }

    /// A wall clock is off by so much from now on.
    pub(super) fn set(&mut self, place: Place, now: u64, offset_ms: i64) {
        self.walls[place].push((now, offset_ms));
    }

    /// A node tells what its wall clock shows, or showed when the word was put down: it may have
    /// been stuck on its way to the wire.
    pub(super) fn told(&self, place: Place, wall: LogTime, now: u64) -> Option<Violation> {
        let told = i64::try_from(wall.get()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(WORD_US);
        let mut until = now;
        for (since, offset) in self.walls[place].iter().rev() {
            // When a clock that is off by so much showed this.
            let right =
                told.saturating_sub(*offset).saturating_sub_unsigned(NodeClock::right(0).get());
            let at = u64::try_from(right).ok().map(|ms| ms.saturating_mul(1000));
            let from = oldest.max(*since).saturating_sub(ROUNDING_US);
            // Below zero nobody counts.
            let showed = wall == LogTime::default()
                || at.is_some_and(|at| (from..=until + ROUNDING_US).contains(&at));
            if showed {
                return None;
            }
            if *since <= oldest {
                break;
            }
            until = *since;
        }
        let evidence = format!(
            "node {} tells {wall} at {now} us, and its clock has shown no such time lately: off by {:?} ms since",
            self.nodes[place], self.walls[place]
        );
        Some(Violation::of_run(Check::ClockTold, evidence))
    }

    /// An entry was seen for the first time, in the log of who stamped it.
    pub(super) fn stamped(&mut self, group: GroupId, time: LogTime, now: u64) {
        let lead = lead_of(time, now);
        self.groups.entry(group).or_default().note(time, lead, now);
    }

    /// A replica has made a step; what is wrong with the stamp it would give.
    pub(super) fn stepped(
        &mut self,
        place: Place,
        replica: Replica<'_>,
        now: u64,
    ) -> Option<Violation> {
        let core = replica.core();
        let group = core.id();
        let Some(stamp) = replica.stamp() else {
            self.offices.remove(&(place, group));
            return None;
        };
        let lead = lead_of(stamp, now);
        let voted = |since| self.majority_reached(replica, since);
        let (lately, at_once) = (voted(now.saturating_sub(self.window_us)), voted(now));
        self.sightings.hit_if(at_once > WRONG_MS, Mark::WallMajorityWrong);
        let grown =
            self.groups.get(&group).and_then(|stamps| stamps.grown(stamp, now, self.drift_ppm));
        let most = grown.map_or(lately, |grown| grown.max(lately)) + SLACK_MS;
        let least = self.walls.iter().flatten().map(|(_, offset)| *offset).min().unwrap_or(0);
        let failed = |check, evidence: String| {
            let evidence =
                format!("node {} of term {}: {evidence}", self.nodes[place], core.term());
            Some(Violation::of_group(check, group, evidence))
        };
        if lead > most {
            return failed(
                Check::StampsVouched,
                format!("the stamp {stamp} leads by {lead} ms, a majority or the log by {most}"),
            );
        }
        if lead < least - LATE_MS {
            return failed(
                Check::StampsVouched,
                format!("the stamp {stamp} leads by {lead} ms, every clock by {least} or more"),
            );
        }
        let last = core.log_time();
        let before = self.offices.get(&(place, group)).filter(|office| office.term == core.term());
        let elected = before.is_none();
        let was_ahead = before.is_some_and(|office| office.is_ahead);
        let since =
            before.filter(|office| office.last.0 == last).map_or(now, |office| office.last.1);
        // A node that died while it stood still has seen later times.
        let passed = now.saturating_sub(since) / 1000;
        let told = stamp.get().saturating_sub(last.get());
        let ahead_of_clocks = lead > at_once + SLACK_MS;
        let healed = was_ahead && (lead - at_once).abs() <= SLACK_MS;
        let is_ahead = (was_ahead || ahead_of_clocks) && !healed;
        let office = Office { term: core.term(), last: (last, since), is_ahead };
        self.offices.insert((place, group), office);
        if elected {
            // What its voters said holds for its time in office, as if it had stamped something.
            self.groups.entry(group).or_default().note(stamp, lead, now);
        }
        let half = passed >= 100 && told < passed * 6 / 10 && ahead_of_clocks;
        self.sightings.hit_if(half, Mark::StampAtHalfPace);
        self.sightings.hit_if(healed, Mark::StampHealed);
        if told + 5 < passed * 4 / 10 {
            return failed(
                Check::LogTimeGoesOn,
                format!("{passed} ms passed, and log time went on by {told}"),
            );
        }
        None
    }

    /// By how much the clocks of a majority have led since then, in both halves.
    fn majority_reached(&self, replica: Replica<'_>, since: u64) -> i64 {
        let membership = replica.core().membership();
        let led = membership.members().iter().map(|member| {
            let place = self.nodes.iter().position(|node| *node == member.node);
            let led = place.map_or(0, |place| led_since(&self.walls[place], since));
            // Whoever is named nowhere has reached nothing.
            (member.replica, led.saturating_add(i64::MAX / 2).cast_unsigned())
        });
        let reached = membership.joint().reached(led).unwrap_or_default();
        reached.cast_signed().saturating_sub(i64::MAX / 2)
    }
}

/// By how much a clock has been ahead at most, since then.
fn led_since(wall: &[(u64, i64)], since: u64) -> i64 {
    let later = wall.partition_point(|(at, _)| *at <= since);
    let from = later.saturating_sub(1);
    wall[from..].iter().map(|(_, offset)| *offset).max().unwrap_or(0)
}

/// By how much a stamp leads virtual time.
fn lead_of(stamp: LogTime, now: u64) -> i64 {
    let right = NodeClock::right(now);
    i64::try_from(stamp.get()).unwrap_or(i64::MAX).saturating_sub_unsigned(right.get())
}

impl Stamps {
    fn note(&mut self, time: LogTime, lead: i64, now: u64) {
        let time = time.get();
        if self.0.range(..=time).next_back().is_some_and(|(_, (before, _))| *before >= lead) {
            return;
        }
        while let Some((&next, &(other, _))) = self.0.range(time..).next()
            && other <= lead
        {
            self.0.remove(&next);
        }
        self.0.insert(time, (lead, now));
    }

    /// By how much a stamp not smaller than these may lead because of them: what led less and was
    /// given long before may have grown to more.
    fn grown(&self, stamp: LogTime, now: u64, drift_ppm: i64) -> Option<i64> {
        let grown = self.0.range(..=stamp.get()).map(|(_, (lead, given))| {
            // Whoever gave it stood still in the turn, and is ahead of the others.
            let since_ms = (now.saturating_sub(*given) / 1000) as i64;
            lead.saturating_add(since_ms * drift_ppm / 1_000_000)
        });
        grown.max()
    }
}
