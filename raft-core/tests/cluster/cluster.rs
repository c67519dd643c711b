//! A cluster of one group: replicas, disks, network, clocks, clients and what goes wrong.
//!
//! Everything happens in one queue ordered by virtual time, in microseconds; chance comes from
//! one generator. So a seed is a history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    AppendResult, Base, Durable, Effects, EntryKind, Gated, Group, GroupId, Incarnation, Input,
    LogChange, LogIndex, LogTime, Membership, Message, Micros, Outcome, Outgoing, PersistSeq,
    PromiseRecord, ReadPath, ReplicaId, RoleKind, Settings, Start, Term, Token, Verdict,
};

use crate::checker::Checker;
use crate::disk::{Disk, Operation, Record};
use crate::rng::Rng;

/// No-ops get identities beyond all tokens.
const NOOP: u64 = 1 << 63;
const MS: u64 = 1_000;

#[derive(Clone, Debug)]
struct Packet {
    from: usize,
    from_incarnation: Incarnation,
    to: usize,
    to_incarnation: Incarnation,
    message: Message,
    /// The entries of an append.
    records: Vec<Record>,
}

#[derive(Debug)]
enum Event {
    Deliver(Packet),
    /// The page cache has it.
    Written(usize, Incarnation, PersistSeq),
    /// The device has it.
    Synced(usize, Incarnation, PersistSeq),
    /// The replica hears of it.
    Acknowledged(usize, Incarnation, Input),
    /// The driver takes a persist operation it had left to grow.
    Flush(usize, Incarnation),
    /// A lane has room again.
    Pump(usize, Incarnation),
    Restart(usize),
    Client,
    Trouble,
}

struct Live {
    group: Group,
    effects: Effects,
    log: Vec<Record>,
    gated: Vec<Gated>,
    applied: LogIndex,
    commit: LogIndex,
    term: Term,
    open: BTreeSet<Token>,
}

struct Node {
    id: ReplicaId,
    incarnation: Incarnation,
    live: Option<Live>,
    disk: Disk,
    /// Up to where the state machine survives a crash.
    applied_durably: LogIndex,
    clock_offset: u64,
    /// Microseconds on this clock per second of true time.
    clock_rate: u64,
    paused_until: u64,
    slow_disk_until: u64,
}

/// What one run saw, so that a set of runs can prove it was worth running.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) elections: u64,
    pub(crate) commits: u64,
    pub(crate) crashes: u64,
    pub(crate) truncations: u64,
    pub(crate) reads: u64,
    pub(crate) superseded: u64,
    pub(crate) transfers: u64,
    pub(crate) steps: u64,
}

pub(crate) struct Cluster {
    rng: Rng,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    /// Links that are cut, by direction.
    cut: BTreeSet<(usize, usize)>,
    drop_per_mille: u64,
    duplicate_per_mille: u64,
    late_per_mille: u64,
    /// Packets for an earlier life are given a new envelope: the core must survive a driver that
    /// is careless about lives.
    careless: bool,
    calm: bool,
    checker: Checker,
    settings: Arc<Settings>,
    next_token: u64,
    seen: Seen,
    trace: bool,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.pick(5);
        let size = if size == 1 || size == 2 && rng.per_mille(500) { 3 } else { size };
        let size = if seed % 16 == 7 { 1 } else { size };
        let settings = Settings {
            heartbeat_interval: Duration::from_millis(40),
            election_timeout_min: Duration::from_millis(160),
            election_timeout_max: Duration::from_millis(320),
            append_bytes_max: rng.range(1, 400),
            inflight_appends_max: 1 + rng.pick(4),
            inflight_bytes_max: rng.range(1, 2_000),
            uncommitted_bytes_max: rng.range(100, 4_000),
            reads_pending_max: 1 + rng.pick(20),
            ..Settings::default()
        };
        let nodes = (0..size)
            .map(|at| Node {
                id: ReplicaId::new(at as u64 + 1),
                incarnation: Incarnation::new(0),
                live: None,
                disk: Disk::default(),
                applied_durably: LogIndex::ZERO,
                clock_offset: rng.range(0, 1_000_000),
                clock_rate: rng.range(980_000, 1_020_000),
                paused_until: 0,
                slow_disk_until: 0,
            })
            .collect();
        let mut cluster = Self {
            drop_per_mille: rng.range(0, 80),
            duplicate_per_mille: rng.range(0, 80),
            late_per_mille: rng.range(0, 60),
            careless: rng.per_mille(300),
            rng,
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            nodes,
            cut: BTreeSet::new(),
            calm: false,
            checker: Checker::default(),
            settings: Arc::new(settings),
            next_token: 1,
            seen: Seen::default(),
            trace: std::env::var_os("RAFT_CLUSTER_TRACE").is_some(),
        };
        for at in 0..size {
            cluster.start(at);
        }
        cluster.after(0, Event::Client);
        cluster.after(100 * MS, Event::Trouble);
        cluster
    }

    /// Trouble, then peace; checks that peace heals everything.
    pub(crate) fn run(mut self) -> Seen {
        self.run_until(3_500 * MS);
        if self.nodes.len() > 2 && self.rng.per_mille(300) {
            self.expect_progress_of_a_connected_majority();
        }
        self.make_peace();
        self.run_until(self.now + 2_500 * MS);
        self.expect_agreement("after the trouble, with no new proposal");
        let leader = self.leader().expect("a leader after the trouble");
        let write = self.token();
        self.input(leader, Input::Propose { token: write, bytes: 40, time: LogTime::default() });
        self.run_until(self.now + 500 * MS);
        let read = self.token();
        self.input(leader, Input::Read { token: read, path: ReadPath::Quorum });
        self.run_until(self.now + 500 * MS);
        let outcome = self.checker.outcome(write);
        assert!(
            matches!(outcome, Some(Outcome::Committed { .. })),
            "a write in peace ended as {outcome:?}"
        );
        let outcome = self.checker.outcome(read);
        assert!(
            matches!(outcome, Some(Outcome::ReadReady { .. })),
            "a read in peace ended as {outcome:?}"
        );
        self.expect_agreement("after a write in peace");
        for node in &self.nodes {
            let live = node.live.as_ref().expect("everyone is up in peace");
            assert!(live.open.is_empty(), "{} never ended {:?}", node.id, live.open);
        }
        self.checker.settle();
        self.seen.elections = self.checker.elections() as u64;
        self.seen.commits = self.checker.commits;
        self.seen.reads = self.checker.reads_answered;
        self.seen.superseded = self.checker.superseded;
        self.seen
    }

    /// Links are cut for good, but some majority is whole: a bridge, a chain, a lone leader with
    /// one link left must not keep it from working.
    fn expect_progress_of_a_connected_majority(&mut self) {
        self.make_peace();
        let size = self.nodes.len();
        let mut order: Vec<usize> = (0..size).collect();
        for at in (1..size).rev() {
            order.swap(at, self.rng.pick(at + 1));
        }
        let whole = &order[..size / 2 + 1];
        for a in 0..size {
            for b in 0..a {
                let inside = whole.contains(&a) && whole.contains(&b);
                if !inside && self.rng.per_mille(600) {
                    self.cut.extend([(a, b), (b, a)]);
                }
            }
        }
        self.run_until(self.now + 2_500 * MS);
        let leader = self.leader().expect("a leader of the connected majority");
        let write = self.token();
        self.input(leader, Input::Propose { token: write, bytes: 40, time: LogTime::default() });
        self.run_until(self.now + 300 * MS);
        let outcome = self.checker.outcome(write);
        assert!(
            matches!(outcome, Some(Outcome::Committed { .. })),
            "a connected majority did not commit: {outcome:?}"
        );
    }

    fn run_until(&mut self, end: u64) {
        loop {
            let event_at = self.queue.keys().next().map(|(at, _)| *at);
            let wake = (0..self.nodes.len()).filter_map(|at| Some((self.deadline(at)?, at))).min();
            let wake_at = wake.map(|(at, _)| at);
            let next = [event_at, wake_at].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            match wake {
                Some((due, at)) if event_at.is_none_or(|event| due <= event) => {
                    self.input(at, Input::Deadline);
                }
                _ => {
                    let (_, event) = self.queue.pop_first().expect("an event was found");
                    self.on_event(event);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Deliver(packet) => self.deliver(packet),
            Event::Written(at, life, seq) => {
                if self.lives(at, life) && self.rng.per_mille(700) {
                    let delay = self.rng.range(0, 2 * MS);
                    let input = Input::Written(seq);
                    self.after(delay, Event::Acknowledged(at, life, input));
                }
            }
            Event::Synced(at, life, seq) => self.on_synced(at, life, seq),
            Event::Acknowledged(at, life, input) => {
                if self.lives(at, life) {
                    if self.postponed(at) {
                        let until = self.nodes[at].paused_until;
                        self.at(until, Event::Acknowledged(at, life, input));
                        return;
                    }
                    self.release_gated(at);
                    self.input(at, input);
                }
            }
            Event::Flush(at, life) => {
                if self.lives(at, life) {
                    self.flush(at);
                }
            }
            Event::Pump(at, life) => {
                if self.lives(at, life) && !self.postponed(at) {
                    self.pump(at);
                }
            }
            Event::Restart(at) => {
                if self.nodes[at].live.is_none() {
                    self.start(at);
                }
            }
            Event::Client => self.client(),
            Event::Trouble => self.trouble(),
        }
    }

    // Clients.

    fn client(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.rng.range(MS, 40 * MS);
        self.after(delay, Event::Client);
        // Clients follow whoever says it leads, and may miss that another leads by now.
        let leading: Vec<usize> = (0..self.nodes.len()).filter(|at| self.leads(*at)).collect();
        let at = if leading.is_empty() || self.rng.per_mille(100) {
            self.rng.pick(self.nodes.len())
        } else {
            leading[self.rng.pick(leading.len())]
        };
        if self.nodes[at].live.is_none() || self.postponed(at) {
            return;
        }
        for _ in 0..self.rng.range(1, 4) {
            let token = self.token();
            let input = match self.rng.range(0, 20) {
                0..12 => Input::Propose {
                    token,
                    bytes: self.rng.range(32, 300),
                    time: LogTime::default(),
                },
                12..19 => Input::Read { token, path: ReadPath::Quorum },
                _ => Input::Transfer {
                    token,
                    to: self.rng.per_mille(500).then(|| ReplicaId::new(1 + self.rng.range(0, 5))),
                },
            };
            self.input(at, input);
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token::new(self.next_token)
    }

    // What goes wrong.

    fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.rng.range(20 * MS, 400 * MS);
        self.after(delay, Event::Trouble);
        let size = self.nodes.len();
        let at = self.rng.pick(size);
        match self.rng.range(0, 12) {
            0..3 => self.crash(at),
            3 => {
                // The leader, of all.
                if let Some(leader) = self.leader() {
                    self.crash(leader);
                }
            }
            4 => {
                // Two camps.
                self.cut.clear();
                let camps: Vec<bool> = (0..size).map(|_| self.rng.per_mille(500)).collect();
                for a in 0..size {
                    for b in 0..size {
                        if camps[a] != camps[b] {
                            self.cut.insert((a, b));
                        }
                    }
                }
            }
            5 => {
                // One direction of one link.
                let other = self.rng.pick(size);
                self.cut.insert((at, other));
            }
            6 => {
                // One link: the others are a bridge.
                let other = self.rng.pick(size);
                self.cut.extend([(at, other), (other, at)]);
            }
            7..9 => self.cut.clear(),
            9 => {
                let until = self.now + self.rng.range(10 * MS, 500 * MS);
                self.nodes[at].paused_until = until;
            }
            10 => {
                let until = self.now + self.rng.range(100 * MS, 1_000 * MS);
                self.nodes[at].slow_disk_until = until;
            }
            _ => {
                let peer = ReplicaId::new(1 + self.rng.range(0, 5));
                let input = if self.rng.per_mille(500) {
                    Input::PeerUnreachable(peer)
                } else {
                    Input::Campaign
                };
                if !self.postponed(at) {
                    self.input(at, input);
                }
            }
        }
    }

    fn make_peace(&mut self) {
        self.calm = true;
        self.cut.clear();
        self.drop_per_mille = 0;
        self.duplicate_per_mille = 0;
        self.late_per_mille = 0;
        for node in &mut self.nodes {
            node.paused_until = 0;
            node.slow_disk_until = 0;
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].live.is_none() {
                self.start(at);
            }
        }
    }

    fn crash(&mut self, at: usize) {
        let Some(live) = self.nodes[at].live.take() else {
            return;
        };
        self.seen.crashes += 1;
        let node = &mut self.nodes[at];
        // The state machine's own state may be anywhere between its last two checkpoints.
        let low = node.applied_durably.get();
        let high = live.applied.get();
        node.applied_durably = LogIndex::new(self.rng.range(low, high + 1));
        node.disk.crash(&mut self.rng);
        if self.trace {
            println!("{:>9} {} crashes", self.now, node.id);
        }
        let delay = self.rng.range(MS, 600 * MS);
        self.after(delay, Event::Restart(at));
    }

    fn start(&mut self, at: usize) {
        let voters: Vec<ReplicaId> = self.nodes.iter().map(|node| node.id).collect();
        let node = &mut self.nodes[at];
        node.incarnation = Incarnation::new(node.incarnation.get() + 1);
        let image = node.disk.durable.clone();
        let start = Start {
            group: GroupId::new(7),
            replica: node.id,
            incarnation: node.incarnation,
            base: Base::first(Membership::of_voters(voters).expect("distinct voters")),
            configs: Vec::new(),
            log_time: LogTime::default(),
            promise: PromiseRecord::default(),
            seed: self.rng.next(),
            hard_state: image.hard_state,
            term_runs: image.term_runs(),
            last_index: LogIndex::new(image.log.len() as u64),
            applied: node.applied_durably,
            settings: Arc::clone(&self.settings),
        };
        let now = local(node, self.now);
        let group = Group::new(now, start).expect("a recovered log is a sound log");
        node.live = Some(Live {
            group,
            effects: Effects::default(),
            log: image.log,
            gated: Vec::new(),
            applied: node.applied_durably,
            commit: node.applied_durably,
            term: image.hard_state.term,
            open: BTreeSet::new(),
        });
        if self.trace {
            println!("{:>9} {} starts", self.now, node.id);
        }
    }

    // Replicas.

    /// When this replica wants to be woken, in true time.
    fn deadline(&self, at: usize) -> Option<u64> {
        let node = &self.nodes[at];
        let due = node.live.as_ref()?.group.next_deadline()?.get();
        let elapsed = due.saturating_sub(node.clock_offset);
        let truly = (elapsed * 1_000_000).div_ceil(node.clock_rate);
        Some(truly.max(node.paused_until).max(self.now))
    }

    fn input(&mut self, at: usize, input: Input) {
        self.step(at, input, &[]);
    }

    /// One step of a replica, the checks, and what follows from it.
    fn step(&mut self, at: usize, input: Input, records: &[Record]) {
        let Some(mut live) = self.nodes[at].live.take() else {
            return;
        };
        let node_id = self.nodes[at].id;
        let now = local(&self.nodes[at], self.now);
        self.seen.steps += 1;
        let mut command = None;
        match &input {
            Input::Propose { token, .. } => {
                command = Some(*token);
                live.open.insert(*token);
            }
            Input::Read { token, path: ReadPath::Quorum } => {
                self.checker.reads(*token);
                live.open.insert(*token);
            }
            Input::Transfer { token, .. } => {
                live.open.insert(*token);
            }
            Input::Message { .. }
            | Input::Deadline
            | Input::Written(_)
            | Input::Persisted(_)
            | Input::PeerUnreachable(_)
            | Input::Campaign => {}
            other => unreachable!("this test never says {other:?}"),
        }
        let after_prev = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index,
            _ => LogIndex::ZERO,
        };
        if self.trace {
            println!("{:>9} {node_id} {input:?}", self.now);
        }
        live.group.step(now, input, &mut live.effects);
        let fault = live.effects.fault.take();
        assert_eq!(fault, None, "{node_id} met something impossible");
        self.take_log_changes(&mut live, command, after_prev, records);
        self.check(at, &mut live);
        live.effects.role_changed = false;
        self.nodes[at].live = Some(live);
        self.dispatch(at);
    }

    /// The driver's log follows the core's.
    fn take_log_changes(
        &mut self,
        live: &mut Live,
        command: Option<Token>,
        after_prev: LogIndex,
        records: &[Record],
    ) {
        for change in live.effects.log_changes.drain(..) {
            let first = live.log.len() + 1;
            match change {
                LogChange::Truncated { from } => {
                    self.seen.truncations += 1;
                    assert!(from > live.applied, "applied entries are removed");
                    live.log.truncate(from.prev().get() as usize);
                    continue;
                }
                LogChange::Appended { index, term, kind, .. } => {
                    assert_eq!(index.get() as usize, first);
                    let identity = match kind {
                        EntryKind::Command => command.expect("a command is proposed").get(),
                        EntryKind::Noop | EntryKind::Config => {
                            NOOP | term.get() << 32 | index.get()
                        }
                    };
                    live.log.push(Record { term, identity });
                }
                LogChange::Received { first: from, last } => {
                    assert_eq!(from.get() as usize, first);
                    let skip = from.since(after_prev) as usize - 1;
                    let count = last.since(from.prev()) as usize;
                    live.log.extend(&records[skip..skip + count]);
                }
                LogChange::Reset { .. } | LogChange::Compacted { .. } => {
                    unreachable!("this test takes no snapshots")
                }
            }
            for at in first..=live.log.len() {
                let before = at.checked_sub(2).map_or(Term::ZERO, |at| live.log[at].term);
                let record = live.log[at - 1];
                self.checker.holds(LogIndex::new(at as u64), record, before);
            }
        }
    }

    /// Everything that must hold after every step.
    fn check(&mut self, at: usize, live: &mut Live) {
        let id = self.nodes[at].id;
        let status = live.group.status();
        assert_eq!(status.last_index.get() as usize, live.log.len());
        let last_term = live.log.last().map_or(Term::ZERO, |record| record.term);
        assert_eq!(status.last_term, last_term);
        assert!(status.term >= live.term && status.commit_index >= live.commit);
        if let Some(last) = status.durable_index.get().checked_sub(1) {
            let disk = &self.nodes[at].disk.durable;
            let own = live.log.get(last as usize).copied();
            assert_eq!(disk.record(status.durable_index), own, "{id} claims too much");
        }
        live.term = status.term;
        if status.role == RoleKind::Leader && live.effects.role_changed {
            self.checker.leads(id, status.term, &live.log);
        }
        if status.commit_index > live.commit {
            for index in live.commit.get() + 1..=status.commit_index.get() {
                let record = live.log[index as usize - 1];
                self.checker.commits(id, LogIndex::new(index), record);
            }
            live.commit = status.commit_index;
            if status.role == RoleKind::Leader {
                let record = live.log[live.commit.get() as usize - 1];
                assert_eq!(record.term, status.term, "commit by count of an old term");
                let disks = self.nodes.iter().map(|node| &node.disk.durable);
                self.checker.is_on_quorum(live.commit, record, disks);
            }
        }
        for (token, outcome) in live.effects.outcomes.drain(..) {
            assert!(live.open.remove(&token), "{token} is not open at {id}");
            if outcome == Outcome::Transferred {
                self.seen.transfers += 1;
            }
            self.checker.ends(token, outcome);
        }
        if let Some(appliable) = live.effects.appliable.take() {
            for index in live.applied.get() + 1..=appliable.get() {
                let disk = &self.nodes[at].disk.durable;
                self.checker.applies(id, LogIndex::new(index), disk);
            }
            live.applied = appliable;
        }
    }

    fn dispatch(&mut self, at: usize) {
        let Some(mut live) = self.nodes[at].live.take() else {
            return;
        };
        live.effects.messages.hold_gated(&mut live.gated);
        let ready: Vec<Outgoing> = live.effects.messages.drain_ready().collect();
        let waits = live.effects.persist.is_some();
        self.nodes[at].live = Some(live);
        for outgoing in ready {
            self.release(at, outgoing, Vec::new());
        }
        let life = self.nodes[at].incarnation;
        if waits {
            if self.rng.per_mille(800) {
                self.flush(at);
            } else {
                let delay = self.rng.range(0, 3 * MS);
                self.after(delay, Event::Flush(at, life));
            }
        }
        self.pump(at);
    }

    /// Fetches appends while the lane to each peer has room.
    fn pump(&mut self, at: usize) {
        let Some(mut live) = self.nodes[at].live.take() else {
            return;
        };
        let now = local(&self.nodes[at], self.now);
        let mut ready = Vec::new();
        let mut again = false;
        for peer in 1..=self.nodes.len() as u64 {
            let peer = ReplicaId::new(peer);
            while live.group.wants_append(peer) {
                if self.rng.per_mille(150) {
                    again = true;
                    break;
                }
                let budget = self.rng.range(1, 1_000);
                let cold = self.rng.per_mille(30);
                let cost = |index: LogIndex| (!cold).then_some(32 + index.get() * 37 % 200);
                let Some(append) = live.group.make_append(now, peer, budget, cost) else {
                    again = true;
                    break;
                };
                let first = append.prev_index.get() as usize;
                let records = live.log[first..append.last_index().get() as usize].to_vec();
                let message = Message::Append(append);
                ready.push((Outgoing { to: peer, message }, records));
            }
        }
        self.nodes[at].live = Some(live);
        for (outgoing, records) in ready {
            self.release(at, outgoing, records);
        }
        if again {
            let delay = self.rng.range(0, 5 * MS);
            let life = self.nodes[at].incarnation;
            self.after(delay, Event::Pump(at, life));
        }
    }

    // Disks.

    fn flush(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let life = node.incarnation;
        let Some(live) = node.live.as_mut() else {
            return;
        };
        let Some(persist) = live.effects.persist.take() else {
            return;
        };
        let append = persist.append.map(|(first, last)| {
            let records = &live.log[first.prev().get() as usize..last.get() as usize];
            (first, records.to_vec())
        });
        let slow = node.slow_disk_until > self.now;
        let latency = self.rng.range(100, if slow { 400 * MS } else { 4 * MS });
        let operation = Operation {
            seq: persist.seq,
            hard_state: persist.hard_state,
            truncate_from: persist.truncate_from,
            append,
        };
        let synced = node.disk.submit(operation, self.now, latency);
        let written = self.rng.range(self.now, synced + 1);
        self.at(written, Event::Written(at, life, persist.seq));
        self.at(synced, Event::Synced(at, life, persist.seq));
    }

    fn on_synced(&mut self, at: usize, life: Incarnation, seq: PersistSeq) {
        if !self.lives(at, life) {
            return;
        }
        self.nodes[at].disk.sync(seq);
        if let Some(live) = &mut self.nodes[at].live {
            // Open gates early or late: both are allowed once the disk has it.
            if self.rng.per_mille(500) {
                let gated = std::mem::take(&mut live.gated);
                let (open, closed) = open_gates(gated, seq);
                live.gated = closed;
                for outgoing in open {
                    self.release(at, outgoing, Vec::new());
                }
            }
        }
        // One acknowledgement covers all before it, and they may overtake one another.
        if self.nodes[at].disk.is_last(seq) || self.rng.per_mille(700) {
            let delay = self.rng.range(0, 3 * MS);
            let input = Input::Persisted(seq);
            self.after(delay, Event::Acknowledged(at, life, input));
        }
    }

    /// Opens what the disk already covers, whether or not the core has heard.
    fn release_gated(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let upto = node.disk.synced;
        let Some(live) = node.live.as_mut() else {
            return;
        };
        let gated = std::mem::take(&mut live.gated);
        let (open, closed) = open_gates(gated, upto);
        live.gated = closed;
        for outgoing in open {
            self.release(at, outgoing, Vec::new());
        }
    }

    // The network.

    /// A message leaves its replica: what it promises must be on disk by now.
    fn release(&mut self, at: usize, outgoing: Outgoing, records: Vec<Record>) {
        let id = self.nodes[at].id;
        let disk = &self.nodes[at].disk.durable;
        let durable = disk.hard_state;
        let message = &outgoing.message;
        let promises = match message {
            Message::PreVote(_) => false,
            Message::PreVoteReply(reply) => reply.verdict == Verdict::Refused,
            Message::Vote(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::AppendReply(_)
            | Message::Heartbeat(_)
            | Message::HeartbeatReply(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => true,
        };
        if promises {
            assert!(message.term() <= durable.term, "{id} speaks too early: {message:?}");
        }
        let current = message.term() == durable.term;
        match message {
            Message::Vote(_) => {
                assert!(!current || durable.vote == Some(id));
                self.checker.votes(id, message.term(), id);
            }
            Message::VoteReply(reply) if reply.verdict == Verdict::Granted => {
                assert!(!current || durable.vote == Some(outgoing.to));
                self.checker.votes(id, message.term(), outgoing.to);
            }
            Message::AppendReply(reply) if current => match reply.result {
                AppendResult::Accepted { durable, .. } => {
                    assert!(disk.log.len() as u64 >= durable.get(), "{id} {message:?}");
                }
                AppendResult::Rejected { .. }
                | AppendResult::StaleTerm
                | AppendResult::Receiving { .. }
                | AppendResult::Declined(_) => {}
            },
            Message::Append(_)
            | Message::Heartbeat(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_) => {
                assert!(self.checker.is_leader_of(id, message.term()), "{id} {message:?}");
            }
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::VoteReply(_)
            | Message::AppendReply(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_)
            | Message::HeartbeatReply(_) => {}
        }
        let to = outgoing.to.get() as usize - 1;
        if self.cut.contains(&(at, to)) || self.rng.per_mille(self.drop_per_mille) {
            return;
        }
        let packet = Packet {
            from: at,
            from_incarnation: self.nodes[at].incarnation,
            to,
            to_incarnation: self.nodes[to].incarnation,
            message: outgoing.message,
            records,
        };
        let copies = 1 + u64::from(self.rng.per_mille(self.duplicate_per_mille));
        for _ in 0..copies {
            let late = self.rng.per_mille(self.late_per_mille);
            let slowest = if late { 700 * MS } else { 6 * MS };
            let delay = self.rng.range(100, slowest);
            self.after(delay, Event::Deliver(packet.clone()));
        }
    }

    fn deliver(&mut self, mut packet: Packet) {
        let to = packet.to;
        if self.nodes[to].live.is_none() || self.postponed(to) {
            // Some messages survive the restart, or the pause, of their receiver.
            if self.rng.per_mille(700) {
                let delay = self.rng.range(MS, 100 * MS);
                self.after(delay, Event::Deliver(packet));
            }
            return;
        }
        if self.careless {
            packet.to_incarnation = self.nodes[to].incarnation;
        }
        let input = Input::Message {
            from: self.nodes[packet.from].id,
            from_incarnation: packet.from_incarnation,
            to_incarnation: packet.to_incarnation,
            message: packet.message,
        };
        self.step(to, input, &packet.records);
    }

    // Views.

    fn lives(&self, at: usize, life: Incarnation) -> bool {
        self.nodes[at].live.is_some() && self.nodes[at].incarnation == life
    }

    fn postponed(&self, at: usize) -> bool {
        self.nodes[at].paused_until > self.now
    }

    fn leads(&self, at: usize) -> bool {
        let live = self.nodes[at].live.as_ref();
        live.is_some_and(|live| live.group.is_leader())
    }

    /// The leader of the newest term.
    fn leader(&self) -> Option<usize> {
        (0..self.nodes.len())
            .filter_map(|at| {
                let group = &self.nodes[at].live.as_ref()?.group;
                group.is_leader().then(|| (group.term(), at))
            })
            .max()
            .map(|(_, at)| at)
    }

    fn expect_agreement(&self, when: &str) {
        let leader = self.leader().expect("a leader in peace");
        let live = |at: usize| self.nodes[at].live.as_ref().expect("all are up in peace");
        let log = &live(leader).log;
        assert_eq!(log[..], *self.checker.committed(), "{when}: all is committed");
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(live(at).log, *log, "{when}: the log of {}", node.id);
            let status = live(at).group.status();
            assert_eq!(status.leader, Some(self.nodes[leader].id), "{when}");
            assert_eq!(status.appliable_index.get() as usize, log.len(), "{when}: {status:?}");
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }
}

/// What a node's clock shows at a moment of true time.
fn local(node: &Node, now: u64) -> Micros {
    Micros::new(node.clock_offset + now * node.clock_rate / 1_000_000)
}

fn open_gates(gated: Vec<Gated>, seq: PersistSeq) -> (Vec<Outgoing>, Vec<Gated>) {
    let proof = Durable::attest(seq);
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for gate in gated {
        match gate.open(proof) {
            Ok(outgoing) => open.push(outgoing),
            Err(gate) => closed.push(gate),
        }
    }
    (open, closed)
}
