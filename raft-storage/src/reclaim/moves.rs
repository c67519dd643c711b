//! Moving what lives out of segments that are nearly empty.
//!
//! A segment that holds a few entries of slow groups keeps all its bytes. So while the log takes
//! more than twice what is alive in it, the emptiest segments are emptied: their entries are
//! written again at the end of the log. A segment with a share `u` alive costs `u` to empty and
//! gives back `1 - u`; none above a half is touched, so at most as much is written again as was
//! written, and no more than that is done while the log is busy.

use std::collections::{BTreeSet, VecDeque};

use raft_core::{GroupIncarnation, LogIndex};

use crate::checkpoint::capture::Found;
use crate::error::ReadError;
use crate::format::pieces::Piece;
use crate::read::location::Location;
use crate::reclaim::segments::Segments;

/// What is to be moved, and how much of it may be now.
#[derive(Debug)]
pub(crate) struct Moves {
    /// How much is moved at once.
    pub(crate) piece_bytes: u64,
    queue: VecDeque<Found>,
    /// Entries in pieces that are to be moved, the one under way first.
    large: VecDeque<LargeMove>,
    /// The segments that it lies in, by slot.
    pub(crate) victims: BTreeSet<u32>,
    /// Segments in which something is damaged: they stay.
    pub(crate) unreadable: BTreeSet<u32>,
    /// Segments of which the disk has refused something since victims were chosen last: it may pass, so
    /// they are left out once.
    pub(crate) refused: BTreeSet<u32>,
    /// Bytes that may be moved for those that were appended.
    credit: u64,
}

impl Moves {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        Self {
            piece_bytes: PIECE_BYTES_MAX.min(segment_bytes / 4),
            queue: VecDeque::new(),
            large: VecDeque::new(),
            victims: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            refused: BTreeSet::new(),
            credit: 0,
        }
    }

    /// Something in this segment could not be read. It is named again with a later checkpoint, unless it is
    /// damaged.
    pub(crate) fn give_up(&mut self, segment: u32, why: &ReadError) {
        if let ReadError::Corrupt { segment, .. } = why {
            self.unreadable.insert(*segment);
        } else if !why.is_passing() {
            self.refused.insert(segment);
        }
    }

    /// The segments that are not to be emptied now.
    pub(crate) fn left_out(&self) -> BTreeSet<u32> {
        self.unreadable.union(&self.refused).copied().collect()
    }

    pub(crate) fn begin(&mut self, victims: BTreeSet<u32>, found: Vec<Found>) {
        self.queue.extend(found);
        self.victims = victims;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.large.is_empty()
    }

    /// So much was appended.
    pub(crate) fn earn(&mut self, bytes: u64) {
        self.credit = (self.credit + bytes).min(CREDIT_BYTES_MAX);
    }

    /// Whether a piece may be moved: an idle log may at any time.
    pub(crate) fn may_move(&self, idle: bool) -> bool {
        !self.is_empty() && (idle || self.credit >= self.piece_bytes)
    }

    /// So much was moved.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(bytes);
    }

    /// The next entries, a few at most.
    pub(crate) fn next(&mut self) -> Option<Found> {
        self.queue.pop_front()
    }

    pub(crate) fn add_large(&mut self, large: LargeMove) {
        let is_known = |other: &LargeMove| (other.slot, other.index) == (large.slot, large.index);
        if !self.large.iter().any(is_known) {
            self.large.push_back(large);
        }
    }

    pub(crate) fn next_large(&mut self) -> Option<LargeMove> {
        self.large.pop_front()
    }

    pub(crate) fn put_large_back(&mut self, large: LargeMove) {
        self.large.push_front(large);
    }

    /// They cannot be moved yet.
    pub(crate) fn put_off(&mut self, found: Vec<Found>) {
        self.queue.extend(found);
    }

    /// It cannot be moved yet.
    pub(crate) fn put_large_off(&mut self, large: LargeMove) {
        self.large.push_back(large);
    }

    /// Those of them that were not moved.
    pub(crate) fn put_back(&mut self, mut found: Found, moved: u64) {
        if moved < found.count {
            found.first = LogIndex::new(found.first.get() + moved);
            found.count -= moved;
            self.queue.push_front(found);
        }
    }
}

/// An entry in pieces that is being moved, piece by piece.
#[derive(Debug)]
pub(crate) struct LargeMove {
    pub(crate) slot: u32,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) index: LogIndex,
    /// Where the entry and its pieces were when this was begun: another entry may have taken its place.
    pub(crate) of: Option<(Location, Vec<Piece>)>,
    /// The copies that are written.
    pub(crate) copied: Vec<Piece>,
}

impl LargeMove {
    pub(crate) fn new(slot: u32, incarnation: GroupIncarnation, index: LogIndex) -> Self {
        Self { slot, incarnation, index, of: None, copied: Vec::new() }
    }
}

/// Which segments to empty: as few and as empty ones as bring the log to twice what is alive in it
/// and four segments.
pub(crate) fn choose(
    segments: &Segments,
    active: u64,
    segment_bytes: u64,
    left_out: &BTreeSet<u32>,
) -> BTreeSet<u32> {
    let sealed =
        || segments.iter().filter(|(_, segment)| segment.seq < active && segment.live.entries > 0);
    let live: u64 = segments.iter().map(|(_, segment)| segment.live.bytes).sum();
    let allowed = 2 * live + SLACK_SEGMENTS * segment_bytes;
    let mut held: u64 = sealed().map(|(_, segment)| segment.bytes).sum();
    let mut candidates: Vec<_> = sealed()
        .filter(|(slot, segment)| {
            segment.live.bytes < segment.bytes / 2 && !left_out.contains(slot)
        })
        .map(|(slot, segment)| (segment.live.bytes, segment.live.entries, slot, segment.bytes))
        .collect();
    candidates.sort_unstable();
    let mut entries_left = ENTRIES_MAX;
    let mut victims = BTreeSet::new();
    for (live, entries, slot, bytes) in candidates {
        if held <= allowed || entries > entries_left {
            break;
        }
        entries_left -= entries;
        held -= bytes - live;
        victims.insert(slot);
    }
    victims
}

/// So much delays an append by about a sync.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// Beside twice what is alive.
pub(crate) const SLACK_SEGMENTS: u64 = 4;
const CREDIT_BYTES_MAX: u64 = 4 << 20;
/// Moved in one round; bounds what is remembered of it.
const ENTRIES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::lsn::Lsn;

    /// Segments of 1 MiB with so many KiB alive; the last one is being written.
    fn segments(live_kib: &[u64]) -> Segments {
        let mut segments = Segments::default();
        for (slot, kib) in (0..).zip(live_kib) {
            segments.add(slot, u64::from(slot) + 1, Lsn::new(u64::from(slot) << 20), 1 << 20);
            for at in 0..*kib {
                segments.born([Location::new(slot, 4096 + at * 1024, 1008)]);
            }
        }
        segments
    }

    fn chosen(live_kib: &[u64]) -> Vec<u32> {
        let active = live_kib.len() as u64;
        choose(&segments(live_kib), active, 1 << 20, &BTreeSet::new()).into_iter().collect()
    }

    #[test]
    fn the_emptiest_segments_are_emptied_until_twice_the_living_and_four_are_left() {
        assert_eq!(chosen(&[1; 4]), []);
        assert_eq!(chosen(&[1; 6]), [0], "five closed ones");
        assert_eq!(chosen(&[300, 1, 300, 2, 300, 3, 300, 900, 900]), []);
        assert_eq!(chosen(&[100, 1, 100, 2, 100, 3, 100, 100, 100]), [1, 3, 5]);
        assert_eq!(chosen(&[600; 40]), [], "nothing is gained");
        assert_eq!(chosen(&[0, 0, 0, 0, 0, 0, 0, 0, 0]), [], "what is dead needs no moving");
    }

    #[test]
    fn as_much_is_moved_as_was_appended_unless_the_log_is_idle() {
        let mut moves = Moves::new(64 << 20);
        let found = Found {
            slot: 0,
            incarnation: raft_core::GroupIncarnation::new(1),
            first: LogIndex::new(5),
            count: 10,
            fetched: false,
        };
        moves.begin(BTreeSet::from([3]), vec![found]);
        assert!(!moves.may_move(false) && moves.may_move(true));
        moves.earn(256 << 10);
        assert!(moves.may_move(false));
        moves.spend(1);
        assert!(!moves.may_move(false));
        let next = moves.next().unwrap();
        moves.put_back(next, 4);
        assert_eq!(moves.next().map(|left| (left.first.get(), left.count)), Some((9, 6)));
        moves.put_back(next, 10);
        assert!(moves.is_empty());
    }
}
