//! Finds the leader of a group as any cluster client does: by asking and being told.
//!
//! Invariant: an answer of "refused" means that the command did not happen. Whatever is not
//! certain is "unknown", and this layer never sends such a command again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use raft_core::GroupId;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::resp_client::{CallError, Connection, Reply};
use crate::kv::slots::{SlotMap, key_slot};

/// Connections per node; clients are spread over them.
const CONNECTIONS: usize = 4;
/// Redirections of one attempt; a cluster in an election may send us in circles.
const REDIRECTS_MAX: usize = 4;
/// A node that says nothing for so long is given up; the outcome is then unknown.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How an attempt ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Attempt {
    /// The leader answered.
    Done(Reply),
    /// It did not happen: trying again is safe.
    Refused,
    /// It did not happen, and trying again would not help; the server's words.
    Rejected(String),
    /// It may have happened.
    Unknown,
}

/// Knows all nodes, and who led each group when last heard.
#[derive(Debug)]
pub(super) struct Router {
    nodes: Vec<Node>,
    slots: SlotMap,
    /// By group: the node to ask first.
    leaders: Vec<AtomicUsize>,
}

#[derive(Debug)]
struct Node {
    address: SocketAddr,
    connections: Vec<Mutex<Option<Connection>>>,
}

impl Router {
    /// `nodes` are the cluster ports.
    pub(super) fn new(nodes: &[SocketAddr], slots: SlotMap) -> Self {
        let connections = || (0..CONNECTIONS).map(|_| Mutex::new(None)).collect();
        Self {
            nodes: nodes
                .iter()
                .map(|&address| Node { address, connections: connections() })
                .collect(),
            leaders: (0..slots.group_count() as usize)
                .map(|group| AtomicUsize::new(group % nodes.len()))
                .collect(),
            slots,
        }
    }

    pub(super) fn group_count(&self) -> u32 {
        self.slots.group_count()
    }

    /// Which group holds a key.
    pub(super) fn group_of(&self, key: &str) -> GroupId {
        self.slots.group_of(key_slot(key.as_bytes()))
    }

    /// Tries once, following redirections. `lane` spreads callers over connections.
    pub(super) async fn attempt(&self, key: &str, lane: usize, command: &Bytes) -> Attempt {
        let group = self.group_of(key).get() as usize - 1;
        for _ in 0..=REDIRECTS_MAX {
            let index = self.leaders[group].load(Relaxed);
            let Some(connection) = self.nodes[index].connection(lane).await else {
                self.look_elsewhere(group, index);
                return Attempt::Refused;
            };
            match timeout(REPLY_TIMEOUT, connection.call(command.clone())).await {
                Ok(Ok(Reply::Error(error))) => match Refusal::of(&error) {
                    Refusal::Moved(address) => match self.index_of(address) {
                        Some(leader) => self.leaders[group].store(leader, Relaxed),
                        None => return Attempt::Refused,
                    },
                    Refusal::Later => {
                        self.look_elsewhere(group, index);
                        return Attempt::Refused;
                    }
                    Refusal::Never => return Attempt::Rejected(error),
                    // An error we do not know promises nothing.
                    Refusal::Other => return Attempt::Unknown,
                },
                Ok(Ok(reply)) => return Attempt::Done(reply),
                Ok(Err(CallError::NotSent)) => {
                    self.look_elsewhere(group, index);
                    return Attempt::Refused;
                }
                Ok(Err(CallError::Lost)) | Err(_) => {
                    self.look_elsewhere(group, index);
                    return Attempt::Unknown;
                }
            }
        }
        Attempt::Refused
    }

    fn index_of(&self, address: SocketAddr) -> Option<usize> {
        self.nodes.iter().position(|node| node.address == address)
    }

    /// Asks the next node next time, unless somebody has learnt better meanwhile.
    fn look_elsewhere(&self, group: usize, index: usize) {
        let next = (index + 1) % self.nodes.len();
        let _ = self.leaders[group].compare_exchange(index, next, Relaxed, Relaxed);
    }
}

impl Node {
    async fn connection(&self, lane: usize) -> Option<Connection> {
        let mut slot = self.connections[lane % CONNECTIONS].lock().await;
        if slot.as_ref().is_none_or(Connection::is_closed) {
            *slot = Connection::open(self.address).await.ok();
        }
        slot.clone()
    }
}

/// What an error reply says about the command.
#[derive(Debug, Eq, PartialEq)]
enum Refusal {
    /// Not done; that node leads.
    Moved(SocketAddr),
    /// Not done; try again.
    Later,
    /// Not done, and never will be.
    Never,
    /// Anything else.
    Other,
}

impl Refusal {
    fn of(error: &str) -> Self {
        let mut words = error.split(' ');
        match words.next() {
            Some("MOVED") => words
                .nth(1)
                .and_then(|address| address.parse().ok())
                .map_or(Self::Later, Self::Moved),
            Some("CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "BUSY") => Self::Later,
            Some("ERR" | "WRONGTYPE" | "CROSSSLOT") => Self::Never,
            Some(_) | None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_promise_it_count_as_refusals() {
        let moved = "127.0.0.1:7001".parse().expect("an address");
        assert_eq!(Refusal::of("MOVED 99 127.0.0.1:7001"), Refusal::Moved(moved));
        assert_eq!(Refusal::of("MOVED 99 :0"), Refusal::Later);
        assert_eq!(Refusal::of("CLUSTERDOWN no leader is known"), Refusal::Later);
        assert_eq!(Refusal::of("ERR syntax error"), Refusal::Never);
        assert_eq!(Refusal::of("UNKNOWN the leader went away"), Refusal::Other);
        assert_eq!(Refusal::of(""), Refusal::Other);
    }
}
