//! The end of a run: did the cluster recover, and was everything it said true.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raft_core::{EntryKind, GroupId, LogIndex, ReadPath, RoleKind, Term};
use raft_transport::{Direction, Lane};

use super::clients::{Outcome, op_id};
use super::incarnations::life_of;
use super::machine::{Applied, number_of};
use super::network::Place;
use super::options::Weather;
use super::process::Process;
use super::snapshots::stored;
use super::world::{Standing, World};
use crate::engine::EngineInput;
use crate::request::{Request, RequestKind};
use crate::sim::linearizability::{AppliedLog, search, session, witness};
use crate::sim::violation::{Check, Violation};

/// Keys have a handful of operations in flight: far more than any search of theirs takes.
const SEARCH_STEPS_MAX: u64 = 2_000_000;

/// Each group's term on each member, when nothing was to change any more.
pub(super) type Terms = BTreeMap<(Place, GroupId), Term>;

/// How far each replica has applied, and the digest of its state there.
type States = BTreeMap<(Place, GroupId), (LogIndex, u64)>;

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
        let groups = self.swarm.groups.iter().map(|spec| spec.group);
        self.astray = groups.filter(|group| self.is_led_by_first(*group) == Some(false)).collect();
    }

    /// Whether the leader of a group is the first by rank, if there is one for certain.
    fn is_led_by_first(&self, group: GroupId) -> Option<bool> {
        let (place, _) = self.settled_membership(group)?;
        let process = self.nodes[place].process.as_ref()?;
        let mut here = process.replicas();
        let core = here.find(|replica| replica.core().id() == group)?.core();
        Some(core.first_by_rank() == Some(core.replica()))
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
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            process.note_lanes(&self.sightings);
            self.judge.lock().found.extend(process.disbelieves());
        }
        let states = self.take_digests();
        self.end_floods();
        self.judge_liveness(&states);
        self.sweep();
        self.judge_replicas(&states);
        self.judge_requests();
        self.judge_connections();
        self.judge_leftovers();
        self.judge_rest();
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

    /// Every replica is asked for its state, as a user asks.
    pub(super) fn ask_for_digests(&mut self) {
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
            let Some(process) = &node.process else { continue };
            for replica in process.replicas() {
                let group = replica.core().id();
                let kind = RequestKind::Read(ReadPath::Quorum, Bytes::new());
                let (request, ticket) = Request::new(group, kind);
                process.tell(group, EngineInput::Digest(group, request.reply));
                self.digests.insert((place, group), ticket);
            }
        }
    }

    fn take_digests(&mut self) -> States {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut states = States::new();
        for (key, ticket) in std::mem::take(&mut self.digests) {
            if let Poll::Ready(Ok(answer)) = pin!(ticket).poll(cx) {
                states.insert(key, answer.into());
            }
        }
        states
    }

    fn judge_liveness(&mut self, states: &States) {
        let mut found = Vec::new();
        let mut stuck = |group, evidence: String| {
            found.push(Violation::of_group(Check::Profile("liveness"), group, evidence));
        };
        for group in self.unanswered_probes() {
            stuck(group, "no sign of life after healing".to_owned());
        }
        let terms = self.terms();
        for spec in &self.swarm.groups {
            let group = spec.group;
            let Some((_, membership)) = self.settled_membership(group) else {
                stuck(group, "no leader with a membership that stands".to_owned());
                continue;
            };
            let mut leaders = Vec::new();
            let mut ends = Vec::new();
            for (place, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.is_member()) {
                let id = self.swarm.nodes[place];
                let wanted = membership.members().iter().find(|member| member.node == id);
                let replica = node.process.as_ref().and_then(|process| {
                    process.replicas().find(|replica| replica.core().id() == group)
                });
                let life = self.operator.life_of(group);
                let wanted = wanted.map(|member| (life, member.replica));
                let there = replica.map(|replica| {
                    (life_of(group, replica.incarnation()), replica.core().replica())
                });
                if wanted != there {
                    let evidence = format!("node {id} has {there:?}, its group says {wanted:?}");
                    stuck(group, evidence);
                }
                let Some(replica) = replica else { continue };
                let status = replica.core().status();
                if status.role == RoleKind::Leader {
                    leaders.push(id);
                }
                let applied = states.get(&(place, group)).copied().unwrap_or_default();
                ends.push((id, status.last_index, status.commit_index, applied));
                let before = self.settled_terms.get(&(place, group));
                let now = terms.get(&(place, group));
                // Attempts to yield become rare when they fail: one may succeed as late as that.
                let has_yielded = before.map(|term| term.next()) == now.copied()
                    && self.astray.contains(&group)
                    && self.is_led_by_first(group) == Some(true);
                if before != now && !has_yielded {
                    let evidence = format!("node {id} went from term {before:?} to {now:?}");
                    stuck(group, format!("elections go on: {evidence}"));
                }
            }
            if leaders.len() != 1 {
                stuck(group, format!("leaders: {leaders:?}"));
            }
            let agree = ends.windows(2).all(|pair| {
                let ((_, a_last, a_commit, a), (_, b_last, b_commit, b)) = (pair[0], pair[1]);
                (a_last, a_commit, a) == (b_last, b_commit, b)
            });
            let applied =
                ends.iter().all(|(_, last, commit, (index, _))| last == commit && index == commit);
            if !agree || !applied {
                stuck(group, format!("replicas differ at the end: {ends:?}"));
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

    fn judge_replicas(&mut self, states: &States) {
        let mut judge = self.judge.lock();
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
            for replica in node.process.iter().flat_map(|process| process.replicas()) {
                judge.settled(place, replica);
                let (group, id) = (replica.core().id(), replica.core().replica());
                if let Some((index, digest)) = states.get(&(place, group)).copied() {
                    let life = life_of(group, replica.incarnation());
                    let judged = judge.checker.digest(life, id, index, digest);
                    judge.found.extend(judged.err());
                }
            }
        }
        for operation in &self.history.operations {
            if let Outcome::Done { index, output } = &operation.outcome
                && !operation.is_excused
                && !operation.is_read()
            {
                let index = *index;
                let (term, number, answer) = self.record.look(|recorded| {
                    let applied = recorded.at(operation.life, index);
                    let number = applied.and_then(|applied| number_of(&applied.payload));
                    let answer = applied.map(|applied| applied.output.clone());
                    (applied.map(|applied| applied.term), number, answer)
                });
                if answer.as_ref().is_some_and(|answer| answer != output) {
                    let evidence = format!(
                        "{} at {index} was answered {output:?}, the machine said {answer:?}",
                        operation.number
                    );
                    let check = Check::Profile("answers");
                    judge.found.push(Violation::of_group(check, operation.life, evidence));
                }
                if number != Some(operation.number) {
                    let evidence = format!(
                        "{} was acknowledged at {index}, applied there is {number:?}",
                        operation.number
                    );
                    let check = Check::AcknowledgedLost;
                    judge.found.push(Violation::of_group(check, operation.life, evidence));
                }
                let judged =
                    judge.checker.acknowledged(operation.life, index, term.unwrap_or(Term::ZERO));
                judge.found.extend(judged.err());
            }
        }
    }

    /// What clients saw follows from the order of the log, and from some order at all.
    fn judge_history(&self) -> Option<Violation> {
        let mut applied = AppliedLog::new();
        self.record.look(|recorded| {
            let judged = |group: &GroupId| !self.history.seen.is_silenced(*group);
            for (group, entries) in recorded.groups.iter().filter(|(group, _)| judged(group)) {
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
                found.push(Violation::of_group(Check::Outcomes, operation.life, evidence));
            }
        }
        let cx = &mut Context::from_waker(Waker::noop());
        self.history.orphans.extend(self.operator.open());
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

    /// Nobody has asked for anything for a while: whatever room was taken is given back.
    fn judge_rest(&mut self) {
        let mut found = Vec::new();
        let members = self.nodes.iter().enumerate().filter(|(_, node)| node.is_member());
        let processes: BTreeMap<Place, &Process> =
            members.filter_map(|(place, node)| Some((place, node.process.as_deref()?))).collect();
        for (place, process) in &processes {
            let held = process.held().into_iter();
            found.extend(held.map(|what| format!("place {place} still holds {what}")));
        }
        let credits: BTreeMap<Place, _> =
            processes.iter().map(|(place, process)| (*place, process.credits())).collect();
        for (from, process) in &processes {
            for (lane, peer, direction, dialer) in &credits[from] {
                let to = self.swarm.place_of(*peer);
                let Some((to, theirs)) = to.and_then(|to| Some((to, credits.get(&to)?))) else {
                    continue;
                };
                let me = self.swarm.nodes[*from];
                let there = lane.at_receiver(self.swarm.shards[to] as u8);
                // Lanes of several shards may end at one of the peer's: then they count together.
                if *direction == Direction::Incoming
                    || process.lanes_to(there, self.swarm.shards[to]) > 1
                    || !self.net.lock().is_quiet(*from, to, there)
                {
                    continue;
                }
                let is_it = |(lane, peer, direction, _): &&(Lane, _, _, _)| {
                    (*lane, *peer, *direction) == (there, me, Direction::Incoming)
                };
                let Some((.., acceptor)) = theirs.iter().find(is_it) else { continue };
                if dialer.used != acceptor.used || acceptor.used != acceptor.consumed {
                    found.push(format!(
                        "{there} from {from} to {to}: {} bytes of credit are used, {} there, {} \
                         of them consumed",
                        dialer.used, acceptor.used, acceptor.consumed
                    ));
                }
            }
        }
        for evidence in found {
            self.fail(Violation::of_run(Check::Room, evidence));
        }
    }

    /// Of groups, and of lives of groups, that left a node its disk keeps no snapshot.
    fn judge_leftovers(&mut self) {
        let mut found = Vec::new();
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
            let Some(process) = &node.process else { continue };
            let here: Vec<GroupId> = process
                .replicas()
                .map(|replica| life_of(replica.core().id(), replica.incarnation()))
                .collect();
            for name in stored(&node.snapshots) {
                if !here.contains(&life_of(name.group, name.incarnation)) {
                    let evidence = format!("place {place} keeps snapshot {name} of nobody there");
                    found.push(Violation::of_run(Check::Profile("leftovers"), evidence));
                }
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
            let dialed = self.nodes[from].process.as_ref().map(|process| process.dialed());
            for lane in dialed.into_iter().flatten() {
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
        for (from, to, lane) in self.net.lock().trusts_garbled() {
            let evidence = format!("a damaged frame ended no {lane} lane from {from} to {to}");
            found.push(Violation::of_run(Check::Profile("garbled"), evidence));
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
