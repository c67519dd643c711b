//! The order of the log, checked: the cheap judge, for every run.
//!
//! The simulator knows at which index each write was applied and from which index's state each
//! read was answered. So nothing has to be searched for. The order is given, and it must
//!
//! - produce every answer when the operations are done one after the other,
//! - respect time: what ended before another began comes before it,
//! - contain every acknowledged write once, no refused one, and nothing nobody asked for.
//!
//! Writes whose outcome nobody knows are resolved by the log: they are in it or they are not.
//! The whole group is checked as one object, which is more than a check key by key.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex};

use super::AppliedLog;
use crate::sim::history::{End, History, KeyId, Op, OpId, Operation, State};
use crate::sim::violation::{Check, Violation};

/// A place in a group's order. A read comes right after the write it has seen last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Place {
    Write(LogIndex),
    Read(LogIndex),
}

impl Place {
    fn order(self) -> (LogIndex, u8) {
        match self {
            Self::Write(index) => (index, 0),
            Self::Read(index) => (index, 1),
        }
    }

    /// Whether an operation here may have ended before one at `later` began. Two reads of one
    /// state have no order among them.
    fn may_precede(self, later: Self) -> bool {
        match later {
            Self::Write(_) => self.order() < later.order(),
            Self::Read(_) => self.order() <= later.order(),
        }
    }
}

/// Checks every operation; returns how many.
///
/// Reads without a read point are left to the search, stale reads to the session check.
///
/// # Errors
/// The first contradiction found, with the operations concerned.
pub fn check(history: &History, applied: &AppliedLog) -> Result<u64, Violation> {
    let places = places(history, applied)?;
    let replayed = replay(history, applied)?;
    in_time(history, &places)?;
    Ok(replayed)
}

/// Where each operation took place, by operation.
fn places(history: &History, applied: &AppliedLog) -> Result<Vec<Option<Place>>, Violation> {
    let mut places = vec![None; history.len()];
    for (group, index, id) in applied.writes() {
        let Some(operation) = history.find(id) else {
            return Err(phantom(group, index, format!("{id:?}, which nobody asked for")));
        };
        if operation.group != group || operation.op.is_read() {
            return Err(phantom(group, index, format!("{operation:?}")));
        }
        if operation.end == End::Failed {
            return Err(phantom(group, index, format!("{operation:?}, which was refused")));
        }
        let place = &mut places[id.0 as usize];
        if let Some(Place::Write(first)) = *place {
            let what = format!("{operation:?}, which was applied at {first:?} already");
            return Err(phantom(group, index, what));
        }
        *place = Some(Place::Write(index));
    }
    for (id, operation) in history.iter() {
        let place = &mut places[id.0 as usize];
        match (&operation.end, operation.op) {
            (End::Returned(_), Op::Read) => *place = operation.read_point.map(Place::Read),
            (End::Returned(_), Op::StaleRead) => {}
            (End::Returned(_), _) if place.is_none() => {
                return Err(Violation::of_group(
                    Check::Linearizability,
                    operation.group,
                    format!("acknowledged and never applied: {operation:?}"),
                ));
            }
            (End::Returned(_) | End::Unknown | End::Failed, _) => {}
        }
    }
    Ok(places)
}

fn phantom(group: GroupId, index: LogIndex, what: String) -> Violation {
    Violation::of_group(Check::Linearizability, group, format!("applied at {index:?}: {what}"))
}

/// Does everything again, in the order of the log, and compares the answers.
fn replay(history: &History, applied: &AppliedLog) -> Result<u64, Violation> {
    // Reads are answered from the state after their index: after the write there, if any.
    let mut reads: Vec<(GroupId, LogIndex, OpId)> = history
        .iter()
        .filter(|(_, operation)| operation.op.is_read())
        .filter(|(_, operation)| matches!(operation.end, End::Returned(_)))
        .filter_map(|(id, operation)| Some((operation.group, operation.read_point?, id)))
        .collect();
    reads.sort_unstable();
    let mut reads = reads.into_iter().peekable();
    let mut states: BTreeMap<(GroupId, KeyId), State> = BTreeMap::new();
    let mut checked = 0;
    for (group, index, id) in applied.writes() {
        while let Some((_, _, read)) = reads.next_if(|(g, i, _)| (*g, *i) < (group, index)) {
            redo(history, read, &mut states)?;
            checked += 1;
        }
        redo(history, id, &mut states)?;
        checked += 1;
    }
    for (_, _, read) in reads {
        redo(history, read, &mut states)?;
        checked += 1;
    }
    Ok(checked)
}

fn redo(
    history: &History,
    id: OpId,
    states: &mut BTreeMap<(GroupId, KeyId), State>,
) -> Result<(), Violation> {
    let Some(operation) = history.find(id) else { return Ok(()) };
    let state = states.entry((operation.group, operation.key)).or_insert(State::Absent);
    let before = *state;
    let (after, answer) = before.apply(operation.op);
    *state = after;
    match &operation.end {
        End::Returned(reply) if reply.answer() != answer => Err(Violation::of_group(
            Check::Linearizability,
            operation.group,
            format!("{id:?} {operation:?} was done in state {before:?}, which answers {answer:?}"),
        )),
        End::Returned(_) | End::Unknown | End::Failed => Ok(()),
    }
}

/// What ended before another began comes before it.
fn in_time(history: &History, places: &[Option<Place>]) -> Result<(), Violation> {
    /// The operation that reached furthest, of all that have ended.
    type Furthest<'a> = BTreeMap<GroupId, (Place, &'a Operation)>;
    let mut ends: Vec<(u64, &Operation, Place)> = Vec::new();
    for (id, operation) in history.iter() {
        if let (End::Returned(_), Some(place)) = (&operation.end, places[id.0 as usize]) {
            ends.push((operation.ended, operation, place));
        }
    }
    ends.sort_unstable_by_key(|(ended, ..)| *ended);
    let mut ends = ends.into_iter().peekable();
    let mut furthest = Furthest::new();
    for (id, operation) in history.iter() {
        while let Some((_, ended, place)) = ends.next_if(|(at, ..)| *at < operation.begun) {
            let known = furthest.entry(ended.group).or_insert((place, ended));
            if known.0.order() < place.order() {
                *known = (place, ended);
            }
        }
        let Some(place) = places[id.0 as usize] else { continue };
        if let Some((reached, earlier)) = furthest.get(&operation.group)
            && !reached.may_precede(place)
        {
            return Err(Violation::of_group(
                Check::Linearizability,
                operation.group,
                format!(
                    "{operation:?} at {place:?} began after the end of {earlier:?} at {reached:?}"
                ),
            ));
        }
    }
    Ok(())
}
