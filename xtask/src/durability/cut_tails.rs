//! Check `cut-tails`: the demo fails when acknowledged writes are taken from under it.
//!
//! A demo that could not fail would prove nothing. While all its nodes are dead, the newest
//! frames of every node's log are overwritten with zeros from outside. Cut like a torn tail, no
//! node can know, all start, and the demo must find writes missing. Cut as a hole before frames
//! that promise it was durable, the nodes must refuse to start, and the demo must say that too.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::kill9::report;
use super::running::Running;
use super::tail::{Damage, newest_segment, victims};
use super::{Outcome, Setting};

/// Long enough for acknowledgements between the last start and the end of every log.
const SECONDS: &str = "6";
/// Time to damage three logs.
const PAUSE_MS: &str = "4000";
const KILL_LIMIT: Duration = Duration::from_secs(90);
/// Nodes that refuse to start are waited for, and every key is asked for.
const END_LIMIT: Duration = Duration::from_secs(180);
/// How many frames are overwritten in each log.
const FRAMES: usize = 32;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    [("like a torn tail", Damage::TornTail), ("a hole in what was durable", Damage::Hole)]
        .into_iter()
        .map(|(what, damage)| check(setting, what, damage))
        .collect()
}

fn check(setting: &Setting, what: &str, damage: Damage) -> Result<Outcome> {
    let directory = setting.directory.join(format!("{damage:?}"));
    let mut command = Command::new(&setting.raftd);
    command.args(["demo", "--groups", "16", "--seconds", SECONDS, "--json"]);
    command.args(["--attack-pause-ms", PAUSE_MS, "--data-dir"]).arg(&directory);
    let mut demo = Running::start(command)?;
    demo.wait_for("line that says all nodes are killed", KILL_LIMIT, |line| {
        let value: Value = serde_json::from_str(line).ok()?;
        (value["event"] == "all-killed").then_some(())
    })?;
    for log in logs(&directory)? {
        let cut = damage_log(&log, damage)?;
        println!("{what}: overwrote {cut} bytes of {}", log.display());
        ensure!(cut > 0, "{} has too few frames to cut", log.display());
    }
    let status = demo.finish(END_LIMIT)?;
    let report = report(&demo.text());
    let code = status.and_then(|status| status.code());
    let verdict = judge(damage, code, &report);
    println!("{what}: exit code {code:?}, {}", describe(&report));
    Ok(match verdict {
        Ok(()) => Outcome::passed(what, format!("exit code 1, {}", describe(&report))),
        Err(missing) => Outcome::failed(what, missing, demo.text()),
    })
}

/// What a demo must say after such damage.
fn judge(damage: Damage, code: Option<i32>, report: &Value) -> Result<(), &'static str> {
    if code != Some(1) {
        return Err("the exit code is not 1");
    }
    if report["ok"] != false {
        return Err("the report does not say that it failed");
    }
    if report["lost"].as_u64().is_none_or(|lost| lost == 0) {
        return Err("the report counts no lost write");
    }
    if report["lost_keys"].as_array().is_none_or(Vec::is_empty) {
        return Err("the report names no lost key");
    }
    if damage == Damage::Hole && refusals(report) == 0 {
        return Err("no node refused to start on a damaged log");
    }
    Ok(())
}

fn describe(report: &Value) -> String {
    let refused = refusals(report);
    format!(
        "{} acknowledged, {} named lost, the first {} ({}); {}",
        report["acked"],
        report["lost"],
        report["lost_keys"][0]["key"],
        report["lost_keys"][0]["found"],
        if refused == 0 {
            "all nodes started".to_owned()
        } else {
            format!("{refused} nodes refused to start")
        }
    )
}

/// Nodes that ended by themselves because of damage, the documented exit code 3.
fn refusals(report: &Value) -> usize {
    let problems = report["problems"].as_array();
    problems.map_or(0, |problems| {
        let texts = problems.iter().filter_map(Value::as_str);
        texts.filter(|text| text.contains("ended with exit status: 3")).count()
    })
}

/// The newest segment of every node in a demo's folder.
fn logs(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut newest = Vec::new();
    for node in fs::read_dir(directory)? {
        let node = node?.path();
        if !node.is_dir() {
            continue;
        }
        let path = newest_segment(&node)?;
        let path = path.with_context(|| format!("{} has no log", node.display()))?;
        newest.push(path);
    }
    ensure!(!newest.is_empty(), "{} has no nodes", directory.display());
    newest.sort();
    Ok(newest)
}

/// Returns how many bytes were overwritten.
fn damage_log(path: &Path, damage: Damage) -> Result<usize> {
    let victims = victims(&fs::read(path)?, damage, FRAMES);
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(victims.start as u64))?;
    file.write_all(&vec![0; victims.len()])?;
    file.sync_all()?;
    Ok(victims.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Damage, judge};

    #[test]
    fn only_a_demo_that_fails_and_names_what_is_lost_passes() {
        let refusal = "node 1 ended with exit status: 3:\n    error: ...";
        let found = json!({
            "ok": false, "lost": 2, "lost_keys": [{"key": "k", "found": "nothing"}],
            "problems": ["2 acknowledged writes are lost", refusal],
        });
        assert!(judge(Damage::TornTail, Some(1), &found).is_ok());
        assert!(judge(Damage::Hole, Some(1), &found).is_ok());
        assert!(judge(Damage::Hole, Some(0), &found).is_err());
        assert!(judge(Damage::Hole, None, &found).is_err());
        for (field, value) in [
            ("ok", json!(true)),
            ("lost", json!(0)),
            ("lost_keys", json!([])),
            ("problems", json!(["lost"])),
        ] {
            let mut other = found.clone();
            other[field] = value;
            assert!(judge(Damage::Hole, Some(1), &other).is_err(), "{field}");
        }
    }
}
