//! Check `eio`: a sync of the log that fails ends the node, and nothing acknowledged goes with it.
//!
//! A tracer lets one sync, or one write that syncs itself, say EIO without making it. The node must end by
//! itself with the documented exit code. Two scenes: a node alone, all of whose calls are watched, so that
//! [`super::trace`] can judge that nothing was acknowledged that no sync covered (and finds all of it guilty
//! when the syncs are taken out); and one of three, whose
//! groups the others must take over. Afterwards its log is sound, it starts, and everything is there.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::aim::{Aim, Injection, Tracer, Watched, hit_of, obstacle};
use super::cluster::{Cluster, Layout};
use super::load::{Findings, Load, read_back};
use super::resp::{Client, Reply};
use super::sigkill::{Random, verify};
use super::trace::{CALLS, Judge, without_syncs};
use super::{Outcome, Setting};
use crate::job::wait;
use crate::nodes::admin;

/// Failures of a node alone for each round of the suite, and of one of three.
const ALONE: u32 = 2;
const OF_THREE: u32 = 3;
/// The exit code of a node whose log failed while it ran.
const FAILED: i32 = 5;
const GROUPS: u32 = 8;
const SEGMENT_BYTES: u64 = 16 << 10;
const CLIENTS: usize = 6;
/// Which of the calls of the log fails, at most.
const NTH_MAX: usize = 80;
/// Failures that one data directory lives through.
const LIVES: u32 = 20;
/// Bytes of each buffer in the trace; a frame of a pipeline has less than half of it.
const SHOWN_BYTES: &str = "4096";
/// Requests in one pipeline, every other time.
const DEPTH: usize = 16;
const END_LIMIT: Duration = Duration::from_secs(60);
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    if let Some(obstacle) = obstacle() {
        return Ok(vec![Outcome::skipped("everything", obstacle)]);
    }
    let (alone, three) = (setting.rounds * ALONE, setting.rounds * OF_THREE);
    let told = |what: String, done: Result<String>| match done {
        Ok(note) => Outcome::passed(what, note),
        Err(error) => Outcome::failed(what, "see above", format!("{error:#}")),
    };
    Ok(vec![
        told(format!("{alone} failures, one node"), node_alone(setting, alone)),
        told(format!("{three} failures, one of three nodes"), one_of_three(setting, three)),
    ])
}

/// One node, its only client, and what that was told.
struct Site {
    cluster: Cluster,
    data: PathBuf,
    trace: PathBuf,
    acked: Vec<String>,
}

fn node_alone(setting: &Setting, failures: u32) -> Result<String> {
    let (mut acked, mut syncs, mut in_trace) = (0, 0, 0);
    for first in (0..failures).step_by(LIVES as usize) {
        let mut site = Site::prepare(setting, first)?;
        for failure in first..failures.min(first + LIVES) {
            let judged = site.failure(setting, failure);
            let (acks, covered) = judged.with_context(|| format!("failure {failure}"))?;
            (in_trace, syncs) = (in_trace + acks, syncs + covered);
        }
        site.start_and_read_back()?;
        acked += site.acked.len();
        println!("{failures} failures of a node alone: {acked} acknowledged, lost 0");
    }
    Ok(format!(
        "exit code {FAILED} each time; {in_trace} acknowledgements in the traces, none before one of {syncs} \
         syncs covered it; {acked} read back, lost 0"
    ))
}

impl Site {
    fn prepare(setting: &Setting, number: u32) -> Result<Self> {
        let directory = setting.directory.join(format!("alone-{number}"));
        fs::create_dir_all(&directory)?;
        let data = directory.join("data");
        let places = [data.clone()];
        let mut layout = Layout::new(&setting.raftd, &directory, &places, 1);
        layout.segment_bytes = SEGMENT_BYTES;
        let cluster = Cluster::prepare(&layout)?;
        Ok(Self { cluster, data, trace: directory.join("trace"), acked: Vec::new() })
    }

    /// Returns the acknowledgements and the syncs that the trace shows.
    fn failure(&mut self, setting: &Setting, number: u32) -> Result<(usize, usize)> {
        self.start_and_read_back()?;
        let mut client = Client::connect(self.cluster.ports(0).proxy)?;
        let local = client.local_address()?;
        let (call, nth) = choice(u64::from(number));
        let mut tracer = self.attach(call, nth)?;
        let mut markers = Vec::new();
        let before = self.acked.len();
        let deadline = Instant::now() + END_LIMIT;
        while self.batch(&mut client, number, &mut markers).is_ok() {
            ensure!(Instant::now() < deadline, "it goes on after {call} {nth} failed");
        }
        let status = self.cluster.end(0, END_LIMIT)?.context("it has not ended by itself")?;
        ensure!(
            status.code() == Some(FAILED),
            "it ended with {status}:\n{}",
            self.cluster.log_tail(0)
        );
        wait(&mut tracer, Some(END_LIMIT))?;
        let trace = fs::read(&self.trace)?;
        let trace = String::from_utf8_lossy(&trace);
        ensure!(trace.contains("(INJECTED)"), "no call was made to fail");
        verify(&setting.raftd, &self.data)?;

        let client = format!("->{local}]");
        let judge = |markers| Judge { markers, client: &client, quorum: 1 }.judge(&trace);
        // Of the last ones that were asked for some were never answered.
        let acks = judge(&markers).acks;
        let acks = acks.min(markers.len());
        let judgement = judge(&markers[..acks]);
        let violations: Vec<String> =
            judgement.violations.into_iter().filter(|told| !is_refusal(told)).collect();
        ensure!(violations.is_empty(), "{}", violations.join("\n"));
        let blind = Judge { markers: &markers[..acks], client: &client, quorum: 1 };
        let blind = blind.judge(&without_syncs(&trace)).violations.len();
        ensure!(blind >= acks, "the judge is blind: without syncs it finds {blind} of {acks}");
        let heard = self.acked.len() - before;
        ensure!(heard <= acks, "{heard} acknowledgements came, and {acks} are in the trace");
        Ok((acks, judgement.syncs))
    }

    /// All threads, so that what leaves for the client is in the same order as the calls of the log.
    fn attach(&self, call: &str, nth: usize) -> Result<Child> {
        let pid = self.cluster.pid(0)?;
        // A file that is there tells that the tracer is.
        let _ = fs::remove_file(&self.trace);
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "-yy", "-v", "-q", "-s", SHOWN_BYTES, "-e", "signal=none"]);
        command.args(["-e", &format!("trace={CALLS}")]);
        command.args(["-e", &format!("inject={call}:error=EIO:when={nth}"), "-o"]);
        command.arg(&self.trace).args(["-p", &pid.to_string()]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start strace")?;
        let deadline = Instant::now() + END_LIMIT;
        while !is_traced(pid) {
            ensure!(Instant::now() < deadline, "the tracer is not there");
            thread::sleep(POLL);
        }
        Ok(child)
    }

    /// One write, or a pipeline of them.
    fn batch(
        &mut self,
        client: &mut Client,
        number: u32,
        markers: &mut Vec<String>,
    ) -> std::io::Result<()> {
        let from = markers.len();
        let count = if from.is_multiple_of(2) { 1 } else { DEPTH };
        markers.extend((from..from + count).map(|n| format!("m-{number:04}-{n:06};")));
        for marker in &markers[from..] {
            client.push(&[b"SET", marker.as_bytes(), b"v"]);
        }
        client.flush()?;
        for marker in &markers[from..] {
            match client.reply()? {
                Reply::Ok => self.acked.push(marker.clone()),
                other => return Err(std::io::Error::other(format!("{marker}: {other:?}"))),
            }
        }
        Ok(())
    }

    fn start_and_read_back(&mut self) -> Result<()> {
        self.cluster.start(0)?;
        let deadline = Instant::now() + SERVE_LIMIT;
        let mut client = loop {
            let asked = Client::connect(self.cluster.ports(0).proxy).and_then(|mut client| {
                client.push(&[b"GET", b"ready"]);
                client.flush()?;
                Ok((client.reply()?, client))
            });
            match asked {
                Ok((Reply::Null, client)) => break client,
                _ if Instant::now() < deadline => thread::sleep(POLL),
                _ => bail!("it does not serve again:\n{}", self.cluster.log_tail(0)),
            }
        };
        for batch in self.acked.chunks(64) {
            batch.iter().for_each(|marker| client.push(&[b"GET", marker.as_bytes()]));
            client.flush()?;
            for marker in batch {
                let found = client.reply()?;
                ensure!(found == Reply::Bulk(b"v".to_vec()), "{marker} is lost: {found:?}");
            }
        }
        Ok(())
    }
}

/// Whether the judge was only told that a write was not answered with `+OK` but honestly, with an error.
fn is_refusal(violation: &str) -> bool {
    let Some((_, sent)) = violation.split_once(": not only +OK: ") else { return false };
    let replies = sent.split("\\r\\n").filter(|reply| !reply.is_empty());
    replies.into_iter().all(|reply| reply == "+OK" || reply.starts_with('-'))
}

/// Whether a tracer has taken every thread of a process.
fn is_traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut statuses =
        tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    statuses.all(|status| !status.contains("TracerPid:\t0\n"))
}

/// Which call fails, and which one of them.
fn choice(seed: u64) -> (&'static str, usize) {
    let mut random = Random(seed);
    let call = ["pwritev2", "fdatasync"][random.below(2)];
    (call, 1 + random.below(NTH_MAX))
}

fn one_of_three(setting: &Setting, failures: u32) -> Result<String> {
    let mut found = Findings::default();
    let mut takeovers = Vec::new();
    for first in (0..failures).step_by(LIVES as usize) {
        let directory = setting.directory.join(format!("three-{first}"));
        fs::create_dir_all(&directory)?;
        let data: Vec<PathBuf> = (1..=3).map(|id| directory.join(format!("data-{id}"))).collect();
        let mut layout = Layout::new(&setting.raftd, &directory, &data, GROUPS);
        layout.segment_bytes = SEGMENT_BYTES;
        let mut cluster = Cluster::prepare(&layout)?;
        let mut written = Vec::new();
        for failure in first..failures.min(first + LIVES) {
            let victim = failure as usize % 3;
            cluster.start_all()?;
            let load = Load::start(&cluster.proxies(), CLIENTS, &format!("f{failure}"));
            let done = fail(&mut cluster, &load, victim, &directory, failure);
            written.extend(load.stop());
            takeovers.push(done.with_context(|| format!("failure {failure} of three"))?);
            verify(&setting.raftd, &data[victim])?;
            cluster.start(victim)?;
            let read = read_back(&cluster.proxies(), &written)?;
            ensure!(read.lost == 0, "lost {}: {}", read.lost, read.named.join(", "));
            serves(&mut cluster, victim)?;
        }
        found.add(read_back(&cluster.proxies(), &written)?);
        println!(
            "{} failures of one of three: {} acknowledged, lost 0",
            takeovers.len(),
            found.acked
        );
    }
    takeovers.sort_unstable();
    let longest = takeovers.last().copied().unwrap_or_default();
    Ok(format!(
        "exit code {FAILED} each time; {} acknowledged, lost 0; all groups led by others after {} ms \
         (median; longest {} ms)",
        found.acked,
        takeovers[takeovers.len() / 2].as_millis(),
        longest.as_millis()
    ))
}

/// A call of one node's log fails under load. Returns how long after its end others led all groups.
fn fail(
    cluster: &mut Cluster,
    load: &Load,
    victim: usize,
    directory: &std::path::Path,
    failure: u32,
) -> Result<Duration> {
    const LOG: &[&str] = &["raft-log", "raft-log-disk"];
    let deadline = Instant::now() + SERVE_LIMIT;
    while load.acked() == 0 {
        ensure!(Instant::now() < deadline, "nothing is acknowledged");
        thread::sleep(POLL);
    }
    let (call, nth) = choice(u64::from(failure));
    let aim = Aim { watched: Watched::Threads(LOG), call, nth };
    let pid = cluster.pid(victim)?;
    let tracer = Tracer::attach(&aim, Injection::Eio, LOG, pid, directory.join("trace"))?;
    let status = cluster.end(victim, END_LIMIT)?.context("it has not ended by itself")?;
    let ended = Instant::now();
    let code = status.code();
    ensure!(code == Some(FAILED), "it ended with {status}:\n{}", cluster.log_tail(victim));
    let trace = tracer.finish()?;
    ensure!(hit_of(&aim, &trace).is_some(), "no call was made to fail: {aim:?}");
    let acked = load.acked();
    let others: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
    let deadline = Instant::now() + SERVE_LIMIT;
    let is_led = |cluster: &Cluster, node: usize| -> Result<bool> {
        let status = admin::status(cluster.ports(node).admin)?;
        let groups = status["groups"].as_array().context("no groups")?;
        let gone = victim as u64 + 1;
        Ok(groups.iter().all(|group| group["leader"].as_u64().is_some_and(|node| node != gone)))
    };
    while !others.iter().all(|node| is_led(cluster, *node).unwrap_or(false)) {
        ensure!(Instant::now() < deadline, "a group is without a leader");
        thread::sleep(POLL);
    }
    let took = ended.elapsed();
    while load.acked() < acked + 100 {
        ensure!(Instant::now() < deadline, "the others acknowledge nothing");
        thread::sleep(POLL);
    }
    Ok(took)
}

/// Waits until a write through this node is acknowledged.
fn serves(cluster: &mut Cluster, node: usize) -> Result<()> {
    let deadline = Instant::now() + SERVE_LIMIT;
    let ask = |proxy| -> std::io::Result<Reply> {
        let mut client = Client::connect(proxy)?;
        client.push(&[b"SET", b"serves", b"1"]);
        client.flush()?;
        client.reply()
    };
    while !ask(cluster.ports(node).proxy).is_ok_and(|reply| reply == Reply::Ok) {
        if let Some((_, last_words)) = cluster.ended().into_iter().next() {
            bail!("{last_words}");
        }
        ensure!(Instant::now() < deadline, "it takes no write again");
        thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{NTH_MAX, choice, is_refusal};

    #[test]
    fn an_error_is_an_honest_answer_and_half_an_acknowledgement_is_none() {
        assert!(is_refusal(r"line 7: not only +OK: +OK\r\n-UNKNOWN outcome\r\n"));
        assert!(!is_refusal(r"line 7: not only +OK: +O"));
        assert!(!is_refusal(
            "line 7: m-1; is acknowledged, but on disk on 0 nodes of the 1 needed"
        ));
    }

    #[test]
    fn both_kinds_of_syncs_fail_early_and_late() {
        let chosen: BTreeSet<_> = (0..100).map(choice).collect();
        for call in ["pwritev2", "fdatasync"] {
            let nths: Vec<usize> =
                chosen.iter().filter(|(name, _)| *name == call).map(|(_, nth)| *nth).collect();
            assert!(nths.first().is_some_and(|first| *first < NTH_MAX / 8), "{nths:?}");
            assert!(nths.last().is_some_and(|last| *last > NTH_MAX - NTH_MAX / 8), "{nths:?}");
        }
    }
}
