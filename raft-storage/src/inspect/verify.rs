//! Everything that a log holds, checked against its checksums and against itself.
//!
//! First what an open would say: the same code judges. Then what an open does not look at: every frame of
//! every segment that is needed, both kept checkpoints, and every entry by its own checksum, read
//! as a reader would.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use raft_core::{GroupId, LogIndex};

use crate::append::spares::Preparation;
use crate::checkpoint::files;
use crate::disk::Disk;
use crate::disk::readings::Readings;
use crate::error::{Damage, FrameFault, OpenError, ReadError, RecordFault};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::lsn::Lsn;
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader, RecordType};
use crate::format::segment::file_name;
use crate::inspect::Inspection;
use crate::inspect::walk::{Met, walk};
use crate::read::index::{Presence, Shared};
use crate::read::open_files::OpenFiles;
use crate::read::reader::LogReader;
use crate::recover::frames::Segment;
use crate::recover::recovery::{Judged, OnDamage, RecoveryReport, judge};
use crate::recover::replay::{Items, split_record};

/// What came of looking at everything.
#[derive(Debug, Default)]
pub struct Verified {
    /// What an open would report, if it would not refuse.
    pub opens: Option<RecoveryReport>,
    /// Segments that are needed, each read from its first frame to its last.
    pub segments: u64,
    /// Frames whose checksums hold.
    pub frames: u64,
    /// Their records.
    pub records: u64,
    /// Bytes of frames that were read.
    pub bytes: u64,
    /// Groups that the log holds.
    pub groups: u64,
    /// Their entries, each read and found sound.
    pub entries: u64,
    /// Files of checkpoints that hold no whole one. A crash while one is written leaves such a file, and
    /// so does damage.
    pub checkpoints_unreadable: u64,
    /// What is wrong, at most [`FINDINGS_MAX`] of it.
    pub findings: Vec<Finding>,
    /// What is wrong beside that.
    pub findings_more: u64,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The number in the name of the file.
    pub segment: u32,
    /// Where in the file.
    pub offset: u64,
    /// Where in the log, if that is known.
    pub lsn: Option<Lsn>,
    /// The groups that lost something that they need; `None` if it could be any.
    pub groups: Option<BTreeSet<GroupId>>,
    /// What is wrong.
    pub flaw: Flaw,
}

impl Finding {
    /// Whether nothing that is damaged is needed by anybody: a segment that holds it is emptied, or is
    /// going to be, and nobody will read it.
    pub fn is_harmless(&self) -> bool {
        self.groups.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

/// In what way something is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// An open finds it, and says so.
    #[error("{0}")]
    Opening(Damage),
    /// Bytes of the log are no frame.
    #[error("{bytes} bytes without a valid frame ({fault})")]
    Frame {
        /// How many.
        bytes: u64,
        /// Why not.
        fault: FrameFault,
    },
    /// A frame holds, and a record in it does not.
    #[error("impossible record: {0}")]
    Record(RecordFault),
    /// An entry that the log should hold.
    #[error("entry {index} of group {group} is not what was written")]
    Entry {
        /// Its group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
    },
    /// The system could not read it.
    #[error("entry {index} of group {group} cannot be read: {why}")]
    Unreadable {
        /// Its group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
        /// What the system said.
        why: std::io::ErrorKind,
    },
}

/// So many findings are told one by one.
pub const FINDINGS_MAX: usize = 1000;

impl Verified {
    /// Whether nothing is wrong that anybody needs.
    pub fn is_sound(&self) -> bool {
        self.opens.is_some()
            && self.findings_more == 0
            && self.findings.iter().all(Finding::is_harmless)
    }

    fn found(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_more += 1;
        }
    }
}

impl<D: Disk> Inspection<D> {
    /// Checks everything. Cost: reads the log once, and what is alive in it a second time; as much memory
    /// as an open takes.
    ///
    /// # Errors
    /// What keeps an open from judging, other than damage: [`OpenError::Unsupported`],
    /// [`OpenError::UnsupportedCheckpoint`], [`OpenError::ForeignSegment`], [`OpenError::DiskUnreadable`],
    /// [`OpenError::Io`].
    pub fn verify(&self) -> Result<Verified, OpenError> {
        let readings = Readings::default();
        self.verify_by(&readings).map_err(|error| readings.judge(self.disk.describe(), error))
    }

    fn verify_by(&self, readings: &Readings) -> Result<Verified, OpenError> {
        let io = |source| OpenError::Io { dir: self.disk.describe(), source };
        let mut verified = Verified::default();
        let ways = (OnDamage::Refuse, Preparation::OnDemand);
        let judged = match judge(&self.disk, &self.identity, self.life, 0, ways, readings) {
            Ok(judged) => Some(judged),
            Err(error) if readings.is_disk() => return Err(error),
            Err(OpenError::Corrupt { segment, offset, lsn, groups, why }) => {
                let groups = groups.map(BTreeSet::from_iter);
                let flaw = Flaw::Opening(why);
                verified.found(Finding { segment, offset, lsn, groups, flaw });
                None
            }
            Err(other) => return Err(other),
        };
        let (kept, segments) = self.segments(readings)?;
        let loaded = files::load(&self.disk, self.identity.store, readings)?;
        verified.checkpoints_unreadable = loaded.unreadable;
        if let Some(previous) = &kept.previous
            && !files::is_whole(&self.disk, previous.file, self.identity.store, readings)?
        {
            verified.checkpoints_unreadable += 1;
        }
        let mut holes = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            let next =
                segments.get(at + 1).filter(|next| next.header.seq == segment.header.seq + 1);
            self.frames(segment, next, readings, (&mut verified, &mut holes)).map_err(io)?;
        }
        verified.segments = segments.len() as u64;
        if let Some(judged) = judged {
            self.entries(judged, &mut verified, &mut holes).map_err(io)?;
        }
        for hole in holes {
            // What an open says already.
            let is_told =
                |told: &Finding| (told.segment, told.offset) == (hole.segment, hole.offset);
            if !verified.findings.iter().any(is_told) {
                verified.found(hole);
            }
        }
        verified.findings.sort_by_key(|found| (found.lsn, found.segment, found.offset));
        Ok(verified)
    }

    fn frames(
        &self,
        segment: &Segment,
        next: Option<&Segment>,
        readings: &Readings,
        (verified, holes): (&mut Verified, &mut Vec<Finding>),
    ) -> std::io::Result<()> {
        let base = segment.header.base;
        let sealed = next.map(|next| next.header.prev_end.get().saturating_sub(base.get()));
        let file = self.disk.open(&file_name(segment.slot))?;
        let mut visit = |met: Met<'_>| {
            let (offset, frame, body) = match met {
                Met::Hole { offset, to, fault } => {
                    let flaw = Flaw::Frame { bytes: to - offset, fault };
                    let lsn = Some(base.plus(offset));
                    if holes.len() < FINDINGS_MAX {
                        let segment = segment.slot;
                        holes.push(Finding { segment, offset, lsn, groups: None, flaw });
                    } else {
                        verified.findings_more += 1;
                    }
                    return ControlFlow::Continue(());
                }
                Met::Frame { offset, header, body } => (offset, header, body),
            };
            verified.frames += 1;
            verified.bytes += frame.bytes();
            let mut rest = body;
            for _ in 0..frame.records {
                let at = offset + (FRAME_HEADER_BYTES + body.len() - rest.len()) as u64;
                let fault = match split_record(rest) {
                    Ok((record, payload, after)) => {
                        let block = &rest[..RECORD_HEADER_BYTES];
                        rest = after;
                        let kind = RecordType::from_code(record.code);
                        let holds_entries = kind.is_some_and(RecordType::holds_entries);
                        let covered = if holds_entries { &[] } else { payload };
                        let is_sound = RecordHeader::matches(block, frame.lsn, covered)
                            && (!holds_entries
                                || Items::new(&record, payload)
                                    .all(|item| item.is_ok_and(|item| item.is_sound())));
                        verified.records += 1;
                        if is_sound {
                            continue;
                        }
                        RecordFault::Checksum
                    }
                    Err(fault) => {
                        rest = &[];
                        fault
                    }
                };
                let (segment, lsn) = (segment.slot, Some(base.plus(at)));
                let flaw = Flaw::Record(fault);
                verified.found(Finding { segment, offset: at, lsn, groups: None, flaw });
                if rest.is_empty() {
                    break;
                }
            }
            ControlFlow::Continue(())
        };
        let ended = walk(segment, (&file, readings), sealed, &mut visit)?;
        if let Some(next) = next
            && ended.chain.is_some_and(|chain| chain != next.header.prev_crc)
        {
            let flaw = Flaw::Opening(Damage::SegmentChain);
            let (segment, lsn) = (next.slot, Some(next.header.base));
            verified.found(Finding { segment, offset: 0, lsn, groups: None, flaw });
        }
        Ok(())
    }

    /// Reads every entry, and says of holes whether any that is alive is lost in them.
    fn entries(
        &self,
        judged: Judged,
        verified: &mut Verified,
        holes: &mut [Finding],
    ) -> std::io::Result<()> {
        let Judged { mut replay, .. } = judged;
        replay.index.all_durable();
        for hole in holes.iter_mut() {
            hole.groups = Some(BTreeSet::new());
        }
        let mut groups = Vec::new();
        for group in &replay.index.groups {
            if group.presence != Presence::Here {
                continue;
            }
            groups.push((group.id, group.first, group.last()));
        }
        verified.opens = Some(replay.report.clone());
        verified.groups = groups.len() as u64;
        let bases: Vec<(u32, Lsn)> =
            replay.index.segments.iter().map(|(slot, segment)| (slot, segment.base)).collect();
        let end = replay.index.end;
        let files = OpenFiles::new(self.disk.clone());
        let shared = Arc::new(Shared::to_look_at(replay.index, files, end));
        let reader = LogReader::new(Arc::clone(&shared));
        let mut note = |lost: Lost, verified: &mut Verified| {
            let Lost { group, index, place, flaw } = lost;
            // A read that was refused does not say where; it is one of these, and most likely in a hole.
            let places = place.map_or_else(|| places(&shared, group, index), |place| vec![place]);
            let covers = |hole: &Finding, (segment, offset): (u32, u64)| {
                let Flaw::Frame { bytes, .. } = hole.flaw else { return false };
                hole.segment == segment && (hole.offset..hole.offset + bytes).contains(&offset)
            };
            let mut hit = None;
            for hole in holes.iter_mut() {
                let Some(place) = places.iter().find(|place| covers(hole, **place)) else {
                    continue;
                };
                hole.groups.get_or_insert_default().insert(group);
                hit.get_or_insert(*place);
            }
            let (segment, offset) = hit.or_else(|| places.first().copied()).unwrap_or_default();
            let base = bases.iter().find(|(slot, _)| *slot == segment);
            let lsn = base.map(|(_, base)| base.plus(offset));
            let groups = Some(BTreeSet::from([group]));
            verified.found(Finding { segment, offset, lsn, groups, flaw });
        };
        for (group, first, last) in groups {
            let mut at = first;
            while at <= last {
                match reader.entries(group, at, last, READ_BYTES) {
                    Ok(entries) => {
                        let count = entries.len() as u64;
                        verified.entries += count;
                        at = at.plus(count.max(1));
                    }
                    Err(error) => {
                        let Some((index, lost)) = lost(group, error)? else { break };
                        verified.entries += index.since(at);
                        note(lost, verified);
                        at = index.next();
                    }
                }
            }
            // What lies beside the log: kept for a snapshot, or fetched for one.
            let kept = reader.live(group);
            let beside: Vec<_> = kept.iter().chain(reader.fetched(group)).collect();
            for (index, term) in beside {
                if let Err(error) = reader.entry(group, index, term)
                    && let Some((_, lost)) = lost(group, error)?
                {
                    note(lost, verified);
                }
            }
        }
        Ok(())
    }
}

/// An entry that is alive and cannot be read.
struct Lost {
    group: GroupId,
    index: LogIndex,
    /// Its segment, and where in that; `None` if the read did not say.
    place: Option<(u32, u64)>,
    flaw: Flaw,
}

/// Where entries of this index lie, with their pieces: that of the log or kept from before it, and those that
/// were fetched.
fn places<D: Disk>(shared: &Shared<D>, group: GroupId, at: LogIndex) -> Vec<(u32, u64)> {
    let index = shared.index.read();
    let (Some(slot), Some(known)) = (index.slots.get(&group), index.group(group)) else {
        return Vec::new();
    };
    let fetched = known.fetched().filter(|(index, ..)| *index == at).map(|(.., place)| place);
    let pieces = index.pieces.get(&(*slot, at)).into_iter().flatten().map(|piece| piece.location);
    let all = known.held(at).into_iter().chain(pieces).chain(fetched);
    all.map(|place| (place.slot(), place.offset())).collect()
}

/// What a read that failed says of the log, and of which entry; `None`: nothing.
fn lost(group: GroupId, error: ReadError) -> std::io::Result<Option<(LogIndex, Lost)>> {
    match error {
        ReadError::Corrupt { index, segment, offset, .. } => {
            let (place, flaw) = (Some((segment, offset)), Flaw::Entry { group, index });
            Ok(Some((index, Lost { group, index, place, flaw })))
        }
        ReadError::Io { source, .. } if crate::is_out_of_descriptors(&source) => Err(source),
        ReadError::Io { index, source, .. } => {
            let flaw = Flaw::Unreadable { group, index, why: source.kind() };
            Ok(Some((index, Lost { group, index, place: None, flaw })))
        }
        // The index that is asked is the one that is read.
        ReadError::UnknownGroup { .. }
        | ReadError::OutOfRange { .. }
        | ReadError::NotHeld { .. } => Ok(None),
    }
}

/// Read at once.
const READ_BYTES: u64 = 1 << 20;
