//! Registering, unregistering and closing: an id belongs to one listener at a time, and closing
//! ends everything at once.

#![cfg(not(loom_model))]

mod common;

use common::*;
use raft_mux::{MuxAcceptor, MuxConfig, MuxError, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn registering_twice_fails_and_leaves_the_first_intact() {
    let acceptor = loopback().await;
    let first = acceptor.register(group(5)).unwrap();
    let second = acceptor.register(group(5));
    assert!(matches!(second, Err(MuxError::AlreadyRegistered { group: g }) if g == group(5)));
    let _client = dial(acceptor.local_addr(), group(5), PATIENCE).await.unwrap();
    first.accept().await.unwrap();
}

#[tokio::test]
async fn unregistering_frees_the_id_and_the_old_listener_cannot_harm_the_new() {
    let acceptor = loopback().await;
    let old = acceptor.register(group(5)).unwrap();
    assert!(acceptor.unregister(group(5)));
    assert!(!acceptor.unregister(group(5)));
    let new = acceptor.register(group(5)).unwrap();
    assert!(matches!(old.accept().await, Err(MuxError::Unregistered { .. })));
    drop(old);
    let _client = dial(acceptor.local_addr(), group(5), PATIENCE).await.unwrap();
    new.accept().await.unwrap();
    assert_eq!(acceptor.stats().groups, 1);
}

#[tokio::test]
async fn dropping_a_listener_frees_the_id_and_closes_its_queue() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(5)).unwrap();
    let waiting = connect_group(acceptor.local_addr(), 5);
    eventually("it is queued", || acceptor.stats().queued == 1).await;
    drop(listener);
    until_closed(&waiting).await;
    assert_eq!(settled(&acceptor, 1).await.discarded, 1);
    acceptor.register(group(5)).unwrap();
}

#[tokio::test]
async fn unregistering_wakes_every_pending_accept() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(5)).unwrap();
    let (one, two, freed) =
        tokio::join!(listener.accept(), listener.accept(), async { acceptor.unregister(group(5)) });
    assert!(matches!(one, Err(MuxError::Unregistered { .. })));
    assert!(matches!(two, Err(MuxError::Unregistered { .. })));
    assert!(freed);
}

#[tokio::test]
async fn closing_wakes_pending_accepts_of_all_groups_and_frees_the_port() {
    let acceptor = loopback().await;
    let pending: Vec<_> = (0..10)
        .map(|id| {
            let listener = acceptor.register(group(id)).unwrap();
            tokio::spawn(async move { listener.accept().await })
        })
        .collect();
    tokio::task::yield_now().await;
    acceptor.close();
    for accept in pending {
        assert!(matches!(accept.await.unwrap(), Err(MuxError::Closed)));
    }
    acceptor.closed().await;
    TcpListener::bind(acceptor.local_addr()).await.expect("the port is free");
}

#[tokio::test]
async fn closing_twice_is_fine_and_registering_afterwards_is_an_error() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    acceptor.close();
    acceptor.close();
    acceptor.closed().await;
    acceptor.close();
    acceptor.closed().await;
    assert!(matches!(acceptor.register(group(2)), Err(MuxError::Closed)));
    assert!(matches!(acceptor.register(group(1)), Err(MuxError::Closed)));
    assert!(matches!(listener.accept().await, Err(MuxError::Closed)));
    assert!(!acceptor.unregister(group(1)));
}

#[tokio::test]
async fn closing_ends_queued_and_half_open_connections_but_not_those_handed_off() {
    let acceptor = loopback().await;
    let addr = acceptor.local_addr();
    let listener = acceptor.register(group(1)).unwrap();
    let mut served = connect_group(addr, 1);
    let (mut stream, _) = listener.accept().await.unwrap();
    let queued = connect_group(addr, 1);
    let silent = connect_raw(addr, &[]);
    let halfway = connect_raw(addr, &[0, 0, 0]);
    eventually("all have arrived", || {
        let stats = acceptor.stats();
        stats.queued == 1 && stats.half_open == 2
    })
    .await;

    acceptor.close();
    for cut in [&queued, &silent, &halfway] {
        until_closed(cut).await;
    }
    acceptor.closed().await;
    assert_eq!(settled(&acceptor, 4).await.discarded, 3);

    served.write_all(b"still here").await.unwrap();
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"still here");
}

#[tokio::test]
async fn dropping_the_last_handle_closes_and_a_listener_counts_as_one() {
    let acceptor = loopback().await;
    let addr = acceptor.local_addr();
    let listener = acceptor.register(group(1)).unwrap();
    drop(acceptor);
    let client = dial(addr, group(1), PATIENCE).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    drop(listener);
    eventually("the port is closed", || std::net::TcpStream::connect(addr).is_err()).await;
    assert!(!is_closed(&client), "handed off, so not ours to close");
    drop(stream);
}

#[test]
fn end_of_the_runtime_closes_the_acceptor() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let acceptor: MuxAcceptor = runtime.block_on(loopback());
    let listener = acceptor.register(group(1)).unwrap();
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        assert!(matches!(listener.accept().await, Err(MuxError::Closed)));
        acceptor.closed().await;
    });
}

#[tokio::test]
async fn port_zero_is_reported_and_advertised_as_the_real_port() {
    let acceptor = loopback().await;
    assert_ne!(acceptor.local_addr().port(), 0);
    assert_eq!(acceptor.advertised_addr().unwrap(), acceptor.local_addr());
}

#[tokio::test]
async fn wildcard_is_never_advertised() {
    let any = "0.0.0.0:0".parse().unwrap();
    let acceptor = MuxAcceptor::bind(any, MuxConfig::default()).await.unwrap();
    assert!(matches!(acceptor.advertised_addr(), Err(MuxError::WildcardAddress { .. })));

    for wildcard in ["0.0.0.0:7000", "[::]:7000", "[::ffff:0.0.0.0]:7000"] {
        let advertise = Some(wildcard.parse().unwrap());
        let config = MuxConfig { advertise, ..MuxConfig::default() };
        let bound = MuxAcceptor::bind(any, config).await;
        assert!(matches!(bound, Err(MuxError::WildcardAddress { .. })), "{wildcard}");
    }
}

#[tokio::test]
async fn advertised_address_is_the_configured_one_and_its_port_zero_the_bound_one() {
    let any = "0.0.0.0:0".parse().unwrap();
    for (advertise, port) in [("192.0.2.1:7000", Some(7000)), ("192.0.2.1:0", None)] {
        let advertise = Some(advertise.parse().unwrap());
        let config = MuxConfig { advertise, ..MuxConfig::default() };
        let acceptor = MuxAcceptor::bind(any, config).await.unwrap();
        let advertised = acceptor.advertised_addr().unwrap();
        assert_eq!(advertised.ip().to_string(), "192.0.2.1");
        assert_eq!(advertised.port(), port.unwrap_or_else(|| acceptor.local_addr().port()));
    }
}

#[tokio::test]
async fn port_in_use_and_zero_limits_are_typed_errors() {
    let acceptor = loopback().await;
    let again = MuxAcceptor::bind(acceptor.local_addr(), MuxConfig::default()).await;
    assert!(matches!(again, Err(MuxError::Bind { addr, .. }) if addr == acceptor.local_addr()));

    let zeros = [
        ("half_open_max", MuxConfig { half_open_max: 0, ..MuxConfig::default() }),
        ("handshakes_max", MuxConfig { handshakes_max: 0, ..MuxConfig::default() }),
        (
            "handshakes_per_address_max",
            MuxConfig { handshakes_per_address_max: 0, ..MuxConfig::default() },
        ),
        ("queue_max", MuxConfig { queue_max: 0, ..MuxConfig::default() }),
        ("listen_backlog", MuxConfig { listen_backlog: 0, ..MuxConfig::default() }),
    ];
    for (name, config) in zeros {
        let refused = MuxAcceptor::bind(any_port(), config).await;
        assert!(matches!(refused, Err(MuxError::ZeroLimit { field }) if field == name));
    }
}
