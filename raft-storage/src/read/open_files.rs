//! The segments that are open for reading: a few at a time, whatever the log holds.
//!
//! A log has thousands of segments and a process a few hundred descriptors. So a segment is
//! opened when it is read and closed when it was not for the longest time. The writer keeps the
//! file it writes by itself and never waits for this.
//!
//! Bound: [`OPEN_MAX`] files, and one more per thread that opens one at the moment. Where the
//! process has no descriptor left, what is open here is given up first.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, is_out_of_descriptors};
use crate::format::segment::file_name;

/// Segments open for reading at once. Readers fetch what a lagging peer needs in order, so a few
/// for each of them are enough.
pub(crate) const OPEN_MAX: usize = 32;

/// The open files of a log, the one used last in front.
pub(crate) struct OpenFiles<D: Disk> {
    disk: D,
    open: Mutex<VecDeque<(u32, Arc<D::File>)>>,
}

impl<D: Disk> OpenFiles<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk, open: Mutex::default() }
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    /// The file in `slot`.
    ///
    /// # Errors
    /// The disk's own; where descriptors ran out, it may be tried again.
    pub(crate) fn get(&self, slot: u32) -> io::Result<Arc<D::File>> {
        {
            let mut open = self.open.lock();
            if let Some(at) = open.iter().position(|(other, _)| *other == slot) {
                let found = open.remove(at).ok_or(io::ErrorKind::NotFound)?;
                let file = Arc::clone(&found.1);
                open.push_front(found);
                return Ok(file);
            }
        }
        // Opening may wait for the disk, and others may read meanwhile.
        let file = match self.disk.open(&file_name(slot)) {
            Err(error) if is_out_of_descriptors(&error) => {
                self.close_all();
                self.disk.open(&file_name(slot))?
            }
            opened => opened?,
        };
        let file = Arc::new(file);
        let mut open = self.open.lock();
        open.retain(|(other, _)| *other != slot);
        open.push_front((slot, Arc::clone(&file)));
        open.truncate(OPEN_MAX);
        Ok(file)
    }

    /// Gives up the file in `slot`, which is no more.
    pub(crate) fn close(&self, slot: u32) {
        self.open.lock().retain(|(other, _)| *other != slot);
    }

    /// Gives up every descriptor that nobody reads from at the moment.
    pub(crate) fn close_all(&self) {
        self.open.lock().clear();
    }
}
