//! `raftd status`: one node as its admin port tells it, bad news first.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::error::{CliError, Exit};
use crate::output;
use crate::status::{AdminClient, GroupView, StatusView};

/// Groups in a table; all of them are in the JSON.
const GROUPS_MAX: usize = 50;

#[derive(Args, Debug)]
pub(super) struct StatusArguments {
    /// The node's admin port.
    #[arg(long, default_value = "127.0.0.1:9071", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(arguments: &StatusArguments) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|source| CliError::System { what: "cannot start a runtime", source })?;
    let client = AdminClient::new(arguments.admin);
    let status = runtime.block_on(client.status()).map_err(CliError::Admin)?;
    let text = match arguments.format {
        Format::Table => table(&status),
        Format::Json => serde_json::to_string_pretty(&status)
            .map_err(|error| CliError::System { what: "cannot print", source: error.into() })?,
    };
    output::result(text.trim_end()).map_err(CliError::Output)?;
    let well = status.leaderless.is_empty() && status.faulted.is_empty();
    Ok(if well { Exit::Ok } else { Exit::Warning })
}

fn table(status: &StatusView) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut text, status);
    text
}

fn write_table(text: &mut String, status: &StatusView) -> fmt::Result {
    let loss = if status.durable { "none (DiskFirst)" } else { "everything (memory log)" };
    writeln!(
        text,
        "node {} of {}   groups {}   leaderless {}   faulted {}   leads {}   loss window: {loss}",
        status.node,
        status.cluster,
        status.groups.len(),
        status.leaderless.len(),
        status.faulted.len(),
        status.groups_led,
    )?;
    let fsyncs = status.counter("fsyncs");
    let per_fsync = status.counter("group_writes") as f64 / fsyncs.max(1) as f64;
    let furthest = |lag: fn(&GroupView) -> u64| {
        status
            .groups
            .iter()
            .max_by_key(|group| lag(group))
            .map_or_else(|| "0".to_owned(), |group| format!("{} (g{})", lag(group), group.id))
    };
    writeln!(
        text,
        "applied {}   elections {}   fsyncs {fsyncs}, {per_fsync:.1} groups each   \
         flush lag max {}   apply lag max {}",
        status.applied_commands_total,
        status.counter("elections"),
        furthest(|group| group.flush_lag),
        furthest(|group| group.apply_lag),
    )?;
    for peer in &status.peers {
        writeln!(text, "peer {} at {}", peer.node, peer.address)?;
    }
    writeln!(
        text,
        "\n{:>6} {:<14} {:<13} {:>6} {:>6} {:>10} {:>10} {:>6} {:>6}  STATE",
        "GROUP", "LABEL", "ROLE", "LEADER", "TERM", "COMMIT", "APPLIED", "FLUSH", "APPLY"
    )?;
    let mut groups: Vec<&GroupView> = status.groups.iter().collect();
    groups.sort_by_key(|group| {
        let lag = group.flush_lag.max(group.apply_lag);
        let well = (group.leader.is_some(), group.fault.is_none());
        (well, std::cmp::Reverse(lag), group.id)
    });
    for group in groups.iter().take(GROUPS_MAX) {
        let state = match (&group.fault, group.leader) {
            (Some(fault), _) => fault.as_str(),
            (None, None) => "leaderless",
            (None, Some(_)) => "ok",
        };
        writeln!(
            text,
            "{:>6} {:<14} {:<13} {:>6} {:>6} {:>10} {:>10} {:>6} {:>6}  {state}",
            group.id,
            group.label,
            format!("{:?}", group.role).to_lowercase(),
            group.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            group.term,
            group.commit_index,
            group.applied_index,
            group.flush_lag,
            group.apply_lag,
        )?;
    }
    if status.groups.len() > GROUPS_MAX {
        let more = status.groups.len() - GROUPS_MAX;
        writeln!(text, "and {more} more; --format json shows all")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaderless_groups_come_first() {
        let group = |id: u32, leader: Option<u64>| {
            serde_json::from_value::<GroupView>(serde_json::json!({
                "id": id, "role": "follower", "leader": leader, "term": 1, "last_index": 0,
                "durable_index": 0, "commit_index": 0, "applied_index": 0, "flush_lag": 0,
                "apply_lag": 0, "applied_commands_total": 0, "label": "slots 0-9", "fault": null,
            }))
            .expect("complete")
        };
        let status = StatusView {
            groups: vec![group(1, Some(1)), group(2, None)],
            leaderless: vec![2],
            ..StatusView::default()
        };
        let text = table(&status);
        let at = |needle: &str| text.find(needle).expect("is shown");
        assert!(at("leaderless\n") < at(" ok\n"), "{text}");
    }
}
