//! `raftd status`: one node as its admin port tells it, bad news first.

use std::fmt::{self, Write as _};
use std::io;

use clap::{Args, ValueEnum};
use tokio::net::lookup_host;

use super::error::{CliError, Exit};
use crate::output;
use crate::status::{AdminClient, AdminError, GroupView, StatusView};

/// A name with more addresses is no single node's.
const ADDRESSES_MAX: usize = 4;
/// Groups in a table; all of them are in the JSON.
const GROUPS_MAX: usize = 50;

#[derive(Args, Debug)]
pub(super) struct StatusArguments {
    /// The node's admin port: an address or a name, and a port.
    #[arg(long, default_value = "127.0.0.1:9071", value_name = "HOST:PORT", value_parser = host_and_port)]
    admin: String,
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
    let status = runtime.block_on(ask(&arguments.admin))?;
    let text = match arguments.format {
        Format::Table => table(&status),
        Format::Json => serde_json::to_string_pretty(&status)
            .map_err(|error| CliError::System { what: "cannot print", source: error.into() })?,
    };
    output::result(text.trim_end()).map_err(CliError::Output)?;
    Ok(if status.unready.is_empty() { Exit::Ok } else { Exit::Warning })
}

/// Whether it can be an address at all; what a name leads to is looked up later.
fn host_and_port(text: &str) -> Result<String, String> {
    let named = text.rsplit_once(':').is_some_and(|(host, port)| {
        let one = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && one && port.parse::<u16>().is_ok()
    });
    if named {
        Ok(text.to_owned())
    } else {
        Err("wanted: host:port, as 127.0.0.1:9071, [::1]:9071 or localhost:9071".to_owned())
    }
}

/// Asks at each address of a name until somebody is there.
async fn ask(admin: &str) -> Result<StatusView, CliError> {
    let unknown = |source| CliError::Lookup { name: admin.to_owned(), source };
    let addresses = lookup_host(admin).await.map_err(unknown)?;
    let mut last = None;
    for address in addresses.take(ADDRESSES_MAX) {
        match AdminClient::new(address).status().await {
            Err(error @ AdminError::Unreachable { .. }) => last = Some(error),
            answer => return answer.map_err(CliError::Admin),
        }
    }
    Err(last.map_or_else(|| unknown(io::ErrorKind::NotFound.into()), CliError::Admin))
}

fn table(status: &StatusView) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut text, status);
    text
}

fn write_table(text: &mut String, status: &StatusView) -> fmt::Result {
    let loss = status.loss_window();
    let missing = match status.groups_missing {
        0 => String::new(),
        missing => format!("   missing {missing}"),
    };
    writeln!(
        text,
        "node {} of {}   groups {}{missing}   leaderless {}   faulted {}   leads {}   loss window: {loss}",
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
    for reason in &status.unready {
        writeln!(text, "NOT READY: {reason}")?;
    }
    if let Some(wanted) = status.log_convalescent {
        writeln!(
            text,
            "log convalescent: it leads nothing that others can, until {wanted} syncs in a row \
             are quick"
        )?;
    }
    if !status.peers.is_empty() {
        let rows = status.peers.iter().map(|peer| {
            let reached = match (peer.connected, peer.silent_ms) {
                (true, _) => "reached".to_owned(),
                (false, _) if let Some(refusal) = &peer.refusal => {
                    format!("not reached: {refusal}")
                }
                (false, None) => "not reached, never heard".to_owned(),
                (false, Some(ms)) => {
                    format!("not reached, silent for {:.1} s", ms as f64 / 1000.0)
                }
            };
            [peer.node.to_string(), peer.address.clone(), reached]
        });
        let rows: Vec<[String; 3]> = rows.collect();
        write_rows(
            text,
            ["PEER", "ADDRESS", "STATE"],
            [Align::Right, Align::Left, Align::Left],
            &rows,
        )?;
    }
    let mut groups: Vec<&GroupView> = status.groups.iter().collect();
    groups.sort_by_key(|group| {
        let lag = group.flush_lag.max(group.apply_lag);
        let well = (group.leader.is_some(), group.fault.is_none());
        (well, std::cmp::Reverse(lag), group.id)
    });
    let rows = groups.iter().take(GROUPS_MAX).map(|group| {
        let state = match (&group.fault, group.leader) {
            (Some(fault), _) => fault.clone(),
            (None, leader) if group.may_have_forgotten => forgot(&group.promise, leader).to_owned(),
            (None, None) => "leaderless".to_owned(),
            (None, Some(_)) if group.is_replaying => "replaying".to_owned(),
            (None, Some(_)) => "ok".to_owned(),
        };
        [
            group.id.to_string(),
            group.label.clone(),
            format!("{:?}", group.role).to_lowercase(),
            group.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            group.term.to_string(),
            group.commit_index.to_string(),
            group.applied_index.to_string(),
            group.flush_lag.to_string(),
            group.apply_lag.to_string(),
            state,
        ]
    });
    let rows: Vec<[String; 10]> = rows.collect();
    let head = [
        "GROUP", "LABEL", "ROLE", "LEADER", "TERM", "COMMIT", "APPLIED", "FLUSH", "APPLY", "STATE",
    ];
    let mut aligns = [Align::Right; 10];
    (aligns[1], aligns[2], aligns[9]) = (Align::Left, Align::Left, Align::Left);
    writeln!(text)?;
    write_rows(text, head, aligns, &rows)?;
    if status.groups.len() > GROUPS_MAX {
        let more = status.groups.len() - GROUPS_MAX;
        writeln!(text, "and {more} more; --format json shows all")?;
    }
    Ok(())
}

/// On which side a column keeps its line.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// A table whose columns are as wide as what stands in them.
fn write_rows<const N: usize>(
    text: &mut String,
    head: [&str; N],
    aligns: [Align; N],
    rows: &[[String; N]],
) -> fmt::Result {
    let head = head.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    for line in lines() {
        let mut shown = String::new();
        for ((cell, width), align) in line.iter().zip(widths).zip(aligns) {
            match align {
                Align::Left => write!(shown, "{cell:<width$}  ")?,
                Align::Right => write!(shown, "{cell:>width$}  ")?,
            }
        }
        writeln!(text, "{}", shown.trim_end())?;
    }
    Ok(())
}

/// What became of a replica that may not remember all it promised.
fn forgot(promise: &str, leader: Option<u64>) -> &'static str {
    match (promise, leader) {
        ("unproven", _) => "never votes or counts again: waits to be replaced",
        ("damaged", Some(_)) => "its log was damaged: learns what it lost",
        ("damaged", None) => "leaderless, and its log was damaged",
        (_, Some(_)) => "may have forgotten entries: learns them again",
        (_, None) => "leaderless, and may have forgotten entries",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::Strategy;
    use crate::status::PeerView;

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

    fn group(id: u32, label: &str) -> GroupView {
        let group = serde_json::json!({
            "id": id, "role": "follower", "leader": 1, "term": 1, "last_index": 0,
            "durable_index": 0, "commit_index": 0, "applied_index": 0, "flush_lag": 0,
            "apply_lag": 0, "applied_commands_total": 0, "label": label, "fault": null,
        });
        serde_json::from_value(group).expect("complete")
    }

    #[test]
    fn what_a_replica_may_have_forgotten_is_told_apart() {
        let state = |promise: &str, leader| {
            let mut group = group(1, "");
            (group.promise, group.leader) = (promise.to_owned(), leader);
            group.may_have_forgotten = promise != "kept";
            table(&StatusView { groups: vec![group], ..StatusView::default() })
        };
        let kinds = [
            ("kept", Some(1), " ok\n"),
            ("kept", None, " leaderless\n"),
            ("lost", Some(1), "learns them again"),
            ("lost", None, "leaderless, and may have forgotten"),
            ("damaged", Some(1), "learns what it lost"),
            ("damaged", None, "leaderless, and its log was damaged"),
            ("unproven", Some(1), "waits to be replaced"),
            ("unproven", None, "waits to be replaced"),
        ];
        for (promise, leader, told) in kinds {
            let text = state(promise, leader);
            assert!(text.contains(told), "{promise} {leader:?}: {text}");
        }
    }

    #[test]
    fn what_can_be_lost_is_said_by_the_strategies_of_the_groups() {
        let told = |durable, strategies: &[Strategy], groups_missing| {
            let groups = (1..).zip(strategies).map(|(id, strategy)| {
                let group = group(id, "");
                GroupView { strategy: *strategy, ..group }
            });
            let groups = groups.collect();
            table(&StatusView { durable, groups, groups_missing, ..StatusView::default() })
        };
        let (disk, memory) = (Strategy::DiskFirst, Strategy::MemFirst);
        for (durable, strategies, missing, loss) in [
            (false, &[disk][..], 0, "everything (memory log)\n"),
            (true, &[disk, disk][..], 0, "none (DiskFirst)\n"),
            (true, &[disk][..], 3, "none (DiskFirst) in the groups that answer\n"),
            (true, &[memory, disk, memory][..], 0, "quorum loses power (MemFirst: 2 groups)\n"),
        ] {
            let text = told(durable, strategies, missing);
            assert!(text.contains("loss window: ") && text.contains(loss), "{text}");
        }
    }

    #[test]
    fn an_admin_port_has_a_name_or_an_address() {
        for right in ["127.0.0.1:9071", "localhost:9071", "[::1]:9071", "node-1.example:1"] {
            assert_eq!(host_and_port(right).as_deref(), Ok(right));
        }
        for wrong in ["", "9071", "localhost", ":9071", "localhost:http", "::1:9071", "a:70000"] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_line_up_however_wide_what_is_in_them() {
        let mut wide = group(16, "slots 15360-16383");
        wide.commit_index = 12_345_678_901;
        let peers =
            [(2, "127.0.0.1:7002"), (13, "[2001:db8::13]:7013")].map(|(node, address)| PeerView {
                node,
                address: address.to_owned(),
                connected: node == 2,
                silent_ms: None,
                refusal: None,
            });
        let groups = vec![group(1, "slots 0-1023"), wide];
        let status = StatusView { groups, peers: peers.into(), ..StatusView::default() };
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        let columns = |head: &str, column: &str| {
            let at = lines.iter().position(|line| line.contains(head)).expect("a table");
            let start = lines[at].find(column).expect("a column");
            lines[at..at + 3].iter().map(|line| line[start..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(columns("GROUP", "STATE"), ["STATE", "ok", "ok"], "{text}");
        assert!(columns("GROUP", "LABEL").iter().all(|rest| !rest.starts_with(' ')), "{text}");
        let reached = ["STATE", "reached", "not reached, never heard"];
        assert_eq!(columns("PEER", "STATE"), reached, "{text}");
    }

    #[test]
    fn a_peer_that_refuses_is_not_told_as_one_that_is_silent() {
        let peer = PeerView {
            node: 3,
            address: "127.0.0.1:7003".to_owned(),
            connected: false,
            silent_ms: None,
            refusal: Some("it refuses this node and says: node 1 is not known here".to_owned()),
        };
        let text = table(&StatusView { peers: vec![peer], ..StatusView::default() });
        assert!(text.contains("not reached: it refuses this node and says: node 1"), "{text}");
    }

    #[test]
    fn a_log_that_was_stuck_a_moment_ago_is_told() {
        let well = table(&StatusView::default());
        assert!(!well.contains("convalescent"), "{well}");
        let status = StatusView { log_convalescent: Some(2), ..StatusView::default() };
        let text = table(&status);
        assert!(text.contains("log convalescent") && text.contains("until 2 syncs"), "{text}");
    }

    #[test]
    fn what_is_missing_is_told_before_anything_else() {
        let status = StatusView {
            unready: vec!["raft-shard-0 does not answer".to_owned()],
            groups_missing: 16,
            ..StatusView::default()
        };
        let text = table(&status);
        assert!(text.contains("groups 0   missing 16   leaderless 0"), "{text}");
        assert!(text.contains("NOT READY: raft-shard-0 does not answer\n"), "{text}");
    }
}
