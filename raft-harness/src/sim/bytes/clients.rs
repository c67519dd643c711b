//! Clients: each asks for one thing at a time, follows hints, tries again, and remembers.
//!
//! A client repeats an attempt only if the answer said that nothing happened, so an operation
//! takes effect at most once; if the answer is lost, the client never learns, and goes on to
//! something else. A request whose client has given up must still end.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raft_core::{Group, GroupId, LogIndex, Micros, NodeId, ReadPath};

use super::incarnations::group_of;
use super::machine::{Action, Key, encode};
use super::network::Place;
use super::tasks::{Note, TaskId};
use super::world::{Event, Phase, World};
use crate::engine::EngineInput;
use crate::request::{Answer, Proposed, Request, RequestError, RequestKind, Ticket};
use crate::sim::history::{ClientId, History, KeyId, Op, OpId, Reply, Value};
use crate::sim::marks::Mark;
use crate::sim::rng::Rng;

/// A client waits so long for an answer.
const PATIENCE_US: u64 = 3_000_000;

/// It tries so long to get something done; the last sign of life is worth more patience.
const INSIST_US: u64 = 6_000_000;
const PROBE_INSIST_US: u64 = 14_000_000;

/// What is asked for in a flood is at most so large.
pub(super) const FLOOD_BYTES_MAX: u64 = 4_000;
/// Nobody else asks for anything of its list.
const FLOOD_KEY: Key = Key::MAX;
/// Each command of a flood is of a client of its own; they are numbered from here.
const FLOOD_CLIENTS: u32 = 1 << 20;

/// On slow links nobody sends large values so long after the faults.
const LARGE_END_US: u64 = 9_000_000;

pub(super) struct Client {
    rng: Rng,
    note: Arc<Note>,
    waker: Waker,
    /// Who led each group, as last heard.
    hints: BTreeMap<GroupId, Place>,
    kind: Kind,
    /// Counts attempts; what was planned for an earlier one does not happen.
    attempt: u64,
    doing: Option<Doing>,
}

enum Kind {
    /// Asks at random until the world says stop.
    Worker,
    /// Asks for these, one after the other.
    Probe(VecDeque<(GroupId, Action)>),
}

struct Doing {
    task: Errand,
    group: GroupId,
    began: u64,
    place: Place,
    path: ReadPath,
    /// Who was asked.
    asked: Rank,
    /// The number of the request, if it is a read that was asked for.
    reads: Option<u64>,
    ticket: Option<Ticket<Proposed>>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Errand {
    /// An operation of the history, by its place there.
    Operation(usize),
    /// Hand a group over.
    Transfer(Option<NodeId>),
}

/// What a replica was when a request came to its node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rank {
    Other,
    Leader,
    Leaseholder,
}

impl Rank {
    fn of(core: &Group) -> Self {
        match (core.is_leader(), core.lease_until()) {
            (false, _) => Self::Other,
            (true, None) => Self::Leader,
            (true, Some(_)) => Self::Leaseholder,
        }
    }
}

/// Everything clients asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// In the order of [`seen`](Self::seen).
    pub(super) operations: Vec<Operation>,
    /// As the judges of histories read it.
    pub(super) seen: History,
    /// Requests whose clients have given up: who has them, in which life, and where they end.
    pub(super) orphans: Vec<(Place, u32, Ticket<Proposed>)>,
    /// What was asked for in floods, by its place among the operations.
    floods: Vec<(usize, Ticket<Proposed>)>,
    pub(super) transfers: u64,
    /// Requests that reached a node.
    pub(super) requests: u64,
}

impl Asked {
    /// What a life of a group has answered from behind `kept` is lost, and somebody has accepted that.
    pub(super) fn forget(&mut self, life: GroupId, kept: LogIndex) {
        self.seen.silence(life);
        for operation in self.operations.iter_mut().filter(|operation| operation.life == life) {
            operation.is_excused |= match operation.outcome {
                Outcome::Done { index, .. } => index > kept,
                // The answer may be on its way.
                Outcome::Open | Outcome::Unknown => true,
                Outcome::Nothing => false,
            };
        }
    }
}

/// One operation as its client saw it.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) client: usize,
    /// The life of a group that it is meant for.
    pub(super) life: GroupId,
    pub(super) key: Key,
    pub(super) action: Action,
    /// Names the command; no other has it.
    pub(super) number: u64,
    pub(super) command: Bytes,
    pub(super) ended: Option<u64>,
    pub(super) outcome: Outcome,
    /// Its effect may be lost with a loss that somebody has accepted.
    pub(super) is_excused: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// The client still waits.
    Open,
    /// It was answered.
    Done { index: LogIndex, output: Bytes },
    /// It may have happened or not, or may still happen.
    Unknown,
    /// It did not happen, and never will.
    Nothing,
}

/// The number in the command of an operation; zero is nobody's.
fn number_of(op: OpId) -> u64 {
    op.0 + 1
}

/// The operation that a command's number names.
pub(super) fn op_id(number: u64) -> OpId {
    OpId(number.wrapping_sub(1))
}

/// Registers and lists of one number are different keys.
fn key_id(action: Action, key: Key) -> KeyId {
    let kind = match action {
        Action::Write | Action::CompareAndSet { .. } | Action::Read => 0,
        Action::Append | Action::ReadList => 1 << 8,
    };
    KeyId(kind | u64::from(key))
}

fn op_of(action: Action, number: u64) -> Op {
    match action {
        Action::Write => Op::Set(number),
        Action::Append => Op::Append(number),
        Action::CompareAndSet { expected } => {
            let expected = (expected != 0).then_some(expected);
            Op::CompareAndSet { expected, new: number }
        }
        Action::Read | Action::ReadList => Op::Read,
    }
}

fn reply_of(action: Action, output: &[u8]) -> Reply {
    match action {
        Action::Write | Action::Append | Action::Read | Action::ReadList => Reply::Done,
        Action::CompareAndSet { .. } => match numbers(output).next() {
            Some(1) => Reply::Swapped,
            Some(_) | None => Reply::NotSwapped,
        },
    }
}

fn value_of(action: Action, output: &[u8]) -> Value {
    let mut numbers = numbers(output);
    match action {
        Action::ReadList => {
            let list: Vec<u64> = numbers.collect();
            if list.is_empty() { Value::Absent } else { Value::List(list) }
        }
        Action::Read | Action::Write | Action::Append | Action::CompareAndSet { .. } => {
            match numbers.next() {
                Some(0) | None => Value::Absent,
                Some(number) => Value::Register(number),
            }
        }
    }
}

fn numbers(output: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (numbers, _) = output.as_chunks::<8>();
    numbers.iter().map(|number| u64::from_le_bytes(*number))
}

impl Operation {
    pub(super) fn is_read(&self) -> bool {
        matches!(self.action, Action::Read | Action::ReadList)
    }
}

impl World {
    pub(super) fn start_clients(&mut self) {
        for number in 0..self.swarm.clients {
            let client = self.new_client(number, Kind::Worker);
            self.clients.push(client);
            let at = 200_000 + self.delays.below(self.swarm.pause_us);
            self.plan(at, Event::Ask { client: number });
        }
    }

    /// Many clients ask a node at once for a command each. They wait to the end.
    pub(super) fn flood(&mut self, place: Place, group: GroupId, count: u64, bytes: u64) -> bool {
        let life = self.operator.life_of(group);
        let Some(process) = &self.nodes[place].process else { return false };
        if process.life_of(group) != Some(life) {
            return false;
        }
        let (key, action) = (FLOOD_KEY, Action::Append);
        for _ in 0..count {
            let index = self.history.operations.len();
            let op = OpId(index as u64);
            let number = number_of(op);
            let client = ClientId(FLOOD_CLIENTS + index as u32);
            let (now, op) = (Micros::new(self.now), op_of(action, number));
            self.history.seen.invoke(now, client, life, key_id(action, key), op);
            let command = encode(number, action, key, bytes as usize);
            let (request, ticket) = Request::new(group, RequestKind::Propose(command.clone()));
            process.submit(request);
            self.history.requests += 1;
            self.history.floods.push((index, ticket));
            let (client, outcome) = (client.0 as usize, Outcome::Open);
            let ended = None;
            let is_excused = false;
            let asked = Operation {
                client,
                life,
                key,
                action,
                number,
                command,
                ended,
                outcome,
                is_excused,
            };
            self.history.operations.push(asked);
        }
        true
    }

    /// Takes what became of what was asked for in floods.
    pub(super) fn end_floods(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for (index, mut ticket) in self.history.floods.drain(..) {
            let Poll::Ready(answer) = Pin::new(&mut ticket).poll(cx) else { continue };
            let operation = &mut self.history.operations[index];
            operation.ended = Some(self.now);
            operation.outcome = match answer {
                Ok(Proposed { index, output, .. }) => Outcome::Done { index, output },
                Err(error) if error.may_have_been_applied() => Outcome::Unknown,
                Err(_) => Outcome::Nothing,
            };
        }
    }

    /// Every group is asked to take a write and to answer a read.
    pub(super) fn start_probes(&mut self) {
        for at in 0..self.swarm.groups.len() {
            let group = self.swarm.groups[at].group;
            let number = self.clients.len();
            let errands = [Action::Write, Action::Append, Action::Read, Action::ReadList];
            let errands = errands.map(|action| (group, action)).into();
            let client = self.new_client(number, Kind::Probe(errands));
            self.clients.push(client);
            self.plan_in(0, Event::Ask { client: number });
        }
    }

    fn new_client(&self, number: usize, kind: Kind) -> Client {
        let (note, waker) = self.wakes.waker(TaskId::client(number));
        let rng = self.streams.stream("client", &[number as u64]);
        Client { rng, note, waker, hints: BTreeMap::new(), kind, attempt: 0, doing: None }
    }

    /// Whether any probe has not got its answers.
    pub(super) fn unanswered_probes(&self) -> Vec<GroupId> {
        let waiting = self.clients.iter().filter_map(|client| match &client.kind {
            Kind::Worker => None,
            Kind::Probe(left) => {
                let now = client.doing.as_ref().map(|doing| doing.group);
                left.front().map(|(group, _)| *group).or(now)
            }
        });
        waiting.collect()
    }

    /// A client begins something new.
    pub(super) fn ask(&mut self, number: usize) {
        let now = self.now;
        let keys = self.swarm.keys;
        let client = &mut self.clients[number];
        let rng = &mut client.rng;
        let (group, action) = match &mut client.kind {
            Kind::Probe(left) => match left.pop_front() {
                Some(errand) => errand,
                None => return,
            },
            Kind::Worker => {
                if self.phase == Phase::Healing
                    && now > self.options.faults_s * 1_000_000 + 9_000_000
                {
                    return;
                }
                let groups = &self.swarm.groups;
                let spec = if self.swarm.bursts {
                    Some(&groups[(now / self.swarm.pause_us) as usize % groups.len()])
                } else {
                    rng.pick(groups)
                };
                let spec = spec.expect("there is a group");
                let group = spec.group;
                if self.now < self.quiet.1 && self.quiet.0.contains(&group) {
                    self.plan_in(self.swarm.pause_us, Event::Ask { client: number });
                    return;
                }
                if rng.chance(1, 25) {
                    let to = rng.pick(&self.operator.places_of(group)).copied();
                    let to = to.map(|place| self.swarm.nodes[place]);
                    let to = if rng.chance(1, 3) { None } else { to };
                    self.history.transfers += 1;
                    self.begin(number, Errand::Transfer(to), group);
                    return;
                }
                let action = match rng.below(10) {
                    0..=2 => Action::Write,
                    3..=4 => Action::Append,
                    5 => Action::CompareAndSet { expected: 0 },
                    6..=8 => Action::Read,
                    _ => Action::ReadList,
                };
                (group, action)
            }
        };
        let life = self.operator.life_of(group);
        let key = rng.below(keys) as Key;
        let action = match action {
            Action::CompareAndSet { .. } => {
                // What it may well hold: something lately written there.
                let lately = self.history.operations.iter().rev().take(40);
                let written = lately.filter(|operation| {
                    operation.life == life
                        && operation.key == key
                        && matches!(operation.action, Action::Write | Action::CompareAndSet { .. })
                });
                let written: Vec<u64> = written.take(3).map(|operation| operation.number).collect();
                let expected = rng.pick(&written).copied().unwrap_or(0);
                Action::CompareAndSet { expected }
            }
            action => action,
        };
        // On slow links: late enough that nothing excuses silence, early enough to cross.
        let healed_for = self.now.saturating_sub(self.options.faults_s * 1_000_000);
        let large_permille = match self.swarm.pace {
            Some(_) if healed_for > LARGE_END_US => 0,
            Some(_) if healed_for > 5_000_000 => 20,
            Some(_) | None => self.swarm.large_permille,
        };
        let padding = if rng.permille(large_permille) {
            rng.below(self.swarm.padding + 1)
        } else {
            rng.below(32)
        };
        let index = self.history.operations.len();
        let op = OpId(index as u64);
        let number_of = number_of(op);
        self.history.seen.invoke(
            Micros::new(now),
            ClientId(number as u32),
            life,
            key_id(action, key),
            op_of(action, number_of),
        );
        self.history.operations.push(Operation {
            client: number,
            life,
            key,
            action,
            number: number_of,
            command: encode(number_of, action, key, padding as usize),
            ended: None,
            outcome: Outcome::Open,
            is_excused: false,
        });
        self.begin(number, Errand::Operation(index), group);
    }

    fn begin(&mut self, number: usize, task: Errand, group: GroupId) {
        let began = self.now;
        let client = &mut self.clients[number];
        let path = client.rng.pick(&self.swarm.read_paths).copied().unwrap_or_default();
        client.doing = Some(Doing {
            task,
            group,
            began,
            place: 0,
            path,
            asked: Rank::Other,
            reads: None,
            ticket: None,
            answer: None,
        });
        self.attempt(number, 0);
    }

    /// Sends the request, or sends it again, after a pause.
    fn attempt(&mut self, number: usize, pause: u64) {
        let Some(doing) = &self.clients[number].doing else { return };
        let places = self.operator.places_of(doing.group);
        let client = &mut self.clients[number];
        client.attempt += 1;
        let attempt = client.attempt;
        let Some(doing) = &mut client.doing else { return };
        let hint = client.hints.get(&doing.group).copied();
        let random = client.rng.pick(&places).copied();
        // Some believe what is long over, and ask anybody.
        let anybody = doing.path == ReadPath::Follower || client.rng.chance(1, 8);
        let hint = hint.filter(|_| !anybody);
        doing.place = hint.or(random).unwrap_or(0);
        let delay = pause + 50 + self.delays.skewed(2_000);
        self.plan_in(delay, Event::Request { client: number, attempt });
        self.plan_in(delay + PATIENCE_US, Event::GiveUp { client: number, attempt });
    }

    /// A request reaches its node, if that is there. One that sleeps finds it when it wakes up.
    pub(super) fn deliver(&mut self, number: usize, attempt: u64) -> Option<Place> {
        let client = &mut self.clients[number];
        if client.attempt != attempt {
            return None;
        }
        let doing = client.doing.as_mut()?;
        let place = doing.place;
        let node = &self.nodes[place];
        let Some(process) = &node.process else {
            client.hints.remove(&doing.group);
            doing.answer = Some(Err(RequestError::NotLeader { leader: None }));
            let delay = 50 + self.delays.skewed(2_000);
            self.plan_in(delay, Event::Answer { client: number, attempt });
            return None;
        };
        let group = doing.group;
        let meant = match doing.task {
            Errand::Operation(index) => Some(self.history.operations[index].life),
            Errand::Transfer(_) => None,
        };
        if let (Some(meant), Some(here)) = (meant, process.life_of(group))
            && meant != here
        {
            // It would be taken for a request to another group than its client speaks of.
            doing.answer = Some(Err(RequestError::UnknownGroup(group)));
            let delay = 50 + self.delays.skewed(2_000);
            self.plan_in(delay, Event::Answer { client: number, attempt });
            return None;
        }
        let replica = process.replicas().find(|replica| replica.core().id() == group);
        doing.asked = replica.map_or(Rank::Other, |replica| Rank::of(replica.core()));
        match doing.task {
            Errand::Operation(index) => {
                let operation = &self.history.operations[index];
                let command = operation.command.clone();
                self.history.requests += 1;
                doing.reads = operation.is_read().then_some(self.history.requests);
                let kind = if operation.is_read() {
                    RequestKind::Read(doing.path, command)
                } else {
                    RequestKind::Propose(command)
                };
                let (request, ticket) = Request::new(group, kind);
                doing.ticket = Some(ticket);
                process.submit(request);
            }
            Errand::Transfer(to) => {
                let (request, ticket) =
                    Request::new(group, RequestKind::Read(ReadPath::Quorum, Bytes::new()));
                doing.ticket = Some(ticket);
                process.tell(group, EngineInput::Transfer(group, to, request.reply));
            }
        }
        self.poll_client(number);
        Some(place)
    }

    /// Looks whether a client's answer is there.
    pub(super) fn poll_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.note.clear();
        let Some(doing) = &mut client.doing else { return };
        let Some(ticket) = &mut doing.ticket else { return };
        let cx = &mut Context::from_waker(&client.waker);
        if let Poll::Ready(answer) = Pin::new(ticket).poll(cx) {
            doing.ticket = None;
            let read = (doing.place, doing.group, doing.reads);
            let answered = answer.is_ok();
            doing.answer = Some(answer);
            let attempt = client.attempt;
            let place = doing.place;
            let overtakes = |other: &Client| {
                let Some(doing) = other.doing.as_ref().filter(|d| d.ticket.is_some()) else {
                    return false;
                };
                (doing.place, doing.group) == (read.0, read.1)
                    && doing.reads.is_some_and(|asked| Some(asked) < read.2)
            };
            let overtook = answered && read.2.is_some() && self.clients.iter().any(overtakes);
            self.sightings.hit_if(overtook, Mark::ReadOvertookRead);
            // A process that stood still in the turn that gave it has not sent it yet.
            let left = self.nodes[place].paused_until.unwrap_or(self.now).max(self.now);
            let at = left + 50 + self.delays.skewed(2_000);
            self.plan(at, Event::Answer { client: number, attempt });
        }
    }

    /// The answer reaches the client.
    pub(super) fn hear(&mut self, number: usize, attempt: u64) {
        let client = &mut self.clients[number];
        if client.attempt != attempt {
            return;
        }
        let Some(doing) = &mut client.doing else { return };
        let Some(answer) = doing.answer.take() else { return };
        let (group, task, began) = (doing.group, doing.task, doing.began);
        if let Err(error) = &answer {
            let (place, error) = (doing.place, error.clone());
            self.note(None, || format!("client {number}, group {group} at {place}: {error}"));
        }
        self.note_answer(number, &answer);
        let client = &mut self.clients[number];
        let Some(doing) = &mut client.doing else { return };
        match answer {
            Ok(proposed) => {
                client.hints.insert(group, doing.place);
                self.absorb(proposed.index.get());
                let Proposed { index, output, .. } = proposed;
                self.end(number, Outcome::Done { index, output });
            }
            Err(error) if error.may_have_been_applied() => self.end(number, Outcome::Unknown),
            Err(error) => {
                let known = match error {
                    RequestError::NotLeader { leader } => leader,
                    _ => None,
                };
                let known = known.and_then(|node| self.swarm.nodes.iter().position(|n| *n == node));
                match known {
                    Some(place) => client.hints.insert(group, place),
                    None => client.hints.remove(&group),
                };
                let insist = match client.kind {
                    Kind::Worker => INSIST_US,
                    Kind::Probe(_) => PROBE_INSIST_US,
                };
                let is_over = match task {
                    Errand::Operation(index) => {
                        self.history.operations[index].life != self.operator.life_of(group)
                    }
                    Errand::Transfer(_) => true,
                };
                if is_over || self.now - began > insist {
                    self.end(number, Outcome::Nothing);
                } else {
                    let pause = self.delays.range(5_000..=150_000);
                    self.attempt(number, pause);
                }
            }
        }
    }

    /// What is rare about an answer.
    fn note_answer(&self, number: usize, answer: &Answer) {
        let Some(doing) = &self.clients[number].doing else { return };
        let read = match doing.task {
            Errand::Operation(index) if self.history.operations[index].is_read() => {
                Some(doing.path)
            }
            Errand::Operation(_) | Errand::Transfer(_) => None,
        };
        let transfers = matches!(doing.task, Errand::Transfer(_));
        let mark = match (answer, read) {
            (Ok(_), Some(ReadPath::Quorum)) => Mark::ReadConfirmed,
            (Ok(_), Some(ReadPath::Lease)) if doing.asked == Rank::Leaseholder => Mark::LeaseRead,
            (Ok(_), Some(ReadPath::Follower)) if doing.asked == Rank::Other => Mark::ReadAtFollower,
            (Ok(_), None) if transfers => Mark::TransferDone,
            (Err(RequestError::LeadershipLost), Some(_)) => Mark::ReadFailedOver,
            (Err(RequestError::Transferring), None) if transfers => Mark::TransferTimedOut,
            (Err(RequestError::Transferring), _) => Mark::ProposalDuringTransfer,
            (Err(RequestError::Overloaded { pending_bytes }), None) if *pending_bytes > 0 => {
                Mark::UncommittedLimit
            }
            (Err(RequestError::DiskFull), _) => Mark::DiskFullSeen,
            (Err(RequestError::Superseded), _) => Mark::TailSuperseded,
            (Ok(_) | Err(_), _) => return,
        };
        self.sightings.hit(mark);
    }

    /// The client has waited long enough.
    pub(super) fn give_up(&mut self, number: usize, attempt: u64) {
        let client = &mut self.clients[number];
        if client.attempt != attempt {
            return;
        }
        let Some(doing) = &mut client.doing else { return };
        client.hints.remove(&doing.group);
        let place = doing.place;
        if let Some(ticket) = doing.ticket.take() {
            let life = self.nodes[place].life;
            self.history.orphans.push((place, life, ticket));
        }
        self.mark("client-gave-up");
        self.end(number, Outcome::Unknown);
    }

    fn end(&mut self, number: usize, outcome: Outcome) {
        let now = self.now;
        let client = &mut self.clients[number];
        client.attempt += 1;
        let Some(doing) = client.doing.take() else { return };
        if let Errand::Operation(index) = doing.task {
            let operation = &mut self.history.operations[index];
            let is_read = operation.is_read();
            let (at, op) = (Micros::new(now), OpId(index as u64));
            match (&outcome, operation.action) {
                (Outcome::Done { index, output }, Action::Read | Action::ReadList) => {
                    let value = value_of(operation.action, output);
                    self.history.seen.read(at, op, value, *index);
                }
                (Outcome::Done { output, .. }, action) => {
                    self.history.seen.returned(at, op, reply_of(action, output));
                }
                (Outcome::Nothing, _) => self.history.seen.failed(at, op),
                (Outcome::Unknown | Outcome::Open, _) => {}
            }
            operation.ended = Some(now);
            operation.outcome = outcome.clone();
            match outcome {
                Outcome::Done { .. } => {
                    self.stats.operations += 1;
                    self.stats.reads += u64::from(is_read);
                }
                Outcome::Unknown => self.stats.unknown += 1,
                Outcome::Open | Outcome::Nothing => {}
            }
            // A probe that got no answer asks again: there is time.
            if !matches!(outcome, Outcome::Done { .. })
                && let Kind::Probe(left) = &mut client.kind
            {
                let operation = &self.history.operations[index];
                left.push_front((group_of(operation.life), operation.action));
            }
        }
        let client = &mut self.clients[number];
        let pause = match client.kind {
            // All that ask in a burst come to the same moment.
            Kind::Worker if self.swarm.bursts && client.rng.chance(3, 4) => {
                let pause = self.swarm.pause_us;
                pause - now % pause + client.rng.below(300)
            }
            Kind::Worker => client.rng.below(self.swarm.pause_us * 2),
            Kind::Probe(_) => 10_000,
        };
        self.plan_in(pause, Event::Ask { client: number });
    }
}
