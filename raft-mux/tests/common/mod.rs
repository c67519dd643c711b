//! What the tests share: loopback acceptors, raw sockets, and waiting without a clock.
//!
//! Waiting is a loop of yields, bounded by real time only so that a broken test fails instead of
//! hanging. It also works under tokio's paused clock: the runtime never goes idle, so it never
//! advances that clock by itself.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![cfg(not(loom_model))]

use std::future::Future;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use raft_core::GroupId;
use raft_mux::{DialTimeouts, MuxAcceptor, MuxConfig, MuxStats, encode_prefix};
use tokio::net::TcpStream;

/// Far more than anything here takes; reached only by a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const PATIENTLY: DialTimeouts = DialTimeouts { connect: PATIENCE, handshake: PATIENCE };

pub(crate) fn group(id: u32) -> GroupId {
    GroupId::new(id)
}

pub(crate) async fn loopback() -> MuxAcceptor {
    loopback_with(MuxConfig::default()).await
}

pub(crate) async fn loopback_with(config: MuxConfig) -> MuxAcceptor {
    MuxAcceptor::bind(any_port(), config).await.expect("loopback has a free port")
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Connects without going through `dial`, sends `bytes` in one segment, and waits for nothing.
pub(crate) fn connect_raw(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut tcp = std::net::TcpStream::connect(addr).expect("the kernel accepts on its own");
    tcp.set_nodelay(true).unwrap();
    tcp.write_all(bytes).expect("a fresh socket takes a few bytes");
    tcp.set_nonblocking(true).unwrap();
    TcpStream::from_std(tcp).unwrap()
}

/// As [`connect_raw`], from 127.0.0.`host`.
pub(crate) async fn connect_from(host: u8, addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    let tcp = busily("it is connected", socket.connect(addr)).await.unwrap();
    assert_eq!(tcp.try_write(bytes).unwrap(), bytes.len());
    tcp
}

/// As [`connect_raw`], asking for `id`.
pub(crate) fn connect_group(addr: SocketAddr, id: u32) -> TcpStream {
    connect_raw(addr, &encode_prefix(group(id)))
}

/// Waits for a condition by yielding.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        tokio::task::yield_now().await;
    }
}

/// Runs a future to its end while keeping the runtime from going idle.
pub(crate) async fn busily<F: Future>(what: &str, future: F) -> F::Output {
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = tokio::task::yield_now() => {}
        }
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
    }
}

/// Waits until the other side has closed. Unread bytes make that a reset instead of an end.
pub(crate) async fn until_closed(stream: &TcpStream) {
    eventually("the peer closes", || is_closed(stream)).await;
}

pub(crate) fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 16]) {
        Ok(0) => true,
        Ok(count) => panic!("{count} bytes where none were expected"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(_) => true,
    }
}

/// Waits until nothing is on the move, then checks that each connection ended in one counter.
pub(crate) async fn settled(acceptor: &MuxAcceptor, accepted: u64) -> MuxStats {
    eventually("all connections are accounted for", || {
        let stats = acceptor.stats();
        stats.half_open == 0 && stats.accepted == accepted && stats.accounted() == accepted
    })
    .await;
    acceptor.stats()
}

/// A small generator of reproducible noise (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self::quiet(seed)
    }

    /// For a seed that is printed elsewhere.
    pub(crate) fn quiet(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// 256 ports of this host that no other test uses, below those that dialers are given.
pub(crate) struct Range {
    base: u16,
    /// Held, so that other tests see that the range is taken. No test uses id 255.
    _guard: std::net::TcpListener,
}

impl Range {
    pub(crate) fn find() -> Self {
        let start = std::process::id() as u16 % 64;
        for step in 0..64 {
            let base = 10_240 + (start + step) % 64 * 256;
            let Ok(guard) = std::net::TcpListener::bind(("127.0.0.1", base + 255)) else {
                continue;
            };
            let free = |id| std::net::TcpListener::bind(("127.0.0.1", base + id)).is_ok();
            if (0..16).all(free) {
                return Self { base, _guard: guard };
            }
        }
        panic!("no free range of ports between 10240 and 26623");
    }

    pub(crate) fn base(&self) -> SocketAddr {
        self.port(0)
    }

    pub(crate) fn port(&self, id: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.base + id))
    }
}
