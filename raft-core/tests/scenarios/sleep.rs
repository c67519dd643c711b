//! What ends the sleep of a group, and what does not.

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Base, Campaign, Candidacy, DiskSpace, Heartbeat, Input, Membership, Message, Micros, Promise,
    PromiseRecord, ReplicaId, Rest, RoleKind, Settings, Standing, Start, Verdict, VoteRequest,
};

use crate::bench::*;

const PATIENCE: Duration = Duration::from_secs(1);

/// The leader's last word: everybody holds and has committed up to here.
fn good_night(of: u64, at: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: term(of),
        commit: index(at),
        quorum_durable: index(at),
        read_seq: 0,
        sent: Micros::ZERO,
        rest: Rest::Quiesce,
    })
}

/// A leader in term 1 that fell asleep; and what its peers acknowledged last.
fn sleeping_leader() -> (Bench, Message) {
    let mut start = start(ONE, &[]);
    start.settings = Arc::new(Settings { quiesce_after: Some(PATIENCE), ..Settings::default() });
    let mut bench = Bench::leader_of(start);
    let probe = bench.append_for(TWO).expect("a probe");
    bench.hear(TWO, accepted(&probe, 0));
    let entry = bench.append_for(TWO).expect("the no-op");
    let acknowledgement = accepted(&entry, 1);
    bench.hear(TWO, acknowledgement.clone());
    bench.catch_up(THREE);
    for _ in 0..40 {
        if bench.group.is_asleep() {
            break;
        }
        bench.live(Duration::from_millis(50));
        for peer in [TWO, THREE] {
            bench.hear(peer, heartbeat_reply(1, 0));
        }
    }
    assert!(bench.group.is_asleep());
    bench.sent.clear();
    (bench, acknowledgement)
}

fn sleeping_follower() -> Bench {
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::Append(append(1, (1, 1), &[], 1)));
    bench.hear(TWO, good_night(1, 1));
    assert!(bench.group.is_asleep());
    bench.sent.clear();
    bench
}

/// Answers to the last heartbeat, and a late acknowledgement, would else wake every group that
/// has just gone to sleep.
#[test]
fn a_sleeping_leader_is_not_woken_by_what_only_answers_it() {
    let (mut bench, acknowledgement) = sleeping_leader();
    for peer in [TWO, THREE] {
        bench.hear(peer, heartbeat_reply(1, 0));
    }
    bench.hear(TWO, acknowledgement);
    assert!(bench.group.is_asleep());
    assert_eq!((bench.group.next_deadline(), bench.sent.len()), (None, 0));
    // One that knows of a newer term is news.
    bench.hear(TWO, heartbeat_reply(2, 0));
    assert!(!bench.group.is_asleep() && !bench.group.is_leader());
    assert!(bench.group.next_deadline().is_some());
}

#[test]
fn a_sleeping_follower_answers_a_repeated_good_night_and_sleeps_on() {
    let mut bench = sleeping_follower();
    bench.hear(TWO, good_night(1, 1));
    assert!(bench.group.is_asleep());
    assert_eq!(bench.group.next_deadline(), None);
    assert!(matches!(bench.messages_to(TWO)[..], [Message::HeartbeatReply(_)]));
}

#[test]
fn a_sleeping_follower_wakes_when_more_than_the_last_word_comes() {
    let words = [
        heartbeat(1, 1),
        good_night(1, 2),
        good_night(2, 1),
        Message::Append(append(1, (1, 1), &[1], 1)),
        Message::PreVote(vote_request(2, 1, 1)),
    ];
    for word in words {
        let mut bench = sleeping_follower();
        bench.hear(TWO, word.clone());
        assert!(!bench.group.is_asleep(), "{word:?}");
        assert!(bench.group.next_deadline().is_some(), "{word:?}");
    }
}

/// A follower cannot be told by another follower that the leader sleeps on.
#[test]
fn a_sleeping_follower_wakes_at_an_answer_that_is_for_a_leader() {
    let mut bench = sleeping_follower();
    let reply = accepted(&append(1, (1, 1), &[], 1), 1);
    bench.hear(TWO, reply);
    assert!(!bench.group.is_asleep());
}

/// It may come back without its promises, and then it cannot wake anybody.
#[test]
fn a_sleeping_leader_wakes_when_a_member_is_gone() {
    let (mut bench, _) = sleeping_leader();
    bench.input(Input::PeerUnreachable(ReplicaId::new(9)));
    assert!(bench.group.is_asleep(), "a stranger is none of its business");
    bench.input(Input::PeerUnreachable(THREE));
    assert!(!bench.group.is_asleep() && bench.group.next_deadline().is_some());
}

/// Each way in which a member may not stand for election, and began anew while its leader sleeps.
fn barred() -> Vec<(&'static str, Bench)> {
    let began = |change: &dyn Fn(&mut Start)| {
        let mut start = start(ONE, &[1]);
        change(&mut start);
        Bench::new(start)
    };
    let told = |input: Input| {
        let mut bench = Bench::follower(&[1]);
        bench.input(input);
        bench
    };
    let lost = |promise| PromiseRecord { promise, loss_epoch: 0 };
    vec![
        ("a learner", began(&|start| start.base = with_learner(ONE))),
        ("it may have forgotten", began(&|start| start.promise = lost(Promise::Lost))),
        ("its log was damaged", began(&|start| start.promise = lost(Promise::Damaged))),
        (
            "it is not eager to lead at all",
            began(&|start| {
                start.settings = Arc::new(Settings { priority: 0, ..Settings::default() });
            }),
        ),
        ("it takes no office", told(Input::Candidacy(Candidacy::Withheld))),
        ("its disk is full", told(Input::Disk(DiskSpace::Full))),
    ]
}

/// Of three, all but one are voters.
fn with_learner(learner: ReplicaId) -> Base {
    let members = [ONE, TWO, THREE].map(|id| raft_core::Member {
        replica: id,
        node: raft_core::NodeId::new(id.get()),
        standing: if id == learner { Standing::Learner } else { Standing::Voter },
    });
    Base::first(Membership::new(members).expect("distinct members"))
}

fn questions(bench: &Bench) -> Vec<VoteRequest> {
    let asked = bench.messages_to(TWO).into_iter().filter_map(|message| match message {
        Message::PreVote(request) => Some(*request),
        _ => None,
    });
    asked.collect()
}

/// Nobody else would ever tell it: a sleeping leader believes that all know what it knows.
#[test]
fn a_member_that_may_not_stand_asks_for_its_leader() {
    for (why, mut bench) in barred() {
        bench.live(Duration::from_secs(4));
        let asked = questions(&bench);
        assert!(!asked.is_empty(), "{why}");
        assert!(asked.iter().all(|request| request.cause == Campaign::Barred), "{why}: {asked:?}");
        assert_eq!(bench.messages_to(THREE).len(), asked.len(), "{why}");
        assert_eq!(bench.role(), RoleKind::Follower, "{why}");
        // It hears, and is silent as long as it does.
        for _ in 0..40 {
            bench.hear(TWO, heartbeat(1, 0));
            bench.live(Duration::from_millis(100));
        }
        assert_eq!(bench.group.leader(), Some(TWO), "{why}");
        assert_eq!(questions(&bench).len(), asked.len(), "{why}");
        // What it missed of a leader that fell asleep, it asks for as well.
        bench.live(Duration::from_secs(4));
        assert!(questions(&bench).len() > asked.len(), "{why}");
        assert_eq!(bench.group.leader(), None, "{why}");
    }
}

/// Hours without a leader cost no more than a word now and then.
#[test]
fn it_asks_ever_more_seldom() {
    for (why, mut bench) in barred() {
        bench.live(Duration::from_secs(20));
        let soon = questions(&bench).len();
        bench.live(Duration::from_secs(3_600));
        let late = questions(&bench).len() - soon;
        let patience = Settings::default().election_timeout_min;
        let at_most = Duration::from_secs(3_600).as_micros() / (patience * 8).as_micros();
        assert!(late as u128 <= at_most && late > 100, "{why}: {soon} {late}");
    }
}

#[test]
fn a_question_for_the_leader_is_no_candidacy() {
    let question = VoteRequest { cause: Campaign::Barred, ..vote_request(2, 1, 1) };
    // Nobody leads, and the log is as long as ours; yet nothing is granted.
    let mut bench = Bench::follower(&[1]);
    bench.hear(TWO, Message::PreVote(question));
    bench.hear(THREE, Message::Vote(question));
    let refused = [vote_reply(true, term(1), 1, Verdict::Refused)];
    assert_eq!(bench.messages_to(TWO), refused.iter().collect::<Vec<_>>());
    let refused = [vote_reply(false, term(1), 1, Verdict::Refused)];
    assert_eq!(bench.messages_to(THREE), refused.iter().collect::<Vec<_>>());
    assert_eq!(bench.group.term(), term(1));
    // A learner that all would vote for stands for nothing.
    let mut start = start(ONE, &[1]);
    start.base = with_learner(ONE);
    let mut bench = Bench::new(start);
    bench.live(Duration::from_secs(4));
    let attempt = bench.attempt();
    for voter in [TWO, THREE] {
        bench.hear(voter, vote_reply(true, term(2), attempt, Verdict::Granted));
    }
    assert_eq!((bench.role(), bench.group.term()), (RoleKind::Follower, term(1)));
}

#[test]
fn a_sleeping_leader_speaks_up_when_it_is_asked_for() {
    let (mut bench, _) = sleeping_leader();
    let question = VoteRequest { cause: Campaign::Barred, ..vote_request(2, 1, 1) };
    bench.hear(THREE, Message::PreVote(question));
    assert!(!bench.group.is_asleep() && bench.group.is_leader());
    bench.live(Duration::ZERO);
    let heard = bench.messages_to(THREE);
    assert!(heard.iter().any(|message| matches!(message, Message::Heartbeat(_))), "{heard:?}");
}

/// It is a learner, so no vote is ever refused to it; and its leader speaks to it no more.
#[test]
fn a_removed_learner_is_told_when_it_asks() {
    let mut start = start(ONE, &[1]);
    start.base = with_learner(ONE);
    let mut bench = Bench::new(start);
    bench.live(Duration::from_secs(4));
    let attempt = bench.attempt();
    bench.hear(TWO, vote_reply(true, term(1), attempt, Verdict::Removed));
    assert!(bench.group.is_removed());
    assert_eq!(bench.group.next_deadline(), None);
}
