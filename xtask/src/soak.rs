//! `cargo xtask soak`: half an hour of mixed load on three real nodes, in which nothing may grow.
//!
//! 300 groups on one log per node with small segments: one group is idle, one is written to every two
//! seconds, one holds values of 64 KiB, the others small ones, alone and in pipelines, with reads in
//! between. Keys are bounded and overwritten, so that the state of the machines is bounded too. Every 10 s
//! it is seen what the log takes on the disk, memory, descriptors, and how long writes took. It
//! ends with a table and a picture, and fails if one of these grows in the last two thirds
//! beyond a bound that the table states, if a read finds what it must not, or if a node ended.
//!
//! Invariant: all nodes are children of this process on loopback and end with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::Workspace;
use crate::checks::build_raftd;
use crate::nodes::admin;
use crate::nodes::cluster::{Cluster, Layout};
use crate::nodes::resp::{Client, Reply};
use crate::table;

use mixed_load::{Habit, MixedLoad};
use readings::{NodeReading, Sample, percentile, raw_sync};

mod mixed_load;
mod readings;
mod steady;
mod tags;

mod chart;

const NODES: usize = 3;
const GROUPS: u32 = 300;
const SEGMENT_BYTES: u64 = 1 << 20;
/// Snapshots and checkpoints are frequent, so that every kind of file comes and goes many times. Elections
/// are patient: what is looked for is growth, on a machine that others may use meanwhile.
const EXTRA: &str = "[snapshots]\nevery_entries = 50\nevery_bytes = 65536\n\n\
                     [raft]\nheartbeat_interval_ms = 200\nelection_timeout_min_ms = 2000\n\
                     election_timeout_max_ms = 4000\n";
const CHECKPOINT_BYTES: u64 = 4 << 20;
const PERIOD: Duration = Duration::from_secs(10);
const MINUTES: u64 = 30;
const SERVE_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Longest that nothing may be acknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// Wrong values that are named.
const NAMED_MAX: usize = 10;

struct Options {
    minutes: u64,
    raftd: Option<PathBuf>,
    /// Where the picture goes.
    svg: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { minutes: MINUTES, raftd: None, svg: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                let value = attached.or_else(|| rest.next().map(String::as_str));
                value.with_context(|| format!("`{name}` needs a value"))
            };
            match name {
                "--minutes" => {
                    options.minutes = value()?
                        .parse()
                        .ok()
                        .filter(|minutes| (3..=10_000).contains(minutes))
                        .context("`--minutes` is a number from 3 to 10000")?;
                }
                "--raftd" => options.raftd = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    if !Path::new("/proc/self/status").exists() {
        bail!("memory and descriptors are read from /proc, which this machine does not have");
    }
    let workspace = Workspace::load()?;
    let raftd = match &options.raftd {
        Some(raftd) => {
            fs::canonicalize(raftd).with_context(|| format!("no binary {}", raftd.display()))?
        }
        None => build_raftd(&workspace)?,
    };
    let directory = workspace.target_directory.join("xtask/soak");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let mut scene = Scene::prepare(&raftd, &directory)?;
    let load = MixedLoad::start(&scene.cluster.proxies(), &habits(&scene.tags));
    let samples = scene.watch(&load, Duration::from_secs(60 * options.minutes))?;
    let acked = load.acked();
    let mut accounts = load.stop();
    let proxies = scene.cluster.proxies();
    accounts.iter_mut().try_for_each(|account| account.read_back(&proxies))?;
    scene.stop()?;

    let picture = options.svg.unwrap_or_else(|| directory.join("soak.svg"));
    let title = format!("{GROUPS} groups on {NODES} nodes, {acked} writes acknowledged");
    fs::write(&picture, chart::draw(&title, &samples))?;
    let keys: usize = accounts.iter().map(mixed_load::Account::acked_keys).sum();
    let wrong: Vec<&String> = accounts.iter().flat_map(|account| &account.wrong).collect();
    for line in wrong.iter().take(NAMED_MAX) {
        println!("WRONG {line}");
    }
    let lines = steady::judge(&samples).context("too few samples")?;
    let rows: Vec<[String; 5]> = lines
        .iter()
        .map(|line| {
            let result = if line.holds() { "passed" } else { "FAILED" };
            let bound = if line.bound.is_finite() { line.show(line.bound) } else { "-".to_owned() };
            [
                line.what.clone(),
                line.show(line.middle),
                line.show(line.last),
                bound,
                result.to_owned(),
            ]
        })
        .collect();
    println!(
        "\n{}",
        table::render(["what", "middle third", "last third", "bound", "result"], &rows)
    );
    println!("\n{acked} writes acknowledged; {keys} keys read back, {} wrong", wrong.len());
    println!("the picture is {}", picture.display());
    let failed =
        rows.iter().filter(|row| row[4] == "FAILED").count() + usize::from(!wrong.is_empty());
    println!("{} passed, {failed} failed", rows.len() + 1 - failed);
    if failed == 0 {
        // Only disk space is at stake.
        scene.data.iter().for_each(|data| drop(fs::remove_dir_all(data)));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who does what: groups by the position of their tags.
fn habits(tags: &[String]) -> Vec<Habit> {
    // The first group is idle.
    let [_, slow, large, small @ ..] = tags else { return Vec::new() };
    let habit = |tags: &[String], value_bytes, depth, period_ms, is_timed| Habit {
        tags: tags.to_vec(),
        keys_per_tag: 4,
        value_bytes,
        depth,
        period: Duration::from_millis(period_ms),
        is_timed,
    };
    let one = std::slice::from_ref;
    let mut habits =
        vec![habit(one(slow), 256, 1, 2000, false), habit(one(large), 64 << 10, 1, 500, false)];
    habits.extend((0..4).map(|_| habit(small, 256, 1, 40, true)));
    habits.extend((0..2).map(|_| habit(small, 200, 16, 200, false)));
    habits
}

/// Three nodes that serve.
struct Scene {
    cluster: Cluster,
    data: Vec<PathBuf>,
    directory: PathBuf,
    /// By group.
    tags: Vec<String>,
}

impl Scene {
    fn prepare(raftd: &Path, directory: &Path) -> Result<Self> {
        let data: Vec<PathBuf> =
            (1..=NODES).map(|id| directory.join(format!("data-{id}"))).collect();
        let mut layout = Layout::new(raftd, directory, &data, GROUPS);
        layout.segment_bytes = SEGMENT_BYTES;
        layout.checkpoint_bytes = Some(CHECKPOINT_BYTES);
        layout.extra = EXTRA;
        let mut cluster = Cluster::prepare(&layout)?;
        cluster.start_all()?;
        let tags = Self::serving(&mut cluster)?;
        Ok(Self { cluster, data, directory: directory.to_owned(), tags })
    }

    /// Waits until all nodes take writes; returns the tags of the groups.
    fn serving(cluster: &mut Cluster) -> Result<Vec<String>> {
        let deadline = Instant::now() + SERVE_LIMIT;
        let asked = |cluster: &Cluster| -> Result<Vec<String>> {
            for proxy in cluster.proxies() {
                let mut client = Client::connect(proxy)?;
                client.push(&[b"SET", b"{soak}", b"1"]);
                client.flush()?;
                ensure!(client.reply()? == Reply::Ok, "it takes no write");
            }
            let status = admin::status(cluster.ports(0).admin)?;
            let groups = status["groups"].as_array().context("no groups")?;
            ensure!(groups.len() == GROUPS as usize, "{} groups", groups.len());
            ensure!(groups.iter().all(|group| !group["leader"].is_null()), "no leader");
            tags::of_groups(&status)
        };
        loop {
            match asked(cluster) {
                Ok(tags) => return Ok(tags),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("not ready"));
                }
                Err(_) => thread::sleep(POLL),
            }
            Self::check_alive(cluster)?;
        }
    }

    fn check_alive(cluster: &mut Cluster) -> Result<()> {
        match cluster.ended().into_iter().next() {
            Some((_, last_words)) => bail!("{last_words}"),
            None => Ok(()),
        }
    }

    /// A sample every period, printed as it is taken.
    fn watch(&mut self, load: &MixedLoad, length: Duration) -> Result<Vec<Sample>> {
        let begun = Instant::now();
        let (mut samples, mut acked_before, mut before) = (Vec::new(), 0, begun);
        let mut acked_at = begun;
        while begun.elapsed() < length {
            thread::sleep(PERIOD.saturating_sub(before.elapsed()));
            Self::check_alive(&mut self.cluster)?;
            let nodes = (0..NODES)
                .map(|node| NodeReading::take(self.cluster.pid(node)?, &self.data[node]))
                .collect::<Result<Vec<_>>>()?;
            let mut latencies = load.latencies();
            let acked = load.acked();
            let sample = Sample {
                at: begun.elapsed(),
                nodes,
                p50: percentile(&mut latencies, 50),
                p99: percentile(&mut latencies, 99),
                per_second: (acked - acked_before) as f64 / before.elapsed().as_secs_f64(),
                raw_sync: raw_sync(&self.directory.join("raw-sync"))?,
            };
            if acked > acked_before {
                acked_at = Instant::now();
            }
            let silence = acked_at.elapsed();
            ensure!(silence < SILENCE_MAX, "nothing was acknowledged for {silence:?}");
            (acked_before, before) = (acked, Instant::now());
            println!("{}", told(&sample));
            samples.push(sample);
        }
        Ok(samples)
    }

    fn stop(&mut self) -> Result<()> {
        for node in 0..NODES {
            let status = self.cluster.stop(node, STOP_LIMIT)?;
            ensure!(status.success(), "node {} stopped with {status}", node + 1);
        }
        Ok(())
    }
}

fn told(sample: &Sample) -> String {
    let each = |value: fn(&NodeReading) -> u64| {
        let values: Vec<String> = sample.nodes.iter().map(|node| value(node).to_string()).collect();
        values.join(" ")
    };
    format!(
        "{:5.0} s: log {} KiB, snapshots {} KiB, memory {} KiB, descriptors {}; {:.0} writes/s, p50 {:.2} ms, \
         p99 {:.2} ms; a raw sync {:.2} ms",
        sample.at.as_secs_f64(),
        each(|node| node.log_bytes >> 10),
        each(|node| node.snapshot_bytes >> 10),
        each(|node| node.memory_bytes >> 10),
        each(|node| node.descriptors),
        sample.per_second,
        sample.p50.as_secs_f64() * 1e3,
        sample.p99.as_secs_f64() * 1e3,
        sample.raw_sync.as_secs_f64() * 1e3,
    )
}

#[cfg(test)]
mod tests {
    use super::{GROUPS, Options, habits};

    #[test]
    fn one_group_is_idle_and_all_others_have_a_client() {
        let tags: Vec<String> = (0..GROUPS).map(|n| format!("t{n}")).collect();
        let habits = habits(&tags);
        let used = |tag: &String| habits.iter().any(|habit| habit.tags.contains(tag));
        assert_eq!(tags.iter().filter(|tag| !used(tag)).collect::<Vec<_>>(), ["t0"]);
        let alone = |tag: &str| habits.iter().filter(|h| h.tags.iter().any(|t| t == tag)).count();
        assert_eq!((alone("t1"), alone("t2")), (1, 1));
    }

    #[test]
    fn options_are_understood_and_misspelt_ones_are_errors() {
        let parse = |line: &str| {
            Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let options = parse("--minutes=5 --svg x.svg --raftd y").unwrap();
        assert_eq!((options.minutes, options.svg), (5, Some("x.svg".into())));
        assert_eq!(parse("").unwrap().minutes, 30);
        for wrong in ["--minutes 1", "--minutes", "--rounds 3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
