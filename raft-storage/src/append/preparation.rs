//! How a segment is made ready while the log is written: in small pieces, in step with need.
//!
//! A sync is fast only where the file was written before: the file system then has nothing of its
//! own to note. So a new segment is filled with zeros. In one go that is 64 MiB on a disk that the
//! appends need as well (measured: a p99 of 130 ms instead of 10). So it goes piece by piece:
//! - as far ahead of the appends as they come near the end of their segment, and no further;
//! - at once while nothing is appended;
//! - no longer than it is waited for: whoever needs the segment takes it as far as it is.
//!
//! Room and length come first, and are durable before the first piece: the rest of a segment
//! that is taken early is room that reads as zeros, in which each sync waits for the file system as
//! well. Slower, and never a wait for the whole.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::append::spares::Spare;
use crate::disk::{Disk, DiskFile};
use crate::format::segment::reserve_spare;

/// What the writer lets the helper see. Numbers to go by, and nothing that a rule rests on.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// Bytes appended since the log was opened.
    appended: AtomicU64,
    /// An append is under way.
    busy: AtomicBool,
    /// The segment that is being made is waited for.
    at_once: AtomicBool,
}

impl Demand {
    /// An append of so many bytes begins.
    pub(crate) fn begin(&self, bytes: u64) {
        self.appended.fetch_add(bytes, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    pub(crate) fn ask(&self, at_once: bool) {
        self.at_once.store(at_once, Ordering::Relaxed);
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }
}

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) slot: u32,
    /// What was appended when it was ordered.
    pub(crate) appended: u64,
    /// What can be appended before it is needed; zero if it is needed at once.
    pub(crate) room: u64,
}

/// Makes the segment of `order`; calls `pause` when it is ahead of need.
///
/// # Errors
/// The disk's own; the segment is removed again.
pub(crate) fn prepare<D: Disk>(
    disk: &D,
    order: Order,
    bytes: u64,
    demand: &Demand,
    pause: impl FnMut(),
) -> io::Result<Spare<D::File>> {
    let file = reserve_spare(disk, order.slot, bytes)?;
    let filled = fill(&file, order, bytes, demand, pause).and_then(|prepared| {
        // Whoever takes it early syncs it with its header.
        if prepared == bytes { file.sync_data().map(|()| prepared) } else { Ok(prepared) }
    });
    match filled {
        Ok(prepared) => Ok(Spare { slot: order.slot, file, bytes, prepared, recycled: false }),
        Err(error) => {
            let _ = disk.remove(&crate::format::segment::file_name(order.slot));
            Err(error)
        }
    }
}

/// Returns how far the file is filled: to its end, unless it is waited for.
fn fill<F: DiskFile>(
    file: &F,
    order: Order,
    bytes: u64,
    demand: &Demand,
    mut pause: impl FnMut(),
) -> io::Result<u64> {
    let mut done = 0;
    let mut seen = None;
    while done < bytes && !demand.at_once.load(Ordering::Relaxed) {
        let appended = demand.appended();
        let idle = !demand.busy.load(Ordering::Relaxed) && seen == Some(appended);
        seen = Some(appended);
        if !idle && is_ahead(done, bytes, appended - order.appended, order.room) {
            pause();
            continue;
        }
        let to = (done + PIECE_BYTES).min(bytes);
        file.write_zeros_at(done, to)?;
        done = to;
        if idle && order.room > 0 {
            // The disk is free, and others may want it the next moment.
            pause();
        }
    }
    Ok(done)
}

/// Whether so much of a segment is made that, at the pace of the appends, it is done when three
/// quarters of their own segment are used.
fn is_ahead(done: u64, bytes: u64, used: u64, room: u64) -> bool {
    // Segments have 64 MiB at most.
    done.saturating_mul(room) > used.saturating_mul(bytes).saturating_mul(4) / 3
}

/// What a disk writes in about a millisecond.
const PIECE_BYTES: u64 = 256 << 10;

/// How often the helper looks whether it is needed.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::mem_disk::MemDisk;

    const BYTES: u64 = 16 * PIECE_BYTES;

    fn order(room: u64) -> Order {
        Order { slot: 3, appended: 100, room }
    }

    /// Fills a segment while at each pause so much is appended; how many pauses it took, and how
    /// much was appended when it was done.
    fn filled(per_pause: u64, room: u64) -> (u64, u64) {
        let (disk, demand) = (MemDisk::new(), Demand::default());
        demand.begin(100);
        let mut pauses = 0;
        let spare = prepare(&disk, order(room), BYTES, &demand, || {
            pauses += 1;
            demand.begin(per_pause);
        });
        let spare = spare.expect("there is room");
        assert_eq!((spare.prepared, spare.bytes), (BYTES, BYTES));
        assert_eq!(disk.crash(crate::CrashPolicy::DropUnsynced).bytes(), BYTES);
        (pauses, demand.appended() - 100)
    }

    #[test]
    fn a_segment_is_ready_when_three_quarters_of_the_one_before_are_used() {
        for per_pause in [1_000, 10_000, 100_000] {
            let (pauses, appended) = filled(per_pause, BYTES);
            assert!(pauses > 10, "{pauses} pauses");
            assert!(appended < BYTES * 3 / 4 + 100_000, "{appended} of {BYTES}");
            assert!(appended > BYTES / 2, "it went no faster than needed: {appended}");
        }
        // Appends that are as fast as the disk leave no pause.
        assert!(filled(BYTES, BYTES).0 <= 1);
        // The first segment is waited for.
        assert_eq!(filled(1, 0).0, 0);
    }

    #[test]
    fn an_idle_log_has_its_next_segment_soon() {
        let (disk, demand) = (MemDisk::new(), Demand::default());
        demand.begin(100);
        demand.end();
        let mut pauses = 0;
        prepare(&disk, order(BYTES), BYTES, &demand, || pauses += 1).expect("there is room");
        assert!(pauses <= BYTES / PIECE_BYTES + 1, "{pauses} pauses");
    }

    #[test]
    fn who_waits_for_a_segment_gets_it_as_far_as_it_is() {
        let (disk, demand) = (MemDisk::new(), Demand::default());
        demand.begin(100);
        let mut pauses = 0;
        let spare = prepare(&disk, order(BYTES), BYTES, &demand, || {
            pauses += 1;
            demand.begin(PIECE_BYTES);
            demand.ask(pauses == 5);
        });
        let spare = spare.expect("there is room");
        assert!(spare.prepared > 0 && spare.prepared < BYTES, "{}", spare.prepared);
        // What it lacks is there all the same, for good.
        let crashed = disk.crash(crate::CrashPolicy::DropUnsynced);
        assert_eq!(crashed.bytes(), BYTES);
    }

    #[test]
    fn a_segment_for_which_there_is_no_room_leaves_nothing() {
        let (disk, demand) = (MemDisk::new(), Demand::default());
        disk.limit_bytes(Some(BYTES - 1));
        let made = prepare(&disk, order(BYTES), BYTES, &demand, || {});
        assert!(made.is_err_and(|error| crate::is_out_of_room(&error)));
        assert_eq!(disk.bytes(), 0);
    }
}
