//! Does one port for all groups cost anything against one port per group?
//!
//! ```text
//! cargo bench -p raft-mux --bench one_port_or_many
//! ```
//!
//! Both sides run the same echo server and the same clients in one process over loopback, in
//! turns, so that a noisy machine disturbs both alike. A *connect* is a new connection up to its
//! first echoed byte; with one port that includes prefix and hand-off. A *round trip* is 64 bytes
//! there and back on a connection that exists, a *transfer* 64 KiB. The first of the rounds is not
//! counted. The last lines are pairs: one port in relation to the other in the same round, at the
//! median of the rounds, and between which values the middle eight of ten rounds lie.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raft_core::GroupId;
use raft_mux::{MuxAcceptor, MuxConfig, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const GROUPS: u32 = 16;
const ROUNDS: usize = 21;
/// Connections and round trips per group and round. Kept low: each connection leaves a port in
/// TIME_WAIT, and running out of those would be all we measure.
const CONNECTS: usize = 16;
const ROUND_TRIPS: usize = 100;
/// Of 64 KiB each way, per group and round.
const TRANSFERS: usize = 64;
const TRANSFER_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How group `n` is reached.
#[derive(Clone)]
enum Layout {
    OnePort(SocketAddr),
    PortPerGroup(Vec<SocketAddr>),
}

#[derive(Default)]
struct Measured {
    connects_per_second: Vec<f64>,
    connect_times: Vec<Duration>,
    round_trips: Vec<Duration>,
    megabytes_per_second: Vec<f64>,
    /// Of each round: connects/s, median round trip, its 99th percentile, MB/s.
    rounds: Vec<[f64; 4]>,
}

const PAIRED: [&str; 4] = ["connects/s", "echo p50", "echo p99", "MB/s"];

#[tokio::main]
async fn main() -> Result<()> {
    let acceptor = MuxAcceptor::bind("127.0.0.1:0".parse()?, MuxConfig::default()).await?;
    let mut ports = Vec::new();
    for group in 0..GROUPS {
        let listener = acceptor.register(GroupId::new(group))?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ports.push(listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The mux does this for its groups.
                let _ = stream.set_nodelay(true);
                tokio::spawn(echo(stream));
            }
        });
    }

    let mut sides = [
        ("port per group", Layout::PortPerGroup(ports), Measured::default()),
        ("one port", Layout::OnePort(acceptor.local_addr()), Measured::default()),
    ];
    for round in 0..ROUNDS {
        // Who goes first alternates as well.
        sides.reverse();
        for (_, layout, measured) in &mut sides {
            run(layout, measured).await?;
            if round == 0 {
                *measured = Measured::default();
            }
        }
    }

    println!(
        "{GROUPS} groups, {} rounds, {} threads",
        ROUNDS - 1,
        std::thread::available_parallelism()?
    );
    println!(
        "{:<16}{:>12}{:>14}{:>14}{:>14}{:>14}{:>10}",
        "", "connects/s", "connect p50", "connect p99", "echo p50", "echo p99", "MB/s"
    );
    sides.sort_by_key(|(name, ..)| std::cmp::Reverse(*name));
    for (name, _, measured) in &mut sides {
        measured.connects_per_second.sort_by(f64::total_cmp);
        measured.connect_times.sort();
        measured.round_trips.sort();
        measured.megabytes_per_second.sort_by(f64::total_cmp);
        println!(
            "{name:<16}{:>12.0}{:>14.1?}{:>14.1?}{:>14.1?}{:>14.1?}{:>10.0}",
            percentile(&measured.connects_per_second, 50),
            percentile(&measured.connect_times, 50),
            percentile(&measured.connect_times, 99),
            percentile(&measured.round_trips, 50),
            percentile(&measured.round_trips, 99),
            percentile(&measured.megabytes_per_second, 50),
        );
    }
    let [(_, _, many), (_, _, one)] = &sides;
    for (at, name) in PAIRED.iter().enumerate() {
        let pairs = many.rounds.iter().zip(&one.rounds);
        let mut ratios: Vec<f64> = pairs.map(|(many, one)| one[at] / many[at]).collect();
        ratios.sort_by(f64::total_cmp);
        let [low, median, high] = [10, 50, 90].map(|percent| percentile(&ratios, percent));
        println!("one port / port per group, {name:<12}{median:.3}  ({low:.3} to {high:.3})");
    }
    Ok(())
}

/// One client per group, all at once: connections first, then round trips on the last of them.
async fn run(layout: &Layout, measured: &mut Measured) -> Result<()> {
    let start = Instant::now();
    let mut connecting = JoinSet::new();
    for group in 0..GROUPS {
        let layout = layout.clone();
        connecting.spawn(async move {
            let mut times = Vec::with_capacity(CONNECTS);
            loop {
                let start = Instant::now();
                let mut stream = connect(&layout, group).await?;
                round_trip(&mut stream, &mut [0; 1]).await?;
                times.push(start.elapsed());
                if times.len() == CONNECTS {
                    return Ok::<_, Box<dyn Error + Send + Sync>>((stream, times));
                }
            }
        });
    }
    let connected = connecting.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let connects = connected.len() * CONNECTS;
    let connects_per_second = connects as f64 / start.elapsed().as_secs_f64();
    measured.connects_per_second.push(connects_per_second);

    let mut trips = JoinSet::new();
    for (mut stream, times) in connected {
        measured.connect_times.extend(times);
        trips.spawn(async move {
            let mut times = Vec::with_capacity(ROUND_TRIPS);
            for _ in 0..ROUND_TRIPS {
                let start = Instant::now();
                round_trip(&mut stream, &mut [0; 64]).await?;
                times.push(start.elapsed());
            }
            Ok((stream, times))
        });
    }
    let tripped = trips.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let mut times: Vec<_> = tripped.iter().flat_map(|(_, times)| times).copied().collect();
    times.sort();

    let start = Instant::now();
    let mut transfers = JoinSet::new();
    for (mut stream, _) in tripped {
        transfers.spawn(async move {
            let mut bytes = vec![0; TRANSFER_BYTES];
            for _ in 0..TRANSFERS {
                round_trip(&mut stream, &mut bytes).await?;
            }
            Ok(())
        });
    }
    let ended: Vec<Result<()>> = transfers.join_all().await;
    let bytes = (ended.len() * TRANSFERS * TRANSFER_BYTES) as f64;
    ended.into_iter().collect::<Result<()>>()?;
    let megabytes_per_second = bytes / 1e6 / start.elapsed().as_secs_f64();

    let micros = |percent| percentile(&times, percent).as_secs_f64() * 1e6;
    let round = [connects_per_second, micros(50), micros(99), megabytes_per_second];
    measured.rounds.push(round);
    measured.megabytes_per_second.push(megabytes_per_second);
    measured.round_trips.extend(times);
    Ok(())
}

async fn connect(layout: &Layout, group: u32) -> Result<TcpStream> {
    match layout {
        Layout::OnePort(addr) => Ok(dial(*addr, GroupId::new(group), TIMEOUT).await?),
        Layout::PortPerGroup(addrs) => {
            let addr = addrs[group as usize];
            let stream = tokio::time::timeout(TIMEOUT, TcpStream::connect(addr)).await??;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
    }
}

async fn round_trip(stream: &mut TcpStream, bytes: &mut [u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    stream.read_exact(bytes).await?;
    Ok(())
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; TRANSFER_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

fn percentile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() - 1) * percent / 100]
}
