//! One run: faults, then none, then the judgement.
//!
//! In the second phase everything is mended, and everything must come right: each group has a
//! leader, takes writes and answers reads, and all its members end up equal. Trouble that always
//! heals by itself would hide what never recovers.

use std::collections::BTreeMap;

use raft_core::{GroupId, NodeId, Standing};

use super::faults::{self, Fault};
use super::replica::{MembershipLists, Replica};
use super::setup::Setup;
use super::world::{Event, World};
use crate::sim::history::End;
use crate::sim::linearizability::{search, session, witness};
use crate::sim::marks::Marks;
use crate::sim::rng::Streams;
use crate::sim::trace::Trace;
use crate::sim::violation::{Check, Violation};

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Explicit trouble instead of what the seed draws.
    pub(crate) faults: Option<Vec<Fault>>,
    /// Events to keep for a report.
    pub(crate) trace_events: usize,
    /// Changes to what the seed draws, to shrink it or to steer it.
    pub(crate) adjust: Option<fn(&mut Setup)>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Of everything that happened: equal for equal runs.
    pub(crate) hash: u128,
    pub(crate) violation: Option<Violation>,
    pub(crate) marks: Marks,
    pub(crate) trace: Trace,
    pub(crate) faults: Vec<Fault>,
    pub(crate) injected: BTreeMap<&'static str, u64>,
    /// Client operations that the history was checked with.
    pub(crate) operations: u64,
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) messages: u64,
    pub(crate) crashes: u64,
    pub(crate) virtual_us: u64,
}

/// Runs a seed.
pub(crate) fn run(seed: u64, options: &Options) -> Report {
    let seeds = Streams::new(seed);
    let mut setup = Setup::draw(seeds);
    setup.trace_events = options.trace_events;
    if let Some(adjust) = options.adjust {
        adjust(&mut setup);
    }
    let (faults_us, healing_us) = (setup.faults_us, setup.healing_us);
    let mut world = World::new(seed, setup);
    world.faults = options.faults.clone().unwrap_or_else(|| {
        let mut rng = seeds.stream("faults", &[]);
        faults::draw(&mut rng, world.nodes.len(), &world.groups, faults_us)
    });
    for at in 0..world.faults.len() {
        world.queue.push(world.faults[at].at, Event::Fault(at));
    }
    for client in 0..world.clients.clients.len() {
        let first = 200_000 + world.clients.thinks(client);
        world.queue.push(first, Event::Client { client });
    }
    for group in world.groups.clone() {
        let first = 1_000_000 + u64::from(group.get()) * 50_000;
        world.queue.push(first, Event::Operator { group });
    }
    world.queue.push(1_000_000, Event::Sweep);

    world.run_until(faults_us);
    world.heal();
    world.operating = false;
    // Clients go on, so that there is something to come right for; broken members are replaced.
    let busy_until = faults_us + healing_us * 2 / 3;
    while world.now < busy_until && world.violation.is_none() {
        world.run_until(world.now + 1_000_000);
        world.repair();
    }
    let answered = world.answered_by_group(busy_until.saturating_sub(healing_us / 3));
    world.clients.active = false;
    world.run_until(faults_us + healing_us);
    if world.violation.is_none() {
        let judged = world.judge(&answered);
        world.check(judged);
    }
    let hash = world.final_hash();
    Report {
        seed,
        hash,
        violation: world.violation,
        marks: world.marks,
        trace: world.trace,
        faults: world.faults,
        injected: world.injected,
        operations: world.clients.history.len() as u64,
        events: world.queue.made(),
        steps: world.counts.steps,
        messages: world.counts.messages,
        crashes: world.counts.crashes,
        virtual_us: world.now,
    }
}

impl World {
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
        self.sweep_now();
        if let Some(violation) = self.violation.take() {
            return Err(violation);
        }
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
