//! What most checks of the field begin with: a cluster that serves, and patience with a limit.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::checks::{Outcome, Setting};
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::{Client, Reply};

/// Longest a small cluster may take until it takes writes.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Data directories of so many nodes below the check's own.
pub(super) fn data(setting: &Setting, nodes: usize) -> Vec<PathBuf> {
    (1..=nodes).map(|id| setting.directory.join(format!("data-{id}"))).collect()
}

/// A cluster of this layout that takes writes at every node.
pub(super) fn serving(layout: &Layout<'_>) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(layout)?;
    cluster.start_all()?;
    wait_serving(&mut cluster)?;
    Ok(cluster)
}

/// Waits until a key is written and read through every node's proxy.
pub(super) fn wait_serving(cluster: &mut Cluster) -> Result<()> {
    let nodes = cluster.proxies().len();
    for index in 0..nodes {
        wait_writes(cluster, index, SERVE_LIMIT)?;
    }
    Ok(())
}

/// Waits until a write through the proxy of this node is acknowledged.
pub(super) fn wait_writes(cluster: &mut Cluster, index: usize, limit: Duration) -> Result<()> {
    let proxy = cluster.ports(index).proxy;
    let what = format!("node {} takes no write", index + 1);
    until(&what, limit, || {
        if let Some((_, last_words)) = cluster.ended().into_iter().next() {
            bail!("{last_words}");
        }
        Ok(set(proxy, b"scene", b"1").is_ok_and(|reply| reply == Reply::Ok).then_some(()))
    })
}

/// One write over a connection of its own.
pub(super) fn set(proxy: std::net::SocketAddr, key: &[u8], value: &[u8]) -> Result<Reply> {
    ask(proxy, &[b"SET", key, value])
}

/// One request over a connection of its own.
pub(super) fn ask(proxy: std::net::SocketAddr, request: &[&[u8]]) -> Result<Reply> {
    let mut client = Client::connect(proxy)?;
    client.push(request);
    client.flush()?;
    Ok(client.reply()?)
}

/// Asks again and again until there is an answer.
pub(super) fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what} in {limit:?}");
        }
        thread::sleep(POLL);
    }
}

/// Makes a line of the table of what a scene came to.
pub(super) fn outcome(what: &str, scene: impl FnOnce() -> Result<String>) -> Outcome {
    match scene() {
        Ok(note) => Outcome::passed(what, note),
        Err(error) => Outcome::failed(what, "see above", format!("{error:#}")),
    }
}
