//! Check `sigkill`: SIGKILL at chosen system calls, again and again on the same directory, loses nothing.
//!
//! The real binary with the smallest segments there are, and snapshots and checkpoints all the time,
//! so that every kind of work on the log is always under way. A tracer kills the node in place of the n-th call of
//! a thread; which, a seed chooses, and what it was doing, its trace tells. After each kill the log is
//! verified as it was left, the node started again, and everything read back that was ever acknowledged.
//!
//! Most kills are of single nodes. Others hit one of three while it is filled by a snapshot; it then has to lead
//! without the one that filled it. The control cuts the tail off a log, and the check must see it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::aim::{Aim, Injection, Tracer, Watched, hit_at_the_start, hit_of, obstacle};
use super::cluster::{Cluster, Layout};
use super::hit::{Hit, Operation};
use super::load::{Findings, Load, Shape, Writes, read_back};
use super::tail::{Damage, newest_segment, victims};
use super::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::admin;

/// Kills of single nodes for each round of the suite.
const KILLS: u32 = 21;
/// Kills of one of three nodes for each round.
const INSTALLS: u32 = 1;
/// Kills that one data directory lives through.
const LIVES: u32 = 25;
const GROUPS: u32 = 4;
/// The smallest, mostly; in the others batches get large enough for the second thread of the log.
const SEGMENT_BYTES: [u64; 4] = [16 << 10, 16 << 10, 32 << 10, 128 << 10];
const CHECKPOINT_BYTES: u64 = 64 << 10;
const SNAPSHOTS: &str = "[snapshots]\nevery_entries = 60\nevery_bytes = 16384\n\n";
/// A single node elects itself at once; the lanes lead nowhere.
const ALONE: &str = "[raft]\nheartbeat_interval_ms = 20\nelection_timeout_min_ms = 60\n\
                     election_timeout_max_ms = 100\n\n[network.control]\nbackoff_max_ms = 40\n\
                     [network.data]\nbackoff_max_ms = 40\n[network.bulk]\nbackoff_max_ms = 40\n";
/// How long the chosen call may take to come; and where a snapshot has to come first.
const HIT_LIMIT: Duration = Duration::from_secs(3);
const INSTALL_LIMIT: Duration = Duration::from_secs(10);
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
const SERVE_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// The number of the control's directory; one with the smallest segments.
const CONTROL: u32 = 1_000_000;
/// Logs that are cut at most.
const CONTROLS: u32 = 30;
/// Written while one of three nodes is away: several snapshots of each group.
const AWAY_WRITES: u64 = 1500;
/// Written so that only two nodes have it: some of each group.
const MARKS: u64 = 100;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if let Some(obstacle) = obstacle() {
        return Ok(vec![Outcome::skipped("everything", obstacle)]);
    }
    let kills = setting.rounds * KILLS;
    let mut total = Total::default();
    let done = (0..kills)
        .step_by(LIVES as usize)
        .try_for_each(|first| alone(setting, first..kills.min(first + LIVES), &mut total));
    let mut outcomes = vec![total.outcome(&format!("{kills} kills, one node"), done, &SHOWN)];
    outcomes.push(match control(setting) {
        Ok(note) => Outcome::passed("control", note),
        Err(error) => Outcome::failed("control", "a cut tail is not seen", format!("{error:#}")),
    });
    let kills = setting.rounds * INSTALLS;
    let mut total = Total::default();
    let done = Trio::prepare(setting).and_then(|mut trio| {
        (0..kills).try_for_each(|kill| {
            trio.round(setting, kill, &mut total).with_context(|| format!("kill {kill} of three"))
        })
    });
    let what = format!("{kills} kills, one of three is filled");
    outcomes.push(total.outcome(&what, done, &[Operation::SnapshotInstall]));
    Ok(outcomes)
}

/// What must be among the hits of single nodes, if there are many.
const SHOWN: [Operation; 5] = [
    Operation::Append,
    Operation::Rotation,
    Operation::Checkpoint,
    Operation::Rewrite,
    Operation::SnapshotTaking,
];
/// From so many kills on.
const SHOWN_FROM: u32 = 200;

/// What all kills brought.
#[derive(Default)]
struct Total {
    findings: Findings,
    hits: BTreeMap<Operation, u32>,
    /// The chosen call did not come, so the node was killed at any moment.
    elsewhere: u32,
}

impl Total {
    fn count(&mut self, hit: Option<&Hit>) {
        match hit {
            Some(hit) => *self.hits.entry(hit.operation).or_default() += 1,
            None => self.elsewhere += 1,
        }
    }

    fn at_calls(&self) -> u32 {
        self.hits.values().sum()
    }

    fn told_hits(&self) -> String {
        let told = |(operation, count): (&Operation, &u32)| format!("{operation} {count}");
        self.hits.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    fn outcome(&self, what: &str, done: Result<()>, shown: &[Operation]) -> Outcome {
        let Findings { acked, unknown, unknown_present, lost, ref named } = self.findings;
        let note = format!(
            "{} at system calls ({}), {} between them; {acked} acknowledged, lost {lost}; {unknown} \
             unknown, {unknown_present} of them happened",
            self.at_calls(),
            self.told_hits(),
            self.elsewhere
        );
        let missing: Vec<String> = shown
            .iter()
            .filter(|operation| !self.hits.contains_key(operation))
            .map(Operation::to_string)
            .collect();
        match done {
            Err(error) => Outcome::failed(what, note, format!("{error:#}")),
            Ok(()) if lost > 0 => Outcome::failed(what, note, named.join("\n")),
            Ok(()) if self.at_calls() >= SHOWN_FROM && !missing.is_empty() => {
                Outcome::failed(what, note, format!("nothing was hit of: {}", missing.join(", ")))
            }
            Ok(()) => Outcome::passed(what, note),
        }
    }
}

/// Numbers from a seed (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

const LOG: Watched = Watched::Threads(&["raft-log", "raft-log-disk"]);
const CHECKPOINTS: Watched = Watched::Threads(&["raft-log-tender"]);
const SPARES: Watched = Watched::Threads(&["raft-log-spares"]);
/// Names of threads are cut after 15 bytes.
const SNAPSHOT: Watched = Watched::Threads(&["raft-snapshot-w"]);
const START: Watched = Watched::FromTheStart;
const INSTALL: Watched = Watched::Threads(&["raft-snapshot-w", "raft-snapshots"]);

/// Whose call, and from the first to which one; chosen evenly.
const AIMS: [(Watched, &str, usize); 30] = [
    (LOG, "pwritev2", 40),
    (LOG, "pwritev2", 40),
    (LOG, "pwritev2", 8),
    (LOG, "pwritev", 60),
    (LOG, "pwritev", 60),
    (LOG, "pwritev", 12),
    (LOG, "fdatasync", 60),
    (LOG, "fdatasync", 60),
    (LOG, "pread64", 60),
    (LOG, "openat", 40),
    (LOG, "unlink", 3),
    (CHECKPOINTS, "openat", 8),
    (CHECKPOINTS, "pwritev", 6),
    (CHECKPOINTS, "pwritev", 6),
    (CHECKPOINTS, "fdatasync", 6),
    (CHECKPOINTS, "fdatasync", 6),
    (SPARES, "openat", 4),
    (SPARES, "fsync", 3),
    (SPARES, "pwritev", 2),
    (SPARES, "fdatasync", 2),
    (SNAPSHOT, "openat", 6),
    (SNAPSHOT, "write", 4),
    (SNAPSHOT, "fsync", 6),
    (SNAPSHOT, "rename", 3),
    (SNAPSHOT, "unlink", 4),
    (START, "openat", 40),
    (START, "pread64", 30),
    (START, "pwritev", 12),
    (START, "fdatasync", 10),
    (START, "fsync", 4),
];

const INSTALL_AIMS: [(Watched, &str, usize); 8] = [
    (INSTALL, "openat", 6),
    (INSTALL, "ftruncate", 4),
    (INSTALL, "pwrite64", 4),
    (INSTALL, "fsync", 8),
    (INSTALL, "rename", 4),
    (INSTALL, "pread64", 40),
    (LOG, "pwritev2", 20),
    (LOG, "pwritev", 20),
];

fn aim(aims: &[(Watched, &'static str, usize)], seed: u64) -> Aim {
    let mut random = Random(seed);
    let (watched, call, most) = aims[random.below(aims.len())];
    Aim { watched, call, nth: 1 + random.below(most) }
}

/// One node, and all that was written to it.
struct Alone {
    cluster: Cluster,
    directory: PathBuf,
    data: PathBuf,
    written: Vec<Writes>,
    /// Of all of it, when it was read the last time.
    found: Findings,
}

/// The kills of these numbers, on one directory.
fn alone(setting: &Setting, kills: std::ops::Range<u32>, total: &mut Total) -> Result<()> {
    let mut alone = Alone::prepare(setting, kills.start)?;
    let done = alone.live(setting, kills, total);
    total.findings.add(std::mem::take(&mut alone.found));
    done?;
    fs::remove_dir_all(&alone.directory)?;
    Ok(())
}

impl Alone {
    fn prepare(setting: &Setting, number: u32) -> Result<Self> {
        let directory = setting.directory.join(format!("alone-{number}"));
        fs::create_dir_all(&directory)?;
        let data = directory.join("data");
        let places = [data.clone()];
        let mut layout = Layout::new(&setting.raftd, &directory, &places, GROUPS);
        layout.segment_bytes = SEGMENT_BYTES[(number / LIVES) as usize % SEGMENT_BYTES.len()];
        layout.checkpoint_bytes = Some(CHECKPOINT_BYTES);
        let extra = format!("{SNAPSHOTS}{ALONE}");
        layout.extra = &extra;
        let cluster = Cluster::prepare(&layout)?;
        Ok(Self { cluster, directory, data, written: Vec::new(), found: Findings::default() })
    }

    fn live(
        &mut self,
        setting: &Setting,
        kills: std::ops::Range<u32>,
        total: &mut Total,
    ) -> Result<()> {
        for kill in kills.clone() {
            self.kill(setting, kill, total).with_context(|| format!("kill {kill}"))?;
        }
        self.start_and_read_back()?;
        let status = self.cluster.stop(0, STOP_LIMIT)?;
        ensure!(status.success(), "it stopped with {status}");
        verify(&setting.raftd, &self.data)?;
        println!(
            "{} kills: {} at system calls ({}); the last {} left {} acknowledged, lost 0",
            kills.end,
            total.at_calls(),
            total.told_hits(),
            kills.len(),
            self.found.acked
        );
        Ok(())
    }

    fn kill(&mut self, setting: &Setting, number: u32, total: &mut Total) -> Result<()> {
        let aim = aim(&AIMS, u64::from(number));
        let trace = self.directory.join("trace");
        let hit = match aim.watched {
            Watched::FromTheStart => {
                let prefix = aim.prefix(Injection::Kill, &trace);
                let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
                self.cluster.start_as(0, &prefix, |_| Ok(()))?;
                let load = self.load(number);
                let was_hit = was_killed(&mut self.cluster, 0, HIT_LIMIT)?;
                self.written.extend(load.stop());
                was_hit.then(|| hit_at_the_start(&aim, &trace)).flatten()
            }
            Watched::Threads(names) => {
                self.start_and_read_back()?;
                let pid = self.cluster.pid(0)?;
                let tracer = Tracer::attach(&aim, Injection::Kill, names, pid, trace)?;
                let load = self.load(number);
                let was_hit = was_killed(&mut self.cluster, 0, HIT_LIMIT)?;
                self.written.extend(load.stop());
                let trace = tracer.finish()?;
                was_hit.then(|| hit_of(&aim, &trace)).flatten()
            }
        };
        total.count(hit.as_ref());
        let told = format!("seed {number}: {aim:?}: {hit:?}");
        note(&self.directory, &told)?;
        verify(&setting.raftd, &self.data).context(told)
    }

    /// Keys of all kinds: spread and in one group, small and large, alone and in pipelines.
    fn load(&self, number: u32) -> Load {
        let shape = |depth, value_bytes, pause_ms, tag: Option<&str>| Shape {
            depth,
            value_bytes,
            pause: Duration::from_millis(pause_ms),
            tag: tag.map(str::to_owned),
        };
        let shapes = [
            shape(1, 100, 0, None),
            shape(8, 200, 2, Some("hot")),
            shape(1, 200, 10, Some("cold")),
            shape(1, 6000, 10, None),
            shape(8, 1000, 20, None),
        ];
        Load::start_shaped(&self.cluster.proxies(), shapes, &format!("k{number}"))
    }

    fn start_and_read_back(&mut self) -> Result<()> {
        self.cluster.start(0)?;
        let found = read_back(&self.cluster.proxies(), &self.written);
        self.found = found.with_context(|| last_words(&mut self.cluster))?;
        let Findings { lost, named, .. } = &self.found;
        ensure!(*lost == 0, "{lost} acknowledged writes are lost: {}", named.join(", "));
        Ok(())
    }
}

/// One of three nodes is away, is filled by a snapshot when it comes back, and killed meanwhile.
struct Trio {
    cluster: Cluster,
    directory: PathBuf,
    data: Vec<PathBuf>,
    written: Vec<Writes>,
}

impl Trio {
    fn prepare(setting: &Setting) -> Result<Self> {
        let directory = setting.directory.join("three");
        fs::create_dir_all(&directory)?;
        let data: Vec<PathBuf> = (1..=3).map(|id| directory.join(format!("data-{id}"))).collect();
        let mut layout = Layout::new(&setting.raftd, &directory, &data, GROUPS);
        layout.segment_bytes = SEGMENT_BYTES[0];
        layout.checkpoint_bytes = Some(CHECKPOINT_BYTES);
        layout.extra = SNAPSHOTS;
        let mut cluster = Cluster::prepare(&layout)?;
        cluster.start_all()?;
        Ok(Self { cluster, directory, data, written: Vec::new() })
    }

    fn round(&mut self, setting: &Setting, number: u32, total: &mut Total) -> Result<()> {
        let victim = number as usize % 3;
        let [helper, other] = [(victim + 1) % 3, (victim + 2) % 3];
        let aim = aim(&INSTALL_AIMS, u64::from(number));
        self.cluster.kill(victim);
        let load = self.load(&[helper, other], &format!("away{number}"));
        self.wait_for_acks(&load, AWAY_WRITES)?;

        let Watched::Threads(names) = aim.watched else { bail!("an install has no start") };
        self.cluster.start(victim)?;
        let trace = self.directory.join("trace");
        let pid = self.cluster.pid(victim)?;
        let tracer = Tracer::attach(&aim, Injection::Kill, names, pid, trace)?;
        let was_hit = was_killed(&mut self.cluster, victim, INSTALL_LIMIT)?;
        let hit = was_hit.then(|| tracer.finish().map(|trace| hit_of(&aim, &trace))).transpose()?;
        let hit = hit.flatten();
        total.count(hit.as_ref());
        let told = format!("seed {number}: {aim:?}: {hit:?}");
        println!("{told}");
        note(&self.directory, &told)?;
        verify(&setting.raftd, &self.data[victim]).context(told)?;

        self.written.extend(load.stop());
        self.cluster.start(victim)?;
        self.wait_until_level(victim, &[helper, other])?;
        // Some of each group that only the victim and the other have; and then it has to do without that.
        self.cluster.kill(helper);
        let load = self.load(&[victim, other], &format!("marks{number}"));
        self.wait_for_acks(&load, MARKS)?;
        self.written.extend(load.stop());
        self.cluster.kill(other);
        self.cluster.start(helper)?;
        let proxies = [victim, helper].map(|node| self.cluster.ports(node).proxy);
        let found =
            read_back(&proxies, &self.written).with_context(|| last_words(&mut self.cluster))?;
        ensure!(found.lost == 0, "{} are lost: {}", found.lost, found.named.join(", "));
        total.findings = found;
        self.cluster.start(other)
    }

    fn load(&self, nodes: &[usize], name: &str) -> Load {
        let proxies: Vec<_> = nodes.iter().map(|node| self.cluster.ports(*node).proxy).collect();
        let shapes = [(1, 0), (8, 5)].map(|(depth, pause)| Shape {
            depth,
            value_bytes: 200,
            pause: Duration::from_millis(pause),
            tag: None,
        });
        Load::start_shaped(&proxies, shapes, name)
    }

    fn wait_for_acks(&mut self, load: &Load, wanted: u64) -> Result<()> {
        wait(&mut self.cluster, &format!("{wanted} acknowledgements"), |_| load.acked() >= wanted)
    }

    /// Waits until a node has applied whatever was committed anywhere.
    fn wait_until_level(&mut self, node: usize, others: &[usize]) -> Result<()> {
        let indexes = |cluster: &Cluster, node: usize, what: &str| -> Option<Vec<u64>> {
            let status = admin::status(cluster.ports(node).admin).ok()?;
            let groups = status["groups"].as_array()?;
            (groups.len() == GROUPS as usize)
                .then(|| groups.iter().map(|group| group[what].as_u64()).collect())?
        };
        wait(&mut self.cluster, "level with the others", |cluster| {
            let Some(applied) = indexes(cluster, node, "applied_index") else { return false };
            others.iter().all(|other| {
                indexes(cluster, *other, "commit_index").is_some_and(|committed| {
                    applied.iter().zip(committed).all(|(applied, committed)| *applied >= committed)
                })
            })
        })
    }
}

/// Logs whose tails were cut off: what stands above must see it, as a lost write or as damage. Sometimes
/// the last segment holds nothing that a client wrote, so it is tried until writes are lost.
fn control(setting: &Setting) -> Result<String> {
    let mut damaged = 0;
    for attempt in 1..=CONTROLS {
        let mut alone = Alone::prepare(setting, CONTROL)?;
        alone.cluster.start(0)?;
        let load = alone.load(0);
        wait(&mut alone.cluster, "acknowledged", |_| load.acked() > 200)?;
        alone.cluster.kill(0);
        alone.written.extend(load.stop());
        let cut = cut_tail(&newest_segment(&alone.data)?.context("there is no log")?)?;
        if verify(&setting.raftd, &alone.data).is_err() {
            damaged += 1;
        } else {
            alone.cluster.start(0)?;
            let found = read_back(&alone.cluster.proxies(), &alone.written);
            alone.cluster.kill(0);
            if found.is_err() {
                // A snapshot that reaches beyond what is left of the log: nobody is served.
                damaged += 1;
            }
            if let Ok(Findings { lost: lost @ 1.., acked, .. }) = found {
                fs::remove_dir_all(&alone.directory)?;
                return Ok(format!(
                    "{cut} bytes cut off: {lost} of {acked} missing; of {attempt} such logs {damaged} \
                     were called damaged or not served"
                ));
            }
        }
        fs::remove_dir_all(&alone.directory)?;
    }
    bail!("after {CONTROLS} cuts nothing acknowledged is missing, {damaged} were called damaged")
}

/// Returns how many bytes of the newest frames were overwritten; one stays.
fn cut_tail(segment: &Path) -> Result<usize> {
    let victims = victims(&fs::read(segment)?, Damage::TornTail, usize::MAX);
    let mut file = File::options().write(true).open(segment)?;
    file.seek(SeekFrom::Start(victims.start as u64))?;
    file.write_all(&vec![0; victims.len()])?;
    file.sync_all()?;
    Ok(victims.len())
}

/// Whether the tracer killed it; otherwise it is killed now.
fn was_killed(cluster: &mut Cluster, node: usize, limit: Duration) -> Result<bool> {
    match cluster.end(node, limit)? {
        // Of a signal.
        Some(status) if status.code().is_none() => Ok(true),
        Some(status) => bail!("it ended by itself with {status}:\n{}", cluster.log_tail(node)),
        None => {
            cluster.kill(node);
            Ok(false)
        }
    }
}

/// What is wrong with nodes that should run, for the report of something that did not come.
fn last_words(cluster: &mut Cluster) -> String {
    let ended = cluster.ended().into_iter().map(|(_, words)| words);
    ended.collect::<Vec<_>>().join("\n")
}

fn wait(cluster: &mut Cluster, what: &str, is_so: impl Fn(&Cluster) -> bool) -> Result<()> {
    let deadline = Instant::now() + SERVE_LIMIT;
    while !is_so(cluster) {
        if let Some((_, last_words)) = cluster.ended().into_iter().next() {
            bail!("{last_words}");
        }
        ensure!(Instant::now() < deadline, "not {what} in {SERVE_LIMIT:?}");
        thread::sleep(POLL);
    }
    Ok(())
}

/// For whoever looks at what is kept after a failure.
fn note(directory: &Path, line: &str) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(directory.join("kills"))?;
    Ok(writeln!(file, "{line}")?)
}

/// `raftd log verify`, which must find nothing at all.
pub(super) fn verify(raftd: &Path, data: &Path) -> Result<()> {
    let mut command = Command::new(raftd);
    command.args(["log", "verify"]).arg(data);
    let finished = Job::new(command).limit(VERIFY_LIMIT).merged()?;
    ensure!(finished.success(), "`raftd log verify` finds:\n{}", finished.evidence());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{AIMS, INSTALL_AIMS, Total, aim};
    use crate::checks::Verdict;
    use crate::durability::hit::{Hit, Operation};

    #[test]
    fn every_aim_is_chosen_and_a_seed_chooses_one() {
        for aims in [&AIMS[..], &INSTALL_AIMS[..]] {
            let chosen: Vec<_> = (0..1000).map(|seed| aim(aims, seed)).collect();
            for (watched, call, most) in aims {
                let like = |aim: &&super::Aim| aim.watched == *watched && aim.call == *call;
                assert!(chosen.iter().filter(like).any(|aim| aim.nth <= *most), "{call}");
            }
            assert_eq!(aim(aims, 7), aim(aims, 7));
            assert!(chosen.iter().all(|aim| aim.nth >= 1));
        }
    }

    #[test]
    fn a_loss_an_error_or_an_operation_that_was_never_hit_is_a_failure() {
        let hit = |operation| Hit { operation, thread: String::new(), call: String::new() };
        let mut total = Total::default();
        let verdict = |total: &Total, done| total.outcome("", done, &[Operation::Rewrite]).verdict;
        (0..300).for_each(|_| total.count(Some(&hit(Operation::Append))));
        assert_eq!(verdict(&total, Ok(())), Verdict::Failed);
        total.count(Some(&hit(Operation::Rewrite)));
        assert_eq!(verdict(&total, Ok(())), Verdict::Passed);
        assert_eq!(verdict(&total, Err(anyhow::anyhow!("x"))), Verdict::Failed);
        total.findings.lost = 1;
        assert_eq!(verdict(&total, Ok(())), Verdict::Failed);
    }
}
