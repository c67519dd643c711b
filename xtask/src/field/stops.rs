//! Check `stops`: nodes that are stopped in order, all together, in turn, or only held: who waits,
//! and for how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::scene::{data, outcome, serving, until};
use crate::checks::{Outcome, Setting};
use crate::nodes::admin;
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::{Client, Reply};

const GROUPS: u32 = 48;
const STOP_LIMIT: Duration = Duration::from_secs(30);
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// Nodes that stop together have nobody to hand anything to, and must not wait for long.
const TOGETHER_LIMIT: Duration = Duration::from_secs(2);
/// Longest a request may be held that waits for a paused leader: an election and its detection.
const PAUSED_LIMIT: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let data = data(setting, 3);
    let layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
    let mut cluster = serving(&layout)?;
    Ok(vec![
        outcome("first leaders are spread", || spread(&cluster)),
        outcome("a node that stops", || one_stops(&mut cluster)),
        outcome("after a restart of each in turn leaders are spread", || rolling(&mut cluster)),
        outcome("a leader that is paused", || paused(&mut cluster)),
        outcome("nodes that stop together", || together(&mut cluster)),
    ])
}

/// Groups led by each node, as they tell it themselves; `None` while one has no leader.
fn leaders(cluster: &Cluster) -> Result<Option<Vec<usize>>> {
    let mut led = Vec::new();
    for index in 0..3 {
        let Ok(status) = admin::status(cluster.ports(index).admin) else {
            led.push(0);
            continue;
        };
        let groups = status["groups"].as_array().context("no groups")?;
        let here = groups.iter().filter(|group| group["role"] == "leader").count();
        led.push(here);
    }
    Ok((led.iter().sum::<usize>() == GROUPS as usize).then_some(led))
}

/// Nobody leads more than twice its share.
fn spread(cluster: &Cluster) -> Result<String> {
    let mut last = Vec::new();
    let found = until("leaders are not spread", SERVE_LIMIT, || {
        let Some(led) = leaders(cluster)? else { return Ok(None) };
        last = led.clone();
        Ok(led.iter().all(|led| *led >= GROUPS as usize / 6).then_some(led))
    });
    let led = found.with_context(|| format!("{last:?}"))?;
    Ok(format!("{led:?}"))
}

fn rolling(cluster: &mut Cluster) -> Result<String> {
    for index in 0..3 {
        cluster.stop(index, STOP_LIMIT)?;
        cluster.start(index)?;
        until("a group has no leader", SERVE_LIMIT, || leaders(cluster))?;
    }
    spread(cluster)
}

/// One writer per group's worth of keys, and the longest each waited for an acknowledgement.
struct Probe {
    ended: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<(Duration, u64)>>,
}

impl Probe {
    fn start(proxy: SocketAddr) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let clients = (0..GROUPS)
            .map(|client| {
                let ended = Arc::clone(&ended);
                thread::spawn(move || Self::write(proxy, client, &ended))
            })
            .collect();
        Self { ended, clients }
    }

    fn write(proxy: SocketAddr, client: u32, ended: &AtomicBool) -> (Duration, u64) {
        let key = format!("probe:{client}");
        let (mut longest, mut refused) = (Duration::ZERO, 0);
        let mut since = Instant::now();
        let mut connection = None;
        while !ended.load(Relaxed) {
            let reply = (|| {
                let open: &mut Client = match &mut connection {
                    Some(open) => open,
                    none => none.insert(Client::connect(proxy)?),
                };
                open.push(&[b"SET", key.as_bytes(), b"1"]);
                open.flush()?;
                open.reply()
            })();
            match reply {
                Ok(Reply::Ok) => {
                    longest = longest.max(since.elapsed());
                    since = Instant::now();
                }
                Ok(_) => refused += 1,
                Err(_) => connection = None,
            }
            thread::sleep(PAUSE);
        }
        (longest.max(since.elapsed()), refused)
    }

    /// The gaps of all clients, shortest first, and how many requests were refused.
    fn stop(self) -> Result<(Vec<Duration>, u64)> {
        self.ended.store(true, Relaxed);
        let mut gaps = Vec::new();
        let mut refused = 0;
        for client in self.clients {
            let (gap, count) = client.join().ok().context("a client panicked")?;
            gaps.push(gap);
            refused += count;
        }
        gaps.sort_unstable();
        Ok((gaps, refused))
    }
}

/// Those that it does not lead go on as if nothing were; the others change hands once.
fn one_stops(cluster: &mut Cluster) -> Result<String> {
    let probe = Probe::start(cluster.ports(1).proxy);
    thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let status = cluster.stop(0, STOP_LIMIT)?;
    let took = begun.elapsed();
    ensure!(status.success(), "it ended with {status}");
    let led = until("a group has no leader", SERVE_LIMIT, || leaders(cluster))?;
    ensure!(led[1].abs_diff(led[2]) <= GROUPS as usize / 4, "heirs are not spread: {led:?}");
    let (gaps, refused) = probe.stop()?;
    cluster.start(0)?;
    until("a group has no leader", SERVE_LIMIT, || leaders(cluster))?;
    let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    ensure!(median < Duration::from_millis(150), "half of all clients waited {median:?}");
    Ok(format!(
        "stopped in {:.2} s; gaps: median {} ms, longest {} ms; {refused} refused; leaders {led:?}",
        took.as_secs_f64(),
        median.as_millis(),
        longest.as_millis(),
    ))
}

/// A request that waits for a held leader is answered as soon as there is another.
fn paused(cluster: &mut Cluster) -> Result<String> {
    let probe = Probe::start(cluster.ports(1).proxy);
    thread::sleep(Duration::from_secs(1));
    cluster.signal(0, "STOP")?;
    thread::sleep(Duration::from_secs(6));
    cluster.signal(0, "CONT")?;
    let (gaps, refused) = probe.stop()?;
    let longest = gaps[gaps.len() - 1];
    ensure!(longest <= PAUSED_LIMIT, "a client waited {longest:?}");
    until("a group has no leader", SERVE_LIMIT, || leaders(cluster))?;
    Ok(format!("longest gap {} ms, {refused} refused or unknown", longest.as_millis()))
}

fn together(cluster: &mut Cluster) -> Result<String> {
    let told: Vec<usize> = (0..3).map(|index| cluster.log(index).len()).collect();
    let begun = Instant::now();
    for index in 0..3 {
        cluster.signal(index, "TERM")?;
    }
    for index in 0..3 {
        let status = cluster.end(index, STOP_LIMIT)?.context("it goes on")?;
        ensure!(status.success(), "node {} ended with {status}", index + 1);
    }
    let took = begun.elapsed();
    ensure!(took <= TOGETHER_LIMIT, "they took {took:?}");
    // What was not handed over had nobody to go to, which is no lack of time.
    for (index, told) in told.into_iter().enumerate() {
        let log = cluster.log(index);
        let blamed = log[told.min(log.len())..].lines().find(|line| line.contains("in time"));
        ensure!(blamed.is_none(), "node {}: {}", index + 1, blamed.unwrap_or_default());
    }
    Ok(format!("{:.2} s", took.as_secs_f64()))
}
