//! What one kind of writes costs another that shares its log.
//!
//! `large`: 256-byte writes of 100 groups, alone and beside writes of 8 MiB of one more group, through the
//! disk. Next to it the raw disk: 4 KiB writes with a sync each, by three threads as by three nodes, beside
//! three that write as many large bytes as our nodes did, in pieces of 1 MiB.
//!
//! `mixed`: MemFirst and DiskFirst groups on the same logs: MemFirst of one client alone and beside 64 of
//! DiskFirst; DiskFirst of 64 alone, beside as many writes of MemFirst, and, for what a second load costs
//! by itself, beside as many of another DiskFirst group; and both as fast as they can.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerbench::load::{LoadResult, LoadSpec, Proposer, closed_loop};
use peerbench::{Args, Pool, Reporter};
use raft_harness::NodeHost;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::cluster::{self, Class, Cluster, Keeps};

const SMALL_GROUPS: u32 = 100;
const LARGE: usize = 8 << 20;
const PIECE: usize = 1 << 20;
const BLOCK: usize = 4096;

fn spec(args: &Args, clients: usize, payload: usize) -> LoadSpec {
    let measure = Duration::from_secs_f64(args.num("secs", 4.0));
    LoadSpec { clients, payload, warmup: Duration::from_secs(1), measure }
}

pub(crate) fn large(args: &Args, rep: &Reporter) {
    let hosts = cluster::start(args, &vec![Class::A; SMALL_GROUPS as usize + 1], Keeps::Snapshots);
    let dir = args.str("dir", "");
    let dirs: Vec<PathBuf> = dir.split(',').map(PathBuf::from).collect();
    let runtime = cluster::runtime(args);
    let mut ratios = Vec::new();
    let warm = args.num("turnover", 16_u64);
    runtime.block_on(turn_over(&hosts, args, warm));
    for n in 0..args.num("reps", 3) {
        let (alone, small, large) = runtime.block_on(async {
            let quiet = Cluster::of(&hosts, 1..=SMALL_GROUPS).await;
            let busy = Cluster::of(&hosts, SMALL_GROUPS + 1..=SMALL_GROUPS + 1).await;
            let (few, much) = (spec(args, SMALL_GROUPS as usize, 256), spec(args, 1, LARGE));
            let alone = closed_loop(&quiet, few, &[]).await;
            let both = tokio::join!(closed_loop(&quiet, few, &[]), closed_loop(&busy, much, &[]));
            (alone, both.0, both.1)
        });
        let large_rate = large.ops_per_s * LARGE as f64;
        let raw_alone = probe(&dirs, 0.0, args.num("secs", 4.0));
        let raw = probe(&dirs, large_rate, args.num("secs", 4.0));
        let params = |kind: &str| json!({"kind": kind, "groups": SMALL_GROUPS});
        alone.emit(rep, "W5-large", params("small writes alone"), n);
        small.emit(rep, "W5-large", params("small writes beside large"), n);
        large.emit(rep, "W5-large", params("large writes"), n);
        let ratio = small.quantile_us(0.99) / quantile(&raw, 0.99);
        ratios.push(ratio);
        for (kind, took) in [("raw 4 KiB alone", &raw_alone), ("raw 4 KiB beside large", &raw)] {
            for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
                rep.emit("W5-large", params(kind), n, name, quantile(took, q), "us", None);
            }
        }
        eprintln!(
            "256 B alone {:.0} / {:.0} us, beside {:.0} MB/s of 8 MiB writes {:.0} / {:.0} us; raw 4 KiB {:.0} / {:.0} us, \
             beside the same bytes {:.0} / {:.0} us (p50 / p99): p99 {ratio:.2} of raw",
            alone.quantile_us(0.5),
            alone.quantile_us(0.99),
            large_rate / 1e6,
            small.quantile_us(0.5),
            small.quantile_us(0.99),
            quantile(&raw_alone, 0.5),
            quantile(&raw_alone, 0.99),
            quantile(&raw, 0.5),
            quantile(&raw, 0.99),
        );
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let params = json!({"groups": SMALL_GROUPS});
    rep.emit("W5-large", params, 0, "p99_of_raw", ratios[ratios.len() / 2], "ratio", None);
    for host in &hosts {
        host.stop();
    }
    runtime.shutdown_background();
}

/// Writes small and large entries until every log has used so many segments again: from then on little is
/// prepared beside the appends. With zero, not at all.
async fn turn_over(hosts: &[NodeHost], args: &Args, segments: u64) {
    let quiet = Cluster::of(hosts, 1..=SMALL_GROUPS).await;
    let busy = Cluster::of(hosts, SMALL_GROUPS + 1..=SMALL_GROUPS + 1).await;
    let reused = |host: &NodeHost| host.status().counters.log_segments_reused;
    let begin = Instant::now();
    while hosts.iter().any(|host| reused(host) < segments) {
        let load = |clients, payload| LoadSpec {
            warmup: Duration::ZERO,
            measure: Duration::from_secs(1),
            ..spec(args, clients, payload)
        };
        let small = closed_loop(&quiet, load(SMALL_GROUPS as usize, 256), &[]);
        tokio::join!(small, closed_loop(&busy, load(2, LARGE), &[]));
        let all: Vec<u64> = hosts.iter().map(reused).collect();
        eprintln!("{:?}: segments used again {all:?}", begin.elapsed());
    }
}

/// Latencies of 4 KiB writes with a sync each, by one thread for each of three nodes, while another one for
/// each writes `rate` bytes a second in pieces of 1 MiB with a sync each. Nanoseconds, sorted.
fn probe(dirs: &[PathBuf], rate: f64, secs: f64) -> Vec<u64> {
    let stop = AtomicBool::new(false);
    let mut all = Vec::new();
    thread::scope(|scope| {
        let mut small = Vec::new();
        for node in 0..3 {
            let dir = &dirs[node % dirs.len()];
            let file = written(&dir.join(format!("raw-small-{node}")), 4 * PIECE);
            let stop = &stop;
            small.push(scope.spawn(move || {
                let buffer = noise(BLOCK);
                let (mut took, mut at) = (Vec::new(), 0);
                while !stop.load(Relaxed) {
                    let begin = Instant::now();
                    write(&file, &buffer, BLOCK, at);
                    took.push(begin.elapsed().as_nanos() as u64);
                    at = (at + BLOCK as u64) % (4 * PIECE) as u64;
                }
                took
            }));
            if rate > 0.0 {
                let file = written(&dir.join(format!("raw-large-{node}")), 64 * PIECE);
                scope.spawn(move || {
                    let buffer = noise(PIECE);
                    let (begin, mut pieces) = (Instant::now(), 0_u64);
                    while !stop.load(Relaxed) {
                        write(&file, &buffer, PIECE, pieces % 64 * PIECE as u64);
                        pieces += 1;
                        let due = Duration::from_secs_f64((pieces * PIECE as u64) as f64 / rate);
                        thread::sleep(due.saturating_sub(begin.elapsed()));
                    }
                });
            }
        }
        thread::sleep(Duration::from_secs_f64(secs));
        stop.store(true, Relaxed);
        for thread in small {
            all.extend(thread.join().expect("it writes"));
        }
    });
    all.sort_unstable();
    all
}

/// A file of so many bytes, all of them written, for direct writes.
fn written(path: &Path, bytes: usize) -> File {
    let file = File::create(path).expect("a new file");
    let mut pool = Pool::new(PIECE);
    for at in (0..bytes).step_by(PIECE) {
        file.write_all_at(&pool.next(), at as u64).expect("a sound disk");
    }
    file.sync_all().expect("a sound disk");
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
    direct.expect("a file system with direct writes")
}

/// So much noise from a block of memory on, which is found by [`write`].
fn noise(bytes: usize) -> Vec<u8> {
    let mut pool = Pool::new(PIECE);
    let mut buffer = Vec::new();
    while buffer.len() < bytes + BLOCK {
        buffer.extend_from_slice(&pool.next());
    }
    buffer
}

fn write(file: &File, buffer: &[u8], bytes: usize, at: u64) {
    let begin = buffer.as_ptr().align_offset(BLOCK);
    file.write_all_at(&buffer[begin..begin + bytes], at).expect("a sound disk");
    file.sync_data().expect("a sound disk");
}

/// In microseconds.
fn quantile(sorted: &[u64], q: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).map_or(f64::NAN, |took| *took as f64 / 1000.0)
}

/// A write of the one for each write of the other: as many bytes of both.
#[derive(Clone)]
enum InStep {
    Leads(Cluster, Arc<Semaphore>),
    Follows(Cluster, Arc<Semaphore>),
}

impl Proposer for InStep {
    async fn propose(&self, client: usize, payload: Bytes) -> Result<(), String> {
        match self {
            Self::Leads(cluster, turns) => {
                let done = cluster.propose(client, payload).await;
                turns.add_permits(1);
                done
            }
            Self::Follows(cluster, turns) => {
                turns.acquire().await.map_err(|e| e.to_string())?.forget();
                cluster.propose(client, payload).await
            }
        }
    }
}

/// Writes of 64 clients of one group beside as many of another: the latencies of the former.
async fn in_step(leads: &Cluster, follows: &Cluster, load: LoadSpec) -> (LoadResult, LoadResult) {
    let turns = Arc::new(Semaphore::new(0));
    let leads = InStep::Leads(leads.clone(), Arc::clone(&turns));
    let follows = InStep::Follows(follows.clone(), Arc::clone(&turns));
    // Whoever is behind at the end waits for nobody.
    let both = async {
        let leads = closed_loop(&leads, load, &[]).await;
        turns.add_permits(1 << 20);
        leads
    };
    tokio::join!(both, closed_loop(&follows, load, &[]))
}

/// What a question and its answer take on the loopback interface, in microseconds: the median.
fn round_trip() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
    let there = listener.local_addr().expect("it is bound");
    let answers = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("somebody asks");
        peer.set_nodelay(true).expect("a socket");
        let mut question = [0; 300];
        while peer.read_exact(&mut question).is_ok() && peer.write_all(&question).is_ok() {}
    });
    let mut peer = TcpStream::connect(there).expect("it listens");
    peer.set_nodelay(true).expect("a socket");
    let mut took: Vec<u64> = (0..5_000)
        .map(|_| {
            let (begin, mut answer) = (Instant::now(), [7; 300]);
            peer.write_all(&answer).expect("it listens");
            peer.read_exact(&mut answer).expect("it answers");
            begin.elapsed().as_nanos() as u64
        })
        .collect();
    drop(peer);
    answers.join().expect("it ends");
    took.sort_unstable();
    quantile(&took, 0.5)
}

pub(crate) fn mixed(args: &Args, rep: &Reporter) {
    let hosts = cluster::start(args, &[Class::B, Class::A, Class::A], Keeps::Snapshots);
    let runtime = cluster::runtime(args);
    let mut ratios: [Vec<f64>; 4] = Default::default();
    for n in 0..args.num("reps", 3) {
        let trip = round_trip();
        let rows: Vec<(&str, LoadResult)> = runtime.block_on(async {
            let mem = Cluster::of(&hosts, 1..=1).await;
            let disk = Cluster::of(&hosts, 2..=2).await;
            let other = Cluster::of(&hosts, 3..=3).await;
            let (one, many) = (spec(args, 1, 256), spec(args, 64, 256));
            let mut rows = Vec::new();
            rows.push(("MemFirst, 1 client alone", closed_loop(&mem, one, &[]).await));
            let (a, _) = tokio::join!(closed_loop(&mem, one, &[]), closed_loop(&disk, many, &[]));
            rows.push(("MemFirst, 1 client beside 64 of DiskFirst", a));
            rows.push(("DiskFirst, 64 clients alone", closed_loop(&disk, many, &[]).await));
            let (a, b) = in_step(&disk, &mem, many).await;
            rows.push(("DiskFirst, 64 clients beside as many writes of MemFirst", a));
            rows.push(("MemFirst, as many writes as of DiskFirst", b));
            let (a, _) = in_step(&disk, &other, many).await;
            rows.push(("DiskFirst, 64 clients beside as many writes of DiskFirst", a));
            let (a, b) = tokio::join!(closed_loop(&disk, many, &[]), closed_loop(&mem, many, &[]));
            rows.push(("DiskFirst, 64 clients beside 64 of MemFirst", a));
            rows.push(("MemFirst, 64 clients beside 64 of DiskFirst", b));
            rows
        });
        let of = |at: usize, beside: usize, q| {
            let (at, beside) = (&rows[at].1, &rows[beside].1);
            beside.quantile_us(q) / at.quantile_us(q)
        };
        let now = [of(0, 1, 0.5), of(2, 3, 0.5), of(2, 3, 0.99), of(5, 3, 0.5)];
        ratios.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
        eprintln!("loopback round trip: p50 {trip:.0} us");
        for (kind, row) in rows {
            let params: Value = json!({"kind": kind});
            row.emit(rep, "W3-mixed", params, n);
            eprintln!(
                "{kind}: {:.0}/s, p50 {:.0} us, p99 {:.0} us",
                row.ops_per_s,
                row.quantile_us(0.5),
                row.quantile_us(0.99)
            );
        }
    }
    let kinds = [
        "MemFirst p50, 1 client beside 64 of DiskFirst, of alone",
        "DiskFirst p50 beside as many writes of MemFirst, of alone",
        "DiskFirst p99 beside as many writes of MemFirst, of alone",
        "DiskFirst p50 beside as many writes of MemFirst, of beside as many of DiskFirst",
    ];
    for (kind, mut all) in kinds.into_iter().zip(ratios) {
        all.sort_unstable_by(f64::total_cmp);
        let ratio = all[all.len() / 2];
        rep.emit("W3-mixed", json!({"kind": kind}), 0, "ratio", ratio, "ratio", None);
        eprintln!("{kind}: {ratio:.2}");
    }
    for host in &hosts {
        host.stop();
    }
    runtime.shutdown_background();
}
