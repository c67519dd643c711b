//! Prometheus text. Only what adds up, and nothing per group: ten thousand groups must not make
//! ten thousand series.

use std::fmt::{self, Write};

use super::view::{GroupView, StatusView};
use crate::node_status::Role;

pub(super) fn render(status: &StatusView) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &StatusView) -> fmt::Result {
    writeln!(text, "# TYPE raft_groups gauge")?;
    let roles = [
        ("leader", Role::Leader),
        ("follower", Role::Follower),
        ("candidate", Role::Candidate),
        ("pre_candidate", Role::PreCandidate),
    ];
    for (name, role) in roles {
        let count = status.groups.iter().filter(|group| group.role == role).count();
        writeln!(text, "raft_groups{{role=\"{name}\"}} {count}")?;
    }
    let longest = |lag: fn(&GroupView) -> u64| status.groups.iter().map(lag).max().unwrap_or(0);
    let forgetful = status.groups.iter().filter(|group| group.may_have_forgotten).count();
    let replaying = status.groups.iter().filter(|group| group.is_replaying).count();
    let promises = |of: &[&str]| {
        let groups = status.groups.iter();
        groups.filter(|group| of.contains(&group.promise.as_str())).count() as u64
    };
    let gauges = [
        ("raft_groups_leaderless", status.leaderless.len() as u64),
        ("raft_groups_faulted", status.faulted.len() as u64),
        ("raft_groups_promise_lost", promises(&["lost", "damaged"])),
        ("raft_groups_promise_unproven", promises(&["unproven"])),
        ("raft_flush_lag_entries_max", longest(|group| group.flush_lag)),
        ("raft_flush_lag_bytes_max", longest(|group| group.flush_lag_bytes)),
        ("raft_flush_lag_ms_max", longest(|group| group.flush_lag_ms)),
        ("raft_flush_lag_entries", status.groups.iter().map(|group| group.flush_lag).sum()),
        ("raft_flush_lag_bytes", status.groups.iter().map(|group| group.flush_lag_bytes).sum()),
        ("raft_groups_forgetful", forgetful as u64),
        ("raft_apply_lag_entries_max", longest(|group| group.apply_lag)),
        ("raft_groups_missing", status.groups_missing),
        ("raft_groups_replaying", replaying as u64),
        ("raft_threads_missing", status.missing.len() as u64),
        ("raft_failed", u64::from(status.failure.is_some())),
        ("raft_log_stalled_ms", status.log_stalled_ms.unwrap_or(0)),
        ("raft_log_convalescent", u64::from(status.log_convalescent.unwrap_or(0))),
        ("raft_log_without_room_ms", status.log_without_room_ms.unwrap_or(0)),
        ("raft_healthy", u64::from(status.ailments.is_empty())),
        ("raft_ready", u64::from(status.unready.is_empty())),
        ("raft_log_pending_bytes", status.log_pending_bytes),
        ("raft_log_pending_bytes_max", status.log_pending_bytes_max),
        ("raft_incarnation", status.incarnation),
    ];
    let expires = status.tls_expires_seconds.map(|left| ("raft_tls_expires_seconds", left));
    for (name, value) in gauges.into_iter().chain(expires) {
        writeln!(text, "# TYPE {name} gauge\n{name} {value}")?;
    }
    let applied = status.applied_commands_total;
    let name = "raft_applied_commands_total";
    writeln!(text, "# TYPE {name} counter\n{name} {applied}")?;
    for (name, value) in &status.counters {
        writeln!(text, "# TYPE raft_{name}_total counter\nraft_{name}_total {value}")?;
    }
    let mut names: Vec<&String> =
        status.lanes.iter().flat_map(|lane| lane.counters.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        // Those that tell how many there are now, not how many there were.
        let gauge = name.ends_with("_open");
        let (metric, kind) = match gauge {
            true => (format!("raft_lane_{name}"), "gauge"),
            false => (format!("raft_lane_{name}_total"), "counter"),
        };
        writeln!(text, "# TYPE {metric} {kind}")?;
        for lane in &status.lanes {
            if let Some(value) = lane.counters.get(name) {
                writeln!(text, "{metric}{{lane=\"{}\"}} {value}", lane.lane)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::view::LaneView;
    use super::*;

    #[test]
    fn counters_and_gauges_are_told_apart_and_groups_are_not_named() {
        let lane = LaneView {
            lane: "control".to_owned(),
            counters: [("frames_out".to_owned(), 5), ("connections_out_open".to_owned(), 2)].into(),
        };
        let status = StatusView {
            lanes: vec![lane],
            leaderless: vec![4, 9],
            counters: [("fsyncs".to_owned(), 3)].into(),
            ..StatusView::default()
        };
        let text = render(&status);
        for line in [
            "raft_groups_leaderless 2",
            "# TYPE raft_fsyncs_total counter",
            "raft_fsyncs_total 3",
            "raft_lane_frames_out_total{lane=\"control\"} 5",
            "# TYPE raft_lane_connections_out_open gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("group="), "{text}");
    }
}
