//! Leases: how long a leader may answer reads without asking (thesis 6.4.1).
//!
//! A follower that answered a heartbeat refuses its vote to everybody else for a shortest election
//! timeout from when it *got* it, which is not before the heartbeat left. So as long as a quorum
//! answered heartbeats that left less than that ago, nobody else can have been elected.
//!
//! Invariants: a lease runs from send times, shortened by the clocks' drift; whatever lets a
//! quorum vote early ends it first: a hand-over ends it until a fresh entry, which makes every
//! request of that hand-over worthless, is committed; a restarted replica waits out the longest
//! lease before it votes (see `Group::new`).

use crate::group::{Group, Role};
use crate::id::{LogIndex, Micros};

impl Group {
    /// Until when this leader answers reads from its lease; `None` if it has none.
    pub fn lease_until(&self) -> Option<Micros> {
        let duration = self.settings.lease_duration()?;
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        if self.commit < leader.term_start
            || (self.commit < leader.lease_from && !crate::planted!(LeaseSurvivesTransfer))
        {
            return None;
        }
        let since = leader.quorum(self, Some(self.now), |peer| peer.sent_acked)?;
        Some(since.after(duration)).filter(|until| *until > self.now)
    }

    /// A hand-over begins: whoever takes over need not wait for anybody's patience.
    pub(crate) fn end_lease(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.lease_from = LogIndex::new(u64::MAX);
        }
    }

    /// The hand-over is over. The lease comes back with the entry at `index`.
    pub(crate) fn renew_lease_from(&mut self, index: LogIndex) {
        if let Role::Leader(leader) = &mut self.role {
            leader.lease_from = index;
        }
    }
}
