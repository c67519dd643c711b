//! Credit: how many bytes the dialer may send, and the acceptor may come to hold.

use super::event::LaneError;
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

/// Credit to send, from the peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Granted {
    Window {
        window: u64,
        used: u64,
    },
    /// Answers need none.
    Unlimited,
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
}

impl Granted {
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

impl Granting {
    /// Credit in flight to the peer makes it see no more than we count, so a correct peer is
    /// never found guilty.
    pub(super) fn take(&mut self, bytes: u64, window: u64) -> Result<(), LaneError> {
        if self.used >= window {
            return Err(LaneError::WindowExceeded { window });
        }
        self.used += bytes;
        Ok(())
    }
}
