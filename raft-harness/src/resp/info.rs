//! The text of `INFO`: what clients look for, and our own counters.
//!
//! `raft_applied_commands` is the one number a load tool cannot fake: compare it with what the
//! tool says it has done.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::backend::Backend;
use super::parser::Request;
use super::server::{Mode, Shared};
use super::session::REDIS_VERSION;
use crate::complaint::Complaint;

/// What one server has counted since it started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connected: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) unknown_outcomes: AtomicU64,
    /// Connections closed because they spoke HTTP, and what was said about them.
    pub(super) http: AtomicU64,
    pub(super) http_complaint: Mutex<Complaint>,
    /// Clients closed because they took none of their replies.
    pub(super) stalled: AtomicU64,
    pub(super) stall_complaint: Mutex<Complaint>,
}

pub(super) fn text<B: Backend>(shared: &Shared<B>, request: &Request<'_>) -> String {
    let mut text = String::new();
    let wanted = |section: &str| {
        request.len() == 1
            || request.from(1).any(|word| {
                [section, "all", "default", "everything"]
                    .iter()
                    .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
            })
    };
    let mut section = |name: &str, fields: &[(&str, String)]| {
        if wanted(name) {
            let _ = write!(text, "# {}{}\r\n", name[..1].to_ascii_uppercase(), &name[1..]);
            for (field, value) in fields {
                let _ = write!(text, "{field}:{value}\r\n");
            }
            text.push_str("\r\n");
        }
    };
    let cluster = shared.mode() == Mode::Cluster;
    let mode = if cluster { "cluster" } else { "standalone" };
    let counters = shared.counters();
    let count = |counter: &AtomicU64| counter.load(Relaxed).to_string();
    section(
        "server",
        &[
            ("redis_version", REDIS_VERSION.to_owned()),
            ("redis_mode", mode.to_owned()),
            ("raftd_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("process_id", std::process::id().to_string()),
            ("run_id", super::cluster::node_name(shared.topology().node())),
            ("uptime_in_seconds", shared.uptime().as_secs().to_string()),
        ],
    );
    section(
        "clients",
        &[
            ("connected_clients", count(&counters.connected)),
            ("maxclients", shared.budget().connections_max().to_string()),
        ],
    );
    let aof_enabled = u8::from(shared.topology().is_durable()).to_string();
    section("persistence", &[("loading", "0".to_owned()), ("aof_enabled", aof_enabled)]);
    section(
        "stats",
        &[
            ("total_connections_received", count(&counters.accepted)),
            ("rejected_connections", count(&counters.rejected)),
            ("http_connections_closed", count(&counters.http)),
            ("stalled_clients_closed", count(&counters.stalled)),
            ("total_commands_processed", count(&counters.commands)),
            ("total_net_input_bytes", count(&counters.bytes_in)),
            ("total_net_output_bytes", count(&counters.bytes_out)),
            ("proxy_forwarded_commands", count(&counters.forwarded)),
            ("proxy_retried_commands", count(&counters.retried)),
            ("unknown_outcomes", count(&counters.unknown_outcomes)),
        ],
    );
    section("replication", &[("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]);
    section("cluster", &[("cluster_enabled", u8::from(cluster).to_string())]);
    let stats = shared.backend().stats();
    section(
        "raft",
        &[
            ("raft_node", shared.topology().node().to_string()),
            ("raft_groups", stats.groups.to_string()),
            ("raft_groups_led", stats.groups_led.to_string()),
            ("raft_applied_commands", stats.applied_commands.to_string()),
        ],
    );
    text
}
