//! Slow, silent, malformed and too many: each limit closes the connection it says, and nobody
//! else notices.

#![cfg(not(loom_model))]

mod common;

use std::future::{pending, ready};
use std::io;
use std::time::Duration;

use common::*;
use raft_mux::{MuxAcceptor, MuxConfig, dial, dial_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::advance;

/// tokio's timers count in milliseconds, so a deadline is met within a few of them.
const SLACK: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn silent_peer_is_closed_after_the_prefix_timeout() {
    let acceptor = loopback().await;
    let silent = connect_raw(acceptor.local_addr(), &[]);
    let halfway = connect_raw(acceptor.local_addr(), &[0, 0, 0]);
    eventually("both are half-open", || acceptor.stats().half_open == 2).await;

    advance(Duration::from_secs(1) - SLACK).await;
    assert!(!is_closed(&silent) && !is_closed(&halfway));
    assert_eq!(acceptor.stats().half_open, 2);

    advance(SLACK * 2).await;
    until_closed(&silent).await;
    until_closed(&halfway).await;
    assert_eq!(settled(&acceptor, 2).await.prefix_timeouts, 2);
}

#[tokio::test(start_paused = true)]
async fn peer_that_drips_bytes_is_held_to_one_deadline_for_all_four() {
    let acceptor = loopback().await;
    let mut dripping = connect_raw(acceptor.local_addr(), &[]);
    eventually("it is half-open", || acceptor.stats().half_open == 1).await;
    for _ in 0..3 {
        advance(Duration::from_millis(300)).await;
        busily("one byte leaves", dripping.write_all(&[0])).await.unwrap();
    }
    advance(Duration::from_millis(100) + SLACK).await;
    until_closed(&dripping).await;
    assert_eq!(settled(&acceptor, 1).await.prefix_timeouts, 1);
}

#[tokio::test(start_paused = true)]
async fn deadline_is_gone_after_the_hand_off() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let queued = connect_group(acceptor.local_addr(), 1);
    let mut client = connect_group(acceptor.local_addr(), 1);
    eventually("both are queued", || acceptor.stats().queued == 2).await;
    advance(Duration::from_secs(3600)).await;
    let (first, _) = listener.accept().await.unwrap();
    let (mut second, _) = listener.accept().await.unwrap();
    advance(Duration::from_secs(3600)).await;
    assert!(!is_closed(&queued) && !is_closed(&first));

    busily("bytes leave", client.write_all(b"late")).await.unwrap();
    let mut bytes = [0; 4];
    busily("bytes arrive", second.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"late");
}

#[tokio::test]
async fn peer_that_hangs_up_within_the_prefix_is_counted() {
    let acceptor = loopback().await;
    drop(connect_raw(acceptor.local_addr(), &[]));
    drop(connect_raw(acceptor.local_addr(), &[0, 0, 0]));
    assert_eq!(settled(&acceptor, 2).await.prefix_failures, 2);
}

#[tokio::test(start_paused = true)]
async fn silent_peers_do_not_delay_a_talking_one() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let silent: Vec<_> = (0..100).map(|_| connect_raw(acceptor.local_addr(), &[])).collect();
    let _client = connect_group(acceptor.local_addr(), 1);
    // The clock stands still, so no silent peer can have run into its deadline.
    busily("the talking peer is served", listener.accept()).await.unwrap();
    eventually("the silent ones wait", || acceptor.stats().half_open == 100).await;
    assert!(silent.iter().all(|stream| !is_closed(stream)));
}

#[tokio::test(start_paused = true)]
async fn one_half_open_connection_too_many_closes_the_oldest() {
    let config = MuxConfig { half_open_max: 3, ..MuxConfig::default() };
    let acceptor = loopback_with(config).await;
    let listener = acceptor.register(group(1)).unwrap();
    let mut silent = Vec::new();
    for count in 1..=5 {
        silent.push(connect_raw(acceptor.local_addr(), &[]));
        eventually("it is accepted", || acceptor.stats().accepted == count).await;
        assert!(acceptor.stats().half_open <= 3);
    }
    until_closed(&silent[0]).await;
    until_closed(&silent[1]).await;
    assert!(silent[2..].iter().all(|stream| !is_closed(stream)));
    assert_eq!(acceptor.stats().half_open_evicted, 2);

    // A live peer gets in all the same: it is the newest, and needs only a moment.
    let _client = connect_group(acceptor.local_addr(), 1);
    busily("the live peer is served", listener.accept()).await.unwrap();
    until_closed(&silent[2]).await;
    assert_eq!(acceptor.stats().half_open, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_silent_connections_stays_within_the_cap_and_locks_no_live_peer_out() {
    let config = MuxConfig { half_open_max: 8, prefix_timeout: PATIENCE, ..MuxConfig::default() };
    let acceptor = loopback_with(config).await;
    let listener = acceptor.register(group(1)).unwrap();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(connect_raw(acceptor.local_addr(), &[]));
        assert!(acceptor.stats().half_open <= 8);
    }
    let _client = connect_group(acceptor.local_addr(), 1);
    listener.accept().await.unwrap();
    eventually("all but the cap are closed", || {
        let stats = acceptor.stats();
        stats.half_open + stats.half_open_evicted == 400 && stats.half_open >= 7
    })
    .await;
}

#[tokio::test]
async fn full_queue_closes_the_newest_connection_and_keeps_the_earlier_ones() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let other = acceptor.register(group(2)).unwrap();
    let mut queued = Vec::new();
    for count in 1..=32 {
        queued.push(connect_group(acceptor.local_addr(), 1));
        eventually("it is queued", || acceptor.stats().queued == count).await;
    }
    for _ in 0..2 {
        let surplus = connect_group(acceptor.local_addr(), 1);
        until_closed(&surplus).await;
    }
    assert_eq!(acceptor.stats().queue_full_dropped, 2);

    let _client = connect_group(acceptor.local_addr(), 2);
    other.accept().await.expect("another group is not affected");
    for dialer in &queued {
        let (_stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, dialer.local_addr().unwrap());
    }
    assert_eq!(settled(&acceptor, 35).await.handed_off, 33);
}

#[tokio::test]
async fn arbitrary_bytes_never_harm_the_acceptor() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let mut noise = Noise::new(0x6d75_7832);
    let mut garbage = 0;
    for _ in 0..300 {
        let length = noise.below(64) as usize;
        let bytes = noise.bytes(length);
        if bytes.starts_with(&[0, 0, 0, 1]) {
            continue;
        }
        drop(connect_raw(acceptor.local_addr(), &bytes));
        garbage += 1;
    }
    let _client = connect_group(acceptor.local_addr(), 1);
    listener.accept().await.unwrap();
    let stats = settled(&acceptor, garbage + 1).await;
    assert_eq!(stats.unknown_group + stats.prefix_failures, garbage);
}

#[tokio::test(start_paused = true)]
async fn prefix_deadline_starts_after_the_handshake_which_has_its_own() {
    let config = MuxConfig::default();
    let hung = MuxAcceptor::<TcpStream>::bind_with(any_port(), config.clone(), |tcp, _| async {
        let _held = tcp;
        pending().await
    });
    let hung = hung.await.unwrap();
    let client = connect_group(hung.local_addr(), 1);
    eventually("it shakes hands", || hung.stats().half_open == 1).await;
    advance(config.handshake_timeout - SLACK).await;
    assert!(!is_closed(&client));
    advance(SLACK * 2).await;
    until_closed(&client).await;
    assert_eq!(hung.stats().handshake_failures, 1);

    // A handshake of 2 s, then 900 ms until the prefix: late by any common clock, but in time.
    let slow = MuxAcceptor::bind_with(any_port(), config, |tcp, _| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(tcp)
    });
    let slow = slow.await.unwrap();
    let listener = slow.register(group(1)).unwrap();
    let mut client = connect_raw(slow.local_addr(), &[]);
    eventually("it shakes hands", || slow.stats().half_open == 1).await;
    advance(Duration::from_secs(2) + SLACK).await;
    eventually("the prefix is awaited", || slow.stats().half_open == 1).await;
    advance(Duration::from_millis(900)).await;
    busily("prefix leaves", client.write_all(&[0, 0, 0, 1])).await.unwrap();
    busily("it is handed off", listener.accept()).await.unwrap();
}

/// Every address 127.x.y.z is this host.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn flood_of_one_address_ends_its_own_and_no_other() {
    let config = MuxConfig { half_open_max: 4, ..MuxConfig::default() };
    let acceptor = loopback_with(config).await;
    let addr = acceptor.local_addr();
    let modest = [connect_from(3, addr, &[0]).await, connect_from(4, addr, &[0]).await];
    let mut flood = Vec::new();
    for count in 0..20 {
        flood.push(connect_from(2, addr, &[]).await);
        eventually("it is accepted", || acceptor.stats().accepted == 3 + count).await;
    }
    assert_eq!(acceptor.stats().half_open_evicted, 18);
    assert!(modest.iter().all(|stream| !is_closed(stream)));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn handshakes_have_a_cap_of_their_own_and_a_share_per_address() {
    let config =
        MuxConfig { handshakes_max: 4, handshakes_per_address_max: 3, ..MuxConfig::default() };
    // Over with the first byte, so the silent ones stay in it.
    let handshake = |mut tcp: TcpStream, _| async move {
        tcp.read_exact(&mut [0]).await?;
        Ok(tcp)
    };
    let acceptor = MuxAcceptor::bind_with(any_port(), config, handshake).await.unwrap();
    let listener = acceptor.register(group(1)).unwrap();
    let addr = acceptor.local_addr();
    let mut silent = Vec::new();
    for (accepted, host) in (1..).zip([2, 2, 2, 2, 3, 4]) {
        silent.push(connect_from(host, addr, &[]).await);
        eventually("it is in its handshake", || {
            let stats = acceptor.stats();
            stats.accepted == accepted && stats.half_open + stats.handshakes_evicted == accepted
        })
        .await;
    }
    // The fourth of one address was one too many for its share, the last one for all: both are
    // paid for by the address that has the most.
    until_closed(&silent[0]).await;
    until_closed(&silent[1]).await;
    assert!(silent[2..].iter().all(|stream| !is_closed(stream)));
    assert_eq!(acceptor.stats().handshakes_evicted, 2);

    // Done with its handshake, a connection is none of them any more.
    let halfway = connect_from(3, addr, b"h").await;
    let _served = connect_from(3, addr, b"h\0\0\0\x01").await;
    busily("it is served", listener.accept()).await.unwrap();
    assert!(!is_closed(&halfway));
}

#[tokio::test]
async fn failed_handshake_closes_only_its_connection() {
    let acceptor = MuxAcceptor::<TcpStream>::bind_with(any_port(), MuxConfig::default(), |_, _| {
        ready(Err(io::ErrorKind::PermissionDenied.into()))
    });
    let acceptor = acceptor.await.unwrap();
    until_closed(&connect_group(acceptor.local_addr(), 1)).await;
    until_closed(&connect_group(acceptor.local_addr(), 1)).await;
    assert_eq!(settled(&acceptor, 2).await.handshake_failures, 2);
}

/// Stands for TLS: wraps the connection so that every byte on the wire is changed.
fn disguise(tcp: TcpStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64);
    let (mut from_wire, mut to_wire) = tcp.into_split();
    let (mut from_user, mut to_user) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Ok(byte) = from_user.read_u8().await {
            to_wire.write_u8(byte ^ 0x5a).await.ok();
        }
    });
    tokio::spawn(async move {
        while let Ok(byte) = from_wire.read_u8().await {
            to_user.write_u8(byte ^ 0x5a).await.ok();
        }
    });
    near
}

#[tokio::test]
async fn wrapped_stream_carries_the_prefix_inside() {
    let acceptor =
        MuxAcceptor::bind_with(any_port(), MuxConfig::default(), |tcp, _| ready(Ok(disguise(tcp))));
    let acceptor = acceptor.await.unwrap();
    let listener = acceptor.register(group(99)).unwrap();
    let addr = acceptor.local_addr();
    let client = dial_with(addr, group(99), PATIENTLY, |tcp| ready(Ok(disguise(tcp))));
    let mut client = client.await.unwrap();
    client.write_all(b"secret").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"secret");

    // A plain dialer cannot pass: its prefix names a group that is not there.
    let mut plain = dial(addr, group(99), PATIENCE).await.unwrap();
    assert!(matches!(plain.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(acceptor.stats().unknown_group, 1);
}
