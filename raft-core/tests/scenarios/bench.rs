//! A replica on the bench: every message, acknowledgement and moment is placed by the test.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Append, AppendReply, AppendResult, Base, Campaign, Durable, Effects, Fault, Gated, Group,
    GroupId, HardState, Heartbeat, HeartbeatReply, Incarnation, Input, LogChange, LogIndex,
    LogTime, Membership, Message, Micros, Outcome, Outgoing, Persist, PersistSeq, Promise,
    PromiseRecord, ReplicaId, Rest, RoleKind, Session, Settings, Sparse, Start, Term, TermRun,
    Token, Verdict, VoteReply, VoteRequest,
};

pub(crate) const ONE: ReplicaId = ReplicaId::new(1);
pub(crate) const TWO: ReplicaId = ReplicaId::new(2);
pub(crate) const THREE: ReplicaId = ReplicaId::new(3);
pub(crate) const FIRST_LIFE: Incarnation = Incarnation::new(1);

pub(crate) fn index(i: u64) -> LogIndex {
    LogIndex::new(i)
}

pub(crate) fn term(t: u64) -> Term {
    Term::new(t)
}

pub(crate) fn token(t: u64) -> Token {
    Token::new(t)
}

/// What a replica of three starts from, with a log of these terms.
pub(crate) fn start(me: ReplicaId, terms: &[u64]) -> Start {
    let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
    for (at, of) in terms.iter().enumerate() {
        if term_runs.last().is_none_or(|(_, last)| *last != term(*of)) {
            term_runs.push((index(at as u64 + 1), term(*of)));
        }
    }
    Start {
        group: GroupId::new(7),
        replica: me,
        incarnation: FIRST_LIFE,
        base: Base::first(Membership::of_voters(vec![ONE, TWO, THREE]).expect("distinct voters")),
        configs: Vec::new(),
        log_time: LogTime::default(),
        promise: PromiseRecord::default(),
        seed: me.get(),
        hard_state: HardState { term: term(terms.last().copied().unwrap_or(0)), vote: None },
        term_runs,
        last_index: index(terms.len() as u64),
        applied: LogIndex::ZERO,
        settings: Arc::new(Settings::default()),
    }
}

/// A group that begins with these voters.
pub(crate) fn base(voters: impl IntoIterator<Item = ReplicaId>) -> Base {
    Base::first(Membership::of_voters(voters).expect("distinct voters"))
}

pub(crate) struct Bench {
    pub(crate) group: Group,
    pub(crate) effects: Effects,
    pub(crate) now: Micros,
    /// Messages that left.
    pub(crate) sent: Vec<Outgoing>,
    /// Messages that wait for the disk.
    pub(crate) gated: Vec<Gated>,
    /// The disk has everything up to here.
    synced: PersistSeq,
}

impl Bench {
    pub(crate) fn new(start: Start) -> Self {
        crate::planted::plant();
        Self {
            group: Group::new(Micros::ZERO, start).expect("a sound start"),
            effects: Effects::default(),
            now: Micros::ZERO,
            sent: Vec::new(),
            gated: Vec::new(),
            synced: PersistSeq::default(),
        }
    }

    /// A follower of three with a log of these terms.
    pub(crate) fn follower(terms: &[u64]) -> Self {
        Self::new(start(ONE, terms))
    }

    /// Replica 1 of three, elected in the next term, its no-op on its own disk and nowhere else,
    /// its first messages gone.
    pub(crate) fn leader(terms: &[u64]) -> Self {
        Self::leader_of(start(ONE, terms))
    }

    pub(crate) fn leader_of(start: Start) -> Self {
        let mut bench = Self::new(start);
        bench.input(Input::Campaign);
        let next = bench.group.term().next();
        bench.hear(TWO, vote_reply(true, next, 1, Verdict::Granted));
        bench.sync();
        bench.hear(TWO, vote_reply(false, next, 2, Verdict::Granted));
        assert!(bench.group.is_leader());
        bench.sync();
        bench.sent.clear();
        bench
    }

    /// Campaigns, and is elected by these voters beside itself. Its no-op is on no disk yet.
    pub(crate) fn stand(&mut self, voters: &[ReplicaId]) {
        self.input(Input::Campaign);
        let attempt = self.attempt();
        let next = self.group.term().next();
        for voter in voters {
            self.hear(*voter, vote_reply(true, next, attempt, Verdict::Granted));
        }
        self.sync();
        let attempt = self.attempt();
        for voter in voters {
            self.hear(*voter, vote_reply(false, next, attempt, Verdict::Granted));
        }
        assert_eq!((self.role(), self.group.term()), (RoleKind::Leader, next));
        self.sent.clear();
    }

    /// The number of the newest attempt anybody was asked about.
    pub(crate) fn attempt(&self) -> u64 {
        let asked = self.sent.iter().rev().find_map(|outgoing| match &outgoing.message {
            Message::PreVote(request) | Message::Vote(request) => Some(request.attempt),
            _ => None,
        });
        asked.expect("a campaign")
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.group.step(self.now, input, &mut self.effects);
        self.sent.extend(self.effects.messages.drain_ready());
        self.effects.messages.hold_gated(&mut self.gated);
    }

    pub(crate) fn hear(&mut self, from: ReplicaId, message: Message) {
        self.hear_from_life(from, FIRST_LIFE, message);
    }

    pub(crate) fn hear_from_life(&mut self, from: ReplicaId, life: Incarnation, message: Message) {
        self.input(Input::Message {
            from,
            from_incarnation: life,
            to_incarnation: FIRST_LIFE,
            message,
        });
    }

    /// Takes what is to be persisted; it is on its way to the disk.
    pub(crate) fn take(&mut self) -> Persist {
        self.effects.persist.take().expect("something to persist")
    }

    /// The disk has an operation, and the replica hears of it.
    pub(crate) fn persisted(&mut self, seq: PersistSeq) {
        self.synced = self.synced.max(seq);
        for gate in std::mem::take(&mut self.gated) {
            match gate.open(Durable::attest(self.synced)) {
                Ok(outgoing) => self.sent.push(outgoing),
                Err(gate) => self.gated.push(gate),
            }
        }
        self.input(Input::Persisted(seq));
    }

    /// Takes, persists and acknowledges until nothing is left.
    pub(crate) fn sync(&mut self) {
        while let Some(persist) = self.effects.persist.take() {
            self.persisted(persist.seq);
        }
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// Lets virtual time pass, waking the replica whenever it asked to be.
    pub(crate) fn live(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while let Some(due) = self.group.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.input(Input::Deadline);
        }
        self.now = end;
    }

    /// The same for a leader whose heartbeats this peer answers.
    pub(crate) fn live_with(&mut self, peer: ReplicaId, duration: Duration) {
        let end = self.now.after(duration);
        while self.now < end {
            self.live(Duration::from_millis(50));
            self.hear(peer, heartbeat_reply(self.group.term().get(), 0));
        }
    }

    /// The next append for a peer; entries cost 100 bytes each.
    pub(crate) fn append_for(&mut self, peer: ReplicaId) -> Option<Append> {
        self.group.make_append(self.now, peer, u64::MAX, |_| Some(100))
    }

    /// A peer acknowledges everything this leader has, over a fresh probe.
    pub(crate) fn catch_up(&mut self, peer: ReplicaId) {
        for _ in 0..1_000 {
            let Some(append) = self.append_for(peer) else { return };
            let reply = accepted(&append, append.last_index().get());
            self.hear(peer, reply);
        }
        panic!("it asks for ever");
    }

    /// The same for a log that is too long to be walked: the peer holds all of it already.
    pub(crate) fn catch_up_from_the_end(&mut self, peer: ReplicaId) {
        let mut append = self.append_for(peer).expect("a probe");
        append.prev_index = self.group.last_index();
        let reply = accepted(&append, append.prev_index.get());
        self.hear(peer, reply);
    }

    pub(crate) fn messages_to(&self, peer: ReplicaId) -> Vec<&Message> {
        let sent = self.sent.iter().filter(|outgoing| outgoing.to == peer);
        sent.map(|outgoing| &outgoing.message).collect()
    }

    pub(crate) fn take_outcomes(&mut self) -> Vec<(Token, Outcome)> {
        std::mem::take(&mut self.effects.outcomes)
    }

    pub(crate) fn take_log_changes(&mut self) -> Vec<LogChange> {
        std::mem::take(&mut self.effects.log_changes)
    }

    pub(crate) fn role(&self) -> RoleKind {
        self.group.status().role
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.group.status().fault
    }

    pub(crate) fn commit(&self) -> u64 {
        self.group.commit_index().get()
    }

    /// The terms of the whole log.
    pub(crate) fn terms(&self) -> Vec<u64> {
        (1..=self.group.last_index().get())
            .map(|i| self.group.entry_term(index(i)).expect("within the log").get())
            .collect()
    }
}

/// Whether the answer is to the pre-vote is the first argument.
pub(crate) fn vote_reply(pre: bool, of: Term, attempt: u64, verdict: Verdict) -> Message {
    let reply = VoteReply { term: of, attempt, verdict };
    if pre { Message::PreVoteReply(reply) } else { Message::VoteReply(reply) }
}

pub(crate) fn vote_request(of: u64, last_index: u64, last_term: u64) -> VoteRequest {
    VoteRequest {
        term: term(of),
        last_index: index(last_index),
        last_term: term(last_term),
        attempt: 1,
        cause: Campaign::Timeout,
        acknowledge: raft_core::Acknowledge::Durable,
    }
}

/// An append of entries with these terms after `prev` = (index, term).
pub(crate) fn append(of: u64, prev: (u64, u64), terms: &[u64], commit: u64) -> Append {
    let mut runs: Vec<TermRun> = Vec::new();
    for entry in terms {
        match runs.last_mut().filter(|run| run.term == term(*entry)) {
            Some(run) => run.count += 1,
            None => runs.push(TermRun { term: term(*entry), count: 1 }),
        }
    }
    Append {
        term: term(of),
        session: Session::new(1),
        prev_index: index(prev.0),
        prev_term: term(prev.1),
        runs: runs.into(),
        configs: Sparse::new(),
        commit: index(commit),
        quorum_durable: index(commit),
        acknowledge: raft_core::Acknowledge::Durable,
        time: LogTime::default(),
    }
}

pub(crate) fn accepted(append: &Append, durable: u64) -> Message {
    Message::AppendReply(AppendReply {
        term: append.term,
        session: append.session,
        result: AppendResult::Accepted {
            durable: index(durable),
            written: index(durable),
            verified: append.last_index(),
            promise: Promise::Kept,
        },
    })
}

pub(crate) fn heartbeat(of: u64, commit: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: term(of),
        commit: index(commit),
        quorum_durable: index(commit),
        read_seq: 0,
        sent: Micros::ZERO,
        rest: Rest::Awake,
    })
}

pub(crate) fn heartbeat_reply(of: u64, read_seq: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply { term: term(of), read_seq, sent: Micros::ZERO })
}
