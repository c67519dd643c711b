//! A snapshot as bytes: what it stands for, which entries it leaves in the log, the machine's pieces
//! in blocks, and a sum over all of it.
//!
//! The layout is drawn in `docs/FORMATS.md`. Reading verifies each block before the machine sees
//! its pieces, and the sum at the end.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{GroupId, GroupIncarnation, LogIndex, LogTime, Membership, SnapshotMeta, Term};
use raft_storage::{LIVE_BYTES_MAX, LiveEntries, crc32c, crc32c_append};

use super::blocks::{self, BLOCK_BYTES, Compression, PIECE_BYTES_MAX, Pieces};
use super::shelf::Shelf;
use super::store::{SnapshotName, SnapshotPart, SnapshotStore};
use crate::bodies::{Bodies, Lost, NewMachine};
use crate::engine::panics::at_work_for;
use crate::state_machine::RestoreError;

const MAGIC: &[u8; 8] = b"RAFTSNAP";
const FORMAT: u16 = 3;
const FIXED_BYTES: usize = 72;
/// A membership is never longer.
const MEMBERSHIP_BYTES_MAX: usize = 4096;
/// The sum at the end.
const SUM_BYTES: usize = 4;

/// Which entries a snapshot leaves in the log, and how many bytes their payloads have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Left {
    pub(crate) live: Arc<LiveEntries>,
    pub(crate) bytes: u64,
}

/// Writes a whole snapshot and makes it durable. Returns its length.
pub(crate) fn write(
    shelf: &Shelf,
    name: SnapshotName,
    (meta, left): (&SnapshotMeta, &Left),
    pieces: impl Iterator<Item = Bytes>,
    compression: Compression,
) -> io::Result<u64> {
    let mut out = Summing { part: shelf.store().begin(name)?, crc: 0, bytes: 0 };
    out.put(&header(name, meta, left)?)?;
    let mut count: u32 = 0;
    let mut small = Vec::new();
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        if piece.len() > PIECE_BYTES_MAX as usize {
            return Err(io::Error::other("a piece of a snapshot is longer than 256 MiB"));
        }
        let together = small.len() + LENGTH_BYTES + piece.len();
        if together > BLOCK_BYTES && !small.is_empty() {
            out.put_block(blocks::of_pieces(&small, compression))?;
            small.clear();
        }
        if piece.len() + LENGTH_BYTES > BLOCK_BYTES {
            out.put_block(blocks::of_one(&piece, compression))?;
        } else {
            small.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            small.extend_from_slice(&piece);
        }
        count = count.checked_add(1).ok_or_else(|| io::Error::other("too many pieces"))?;
    }
    if !small.is_empty() {
        out.put_block(blocks::of_pieces(&small, compression))?;
    }
    out.put(&blocks::end(count))?;
    let crc = out.crc.to_le_bytes();
    out.put(&crc)?;
    shelf.put(name, out.part)?;
    Ok(out.bytes)
}

/// Before each of several pieces in a block.
const LENGTH_BYTES: usize = 4;

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

    fn put_block(
        &mut self,
        (header, bytes): ([u8; blocks::HEADER_BYTES], Cow<'_, [u8]>),
    ) -> io::Result<()> {
        self.put(&header)?;
        self.put(&bytes)
    }
}

fn header(name: SnapshotName, meta: &SnapshotMeta, left: &Left) -> io::Result<Vec<u8>> {
    let (membership, live) = (meta.membership.encode(), left.live.encode());
    if live.len() as u64 > LIVE_BYTES_MAX {
        return Err(io::Error::other(
            "it leaves too many entries in the log that have no neighbours",
        ));
    }
    let mut bytes = Vec::with_capacity(FIXED_BYTES + membership.len() + live.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&name.group.get().to_le_bytes());
    bytes.extend_from_slice(&name.incarnation.get().to_le_bytes());
    bytes.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    for number in [meta.index.get(), meta.term.get(), meta.time.get(), meta.config_index.get()] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&left.bytes.to_le_bytes());
    bytes.extend_from_slice(&(live.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&membership);
    bytes.extend_from_slice(&live);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
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

/// Reads a snapshot through from where it is kept, as one that is restored is read, and makes nothing of it.
/// Says what it leaves in the log.
pub(crate) fn verify(store: &dyn SnapshotStore, name: SnapshotName) -> Result<Left, RestoreError> {
    store.drop_cache(name)?;
    let mut reader = Reader::open(store, name)?;
    let (_, left) = reader.header()?;
    for _ in reader.by_ref() {}
    reader.fault.take().map_or(Ok(left), Err)
}

/// A snapshot that is read through a little at a time, otherwise as by [`verify`].
pub(crate) struct Check {
    name: SnapshotName,
    at: u64,
    end: u64,
    crc: u32,
    pieces: u32,
}

impl Check {
    pub(crate) fn of(store: &dyn SnapshotStore, name: SnapshotName) -> Result<Self, RestoreError> {
        store.drop_cache(name)?;
        let Reader { end, .. } = Reader::open(store, name)?;
        Ok(Self { name, at: 0, end, crc: 0, pieces: 0 })
    }

    pub(crate) fn name(&self) -> SnapshotName {
        self.name
    }

    /// Bytes that were read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.at
    }

    /// Reads on through so many bytes, and to the end of the block that they end in. Whether that was
    /// the end of all.
    pub(crate) fn go_on(
        &mut self,
        store: &dyn SnapshotStore,
        bytes: u64,
    ) -> Result<bool, RestoreError> {
        let Self { name, at, end, crc, pieces } = *self;
        let (block, ended, fault) = (Pieces::default(), false, None);
        let mut reader = Reader { store, name, at, end, crc, pieces, block, ended, fault };
        if at == 0 {
            reader.header()?;
        }
        let mut is_over = false;
        while !is_over && (reader.at - at < bytes || !reader.block.is_empty()) {
            is_over = reader.next_piece()?.is_none();
        }
        (self.at, self.crc, self.pieces) = (reader.at, reader.crc, reader.pieces);
        Ok(is_over)
    }
}

/// Which entries a snapshot leaves in the log.
pub(crate) fn left(store: &dyn SnapshotStore, name: SnapshotName) -> Result<Left, RestoreError> {
    Reader::open(store, name)?.header().map(|(_, left)| left)
}

/// A machine made from a snapshot, and what the snapshot stands for.
pub(crate) struct Restored {
    pub(crate) new: NewMachine,
    pub(crate) meta: SnapshotMeta,
    pub(crate) left: Left,
    /// Its length.
    pub(crate) bytes: u64,
}

/// Makes `new`, which is fresh, what the snapshot says. The log holds what that leaves in it, or no
/// machine is made.
pub(crate) fn restore(
    store: &dyn SnapshotStore,
    name: SnapshotName,
    mut new: NewMachine,
) -> Result<Restored, RestoreError> {
    let mut reader = Reader::open(store, name)?;
    let (meta, left) = reader.header()?;
    match &new.bodies {
        Some(bodies) => {
            let held = bodies.held(&left.live);
            held.map_err(|(first, count)| RestoreError::EntriesMissing { first, count })?;
            bodies.stand_at(meta.index, Arc::clone(&left.live));
        }
        None if left.live.is_empty() => {}
        None => {
            let why = "it leaves entries in the log, and this machine keeps none";
            return Err(RestoreError::Refused(why.to_owned()));
        }
    }
    let restored = at_work_for(name.group, || new.machine.restore(&mut reader))
        .unwrap_or_else(|why| Err(RestoreError::Refused(why)));
    let lost = new.bodies.as_ref().and_then(Bodies::take_lost);
    // Whatever the machine thought of bytes that were not those written, the bytes are to blame.
    if let Some(fault) = reader.fault.take() {
        return Err(fault);
    }
    if let Some(Lost::NotKept(lost) | Lost::Unreadable(lost) | Lost::GroupGone(lost)) = lost {
        return Err(lost.into());
    }
    restored?;
    for _ in reader.by_ref() {}
    match reader.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(Restored { new, meta, left, bytes: reader.end }),
    }
}

/// Reads a snapshot from front to back.
struct Reader<'a> {
    store: &'a dyn SnapshotStore,
    name: SnapshotName,
    at: u64,
    end: u64,
    crc: u32,
    /// Pieces so far.
    pieces: u32,
    /// Of the block read last.
    block: Pieces,
    ended: bool,
    fault: Option<RestoreError>,
}

impl<'a> Reader<'a> {
    fn open(store: &'a dyn SnapshotStore, name: SnapshotName) -> Result<Self, RestoreError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let end = store.bytes(name)?.ok_or_else(missing)?;
        let block = Pieces::default();
        Ok(Self { store, name, at: 0, end, crc: 0, pieces: 0, block, ended: false, fault: None })
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

    fn header(&mut self) -> Result<(SnapshotMeta, Left), RestoreError> {
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
        let (length, names) = (small(20) as usize, small(64) as usize);
        if length > MEMBERSHIP_BYTES_MAX || names as u64 > LIVE_BYTES_MAX {
            return Err(RestoreError::Damaged("its header is too long"));
        }
        let rest = self.take(length + names + 4)?;
        let (content, sum) = rest.split_at(length + names);
        let crc = crc32c_append(crc32c(&fixed), content);
        let (membership, live) = content.split_at(length);
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
        if found != self.name {
            return Err(RestoreError::Damaged("it is another one"));
        }
        let live = LiveEntries::decode(live)
            .filter(|live| live.last().is_none_or(|last| last <= meta.index))
            .ok_or(RestoreError::Damaged("it names impossible entries"))?;
        Ok((meta, Left { live: Arc::new(live), bytes: number(56) }))
    }

    fn next_piece(&mut self) -> Result<Option<Bytes>, RestoreError> {
        loop {
            if let Some(piece) = self.block.next()? {
                self.pieces += 1;
                return Ok(Some(piece));
            }
            let head = self.take(blocks::HEADER_BYTES)?;
            let header = blocks::Header::decode(&head)?;
            self.crc = crc32c_append(self.crc, &head);
            if header.stored == 0 {
                let sum = self.take(SUM_BYTES)?;
                let whole = sum[..] == self.crc.to_le_bytes()
                    && header.raw == self.pieces
                    && self.at == self.end;
                return if whole {
                    Ok(None)
                } else {
                    Err(RestoreError::Damaged("it does not match its checksum"))
                };
            }
            let stored = self.take(header.stored as usize)?;
            self.crc = crc32c_append(self.crc, &stored);
            self.block = header.pieces(&head, stored)?;
        }
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
    use crate::snapshot::{MemoryStore, SnapshotPart};
    use crate::state_machine::StateMachine;
    use parking_lot::Mutex;
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

    fn holder() -> NewMachine {
        NewMachine { machine: Box::new(Holder(Vec::new())), bodies: None }
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
        write(&shelf, name, (&meta, &Left::default()), pieces.into_iter(), Compression::Lz4)
            .unwrap();
        (store, name, meta)
    }

    #[test]
    fn a_check_in_small_steps_finds_what_a_look_at_all_finds() {
        let (store, name, meta) = stored();
        let pieces = (0..60).map(|piece| Bytes::from(vec![piece as u8; 10_000]));
        let shelf = Shelf::open(Arc::new(store.clone())).unwrap();
        let left = Left::default();
        write(&shelf, name, (&meta, &left), pieces, Compression::None).unwrap();
        let sound = store.read(name, 0, usize::MAX).unwrap();
        let check = |bytes: u64| -> Result<usize, RestoreError> {
            let mut check = Check::of(&store, name)?;
            let mut steps = 1;
            while !check.go_on(&store, bytes)? {
                steps += 1;
            }
            assert_eq!(check.bytes(), sound.len() as u64);
            Ok(steps)
        };
        assert_eq!(check(u64::MAX).unwrap(), 1);
        let blocks = 600_000_usize.div_ceil(BLOCK_BYTES);
        assert_eq!(check(1).unwrap(), 1 + blocks + 1, "the header, each block, and the end");
        for at in (0..sound.len()).step_by(7_777).chain([sound.len() - 1]) {
            let mut rotten = sound.to_vec();
            rotten[at] ^= 1;
            let mut part = store.begin(name).unwrap();
            part.append(&rotten).unwrap();
            part.finish().unwrap();
            assert!(check(1).is_err() && check(100_000).is_err(), "{at}");
            assert!(verify(&store, name).is_err(), "{at}");
        }
    }

    /// Gives what it once read, until it is told to forget that.
    struct Cached {
        disk: MemoryStore,
        held: Mutex<Option<Bytes>>,
    }

    impl SnapshotStore for Cached {
        fn names(&self) -> io::Result<Vec<SnapshotName>> {
            self.disk.names()
        }

        fn begin(&self, name: SnapshotName) -> io::Result<Box<dyn SnapshotPart>> {
            self.disk.begin(name)
        }

        fn bytes(&self, name: SnapshotName) -> io::Result<Option<u64>> {
            self.disk.bytes(name)
        }

        fn drop_cache(&self, _: SnapshotName) -> io::Result<()> {
            self.held.lock().take();
            Ok(())
        }

        fn read(&self, name: SnapshotName, offset: u64, bytes: usize) -> io::Result<Bytes> {
            let mut held = self.held.lock();
            let all = match &*held {
                Some(all) => all.clone(),
                None => held.insert(self.disk.read(name, 0, usize::MAX)?).clone(),
            };
            let from = (offset as usize).min(all.len());
            Ok(all.slice(from..from.saturating_add(bytes).min(all.len())))
        }

        fn remove(&self, name: SnapshotName) -> io::Result<()> {
            self.disk.remove(name)
        }
    }

    #[test]
    fn who_looks_for_rot_reads_the_disk_and_not_what_memory_holds_of_it() {
        let (disk, name, _) = stored();
        let store = Cached { disk, held: Mutex::default() };
        assert!(verify(&store, name).is_ok());
        let mut rotten = store.disk.read(name, 0, usize::MAX).unwrap().to_vec();
        *rotten.last_mut().unwrap() ^= 1;
        let mut part = store.disk.begin(name).unwrap();
        part.append(&rotten).unwrap();
        part.finish().unwrap();
        let sound = store.held.lock().clone().unwrap();
        assert_ne!(sound, rotten, "memory holds what was");
        assert!(verify(&store, name).is_err());
        *store.held.lock() = Some(sound);
        let mut check = Check::of(&store, name).unwrap();
        assert!(check.go_on(&store, u64::MAX).is_err());
    }

    #[test]
    fn pieces_come_back_one_by_one_whatever_their_lengths_and_the_compression() {
        /// Holds the pieces themselves.
        #[derive(Default)]
        struct Pieces(Vec<Bytes>);

        impl StateMachine for Pieces {
            fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) {}

            fn read(&self, _: &[u8]) -> Bytes {
                let lengths = self.0.iter().flat_map(|piece| piece.len().to_le_bytes());
                lengths.chain(self.0.concat()).collect()
            }

            fn digest(&self) -> u64 {
                0
            }

            fn restore(
                &mut self,
                pieces: &mut dyn Iterator<Item = Bytes>,
            ) -> Result<(), RestoreError> {
                self.0.extend(pieces);
                Ok(())
            }
        }

        let (_, name, meta) = stored();
        let near = BLOCK_BYTES - LENGTH_BYTES;
        let lengths = [1, 7, near - 1, near, near + 1, 3, 100_000, 100_000, 100_000, 1 << 20, 5];
        let pieces: Vec<Bytes> = lengths
            .iter()
            .enumerate()
            .map(|(at, length)| (0..*length).map(|byte| (byte / 7 * (at + 1)) as u8).collect())
            .collect();
        let expected = Pieces(pieces.clone()).read(b"");
        let mut bytes = Vec::new();
        for compression in blocks::every() {
            let store = MemoryStore::default();
            let shelf = Shelf::open(Arc::new(store.clone())).unwrap();
            let pieces = pieces.iter().cloned();
            let left = Left::default();
            bytes.push(write(&shelf, name, (&meta, &left), pieces, compression).unwrap());
            let restored = restore(
                &store,
                name,
                NewMachine { machine: Box::<Pieces>::default(), bodies: None },
            )
            .unwrap();
            assert!(restored.new.machine.read(b"") == expected, "{compression:?}");
            assert_eq!(Some(&restored.bytes), bytes.last());
        }
        assert!(bytes[1] < bytes[0] / 5, "{bytes:?}");
    }

    fn overwrite(store: &MemoryStore, name: SnapshotName, bytes: &[u8]) {
        let mut part = store.begin(name).unwrap();
        part.append(bytes).unwrap();
        part.finish().unwrap();
    }

    #[test]
    fn a_snapshot_comes_back_with_what_it_stands_for() {
        let (store, name, meta) = stored();
        let restored = restore(&store, name, holder()).unwrap();
        assert_eq!(restored.meta, meta);
        assert_eq!(&restored.new.machine.read(b"")[..], b"onethree");
    }

    #[test]
    fn what_it_leaves_in_the_log_is_said_in_its_header_and_asked_of_the_machine() {
        let (store, name, meta) = stored();
        let mut live = LiveEntries::default();
        assert!(live.push_run(LogIndex::new(4), 3, Term::new(2)));
        assert!(live.push(LogIndex::new(9), Term::new(5)));
        let left = Left { live: Arc::new(live.clone()), bytes: 0x1234 };
        let header = header(name, &meta, &left).unwrap();
        let hex: String = header[56..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, NAMES);
        let shelf = Shelf::open(Arc::new(store.clone())).unwrap();
        write(&shelf, name, (&meta, &left), std::iter::empty(), Compression::None).unwrap();
        let mut reader = Reader::open(&store, name).unwrap();
        assert_eq!(reader.header().unwrap(), (meta.clone(), left));
        let refused = restore(&store, name, holder());
        assert!(matches!(refused, Err(RestoreError::Refused(why)) if why.contains("keeps none")));
        // Nothing behind the snapshot can be named by it.
        assert!(live.push(meta.index.next(), meta.term));
        let left = Left { live: Arc::new(live), bytes: 0 };
        write(&shelf, name, (&meta, &left), std::iter::empty(), Compression::None).unwrap();
        assert!(matches!(restore(&store, name, holder()), Err(RestoreError::Damaged(_))));
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
            restore(&store, name, holder()).is_err()
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

    const NAMES: &str = concat!(
        "341200000000000009000000000000000102000000000000000102000000000000000200",
        "00000000000000020402050304030201155549cb",
    );

    const GOLDEN: &str = concat!(
        "52414654534e41500300000007000000010000001b0000000b0000000000000005000000",
        "000000000700000000000000030000000000000000000000000000000000000000000000",
        "01020000000000000001020000000000000002000000000000000082f3da641000000010",
        "0000000000000015046f8b030000006f6e65050000007468726565000000000200000000",
        "000000134f18b9eaa285ad",
    );
}
