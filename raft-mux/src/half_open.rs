//! Connections that have not named their group yet, and whose place goes when there are too many.
//!
//! Each is a task of its own that holds the other end of a cut signal, so that it can be ended
//! from outside: one to make room, all of them on close.
//!
//! Room is made at the cost of the origin that takes up the most of it, and of its oldest
//! connection, which had the longest time. So a stranger with any number of silent connections
//! ends his own, and somebody else's only while that one has as many.
//!
//! Invariant: after `close` no signal is kept, so no task can hide from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Told to a connection that must end to make room. When the acceptor closes, the signal is
/// dropped instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Evicted;

/// Who is counted as one: an IPv4 address, or the 64 bits of an IPv6 one that a host is given.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Origin {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

impl Origin {
    pub(crate) fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(addr) => {
                let [network @ .., _, _, _, _, _, _, _, _] = addr.octets();
                Self::V6(network)
            }
        }
    }
}

/// The cut signals of all connections of one stage.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    closed: bool,
    /// Tickets grow with age, so the first one is of the oldest connection.
    next_ticket: u64,
    signals: BTreeMap<u64, (Origin, oneshot::Sender<Evicted>)>,
    /// The tickets by origin; none is empty.
    origins: BTreeMap<Origin, BTreeSet<u64>>,
}

impl HalfOpen {
    pub(crate) fn new() -> Self {
        let (signals, origins) = (BTreeMap::new(), BTreeMap::new());
        Self { state: Mutex::new(State { closed: false, next_ticket: 0, signals, origins }) }
    }

    /// Lets a connection in: its ticket, and the signal it must obey. `None` after `close`.
    pub(crate) fn admit(&self, origin: Origin) -> Option<(u64, oneshot::Receiver<Evicted>)> {
        let mut state = self.state.lock();
        (!state.closed).then(|| state.admit(origin))
    }

    /// As [`admit`](Self::admit), with at most `max` connections, and `share` of one origin: where
    /// there are as many, one is told to end.
    pub(crate) fn admit_within(
        &self,
        origin: Origin,
        max: usize,
        share: usize,
    ) -> Option<(u64, oneshot::Receiver<Evicted>)> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let evicted = if state.held_by(origin) >= share {
            state.take_oldest_of(origin)
        } else if state.signals.len() >= max {
            state.take_one()
        } else {
            None
        };
        let admitted = state.admit(origin);
        drop(state);
        cut(evicted);
        Some(admitted)
    }

    /// Forgets a connection that has ended or has gone on to the next stage.
    pub(crate) fn leave(&self, ticket: u64) {
        let _signal = self.state.lock().take(ticket);
    }

    /// Tells a connection to end. Costs a look at each origin, of which there are no more than
    /// connections.
    pub(crate) fn evict_one(&self) {
        let evicted = self.state.lock().take_one();
        cut(evicted);
    }

    /// Ends all of them and lets nobody in again.
    pub(crate) fn close(&self) {
        let _signals = {
            let mut state = self.state.lock();
            state.closed = true;
            state.origins.clear();
            std::mem::take(&mut state.signals)
        };
    }
}

fn cut(signal: Option<oneshot::Sender<Evicted>>) {
    if let Some(signal) = signal {
        // A connection that has just ended by itself does not listen any more.
        let _ = signal.send(Evicted);
    }
}

impl State {
    fn admit(&mut self, origin: Origin) -> (u64, oneshot::Receiver<Evicted>) {
        let (signal, cut) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.signals.insert(ticket, (origin, signal));
        self.origins.entry(origin).or_default().insert(ticket);
        (ticket, cut)
    }

    fn take(&mut self, ticket: u64) -> Option<oneshot::Sender<Evicted>> {
        let (origin, signal) = self.signals.remove(&ticket)?;
        if let Some(tickets) = self.origins.get_mut(&origin) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.origins.remove(&origin);
            }
        }
        Some(signal)
    }

    fn held_by(&self, origin: Origin) -> usize {
        self.origins.get(&origin).map_or(0, BTreeSet::len)
    }

    fn take_oldest_of(&mut self, origin: Origin) -> Option<oneshot::Sender<Evicted>> {
        let oldest = *self.origins.get(&origin)?.first()?;
        self.take(oldest)
    }

    /// The oldest of the origin with the most, of several such the oldest of all.
    fn take_one(&mut self) -> Option<oneshot::Sender<Evicted>> {
        let by_size_then_age =
            |tickets: &&BTreeSet<u64>| (tickets.len(), std::cmp::Reverse(tickets.first().copied()));
        let oldest = *self.origins.values().max_by_key(by_size_then_age)?.first()?;
        self.take(oldest)
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    fn origin(host: u8) -> Origin {
        Origin::of(IpAddr::from([192, 0, 2, host]))
    }

    fn is_cut(signal: &mut oneshot::Receiver<Evicted>) -> bool {
        signal.try_recv() == Ok(Evicted)
    }

    #[test]
    fn room_is_made_by_the_origin_that_takes_up_the_most_and_its_oldest_first() {
        let half_open = HalfOpen::new();
        let admit = |host| half_open.admit(origin(host)).unwrap().1;
        let (mut modest, mut first, mut second) = (admit(1), admit(2), admit(2));
        half_open.evict_one();
        assert!(is_cut(&mut first) && !is_cut(&mut second) && !is_cut(&mut modest));
        // One each: the oldest of all.
        half_open.evict_one();
        assert!(is_cut(&mut modest) && !is_cut(&mut second));
        half_open.evict_one();
        assert!(is_cut(&mut second));
        half_open.evict_one();
    }

    #[test]
    fn share_of_one_origin_ends_its_own_and_the_cap_that_of_whoever_has_most() {
        let half_open = HalfOpen::new();
        let admit = |host| half_open.admit_within(origin(host), 4, 3).unwrap().1;
        let mut greedy: Vec<_> = (0..5).map(|_| admit(1)).collect();
        let cut: Vec<_> = greedy.iter_mut().map(is_cut).collect();
        assert_eq!(cut, [true, true, false, false, false]);
        let mut modest = [admit(2), admit(3)];
        assert!(is_cut(&mut greedy[2]) && !greedy[3..].iter_mut().any(is_cut));
        assert!(!modest.iter_mut().any(is_cut));
    }

    #[test]
    fn whoever_left_is_counted_no_more_and_a_close_ends_the_others() {
        let half_open = HalfOpen::new();
        let (ticket, _gone) = half_open.admit(origin(1)).unwrap();
        let (_, mut kept) = half_open.admit(origin(1)).unwrap();
        let (_, mut other) = half_open.admit(origin(2)).unwrap();
        half_open.leave(ticket);
        half_open.leave(ticket);
        half_open.evict_one();
        assert!(is_cut(&mut kept) && !is_cut(&mut other));
        half_open.close();
        assert_eq!(other.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(half_open.admit(origin(3)).is_none());
        assert!(half_open.admit_within(origin(3), 9, 9).is_none());
    }

    #[test]
    fn hosts_of_one_ipv6_network_and_both_forms_of_an_ipv4_address_are_one_origin() {
        let of = |addr: &str| Origin::of(addr.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
