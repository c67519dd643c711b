//! A fleet: several replicas with their disks, clocks and links, each in the hands of the test.
//!
//! Left alone, the network is perfect and disks are prompt: [`Fleet::settle`] delivers and syncs
//! until nothing moves. A test cuts links, holds messages and disks back, crashes, wipes and
//! pauses replicas, and lets them go again. After every step of a replica the [`Checker`] looks
//! at it, so a scenario also fails for what it was not written for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Durable, Effects, EntryKind, Gated, Group, GroupId, Incarnation, Input, LogChange, LogIndex,
    LogTime, MemberChange, Membership, Message, Micros, NodeId, Outcome, Outgoing, Persist, ReadPath,
    ReplicaId, Settings, SnapshotEffect, SnapshotMeta, Start, Token,
};

use crate::bench::*;
use checker::Checker;
use disk::{Disk, Log, Operation, Record};

mod checker;
mod disk;

/// More steps than any scenario needs before it comes to rest.
const STEPS_MAX: usize = 50_000;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: ReplicaId,
    pub(crate) from_life: Incarnation,
    pub(crate) to: ReplicaId,
    pub(crate) to_life: Incarnation,
    pub(crate) message: Message,
    /// The entries of an append.
    records: Vec<Record>,
}

pub(crate) struct Node {
    id: ReplicaId,
    life: Incarnation,
    settings: Arc<Settings>,
    /// What it starts from when it has nothing on disk.
    first: raft_core::Base,
    up: Option<Up>,
    disk: Disk,
    /// Its clock: so far ahead, and so many microseconds in a million.
    offset: u64,
    rate: u64,
    /// While it is paused, what arrives waits here.
    paused: Option<Vec<Packet>>,
}

impl Node {
    fn clock(&self, true_now: u64) -> Micros {
        Micros::new(self.offset + true_now * self.rate / 1_000_000)
    }
}

/// A replica that runs.
struct Up {
    group: Group,
    effects: Effects,
    log: Log,
    gated: Vec<Gated>,
    /// What the checker saw last.
    commit_seen: LogIndex,
    applied_seen: LogIndex,
    led: bool,
    in_force: Option<Arc<Membership>>,
    fetch: Option<(ReplicaId, SnapshotMeta)>,
}

type Hold = Box<dyn Fn(&Packet) -> bool>;

pub(crate) struct Fleet {
    nodes: Vec<Node>,
    now: u64,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    hold: Option<Hold>,
    pub(crate) held: Vec<Packet>,
    wire: VecDeque<Packet>,
    /// Snapshots stay under way.
    pub(crate) hold_snapshots: bool,
    /// Packets for a former life are given to the present one.
    pub(crate) careless: bool,
    /// Replicas that may meet the impossible.
    may_fault: BTreeSet<ReplicaId>,
    checker: Checker,
    created: u64,
    tokens: u64,
}

impl Fleet {
    /// Replicas 1 to `size`, all voters, with empty logs.
    pub(crate) fn of(size: u64) -> Self {
        Self::with(size, Settings::default())
    }

    pub(crate) fn with(size: u64, settings: Settings) -> Self {
        Self::with_logs(&vec![&[][..]; size as usize], settings)
    }

    /// Replicas whose logs have entries of these terms already; equal prefixes are equal entries.
    pub(crate) fn with_logs(logs: &[&[u64]], settings: Settings) -> Self {
        crate::planted::plant();
        let first = base((1..=logs.len() as u64).map(ReplicaId::new));
        let mut fleet = Self {
            nodes: Vec::new(),
            now: 0,
            cut: BTreeSet::new(),
            hold: None,
            held: Vec::new(),
            wire: VecDeque::new(),
            hold_snapshots: false,
            careless: false,
            may_fault: BTreeSet::new(),
            checker: Checker::default(),
            created: 0,
            tokens: 0,
        };
        let settings = Arc::new(settings);
        for (id, log) in (1..).map(ReplicaId::new).zip(logs) {
            let mut disk = Disk { log: Log::of(first.clone()), ..Disk::default() };
            for (at, of) in (1..).zip(*log) {
                let identity = (at << 32) + (1 << 16) + of;
                let record = Record { term: term(*of), identity, membership: None };
                disk.log.push(index(at), record);
                disk.hard_state.term = term(*of);
            }
            fleet.add(id, first.clone(), Arc::clone(&settings), disk);
        }
        fleet
    }

    /// A learner that starts with nothing, and catches up.
    pub(crate) fn add_learner(&mut self, id: ReplicaId) {
        self.add_joining(id);
        let leader = self.leader().expect("somebody leads");
        let node = NodeId::new(id.get());
        let change = self.change(leader, &[MemberChange::AddLearner { replica: id, node }]);
        self.settle();
        assert!(self.is_committed(change), "{:?}", self.outcome(change));
        assert_eq!(self.last(id), self.last(leader));
    }

    /// The memberships among the committed entries, in order.
    pub(crate) fn memberships(&self) -> Vec<Arc<Membership>> {
        self.checker.committed.iter().filter_map(|record| record.membership.clone()).collect()
    }

    /// A replica that knows nothing of the group yet.
    pub(crate) fn add_joining(&mut self, id: ReplicaId) {
        let settings = Arc::clone(&self.nodes[0].settings);
        self.add(id, raft_core::Base::default(), settings, Disk::default());
    }

    fn add(&mut self, id: ReplicaId, first: raft_core::Base, settings: Arc<Settings>, disk: Disk) {
        // No two clocks show the same.
        let offset = id.get() * 1_234_567;
        self.nodes.push(Node {
            id,
            life: Incarnation::new(0),
            settings,
            first,
            up: None,
            disk,
            offset,
            rate: 1_000_000,
            paused: None,
        });
        self.restart(id);
    }

    fn at(&self, id: ReplicaId) -> usize {
        self.nodes.iter().position(|node| node.id == id).expect("a replica of the fleet")
    }

    fn node(&self, id: ReplicaId) -> &Node {
        &self.nodes[self.at(id)]
    }

    fn node_mut(&mut self, id: ReplicaId) -> &mut Node {
        let at = self.at(id);
        &mut self.nodes[at]
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub(crate) fn group(&self, id: ReplicaId) -> &Group {
        &self.node(id).up.as_ref().expect("the replica runs").group
    }

    pub(crate) fn commit(&self, id: ReplicaId) -> u64 {
        self.group(id).commit_index().get()
    }

    pub(crate) fn last(&self, id: ReplicaId) -> u64 {
        self.group(id).last_index().get()
    }

    pub(crate) fn terms(&self, id: ReplicaId) -> Vec<u64> {
        let log = &self.node(id).up.as_ref().expect("the replica runs").log;
        log.iter().map(|(_, record)| record.term.get()).collect()
    }

    /// What is durable of a replica: term, vote, and where its log ends.
    pub(crate) fn on_disk(&self, id: ReplicaId) -> (u64, Option<ReplicaId>, u64) {
        let disk = &self.node(id).disk;
        (disk.hard_state.term.get(), disk.hard_state.vote, disk.log.last().get())
    }

    /// Who leads in the newest term, of those who run.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let groups = self.nodes.iter().filter_map(|node| node.up.as_ref());
        let leading = groups.map(|up| &up.group).filter(|group| group.is_leader());
        leading.max_by_key(|group| group.term()).map(Group::replica)
    }

    pub(crate) fn outcome(&self, token: Token) -> Option<Outcome> {
        self.checker.outcomes.get(&token).copied()
    }

    pub(crate) fn is_committed(&self, token: Token) -> bool {
        matches!(self.outcome(token), Some(Outcome::Committed { .. }))
    }

    pub(crate) fn is_ready(&self, token: Token) -> bool {
        matches!(self.outcome(token), Some(Outcome::ReadReady { .. }))
    }

    // Links.

    /// Nothing passes between these two.
    pub(crate) fn cut(&mut self, a: ReplicaId, b: ReplicaId) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Nothing passes between this replica and any other.
    pub(crate) fn isolate(&mut self, id: ReplicaId) {
        for other in self.ids() {
            self.cut(id, other);
        }
    }

    /// Only these links are whole.
    pub(crate) fn join_only(&mut self, links: &[(ReplicaId, ReplicaId)]) {
        for a in self.ids() {
            for b in self.ids() {
                self.cut(a, b);
            }
        }
        for (a, b) in links {
            self.cut.remove(&(*a, *b));
            self.cut.remove(&(*b, *a));
        }
    }

    /// All links are whole.
    pub(crate) fn join(&mut self) {
        self.cut.clear();
    }

    /// From now on such messages wait in [`held`](Self::held).
    pub(crate) fn hold(&mut self, which: impl Fn(&Packet) -> bool + 'static) {
        self.hold = Some(Box::new(which));
    }

    /// Messages pass again; those held stay held.
    pub(crate) fn let_pass(&mut self) {
        self.hold = None;
    }

    /// Messages pass again, and those held arrive, oldest first.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        for packet in std::mem::take(&mut self.held) {
            self.deliver(packet);
        }
    }

    /// One message arrives, perhaps again.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let (careless, true_now) = (self.careless, self.now);
        let from_life = self.node(packet.from).life;
        let node = self.node_mut(packet.to);
        if let Some(waiting) = &mut node.paused {
            waiting.push(packet);
            return;
        }
        let now = node.clock(true_now);
        let Some(up) = &mut node.up else { return };
        let Packet { from, message, records, .. } = packet;
        let (from_incarnation, to_incarnation) =
            if careless { (from_life, node.life) } else { (packet.from_life, packet.to_life) };
        let input = Input::Message { from, from_incarnation, to_incarnation, message };
        let first = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index.next(),
            _ => LogIndex::ZERO,
        };
        up.group.step(now, input, &mut up.effects);
        let received: BTreeMap<LogIndex, Record> =
            (first.get()..).map(index).zip(records).collect();
        self.absorb(packet.to, &received);
    }

    // Disks, crashes, clocks.

    /// What the replica writes stays under way.
    pub(crate) fn hold_disk(&mut self, id: ReplicaId) {
        self.node_mut(id).disk.held = true;
    }

    /// The oldest operation of a replica becomes durable, and it hears of it.
    pub(crate) fn step_disk(&mut self, id: ReplicaId) -> bool {
        let node = self.node_mut(id);
        let Some(seq) = node.disk.step() else { return false };
        let Some(up) = &mut node.up else { return true };
        let mut free = Vec::new();
        for gate in std::mem::take(&mut up.gated) {
            match gate.open(Durable::attest(seq)) {
                Ok(outgoing) => free.push(outgoing),
                Err(gate) => up.gated.push(gate),
            }
        }
        for outgoing in free {
            self.post(id, outgoing);
        }
        self.input(id, Input::Persisted(seq));
        true
    }

    /// What the replica writes next is not made durable, now or later.
    pub(crate) fn fail_disk(&mut self, id: ReplicaId) {
        let disk = &mut self.node_mut(id).disk;
        disk.held = true;
        let failed = disk.pending.front().map(|operation| operation.persist.seq);
        self.input(id, Input::PersistFailed(failed.expect("something to be written")));
    }

    /// What the replica has written is in its page cache, and it hears of it.
    pub(crate) fn report_written(&mut self, id: ReplicaId) {
        let newest = self.node(id).disk.pending.back().map(|operation| operation.persist.seq);
        self.input(id, Input::Written(newest.expect("something was written")));
    }

    pub(crate) fn release_disk(&mut self, id: ReplicaId) {
        self.node_mut(id).disk.held = false;
    }

    /// The power fails: what is not durable is gone.
    pub(crate) fn crash(&mut self, id: ReplicaId) {
        let node = self.node_mut(id);
        node.up = None;
        node.paused = None;
        node.disk.crash();
    }

    /// The same, but the oldest operations reached the disk unheard.
    pub(crate) fn crash_after(&mut self, id: ReplicaId, operations: usize) {
        for _ in 0..operations {
            self.node_mut(id).disk.step();
        }
        self.crash(id);
    }

    /// It starts again, in its next life, from what its disk has.
    pub(crate) fn restart(&mut self, id: ReplicaId) {
        let start = self.node(id).disk.recover(self.node(id));
        self.start_from(id, start);
    }

    /// It starts again with an empty disk, under its old name.
    pub(crate) fn wipe(&mut self, id: ReplicaId) {
        self.crash(id);
        let first = self.node(id).first.clone();
        self.node_mut(id).disk = Disk { log: Log::of(first), ..Disk::default() };
        self.restart(id);
    }

    /// It starts as told, which may say less than its disk.
    pub(crate) fn start_from(&mut self, id: ReplicaId, mut start: Start) {
        let true_now = self.now;
        let node = self.node_mut(id);
        node.life = Incarnation::new(node.life.get() + 1);
        start.incarnation = node.life;
        node.disk.promise = start.promise;
        let applied_seen = start.applied;
        let now = node.clock(true_now);
        let group = Group::new(now, start).expect("a sound start");
        let commit_seen = group.commit_index();
        let log = node.disk.log.clone();
        node.up = Some(Up {
            group,
            effects: Effects::default(),
            log,
            gated: Vec::new(),
            commit_seen,
            applied_seen,
            led: false,
            in_force: None,
            fetch: None,
        });
    }

    /// What [`restart`](Self::restart) starts from.
    pub(crate) fn recovered(&self, id: ReplicaId) -> Start {
        self.node(id).disk.recover(self.node(id))
    }

    /// The process stands still. Its clock does not.
    pub(crate) fn pause(&mut self, id: ReplicaId) {
        self.node_mut(id).paused = Some(Vec::new());
    }

    /// It goes on; what arrived meanwhile is still to be heard.
    pub(crate) fn resume(&mut self, id: ReplicaId) {
        let waiting = self.node_mut(id).paused.take().unwrap_or_default();
        self.wire.extend(waiting);
    }

    /// Its clock runs so much faster than true time, or slower, in parts per million.
    pub(crate) fn drift(&mut self, id: ReplicaId, ppm: i64) {
        let true_now = self.now;
        let node = self.node_mut(id);
        let shows = node.clock(true_now).get();
        node.rate = 1_000_000u64.saturating_add_signed(ppm);
        node.offset = shows - true_now * node.rate / 1_000_000;
    }

    /// This replica may meet the impossible and go mute.
    pub(crate) fn allow_fault(&mut self, id: ReplicaId) {
        self.may_fault.insert(id);
    }

    // Requests.

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token::new(self.tokens)
    }

    pub(crate) fn propose(&mut self, id: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Propose { token, bytes: 100, time: LogTime::default() });
        token
    }

    pub(crate) fn read(&mut self, id: ReplicaId, path: ReadPath) -> Token {
        let token = self.token();
        self.checker.asks_to_read(token);
        self.input(id, Input::Read { token, path });
        token
    }

    pub(crate) fn transfer(&mut self, id: ReplicaId, to: ReplicaId) -> Token {
        let token = self.token();
        self.input(id, Input::Transfer { token, to: Some(to) });
        token
    }

    pub(crate) fn change(&mut self, id: ReplicaId, changes: &[MemberChange]) -> Token {
        let token = self.token();
        self.input(id, Input::ChangeMembership { token, changes: changes.to_vec() });
        token
    }

    /// It campaigns, and is elected.
    pub(crate) fn elect(&mut self, id: ReplicaId) {
        self.input(id, Input::Campaign);
        self.settle();
        assert!(self.group(id).is_leader(), "{id} is not elected");
    }

    /// Everybody's patience with the last leader ends, and this one stands before anybody else.
    pub(crate) fn stand_first(&mut self, id: ReplicaId) {
        let others: Vec<ReplicaId> = self.ids().into_iter().filter(|other| *other != id).collect();
        for other in &others {
            self.pause(*other);
        }
        self.live(Duration::from_millis(500));
        for other in others {
            self.resume(other);
        }
        self.input(id, Input::Campaign);
        self.settle();
    }

    /// A write goes through whoever leads.
    pub(crate) fn works(&mut self) {
        let leader = self.leader().expect("somebody leads");
        let write = self.propose(leader);
        self.settle();
        assert!(self.is_committed(write), "{:?}", self.outcome(write));
    }

    /// A snapshot of everything applied is durable; `true` if there is any.
    pub(crate) fn take_snapshot(&mut self, id: ReplicaId) -> LogIndex {
        let at = self.group(id).status().appliable_index;
        let meta = self.group(id).snapshot_meta(at).expect("something is applied");
        self.check_snapshot(&meta);
        self.node_mut(id).disk.snapshot = Some(meta);
        self.input(id, Input::SnapshotTaken(at));
        at
    }

    /// Snapshot, and forget the log it covers.
    pub(crate) fn compact(&mut self, id: ReplicaId) {
        let upto = self.take_snapshot(id);
        self.input(id, Input::Compact(upto));
    }

    /// What is on its way to this replica has arrived.
    pub(crate) fn arrive_snapshot(&mut self, id: ReplicaId) -> bool {
        let up = self.node_mut(id).up.as_mut();
        let Some((from, meta)) = up.and_then(|up| up.fetch.take()) else { return false };
        let there = self.node(from).disk.snapshot.as_ref() == Some(&meta);
        if there && !self.cut.contains(&(from, id)) {
            self.check_snapshot(&meta);
            let (index, term) = (meta.index, meta.term);
            self.input(id, Input::SnapshotReceived { index, term });
        } else {
            self.input(id, Input::SnapshotFailed { index: meta.index });
        }
        true
    }

    /// A snapshot stands for a committed prefix, with the last membership in it.
    fn check_snapshot(&self, meta: &SnapshotMeta) {
        let committed = &self.checker.committed[..meta.index.get() as usize];
        assert_eq!(committed.last().map(|record| record.term), Some(meta.term));
        let decided = committed.iter().zip(1..).filter(|(record, _)| record.membership.is_some());
        let (at, membership): (u64, &Arc<Membership>) = match decided.last() {
            Some((record, at)) => (at, record.membership.as_ref().expect("it was filtered")),
            None => (0, self.nodes[0].first.membership.as_ref().expect("the first of all")),
        };
        assert_eq!((meta.config_index, &meta.membership), (index(at), membership));
    }

    // Steps.

    /// A replica takes one input.
    pub(crate) fn input(&mut self, id: ReplicaId, input: Input) {
        let true_now = self.now;
        let node = self.node_mut(id);
        let now = node.clock(true_now);
        let Some(up) = &mut node.up else { return };
        up.group.step(now, input, &mut up.effects);
        self.absorb(id, &BTreeMap::new());
    }

    /// Carries out what followed from a step, but delivers nothing.
    fn absorb(&mut self, id: ReplicaId, received: &BTreeMap<LogIndex, Record>) {
        let at = self.at(id);
        let node = &mut self.nodes[at];
        let Some(up) = &mut node.up else { return };
        for change in std::mem::take(&mut up.effects.log_changes) {
            match change {
                LogChange::Truncated { from } => up.log.truncate(from),
                LogChange::Appended { index, term, kind, .. } => {
                    self.created += 1;
                    let membership = (kind == EntryKind::Config)
                        .then(|| Arc::clone(up.group.membership_at(index)));
                    up.log.push(index, Record { term, identity: self.created, membership });
                }
                LogChange::Received { first, last } => {
                    for at in (first.get()..=last.get()).map(index) {
                        up.log.push(at, received.get(&at).expect("it came along").clone());
                    }
                }
                LogChange::Reset { meta } => up.log.reset(&meta),
                LogChange::Compacted { upto } => up.log.compact(upto),
            }
        }
        if let Some(persist) = up.effects.persist.take() {
            let range = |(first, last)| up.log.range(first, last);
            let records = persist.append.map(range).unwrap_or_default();
            node.disk.submit(Operation { persist: Persist { ..persist }, records });
        }
        match up.effects.snapshot.take() {
            Some(SnapshotEffect::Fetch { from, meta }) => up.fetch = Some((from, meta)),
            Some(SnapshotEffect::Abort { .. }) => up.fetch = None,
            None => {}
        }
        let fault = up.effects.fault.take();
        up.effects.appliable = None;
        let outgoing: Vec<Outgoing> = up.effects.messages.drain_ready().collect();
        up.gated.extend(up.effects.messages.drain_gated());
        let outcomes = std::mem::take(&mut up.effects.outcomes);
        if let Some(fault) = fault {
            up.gated.clear();
            assert!(self.may_fault.contains(&id), "{id} went mute: {fault}");
        }
        self.checker.look(&self.nodes[at], &self.nodes);
        if let Some(up) = &mut self.nodes[at].up {
            up.commit_seen = up.group.commit_index();
            up.applied_seen = up.group.status().appliable_index;
            up.led = up.group.is_leader();
            up.in_force = Some(Arc::clone(up.group.membership()));
        }
        for outgoing in outgoing {
            self.post(id, outgoing);
        }
        for (token, outcome) in outcomes {
            self.checker.ends(token, outcome);
        }
    }

    fn post(&mut self, from: ReplicaId, outgoing: Outgoing) {
        let Outgoing { to, message } = outgoing;
        let Some(receiver) = self.nodes.iter().find(|node| node.id == to) else { return };
        let to_life = receiver.life;
        let node = self.node(from);
        let records = match (&message, &node.up) {
            (Message::Append(append), Some(up)) => {
                up.log.range(append.prev_index.next(), append.last_index())
            }
            _ => Vec::new(),
        };
        let packet = Packet { from, from_life: node.life, to, to_life, message, records };
        let at = self.at(from);
        self.checker.leaves(&packet, &self.nodes[at].disk);
        if self.cut.contains(&(from, to)) {
            return;
        }
        if self.hold.as_ref().is_some_and(|which| which(&packet)) {
            self.held.push(packet);
        } else {
            self.wire.push_back(packet);
        }
    }

    /// Sends the appends a leader wants to send.
    fn pump(&mut self, id: ReplicaId) -> bool {
        let mut moved = false;
        for to in self.ids() {
            loop {
                let true_now = self.now;
                let node = self.node_mut(id);
                let now = node.clock(true_now);
                let Some(up) = &mut node.up else { return moved };
                let Some(append) = up.group.make_append(now, to, u64::MAX, |_| Some(100)) else {
                    break;
                };
                moved = true;
                self.post(id, Outgoing { to, message: Message::Append(append) });
            }
        }
        moved
    }

    /// Delivers and syncs until nothing moves.
    pub(crate) fn settle(&mut self) {
        assert!(self.settle_for(STEPS_MAX), "it does not come to rest: {:?}", self.wire);
    }

    /// The same, but at most so many messages arrive. `true`: nothing moves any more.
    pub(crate) fn settle_for(&mut self, messages: usize) -> bool {
        for _ in 0..=messages {
            let mut moved = false;
            for id in self.ids() {
                if self.node(id).paused.is_some() || self.node(id).up.is_none() {
                    continue;
                }
                while !self.node(id).disk.held && self.step_disk(id) {
                    moved = true;
                }
                moved |= self.pump(id);
                moved |= !self.hold_snapshots && self.arrive_snapshot(id);
            }
            if let Some(packet) = self.wire.pop_front() {
                self.deliver(packet);
                moved = true;
            }
            if !moved {
                return true;
            }
        }
        false
    }

    /// Lets time pass for all; whoever asked to be woken is.
    pub(crate) fn live(&mut self, duration: Duration) {
        let end = self.now + duration.as_micros() as u64;
        self.settle();
        for _ in 0..STEPS_MAX {
            let due = |node: &Node| {
                let up = node.up.as_ref().filter(|_| node.paused.is_none())?;
                let due = up.group.next_deadline()?.get().saturating_sub(node.offset);
                Some((u128::from(due) * 1_000_000).div_ceil(node.rate.into()) as u64)
            };
            let next = self.nodes.iter().filter_map(|node| Some((due(node)?, node.id))).min();
            match next.filter(|(due, _)| *due <= end) {
                Some((due, id)) => {
                    self.now = self.now.max(due);
                    self.input(id, Input::Deadline);
                    self.settle();
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("somebody is woken for ever");
    }

    /// All who run have one log, and know all of it to be committed.
    pub(crate) fn agree(&self) {
        let leader = self.leader().expect("somebody leads");
        let last = self.last(leader);
        for node in self.nodes.iter().filter(|node| node.up.is_some()) {
            let status = self.group(node.id).status();
            let ends = (status.last_index.get(), status.commit_index.get(), status.leader);
            assert_eq!(ends, (last, last, Some(leader)), "{} of term {}", node.id, status.term);
        }
    }
}

/// The group every scenario is about.
pub(crate) const GROUP: GroupId = GroupId::new(7);
