//! Who a data directory belongs to, and which life of the node this is.
//!
//! Two small files. `identity` is written once, by [`init`](crate::init), and never again: cluster, node and a
//! random [`StoreId`] that peers remember, so that a wiped node cannot come back under its old
//! name. `incarnation` says the same thing twice, and both copies are overwritten in place at
//! every open, one after the other, before the log is handed out (rule R1). That takes no room:
//! a node starts on a full disk. Whatever a crash or damage does to one copy, the other holds, also
//! where the disk cannot read it;
//! and a life begins only when both are durable, so losing one does not take it back.
//!
//! Invariant: `identity` is written last, so a directory that has it is complete, and an
//! interrupted `init` can be repeated.

use std::fmt;
use std::io;

use raft_core::{Incarnation, NodeId};

use crate::disk::{
    Disk, DiskFile, LOCK_NAME, TEMPORARY_SUFFIX, TWIN_BYTES, read_doubled, read_file, replace_file,
    twin, write_both,
};
use crate::error::{InitError, OpenError};
use crate::format::checksum::crc32c;
use crate::format::field::{put, u16_at, u32_at, u64_at, u128_at};
use crate::format::lsn::Lsn;

/// The random name of one data directory; two directories never share one.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StoreId(u128);

impl StoreId {
    /// Wraps the plain number.
    pub const fn new(value: u128) -> Self {
        Self(value)
    }

    /// The plain number, for encoders.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// A new one from the operating system.
    ///
    /// # Errors
    /// [`InitError::Randomness`] if the system has none to give.
    pub fn random() -> Result<Self, InitError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| InitError::Randomness { reason: error.to_string() })?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store-{self}")
    }
}

/// Who a data directory belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The name of the cluster, 1 to 255 bytes.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// This directory and no other.
    pub store: StoreId,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; IDENTITY_FIXED_BYTES];
        put(&mut bytes, 0, &IDENTITY_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &FORMAT.to_le_bytes());
        put(&mut bytes, 10, &(self.cluster.len() as u16).to_le_bytes());
        put(&mut bytes, 16, &self.node.get().to_le_bytes());
        put(&mut bytes, 24, &self.store.get().to_le_bytes());
        bytes.extend_from_slice(self.cluster.as_bytes());
        let sum = crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<4>()?;
        let sound = content.len() >= IDENTITY_FIXED_BYTES
            && u32::from_le_bytes(*sum) == crc32c(content)
            && u64_at(content, 0) == IDENTITY_MAGIC
            && u16_at(content, 8) == FORMAT;
        if !sound {
            return None;
        }
        let cluster = &content[IDENTITY_FIXED_BYTES..];
        if cluster.len() != usize::from(u16_at(content, 10)) {
            return None;
        }
        Some(Self {
            cluster: String::from_utf8(cluster.to_vec()).ok()?,
            node: NodeId::new(u64_at(content, 16)),
            store: StoreId::new(u128_at(content, 24)),
        })
    }
}

/// The last noted life of the node, and how far its log reached then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    /// Everything below was durable when this was noted.
    pub(crate) durable: Lsn,
}

impl Life {
    /// A directory that was never opened.
    pub(crate) const UNBORN: Self = Self { incarnation: Incarnation::new(0), durable: Lsn::ZERO };

    /// The number of the life after this one; `None` if there is none, which no honest file says.
    pub(crate) fn next(self) -> Option<Incarnation> {
        self.incarnation.get().checked_add(1).map(Incarnation::new)
    }

    /// Makes the file of this life, or replaces it; durable on return.
    fn create<D: Disk>(self, disk: &D) -> io::Result<()> {
        replace_file(disk, INCARNATION_NAME, &twin(&self.encode())?.repeat(2))
    }

    /// The life that a file notes: the newest of its copies, or `None` if none is sound.
    fn of_file(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != 2 * TWIN_BYTES {
            return None;
        }
        let copies = bytes.chunks(TWIN_BYTES).map(|copy| &copy[..LIFE_BYTES]);
        copies.filter_map(Self::decode).max_by_key(|life| (life.incarnation, life.durable))
    }

    fn encode(self) -> [u8; LIFE_BYTES] {
        let mut bytes = [0; LIFE_BYTES];
        put(&mut bytes, 0, &INCARNATION_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.incarnation.get().to_le_bytes());
        put(&mut bytes, 16, &self.durable.get().to_le_bytes());
        let sum = crc32c(&bytes[..24]);
        put(&mut bytes, 24, &sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let sound = bytes.len() == LIFE_BYTES
            && u32_at(bytes, 24) == crc32c(&bytes[..24])
            && u64_at(bytes, 0) == INCARNATION_MAGIC;
        sound.then(|| Self {
            incarnation: Incarnation::new(u64_at(bytes, 8)),
            durable: Lsn::new(u64_at(bytes, 16)),
        })
    }
}

/// The open file that notes the life of the node.
pub(crate) struct LifeFile<F> {
    file: F,
}

impl<F: DiskFile> LifeFile<F> {
    pub(crate) fn open<D: Disk<File = F>>(disk: &D) -> io::Result<Self> {
        Ok(Self { file: disk.open(INCARNATION_NAME)? })
    }

    /// Makes this life the noted one; durable on return. After an error the one before may be.
    pub(crate) fn store(&self, life: Life) -> io::Result<()> {
        write_both(&self.file, &life.encode())
    }
}

/// Writes both files into an empty directory. The caller holds the lock.
pub(crate) fn write_new<D: Disk>(disk: &D, identity: &Identity) -> Result<(), InitError> {
    let io = |source| InitError::Io { dir: disk.describe(), source };
    let bytes = identity.cluster.len();
    if bytes == 0 || bytes > 255 {
        return Err(InitError::ClusterName { bytes });
    }
    let there = disk.list().map_err(io)?;
    // Whatever else is there, in whatever order: this says what the directory is.
    if there.iter().any(|found| found == IDENTITY_NAME) {
        let bytes = read_file(disk, IDENTITY_NAME, IDENTITY_BYTES_MAX).map_err(io)?;
        let owner = bytes.and_then(|bytes| Identity::decode(&bytes));
        return Err(InitError::AlreadyInitialised { dir: disk.describe(), owner });
    }
    for found in there {
        // What an interrupted `init` leaves behind is no obstacle to repeating it.
        let own = found.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(&found);
        if ![IDENTITY_NAME, INCARNATION_NAME, LOCK_NAME].contains(&own) {
            return Err(InitError::NotEmpty { dir: disk.describe(), found });
        }
    }
    Life::UNBORN.create(disk).map_err(io)?;
    replace_file(disk, IDENTITY_NAME, &identity.encode()).map_err(io)
}

/// Reads both files, or `None` if there is no `identity`.
pub(crate) fn read<D: Disk>(disk: &D) -> Result<Option<(Identity, Life)>, OpenError> {
    let io = |source| OpenError::Io { dir: disk.describe(), source };
    let damaged = |name| OpenError::IdentityDamaged { dir: disk.describe(), name };
    let Some(bytes) = read_file(disk, IDENTITY_NAME, IDENTITY_BYTES_MAX).map_err(io)? else {
        return Ok(None);
    };
    let identity = Identity::decode(&bytes).ok_or_else(|| damaged(IDENTITY_NAME))?;
    let life = read_doubled(disk, INCARNATION_NAME, 2 * TWIN_BYTES)
        .map_err(io)?
        .and_then(|bytes| Life::of_file(&bytes))
        .ok_or_else(|| damaged(INCARNATION_NAME))?;
    Ok(Some((identity, life)))
}

const IDENTITY_NAME: &str = "identity";
pub(crate) const INCARNATION_NAME: &str = "incarnation";
const IDENTITY_MAGIC: u64 = u64::from_le_bytes(*b"RAFTIDEN");
const INCARNATION_MAGIC: u64 = u64::from_le_bytes(*b"RAFTLIFE");
const FORMAT: u16 = 1;
const IDENTITY_FIXED_BYTES: usize = 40;
const IDENTITY_BYTES_MAX: usize = IDENTITY_FIXED_BYTES + 255 + 4;
const LIFE_BYTES: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::mem_disk::MemDisk;

    #[test]
    fn identity_and_life_round_trip_and_every_flipped_bit_is_seen() {
        let identity =
            Identity { cluster: "orders".into(), node: NodeId::new(7), store: StoreId::new(42) };
        let bytes = identity.encode();
        assert_eq!(Identity::decode(&bytes), Some(identity));
        let life = Life { incarnation: Incarnation::new(9), durable: Lsn::new(4096) };
        assert_eq!(Life::decode(&life.encode()), Some(life));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Identity::decode(&bytes), None, "bit {bit}");
        }
        let disk = MemDisk::new();
        life.create(&disk).unwrap();
        let file = disk.read(INCARNATION_NAME).unwrap();
        assert_eq!(Life::of_file(&file), Some(life));
        for at in 0..file.len() {
            // One copy is enough, whatever becomes of the other.
            let mut one = file.clone();
            one[at] ^= 1;
            assert_eq!(Life::of_file(&one), Some(life), "byte {at}");
            let other = (at + 4096) % 8192;
            one[other] ^= 1;
            let both = if at % 4096 < LIFE_BYTES { None } else { Some(life) };
            assert_eq!(Life::of_file(&one), both, "bytes {at} and {other}");
        }
        for bit in 0..LIFE_BYTES * 8 {
            let mut bytes = life.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Life::decode(&bytes), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Identity::decode(&bytes[..length]), None);
        }
    }
}
