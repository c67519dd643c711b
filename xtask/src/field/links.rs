//! Check `links`: a large value over slow links is carried once, and by lanes that stay.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::scene::{data, outcome, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::relay::Relay;
use crate::nodes::resp::{Client, Reply};

const KIB: usize = 1 << 10;
const NODES: usize = 3;
/// More than it would take one byte after the other, twice over, and some elections.
const PATIENCE: u32 = 4;
const SERVE_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    Ok(vec![
        outcome("1 MiB at 256 KiB/s", || carried(setting, "a", 256 * KIB, 1024 * KIB)),
        outcome("4 MiB at 512 KiB/s", || carried(setting, "b", 512 * KIB, 4096 * KIB)),
    ])
}

fn carried(setting: &Setting, name: &str, rate: usize, bytes: usize) -> Result<String> {
    let directory = setting.directory.join(name);
    std::fs::create_dir_all(&directory)?;
    let data: Vec<_> = data(setting, NODES).iter().map(|data| data.join(name)).collect();
    let layout = Layout::new(&setting.raftd, &directory, &data, 2);
    let mut relays = Vec::new();
    let mut failed = None;
    let mut cluster =
        Cluster::prepare_with(&layout, |_, _, target| match Relay::start(target, rate as u64) {
            Ok(relay) => {
                let address = relay.address();
                relays.push(relay);
                address
            }
            Err(error) => {
                failed = Some(error);
                target
            }
        })?;
    if let Some(error) = failed {
        return Err(error);
    }
    cluster.start_all()?;
    for index in 0..NODES {
        wait_writes(&mut cluster, index, SERVE_LIMIT)?;
    }
    let before: u64 = relays.iter().map(Relay::accepted).sum();
    let value = vec![b'v'; bytes];
    let limit = Duration::from_secs_f64(bytes as f64 / rate as f64) * PATIENCE + SERVE_LIMIT / 4;
    let begun = Instant::now();
    let reply = large(&cluster, &value, limit)?;
    let took = begun.elapsed();
    ensure!(reply == Reply::Ok, "{reply:?} after {took:?}");
    // The other replica gets it as well, and the group goes on meanwhile.
    until("small writes do not go on", limit, || {
        let reply = super::scene::set(cluster.ports(0).proxy, b"small", b"1")?;
        Ok((reply == Reply::Ok).then_some(()))
    })?;
    let again = relays.iter().map(Relay::accepted).sum::<u64>() - before;
    ensure!(again <= 2, "{again} connections were made anew while it was carried");
    Ok(format!("written in {:.1} s, {again} new connections", took.as_secs_f64()))
}

fn large(cluster: &Cluster, value: &[u8], limit: Duration) -> Result<Reply> {
    let mut client = Client::connect_patiently(cluster.ports(0).proxy, limit)?;
    client.push(&[b"SET", b"large", value]);
    client.flush().context("the value is not taken")?;
    client.reply().with_context(|| format!("no answer in {limit:?}"))
}
