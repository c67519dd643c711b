//! One connection and its stream: bytes move between the two.

use std::collections::VecDeque;
use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use raft_core::Micros;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::connection::Connection;
use crate::connection::counters::LaneCounters;
use crate::connection::{LaneError, LaneEvent};
use crate::network::BoxStream;

/// Most bytes read from one connection per poll; who has more waits for the next round.
const READ_BYTES_PER_POLL: usize = 256 << 10;

/// Slices per vectored write; Linux takes up to 1024, and 64 reach beyond a socket buffer.
const SLICES_PER_WRITE: usize = 64;

pub(super) struct Live {
    pub(super) stream: BoxStream,
    pub(super) connection: Connection,
    /// Whether the stream itself holds nothing back.
    pub(super) flushed: bool,
}

impl Live {
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        let driven = self.move_bytes(cx, now, events, counters);
        if driven.is_err() {
            // What is queued may be the reason of a refusal. One attempt: it is small, and the
            // socket's buffer is empty that early.
            let _ = self.write(cx, now, counters);
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        driven
    }

    fn move_bytes(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        self.write(cx, now, counters)?;
        self.connection.look_for_proof(events)?;
        self.connection.look_for_grant();
        let more = self.read(cx, now, events, counters)?;
        // Only after trying to move bytes: if we were late, the peer is not to blame.
        if self.connection.deadline().is_some_and(|deadline| deadline <= now) {
            self.connection.on_deadline(now)?;
        }
        self.write(cx, now, counters)?;
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        counters: &LaneCounters,
    ) -> Result<(), LaneError> {
        while !self.connection.transmit().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let filled = self.connection.transmit().io_slices(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..filled]) {
                Poll::Ready(Ok(0)) => return Err(LaneError::Closed),
                Poll::Ready(Ok(count)) => {
                    counters.writes.bump();
                    counters.bytes_out.add(count as u64);
                    self.connection.transmitted(now, count);
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {
                    self.connection.transmitted(now, 0);
                    return Ok(());
                }
            }
        }
        if !self.flushed {
            // Nothing to do for TCP; a stream that encrypts may hold bytes back.
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Returns whether more may be there to read.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        now: Micros,
        events: &mut VecDeque<LaneEvent>,
        counters: &LaneCounters,
    ) -> Result<bool, LaneError> {
        let mut left = READ_BYTES_PER_POLL;
        while self.connection.wants_read() {
            let mut buffer = self.connection.read_buffer();
            // A future is the safe way to read into memory not yet written; dropping it while it
            // is pending loses nothing.
            let count = match pin!(self.stream.read_buf(&mut buffer)).poll(cx) {
                Poll::Ready(count) => count?,
                Poll::Pending => return Ok(false),
            };
            if count == 0 {
                return Err(LaneError::Closed);
            }
            counters.reads.bump();
            counters.bytes_in.add(count as u64);
            self.connection.on_bytes(now, events)?;
            left = left.saturating_sub(count);
            if left == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
