//! Which peers this node reaches now, and when it last heard from each: kept by the control
//! plane, read by anybody without asking it.
//!
//! The control lane is the witness: it is the one that pings, so a peer that is dead or stands
//! still is noticed within its keepalive, however little there is to say.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use raft_core::{Micros, NodeId};
use raft_transport::{PeerRefusal, Refuser};

/// One peer. Bounded by the number of peers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Contact {
    /// Our control lane to it is open.
    pub(crate) connected: bool,
    /// When its last word came over the control plane.
    pub(crate) heard: Option<Micros>,
    /// Why it is not reached though it answers.
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Contacts {
    peers: Mutex<BTreeMap<NodeId, Contact>>,
}

impl Contacts {
    /// Our lane to the peer came up, which takes a word of its own, or went down.
    pub(crate) fn set_connected(&self, peer: NodeId, connected: bool, now: Micros) {
        let mut peers = self.peers.lock();
        let contact = peers.entry(peer).or_default();
        contact.connected = connected;
        if connected {
            contact.heard = Some(now);
        }
    }

    /// Something came from the peer.
    pub(crate) fn heard(&self, peer: NodeId, now: Micros) {
        self.peers.lock().entry(peer).or_default().heard = Some(now);
    }

    /// It refuses us, or we refuse it, or neither any more.
    pub(crate) fn set_refusal(&self, peer: NodeId, refusal: Option<&PeerRefusal>) {
        let refusal = refusal.map(|PeerRefusal { by, reason }| match by {
            Refuser::Us => format!("refused by this node: {reason}"),
            // "This" in what it says is the peer.
            Refuser::Peer => format!("it refuses this node and says: {reason}"),
        });
        self.peers.lock().entry(peer).or_default().refusal = refusal;
    }

    pub(crate) fn is_connected(&self, peer: NodeId) -> bool {
        self.peers.lock().get(&peer).is_some_and(|contact| contact.connected)
    }

    pub(crate) fn of(&self, peer: NodeId) -> Contact {
        self.peers.lock().get(&peer).cloned().unwrap_or_default()
    }
}
