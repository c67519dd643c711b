//! What is left of a log that has lost bytes which were durable, judged group by group.
//!
//! A *hole* is a stretch of the log without a valid frame below something that was promised. Of a group that
//! may have had records in it three things are asked:
//! - *its log*: it is taken as it was before the hole. Whatever lies behind follows entries that are gone, so
//!   it is left out, unless the log begins anew there. The group has forgotten what it acknowledged;
//! - *its stance* (that it is there, its term, its vote, its promises): the newest is proven if a record of it
//!   lies behind the hole, or if the first frame behind says that no such record was in it. If not, the
//!   replica may have forgotten a vote, and must never count again;
//! - *what older records say* is in a checkpoint's row that was written later: the hole took none of it.
//!
//! Where the header of a damaged frame holds, and the sums of all its records but those of some entries do,
//! nothing is lost but these entries.
//!
//! Entries below the checkpoint are lost one by one. Those that a snapshot covers are forgotten in order: the
//! log begins behind them. Of the others the log ends before the first.
//!
//! Entries that lie beside a log belong to a snapshot. Behind a hole those that are fetched are left out like the
//! log's own, and so is a snapshot for which some are missing then; the group has forgotten what it
//! acknowledged, whether the hole took any or not. Fetched ones that cannot be read are fetched again. Ones that
//! a snapshot kept stay named: who reads them is told, and that snapshot does not fit.
//!
//! Invariant: what is judged here is durable, in two checkpoints and behind a fresh segment's header, before the
//! log is handed out and before a byte of the damaged segments can be written again (rule R4).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use raft_core::{GroupId, HardState, LogIndex, Promise};

use crate::append::write::Compaction;
use crate::disk::Disk;
use crate::disk::readings::Readings;
use crate::error::Damage;
use crate::format::frame::FrameHeader;
use crate::format::lsn::Lsn;
use crate::read::index::{GroupIndex, Index, Presence};
use crate::read::location::Location;
use crate::read::open_files::OpenFiles;
use crate::read::reader::is_readable;

/// Bytes of the log that were durable and are gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hole {
    /// The number in the name of the file.
    pub segment: u32,
    /// Where in the file.
    pub offset: u64,
    /// Where in the log.
    pub from: Lsn,
    /// Where the log can be read again.
    pub to: Lsn,
    /// The groups that lost something; `None` if it could be any.
    pub groups: Option<Vec<GroupId>>,
    /// What is wrong.
    pub why: Damage,
}

/// Everything that was lost so far.
#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) holes: Vec<Hole>,
    /// No frame was read behind these holes yet: from the first to the last of them.
    open: Option<(Lsn, Lsn)>,
    /// In which slots of the index something was lost.
    groups: BTreeMap<u32, Loss>,
    /// Groups that have records behind a hole and are not known: their beginning was in it.
    pub(crate) strangers: BTreeSet<GroupId>,
    /// Groups may have begun in a hole, and left no other trace.
    pub(crate) creations: bool,
    /// Stretches of segments, by slot, in which entries may lie that cannot be read.
    places: Vec<(u32, u64, u64)>,
    /// Any entry may be one that cannot be read.
    pub(crate) doubts: bool,
}

/// What is known of a group behind a hole.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Its log is known again, because it began anew.
    log: bool,
    /// Its stance is proven.
    stance: bool,
}

impl Losses {
    /// Whether anything is lost.
    pub(crate) fn any(&self) -> bool {
        !self.holes.is_empty()
    }

    /// Whether records may be missing before what is read now.
    pub(crate) fn is_behind(&self) -> bool {
        self.holes.iter().any(|hole| hole.groups.is_none())
    }

    /// Whether what the log of this group holds is unknown from here on.
    pub(crate) fn hides_log(&self, slot: u32) -> bool {
        self.groups.get(&slot).is_some_and(|loss| !loss.log)
    }

    /// Nothing can be read here. `since` says up to where the row of each group holds it.
    pub(crate) fn hole(&mut self, hole: Hole, index: &Index, since: &[Lsn]) {
        let (from, to) = (hole.from, hole.to);
        let begin = self.open.map_or(from, |(begin, _)| begin);
        self.open = Some((begin, to));
        for slot in may_miss(index, since, to) {
            self.lose_log(slot);
        }
        self.lose_places(
            hole.segment,
            hole.offset,
            hole.offset.saturating_add(to.get() - from.get()),
        );
        self.holes.push(hole);
    }

    /// Entries of these groups are lost, and nothing else.
    pub(crate) fn entries(&mut self, hole: Hole, index: &Index, since: &[Lsn]) {
        for group in hole.groups.iter().flatten() {
            let Some(slot) = index.slots.get(group) else { continue };
            if since.get(*slot as usize).is_none_or(|since| *since <= hole.from) {
                self.lose_log(*slot);
            }
        }
        self.lose_places(
            hole.segment,
            hole.offset,
            hole.offset + (hole.to.get() - hole.from.get()),
        );
        self.holes.push(hole);
    }

    /// What the log of this group holds is unknown from here on.
    pub(crate) fn lose_log(&mut self, slot: u32) {
        self.groups
            .entry(slot)
            .and_modify(|loss| loss.log = false)
            .or_insert(Loss { log: false, stance: true });
    }

    /// Below the checkpoint, or of one entry: entries may lie here, and nothing else that matters.
    pub(crate) fn old(&mut self, hole: Hole) {
        self.lose_places(
            hole.segment,
            hole.offset,
            hole.offset + (hole.to.get() - hole.from.get()),
        );
        self.holes.push(hole);
    }

    /// Below the checkpoint a whole segment is gone.
    pub(crate) fn segment(&mut self, hole: Hole) {
        self.lose_places(hole.segment, 0, u64::MAX);
        self.holes.push(hole);
    }

    fn lose_places(&mut self, slot: u32, from: u64, to: u64) {
        self.places.push((slot, from, to));
    }

    /// A frame can be read again: it says what the holes before it cannot have held.
    pub(crate) fn frame_behind(&mut self, frame: &FrameHeader, index: &Index, since: &[Lsn]) {
        let Some((from, to)) = self.open.take() else { return };
        let proven = frame.stance().is_some_and(|stance| stance < from);
        if !proven {
            self.unproven(to, index, since);
        }
    }

    /// Whether nothing could be read behind the last hole.
    pub(crate) fn end_is_lost(&self) -> bool {
        self.open.is_some()
    }

    /// No frame follows.
    pub(crate) fn end(&mut self, index: &Index, since: &[Lsn]) {
        if let Some((_, to)) = self.open.take() {
            self.unproven(to, index, since);
        }
    }

    fn unproven(&mut self, to: Lsn, index: &Index, since: &[Lsn]) {
        self.creations = true;
        for slot in may_miss(index, since, to) {
            self.groups.entry(slot).or_insert(Loss { log: false, stance: false }).stance = false;
        }
    }

    /// A record behind all holes so far says where this replica stands.
    pub(crate) fn proves(&mut self, slot: u32) {
        if let Some(loss) = self.groups.get_mut(&slot) {
            loss.stance = true;
        }
    }

    /// The log of this group begins anew.
    pub(crate) fn begins(&mut self, slot: u32) {
        if let Some(loss) = self.groups.get_mut(&slot) {
            loss.log = true;
        }
    }

    /// The group is gone, or another life of it begins: what was lost of the one before is no matter.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.groups.remove(&slot);
    }

    /// Marks in the index what came of it; the replay is over.
    pub(crate) fn settle<D: Disk>(
        &mut self,
        index: &mut Index,
        from: (&OpenFiles<D>, &Readings),
    ) -> io::Result<()> {
        for slot in 0..index.groups.len() as u32 {
            if self.shorten(slot, index, from)? {
                self.groups.entry(slot).or_insert(Loss { log: true, stance: true });
            }
            self.fetch_again(slot, index, from)?;
        }
        for (slot, loss) in &self.groups {
            let group = &mut index.groups[*slot as usize];
            if group.presence != Presence::Here {
                continue;
            }
            let promise = &mut group.facts.promise.promise;
            *promise = match (loss.stance, *promise) {
                (false, _) | (_, Promise::Unproven) => Promise::Unproven,
                (true, Promise::Kept | Promise::Lost | Promise::Damaged) => Promise::Damaged,
            };
            // Whatever its log holds was written in a term that it had reached.
            let last = group.runs.last().map_or(group.facts.base.term, |(_, term)| *term);
            if group.facts.hard_state.term < last {
                group.facts.hard_state = HardState { term: last, vote: None };
            }
        }
        Ok(())
    }

    /// Leaves out of a log what cannot be read. Returns whether it lost anything that it may have
    /// acknowledged and no snapshot covers.
    fn shorten<D: Disk>(
        &mut self,
        slot: u32,
        index: &mut Index,
        files: (&OpenFiles<D>, &Readings),
    ) -> io::Result<bool> {
        let group = &index.groups[slot as usize];
        let mut lost = Vec::new();
        for (at, place) in (group.first.get()..).map(LogIndex::new).zip(&group.locations) {
            let pieces = index.pieces.get(&(slot, at));
            let mut places =
                pieces.iter().flat_map(|pieces| pieces.iter()).map(|piece| piece.location);
            let may_be = self.is_lost(*place) || places.any(|place| self.is_lost(place));
            let term = group.term(at).unwrap_or_default();
            let name = (group.id, group.incarnation);
            if may_be && !is_readable(files, name, (at, term), *place, pieces)? {
                lost.push((at, *place));
            }
        }
        let snapshot = group.facts.base.snapshot;
        let id = group.id;
        if self.doubts {
            for (index_lost, place) in lost.iter().take(HOLES_MAX) {
                let segment = index.segments.iter().find(|(slot, _)| *slot == place.slot());
                let base = segment.map_or(Lsn::ZERO, |(_, segment)| segment.base);
                let from = base.plus(place.offset());
                self.holes.push(Hole {
                    segment: place.slot(),
                    offset: place.offset(),
                    from,
                    to: from.plus(1),
                    groups: Some(vec![id]),
                    why: Damage::Entry { index: *index_lost },
                });
            }
        }
        let lost: Vec<LogIndex> = lost.into_iter().map(|(at, _)| at).collect();
        // Before the beginning moves: a clock of what is left out says nothing of what stays.
        let from = lost.iter().copied().find(|at| *at > snapshot);
        if let Some(from) = from {
            index.truncate(slot, from);
        }
        let group = &index.groups[slot as usize];
        if let Some(upto) = lost.iter().copied().filter(|at| *at <= snapshot).max() {
            // Which of them the snapshot leaves in the log is not known here: all that can be read stay
            // beside it, until it is compacted for the next time.
            let mut live = group.aside.as_ref().map(|aside| aside.kept.names()).unwrap_or_default();
            for at in (group.first.get()..=upto.get()).map(LogIndex::new) {
                let term = group.term(at).unwrap_or_default();
                if !lost.contains(&at) && !live.push(at, term) {
                    break;
                }
            }
            let begins = beginning_after(group, upto);
            index.compact(slot, begins, &live);
        }
        Ok(from.is_some())
    }

    /// What was fetched of a snapshot that is on its way here was promised to nobody: where some of it cannot
    /// be read, all of it is asked for again.
    fn fetch_again<D: Disk>(
        &self,
        slot: u32,
        index: &mut Index,
        files: (&OpenFiles<D>, &Readings),
    ) -> io::Result<()> {
        let group = &index.groups[slot as usize];
        let name = (group.id, group.incarnation);
        let mut is_whole = true;
        for (at, term, place) in group.fetched() {
            is_whole &= !self.is_lost(place) || is_readable(files, name, (at, term), place, None)?;
        }
        if !is_whole {
            index.drop_fetched(slot);
        }
        Ok(())
    }

    fn is_lost(&self, place: Location) -> bool {
        self.doubts
            || self.places.iter().any(|(slot, from, to)| {
                *slot == place.slot() && (*from..*to).contains(&place.offset())
            })
    }
}

/// So many lost entries of a group are named one by one.
const HOLES_MAX: usize = 16;

/// Groups that may have had records below `to` that no row holds.
fn may_miss<'a>(index: &'a Index, since: &'a [Lsn], to: Lsn) -> impl Iterator<Item = u32> + 'a {
    let all = 0..index.groups.len() as u32;
    all.filter(move |slot| since.get(*slot as usize).is_none_or(|since| *since < to))
}

/// How a log begins that has forgotten all up to an entry of it, which its snapshot covers.
fn beginning_after(group: &GroupIndex, upto: LogIndex) -> Compaction {
    let mut base = group.facts.base.clone();
    base.index = upto;
    base.term = group.term(upto).unwrap_or(base.term);
    if let Some((at, membership)) = group.facts.configs.iter().rev().find(|(at, _)| *at <= upto) {
        (base.config_index, base.membership) = (*at, Some(membership.clone()));
    }
    // Of the entries that are forgotten the newest is not read any more.
    let time = group.facts.base_time.max(group.facts.last_time.unwrap_or_default());
    Compaction { base, time }
}
