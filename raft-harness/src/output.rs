//! Everything this program says, said so that saying it can end nothing.
//!
//! A disk may be full, a reader may have gone away or stopped reading, a terminal may be closed.
//! `println!` and its kin panic then, and so does what tracing falls back to; a write to a pipe
//! that nobody empties waits for ever, and the thread with it. So nobody but this module touches
//! the standard streams:
//!
//! - [`result`] is what a command was asked for. Whoever asked learns it if it could not be
//!   written; a reader that has seen enough, such as `head`, is no failure.
//! - [`remark`] and [`LogLines`] (standard error) and [`announce`] (standard output) are what is
//!   said beside that. They never fail and never wait: the lines go into a queue that a thread of
//!   its own writes, and what cannot be written is lost.
//!
//! Bound: [`QUEUE_BYTES_MAX`] per stream. What does not fit is dropped, and how much is told as
//! soon as somebody reads again.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
#[cfg(feature = "raftd")]
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Lines that wait to be written, in bytes per stream.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// The most that is written in one piece.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// How long the end of the program waits for what was said before it.
const LAST_WORDS: Duration = Duration::from_secs(1);

static REMARKS: Outlet = Outlet::new();
#[cfg(feature = "raftd")]
static ANNOUNCEMENTS: Outlet = Outlet::new();

/// Writes what a command was asked for to standard output, with a line end, and flushes it.
///
/// # Errors
/// If it could not be written. Not if the reader went away: it has seen what it wanted.
pub(crate) fn result(text: impl Display) -> io::Result<()> {
    // On a terminal both streams show at one place, in the order in which things were said.
    REMARKS.settle(LAST_WORDS);
    let mut out = io::stdout().lock();
    forgive(out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()))
}

/// A long result, line by line, some KiB at a time.
#[cfg(feature = "raftd")]
#[derive(Default)]
pub(crate) struct Lines(Vec<u8>);

#[cfg(feature = "raftd")]
impl Lines {
    /// Adds a line; breaks once nobody reads any more.
    ///
    /// # Errors
    /// As [`result`].
    pub(crate) fn push(&mut self, line: &str) -> io::Result<ControlFlow<()>> {
        self.0.extend_from_slice(line.as_bytes());
        self.0.push(b'\n');
        if self.0.len() < PIECE_BYTES_MAX { Ok(ControlFlow::Continue(())) } else { self.write() }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// As [`result`].
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.write().map(drop)
    }

    fn write(&mut self) -> io::Result<ControlFlow<()>> {
        REMARKS.settle(LAST_WORDS);
        let mut out = io::stdout().lock();
        let written = out.write_all(&self.0).and_then(|()| out.flush());
        self.0.clear();
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            written => written.map(ControlFlow::Continue),
        }
    }
}

/// A reader that went away is no failure of a command.
pub(crate) fn forgive(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Says a line on standard error.
pub(crate) fn remark(text: impl Display) {
    REMARKS.say(format!("{text}\n").into_bytes(), io::stderr);
}

/// Says a line on standard output that is no command's result: what a node says of itself.
#[cfg(feature = "raftd")]
pub(crate) fn announce(text: impl Display) {
    ANNOUNCEMENTS.say(format!("{text}\n").into_bytes(), io::stdout);
}

/// Waits a moment until what was said is written, and no longer.
pub(crate) fn settle() {
    let until = Instant::now() + LAST_WORDS;
    #[cfg(feature = "raftd")]
    ANNOUNCEMENTS.settle(LAST_WORDS);
    REMARKS.settle(until.saturating_duration_since(Instant::now()));
}

/// Where tracing writes to: lines like any other remark.
#[cfg(feature = "raftd")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLines;

#[cfg(feature = "raftd")]
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        REMARKS.say(line.to_vec(), io::stderr);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One stream and what waits for it.
struct Outlet {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room since the last piece.
    lost: u64,
    /// A piece is being written.
    writing: bool,
    has_writer: bool,
}

impl Outlet {
    const fn new() -> Self {
        let queue =
            Queue { lines: VecDeque::new(), bytes: 0, lost: 0, writing: false, has_writer: false };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// Puts a line into the queue; the first one starts the thread that writes to `stream`.
    fn say<W: Write + 'static>(&'static self, line: Vec<u8>, stream: fn() -> W) {
        let mut queue = self.queue.lock();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            queue.lost += 1;
            return;
        }
        if !queue.has_writer {
            let writer = std::thread::Builder::new().name("raftd-output".to_owned());
            // Without a thread the line waits for the next attempt.
            queue.has_writer = writer.spawn(move || self.write_to(stream())).is_ok();
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        self.changed.notify_all();
    }

    /// Writes whatever comes, for as long as the process lives.
    fn write_to(&self, mut stream: impl Write) {
        loop {
            let mut queue = self.queue.lock();
            while queue.lines.is_empty() {
                self.changed.wait(&mut queue);
            }
            let mut piece = Vec::new();
            while let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                piece.extend_from_slice(&line);
                if piece.len() >= PIECE_BYTES_MAX {
                    break;
                }
            }
            if queue.lines.is_empty() && queue.lost > 0 {
                let lost = std::mem::take(&mut queue.lost);
                piece.extend_from_slice(format!("[{lost} lines are lost here]\n").as_bytes());
            }
            queue.writing = true;
            drop(queue);
            // The disk may have room again later, so the next piece is tried as well.
            let _ = stream.write_all(&piece).and_then(|()| stream.flush());
            self.queue.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits until everything is written, or lost, or `limit` is over.
    fn settle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut queue = self.queue.lock();
        while queue.has_writer && (queue.writing || !queue.lines.is_empty()) {
            if self.changed.wait_until(&mut queue, until).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

    /// Writes when it is allowed to, as often as it is.
    struct Valve {
        allowed: Receiver<io::Result<()>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Valve {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap_or(Ok(()))?;
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An outlet whose thread writes into a valve.
    fn outlet() -> (&'static Outlet, Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let outlet: &Outlet = Box::leak(Box::new(Outlet::new()));
        outlet.queue.lock().has_writer = true;
        let (allow, allowed) = bounded(0);
        let (written, out) = unbounded();
        std::thread::spawn(move || outlet.write_to(Valve { allowed, written }));
        (outlet, allow, out)
    }

    fn say(outlet: &'static Outlet, line: &str) {
        outlet.say(line.as_bytes().to_vec(), io::sink);
    }

    #[test]
    fn a_stream_that_takes_nothing_holds_up_nobody_and_what_is_lost_is_counted() {
        let (outlet, allow, out) = outlet();
        let line = "x".repeat(PIECE_BYTES_MAX);
        // All of this returns although nothing is written.
        for _ in 0..100 {
            say(outlet, &line);
        }
        outlet.settle(Duration::ZERO);
        let lost = outlet.queue.lock().lost;
        assert!((100 - 18..=100 - 16).contains(&lost), "{lost} of 100 lines of 64 KiB");
        let mut all = Vec::new();
        while !all.ends_with(b"are lost here]\n") {
            allow.send(Ok(())).expect("its thread lives");
            all.extend(out.recv().expect("its thread lives"));
        }
        let told = format!("[{lost} lines are lost here]\n");
        assert!(all.ends_with(told.as_bytes()));
        assert_eq!(all.len(), (100 - lost as usize) * line.len() + told.len());
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_and_the_next_one_is_tried() {
        let (outlet, allow, out) = outlet();
        say(outlet, "to a full disk\n");
        allow.send(Err(io::ErrorKind::StorageFull.into())).expect("its thread lives");
        outlet.settle(Duration::MAX / 4);
        say(outlet, "there is room\n");
        allow.send(Ok(())).expect("its thread lives");
        assert_eq!(out.recv().expect("its thread lives"), b"there is room\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
        assert!(forgive(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(forgive(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
