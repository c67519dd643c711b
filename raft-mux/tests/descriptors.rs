//! Running out of file descriptors is survived without burning a core.
//!
//! Lowers the limit of the whole process, so it has a test binary to itself.

#![cfg(all(target_os = "linux", not(loom_model)))]

mod common;

use std::time::Duration;

use common::*;
use raft_mux::MuxConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn acceptor_without_descriptors_pauses_and_serves_again_when_there_are_some() {
    // Short, since the pause after the shortage is spent in real time.
    let accept_backoff_max = Duration::from_millis(20);
    let config = MuxConfig { accept_backoff_max, ..MuxConfig::default() };
    let acceptor = loopback_with(config).await;
    let listener = acceptor.register(group(1)).unwrap();

    // The client's socket exists before the shortage, so that only the acceptor lacks one.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let limit = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open / 2), ..limit }).unwrap();

    let client = socket.connect(acceptor.local_addr()).await.unwrap();
    client.writable().await.unwrap();
    client.try_write(&[0, 0, 0, 1]).unwrap();
    let start = std::time::Instant::now();
    eventually("it fails several times", || acceptor.stats().accept_errors >= 4).await;
    // Pauses of 5, 10 and 20 ms lie between four failures; a busy loop needs no time at all.
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
    assert_eq!(acceptor.stats().accepted, 0);

    setrlimit(Resource::Nofile, limit).unwrap();
    listener.accept().await.unwrap();
    assert_eq!(acceptor.stats().handed_off, 1);
}
