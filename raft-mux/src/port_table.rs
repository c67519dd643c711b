//! The open ports of a node where each group has its own.
//!
//! Two things belong to a registered group then, its queue in the [`Handoff`] and its port, and
//! they come and go together although anybody may register, unregister and close at once. One
//! lock orders it: who registers opens the port and claims the id under it; who unregisters first
//! takes the port out under it, and then frees the id of that very registration.
//!
//! Invariants:
//! - A port is open only for a registration that has its id, or is about to be freed by whoever
//!   took the port.
//! - Whoever can claim an id finds its port closed: ports are closed under the lock.
//! - Nothing foreign runs under the lock: an unregistered group's wakers and connections are
//!   dropped after it is released.
//!
//! `port_table/models.rs` checks them with loom, over all interleavings.

#[cfg(all(test, loom_model))]
mod models;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use raft_core::GroupId;

use crate::handoff::{Handoff, RegisterRefusal, Registration};
use crate::sync::Mutex;

/// Ports by group. `P` is an open port; dropping it closes it.
#[derive(Debug)]
pub(crate) struct PortTable<P> {
    open: Mutex<BTreeMap<GroupId, Entry<P>>>,
}

#[derive(Debug)]
struct Entry<P> {
    registration: Registration,
    /// Closes when the entry goes.
    _port: P,
}

/// Why a group has no port.
#[derive(Debug)]
pub(crate) enum PortRefusal {
    /// Its id is taken, or everything is closed.
    Register(RegisterRefusal),
    /// The system refused the port.
    Open { addr: SocketAddr, source: io::Error },
}

impl<P> PortTable<P> {
    pub(crate) fn new() -> Self {
        Self { open: Mutex::new(BTreeMap::new()) }
    }

    /// Claims the id at the hand-off and opens its port, or neither. `open` gives the port and
    /// whatever the caller needs to serve it.
    pub(crate) fn register<T, R>(
        &self,
        group: GroupId,
        handoff: &Handoff<T>,
        addr: SocketAddr,
        open: impl FnOnce() -> io::Result<(P, R)>,
    ) -> Result<(Registration, R), PortRefusal> {
        let mut table = self.open.lock();
        if table.contains_key(&group) {
            return Err(PortRefusal::Register(RegisterRefusal::AlreadyRegistered));
        }
        // The port first: an id that is claimed can have queued a connection by the time it has
        // to be given back.
        let (port, rest) = open().map_err(|source| PortRefusal::Open { addr, source })?;
        let registration = handoff.register(group).map_err(PortRefusal::Register)?;
        table.insert(group, Entry { registration, _port: port });
        Ok((registration, rest))
    }

    /// Closes the port of the group; with a registration, only of that one. The caller frees the
    /// id of the registration returned. `None`: somebody else does, or there is none.
    pub(crate) fn take(&self, group: GroupId, only: Option<Registration>) -> Option<Registration> {
        let mut table = self.open.lock();
        let found = table.get(&group)?.registration;
        if only.is_some_and(|registration| registration != found) {
            return None;
        }
        table.remove(&group).map(|entry| entry.registration)
    }

    /// Closes all ports. Only after the hand-off is closed: then none can open any more.
    pub(crate) fn close(&self) {
        self.open.lock().clear();
    }
}
