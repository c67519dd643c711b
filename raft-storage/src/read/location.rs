//! Where an entry lies, in 8 bytes.
//!
//! Memory decides how many entries a node can hold: at 8 bytes each, ten million live entries
//! take 80 MB. Three fields share the word: slot (20 bits), offset / 8 (23 bits, so 64 MiB) and
//! payload length (21 bits; longer ones read their length from the entry itself).

/// Where an entry lies: its 16-byte header, and the payload behind it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Location(u64);

impl Location {
    /// Packs a place. `offset` is a multiple of 8 below 64 MiB, `slot` below [`SLOTS_MAX`]:
    /// segments are not larger, and a longer one holds a single entry, at its beginning.
    pub(crate) fn new(slot: u32, offset: u64, payload_bytes: u64) -> Self {
        debug_assert!(slot < SLOTS_MAX && offset.is_multiple_of(8) && offset < SEGMENT_BYTES_MAX);
        let bytes = payload_bytes.min(LENGTH_SATURATED);
        Self((u64::from(slot) << 44) | ((offset / 8) << 21) | bytes)
    }

    /// The place as a checkpoint keeps it.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    /// Reads [`Self::to_bits`]; every number is a place.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn slot(self) -> u32 {
        (self.0 >> 44) as u32
    }

    pub(crate) fn offset(self) -> u64 {
        ((self.0 >> 21) & ((1 << 23) - 1)) * 8
    }

    /// The length of the payload, or `None` if it is too long to be kept here.
    pub(crate) fn payload_bytes(self) -> Option<u64> {
        let bytes = self.0 & LENGTH_SATURATED;
        (bytes < LENGTH_SATURATED).then_some(bytes)
    }

    /// The length of the payload, or the longest that can be kept here if it is longer.
    pub(crate) fn payload_bytes_min(self) -> u64 {
        self.0 & LENGTH_SATURATED
    }
}

/// Slots are numbered below this: 64 TiB of full segments.
pub(crate) const SLOTS_MAX: u32 = 1 << 20;
/// The largest ordinary segment.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const LENGTH_SATURATED: u64 = (1 << 21) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_survive_packing() {
        for slot in [0, 1, SLOTS_MAX - 1] {
            for offset in [0, 8, 4096, SEGMENT_BYTES_MAX - 8] {
                for bytes in [0, 1, LENGTH_SATURATED - 1, LENGTH_SATURATED, u64::from(u32::MAX)] {
                    let location = Location::new(slot, offset, bytes);
                    assert_eq!((location.slot(), location.offset()), (slot, offset));
                    let kept = (bytes < LENGTH_SATURATED).then_some(bytes);
                    assert_eq!(location.payload_bytes(), kept);
                }
            }
        }
    }
}
