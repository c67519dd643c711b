//! The judges against planted anomalies, against each other, and against every order tried.

use raft_core::Micros;

use super::*;
use crate::sim::history::{Answer, ClientId, End, History, KeyId, Op, Reply, State, Value};
use crate::sim::rng::Streams;
use crate::sim::violation::{Check, Violation};

const GROUP: GroupId = GroupId::new(1);
const KEY: KeyId = KeyId(1);
const STEPS: u64 = 1_000_000;

/// Writes a history by hand. Indexes of the log count the writes that were applied.
#[derive(Clone, Default)]
struct Story {
    history: History,
    applied: AppliedLog,
    last: u64,
}

impl Story {
    fn begin(&mut self, client: u32, op: Op) -> OpId {
        self.history.invoke(Micros::ZERO, ClientId(client), GROUP, KEY, op)
    }

    fn apply(&mut self, id: OpId) {
        self.last += 1;
        self.applied.applied(GROUP, LogIndex::new(self.last), id);
    }

    fn returns(&mut self, id: OpId, reply: Reply) {
        self.history.returned(Micros::ZERO, id, reply);
    }

    /// Begins, is applied and returns.
    fn write(&mut self, client: u32, op: Op, reply: Reply) -> OpId {
        let id = self.begin(client, op);
        self.apply(id);
        self.returns(id, reply);
        id
    }

    /// Begins and returns `value`, from the state after `point`.
    fn read(&mut self, client: u32, value: Value, point: u64) {
        let id = self.begin(client, Op::Read);
        self.history.read(Micros::ZERO, id, value, LogIndex::new(point));
    }

    fn stale_read(&mut self, client: u32, value: Value) {
        let id = self.begin(client, Op::StaleRead);
        self.returns(id, Reply::Value(value));
    }

    fn witness(&self) -> Result<u64, Violation> {
        witness::check(&self.history, &self.applied)
    }

    fn search(&self) -> Result<search::Searched, Violation> {
        search::check(&self.history, STEPS)
    }

    fn session(&self) -> Result<u64, Violation> {
        session::check(&self.history, &self.applied)
    }

    fn both_refuse(&self) {
        let witness = self.witness().expect_err("the order of the log explains it not");
        let search = self.search().expect_err("no order explains it");
        assert_eq!((witness.check, search.check), (Check::Linearizability, Check::Linearizability));
    }

    fn both_accept(&self) {
        self.witness().expect("the order of the log explains it");
        self.search().expect("an order explains it");
    }
}

fn register(value: u64) -> Value {
    Value::Register(value)
}

#[test]
fn a_plain_story_is_accepted() {
    let mut story = Story::default();
    story.read(1, Value::Absent, 0);
    story.write(1, Op::Set(1), Reply::Done);
    story.read(2, register(1), 1);
    story.write(2, Op::CompareAndSet { expected: Some(1), new: 2 }, Reply::Swapped);
    story.write(1, Op::CompareAndSet { expected: Some(1), new: 3 }, Reply::NotSwapped);
    story.read(1, register(2), 3);
    story.write(1, Op::Delete, Reply::Done);
    story.read(1, Value::Absent, 4);
    story.both_accept();
    assert_eq!(story.session().expect("nothing runs backwards"), 4);
    assert_eq!(story.witness().expect("accepted"), 8);
}

#[test]
fn a_stale_read_is_refused() {
    let mut story = Story::default();
    story.write(1, Op::Set(1), Reply::Done);
    story.write(1, Op::Set(2), Reply::Done);
    // Answered from an old state, honestly labelled or not.
    let mut labelled = story.clone();
    labelled.read(2, register(1), 1);
    labelled.both_refuse();
    story.read(2, register(1), 2);
    story.both_refuse();
}

#[test]
fn a_read_beside_a_write_may_see_either_value() {
    for (seen, point) in [(Value::Absent, 0), (register(1), 1)] {
        let mut story = Story::default();
        let write = story.begin(1, Op::Set(1));
        let read = story.begin(2, Op::Read);
        story.apply(write);
        story.history.read(Micros::ZERO, read, seen, LogIndex::new(point));
        story.returns(write, Reply::Done);
        story.both_accept();
    }
}

#[test]
fn a_lost_update_is_refused() {
    // Two compare-and-sets from the same value both succeed.
    let mut story = Story::default();
    story.write(1, Op::Set(1), Reply::Done);
    story.write(1, Op::CompareAndSet { expected: Some(1), new: 2 }, Reply::Swapped);
    story.write(2, Op::CompareAndSet { expected: Some(1), new: 3 }, Reply::Swapped);
    story.both_refuse();
    // An acknowledged append is nowhere.
    let mut story = Story::default();
    let lost = story.begin(1, Op::Append(1));
    story.returns(lost, Reply::Done);
    story.write(2, Op::Append(2), Reply::Done);
    story.read(2, Value::List(vec![2]), 1);
    story.both_refuse();
}

#[test]
fn a_write_applied_twice_is_refused() {
    let mut story = Story::default();
    let twice = story.write(1, Op::Append(1), Reply::Done);
    story.write(2, Op::Append(2), Reply::Done);
    story.apply(twice);
    story.read(1, Value::List(vec![1, 2, 1]), 3);
    story.both_refuse();
}

#[test]
fn a_value_nobody_wrote_is_refused() {
    let mut story = Story::default();
    story.write(1, Op::Set(1), Reply::Done);
    story.read(1, register(7), 1);
    story.both_refuse();
    // An entry nobody asked for.
    let mut story = Story::default();
    story.apply(OpId(99));
    assert_eq!(story.witness().expect_err("a phantom").check, Check::Linearizability);
}

#[test]
fn empty_zero_and_absent_are_told_apart() {
    for (written, seen) in [
        (Some(Op::Set(0)), Value::Absent),
        (Some(Op::Set(0)), Value::List(vec![])),
        (None, register(0)),
        (None, Value::List(vec![])),
        (Some(Op::Delete), register(0)),
    ] {
        let mut story = Story::default();
        if let Some(op) = written {
            story.write(1, op, Reply::Done);
        }
        story.read(2, seen, story.last);
        story.both_refuse();
    }
}

#[test]
fn reads_that_run_backwards_are_refused() {
    let mut story = Story::default();
    let write = story.begin(1, Op::Set(1));
    story.apply(write);
    story.read(2, register(1), 1);
    story.read(3, Value::Absent, 0);
    story.returns(write, Reply::Done);
    // Each read alone could be beside the write.
    story.both_refuse();
}

#[test]
fn a_refused_write_that_took_effect_is_refused() {
    let mut story = Story::default();
    let write = story.begin(1, Op::Set(1));
    story.history.failed(Micros::ZERO, write);
    story.apply(write);
    story.read(2, register(1), 1);
    story.both_refuse();
}

#[test]
fn a_write_applied_before_another_that_had_ended_is_refused() {
    let mut story = Story::default();
    let second = story.begin(1, Op::Append(1));
    let first = OpId(1);
    // Somebody applies what is only asked for later: the order of the log defies time.
    story.apply(first);
    story.apply(second);
    story.returns(second, Reply::Done);
    assert_eq!(story.begin(2, Op::Append(2)), first);
    story.returns(first, Reply::Done);
    let refused = story.witness().expect_err("the log defies time");
    assert!(refused.evidence.contains("began after the end"), "{refused}");
    story.search().expect("nobody has seen it");
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    for applied in [true, false] {
        let mut story = Story::default();
        let unknown = story.begin(1, Op::Set(1));
        story.write(2, Op::Set(2), Reply::Done);
        story.read(2, register(2), 1);
        if applied {
            story.apply(unknown);
            story.read(2, register(1), 2);
        }
        story.read(2, register(if applied { 1 } else { 2 }), story.last);
        story.both_accept();
    }
    // But not twice, and not undone.
    let mut story = Story::default();
    let unknown = story.begin(1, Op::Set(1));
    story.apply(unknown);
    story.read(2, register(1), 1);
    story.write(2, Op::Set(2), Reply::Done);
    story.read(2, register(1), 1);
    story.both_refuse();
}

#[test]
fn a_client_that_does_not_see_its_own_write_is_noticed() {
    let mut story = Story::default();
    story.write(1, Op::Set(1), Reply::Done);
    let mut other = story.clone();
    other.stale_read(2, Value::Absent);
    other.session().expect("another client may be behind");
    other.both_accept();
    story.stale_read(1, Value::Absent);
    assert_eq!(story.session().expect_err("its own write").check, Check::Session);
}

#[test]
fn a_client_whose_reads_run_backwards_is_noticed() {
    let mut story = Story::default();
    for value in 1..=3 {
        story.write(1, Op::Append(value), Reply::Done);
    }
    story.stale_read(2, Value::List(vec![1]));
    story.stale_read(2, Value::List(vec![1, 2, 3]));
    story.session().expect("forwards");
    story.stale_read(2, Value::List(vec![1, 2]));
    assert_eq!(story.session().expect_err("backwards").check, Check::Session);
}

#[test]
fn a_value_that_returns_later_is_no_step_backwards() {
    let mut story = Story::default();
    for value in [1, 2, 1] {
        story.write(1, Op::Set(value), Reply::Done);
    }
    story.stale_read(2, register(1));
    story.stale_read(2, register(2));
    story.stale_read(2, register(1));
    story.session().expect("it was 1 again");
    story.stale_read(2, register(2));
    story.session().expect_err("it was not 2 again");
}

#[test]
fn a_search_out_of_steps_is_a_failure() {
    let story = random_story(3, 200, 8);
    let refused = search::check(&story.history, 10).expect_err("ten steps are too few");
    assert_eq!(refused.check, Check::Inconclusive);
}

/// A valid story: every operation takes effect at one moment between its beginning and its end.
fn random_story(seed: u64, operations: u64, in_flight_max: usize) -> Story {
    let mut rng = Streams::new(seed).stream("story", &[]);
    let mut story = Story::default();
    let mut state = State::Absent;
    let mut items: Vec<u64> = Vec::new();
    // Begun and not yet done, done and not yet ended.
    let mut begun: Vec<OpId> = Vec::new();
    let mut done: Vec<(OpId, Reply, u64)> = Vec::new();
    let lists = rng.chance(1, 2);
    let mut asked = 0;
    while asked < operations || !begun.is_empty() || !done.is_empty() {
        let choice = rng.below(3);
        if choice == 0 && asked < operations && begun.len() + done.len() < in_flight_max {
            asked += 1;
            let value = rng.below(4);
            let op = match (rng.below(6), lists) {
                (0 | 1, _) => Op::Read,
                (2, _) => Op::Delete,
                (_, true) => Op::Append(asked),
                (3, false) => Op::Set(value),
                (_, false) => Op::CompareAndSet {
                    expected: rng.chance(3, 4).then_some(value),
                    new: rng.below(4),
                },
            };
            begun.push(story.begin(asked as u32, op));
        } else if choice == 1 && !begun.is_empty() {
            let id = begun.swap_remove(rng.below(begun.len() as u64) as usize);
            let op = story.history.find(id).expect("begun").op;
            // Some never happen: refused, or lost on the way.
            if rng.chance(1, 10) {
                if rng.chance(1, 2) {
                    story.history.failed(Micros::ZERO, id);
                }
                continue;
            }
            let (after, answer) = state.apply(op);
            match op {
                Op::Append(item) => items.push(item),
                Op::Delete | Op::Set(_) | Op::CompareAndSet { .. } => items.clear(),
                Op::Read | Op::StaleRead => {}
            }
            state = after;
            if !op.is_read() {
                story.apply(id);
            }
            let reply = match answer {
                Answer::Value(State::List { .. }) => Reply::Value(Value::List(items.clone())),
                Answer::Value(State::Register(value)) => Reply::Value(register(value)),
                Answer::Value(State::Absent) => Reply::Value(Value::Absent),
                Answer::Done => Reply::Done,
                Answer::Swapped => Reply::Swapped,
                Answer::NotSwapped => Reply::NotSwapped,
            };
            done.push((id, reply, story.last));
        } else if choice == 2 && !done.is_empty() {
            let (id, reply, point) = done.swap_remove(rng.below(done.len() as u64) as usize);
            // Some answers are lost.
            if rng.chance(1, 10) {
                continue;
            }
            match reply {
                Reply::Value(value) => {
                    story.history.read(Micros::ZERO, id, value, LogIndex::new(point));
                }
                Reply::Done | Reply::Swapped | Reply::NotSwapped => story.returns(id, reply),
            }
        }
    }
    story
}

#[test]
fn valid_random_stories_are_accepted_by_all() {
    for seed in 0..300 {
        let story = random_story(seed, 60, 6);
        for verdict in
            [story.witness().map(drop), story.search().map(drop), story.session().map(drop)]
        {
            verdict.unwrap_or_else(|refused| panic!("seed {seed}: {refused}"));
        }
    }
}

#[test]
fn a_planted_value_in_a_random_story_is_refused_by_both() {
    let mut planted = 0;
    for seed in 0..300 {
        let story = random_story(seed, 40, 5);
        let reads: Vec<OpId> = story
            .history
            .iter()
            .filter(|(_, o)| o.op == Op::Read && matches!(o.end, End::Returned(_)))
            .map(|(id, _)| id)
            .collect();
        let mut rng = Streams::new(seed).stream("lie", &[]);
        let Some(victim) = rng.pick(&reads) else { continue };
        let mut lied = Story { history: History::new(), ..story.clone() };
        replay_with(&story.history, &mut lied.history, |id, reply| {
            if id == *victim { Reply::Value(register(1_000_000)) } else { reply }
        });
        planted += 1;
        assert!(lied.witness().is_err(), "seed {seed}: witness");
        assert!(lied.search().is_err(), "seed {seed}: search");
    }
    assert!(planted > 250, "{planted}");
}

/// The same events in the same order, with other answers.
fn replay_with(from: &History, into: &mut History, change: impl Fn(OpId, Reply) -> Reply) {
    let mut events: Vec<(u64, OpId, bool)> = Vec::new();
    for (id, operation) in from.iter() {
        events.push((operation.begun, id, false));
        if operation.ended_at.is_some() {
            events.push((operation.ended, id, true));
        }
    }
    events.sort_unstable();
    for (_, id, is_end) in events {
        let operation = from.find(id).expect("of this history");
        if !is_end {
            let same = into.invoke(
                operation.invoked_at,
                operation.client,
                operation.group,
                operation.key,
                operation.op,
            );
            assert_eq!(same, id);
            continue;
        }
        match (&operation.end, operation.read_point) {
            (End::Returned(reply), point) => match (change(id, reply.clone()), point) {
                (Reply::Value(value), Some(point)) => into.read(Micros::ZERO, id, value, point),
                (reply, _) => into.returned(Micros::ZERO, id, reply),
            },
            (End::Failed, _) => into.failed(Micros::ZERO, id),
            (End::Unknown, _) => {}
        }
    }
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut verdicts = [0; 2];
    for seed in 0..2000 {
        let story = random_story(seed, 6, 4);
        let mut lied = Story::default();
        // Answers at random, most of them plausible and half of the stories impossible.
        replay_with(&story.history, &mut lied.history, |id, reply| {
            let mut rng = Streams::new(seed).stream("answers", &[id.0]);
            match reply {
                Reply::Value(value) if rng.chance(1, 2) => match rng.below(3) {
                    0 => Reply::Value(Value::Absent),
                    1 => Reply::Value(register(rng.below(4))),
                    _ => Reply::Value(value),
                },
                Reply::Swapped if rng.chance(1, 4) => Reply::NotSwapped,
                reply => reply,
            }
        });
        let expected = any_order(&lied.history, &mut Vec::new(), State::Absent);
        let found = lied.search().is_ok();
        assert_eq!(found, expected, "seed {seed}: {:?}", lied.history);
        verdicts[usize::from(found)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 300), "{verdicts:?}");
}

/// Tries every order, the slow way.
fn any_order(history: &History, done: &mut Vec<OpId>, state: State) -> bool {
    let open: Vec<_> = history
        .iter()
        .filter(|(id, o)| !done.contains(id) && o.end != End::Failed)
        .filter(|(_, o)| !(o.op.is_read() && o.end == End::Unknown))
        .collect();
    if open.iter().all(|(_, o)| o.end == End::Unknown) {
        return true;
    }
    open.iter().any(|(id, operation)| {
        if open.iter().any(|(_, other)| other.ended < operation.begun) {
            return false;
        }
        let (after, answer) = state.apply(operation.op);
        if let End::Returned(reply) = &operation.end
            && reply.answer() != answer
        {
            return false;
        }
        done.push(*id);
        let found = any_order(history, done, after);
        done.pop();
        found
    })
}
