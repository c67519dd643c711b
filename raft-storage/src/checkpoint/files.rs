//! The three files of checkpoints: which of them hold one, and which is written next.

use std::io;

use crate::checkpoint::chunks::{ChunkReader, Name};
use crate::checkpoint::outline::{CheckpointFault, Outline};
use crate::checkpoint::row::{self, LENGTH_BYTES, Row};
use crate::disk::readings::Readings;
use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::field::u64_at;
use crate::format::identity::StoreId;
use crate::format::lsn::Lsn;

/// The checkpoints that are kept: the newest, and the one before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) newest: Option<Stored>,
    pub(crate) previous: Option<Stored>,
}

/// A checkpoint, and the file it lies in.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) outline: Outline,
    pub(crate) file: usize,
}

impl Kept {
    /// Whether a kept checkpoint needs a segment as it is. With less than two of them everything is
    /// needed: by whoever falls back on what came before.
    pub(crate) fn needs(&self, slot: u32, seq: u64) -> bool {
        [&self.newest, &self.previous]
            .into_iter()
            .any(|kept| kept.as_ref().is_none_or(|kept| kept.outline.needs(slot, seq)))
    }

    /// Which file the next one is written to: none that is kept.
    pub(crate) fn next_file(&self) -> usize {
        let is_kept = |file| {
            [&self.newest, &self.previous]
                .into_iter()
                .any(|kept| kept.as_ref().is_some_and(|kept| kept.file == file))
        };
        (0..FILES).find(|file| !is_kept(*file)).unwrap_or(0)
    }

    /// A checkpoint is durable.
    pub(crate) fn push(&mut self, outline: Outline, file: usize) {
        self.previous = self.newest.replace(Stored { outline, file });
    }
}

/// What is read back.
pub(crate) struct Loaded {
    pub(crate) kept: Kept,
    /// The groups of the newest.
    pub(crate) rows: Vec<Row>,
    /// All of the log below was durable when the newest was ended.
    pub(crate) durable: Lsn,
    /// How many files hold something that is no whole checkpoint: torn by a crash, or damaged.
    pub(crate) unreadable: u64,
}

/// Reads the newest checkpoint that is whole.
///
/// # Errors
/// [`OpenError::UnsupportedCheckpoint`] if another version wrote one of the two that are kept;
/// [`OpenError::Io`].
pub(crate) fn load<D: Disk>(
    disk: &D,
    store: StoreId,
    readings: &Readings,
) -> Result<Loaded, OpenError> {
    let mut file = 0;
    load_by(disk, store, readings, &mut file).map_err(|fault| told(disk, file, fault))
}

fn told<D: Disk>(disk: &D, file: usize, fault: CheckpointFault) -> OpenError {
    match fault {
        CheckpointFault::Io(source) => OpenError::Io { dir: disk.describe(), source },
        CheckpointFault::Format(format) => OpenError::UnsupportedCheckpoint { file, format },
    }
}

/// `at` is the file that is being read.
fn load_by<D: Disk>(
    disk: &D,
    store: StoreId,
    readings: &Readings,
    at: &mut usize,
) -> Result<Loaded, CheckpointFault> {
    let mut found = Vec::new();
    let mut unreadable = 0;
    for number in 0..FILES {
        let file = match disk.open(&file_name(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        // What a failed sync left in memory is not what a further crash leaves.
        file.sync_data()?;
        file.drop_cache()?;
        match open_stream((number, &file), store, readings)?.map(|stream| stream.name()) {
            Some(name) => found.push((name, number, file)),
            None => unreadable += 1,
        }
    }
    found.sort_by_key(|(name, ..)| *name);
    let mut loaded =
        Loaded { kept: Kept::default(), rows: Vec::new(), durable: Lsn::ZERO, unreadable };
    while let Some((_, number, file)) = found.pop() {
        *at = number;
        if loaded.kept.newest.is_none() {
            match read((number, &file), store, readings)? {
                Some((outline, rows, durable)) => {
                    loaded.kept.newest = Some(Stored { outline, file: number });
                    (loaded.rows, loaded.durable) = (rows, durable);
                }
                None => loaded.unreadable += 1,
            }
        } else if loaded.kept.previous.is_none()
            && let Some(mut stream) = open_stream((number, &file), store, readings)?
            && let Some(outline) = Outline::read(&mut stream)?
        {
            // Its rows are read if they are ever needed.
            loaded.kept.previous = Some(Stored { outline, file: number });
        }
    }
    Ok(loaded)
}

/// Whether the checkpoint in this file can be read to its end.
pub(crate) fn is_whole<D: Disk>(
    disk: &D,
    number: usize,
    store: StoreId,
    readings: &Readings,
) -> Result<bool, OpenError> {
    let read = || {
        let file = disk.open(&file_name(number))?;
        Ok(read((number, &file), store, readings)?.is_some())
    };
    read().map_err(|fault| told(disk, number, fault))
}

type Checkpoint = (Outline, Vec<Row>, Lsn);

fn open_stream<'a, F: DiskFile>(
    (number, file): (usize, &'a F),
    store: StoreId,
    readings: &'a Readings,
) -> io::Result<Option<ChunkReader<'a, F>>> {
    ChunkReader::open((file_name(number), file), store, readings)
}

fn read<F: DiskFile>(
    of: (usize, &F),
    store: StoreId,
    readings: &Readings,
) -> Result<Option<Checkpoint>, CheckpointFault> {
    let Some(mut stream) = open_stream(of, store, readings)? else { return Ok(None) };
    let Some(outline) = Outline::read(&mut stream)? else { return Ok(None) };
    let mut rows = Vec::new();
    loop {
        let Some(length) = stream.take(LENGTH_BYTES)? else { return Ok(None) };
        let length = u64_at(length, 0);
        if length == 0 {
            break;
        }
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let Some(bytes) = stream.take(length)? else { return Ok(None) };
        let Some(row) = row::decode(bytes) else { return Ok(None) };
        rows.push(row);
    }
    let Some(end) = stream.take(END_BYTES)? else { return Ok(None) };
    let durable = Lsn::new(u64_at(end, 0));
    Ok(stream.is_at_end().then_some((outline, rows, durable)))
}

/// What follows the last row: a length of zero, and how far the log must be durable.
pub(crate) fn end(durable: Lsn) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH_BYTES];
    bytes.extend_from_slice(&durable.get().to_le_bytes());
    bytes
}

/// The file of a checkpoint, made if there is none; its name is durable then.
pub(crate) fn open_file<D: Disk>(disk: &D, number: usize) -> io::Result<D::File> {
    match disk.open(&file_name(number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = disk.create(&file_name(number))?;
            file.sync_all()?;
            disk.sync_dir()?;
            Ok(file)
        }
        opened => opened,
    }
}

/// The first name of a life: whatever a crash left behind bears another.
pub(crate) fn first_name(incarnation: u64) -> Name {
    Name { incarnation, number: 1 }
}

fn file_name(number: usize) -> String {
    format!("checkpoint-{number}")
}

const FILES: usize = 3;
const END_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::chunks::ChunkWriter;
    use crate::disk::mem_disk::MemDisk;
    use crate::format::field::put;

    #[test]
    fn a_checkpoint_of_another_format_is_told_and_is_no_damage() {
        for format in [1_u32, 2, 3] {
            let (disk, store) = (MemDisk::new(), StoreId::new(1));
            let mut outline = Outline::default().encode();
            put(&mut outline, 0, &format.to_le_bytes());
            let file = open_file(&disk, 1).unwrap();
            let mut writer = ChunkWriter::new(file, store, first_name(3));
            writer.push(&outline).unwrap();
            writer.push(&end(Lsn::ZERO)).unwrap();
            writer.finish().unwrap();
            let loaded = load(&disk, store, &Readings::default());
            match loaded {
                Ok(loaded) => assert!(format == 2 && loaded.kept.newest.is_some(), "{format}"),
                Err(OpenError::UnsupportedCheckpoint { file: 1, format: found }) => {
                    assert_eq!(found, format);
                }
                Err(other) => panic!("{other}"),
            }
            assert_eq!(is_whole(&disk, 1, store, &Readings::default()).is_ok(), format == 2);
        }
    }
}
