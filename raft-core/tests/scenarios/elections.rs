//! Who leads, and who may not (paper 5.2, 5.4.1; thesis 4.2.3, 6.2, 9.6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Campaign, Fault, GroupId, HardState, Heartbeat, Incarnation, Input, LogTime, Membership,
    Message, Micros, Outcome, ReadPath, Refusal, Rest, RoleKind, Session, Settings, SnapshotMeta,
    SnapshotOffer, Verdict, VoteRequest,
};

use crate::bench::*;
use crate::fleet::Fleet;

const TIMEOUT_MIN: Duration = Duration::from_millis(500);

/// The verdict of the only answer sent to a replica, and its term.
fn verdict(bench: &Bench, to: raft_core::ReplicaId) -> (Verdict, u64) {
    match bench.messages_to(to)[..] {
        [Message::VoteReply(reply) | Message::PreVoteReply(reply)] => {
            (reply.verdict, reply.term.get())
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn first_campaigns_spread_over_replicas() {
    let mut leads: BTreeMap<u64, u32> = BTreeMap::new();
    for group in 0..256 {
        let first = [ONE, TWO, THREE]
            .into_iter()
            .map(|me| {
                let mut start = start(me, &[]);
                start.group = GroupId::new(group);
                let bench = Bench::new(start);
                let due = bench.group.next_deadline().expect("a voter has a deadline");
                (due, me)
            })
            .collect::<BTreeMap<Micros, _>>();
        let due: Vec<Micros> = first.keys().copied().collect();
        assert_eq!(due.len(), 3, "no two at once");
        // The first has time to win before the second tries.
        assert!(due[1].since(due[0]) > TIMEOUT_MIN / 4, "{due:?}");
        let (_, first) = first.first_key_value().expect("three replicas");
        *leads.entry(first.get()).or_default() += 1;
    }
    for (replica, groups) in leads {
        assert!((51..=120).contains(&groups), "{replica} leads {groups} of 256");
    }
}

#[test]
fn groups_and_nodes_that_share_a_seed_do_not_share_their_jitter() {
    let mut deadlines = std::collections::BTreeSet::new();
    for group in 0..50 {
        for me in [ONE, TWO, THREE] {
            let mut start = start(me, &[]);
            start.group = GroupId::new(group);
            start.seed = 1;
            let mut bench = Bench::new(start);
            bench.hear(raft_core::ReplicaId::new(9), heartbeat(1, 0));
            deadlines.insert(bench.group.next_deadline());
        }
    }
    assert!(deadlines.len() > 140, "{} of 150 differ", deadlines.len());
}

#[test]
fn pre_vote_changes_nothing_at_the_receiver() {
    let mut bench = Bench::follower(&[1, 1]);
    let before = (bench.group.status(), bench.group.next_deadline());
    bench.hear(TWO, Message::PreVote(vote_request(9, 2, 1)));
    assert_eq!(verdict(&bench, TWO), (Verdict::Granted, 9));
    assert_eq!((bench.group.status(), bench.group.next_deadline()), before);
    assert!(bench.effects.persist.is_none());
}

#[test]
fn a_replica_that_is_alone_never_raises_its_term() {
    let mut bench = Bench::follower(&[1]);
    bench.live(Duration::from_secs(30));
    assert_eq!(bench.group.term(), term(1));
    assert_eq!(bench.role(), RoleKind::PreCandidate);
}

#[test]
fn votes_go_only_to_logs_at_least_as_current() {
    // (last index, last term) of the candidate against a log of terms 1, 2, 2.
    for (last, of, want) in [
        (3, 2, Verdict::Granted),
        (4, 2, Verdict::Granted),
        (1, 3, Verdict::Granted),
        (2, 2, Verdict::Refused),
        (9, 1, Verdict::Refused),
        (0, 0, Verdict::Refused),
    ] {
        let mut bench = Bench::follower(&[1, 2, 2]);
        bench.hear(TWO, Message::Vote(vote_request(4, last, of)));
        bench.sync();
        assert_eq!(verdict(&bench, TWO), (want, 4), "candidate ends at {last}, term {of}");
    }
}

#[test]
fn one_vote_a_term_also_after_stepping_down_in_it() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    bench.sync();
    bench.sent.clear();
    // A failed pre-vote makes it a follower again; the vote stays.
    bench.input(Input::Campaign);
    for peer in [TWO, THREE] {
        bench.hear(peer, vote_reply(true, term(2), 1, Verdict::Refused));
    }
    assert_eq!(bench.role(), RoleKind::Follower);
    bench.sent.clear();
    bench.hear(THREE, Message::Vote(vote_request(2, 5, 1)));
    assert_eq!(verdict(&bench, THREE), (Verdict::Refused, 2));
}

#[test]
fn old_grant_after_restart_in_the_same_term_does_not_count() {
    let mut second_life = start(ONE, &[1]);
    second_life.incarnation = Incarnation::new(2);
    second_life.hard_state = HardState { term: term(2), vote: Some(ONE) };
    let mut bench = Bench::new(second_life);
    let hear = |bench: &mut Bench, to: u64, message: Message| {
        bench.input(Input::Message {
            from: TWO,
            from_incarnation: FIRST_LIFE,
            to_incarnation: Incarnation::new(to),
            message,
        });
    };
    bench.input(Input::Campaign);
    // A grant of the pre-vote that the former life asked for.
    hear(&mut bench, 1, vote_reply(true, term(3), 1, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::PreCandidate);
    hear(&mut bench, 2, vote_reply(true, term(3), 1, Verdict::Granted));
    bench.sync();
    assert_eq!(bench.role(), RoleKind::Candidate);
    hear(&mut bench, 1, vote_reply(false, term(3), 2, Verdict::Granted));
    hear(&mut bench, 2, vote_reply(false, term(2), 2, Verdict::Granted));
    hear(&mut bench, 2, vote_reply(false, term(3), 1, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Candidate, "former life, term, attempt");
    hear(&mut bench, 2, vote_reply(false, term(3), 2, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Leader);
}

#[test]
fn grants_elect_nobody_whose_own_vote_is_not_durable() {
    let mut bench = Bench::follower(&[]);
    bench.input(Input::Campaign);
    bench.hear(TWO, vote_reply(true, term(1), 1, Verdict::Granted));
    for peer in [TWO, THREE] {
        bench.hear(peer, vote_reply(false, term(1), 2, Verdict::Granted));
    }
    assert_eq!(bench.role(), RoleKind::Candidate);
    bench.sync();
    assert_eq!(bench.role(), RoleKind::Leader);
}

#[test]
fn a_voter_is_counted_once_and_a_stranger_never() {
    let mut five = start(ONE, &[]);
    five.base = base((1..=5).map(raft_core::ReplicaId::new));
    let mut bench = Bench::new(five);
    bench.input(Input::Campaign);
    for from in [TWO, TWO, TWO, raft_core::ReplicaId::new(9)] {
        bench.hear(from, vote_reply(true, term(1), 1, Verdict::Granted));
    }
    assert_eq!(bench.role(), RoleKind::PreCandidate);
    bench.hear(THREE, vote_reply(true, term(1), 1, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Candidate);
}

#[test]
fn a_higher_term_in_a_reply_is_adopted_without_a_vote() {
    let mut bench = Bench::leader(&[]);
    bench.hear(TWO, heartbeat_reply(7, 0));
    let status = bench.group.status();
    assert_eq!((status.term, status.vote), (term(7), None));
    assert_eq!(status.role, RoleKind::Follower);
}

#[test]
fn whoever_leads_in_a_term_that_is_over_is_told_so() {
    let mut bench = Bench::follower(&[1]);
    bench.hear(THREE, vote_reply(true, term(5), 1, Verdict::Refused));
    bench.sync();
    for stale in [heartbeat(2, 0), Message::Append(append(2, (1, 1), &[2], 0))] {
        bench.sent.clear();
        bench.hear(TWO, stale);
        bench.sync();
        let told = bench.messages_to(TWO).iter().map(|message| message.term()).collect::<Vec<_>>();
        assert_eq!((told, bench.group.status().leader), (vec![term(5)], None));
    }
}

#[test]
fn longer_log_and_higher_term_do_not_refuse_each_other_for_ever() {
    // Replica 1 has the higher term, 2 the longer log; 3 is away.
    let mut fleet = Fleet::with_logs(&[&[1], &[1, 1, 1], &[]], Settings::default());
    let mut ahead = fleet.recovered(ONE);
    ahead.hard_state.term = term(9);
    fleet.crash(ONE);
    fleet.start_from(ONE, ahead);
    fleet.isolate(THREE);
    fleet.live(Duration::from_secs(4));
    assert_eq!(fleet.leader(), Some(TWO));
    assert!(fleet.group(TWO).term() > term(9));
    assert_eq!(fleet.terms(ONE)[..3], [1, 1, 1]);
}

#[test]
fn a_follower_of_a_live_leader_refuses_to_help_depose_it() {
    let mut bench = Bench::follower(&[]);
    bench.hear(TWO, heartbeat(1, 0));
    bench.sync();
    bench.sent.clear();
    bench.hear(THREE, Message::PreVote(vote_request(2, 9, 1)));
    assert_eq!(verdict(&bench, THREE), (Verdict::Refused, 1));
    bench.hear(THREE, Message::Vote(vote_request(2, 9, 1)));
    assert_eq!(bench.group.term(), term(1));
    bench.wait(TIMEOUT_MIN);
    bench.sent.clear();
    bench.hear(THREE, Message::PreVote(vote_request(2, 9, 1)));
    assert_eq!(verdict(&bench, THREE), (Verdict::Granted, 2));
}

#[test]
fn a_former_leader_that_stands_again_is_not_refused_for_its_own_sake() {
    let mut bench = Bench::follower(&[]);
    bench.hear(TWO, heartbeat(1, 0));
    bench.sync();
    bench.sent.clear();
    // It restarted: it leads no more, and nobody else does.
    let again = Message::PreVote(vote_request(2, 0, 0));
    bench.hear_from_life(TWO, Incarnation::new(2), again);
    assert_eq!(verdict(&bench, TWO), (Verdict::Granted, 2));
}

#[test]
fn leader_without_quorum_steps_down_and_is_silent() {
    let mut bench = Bench::leader(&[]);
    bench.catch_up(TWO);
    bench.input(Input::Propose { token: token(1), bytes: 100, time: LogTime::default() });
    bench.input(Input::Read { token: token(2), path: ReadPath::Quorum });
    bench.live(TIMEOUT_MIN * 2);
    assert_ne!(bench.role(), RoleKind::Leader);
    let lost = Outcome::Refused(Refusal::LeadershipLost);
    assert_eq!(bench.take_outcomes(), [(token(2), lost)], "the proposal is open");
    bench.sent.clear();
    bench.live(Duration::from_secs(5));
    let all_pre_votes =
        bench.sent.iter().all(|outgoing| matches!(outgoing.message, Message::PreVote(_)));
    assert!(all_pre_votes, "{:?}", bench.sent);
    assert_eq!(bench.append_for(TWO), None);
    assert_eq!(bench.group.term(), term(1));
}

#[test]
fn leader_that_hears_a_quorum_stays() {
    let mut bench = Bench::leader(&[]);
    for _ in 0..50 {
        bench.live(Duration::from_millis(100));
        bench.hear(THREE, heartbeat_reply(1, 0));
    }
    assert_eq!(bench.role(), RoleKind::Leader);
}

#[test]
fn returning_node_does_not_depose_but_catches_up() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.isolate(THREE);
    for _ in 0..3 {
        fleet.works();
        fleet.live(Duration::from_secs(2));
    }
    fleet.join();
    fleet.live(Duration::from_secs(2));
    assert_eq!(fleet.leader(), Some(ONE));
    assert_eq!(fleet.group(ONE).term(), term(1), "nobody had to be elected");
    assert_eq!(fleet.commit(THREE), 4);
    fleet.agree();
}

#[test]
fn returning_node_with_higher_term_is_taken_in_with_a_new_election() {
    let mut fleet = Fleet::of(3);
    // It had won its pre-vote and raised its term just before it was cut off.
    let mut ahead = fleet.recovered(THREE);
    ahead.hard_state = HardState { term: term(5), vote: Some(THREE) };
    fleet.crash(THREE);
    fleet.elect(ONE);
    fleet.start_from(THREE, ahead);
    fleet.live(Duration::from_secs(4));
    fleet.agree();
    let terms = [ONE, TWO, THREE].map(|id| fleet.group(id).term());
    assert!(terms.iter().all(|of| *of == terms[0] && *of > term(5)), "{terms:?}");
    assert_eq!(fleet.terms(THREE)[0], 1);
}

#[test]
fn disk_slower_than_the_election_timeout_still_elects() {
    let mut alone = start(ONE, &[]);
    alone.base = base([ONE]);
    let mut bench = Bench::new(alone);
    bench.live(Duration::from_secs(1));
    let own_vote = bench.take();
    bench.live(Duration::from_secs(10));
    assert!(bench.effects.persist.is_none(), "no further attempt queues up");
    bench.persisted(own_vote.seq);
    assert_eq!(bench.role(), RoleKind::Leader);
    assert_eq!(bench.group.term(), term(1));
}

#[test]
fn candidate_waits_a_full_timeout_from_the_moment_it_could_ask() {
    let mut bench = Bench::follower(&[]);
    bench.input(Input::Campaign);
    bench.hear(TWO, vote_reply(true, term(1), 1, Verdict::Granted));
    let own_vote = bench.take();
    bench.live(Duration::from_secs(3));
    bench.persisted(own_vote.seq);
    let due = bench.group.next_deadline().expect("a candidate has a deadline");
    assert!(due.since(bench.now) >= TIMEOUT_MIN);
}

#[test]
fn two_leaders_in_one_term_mute_the_group() {
    // Whatever the second one says of itself.
    let members = Membership::of_voters([ONE, TWO, THREE]).expect("distinct voters");
    let meta = SnapshotMeta {
        index: index(5),
        term: term(1),
        time: LogTime::default(),
        config_index: index(0),
        membership: Arc::new(members),
    };
    let offer = SnapshotOffer { term: term(1), session: Session::new(1), meta };
    for word in
        [heartbeat(1, 0), Message::Append(append(1, (0, 0), &[1], 0)), Message::Snapshot(offer)]
    {
        let mut bench = Bench::follower(&[]);
        bench.hear(TWO, heartbeat(1, 0));
        bench.hear(THREE, word.clone());
        let two = Some(Fault::TwoLeaders { term: term(1), first: TWO, second: THREE });
        assert_eq!(bench.fault(), two, "{word:?}");
        assert_eq!(bench.group.last_index(), index(0), "nothing was taken: {word:?}");
        assert!(bench.effects.snapshot.is_none());
    }
}

#[test]
fn heartbeats_fall_on_the_grid_of_the_node() {
    let mut odd = start(ONE, &[]);
    odd.settings = Arc::new(Settings::default());
    let mut bench = Bench::new(odd);
    bench.wait(Duration::from_micros(123_457));
    bench.input(Input::Campaign);
    bench.hear(TWO, vote_reply(true, term(1), 1, Verdict::Granted));
    bench.sync();
    bench.hear(TWO, vote_reply(false, term(1), 2, Verdict::Granted));
    assert_eq!(bench.role(), RoleKind::Leader);
    assert_eq!(bench.group.next_deadline(), Some(Micros::new(200_000)));
}

#[test]
fn leader_whose_log_or_machine_is_not_to_be_trusted_goes_mute_with_evidence() {
    let at = index(1);
    for (input, fault) in [
        (Input::LogUnreadable(at), Fault::LogUnreadable { index: at }),
        (Input::ApplyFailed(at), Fault::ApplyFailed { index: at }),
    ] {
        let mut bench = Bench::leader(&[1]);
        bench.input(Input::Propose { token: token(9), bytes: 1, time: LogTime::default() });
        bench.input(input);
        assert!(!bench.group.is_leader());
        assert_eq!(bench.fault(), Some(fault));
        assert_eq!(bench.group.next_deadline(), None, "it does not campaign either");
        assert!(bench.take_outcomes().contains(&(token(9), Outcome::Unknown)));
    }
}

/// A lease counts on every follower that answered a heartbeat to vote for nobody else for a while.
/// That its leader's term is over frees it to follow, not to elect.
#[test]
fn patience_with_a_leader_outlives_its_term() {
    let late_words = [
        // The target of a hand-over that failed; what it was asked came late.
        Message::Vote(VoteRequest { cause: Campaign::Transfer, ..vote_request(2, 1, 1) }),
        // Answers to what we asked when we led.
        heartbeat_reply(2, 0),
        vote_reply(false, term(2), 9, Verdict::Refused),
        vote_reply(true, term(2), 9, Verdict::Refused),
    ];
    for late in late_words {
        let mut bench = Bench::follower(&[1, 1]);
        bench.hear(TWO, heartbeat(1, 0));
        bench.hear(THREE, late.clone());
        assert_eq!(bench.group.term(), term(2));
        bench.sync();
        bench.sent.clear();
        for of in [2, 3] {
            bench.hear(THREE, Message::Vote(vote_request(of, 2, 1)));
            bench.sync();
            assert_eq!(bench.group.status().vote, None, "after {late:?}");
        }
        bench.input(Input::Campaign);
        assert_eq!(bench.role(), RoleKind::Follower, "after {late:?}");
        bench.sent.clear();
        bench.hear(THREE, Message::PreVote(vote_request(4, 2, 1)));
        assert_eq!(verdict(&bench, THREE), (Verdict::Refused, 2), "after {late:?}");
        bench.sent.clear();
        bench.wait(TIMEOUT_MIN);
        bench.hear(THREE, Message::PreVote(vote_request(4, 2, 1)));
        assert_eq!(verdict(&bench, THREE), (Verdict::Granted, 4), "after {late:?}");
    }
}

#[test]
fn a_sleeping_follower_keeps_its_patience_with_a_leader_that_is_gone() {
    // The leader's node is cut off at once, and may answer reads from its lease for a while; or
    // after a long sleep, and nothing is owed any more.
    for (slept, want) in
        [(Duration::ZERO, (Verdict::Refused, 1)), (TIMEOUT_MIN, (Verdict::Granted, 2))]
    {
        let mut bench = Bench::follower(&[1]);
        bench.hear(TWO, Message::Append(append(1, (1, 1), &[], 1)));
        let good_night = Heartbeat {
            term: term(1),
            commit: index(1),
            quorum_durable: index(1),
            read_seq: 0,
            sent: Micros::ZERO,
            rest: Rest::Quiesce,
        };
        bench.hear(TWO, Message::Heartbeat(good_night));
        assert!(bench.group.is_asleep());
        bench.wait(slept);
        bench.input(Input::PeerUnreachable(TWO));
        assert!(!bench.group.is_asleep());
        bench.sent.clear();
        bench.hear(THREE, Message::PreVote(vote_request(2, 1, 1)));
        assert_eq!(verdict(&bench, THREE), want);
    }
}

/// There is no leader whose word could be on its way, so nobody has to wait for it.
#[test]
fn a_newborn_group_is_led_at_once_by_the_first_by_rank() {
    for size in [1, 3, 5] {
        let mut fleet = Fleet::of(size);
        let first = fleet.group(ONE).first_by_rank().expect("voters");
        fleet.live(Duration::from_millis(5));
        assert_eq!(fleet.leader(), Some(first), "of {size}");
        assert!(fleet.commit(first) >= 1);
    }
}

/// A group is made on one node after the other: who asks before there is anybody asks again soon. If it
/// never comes to be where its first by rank would, the next does not wait longer than ever.
#[test]
fn a_newborn_asks_again_soon_and_the_next_by_rank_does_not_wait_for_it() {
    let mut fleet = Fleet::of(3);
    let first = fleet.group(ONE).first_by_rank().expect("voters");
    for id in fleet.ids().into_iter().filter(|id| *id != first) {
        fleet.isolate(id);
    }
    fleet.live(Duration::from_millis(40));
    assert_eq!(fleet.leader(), None);
    fleet.join();
    fleet.live(Duration::from_millis(70));
    assert_eq!(fleet.leader(), Some(first));

    let mut fleet = Fleet::of(3);
    fleet.isolate(first);
    fleet.live(Settings::default().election_timeout_min * 5 / 8 + Duration::from_millis(20));
    assert!(fleet.leader().is_some_and(|leader| leader != first), "{:?}", fleet.leader());
}
