//! Without the mux: a port per group behind the same seam, and the same promises.

#![cfg(not(loom_model))]

mod common;

use std::future::ready;
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use raft_mux::{MuxAcceptor, MuxConfig, MuxError, PortLayout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LAYOUTS: [PortLayout; 2] = [PortLayout::OnePort, PortLayout::PortPerGroup];

/// An acceptor of this layout. Ports above the base stay ours while the guard lives.
async fn acceptor_of(layout: PortLayout, config: MuxConfig) -> (MuxAcceptor, Option<Range>) {
    let config = MuxConfig { layout, ..config };
    match layout {
        PortLayout::OnePort => (loopback_with(config).await, None),
        PortLayout::PortPerGroup => {
            let range = Range::find();
            (MuxAcceptor::bind(range.base(), config).await.unwrap(), Some(range))
        }
    }
}

async fn per_group() -> (MuxAcceptor, Range) {
    let (acceptor, range) = acceptor_of(PortLayout::PortPerGroup, MuxConfig::default()).await;
    (acceptor, range.expect("a port per group has a range"))
}

fn listens(addr: SocketAddr) -> bool {
    std::net::TcpStream::connect(addr).is_ok()
}

#[tokio::test]
async fn first_byte_of_a_connection_is_the_groups_and_nothing_precedes_it() {
    let (acceptor, range) = per_group().await;
    let listener = acceptor.register(group(7)).unwrap();
    let raw = connect_raw(range.port(7), b"hello");
    let (mut stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, raw.local_addr().unwrap());
    stream.write_all(b"world").await.unwrap();
    drop(raw);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert_eq!(bytes, b"hello");

    let mut dialed =
        PortLayout::PortPerGroup.dial(acceptor.local_addr(), group(7), PATIENCE).await.unwrap();
    dialed.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = [9; 5];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0, 0, 0, 9, 1]);
}

#[tokio::test]
async fn ids_beyond_255_are_refused_by_name_on_both_sides() {
    let (acceptor, range) = per_group().await;
    for id in [256, 263, 65_543, u32::MAX] {
        let refused = acceptor.register(group(id)).unwrap_err();
        let name =
            format!("group {id} has no port of its own: without the mux ids go from 0 to 255");
        assert_eq!(refused.to_string(), name);
        let layout = PortLayout::PortPerGroup;
        let dialed = layout.dial(range.base(), group(id), PATIENCE).await;
        assert!(matches!(dialed, Err(MuxError::GroupWithoutPort { group: g }) if g == group(id)));
    }
    for port in [0, 65_281, 65_535] {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let config = MuxConfig { layout: PortLayout::PortPerGroup, ..MuxConfig::default() };
        let bound = MuxAcceptor::bind(addr, config).await;
        assert!(matches!(bound, Err(MuxError::PortBase { addr: a }) if a == addr));
    }
}

#[tokio::test]
async fn each_group_has_its_own_port_from_register_to_unregister() {
    let (acceptor, range) = per_group().await;
    assert!(!listens(range.port(0)), "nothing is open before a group registers");
    let zero = acceptor.register(group(0)).unwrap();
    let mut nine = acceptor.register(group(9)).unwrap();
    assert!(listens(range.port(0)) && listens(range.port(9)) && !listens(range.port(1)));
    // Taken at once, wherever the task of the old registration is.
    for _ in 0..100 {
        assert!(acceptor.unregister(group(9)));
        assert!(!acceptor.unregister(group(9)));
        let again = acceptor.register(group(9)).unwrap();
        drop(std::mem::replace(&mut nine, again));
    }
    assert!(listens(range.port(9)));
    drop(nine);
    drop(zero);
    assert!(!listens(range.port(0)) && !listens(range.port(9)));
    assert_eq!(acceptor.stats().groups, 0);
}

#[tokio::test]
async fn port_that_another_has_is_named_and_the_id_stays_free() {
    let (acceptor, range) = per_group().await;
    let _seven = acceptor.register(group(7)).unwrap();
    let taken = std::net::TcpListener::bind(range.port(8)).unwrap();
    let refused = acceptor.register(group(8));
    assert!(matches!(refused, Err(MuxError::Bind { addr, .. }) if addr == range.port(8)));
    assert_eq!(acceptor.stats().groups, 1);
    drop(taken);
    let _eight = acceptor.register(group(8)).unwrap();
    assert!(listens(range.port(7)) && listens(range.port(8)));
}

#[test]
fn groups_register_from_threads_that_have_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (acceptor, range) = runtime.block_on(per_group());
    let listener = acceptor.register(group(3)).unwrap();
    runtime.block_on(async {
        let _client = connect_raw(range.port(3), &[]);
        listener.accept().await.unwrap();
    });
    drop(runtime);
    assert!(!listens(range.port(3)));
    assert!(matches!(acceptor.register(group(4)), Err(MuxError::Closed)));
    assert!(!listens(range.port(4)));
}

#[tokio::test(start_paused = true)]
async fn handshake_has_its_deadline_and_no_prefix_follows() {
    let range = Range::find();
    let config = MuxConfig { layout: PortLayout::PortPerGroup, ..MuxConfig::default() };
    let handshake = |mut tcp: tokio::net::TcpStream, _| async move {
        tcp.read_exact(&mut [0; 2]).await?;
        Ok(tcp)
    };
    let acceptor = MuxAcceptor::bind_with(range.base(), config, handshake).await.unwrap();
    let listener = acceptor.register(group(1)).unwrap();
    let _good = connect_raw(range.port(1), b"hi!");
    let (mut stream, _) = busily("it is served", listener.accept()).await.unwrap();
    let mut bytes = [0; 1];
    busily("its first byte", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"!");

    let silent = connect_raw(range.port(1), b"h");
    eventually("it is half-open", || acceptor.stats().half_open == 1).await;
    tokio::time::advance(MuxConfig::default().handshake_timeout + Duration::from_millis(5)).await;
    until_closed(&silent).await;
    assert_eq!(settled(&acceptor, 2).await.handshake_failures, 1);
}

/// What an acceptor promises, asked of both layouts.
#[tokio::test]
async fn both_layouts_keep_the_same_promises() {
    for layout in LAYOUTS {
        println!("{layout:?}");
        registering_twice_leaves_the_first(layout).await;
        bytes_pass_both_ways_and_half_close_too(layout).await;
        full_queue_closes_the_newest(layout).await;
        closing_ends_all_but_what_was_handed_off(layout).await;
        dropping_the_last_handle_closes(layout).await;
    }
}

async fn registering_twice_leaves_the_first(layout: PortLayout) {
    let (acceptor, _range) = acceptor_of(layout, MuxConfig::default()).await;
    let first = acceptor.register(group(5)).unwrap();
    let second = acceptor.register(group(5));
    assert!(matches!(second, Err(MuxError::AlreadyRegistered { group: g }) if g == group(5)));
    let _client = layout.dial(acceptor.local_addr(), group(5), PATIENCE).await.unwrap();
    first.accept().await.unwrap();
    let (pending, freed) = tokio::join!(first.accept(), async { acceptor.unregister(group(5)) });
    assert!(matches!(pending, Err(MuxError::Unregistered { .. })) && freed);
    let third = acceptor.register(group(5)).unwrap();
    drop(first);
    let _client = layout.dial(acceptor.local_addr(), group(5), PATIENCE).await.unwrap();
    third.accept().await.unwrap();
}

async fn bytes_pass_both_ways_and_half_close_too(layout: PortLayout) {
    let (acceptor, _range) = acceptor_of(layout, MuxConfig::default()).await;
    let listener = acceptor.register(group(0)).unwrap();
    let handshake = |tcp| ready(Ok(tcp));
    let addr = acceptor.advertised_addr().unwrap();
    let mut client = layout.dial_with(addr, group(0), PATIENTLY, handshake).await.unwrap();
    let sent = Noise::new(0x6d75_7839).bytes(300_000);
    let (mut stream, _) = listener.accept().await.unwrap();
    let echo = async {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let ask = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), echoed) = tokio::join!(echo, ask);
    assert!(echoed == sent, "not a byte changed");
}

async fn full_queue_closes_the_newest(layout: PortLayout) {
    let config = MuxConfig { queue_max: 2, ..MuxConfig::default() };
    let (acceptor, _range) = acceptor_of(layout, config).await;
    let listener = acceptor.register(group(1)).unwrap();
    let mut clients = Vec::new();
    for count in 1..=3 {
        clients.push(layout.dial(acceptor.local_addr(), group(1), PATIENCE).await.unwrap());
        eventually("it has arrived", || {
            let stats = acceptor.stats();
            stats.queued + stats.queue_full_dropped == count
        })
        .await;
    }
    until_closed(&clients[2]).await;
    for client in &clients[..2] {
        let (_stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }
    assert_eq!(settled(&acceptor, 3).await.queue_full_dropped, 1);
}

async fn closing_ends_all_but_what_was_handed_off(layout: PortLayout) {
    let (acceptor, _range) = acceptor_of(layout, MuxConfig::default()).await;
    let base = acceptor.local_addr();
    let listeners: Vec<_> = (0..5).map(|id| acceptor.register(group(id)).unwrap()).collect();
    let mut served = layout.dial(base, group(1), PATIENCE).await.unwrap();
    let (mut stream, _) = listeners[1].accept().await.unwrap();
    let queued = layout.dial(base, group(2), PATIENCE).await.unwrap();
    eventually("it is queued", || acceptor.stats().queued == 1).await;
    let (pending, ()) = tokio::join!(listeners[3].accept(), async { acceptor.close() });
    assert!(matches!(pending, Err(MuxError::Closed)));
    until_closed(&queued).await;
    acceptor.closed().await;
    for id in 0..5 {
        let addr = layout.group_addr(base, group(id)).unwrap();
        drop(TcpListener::bind(addr).await.expect("the port is free"));
    }
    assert!(matches!(acceptor.register(group(9)), Err(MuxError::Closed)));
    assert_eq!(settled(&acceptor, 2).await.discarded, 1);
    served.write_all(b"still here").await.unwrap();
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"still here");
}

async fn dropping_the_last_handle_closes(layout: PortLayout) {
    let (acceptor, _range) = acceptor_of(layout, MuxConfig::default()).await;
    let base = acceptor.local_addr();
    let listener = acceptor.register(group(1)).unwrap();
    drop(acceptor);
    let _client = layout.dial(base, group(1), PATIENCE).await.unwrap();
    listener.accept().await.unwrap();
    drop(listener);
    let addr = layout.group_addr(base, group(1)).unwrap();
    eventually("the port is closed", || !listens(addr)).await;
}
