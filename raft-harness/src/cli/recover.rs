//! `raftd recover`: groups of which a quorum may have forgotten what it acknowledged.
//!
//! What becomes of them is decided in [`loss`](crate::loss). Each node, stopped, says first what it holds
//! (`--report`); with the reports of all, each writes down what becomes of its replicas.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use raft_storage::{Expected, FileDisk, GroupWrite, Log, LogError, Opened};

use super::error::{CliError, Exit};
use crate::config::{Environment, load};
use crate::loss::{Held, Report, Verdict, held, judge, remembered};
use crate::node::{LogEnd, LogKind, NodeOptions, open_snapshots};
use crate::output;
use crate::snapshot::fitting::has_state;
use crate::snapshot::shelf::Shelf;

#[derive(Args, Debug)]
pub(super) struct RecoverArguments {
    /// The configuration of a node that does not run.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Write down what this node holds of groups that may have forgotten something.
    #[arg(long, value_name = "FILE", conflicts_with = "accept_loss")]
    report: Option<PathBuf>,
    /// Accept that entries may be lost, by the reports of all nodes, which must all be stopped since.
    /// Without --yes it is only said what would be done.
    #[arg(long, value_name = "REPORT", num_args = 1..)]
    accept_loss: Vec<PathBuf>,
    /// Do it.
    #[arg(long, requires = "accept_loss")]
    yes: bool,
}

pub(super) fn run(arguments: &RecoverArguments) -> Result<Exit, CliError> {
    let loaded = load(&arguments.config, &Environment::of_process())?;
    let options = loaded.config.node_options();
    // Read before anything is opened, so that a slip changes nothing.
    let reports = read(&arguments.accept_loss)?;
    let mut opened = open(&options)?;
    let is_whole = LogEnd::of_files(options.certificate_dir.as_deref(), &opened).is_whole();
    let held = open_snapshots(&options).and_then(Shelf::open).and_then(|shelf| {
        let has_state = |spec: &_, log: &_| has_state(&shelf, &opened.reader, log, spec);
        held(options.node, is_whole, &opened.groups, has_state)
    });
    let held = held.map_err(|source| CliError::System {
        what: "the snapshots of this node cannot be looked at",
        source,
    })?;
    let mut text = String::new();
    let mut exit = Exit::Ok;
    let mut writes = Vec::new();
    for own in &held {
        let verdict = judge(own, &reports);
        let told = match &verdict {
            _ if reports.is_empty() => "may have forgotten entries".to_owned(),
            Verdict::Accepts { cut: None, .. } => "goes on from here".to_owned(),
            Verdict::Accepts { cut: Some(cut), .. } => {
                format!(
                    "goes on without entry {cut}, an uncommitted change of members, and what follows"
                )
            }
            Verdict::CatchesUp if own.is_damaged => {
                "has lost more than that, and is filled or replaced by the others".to_owned()
            }
            Verdict::CatchesUp => "catches up with the replicas that hold more".to_owned(),
            Verdict::Refused(why) => format!("stays as it is: {why}"),
        };
        let is_refused = matches!(verdict, Verdict::Refused(_));
        if !own.may_have_forgotten && (reports.is_empty() || is_refused) {
            // Nothing is wrong with it, or nothing that can be told here.
            continue;
        }
        if is_refused && !reports.is_empty() {
            exit = Exit::Warning;
        }
        let Held { group, replica, last_index, last_term, .. } = own;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "group {group}: replica {replica} ends at entry {last_index} of term {last_term}; {told}"
        );
        writes.extend(remembered(own, &verdict, arguments.yes));
    }
    let is_quiet = text.is_empty();
    let report = Report { node: options.node.get(), groups: held };
    finish(&mut opened, &writes).and_then(|()| opened.writer.close()).map_err(failed)?;
    if let Some(path) = &arguments.report {
        let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::other);
        let written = json.and_then(|json| std::fs::write(path, json + "\n"));
        written.map_err(|source| CliError::File { path: path.clone(), source })?;
    }
    if is_quiet {
        text.push_str("no group here has forgotten anything\n");
    } else if !reports.is_empty() && !arguments.yes {
        text.push_str("nothing was changed; --yes does it\n");
    }
    output::result(text.trim_end()).map_err(CliError::Output)?;
    Ok(exit)
}

fn open(options: &NodeOptions) -> Result<Opened<FileDisk>, CliError> {
    let LogKind::Directory { path, options: log } = &options.log else {
        return Err(CliError::Usage("a node without a directory has nothing to recover"));
    };
    let expected = Expected { cluster: Some(options.cluster.clone()), node: Some(options.node) };
    Log::open(path, &expected, log).map_err(CliError::Log)
}

fn finish(opened: &mut Opened<FileDisk>, writes: &[GroupWrite]) -> Result<(), LogError> {
    opened.writer.commit(writes).map(drop)
}

fn failed(error: LogError) -> CliError {
    CliError::Failed(error.to_string())
}

fn read(paths: &[PathBuf]) -> Result<Vec<Report>, CliError> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path)?;
        serde_json::from_str(&text).map_err(std::io::Error::other)
    };
    let reports = paths
        .iter()
        .map(|path| read(path).map_err(|source| CliError::File { path: path.clone(), source }));
    reports.collect()
}
