//! Registering, unregistering and closing a group with a port of its own, under every
//! interleaving. The command is in `handoff/models.rs`.
//!
//! The port is a stand-in with the one property of a real one that matters: it cannot be opened
//! while it is open.

use std::net::{IpAddr, Ipv4Addr};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::*;

const GROUP: GroupId = GroupId::new(7);
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// How many hold the port of the group.
#[derive(Clone)]
struct Address(Arc<AtomicUsize>);

/// The port, open.
struct Open(Address);

impl Address {
    fn open(&self) -> io::Result<(Open, ())> {
        match self.0.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ok((Open(self.clone()), ())),
            Err(_) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    fn holders(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Node {
    table: PortTable<Open>,
    handoff: Handoff<()>,
    address: Address,
}

impl Node {
    fn new() -> Arc<Self> {
        let address = Address(Arc::new(AtomicUsize::new(0)));
        Arc::new(Self { table: PortTable::new(), handoff: Handoff::new(1), address })
    }

    /// As the acceptor does it: an id that is free has a port that is free.
    fn register(&self) -> Result<Registration, RegisterRefusal> {
        match self.table.register(GROUP, &self.handoff, NOWHERE, || self.address.open()) {
            Ok((registration, ())) => Ok(registration),
            Err(PortRefusal::Register(refusal)) => Err(refusal),
            Err(PortRefusal::Open { source, .. }) => {
                panic!("the id is free and its port is not: {source}")
            }
        }
    }

    fn unregister(&self, only: Option<Registration>) -> bool {
        let Some(taken) = self.table.take(GROUP, only) else { return false };
        self.handoff.unregister(GROUP, Some(taken)).is_some()
    }

    fn close(&self) {
        drop(self.handoff.close());
        self.table.close();
    }

    fn assert_ports_are_those_of_the_registered(&self) {
        assert_eq!(self.address.holders(), self.handoff.counts().0);
    }
}

fn beside<T: Send + 'static>(
    node: &Arc<Node>,
    act: impl FnOnce(&Node) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let node = node.clone();
    thread::spawn(move || act(&node))
}

#[test]
fn register_racing_close_leaves_no_port() {
    loom::model(|| {
        let node = Node::new();
        let registering = beside(&node, Node::register);
        node.close();
        let _ = registering.join().unwrap();
        assert_eq!(node.address.holders(), 0);
        assert_eq!(node.register(), Err(RegisterRefusal::Closed));
        assert_eq!(node.address.holders(), 0);
    });
}

#[test]
fn unregister_racing_register_frees_port_and_id_together() {
    loom::model(|| {
        let node = Node::new();
        node.register().unwrap();
        let registering = beside(&node, Node::register);
        assert!(node.unregister(None));
        let again = registering.join().unwrap();
        node.assert_ports_are_those_of_the_registered();
        assert_eq!(again.is_ok(), node.address.holders() == 1);
        if again.is_err() {
            node.register().expect("nobody else is at it");
        }
    });
}

#[test]
fn two_that_unregister_and_one_that_registers_leave_no_port_without_its_id() {
    loom::model(|| {
        let node = Node::new();
        node.register().unwrap();
        let first = beside(&node, |node| node.unregister(None));
        let second = beside(&node, |node| node.unregister(None));
        let _ = node.register();
        first.join().unwrap();
        second.join().unwrap();
        node.assert_ports_are_those_of_the_registered();
    });
}

#[test]
fn late_drop_of_an_old_listener_leaves_the_new_port_open() {
    loom::model(|| {
        let node = Node::new();
        let old = node.register().unwrap();
        let dropping = beside(&node, move |node| node.unregister(Some(old)));
        let here = node.unregister(None);
        // Whoever took the port may not have freed the id yet.
        let new = node.register();
        assert!(here != dropping.join().unwrap());
        node.assert_ports_are_those_of_the_registered();
        assert_eq!(node.address.holders(), usize::from(new.is_ok()));
    });
}
