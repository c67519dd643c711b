//! Check `hung-disks`: disks that hang under load, with idle groups beside. What one node's disk does
//! is found by others at once and moves all that it leads; where all hang nobody moves; and a disk
//! that hangs again and again moves nothing to and fro.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::hang::{DISK_CALLS, Held, LOG_THREADS};
use super::scene::{POLL, data, outcome, serving, until, wait_serving};
use crate::checks::{Outcome, Setting};
use crate::job::available;
use crate::nodes::admin;
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::{Client, Reply};

const GROUPS: u32 = 16;
/// So many of them are written to.
const BUSY: usize = 4;
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// From where a disk hangs until its node leads nothing: the bound of two seconds, and elections.
const MOVED_LIMIT: Duration = Duration::from_secs(10);
/// Longest a group may wait that is led elsewhere, and one that has to be moved: generous, as the
/// machine may be busy. What it was is printed.
const GAP_MAX: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(12)];
const ALL_HANG_FOR: Duration = Duration::from_secs(5);
/// A disk that hangs again and again: for so long, each so long, so many times.
const SHORT_HANG: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(3);
const TIMES: u32 = 8;
/// With this a second is a stall.
const SHORT_BOUND: &str = "[raft]\ndisk_stall_max_ms = 800\n";

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if !available("strace", &["--version"]) {
        return Ok(vec![Outcome::skipped("disks that hang", "apt-get install strace")]);
    }
    let mut outcomes = Vec::new();
    {
        let data = data(setting, 3);
        let layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
        let mut cluster = settled(&layout)?;
        outcomes.push(outcome("one disk of three hangs", || one_of_three(&mut cluster)));
        outcomes.push(outcome("all disks hang for 5 s", || all_of_three(&mut cluster)));
    }
    let directory = setting.directory.join("again");
    let data: Vec<_> = (1..=3).map(|id| directory.join(format!("data-{id}"))).collect();
    std::fs::create_dir_all(&directory)?;
    let mut layout = Layout::new(&setting.raftd, &directory, &data, GROUPS);
    layout.extra = SHORT_BOUND;
    let mut cluster = settled(&layout)?;
    outcomes.push(outcome("a disk hangs again and again", || again_and_again(&mut cluster)));
    Ok(outcomes)
}

/// A cluster that serves and whose leaders are where they belong.
fn settled(layout: &Layout<'_>) -> Result<Cluster> {
    let cluster = serving(layout)?;
    let mut last = (BTreeMap::new(), Instant::now());
    until("leaders do not settle", SETTLE_LIMIT, || {
        let leaders = leaders(&cluster)?;
        if leaders != last.0 {
            last = (leaders, Instant::now());
        }
        let rests = last.0.len() == GROUPS as usize && last.1.elapsed() > Duration::from_secs(3);
        Ok(rests.then_some(()))
    })?;
    Ok(cluster)
}

/// Who leads each group, by term and place, as the leaders themselves say.
fn leaders(cluster: &Cluster) -> Result<BTreeMap<u64, (u64, usize)>> {
    let mut leaders = BTreeMap::new();
    for index in 0..cluster.proxies().len() {
        let status = admin::status(cluster.ports(index).admin)?;
        for (group, term) in led(&status) {
            let newest = leaders.entry(group).or_insert((term, index));
            *newest = (*newest).max((term, index));
        }
    }
    Ok(leaders)
}

/// The groups a node leads, and in which term.
fn led(status: &Value) -> impl Iterator<Item = (u64, u64)> + '_ {
    let groups = status["groups"].as_array().into_iter().flatten();
    let led = groups.filter(|group| group["role"] == "leader");
    led.filter_map(|group| Some((group["id"].as_u64()?, group["term"].as_u64()?)))
}

/// Looks at who leads again and again.
struct Lookout {
    stop: Arc<AtomicBool>,
    changes: JoinHandle<BTreeMap<u64, u32>>,
}

impl Lookout {
    fn start(cluster: &Cluster) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut last = leaders(cluster)?;
        let admins: Vec<_> = (0..3).map(|index| cluster.ports(index).admin).collect();
        let ended = Arc::clone(&stop);
        let changes = thread::spawn(move || {
            let mut changes = BTreeMap::new();
            while !ended.load(Relaxed) {
                for (index, admin) in admins.iter().enumerate() {
                    let Ok(status) = admin::status(*admin) else { continue };
                    for (group, term) in led(&status) {
                        let known = last.entry(group).or_default();
                        if term > known.0 {
                            // The same node in a newer term is a change as well: it was out.
                            *changes.entry(group).or_default() += 1;
                            *known = (term, index);
                        }
                    }
                }
                thread::sleep(POLL);
            }
            changes
        });
        Ok(Self { stop, changes })
    }

    /// How often each group came to have another leader, or the same in a newer term.
    fn stop(self) -> Result<BTreeMap<u64, u32>> {
        self.stop.store(true, Relaxed);
        self.changes.join().map_err(|_| anyhow::anyhow!("the lookout has panicked"))
    }
}

/// Writes to one group, one after the other, and notes how long it waited at most.
struct Writer {
    group: u64,
    stop: Arc<AtomicBool>,
    longest: JoinHandle<Duration>,
}

impl Writer {
    fn start(cluster: &Cluster, entry: usize, group: u64, tag: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, proxy) = (Arc::clone(&stop), cluster.ports(entry).proxy);
        let key = format!("{{{tag}}}");
        let longest = thread::spawn(move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            let mut connection = None;
            while !ended.load(Relaxed) {
                let wrote = connection.take().map_or_else(|| Client::connect(proxy), Ok).and_then(
                    |mut client| {
                        client.push(&[b"SET", key.as_bytes(), b"v"]);
                        client.flush()?;
                        let reply = client.reply()?;
                        Ok((client, reply))
                    },
                );
                match wrote {
                    Ok((client, reply)) => {
                        connection = Some(client);
                        if reply == Reply::Ok {
                            longest = longest.max(last.elapsed());
                            last = Instant::now();
                        } else {
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            longest.max(last.elapsed())
        });
        Self { group, stop, longest }
    }

    fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Relaxed);
        let longest = self.longest.join().map_err(|_| anyhow::anyhow!("a writer has panicked"))?;
        Ok((self.group, longest))
    }
}

/// Writers to some groups, as many led by `victim` as by others; by way of another node.
fn writers(cluster: &Cluster, victim: usize) -> Result<Vec<Writer>> {
    let before = leaders(cluster)?;
    let status = admin::status(cluster.ports(victim).admin)?;
    let mut writers: Vec<Writer> = Vec::new();
    for number in 0..10_000 {
        let tag = format!("t{number}");
        let slot = u64::from(crc16(tag.as_bytes()) % 16_384);
        let groups = status["groups"].as_array().into_iter().flatten();
        let group = groups.filter_map(|group| Some((group["id"].as_u64()?, slots(group)?)));
        let group = group.filter(|(_, (first, last))| (*first..=*last).contains(&slot));
        let (group, _) = group.into_iter().next().context("a slot without a group")?;
        let is_victims = |group: u64| before.get(&group).is_some_and(|(_, at)| *at == victim);
        let alike = writers.iter().filter(|w| is_victims(w.group) == is_victims(group)).count();
        if alike < BUSY / 2 && writers.iter().all(|writer| writer.group != group) {
            writers.push(Writer::start(cluster, (victim + 1) % 3, group, &tag));
        }
        if writers.len() == BUSY {
            return Ok(writers);
        }
    }
    anyhow::bail!("no keys for {BUSY} groups")
}

/// Which slots a group has.
fn slots(group: &Value) -> Option<(u64, u64)> {
    let (first, last) = group["label"].as_str()?.strip_prefix("slots ")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The sum by which keys of Redis Cluster find their slot.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte) << 8, |sum, _| {
            if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 }
        })
    })
}

fn hold(cluster: &Cluster, index: usize) -> Result<Held> {
    Held::threads(cluster, index, LOG_THREADS, DISK_CALLS)
}

/// Whoever leads most.
fn busiest(cluster: &Cluster) -> Result<usize> {
    let leaders = leaders(cluster)?;
    let count = |at: &usize| leaders.values().filter(|(_, leader)| leader == at).count();
    (0..3).max_by_key(count).context("three nodes")
}

fn counter(cluster: &Cluster, index: usize, name: &str) -> Result<u64> {
    let status = admin::status(cluster.ports(index).admin)?;
    status["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
}

fn one_of_three(cluster: &mut Cluster) -> Result<String> {
    let victim = busiest(cluster)?;
    let before = leaders(cluster)?;
    let writers = writers(cluster, victim)?;
    let busy: Vec<u64> = writers.iter().map(|writer| writer.group).collect();
    thread::sleep(Duration::from_secs(2));
    let lookout = Lookout::start(cluster)?;
    let held = hold(cluster, victim)?;
    let began = Instant::now();
    until("the node whose disk hangs goes on leading", MOVED_LIMIT, || {
        let led = leaders(cluster)?;
        let left = led.values().filter(|(_, leader)| *leader == victim).count();
        Ok((led.len() == GROUPS as usize && left == 0).then_some(()))
    })?;
    let moved_in = began.elapsed();
    thread::sleep(Duration::from_secs(2));
    drop(held);
    thread::sleep(Duration::from_secs(5));
    let changes = lookout.stop()?;
    let mut gaps = [Duration::ZERO; 2];
    for writer in writers {
        let (group, longest) = writer.stop()?;
        let gap = &mut gaps[usize::from(before[&group].1 == victim)];
        *gap = longest.max(*gap);
    }
    let idle = before.iter().filter(|(group, (_, at))| *at == victim && !busy.contains(group));
    let idle: Vec<u64> = idle.map(|(group, _)| *group).collect();
    let unmoved = idle.iter().filter(|group| !changes.contains_key(group)).count();
    ensure!(unmoved == 0, "{unmoved} of {} idle groups were not moved", idle.len());
    let most = changes.values().max().copied().unwrap_or(0);
    ensure!(most <= 1, "leaders changed more than once: {changes:?}");
    let by_word = counter(cluster, victim, "leaderships_moved_off_log")?;
    let [others, own] = gaps;
    ensure!(others <= GAP_MAX[0] && own <= GAP_MAX[1], "longest gaps: {others:?} and {own:?}");
    wait_serving(cluster)?;
    Ok(format!(
        "nothing led after {moved_in:.1?}; {} idle groups moved, {by_word} leaderships handed over; \
         longest gap of writes: {others:.1?} where others lead, {own:.1?} where it led",
        idle.len()
    ))
}

fn all_of_three(cluster: &mut Cluster) -> Result<String> {
    let victim = busiest(cluster)?;
    let writers = writers(cluster, victim)?;
    thread::sleep(Duration::from_secs(2));
    let before = handed_over(cluster)?;
    let lookout = Lookout::start(cluster)?;
    let held: Vec<Held> = (0..3).map(|index| hold(cluster, index)).collect::<Result<_>>()?;
    thread::sleep(ALL_HANG_FOR);
    let (during, after) = (lookout.stop()?, handed_over(cluster)?);
    let lookout = Lookout::start(cluster)?;
    drop(held);
    thread::sleep(Duration::from_secs(8));
    let changes = lookout.stop()?;
    let mut longest = Duration::ZERO;
    for writer in writers {
        longest = longest.max(writer.stop()?.1);
    }
    ensure!(during.is_empty(), "leaders changed while all disks hung: {during:?}");
    // A disk that has just hung is well again later than another, so its node may give its groups
    // away and have them back.
    let most = changes.values().max().copied().unwrap_or(0);
    ensure!(most <= 2, "leaders changed to and fro afterwards: {changes:?}");
    let hung = ALL_HANG_FOR.saturating_sub(Duration::from_secs(1));
    ensure!(longest >= hung, "no disk hung: no write waited for longer than {longest:?}");
    ensure!(after == before, "{} leaderships were handed over to disks that hang", after - before);
    wait_serving(cluster)?;
    Ok(format!(
        "no leader changed meanwhile; {} of {GROUPS} groups did afterwards, {most} times at most; \
         longest gap of writes {longest:.1?}",
        changes.len()
    ))
}

fn handed_over(cluster: &Cluster) -> Result<u64> {
    (0..3).map(|index| counter(cluster, index, "leaderships_moved_off_log")).sum()
}

fn again_and_again(cluster: &mut Cluster) -> Result<String> {
    let victim = busiest(cluster)?;
    let led = leaders(cluster)?.values().filter(|(_, at)| *at == victim).count();
    let writers = writers(cluster, victim)?;
    thread::sleep(Duration::from_secs(2));
    let lookout = Lookout::start(cluster)?;
    for _ in 0..TIMES {
        let began = Instant::now();
        let held = hold(cluster, victim)?;
        thread::sleep(SHORT_HANG);
        drop(held);
        thread::sleep(PERIOD.saturating_sub(began.elapsed()));
    }
    let changes = lookout.stop()?;
    let mut longest = Duration::ZERO;
    for writer in writers {
        longest = longest.max(writer.stop()?.1);
    }
    let all: u32 = changes.values().sum();
    let most = changes.values().max().copied().unwrap_or(0);
    ensure!(most <= 2, "leaders change to and fro: {changes:?}");
    wait_serving(cluster)?;
    Ok(format!(
        "{TIMES} hangs of {SHORT_HANG:?}: {all} changes of leaders where {led} were led, {most} of a \
         group at most; longest gap of writes {longest:.1?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::crc16;

    #[test]
    fn keys_find_their_slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }
}
