//! How the groups of a node are told apart: by four bytes behind one port, or by a port each.
//!
//! A port per group is what a node has without the mux. It is here so that the two can be compared
//! and told from one another on a machine that knows nothing of prefixes (a firewall, a packet
//! trace), and it is limited on purpose: 256 groups, and as many ports to open and to configure.
//!
//! Both ends must agree. Nothing on the wire tells the two apart: a prefix sent to a port of a
//! group's own is the first four bytes of its payload.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::GroupId;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::dial::{DialTimeouts, Opening, open};
use crate::error::MuxError;

/// The largest group id that has a port where each group has its own.
pub const PORT_GROUP_MAX: u32 = 255;

/// How the groups of a node are told apart.
///
/// ```
/// use raft_core::GroupId;
/// use raft_mux::PortLayout;
///
/// let base = "192.0.2.1:7000".parse()?;
/// let seven = GroupId::new(7);
/// assert_eq!(PortLayout::OnePort.group_addr(base, seven)?.port(), 7000);
/// assert_eq!(PortLayout::PortPerGroup.group_addr(base, seven)?.port(), 7007);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PortLayout {
    /// One port for all groups, and a prefix of four bytes: the mux. The default.
    #[default]
    OnePort,
    /// No mux: group `n` has the port `base + n` and its first byte is the first of the
    /// connection. Ids go from 0 to [`PORT_GROUP_MAX`], bases from 1 to 65,280.
    PortPerGroup,
}

impl PortLayout {
    /// Where `group` is reached on the node whose base address is `base`.
    ///
    /// # Errors
    /// Where each group has its own port: [`MuxError::GroupWithoutPort`] for an id above
    /// [`PORT_GROUP_MAX`], [`MuxError::PortBase`] for a base that leaves some id without a port.
    pub fn group_addr(self, base: SocketAddr, group: GroupId) -> Result<SocketAddr, MuxError> {
        match self {
            Self::OnePort => Ok(base),
            Self::PortPerGroup => {
                check_base(base)?;
                let id = u16::try_from(group.get()).ok().filter(|id| *id <= PORT_GROUP_MAX as u16);
                let id = id.ok_or(MuxError::GroupWithoutPort { group })?;
                Ok(SocketAddr::new(base.ip(), base.port() + id))
            }
        }
    }

    /// Opens a connection to `group` on the node whose base address is `base`: [`dial`](crate::dial)
    /// for either layout.
    ///
    /// # Errors
    /// As for [`dial`](crate::dial) and [`group_addr`](Self::group_addr).
    pub async fn dial(
        self,
        base: SocketAddr,
        group: GroupId,
        timeout: Duration,
    ) -> Result<TcpStream, MuxError> {
        let timeouts = DialTimeouts::without_handshake(timeout);
        self.dial_with(base, group, timeouts, |tcp| ready(Ok(tcp))).await
    }

    /// As [`dial`](Self::dial), with a handshake first: [`dial_with`](crate::dial_with) for either
    /// layout.
    ///
    /// # Errors
    /// As for [`dial`](Self::dial); an error of the handshake is a [`MuxError::Dial`].
    pub async fn dial_with<S, H, F>(
        self,
        base: SocketAddr,
        group: GroupId,
        timeouts: DialTimeouts,
        handshake: H,
    ) -> Result<S, MuxError>
    where
        S: AsyncWrite + Unpin,
        H: FnOnce(TcpStream) -> F,
        F: Future<Output = io::Result<S>>,
    {
        let addr = self.group_addr(base, group)?;
        let opening = match self {
            Self::OnePort => Opening::Prefix,
            Self::PortPerGroup => Opening::Nothing,
        };
        open(addr, group, timeouts, handshake, opening).await
    }
}

/// Refuses a base that has no port for some id.
pub(crate) fn check_base(base: SocketAddr) -> Result<(), MuxError> {
    if base.port() == 0 || base.port() > u16::MAX - PORT_GROUP_MAX as u16 {
        return Err(MuxError::PortBase { addr: base });
    }
    Ok(())
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    fn port(base: u16, group: u32) -> Option<u16> {
        let base = SocketAddr::from(([127, 0, 0, 1], base));
        let addr = PortLayout::PortPerGroup.group_addr(base, GroupId::new(group));
        addr.ok().map(|addr| addr.port())
    }

    #[test]
    fn port_is_base_plus_id_and_never_wraps() {
        let table = [
            (1, 0, Some(1)),
            (7000, 255, Some(7255)),
            (65_280, 255, Some(65_535)),
            (7000, 256, None),
            (7000, 65_536, None),
            (7000, u32::MAX, None),
            (0, 0, None),
            (65_281, 0, None),
            (65_535, 1, None),
        ];
        for (base, group, expected) in table {
            assert_eq!(port(base, group), expected, "base {base}, group {group}");
        }
    }
}
