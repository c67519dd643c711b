//! The machine against plain semantics, and digests against histories.

use proptest::prelude::*;
use raft_core::{LogIndex, LogTime, Term};

use super::*;
use crate::kv::output::ReadOutput;

/// A machine with a log position and helpers that speak in commands.
#[derive(Default)]
struct Fixture {
    machine: KvMachine,
    index: u64,
}

impl Fixture {
    fn entry(&mut self, time: u64, kind: EntryKind, payload: Bytes) -> Output {
        self.index += 1;
        let entry = Entry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            kind,
            time: LogTime::new(time),
            payload,
        };
        let mut outputs = Vec::new();
        self.machine.apply(&[entry], &mut outputs);
        assert_eq!(outputs.len(), 1);
        match kind {
            EntryKind::Noop | EntryKind::Config => Output::Done,
            EntryKind::Command => Output::decode(&outputs[0]).expect("our own output"),
        }
    }

    fn run(&mut self, time: u64, command: Command<'_>) -> Output {
        let mut payload = BytesMut::new();
        command.encode(&mut payload);
        self.entry(time, EntryKind::Command, payload.freeze())
    }

    fn set(&mut self, time: u64, key: &str, value: &str, expiry: Expiry) -> Output {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let condition = Condition::Always;
        self.run(time, Command::Set { key, value, condition, expiry, return_old: false })
    }

    fn expire(&mut self, time: u64, expiry: Expiry, condition: DeadlineCondition) -> Output {
        self.run(time, Command::Expire { key: b"k", expiry, condition })
    }

    fn ask(&self, reply_bytes_max: u64, kind: QueryKind<'_>) -> ReadOutput {
        let mut query = BytesMut::new();
        Query { reply_bytes_max, kind }.encode(&mut query);
        ReadOutput::decode(&self.machine.read(&query)).expect("our own output")
    }

    fn value(&self, key: &str) -> Output {
        self.ask(0, QueryKind::Value { key: key.as_bytes() }).output
    }

    fn deadline(&self) -> Output {
        self.ask(0, QueryKind::Deadline { key: b"k" }).output
    }
}

fn value(text: &'static str) -> Output {
    Output::Value(Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_key_vanishes_when_log_time_reaches_its_deadline_and_not_before() {
    let mut f = Fixture::default();
    f.set(1000, "k", "v", Expiry::After(50));
    assert_eq!(f.deadline(), Output::Deadline(Some(1050)));
    f.run(1049, Command::Tick);
    assert_eq!(f.value("k"), value("v"));
    f.run(1050, Command::Tick);
    assert_eq!(f.value("k"), Output::Nil);
    assert!(f.machine.is_empty());
    assert!(f.machine.deadlines.is_empty());
    assert!(f.machine.slot_counts.is_empty());
}

#[test]
fn a_noop_moves_log_time_too() {
    let mut f = Fixture::default();
    f.set(1000, "k", "v", Expiry::After(50));
    f.entry(2000, EntryKind::Noop, Bytes::new());
    assert_eq!(f.value("k"), Output::Nil);
}

#[test]
fn log_time_never_runs_backwards() {
    let mut f = Fixture::default();
    f.run(1000, Command::Tick);
    f.set(500, "k", "v", Expiry::After(50));
    assert_eq!(f.machine.log_time(), 1000);
    assert_eq!(f.deadline(), Output::Deadline(Some(1050)));
}

#[test]
fn a_command_sees_its_own_entry_time() {
    // The key expires by the very entry that would have found it.
    let mut f = Fixture::default();
    f.set(1000, "k", "5", Expiry::After(50));
    assert_eq!(f.run(1050, Command::Increment { key: b"k", by: 1 }), Output::Integer(1));
}

#[test]
fn a_plain_set_clears_the_deadline_and_keep_keeps_it() {
    let mut f = Fixture::default();
    f.set(1000, "k", "a", Expiry::After(50));
    f.set(1001, "k", "b", Expiry::Keep);
    assert_eq!(f.deadline(), Output::Deadline(Some(1050)));
    f.set(1002, "k", "c", Expiry::Never);
    assert_eq!(f.deadline(), Output::Deadline(None));
    f.run(5000, Command::Tick);
    assert_eq!(f.value("k"), value("c"));
}

#[test]
fn increment_and_append_keep_the_deadline() {
    let mut f = Fixture::default();
    f.set(1000, "k", "1", Expiry::After(50));
    f.run(1001, Command::Increment { key: b"k", by: 1 });
    f.run(1001, Command::Append { key: b"k", value: b"0" });
    assert_eq!(f.value("k"), value("20"));
    assert_eq!(f.deadline(), Output::Deadline(Some(1050)));
}

#[test]
fn conditions_decide_and_get_answers_with_the_old_value() {
    use Condition::{Always, IfAbsent, IfPresent};
    let table = [
        // before, condition, return_old, output, after
        (None, IfAbsent, false, Output::Done, Some("new")),
        (None, IfAbsent, true, Output::Nil, Some("new")),
        (Some("old"), IfAbsent, false, Output::Nil, Some("old")),
        (Some("old"), IfAbsent, true, value("old"), Some("old")),
        (None, IfPresent, false, Output::Nil, None),
        (None, IfPresent, true, Output::Nil, None),
        (Some("old"), IfPresent, false, Output::Done, Some("new")),
        (Some("old"), IfPresent, true, value("old"), Some("new")),
        (None, Always, true, Output::Nil, Some("new")),
        (Some("old"), Always, true, value("old"), Some("new")),
    ];
    for (before, condition, return_old, output, after) in table {
        let mut f = Fixture::default();
        if let Some(before) = before {
            f.set(1, "k", before, Expiry::Never);
        }
        let set =
            Command::Set { key: b"k", value: b"new", condition, expiry: Expiry::Never, return_old };
        assert_eq!(f.run(2, set.clone()), output, "{before:?} {set:?}");
        assert_eq!(f.value("k"), after.map_or(Output::Nil, value), "{before:?} {set:?}");
    }
}

#[test]
fn a_deadline_in_the_past_deletes() {
    let mut f = Fixture::default();
    f.set(1000, "k", "v", Expiry::Never);
    assert_eq!(f.set(1000, "k", "w", Expiry::At(999)), Output::Done);
    assert_eq!(f.value("k"), Output::Nil);
    f.set(1000, "k", "v", Expiry::Never);
    let always = DeadlineCondition::Always;
    assert_eq!(f.expire(1000, Expiry::After(0), always), Output::Integer(1));
    assert_eq!(f.value("k"), Output::Nil);
    assert_eq!(f.expire(1000, Expiry::After(10), always), Output::Integer(0));
}

#[test]
fn deadline_conditions_compare_with_the_old_deadline() {
    use DeadlineCondition::{Always, IfEarlier, IfLater, IfNone, IfSome};
    let table = [
        // old deadline, condition, new deadline, applies
        (None, IfNone, 50, true),
        (Some(40), IfNone, 50, false),
        (None, IfSome, 50, false),
        (Some(40), IfSome, 50, true),
        (None, IfLater, 50, false),
        (Some(40), IfLater, 50, true),
        (Some(60), IfLater, 50, false),
        (None, IfEarlier, 50, true),
        (Some(40), IfEarlier, 50, false),
        (Some(60), IfEarlier, 50, true),
        (Some(50), Always, 50, true),
    ];
    for (old, condition, new, applies) in table {
        let mut f = Fixture::default();
        f.set(1, "k", "v", old.map_or(Expiry::Never, Expiry::At));
        let output = f.expire(2, Expiry::At(new), condition);
        assert_eq!(output, Output::Integer(i64::from(applies)), "{old:?} {condition:?}");
        let expected = if applies { Some(new) } else { old };
        assert_eq!(f.deadline(), Output::Deadline(expected), "{old:?} {condition:?}");
    }
}

#[test]
fn persist_tells_whether_there_was_a_deadline() {
    let mut f = Fixture::default();
    f.set(1, "k", "v", Expiry::After(10));
    let always = DeadlineCondition::Always;
    assert_eq!(f.expire(2, Expiry::Never, always), Output::Integer(1));
    assert_eq!(f.expire(3, Expiry::Never, always), Output::Integer(0));
    assert!(f.machine.deadlines.is_empty());
}

#[test]
fn a_deadline_past_the_end_of_time_is_an_error_without_effect() {
    let mut f = Fixture::default();
    f.set(1, "k", "v", Expiry::Never);
    let error = Output::Error(KvError::InvalidExpiry);
    assert_eq!(f.set(1, "k", "w", Expiry::After(u64::MAX)), error);
    assert_eq!(f.expire(1, Expiry::After(u64::MAX), DeadlineCondition::Always), error);
    assert_eq!(f.value("k"), value("v"));
}

#[test]
fn increment_refuses_what_redis_refuses() {
    let mut f = Fixture::default();
    for bad in ["", "x", "1.5", " 1", "1 ", "+1", "01", "-", "-0", "9223372036854775808"] {
        f.set(1, "k", bad, Expiry::Never);
        let output = f.run(1, Command::Increment { key: b"k", by: 1 });
        assert_eq!(output, Output::Error(KvError::NotAnInteger), "{bad:?}");
        assert_eq!(f.value("k"), value(bad));
    }
    f.set(1, "k", "9223372036854775807", Expiry::Never);
    let output = f.run(1, Command::Increment { key: b"k", by: 1 });
    assert_eq!(output, Output::Error(KvError::Overflow));
    f.set(1, "k", "-9223372036854775808", Expiry::Never);
    let output = f.run(1, Command::Increment { key: b"k", by: i64::MAX });
    assert_eq!(output, Output::Integer(-1));
}

#[test]
fn an_answer_longer_than_the_askers_room_is_announced_instead() {
    let mut f = Fixture::default();
    f.set(1, "k", "12345", Expiry::Never);
    let key: &[u8] = b"k";
    assert_eq!(f.ask(5, QueryKind::Value { key }).output, value("12345"));
    assert_eq!(f.ask(4, QueryKind::Value { key }).output, Output::TooLarge { bytes: 5 });
    let keys = vec![key, b"missing", key];
    let many = f.ask(9, QueryKind::Values { keys: keys.clone() }).output;
    assert_eq!(many, Output::TooLarge { bytes: 10 });
    let five = Some(Bytes::from_static(b"12345"));
    assert_eq!(
        f.ask(10, QueryKind::Values { keys }).output,
        Output::Values(vec![five.clone(), None, five])
    );
}

#[test]
fn a_read_tells_the_earliest_deadline_it_depends_on() {
    let mut f = Fixture::default();
    f.set(10, "a", "1", Expiry::At(500));
    f.set(11, "b", "2", Expiry::At(400));
    f.set(12, "c", "3", Expiry::Never);
    let keys: Vec<&[u8]> = vec![b"a", b"b", b"c", b"d"];
    let read = f.ask(0, QueryKind::Exists { keys: keys.clone() });
    assert_eq!((read.log_time, read.next_deadline), (12, Some(400)));
    assert_eq!(read.output, Output::Integer(3));
    assert_eq!(f.ask(0, QueryKind::Values { keys }).next_deadline, Some(400));
    assert_eq!(f.ask(0, QueryKind::Value { key: b"a" }).next_deadline, Some(500));
    assert_eq!(f.ask(0, QueryKind::Length { key: b"c" }).next_deadline, None);
    assert_eq!(f.ask(0, QueryKind::Count).next_deadline, Some(400));
    let slot = key_slot(b"a");
    assert_eq!(f.ask(0, QueryKind::CountInSlot { slot }).output, Output::Integer(1));
}

#[test]
fn a_payload_that_is_no_command_has_a_typed_answer_and_no_effect() {
    let mut f = Fixture::default();
    let before = f.machine.digest();
    let unknown = f.entry(0, EntryKind::Command, Bytes::from_static(&[200, 1]));
    assert_eq!(unknown, Output::Error(KvError::UnknownVersion));
    for garbage in [&[][..], &[1], &[1, 77], &[1, 1, 200], &[1, 0, 0]] {
        let output = f.entry(0, EntryKind::Command, Bytes::copy_from_slice(garbage));
        assert_eq!(output, Output::Error(KvError::Undecodable), "{garbage:?}");
    }
    assert_eq!(f.machine.digest(), before);
    let answer = ReadOutput::decode(&f.machine.read(b"??")).expect("our own output");
    assert_eq!(answer.output, Output::Error(KvError::Undecodable));
}

/// One step of a random history, small enough that keys collide and expire.
fn step() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let key = proptest::sample::select(vec![&b"a"[..], b"b", b"c"]);
    let expiry = prop_oneof![
        Just(Expiry::Never),
        Just(Expiry::Keep),
        (0u64..40).prop_map(Expiry::After),
        (0u64..200).prop_map(Expiry::At),
    ];
    let condition = proptest::sample::select(vec![
        Condition::Always,
        Condition::IfAbsent,
        Condition::IfPresent,
    ]);
    (0u64..10, 0u8..8, key, expiry, condition, -3i64..12).prop_map(
        |(delay, operation, key, expiry, condition, number)| {
            let text = number.to_string();
            let value = text.as_bytes();
            let command = match operation {
                0 => Command::Tick,
                1 => Command::SetMany { pairs: vec![key, value, b"d", value] },
                2 => Command::Delete { keys: vec![key, b"a"] },
                3 => Command::Take { key },
                4 => Command::Increment { key, by: number },
                5 => Command::Append { key, value },
                6 => Command::Expire { key, expiry, condition: DeadlineCondition::IfLater },
                _ => Command::Set { key, value, condition, expiry, return_old: number > 3 },
            };
            let mut payload = BytesMut::new();
            command.encode(&mut payload);
            (delay, payload.to_vec())
        },
    )
}

proptest! {
    #[test]
    fn the_running_digest_is_the_digest_of_what_is_there(
        history in proptest::collection::vec(step(), 0..80),
    ) {
        let mut f = Fixture::default();
        let mut time = 1;
        for (delay, payload) in history {
            time += delay;
            f.entry(time, EntryKind::Command, Bytes::from(payload));
            let machine = &f.machine;
            let sum = machine.items.iter().fold(0u64, |sum, (key, item)| {
                sum.wrapping_add(digest::item(key, &item.value, item.deadline))
            });
            prop_assert_eq!(machine.digest, sum);
            let indexed: BTreeSet<_> = machine
                .items
                .iter()
                .filter_map(|(key, item)| Some((item.deadline?, key.clone())))
                .collect();
            prop_assert_eq!(&machine.deadlines, &indexed);
            prop_assert!(machine.deadlines.iter().all(|(at, _)| *at > machine.log_time));
            let counted: u32 = machine.slot_counts.values().sum();
            prop_assert_eq!(counted as usize, machine.len());
        }
    }

    #[test]
    fn the_batches_in_which_a_history_arrives_do_not_matter(
        history in proptest::collection::vec(step(), 1..80),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut time = 1;
        let entries: Vec<Entry> = history
            .into_iter()
            .enumerate()
            .map(|(index, (delay, payload))| {
                time += delay;
                Entry {
                    index: LogIndex::new(index as u64 + 1),
                    term: Term::new(1),
                    kind: EntryKind::Command,
                    time: LogTime::new(time),
                    payload: Bytes::from(payload),
                }
            })
            .collect();
        let cut = cut.index(entries.len());
        let (mut whole, mut parts) = (KvMachine::new(), KvMachine::new());
        let (mut whole_outputs, mut parts_outputs) = (Vec::new(), Vec::new());
        whole.apply(&entries, &mut whole_outputs);
        parts.apply(&entries[..cut], &mut parts_outputs);
        parts.apply(&entries[cut..], &mut parts_outputs);
        prop_assert_eq!(whole.digest(), parts.digest());
        prop_assert_eq!(whole_outputs, parts_outputs);
    }
}
