//! Running another program: its output kept, a time limit kept, selected lines shown live.
//!
//! Invariant: a job with a time limit returns soon after it, even if a grandchild still holds the
//! output pipe open; what was written until then is kept.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a job with a time limit is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// How long a killed job's output may still take to arrive.
const GRACE: Duration = Duration::from_millis(500);

/// A program about to be run.
pub(crate) struct Job {
    command: Command,
    input: String,
    limit: Option<Duration>,
    show: fn(&str) -> bool,
}

/// What a program did.
pub(crate) struct Finished {
    /// `None` if it was killed at its time limit.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    /// Empty if the two streams were merged.
    pub(crate) stderr: String,
}

impl Job {
    pub(crate) fn new(command: Command) -> Self {
        Self { command, input: String::new(), limit: None, show: |_| false }
    }

    /// Writes this to the program's standard input; without it the input is empty.
    pub(crate) fn input(mut self, input: impl Into<String>) -> Self {
        self.input = input.into();
        self
    }

    /// Kills the program after this long.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Prints the lines of standard output that `wanted` picks, as they come.
    pub(crate) fn show(mut self, wanted: fn(&str) -> bool) -> Self {
        self.show = wanted;
        self
    }

    /// Runs it with both output streams in one, in the order they were written.
    pub(crate) fn merged(mut self) -> Result<Finished> {
        let (reader, writer) = io::pipe().context("cannot open a pipe")?;
        self.command.stdout(writer.try_clone().context("cannot clone a pipe")?).stderr(writer);
        let mut child = self.spawn()?;
        // Only the child may hold the pipe's other end, or its end would never be seen.
        self.command = Command::new("");
        let stdout = Collector::start(reader, self.show);
        self.finish(&mut child, stdout, None)
    }

    /// Runs it with its output streams apart.
    pub(crate) fn apart(mut self) -> Result<Finished> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let stdout = child.stdout.take().context("standard output is not piped")?;
        let stderr = child.stderr.take().context("standard error is not piped")?;
        let stdout = Collector::start(stdout, self.show);
        self.finish(&mut child, stdout, Some(Collector::start(stderr, |_| false)))
    }

    fn spawn(&mut self) -> Result<Child> {
        let stdin = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child =
            self.command.stdin(stdin).spawn().with_context(|| {
                format!("cannot start {}", self.command.get_program().display())
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = std::mem::take(&mut self.input);
            // A program may end without reading everything; its own result says whether it failed.
            thread::spawn(move || stdin.write_all(input.as_bytes()));
        }
        Ok(child)
    }

    fn finish(
        self,
        child: &mut Child,
        stdout: Collector,
        stderr: Option<Collector>,
    ) -> Result<Finished> {
        let status = wait(child, self.limit)?;
        let patience = self.limit.map(|_| GRACE);
        Ok(Finished {
            status,
            stdout: stdout.take(patience),
            stderr: stderr.map(|stderr| stderr.take(patience)).unwrap_or_default(),
        })
    }
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Everything it wrote and how it ended, for a failure report.
    pub(crate) fn evidence(&self) -> String {
        let mut text = self.stdout.clone();
        text.push_str(&self.stderr);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match self.status {
            Some(status) => write!(text, "({status})"),
            None => write!(text, "(killed at its time limit)"),
        }
        .expect("writing to a string cannot fail");
        text
    }
}

/// Waits for the child's end; kills it at the limit and returns `None`.
pub(crate) fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return Ok(Some(child.wait()?));
    };
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Whether a program can be started at all and likes these arguments.
pub(crate) fn available(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Gathers one stream on a thread of its own.
struct Collector {
    text: Arc<Mutex<String>>,
    ended: Receiver<()>,
}

impl Collector {
    fn start(stream: impl Read + Send + 'static, show: fn(&str) -> bool) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let (done, ended) = mpsc::channel();
        let shared = Arc::clone(&text);
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                let line = String::from_utf8_lossy(&bytes);
                if show(line.trim_end()) {
                    println!("{}", line.trim_end());
                }
                shared.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                bytes.clear();
            }
            // Nobody listens any more if the job was given up; that is no failure.
            let _ = done.send(());
        });
        Self { text, ended }
    }

    /// What arrived, once the stream has ended or `patience` has passed.
    fn take(self, patience: Option<Duration>) -> String {
        match patience {
            Some(patience) => drop(self.ended.recv_timeout(patience)),
            None => drop(self.ended.recv()),
        }
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::Job;

    fn shell(script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job::new(command)
    }

    #[test]
    fn merged_streams_keep_the_order_of_writing() {
        let finished = shell("echo a; echo b >&2; echo c; exit 3").merged().unwrap();
        assert_eq!(finished.stdout, "a\nb\nc\n");
        assert!(!finished.success());
        assert!(finished.evidence().contains("exit status: 3"), "{}", finished.evidence());
    }

    #[test]
    fn input_is_passed_on_and_streams_stay_apart() {
        let finished = shell("cat; echo err >&2").input("in").apart().unwrap();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("in", "err\n"));
    }

    #[test]
    fn a_grandchild_holding_the_pipe_does_not_outlast_the_limit() {
        let start = Instant::now();
        let script = "echo early; sleep 20 & wait";
        let finished = shell(script).limit(Duration::from_millis(100)).merged().unwrap();
        assert!(finished.status.is_none());
        assert_eq!(finished.stdout, "early\n");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
