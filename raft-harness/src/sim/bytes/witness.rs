//! A judgement of clients' histories by somebody who knows the log.
//!
//! The order is known: commands took effect where they were applied. So nothing is searched.
//! Each answer must be the one that the log up to its place gives, and whoever was answered
//! before another asked must have an earlier place. Linear, for every run; a checker that knows
//! nothing of the log is a second opinion.

use std::collections::BTreeMap;

use raft_core::{EntryKind, GroupId, LogIndex};

use super::clients::{History, Operation, Outcome};
use super::machine::{Applied, Model, Record, number_of};
use crate::sim::violation::{Check, Violation};

/// What is wrong with a history.
pub(super) fn judge(history: &History, record: &Record) -> Vec<Violation> {
    let mut by_group: BTreeMap<GroupId, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        by_group.entry(operation.group).or_default().push(operation);
    }
    record.look(|recorded| {
        let mut found = Vec::new();
        for (group, operations) in &by_group {
            let applied = recorded.groups.get(group).map_or(&[][..], Vec::as_slice);
            let mut wrong = |check, evidence| {
                found.push(Violation::of_group(check, *group, evidence));
            };
            judge_answers(operations, applied, &mut wrong);
            judge_order(operations, &mut wrong);
        }
        found
    })
}

/// Every answer follows from the log.
fn judge_answers(
    operations: &[&Operation],
    applied: &[Applied],
    wrong: &mut impl FnMut(Check, String),
) {
    let mut model = Model::default();
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut reads: Vec<(LogIndex, &Operation)> = Vec::new();
    let mut writes: BTreeMap<LogIndex, &Operation> = BTreeMap::new();
    for operation in operations {
        if let Outcome::Done { index, .. } = operation.outcome {
            if operation.is_read() {
                reads.push((index, operation));
            } else if let Some(other) = writes.insert(index, operation) {
                let evidence = format!("{} and {} both at {index}", other.number, operation.number);
                wrong(Check::Linearizability, evidence);
            }
        }
    }
    reads.sort_by_key(|(index, _)| *index);
    let mut reads = reads.into_iter().peekable();
    for index in 0..=applied.len() as u64 {
        if let Some(entry) = (index as usize).checked_sub(1).and_then(|at| applied.get(at)) {
            let command = match entry.kind {
                EntryKind::Command => &entry.payload[..],
                EntryKind::Noop | EntryKind::Config => &[],
            };
            let number = number_of(command);
            let output = model.apply(command);
            if let Some(number) = number
                && let Some(before) = places.insert(number, index)
            {
                wrong(Check::Outcomes, format!("{number} was applied at {before} and {index}"));
            }
            if let Some(operation) = writes.remove(&LogIndex::new(index)) {
                let expected = Outcome::Done { index: LogIndex::new(index), output };
                if number != Some(operation.number) {
                    let evidence = format!("{} acknowledged, {number:?} applied", operation.number);
                    wrong(Check::AcknowledgedLost, format!("{evidence} at {index}"));
                } else if operation.outcome != expected {
                    let evidence = format!("{operation:?} should have got {expected:?}");
                    wrong(Check::Linearizability, evidence);
                }
            }
        }
        while let Some((_, read)) = reads.next_if(|(at, _)| at.get() == index) {
            let output = model.read(&read.command);
            let expected = Outcome::Done { index: LogIndex::new(index), output };
            if read.outcome != expected {
                wrong(Check::Linearizability, format!("{read:?} should have got {expected:?}"));
            }
        }
    }
    for (index, operation) in writes {
        let evidence = format!("{} acknowledged at {index}, never applied", operation.number);
        wrong(Check::AcknowledgedLost, evidence);
    }
    for (index, read) in reads {
        wrong(Check::Linearizability, format!("{read:?} answered at {index}, never applied"));
    }
    for operation in operations {
        if operation.outcome == Outcome::Nothing
            && !operation.is_read()
            && let Some(index) = places.get(&operation.number)
        {
            let evidence = format!("{operation:?} was said not to happen, applied at {index}");
            wrong(Check::Outcomes, evidence);
        }
    }
}

/// Whoever asked after an answer was there has a place behind it.
fn judge_order(operations: &[&Operation], wrong: &mut impl FnMut(Check, String)) {
    // Answers before questions of the same moment would be too strict: they are concurrent.
    let mut moments: Vec<(u64, bool, &Operation)> = Vec::new();
    for operation in operations {
        if let (Some(ended), Outcome::Done { .. }) = (operation.ended, &operation.outcome) {
            moments.push((operation.invoked, false, operation));
            moments.push((ended, true, operation));
        }
    }
    moments.sort_by_key(|(at, ends, operation)| (*at, *ends, operation.number));
    let mut floor: (LogIndex, u64) = (LogIndex::ZERO, 0);
    let mut floors: BTreeMap<u64, (LogIndex, u64)> = BTreeMap::new();
    for (_, ends, operation) in moments {
        let Outcome::Done { index, .. } = operation.outcome else { continue };
        if !ends {
            floors.insert(operation.number, floor);
            continue;
        }
        let before = floors.get(&operation.number).copied().unwrap_or(floor);
        let late = if operation.is_read() { index < before.0 } else { index <= before.0 };
        if late && before.0 > LogIndex::ZERO {
            let evidence = format!(
                "{operation:?} has a place not behind {}, which {} had before it asked",
                before.0, before.1
            );
            wrong(Check::Linearizability, evidence);
        }
        if index > floor.0 {
            floor = (index, operation.number);
        }
    }
}
