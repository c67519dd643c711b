//! One group's end of the port.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use raft_core::GroupId;
use tokio::net::TcpStream;

use crate::acceptor::MuxAcceptor;
use crate::error::MuxError;
use crate::handoff::{Gone, Registration, Turn};

/// Receives the connections of one group, as a `TcpListener` of its own would.
///
/// Dropping it frees the group's id and closes what is still queued.
#[derive(Debug)]
pub struct GroupListener<S = TcpStream> {
    acceptor: MuxAcceptor<S>,
    group: GroupId,
    registration: Registration,
}

impl<S> GroupListener<S> {
    pub(crate) fn new(
        acceptor: MuxAcceptor<S>,
        group: GroupId,
        registration: Registration,
    ) -> Self {
        Self { acceptor, group, registration }
    }

    /// The next connection of this group and the address of its dialer, in order of arrival. The
    /// first byte to read is the one after the prefix, and no deadline is running.
    ///
    /// Cancelling it loses no connection. Several accepts may be pending at a time.
    ///
    /// # Errors
    /// [`MuxError::Unregistered`] or [`MuxError::Closed`], at once and from then on.
    pub async fn accept(&self) -> Result<(S, SocketAddr), MuxError> {
        let mut pending = PendingAccept { listener: self, turn: Turn::default() };
        poll_fn(|context| pending.poll(context)).await
    }

    /// The group served.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The acceptor this listener belongs to, for its addresses and stats.
    #[must_use]
    pub fn acceptor(&self) -> &MuxAcceptor<S> {
        &self.acceptor
    }
}

impl<S> Drop for GroupListener<S> {
    fn drop(&mut self) {
        self.acceptor.discard_queue(self.group, Some(self.registration));
    }
}

/// An accept under way; takes its waker back when it is given up.
struct PendingAccept<'a, S> {
    listener: &'a GroupListener<S>,
    turn: Turn,
}

impl<S> PendingAccept<'_, S> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(S, SocketAddr), MuxError>> {
        let GroupListener { acceptor, group, registration } = self.listener;
        let shared = acceptor.shared();
        let taken = shared.handoff.poll_accept(*group, *registration, &mut self.turn, context);
        taken.map(|taken| match taken {
            Ok(connection) => {
                shared.counters.handed_off.bump();
                Ok(connection)
            }
            Err(Gone::Unregistered) => Err(MuxError::Unregistered { group: *group }),
            Err(Gone::Closed) => Err(MuxError::Closed),
        })
    }
}

impl<S> Drop for PendingAccept<'_, S> {
    fn drop(&mut self) {
        let GroupListener { acceptor, group, registration } = self.listener;
        acceptor.shared().handoff.forget(*group, *registration, &mut self.turn);
    }
}
