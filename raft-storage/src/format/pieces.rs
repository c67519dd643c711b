//! Large entries: their payload lies in the log ahead of them, in pieces.
//!
//! An entry of many MiB in one frame makes all other groups wait for its sync. So its payload is
//! written piece by piece, each a record of its own in whatever frame has room, with the writes of
//! others between them. The entry follows when all of them are written: it holds a *directory* in
//! place of its payload, and is there, or not, like any other. Pieces that no entry follows are
//! garbage.

use bytes::Bytes;

use crate::append::write::ENTRY_BYTES_MAX;
use crate::format::checksum::crc32c;
use crate::format::field::{u32_at, u64_at};
use crate::read::location::Location;

/// A piece of an entry's payload that is in the log. It belongs to the log that has written it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    pub(crate) location: Location,
    pub(crate) bytes: u32,
    pub(crate) crc: u32,
}

impl Piece {
    pub(crate) fn new(location: Location, payload: &[u8]) -> Self {
        Self { location, bytes: payload.len() as u32, crc: crc32c(payload) }
    }

    pub(crate) fn is_sound(&self, payload: &[u8]) -> bool {
        payload.len() == self.bytes as usize && crc32c(payload) == self.crc
    }
}

/// What an entry holds whose payload is in pieces.
pub(crate) fn encode(pieces: &[Piece]) -> Bytes {
    let mut bytes = Vec::with_capacity(pieces.len() * PIECE_BYTES);
    for piece in pieces {
        bytes.extend_from_slice(&piece.location.to_bits().to_le_bytes());
        bytes.extend_from_slice(&piece.bytes.to_le_bytes());
        bytes.extend_from_slice(&piece.crc.to_le_bytes());
    }
    bytes.into()
}

/// Reads [`encode`]'s bytes; `None` if they are none, or the payload would be too long.
pub(crate) fn decode(directory: &[u8]) -> Option<Vec<Piece>> {
    let (rows, []) = directory.as_chunks::<PIECE_BYTES>() else { return None };
    let piece = |row: &[u8; PIECE_BYTES]| Piece {
        location: Location::from_bits(u64_at(row, 0)),
        bytes: u32_at(row, 8),
        crc: u32_at(row, 12),
    };
    let pieces: Vec<Piece> = rows.iter().map(piece).collect();
    let total: u64 = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
    (total <= ENTRY_BYTES_MAX).then_some(pieces)
}

/// Of the kind of an entry: its payload is in pieces.
pub(crate) const IN_PIECES: u8 = 0x80;
const PIECE_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_its_golden_bytes_and_comes_back() {
        let pieces = [
            Piece::new(Location::new(3, 4096, 5), b"12345"),
            Piece::new(Location::new(4, 8192, 9), b"123456789"),
        ];
        let bytes = encode(&pieces);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!("0500004000300000050000003523d118", "090000800040000009000000839206e3")
        );
        assert_eq!(decode(&bytes), Some(pieces.to_vec()));
        for cut in 1..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).is_none(), cut % 16 != 0, "{cut}");
        }
        let long = Piece { bytes: u32::MAX, ..pieces[0] };
        assert_eq!(decode(&encode(&[long])), None);
        assert!(pieces[0].is_sound(b"12345") && !pieces[0].is_sound(b"12346"));
    }
}
