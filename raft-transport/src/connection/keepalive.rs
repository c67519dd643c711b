//! Whether the peer lives: what was written, what was heard, and pings.

use raft_core::Micros;

use super::event::LaneError;
use super::{Connection, Phase};
use crate::wire::frame::Frame;
use crate::wire::transmit::Transmit;

#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    nonce: u64,
    /// Written once so many bytes are, of all that were queued.
    end: u64,
    written_at: Option<Micros>,
}

impl Connection {
    /// What to write next.
    pub fn transmit(&self) -> &Transmit {
        &self.outbox.transmit
    }

    /// The stream took `count` of the bytes to write; zero if it could take none now. Tell it
    /// after every attempt: this is how a stall is noticed.
    pub fn transmitted(&mut self, now: Micros, count: usize) {
        let answers_waited = self.answers_wait();
        self.outbox.transmit.advance(count);
        if count > 0 {
            self.last_spoke = now;
        }
        // The ping is among what was there before.
        let written = self.outbox.queued_total - self.outbox.transmit.len();
        self.fill();
        if self.outbox.transmit.is_empty() {
            self.stalled_since = None;
        } else if count > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
        // Whose answers wait does not read: that it hears nothing is its own doing.
        if count > 0
            && answers_waited
            && let Some(Ping { written_at: Some(at), .. }) = &mut self.ping
        {
            *at = now;
        }
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.end <= written) {
            ping.written_at.get_or_insert(now);
            self.pinged.get_or_insert((ping.nonce, now));
        }
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called, if nothing else happens.
    pub fn deadline(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Greeting { deadline, .. } | Phase::Awaiting { deadline } => Some(*deadline),
            Phase::Ended(_) => None,
            Phase::Open(_) => {
                let stall = self.stall_deadline();
                let keepalive = match self.ping {
                    None => Some(self.ping_due()),
                    // While the ping itself waits to be written, or nothing is read, the stall
                    // timeout watches.
                    Some(_) if self.answers_wait() => None,
                    Some(ping) => ping.written_at.map(|at| self.keepalive_deadline(at)),
                };
                stall.into_iter().chain(keepalive).min()
            }
        }
    }

    /// Looks at the clock: sends a ping, or finds that the connection is over.
    ///
    /// # Errors
    /// As for [`on_bytes`](Self::on_bytes).
    pub fn on_deadline(&mut self, now: Micros) -> Result<(), LaneError> {
        match &self.phase {
            Phase::Ended(error) => Err(error.clone()),
            Phase::Greeting { deadline, .. } | Phase::Awaiting { deadline } => {
                if now >= *deadline {
                    Err(self.end(LaneError::HandshakeTimeout))
                } else {
                    Ok(())
                }
            }
            Phase::Open(_) => {
                if self.stall_deadline().is_some_and(|deadline| now >= deadline) {
                    let queued = self.queued();
                    return Err(self.end(LaneError::Stalled { queued }));
                }
                match self.ping {
                    None => {
                        if now >= self.ping_due() {
                            self.queue_ping();
                        }
                    }
                    Some(Ping { written_at: Some(at), .. }) if !self.answers_wait() => {
                        if now >= self.keepalive_deadline(at) {
                            return Err(self.end(LaneError::KeepaliveTimeout));
                        }
                    }
                    Some(_) => {}
                }
                Ok(())
            }
        }
    }

    /// A peer that takes none of our bytes and sends its own lives: it stops reading while its
    /// answers wait, and those come. If it reads no more it hears no pong, and closes.
    fn stall_deadline(&self) -> Option<Micros> {
        let since = self.stalled_since?.max(self.last_heard);
        Some(since.after(self.setup.config.stall_timeout))
    }

    /// A ping asks whether a silent peer lives. It also tells a peer that we do: one whose large
    /// frame is on its way to us for longer than the timeouts hears nothing else.
    fn ping_due(&self) -> Micros {
        let owes_sign = self.last_heard > self.last_spoke && self.outbox.transmit.is_empty();
        let since = if owes_sign { self.last_spoke } else { self.last_heard };
        since.after(self.setup.config.keepalive_interval)
    }

    fn keepalive_deadline(&self, written_at: Micros) -> Micros {
        written_at.after(self.setup.config.keepalive_timeout)
    }

    fn queue_ping(&mut self) {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.queue_own(Frame::Ping { nonce });
        self.setup.counters.pings_out.bump();
        self.pinged = None;
        self.ping = Some(Ping { nonce, end: self.outbox.queued_total, written_at: None });
    }
}
