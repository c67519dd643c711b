//! What does TLS cost a lane?
//!
//! ```text
//! cargo bench -p raft-transport --features tls --bench tls
//! ```
//!
//! Two nodes of one process, a thread each, one data lane over loopback. One sends appends as fast as
//! credit allows, the other takes them over at once. Plain and encrypted take turns, five rounds each, so that
//! whatever else the machine does falls on both; told are the medians, and the processor time of the whole
//! process per megabyte. Then: how long a new connection takes up to the mux's prefix, from the
//! dial, with and without an earlier session to go on from.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{
    Append, Entry, EntryKind, GroupId, GroupIncarnation, Incarnation, LogIndex, LogTime, Message,
    Micros, NodeId, ReplicaId, Session, Term, TermRun, TermRuns,
};
use raft_mux::{DialTimeouts, MuxAcceptor, MuxConfig, dial, dial_with};
use raft_transport::{
    Envelope, Frame, Identity, Lane, LaneConfig, LaneCounters, LaneEvent, Lanes, Network,
    PeerRegistry, TcpNetwork, Tls, TlsPeer, TlsStream,
};

#[path = "../tests/tls/certificates.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod certificates;

use certificates::{CLUSTER, Ca};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const DATA: Lane = Lane::Data { shard: 0 };
const NODES: [NodeId; 2] = [NodeId::new(1), NodeId::new(2)];
const ROUNDS: usize = 5;
const MEASURED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Tcp,
    Tls,
}

/// What one round showed.
#[derive(Clone, Copy)]
struct Round {
    messages: f64,
    megabytes: f64,
    /// Processor time of the process, in milliseconds per megabyte.
    cpu: f64,
}

fn main() -> Result<()> {
    let ca = Ca::new();
    println!("{:<12}{:>14}{:>14}{:>16}", "message", "messages/s", "MB/s", "CPU ms/MB");
    for size in [256, 16 << 10, 1 << 20] {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rounds[0].push(round(Over::Tcp, &ca, size)?);
            rounds[1].push(round(Over::Tls, &ca, size)?);
        }
        for (name, rounds) in [("plain", &rounds[0]), ("TLS", &rounds[1])] {
            let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
            println!(
                "{:<12}{:>14.0}{:>14.1}{:>16.3}",
                format!("{size} {name}"),
                of(|round| round.messages),
                of(|round| round.megabytes),
                of(|round| round.cpu)
            );
        }
        let pairs = rounds[0].iter().zip(&rounds[1]);
        let ratio = median(pairs.map(|(plain, tls)| tls.megabytes / plain.megabytes).collect());
        println!("{:<12}{ratio:>14.2} of plain, median of the pairs", "");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dials(&ca))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tls(ca: &Ca, node: NodeId) -> Result<Tls> {
    Ok(Tls::new(CLUSTER, node, ca.node(node.get()), PATIENCE)?)
}

async fn bind(tls: &Tls) -> Result<MuxAcceptor<TlsStream>> {
    let tls = tls.clone();
    let handshake = move |tcp, from| {
        let tls = tls.clone();
        async move { tls.accept(tcp, from).await }
    };
    Ok(MuxAcceptor::bind_with(any_port(), MuxConfig::default(), handshake).await?)
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A node with its port open, on the runtime of the caller.
async fn node(over: Over, ca: &Ca, at: usize) -> Result<(Arc<dyn Network>, PeerRegistry, String)> {
    let identity = Identity {
        cluster: CLUSTER.to_owned(),
        node: NODES[at],
        store: NODES[at].get().into(),
        incarnation: Incarnation::new(1),
        life: 1,
        past: Vec::new(),
        shards: 1,
        features: 0,
    };
    let registry = PeerRegistry::new(identity, |_, _| {});
    let (network, addr): (Arc<dyn Network>, _) = match over {
        Over::Tcp => {
            let acceptor = MuxAcceptor::bind(any_port(), MuxConfig::default()).await?;
            let addr = acceptor.local_addr();
            (Arc::new(TcpNetwork::new(acceptor, &[DATA], registry.clone())?), addr)
        }
        Over::Tls => {
            let tls = tls(ca, NODES[at])?;
            let acceptor = bind(&tls).await?;
            let addr = acceptor.local_addr();
            (Arc::new(TcpNetwork::covered(acceptor, tls, &[DATA], registry.clone())?), addr)
        }
    };
    Ok((network, registry, addr.to_string()))
}

fn round(over: Over, ca: &Ca, size: usize) -> Result<Round> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtimes = [runtime()?, runtime()?];
    let nodes =
        [runtimes[0].block_on(node(over, ca, 0))?, runtimes[1].block_on(node(over, ca, 1))?];
    nodes[0].1.set_peer(NODES[1], nodes[1].2.clone());
    nodes[1].1.set_peer(NODES[0], nodes[0].2.clone());
    let (taken, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let lanes = |at: usize| {
            let (network, registry, _) = &nodes[at];
            let counters = Arc::new(LaneCounters::default());
            Lanes::new(network.clone(), registry.clone(), DATA, LaneConfig::data(), counters)
        };
        let (sender, receiver) = (lanes(0), lanes(1));
        let [sending, receiving] = &runtimes;
        let (taken, over) = (&taken, &over);
        scope.spawn(move || sending.block_on(drive(sender, Some(size), taken, over)));
        scope.spawn(move || receiving.block_on(drive(receiver, None, taken, over)));
        let began = Instant::now();
        while taken.load(Relaxed) == 0 && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (before, cpu, began) = (taken.load(Relaxed), cpu()?, Instant::now());
        std::thread::sleep(MEASURED);
        let (messages, spent) = (taken.load(Relaxed) - before, cpu_since(cpu)?);
        let seconds = began.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        let megabytes = messages as f64 * size as f64 / 1e6;
        Ok(Round {
            messages: messages as f64 / seconds,
            megabytes: megabytes / seconds,
            cpu: spent * 1000.0 / megabytes,
        })
    })
}

/// Sends appends of this size as fast as they are taken, or takes them.
async fn drive(mut lanes: Lanes, size: Option<usize>, taken: &AtomicU64, over: &AtomicBool) {
    let start = tokio::time::Instant::now();
    let frame = size.map(append);
    let mut events = VecDeque::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    poll_fn(|cx| {
        // So that the end is seen where nothing moves.
        while ticks.poll_tick(cx).is_ready() {}
        let now = Micros::new(start.elapsed().as_micros() as u64);
        lanes.poll(cx, now, &mut events);
        for event in events.drain(..) {
            if let LaneEvent::Frame { connection, bytes, .. } = event {
                lanes.consumed(connection, bytes);
                taken.fetch_add(1, Relaxed);
            }
        }
        if let Some(frame) = &frame {
            while lanes.budget(NODES[1]) > 0 && lanes.send(NODES[1], frame.clone()).is_ok() {}
        }
        lanes.flush(cx, now);
        if over.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn append(size: usize) -> Frame {
    let term = Term::new(1);
    let entry = Entry {
        index: LogIndex::new(1),
        term,
        kind: EntryKind::Command,
        time: LogTime::new(0),
        payload: Bytes::from(vec![7; size]),
    };
    let append = Append {
        term,
        session: Session::new(1),
        prev_index: LogIndex::ZERO,
        prev_term: Term::ZERO,
        runs: TermRuns::from_iter([TermRun { term, count: 1 }]),
        configs: raft_core::Sparse::new(),
        commit: LogIndex::ZERO,
        quorum_durable: LogIndex::ZERO,
        acknowledge: raft_core::Acknowledge::Durable,
        time: LogTime::default(),
    };
    Frame::Message(Envelope {
        group: GroupId::new(1),
        group_incarnation: GroupIncarnation::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        message: Message::Append(append),
        entries: vec![entry],
    })
}

/// Processor time of this process so far, in seconds.
fn cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no name")?.1.split_whitespace().collect();
    // In hundredths of a second on every Linux.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

fn cpu_since(before: f64) -> Result<f64> {
    Ok(cpu()? - before)
}

/// How long it takes to a connection that may be written to.
async fn dials(ca: &Ca) -> Result<()> {
    const DIALS: usize = 300;
    let group = GroupId::new(7);
    let timeouts = DialTimeouts { connect: PATIENCE, handshake: PATIENCE };
    let host = tls(ca, NODES[1])?;
    let (plain, covered) =
        (MuxAcceptor::bind(any_port(), MuxConfig::default()).await?, bind(&host).await?);
    let (at_plain, at_covered) = (plain.register(group)?, covered.register(group)?);
    tokio::spawn(async move { while at_plain.accept().await.is_ok() {} });
    tokio::spawn(async move { while at_covered.accept().await.is_ok() {} });
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..DIALS {
        let began = Instant::now();
        drop(dial(plain.local_addr(), group, PATIENCE).await?);
        times[0].push(began.elapsed().as_secs_f64() * 1e3);
        // A fresh dialer has no session; a second dial goes on from the first.
        let dialer = tls(ca, NODES[0])?;
        for times in &mut times[1..] {
            let began = Instant::now();
            let peer = TlsPeer::Node(NODES[1]);
            let addr = covered.local_addr();
            drop(dial_with(addr, group, timeouts, |tcp| dialer.connect(tcp, peer)).await?);
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("\ndial, ms, median of {DIALS}: both ends on one thread");
    for (name, times) in ["plain", "TLS", "TLS, resumed"].into_iter().zip(times) {
        println!("{name:<14}{:>8.3}", median(times));
    }
    Ok(())
}
