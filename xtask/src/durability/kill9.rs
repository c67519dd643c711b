//! Check `kill9`: the demo itself, several times: one node and then all nodes are killed under
//! load, and nothing acknowledged is lost.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{Outcome, Setting};
use crate::job::Job;

const RUNS: u32 = 3;
/// Six seconds of load, and time to start, elect, recover and read everything back.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let mut evidence = String::new();
    let (mut acked, mut good) = (0, 0);
    for run in 1..=RUNS {
        let mut command = Command::new(&setting.raftd);
        command.args(["demo", "--groups", "16", "--seconds", "6", "--json"]);
        let finished = Job::new(command).limit(LIMIT).apart()?;
        let report = report(&finished.stdout);
        println!("run {run}: {}", describe(&report));
        if finished.success() && sound(&report) {
            acked += report["acked"].as_u64().unwrap_or_default();
            good += 1;
        } else {
            evidence.push_str(&format!("run {run}:\n{}\n", finished.evidence()));
        }
    }
    let what = format!("{RUNS} demos of 16 groups");
    Ok(vec![if good == RUNS {
        Outcome::passed(what, format!("{acked} acknowledged, lost 0, digests equal"))
    } else {
        Outcome::failed(what, format!("{good} of {RUNS} were sound"), evidence)
    }])
}

/// The last line of output that is a report.
pub(super) fn report(output: &str) -> Value {
    let found = output.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
    found.into_iter().find(|value: &Value| !value["ok"].is_null()).unwrap_or(Value::Null)
}

/// The exit code says so too; a report that claims less than it should is not believed.
fn sound(report: &Value) -> bool {
    report["ok"] == true
        && report["lost"] == 0
        && report["phantoms"] == 0
        && report["digests_equal"] == true
        && report["verified"] == report["acked"]
        && report["acked"].as_u64().is_some_and(|acked| acked > 0)
}

fn describe(report: &Value) -> String {
    let silence: Vec<String> = report["kills"].as_array().map_or_else(Vec::new, |kills| {
        kills.iter().map(|kill| whole(&kill["silence_ms_median"])).collect()
    });
    format!(
        "acked {}, unknown {}, read back {}, lost {}, digests equal {}, silent {} ms (median per \
         kill)",
        report["acked"],
        report["unknown"],
        report["verified"],
        report["lost"],
        report["digests_equal"],
        silence.join(" and ")
    )
}

fn whole(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

#[cfg(test)]
mod tests {
    use super::{describe, report, sound};

    const GOOD: &str = r#"{"ok":true,"acked":5,"verified":5,"unknown":1,"lost":0,"phantoms":0,"digests_equal":true,"kills":[{"silence_ms_median":612.4},{"silence_ms_median":null}]}"#;

    #[test]
    fn a_report_is_believed_only_if_it_is_complete() {
        let good = report(&format!("starting\n{GOOD}\n"));
        assert!(sound(&good));
        assert!(describe(&good).contains("silent 612 and - ms"), "{}", describe(&good));
        for (from, to) in [
            ("\"lost\":0", "\"lost\":1"),
            ("\"lost\":0,", ""),
            ("\"verified\":5", "\"verified\":4"),
            ("\"acked\":5,\"verified\":5", "\"acked\":0,\"verified\":0"),
            ("\"digests_equal\":true", "\"digests_equal\":false"),
        ] {
            assert!(!sound(&report(&GOOD.replace(from, to))), "{to}");
        }
        assert!(!sound(&report("no report\n{\"event\":\"ready\"}")));
    }
}
