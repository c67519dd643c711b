//! Disks that hang, and whether that is the affair of their nodes.
//!
//! A hang has the stage to itself: whatever else was drawn for that time is taken away, so that who
//! ought to lead is nobody's guess. What is judged:
//!
//! - a group whose other voters make a majority with disks that answer is not led for long by a node
//!   whose disk hangs, idle or not;
//! - where the disks of most voters hang, and all know it, nobody hands over;
//! - a node whose log is not well is not elected where a majority could do without it.

use raft_core::{GroupId, Membership};

use super::accounts::After;
use super::faults::{Fault, PlannedFault};
use super::network::Place;
use super::options::{Options, Weather};
use super::swarm::Swarm;
use super::world::{Event, World};
use crate::engine::{Call, Caller, LogCondition};
use crate::group_spec::GroupSpec;
use crate::sim::marks::Mark;
use crate::sim::rng::Rng;
use crate::sim::violation::{Check, Violation};

/// When the hang begins at the earliest: leaders are where they belong.
const FIRST_US: u64 = 11_000_000;

/// Before it nothing else goes wrong for so long, nor after it.
const ASIDE_US: u64 = 7_000_000;

/// So long after the last trouble nobody need be excused by it.
const EXCUSED_US: u64 = 5_000_000;

/// Between two looks at nodes whose disks hang.
const LOOK_US: u64 = 250_000;

/// A node whose disk hangs goes on leading.
const HUNG_LEADER: Check = Check::Profile("hung-leader");
/// Somebody moves although most disks hang.
const HUNG_MAJORITY: Check = Check::Profile("hung-majority");
/// A node whose log is not well comes to lead.
const AILING_ELECTED: Check = Check::Profile("ailing-elected");

/// A disk that hangs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hang {
    from: u64,
    until: u64,
    on_us: u64,
    off_us: u64,
    slow_us: u64,
}

impl Hang {
    /// Until when it answers nothing, if it hangs now.
    fn until(&self, now: u64) -> Option<u64> {
        if now >= self.until || now < self.from {
            return None;
        }
        let begun = (now - self.from) / (self.on_us + self.off_us);
        let end = self.from + begun * (self.on_us + self.off_us) + self.on_us;
        (now < end).then_some(end.min(self.until))
    }
}

/// Adds a hang to the faults of a run, in most of those in which leaders settle soon enough.
pub(super) fn append(
    rng: &mut Rng,
    swarm: &Swarm,
    options: &Options,
    faults: &mut Vec<PlannedFault>,
) {
    let election = swarm.settings.election_timeout_max.as_micros() as u64;
    let end = options.faults_s * 1_000_000;
    let is_small = |spec: &GroupSpec| spec.replicas.len() >= 3;
    let fits = options.weather == Weather::Any
        && swarm.pace.is_none()
        // Nobody has to be excused because members come and go.
        && swarm.operator_us == 0
        && !swarm.contradicts
        && election <= HANG_ELECTION_MAX_US
        && swarm.groups.iter().any(is_small);
    if !fits || !rng.chance(3, 4) || end < FIRST_US + 2 * ASIDE_US {
        return;
    }
    let bound = swarm.settings.disk_stall_max.as_micros() as u64;
    let count = swarm.nodes.len();
    let mut order: Vec<Place> = (0..count).collect();
    rng.shuffle(&mut order);
    let first = order[0];
    let at = FIRST_US + rng.below(end - FIRST_US - 2 * ASIDE_US + 1);
    let long = bound + grace_us(swarm) + 2_000_000;
    let fault = |nodes: Vec<Place>, on_us, off_us, slow_us, crashes| Fault::Hang {
        nodes,
        on_us,
        off_us,
        slow_us,
        crashes,
    };
    let (fault, lasts) = match rng.below(5) {
        // One hangs for good.
        0 | 1 => (fault(vec![first], long, 1, 0, false), long),
        // Most do.
        2 => {
            let nodes = order[..most_of(rng, count)].to_vec();
            (fault(nodes, long, 1, 0, false), long)
        }
        // One hangs again and again.
        3 => (fault(vec![first], bound * 13 / 10, bound * 2, 0, false), bound * 16),
        // One has hung and stays slow, and who took over from it dies.
        _ => {
            let on_us = bound * 3 / 2;
            (fault(vec![first], on_us, bound * 100, bound / 5, true), on_us + 4_000_000)
        }
    };
    let over = at + lasts;
    faults.retain(|other| other.at + other.lasts + ASIDE_US < at || other.at > over + ASIDE_US / 2);
    // Those that wait for their moment would find it now.
    faults.retain(|other| other.at > at || !waits(&other.fault));
    faults.push(PlannedFault { at, lasts, draw: rng.bits(), fault });
}

/// The longest election timeout with which a hang is judged.
pub(super) const HANG_ELECTION_MAX_US: u64 = 1_250_000;

/// Whether a fault takes effect at a moment that nobody planned.
fn waits(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::CrashInstall { .. }
            | Fault::CutSource
            | Fault::CrashChore { .. }
            | Fault::ResetBusy
            | Fault::ResetShared
            | Fault::Still { .. }
            | Fault::FlipIdle { .. }
            | Fault::Wipe { .. }
            | Fault::PutBack { .. }
            | Fault::Flip { .. }
            | Fault::SyncFails { .. }
            | Fault::Crash { .. }
            | Fault::DiskFull { .. }
    )
}

/// From where a stall is noticed until others lead.
fn grace_us(swarm: &Swarm) -> u64 {
    3 * swarm.settings.election_timeout_max.as_micros() as u64 + 1_000_000
}

impl World {
    pub(super) fn begin_hang(&mut self, fault: &Fault, lasts: u64, at: usize) -> bool {
        let Fault::Hang { ref nodes, on_us, off_us, slow_us, crashes } = *fault else {
            return false;
        };
        let (from, until) = (self.now, self.now + lasts);
        for node in nodes {
            self.nodes[*node].hang = Some(Hang { from, until, on_us, off_us, slow_us });
        }
        if crashes {
            self.plan_in(on_us + 300_000, Event::HungLed { at });
        }
        self.plan_in(LOOK_US, Event::HangLook);
        // Some of the groups that are led there are idle, or all: it hears of others.
        let leaders = self.judge.lock().onlooker.leaders();
        let led = leaders.iter().filter(|(_, place)| nodes.contains(place));
        let led: Vec<GroupId> = led.map(|(group, _)| *group).collect();
        let spared = usize::from(led.len() == self.swarm.groups.len());
        self.quiet = (led.into_iter().skip(spared).collect(), until);
        true
    }

    /// The disk that hung answers again, slowly; who leads in its place dies.
    pub(super) fn crash_who_took_over(&mut self, at: usize) {
        let Fault::Hang { ref nodes, .. } = self.faults[at].fault else { return };
        let hung = nodes[0];
        let leaders = self.judge.lock().onlooker.leaders();
        let other = leaders.iter().map(|(_, place)| *place).find(|place| *place != hung);
        if let Some(place) = other
            && self.nodes[place].process.is_some()
        {
            self.mark("crashed-while-one-is-convalescent");
            self.crash(place, super::faults::Power::Stays, 3_000_000);
        }
    }

    /// Until when a node's disk answers nothing.
    pub(super) fn hangs_until(&self, place: Place) -> Option<u64> {
        self.nodes[place].hang.as_ref()?.until(self.now)
    }

    /// What is added to each sync after a hang.
    pub(super) fn slow_after_hang(&self, place: Place) -> u64 {
        let hang = self.nodes[place].hang.filter(|hang| self.now < hang.until);
        hang.map_or(0, |hang| hang.slow_us)
    }

    /// An idle log looks after itself, and the disk does not answer.
    pub(super) fn hold_desk(&mut self, place: Place) {
        let Some(process) = &mut self.nodes[place].process else { return };
        let local = process.clock().local(self.now);
        if !process.log.sealed && !process.log.desk_waits {
            process.log.desk_waits = true;
            process.log.watch.begin(Caller::Desk, local);
        }
    }

    /// It does again.
    pub(super) fn release_desk(&mut self, place: Place) {
        let Some(process) = &mut self.nodes[place].process else { return };
        let local = process.clock().local(self.now);
        if std::mem::take(&mut process.log.desk_waits) {
            process.log.watch.end(Caller::Desk, Call::Other, local);
        }
    }

    /// A convalescent log with nothing to do asks the disk; `false` if it need not.
    pub(super) fn probe_log(&mut self, place: Place) -> bool {
        let slow = self.slow_after_hang(place);
        let Some(process) = &mut self.nodes[place].process else { return false };
        let clock = process.clock();
        let log = &mut process.log;
        if log.watch.convalescent(clock.local(self.now)).is_none() {
            return false;
        }
        if let Err(failure) = log.work.probe() {
            self.nodes[place].after = After::Power;
            self.log_failed(place, &failure);
            return true;
        }
        log.watch.begin(Caller::Desk, clock.local(self.now));
        log.watch.end(Caller::Desk, Call::Sync, clock.local(self.now + slow));
        true
    }

    /// How the log of a node is.
    fn condition(&self, place: Place) -> Option<LogCondition> {
        let process = self.nodes[place].process.as_ref()?;
        Some(process.log.watch.condition(process.clock().local(self.now)))
    }

    /// For how long a call of a node's log has been under way, by its own clock.
    fn waits_for(&self, place: Place) -> Option<u64> {
        let process = self.nodes[place].process.as_ref()?;
        let now = process.clock().local(self.now);
        Some(now.since(process.log.watch.waits_since()?).as_micros() as u64)
    }

    /// Notes since when each log has not been well, and until when it was not.
    pub(super) fn note_logs(&mut self) {
        for place in 0..self.nodes.len() {
            let is_well = self.condition(place).is_none_or(LogCondition::is_well);
            let now = self.now;
            let node = &mut self.nodes[place];
            if is_well {
                node.ails_since = None;
            } else {
                node.ails_since.get_or_insert(now);
                node.ailed = Some(now);
            }
        }
    }

    /// Whether nothing but hangs has gone wrong for a while, and everybody is up.
    fn is_calm(&self) -> bool {
        let quiet = self.net.lock().quiet_from.max(EXCUSED_US);
        self.now >= quiet
            && self.nodes.iter().all(|node| {
                node.process.is_some() && node.paused_until.is_none() && node.is_member()
            })
            && self
                .nodes
                .iter()
                .all(|node| node.started.is_some_and(|started| self.now >= started + EXCUSED_US))
    }

    pub(super) fn look_at_hangs(&mut self) {
        self.note_logs();
        let goes_on = self.nodes.iter().any(|node| {
            node.hang.is_some_and(|hang| self.now < hang.until) || node.ails_since.is_some()
        });
        if goes_on {
            self.plan_in(LOOK_US, Event::HangLook);
        }
        self.note_hangs();
        let is_calm = self.is_calm();
        let mut found = Vec::new();
        for place in 0..self.nodes.len() {
            let bound = self.swarm.settings.disk_stall_max.as_micros() as u64;
            let stalls = matches!(self.condition(place), Some(LogCondition::Stalled { .. }));
            let lasts = self.waits_for(place).filter(|_| stalls);
            let Some(process) = &self.nodes[place].process else { continue };
            let moved = process.counters().snapshot().leaderships_moved_off_log;
            self.sightings.hit_if(moved > 0, Mark::LedByNoHungDisk);
            if !is_calm || lasts.is_none_or(|lasts| lasts < bound + grace_us(&self.swarm)) {
                continue;
            }
            for replica in process.replicas() {
                let core = replica.core();
                let voters = self.places_in(core.membership());
                let others = voters.iter().flatten().filter(|other| **other != place);
                let well = others.filter(|other| self.has_been_well(**other)).count();
                let majority = voters.len() / 2 + 1;
                let may_move = !core.membership().is_joint() && well >= majority;
                if core.is_leader() && may_move {
                    let evidence = format!(
                        "node {place} leads although a call of its log is under way for {lasts:?} us"
                    );
                    found.push(Violation::of_group(HUNG_LEADER, core.id(), evidence));
                }
            }
        }
        found.into_iter().for_each(|violation| self.fail(violation));
    }

    /// The places of a membership's voters; `None`: of a node that nobody knows.
    fn places_in(&self, membership: &Membership) -> Vec<Option<Place>> {
        let members = membership.members().iter();
        let voters = members.filter(|member| membership.is_voter(member.replica));
        voters.map(|member| self.swarm.place_of(member.node)).collect()
    }

    /// Whether nobody can think that a node's log ails.
    fn has_been_well(&self, place: Place) -> bool {
        let node = &self.nodes[place];
        let lately = node.ailed.is_some_and(|ailed| self.now < ailed + EXCUSED_US);
        // A call that takes long is told of before it is a stall.
        !lately && self.waits_for(place).is_none_or(|lasts| lasts < self.told_after() / 2)
    }

    fn told_after(&self) -> u64 {
        self.swarm.settings.disk_stall_max.as_micros() as u64 / 2
    }

    /// A node hands over a group because its log ails.
    pub(super) fn judge_hand_over(&mut self, place: Place, group: GroupId) {
        let heartbeat = self.swarm.settings.heartbeat_interval.as_micros() as u64;
        let Some(process) = &self.nodes[place].process else { return };
        let Some(replica) = process.replicas().find(|replica| replica.core().id() == group) else {
            return;
        };
        let membership = replica.core().membership();
        let voters = self.places_in(membership);
        if membership.is_joint() || !self.is_calm() {
            return;
        }
        // So long that everybody has heard of it.
        let known = self.told_after() + heartbeat + 100_000;
        let ails = |other: Place| {
            other == place || self.waits_for(other).is_some_and(|lasts| lasts >= known)
        };
        let ailing = voters.iter().flatten().filter(|other| ails(**other)).count();
        if voters.len() - ailing < voters.len() / 2 + 1 {
            let evidence = format!(
                "node {place} hands over although the disks of {ailing} of {} voters hang",
                voters.len()
            );
            self.fail(Violation::of_group(HUNG_MAJORITY, group, evidence));
        }
    }

    /// Somebody was elected: whether its log is well.
    pub(super) fn judge_elected(&mut self, group: GroupId, place: Place) {
        if self.nodes.iter().all(|node| node.hang.is_none()) {
            return;
        }
        self.note_logs();
        let bound = self.swarm.settings.disk_stall_max.as_micros() as u64;
        let heartbeat = self.swarm.settings.heartbeat_interval.as_micros() as u64;
        // Shards hear of it with the next look.
        let slack = bound / 4 + heartbeat + 300_000;
        let quiet = self.net.lock().quiet_from;
        let ails = self.nodes[place].ails_since.is_some_and(|since| self.now >= since + slack);
        let Some(process) = &self.nodes[place].process else { return };
        let replica = process.replicas().find(|replica| replica.core().id() == group);
        let Some(membership) = replica.map(|replica| replica.core().membership()) else { return };
        let voters = self.places_in(membership);
        let passed_over = voters
            .iter()
            .flatten()
            .any(|other| *other != place && self.nodes[*other].ails_since.is_some());
        self.sightings.hit_if(passed_over, Mark::ElectedBesideAiling);
        let others = voters.iter().flatten().filter(|other| **other != place);
        let well = others.filter(|other| self.has_been_well(**other)).count();
        if ails && !membership.is_joint() && well > voters.len() / 2 && self.now >= quiet {
            let evidence = format!("node {place} is elected although its log is not well");
            self.fail(Violation::of_group(AILING_ELECTED, group, evidence));
        }
    }

    /// Whether the disks of most nodes hang at once, or one hangs once more.
    fn note_hangs(&mut self) {
        let stalled =
            |place: &Place| matches!(self.condition(*place), Some(LogCondition::Stalled { .. }));
        let count = (0..self.nodes.len()).filter(stalled).count();
        self.sightings.hit_if(count > self.nodes.len() / 2, Mark::MostDisksHung);
        let again = self.nodes.iter().any(|node| {
            node.hang.is_some_and(|hang| {
                self.now > hang.from + hang.on_us + hang.off_us && hang.until(self.now).is_some()
            })
        });
        self.sightings.hit_if(again, Mark::DiskHungAgain);
    }
}

/// More than half of so many nodes.
fn most_of(rng: &mut Rng, count: usize) -> usize {
    rng.range(count as u64 / 2 + 1..=count as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_nodes_are_more_than_half_and_no_more_than_there_are() {
        let mut rng = Rng::new(1);
        for count in 1..=7 {
            let drawn: Vec<usize> = (0..200).map(|_| most_of(&mut rng, count)).collect();
            let bounds = (drawn.iter().min().copied(), drawn.iter().max().copied());
            assert_eq!(bounds, (Some(count / 2 + 1), Some(count)));
        }
    }

    #[test]
    fn a_disk_that_hangs_again_and_again_answers_in_between() {
        let hang = Hang { from: 100, until: 200, on_us: 10, off_us: 30, slow_us: 0 };
        let hung: Vec<u64> = (0..300).filter(|now| hang.until(*now).is_some()).collect();
        let expected: Vec<u64> =
            [100, 140, 180].into_iter().flat_map(|from| from..from + 10).collect();
        assert_eq!(hung, expected);
        assert_eq!((hang.until(105), hang.until(149)), (Some(110), Some(150)));
    }
}
