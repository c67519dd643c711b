//! A dial ends in time whatever the other side does, and a failed one leaves no socket.

#![cfg(not(loom_model))]

mod common;

use std::future::{pending, ready};
use std::io;
use std::time::Duration;

use common::*;
use raft_mux::{DialTimeouts, MuxError, dial, dial_with};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Long enough for loopback to connect, short enough to wait for.
const TIMEOUT: Duration = Duration::from_millis(100);
const TIMEOUTS: DialTimeouts = DialTimeouts { connect: TIMEOUT, handshake: TIMEOUT };

#[tokio::test]
async fn dialed_stream_has_no_delay_set() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let client = dial(acceptor.local_addr(), group(1), PATIENCE).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert!(client.nodelay().unwrap());
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn refused_dial_says_who_was_dialed() {
    let port = TcpListener::bind(any_port()).await.unwrap();
    let addr = port.local_addr().unwrap();
    drop(port);
    match dial(addr, group(7), PATIENCE).await.unwrap_err() {
        MuxError::Dial { addr: dialed, group: id, source } => {
            assert_eq!((dialed, id), (addr, group(7)));
            assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
        }
        other => panic!("unexpected: {other:?}"),
    }
}

/// Where a full backlog drops further connection attempts without an answer.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn dial_into_a_black_hole_ends_with_the_timeout() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any_port()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let _backlog = [connect_raw(addr, &[]), connect_raw(addr, &[])];
    let error = dial(addr, group(1), TIMEOUT).await.unwrap_err();
    assert!(matches!(error, MuxError::DialTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn timeout_covers_the_prefix_write() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    // A real socket always has room for four bytes; a stream in front of it may not.
    let (near, _far) = tokio::io::duplex(3);
    let error = dial_with(addr, group(1), TIMEOUTS, |_tcp| ready(Ok(near))).await.unwrap_err();
    assert!(matches!(error, MuxError::DialTimeout { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn handshake_has_its_own_time_and_leaves_the_prefix_what_connecting_left() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let addr = acceptor.local_addr();
    let timeouts =
        DialTimeouts { connect: Duration::from_millis(900), handshake: Duration::from_secs(3) };
    let shaking = |seconds| {
        dial_with(addr, group(1), timeouts, move |tcp| async move {
            tokio::time::advance(Duration::from_millis(seconds * 1000_u64 - 100)).await;
            Ok(tcp)
        })
    };
    // The acceptor has no handshake, so its second for the prefix runs meanwhile.
    let _late = busily("it is dialed", shaking(3)).await.unwrap();
    let _early = busily("it is dialed", shaking(1)).await.unwrap();
    busily("it is served", listener.accept()).await.unwrap();
    let hung = dial_with::<TcpStream, _, _>(addr, group(1), timeouts, |_tcp| pending());
    let error = hung.await.unwrap_err();
    assert!(
        matches!(error, MuxError::DialTimeout { timeout, .. } if timeout == timeouts.handshake),
        "{error:?}"
    );
}

#[tokio::test]
async fn failed_or_timed_out_dial_leaves_no_socket() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();

    let hung = dial_with::<TcpStream, _, _>(addr, group(1), TIMEOUTS, |tcp| async {
        let _held = tcp;
        pending().await
    });
    assert!(matches!(hung.await, Err(MuxError::DialTimeout { .. })));
    until_closed(&listener.accept().await.unwrap().0).await;

    let refused = dial_with::<TcpStream, _, _>(addr, group(1), PATIENTLY, |_tcp| {
        ready(Err(io::ErrorKind::InvalidData.into()))
    });
    assert!(matches!(refused.await, Err(MuxError::Dial { .. })));
    until_closed(&listener.accept().await.unwrap().0).await;
}

#[tokio::test]
async fn peer_that_never_reads_does_not_hold_the_dial() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    // Nobody ever accepts or reads, yet the kernel takes the prefix.
    dial(listener.local_addr().unwrap(), group(1), PATIENCE).await.unwrap();
}
