//! One group in a checkpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    GroupId, GroupIncarnation, HardState, LogIndex, LogTime, Membership, Promise, PromiseRecord,
    ReplicaId, Term, Tombstone,
};

use crate::append::write::Compaction;
use crate::format::base;
use crate::format::live::LiveEntries;
use crate::format::lsn::Lsn;
use crate::format::pieces::{self, Piece};
use crate::read::facts::Facts;
use crate::read::index::{Aside, GroupIndex, Presence};
use crate::read::kept::Kept;
use crate::read::location::Location;

/// What a checkpoint holds of a group.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) group: GroupIndex,
    /// Where the payloads of its entries lie that are in pieces.
    pub(crate) pieces: Vec<(LogIndex, Vec<Piece>)>,
    /// All that the log says of the group below is in the row.
    pub(crate) since: Lsn,
}

/// Appends the row of a group, its length first. It holds all that the log says of it below `since`.
pub(crate) fn encode<'a>(
    group: &GroupIndex,
    pieces: impl Iterator<Item = (LogIndex, &'a Vec<Piece>)>,
    since: Lsn,
    out: &mut Vec<u8>,
) {
    let begin = out.len();
    let Facts { spec, hard_state, promise, base, configs, last_time, base_time, tombstone } =
        &group.facts;
    let mut row = Fields(out);
    row.u64(0);
    row.u64(since.get());
    row.u32(group.id.get());
    row.u32(group.incarnation.get());
    let flags = [
        (HERE, group.presence == Presence::Here),
        (VOTE, hard_state.vote.is_some()),
        (LOST, matches!(promise.promise, Promise::Lost | Promise::Unproven)),
        (DAMAGED, matches!(promise.promise, Promise::Damaged | Promise::Unproven)),
        (TIME, last_time.is_some()),
        (TOMBSTONE, tombstone.is_some()),
        (
            TOMBSTONE_VOTE,
            tombstone.is_some_and(|(_, tombstone)| tombstone.hard_state.vote.is_some()),
        ),
    ];
    row.u32(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum());
    row.u32(promise.loss_epoch);
    row.u64(hard_state.term.get());
    row.u64(hard_state.vote.map_or(0, ReplicaId::get));
    row.u64(last_time.map_or(0, LogTime::get));
    if let Some((incarnation, tombstone)) = tombstone {
        row.u64(u64::from(incarnation.get()));
        row.u64(tombstone.replica.get());
        row.u64(tombstone.hard_state.term.get());
        row.u64(tombstone.hard_state.vote.map_or(0, ReplicaId::get));
    }
    row.bytes(spec);
    row.u64(base.index.get());
    row.u64(base.term.get());
    let base = Compaction { base: base.clone(), time: *base_time };
    row.bytes(&base::encode(&base, &LiveEntries::default()));
    row.u64(configs.len() as u64);
    for (at, membership) in configs {
        row.u64(at.get());
        row.bytes(&membership.encode());
    }
    row.u64(group.first.get());
    row.u64(group.runs.len() as u64);
    for (at, term) in &group.runs {
        row.u64(at.get());
        row.u64(term.get());
    }
    let pieces: Vec<_> = pieces.collect();
    row.u64(pieces.len() as u64);
    for (at, pieces) in pieces {
        row.u64(at.get());
        row.bytes(&pieces::encode(pieces));
    }
    let kept = group.aside.as_ref().map(|aside| aside.kept.names()).unwrap_or_default();
    row.bytes(&kept.encode());
    for (_, place) in group.kept() {
        row.u64(place.to_bits());
    }
    row.u64(group.fetched().count() as u64);
    for (index, term, place) in group.fetched() {
        row.u64(index.get());
        row.u64(term.get());
        row.u64(place.to_bits());
    }
    row.u64(group.locations.len() as u64);
    for place in &group.locations {
        row.u64(place.to_bits());
    }
    let bytes = (out.len() - begin - LENGTH_BYTES) as u64;
    out[begin..begin + LENGTH_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

/// Reads [`encode`]'s bytes behind the length; `None` if they are none.
pub(crate) fn decode(bytes: &[u8]) -> Option<Row> {
    let mut row = Reader(bytes);
    let since = Lsn::new(row.u64()?);
    let id = GroupId::new(row.u32()?);
    let mut group = GroupIndex::new(id, GroupIncarnation::new(row.u32()?));
    let flags = row.u32()?;
    let is = |flag| flags & flag != 0;
    if !is(HERE) {
        group.presence = Presence::Destroyed;
    }
    let facts = &mut group.facts;
    let promise = match (is(LOST), is(DAMAGED)) {
        (false, false) => Promise::Kept,
        (true, false) => Promise::Lost,
        (false, true) => Promise::Damaged,
        (true, true) => Promise::Unproven,
    };
    facts.promise = PromiseRecord { promise, loss_epoch: row.u32()? };
    let vote = |flag, vote| is(flag).then(|| ReplicaId::new(vote));
    facts.hard_state = HardState { term: Term::new(row.u64()?), vote: vote(VOTE, row.u64()?) };
    let time = LogTime::new(row.u64()?);
    facts.last_time = is(TIME).then_some(time);
    if is(TOMBSTONE) {
        let incarnation = GroupIncarnation::new(row.u64()?.try_into().ok()?);
        let replica = ReplicaId::new(row.u64()?);
        let hard_state =
            HardState { term: Term::new(row.u64()?), vote: vote(TOMBSTONE_VOTE, row.u64()?) };
        facts.tombstone = Some((incarnation, Tombstone { group: id, replica, hard_state }));
    }
    facts.spec = Bytes::copy_from_slice(row.bytes()?);
    let (index, term) = (LogIndex::new(row.u64()?), Term::new(row.u64()?));
    let (Compaction { base, time }, _) = base::decode_at(index, term, row.bytes()?)?;
    (facts.base, facts.base_time) = (base, time);
    for _ in 0..row.u64()? {
        let at = LogIndex::new(row.u64()?);
        let membership = Membership::decode(row.bytes()?).ok()?;
        facts.configs.push((at, Arc::new(membership)));
    }
    group.first = LogIndex::new(row.u64()?);
    for _ in 0..row.u64()? {
        group.runs.push((LogIndex::new(row.u64()?), Term::new(row.u64()?)));
    }
    let mut pieces = Vec::new();
    for _ in 0..row.u64()? {
        pieces.push((LogIndex::new(row.u64()?), pieces::decode(row.bytes()?)?));
    }
    let names = LiveEntries::decode(row.bytes()?)?;
    let places = row.words(names.count())?;
    let mut places = places.iter().map(place);
    let mut aside = Aside { kept: Kept::collect(&names, |_, _| places.next()), ..Aside::default() };
    for _ in 0..row.u64()? {
        let (index, term) = (LogIndex::new(row.u64()?), Term::new(row.u64()?));
        aside.fetched.insert(index, (term, Location::from_bits(row.u64()?)));
    }
    let has_aside = !aside.kept.is_empty() || !aside.fetched.is_empty();
    group.aside = has_aside.then(|| Box::new(aside));
    let count = row.u64()?;
    let (places, []) = row.0.as_chunks::<8>() else { return None };
    if places.len() as u64 != count {
        return None;
    }
    // What the log holds since is added next, to all groups in turn: each would leave a hole in memory.
    group.locations = VecDeque::with_capacity(places.len() + GroupIndex::spare(places.len()));
    group.locations.extend(places.iter().map(place));
    // What the index relies on.
    let sound = group.first.get() >= 1
        && group.first.get().checked_add(count).is_some()
        && names.last().is_none_or(|last| last < group.first)
        && (count == 0) == group.runs.is_empty()
        && group.runs.first().is_none_or(|(at, _)| *at == group.first)
        && group.runs.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && group.runs.last().is_none_or(|(at, _)| *at <= group.last());
    sound.then_some(Row { group, pieces, since })
}

/// How many bytes the length of a row takes.
pub(crate) const LENGTH_BYTES: usize = 8;

const HERE: u32 = 1;
const VOTE: u32 = 2;
const LOST: u32 = 4;
const DAMAGED: u32 = 8;
const TIME: u32 = 16;
const TOMBSTONE: u32 = 32;
const TOMBSTONE_VOTE: u32 = 64;

struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }
}

fn place(bits: &[u8; 8]) -> Location {
    Location::from_bits(u64::from_le_bytes(*bits))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*value))
    }

    fn u64(&mut self) -> Option<u64> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*value))
    }

    fn words(&mut self, count: u64) -> Option<&'a [[u8; 8]]> {
        let bytes = usize::try_from(count.checked_mul(8)?).ok()?;
        let (words, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(words.as_chunks::<8>().0)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::Base;

    fn row() -> GroupIndex {
        let membership = Arc::new(Membership::of_voters([ReplicaId::new(2)]).unwrap());
        let mut group = GroupIndex::new(GroupId::new(7), GroupIncarnation::new(3));
        group.first = LogIndex::new(11);
        group.runs = vec![(LogIndex::new(11), Term::new(2)), (LogIndex::new(13), Term::new(4))];
        group.locations = (0..4).map(|at| Location::new(5, 4096 + at * 16, 0)).collect();
        let mut names = LiveEntries::default();
        assert!(names.push_run(LogIndex::new(5), 2, Term::new(1)));
        let kept = |index: LogIndex, _| Some(Location::new(4, 4096 + index.get() * 8, 3));
        let fetched = (Term::new(3), Location::new(6, 8192, 9));
        group.aside = Some(Box::new(Aside {
            kept: Kept::collect(&names, kept),
            fetched: [(LogIndex::new(20), fetched)].into(),
        }));
        group.facts = Facts {
            spec: Bytes::from_static(b"spec"),
            hard_state: HardState { term: Term::new(4), vote: Some(ReplicaId::new(9)) },
            promise: PromiseRecord { promise: Promise::Lost, loss_epoch: 1 },
            base: Base {
                index: LogIndex::new(10),
                term: Term::new(2),
                config_index: LogIndex::new(3),
                membership: Some(Arc::clone(&membership)),
                snapshot: LogIndex::new(12),
            },
            configs: vec![(LogIndex::new(12), membership)],
            last_time: Some(LogTime::new(77)),
            base_time: LogTime::new(70),
            tombstone: Some((
                GroupIncarnation::new(2),
                Tombstone {
                    group: GroupId::new(7),
                    replica: ReplicaId::new(1),
                    hard_state: HardState { term: Term::new(1), vote: None },
                },
            )),
        };
        group
    }

    #[test]
    fn a_row_comes_back_and_none_that_is_cut_does() {
        for group in [row(), GroupIndex::new(GroupId::new(1), GroupIncarnation::new(1))] {
            let mut bytes = Vec::new();
            let pieces = vec![(LogIndex::new(12), vec![Piece::new(Location::new(1, 8, 2), b"ab")])];
            let given = pieces.iter().map(|(at, pieces)| (*at, pieces));
            encode(&group, given, Lsn::new(4096), &mut bytes);
            let row = &bytes[LENGTH_BYTES..];
            assert_eq!(u64::from_le_bytes(*bytes.first_chunk().unwrap()), row.len() as u64);
            let found = decode(row).unwrap();
            let expected = Row { group, pieces, since: Lsn::new(4096) };
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
            for cut in 0..row.len() {
                assert!(decode(&row[..cut]).is_none(), "{cut}");
            }
        }
    }

    #[test]
    fn a_row_with_its_golden_bytes() {
        let mut bytes = Vec::new();
        encode(&row(), std::iter::empty(), Lsn::new(4096), &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "6b0100000000000000100000000000000700000003000000370000000100000004000000",
            "0000000009000000000000004d0000000000000002000000000000000100000000000000",
            "0100000000000000000000000000000004000000737065630a0000000000000002000000",
            "0000000037000000460000000000000003000000000000000c000000000000001b000000",
            "01020000000000000001020000000000000002000000000000000001000000000000000c",
            "000000000000001b00000001020000000000000001020000000000000002000000000000",
            "00000b0000000000000002000000000000000b0000000000000002000000000000000d00",
            "000000000000040000000000000000000000000000000500000001050105020300a04000",
            "4000000300c0400040000001000000000000001400000000000000030000000000000009",
            "000080006000000400000000000000000000400050000000004040005000000000804000",
            "5000000000c04000500000",
        );
        assert_eq!(hex, golden);
    }
}
