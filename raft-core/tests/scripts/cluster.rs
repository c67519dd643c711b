//! The replicas of one or two groups, joined by links and moved by virtual time.
//!
//! Invariant: nothing happens but what a command asks for, and everything in a fixed order: so a
//! script has one output.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::{
    GroupId, Incarnation, Input, LogIndex, Message, Micros, Outcome, Outgoing, PersistSeq,
    ReplicaId, Token,
};

use crate::describe;
use crate::disk::{Pace, Record};
use crate::history::History;
use crate::network::{Link, Network, Packet};
use crate::replica::{Proposal, Replica, Told};

/// A cluster that is not still after so many messages never will be.
const MESSAGES_MAX: usize = 20_000;

/// One replica: which group's, on which node.
pub(crate) type Key = (GroupId, ReplicaId);

/// A node's clock: it may run faster or slower than true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// True and shown time at the last change of rate.
    set: (u64, u64),
    percent: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { set: (0, 0), percent: 100 }
    }
}

impl Clock {
    pub(crate) fn at(self, now: u64) -> Micros {
        Micros::new(self.set.1 + (now - self.set.0) * self.percent / 100)
    }

    /// The first true moment at which it shows so much.
    fn reaches(self, shown: Micros) -> u64 {
        self.set.0 + (shown.get().saturating_sub(self.set.1) * 100).div_ceil(self.percent)
    }

    pub(crate) fn run_at(&mut self, now: u64, percent: u64) {
        *self = Self { set: (now, self.at(now).get()), percent };
    }
}

struct Request {
    /// Who was asked.
    key: Key,
    /// What scripts call it.
    name: String,
    /// Up to where anybody had committed when it came.
    floor: LogIndex,
}

#[derive(Default)]
pub(crate) struct Cluster {
    /// True time in microseconds.
    pub(crate) now: u64,
    pub(crate) replicas: BTreeMap<Key, Replica>,
    pub(crate) clocks: BTreeMap<ReplicaId, Clock>,
    pub(crate) network: Network,
    pub(crate) history: History,
    /// Links without room for appends.
    pub(crate) held_lanes: Vec<Link>,
    /// Requests that have not ended, by token.
    requests: BTreeMap<Token, Request>,
    requests_made: u64,
    /// Whether messages are told as they are delivered.
    pub(crate) shows_messages: bool,
    pub(crate) lines: Vec<String>,
}

impl Cluster {
    /// A token for a request that scripts call by this name.
    pub(crate) fn token(&mut self, key: Key, name: String) -> Token {
        self.requests_made += 1;
        let token = Token::new(self.requests_made);
        let floor = self.history.committed_upto(key.0);
        self.requests.insert(token, Request { key, name, floor });
        token
    }

    /// Replicas are called by their node, and by their group if there are several.
    pub(crate) fn name(&self, key: Key) -> String {
        let several = self.replicas.keys().any(|(group, _)| *group != key.0);
        if several { format!("n{} g{}", key.1, key.0) } else { format!("n{}", key.1) }
    }

    pub(crate) fn clock(&self, node: ReplicaId) -> Micros {
        self.clocks.get(&node).copied().unwrap_or_default().at(self.now)
    }

    pub(crate) fn replica(&mut self, key: Key) -> Result<&mut Replica, String> {
        self.replicas.get_mut(&key).ok_or_else(|| format!("there is no node {}", key.1))
    }

    /// Starts a replica from its disk.
    pub(crate) fn boot(&mut self, key: Key) -> Result<(), String> {
        let now = self.clock(key.1);
        let replica = self.replica(key)?;
        replica.boot(now, 42).map_err(|error| format!("it cannot start: {error}"))
    }

    pub(crate) fn input(&mut self, key: Key, input: Input) -> Result<(), String> {
        self.propose(key, input, &Proposal::default())
    }

    pub(crate) fn propose(
        &mut self,
        key: Key,
        input: Input,
        proposal: &Proposal,
    ) -> Result<(), String> {
        if self.replica(key)?.live.is_none() {
            return Err(format!("node {} is down", key.1));
        }
        self.step(key, input, proposal, &[]);
        Ok(())
    }

    fn step(&mut self, key: Key, input: Input, proposal: &Proposal, records: &[Record]) {
        let now = self.clock(key.1);
        let Some(replica) = self.replicas.get_mut(&key) else {
            return;
        };
        let told = replica.step(now, input, proposal, records);
        self.tell(key, told);
        self.settle(key);
    }

    fn tell(&mut self, key: Key, told: Told) {
        let name = self.name(key);
        self.lines.extend(told.lines.into_iter().map(|line| format!("{name} {line}")));
        for (token, outcome) in told.outcomes {
            let request = self.requests.remove(&token).expect("a token has one outcome");
            self.lines.push(format!("{name} {}: {}", request.name, describe::outcome(&outcome)));
            if let Outcome::ReadReady { index } = outcome {
                self.history.reads(index, request.floor);
            }
        }
        let live = self.replicas.get(&key).and_then(|replica| replica.live.as_ref());
        if live.is_some_and(|live| live.group.status().promise.loss_epoch > 0) {
            // A sole voter went on alone, or an operator said so.
            self.history.broken_on_purpose = true;
        }
        for (index, record) in told.committed {
            self.history.commits(key.0, index, &record);
        }
        let Some(live) = self.replicas.get(&key).and_then(|replica| replica.live.as_ref()) else {
            return;
        };
        if live.group.is_leader() {
            self.history.leads(key.0, live.group.term(), key.1);
        }
        let asked = self.requests.values().filter(|request| request.key == key).count();
        assert_eq!(live.group.status().open_requests, asked, "a request ended without an outcome");
    }

    /// What a driver does after a step: messages leave, appends are pulled, the disk works.
    pub(crate) fn settle(&mut self, key: Key) {
        loop {
            let messages = self.replicas.get_mut(&key).map(Replica::take_messages);
            for outgoing in messages.unwrap_or_default() {
                self.send(key, outgoing, Vec::new());
            }
            self.pull_all(key);
            let Some(replica) = self.replicas.get_mut(&key) else {
                return;
            };
            if !replica.submit() {
                return;
            }
            if replica.disk.pace == Pace::AtOnce {
                self.sync_one(key);
            }
        }
    }

    /// Makes a replica's oldest write durable and tells it; false if there is none.
    pub(crate) fn sync_one(&mut self, key: Key) -> bool {
        let Some((seq, open)) = self.replicas.get_mut(&key).and_then(Replica::sync_one) else {
            return false;
        };
        for outgoing in open {
            self.send(key, outgoing, Vec::new());
        }
        self.acknowledge(key, Input::Persisted(seq));
        true
    }

    /// Tells a replica how far its disk is.
    pub(crate) fn acknowledge(&mut self, key: Key, input: Input) {
        self.step(key, input, &Proposal::default(), &[]);
    }

    pub(crate) fn newest_write(&self, key: Key) -> Option<PersistSeq> {
        self.replicas.get(&key)?.disk.newest()
    }

    fn send(&mut self, key: Key, outgoing: Outgoing, records: Vec<Record>) {
        let (group, from) = key;
        let life = |node: ReplicaId| {
            self.replicas.get(&(group, node)).map_or(Incarnation::new(1), |it| it.incarnation)
        };
        let to = outgoing.to;
        let packet = Packet {
            group,
            from,
            from_incarnation: life(from),
            to,
            to_incarnation: life(to),
            message: outgoing.message,
            records,
        };
        self.network.send(packet);
    }

    /// Appends for every peer whose lane has room.
    fn pull_all(&mut self, key: Key) {
        let nodes: Vec<ReplicaId> = self.replicas.keys().map(|(_, node)| *node).collect();
        for to in nodes {
            if !self.held_lanes.contains(&(key.1, to)) {
                while self.pull(key, to, u64::MAX) {}
            }
        }
    }

    /// One append for a peer; false if there is none.
    pub(crate) fn pull(&mut self, key: Key, to: ReplicaId, budget: u64) -> bool {
        let now = self.clock(key.1);
        let live = self.replicas.get_mut(&key).and_then(|replica| replica.live.as_mut());
        let Some(live) = live else {
            return false;
        };
        let log = &live.log;
        let cost = |index| log.get(index).map(|record| record.cost);
        let Some(mut append) = live.group.make_append(now, to, budget, cost) else {
            return false;
        };
        let range = log.range(append.prev_index.next(), append.last_index());
        let records: Vec<Record> = range.map(|(_, record)| record.clone()).collect();
        append.time = records.last().map(|record| record.time).unwrap_or_default();
        self.send(key, Outgoing { to, message: Message::Append(append) }, records);
        true
    }

    pub(crate) fn deliver(&mut self, packet: Packet) {
        if self.shows_messages {
            self.lines.push(describe::packet(&packet));
        }
        let input = Input::Message {
            from: packet.from,
            from_incarnation: packet.from_incarnation,
            to_incarnation: packet.to_incarnation,
            message: packet.message,
        };
        self.step((packet.group, packet.to), input, &Proposal::default(), &packet.records);
    }

    /// Delivers until nothing flows any more, between these nodes or all.
    pub(crate) fn stabilize(&mut self, among: &[ReplicaId]) -> Result<(), String> {
        let mut last = None;
        for _ in 0..MESSAGES_MAX {
            let Some(packet) = self.network.next(last, among) else {
                return Ok(());
            };
            last = Some((packet.from, packet.to));
            self.deliver(packet);
        }
        Err(String::from("messages flow without end"))
    }

    /// Lets time pass. `flows`: messages arrive at once.
    pub(crate) fn pass(&mut self, duration: Duration, flows: bool) -> Result<(), String> {
        let end = self.now + duration.as_micros() as u64;
        for _ in 0..MESSAGES_MAX {
            if flows {
                self.stabilize(&[])?;
            }
            let due = self.replicas.iter().filter_map(|(key, replica)| {
                let due = replica.live.as_ref()?.group.next_deadline()?;
                let clock = self.clocks.get(&key.1).copied().unwrap_or_default();
                Some((clock.reaches(due).max(self.now), *key))
            });
            let Some((due, key)) = due.min().filter(|(due, _)| *due <= end) else {
                self.now = end;
                // A full window may be asked about.
                let keys: Vec<Key> = self.replicas.keys().copied().collect();
                keys.into_iter().for_each(|key| self.settle(key));
                return if flows { self.stabilize(&[]) } else { Ok(()) };
            };
            self.now = due;
            self.step(key, Input::Deadline, &Proposal::default(), &[]);
        }
        Err(String::from("deadlines come without end"))
    }

    pub(crate) fn crash(&mut self, key: Key) -> Result<(), String> {
        self.replica(key)?.crash();
        self.requests.retain(|_, request| request.key != key);
        Ok(())
    }
}
