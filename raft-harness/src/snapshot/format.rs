//! A snapshot as bytes: what it stands for, the machine's pieces, and a sum over all of it.
//!
//! The layout is drawn in `docs/FORMATS.md`. Reading verifies each piece before the machine sees
//! it, and the sum at the end.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{GroupId, GroupIncarnation, LogIndex, LogTime, Membership, SnapshotMeta, Term};
use raft_storage::{crc32c, crc32c_append};

use super::shelf::Shelf;
use super::store::{SnapshotName, SnapshotPart, SnapshotStore};
use crate::engine::panics::at_work_for;
use crate::state_machine::{RestoreError, StateMachine};

const MAGIC: &[u8; 8] = b"RAFTSNAP";
const FORMAT: u16 = 1;
const FIXED_BYTES: usize = 56;
/// A header is never longer: the fixed part, a membership of the largest size, a checksum.
const HEADER_BYTES_MAX: usize = 4096;
/// The longest piece that is read back: more would be somebody else's number.
const PIECE_BYTES_MAX: u32 = 256 << 20;
const PIECE_HEADER_BYTES: usize = 8;
const FOOTER_BYTES: usize = 12;

/// Writes a whole snapshot and makes it durable. Returns its length.
pub(crate) fn write(
    shelf: &Shelf,
    name: SnapshotName,
    meta: &SnapshotMeta,
    pieces: impl Iterator<Item = Bytes>,
) -> io::Result<u64> {
    let mut out = Summing { part: shelf.store().begin(name)?, crc: 0, bytes: 0 };
    out.put(&header(name, meta))?;
    let mut count: u32 = 0;
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let too_long = || io::Error::other("a piece of a snapshot is longer than 256 MiB");
        let bytes = u32::try_from(piece.len()).map_err(|_| too_long())?;
        if bytes > PIECE_BYTES_MAX {
            return Err(too_long());
        }
        out.put(&bytes.to_le_bytes())?;
        out.put(&crc32c(&piece).to_le_bytes())?;
        out.put(&piece)?;
        count = count.checked_add(1).ok_or_else(|| io::Error::other("too many pieces"))?;
    }
    out.put(&0_u32.to_le_bytes())?;
    out.put(&count.to_le_bytes())?;
    let crc = out.crc.to_le_bytes();
    out.put(&crc)?;
    shelf.put(name, out.part)?;
    Ok(out.bytes)
}

struct Summing {
    part: Box<dyn SnapshotPart>,
    crc: u32,
    bytes: u64,
}

impl Summing {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        self.part.append(bytes)
    }
}

fn header(name: SnapshotName, meta: &SnapshotMeta) -> Vec<u8> {
    let membership = meta.membership.encode();
    let mut bytes = Vec::with_capacity(FIXED_BYTES + membership.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&name.group.get().to_le_bytes());
    bytes.extend_from_slice(&name.incarnation.get().to_le_bytes());
    bytes.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    for number in [meta.index.get(), meta.term.get(), meta.time.get(), meta.config_index.get()] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&membership);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Names a snapshot's exact bytes: its length and its sum. Two nodes may well write the same
/// state differently.
pub(crate) fn fingerprint(
    store: &dyn SnapshotStore,
    name: SnapshotName,
) -> io::Result<Option<(u64, u32)>> {
    let Some(bytes) = store.bytes(name)? else {
        return Ok(None);
    };
    let sum = store.read(name, bytes.saturating_sub(4), 4)?;
    let sum: [u8; 4] = sum[..].try_into().map_err(|_| io::ErrorKind::UnexpectedEof)?;
    Ok(Some((bytes, u32::from_le_bytes(sum))))
}

/// A machine made from a snapshot, and what the snapshot stands for.
pub(crate) struct Restored {
    pub(crate) machine: Box<dyn StateMachine>,
    pub(crate) meta: SnapshotMeta,
    /// Its length.
    pub(crate) bytes: u64,
}

/// Makes `machine`, which is fresh, what the snapshot says.
pub(crate) fn restore(
    store: &dyn SnapshotStore,
    name: SnapshotName,
    mut machine: Box<dyn StateMachine>,
) -> Result<Restored, RestoreError> {
    let mut reader = Reader::open(store, name)?;
    let meta = reader.header()?;
    let restored = at_work_for(name.group, || machine.restore(&mut reader));
    // Whatever the machine thought of bytes that were not those written, the bytes are to blame.
    if let Some(fault) = reader.fault.take() {
        return Err(fault);
    }
    restored?;
    for _ in reader.by_ref() {}
    match reader.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(Restored { machine, meta, bytes: reader.end }),
    }
}

/// Reads a snapshot from front to back.
struct Reader<'a> {
    store: &'a dyn SnapshotStore,
    name: SnapshotName,
    at: u64,
    end: u64,
    crc: u32,
    pieces: u32,
    ended: bool,
    fault: Option<RestoreError>,
}

impl<'a> Reader<'a> {
    fn open(store: &'a dyn SnapshotStore, name: SnapshotName) -> Result<Self, RestoreError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let end = store.bytes(name)?.ok_or_else(missing)?;
        Ok(Self { store, name, at: 0, end, crc: 0, pieces: 0, ended: false, fault: None })
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, RestoreError> {
        if bytes as u64 > self.end - self.at {
            return Err(RestoreError::Damaged("it is cut short"));
        }
        let taken = self.store.read(self.name, self.at, bytes)?;
        if taken.len() != bytes {
            return Err(RestoreError::Damaged("it is cut short"));
        }
        self.at += bytes as u64;
        Ok(taken)
    }

    fn header(&mut self) -> Result<SnapshotMeta, RestoreError> {
        let fixed = self.take(FIXED_BYTES)?;
        let small = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let number = |at: usize| u64::from(small(at)) | u64::from(small(at + 4)) << 32;
        if &fixed[..8] != MAGIC {
            return Err(RestoreError::Damaged("it is no snapshot"));
        }
        let format = u16::from_le_bytes([fixed[8], fixed[9]]);
        if format != FORMAT {
            return Err(RestoreError::Unsupported { format });
        }
        let length = small(20) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(RestoreError::Damaged("its header is too long"));
        }
        let rest = self.take(length + 4)?;
        let (membership, sum) = rest.split_at(length);
        let crc = crc32c_append(crc32c(&fixed), membership);
        if sum != crc.to_le_bytes() {
            return Err(RestoreError::Damaged("its header does not match its checksum"));
        }
        self.crc = crc32c_append(crc, sum);
        let membership = Membership::decode(membership)
            .map_err(|_| RestoreError::Damaged("it names no membership"))?;
        let meta = SnapshotMeta {
            index: LogIndex::new(number(24)),
            term: Term::new(number(32)),
            time: LogTime::new(number(40)),
            config_index: LogIndex::new(number(48)),
            membership: Arc::new(membership),
        };
        let found = SnapshotName {
            group: GroupId::new(small(12)),
            incarnation: GroupIncarnation::new(small(16)),
            index: meta.index,
            term: meta.term,
        };
        if found == self.name { Ok(meta) } else { Err(RestoreError::Damaged("it is another one")) }
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>, RestoreError> {
        let head = self.take(PIECE_HEADER_BYTES)?;
        let (bytes, second) = head.split_at(4);
        let number = |field: &[u8]| field.try_into().map(u32::from_le_bytes).unwrap_or_default();
        let (bytes, second) = (number(bytes), number(second));
        self.crc = crc32c_append(self.crc, &head);
        if bytes == 0 {
            let sum = self.take(FOOTER_BYTES - PIECE_HEADER_BYTES)?;
            let whole =
                sum[..] == self.crc.to_le_bytes() && second == self.pieces && self.at == self.end;
            return if whole {
                Ok(None)
            } else {
                Err(RestoreError::Damaged("it does not match its checksum"))
            };
        }
        if bytes > PIECE_BYTES_MAX {
            return Err(RestoreError::Damaged("a piece is too long"));
        }
        let piece = self.take(bytes as usize)?;
        if crc32c(&piece) != second {
            return Err(RestoreError::Damaged("a piece does not match its checksum"));
        }
        self.crc = crc32c_append(self.crc, &piece);
        self.pieces += 1;
        Ok(Some(piece))
    }
}

impl Iterator for Reader<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        match self.next_piece() {
            Ok(Some(piece)) => Some(piece),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(fault) => {
                self.ended = true;
                self.fault = Some(fault);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::MemoryStore;
    use raft_core::{Entry, ReplicaId};

    /// Holds the bytes it was restored from.
    struct Holder(Vec<u8>);

    impl StateMachine for Holder {
        fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) {}

        fn read(&self, _: &[u8]) -> Bytes {
            Bytes::copy_from_slice(&self.0)
        }

        fn digest(&self) -> u64 {
            0
        }

        fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
            pieces.for_each(|piece| self.0.extend_from_slice(&piece));
            Ok(())
        }
    }

    fn stored() -> (MemoryStore, SnapshotName, SnapshotMeta) {
        let meta = SnapshotMeta {
            index: LogIndex::new(11),
            term: Term::new(5),
            time: LogTime::new(7),
            config_index: LogIndex::new(3),
            membership: Arc::new(Membership::of_voters([ReplicaId::new(2)]).unwrap()),
        };
        let name = SnapshotName {
            group: GroupId::new(7),
            incarnation: GroupIncarnation::new(1),
            index: meta.index,
            term: meta.term,
        };
        let store = MemoryStore::default();
        let pieces = [&b"one"[..], b"", b"three"].map(Bytes::from_static);
        let shelf = Shelf::open(Arc::new(store.clone())).unwrap();
        write(&shelf, name, &meta, pieces.into_iter()).unwrap();
        (store, name, meta)
    }

    fn overwrite(store: &MemoryStore, name: SnapshotName, bytes: &[u8]) {
        let mut part = store.begin(name).unwrap();
        part.append(bytes).unwrap();
        part.finish().unwrap();
    }

    #[test]
    fn a_snapshot_comes_back_with_what_it_stands_for() {
        let (store, name, meta) = stored();
        let restored = restore(&store, name, Box::new(Holder(Vec::new()))).unwrap();
        assert_eq!(restored.meta, meta);
        assert_eq!(&restored.machine.read(b"")[..], b"onethree");
    }

    #[test]
    fn the_bytes_are_pinned() {
        let (store, name, _) = stored();
        let bytes = store.read(name, 0, 1000).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unseen() {
        let (store, name, _) = stored();
        let whole = store.read(name, 0, 1000).unwrap();
        let damaged = |bytes: &[u8]| {
            overwrite(&store, name, bytes);
            restore(&store, name, Box::new(Holder(Vec::new()))).is_err()
        };
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(damaged(&bytes), "bit {bit} of byte {at}");
            }
            assert!(damaged(&whole[..at]), "cut at {at}");
        }
        assert!(damaged(&[&whole[..], b"x"].concat()));
        assert!(!damaged(&whole));
    }

    const GOLDEN: &str = concat!(
        "52414654534e41500100000007000000010000001b0000000b0000000000000005000000",
        "000000000700000000000000030000000000000001020000000000000001020000000000",
        "0000020000000000000000e858656a03000000e9b2942a6f6e6505000000bc51441c7468",
        "7265650000000002000000db2e8d01",
    );
}
