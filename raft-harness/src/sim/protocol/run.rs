//! One run: faults, then none, then the judgement.
//!
//! In the second phase everything is mended, and everything must come right: each group has a
//! leader, takes writes and answers reads, and all its members end up equal. Trouble that always
//! heals by itself would hide what never recovers.

use std::collections::BTreeMap;

use raft_core::{GroupId, NodeId, Promise, Standing};

use super::replica::{MembershipLists, Replica};
use super::setup::Setup;
use super::timeline::Event;
use super::world::World;
use crate::sim::case::Case;
use crate::sim::history::End;
use crate::sim::linearizability::{search, session, witness};
use crate::sim::marks::Mark;
use crate::sim::panics;
use crate::sim::profile::{Profile, RunReport};
use crate::sim::violation::{Check, Violation};

/// Whoever has healed for so long must be well.
const HEALING_US_MIN: u64 = 20_000_000;

/// Runs a case. It fails for the first violation; a panic is one.
pub(crate) fn run(case: &Case, kept_max: usize) -> RunReport {
    let mut report = RunReport::nothing(Profile::Protocol, case.seed);
    let mut world = match panics::caught(|| found(case, kept_max)) {
        Ok(world) => world,
        Err(panic) => return RunReport { violation: Some(panic), ..report },
    };
    if let Err(panic) = panics::caught(|| world.live()) {
        world.violation = Some(panic);
    }
    world.note_lost_terms();
    report.hash = world.final_hash();
    report.violation = world.violation;
    report.marks = world.marks;
    report.faults = world.injected;
    report.faults_skipped = world.skipped;
    report.operations = world.clients.history.len() as u64;
    report.steps = world.counts.steps;
    report.events = world.queue.made();
    report.virtual_us = world.now;
    report.trace = world.trace;
    report
}

/// The world of a case, before anything happens.
fn found(case: &Case, kept_max: usize) -> World {
    let mut world = World::new(case.seed, Setup::of(&case.swarm, kept_max));
    world.faults = case.schedule.faults().to_vec();
    for at in 0..world.faults.len() {
        world.queue.push(world.faults[at].at_us, Event::Fault(at));
    }
    for client in 0..world.clients.clients.len() {
        let first = 200_000 + world.clients.thinks(client);
        world.queue.push(first, Event::Client { client });
    }
    if world.setup.operator_us > 0 {
        for group in world.groups.clone() {
            let first = 1_000_000 + u64::from(group.get()) * 50_000;
            world.queue.push(first, Event::Operator { group });
        }
    }
    world.queue.push(1_000_000, Event::Sweep);
    world
}

/// How long before the end of the faults clients fall silent in a run that ends quietly.
const QUIET_US: u64 = 5_000_000;

impl World {
    /// Whether nobody asks for anything from the end of the faults on, in half of the runs with
    /// groups that sleep: whoever needs help then has to be helped without it.
    fn ends_quietly(&self) -> bool {
        let sleeps = self.settings.quiesce_after.is_some();
        sleeps && self.seeds.derive("quiet-end", &[]).is_multiple_of(2)
    }

    /// Both phases and the judgement, up to the first violation.
    fn live(&mut self) {
        let (faults_us, healing_us) = (self.setup.faults_us, self.setup.healing_us);
        let standing = self.standing_from().map(|from| {
            self.run_until(from);
            self.standing()
        });
        let quiet = self.ends_quietly();
        if quiet {
            // So that groups fall asleep while there is still trouble.
            self.run_until(faults_us.saturating_sub(QUIET_US));
            self.clients.active = false;
        }
        self.run_until(faults_us);
        if let Some(standing) = standing.filter(|_| self.violation.is_none()) {
            self.marks.hit(Mark::StandingPartition);
            let served = self.has_served(&standing);
            self.check(served);
        }
        self.heal();
        self.operating = false;
        // Clients go on, so that there is something to come right for; broken members are
        // replaced.
        let busy_until = faults_us + healing_us * 2 / 3;
        while self.now < busy_until && self.violation.is_none() {
            self.run_until(self.now + 1_000_000);
            self.repair();
        }
        let answered = if quiet {
            self.marks.hit(Mark::QuietEnd);
            BTreeMap::new()
        } else {
            self.answered_by_group(busy_until.saturating_sub(healing_us / 3))
        };
        self.clients.active = false;
        self.run_until(faults_us + healing_us);
        // A shrunk run may be too short for anything to come right.
        if self.violation.is_none() && healing_us >= HEALING_US_MIN {
            let judged = self.judge(&answered);
            self.check(judged);
        }
        if self.violation.is_none() {
            self.sweep_now();
        }
        if self.violation.is_none() {
            let judged = self.judge_history();
            self.check(judged);
        }
    }

    /// How many operations of each group were answered since a moment.
    fn answered_by_group(&self, since: u64) -> BTreeMap<GroupId, u64> {
        let mut counts: BTreeMap<GroupId, u64> =
            self.clients.clients.iter().map(|client| (client.group(), 0)).collect();
        for (_, op) in self.clients.history.iter() {
            let recent = op.ended_at.is_some_and(|at| at.get() >= since);
            if recent && matches!(op.end, End::Returned(_)) {
                *counts.entry(op.group).or_default() += 1;
            }
        }
        counts
    }

    /// Everything that must be so once all is mended and settled.
    fn judge(&mut self, answered: &BTreeMap<GroupId, u64>) -> Result<(), Violation> {
        for group in self.groups.clone() {
            let stuck = |what: &str, evidence: String| {
                Violation::of_group(
                    Check::Profile("L1-stuck"),
                    group,
                    format!("{what}: {evidence}"),
                )
            };
            let Some(leader) = self.leader_of(group) else {
                return Err(stuck("nobody leads", self.describe(group)));
            };
            if answered.get(&group) == Some(&0) {
                return Err(stuck("nothing was answered", self.describe(group)));
            }
            let core = &self.nodes[leader].replicas[&group].core;
            let membership = core.membership().clone();
            if membership.is_joint() || core.membership_index() > core.commit_index() {
                return Err(stuck("a change of membership never ended", self.describe(group)));
            }
            let commit = core.commit_index();
            let mut digests = Vec::new();
            let mut views: Vec<(NodeId, &Replica, MembershipLists)> = Vec::new();
            for member in membership.members() {
                let home = self.node_at(member.node);
                let replica = self.nodes[home].replicas.get(&group);
                let Some(replica) = replica.filter(|replica| replica.id() == member.replica) else {
                    let wiped = self.nodes[home].wiped;
                    if wiped && membership.incoming().len() < 3 {
                        // Too few are left to vote it out.
                        continue;
                    }
                    return Err(stuck("a member is missing", self.describe(group)));
                };
                if replica.core.last_index() != commit || replica.machine.applied != commit {
                    return Err(stuck("a member lags for ever", self.describe(group)));
                }
                digests.push(replica.machine.digest());
                let counts = replica.core.status().promise.promise != Promise::Unproven;
                let alone = membership.incoming() == [member.replica];
                if (!counts || member.standing == Standing::Successor) && !alone {
                    return Err(stuck("a member never counts again", self.describe(group)));
                }
                if member.standing == Standing::Voter || member.standing == Standing::Learner {
                    views.push((member.node, replica, MembershipLists::of(&replica.core)));
                }
            }
            if digests.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(Violation::of_group(
                    Check::StateMachineSafety,
                    group,
                    format!("members ended up with different states: {digests:x?}"),
                ));
            }
            let seen = views.iter().map(|(node, replica, lists)| replica.view(*node, None, lists));
            self.checker.settled(seen)?;
            for replica in self.nodes.iter().filter_map(|node| node.replicas.get(&group)) {
                // A learner that was removed out of reach never hears of it, and asks nobody.
                let status = replica.core.status();
                if membership.member(status.replica).is_none() && !status.removed {
                    continue;
                }
                let pending = replica.core.status().open_requests;
                if pending > 0 || !replica.open.is_empty() || !replica.reads.is_empty() {
                    return Err(Violation::of_group(
                        Check::Outcomes,
                        group,
                        format!(
                            "{:?} owes answers: {pending} in the core, {:?}, {:?}{}",
                            replica.id(),
                            replica.open,
                            replica.reads,
                            self.describe(group)
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn sweep(&mut self) {
        self.queue.push(self.now + 1_000_000, Event::Sweep);
        self.sweep_now();
    }

    /// Compares whole logs, now and then.
    pub(crate) fn sweep_now(&mut self) {
        let lists: Vec<(NodeId, &Replica, MembershipLists)> = self
            .nodes
            .iter()
            .flat_map(|node| node.replicas.values().map(move |replica| (node.id, replica)))
            .map(|(node, replica)| (node, &**replica, MembershipLists::of(&replica.core)))
            .collect();
        let views = lists.iter().map(|(node, replica, lists)| replica.view(*node, None, lists));
        let seen = self.checker.sweep(views);
        self.check(seen);
    }

    /// Everything that clients did must have an explanation, settled or not.
    fn judge_history(&self) -> Result<(), Violation> {
        let (history, applied) = (&self.clients.history, &self.clients.applied);
        witness::check(history, applied)?;
        session::check(history, applied)?;
        if self.groups.len() <= 2 {
            search::check(history, 20_000_000)?;
        }
        Ok(())
    }

    fn final_hash(&self) -> u128 {
        let mut hash = crate::sim::trace::TraceHash::new();
        let trace = self.trace.hash().value();
        hash.word(trace as u64);
        hash.word((trace >> 64) as u64);
        hash.word(self.counts.steps);
        for node in &self.nodes {
            for replica in node.replicas.values() {
                hash.word(replica.machine.digest());
                hash.word(replica.core.term().get());
            }
        }
        hash.value()
    }

    /// A group in a few words per replica.
    pub(crate) fn describe(&self, group: GroupId) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let up = node.running;
            match node.replicas.get(&group) {
                None => text.push_str(&format!("\n  {:?} {up:?}: no replica", node.id)),
                Some(replica) => {
                    let status = replica.core.status();
                    text.push_str(&format!(
                        "\n  {:?} {up:?}: {:?} {:?} {:?} leader {:?} last {:?} durable {:?} \
                         commit {:?} applied {:?} base {:?} snapshot {:?} {:?} standing {:?} \
                         asleep {} members {:?} at {:?} disk {:?}",
                        node.id,
                        status.replica,
                        status.role,
                        status.term,
                        status.leader,
                        status.last_index,
                        status.durable_index,
                        status.commit_index,
                        replica.machine.applied,
                        status.base_index,
                        status.snapshot_index,
                        status.promise,
                        status.standing,
                        status.asleep,
                        replica.core.membership(),
                        replica.core.membership_index(),
                        node.disk_weather,
                    ));
                }
            }
        }
        text
    }
}
