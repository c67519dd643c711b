//! Clients: what they ask, what they are told, and what they make of it.
//!
//! A client does one thing at a time, in one group. It goes to the node it believes to lead,
//! follows hints, tries again what was refused, and gives up after a while; then the operation
//! may still take effect, at any time or never. Every write carries a number of its own.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex, Micros, ReadPath, Refusal, ReplicaId, Token};

use super::machine::{Action, Answer, Command, KEYS, Machine, REGISTERS};
use super::network::NodeAt;
use super::setup::Setup;
use crate::sim::history::{ClientId, History, KeyId, Op, OpId, Reply, Value};
use crate::sim::linearizability::AppliedLog;
use crate::sim::rng::{Rng, Streams};
use crate::sim::swarm::Mix;

/// How long a client waits for an answer.
pub(crate) const PATIENCE_US: u64 = 2_500_000;

/// What a client is about to do or waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) op: OpId,
    pub(crate) group: GroupId,
    pub(crate) kind: TaskKind,
    /// The attempt under way, if one is.
    pub(crate) token: Option<Token>,
}

/// What is asked of a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TaskKind {
    Write(Command),
    Read { key: u8, path: ReadPath },
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    rng: Rng,
    group: GroupId,
    pub(crate) task: Option<Task>,
    /// Where it goes next.
    pub(crate) node: NodeAt,
    /// What it believes the registers to hold, for compare-and-set.
    believes: BTreeMap<u8, Option<u64>>,
}

impl Client {
    pub(crate) const fn group(&self) -> GroupId {
        self.group
    }
}

/// All of them, and the record of everything they did.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) clients: Vec<Client>,
    pub(crate) history: History,
    pub(crate) applied: AppliedLog,
    /// Who waits for which attempt.
    waiting: BTreeMap<Token, usize>,
    /// The clients whose attempt ended without an answer, to be woken.
    pub(crate) woken: Vec<usize>,
    serials: u64,
    nodes: usize,
    think_us: u64,
    lease_reads: bool,
    mix: Mix,
    /// Reads of those who came by, with their keys.
    asides: BTreeMap<Token, (OpId, u8)>,
    /// Between the phases clients rest.
    pub(crate) active: bool,
}

impl Clients {
    pub(crate) fn new(seeds: Streams, setup: &Setup, groups: &[GroupId]) -> Self {
        let clients = (0..setup.clients)
            .map(|at| Client {
                rng: seeds.stream("client", &[at as u64]),
                group: groups[at % groups.len()],
                task: None,
                node: at % setup.nodes,
                believes: BTreeMap::new(),
            })
            .collect();
        Self {
            clients,
            history: History::new(),
            applied: AppliedLog::new(),
            waiting: BTreeMap::new(),
            woken: Vec::new(),
            serials: 0,
            nodes: setup.nodes,
            think_us: setup.think_us,
            lease_reads: setup.settings.lease != raft_core::Lease::Never,
            mix: setup.mix,
            asides: BTreeMap::new(),
            active: true,
        }
    }

    /// How long a client thinks before its next operation.
    pub(crate) fn thinks(&mut self, client: usize) -> u64 {
        let think = self.think_us;
        self.clients[client].rng.below(2 * think + 1)
    }

    /// A client that is free begins something new.
    pub(crate) fn begin(&mut self, at: usize, now: u64) -> Task {
        let id = ClientId(at as u32);
        let lease_reads = self.lease_reads;
        let client = &mut self.clients[at];
        let rng = &mut client.rng;
        let group = client.group;
        let mix = self.mix;
        let shares = [
            mix.read,
            if lease_reads { mix.lease_read } else { 0 },
            mix.follower_read,
            mix.set,
            mix.append,
            mix.compare_and_set,
        ];
        let choice = rng.weighted(&shares).unwrap_or(0);
        let key = match choice {
            0..=2 => rng.below(u64::from(KEYS)) as u8,
            4 => rng.range(u64::from(REGISTERS)..=u64::from(KEYS) - 1) as u8,
            _ => rng.below(u64::from(REGISTERS)) as u8,
        };
        let key_id = KeyId(u64::from(key));
        let read = |path| (Op::Read, TaskKind::Read { key, path });
        self.serials += 1;
        let serial = self.serials;
        let bytes = if rng.chance(1, 20) { 3000 } else { rng.below(200) as u32 };
        let write =
            |op, action| (op, TaskKind::Write(Command { serial, key, action, bytes, op: None }));
        let (op, kind) = match choice {
            0 => read(ReadPath::Quorum),
            1 => read(ReadPath::Lease),
            2 => read(ReadPath::Follower),
            3 => write(Op::Set(serial), Action::Write),
            4 => write(Op::Append(serial), Action::Append),
            _ => {
                let expected = client.believes.get(&key).copied().flatten();
                let op = Op::CompareAndSet { expected, new: serial };
                write(op, Action::CompareAndSet { expected })
            }
        };
        let op = self.history.invoke(Micros::new(now), id, group, key_id, op);
        let kind = match kind {
            TaskKind::Write(command) => TaskKind::Write(Command { op: Some(op), ..command }),
            read @ TaskKind::Read { .. } => read,
        };
        let task = Task { op, group, kind, token: None };
        self.clients[at].task = Some(task);
        task
    }

    /// An attempt leaves.
    pub(crate) fn tries(&mut self, at: usize, token: Token) {
        if let Some(task) = &mut self.clients[at].task {
            task.token = Some(token);
            self.waiting.insert(token, at);
        }
    }

    /// The client no longer waits; `None` if it had stopped waiting before.
    fn ended(&mut self, token: Token) -> Option<(usize, Task)> {
        let at = self.waiting.remove(&token)?;
        let task = self.clients[at].task.as_mut().filter(|task| task.token == Some(token))?;
        task.token = None;
        Some((at, *task))
    }

    fn done(&mut self, at: usize) {
        self.clients[at].task = None;
        self.woken.push(at);
    }

    /// A write was applied, here and now, and this is its answer.
    pub(crate) fn answered(&mut self, token: Token, answer: Answer, now: u64) {
        let Some((at, task)) = self.ended(token) else { return };
        let TaskKind::Write(command) = task.kind else { return };
        let reply = match answer {
            Answer::Done => Reply::Done,
            Answer::Swapped(true) => Reply::Swapped,
            Answer::Swapped(false) => Reply::NotSwapped,
        };
        let believed = match answer {
            Answer::Swapped(false) => None,
            Answer::Done | Answer::Swapped(true) => Some(command.serial),
        };
        if command.key < REGISTERS {
            self.clients[at].believes.insert(command.key, believed);
        }
        self.history.returned(Micros::new(now), task.op, reply);
        self.done(at);
    }

    /// A write is committed, but nobody here can say with which result any more.
    pub(crate) fn committed(&mut self, token: Token, now: u64) {
        self.lost(token, now);
    }

    /// A read is answered from a machine.
    pub(crate) fn read(&mut self, token: Token, point: LogIndex, machine: &Machine, now: u64) {
        if let Some((op, key)) = self.asides.remove(&token) {
            self.history.read(Micros::new(now), op, machine.read(key), point);
            return;
        }
        let Some((at, task)) = self.ended(token) else { return };
        let TaskKind::Read { key, .. } = task.kind else { return };
        let value = machine.read(key);
        if let Value::Register(serial) = value {
            self.clients[at].believes.insert(key, Some(serial));
        }
        self.history.read(Micros::new(now), task.op, value, point);
        self.done(at);
    }

    /// Nothing happened: the client tries elsewhere, with the same operation.
    pub(crate) fn refused(&mut self, token: Token, leads: Option<NodeAt>, refusal: Refusal) {
        self.asides.remove(&token);
        let Some((at, _)) = self.ended(token) else { return };
        let nodes = self.nodes as u64;
        let client = &mut self.clients[at];
        client.node = match refusal {
            Refusal::NotLeader { .. } => leads.unwrap_or_else(|| client.rng.below(nodes) as usize),
            Refusal::Overloaded { .. } | Refusal::TooManyReads | Refusal::Transferring => {
                client.node
            }
            Refusal::LeadershipLost
            | Refusal::TransferFailed
            | Refusal::NoHeir
            | Refusal::Faulted
            | Refusal::DiskFull
            | Refusal::ChangePending
            | Refusal::TermTooYoung
            | Refusal::NotCaughtUp { .. }
            | Refusal::QuorumAtRisk
            | Refusal::InvalidChange(_) => client.rng.below(nodes) as usize,
        };
        self.woken.push(at);
    }

    /// The node a client goes to is not there, or knows nothing of its group.
    pub(crate) fn looks_elsewhere(&mut self, at: usize) {
        let nodes = self.nodes as u64;
        let client = &mut self.clients[at];
        client.node = client.rng.below(nodes) as usize;
    }

    /// It never happened and never will: the same operation may be asked again.
    pub(crate) fn superseded(&mut self, token: Token) {
        if let Some((at, _)) = self.ended(token) {
            self.woken.push(at);
        }
    }

    /// What became of the attempt is not known, or its node is gone.
    pub(crate) fn lost(&mut self, token: Token, now: u64) {
        // Who came by has gone.
        self.asides.remove(&token);
        if let Some((at, task)) = self.ended(token) {
            self.ends_unknown(at, task, now);
        }
    }

    /// The client gives up waiting. A read has no effect; a write stays in doubt for ever.
    pub(crate) fn gives_up(&mut self, at: usize, op: OpId, now: u64) {
        let Some(task) = self.clients[at].task.filter(|task| task.op == op) else { return };
        let nodes = self.nodes as u64;
        let client = &mut self.clients[at];
        client.node = client.rng.below(nodes) as usize;
        self.ends_unknown(at, task, now);
    }

    fn ends_unknown(&mut self, at: usize, task: Task, now: u64) {
        match task.kind {
            // Nobody saw it.
            TaskKind::Read { .. } => self.history.failed(Micros::new(now), task.op),
            // A write stays in doubt for ever.
            TaskKind::Write(_) => {}
        }
        self.done(at);
    }

    /// A command took effect at an index.
    pub(crate) fn applied(&mut self, group: GroupId, index: LogIndex, command: &Command) {
        if let Some(op) = command.op {
            self.applied.applied(group, index, op);
        }
    }

    /// A number that no other write has.
    pub(crate) fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Somebody comes by, reads once, and does not try again.
    pub(crate) fn reads_aside(&mut self, token: Token, group: GroupId, key: u8, now: u64) {
        // Each is a client of its own, after those who stay.
        let client = ClientId((self.clients.len() + self.history.len()) as u32);
        let key_id = KeyId(u64::from(key));
        let op = self.history.invoke(Micros::new(now), client, group, key_id, Op::Read);
        self.asides.insert(token, (op, key));
    }
}

/// The replica a hint names, as its group's membership has it.
pub(crate) fn hinted(refusal: Refusal) -> Option<ReplicaId> {
    match refusal {
        Refusal::NotLeader { leader } => leader,
        Refusal::Transferring
        | Refusal::Overloaded { .. }
        | Refusal::TooManyReads
        | Refusal::LeadershipLost
        | Refusal::TransferFailed
        | Refusal::NoHeir
        | Refusal::Faulted
        | Refusal::DiskFull
        | Refusal::ChangePending
        | Refusal::TermTooYoung
        | Refusal::NotCaughtUp { .. }
        | Refusal::QuorumAtRisk
        | Refusal::InvalidChange(_) => None,
    }
}
