//! A child that is listened to while it runs: its lines, its standard input, its end.
//!
//! Invariant: no wait is without limit, and a child that is dropped is killed and reaped.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::job::wait;

/// How long the last lines may take to arrive after the end.
const GRACE: Duration = Duration::from_millis(500);

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What it has written so far, standard output and standard error together.
    pub(crate) log: Vec<String>,
}

impl Running {
    /// Starts it with its input open.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = io::pipe().context("cannot open a pipe")?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().context("cannot clone a pipe")?)
            .stderr(writer);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        // Only the child may hold the other end, or its end would never be seen.
        drop(command);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                // Nobody listens any more if the child was given up.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Ok(Self { child, lines, log: Vec::new() })
    }

    /// Reads on until a line in which `wanted` finds something.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let line =
                match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => {
                        bail!("no {what} in {limit:?}:\n{}", self.text());
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        bail!("it ended before {what}:\n{}", self.text());
                    }
                };
            let found = wanted(&line);
            self.log.push(line);
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Closes its input and waits for its end; `None` if it had to be killed.
    pub(crate) fn finish(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child, Some(limit))?;
        while let Ok(line) = self.lines.recv_timeout(GRACE) {
            self.log.push(line);
        }
        Ok(status)
    }

    /// Everything it wrote.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.log {
            writeln!(text, "{line}").expect("writing to a string cannot fail");
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever watches its input stops by itself, and so do those it has started.
        drop(self.child.stdin.take());
        if matches!(wait(&mut self.child, Some(GRACE)), Ok(Some(_))) {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
