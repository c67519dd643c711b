//! The end of a run: did the cluster recover, and was everything it said true.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use raft_core::{EntryKind, GroupId, LogIndex, RoleKind, Term};
use raft_transport::Lane;

use super::clients::{Outcome, op_id};
use super::machine::{Applied, number_of};
use super::network::Place;
use super::options::Weather;
use super::world::{Standing, World};
use crate::sim::linearizability::{AppliedLog, search, session, witness};
use crate::sim::violation::{Check, Violation};

/// Keys have a handful of operations in flight: far more than any search of theirs takes.
const SEARCH_STEPS_MAX: u64 = 2_000_000;

/// Each group's term on each member, when nothing was to change any more.
pub(super) type Terms = BTreeMap<(Place, GroupId), Term>;

impl World {
    /// Reads all logs from end to end.
    pub(super) fn sweep(&mut self) {
        let mut judge = self.judge.lock();
        let members = self.nodes.iter().enumerate().filter(|(_, node)| node.is_member());
        let replicas = members.filter_map(|(place, node)| {
            Some(node.process.as_ref()?.replicas().map(move |replica| (place, replica)))
        });
        judge.sweep(replicas.flatten());
    }

    fn terms(&self) -> Terms {
        let members = self.nodes.iter().enumerate().filter(|(_, node)| node.is_member());
        let replicas = members.filter_map(|(place, node)| Some((place, node.process.as_ref()?)));
        replicas
            .flat_map(|(place, process)| {
                process.replicas().map(move |replica| {
                    let core = replica.core();
                    ((place, core.id()), core.term())
                })
            })
            .collect()
    }

    pub(super) fn begin_to_settle(&mut self) {
        self.settled_terms = self.terms();
    }

    /// The faults have ended. Where they left a majority connected, it has served all the while.
    pub(super) fn judge_partition(&mut self) {
        if self.options.weather == Weather::StaticPartition {
            for group in self.unanswered_probes() {
                let evidence = "a connected majority did not serve during a static partition";
                self.fail(Violation::of_group(
                    Check::Profile("partition-progress"),
                    group,
                    evidence,
                ));
            }
        }
    }

    pub(super) fn conclude(&mut self) {
        self.judge_liveness();
        self.sweep();
        self.judge_replicas();
        self.judge_requests();
        self.judge_connections();
        let found = self.judge_history();
        let broken = self.record.look(|recorded| std::mem::take(&mut recorded.broken));
        let broken = broken
            .into_iter()
            .map(|evidence| Violation::of_run(Check::StateMachineSafety, evidence));
        let found_before = std::mem::take(&mut self.judge.lock().found);
        for violation in found.into_iter().chain(broken).chain(found_before) {
            self.fail(violation);
        }
    }

    fn judge_liveness(&mut self) {
        let mut found = Vec::new();
        let mut stuck = |group, evidence: String| {
            found.push(Violation::of_group(Check::Profile("liveness"), group, evidence));
        };
        for group in self.unanswered_probes() {
            stuck(group, "no sign of life after healing".to_owned());
        }
        let terms = self.terms();
        for spec in &self.swarm.groups {
            let mut leaders = Vec::new();
            let mut ends = Vec::new();
            for (_, node) in &spec.replicas {
                let Some(place) = self.swarm.nodes.iter().position(|other| other == node) else {
                    continue;
                };
                if !self.nodes[place].is_member() {
                    continue;
                }
                let process = self.nodes[place].process.as_ref();
                let replica = process.and_then(|process| {
                    process.replicas().find(|replica| replica.core().id() == spec.group)
                });
                let Some(replica) = replica else {
                    stuck(spec.group, format!("node {node} has no such replica"));
                    continue;
                };
                let status = replica.core().status();
                if status.role == RoleKind::Leader {
                    leaders.push(*node);
                }
                let applied = self.record.look(|recorded| {
                    recorded.states.get(&(*node, spec.group)).copied().unwrap_or_default()
                });
                ends.push((*node, status.last_index, status.commit_index, applied));
                let before = self.settled_terms.get(&(place, spec.group));
                let now = terms.get(&(place, spec.group));
                if before != now {
                    let evidence = format!("node {node} went from term {before:?} to {now:?}");
                    stuck(spec.group, format!("elections go on: {evidence}"));
                }
            }
            if leaders.len() != 1 {
                stuck(spec.group, format!("leaders: {leaders:?}"));
            }
            let agree = ends.windows(2).all(|pair| {
                let ((_, a_last, a_commit, a), (_, b_last, b_commit, b)) = (pair[0], pair[1]);
                (a_last, a_commit, a) == (b_last, b_commit, b)
            });
            let applied =
                ends.iter().all(|(_, last, commit, (index, _))| last == commit && index == commit);
            if !agree || !applied {
                stuck(spec.group, format!("replicas differ at the end: {ends:?}"));
            }
        }
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
            let Some(process) = &node.process else { continue };
            let node = self.swarm.nodes[place];
            if let Some(failure) = process.failure() {
                let evidence = format!("node {node} ended with a failed log: {failure}");
                found.push(Violation::of_run(Check::Profile("liveness"), evidence));
            }
            for (group, refusal) in process.refused_groups() {
                let evidence = format!("node {node} refused its group: {refusal:?}");
                found.push(Violation::of_group(Check::Profile("start"), group, evidence));
            }
        }
        for violation in found {
            self.fail(violation);
        }
    }

    fn judge_replicas(&mut self) {
        let mut judge = self.judge.lock();
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
            for replica in node.process.iter().flat_map(|process| process.replicas()) {
                judge.settled(place, replica);
                let (group, id) = (replica.core().id(), replica.core().replica());
                let key = (self.swarm.nodes[place], group);
                let state = self.record.look(|recorded| recorded.states.get(&key).copied());
                if let Some((index, digest)) = state {
                    let judged = judge.checker.digest(group, id, index, digest);
                    judge.found.extend(judged.err());
                }
            }
        }
        for operation in &self.history.operations {
            if let Outcome::Done { index, .. } = operation.outcome
                && !operation.is_read()
            {
                let (term, number) = self.record.look(|recorded| {
                    recorded.at(operation.group, index).map_or((None, None), |applied| {
                        (Some(applied.term), number_of(&applied.payload))
                    })
                });
                if number != Some(operation.number) {
                    let evidence = format!(
                        "{} was acknowledged at {index}, applied there is {number:?}",
                        operation.number
                    );
                    let check = Check::AcknowledgedLost;
                    judge.found.push(Violation::of_group(check, operation.group, evidence));
                }
                let judged =
                    judge.checker.acknowledged(operation.group, index, term.unwrap_or(Term::ZERO));
                judge.found.extend(judged.err());
            }
        }
    }

    /// What clients saw follows from the order of the log, and from some order at all.
    fn judge_history(&self) -> Option<Violation> {
        let mut applied = AppliedLog::new();
        self.record.look(|recorded| {
            for (group, entries) in &recorded.groups {
                for (entry, index) in entries.iter().zip(1..) {
                    if entry.kind == EntryKind::Command
                        && let Some(number) = number_of(&entry.payload)
                    {
                        applied.applied(*group, LogIndex::new(index), op_id(number));
                    }
                }
            }
        });
        let history = &self.history.seen;
        let judged = witness::check(history, &applied)
            .and_then(|_| session::check(history, &applied))
            .and_then(|_| search::check(history, SEARCH_STEPS_MAX));
        judged.err()
    }

    /// Every request has ended, once.
    fn judge_requests(&mut self) {
        let mut found = Vec::new();
        for operation in &self.history.operations {
            if operation.outcome == Outcome::Open {
                let evidence = format!("client {} waits to the end", operation.client);
                found.push(Violation::of_group(Check::Outcomes, operation.group, evidence));
            }
        }
        let cx = &mut Context::from_waker(Waker::noop());
        for (place, life, ticket) in self.history.orphans.drain(..) {
            if pin!(ticket).poll(cx).is_pending() {
                let evidence = format!("a request to place {place} in life {life} never ended");
                found.push(Violation::of_run(Check::Outcomes, evidence));
            }
        }
        for violation in found {
            self.fail(violation);
        }
    }

    /// Between two members there is one connection for each lane, and nothing is left of others.
    fn judge_connections(&mut self) {
        let mut count: BTreeMap<(Place, Place, Lane), usize> = BTreeMap::new();
        for (_, from, to, lane) in self.net.lock().connections() {
            *count.entry((from, to, lane)).or_default() += 1;
        }
        let members: Vec<Place> =
            (0..self.nodes.len()).filter(|place| self.nodes[*place].is_member()).collect();
        let pairs = members.iter().flat_map(|a| members.iter().map(move |b| (*a, *b)));
        let mut found = Vec::new();
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let theirs = self.swarm.shards[to] as u8;
            let mut wanted: BTreeMap<Lane, usize> = BTreeMap::new();
            let data = (0..self.swarm.shards[from] as u8).map(|shard| Lane::Data { shard });
            for lane in data.chain([Lane::Control, Lane::Bulk]) {
                *wanted.entry(lane.at_receiver(theirs)).or_default() += 1;
            }
            for (lane, wanted) in wanted {
                let open = count.remove(&(from, to, lane)).unwrap_or(0);
                if open != wanted {
                    let evidence =
                        format!("{open} instead of {wanted} {lane} lanes from {from} to {to}");
                    found.push(Violation::of_run(Check::Profile("connections"), evidence));
                }
            }
        }
        let among = |place: &Place| members.contains(place);
        for ((from, to, lane), open) in count {
            if among(&from) && among(&to) {
                let evidence = format!("{open} unwanted {lane} lanes from {from} to {to}");
                found.push(Violation::of_run(Check::Profile("connections"), evidence));
            }
        }
        let open = self.net.lock().connections().len();
        let held = self.net.lock().live();
        if members.len() == self.nodes.len() && held != open {
            let evidence = format!("{held} connections are held, {open} are open at both ends");
            found.push(Violation::of_run(Check::Profile("connections"), evidence));
        }
        for violation in found {
            self.fail(violation);
        }
    }
}

impl super::world::NodeState {
    /// Whether it belongs to the cluster and must recover.
    pub(super) fn is_member(&self) -> bool {
        match self.standing {
            Standing::Member => true,
            Standing::Damaged | Standing::Out | Standing::Stranger => false,
        }
    }
}

impl super::machine::Recorded {
    /// What was applied at an index.
    fn at(&self, group: GroupId, index: LogIndex) -> Option<&Applied> {
        let at = (index.get() as usize).checked_sub(1)?;
        self.groups.get(&group)?.get(at)
    }
}
