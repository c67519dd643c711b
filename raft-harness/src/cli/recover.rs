//! `raftd recover`: groups of which a quorum may have forgotten what it acknowledged.
//!
//! Such a group stands still until somebody accepts that entries may be lost. That is only sound if
//! *every* voter may have forgotten: one that remembers has perhaps applied what the others lack,
//! and leads them back by itself. So each node that is stopped first says what it holds
//! (`--report`), and nothing is accepted without the word of all voters.
//!
//! Accepted is as little as possible: of each group the replicas that hold most, as many as make a
//! majority, trust themselves again. They can elect only the one with the newest entry, which leads;
//! the others catch up with it before they count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use raft_core::{GroupId, Promise, PromiseRecord, ReplicaId};
use raft_storage::{Expected, FileDisk, GroupWrite, Log, LogError, Opened, RecoveredGroup};
use serde::{Deserialize, Serialize};

use super::error::{CliError, Exit};
use crate::config::{Environment, load};
use crate::group_spec::GroupSpec;
use crate::node::{LogKind, NodeOptions, log_ended};
use crate::output;
use crate::persistence::Strategy;

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

/// What a node holds of its groups that count what is written.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Report {
    node: u64,
    groups: Vec<Held>,
}

/// What a replica holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Held {
    group: u32,
    /// Which life of the group's id.
    life: u32,
    replica: u64,
    /// Who votes, as this replica has it; none while a membership is joint.
    voters: Vec<u64>,
    may_have_forgotten: bool,
    last_term: u64,
    last_index: u64,
    loss_epoch: u32,
}

/// What becomes of a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    /// It trusts itself again.
    Accepts,
    /// Others hold as much or more: it will catch up with them.
    CatchesUp,
    /// Nothing can be accepted yet.
    Refused(String),
}

pub(super) fn run(arguments: &RecoverArguments) -> Result<Exit, CliError> {
    let loaded = load(&arguments.config, &Environment::of_process())?;
    let options = loaded.config.node_options();
    // Read before anything is opened, so that a slip changes nothing.
    let reports = read(&arguments.accept_loss)?;
    let mut opened = open(&options)?;
    let held = held(&options, &opened);
    let mut text = String::new();
    let mut exit = Exit::Ok;
    let mut writes = Vec::new();
    for own in held.iter().filter(|held| held.may_have_forgotten) {
        let verdict = judge(own, &reports);
        let told = match &verdict {
            _ if reports.is_empty() => "may have forgotten entries".to_owned(),
            Verdict::Accepts => "goes on from here".to_owned(),
            Verdict::CatchesUp => "catches up with the replicas that hold more".to_owned(),
            Verdict::Refused(why) => format!("stays as it is: {why}"),
        };
        if let Verdict::Refused(_) = verdict {
            exit = Exit::Warning;
        }
        let Held { group, replica, last_index, last_term, .. } = own;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "group {group}: replica {replica} ends at entry {last_index} of term {last_term}; {told}"
        );
        let mut promise = PromiseRecord { promise: Promise::Lost, loss_epoch: own.loss_epoch };
        if verdict == Verdict::Accepts && arguments.yes {
            let loss_epoch = own.loss_epoch.saturating_add(1);
            promise = PromiseRecord { promise: Promise::Kept, loss_epoch };
        }
        // The log ends in order below, which would otherwise leave nothing to doubt.
        let mut write = GroupWrite::new(GroupId::new(*group));
        write.promise = Some(promise);
        writes.push(write);
    }
    let report = Report { node: options.node.get(), groups: held };
    finish(&mut opened, &writes).and_then(|()| opened.writer.close()).map_err(failed)?;
    if let Some(path) = &arguments.report {
        let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::other);
        let written = json.and_then(|json| std::fs::write(path, json + "\n"));
        written.map_err(|source| CliError::File { path: path.clone(), source })?;
    }
    if writes.is_empty() {
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

/// What this node holds of its groups that count what is written.
fn held(options: &NodeOptions, opened: &Opened<FileDisk>) -> Vec<Held> {
    let is_whole = log_ended(options.certificate_dir.as_deref(), opened).is_whole();
    let held = opened.groups.iter().filter_map(|(group, log)| {
        let spec = GroupSpec::decode(&log.spec)?;
        let replica = spec.replica_on(options.node)?;
        let counts_written = spec.strategy == Some(Strategy::MemFirst);
        let may_have_forgotten = match log.promise.promise {
            Promise::Kept => !is_whole,
            Promise::Lost => true,
            // That is another illness, and not healed by accepting this loss.
            Promise::Damaged | Promise::Unproven => false,
        };
        let last_term = log.term_runs.last().map_or(log.base.term, |(_, term)| *term);
        counts_written.then(|| Held {
            group: group.get(),
            life: log.incarnation.get(),
            replica: replica.get(),
            voters: voters(&spec, log),
            may_have_forgotten,
            last_term: last_term.get(),
            last_index: log.last_index.get(),
            loss_epoch: log.promise.loss_epoch,
        })
    });
    held.collect()
}

fn voters(spec: &GroupSpec, log: &RecoveredGroup) -> Vec<u64> {
    let newest = log.configs.last().map(|(_, membership)| membership);
    match newest.or(log.base.membership.as_ref()) {
        Some(membership) if membership.is_joint() => Vec::new(),
        Some(membership) => membership.voters().map(ReplicaId::get).collect(),
        None => spec.replicas.iter().map(|(replica, _)| replica.get()).collect(),
    }
}

/// What becomes of a replica by the word of all.
fn judge(own: &Held, reports: &[Report]) -> Verdict {
    let words = reports.iter().flat_map(|report| &report.groups);
    let words = words.filter(|held| (held.group, held.life) == (own.group, own.life));
    let words: BTreeMap<u64, &Held> = words.map(|held| (held.replica, held)).collect();
    // Replicas may differ in whom they take for voters: everybody whom anybody names is asked.
    let named: Vec<&Vec<u64>> =
        words.values().map(|held| &held.voters).chain([&own.voters]).collect();
    if named.iter().any(|voters| voters.is_empty()) {
        return Verdict::Refused("a change of membership is under way".to_owned());
    }
    let asked: BTreeSet<u64> = named.into_iter().flatten().copied().collect();
    if let Some(silent) = asked.iter().find(|voter| !words.contains_key(voter)) {
        return Verdict::Refused(format!("there is no report of replica {silent}"));
    }
    let remembers = asked.iter().find(|voter| !words[voter].may_have_forgotten);
    if let Some(remembers) = remembers {
        return Verdict::Refused(format!(
            "replica {remembers} remembers everything, and has perhaps applied what others lack"
        ));
    }
    if words.get(&own.replica).is_none_or(|word| **word != *own) {
        return Verdict::Refused("this node has changed since its report".to_owned());
    }
    let mut voters: Vec<&Held> = asked.iter().map(|voter| words[voter]).collect();
    voters.sort_by_key(|held| std::cmp::Reverse((held.last_term, held.last_index, held.replica)));
    let majority = voters.len() / 2 + 1;
    let is_among = voters[..majority].iter().any(|held| held.replica == own.replica);
    if is_among { Verdict::Accepts } else { Verdict::CatchesUp }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(replica: u64, last_term: u64, last_index: u64) -> Held {
        Held {
            group: 7,
            life: 1,
            replica,
            voters: vec![1, 2, 3],
            may_have_forgotten: true,
            last_term,
            last_index,
            loss_epoch: 0,
        }
    }

    fn of(groups: &[Held]) -> Vec<Report> {
        groups
            .iter()
            .map(|held| Report { node: held.replica, groups: vec![held.clone()] })
            .collect()
    }

    #[test]
    fn those_that_hold_most_go_on_and_are_a_majority() {
        let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
        let verdicts = all.each_ref().map(|own| judge(own, &of(&all)));
        assert_eq!(verdicts, [Verdict::CatchesUp, Verdict::Accepts, Verdict::Accepts]);
    }

    #[test]
    fn without_the_word_of_all_nothing_is_accepted() {
        let all = [held(1, 3, 8), held(2, 4, 5), held(3, 3, 9)];
        let refused = |own: &Held, words: &[Held], why: &str| match judge(own, &of(words)) {
            Verdict::Refused(told) => assert!(told.contains(why), "{told}"),
            other => panic!("{other:?}"),
        };
        refused(&all[1], &all[..2], "no report of replica 3");
        let mut knows = all.clone();
        knows[2].may_have_forgotten = false;
        refused(&all[1], &knows, "remembers everything");
        let mut moved = all.clone();
        moved[1].last_index = 6;
        refused(&moved[1], &all, "has changed");
        let mut joint = all.clone();
        joint[0].voters = Vec::new();
        refused(&all[1], &joint, "change of membership");
        let mut reborn = all.clone();
        reborn[2].life = 2;
        refused(&all[1], &reborn, "no report of replica 3");
        let mut grown = all.clone();
        grown[0].voters = vec![1, 2, 3, 4];
        refused(&all[1], &grown, "no report of replica 4");
    }
}
