//! Housekeeping: checkpoints begun and looked after, segments given back, entries moved out of those
//! that are nearly empty.
//!
//! It writes frames like any other, so it belongs to the writer; what is due is decided by the
//! [`Tender`](crate::reclaim::tender::Tender), and what is to be moved by
//! [`Moves`](crate::reclaim::moves::Moves).

use std::collections::{HashSet, VecDeque};

use raft_core::{GroupId, LogIndex, Term};

use super::{Airborne, Effect, LogWriter};
use crate::append::encode::Copies;
use crate::checkpoint::capture::Found;
use crate::disk::Disk;
use crate::error::{LogError, ReadError};
use crate::format::frame::frame_bytes;
use crate::format::pieces;
use crate::format::record::{RECORD_HEADER_BYTES, item_bytes};
use crate::read::index::{Index, Presence, Relocation};
use crate::read::location::Location;
use crate::reclaim::moves::LargeMove;
use crate::reclaim::tender::Progress;
use crate::store::{LogStats, Tending};

impl<D: Disk> LogWriter<D> {
    /// Housekeeping, a bounded piece of it: makes checkpoints, moves what lives out of segments that
    /// are nearly empty, and takes back those that nothing alive is left in. Call it after each sync,
    /// once what became durable is acknowledged, and again as it asks for. `idle`: nothing was
    /// appended for a while, so nobody waits for the disk.
    ///
    /// What it writes goes with the next flight where something was staged, or has departed that is not only
    /// a sync; it may be called then as well.
    ///
    /// Cost of a call: at most a write of 256 KiB, or of one piece of a large entry; a lock and a look
    /// at each segment after a checkpoint.
    ///
    /// # Errors
    /// [`LogError::Io`] and [`LogError::Poisoned`], both final. A full disk is none: then less is
    /// done.
    pub fn tend(&mut self, idle: bool) -> Result<Tending, LogError> {
        self.check_poison()?;
        let is_clear = self.open.is_none() && self.steps.is_empty();
        let is_alone = self.air.is_empty() && is_clear;
        if is_alone && idle && self.cursor.content_end > self.cursor.synced {
            self.sync_here()?;
        }
        let mut moved = false;
        // What is under way may be taken back, and is not there to be taken back yet.
        if self.housekeeping.is_none() && self.tender.moves.may_move(idle) {
            moved = self.move_some()?;
            // Who writes beside syncs does not find copies in the way.
            if moved && (is_alone || is_clear && self.may_write_beside()) {
                self.finish_here()?;
            } else if moved {
                self.housekeeping = Some(self.next_flight);
            }
        }
        let progress = self.tender.step(&self.landed, idle);
        if let Progress::Made { bytes } = progress {
            self.done.checkpoints += 1;
            self.done.checkpoint_bytes += bytes;
        }
        for (slot, bytes) in self.tender.free(&self.landed) {
            if !self.spares.recycle(slot, bytes) {
                self.shared.files.close(slot);
            }
        }
        Ok(match progress {
            Progress::Made { .. } => Tending::Now,
            Progress::UnderWay => Tending::Soon,
            Progress::None if moved => Tending::Now,
            Progress::None => Tending::Done,
        })
    }

    /// Copies some entries out of segments that are to be emptied. `false`: nothing could be.
    fn move_some(&mut self) -> Result<bool, LogError> {
        let mut copies = Vec::new();
        let mut relocations = Vec::new();
        let bytes_max = self.tender.moves.piece_bytes;
        let mut bytes = 0;
        let losing = losing(&self.air, &self.effects);
        let mut later = Vec::new();
        while bytes < bytes_max
            && let Some(found) = self.tender.moves.next()
        {
            if losing.contains(&found.slot) {
                later.push(found);
                continue;
            }
            let Some(stretch) = self.stretch(found, bytes_max - bytes) else { continue };
            self.tender.moves.put_back(found, stretch.done);
            let Some((_, _, first)) = stretch.places.first() else { continue };
            let first = first.slot();
            let name = (stretch.group, found.incarnation);
            let entries = match self.shared.entries_at(name, &stretch.places) {
                Ok(entries) => entries,
                Err(error) => {
                    // What is not damaged is named again, with what else was to be read.
                    self.tender.moves.give_up(first, &error);
                    continue;
                }
            };
            let (slot, incarnation) = (found.slot, found.incarnation);
            relocations.extend(stretch.places.iter().map(|(index, _, from)| Relocation {
                slot,
                index: *index,
                from: *from,
                to: *from,
                pieces: None,
            }));
            for run in entries.chunk_by(|before, entry| before.term == entry.term) {
                copies.extend(run.chunks(usize::from(u16::MAX)).map(|entries| Copies {
                    group: stretch.group,
                    incarnation,
                    entries: entries.to_vec(),
                    in_pieces: false,
                    fetched: found.fetched,
                }));
            }
            bytes += stretch.bytes;
        }
        self.tender.moves.put_off(later);
        if copies.is_empty() {
            return self.move_large(&losing);
        }
        // Without room there is nothing to be gained by waiting for it here: the next checkpoint
        // names them again.
        Ok(self.write_copies(&copies, relocations))
    }

    /// The first neighbours of what was found that still lie in a segment to be emptied: as many as
    /// take `bytes_max`, one at least. `None`: the group is gone.
    fn stretch(&mut self, found: Found, bytes_max: u64) -> Option<Stretch> {
        let Found { slot, incarnation, first, count, fetched } = found;
        let index = self.shared.index.read();
        let group = index.groups.get(slot as usize)?;
        if group.incarnation != incarnation || group.presence == Presence::Destroyed {
            return None;
        }
        let moves = &mut self.tender.moves;
        let mut stretch = Stretch { group: group.id, places: Vec::new(), bytes: 0, done: count };
        for at in 0..count {
            let entry = first.plus(at);
            let place = match fetched {
                true => group.fetched_of(entry),
                false => group.held_term(entry).zip(group.held(entry)),
            };
            let is_in_pieces = !fetched && index.pieces.contains_key(&(slot, entry));
            if is_in_pieces {
                moves.add_large(LargeMove::new(slot, incarnation, entry));
            }
            // What is not there any more needs no moving.
            let moves_it = |(_, place): &(Term, Location)| moves.victims.contains(&place.slot());
            let Some((term, place)) = place.filter(moves_it).filter(|_| !is_in_pieces) else {
                if stretch.places.is_empty() {
                    continue;
                }
                stretch.done = at;
                break;
            };
            let bytes = item_bytes(place.payload_bytes_min());
            if !stretch.places.is_empty() && stretch.bytes + bytes > bytes_max {
                stretch.done = at;
                break;
            }
            stretch.bytes += bytes;
            stretch.places.push((entry, term, place));
        }
        Some(stretch)
    }

    /// Moves a piece of an entry that is in pieces, or, after the last of them, the entry itself.
    /// `false`: nothing was moved.
    fn move_large(&mut self, losing: &HashSet<u32>) -> Result<bool, LogError> {
        let Some(mut large) = self.tender.moves.next_large() else { return Ok(false) };
        if losing.contains(&large.slot) {
            self.tender.moves.put_large_off(large);
            return Ok(false);
        }
        let key = (large.slot, large.index);
        let found = {
            let index = self.shared.index.read();
            let group = index.groups.get(large.slot as usize);
            let group = group.filter(|group| group.incarnation == large.incarnation);
            group.and_then(|group| {
                let (place, term) = (group.held(large.index)?, group.held_term(large.index)?);
                Some((group.id, place, term, index.pieces.get(&key)?.clone()))
            })
        };
        let found = found.filter(|(_, from, _, old)| {
            let of = large.of.get_or_insert_with(|| (*from, old.clone()));
            (of.0, &of.1) == (*from, old)
        });
        let Some((group, from, term, old)) = found else {
            self.shared.index.write().drop_pending(&large.copied);
            return Ok(true);
        };
        let name = (group, large.incarnation);
        if let Some(piece) = old.get(large.copied.len()) {
            let payload = match self.shared.piece(group, large.index, piece) {
                Ok(payload) => payload,
                Err(why) => return Ok(self.give_up_moving(&large, (piece.location, &why))),
            };
            self.seal();
            let before = self.info;
            match self.stage_piece(group, &payload) {
                Ok(piece) => {
                    let bytes = self.info.bytes - before.bytes;
                    // It is none of what was asked for.
                    self.info = before;
                    self.tender.moves.spend(bytes);
                    self.done.bytes_moved += bytes;
                    large.copied.push(piece);
                    self.tender.moves.put_large_back(large);
                    return Ok(true);
                }
                Err(LogError::NoSegment { .. }) => {
                    self.shared.index.write().drop_pending(&large.copied);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        let stored = self.shared.entry_as_stored(name, (large.index, term), from);
        let mut entry = match stored {
            Ok(entry) => entry,
            Err(why) => return Ok(self.give_up_moving(&large, (from, &why))),
        };
        entry.payload = pieces::encode(&large.copied);
        let incarnation = large.incarnation;
        let entries = vec![entry];
        let copies = [Copies { group, incarnation, entries, in_pieces: true, fetched: false }];
        let relocation = Relocation {
            slot: large.slot,
            index: large.index,
            from,
            to: from,
            pieces: Some(large.copied.clone()),
        };
        if !self.write_copies(&copies, vec![relocation]) {
            self.shared.index.write().drop_pending(&large.copied);
            return Ok(false);
        }
        Ok(true)
    }

    /// Something of an entry that is to be moved cannot be read: it stays where it is, for now or for good.
    fn give_up_moving(&mut self, large: &LargeMove, (place, why): (Location, &ReadError)) -> bool {
        self.tender.moves.give_up(place.slot(), why);
        self.shared.index.write().drop_pending(&large.copied);
        true
    }

    /// Writes entries again. `false`: there is no room for them.
    fn write_copies(&mut self, copies: &[Copies], mut relocations: Vec<Relocation>) -> bool {
        let body = |copies: &Copies| {
            let items = copies.entries.iter().map(|entry| item_bytes(entry.payload.len() as u64));
            RECORD_HEADER_BYTES as u64 + items.sum::<u64>()
        };
        let frame_bytes = frame_bytes(copies.iter().map(body).sum());
        if self.need_room(frame_bytes).is_err() {
            return false;
        }
        let mut frame = self.frames.pop().unwrap_or_default();
        let places = frame.encode_copies(&self.cursor, copies);
        self.write(frame);
        for (relocation, to) in relocations.iter_mut().zip(places) {
            relocation.to = to;
        }
        self.effects.push(Effect::Copied(self.cursor.end(), relocations));
        self.tender.moves.spend(frame_bytes);
        self.done.bytes_moved += frame_bytes;
        true
    }

    /// How long the log is, and what housekeeping has done. Cost: a look at each segment.
    pub fn stats(&self) -> LogStats {
        let index = self.shared.index.read();
        let mut stats = LogStats {
            end: self.cursor.end(),
            segments_unreadable: self.tender.moves.unreadable.len() as u64,
            checkpoints_failed: self.tender.failures,
            checkpoint_failure: self.tender.failure,
            ..self.done
        };
        for (_, segment) in index.segments.iter() {
            stats.segment_bytes += segment.bytes;
            stats.live_bytes += segment.live.bytes;
        }
        stats
    }

    /// Entries whose copies are durable are where the copies are.
    pub(super) fn moved(&mut self, index: &mut Index) {
        let durable = self.shared.durable();
        while let Some((_, relocations)) = self.copied.pop_front_if(|(end, _)| *end <= durable) {
            for relocation in &relocations {
                // What is not there any more was truncated or compacted meanwhile.
                let moved = index.relocate(relocation);
                match &relocation.pieces {
                    Some(pieces) if moved => {
                        index.put_pieces(relocation.slot, relocation.index, pieces.clone());
                    }
                    Some(pieces) => index.drop_pending(pieces),
                    None => {}
                }
            }
        }
    }
}

/// The groups, by slot, that lose something or begin anew by what was staged and has not landed.
///
/// What is moved goes by what has landed, and its copies lie behind what has not: nothing of such a
/// group may be moved, as the log would then hold a copy of what it says is gone.
fn losing(air: &VecDeque<Airborne>, staged: &[Effect]) -> HashSet<u32> {
    let mut groups = HashSet::new();
    let effects = air.iter().flat_map(|flight| &flight.effects).chain(staged);
    for effect in effects {
        let Effect::Published(publication, writes) = effect else { continue };
        for (admitted, write) in publication.admitted.iter().zip(writes.iter()) {
            if write.takes_away() {
                groups.insert(admitted.slot);
            }
        }
    }
    groups
}

/// Neighbours that are to be moved together.
struct Stretch {
    group: GroupId,
    places: Vec<(LogIndex, Term, Location)>,
    bytes: u64,
    /// How many entries of what was found are dealt with.
    done: u64,
}
