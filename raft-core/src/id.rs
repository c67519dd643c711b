//! The numbers everything else is named by, each its own type.
//!
//! A group id and a node id are both integers, and swapping them is a silent bug, so none of
//! these convert into one another. Absence is `Option`, never a magic zero; the exception is
//! [`LogIndex::ZERO`], the position before the first entry, which is a real position.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($int);

        impl $name {
            /// Wraps the plain number.
            pub const fn new(value: $int) -> Self {
                Self(value)
            }

            /// The plain number, for encoders and displays.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One Raft group, the same number on every node. On the wire: 4 bytes, big-endian.
    GroupId(u32),
    "g"
);
id!(
    /// One process of the cluster: a machine, a port, a data directory.
    NodeId(u64),
    "n"
);
id!(
    /// One replica of one group. Never reused within the group, not even after its removal.
    ReplicaId(u64),
    "r"
);
id!(
    /// A Raft term (paper, section 5.1). Zero means "before any election".
    Term(u64),
    "t"
);
id!(
    /// The position of an entry in a group's log; the first entry has index 1.
    LogIndex(u64),
    "i"
);
id!(
    /// One life of a node: a number that grows, durably, with each start of the process.
    Incarnation(u64),
    "inc"
);
id!(
    /// One life of a group: a group created again under an old id has a larger number, so that
    /// late frames of its former life are recognised.
    GroupIncarnation(u32),
    "ginc"
);
id!(
    /// A persist operation of one group; acknowledging one acknowledges all before it.
    PersistSeq(u64),
    "p"
);
id!(
    /// Names a request towards the core; the core gives it back with the one terminal outcome.
    Token(u64),
    "tok"
);
id!(
    /// The time that leaders write into entries, in milliseconds since the Unix epoch.
    /// It never runs backwards along a log.
    LogTime(u64),
    "ms"
);

impl Term {
    /// The term before any election.
    pub const ZERO: Self = Self(0);

    /// No correct cluster counts so far. What a peer may claim ends here, and so do campaigns, so
    /// that counting on from it cannot overflow.
    pub(crate) const LIMIT: Self = Self(u64::MAX / 2);

    /// A cluster with an election in every millisecond needs seven weeks for so many. What one word
    /// can move the term by ends here, or a single one could use up all terms there are.
    const JUMP_MAX: u64 = 1 << 32;

    /// The newest term that is believed by a replica in this one.
    pub(crate) const fn reach(self) -> Self {
        let reach = self.0.saturating_add(Self::JUMP_MAX);
        if reach < Self::LIMIT.0 { Self(reach) } else { Self::LIMIT }
    }

    /// The following term. Saturates, so that a hostile term cannot wrap around.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);

    /// No log gets so long; what a peer or a disk may claim ends here.
    pub(crate) const LIMIT: Self = Self(u64::MAX / 2);

    /// The following position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position before this one; the position before zero is zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The position `count` entries further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many entries lie in `(earlier, self]`; zero if `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A moment on the driver's monotonic clock, in microseconds since a start of its choosing.
///
/// All groups of one node share the clock, so that their heartbeats fall on one grid.
///
/// It counts from one inside, so that `Option<Micros>` takes no more room: groups are full of
/// moments that may never come. The last microsecond of the range is lost to that.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Micros(NonZeroU64);

impl Micros {
    /// The start of the clock.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// So many microseconds after the start of the clock.
    pub const fn new(value: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(value))
    }

    /// Microseconds since the start of the clock.
    pub const fn get(self) -> u64 {
        self.0.get() - 1
    }

    /// The moment `duration` later.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_micros() as u64))
    }

    /// Time passed since `earlier`; zero if `earlier` lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Micros {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.get())
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn equal_numbers_of_different_kinds_can_be_told_apart_in_a_log() {
        let shown = format!("{:?} {:?} {:?}", NodeId::new(7), ReplicaId::new(7), Term::new(7));
        assert_eq!(shown, "n7 r7 t7");
        assert_eq!(format!("{} {}", NodeId::new(7), Term::new(7)), "7 7", "for displays");
        assert_eq!(format!("{:?}", Micros::new(7)), "7us");
    }

    #[test]
    fn a_moment_is_what_it_was_made_of_up_to_the_last_but_one() {
        for value in [0, 1, u64::MAX - 1] {
            assert_eq!(Micros::new(value).get(), value);
        }
        assert_eq!(Micros::new(u64::MAX).get(), u64::MAX - 1);
        let end = Micros::new(u64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end, "the clock stops, and does not wrap");
        assert_eq!(Micros::ZERO.since(end), Duration::ZERO);
    }
}
