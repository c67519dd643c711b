//! What every client may expect of its own session, even from reads that are not linearizable:
//! it sees its own writes, and what it has seen once it does not see undone.
//!
//! A client's place on a key is an index of the log; it only moves forward. A read may have been
//! answered anywhere at or after that place where the key had the value it saw; the earliest such
//! place is assumed, which leaves the most room to what follows.

use std::collections::BTreeMap;

use raft_core::{GroupId, LogIndex};

use super::AppliedLog;
use crate::sim::history::{ClientId, End, History, KeyId, OpId, Reply, State};
use crate::sim::violation::{Check, Violation};

/// Checks every session; returns how many reads.
///
/// # Errors
/// [`Check::Session`] with the read that saw too little.
pub fn check(history: &History, applied: &AppliedLog) -> Result<u64, Violation> {
    let timelines = timelines(history, applied);
    let placed: BTreeMap<OpId, LogIndex> =
        applied.writes().map(|(_, index, id)| (id, index)).collect();
    let mut ends: Vec<(u64, OpId)> = history
        .iter()
        .filter(|(_, operation)| matches!(operation.end, End::Returned(_)))
        .map(|(id, operation)| (operation.ended, id))
        .collect();
    ends.sort_unstable();

    let mut sessions: BTreeMap<(ClientId, GroupId, KeyId), LogIndex> = BTreeMap::new();
    // Where its session was when an operation began; a client may have several in flight.
    let mut floors = vec![LogIndex::ZERO; history.len()];
    let mut begins = history.iter().peekable();
    let mut reads = 0;
    for (ended, id) in ends {
        while let Some((begun, operation)) = begins.next_if(|(_, o)| o.begun < ended) {
            let session = (operation.client, operation.group, operation.key);
            floors[begun.0 as usize] = sessions.get(&session).copied().unwrap_or(LogIndex::ZERO);
        }
        let Some(operation) = history.find(id) else { continue };
        let End::Returned(reply) = &operation.end else { continue };
        let floor = floors[id.0 as usize];
        let place = match reply {
            Reply::Value(value) => {
                reads += 1;
                let timeline = timelines.get(&(operation.group, operation.key));
                let state = value.state();
                let Some(place) = first_place(timeline, floor, state) else {
                    return Err(Violation::of_group(
                        Check::Session,
                        operation.group,
                        format!("after {floor:?} the key never was as in {operation:?}"),
                    ));
                };
                place
            }
            Reply::Done | Reply::Swapped | Reply::NotSwapped => {
                placed.get(&id).copied().unwrap_or(floor)
            }
        };
        let session = sessions
            .entry((operation.client, operation.group, operation.key))
            .or_insert(LogIndex::ZERO);
        *session = (*session).max(place);
    }
    Ok(reads)
}

/// The states of each key, each with the index at which it began.
type Timelines = BTreeMap<(GroupId, KeyId), Vec<(LogIndex, State)>>;

fn timelines(history: &History, applied: &AppliedLog) -> Timelines {
    let mut timelines = Timelines::new();
    for (group, index, id) in applied.writes() {
        let Some(operation) = history.find(id) else { continue };
        let timeline = timelines.entry((group, operation.key)).or_default();
        let before = timeline.last().map_or(State::Absent, |(_, state)| *state);
        timeline.push((index, before.apply(operation.op).0));
    }
    timelines
}

/// The first index at or after `floor` at which the key was in this state.
fn first_place(
    timeline: Option<&Vec<(LogIndex, State)>>,
    floor: LogIndex,
    state: State,
) -> Option<LogIndex> {
    let timeline = timeline.map_or(&[][..], Vec::as_slice);
    let begun = timeline.partition_point(|(index, _)| *index <= floor);
    let at_floor = begun.checked_sub(1).map_or(State::Absent, |at| timeline[at].1);
    if at_floor == state {
        return Some(floor);
    }
    timeline[begun..].iter().find(|(_, later)| *later == state).map(|(index, _)| *index)
}
