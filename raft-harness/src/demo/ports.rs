//! Ports that stay ours while a node is down.
//!
//! A port that the system hands out on request comes from the range it also takes the source
//! ports of outgoing connections from, so a killed node may find its port taken when it comes
//! back, by a client of its own peers. Hence ports below that range, all bound at once so that
//! they are distinct, and held until just before the first node is started.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Below are well-known services.
const FIRST: u16 = 10_240;
/// Where Linux begins to take source ports from, unless it says otherwise.
const SOURCE_PORTS_FIRST: u16 = 32_768;

/// Ports that nobody else can take while this lives.
#[derive(Debug)]
pub(super) struct HeldPorts(Vec<TcpListener>);

impl HeldPorts {
    /// Holds `count` free loopback ports, starting the search at a place given by `seed`, so that
    /// two demos at a time rarely meet.
    pub(super) fn hold(count: usize, seed: u64) -> io::Result<Self> {
        let end = source_ports_first().max(FIRST + 1);
        let span = u64::from(end - FIRST);
        let mut held: Vec<TcpListener> = (0..span)
            .map(|step| FIRST + ((seed % span + step) % span) as u16)
            .filter_map(|port| TcpListener::bind(loopback(port)).ok())
            .take(count)
            .collect();
        while held.len() < count {
            held.push(TcpListener::bind(loopback(0))?);
        }
        Ok(Self(held))
    }

    /// Which ones; they are free again when this is dropped.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.iter().map(TcpListener::local_addr).collect()
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn source_ports_first() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(SOURCE_PORTS_FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_ports_are_distinct_and_out_of_reach_of_outgoing_connections() {
        let a = HeldPorts::hold(12, 7).expect("free ports");
        let b = HeldPorts::hold(12, 7).expect("free ports");
        let mut ports = a.addresses().expect("bound");
        ports.extend(b.addresses().expect("bound"));
        assert!(ports.iter().all(|address| address.port() < source_ports_first()));
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 24);
    }
}
