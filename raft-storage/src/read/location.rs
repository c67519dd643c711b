//! Where an entry lies, in 8 bytes.
//!
//! Memory decides how many entries a node can hold: at 8 bytes each, ten million live entries
//! take 80 MB. Three fields share the word: slot (20 bits), offset / 8 (23 bits, so 64 MiB) and
//! payload length (21 bits). A length below 1 MiB is kept as it is; of a longer one, whole blocks of
//! 4 KiB above that. So what is alive in a segment is known to a block per entry, and never more than
//! is there, however long entries are; who reads one has the rest from the entry itself.

/// Where an entry lies: its 16-byte header, and the payload behind it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Location(u64);

impl Location {
    /// Packs a place. `offset` is a multiple of 8 below 64 MiB, `slot` below [`SLOTS_MAX`]:
    /// segments are not larger, and a longer one holds a single entry, at its beginning.
    pub(crate) fn new(slot: u32, offset: u64, payload_bytes: u64) -> Self {
        debug_assert!(slot < SLOTS_MAX && offset.is_multiple_of(8) && offset < SEGMENT_BYTES_MAX);
        let length = match payload_bytes.checked_sub(LONG_BYTES_MIN) {
            None => payload_bytes,
            Some(more) => LONG | (more / UNIT_BYTES).min(LONG - 1),
        };
        Self((u64::from(slot) << 44) | ((offset / 8) << 21) | length)
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

    /// The length of the payload, or `None` if it is too long to be kept here as it is.
    pub(crate) fn payload_bytes(self) -> Option<u64> {
        (self.0 & LONG == 0).then_some(self.0 & (LONG - 1))
    }

    /// The length of the payload, or less than 4 KiB below it.
    pub(crate) fn payload_bytes_min(self) -> u64 {
        let length = self.0 & (LONG - 1);
        if self.0 & LONG == 0 { length } else { LONG_BYTES_MIN + length * UNIT_BYTES }
    }
}

/// Slots are numbered below this: 64 TiB of full segments.
pub(crate) const SLOTS_MAX: u32 = 1 << 20;
/// The largest ordinary segment.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Lengths from here on are kept in units.
const LONG_BYTES_MIN: u64 = LONG;
const UNIT_BYTES: u64 = 4096;
/// Of the 21 bits of a length: the others count units.
const LONG: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_survive_packing() {
        for slot in [0, 1, SLOTS_MAX - 1] {
            for offset in [0, 8, 4096, SEGMENT_BYTES_MAX - 8] {
                for bytes in [0, 1, LONG_BYTES_MIN - 1, LONG_BYTES_MIN, u64::from(u32::MAX)] {
                    let location = Location::new(slot, offset, bytes);
                    assert_eq!((location.slot(), location.offset()), (slot, offset));
                    let kept = (bytes < LONG_BYTES_MIN).then_some(bytes);
                    assert_eq!(location.payload_bytes(), kept);
                    assert_eq!(Location::from_bits(location.to_bits()), location);
                }
            }
        }
    }

    #[test]
    fn a_length_is_known_to_a_block_and_never_told_too_long() {
        let edges = (0..=28).map(|shift| 1_u64 << shift);
        for bytes in edges.flat_map(|edge| [edge - 1, edge, edge + 1, edge + 4095, edge + 4096]) {
            let told = Location::new(7, 8, bytes).payload_bytes_min();
            assert!(told <= bytes && bytes - told < UNIT_BYTES, "{bytes}: {told}");
            assert!(bytes >= LONG_BYTES_MIN || told == bytes, "{bytes}: {told}");
        }
    }

    #[test]
    fn a_place_has_its_golden_bits() {
        assert_eq!(Location::new(3, 4096, 5).to_bits(), 0x3000_4000_0005);
        assert_eq!(Location::new(3, 4096, 1 << 20).to_bits(), 0x3000_4010_0000);
        assert_eq!(Location::new(3, 4096, (8 << 20) + 4095).to_bits(), 0x3000_4010_0700);
    }
}
