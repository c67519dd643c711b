//! Who belongs to the group, while that changes (thesis, chapter 4).

use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Base, Campaign, Input, LogIndex, LogTime, Member, MemberChange, Membership, MembershipError,
    Message, NodeId, Outcome, ReadPath, Refusal, ReplicaId, RoleKind, Standing, Start, Verdict,
    VoteRequest,
};

use crate::bench::*;
use crate::fleet::Fleet;

mod joint;

const FOUR: ReplicaId = ReplicaId::new(4);
const FIVE: ReplicaId = ReplicaId::new(5);

/// A set of replicas 1 to 5, one bit for each.
type Set = u32;

fn set(of: Set) -> impl Iterator<Item = ReplicaId> + Clone {
    (1..=5).filter(move |id| of >> (id - 1) & 1 == 1).map(ReplicaId::new)
}

/// All five are members, these of them voters and the others learners.
fn voters_of_five(voters: Set) -> Membership {
    let members = set(0b11111).map(|replica| {
        let votes = set(voters).any(|voter| voter == replica);
        let standing = if votes { Standing::Voter } else { Standing::Learner };
        Member { replica, node: NodeId::new(replica.get()), standing }
    });
    Membership::new(members).expect("a sound membership")
}

/// From these voters to those, the others stay as learners.
fn changes(before: Set, after: Set) -> Vec<MemberChange> {
    let promoted = set(after & !before).map(MemberChange::Promote);
    let demoted = set(before & !after).map(MemberChange::Demote);
    promoted.chain(demoted).collect()
}

fn propose(bench: &mut Bench, of: u64) {
    bench.input(Input::Propose { token: token(of), bytes: 100, time: LogTime::default() });
}

fn change(bench: &mut Bench, of: u64, changes: &[MemberChange]) -> Option<Outcome> {
    let changes = changes.to_vec();
    bench.input(Input::ChangeMembership { token: token(of), changes });
    let outcomes = bench.take_outcomes();
    outcomes.iter().find(|(ended, _)| *ended == token(of)).map(|(_, outcome)| *outcome)
}

/// Replica 1 leads, and all members hold what it holds.
fn leader_of_five(voters: Set) -> Bench {
    let mut start = start(ONE, &[]);
    start.base = Base::first(voters_of_five(voters));
    let mut bench = Bench::new(start);
    let others: Vec<ReplicaId> = set(voters & !1).collect();
    if others.is_empty() {
        bench.input(Input::Campaign);
        bench.sync();
    } else {
        bench.stand(&others);
        bench.sync();
    }
    for other in set(0b11110) {
        bench.catch_up(other);
    }
    assert_eq!(bench.commit(), 1);
    bench
}

#[test]
fn learners_neither_commit_nor_elect_nor_confirm_nor_keep_a_leader_in_office() {
    let mut bench = leader_of_five(0b00111);
    propose(&mut bench, 1);
    bench.sync();
    bench.input(Input::Read { token: token(2), path: ReadPath::Quorum });
    for learner in [FOUR, FIVE] {
        bench.catch_up(learner);
        bench.hear(learner, heartbeat_reply(1, 1));
    }
    assert_eq!((bench.commit(), bench.take_outcomes()), (1, vec![]));
    for _ in 0..6 {
        bench.live(Duration::from_millis(100));
        for learner in [FOUR, FIVE] {
            bench.hear(learner, heartbeat_reply(1, 0));
        }
    }
    assert!(!bench.group.is_leader(), "no voter was heard");

    let mut start = start(ONE, &[1]);
    start.base = Base::first(voters_of_five(0b00111));
    let mut bench = Bench::new(start);
    bench.input(Input::Campaign);
    for learner in [FOUR, FIVE] {
        bench.hear(learner, vote_reply(true, term(2), 1, Verdict::Granted));
    }
    assert_eq!(bench.role(), RoleKind::PreCandidate);
}

/// A log with memberships that nobody ever said are committed.
fn with_configs(log: &[u64], configs: &[(u64, &[u64])]) -> Start {
    let mut start = start(ONE, log);
    start.configs = configs
        .iter()
        .map(|(at, voters)| {
            let voters = voters.iter().copied().map(ReplicaId::new);
            (index(*at), Arc::new(Membership::of_voters(voters).expect("distinct voters")))
        })
        .collect();
    start
}

#[test]
fn a_restarted_replica_counts_votes_by_its_newest_membership_committed_or_not() {
    // Log, memberships in it, and how many grants of 2, 3, 4, 5 in this order elect replica 1.
    type Case = (&'static [(u64, &'static [u64])], usize);
    let cases: [Case; 5] = [
        (&[], 1),
        (&[(2, &[1, 2, 3, 4])], 2),
        (&[(2, &[1, 2, 3, 4]), (3, &[1, 2, 3, 4, 5])], 2),
        (&[(2, &[1, 2, 3, 4, 5]), (3, &[1, 4, 5])], 3),
        (&[(1, &[1, 2, 3, 4, 5]), (3, &[1])], 0),
    ];
    for (configs, needed) in cases {
        let mut bench = Bench::new(with_configs(&[1, 1, 1], configs));
        bench.input(Input::Campaign);
        for (grants, voter) in (2..=5).map(ReplicaId::new).enumerate() {
            let shown = format!("{configs:?} with {grants} grants");
            let asked = bench.role() == RoleKind::PreCandidate;
            assert_eq!(asked, grants < needed, "{shown}");
            if asked {
                bench.hear(voter, vote_reply(true, term(2), 1, Verdict::Granted));
            }
        }
        bench.sync();
        let attempt = if needed == 0 { 2 } else { bench.attempt() };
        for (grants, voter) in (2..=5).map(ReplicaId::new).enumerate() {
            assert_eq!(bench.group.is_leader(), grants >= needed, "{configs:?}, {grants}");
            bench.hear(voter, vote_reply(false, term(2), attempt, Verdict::Granted));
        }
    }
}

/// A removal that nobody committed may still be rolled back: neither the replica that it names nor
/// others take it for done.
#[test]
fn a_removal_that_is_not_committed_is_believed_by_nobody() {
    let bench = Bench::new(with_configs(&[1, 1, 1], &[(2, &[1, 2, 3]), (3, &[2, 3])]));
    assert!(!bench.group.status().removed, "it may be a member still");

    let mut bench = Bench::new(with_configs(&[1, 1, 1], &[(2, &[1, 2, 3]), (3, &[1, 3])]));
    bench.hear(TWO, Message::Vote(vote_request(2, 1, 1)));
    bench.sync();
    let verdicts = bench.messages_to(TWO).into_iter().filter_map(|message| match message {
        Message::VoteReply(reply) => Some(reply.verdict),
        _ => None,
    });
    assert_eq!(verdicts.collect::<Vec<_>>(), [Verdict::Refused], "its log is too short, no more");
}

/// What it hears of afterwards is no term of its leader's.
#[test]
fn a_removed_replica_remembers_by_which_term_it_was() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    assert_eq!(fleet.group(THREE).removed_in(), None);
    let term = fleet.group(ONE).term();
    fleet.change(ONE, &[MemberChange::Remove(THREE)]);
    fleet.live(Duration::from_millis(100));
    assert!(fleet.group(THREE).is_removed());
    assert_eq!(fleet.group(THREE).removed_in(), Some(term));
    assert_eq!(fleet.group(ONE).removed_in(), None);
}

#[test]
fn a_change_before_the_own_noop_is_committed_is_refused() {
    let mut start = start(ONE, &[1]);
    start.base = Base::first(voters_of_five(0b00111));
    let mut bench = Bench::leader_of(start);
    let demote = [MemberChange::Demote(THREE)];
    let young = Outcome::Refused(Refusal::TermTooYoung);
    assert_eq!(change(&mut bench, 1, &demote), Some(young));
    bench.catch_up(TWO);
    assert_eq!(change(&mut bench, 2, &demote), None);
    let pending = Outcome::Refused(Refusal::ChangePending);
    assert_eq!(change(&mut bench, 3, &[MemberChange::Demote(TWO)]), Some(pending));
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(change(&mut bench, 4, &[MemberChange::Remove(FIVE)]), None);
}

/// The bug of 2015: four voters, and two leaders that each want one voter more or less. Both
/// changes must never be committed, whoever of the rest hears of which.
#[test]
fn two_leaders_that_change_different_voters_never_both_commit() {
    for witness in [THREE, FOUR] {
        for change_of_two in [MemberChange::Remove(ONE), MemberChange::Demote(ONE)] {
            let mut fleet = Fleet::of(4);
            fleet.elect(ONE);
            fleet.add_learner(FIVE);
            fleet.live(Duration::from_millis(100));
            // Replica 1 promotes 5, and only 5 hears of it.
            for other in [TWO, THREE, FOUR] {
                fleet.cut(ONE, other);
                fleet.cut(FIVE, other);
            }
            let first = fleet.change(ONE, &[MemberChange::Promote(FIVE)]);
            fleet.settle();
            // Replica 2 is elected by all others, but only one of them hears what it appends.
            fleet.hold(move |packet| {
                let heard = packet.to == witness || packet.to == TWO;
                matches!(packet.message, Message::Append(_)) && !heard
            });
            fleet.stand_first(TWO);
            assert!(fleet.group(TWO).is_leader());
            let second = fleet.change(TWO, &[change_of_two]);
            fleet.settle();
            let young = Outcome::Refused(Refusal::TermTooYoung);
            let refused = fleet.outcome(second);
            assert!(refused == Some(young) || fleet.is_committed(second), "{refused:?}");
            // It falls silent; 1 comes back with 5 and the one that heard nothing of it.
            let other = if witness == THREE { FOUR } else { THREE };
            fleet.isolate(TWO);
            fleet.isolate(witness);
            fleet.let_pass();
            fleet.held.clear();
            fleet.join_only(&[(ONE, FIVE), (ONE, other), (FIVE, other)]);
            fleet.live(Duration::from_secs(4));
            fleet.join();
            fleet.live(Duration::from_secs(4));
            fleet.works();
            fleet.live(Duration::from_millis(100));
            assert_eq!((refused, fleet.is_committed(first)), (Some(young), true));
        }
    }
}

/// Random appends and cuts of memberships, several at once: the one in force is always the last
/// in the log.
#[test]
fn truncation_brings_back_the_membership_before_any_number_of_cut_ones() {
    for seed in 1..300u64 {
        let mut state = seed;
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let mut bench = Bench::follower(&[1]);
        // Terms and memberships by position.
        let mut log: Vec<(u64, Option<Arc<Membership>>)> = vec![(1, None)];
        for of in 2..30 {
            // The leader of each term agrees up to some place, and goes on with its own.
            let keep = 1 + draw(log.len() as u64) as usize;
            let (prev, prev_term) = (keep as u64, log[keep - 1].0);
            let count = 1 + draw(3);
            let mut message = append(of, (prev, prev_term), &vec![of; count as usize], 0);
            log.truncate(keep);
            for at in prev + 1..=prev + count {
                let voters = (1..=1 + draw(6)).map(ReplicaId::new);
                let config =
                    (draw(3) > 0).then(|| Arc::new(Membership::of_voters(voters).unwrap()));
                if let Some(config) = &config {
                    message.configs.push((index(at), Arc::clone(config)));
                }
                log.push((of, config));
            }
            bench.hear(if of % 2 == 0 { TWO } else { THREE }, Message::Append(message));
            let decided = log
                .iter()
                .zip(1..)
                .filter_map(|((_, config), at)| config.clone().map(|config| (index(at), config)));
            let (at, config) = decided.last().unwrap_or_else(|| {
                let first = Membership::of_voters([ONE, TWO, THREE]).unwrap();
                (LogIndex::ZERO, Arc::new(first))
            });
            assert_eq!(bench.group.membership(), &config, "seed {seed}, term {of}");
            assert_eq!(bench.group.membership_index(), at, "seed {seed}, term {of}");
        }
        assert_eq!(bench.fault(), None);
    }
}

#[test]
fn a_removed_replicas_id_is_never_taken_again() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.change(ONE, &[MemberChange::Remove(THREE)]);
    fleet.settle();
    for replica in [THREE, TWO] {
        let add = MemberChange::AddLearner { replica, node: NodeId::new(9) };
        let refused = fleet.change(ONE, &[add]);
        let reused = MembershipError::Reused { replica, last: THREE };
        let want = Outcome::Refused(Refusal::InvalidChange(reused));
        assert_eq!(fleet.outcome(refused), Some(want));
    }
    // Not by a leader that came to office after the removal either.
    fleet.transfer(ONE, TWO);
    fleet.settle();
    let add = MemberChange::AddLearner { replica: THREE, node: NodeId::new(3) };
    let refused = fleet.change(TWO, &[add]);
    assert!(matches!(fleet.outcome(refused), Some(Outcome::Refused(Refusal::InvalidChange(_)))));
}

/// What a voter said before it was removed, demoted, or came back as a voter, is heard late.
#[test]
fn an_acknowledgement_from_before_a_removal_moves_nothing() {
    let mut bench = leader_of_five(0b00111);
    propose(&mut bench, 1);
    bench.sync();
    let late = bench.append_for(THREE).expect("entry 2");
    assert_eq!(change(&mut bench, 2, &[MemberChange::Remove(THREE)]), None);
    bench.sync();
    let entry_3 = bench.append_for(THREE).expect("it is told of its removal");
    for append in [&late, &entry_3] {
        bench.hear(THREE, accepted(append, append.last_index().get()));
        assert_eq!(bench.commit(), 1, "only 1 and 2 vote now");
    }
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 3);
    // It is gone for good after a while, and whatever it says then is not even looked at.
    for _ in 0..15 {
        bench.live_with(TWO, Duration::from_millis(100));
    }
    bench.hear(THREE, accepted(&late, 2));
    assert_eq!((bench.fault(), bench.group.next_index(THREE)), (None, None));

    // A voter that became a learner and a voter again in one term.
    let mut bench = leader_of_five(0b00111);
    propose(&mut bench, 1);
    bench.sync();
    let late = bench.append_for(THREE).expect("entry 2");
    for (of, change_of) in
        [MemberChange::Demote(THREE), MemberChange::Promote(THREE)].into_iter().enumerate()
    {
        bench.input(Input::PeerUnreachable(THREE));
        let probe = bench.append_for(THREE).expect("a probe");
        bench.hear(THREE, accepted(&probe, 1));
        assert_eq!(change(&mut bench, 5 + of as u64, &[change_of]), None);
        bench.sync();
        bench.catch_up(TWO);
    }
    propose(&mut bench, 9);
    bench.sync();
    let before = bench.commit();
    bench.hear(THREE, accepted(&late, 2));
    assert_eq!((bench.commit(), bench.group.match_of_all()), (before, Some(index(1))));
}

#[test]
fn reads_under_way_are_judged_by_the_voters_in_force() {
    // Three voters become five at once: one peer is no majority any more.
    let mut bench = leader_of_five(0b00111);
    bench.input(Input::Read { token: token(1), path: ReadPath::Quorum });
    let promote = [MemberChange::Promote(FOUR), MemberChange::Promote(FIVE)];
    assert_eq!(change(&mut bench, 2, &promote), None);
    bench.hear(TWO, heartbeat_reply(1, 1));
    assert!(bench.take_outcomes().is_empty(), "two of three, but also two of five");
    bench.hear(FOUR, heartbeat_reply(1, 1));
    assert_eq!(bench.take_outcomes().len(), 1);
    // Three voters become one: nobody need be asked any more.
    let mut bench = leader_of_five(0b00111);
    bench.input(Input::Read { token: token(1), path: ReadPath::Quorum });
    let demote = [MemberChange::Demote(TWO), MemberChange::Demote(THREE)];
    assert_eq!(change(&mut bench, 2, &demote), None);
    bench.sync();
    bench.catch_up(TWO);
    bench.sync();
    bench.catch_up(TWO);
    let ended = bench.take_outcomes();
    let ready =
        ended.iter().any(|(of, end)| *of == token(1) && matches!(end, Outcome::ReadReady { .. }));
    assert!(ready, "{ended:?}");
}

/// Replica 3 does not know yet that it votes, and is the only one left who can elect the leader.
#[test]
fn a_learner_promoted_without_knowing_it_grants_its_vote() {
    let mut start = start(THREE, &[1]);
    start.base = Base::first(voters_of_five(0b00011));
    let mut bench = Bench::new(start);
    assert_eq!(bench.group.status().standing, Some(Standing::Learner));
    let request = VoteRequest { cause: Campaign::Timeout, ..vote_request(2, 2, 1) };
    bench.hear(ONE, Message::PreVote(request));
    bench.hear(ONE, Message::Vote(request));
    bench.sync();
    let verdicts: Vec<Verdict> = bench
        .messages_to(ONE)
        .iter()
        .map(|message| match message {
            Message::PreVoteReply(reply) | Message::VoteReply(reply) => reply.verdict,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(verdicts, [Verdict::Granted; 2]);

    // The same with everybody: the promotion is on 1 and 2 only, and 2 is lost.
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.add_learner(FOUR);
    fleet.crash(THREE);
    fleet.hold(|packet| packet.to == FOUR && matches!(packet.message, Message::Append(_)));
    fleet.change(ONE, &[MemberChange::Promote(FOUR)]);
    fleet.settle();
    fleet.held.clear();
    fleet.let_pass();
    fleet.crash(ONE);
    fleet.crash(TWO);
    fleet.restart(ONE);
    fleet.restart(THREE);
    assert_eq!(fleet.group(FOUR).status().standing, Some(Standing::Learner));
    fleet.live(Duration::from_secs(4));
    fleet.works();
}

#[test]
fn a_removed_leader_hands_over_and_falls_silent() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    let change = fleet.change(ONE, &[MemberChange::Remove(ONE)]);
    fleet.settle();
    assert!(fleet.is_committed(change));
    let next = fleet.leader().expect("it handed over at once");
    assert_ne!(next, ONE);
    assert!(fleet.group(ONE).status().removed);
    fleet.hold(|packet| packet.from == ONE);
    fleet.live(Duration::from_secs(5));
    assert!(fleet.held.is_empty(), "{:?}", fleet.held);
    assert_eq!(fleet.leader(), Some(next));
    fleet.works();
}

/// It hears that it was removed from the leader, if it hears anything in time.
#[test]
fn a_removed_peer_is_told_for_a_while_and_then_forgotten() {
    let mut bench = leader_of_five(0b00111);
    assert_eq!(change(&mut bench, 1, &[MemberChange::Remove(THREE)]), None);
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 2);
    let farewell = bench.append_for(THREE).expect("the entry that removes it");
    assert_eq!(farewell.configs.len(), 1);
    bench.hear(THREE, accepted(&farewell, 2));
    bench.live_with(TWO, Duration::from_millis(300));
    assert!(bench.group.replicated_to().contains(&THREE));
    let told = bench.messages_to(THREE).iter().any(
        |message| matches!(message, Message::Heartbeat(heartbeat) if heartbeat.commit == index(2)),
    );
    assert!(told, "that its removal is committed");
    bench.live_with(TWO, Duration::from_secs(2));
    assert_eq!(bench.group.replicated_to(), [TWO, FOUR, FIVE]);
    bench.sent.clear();
    bench.live_with(TWO, Duration::from_secs(1));
    assert!(bench.messages_to(THREE).is_empty() && !bench.messages_to(TWO).is_empty());
}

/// On slow links a later change may be open for long, and takes nothing back.
#[test]
fn a_removed_replica_that_asks_is_told_so_while_a_later_change_is_open() {
    let mut bench = leader_of_five(0b00111);
    let told = |bench: &mut Bench| {
        let request = vote_request(bench.group.term().get() + 1, 1, 1);
        bench.sent.clear();
        bench.hear(THREE, Message::PreVote(request));
        bench.messages_to(THREE).into_iter().find_map(|message| match message {
            Message::PreVoteReply(reply) => Some(reply.verdict),
            _ => None,
        })
    };
    assert_eq!(change(&mut bench, 1, &[MemberChange::Remove(THREE)]), None);
    bench.sync();
    assert_eq!(told(&mut bench), Some(Verdict::Refused), "not yet committed");
    bench.catch_up(TWO);
    assert_eq!(change(&mut bench, 2, &[MemberChange::Remove(FIVE)]), None);
    assert!(bench.group.membership_index() > bench.group.commit_index());
    assert_eq!(told(&mut bench), Some(Verdict::Removed));
}

/// It is not counted while it still leads: its removal is committed by those who stay.
#[test]
fn a_leader_being_removed_does_not_count_itself() {
    let mut bench = leader_of_five(0b00111);
    assert_eq!(change(&mut bench, 1, &[MemberChange::Remove(ONE)]), None);
    bench.sync();
    bench.catch_up(TWO);
    assert_eq!(bench.commit(), 1, "one of the two that stay");
    assert!(bench.group.is_leader());
    bench.catch_up(THREE);
    assert_eq!((bench.commit(), bench.group.is_leader()), (2, false));
}

#[test]
fn requests_at_a_removed_replica_end() {
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.hold(|packet| matches!(packet.message, Message::ReadIndexReply(_)));
    let read = fleet.read(THREE, ReadPath::Follower);
    let write = fleet.propose(ONE);
    let change = fleet.change(ONE, &[MemberChange::Remove(THREE)]);
    fleet.settle();
    assert!(fleet.is_committed(write) && fleet.is_committed(change));
    fleet.live(Duration::from_secs(3));
    assert!(fleet.outcome(read).is_some(), "it waits for ever");
    let after = fleet.read(THREE, ReadPath::Follower);
    fleet.live(Duration::from_secs(3));
    assert!(fleet.outcome(after).is_some());
    assert_eq!(fleet.group(THREE).status().open_requests, 0);
    assert!(fleet.group(THREE).status().removed, "it heard of it before it was left alone");

    // The leader removes itself with reads and writes under way.
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    let requests =
        [fleet.read(ONE, ReadPath::Quorum), fleet.propose(ONE), fleet.read(ONE, ReadPath::Quorum)];
    let change = fleet.change(ONE, &[MemberChange::Remove(ONE)]);
    fleet.settle();
    for request in requests.into_iter().chain([change]) {
        assert!(fleet.outcome(request).is_some(), "{request}");
    }
    assert_eq!(fleet.group(ONE).status().open_requests, 0);
}

/// Two voters are added to one: until they have had the time to say anything, their silence says
/// nothing either.
#[test]
fn voters_just_added_have_a_full_timeout_before_their_silence_counts() {
    let mut bench = leader_of_five(0b00001);
    // For long only the leader mattered; nobody else was heard.
    bench.live(Duration::from_secs(5));
    for peer in [TWO, THREE] {
        bench.hear(peer, heartbeat_reply(1, 0));
    }
    bench.live(Duration::from_millis(250));
    let promote = [MemberChange::Promote(TWO), MemberChange::Promote(THREE)];
    assert_eq!(change(&mut bench, 1, &promote), None);
    bench.live(Duration::from_millis(200));
    assert!(bench.group.is_leader());
    bench.hear(TWO, heartbeat_reply(1, 0));
    bench.live(Duration::from_millis(450));
    assert!(bench.group.is_leader(), "it was heard within a timeout");
    bench.live(Duration::from_secs(1));
    assert!(!bench.group.is_leader(), "now their silence counts");
    // A learner that was never heard at all, in a fleet that is slow to reach it.
    let mut fleet = Fleet::of(3);
    fleet.elect(ONE);
    fleet.live(Duration::from_secs(2));
    fleet.add_learner(FOUR);
    fleet.live(Duration::from_millis(100));
    let term = fleet.group(ONE).term();
    fleet.crash(THREE);
    fleet.change(ONE, &[MemberChange::Promote(FOUR)]);
    fleet.settle();
    fleet.live(Duration::from_secs(3));
    assert_eq!((fleet.leader(), fleet.group(ONE).term()), (Some(ONE), term));
}

#[test]
fn a_transfer_to_a_replica_that_is_leaving_or_learning_is_refused() {
    let failed = Outcome::Refused(Refusal::TransferFailed);
    let mut bench = leader_of_five(0b01111);
    bench.input(Input::Transfer { token: token(1), to: Some(FIVE) });
    assert_eq!(bench.take_outcomes(), [(token(1), failed)], "a learner");
    // Joint: 3 leaves and 4 becomes a learner.
    let leave = [MemberChange::Remove(THREE), MemberChange::Demote(FOUR)];
    assert_eq!(change(&mut bench, 2, &leave), None);
    for (of, to) in [(3, THREE), (4, FOUR)] {
        bench.input(Input::Transfer { token: token(of), to: Some(to) });
        assert_eq!(bench.take_outcomes(), [(token(of), failed)], "{to}");
    }
    bench.input(Input::Transfer { token: token(5), to: Some(TWO) });
    assert!(bench.take_outcomes().is_empty());
    assert!(bench.group.is_leader());
}

/// A replica that exists for its peers and not on its own disk yet gives one vote a term, also
/// when it crashes in between; so does one that was removed.
#[test]
fn a_replica_that_knows_no_group_yet_votes_once_a_term() {
    let mut fleet = Fleet::of(3);
    fleet.add_joining(FOUR);
    let ask = |fleet: &mut Fleet, from: ReplicaId, last: u64| {
        let message = Message::Vote(vote_request(5, last, 1));
        fleet.input(
            FOUR,
            Input::Message {
                from,
                from_incarnation: raft_core::Incarnation::new(1),
                to_incarnation: fleet.group(FOUR).incarnation(),
                message,
            },
        );
        fleet.settle();
        fleet.on_disk(FOUR)
    };
    assert_eq!(ask(&mut fleet, TWO, 3), (5, Some(TWO), 0));
    assert_eq!(ask(&mut fleet, THREE, 9), (5, Some(TWO), 0));
    fleet.crash(FOUR);
    fleet.restart(FOUR);
    assert_eq!(ask(&mut fleet, THREE, 9), (5, Some(TWO), 0), "it forgot its vote");
    // Nor does it stand for anything, whatever it is told.
    for input in [Input::Campaign, Input::Deadline] {
        fleet.live(Duration::from_secs(2));
        fleet.input(FOUR, input);
        assert_eq!(fleet.group(FOUR).status().role, RoleKind::Follower);
    }
}
