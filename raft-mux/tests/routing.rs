//! Connections reach the group they name, and nothing of theirs is lost or changed on the way.

#![cfg(not(loom_model))]

mod common;

use common::*;
use raft_mux::{MuxAcceptor, dial};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn golden_prefix_00_00_00_63_leads_to_group_99() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(99)).unwrap();
    let client = connect_raw(acceptor.local_addr(), b"\x00\x00\x00\x63hi");
    let (mut stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    drop(client);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"hi");
}

#[tokio::test]
async fn dial_writes_the_prefix_and_nothing_else() {
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(dial(addr, group(99), PATIENCE).await.unwrap());
    let mut bytes = Vec::new();
    listener.accept().await.unwrap().0.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0x00, 0x00, 0x00, 0x63]);
}

#[tokio::test]
async fn prefix_in_single_bytes_leaves_the_fifth_byte_to_the_group() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(0x0102_0304)).unwrap();
    let mut client = connect_raw(acceptor.local_addr(), &[]);
    for byte in 1..=6 {
        client.write_all(&[byte]).await.unwrap();
        // Let the acceptor read this byte before the next one follows.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut rest = [0; 2];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, [5, 6]);
}

#[tokio::test]
async fn no_id_is_special() {
    let acceptor = loopback().await;
    for id in [0, 1, 0xffff_ff00, u32::MAX] {
        let listener = acceptor.register(group(id)).unwrap();
        let _client = dial(acceptor.local_addr(), group(id), PATIENCE).await.unwrap();
        listener.accept().await.unwrap();
        assert_eq!(listener.group(), group(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_dials_to_each_of_two_groups_at_once_all_land_right() {
    let acceptor = loopback().await;
    for id in [7, 8] {
        let listener = acceptor.register(group(id)).unwrap();
        tokio::spawn(async move {
            for _ in 0..10 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let asked_for = stream.read_u32().await.unwrap();
                assert_eq!(asked_for, id);
                stream.write_u32(id).await.unwrap();
            }
            // Kept until the acceptor closes, so that nothing is closed early.
            listener.accept().await.unwrap_err();
        });
    }
    let mut clients = tokio::task::JoinSet::new();
    for id in [7, 8].repeat(10) {
        let addr = acceptor.local_addr();
        clients.spawn(async move {
            let mut stream = dial(addr, group(id), PATIENCE).await.unwrap();
            stream.write_u32(id).await.unwrap();
            assert_eq!(stream.read_u32().await.unwrap(), id);
        });
    }
    assert_eq!(clients.join_all().await.len(), 20);
    assert_eq!(settled(&acceptor, 20).await.handed_off, 20);
}

#[tokio::test]
async fn unknown_group_is_closed_and_the_others_are_served_on() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    for _ in 0..3 {
        let lost = connect_group(acceptor.local_addr(), 2);
        until_closed(&lost).await;
    }
    let _client = dial(acceptor.local_addr(), group(1), PATIENCE).await.unwrap();
    listener.accept().await.unwrap();
    let stats = settled(&acceptor, 4).await;
    assert_eq!((stats.unknown_group, stats.handed_off), (3, 1));
}

#[tokio::test]
async fn foreign_line_protocol_runs_unchanged_beside_a_binary_one() {
    let acceptor = loopback().await;
    let lines = acceptor.register(group(1)).unwrap();
    let binary = acceptor.register(group(2)).unwrap();
    tokio::spawn(async move {
        let (stream, _) = lines.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut requests = BufReader::new(read).lines();
        while let Some(line) = requests.next_line().await.unwrap() {
            write.write_all(format!("+{}\r\n", line.to_uppercase()).as_bytes()).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let (stream, _) = binary.accept().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });

    let client = dial(acceptor.local_addr(), group(1), PATIENCE).await.unwrap();
    let (read, mut write) = client.into_split();
    write.write_all(b"ping\r\nquit\r\n").await.unwrap();
    let mut replies = BufReader::new(read).lines();
    assert_eq!(replies.next_line().await.unwrap().unwrap(), "+PING");
    assert_eq!(replies.next_line().await.unwrap().unwrap(), "+QUIT");

    let sent = Noise::new(0x6d75_7831).bytes(1 << 20);
    let client = dial(acceptor.local_addr(), group(2), PATIENCE).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let mut echoed = Vec::new();
    let (written, received) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut echoed),
    );
    written.unwrap();
    received.unwrap();
    assert!(echoed == sent, "one MiB must come back as it was sent");
}

#[tokio::test]
async fn accept_keeps_the_order_of_arrival_and_cancelling_it_loses_nothing() {
    let acceptor = loopback().await;
    let listener = acceptor.register(group(1)).unwrap();
    let mut dialers = Vec::new();
    for count in 1..=5 {
        // Given up while nothing is there, as `select!` does.
        tokio::select! {
            biased;
            _ = listener.accept(), if count == 1 => unreachable!("nobody has dialed"),
            () = tokio::task::yield_now() => {}
        }
        dialers.push(connect_group(acceptor.local_addr(), 1));
        eventually("the connection is queued", || acceptor.stats().queued == count).await;
    }
    for dialer in &dialers {
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, dialer.local_addr().unwrap());
    }
}

#[test]
fn registering_and_closing_work_from_threads_without_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let acceptor: MuxAcceptor = runtime.block_on(loopback());
    let remote = acceptor.clone();
    let listener = std::thread::spawn(move || remote.register(group(1)).unwrap()).join().unwrap();
    let remote = acceptor.clone();
    runtime.block_on(async {
        let _client = dial(acceptor.local_addr(), group(1), PATIENCE).await.unwrap();
        listener.accept().await.unwrap();
        std::thread::spawn(move || remote.close()).join().unwrap();
        acceptor.closed().await;
    });
}
