//! A cluster without work costs next to nothing: alone in its process, so that the processor time
//! can be measured.
#![cfg(target_os = "linux")]

mod common;

use std::time::Duration;

use anyhow::Context;
use common::{Cluster, command};
use raft_core::GroupId;

/// Processor time of this process, in hundredths of a second.
fn processor_time() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses; user and system time are the 14th and 15th.
    let after_name = stat.rsplit(')').next().context("a name in parentheses")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

#[test]
fn three_idle_nodes_turn_for_heartbeats_alone() -> anyhow::Result<()> {
    let cluster = Cluster::durable(3)?;
    cluster.create_groups(1..=20)?;
    for id in 1..=20 {
        cluster.propose(GroupId::new(id), command(1))?;
        cluster.agree(GroupId::new(id))?;
    }
    let turns = || (1..=3).map(|node| cluster.host(node).status().counters.turns).sum::<u64>();
    let (turns_before, time_before) = (turns(), processor_time()?);
    cluster.wait(Duration::from_secs(2));
    let (turned, time) = (turns() - turns_before, processor_time()? - time_before);
    println!("{turned} turns and {time}0 ms of processor time in two idle seconds");
    // 20 intervals, three nodes: the own beats, those of two peers, the answers of two peers, and
    // as many timers again that wake in vain.
    assert!(turned < 900, "{turned} turns in two idle seconds");
    // A loop that wakes itself would take a whole core, 200 of these. Debug builds take a few.
    assert!(time < 60, "{time}0 ms of processor time in two idle seconds");
    Ok(())
}
