//! Credit: how many bytes the dialer may send, and the acceptor may come to hold.
//!
//! Chunks use it like any frame. Halves of long messages hold it, so what may be begun is bounded
//! such that something begun can always be ended: see [`Share`].

use super::config::LaneConfig;
use super::event::LaneError;
use super::grants::{Claim, GrantPool};
use crate::wire::hello::Hello;

/// How the credit of a connection stands, as one of its ends counts it. When nothing is under way
/// both count the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// Bytes sent, or delivered, for which no credit was given back yet.
    pub used: u64,
    /// Of these, bytes that the acceptor's user is done with; zero at a dialer.
    pub consumed: u64,
}

/// How a message that goes in chunks shares its lane with others.
///
/// Those up to a quarter of the window may be under way together as long as they take no more
/// than half of it. What is whole is consumed at some time, and all but a quarter of the window
/// of it is given back; so beside all halves at least a quarter is left to go on with. A longer
/// one is alone of its kind, and has a grant of its own length beside the window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Share {
    /// Of the window.
    Window,
    /// A grant of its own.
    Alone,
}

impl Share {
    /// The share of a frame of so many bytes.
    pub(super) const fn of(total: u64, window: u64) -> Self {
        if total <= window / 4 { Self::Window } else { Self::Alone }
    }
}

/// Bytes of messages under way that share a window, at most.
pub(super) const fn shared_max(window: u64) -> u64 {
    window / 2
}

/// What a grant for a frame of so many bytes adds to the window: what all its chunks take, however
/// small they are cut, with their headers and what announces them.
pub(super) const fn extra_of(total: u64) -> u64 {
    total.saturating_add(total / 8).saturating_add(256)
}

/// Credit to send, from the peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Granted {
    Window {
        window: u64,
        used: u64,
        /// Granted beside the window for the one long message under way.
        extra: u64,
        /// Of the window, what only frames that may not wait can use.
        reserved: u64,
    },
    /// Answers need none.
    Unlimited,
}

/// Of a window in which appends and heartbeats meet, what is left to the latter. Well below the
/// quarter of it that is always left to go on with, see [`Share`], so chunks go on as ever.
pub(super) const fn reserved_of(window: u64) -> u64 {
    window / 16
}

impl Granted {
    /// What may be sent now of frames that may wait for others.
    pub(super) const fn left_to_share(&self) -> u64 {
        match self {
            Self::Window { reserved, .. } => self.left().saturating_sub(*reserved),
            Self::Unlimited => u64::MAX,
        }
    }

    /// What may be sent now; a frame may be sent whole while this is above zero.
    pub(super) const fn left(&self) -> u64 {
        match self {
            Self::Window { window, used, extra, .. } => (*window + *extra).saturating_sub(*used),
            Self::Unlimited => u64::MAX,
        }
    }

    /// The longest message that shares the window, less what its frame and chunks take beside it.
    pub(super) const fn shared_message_max(&self) -> u64 {
        match self {
            Self::Window { window, .. } => LaneConfig::shared_message_max(*window),
            Self::Unlimited => u64::MAX,
        }
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        if let Self::Window { used, .. } = self {
            *used += bytes;
        }
    }

    /// The long message under way was granted, or has ended.
    pub(super) fn set_long(&mut self, total: Option<u64>) {
        if let Self::Window { extra, .. } = self {
            *extra = total.map_or(0, extra_of);
        }
    }

    pub(super) fn give(&mut self, bytes: u64) -> Result<(), LaneError> {
        let used = match self {
            Self::Window { used, .. } => used,
            Self::Unlimited => return Err(LaneError::ExcessCredit { bytes, used: 0 }),
        };
        if bytes > *used {
            return Err(LaneError::ExcessCredit { bytes, used: *used });
        }
        *used -= bytes;
        Ok(())
    }
}

/// Credit given to the peer.
#[derive(Debug)]
pub(super) struct Granting {
    pub(super) hello: Hello,
    /// Whether the life it comes from has answered a dial of ours.
    pub(super) is_proven: bool,
    /// Delivered and not yet given back, consumed or not.
    pub(super) used: u64,
    /// Of these, consumed.
    pub(super) consumed: u64,
    /// Lengths of the messages under way that share the window.
    shared: u64,
    /// The long message under way.
    long: Option<Claim>,
    /// One that is whole, until the window holds what is left of it.
    delivered: Option<Claim>,
}

impl Granting {
    pub(super) fn new(hello: Hello, is_proven: bool) -> Self {
        let (long, delivered) = (None, None);
        Self { hello, is_proven, used: 0, consumed: 0, shared: 0, long, delivered }
    }

    /// Credit in flight to the peer makes it see no more than we count, so a correct peer is
    /// never found guilty.
    pub(super) fn take(&mut self, bytes: u64, window: u64) -> Result<(), LaneError> {
        let granted = self.long.as_ref().filter(|long| long.is_granted());
        if self.used >= window + granted.map_or(0, |long| extra_of(long.bytes())) {
            return Err(LaneError::WindowExceeded { window });
        }
        self.used += bytes;
        Ok(())
    }

    /// A message begins that will be so long.
    pub(super) fn begin(
        &mut self,
        total: u64,
        window: u64,
        pool: &GrantPool,
    ) -> Result<(), LaneError> {
        match Share::of(total, window) {
            Share::Window => {
                self.shared = self.shared.saturating_add(total);
                if self.shared > shared_max(window) {
                    return Err(LaneError::TooMuchBegun { window });
                }
            }
            Share::Alone => {
                if self.long.is_some() {
                    return Err(LaneError::TooMuchBegun { window });
                }
                self.long = Some(pool.ask(self.hello.node, total));
            }
        }
        Ok(())
    }

    /// How long the long message is that may go on from now on.
    pub(super) fn grant_due(&mut self) -> Option<u64> {
        self.long.as_mut().and_then(|long| long.is_due().then(|| long.bytes()))
    }

    /// A message has ended that was to be so long.
    pub(super) fn end(&mut self, total: u64, window: u64) {
        match Share::of(total, window) {
            Share::Window => self.shared = self.shared.saturating_sub(total),
            Share::Alone => {
                self.delivered = self.long.take();
                self.let_go(window);
            }
        }
    }

    /// The user is done with so many bytes. Returns what is to be given back now.
    pub(super) fn consume(&mut self, bytes: u64, window: u64) -> u64 {
        self.consumed = self.consumed.saturating_add(bytes).min(self.used);
        self.let_go(window);
        if self.consumed == 0 || self.consumed < window / 4 {
            return 0;
        }
        self.used -= self.consumed;
        std::mem::take(&mut self.consumed)
    }

    fn let_go(&mut self, window: u64) {
        if self.used - self.consumed <= window {
            self.delivered = None;
        }
    }
}
