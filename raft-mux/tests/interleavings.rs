//! No socket stays behind, in whatever order things happen at once.
//!
//! Each seed is a random history of one acceptor: groups come and go, connections stop anywhere
//! within their prefix, accepts and dials are given up, handles are dropped, time passes, and it
//! all ends by a close, by dropping the last handle or with the runtime. Between two steps the
//! acceptor's tasks run for a random while. Then the process has exactly as many descriptors as
//! before, and every connection that was taken ended in one counter.
//!
//! ```text
//! cargo test -p raft-mux --test interleavings                                  # some hundred
//! RAFT_MUX_INTERLEAVINGS=10000 cargo test -p raft-mux --test interleavings     # all of them
//! RAFT_MUX_SEED=17 cargo test -p raft-mux --test interleavings                 # one
//! ```
//!
//! Counts the file descriptors of the whole process, so it has a test binary to itself.

#![cfg(all(target_os = "linux", not(loom_model)))]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range as Numbers;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use raft_mux::{GroupListener, MuxAcceptor, MuxConfig, MuxStats, PortLayout, encode_prefix};
use tokio::runtime::Builder;
use tokio::task::{AbortHandle, yield_now};

/// Of the normal run: about a second.
const INTERLEAVINGS: u64 = 400;
const GROUPS: u64 = 4;
const STEPS: u64 = 40;

#[test]
fn no_order_of_events_leaves_a_socket_or_loses_count_of_a_connection() {
    let range = Range::find();
    // Opens what tokio opens once in a process and keeps.
    drop(Builder::new_current_thread().enable_all().build().unwrap());
    let mut seen = Seen::default();
    for seed in seeds() {
        seen.add(run(seed, &range));
    }
    println!("{seen:?}");
    if !one_seed_only() {
        seen.assert_complete();
    }
}

fn seeds() -> Numbers<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let all = 0..number("RAFT_MUX_INTERLEAVINGS").unwrap_or(INTERLEAVINGS);
    number("RAFT_MUX_SEED").map_or(all, |seed| seed..seed + 1)
}

fn one_seed_only() -> bool {
    std::env::var_os("RAFT_MUX_SEED").is_some()
}

/// What became of all connections together: a run that sees none of a kind proves nothing of it.
#[derive(Debug, Default)]
struct Seen {
    handed_off: u64,
    prefix_timeouts: u64,
    prefix_failures: u64,
    half_open_evicted: u64,
    unknown_group: u64,
    queue_full_dropped: u64,
    discarded: u64,
    ends: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn add(&mut self, (stats, end): (MuxStats, End)) {
        self.handed_off += stats.handed_off;
        self.prefix_timeouts += stats.prefix_timeouts;
        self.prefix_failures += stats.prefix_failures;
        self.half_open_evicted += stats.half_open_evicted;
        self.unknown_group += stats.unknown_group;
        self.queue_full_dropped += stats.queue_full_dropped;
        self.discarded += stats.discarded;
        *self.ends.entry(end.name()).or_default() += 1;
    }

    fn assert_complete(&self) {
        let counts = [
            self.handed_off,
            self.prefix_timeouts,
            self.prefix_failures,
            self.half_open_evicted,
            self.unknown_group,
            self.queue_full_dropped,
            self.discarded,
        ];
        assert!(counts.iter().all(|count| *count > 0) && self.ends.len() == 3, "{self:?}");
    }
}

/// How a history ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Close,
    DropHandles,
    Runtime,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::DropHandles => "drop handles",
            Self::Runtime => "end runtime",
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("this is Linux").count()
}

/// One history; panics name its seed.
fn run(seed: u64, range: &Range) -> (MuxStats, End) {
    println!("seed {seed}");
    let outside = descriptors();
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    // xorshift makes little of neighbouring seeds at first.
    let mut noise = Noise::quiet(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let end = [End::Close, End::DropHandles, End::Runtime][noise.below(3) as usize];
    let (acceptor, history) = runtime.block_on(async {
        let inside = descriptors();
        let mut history = History::begin(noise, range).await;
        for _ in 0..STEPS {
            history.step().await;
        }
        let acceptor = history.acceptor.clone();
        match end {
            End::Close => {
                acceptor.close();
                busily("closing ends every task", acceptor.closed()).await;
                history.give_up().await;
                assert_eq!(descriptors(), inside, "after closing");
                (Some(acceptor), None)
            }
            End::DropHandles => {
                // Nothing of ours is left that could be asked for counters.
                drop(acceptor);
                history.give_up().await;
                settle_at(inside).await;
                (None, None)
            }
            End::Runtime => (Some(acceptor), Some(history)),
        }
    });
    drop(runtime);
    drop(history);
    assert_eq!(descriptors(), outside, "after the runtime");
    let stats = acceptor.map_or_else(MuxStats::default, |acceptor| acceptor.stats());
    assert_eq!((stats.groups, stats.half_open, stats.queued), (0, 0, 0), "{stats:?}");
    assert_eq!(stats.accepted, stats.accounted(), "{stats:?}");
    (stats, end)
}

/// The tasks of an acceptor that nobody holds end when they run next.
async fn settle_at(count: usize) {
    eventually("all descriptors are gone", || descriptors() == count).await;
}

struct History {
    noise: Noise,
    layout: PortLayout,
    acceptor: MuxAcceptor,
    base: SocketAddr,
    listeners: BTreeMap<u64, Arc<GroupListener>>,
    /// Each with the bytes of its prefix that have left.
    clients: Vec<(TcpStream, [u8; 4], usize)>,
    tasks: Vec<AbortHandle>,
}

impl History {
    async fn begin(mut noise: Noise, range: &Range) -> Self {
        let layout = match noise.below(2) {
            0 => PortLayout::OnePort,
            _ => PortLayout::PortPerGroup,
        };
        let addr = match layout {
            PortLayout::OnePort => any_port(),
            PortLayout::PortPerGroup => range.base(),
        };
        let config = MuxConfig {
            layout,
            half_open_max: 1 + noise.below(4) as usize,
            queue_max: 1 + noise.below(2) as usize,
            ..MuxConfig::default()
        };
        let acceptor = MuxAcceptor::bind(addr, config).await.expect("the range is ours");
        let base = acceptor.local_addr();
        let (listeners, clients, tasks) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { noise, layout, acceptor, base, listeners, clients, tasks }
    }

    async fn step(&mut self) {
        let id = self.noise.below(GROUPS);
        match self.noise.below(16) {
            0..3 => {
                if let Ok(listener) = self.acceptor.register(group(id as u32)) {
                    // One that was unregistered behind its back ends here.
                    self.listeners.insert(id, Arc::new(listener));
                }
            }
            3 => drop(self.listeners.remove(&id)),
            4 => {
                self.acceptor.unregister(group(id as u32));
            }
            5..8 => self.connect(id),
            8..11 => self.write_some(),
            11 => self.leave(),
            12 => {
                let Some(listener) = self.listeners.get(&id).cloned() else { return };
                self.tasks.push(tokio::spawn(accept(listener)).abort_handle());
            }
            13 => {
                let dialing = dial_and_leave(self.layout, self.base, id as u32);
                self.tasks.push(tokio::spawn(dialing).abort_handle());
            }
            14 => {
                let count = self.tasks.len() as u64;
                if count > 0 {
                    self.tasks[self.noise.below(count) as usize].abort();
                }
            }
            _ => match self.noise.below(40) {
                0 => self.acceptor.close(),
                1..15 => tokio::time::advance(Duration::from_millis(600)).await,
                _ => {}
            },
        }
        for _ in 0..self.noise.below(4) {
            yield_now().await;
        }
    }

    fn connect(&mut self, id: u64) {
        let asked = group(id as u32);
        let addr = self.layout.group_addr(self.base, asked).expect("the ids are small");
        // Refused where nobody listens.
        if let Ok(client) = TcpStream::connect(addr) {
            client.set_nodelay(true).unwrap();
            self.clients.push((client, encode_prefix(asked), 0));
        }
    }

    fn write_some(&mut self) {
        let count = self.clients.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.noise.below(count) as usize;
        let until = 1 + self.noise.below(4) as usize;
        let (client, prefix, sent) = &mut self.clients[at];
        if until > *sent {
            // The other end may be closed already.
            let _ = client.write_all(&prefix[*sent..until]);
            *sent = until;
        }
    }

    /// A client hangs up, every other time by a reset.
    fn leave(&mut self) {
        let count = self.clients.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.noise.below(count) as usize;
        let (client, ..) = self.clients.swap_remove(at);
        if self.noise.below(2) == 0 {
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        }
    }

    /// Lets everything go that is not the acceptor's.
    async fn give_up(self) {
        for task in &self.tasks {
            task.abort();
        }
        let tasks = self.tasks.clone();
        drop(self);
        eventually("all tasks have ended", || tasks.iter().all(AbortHandle::is_finished)).await;
    }
}

/// Takes one connection and hangs up.
async fn accept(listener: Arc<GroupListener>) {
    let _ = listener.accept().await;
}

async fn dial_and_leave(layout: PortLayout, base: SocketAddr, id: u32) {
    let _ = layout.dial(base, group(id), PATIENCE).await;
}
