//! The table of segments: where each lies in the log, and how much of it is still alive.
//!
//! Invariants:
//! - what a segment is said to hold is what the index has places for in it: the index changes both
//!   under one lock;
//! - a segment leaves the table only when no kept checkpoint needs it and nobody reads from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::lsn::Lsn;
use crate::format::record::item_bytes;
use crate::read::location::Location;

/// A segment of the log.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u64,
    pub(crate) base: Lsn,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// Entries in it that the log still holds, and the bytes they take.
    pub(crate) live: Live,
    /// Held by whoever reads from the file.
    pin: Arc<()>,
}

/// Keeps a segment from being written again.
pub(crate) type Pin = Arc<()>;

/// How much of something is alive.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Live {
    pub(crate) entries: u64,
    /// Never more than there are, and less by no more than 4 KiB for each entry of 1 MiB or more.
    pub(crate) bytes: u64,
}

/// All segments, by slot; spares are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    segments: BTreeMap<u32, Segment>,
}

impl Segments {
    /// A segment begins, or one is found.
    pub(crate) fn add(&mut self, slot: u32, seq: u64, base: Lsn, bytes: u64) {
        let segment = Segment { seq, base, bytes, live: Live::default(), pin: Arc::new(()) };
        self.segments.insert(slot, segment);
    }

    /// A segment that nobody needs any more.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.segments.remove(&slot);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.segments.iter().map(|(slot, segment)| (*slot, segment))
    }

    /// The index has these places.
    pub(crate) fn born(&mut self, places: impl IntoIterator<Item = Location>) {
        self.count(places, |live, born| {
            live.entries += born.entries;
            live.bytes += born.bytes;
        });
    }

    /// The index has them no more.
    pub(crate) fn died(&mut self, places: impl IntoIterator<Item = Location>) {
        self.count(places, |live, died| {
            debug_assert!(live.entries >= died.entries, "what dies was alive");
            live.entries = live.entries.saturating_sub(died.entries);
            live.bytes = live.bytes.saturating_sub(died.bytes);
        });
    }

    /// Counts places by segment. Neighbours lie in the same one as a rule, which is then looked up
    /// once for all of them.
    fn count(
        &mut self,
        places: impl IntoIterator<Item = Location>,
        change: impl Fn(&mut Live, Live),
    ) {
        let mut places = places.into_iter().peekable();
        while let Some(first) = places.next() {
            let mut found = Live { entries: 1, bytes: bytes_of(first) };
            while let Some(place) = places.next_if(|place| place.slot() == first.slot()) {
                found.entries += 1;
                found.bytes += bytes_of(place);
            }
            if let Some(segment) = self.segments.get_mut(&first.slot()) {
                change(&mut segment.live, found);
            }
        }
    }

    /// Keeps the segment from being written again as long as the pin lives.
    pub(crate) fn pin(&self, slot: u32) -> Option<Pin> {
        self.segments.get(&slot).map(|segment| Arc::clone(&segment.pin))
    }
}

impl Segment {
    /// Whether somebody reads from it. Nobody begins to once the index has no place in it.
    pub(crate) fn is_read(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }
}

fn bytes_of(place: Location) -> u64 {
    item_bytes(place.payload_bytes_min())
}
