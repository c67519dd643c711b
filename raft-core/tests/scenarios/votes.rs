//! What a vote is worth, and for how long (paper 5.2 and 5.4.1).

use std::time::Duration;

use raft_core::{
    AppendReply, AppendResult, Input, Message, ReplicaId, RoleKind, Session, TransferRefused,
    Unwilling, Verdict,
};

use crate::bench::*;
use crate::fleet::Fleet;

/// A replica in each of the roles, in term 2 or about to be.
fn in_every_role() -> [Bench; 4] {
    let follower = Bench::follower(&[1, 1]);
    let mut pre_candidate = Bench::follower(&[1, 1]);
    pre_candidate.input(Input::Campaign);
    let mut candidate = Bench::follower(&[1, 1]);
    candidate.input(Input::Campaign);
    candidate.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
    let leader = Bench::leader(&[1, 1]);
    let all = [follower, pre_candidate, candidate, leader];
    let roles = [RoleKind::Follower, RoleKind::PreCandidate, RoleKind::Candidate, RoleKind::Leader];
    assert_eq!([0, 1, 2, 3].map(|at: usize| all[at].role()), roles);
    all
}

#[test]
fn refusals_elect_nobody() {
    for pre in [true, false] {
        let mut bench = Bench::follower(&[1, 1]);
        bench.input(Input::Campaign);
        let next = bench.group.term().next();
        if !pre {
            bench.hear(TWO, vote_reply(true, next, 1, Verdict::Granted));
            bench.sync();
            assert_eq!(bench.role(), RoleKind::Candidate);
        }
        let (of, attempt) = if pre { (term(1), 1) } else { (next, 2) };
        for peer in [TWO, THREE] {
            bench.hear(peer, vote_reply(pre, of, attempt, Verdict::Refused));
            bench.sync();
        }
        let expected = if pre { term(1) } else { next };
        assert_eq!((bench.role(), bench.group.term()), (RoleKind::Follower, expected));
    }
}

#[test]
fn a_higher_term_in_any_reply_is_adopted_in_every_role_and_nobody_gets_the_vote() {
    let append_reply =
        AppendReply { term: term(7), session: Session::new(1), result: AppendResult::StaleTerm };
    let replies = [
        vote_reply(false, term(7), 1, Verdict::Refused),
        vote_reply(false, term(7), 1, Verdict::Granted),
        vote_reply(true, term(7), 1, Verdict::Refused),
        Message::AppendReply(append_reply),
        heartbeat_reply(7, 0),
        Message::TransferRefused(TransferRefused {
            term: term(7),
            transfer: 1,
            why: Unwilling::NotNow,
        }),
    ];
    for reply in replies {
        for mut bench in in_every_role() {
            let led = bench.group.is_leader();
            bench.hear(TWO, reply.clone());
            let status = bench.group.status();
            let adopts =
                led || !matches!(reply, Message::AppendReply(_) | Message::HeartbeatReply(_));
            if adopts || status.term == term(7) {
                assert_eq!((status.term, status.vote), (term(7), None), "{reply:?}");
                assert_eq!(status.role, RoleKind::Follower);
            }
            // The one who refused us has no claim on our vote: its log may be the shorter one.
            bench.sync();
            bench.sent.clear();
            bench.hear(TWO, Message::Vote(vote_request(7, 1, 1)));
            assert_eq!(bench.group.status().vote, None, "{reply:?}");
            bench.hear(THREE, Message::Vote(vote_request(7, 9, 2)));
            assert_eq!(bench.group.status().vote, Some(THREE), "{reply:?}");
        }
    }
}

#[test]
fn every_pair_of_logs_is_compared_by_last_term_first_and_then_by_length() {
    let ends = || (0..=4).flat_map(|of| (0..=4).map(move |last| (of, last)));
    let ends = || ends().filter(|(of, last)| (*of == 0) == (*last == 0));
    for (of, last) in ends() {
        for (their_term, their_last) in ends() {
            let want = (their_term, their_last) >= (of, last);
            let request = vote_request(9, their_last, their_term);
            for message in [Message::Vote(request), Message::PreVote(request)] {
                let mut bench = Bench::follower(&vec![of; last as usize]);
                bench.hear(TWO, message);
                bench.sync();
                let granted = bench.messages_to(TWO).iter().any(|message| {
                    matches!(message, Message::VoteReply(reply) | Message::PreVoteReply(reply)
                        if reply.verdict == Verdict::Granted)
                });
                assert_eq!(granted, want, "{request:?} at a log of {last} in term {of}");
            }
        }
    }
}

/// Every way in which a replica that has voted in a term comes to follow nobody, or somebody, in
/// the same term. Another candidate of that term is refused after each.
#[test]
fn a_vote_outlasts_every_way_to_step_down_within_its_term() {
    let voted_for_two = || {
        let mut bench = Bench::follower(&[1]);
        bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
        bench.sync();
        bench
    };
    let candidate = || {
        let mut bench = Bench::follower(&[1]);
        bench.input(Input::Campaign);
        bench.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
        bench.sync();
        bench
    };
    type Way = (&'static str, fn(&mut Bench));
    let after_a_vote: [Way; 2] = [
        ("a lost pre-vote", |bench| {
            bench.input(Input::Campaign);
            for peer in [TWO, THREE] {
                bench.hear(peer, vote_reply(true, term(2), 1, Verdict::Refused));
            }
        }),
        ("the term's leader during a pre-vote", |bench| {
            bench.input(Input::Campaign);
            bench.hear(TWO, heartbeat(2, 0));
        }),
    ];
    let as_candidate: [Way; 2] = [
        ("a lost vote", |bench| {
            for peer in [TWO, THREE] {
                bench.hear(peer, vote_reply(false, term(2), 2, Verdict::Refused));
            }
        }),
        ("another who won", |bench| bench.hear(TWO, heartbeat(2, 0))),
    ];
    let as_leader: [Way; 3] = [
        ("a silent quorum", |bench| bench.live(Duration::from_millis(600))),
        ("a disk that hangs", |bench| {
            let noop = bench.take();
            while bench.group.is_leader() {
                bench.live_with(TWO, Duration::from_millis(100));
            }
            bench.persisted(noop.seq);
        }),
        ("a lost pre-vote after office", |bench| {
            bench.live(Duration::from_secs(2));
            let attempt = bench.attempt();
            for peer in [TWO, THREE] {
                bench.hear(peer, vote_reply(true, term(2), attempt, Verdict::Refused));
            }
        }),
    ];
    let refuses = |mut bench: Bench, vote: ReplicaId, (name, way): Way| {
        way(&mut bench);
        assert_eq!(bench.role(), RoleKind::Follower, "{name}");
        bench.sync();
        // Whatever patience it owed is over.
        bench.wait(Duration::from_secs(1));
        bench.input(Input::Deadline);
        bench.sent.clear();
        bench.hear(THREE, Message::Vote(vote_request(2, 9, 1)));
        bench.sync();
        let status = bench.group.status();
        assert_eq!((status.term, status.vote), (term(2), Some(vote)), "{name}");
        let granted = bench.sent.iter().any(|outgoing| {
            matches!(outgoing.message, Message::VoteReply(reply) if reply.verdict == Verdict::Granted)
        });
        assert!(!granted, "{name}");
    };
    for way in after_a_vote {
        refuses(voted_for_two(), TWO, way);
    }
    for way in as_candidate {
        refuses(candidate(), ONE, way);
    }
    for way in as_leader {
        let mut leader = candidate();
        leader.hear(TWO, vote_reply(false, term(2), 2, Verdict::Granted));
        assert!(leader.group.is_leader());
        refuses(leader, ONE, way);
    }
}

#[test]
fn grants_for_another_term_or_attempt_elect_nobody() {
    let mut bench = Bench::follower(&[1]);
    bench.input(Input::Campaign);
    bench.hear(TWO, vote_reply(true, term(2), 1, Verdict::Granted));
    bench.sync();
    // Nobody answers in time; the second attempt is in term 3.
    bench.live(Duration::from_secs(2));
    let pre_vote = bench.attempt();
    bench.hear(TWO, vote_reply(true, term(3), pre_vote, Verdict::Granted));
    bench.sync();
    let vote = bench.attempt();
    assert_eq!((bench.role(), bench.group.term()), (RoleKind::Candidate, term(3)));
    let late = [
        vote_reply(false, term(2), 2, Verdict::Granted),
        vote_reply(false, term(2), vote, Verdict::Granted),
        vote_reply(false, term(3), 2, Verdict::Granted),
        vote_reply(false, term(3), pre_vote, Verdict::Granted),
        vote_reply(true, term(3), vote, Verdict::Granted),
        vote_reply(true, term(4), vote, Verdict::Granted),
    ];
    for message in late {
        for from in [TWO, THREE] {
            bench.hear(from, message.clone());
            assert_eq!(bench.role(), RoleKind::Candidate, "{message:?}");
        }
    }
    bench.hear(THREE, vote_reply(false, term(3), vote, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Leader);
}

/// One hears nobody, but is heard: its log falls behind, and it stands again and again.
#[test]
fn a_candidate_that_is_not_current_deposes_nobody_and_raises_no_term() {
    let five = ReplicaId::new(5);
    let mut fleet = Fleet::of(5);
    fleet.elect(ONE);
    fleet.hold(move |packet| packet.to == five);
    fleet.works();
    let before = fleet.group(ONE).term();
    fleet.live(Duration::from_secs(20));
    assert_eq!(fleet.leader(), Some(ONE));
    assert_eq!(fleet.group(ONE).term(), before);
    fleet.works();

    // The leader dies, and the one with the short log stands before anybody else does.
    fleet.crash(ONE);
    fleet.held.clear();
    fleet.let_pass();
    fleet.stand_first(five);
    let terms: Vec<_> = fleet.ids()[1..].iter().map(|id| fleet.group(*id).term()).collect();
    assert_eq!(terms, [before; 4]);
    fleet.live(Duration::from_secs(3));
    fleet.works();
    assert_eq!(fleet.group(five).term(), before.next(), "one election was enough");
}

#[test]
fn a_candidate_of_a_term_that_is_over_gets_no_vote() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(THREE, vote_reply(true, term(5), 1, Verdict::Refused));
    bench.sync();
    for of in [2, 4] {
        bench.sent.clear();
        bench.hear(TWO, Message::Vote(vote_request(of, 9, 1)));
        bench.sync();
        let status = bench.group.status();
        assert_eq!((status.term, status.vote), (term(5), None), "term {of}");
        assert!(matches!(bench.messages_to(TWO)[..], [Message::VoteReply(reply)]
            if (reply.term, reply.verdict) == (term(5), Verdict::Refused)));
    }
}
