//! File descriptors: as many as the system grants, and some that clients never get.
//!
//! A log that cannot open its next segment takes nothing until it can, and clients can take any
//! number of descriptors by connecting. So they are counted before they are let in.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Segments (some forty, however many there are), sockets that listen, admin connections, the
/// runtime, and room to spare.
const RESERVE: usize = 256;
/// Connections with one peer: lanes of both directions, and the proxy port's.
const RESERVE_PER_PEER: usize = 32;
/// Even with next to no descriptors a few clients are served, at the cost of the reserve.
const CLIENTS_MIN: usize = 16;

/// Raises the soft limit to the hard one and returns what holds now; `None` if there is none.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // Some systems promise more than they grant; the old limit still holds.
        Err(_) => current,
    }
}

/// Descriptors that clients must leave alone. `half_open_max` is how many connections that have
/// not said which group they are for the peer port holds.
pub(super) fn reserve(peers: usize, half_open_max: usize) -> usize {
    RESERVE.saturating_add(RESERVE_PER_PEER.saturating_mul(peers)).saturating_add(half_open_max)
}

/// How many of the `wanted` clients may connect at once. The reserve gets no more than half.
pub(super) fn clients_max(wanted: usize, limit: u64, reserve: usize) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    wanted.min((limit - reserve.min(limit / 2)).max(CLIENTS_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_reserve_leaves() {
        let reserve = reserve(3, 64);
        assert_eq!(reserve, 256 + 3 * 32 + 64);
        assert_eq!(clients_max(10_000, 1_048_576, reserve), 10_000);
        assert_eq!(clients_max(10_000, 1024, reserve), 1024 - reserve);
        assert_eq!(clients_max(10_000, 100, reserve), 50);
        assert_eq!(clients_max(10_000, 1024, usize::MAX), 512);
        assert_eq!(clients_max(10_000, 10, reserve), CLIENTS_MIN);
        assert_eq!(clients_max(8, 10, reserve), 8);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise();
        assert_eq!(getrlimit(Resource::Nofile).current, limit);
        assert_eq!(raise(), limit);
    }
}
