//! One connection from its accept to its hand-off: handshake, prefix, and how it can end before.
//!
//! Invariant: a connection holds a place among the half-open ones until its group is known, and
//! ends in exactly one counter.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use raft_core::GroupId;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::acceptor::Shared;
use crate::half_open::{Evicted, HalfOpen, Origin};
use crate::handoff::PushRefusal;
use crate::prefix::read_prefix;

/// What the port tells of the connections that come by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Port {
    /// Nothing: the prefix does.
    Shared,
    /// Their group, and there is no prefix.
    OfGroup(GroupId),
}

/// The place of a connection among the half-open ones; dropping it frees the place.
pub(crate) struct HalfOpenGuard<S> {
    shared: Arc<Shared<S>>,
    ticket: u64,
    /// Whether the connection has come to an end that is counted, or is about to be.
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl<S> HalfOpenGuard<S> {
    /// Takes a place, if need be that of the oldest connection. `None` once closed.
    pub(crate) async fn enter(
        shared: &Arc<Shared<S>>,
        peer: SocketAddr,
    ) -> Option<(Self, oneshot::Receiver<Evicted>)> {
        let permit = match shared.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return None,
            Err(TryAcquireError::NoPermits) => {
                if let Some(suppressed) = shared.limits.half_open_full.permit(Instant::now()) {
                    let max = shared.config.half_open_max;
                    warn!(%peer, max, suppressed, "too many half-open connections, closing the oldest of the address with the most");
                }
                shared.half_open.evict_one();
                // Short: that connection is awake now and has nothing left to wait for.
                shared.permits.clone().acquire_owned().await.ok()?
            }
        };
        let (ticket, cut) = shared.half_open.admit(Origin::of(peer.ip()))?;
        Some((Self { shared: shared.clone(), ticket, ended: false, _permit: permit }, cut))
    }
}

impl<S> HalfOpenGuard<S> {
    /// Frees the place of a connection whose end the caller counts.
    fn end(mut self) -> Arc<Shared<S>> {
        self.ended = true;
        self.shared.clone()
    }
}

impl<S> Drop for HalfOpenGuard<S> {
    fn drop(&mut self) {
        self.shared.half_open.leave(self.ticket);
        // Its task is dropped with its runtime.
        if !self.ended {
            self.shared.counters.discarded.bump();
        }
    }
}

/// The place of a connection among the handshakes under way.
struct HandshakeGuard<'a> {
    handshakes: &'a HalfOpen,
    ticket: u64,
}

impl Drop for HandshakeGuard<'_> {
    fn drop(&mut self) {
        self.handshakes.leave(self.ticket);
    }
}

/// How a connection ended before its group was known.
enum Ended {
    HandshakeFailed(io::Error),
    HandshakeTimeout,
    HandshakeEvicted,
    PrefixFailed(io::Error),
    PrefixTimeout,
    Evicted,
    AcceptorClosed,
}

/// The task of one connection: learns its group and hands it off.
pub(crate) async fn greet<S, H, F>(
    half_open: HalfOpenGuard<S>,
    tcp: TcpStream,
    peer: SocketAddr,
    port: Port,
    handshake: &H,
    cut: oneshot::Receiver<Evicted>,
) where
    S: AsyncRead + Unpin,
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = io::Result<S>>,
{
    let identified = tokio::select! {
        // The prefix comes first: a peer that has just sent it is not one to evict.
        biased;
        identified = identify(&half_open.shared, tcp, peer, port, handshake) => identified,
        reason = cut => Err(match reason {
            Ok(Evicted) => Ended::Evicted,
            Err(_) => Ended::AcceptorClosed,
        }),
    };
    // Given back first, so that a group never sees its own connection counted as half-open.
    let shared = half_open.end();
    match identified {
        Ok((group, stream)) => hand_off(&shared, group, stream, peer),
        Err(ended) => record(&shared, peer, &ended),
    }
}

async fn identify<S, H, F>(
    shared: &Shared<S>,
    tcp: TcpStream,
    peer: SocketAddr,
    port: Port,
    handshake: &H,
) -> Result<(GroupId, S), Ended>
where
    S: AsyncRead + Unpin,
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = io::Result<S>>,
{
    // Small frames must not wait for acknowledgements of earlier ones. A failure means that the
    // connection is dead already, which the reads below will notice.
    let _ = tcp.set_nodelay(true);
    let mut stream = {
        let config = &shared.config;
        let (max, share) = (config.handshakes_max, config.handshakes_per_address_max);
        let admitted = shared.handshakes.admit_within(Origin::of(peer.ip()), max, share);
        let (ticket, cut) = admitted.ok_or(Ended::AcceptorClosed)?;
        let _place = HandshakeGuard { handshakes: &shared.handshakes, ticket };
        tokio::select! {
            biased;
            done = timeout(config.handshake_timeout, handshake(tcp, peer)) => done
                .map_err(|_| Ended::HandshakeTimeout)?
                .map_err(Ended::HandshakeFailed)?,
            reason = cut => return Err(match reason {
                Ok(Evicted) => Ended::HandshakeEvicted,
                Err(_) => Ended::AcceptorClosed,
            }),
        }
    };
    let group = match port {
        Port::OfGroup(group) => group,
        Port::Shared => timeout(shared.config.prefix_timeout, read_prefix(&mut stream))
            .await
            .map_err(|_| Ended::PrefixTimeout)?
            .map_err(Ended::PrefixFailed)?,
    };
    Ok((group, stream))
}

fn hand_off<S>(shared: &Shared<S>, group: GroupId, stream: S, peer: SocketAddr) {
    let Err((refusal, _connection)) = shared.handoff.push(group, (stream, peer)) else {
        return;
    };
    match refusal {
        PushRefusal::UnknownGroup => {
            shared.counters.unknown_group.bump();
            if let Some(suppressed) = shared.limits.unknown_group.permit(Instant::now()) {
                warn!(%group, %peer, suppressed, "closed connection: group is not registered here");
            }
        }
        PushRefusal::QueueFull => {
            shared.counters.queue_full_dropped.bump();
            if let Some(suppressed) = shared.limits.queue_full.permit(Instant::now()) {
                warn!(%group, %peer, suppressed, "closed connection: group does not accept");
            }
        }
        PushRefusal::Closed => shared.counters.discarded.bump(),
    }
}

fn record<S>(shared: &Shared<S>, peer: SocketAddr, ended: &Ended) {
    match ended {
        Ended::HandshakeFailed(error) => {
            shared.counters.handshake_failures.bump();
            debug!(%peer, %error, "handshake failed");
        }
        Ended::HandshakeTimeout => {
            shared.counters.handshake_failures.bump();
            debug!(%peer, "handshake took too long");
        }
        Ended::HandshakeEvicted => {
            shared.counters.handshakes_evicted.bump();
            if let Some(suppressed) = shared.limits.handshakes_full.permit(Instant::now()) {
                warn!(%peer, suppressed, "closed connection: too many handshakes under way");
            }
        }
        Ended::PrefixFailed(error) => {
            shared.counters.prefix_failures.bump();
            debug!(%peer, %error, "connection ended within its prefix");
        }
        Ended::PrefixTimeout => {
            shared.counters.prefix_timeouts.bump();
            if let Some(suppressed) = shared.limits.prefix_missing.permit(Instant::now()) {
                warn!(%peer, suppressed, "closed connection: no group prefix in time");
            }
        }
        Ended::Evicted => shared.counters.half_open_evicted.bump(),
        Ended::AcceptorClosed => shared.counters.discarded.bump(),
    }
}
