//! Reading what is to be moved before it is moved.
//!
//! Segments are written past the page cache, so an entry that is to be moved comes from the disk, and
//! those of many groups come one by one: some 900 reads of 256 bytes in one step of housekeeping,
//! each behind whatever the disk has to write. The writer must not wait for that, nor those behind it.
//! So the thread that has made the checkpoint reads the blocks of victims that hold something, in the
//! order in which they lie there, and the writer finds them in memory. Whatever is not there is read
//! by the writer after all.
//!
//! Bound: 8 bytes for each block that holds something, and one buffer of [`READ_BYTES_MAX`].

use std::collections::{BTreeSet, VecDeque};

use crate::checkpoint::capture::Found;
use crate::disk::{Disk, DiskFile};
use crate::format::segment::BLOCK_BYTES;
use crate::read::index::Shared;
use crate::read::location::Location;

/// What is to be read, in the order in which it lies.
#[derive(Debug, Default)]
pub(crate) struct Warming {
    reads: VecDeque<Read>,
    buffer: Vec<u8>,
}

/// So many neighbouring blocks of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Read {
    segment: u32,
    first: u64,
    count: u64,
}

impl Warming {
    /// What was found in the victims. Holds the lock of the index for a part of it at a time.
    pub(crate) fn begin<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        victims: &BTreeSet<u32>,
        found: &[Found],
    ) {
        let mut blocks: Vec<(u32, u64)> = Vec::new();
        for found in found {
            let mut at = 0;
            while at < found.count {
                let until = found.count.min(at + PLACES_AT_ONCE);
                places(shared, found, at..until, |place, bytes| {
                    if victims.contains(&place.slot()) {
                        let first = place.offset() / BLOCK_BYTES;
                        let last = (place.offset() + bytes.max(1) - 1) / BLOCK_BYTES;
                        blocks.extend((first..=last).map(|block| (place.slot(), block)));
                    }
                });
                at = until;
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        self.reads = merge(&blocks);
    }

    /// Reads some of it; `false` once there is nothing more.
    ///
    /// What cannot be read is the writer's to find out.
    pub(crate) fn step<D: Disk>(&mut self, shared: &Shared<D>) -> bool {
        let Some(Read { segment, first, count }) = self.reads.pop_front() else {
            self.buffer = Vec::new();
            return false;
        };
        // Nobody writes it again meanwhile.
        let pin = shared.index.read().segments.pin(segment);
        if pin.is_some()
            && let Ok(file) = shared.files.get(segment)
        {
            self.buffer.resize((count * BLOCK_BYTES) as usize, 0);
            let _ = file.read_exact_at(&mut self.buffer, first * BLOCK_BYTES);
        }
        true
    }
}

/// Where these entries of what was found lie now, with their pieces, and how long each is there.
fn places<D: Disk>(
    shared: &Shared<D>,
    found: &Found,
    range: std::ops::Range<u64>,
    mut each: impl FnMut(Location, u64),
) {
    let index = shared.index.read();
    let group = index.groups.get(found.slot as usize);
    let Some(group) = group.filter(|group| group.incarnation == found.incarnation) else { return };
    for at in range {
        let entry = found.first.plus(at);
        let place = match found.fetched {
            true => group.fetched_of(entry).map(|(_, place)| place),
            false => group.held(entry),
        };
        let Some(place) = place else { continue };
        each(place, crate::format::record::item_bytes(place.payload_bytes_min()));
        if !found.fetched {
            for piece in index.pieces.get(&(found.slot, entry)).into_iter().flatten() {
                each(piece.location, piece.bytes.into());
            }
        }
    }
}

/// One read for blocks that lie together or nearly so.
fn merge(blocks: &[(u32, u64)]) -> VecDeque<Read> {
    let mut reads: VecDeque<Read> = VecDeque::new();
    for &(segment, block) in blocks {
        if let Some(last) = reads.back_mut()
            && last.segment == segment
            && block < last.first + last.count + GAP_BLOCKS_MAX
            && block - last.first < READ_BLOCKS_MAX
        {
            last.count = block - last.first + 1;
        } else {
            reads.push_back(Read { segment, first: block, count: 1 });
        }
    }
    reads
}

/// Looked up under one lock.
const PLACES_AT_ONCE: u64 = 4096;
/// So short a gap costs less than a further read.
const GAP_BLOCKS_MAX: u64 = 8;
/// So much delays whoever writes meanwhile by a fraction of a millisecond.
const READ_BYTES_MAX: u64 = 128 << 10;
const READ_BLOCKS_MAX: u64 = READ_BYTES_MAX / BLOCK_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together_and_no_more_than_a_buffer_at_once() {
        let read = |segment, first, count| Read { segment, first, count };
        assert_eq!(merge(&[]), []);
        assert_eq!(merge(&[(1, 5), (1, 6), (1, 13), (2, 14)]), [read(1, 5, 9), read(2, 14, 1)]);
        assert_eq!(merge(&[(1, 5), (1, 14)]), [read(1, 5, 1), read(1, 14, 1)], "too far apart");
        let many: Vec<_> = (0..70).map(|block| (0, block)).collect();
        assert_eq!(merge(&many), [read(0, 0, 32), read(0, 32, 32), read(0, 64, 6)]);
    }
}
