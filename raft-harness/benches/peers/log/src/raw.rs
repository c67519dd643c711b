//! The disk alone: writes of so many bytes, each made durable.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Slice, measured};

/// How a write becomes durable.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// A direct write, then `fdatasync`.
    Fdatasync,
    /// A direct write with `RWF_DSYNC`.
    Dsync,
    /// A write through the page cache, then `fdatasync`.
    Cached,
}

const BLOCK: usize = 4096;

pub(crate) struct Raw {
    direct: File,
    cached: File,
    bytes: u64,
    offset: u64,
    /// Noise; what is written begins at a block of memory.
    buffer: Vec<u8>,
}

impl Raw {
    /// A file of so many bytes, all of them written.
    pub(crate) fn open(path: &Path, bytes: u64) -> Self {
        let cached = OpenOptions::new().write(true).create(true).truncate(true).open(path);
        let cached = cached.expect("a new file");
        let mut pool = peerbench::Pool::new(1 << 20);
        let mut offset = 0;
        while offset < bytes {
            cached.write_all_at(&pool.next(), offset).expect("a sound disk");
            offset += 1 << 20;
        }
        cached.sync_all().expect("a sound disk");
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
        let direct = direct.expect("a file system with direct writes");
        let mut buffer = Vec::new();
        while buffer.len() < 9 << 20 {
            buffer.extend_from_slice(&pool.next());
        }
        Self { direct, cached, bytes, offset: 0, buffer }
    }

    pub(crate) fn slice(&mut self, way: Way, bytes: u64, span: Duration) -> Slice {
        measured(|| {
            let mut slice = Slice::default();
            let bytes = (bytes.max(1) as usize).next_multiple_of(BLOCK);
            let begin = self.buffer.as_ptr().align_offset(BLOCK);
            let start = Instant::now();
            while start.elapsed() < span {
                if self.offset + bytes as u64 > self.bytes {
                    self.offset = 0;
                }
                let block = &self.buffer[begin..begin + bytes];
                let one = Instant::now();
                self.write(way, block);
                slice.latencies.push(one.elapsed().as_nanos() as u64);
                self.offset += bytes as u64;
                slice.syncs += 1;
                slice.entries += 1;
                slice.bytes += bytes as u64;
            }
            slice
        })
    }

    fn write(&self, way: Way, block: &[u8]) {
        match way {
            Way::Fdatasync => {
                self.direct.write_all_at(block, self.offset).expect("a sound disk");
                self.direct.sync_data().expect("a sound disk");
            }
            Way::Cached => {
                self.cached.write_all_at(block, self.offset).expect("a sound disk");
                self.cached.sync_data().expect("a sound disk");
            }
            Way::Dsync => {
                let part = libc::iovec {
                    iov_base: block.as_ptr().cast_mut().cast(),
                    iov_len: block.len(),
                };
                // SAFETY: the part lies in `block`, which outlives the call and is only read.
                let written = unsafe {
                    libc::pwritev2(
                        self.direct.as_raw_fd(),
                        &raw const part,
                        1,
                        self.offset as libc::off_t,
                        libc::RWF_DSYNC,
                    )
                };
                assert_eq!(written, block.len() as isize, "{}", std::io::Error::last_os_error());
            }
        }
    }
}
