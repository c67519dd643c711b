//! What does one commit cost in the core, and what an idle group?
//!
//! Three replicas on one thread, no disk, no sockets; windows of 1, 64 and 1024 outstanding
//! commands of 16 B and 1 KiB. Prints commits per second, processor time and allocations per
//! commit. Beside another library, in one run: `raft-harness/benches/peers/core`.
//!
//! ```sh
//! cargo bench -p raft-core --bench core                       # everything
//! cargo bench -p raft-core --bench core -- --window 64 --payload 16 --commits 2000000
//! cargo bench -p raft-core --bench core -- --idle 100000
//! ```
//!
//! A fixed count of commits makes instruction counts of two builds comparable:
//! `valgrind --tool=callgrind <the binary> --window 64 --commits 200000`.

mod counting;
mod idle;
mod trio;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::idle::Idle;
use crate::trio::Trio;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Entries each replica keeps behind the newest.
const KEEP: u64 = 4096;
/// Commits before measuring: every queue has found its size.
const WARM_UP: u64 = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |key: &str| -> Option<u64> {
        let at = arguments.iter().position(|argument| argument == key)?;
        Some(arguments.get(at + 1)?.parse().expect("a number"))
    };
    if let Some(groups) = number("--idle") {
        return print_idle(groups as u32);
    }
    // Without `cargo bench` this is a smoke test.
    let benched = arguments.iter().any(|argument| argument == "--bench");
    let default = if benched { 2_000_000 } else { 20_000 };
    println!("payload  window   commits/s  CPU ns/commit  allocations/commit");
    for payload in [16, 1024] {
        for window in [1, 64, 1024] {
            if number("--payload").is_none_or(|chosen| chosen == payload)
                && number("--window").is_none_or(|chosen| chosen == window)
            {
                run(payload as usize, window, number("--commits").unwrap_or(default));
            }
        }
    }
    if number("--commits").is_none() {
        print_idle(if benched { 100_000 } else { 100 });
    }
}

fn run(payload: usize, window: u64, commits: u64) {
    let block = Bytes::from(vec![0x5a; payload]);
    let mut trio = Trio::new();
    fill_until(&mut trio, &block, window, WARM_UP);
    // Asking for the time allocates, so allocations are counted inside of it.
    let (cpu, start, allocations) = (cpu_time(), Instant::now(), counting::allocations());
    let from = trio.committed();
    fill_until(&mut trio, &block, window, from + commits);
    let done = (trio.committed() - from) as f64;
    let allocations = (counting::allocations() - allocations) as f64 / done;
    let rate = done / start.elapsed().as_secs_f64();
    let cpu = (cpu_time() - cpu).as_nanos() as f64 / done;
    assert_eq!(trio.applied_bytes(), trio.committed() * payload as u64);
    println!("{payload:>7}  {window:>6}  {rate:>10.0}  {cpu:>13.1}  {allocations:>18.4}");
}

/// Keeps `window` commands outstanding until `commits` are committed.
fn fill_until(trio: &mut Trio, block: &Bytes, window: u64, commits: u64) {
    let mut proposed = trio.committed();
    let mut compacted = proposed;
    while trio.committed() < commits {
        while proposed - trio.committed() < window {
            trio.propose(block.clone());
            proposed += 1;
        }
        trio.round();
        if proposed - compacted >= KEEP {
            trio.compact(KEEP);
            compacted = proposed;
        }
    }
}

fn print_idle(groups: u32) {
    println!("\n{groups} idle groups of 3, the struct alone {} B", size_of::<raft_core::Group>());
    println!("commands at once  heartbeats since  B per leader  B per follower");
    for commands in [4, 256] {
        for heartbeats in [0, 20] {
            let Idle { leader, follower } = idle::measure(groups, commands, heartbeats);
            println!("{commands:>16}  {heartbeats:>16}  {leader:>12.0}  {follower:>14.0}");
        }
    }
}

/// Processor time of this thread so far, as the scheduler counts it; zero where it does not.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}
