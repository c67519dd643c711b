//! Check `output`: standard error on a full device, a reader that goes away, nothing open at all;
//! and commands whose results nobody can read.

use std::fs::OpenOptions;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::scene::{data, outcome, serving, until, wait_writes};
use crate::checks::{Outcome, Setting};
use crate::job::Job;
use crate::nodes::cluster::{Cluster, Layout};

const GROUPS: u32 = 4;
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
const ELECTION_LIMIT: Duration = Duration::from_secs(20);
/// What a panic that nobody caught ends a process with.
const PANICKED: i32 = 101;

/// What becomes of a node's output.
#[derive(Clone, Copy)]
enum Fate {
    FullDevice,
    ReaderGone,
    Closed,
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let data = data(setting, 3);
    let layout = Layout::new(&setting.raftd, &setting.directory, &data, GROUPS);
    let mut cluster = serving(&layout)?;
    let mut outcomes = Vec::new();
    for (what, fate) in [
        ("serve, output on a full device", Fate::FullDevice),
        ("serve, reader of the output gone", Fate::ReaderGone),
        ("serve, output closed", Fate::Closed),
    ] {
        outcomes.push(outcome(what, || node(&mut cluster, fate)));
    }
    let config = cluster.config(0).display().to_string();
    let admin = cluster.ports(0).admin.to_string();
    let raftd = setting.raftd.display().to_string();
    for arguments in [
        "config example".to_owned(),
        format!("config check '{config}'"),
        format!("status --admin {admin}"),
        format!("status --admin {admin} --json"),
        "--help".to_owned(),
        "serve --config /nowhere".to_owned(),
    ] {
        let what = arguments.split([' ', '-']).find(|word| !word.is_empty()).unwrap_or_default();
        outcomes
            .push(outcome(&format!("{what}, output that fails"), || commands(&raftd, &arguments)));
    }
    Ok(outcomes)
}

/// A node whose output fails lives through the election that makes it write.
fn node(cluster: &mut Cluster, fate: Fate) -> Result<String> {
    cluster.kill(0);
    cluster.start_as(0, &[], |command| {
        match fate {
            Fate::FullDevice => {
                let full = OpenOptions::new().write(true).open("/dev/full")?;
                command.stdout(full.try_clone()?).stderr(full);
            }
            Fate::ReaderGone => {
                let (reader, writer) = io::pipe()?;
                command.stdout(writer.try_clone()?).stderr(writer);
                drop(reader);
            }
            // A shell closes both before it becomes the node.
            Fate::Closed => {
                let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
                let program = command.get_program().to_owned();
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(program).args(arguments);
                shell.stdin(Stdio::piped());
                *command = shell;
            }
        }
        Ok(())
    })?;
    wait_writes(cluster, 0, ELECTION_LIMIT)?;
    // Its peers go and come back: it has much to say.
    for other in [1, 2] {
        cluster.kill(other);
        cluster.start(other)?;
        wait_writes(cluster, 0, ELECTION_LIMIT)?;
    }
    until("the node is not alive", Duration::from_secs(1), || {
        ensure!(cluster.ended().is_empty(), "a node ended");
        Ok(Some(()))
    })?;
    Ok("serves through two elections".to_owned())
}

/// A command ends in order, whether its reader goes early or its output has no room.
fn commands(raftd: &str, arguments: &str) -> Result<String> {
    let mut codes = Vec::new();
    for redirection in
        [">/dev/full", ">/dev/full 2>&1", "2>/dev/full", ">&- 2>&-", "2>&1 | head -c 1"]
    {
        let mut shell = Command::new("bash");
        shell.args([
            "-c",
            &format!(
                "'{raftd}' {arguments} {redirection}; code=${{PIPESTATUS[0]}}; echo; echo $code"
            ),
        ]);
        let finished = Job::new(shell).limit(COMMAND_LIMIT).merged()?;
        let code = finished.stdout.lines().last().and_then(|line| line.trim().parse::<i32>().ok());
        let code = code.with_context(|| format!("{redirection}: {}", finished.evidence()))?;
        ensure!(
            code != PANICKED && code < 128 && !finished.stdout.contains("panicked"),
            "{redirection}: exit code {code}\n{}",
            finished.evidence()
        );
        codes.push(code.to_string());
    }
    Ok(format!("exit codes {}", codes.join(" ")))
}
