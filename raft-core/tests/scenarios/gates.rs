//! Nothing that promises something leaves before it is durable (thesis 3.8).

use std::time::Duration;

use raft_core::{
    AppendResult, Durable, HardState, Heartbeat, Input, LogIndex, LogTime, Message, Micros,
    ReadIndex, ReadPath, Rest, RoleKind, Token, Verdict, VoteRequest,
};

use crate::bench::*;

#[test]
fn vote_request_waits_for_its_own_term_to_be_durable() {
    let mut bench = Bench::follower(&[1, 1]);
    bench.input(Input::Campaign);
    bench.sent.clear();
    bench.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Candidate);
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    assert_eq!(bench.gated.len(), 2);
    let own_vote = bench.take();
    let want = HardState { term: term(2), vote: Some(ONE) };
    assert_eq!(own_vote.hard_state, Some(want));
    bench.persisted(own_vote.seq);
    assert!(matches!(bench.messages_to(TWO)[..], [Message::Vote(_)]));
    assert!(matches!(bench.messages_to(THREE)[..], [Message::Vote(_)]));
}

#[test]
fn a_gate_stays_closed_for_an_earlier_proof() {
    let mut bench = Bench::follower(&[]);
    bench.hear(TWO, heartbeat(1, 0));
    let first = bench.take();
    bench.gated.clear();
    bench.hear(THREE, Message::Vote(vote_request(2, 0, 0)));
    // Sticky: the leader of term 1 was just heard.
    assert!(bench.gated.is_empty());
    bench.wait(std::time::Duration::from_secs(1));
    bench.hear(THREE, Message::Vote(vote_request(2, 0, 0)));
    let gate = bench.gated.pop().expect("a grant waits");
    assert!(gate.until() > first.seq);
    let closed = gate.open(Durable::attest(first.seq)).expect_err("too early");
    let second = bench.take();
    assert!(closed.open(Durable::attest(second.seq)).is_ok());
}

#[test]
fn grant_waits_for_disk() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    assert!(bench.sent.is_empty());
    let grant = bench.take();
    assert_eq!(grant.hard_state.and_then(|state| state.vote), Some(TWO));
    bench.persisted(grant.seq);
    let [Message::VoteReply(reply)] = bench.messages_to(TWO)[..] else {
        panic!("{:?}", bench.sent);
    };
    assert_eq!(reply.verdict, Verdict::Granted);
}

#[test]
fn a_grant_repeated_before_the_disk_has_it_waits_as_well() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    assert!(bench.sent.is_empty());
    assert_eq!(bench.gated.len(), 1, "it need not be said twice");
}

/// A disk that hangs, and peers that go on speaking as ever.
#[test]
fn what_waits_for_a_disk_that_hangs_is_bounded_and_says_the_newest() {
    let mut bench = Bench::follower(&[1, 1, 1]);
    bench.hear(TWO, heartbeat(3, 0));
    let rounds = 1_500;
    for round in 1..=rounds {
        let confirm = Heartbeat {
            term: term(3),
            commit: LogIndex::ZERO,
            quorum_durable: LogIndex::ZERO,
            read_seq: round,
            sent: Micros::new(round),
            rest: Rest::Awake,
        };
        bench.hear(TWO, Message::ReadConfirm(confirm));
        bench.hear(TWO, Message::Append(append(3, (9, 3), &[], 0)));
        bench.hear(TWO, Message::Append(append(3, (3, 1), &[], 0)));
        bench.hear(TWO, Message::Append(append(2, (3, 1), &[], 0)));
        bench.hear(THREE, heartbeat(2, 0));
        let attempt = VoteRequest { attempt: round, ..vote_request(3, 3, 1) };
        bench.hear(THREE, Message::Vote(attempt));
        bench.hear(THREE, Message::PreVote(VoteRequest { term: term(4), ..attempt }));
        bench.hear(THREE, Message::ReadIndex(ReadIndex { term: term(3), id: round }));
        bench.input(Input::Read { token: Token::new(round), path: ReadPath::Follower });
    }
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    assert!(bench.gated.len() <= 2 * 1024 + 2 * 16, "{} wait", bench.gated.len());
    bench.sync();
    let newest = |of: &dyn Fn(&Message) -> Option<u64>, to| {
        bench.messages_to(to).into_iter().filter_map(of).collect::<Vec<_>>()
    };
    let confirmed = |message: &Message| match message {
        Message::HeartbeatReply(reply) => Some(reply.read_seq),
        _ => None,
    };
    assert_eq!(newest(&confirmed, TWO), [rounds]);
    assert_eq!(newest(&confirmed, THREE), [0], "its term is over");
    let attempts = |message: &Message| match message {
        Message::VoteReply(reply) | Message::PreVoteReply(reply) => Some(reply.attempt),
        _ => None,
    };
    assert_eq!(newest(&attempts, THREE), [rounds, rounds]);
    let appends = |message: &Message| matches!(message, Message::AppendReply(_)).then_some(1);
    assert_eq!(newest(&appends, TWO).len(), 3, "accepted, rejected, and of a term that is over");
    // Our own questions are numbered by ourselves.
    let ids = |message: &Message| match message {
        Message::ReadIndex(asked) => Some(asked.id),
        Message::ReadIndexReply(answer) => Some(answer.id),
        _ => None,
    };
    assert_eq!(newest(&ids, TWO).len(), 1024);
    let answered = newest(&ids, THREE);
    assert_eq!((answered.len(), answered.last()), (1024, Some(&rounds)));
}

#[test]
fn refusals_and_heartbeat_replies_in_a_new_term_wait_for_disk() {
    let mut bench = Bench::follower(&[1, 1, 1]);
    bench.hear(TWO, Message::Vote(vote_request(2, 0, 0)));
    bench.hear(TWO, heartbeat(3, 0));
    bench.hear(TWO, Message::Append(append(3, (9, 3), &[], 0)));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    bench.sync();
    assert_eq!(bench.messages_to(TWO).len(), 3);
}

#[test]
fn append_acknowledgement_names_only_what_is_durable() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[1, 1], 0)));
    let first = bench.take();
    bench.hear(TWO, Message::Append(append(1, (3, 1), &[1], 0)));
    let second = bench.take();
    assert!(bench.sent.is_empty(), "nothing of it is durable yet");
    bench.input(Input::Written(second.seq));
    assert!(bench.sent.is_empty(), "the page cache is no disk");
    bench.persisted(first.seq);
    bench.persisted(second.seq);
    let acknowledged: Vec<(u64, u64)> = bench
        .messages_to(TWO)
        .iter()
        .map(|message| match message {
            Message::AppendReply(reply) => match reply.result {
                AppendResult::Accepted { durable, verified, .. } => (durable.get(), verified.get()),
                other => panic!("{other:?}"),
            },
            _ => panic!("{message:?}"),
        })
        .collect();
    assert_eq!(acknowledged, [(3, 4), (4, 4)]);
}

/// A driver reads back what it is told is written, for instance to send it to others.
#[test]
fn nothing_counts_as_written_before_the_page_cache_has_it_or_once_it_is_replaced() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[1, 1], 0)));
    let first = bench.take();
    assert_eq!(bench.group.written_index(), index(1));
    bench.hear(TWO, Message::Append(append(1, (3, 1), &[1], 0)));
    let second = bench.take();
    bench.input(Input::Written(first.seq));
    assert_eq!(bench.group.written_index(), index(3));
    bench.input(Input::Written(second.seq));
    assert_eq!(bench.group.written_index(), index(4));
    assert_eq!(bench.group.status().durable_index, index(1));
    // Entries 3 and 4 are replaced, and what was reported of them before is void.
    bench.hear(THREE, Message::Append(append(2, (2, 1), &[2], 0)));
    let third = bench.take();
    assert_eq!((bench.group.written_index(), bench.group.last_term()), (index(2), term(2)));
    bench.persisted(second.seq);
    assert_eq!(bench.group.written_index(), index(2));
    bench.input(Input::Written(third.seq));
    assert_eq!(bench.group.written_index(), index(3));
}

#[test]
fn acknowledgement_owed_while_no_leader_was_known_is_not_forgotten() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[1], 0)));
    bench.wait(Duration::from_secs(1));
    bench.input(Input::Campaign);
    assert_eq!(bench.role(), RoleKind::PreCandidate);
    bench.sync();
    bench.sent.clear();
    bench.hear(TWO, heartbeat(1, 0));
    assert!(
        bench.messages_to(TWO).iter().any(|message| matches!(
            message,
            Message::AppendReply(reply)
                if matches!(reply.result, AppendResult::Accepted { durable, .. } if durable == index(2))
        )),
        "{:?}",
        bench.sent
    );
}

#[test]
fn entries_are_applied_only_when_committed_and_durable_here() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[1], 2)));
    assert_eq!(bench.commit(), 2);
    assert_eq!(bench.effects.appliable.take(), Some(index(1)));
    bench.sync();
    assert_eq!(bench.effects.appliable.take(), Some(index(2)));
}

#[test]
fn leader_counts_itself_only_when_durable() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 1);
    bench.input(Input::Propose { token: token(1), bytes: 100, time: LogTime::default() });
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 1, "one disk of three");
    bench.sync();
    assert_eq!(bench.commit(), 2);
}

#[test]
fn acknowledging_an_operation_that_was_not_taken_mutes_the_group() {
    let mut bench = Bench::follower(&[]);
    bench.hear(TWO, heartbeat(1, 0));
    let seq = bench.effects.persist.as_ref().expect("the new term").seq;
    bench.input(Input::Persisted(seq));
    assert!(bench.fault().is_some());
}

#[test]
fn untaken_operations_merge_and_later_gates_wait_for_the_merged_one() {
    let mut bench = Bench::follower(&[1, 1]);
    bench.hear(TWO, Message::Append(append(2, (2, 1), &[2, 2], 0)));
    bench.hear(TWO, Message::Append(append(3, (2, 1), &[3], 0)));
    let merged = bench.take();
    assert_eq!(merged.hard_state.map(|state| state.term), Some(term(3)));
    assert_eq!(merged.truncate_from, Some(index(3)));
    assert_eq!(merged.append, Some((index(3), index(3))));
    bench.persisted(merged.seq);
    assert_eq!(bench.group.status().durable_index, index(3));
}
