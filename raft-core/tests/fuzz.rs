//! Arbitrary inputs in arbitrary order: nothing panics, every token ends at most once, and a
//! group that met something impossible is mute for good. Debug builds check the group's own
//! invariants after every step as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::{
    Acknowledge, Append, AppendReply, AppendResult, Base, Campaign, Candidacy, Declined, DiskSpace,
    Effects, Fence, Group, GroupId, HardState, Heartbeat, HeartbeatReply, Incarnation, Input,
    Lease, LogChange, LogIndex, LogTime, MemberChange, Membership, Message, Micros, NodeId,
    PersistSeq, Promise, PromiseRecord, ReadIndex, ReadIndexReply, ReadPath, Recover, ReplicaId,
    Rest, Session, Settings, SnapshotEffect, SnapshotMeta, SnapshotOffer, Sparse, Start, Term,
    TermRun, TimeoutNow, Token, TransferRefused, Unwilling, Verdict, VoteReply, VoteRequest,
};

/// What a driver and the world do to a group.
#[derive(Clone, Debug)]
enum Action {
    Hear(u64, u64, u64, Message),
    Propose(u64),
    Read(ReadPath),
    Transfer(Option<u64>),
    Change(Vec<(u8, u64)>),
    /// What only a driver says: the kind, and a number for those that take one.
    Drive(u8, u64),
    Unreachable(u64),
    Campaign,
    Deadline,
    /// Time passes up to the deadline.
    Wake,
    Wait(u64),
    /// The clock jumps, backwards perhaps.
    Clock(u64),
    TakePersist,
    /// An honest acknowledgement.
    Acknowledge(usize),
    Written(u64),
    Persisted(u64),
    Pull(u64, u64, Option<u64>),
    /// An answer to the last append that fits it.
    Answer(u64, bool),
    /// Grants to whatever is asked.
    Elect,
    /// A leader of this term appends so many entries after the last, or after one before it.
    Lead(u64, u64),
    /// It offers a snapshot that ends so many entries after the last.
    Offer(u64),
}

/// Small numbers meet; large ones overflow.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => 0..8u64,
        1 => any::<u64>(),
        1 => (0..4u64).prop_map(|less| u64::MAX - less),
        1 => (0..4u64).prop_map(|less| u64::MAX / 2 - less),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = (number(), number(), number(), number());
    let runs = vec((number(), number()), 0..4);
    (0..21u8, numbers, runs).prop_map(|(kind, (a, b, c, d), runs)| {
        let request = VoteRequest {
            term: Term::new(a),
            last_index: LogIndex::new(b),
            last_term: Term::new(c),
            attempt: d,
            cause: [Campaign::Timeout, Campaign::Transfer, Campaign::Barred][(d % 3) as usize],
            acknowledge: if c % 5 == 0 { Acknowledge::Written } else { Acknowledge::Durable },
        };
        let vote_reply = VoteReply {
            term: Term::new(a),
            attempt: b,
            verdict: match c % 7 {
                0 | 3 => Verdict::Refused,
                6 => Verdict::Removed,
                _ => Verdict::Granted,
            },
        };
        let heartbeat = Heartbeat {
            term: Term::new(a),
            commit: LogIndex::new(b),
            quorum_durable: LogIndex::new(b),
            read_seq: c,
            sent: Micros::new(d),
            rest: if d % 2 == 0 { Rest::Awake } else { Rest::Quiesce },
        };
        let promise = match d % 8 {
            4 => Promise::Lost,
            6 => Promise::Damaged,
            7 => Promise::Unproven,
            _ => Promise::Kept,
        };
        let membership = Arc::new(membership(b, c));
        let append_reply = |result| {
            Message::AppendReply(AppendReply {
                term: Term::new(a),
                session: Session::new(b),
                result,
            })
        };
        match kind {
            0 => Message::PreVote(request),
            1 => Message::Vote(request),
            2 => Message::PreVoteReply(vote_reply),
            3 => Message::VoteReply(vote_reply),
            4 | 5 => {
                let run = |(term, count)| TermRun { term: Term::new(term), count };
                Message::Append(Append {
                    term: Term::new(a),
                    session: Session::new(d),
                    prev_index: LogIndex::new(b),
                    prev_term: Term::new(c.min(b)),
                    runs: runs.into_iter().map(run).collect(),
                    configs: if c % 3 == 0 {
                        vec![(LogIndex::new(b.saturating_add(1)), membership)].into()
                    } else {
                        Sparse::new()
                    },
                    commit: LogIndex::new(d),
                    quorum_durable: LogIndex::new(d),
                    acknowledge: if kind == 4 {
                        Acknowledge::Durable
                    } else {
                        Acknowledge::Written
                    },
                    time: LogTime::new(c),
                })
            }
            6 => append_reply(AppendResult::Accepted {
                durable: LogIndex::new(c),
                written: LogIndex::new(d),
                verified: LogIndex::new(d),
                promise,
            }),
            7 => append_reply(AppendResult::Rejected {
                prev_index: LogIndex::new(c),
                hint_index: LogIndex::new(d),
                hint_term: Term::new(d),
            }),
            8 => append_reply(AppendResult::StaleTerm),
            9 => Message::Heartbeat(heartbeat),
            20 => Message::ReadConfirm(heartbeat),
            10 => Message::HeartbeatReply(HeartbeatReply {
                term: Term::new(a),
                read_seq: b,
                sent: Micros::new(c),
            }),
            11 => append_reply(AppendResult::Declined(match c % 3 {
                0 => Declined::DiskFull,
                1 => Declined::SnapshotFailed,
                _ => Declined::OtherStrategy,
            })),
            12 => append_reply(AppendResult::Receiving { index: LogIndex::new(c) }),
            13 => Message::TransferRefused(TransferRefused {
                term: Term::new(a),
                transfer: b,
                why: [Unwilling::NotNow, Unwilling::LessEager, Unwilling::Withheld]
                    [(c % 3) as usize],
            }),
            14 => Message::ReadIndex(ReadIndex { term: Term::new(a), id: b }),
            15 => Message::ReadIndexReply(ReadIndexReply {
                term: Term::new(a),
                id: b,
                index: (c % 2 == 0).then(|| LogIndex::new(d)),
            }),
            16 => Message::Snapshot(SnapshotOffer {
                term: Term::new(a),
                session: Session::new(d),
                meta: SnapshotMeta {
                    index: LogIndex::new(b),
                    term: Term::new(c.min(a)),
                    time: LogTime::new(d),
                    config_index: LogIndex::new(d.min(b)),
                    membership,
                },
            }),
            17 => {
                Message::Recover(Recover { term: Term::new(a), incarnation: Incarnation::new(b) })
            }
            18 => Message::Fence(Fence {
                term: Term::new(a),
                incarnation: Incarnation::new(b % 3),
                index: LogIndex::new(c),
            }),
            _ => Message::TimeoutNow(TimeoutNow {
                term: Term::new(a),
                transfer: b,
                last_index: LogIndex::new(c),
                commit: LogIndex::new(d),
                priority: (d % 10) as u8,
            }),
        }
    })
}

/// Voters alone, with a learner, or half way from one set of voters to another.
fn membership(voters: u64, kind: u64) -> Membership {
    let voters = voters % 4 + 1;
    let simple = Membership::of_voters((1..=voters).map(ReplicaId::new)).expect("distinct voters");
    let (replica, node) = (ReplicaId::new(voters + 1), NodeId::new(voters + 1));
    let learner = MemberChange::AddLearner { replica, node };
    let with_learner = simple.change(&[learner]).expect("a new replica");
    match kind % 5 {
        3 => with_learner,
        4 => {
            let swap = [MemberChange::Promote(replica), MemberChange::Demote(ReplicaId::new(1))];
            with_learner.change(&swap).expect("a learner and a voter")
        }
        _ => simple,
    }
}

fn action() -> impl Strategy<Value = Action> {
    let life = || prop_oneof![9 => Just(1u64), 1 => number()];
    prop_oneof![
        8 => (0..5u64, life(), life(), message())
            .prop_map(|(from, theirs, ours, message)| Action::Hear(from, theirs, ours, message)),
        4 => number().prop_map(Action::Propose),
        1 => Just(Action::Read(ReadPath::Quorum)),
        1 => Just(Action::Read(ReadPath::Lease)),
        1 => Just(Action::Read(ReadPath::Follower)),
        2 => vec((0..4u8, 0..6u64), 0..3).prop_map(Action::Change),
        4 => (0..44u8, number()).prop_map(|(kind, number)| Action::Drive(kind, number)),
        1 => proptest::option::of(0..5u64).prop_map(Action::Transfer),
        1 => (0..5u64).prop_map(Action::Unreachable),
        1 => Just(Action::Campaign),
        1 => Just(Action::Deadline),
        3 => Just(Action::Wake),
        2 => (0..2_000_000u64).prop_map(Action::Wait),
        1 => number().prop_map(Action::Clock),
        6 => Just(Action::TakePersist),
        6 => any::<usize>().prop_map(Action::Acknowledge),
        1 => number().prop_map(Action::Written),
        1 => number().prop_map(Action::Persisted),
        3 => (0..5u64, number(), proptest::option::of(0..10_000u64))
            .prop_map(|(peer, budget, cost)| Action::Pull(peer, budget, cost)),
        4 => (0..6u64, any::<bool>()).prop_map(|(short, accept)| Action::Answer(short, accept)),
        3 => Just(Action::Elect),
        4 => (0..3u64, 0..6u64).prop_map(|(short, count)| Action::Lead(short, count)),
        2 => (0..4u64).prop_map(Action::Offer),
    ]
}

struct Driver {
    group: Group,
    effects: Effects,
    now: Micros,
    taken: Vec<PersistSeq>,
    last_append: Option<(ReplicaId, Append)>,
    offered: Option<(LogIndex, Term)>,
    tokens: u64,
    open: BTreeSet<Token>,
    acknowledge: Acknowledge,
    faulted: bool,
}

impl Driver {
    fn new(voters: u64, kind: u8) -> Self {
        let voters = Membership::of_voters((1..=voters).map(ReplicaId::new));
        let first = Base::first(voters.expect("distinct voters"));
        let (old, new) = ((LogIndex::new(1), Term::new(1)), (LogIndex::new(3), Term::new(2)));
        let (base, term_runs) = if kind & 16 == 0 {
            (first, vec![old, new])
        } else {
            let index = LogIndex::new(2);
            (Base { index, term: Term::new(1), snapshot: index, ..first }, vec![new])
        };
        let applied = base.index.max(LogIndex::new(1));
        let acknowledge = if kind & 4 == 0 { Acknowledge::Durable } else { Acknowledge::Written };
        let start = Start {
            group: GroupId::new(1),
            replica: ReplicaId::new(1),
            incarnation: Incarnation::new(1),
            base,
            configs: Vec::new(),
            log_time: LogTime::default(),
            promise: PromiseRecord {
                promise: if kind & 1 == 0 { Promise::Kept } else { Promise::Lost },
                loss_epoch: 0,
            },
            seed: 1,
            hard_state: HardState { term: Term::new(2), vote: None },
            term_runs,
            last_index: LogIndex::new(4),
            applied,
            settings: Arc::new(Settings {
                inflight_appends_max: 2,
                uncommitted_bytes_max: 500,
                reads_pending_max: 3,
                lease: if kind & 2 == 0 {
                    Lease::Never
                } else {
                    Lease::Within { drift_ppm: 10_000 }
                },
                acknowledge,
                quiesce_after: (kind & 8 != 0).then_some(Duration::from_secs(1)),
                ..Settings::default()
            }),
        };
        Self {
            group: Group::new(Micros::ZERO, start).expect("a sound start"),
            effects: Effects::default(),
            now: Micros::ZERO,
            taken: Vec::new(),
            last_append: None,
            offered: None,
            tokens: 0,
            open: BTreeSet::new(),
            acknowledge,
            faulted: false,
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.open.insert(Token::new(self.tokens));
        Token::new(self.tokens)
    }

    fn hear(&mut self, from: u64, message: Message) {
        self.step(Input::Message {
            from: ReplicaId::new(from),
            from_incarnation: Incarnation::new(1),
            to_incarnation: Incarnation::new(1),
            message,
        });
    }

    fn step(&mut self, input: Input) {
        let before = self.group.status();
        let snapshot = match input {
            Input::SnapshotReceived { index, term } => Some((index, term)),
            _ => None,
        };
        let held = snapshot.is_some_and(|(index, term)| self.group.entry_term(index) == Some(term));
        self.group.step(self.now, input, &mut self.effects);
        let replaced =
            self.effects.log_changes.iter().any(|change| matches!(change, LogChange::Reset { .. }));
        assert!(!(held && replaced), "a snapshot of {snapshot:?} replaced a log that goes on");
        let after = self.group.status();
        assert!(after.term >= before.term && after.commit_index >= before.commit_index);
        assert!(after.appliable_index >= before.appliable_index);
        assert!(after.appliable_index <= after.commit_index.min(after.last_index));
        assert!(after.durable_index <= after.last_index);
        if after.term == before.term {
            assert!(before.vote.is_none() || before.vote == after.vote);
        }
        for (token, _) in self.effects.outcomes.drain(..) {
            assert!(self.open.remove(&token), "{token} ended twice, or was never asked");
        }
        if self.faulted {
            assert_eq!(self.group.next_deadline(), None);
            assert!(self.effects.messages.is_empty(), "a mute group speaks");
            assert!(self.effects.fault.is_none() && self.effects.log_changes.is_empty());
            assert_eq!(before, after);
        }
        if after.fault.is_some() {
            self.faulted = true;
            assert!(self.open.is_empty(), "requests without an end: {:?}", self.open);
            assert!(!self.group.is_leader());
        }
        self.effects.messages.drain_ready().for_each(drop);
        self.effects.messages.drain_gated().for_each(drop);
        self.effects.log_changes.clear();
        self.effects.fault = None;
        if let Some(disbelief) = self.effects.disbelieved.take() {
            assert_eq!(before, after, "{disbelief}");
        }
        if let Some(SnapshotEffect::Fetch { meta, .. }) = self.effects.snapshot.take() {
            self.offered = Some((meta.index, meta.term));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Hear(from, theirs, ours, message) => self.step(Input::Message {
                from: ReplicaId::new(from),
                from_incarnation: Incarnation::new(theirs),
                to_incarnation: Incarnation::new(ours),
                message,
            }),
            Action::Propose(bytes) => {
                let token = self.token();
                self.step(Input::Propose { token, bytes, time: LogTime::default() });
            }
            Action::Read(path) => {
                let token = self.token();
                self.step(Input::Read { token, path });
            }
            Action::Change(changes) => {
                let token = self.token();
                let change = |(kind, id): (u8, u64)| match kind {
                    0 => MemberChange::AddLearner {
                        replica: ReplicaId::new(id),
                        node: NodeId::new(id),
                    },
                    1 => MemberChange::Promote(ReplicaId::new(id)),
                    2 => MemberChange::Demote(ReplicaId::new(id)),
                    _ => MemberChange::Remove(ReplicaId::new(id)),
                };
                let changes = changes.into_iter().map(change).collect();
                self.step(Input::ChangeMembership { token, changes });
            }
            Action::Drive(kind, number) => {
                let index = LogIndex::new(number);
                let status = self.group.status();
                self.step(match kind % 12 {
                    // What ends a group, seldom.
                    9 if kind > 33 => Input::PersistFailed(PersistSeq::new(number)),
                    10 if kind > 33 => Input::LogUnreadable(index),
                    11 if kind > 33 => Input::ApplyFailed(index),
                    0 => Input::SnapshotTaken(
                        index.min(status.appliable_index).min(status.quorum_durable_index),
                    ),
                    1 => Input::SnapshotTaken(index),
                    2 => Input::Compact(index),
                    3 => match self.offered {
                        Some((index, term)) => Input::SnapshotReceived { index, term },
                        None => Input::SnapshotReceived { index, term: Term::new(number) },
                    },
                    4 => Input::SnapshotFailed { index },
                    5 => Input::Disk(DiskSpace::Full),
                    6 => Input::Disk(DiskSpace::Ample),
                    7 => Input::AcceptLoss,
                    8 => Input::Candidacy(
                        [Candidacy::Ready, Candidacy::Behind, Candidacy::Withheld]
                            [(number % 3) as usize],
                    ),
                    _ => Input::Wake,
                });
            }
            Action::Transfer(to) => {
                let token = self.token();
                let to = to.map(ReplicaId::new);
                match to.filter(|to| to.get().is_multiple_of(2)) {
                    Some(to) => self.step(Input::Yield { token, to }),
                    None => self.step(Input::Transfer { token, to }),
                }
            }
            Action::Unreachable(peer) => self.step(Input::PeerUnreachable(ReplicaId::new(peer))),
            Action::Campaign => self.step(Input::Campaign),
            Action::Deadline => self.step(Input::Deadline),
            Action::Wake => {
                self.now = self.group.next_deadline().unwrap_or(self.now).max(self.now);
                self.step(Input::Deadline);
            }
            Action::Wait(micros) => self.now = self.now.after(Duration::from_micros(micros)),
            Action::Clock(to) => self.now = Micros::new(to),
            Action::TakePersist => {
                let persist = self.effects.persist.take();
                self.taken.extend(persist.map(|persist| persist.seq));
            }
            Action::Acknowledge(at) => {
                if let Some(seq) = at.checked_rem(self.taken.len()).map(|at| self.taken[at]) {
                    self.step(Input::Persisted(seq));
                }
            }
            Action::Written(seq) => self.step(Input::Written(PersistSeq::new(seq))),
            Action::Persisted(seq) => self.step(Input::Persisted(PersistSeq::new(seq))),
            Action::Pull(peer, budget, cost) => {
                let peer = ReplicaId::new(peer);
                let append = self.group.make_append(self.now, peer, budget, |_| cost);
                assert!(!(self.faulted && append.is_some()), "a mute group speaks");
                if let Some(append) = append {
                    self.last_append = Some((peer, append));
                }
            }
            Action::Answer(short, accept) => {
                let Some((peer, append)) = self.last_append.clone() else {
                    return;
                };
                let verified = append.last_index();
                let durable = LogIndex::new(verified.get().saturating_sub(short));
                let result = if accept {
                    AppendResult::Accepted {
                        durable,
                        written: durable,
                        verified,
                        promise: Promise::Kept,
                    }
                } else {
                    AppendResult::Rejected {
                        prev_index: append.prev_index,
                        hint_index: durable,
                        hint_term: append.prev_term,
                    }
                };
                let reply = AppendReply { term: append.term, session: append.session, result };
                self.hear(peer.get(), Message::AppendReply(reply));
            }
            Action::Lead(short, count) => {
                let status = self.group.status();
                let prev_index = LogIndex::new(status.last_index.get().saturating_sub(short));
                let Some(prev_term) = self.group.entry_term(prev_index) else { return };
                let run = TermRun { term: status.term, count };
                let append = Append {
                    term: status.term,
                    session: Session::new(1),
                    prev_index,
                    prev_term,
                    runs: Some(run).filter(|run| run.count > 0).into_iter().collect(),
                    configs: Sparse::new(),
                    commit: status.commit_index,
                    quorum_durable: status.commit_index,
                    acknowledge: self.acknowledge,
                    time: LogTime::default(),
                };
                self.hear(status.leader.map_or(2, ReplicaId::get), Message::Append(append));
            }
            Action::Offer(ahead) => {
                let status = self.group.status();
                let meta = SnapshotMeta {
                    index: LogIndex::new(status.last_index.get().saturating_add(ahead)),
                    term: status.term,
                    time: LogTime::default(),
                    config_index: LogIndex::ZERO,
                    membership: Arc::clone(self.group.membership()),
                };
                let offer = SnapshotOffer { term: status.term, session: Session::new(1), meta };
                self.hear(status.leader.map_or(2, ReplicaId::get), Message::Snapshot(offer));
            }
            Action::Elect => {
                // The attempt is not visible from outside, but small.
                for attempt in 0..6 {
                    let next = self.group.term().next();
                    let grant = |term| VoteReply { term, attempt, verdict: Verdict::Granted };
                    self.hear(2, Message::PreVoteReply(grant(next)));
                    self.hear(2, Message::VoteReply(grant(self.group.term())));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 3_000 } else { 20_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_inputs_never_panic_and_a_faulted_group_stays_mute(
        voters in 1..=3u64,
        kind in 0..64u8,
        actions in vec(action(), 1..120),
    ) {
        let mut driver = Driver::new(voters, if kind < 32 { kind & 30 } else { kind & 31 });
        for action in actions {
            driver.act(action);
        }
    }
}
