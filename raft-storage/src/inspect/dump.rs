//! Every record of a log, one after the other.

use std::ops::{ControlFlow, RangeInclusive};

use raft_core::{GroupId, GroupIncarnation, LogIndex, ReplicaId, Term};

use crate::disk::Disk;
use crate::disk::readings::Readings;
use crate::error::{FrameFault, OpenError};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::lsn::Lsn;
use crate::format::record::{FLAG_VOTE, RECORD_HEADER_BYTES, RecordHeader, RecordType};
use crate::format::segment::file_name;
use crate::inspect::Inspection;
use crate::inspect::walk::{Met, walk};
use crate::recover::replay::{Items, split_record};

/// Which records are wanted; the default is all of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecordFilter {
    /// Of this group only.
    pub group: Option<GroupId>,
    /// Only in frames at or behind this place of the log.
    pub from: Option<Lsn>,
    /// Only in frames before this place.
    pub to: Option<Lsn>,
    /// Entries with these indexes only, and nothing else.
    pub entries: Option<RangeInclusive<LogIndex>>,
}

/// What a log holds at a place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dumped {
    /// A record.
    Record(RecordView),
    /// Nothing that can be read.
    Hole {
        /// The number in the name of the file.
        segment: u32,
        /// Where in the file.
        offset: u64,
        /// How far it reaches.
        bytes: u64,
        /// Why there is no frame.
        fault: FrameFault,
    },
}

/// A record as it lies in the log, whether or not it is still in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordView {
    /// The number in the name of the file.
    pub segment: u32,
    /// Where in the file.
    pub offset: u64,
    /// The frame it came in, all of which is there or not.
    pub frame: Lsn,
    /// The life of the node that wrote it.
    pub life: u64,
    /// The name of its type in `docs/FORMATS.md`, or `unknown`.
    pub kind: &'static str,
    /// The number of its type.
    pub code: u8,
    /// Its flags.
    pub flags: u8,
    /// The group; zero for a record of the log itself.
    pub group: GroupId,
    /// Which life of the group.
    pub incarnation: GroupIncarnation,
    /// The index, where its type has one; that of a vote is in [`Self::vote`].
    pub index: LogIndex,
    /// The term, where its type has one.
    pub term: Term,
    /// The replica voted for.
    pub vote: Option<ReplicaId>,
    /// How many entries it holds.
    pub entries: u16,
    /// Bytes without header and padding.
    pub payload_bytes: u32,
    /// Whether its own checksum holds, and those of its entries.
    pub is_sound: bool,
}

impl<D: Disk> Inspection<D> {
    /// Shows every record that `filter` lets through, in the order of the log, until `visit` has seen
    /// enough. Cost: reads each segment once, a step of it at a time.
    ///
    /// # Errors
    /// [`OpenError::Io`] and [`OpenError::DiskUnreadable`]. Damage is none: what is readable behind it is shown.
    pub fn records(
        &self,
        filter: &RecordFilter,
        visit: &mut dyn FnMut(Dumped) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        let io = |source| OpenError::Io { dir: self.disk.describe(), source };
        let readings = Readings::default();
        let failed = |error| readings.judge(self.disk.describe(), error);
        let (_, segments) = self.segments(&readings).map_err(failed)?;
        let mut ended = ControlFlow::Continue(());
        for (at, segment) in segments.iter().enumerate() {
            let header = &segment.header;
            let is_before = filter.to.is_some_and(|to| header.base >= to);
            let is_past = filter.from.is_some_and(|from| header.base.plus(header.bytes) <= from);
            if is_before || is_past {
                continue;
            }
            let next = segments.get(at + 1).filter(|next| next.header.seq == header.seq + 1);
            let sealed =
                next.map(|next| next.header.prev_end.get().saturating_sub(header.base.get()));
            let file = self.disk.open(&file_name(segment.slot)).map_err(io)?;
            let mut each = |met: Met<'_>| {
                ended = show(segment.slot, header.base, met, filter, visit);
                ended
            };
            walk(segment, (&file, &readings), sealed, &mut each).map_err(io).map_err(failed)?;
            if ended.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn show(
    segment: u32,
    base: Lsn,
    met: Met<'_>,
    filter: &RecordFilter,
    visit: &mut dyn FnMut(Dumped) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let is_in = |from: Lsn, to: Lsn| {
        filter.from.is_none_or(|begin| to > begin) && filter.to.is_none_or(|end| from < end)
    };
    let (offset, frame, mut rest) = match met {
        Met::Hole { offset, to, fault } => {
            if !is_in(base.plus(offset), base.plus(to)) {
                return ControlFlow::Continue(());
            }
            return visit(Dumped::Hole { segment, offset, bytes: to - offset, fault });
        }
        Met::Frame { offset, header, body } => (offset, header, body),
    };
    if !is_in(frame.lsn, frame.lsn.plus(1)) {
        return ControlFlow::Continue(());
    }
    let body_bytes = rest.len();
    for _ in 0..frame.records {
        let at = offset + (FRAME_HEADER_BYTES + body_bytes - rest.len()) as u64;
        let Ok((record, payload, after)) = split_record(rest) else {
            break;
        };
        let kind = RecordType::from_code(record.code);
        let holds_entries = kind.is_some_and(RecordType::holds_entries);
        let covered = if holds_entries { &[] } else { payload };
        let is_sound = RecordHeader::matches(&rest[..RECORD_HEADER_BYTES], frame.lsn, covered)
            && (!holds_entries
                || Items::new(&record, payload).all(|item| item.is_ok_and(|item| item.is_sound())));
        rest = after;
        let votes = matches!(kind, Some(RecordType::HardState | RecordType::Destroy));
        let view = RecordView {
            segment,
            offset: at,
            frame: frame.lsn,
            life: frame.incarnation,
            kind: kind.map_or("unknown", RecordType::name),
            code: record.code,
            flags: record.flags,
            group: record.group,
            incarnation: record.incarnation,
            index: LogIndex::new(if votes { 0 } else { record.index }),
            term: Term::new(record.term),
            vote: (votes && record.flags & FLAG_VOTE != 0).then(|| ReplicaId::new(record.index)),
            entries: record.count,
            payload_bytes: record.payload_bytes,
            is_sound,
        };
        let of_group = filter.group.is_none_or(|group| group == view.group && kind_has_group(kind));
        let of_range = filter.entries.as_ref().is_none_or(|wanted| {
            let last = view.index.get().saturating_add(u64::from(view.entries)).saturating_sub(1);
            holds_entries && view.index <= *wanted.end() && last >= wanted.start().get()
        });
        if of_group && of_range {
            visit(Dumped::Record(view))?;
        }
    }
    ControlFlow::Continue(())
}

/// Whether a record is about a group, and not about the log.
fn kind_has_group(kind: Option<RecordType>) -> bool {
    kind != Some(RecordType::SyncMarker)
}
