//! A stream of bytes in chunks that vouch for themselves.
//!
//! Files of checkpoints are overwritten in place, so a chunk of another checkpoint may stand where
//! one is missing: every chunk names the life of the node and the checkpoint it belongs to, which
//! together are never used again.

use std::io::{self, IoSlice};

use crate::disk::readings::Readings;
use crate::disk::{DiskFile, fill_with_zeros};
use crate::format::checksum::{crc32c, crc32c_append};
use crate::format::field::{put, u32_at, u64_at};
use crate::format::identity::StoreId;
use crate::format::segment::BLOCK_BYTES;

/// Which checkpoint a chunk belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Name {
    /// Of the node's lives.
    pub(crate) incarnation: u64,
    /// Counts the checkpoints that a life begins.
    pub(crate) number: u64,
}

/// Writes a stream; the last chunk is held back until [`Self::finish`].
pub(crate) struct ChunkWriter<F> {
    file: F,
    seed: u32,
    name: Name,
    chunk: Vec<u8>,
    /// How many chunks are written.
    count: u32,
}

impl<F: DiskFile> ChunkWriter<F> {
    pub(crate) fn new(file: F, store: StoreId, name: Name) -> Self {
        let chunk = vec![0; CHUNK_HEADER_BYTES];
        Self { file, seed: seed(store), name, chunk, count: 0 }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.chunk.len() == CHUNK_BYTES {
                self.write(0)?;
            }
            let room = CHUNK_BYTES - self.chunk.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Writes the last chunk and makes all of them durable; returns their length.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let last = (self.chunk.len() as u64).next_multiple_of(BLOCK_BYTES);
        let bytes = u64::from(self.count) * CHUNK_BYTES as u64 + last;
        self.write(FLAG_LAST)?;
        // Room for the next one to grow, even on a disk that is full by then.
        let wanted = (bytes + bytes / 2).next_multiple_of(BLOCK_BYTES);
        let begin = self.file.bytes()?.max(bytes);
        if begin < wanted && fill_with_zeros(&self.file, begin, wanted).is_err() {
            // It is no more than a provision.
        }
        self.file.sync_data()?;
        Ok(bytes)
    }

    fn write(&mut self, flags: u32) -> io::Result<()> {
        let end = self.chunk.len();
        let bytes = (end - CHUNK_HEADER_BYTES) as u32;
        // Whole blocks can be written directly.
        self.chunk.resize(end.next_multiple_of(BLOCK_BYTES as usize), 0);
        put(&mut self.chunk, 0, &CHUNK_MAGIC.to_le_bytes());
        put(&mut self.chunk, 4, &self.count.to_le_bytes());
        put(&mut self.chunk, 8, &self.name.incarnation.to_le_bytes());
        put(&mut self.chunk, 16, &self.name.number.to_le_bytes());
        put(&mut self.chunk, 24, &bytes.to_le_bytes());
        put(&mut self.chunk, 28, &flags.to_le_bytes());
        let sum = crc32c_append(self.seed, &self.chunk[..CRC_AT]);
        let sum = crc32c_append(sum, &self.chunk[CHUNK_HEADER_BYTES..end]);
        put(&mut self.chunk, CRC_AT, &sum.to_le_bytes());
        let at = u64::from(self.count) * CHUNK_BYTES as u64;
        self.file.write_vectored_at(&mut [IoSlice::new(&self.chunk)], at)?;
        self.count += 1;
        self.chunk.truncate(CHUNK_HEADER_BYTES);
        Ok(())
    }
}

/// Reads a stream back. What it takes in memory grows with what it has read, never with what a
/// length says. What the disk cannot read is zeros, and so no sound chunk.
pub(crate) struct ChunkReader<'a, F> {
    file: &'a F,
    file_name: String,
    readings: &'a Readings,
    seed: u32,
    name: Name,
    /// How many chunks are read.
    count: u32,
    is_last: bool,
    chunk: Vec<u8>,
    bytes: Vec<u8>,
    /// How much of `bytes` is taken.
    taken: usize,
}

impl<'a, F: DiskFile> ChunkReader<'a, F> {
    /// The stream that begins in `file`; `None` if none does.
    pub(crate) fn open(
        (file_name, file): (String, &'a F),
        store: StoreId,
        readings: &'a Readings,
    ) -> io::Result<Option<Self>> {
        let mut reader = Self {
            file,
            file_name,
            readings,
            seed: seed(store),
            name: Name::default(),
            count: 0,
            is_last: false,
            chunk: Vec::new(),
            bytes: Vec::new(),
            taken: 0,
        };
        Ok(reader.read()?.then_some(reader))
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    /// The next bytes of the stream; `None` if it is torn, or ends before.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Option<&[u8]>> {
        while self.bytes.len() - self.taken < count {
            if self.is_last {
                return Ok(None);
            }
            self.bytes.drain(..self.taken);
            self.taken = 0;
            if !self.read()? {
                return Ok(None);
            }
        }
        let taken = &self.bytes[self.taken..][..count];
        self.taken += count;
        Ok(Some(taken))
    }

    /// Whether all of the stream was taken.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_last && self.taken == self.bytes.len()
    }

    /// Takes in the next chunk; `false` if there is no sound one.
    fn read(&mut self) -> io::Result<bool> {
        let at = u64::from(self.count) * CHUNK_BYTES as u64;
        let there = self.file.bytes()?.saturating_sub(at).min(CHUNK_BYTES as u64) as usize;
        if there < CHUNK_HEADER_BYTES {
            return Ok(false);
        }
        self.chunk.resize(there, 0);
        self.readings.read((&self.file_name, self.file), &mut self.chunk, at)?;
        let name = Name { incarnation: u64_at(&self.chunk, 8), number: u64_at(&self.chunk, 16) };
        let bytes = u32_at(&self.chunk, 24) as usize;
        let Some(content) = self.chunk[CHUNK_HEADER_BYTES..].get(..bytes) else { return Ok(false) };
        let sum = crc32c_append(self.seed, &self.chunk[..CRC_AT]);
        let sum = crc32c_append(sum, content);
        let sound = u32_at(&self.chunk, 0) == CHUNK_MAGIC
            && u32_at(&self.chunk, CRC_AT) == sum
            && u32_at(&self.chunk, 4) == self.count
            && (self.count == 0 || name == self.name);
        if !sound {
            return Ok(false);
        }
        self.name = name;
        self.count += 1;
        self.bytes.extend_from_slice(content);
        self.is_last = u32_at(&self.chunk, 28) & FLAG_LAST != 0;
        Ok(true)
    }
}

fn seed(store: StoreId) -> u32 {
    crc32c(&store.get().to_le_bytes())
}

pub(crate) const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_HEADER_BYTES: usize = 40;
const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"RCHK");
const CRC_AT: usize = 32;
const FLAG_LAST: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::disk::mem_disk::MemDisk;

    fn stream(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 / 7) as u8).collect()
    }

    fn written(disk: &MemDisk, number: u64, bytes: usize) {
        let file = match disk.open("c") {
            Ok(file) => file,
            Err(_) => disk.create("c").unwrap(),
        };
        let mut writer = ChunkWriter::new(file, StoreId::new(7), Name { incarnation: 1, number });
        stream(bytes).chunks(1_000).for_each(|part| writer.push(part).unwrap());
        writer.finish().unwrap();
    }

    fn read(disk: &MemDisk, bytes: usize) -> Option<Vec<u8>> {
        let file = disk.open("c").unwrap();
        let readings = Readings::default();
        let mut reader =
            ChunkReader::open(("c".into(), &file), StoreId::new(7), &readings).unwrap()?;
        let taken = reader.take(bytes).unwrap()?.to_vec();
        reader.is_at_end().then_some(taken)
    }

    #[test]
    fn a_stream_comes_back_and_every_flipped_byte_is_seen() {
        for bytes in [0, 1, CHUNK_BYTES - CHUNK_HEADER_BYTES, CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
            let disk = MemDisk::new();
            written(&disk, 1, bytes);
            assert_eq!(read(&disk, bytes), Some(stream(bytes)));
            assert_eq!(read(&disk, bytes + 1), None);
            let whole = disk.read("c").unwrap();
            let chunks = (bytes.max(1)).div_ceil(CHUNK_BYTES - CHUNK_HEADER_BYTES);
            let end = bytes + chunks * CHUNK_HEADER_BYTES;
            for at in (0..end).step_by(997).chain(0..CHUNK_HEADER_BYTES) {
                // What is behind the checksum in a header is not looked at.
                if (CRC_AT + 4..CHUNK_HEADER_BYTES).contains(&(at % CHUNK_BYTES)) {
                    continue;
                }
                let mut torn = whole.clone();
                torn[at] ^= 4;
                disk.overwrite("c", &torn);
                assert_eq!(read(&disk, bytes), None, "byte {at} of {bytes}");
            }
        }
    }

    #[test]
    fn chunks_of_an_older_stream_do_not_complete_a_newer_one() {
        let disk = MemDisk::new();
        written(&disk, 1, 3 * CHUNK_BYTES);
        let older = disk.read("c").unwrap();
        written(&disk, 2, 3 * CHUNK_BYTES);
        let newer = disk.read("c").unwrap();
        for torn in 0..3 {
            let mut mixed = newer.clone();
            mixed[torn * CHUNK_BYTES..][..CHUNK_BYTES]
                .copy_from_slice(&older[torn * CHUNK_BYTES..][..CHUNK_BYTES]);
            disk.overwrite("c", &mixed);
            assert_eq!(read(&disk, 3 * CHUNK_BYTES), None, "chunk {torn}");
        }
    }
}
