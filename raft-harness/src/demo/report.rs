//! The result, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::verify::LostKey;

/// Everything the demo found. As JSON, an interface: fields are only ever added.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether every claim held.
    pub(super) ok: bool,
    /// What did not hold, in words.
    pub(super) problems: Vec<String>,
    pub(super) nodes: u64,
    pub(super) groups: u32,
    pub(super) clients: u32,
    pub(super) value_size: u32,
    /// From the first write to the last.
    pub(super) load_seconds: f64,
    /// Writes the server said are safe.
    pub(super) acked: u64,
    /// Writes that certainly did not happen.
    pub(super) failed: u64,
    /// Writes that may have happened.
    pub(super) unknown: u64,
    /// Those of them that did.
    pub(super) unknown_present: u64,
    /// Attempts that were refused and made again.
    pub(super) refused: u64,
    /// Acknowledged writes that were read back with their value.
    pub(super) verified: u64,
    /// Acknowledged writes that were not.
    pub(super) lost: u64,
    /// Up to ten of them.
    pub(super) lost_keys: Vec<LostKey>,
    /// Writes that were refused and are there all the same.
    pub(super) phantoms: u64,
    /// Whether all replicas of each group agree at the same applied index.
    pub(super) digests_equal: bool,
    /// Acknowledged writes per second before the first kill.
    pub(super) writes_per_second: f64,
    /// From the first attempt to the acknowledgement, over the whole run.
    pub(super) latency_ms: Latency,
    pub(super) kills: Vec<Kill>,
    /// Campaigns started, on all nodes, over all their lives.
    pub(super) elections: u64,
    /// Each counted once; the same whatever the number of groups.
    pub(super) connections_per_peer_pair: Option<f64>,
    /// Scheduled ones, of the busiest node, while idle.
    pub(super) heartbeat_frames_per_peer_per_second: Option<f64>,
    pub(super) fsyncs: u64,
    pub(super) groups_per_fsync: Option<f64>,
    /// Processor time of each node in seconds, over all its processes.
    pub(super) cpu_seconds: Vec<f64>,
    /// From the start of the first process to the last digest.
    pub(super) total_seconds: f64,
    /// The folder with the nodes' files, if it was kept.
    pub(super) data_dir: Option<String>,
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// One kill and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kill {
    /// The nodes that were killed.
    pub(super) nodes: Vec<u64>,
    /// What the silence is counted from.
    pub(super) since: &'static str,
    /// Groups that lost their leader.
    pub(super) groups: usize,
    /// Time until they acknowledged a write again, median over these groups.
    pub(super) silence_ms_median: Option<f64>,
    /// The longest such time.
    pub(super) silence_ms_max: Option<f64>,
    /// Groups, of all, that did not acknowledge a write again.
    pub(super) mute_groups: Vec<u32>,
}

impl Kill {
    /// `silence` is by group, `affected` are positions in it.
    pub(super) fn new(
        nodes: Vec<u64>,
        since: &'static str,
        silence: &[Option<Duration>],
        affected: &[usize],
    ) -> Self {
        let mut times: Vec<f64> = affected
            .iter()
            .filter_map(|group| silence.get(*group).copied().flatten())
            .map(|time| time.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        Self {
            nodes,
            since,
            groups: affected.len(),
            silence_ms_median: times.get(times.len() / 2).copied(),
            silence_ms_max: times.last().copied(),
            mute_groups: (1..)
                .zip(silence)
                .filter(|(_, time)| time.is_none())
                .map(|(group, _)| group)
                .collect(),
        }
    }
}

impl Report {
    /// Whether every claim held.
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, text: String| {
            writeln!(f, "  {name:<13} {text}")
        };
        writeln!(
            f,
            "{} nodes, {} groups, {} clients, values of {} bytes, {:.1} s of load\n",
            self.nodes, self.groups, self.clients, self.value_size, self.load_seconds
        )?;
        row(
            f,
            "acknowledged",
            format!("{}, {:.0}/s before the first kill", self.acked, self.writes_per_second),
        )?;
        row(f, "failed", format!("{} ({} attempts refused)", self.failed, self.refused))?;
        row(f, "unknown", format!("{} ({} of them happened)", self.unknown, self.unknown_present))?;
        row(f, "read back", format!("{} acknowledged writes, each by its leader", self.verified))?;
        let Latency { p50, p99, max } = self.latency_ms;
        row(f, "latency", format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.0} ms"))?;
        for kill in &self.kills {
            row(f, &kill.name(), kill.to_string())?;
        }
        row(f, "elections", self.elections.to_string())?;
        row(f, "connections", format!("{} per peer pair", number(self.connections_per_peer_pair)))?;
        let frames = number(self.heartbeat_frames_per_peer_per_second);
        row(f, "heartbeats", format!("{frames} frames per peer per second, idle"))?;
        let groups = number(self.groups_per_fsync);
        row(f, "fsyncs", format!("{}, {groups} groups per fsync", self.fsyncs))?;
        let cpu: Vec<String> = (1..)
            .zip(&self.cpu_seconds)
            .map(|(node, seconds): (u64, _)| format!("n{node} {seconds:.1} s"))
            .collect();
        row(f, "processor", cpu.join(", "))?;
        row(f, "altogether", format!("{:.1} s", self.total_seconds))?;
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "  {}", problem.replace('\n', "\n  ").trim_end())?;
        }
        for LostKey { key, group, found } in &self.lost_keys {
            writeln!(f, "  lost: {key} of group {group}: found {found}")?;
        }
        if let Some(directory) = &self.data_dir {
            writeln!(f, "  files kept in {directory}")?;
        }
        let verdict = if self.ok { "OK" } else { "FAILED" };
        let digests = if self.digests_equal { "equal" } else { "different" };
        write!(f, "{verdict} lost={} digests={digests}", self.lost)
    }
}

impl Kill {
    fn name(&self) -> String {
        match self.nodes.as_slice() {
            [one] => format!("killed n{one}"),
            _ => "killed all".to_owned(),
        }
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} groups without leader; acknowledged again after {} ms (median), {} ms (max) \
             from the {}",
            self.groups,
            number(self.silence_ms_median),
            number(self.silence_ms_max),
            self.since,
        )
    }
}

/// With a digit after the point where that says something.
fn number(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_that_of_the_groups_that_lost_their_leader() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let silence = [ms(3), ms(700), ms(500), None];
        let kill = Kill::new(vec![2], "kill", &silence, &[1, 2, 3]);
        assert_eq!(kill.groups, 3);
        assert_eq!(kill.silence_ms_median, Some(700.0));
        assert_eq!(kill.silence_ms_max, Some(700.0));
        assert_eq!(kill.mute_groups, [4]);
        assert_eq!(Kill::new(vec![1], "kill", &[], &[]).silence_ms_max, None);
    }

    #[test]
    fn the_last_line_is_the_verdict_and_lost_keys_are_named() {
        let report = Report { ok: true, digests_equal: true, ..Report::default() };
        assert!(report.to_string().ends_with("\nOK lost=0 digests=equal"));
        let key = LostKey { key: "demo:1:c1:7".to_owned(), group: 3, found: "nothing" };
        let report = Report {
            lost: 1,
            lost_keys: vec![key],
            problems: vec!["1 acknowledged write is lost".to_owned()],
            ..Report::default()
        };
        let text = report.to_string();
        assert!(text.contains("lost: demo:1:c1:7 of group 3: found nothing"), "{text}");
        assert!(text.ends_with("\nFAILED lost=1 digests=different"), "{text}");
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["lost"], 1);
        assert_eq!(json["digests_equal"], false);
        assert_eq!(json["lost_keys"][0]["group"], 3);
    }
}
