//! What cannot go wrong because there is no way to say it: each shown by something that would not
//! compile, or would not pass, if there were one.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    HardState, Heartbeat, Input, Lease, LogChange, LogTime, MemberChange, Message, Micros, NodeId,
    Outgoing, ReadPath, ReplicaId, Rest, Settings, SettingsError, Verdict,
};

use crate::bench::*;

/// A small generator: the same numbers on every machine.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..count {
        let longer = |order: &Vec<usize>| {
            let rest = (0..count).filter(|at| !order.contains(at));
            rest.map(|at| [&order[..], &[at]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// A step is one call on one `&mut Group`, so nothing can raise the term between reading it and
/// writing an entry. In every order of what can happen around an election, an entry has the term
/// its writer was elected in.
#[test]
fn an_entry_has_the_term_its_leader_was_elected_in() {
    let orders = permutations(6);
    assert_eq!(orders.len(), 720);
    let mut led = 0;
    for order in orders {
        let mut bench = Bench::follower(&[1]);
        bench.input(Input::Campaign);
        bench.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
        let own_vote = bench.take();
        let mut elected_in = None;
        for event in order {
            match event {
                0 => bench.hear(TWO, vote_reply(false, term(2), 2, Verdict::Granted)),
                1 => bench.persisted(own_vote.seq),
                2 => bench.hear(THREE, heartbeat(3, 0)),
                3 => bench.hear(THREE, vote_reply(false, term(2), 2, Verdict::Refused)),
                _ => {
                    let token = token(event as u64);
                    bench.input(Input::Propose { token, bytes: 100, time: LogTime::default() });
                }
            }
            if bench.group.is_leader() {
                elected_in.get_or_insert_with(|| bench.group.term());
            }
            for change in bench.take_log_changes() {
                let LogChange::Appended { term, .. } = change else { panic!("{change:?}") };
                assert_eq!(Some(term), elected_in);
                led += 1;
            }
        }
    }
    assert!(led > 300, "the orders must matter: {led}");
}

/// The core asks no storage for entries: a driver tells what an entry costs or that it has it not
/// at hand, and nothing it says moves a mark, leaves a gap or repeats an entry.
#[test]
fn a_driver_that_withholds_or_misprices_entries_moves_nothing() {
    for seed in 1..200 {
        let mut draw = Draw(seed);
        let mut start = start(ONE, &[1, 1, 1]);
        start.settings = Arc::new(Settings {
            append_bytes_max: 250,
            inflight_bytes_max: u64::MAX,
            ..Settings::default()
        });
        let mut bench = Bench::leader_of(start);
        bench.catch_up(TWO);
        for of in 1..=12 {
            bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
        }
        bench.sync();
        let commit = bench.commit();
        let mut sent = bench.group.next_index(TWO).expect("it leads").prev();
        for _ in 0..60 {
            let before = bench.group.status();
            let next = bench.group.next_index(TWO);
            let budget = draw.below(400);
            let answer = |_| match draw.below(4) {
                0 => None,
                1 => Some(0),
                2 => Some(u64::MAX / 32),
                _ => Some(100),
            };
            let append = bench.group.make_append(bench.now, TWO, budget, answer);
            assert_eq!(bench.group.status(), before, "seed {seed}");
            match append {
                Some(append) => {
                    assert_eq!(append.prev_index, sent, "seed {seed}: a gap or a repetition");
                    assert!(append.count() > 0, "seed {seed}");
                    sent = append.last_index();
                }
                None => assert_eq!(bench.group.next_index(TWO), next, "seed {seed}"),
            }
        }
        assert_eq!(bench.commit(), commit, "seed {seed}");
        assert_eq!(sent, bench.group.last_index(), "seed {seed}: all of it was sent at last");
    }
}

#[test]
fn costs_at_the_end_of_the_number_range_fill_a_window_and_no_more() {
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(Settings { inflight_bytes_max: u64::MAX, ..Settings::default() });
    let mut bench = Bench::leader_of(start);
    bench.catch_up(TWO);
    let next =
        |bench: &mut Bench, cost| bench.group.make_append(bench.now, TWO, u64::MAX, |_| Some(cost));
    let mut sent = Vec::new();
    for (of, cost) in [(1, u64::MAX - 1), (2, u64::MAX)] {
        bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
        bench.sync();
        sent.extend(next(&mut bench, cost));
    }
    assert_eq!(sent.len(), 2);
    assert!(!bench.group.wants_append(TWO));
    for append in sent {
        bench.hear(TWO, accepted(&append, append.last_index().get()));
    }
    bench.input(Input::Propose { token: token(3), bytes: 100, time: LogTime::default() });
    assert!(next(&mut bench, 100).is_some(), "all of it was given back");
}

/// There is one value and one place for both. A third field, or one of them elsewhere, would not
/// compile here.
#[test]
fn term_and_vote_are_one_value_and_are_written_together() {
    let parts = |HardState { term, vote }: HardState| (term.get(), vote);
    let mut bench = Bench::follower(&[1]);
    // A candidate: its new term and its vote for itself.
    bench.input(Input::Campaign);
    bench.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
    let written = bench.take();
    assert_eq!(written.hard_state.map(parts), Some((2, Some(ONE))));
    bench.persisted(written.seq);
    // A voter: the term it met and the vote it gave in it, also when it met the term before.
    bench.wait(Duration::from_secs(2));
    bench.hear(THREE, Message::Vote(vote_request(5, 9, 1)));
    let written = bench.take();
    assert_eq!(written.hard_state.map(parts), Some((5, Some(THREE))));
    bench.persisted(written.seq);
    bench.hear(TWO, vote_reply(true, term(7), 1, Verdict::Refused));
    bench.hear(TWO, Message::Vote(vote_request(7, 9, 1)));
    let written = bench.take();
    assert_eq!(written.hard_state.map(parts), Some((7, Some(TWO))));
    let status = bench.group.status();
    assert_eq!((status.term, status.vote), (term(7), Some(TWO)));
}

/// A setting that switches check-quorum or stickiness off would have to be named here.
#[test]
fn lease_reads_cannot_be_had_without_check_quorum() {
    let Settings {
        heartbeat_interval: _,
        election_timeout_min: _,
        election_timeout_max: _,
        append_bytes_max: _,
        inflight_appends_max: _,
        inflight_bytes_max: _,
        uncommitted_bytes_max: _,
        reads_pending_max: _,
        lease,
        acknowledge: _,
        promotion_lag_max: _,
        disk_stall_max: _,
        quiesce_after: _,
        priority: _,
    } = Settings::default();
    match lease {
        Lease::Never | Lease::Within { drift_ppm: _ } => {}
    }
    let endless = Settings { lease: Lease::Within { drift_ppm: 500_000 }, ..Settings::default() };
    assert_eq!(endless.validate(), Err(SettingsError::DriftTooLarge { drift_ppm: 500_000 }));
    // With leases a leader that reaches nobody steps down, and a follower is patient, as ever.
    let mut start = start(ONE, &[]);
    start.settings =
        Arc::new(Settings { lease: Lease::Within { drift_ppm: 499_999 }, ..Settings::default() });
    let mut bench = Bench::leader_of(start.clone());
    bench.live(Duration::from_secs(1));
    assert!(!bench.group.is_leader());
    let mut bench = Bench::new(start);
    bench.hear(TWO, heartbeat(1, 0));
    bench.sync();
    bench.hear(THREE, Message::Vote(vote_request(2, 9, 1)));
    assert_eq!(bench.group.term(), term(1));
}

/// A heartbeat has no previous entry that could be wrong. Before, between and after all appends of
/// a run, from a leader that knows more or less than the follower, it faults nothing, cuts nothing
/// and commits nothing that is not verified.
#[test]
fn a_heartbeat_names_no_entry_and_can_contradict_none() {
    let appends = [
        append(2, (1, 1), &[2, 2], 1),
        append(2, (3, 2), &[2], 2),
        append(2, (1, 1), &[2, 2], 2),
        append(2, (4, 2), &[2, 2], 4),
    ];
    for at in 0..=appends.len() {
        for commit in 0..9 {
            let mut bench = Bench::follower(&[1, 1, 1]);
            for (position, append) in appends.iter().enumerate() {
                if position == at {
                    beat(&mut bench, append.term.get(), commit);
                }
                bench.hear(TWO, Message::Append(append.clone()));
                assert_eq!(bench.fault(), None, "commit {commit} before append {at}");
            }
            if at == appends.len() {
                beat(&mut bench, 2, commit);
            }
            assert_eq!(bench.terms(), [1, 2, 2, 2, 2, 2]);
        }
    }
    fn beat(bench: &mut Bench, of: u64, commit: u64) {
        let message = Heartbeat {
            term: term(of),
            commit: index(commit),
            quorum_durable: index(commit),
            read_seq: 0,
            sent: Micros::ZERO,
            rest: Rest::Awake,
        };
        let Heartbeat { term: _, commit: _, quorum_durable: _, read_seq: _, sent: _, rest: _ } =
            message;
        let (terms, before) = (bench.terms(), bench.commit());
        bench.hear(TWO, Message::Heartbeat(message));
        let status = bench.group.status();
        assert_eq!((bench.fault(), bench.terms()), (None, terms));
        let want = before.max(commit.min(status.verified_index.get()));
        assert_eq!(status.commit_index, index(want));
    }
}

/// Whatever happens: what was asked for has ended, once, or is counted among the open requests.
#[test]
fn every_request_has_an_outcome_or_is_seen_to_be_open() {
    for seed in 1..400 {
        let mut draw = Draw(seed);
        let mut start = start(ONE, &[1]);
        start.settings = Arc::new(Settings {
            uncommitted_bytes_max: 500,
            reads_pending_max: 4,
            quiesce_after: (seed % 3 == 0).then_some(Duration::from_secs(1)),
            lease: if seed % 2 == 0 { Lease::Never } else { Lease::Within { drift_ppm: 100 } },
            ..Settings::default()
        });
        let mut bench = Bench::new(start);
        let (mut asked, mut ended) = (0u64, std::collections::BTreeSet::new());
        for step in 0..120 {
            let of = bench.group.term().get();
            let peer = if draw.below(2) == 0 { TWO } else { THREE };
            let mut ask = |input: fn(raft_core::Token, u64) -> Input| {
                asked += 1;
                input(token(asked), draw.below(3))
            };
            let input = match seed.wrapping_mul(step + 7) % 5 {
                0 => Some(ask(|token, more| Input::Propose {
                    token,
                    bytes: 50 + 100 * more,
                    time: LogTime::default(),
                })),
                1 => Some(ask(|token, path| Input::Read {
                    token,
                    path: [ReadPath::Quorum, ReadPath::Lease, ReadPath::Follower][path as usize],
                })),
                2 if step % 3 == 0 => Some(ask(|token, to| Input::Transfer {
                    token,
                    to: (to > 0).then(|| ReplicaId::new(1 + to)),
                })),
                3 if step % 4 == 0 => Some(ask(|token, which| Input::ChangeMembership {
                    token,
                    changes: vec![if which == 0 {
                        let (replica, node) = (ReplicaId::new(9), NodeId::new(9));
                        MemberChange::AddLearner { replica, node }
                    } else {
                        MemberChange::Demote(ReplicaId::new(1 + which))
                    }],
                })),
                _ => None,
            };
            if let Some(input) = input {
                bench.input(input);
            }
            match draw.below(12) {
                0..3 => bench.catch_up(peer),
                3 => bench.hear(peer, heartbeat_reply(of, draw.below(5))),
                4 => bench.hear(peer, heartbeat_reply(of + 1, 0)),
                5 if !bench.group.is_leader() => bench.hear(TWO, heartbeat(of + 1, 0)),
                6 if !bench.group.is_leader() => {
                    let last = bench.group.last_index().get();
                    let mut cut = append(of + 1, (1, 1), &[of + 1], draw.below(last + 1));
                    cut.term = term(of + 1);
                    if bench.commit() <= 1 {
                        bench.hear(THREE, Message::Append(cut));
                    }
                }
                7 => bench.live(Duration::from_millis(draw.below(700))),
                8 if !bench.group.is_leader() => {
                    bench.wait(Duration::from_secs(1));
                    bench.sent.clear();
                    bench.input(Input::Campaign);
                    if !bench.sent.is_empty() {
                        let attempt = bench.attempt();
                        bench.hear(TWO, vote_reply(true, term(of + 1), attempt, Verdict::Granted));
                        bench.sync();
                        let attempt = bench.attempt();
                        bench.hear(TWO, vote_reply(false, term(of + 1), attempt, Verdict::Granted));
                    }
                }
                9 if seed % 20 == 0 && step > 80 => bench.input(Input::LogUnreadable(index(1))),
                _ => bench.sync(),
            }
            for (token, _) in bench.take_outcomes() {
                assert!(ended.insert(token), "seed {seed}: {token} ended twice");
            }
            let open = bench.group.status().open_requests as u64;
            assert_eq!(asked, ended.len() as u64 + open, "seed {seed}, step {step}");
        }
    }
}

/// A driver that takes effects after every step, or only now and then, or messages before what is
/// to be persisted: the same messages leave, in the same order, and none before its disk.
#[test]
fn effects_taken_late_or_early_say_the_same() {
    type Taken = (Vec<Outgoing>, Vec<Outgoing>);
    let script = |every: usize| -> Taken {
        let mut group = Bench::follower(&[1, 1]).group;
        let mut effects = raft_core::Effects::default();
        let mut now = Micros::ZERO;
        let (mut ready, mut gates, mut newest) = (Vec::new(), Vec::new(), None);
        let messages = [
            Message::Vote(vote_request(2, 2, 1)),
            heartbeat(3, 0),
            Message::Append(append(3, (2, 1), &[3], 0)),
            Message::Append(append(3, (9, 3), &[], 0)),
            heartbeat(3, 1),
            Message::Append(append(3, (3, 3), &[3, 3], 3)),
            Message::PreVote(vote_request(1, 9, 9)),
        ];
        for (at, message) in messages.into_iter().enumerate() {
            now = now.after(Duration::from_millis(1));
            let input = Input::Message {
                from: TWO,
                from_incarnation: FIRST_LIFE,
                to_incarnation: FIRST_LIFE,
                message,
            };
            group.step(now, input, &mut effects);
            if at % every == every - 1 {
                ready.extend(effects.messages.drain_ready());
                gates.extend(effects.messages.drain_gated());
                newest = effects.persist.take().map(|persist| persist.seq).or(newest);
            }
        }
        ready.extend(effects.messages.drain_ready());
        gates.extend(effects.messages.drain_gated());
        newest = effects.persist.take().map(|persist| persist.seq).or(newest);
        let newest = newest.expect("something was written");
        let durable = raft_core::Durable::attest(newest);
        let gated = gates.into_iter().map(|gate| gate.open(durable).expect("all is durable"));
        let gated = gated.collect();
        group.step(now, Input::Persisted(newest), &mut effects);
        ready.extend(effects.messages.drain_ready());
        (ready, gated)
    };
    let at_once = script(1);
    assert!(!at_once.0.is_empty() && at_once.1.len() > 3);
    for every in 2..=8 {
        assert_eq!(script(every), at_once, "every {every} steps");
    }
}
