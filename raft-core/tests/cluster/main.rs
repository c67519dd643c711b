//! Whole clusters under trouble, one seed at a time: crashes, partitions, lost, late, doubled and
//! reordered messages, slow disks, paused processes, drifting clocks. The paper's properties are
//! checked after every step, and that all heals once the trouble ends.
//!
//! `RAFT_CLUSTER_SEEDS=20000` runs more seeds, `RAFT_CLUSTER_SEED=17` only that one, and
//! `RAFT_CLUSTER_TRACE=1` prints every step of it (with `--nocapture`).

mod checker;
mod cluster;
mod disk;
mod rng;

use cluster::{Cluster, Seen};

/// Names the seed when a check fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with RAFT_CLUSTER_SEED={}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("a seed variable holds a number"))
}

#[test]
fn every_property_holds_under_trouble_and_peace_heals_everything() {
    let seeds = match number("RAFT_CLUSTER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RAFT_CLUSTER_SEEDS").unwrap_or(300),
    };
    let many = seeds.end - seeds.start >= 100;
    let mut all = Seen::default();
    for seed in seeds {
        let named = Seed(seed);
        let seen = Cluster::new(seed).run();
        drop(named);
        all.elections += seen.elections;
        all.commits += seen.commits;
        all.crashes += seen.crashes;
        all.truncations += seen.truncations;
        all.reads += seen.reads;
        all.superseded += seen.superseded;
        all.transfers += seen.transfers;
        all.steps += seen.steps;
    }
    println!("{all:?}");
    // A simulator that stopped provoking anything would pass everything.
    assert!(
        !many
            || [
                all.elections,
                all.commits,
                all.crashes,
                all.truncations,
                all.reads,
                all.superseded,
                all.transfers,
            ]
            .iter()
            .all(|count| *count > 20),
        "the trouble was too mild: {all:?}"
    );
}
