//! What the engine needs from a log, whatever it is made of.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::GroupId;

use crate::append::flight::{Flight, Landing};
use crate::append::room_wait::RoomWait;
use crate::append::write::{AppendInfo, GroupWrite, Large, SyncInfo};
use crate::error::LogError;
use crate::format::lsn::Lsn;
use crate::format::pieces::Piece;
use crate::read::reader::LogReader;

/// A log shared by all groups of a node. The `conformance` suite (a feature) says in
/// code what every implementation must do; this says it in words.
pub trait LogStore: Send {
    /// Appends operations of many groups, all or none of them. On return they are written
    /// (readable, and safe from a crash of the process if the store survives one).
    ///
    /// # Errors
    /// A refused operation leaves the log unchanged; [`LogError::Io`] is final.
    fn append(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError>;

    /// As [`append`](Self::append), for what will not be synced at once: through the page cache, where
    /// a store writes around it otherwise. May be called while syncs are in the air
    /// ([`Flight::is_sync`]), and is not covered by those.
    ///
    /// # Errors
    /// As [`append`](Self::append). [`LogError::UnderWay`]: not before what is in the air has landed.
    fn append_cached(&mut self, writes: &[GroupWrite]) -> Result<AppendInfo, LogError> {
        self.append(writes)
    }

    /// Which entries are better written in pieces ([`Self::append_piece`]), so that large ones do not
    /// delay the small ones of others; `None`: this store writes entries whole.
    fn large(&self) -> Option<Large> {
        None
    }

    /// Writes a piece of the payload of an entry that is appended later, with
    /// [`GroupWrite::put_in_pieces`]. Between its pieces any other appends may come; a crash before
    /// the entry is appended leaves none of it.
    ///
    /// # Errors
    /// As [`Self::append`]; [`LogError::NoPieces`] where [`Self::large`] is `None`.
    fn append_piece(
        &mut self,
        group: GroupId,
        payload: &Bytes,
    ) -> Result<(AppendInfo, Piece), LogError> {
        let _ = (group, payload);
        Err(LogError::NoPieces)
    }

    /// Makes everything appended so far durable, as far as this store can.
    ///
    /// # Errors
    /// [`LogError::Io`] is final.
    fn sync(&mut self) -> Result<SyncInfo, LogError>;

    /// [`append`](Self::append), then [`sync`](Self::sync): what comes back is durable. A store
    /// that can do both in one call does.
    ///
    /// # Errors
    /// As both. After an error of the second kind what was appended may be in the log.
    fn commit(&mut self, writes: &[GroupWrite]) -> Result<(AppendInfo, SyncInfo), LogError> {
        let appended = self.append(writes)?;
        Ok((appended, self.sync()?))
    }

    /// Prepares operations of many groups, all or none of them, for the next flight
    /// ([`Self::depart`]): what can be done before the disk has to be asked, so that it may be done
    /// while the disk is busy. Readers see them when that flight has landed.
    ///
    /// Between `stage` and [`Self::land`] only these five and [`Self::tend`] may be called, and
    /// [`Self::append_cached`] beside syncs. A store without a disk to wait for appends.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn stage(&mut self, writes: &Arc<Vec<GroupWrite>>) -> Result<(), LogError> {
        self.append(writes).map(drop)
    }

    /// [`Self::append_piece`], prepared as by [`Self::stage`].
    ///
    /// # Errors
    /// As [`Self::append_piece`].
    fn stage_piece(&mut self, group: GroupId, payload: &Bytes) -> Result<Piece, LogError> {
        self.append_piece(group, payload).map(|(_, piece)| piece)
    }

    /// Hands over the calls of the disk that make everything staged durable, or with
    /// [`Ending::Written`] that write it. They may be made by another thread, one flight after the
    /// other, while more is staged.
    ///
    /// # Errors
    /// [`LogError::Io`] is final.
    fn depart(&mut self, ending: Ending) -> Result<Flight, LogError> {
        let _ = ending;
        Ok(Flight::over(AppendInfo::default(), self.sync()?))
    }

    /// Hands over the sync of what is written now. Where something was staged or another flight is in
    /// the air, and in a store that does not tell the two apart, as [`Self::depart`] with [`Ending::Sync`].
    ///
    /// # Errors
    /// [`LogError::Io`] is final.
    fn depart_sync(&mut self) -> Result<Flight, LogError> {
        self.depart(Ending::Sync)
    }

    /// Takes in what came of a flight, in the order in which they departed. What it wrote is durable,
    /// and may be acknowledged; after [`Ending::Written`] it is written only, and durable with the next
    /// flight of another ending.
    ///
    /// # Errors
    /// [`LogError::Io`] is final.
    fn land(&mut self, landing: Landing) -> Result<SyncInfo, LogError> {
        Ok(landing.synced())
    }

    /// To be called when nothing was appended for about 100 ms after a sync.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn idle(&mut self) -> Result<(), LogError>;

    /// Writes and syncs something although nothing has to be, to see whether the disk answers; only
    /// when [`Self::idle`] may be called. A store without a disk has nobody to ask.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn probe(&mut self) -> Result<(), LogError> {
        self.idle()
    }

    /// Housekeeping, a bounded piece of it. To be called after each sync, once what became durable is
    /// acknowledged, and when the log is idle; again as the answer says. A store that keeps
    /// everything has nothing to do.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn tend(&mut self, idle: bool) -> Result<Tending, LogError> {
        let _ = idle;
        Ok(Tending::Done)
    }

    /// What the store takes and what housekeeping has done.
    fn stats(&self) -> LogStats {
        LogStats::default()
    }

    /// Ends the log in order: everything is made durable and that is noted, so that whatever is
    /// missing at the next open is known to be missing.
    ///
    /// # Errors
    /// As [`Self::sync`].
    fn close(self: Box<Self>) -> Result<(), LogError>;

    /// Whether the store has failed for good.
    fn is_poisoned(&self) -> bool;

    /// Reads what was appended, from any thread.
    fn reader(&self) -> LogReader;

    /// Whether a call of it, or a flight, waits for room in the middle of a write, and the way to allow that
    /// and to end it. A store that never does says so.
    fn room_wait(&self) -> RoomWait {
        RoomWait::default()
    }
}

/// How what a flight writes becomes durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// By itself, in one call, where nothing before it needs a sync.
    AtOnce,
    /// By a sync that follows it.
    Sync,
    /// Not by this flight: for what counts only with something that is written later.
    Written,
}

/// Whether there is more housekeeping to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tending {
    /// Nothing for now.
    Done,
    /// Something is under way: look after it now and then, every few milliseconds or so.
    Soon,
    /// There is more, which can be done at once.
    Now,
}

/// How long a log is, and what housekeeping has done since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct LogStats {
    /// Where the log ends.
    pub end: Lsn,
    /// Bytes of all segments, without spares.
    pub segment_bytes: u64,
    /// Bytes of the entries that the groups' logs hold; of one of 1 MiB or more in whole blocks of 4 KiB.
    pub live_bytes: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Checkpoints that failed. Without a further one no space comes back and an open takes longer; the
    /// next is tried when the log has gone on.
    pub checkpoints_failed: u64,
    /// What the disk said of the last one, if it failed.
    pub checkpoint_failure: Option<std::io::ErrorKind>,
    /// Segments that were written again.
    pub segments_reused: u64,
    /// Bytes of entries that were moved out of segments that were nearly empty.
    pub bytes_moved: u64,
    /// Bytes of frames, without what fills their last blocks; moved entries are among them.
    pub bytes_written: u64,
    /// What fills the last blocks of frames.
    pub bytes_padded: u64,
    /// Bytes of checkpoints.
    pub checkpoint_bytes: u64,
    /// Segments with an entry that could not be read when it was to be moved: they stay.
    pub segments_unreadable: u64,
}
