//! No socket stays behind, whenever the acceptor closes.
//!
//! Counts the file descriptors of the whole process, so it has a test binary to itself.

#![cfg(all(target_os = "linux", not(loom_model)))]

mod common;

use common::*;
use raft_mux::{MuxConfig, MuxError, dial};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Dialers, accepts, registrations and the close run at once; where the close falls is left to
/// two worker threads and to a seeded number of connections before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_at_any_moment_leaves_no_socket_and_accounts_for_every_connection() {
    let before = descriptors();
    let mut noise = Noise::new(0x6d75_7833);
    let mut handed_off = 0;
    let mut discarded = 0;
    for round in 0..60 {
        let config = MuxConfig { half_open_max: 6, queue_max: 2, ..MuxConfig::default() };
        let acceptor = loopback_with(config).await;
        let addr = acceptor.local_addr();
        let mut tasks = tokio::task::JoinSet::new();
        for id in 0..3 {
            let listener = acceptor.register(group(id)).unwrap();
            tasks.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    drop(stream);
                    tokio::task::yield_now().await;
                }
            });
        }
        let churning = acceptor.clone();
        tasks.spawn(async move {
            loop {
                match churning.register(group(3)) {
                    Ok(listener) => {
                        tokio::task::yield_now().await;
                        drop(listener);
                    }
                    Err(MuxError::Closed) => return,
                    Err(error) => panic!("only this task registers group 3: {error}"),
                }
            }
        });
        for dialer in 0..12 {
            // Groups 0 to 2 are served, 3 comes and goes, 4 is unknown.
            let id = dialer % 5;
            tasks.spawn(async move {
                while let Ok(stream) = dial(addr, group(id), PATIENCE).await {
                    if dialer < 6 {
                        until_closed(&stream).await;
                    }
                }
            });
        }
        for _ in 0..3 {
            let silent = connect_raw(addr, &[0, 0]);
            tasks.spawn(async move { until_closed(&silent).await });
        }

        let moment = noise.below(60);
        eventually("so many have come", || acceptor.stats().accepted >= moment).await;
        acceptor.close();
        acceptor.closed().await;
        let stats = acceptor.stats();
        assert_eq!((stats.half_open, stats.queued, stats.groups), (0, 0, 0), "round {round}");
        // A group's task may be between taking its last connection and counting it.
        eventually("every connection is accounted for", || {
            let stats = acceptor.stats();
            stats.accepted == stats.accounted()
        })
        .await;
        let stats = acceptor.stats();
        handed_off += stats.handed_off;
        discarded += stats.discarded;
        drop(acceptor);
        tasks.join_all().await;
    }
    println!("{handed_off} handed off, {discarded} discarded");
    assert!(handed_off > 0 && discarded > 0, "the rounds must see connections of both kinds");
    eventually("all descriptors are gone", || descriptors() <= before).await;
}
