//! `raftd log`: the log of a node that does not run, checked or printed. Nothing is changed.

use std::fmt::Write as _;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use raft_core::{GroupId, LogIndex};
use raft_storage::{Dumped, Finding, Log, Lsn, RecordFilter, RecordView, Verified};
use serde_json::{Value, json};

use super::error::{CliError, Exit};
use crate::output;

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Check every byte that the log needs: segments, checkpoints, every entry. Exits with 3 if something
    /// is damaged, with 1 if that is nothing that anybody needs.
    Verify(VerifyArguments),
    /// Print records, in the order in which they were written.
    Dump(DumpArguments),
}

#[derive(Args, Debug)]
pub(super) struct VerifyArguments {
    /// The data directory of a node, or a copy of one.
    directory: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args, Debug)]
pub(super) struct DumpArguments {
    /// The data directory of a node, or a copy of one.
    directory: PathBuf,
    /// Of this group only.
    #[arg(long)]
    group: Option<u32>,
    /// Entries with these indexes only: one, or the first and the last.
    #[arg(long, value_name = "FIRST[-LAST]", value_parser = range)]
    entries: Option<RangeInclusive<u64>>,
    /// From this place of the log on.
    #[arg(long, value_name = "LSN")]
    from: Option<u64>,
    /// Up to this place of the log.
    #[arg(long, value_name = "LSN")]
    to: Option<u64>,
    /// Stop after so many records.
    #[arg(long, value_name = "RECORDS", default_value_t = 1000)]
    limit: u64,
    /// How to print it: json is an object per line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(command: &LogCommand) -> Result<Exit, CliError> {
    match command {
        LogCommand::Verify(arguments) => verify(arguments),
        LogCommand::Dump(arguments) => dump(arguments),
    }
}

fn verify(arguments: &VerifyArguments) -> Result<Exit, CliError> {
    let inspection = Log::inspect(&arguments.directory).map_err(CliError::Log)?;
    let verified = inspection.verify().map_err(CliError::Log)?;
    let text = match arguments.format {
        Format::Text => told(&arguments.directory, &verified),
        Format::Json => format!("{:#}", verified_json(&verified)),
    };
    output::result(text.trim_end()).map_err(CliError::Output)?;
    Ok(match (verified.is_sound(), verified.findings.is_empty()) {
        (true, true) => Exit::Ok,
        (true, false) => Exit::Warning,
        (false, _) => Exit::Data,
    })
}

fn told(directory: &Path, verified: &Verified) -> String {
    let Verified { segments, frames, records, bytes, groups, entries, .. } = verified;
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &verified.findings {
        let Finding { segment, offset, flaw, .. } = finding;
        let whose = match &finding.groups {
            None => "any group may have lost something".to_owned(),
            Some(none) if none.is_empty() => "nobody needs it".to_owned(),
            Some(groups) => {
                let named: Vec<String> =
                    groups.iter().take(GROUPS_NAMED).map(GroupId::to_string).collect();
                let more = groups.len().saturating_sub(GROUPS_NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("groups {}{more}", named.join(", "))
            }
        };
        let _ = writeln!(text, "segment {segment}, offset {offset}: {flaw}: {whose}");
    }
    if verified.findings_more > 0 {
        let _ = writeln!(text, "and {} more like these", verified.findings_more);
    }
    if verified.checkpoints_unreadable > 0 {
        let _ = writeln!(
            text,
            "{} files hold no whole checkpoint, as after a crash; others are used",
            verified.checkpoints_unreadable
        );
    }
    if let Some(torn) = verified.opens.as_ref().and_then(|report| report.torn_tail) {
        let _ = writeln!(
            text,
            "the log ends at {}, behind which a crash left something that was never acknowledged",
            torn.lsn
        );
    }
    let _ = writeln!(
        text,
        "read {segments} segments, {frames} frames, {records} records, {bytes} bytes; \
         {groups} groups with {entries} sound entries"
    );
    let verdict = match (verified.is_sound(), verified.findings.is_empty()) {
        (true, true) => "sound",
        (true, false) => "sound in all that is needed",
        (false, _) => "DAMAGED",
    };
    let _ = writeln!(text, "{}: {verdict}", directory.display());
    text
}

fn verified_json(verified: &Verified) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "segment": finding.segment,
            "offset": finding.offset,
            "lsn": finding.lsn.map(Lsn::get),
            "groups": finding.groups.as_ref().map(|groups| groups.iter().map(|id| id.get()).collect::<Vec<_>>()),
            "what": finding.flaw.to_string(),
            "harmless": finding.is_harmless(),
        })
    };
    let opens = verified.opens.as_ref();
    json!({
        "sound": verified.is_sound(),
        "end": opens.map(|report| report.end_lsn.get()),
        "clean": opens.map(|report| report.clean),
        "torn_tail": opens.and_then(|report| report.torn_tail).map(|torn| torn.lsn.get()),
        "segments": verified.segments,
        "frames": verified.frames,
        "records": verified.records,
        "bytes": verified.bytes,
        "groups": verified.groups,
        "entries": verified.entries,
        "checkpoints_unreadable": verified.checkpoints_unreadable,
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_more": verified.findings_more,
    })
}

fn dump(arguments: &DumpArguments) -> Result<Exit, CliError> {
    let inspection = Log::inspect(&arguments.directory).map_err(CliError::Log)?;
    let entries = arguments.entries.as_ref();
    let filter = RecordFilter {
        group: arguments.group.map(GroupId::new),
        from: arguments.from.map(Lsn::new),
        to: arguments.to.map(Lsn::new),
        entries: entries.map(|range| LogIndex::new(*range.start())..=LogIndex::new(*range.end())),
    };
    let mut shown = 0;
    let mut lines = output::Lines::default();
    let (mut exit, mut failed) = (Exit::Ok, None);
    let mut visit = |found: Dumped| {
        if shown == arguments.limit {
            output::remark(format_args!(
                "stopped after {shown} records; --limit shows more, --from goes on"
            ));
            return ControlFlow::Break(());
        }
        shown += 1;
        if !matches!(found, Dumped::Record(RecordView { is_sound: true, .. })) {
            exit = Exit::Data;
        }
        let line = match arguments.format {
            Format::Text => line(&found),
            Format::Json => line_json(&found).to_string(),
        };
        match lines.push(&line) {
            Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
            Ok(ControlFlow::Break(())) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    inspection.records(&filter, &mut visit).map_err(CliError::Log)?;
    match failed {
        Some(error) => return Err(CliError::Output(error)),
        None => lines.finish().map_err(CliError::Output)?,
    }
    Ok(exit)
}

fn line(found: &Dumped) -> String {
    let view = match found {
        Dumped::Hole { segment, offset, bytes, fault } => {
            return format!(
                "segment {segment} offset {offset}: {bytes} bytes without a frame: {fault}"
            );
        }
        Dumped::Record(view) => view,
    };
    let mut text = format!("{} {}", view.frame, view.kind);
    if view.kind != "SyncMarker" {
        let _ = write!(text, " group {} life {}", view.group, view.incarnation);
    }
    let _ = match view.kind {
        "EntryRun" | "Rewrite" => write!(
            text,
            " entries {}-{} term {}",
            view.index,
            view.index.plus(u64::from(view.entries).saturating_sub(1)),
            view.term
        ),
        "HardState" | "Destroy" => match view.vote {
            Some(vote) => write!(text, " term {} vote {vote}", view.term),
            None => write!(text, " term {} no vote", view.term),
        },
        "TruncateSuffix" => write!(text, " from {}", view.index),
        "Compact" | "Install" => write!(text, " base {} term {}", view.index, view.term),
        "Promise" => write!(text, " {} epoch {}", promise(view.flags), view.index),
        "SyncMarker" if view.flags != 0 => write!(text, " closed in order"),
        _ => Ok(()),
    };
    let _ = write!(
        text,
        " ({} bytes, segment {} offset {}, node life {})",
        view.payload_bytes, view.segment, view.offset, view.life
    );
    if !view.is_sound {
        text.push_str(" DAMAGED");
    }
    text
}

fn promise(flags: u8) -> &'static str {
    match flags {
        0 => "kept",
        1 => "lost",
        2 => "damaged",
        4 => "unproven",
        _ => "unknown",
    }
}

fn line_json(found: &Dumped) -> Value {
    match found {
        Dumped::Hole { segment, offset, bytes, fault } => json!({
            "hole": fault.to_string(), "segment": segment, "offset": offset, "bytes": bytes,
        }),
        Dumped::Record(view) => json!({
            "lsn": view.frame.get(),
            "kind": view.kind,
            "code": view.code,
            "flags": view.flags,
            "group": view.group.get(),
            "incarnation": view.incarnation.get(),
            "index": view.index.get(),
            "term": view.term.get(),
            "vote": view.vote.map(|vote| vote.get()),
            "entries": view.entries,
            "payload_bytes": view.payload_bytes,
            "segment": view.segment,
            "offset": view.offset,
            "node_life": view.life,
            "sound": view.is_sound,
        }),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err("wanted: an index, or the first and the last, as 7 or 7-12".to_owned()),
    }
}

/// So many groups of a finding are named; all of them are in the JSON.
const GROUPS_NAMED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_of_the_format_has_a_name() {
        assert_eq!([0, 1, 2, 4].map(promise), ["kept", "lost", "damaged", "unproven"]);
    }
}
