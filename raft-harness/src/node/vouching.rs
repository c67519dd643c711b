//! Who answers for what is written and not on disk, if the process is killed.
//!
//! A killed process leaves the page cache as it was; a machine that loses power does not. A
//! [`Voucher`] can tell them apart at the next start, so it hears of every write before anybody is
//! told that it counts. One that cannot be made, or fails, vouches for nothing more: from then on
//! nothing is told of before it is on disk.

use std::io;

use raft_storage::Lsn;
use tracing::warn;

/// Keeps the word of one life of the log.
pub(crate) trait Voucher: Send {
    /// Everything below `written` is in the page cache, or below the highest place named so far.
    fn vouch(&mut self, written: Lsn) -> io::Result<()>;
    /// Takes the word back.
    fn withdraw(self: Box<Self>);
}

/// Makes one, when it is needed.
pub(crate) type MakeVoucher = Box<dyn FnOnce() -> Result<Box<dyn Voucher>, String> + Send>;

/// Whether writes may be told of before they are on disk.
pub(crate) enum Vouching {
    /// They may, and nobody answers for them: after any end that is not orderly, groups that count
    /// them take their promises for lost.
    Nobody,
    /// They may once there is a voucher, which nobody has needed yet.
    Later(MakeVoucher),
    /// They may, as far as it says.
    By(Box<dyn Voucher>),
    /// They may not.
    Refused,
}

impl Vouching {
    /// Makes the voucher now, so that the life before does not speak for this one for longer than
    /// it takes to start.
    pub(crate) fn begin(&mut self) {
        if let Self::Later(_) = self
            && let Self::Later(make) = std::mem::replace(self, Self::Refused)
        {
            match make() {
                Ok(voucher) => *self = Self::By(voucher),
                Err(why) => warn!(why, "{REFUSED}"),
            }
        }
    }

    /// Whether it may be told that everything below `written` is written.
    pub(crate) fn vouch(&mut self, written: Lsn) -> bool {
        self.begin();
        let vouched = match self {
            Self::Nobody => return true,
            Self::Later(_) | Self::Refused => return false,
            Self::By(voucher) => voucher.vouch(written),
        };
        if let Err(error) = vouched {
            warn!(why = %error, "{REFUSED}");
            self.withdraw();
            return false;
        }
        true
    }

    /// The same word once more, if one was given: who keeps it sees whether it is still there. Without
    /// writes nobody would notice that somebody has removed it, and a kill would pass for lost power.
    pub(crate) fn renew(&mut self) {
        if let Self::By(_) = self {
            self.vouch(Lsn::ZERO);
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused)
    }

    /// Nothing is vouched for any more.
    pub(crate) fn withdraw(&mut self) {
        if let Self::By(voucher) = std::mem::replace(self, Self::Refused) {
            voucher.withdraw();
        }
    }
}

const REFUSED: &str =
    "nothing can vouch for what is written: MemFirst groups wait for the disk here";

#[cfg(unix)]
impl Voucher for raft_storage::BootCertificate {
    fn vouch(&mut self, written: Lsn) -> io::Result<()> {
        self.vouch(written)
    }

    fn withdraw(self: Box<Self>) {
        Self::withdraw(*self);
    }
}
