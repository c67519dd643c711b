//! Engines without threads: whole clusters in virtual time, one history per seed.

mod cluster;
mod disk;
mod journal;
mod network;
mod node;
mod rng;
mod single;

use self::cluster::{Cluster, Weather};
use super::Durability;

const CALM: Weather = Weather {
    durability: Durability::Log,
    crashes: false,
    breaks: false,
    hostile: false,
    bad_ms: 2500,
};

/// Runs so many seeds; the failing one is named. What happened at all is summed up, so that a
/// test that tests nothing fails.
fn live(seeds: std::ops::Range<u64>, weather: Weather) {
    let seeds = seeds.start..seeds.start + (seeds.end - seeds.start) * times();
    let (mut succeeded, mut unknown, mut over_bulk, mut reads_back) = (0, 0, 0, 0);
    let mut reads = [0; 3];
    let (mut fetched, mut restored) = (0, 0);
    let count = (seeds.end - seeds.start) as usize;
    for seed in seeds {
        let lived = std::panic::catch_unwind(|| {
            let mut cluster = Cluster::new(seed, weather);
            cluster.live();
            if !weather.breaks {
                assert_eq!(cluster.rode_along, 0, "the bulk lane was there all the time");
            }
            let Cluster { succeeded, unknown, over_bulk, reads_back, reads, .. } = cluster;
            (succeeded, unknown, over_bulk, reads_back, reads, cluster.fetched, cluster.restored)
        });
        match lived {
            Ok(lived) => {
                succeeded += lived.0;
                unknown += lived.1;
                over_bulk += lived.2;
                reads_back += lived.3;
                fetched += lived.5;
                restored += lived.6;
                reads.iter_mut().zip(lived.4).for_each(|(sum, of_one)| *sum += of_one);
            }
            Err(panic) => {
                println!("seed {seed} with {weather:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!(
        "{count} seeds: {succeeded} commands, {unknown} unknown, {over_bulk} bulk appends, \
         {reads_back} reads of the log, {reads:?} reads by path, \
         {fetched} snapshots fetched, {restored} found at a restart"
    );
    assert!(succeeded > 50 * count, "only {succeeded} commands in {count} seeds");
    assert!(reads.iter().all(|of_path| *of_path > count), "{reads:?} reads in {count} seeds");
    if !weather.hostile {
        assert!(over_bulk > count, "only {over_bulk} appends took the bulk lane");
    }
    if weather.breaks {
        assert!(fetched > count / 2, "only {fetched} snapshots came from other nodes");
    }
    if weather.durability == Durability::Log && weather.crashes {
        assert!(restored > count, "only {restored} snapshots were found at a restart");
        assert!(reads_back > count, "the log was read back only {reads_back} times");
    }
}

/// `ENGINE_SEEDS_TIMES=10` tries ten times as many seeds.
fn times() -> u64 {
    std::env::var("ENGINE_SEEDS_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

#[test]
fn in_good_weather_nothing_is_unknown() {
    live(0..30, CALM);
}

#[test]
fn lanes_break_and_come_back() {
    live(1000..1060, Weather { breaks: true, bad_ms: 4000, ..CALM });
}

#[test]
fn nodes_crash_and_come_back() {
    live(2000..2060, Weather { breaks: true, crashes: true, bad_ms: 5000, ..CALM });
}

#[test]
fn frames_are_lost_and_overtake_each_other() {
    live(3000..3040, Weather { breaks: true, crashes: true, hostile: true, bad_ms: 4000, ..CALM });
}

#[test]
fn groups_in_memory_live_through_broken_lanes() {
    live(4000..4030, Weather { breaks: true, durability: Durability::Memory, ..CALM });
}

#[test]
fn every_replica_of_a_group_is_replaced_while_it_serves() {
    for seed in 5000..5000 + 8 * times() {
        named(seed, CALM, || Cluster::with_nodes(seed, CALM, 6).replace_all_replicas());
    }
}

#[test]
fn members_come_and_go_in_bad_weather() {
    let weather = Weather { breaks: true, crashes: true, bad_ms: 8000, ..CALM };
    let mut changed = 0;
    for seed in 6000..6000 + 30 * times() {
        changed += named(seed, weather, || Cluster::with_nodes(seed, weather, 5).churn());
    }
    println!("{changed} changes");
    assert!(changed > 100, "only {changed} changes");
}

/// Names the seed of what fails.
fn named<T>(seed: u64, weather: Weather, live: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
    match std::panic::catch_unwind(live) {
        Ok(lived) => lived,
        Err(panic) => {
            println!("seed {seed} with {weather:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_node_that_stops_hands_over_and_leaves_nothing_unknown() {
    for seed in 7000..7000 + 4 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).stop_each_in_turn());
    }
}

#[test]
fn nodes_that_stop_together_do_not_wait_for_each_other() {
    for seed in 7100..7100 + 10 * times() {
        let took = named(seed, CALM, || Cluster::new(seed, CALM).stop_all_at_once());
        assert!(took < 500, "seed {seed}: {took} ms, an election timeout");
    }
}

#[test]
fn a_node_that_comes_late_leads_its_share() {
    for seed in 7200..7200 + 10 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).come_late());
    }
}

#[test]
fn idle_groups_leave_a_node_whose_disk_hangs() {
    for seed in 7400..7400 + 5 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).idle_groups_leave_a_hung_disk());
    }
}

#[test]
fn where_most_disks_hang_nobody_moves() {
    for seed in 7500..7500 + 3 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).nobody_moves_where_most_disks_hang());
        named(seed, CALM, || Cluster::new(seed, CALM).all_disks_hang_under_load());
    }
}

#[test]
fn a_disk_that_hangs_again_and_again_moves_leaders_once() {
    for seed in 7600..7600 + 3 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).a_disk_hangs_again_and_again());
    }
}

#[test]
fn a_node_whose_disk_hangs_is_not_elected_and_its_word_does_not_outlive_it() {
    for seed in 7700..7700 + 5 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).who_ails_is_not_elected());
        named(seed, CALM, || {
            Cluster::new(seed, CALM).a_word_of_the_dead_keeps_nobody_from_office()
        });
    }
}

#[test]
fn a_node_that_comes_and_goes_moves_nothing_to_and_fro() {
    for seed in 7300..7300 + 5 * times() {
        named(seed, CALM, || Cluster::new(seed, CALM).come_and_go());
    }
}
