//! At which call of which thread a node is to be hit, and the tracer that does it.
//!
//! strace counts the calls of every thread it watches and injects at the chosen one, before the kernel
//! runs it. Either it is attached to threads of a node that runs, by their names, so that calls of
//! one part of the node are hit; or the node runs under it from its first call on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::hit::{Hit, find};
use crate::job::{available, wait};

/// Calls that are shown, by which a hit is understood.
const CALLS: &str = "openat,pread64,write,pwrite64,pwritev,pwritev2,fallocate,fdatasync,fsync,rename,\
                     unlink,sendto,ftruncate";
/// Bytes of each buffer in the trace: the heads of a frame's first records.
const SHOWN_BYTES: &str = "1024";
/// How long the threads of a node may take to be there.
const THREADS_LIMIT: Duration = Duration::from_secs(20);
const THREADS_POLL: Duration = Duration::from_millis(1);
/// How long the tracer may take to write its last lines after the end of the node.
const TRACE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// What is done to the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Injection {
    /// The process is killed in its place.
    Kill,
    /// It is not made, and says EIO.
    Eio,
}

impl Injection {
    fn words(self) -> &'static str {
        match self {
            Self::Kill => "signal=SIGKILL",
            Self::Eio => "error=EIO",
        }
    }
}

/// Whose calls count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Watched {
    /// Threads of these names, each for itself.
    Threads(&'static [&'static str]),
    /// Every thread, from the first call of the process on.
    FromTheStart,
}

/// One call that is to be hit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Aim {
    pub(super) watched: Watched,
    pub(super) call: &'static str,
    /// The how-manieth of a thread, from 1 on.
    pub(super) nth: usize,
}

/// What is missing to trace, if something is.
pub(super) fn obstacle() -> Option<&'static str> {
    if !available("strace", &["-V"]) {
        return Some("install with apt install strace");
    }
    // Names of threads in the trace came with 5.15.
    let tried = ["-f", "-Y", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"];
    (!available("strace", &tried)).then_some(
        "this strace is older than 5.15, or this user may not trace: see \
         /proc/sys/kernel/yama/ptrace_scope, or in a container add the capability SYS_PTRACE",
    )
}

impl Aim {
    fn options(&self, injection: Injection, trace: &Path) -> Vec<String> {
        let Self { call, nth, .. } = self;
        let inject = format!("inject={call}:{}:when={nth}", injection.words());
        let trace = trace.display().to_string();
        let fixed = ["-y", "-Y", "-q", "-s", SHOWN_BYTES, "-e", "signal=none"].map(str::to_owned);
        let calls = format!("trace={CALLS}");
        let mut options = fixed.to_vec();
        options.extend(["-e".to_owned(), calls, "-e".to_owned(), inject, "-o".to_owned(), trace]);
        options
    }

    /// What stands before a node that is to run under the tracer from its start.
    pub(super) fn prefix(&self, injection: Injection, trace: &Path) -> Vec<String> {
        // The tracer is a grandchild, so that our child is the node itself.
        let mut prefix = ["strace", "-D", "-f"].map(str::to_owned).to_vec();
        prefix.extend(self.options(injection, trace));
        prefix
    }
}

/// A tracer at the threads of a node.
pub(super) struct Tracer {
    child: Child,
    trace: PathBuf,
}

impl Tracer {
    /// Attaches to a running node; returns once the threads are there and the tracer was started.
    pub(super) fn attach(
        aim: &Aim,
        injection: Injection,
        names: &[&str],
        pid: u32,
        trace: PathBuf,
    ) -> Result<Self> {
        let deadline = Instant::now() + THREADS_LIMIT;
        let threads = loop {
            let threads = threads(pid, names);
            if threads.len() >= names.len() {
                break threads;
            }
            if Instant::now() > deadline || !Path::new(&format!("/proc/{pid}")).exists() {
                bail!("no threads {names:?} in process {pid}");
            }
            thread::sleep(THREADS_POLL);
        };
        let mut command = Command::new("strace");
        command.args(aim.options(injection, &trace));
        for thread in &threads {
            command.args(["-p", thread]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("cannot start strace")?, trace })
    }

    /// Waits for the end of the tracer, which comes with that of the threads, and reads its trace.
    pub(super) fn finish(mut self) -> Result<String> {
        wait(&mut self.child, Some(TRACE_LIMIT))?;
        Ok(read(&self.trace))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Without effect if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the aim hit, from the trace of a tracer that was attached.
pub(super) fn hit_of(aim: &Aim, trace: &str) -> Option<Hit> {
    let alone = match aim.watched {
        Watched::Threads([alone]) => alone,
        Watched::Threads(_) | Watched::FromTheStart => "",
    };
    find(trace, alone, aim.call, aim.nth)
}

/// What the aim hit of a process that ran under the tracer, whose end nobody hears of.
pub(super) fn hit_at_the_start(aim: &Aim, trace: &Path) -> Option<Hit> {
    let deadline = Instant::now() + TRACE_LIMIT;
    loop {
        let text = read(trace);
        let hit = hit_of(aim, &text);
        if text.contains("+++ killed by SIGKILL +++") || Instant::now() > deadline {
            return hit;
        }
        thread::sleep(POLL);
    }
}

fn read(trace: &Path) -> String {
    fs::read(trace)
        .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The threads of these names.
fn threads(pid: u32, names: &[&str]) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let named = tasks.filter(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        names.contains(&comm.trim_end())
    });
    named.map(|task| task.file_name().to_string_lossy().into_owned()).collect()
}
