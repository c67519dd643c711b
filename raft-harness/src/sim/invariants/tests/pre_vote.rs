//! What a pre-vote must not do, and what its answer must say.

use raft_core::{Campaign, Verdict, VoteReply};

use super::*;

fn question(last_index: u64) -> VoteRequest {
    VoteRequest {
        term: Term::new(2),
        last_index: LogIndex::new(last_index),
        last_term: Term::new(1),
        attempt: 7,
        cause: Campaign::Timeout,
        acknowledge: raft_core::Acknowledge::Durable,
    }
}

fn answer(world: &mut World, verdict: Verdict, term: u64) -> Seen {
    let reply = VoteReply { term: Term::new(term), attempt: 7, verdict };
    world.checker.pre_vote_answered(GROUP, ReplicaId::new(2), ReplicaId::new(3), reply)
}

#[test]
fn a_question_that_changes_anything_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.pre_vote(2, 3, question(1), |_| {}).expect("sound");
    let mut voted = World::led(&[1, 2, 3]);
    refused(voted.pre_vote(2, 3, question(1), |p| p.vote = Some(3)), Check::PreVote);
    let mut moved = World::led(&[1, 2, 3]);
    refused(moved.pre_vote(2, 3, question(1), |p| p.term = 2), Check::PreVote);
    let mut patient = World::led(&[1, 2, 3]);
    let later = |p: &mut Peer| p.next_deadline = Some(Micros::new(9));
    refused(patient.pre_vote(2, 3, question(1), later), Check::PreVote);
}

#[test]
fn a_grant_over_a_log_that_lags_is_refused() {
    let asked = |last_index| {
        let mut world = World::led(&[1, 2, 3]);
        world.pre_vote(2, 3, question(last_index), |_| {}).expect("sound");
        world
    };
    answer(&mut asked(1), Verdict::Granted, 2).expect("sound");
    refused(answer(&mut asked(0), Verdict::Granted, 2), Check::PreVote);
}

#[test]
fn a_refusal_that_hides_the_term_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.pre_vote(2, 3, question(0), |_| {}).expect("sound");
    answer(&mut world, Verdict::Refused, 1).expect("sound");
    world.pre_vote(2, 3, question(0), |_| {}).expect("sound");
    refused(answer(&mut world, Verdict::Refused, 0), Check::PreVote);
}

/// A voter whose disk stands still answers all at once in the end, and the candidate may have begun
/// to count anew meanwhile.
#[test]
fn the_answer_to_a_question_that_is_not_remembered_is_not_judged_by_another() {
    let mut world = World::led(&[1, 2, 3]);
    let ask = |world: &mut World, attempt| {
        let question = VoteRequest { attempt, ..question(1) };
        world.pre_vote(2, 3, question, |_| {}).expect("sound");
    };
    ask(&mut world, 7);
    world.peer(2).term = 2;
    world.see(2).expect("sound");
    for attempt in 1..=64 {
        ask(&mut world, attempt);
    }
    answer(&mut world, Verdict::Refused, 1).expect("it was asked in term 1 first");
    let late = VoteReply { term: Term::new(1), attempt: 8, verdict: Verdict::Refused };
    let late = world.checker.pre_vote_answered(GROUP, ReplicaId::new(2), ReplicaId::new(3), late);
    refused(late, Check::PreVote);
}
