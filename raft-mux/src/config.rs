//! The settings of an acceptor, and the reasons for their defaults.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::MuxError;
use crate::layout::PortLayout;

/// Limits and times of a [`MuxAcceptor`](crate::MuxAcceptor).
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// How long a new connection may take to send its four bytes, counted from the end of the
    /// handshake if there is one. Then it is closed. It never applies after the hand-off.
    /// Default 1 s: a live dialer needs one network round trip, a dead one should not stay.
    pub prefix_timeout: Duration,
    /// How long the handshake given to [`bind_with`](crate::MuxAcceptor::bind_with) may take
    /// before the connection is closed. No effect with [`bind`](crate::MuxAcceptor::bind).
    /// Default 3 s: a TLS handshake takes several round trips and some CPU on both sides.
    pub handshake_timeout: Duration,
    /// Most connections that may be in their handshake or prefix at a time, at least 1. One more
    /// closes the oldest of the address that has the most of them (of an IPv6 network of 64 bits):
    /// it has had the longest time to send four bytes, so it is the least likely to be a live
    /// peer, and a stranger's flood ends itself. (Closing the newest instead would let a stranger
    /// with this many silent connections lock everybody out for `prefix_timeout` at a time.)
    /// Default 1024: one socket and one small task each.
    pub half_open_max: usize,
    /// Most of them that may be in the handshake given to
    /// [`bind_with`](crate::MuxAcceptor::bind_with) at a time, at least 1; one more closes one, as
    /// above. A handshake holds buffers and costs CPU, and may take longer than a prefix.
    /// Default 512.
    pub handshakes_max: usize,
    /// Most handshakes of one address at a time, at least 1; one more closes its oldest.
    /// Default 128: a peer dials a few lanes, and a stranger gets no more than a quarter.
    pub handshakes_per_address_max: usize,
    /// Most connections per group that wait for [`accept`](crate::GroupListener::accept), at
    /// least 1. One more is closed at once and counted, so that its dialer learns quickly and the
    /// earlier ones keep their place. Default 32.
    pub queue_max: usize,
    /// First pause after the listener failed to accept, for instance because the process has no
    /// file descriptors left. It doubles up to `accept_backoff_max` and starts over after a
    /// success. Default 5 ms.
    pub accept_backoff_min: Duration,
    /// Longest pause after the listener failed to accept. Default 1 s: a shortage of descriptors
    /// passes in seconds, and trying more often only burns a core.
    pub accept_backoff_max: Duration,
    /// Whether groups share one port or have one each. Default: one port.
    pub layout: PortLayout,
    /// The address peers should dial, where it differs from the bound one: behind address
    /// translation, or bound to a wildcard. Port 0 stands for the bound port, or for the base where
    /// each group has its own. Default none.
    pub advertise: Option<SocketAddr>,
    /// Connections the kernel may hold before we accept them; it may lower this by itself.
    /// Default 1024: after a restart all groups of all peers dial within one round trip.
    pub listen_backlog: u32,
}

impl Default for MuxConfig {
    fn default() -> Self {
        Self {
            prefix_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
            half_open_max: 1024,
            handshakes_max: 512,
            handshakes_per_address_max: 128,
            queue_max: 32,
            accept_backoff_min: Duration::from_millis(5),
            accept_backoff_max: Duration::from_secs(1),
            layout: PortLayout::default(),
            advertise: None,
            listen_backlog: 1024,
        }
    }
}

impl MuxConfig {
    /// Refuses what could never work, before a socket is opened.
    pub(crate) fn check(&self) -> Result<(), MuxError> {
        let limits = [
            ("half_open_max", self.half_open_max),
            ("handshakes_max", self.handshakes_max),
            ("handshakes_per_address_max", self.handshakes_per_address_max),
            ("queue_max", self.queue_max),
            ("listen_backlog", self.listen_backlog as usize),
        ];
        if let Some(&(field, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
            return Err(MuxError::ZeroLimit { field });
        }
        match self.advertise {
            Some(addr) if is_wildcard(addr) => Err(MuxError::WildcardAddress { addr }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether the address means "every address of this host", also as an IPv4 one within IPv6.
pub(crate) fn is_wildcard(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_unspecified()
}
