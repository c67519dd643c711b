//! Making a checkpoint while the log goes on.
//!
//! Cost: a row per group, 8 bytes per entry, one sync.

use std::collections::BTreeSet;
use std::io;

use raft_core::{GroupIncarnation, LogIndex};

use crate::checkpoint::chunks::ChunkWriter;
use crate::checkpoint::files;
use crate::checkpoint::outline::Outline;
use crate::checkpoint::row;
use crate::disk::Disk;
use crate::format::identity::StoreId;
use crate::format::lsn::Lsn;
use crate::format::pieces::Piece;
use crate::read::index::Shared;
use crate::read::location::Location;

/// A checkpoint to be made.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) outline: Outline,
    pub(crate) file: usize,
    /// Segments whose entries are to be named, by slot: they are to be moved.
    pub(crate) victims: BTreeSet<u32>,
}

/// A checkpoint that is durable.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) outline: Outline,
    pub(crate) file: usize,
    pub(crate) bytes: u64,
    pub(crate) victims: BTreeSet<u32>,
    /// The entries in the victims, by group.
    pub(crate) found: Vec<Found>,
}

/// Entries that lay in a victim: `count` of them from `first` on, those of a snapshot that is on its
/// way here apart from those of the log and those that are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) slot: u32,
    pub(crate) incarnation: GroupIncarnation,
    pub(crate) first: LogIndex,
    pub(crate) count: u64,
    pub(crate) fetched: bool,
}

/// A checkpoint that is being made. Each step takes a bounded time, so that whoever has no thread for
/// it makes it beside other work.
pub(crate) struct Capture<D: Disk> {
    stream: ChunkWriter<D::File>,
    order: Order,
    found: Vec<Found>,
    rows: Vec<u8>,
    /// The group whose row comes next.
    slot: u32,
    /// All that the rows hold lies below.
    needed: Lsn,
}

impl<D: Disk> Capture<D> {
    pub(crate) fn begin(disk: &D, store: StoreId, order: Order) -> io::Result<Self> {
        let file = files::open_file(disk, order.file)?;
        let mut stream = ChunkWriter::new(file, store, order.outline.name);
        stream.push(&order.outline.encode())?;
        let needed = order.outline.replay;
        Ok(Self { stream, order, found: Vec::new(), rows: Vec::new(), slot: 0, needed })
    }

    /// Copies the rows of some groups, `bytes` and a row at most; `false` once all are copied.
    ///
    /// Holds the lock of the index meanwhile, and writes without it.
    pub(crate) fn step(&mut self, shared: &Shared<D>, bytes: usize) -> io::Result<bool> {
        self.rows.clear();
        {
            let index = shared.index.read();
            while let Some(group) = index.groups.get(self.slot as usize)
                && self.rows.len() < bytes
            {
                row::encode(group, index.pieces_of(self.slot), index.end, &mut self.rows);
                if !self.order.victims.is_empty() {
                    let victims = &self.order.victims;
                    let begin = self.found.len();
                    let mut collect = |index: LogIndex, place: Location, fetched: bool| {
                        if victims.contains(&place.slot()) {
                            let name = (self.slot, group.incarnation);
                            add(name, index, fetched, &mut self.found, begin);
                        }
                    };
                    for (index, place) in group.kept() {
                        collect(index, place, false);
                    }
                    for (at, place) in (0..).zip(&group.locations) {
                        collect(group.first.plus(at), *place, false);
                    }
                    for (index, _, place) in group.fetched() {
                        collect(index, place, true);
                    }
                    // An entry is moved with its pieces.
                    let in_victim = |(_, pieces): &(LogIndex, &Vec<Piece>)| {
                        let mut slots = pieces.iter().map(|piece| piece.location.slot());
                        slots.any(|slot| self.order.victims.contains(&slot))
                    };
                    for (first, _) in index.pieces_of(self.slot).filter(in_victim) {
                        let (slot, incarnation) = (self.slot, group.incarnation);
                        let fetched = false;
                        self.found.push(Found { slot, incarnation, first, count: 1, fetched });
                    }
                }
                self.slot += 1;
                self.needed = index.end;
            }
        }
        self.stream.push(&self.rows)?;
        Ok(!self.rows.is_empty())
    }

    /// How far the log must be durable before the checkpoint may be ended.
    pub(crate) fn needed(&self) -> Lsn {
        self.needed
    }

    /// Ends the checkpoint; it is durable on return.
    pub(crate) fn finish(mut self) -> io::Result<Made> {
        self.stream.push(&files::end(self.needed))?;
        let bytes = self.stream.finish()?;
        let Order { outline, file, victims } = self.order;
        Ok(Made { outline, file, bytes, victims, found: self.found })
    }
}

/// Adds an entry to what was found of its group, which begins at `begin`.
fn add(
    (slot, incarnation): (u32, GroupIncarnation),
    index: LogIndex,
    fetched: bool,
    found: &mut Vec<Found>,
    begin: usize,
) {
    match found[begin..].last_mut() {
        Some(last) if last.first.plus(last.count) == index && last.fetched == fetched => {
            last.count += 1;
        }
        _ => found.push(Found { slot, incarnation, first: index, count: 1, fetched }),
    }
}
