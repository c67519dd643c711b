//! What every [`LogStore`] must do, as plain functions.
//!
//! Each takes a function that makes an empty store and panics with the broken claim. Call
//! [`all`] from a test:
//!
//! ```
//! raft_storage::conformance::all(|| raft_storage::MemoryLog::new());
//! ```

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Base, Entry, EntryKind, GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership,
    ReplicaId, SnapshotMeta, Term, Tombstone,
};

use crate::append::write::{Compaction, GroupCreate, GroupWrite};
use crate::error::{LogError, ReadError};
use crate::format::live::LiveEntries;
use crate::format::pieces::Piece;
use crate::store::{Ending, LogStore, Tending};

/// Runs the whole suite.
pub fn all<S: LogStore>(make: impl Fn() -> S) {
    appended_entries_are_read_back(make());
    groups_do_not_see_each_other(make());
    truncation_replaces_the_suffix_only(make());
    operations_of_one_batch_take_effect_in_order(make());
    refused_batches_change_nothing(make());
    a_new_life_of_a_group_begins_empty(make());
    an_installed_snapshot_takes_the_place_of_the_log(make());
    compaction_forgets_the_beginning_only(make());
    named_entries_outlive_the_beginning_of_the_log(make());
    an_installed_snapshot_takes_its_entries_from_what_is_held_and_what_was_fetched(make());
    what_is_not_held_cannot_stay(make());
    fetched_entries_wait_beside_the_log_until_they_are_dropped(make());
    a_destroyed_group_is_gone_until_it_is_created_again(make());
    durable_index_waits_for_the_sync(make());
    a_commit_is_an_append_and_a_sync(make());
    what_was_staged_is_durable_when_its_flight_has_landed(make());
    what_a_flight_only_writes_is_durable_with_the_next(make());
    a_sync_covers_what_was_written_when_it_began(make());
    a_refused_batch_takes_nothing_else_from_a_flight(make());
    names_hold_for_what_is_staged_as_for_what_is_there(make());
    pieces_take_the_place_of_a_payload_whoever_comes_between(make(), make());
    housekeeping_changes_nothing_that_is_read(make());
    reads_are_bounded_and_never_empty_handed(make());
    readers_on_other_threads_see_whole_batches(make());
    positions_never_run_backwards(make());
}

/// Whatever was appended is read back, with term, kind, time and payload, whatever its size.
pub fn appended_entries_are_read_back(mut store: impl LogStore) {
    let mut write = create(1, 1);
    let sizes = [0, 1, 7, 8, 4095, 4096, 70_000, 5 << 20, 3];
    for (at, bytes) in sizes.into_iter().enumerate() {
        write.entries.push(entry(at as u64 + 1, 1 + at as u64 / 3, bytes));
    }
    let entries = write.entries.clone();
    expect(store.append(&[write]));
    expect(store.sync());
    let reader = store.reader();
    let last = LogIndex::new(entries.len() as u64);
    let found = reader.entries(GroupId::new(1), LogIndex::new(1), last, u64::MAX);
    assert!(matches!(found, Ok(found) if found == entries), "entries come back as they were");
    for entry in &entries {
        assert_eq!(reader.term(GroupId::new(1), entry.index), Some(entry.term));
    }
    assert_eq!(reader.term(GroupId::new(1), LogIndex::ZERO), None);
    assert_eq!(reader.term(GroupId::new(1), last.next()), None);
    assert_eq!(reader.first_index(GroupId::new(1)), Some(LogIndex::new(1)));
}

/// What one group writes changes nothing in another.
pub fn groups_do_not_see_each_other(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), create(2, 1), run(1, 1, 5, 1), run(2, 1, 3, 9)]));
    expect(store.append(&[truncate(1, 2)]));
    let reader = store.reader();
    assert_eq!(last(&store, 1), Some(1));
    assert_eq!(last(&store, 2), Some(3));
    assert_eq!(reader.term(GroupId::new(2), LogIndex::new(2)), Some(Term::new(9)));
    assert_eq!(last(&store, 3), None);
    let unknown = reader.entries(GroupId::new(3), LogIndex::new(1), LogIndex::new(1), 1);
    assert!(matches!(unknown, Err(ReadError::UnknownGroup { .. })));
}

/// A truncation removes the suffix, and other entries can take its place.
pub fn truncation_replaces_the_suffix_only(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 6, 1)]));
    let mut replace = run(1, 4, 2, 2);
    replace.truncate_from = Some(LogIndex::new(4));
    expect(store.append(&[replace]));
    let terms: Vec<Option<u64>> = (1..=6)
        .map(|i| store.reader().term(GroupId::new(1), LogIndex::new(i)))
        .map(|t| t.map(Term::get))
        .collect();
    assert_eq!(terms, [Some(1), Some(1), Some(1), Some(2), Some(2), None]);
    expect(store.append(&[truncate(1, 100)]));
    assert_eq!(last(&store, 1), Some(5), "truncating beyond the end removes nothing");
    expect(store.append(&[truncate(1, 1)]));
    assert_eq!(last(&store, 1), Some(0));
    expect(store.append(&[run(1, 1, 1, 3)]));
    assert_eq!(last(&store, 1), Some(1));
}

/// Several operations of one group in one batch see each other.
pub fn operations_of_one_batch_take_effect_in_order(mut store: impl LogStore) {
    let batch = [
        create(1, 1),
        run(1, 1, 3, 1),
        truncate(1, 3),
        run(1, 3, 2, 2),
        create(2, 7),
        run(2, 1, 1, 1),
    ];
    expect(store.append(&batch));
    assert_eq!(last(&store, 1), Some(4));
    assert_eq!(last(&store, 2), Some(1));
    let found =
        store.reader().entries(GroupId::new(1), LogIndex::new(1), LogIndex::new(4), u64::MAX);
    let terms = found.map(|found| found.iter().map(|entry| entry.term.get()).collect::<Vec<_>>());
    assert!(matches!(terms, Ok(terms) if terms == [1, 1, 2, 2]));
}

/// One bad operation refuses its whole batch, with the reason, and the store goes on.
pub fn refused_batches_change_nothing(mut store: impl LogStore) {
    let end = expect(store.append(&[create(1, 3), run(1, 1, 2, 1)])).end_lsn;
    let refuse = |store: &mut dyn LogStore, bad: GroupWrite| match store.append(&[
        create(2, 1),
        run(2, 1, 1, 1),
        run(1, 3, 1, 1),
        bad,
    ]) {
        Err(error) => error,
        Ok(_) => panic!("a bad operation was taken"),
    };
    let gap = refuse(&mut store, run(1, 5, 1, 1));
    assert!(matches!(gap, LogError::Gap { expected, got, .. }
        if expected.get() == 4 && got.get() == 5));
    let overlap = refuse(&mut store, run(1, 3, 1, 1));
    assert!(matches!(overlap, LogError::Gap { .. }));
    let mut torn = run(1, 4, 3, 1);
    torn.entries.remove(1);
    assert!(matches!(refuse(&mut store, torn), LogError::Gap { .. }));
    assert!(matches!(refuse(&mut store, run(9, 1, 1, 1)), LogError::UnknownGroup { .. }));
    assert!(matches!(refuse(&mut store, create(1, 3)), LogError::GroupExists { .. }));
    assert!(matches!(refuse(&mut store, create(1, 2)), LogError::GroupExists { .. }));
    assert!(matches!(refuse(&mut store, truncate(1, 0)), LogError::TruncateBelowFirst { .. }));
    assert!(!store.is_poisoned());
    assert_eq!((last(&store, 1), last(&store, 2)), (Some(2), None));
    assert_eq!(expect(store.append(&[])).end_lsn, end, "an empty batch writes nothing");
    expect(store.append(&[create(2, 1), run(1, 3, 1, 1)]));
}

/// A group created again with a larger incarnation has nothing of its former life.
pub fn a_new_life_of_a_group_begins_empty(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 5, 4)]));
    expect(store.sync());
    expect(store.append(&[create(1, 2)]));
    assert_eq!(last(&store, 1), Some(0));
    expect(store.append(&[run(1, 1, 1, 1)]));
    assert_eq!(store.reader().term(GroupId::new(1), LogIndex::new(1)), Some(Term::new(1)));
}

/// After an installed snapshot the log holds what comes after it, and nothing of before.
pub fn an_installed_snapshot_takes_the_place_of_the_log(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 5, 1)]));
    let mut write = run(1, 21, 2, 4);
    write.install = Some(snapshot(20));
    expect(store.append(&[write]));
    expect(store.sync());
    let reader = store.reader();
    let bounds = |store: &dyn LogStore| {
        let reader = store.reader();
        let group = GroupId::new(1);
        let ends =
            [reader.first_index(group), reader.last_index(group), reader.durable_index(group)];
        ends.map(|end| end.map(LogIndex::get))
    };
    assert_eq!(bounds(&store), [Some(21), Some(22), Some(22)]);
    assert_eq!(reader.term(GroupId::new(1), LogIndex::new(5)), None);
    assert_eq!(reader.term(GroupId::new(1), LogIndex::new(22)), Some(Term::new(4)));
    let mut again = GroupWrite::new(GroupId::new(1));
    again.install = Some(snapshot(30));
    expect(store.append(&[again]));
    assert_eq!(bounds(&store)[..2], [Some(31), Some(30)], "an empty log ends at its base");
    let mut back = GroupWrite::new(GroupId::new(1));
    back.install = Some(snapshot(29));
    assert!(matches!(store.append(&[back]), Err(LogError::BeginsEarlier { .. })));
    expect(store.append(&[run(1, 31, 1, 5)]));
    assert_eq!(last(&store, 1), Some(31));
}

/// Compaction removes a prefix; what is left is read and continued as before.
pub fn compaction_forgets_the_beginning_only(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 6, 1), run(1, 7, 4, 2)]));
    let compact = |upto: u64| compact(upto, &[]);
    expect(store.append(&[compact(4)]));
    let read = |store: &dyn LogStore, first: u64, last: u64| {
        let (first, last) = (LogIndex::new(first), LogIndex::new(last));
        store.reader().entries(GroupId::new(1), first, last, u64::MAX)
    };
    assert!(matches!(read(&store, 4, 10), Err(ReadError::OutOfRange { .. })));
    let left = read(&store, 5, 10);
    let expected = [run(1, 5, 2, 1).entries, run(1, 7, 4, 2).entries].concat();
    assert!(matches!(left, Ok(left) if left == expected), "what is left is as it was");
    assert_eq!(store.reader().term(GroupId::new(1), LogIndex::new(4)), None);
    assert!(matches!(store.append(&[compact(3)]), Err(LogError::BeginsEarlier { .. })));
    assert!(matches!(store.append(&[compact(11)]), Err(LogError::CompactBeyondLast { .. })));
    let below = store.append(&[truncate(1, 4)]);
    assert!(matches!(below, Err(LogError::TruncateBelowFirst { .. })));
    expect(store.append(&[truncate(1, 9), run(1, 9, 1, 3), compact(9), run(1, 10, 1, 3)]));
    assert_eq!(store.reader().first_index(GroupId::new(1)), Some(LogIndex::new(10)));
    assert_eq!(last(&store, 1), Some(10));
}

/// What a compaction names stays readable by index and term, untouched by what becomes of the log,
/// until a later one does not name it any more.
pub fn named_entries_outlive_the_beginning_of_the_log(mut store: impl LogStore) {
    let group = GroupId::new(1);
    expect(store.append(&[create(1, 1), run(1, 1, 6, 1), run(1, 7, 4, 2)]));
    expect(store.append(&[compact(8, &[(2, 1), (5, 1), (6, 1), (7, 2)])]));
    let reader = store.reader();
    let is_held =
        |index: u64, term: u64| match reader.entry(group, LogIndex::new(index), Term::new(term)) {
            Ok(found) => {
                assert_eq!(found, entry(index, term, RUN_PAYLOAD_BYTES), "{index}");
                true
            }
            Err(ReadError::NotHeld { .. }) => false,
            Err(error) => panic!("entry {index}: {error}"),
        };
    let held = |upto: u64| -> Vec<u64> {
        (1..=upto).filter(|index| (1..=9).any(|term| is_held(*index, term))).collect()
    };
    assert_eq!(held(20), [2, 5, 6, 7, 9, 10]);
    assert_eq!(reader.first_index(group), Some(LogIndex::new(9)));
    assert_eq!(reader.term(group, LogIndex::new(7)), None, "it is no part of the log");
    let below = reader.entries(group, LogIndex::new(7), LogIndex::new(9), u64::MAX);
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })));
    expect(store.append(&[truncate(1, 9), run(1, 9, 4, 3)]));
    assert_eq!(held(20), [2, 5, 6, 7, 9, 10, 11, 12]);
    assert_eq!(reader.live(group), live(&[(2, 1), (5, 1), (6, 1), (7, 2)]));
    expect(store.append(&[compact(10, &[(5, 1), (7, 2), (10, 3)])]));
    assert_eq!(held(20), [5, 7, 10, 11, 12]);
    let all = expect_read(reader.holding(group, &live(&[(2, 1), (5, 1), (10, 2), (12, 3)])));
    assert_eq!(all.missing, live(&[(2, 1), (10, 2)]));
    assert_eq!(all.bytes, 2 * RUN_PAYLOAD_BYTES as u64);
    // Within one batch each operation finds what the ones before it have left.
    expect(store.append(&[compact(11, &[(5, 1), (11, 3)]), compact(12, &[(11, 3)])]));
    assert_eq!(held(20), [11]);
    expect(store.append(&[compact(12, &[])]));
    assert_eq!(held(20), [] as [u64; 0]);
    expect(store.append(&[run(1, 13, 1, 3)]));
    let mut anew = create(1, 2);
    expect(store.append(&[compact(13, &[(13, 3)])]));
    anew.entries = run(1, 1, 1, 1).entries;
    expect(store.append(&[anew]));
    assert_eq!(held(20), [1], "another life has nothing of it");
}

/// An installed snapshot leaves what it names, from wherever it is held, of the term it names.
pub fn an_installed_snapshot_takes_its_entries_from_what_is_held_and_what_was_fetched(
    mut store: impl LogStore,
) {
    let group = GroupId::new(1);
    expect(store.append(&[create(1, 1), run(1, 1, 4, 1), compact(3, &[(2, 1)]), run(1, 5, 4, 2)]));
    // Here 6 is of term 2, in the snapshot of term 3.
    let mut fetch = GroupWrite::new(group);
    fetch.fetched = [(6, 3), (8, 3), (15, 3)].map(|(at, term)| entry(at, term, 50)).to_vec();
    expect(store.append(&[fetch]));
    let reader = store.reader();
    let read = |index: u64, term: u64| reader.entry(group, LogIndex::new(index), Term::new(term));
    assert!(matches!(read(6, 2), Ok(found) if found == entry(6, 2, RUN_PAYLOAD_BYTES)));
    assert!(matches!(read(6, 3), Ok(found) if found == entry(6, 3, 50)));
    let mut install = GroupWrite::new(group);
    install.install = Some(snapshot(20));
    let names = [(2, 1), (4, 1), (5, 2), (6, 3), (15, 3)];
    install.live = Some(Arc::new(live(&names)));
    install.entries = run(1, 21, 1, 4).entries;
    expect(store.append(&[install]));
    expect(store.sync());
    assert_eq!(reader.live(group), live(&names));
    assert!(matches!(read(4, 1), Ok(found) if found == entry(4, 1, RUN_PAYLOAD_BYTES)));
    assert!(matches!(read(6, 3), Ok(found) if found == entry(6, 3, 50)));
    assert!(matches!(read(6, 2), Err(ReadError::NotHeld { .. })));
    assert!(matches!(read(8, 3), Err(ReadError::NotHeld { .. })), "nobody names it");
    assert!(reader.fetched(group).is_empty());
    assert_eq!(reader.last_index(group), Some(LogIndex::new(21)));
}

/// A name that is not there is refused with the whole batch.
pub fn what_is_not_held_cannot_stay(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 9, 1), compact(4, &[(2, 1)])]));
    let mut install = GroupWrite::new(GroupId::new(1));
    install.install = Some(snapshot(20));
    install.live = Some(Arc::new(live(&[(2, 1), (12, 1)])));
    let mut lost = GroupWrite::new(GroupId::new(1));
    lost.install = Some(snapshot(9));
    let refused: [(Vec<GroupWrite>, (u64, u64)); 5] = [
        (vec![compact(5, &[(1, 1), (2, 1)])], (1, 1)),
        (vec![compact(5, &[(2, 1), (5, 2)])], (5, 2)),
        (vec![install], (12, 1)),
        (vec![lost, compact(9, &[(2, 1)])], (2, 1)),
        (vec![truncate(1, 7), run(1, 7, 2, 2), compact(8, &[(7, 1)])], (7, 1)),
    ];
    for (batch, name) in refused {
        match store.append(&batch) {
            Err(LogError::LiveMissing { index, term, .. }) => {
                assert_eq!((index.get(), term.get()), name);
            }
            other => panic!("{other:?}"),
        }
    }
    // Names beyond the base say nothing yet.
    expect(store.append(&[compact(5, &[(2, 1), (77, 9)])]));
    assert_eq!(store.reader().live(GroupId::new(1)), live(&[(2, 1)]));
    assert_eq!(last(&store, 1), Some(9));
}

/// What is fetched for a snapshot waits beside the log; nothing but the end of that touches it.
pub fn fetched_entries_wait_beside_the_log_until_they_are_dropped(mut store: impl LogStore) {
    let group = GroupId::new(1);
    let mut fetch = create(1, 1);
    fetch.fetched = [(3, 2), (4, 2), (9, 5)].map(|(at, term)| entry(at, term, 9)).to_vec();
    expect(store.append(&[fetch, run(1, 1, 6, 1), truncate(1, 3), compact(2, &[])]));
    let reader = store.reader();
    let fetched = || -> Vec<(u64, u64)> {
        let all = reader.fetched(group);
        all.into_iter().map(|(index, term)| (index.get(), term.get())).collect()
    };
    assert_eq!(fetched(), [(3, 2), (4, 2), (9, 5)]);
    assert_eq!((last(&store, 1), reader.first_index(group)), (Some(2), Some(LogIndex::new(3))));
    let found = reader.entry(group, LogIndex::new(9), Term::new(5));
    assert!(matches!(found, Ok(found) if found == entry(9, 5, 9)));
    let mut drop = GroupWrite::new(group);
    drop.drop_fetched = true;
    drop.fetched = vec![entry(5, 3, 8)];
    expect(store.append(&[drop]));
    assert_eq!(fetched(), [(5, 3)], "what comes with the word to drop them is new");
    let mut noop = GroupWrite::new(group);
    noop.fetched = vec![entry(7, 1, 0)];
    assert!(matches!(store.append(&[noop]), Err(LogError::NotFetchable { .. })));
    assert_eq!(fetched(), [(5, 3)]);
}

/// Nothing of a destroyed group is left, and nothing is taken for it; it may begin again.
pub fn a_destroyed_group_is_gone_until_it_is_created_again(mut store: impl LogStore) {
    expect(store.append(&[create(1, 2), run(1, 1, 3, 1)]));
    let mut destroy = GroupWrite::new(GroupId::new(1));
    destroy.destroy = Some(Tombstone {
        group: GroupId::new(1),
        replica: ReplicaId::new(7),
        hard_state: HardState::default(),
    });
    expect(store.append(&[destroy]));
    expect(store.sync());
    assert_eq!(last(&store, 1), None);
    assert!(matches!(store.append(&[run(1, 4, 1, 1)]), Err(LogError::UnknownGroup { .. })));
    assert!(matches!(store.append(&[create(1, 1)]), Err(LogError::GroupExists { .. })));
    expect(store.append(&[create(1, 2), run(1, 1, 1, 9)]));
    assert_eq!(last(&store, 1), Some(1));
}

/// An entry counts as durable after a sync and not before; replacing it takes that back.
pub fn durable_index_waits_for_the_sync(mut store: impl LogStore) {
    let durable =
        |store: &dyn LogStore| store.reader().durable_index(GroupId::new(1)).map(LogIndex::get);
    assert_eq!(durable(&store), None);
    let mut first = run(1, 1, 3, 1);
    first.create = create(1, 1).create;
    first.hard_state = Some(HardState { term: Term::new(1), vote: Some(ReplicaId::new(2)) });
    let end = expect(store.append(&[first])).end_lsn;
    assert_eq!(durable(&store), Some(0));
    assert!(expect(store.sync()).durable_lsn >= end);
    assert_eq!(durable(&store), Some(3));
    let mut replace = run(1, 2, 4, 2);
    replace.truncate_from = Some(LogIndex::new(2));
    expect(store.append(&[replace]));
    assert_eq!((durable(&store), last(&store, 1)), (Some(1), Some(5)));
    expect(store.sync());
    expect(store.idle());
    assert_eq!(durable(&store), Some(5));
}

/// A commit makes its batch durable, and what was appended before; or refuses it and does neither.
pub fn a_commit_is_an_append_and_a_sync(mut store: impl LogStore) {
    let durable =
        |store: &dyn LogStore| store.reader().durable_index(GroupId::new(1)).map(LogIndex::get);
    let mut first = run(1, 1, 3, 1);
    first.create = create(1, 1).create;
    let (info, sync) = expect(store.commit(&[first]));
    assert!(info.frames == 1 && sync.durable_lsn >= info.end_lsn);
    assert_eq!((durable(&store), last(&store, 1)), (Some(3), Some(3)));
    expect(store.append(&[run(1, 4, 1, 1)]));
    assert!(matches!(store.commit(&[run(1, 9, 1, 1)]), Err(LogError::Gap { .. })));
    assert_eq!((durable(&store), last(&store, 1)), (Some(3), Some(4)));
    expect(store.commit(&[run(1, 5, 2, 1)]));
    assert_eq!((durable(&store), last(&store, 1)), (Some(6), Some(6)));
    expect(store.append(&[run(1, 7, 1, 1)]));
    expect(store.commit(&[]));
    assert_eq!((durable(&store), last(&store, 1)), (Some(7), Some(7)));
}

/// Batches that are staged while another flies go with the next flight, in order, and are durable when
/// that has landed.
pub fn what_was_staged_is_durable_when_its_flight_has_landed(mut store: impl LogStore) {
    let durable =
        |store: &dyn LogStore| store.reader().durable_index(GroupId::new(1)).map(LogIndex::get);
    let stage = |store: &mut dyn LogStore, write| expect(store.stage(&Arc::new(vec![write])));
    expect(store.commit(&[create(1, 1)]));
    let mut upto = 0;
    for (count, ending) in [(1, Ending::AtOnce), (3, Ending::Sync), (200, Ending::AtOnce)] {
        for _ in 0..count {
            stage(&mut store, run(1, upto + 1, 1, 1));
            upto += 1;
        }
        let flight = expect(store.depart(ending));
        stage(&mut store, run(1, upto + 1, 2, 1));
        let landing = flight.land();
        assert!(landing.is_safe());
        expect(store.land(landing));
        assert!(durable(&store) >= Some(upto));
        upto += 2;
    }
    let flight = expect(store.depart(Ending::AtOnce));
    expect(store.land(flight.land()));
    assert_eq!((durable(&store), last(&store, 1)), (Some(upto), Some(upto)));
    let all = (LogIndex::new(1), LogIndex::new(upto));
    let found = store.reader().entries(GroupId::new(1), all.0, all.1, u64::MAX);
    assert!(matches!(found, Ok(found) if found.len() as u64 == upto));
    // A call that writes by itself takes what was staged along.
    stage(&mut store, truncate(1, 3));
    expect(store.append(&[run(1, 3, 1, 7)]));
    expect(store.sync());
    assert_eq!((durable(&store), last(&store, 1)), (Some(3), Some(3)));
}

/// A flight that is only to be written is read when it has landed, and durable with the next one.
pub fn what_a_flight_only_writes_is_durable_with_the_next(mut store: impl LogStore) {
    let durable =
        |store: &dyn LogStore| store.reader().durable_index(GroupId::new(1)).map(LogIndex::get);
    expect(store.commit(&[create(1, 1)]));
    for first in [1, 3] {
        for (index, ending) in [(first, Ending::Written), (first + 1, Ending::AtOnce)] {
            expect(store.stage(&Arc::new(vec![run(1, index, 1, 1)])));
            let flight = expect(store.depart(ending));
            expect(store.land(flight.land()));
            assert_eq!(last(&store, 1), Some(index));
        }
        assert_eq!(durable(&store), Some(first + 1));
    }
    expect(store.stage(&Arc::new(vec![run(1, 5, 1, 1)])));
    let flight = expect(store.depart(Ending::Written));
    expect(store.land(flight.land()));
    expect(store.sync());
    assert_eq!(durable(&store), Some(5));
}

/// A sync that departs covers what was written before, in whatever order it lands, and the next one what
/// was written beside it. What was staged goes along.
pub fn a_sync_covers_what_was_written_when_it_began(mut store: impl LogStore) {
    let durable =
        |store: &dyn LogStore| store.reader().durable_index(GroupId::new(1)).map(LogIndex::get);
    expect(store.commit(&[create(1, 1)]));
    for first in [1, 4] {
        expect(store.append_cached(&[run(1, first, 1, 1)]));
        let flight = expect(store.depart_sync());
        if flight.is_sync() || flight.is_over() {
            expect(store.append_cached(&[run(1, first + 1, 1, 1)]));
            assert_eq!(last(&store, 1), Some(first + 1));
        } else {
            expect(store.stage(&Arc::new(vec![run(1, first + 1, 1, 1)])));
        }
        expect(store.land(flight.land()));
        assert!(durable(&store) >= Some(first));
        expect(store.stage(&Arc::new(vec![run(1, first + 2, 1, 1)])));
        let flight = expect(store.depart_sync());
        assert!(!flight.is_sync(), "it writes what was staged");
        expect(store.land(flight.land()));
        assert_eq!(durable(&store), Some(first + 2));
    }
}

/// What is refused when it is staged leaves what was staged before.
pub fn a_refused_batch_takes_nothing_else_from_a_flight(mut store: impl LogStore) {
    expect(store.stage(&Arc::new(vec![create(1, 1), run(1, 1, 2, 1)])));
    let bad = Arc::new(vec![run(1, 3, 1, 1), run(1, 9, 1, 1)]);
    assert!(matches!(store.stage(&bad), Err(LogError::Gap { .. })));
    expect(store.stage(&Arc::new(vec![run(1, 3, 1, 2)])));
    let flight = expect(store.depart(Ending::AtOnce));
    expect(store.land(flight.land()));
    assert_eq!(last(&store, 1), Some(3));
    assert_eq!(store.reader().term(GroupId::new(1), LogIndex::new(3)), Some(Term::new(2)));
}

/// What is to outlive the beginning of the log may be staged itself.
pub fn names_hold_for_what_is_staged_as_for_what_is_there(mut store: impl LogStore) {
    let batch = |writes| Arc::new(writes);
    expect(store.commit(&[create(1, 1), run(1, 1, 2, 1)]));
    expect(store.stage(&batch(vec![run(1, 3, 3, 1)])));
    let flight = expect(store.depart(Ending::AtOnce));
    expect(store.stage(&batch(vec![compact(4, &[(1, 1), (3, 1)])])));
    // Nothing that was not named then may be named later.
    let missing = store.stage(&batch(vec![compact(5, &[(2, 1)])]));
    assert!(matches!(missing, Err(LogError::LiveMissing { .. })));
    expect(store.stage(&batch(vec![compact(5, &[(3, 1)])])));
    expect(store.land(flight.land()));
    let flight = expect(store.depart(Ending::AtOnce));
    expect(store.land(flight.land()));
    assert_eq!(store.reader().first_index(GroupId::new(1)), Some(LogIndex::new(6)));
}

/// A payload that is handed over in pieces is read like any other, in a store that takes pieces. In
/// between others append and stage.
pub fn pieces_take_the_place_of_a_payload_whoever_comes_between(
    blocking: impl LogStore,
    flying: impl LogStore,
) {
    pieces(blocking, |store, payload| expect(store.append_piece(GroupId::new(1), payload)).1);
    pieces(flying, |store, payload| {
        let piece = expect(store.stage_piece(GroupId::new(1), payload));
        let flight = expect(store.depart(Ending::AtOnce));
        expect(store.land(flight.land()));
        piece
    });
}

fn pieces<S: LogStore>(mut store: S, mut write: impl FnMut(&mut S, &Bytes) -> Piece) {
    let Some(limits) = store.large() else {
        let refused = store.append_piece(GroupId::new(1), &Bytes::new());
        assert!(matches!(refused, Err(LogError::NoPieces)));
        return;
    };
    expect(store.append(&[create(1, 1), create(2, 1)]));
    let mut large = run(1, 1, 1, 1);
    large.entries[0].payload =
        (0..2 * limits.piece_bytes_max + 100).map(|at| (at / 3) as u8).collect();
    let entry = large.entries[0].clone();
    let mut written = Vec::new();
    for (at, piece) in entry.payload.chunks(limits.piece_bytes_max as usize).enumerate() {
        written.push(write(&mut store, &entry.payload.slice_ref(piece)));
        expect(store.append(&[run(2, at as u64 + 1, 1, 1)]));
        assert_eq!(last(&store, 1), Some(0), "the entry counts when it is appended");
    }
    let longer = Bytes::from(vec![0; limits.piece_bytes_max as usize + 1]);
    let refused = store.append_piece(GroupId::new(1), &longer);
    assert!(matches!(refused, Err(LogError::EntryTooLarge { .. })));
    large.put_in_pieces(entry.index, &written);
    expect(store.commit(&[large]));
    let found = store.reader().entries(GroupId::new(1), entry.index, entry.index, 1);
    assert!(matches!(found, Ok(found) if found == [entry]));
    assert_eq!(last(&store, 2), Some(3));
}

/// However often housekeeping is asked for, at rest, between calls and in flight, everybody reads
/// what they did, and it ends.
pub fn housekeeping_changes_nothing_that_is_read(mut store: impl LogStore) {
    let entries = |store: &dyn LogStore, group: u32, first: u64, last: u64| {
        let range = (LogIndex::new(first), LogIndex::new(last));
        expect_read(store.reader().entries(GroupId::new(group), range.0, range.1, u64::MAX))
    };
    expect(store.commit(&[create(1, 1), create(2, 1), run(1, 1, 1, 1)]));
    let slow = entries(&store, 1, 1, 1);
    for round in 0..40 {
        let mut write = run(2, 50 * round + 1, 50, 1);
        if round > 1 {
            let upto = 50 * (round - 1);
            write.compact = compact(upto, &[]).compact;
        }
        let writes = Arc::new(vec![write]);
        expect(store.stage(&writes));
        expect(store.tend(false));
        let flight = expect(store.depart(Ending::AtOnce));
        expect(store.tend(false));
        expect(store.land(flight.land()));
        expect(store.tend(false));
        assert_eq!(entries(&store, 1, 1, 1), slow);
        assert_eq!(entries(&store, 2, 50 * round + 1, 50 * round + 50), writes[0].entries);
    }
    let ended = (0..10_000).any(|_| {
        std::thread::yield_now();
        expect(store.tend(true)) == Tending::Done
    });
    assert!(ended && !store.is_poisoned(), "a log at rest comes to an end with it");
    assert_eq!(entries(&store, 1, 1, 1), slow);
    expect(store.idle());
}

/// A read stops at its budget, yet never returns less than one entry of a range it holds.
pub fn reads_are_bounded_and_never_empty_handed(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1), run(1, 1, 50, 1)]));
    let reader = store.reader();
    let read = |first: u64, last: u64, bytes_max: u64| {
        let (first, last) = (LogIndex::new(first), LogIndex::new(last));
        reader.entries(GroupId::new(1), first, last, bytes_max).map(|entries| entries.len())
    };
    let cost = entry(1, 1, RUN_PAYLOAD_BYTES).cost();
    assert!(matches!(read(3, 40, 0), Ok(1)));
    assert!(matches!(read(3, 40, 5 * cost), Ok(5)));
    assert!(matches!(read(3, 40, 5 * cost - 1), Ok(4)));
    assert!(matches!(read(3, 40, u64::MAX), Ok(38)));
    assert!(matches!(read(40, 3, u64::MAX), Ok(0)));
    assert!(matches!(read(0, 3, u64::MAX), Err(ReadError::OutOfRange { .. })));
    assert!(matches!(read(50, 51, u64::MAX), Err(ReadError::OutOfRange { .. })));
}

/// Readers run beside the writer and never see a part of a batch.
pub fn readers_on_other_threads_see_whole_batches(mut store: impl LogStore) {
    expect(store.append(&[create(1, 1)]));
    let reader = store.reader();
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let group = GroupId::new(1);
            loop {
                let last = reader.last_index(group).map_or(0, LogIndex::get);
                assert!(last.is_multiple_of(4), "half a batch is visible");
                if last > 0 {
                    let all = (LogIndex::new(1), LogIndex::new(last));
                    let read = reader.entries(group, all.0, all.1, u64::MAX);
                    assert!(matches!(read, Ok(entries) if entries.len() as u64 == last));
                }
                if last == 400 {
                    return;
                }
                std::thread::yield_now();
            }
        });
        for round in 0..100 {
            expect(store.append(&[run(1, 4 * round + 1, 2, 1), run(1, 4 * round + 3, 2, 1)]));
        }
        assert!(watching.join().is_ok(), "a reader failed beside the writer");
    });
}

/// Positions grow with content, and a sync covers all of it.
pub fn positions_never_run_backwards(mut store: impl LogStore) {
    let mut end = expect(store.append(&[create(1, 1), run(1, 1, 1, 1)])).end_lsn;
    for round in 2..20 {
        let info = expect(store.append(&[run(1, round, 1, 1)]));
        assert!(info.end_lsn > end && info.bytes > 0 && info.frames == 1);
        end = info.end_lsn;
        if round % 3 == 0 {
            assert!(expect(store.sync()).durable_lsn >= end);
        }
    }
}

fn create(group: u32, incarnation: u32) -> GroupWrite {
    let mut write = GroupWrite::new(GroupId::new(group));
    let incarnation = GroupIncarnation::new(incarnation);
    write.create = Some(GroupCreate { incarnation, spec: Bytes::from_static(b"spec") });
    write
}

fn compact(upto: u64, names: &[(u64, u64)]) -> GroupWrite {
    let index = LogIndex::new(upto);
    let base = Base { index, term: Term::new(1), snapshot: index, ..Base::default() };
    let mut write = GroupWrite::new(GroupId::new(1));
    write.compact = Some(Compaction { base, time: LogTime::new(0) });
    write.live = Some(Arc::new(live(names)));
    write
}

fn live(names: &[(u64, u64)]) -> LiveEntries {
    let mut live = LiveEntries::default();
    for (index, term) in names {
        assert!(live.push(LogIndex::new(*index), Term::new(*term)), "names ascend");
    }
    live
}

fn snapshot(index: u64) -> SnapshotMeta {
    let membership = Membership::of_voters([ReplicaId::new(1)]);
    SnapshotMeta {
        index: LogIndex::new(index),
        term: Term::new(3),
        time: LogTime::new(1_700_000_000_000),
        config_index: LogIndex::ZERO,
        membership: Arc::new(membership.expect("one voter is a membership")),
    }
}

fn truncate(group: u32, from: u64) -> GroupWrite {
    let mut write = GroupWrite::new(GroupId::new(group));
    write.truncate_from = Some(LogIndex::new(from));
    write
}

fn run(group: u32, first: u64, count: u64, term: u64) -> GroupWrite {
    let mut write = GroupWrite::new(GroupId::new(group));
    write.entries =
        (first..first + count).map(|index| entry(index, term, RUN_PAYLOAD_BYTES)).collect();
    write
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + index * 7 + term) as u8).collect();
    Entry {
        index: LogIndex::new(index),
        term: Term::new(term),
        kind: if bytes == 0 { EntryKind::Noop } else { EntryKind::Command },
        time: LogTime::new(1_700_000_000_000 + index),
        payload: payload.into(),
    }
}

fn last(store: &impl LogStore, group: u32) -> Option<u64> {
    store.reader().last_index(GroupId::new(group)).map(LogIndex::get)
}

fn expect_read<T>(outcome: Result<T, ReadError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("what is held is not read: {error}"),
    }
}

fn expect<T>(outcome: Result<T, LogError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("a sound operation was refused: {error}"),
    }
}

const RUN_PAYLOAD_BYTES: usize = 100;
