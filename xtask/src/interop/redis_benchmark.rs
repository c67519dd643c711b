//! `redis-benchmark`: many pipelined writes, each of them applied exactly once.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Check;
use super::server::Server;
use crate::job::Job;

/// A multiple of the pipeline's depth; otherwise redis-benchmark would send a few more.
const REQUESTS: u64 = 100_000;
const PIPELINE: u64 = 16;
const KEY_SPACE: u64 = 100_000;
/// Far slower than any build of the server.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn every_set_is_applied_once(server: &Server) -> Check {
    let what = format!("-t set,get -n {REQUESTS} -P {PIPELINE}; each SET applied once");
    Check::new("redis-benchmark", what, measured(server))
}

fn measured(server: &Server) -> Result<String> {
    let before = server.applied()?;
    let mut command = Command::new("redis-benchmark");
    let proxy = server.proxy();
    command.args(["-h", &proxy.ip().to_string(), "-p", &proxy.port().to_string()]);
    command.args(["-r", &KEY_SPACE.to_string(), "-n", &REQUESTS.to_string()]);
    command.args(["-t", "set,get", "-P", &PIPELINE.to_string(), "--csv"]);
    let finished = Job::new(command).limit(LIMIT).apart()?;
    ensure!(finished.success(), "{}", finished.evidence());
    let rates = rates(&finished.stdout);
    ensure!(rates.len() == 2, "wanted a line for SET and one for GET: {}", finished.evidence());
    let applied = server.applied()?.saturating_sub(before);
    ensure!(applied == REQUESTS, "{REQUESTS} SETs were sent, {applied} commands applied");
    Ok(format!("{applied} applied; per second: {}", rates.join(", ")))
}

/// Name and rate of each test in the CSV output.
fn rates(csv: &str) -> Vec<String> {
    let cell = |text: &str| text.trim_matches('"').to_owned();
    csv.lines()
        .map(|line| line.split(',').map(cell).collect::<Vec<_>>())
        .filter(|cells| matches!(cells.first().map(String::as_str), Some("SET" | "GET")))
        .map(|cells| format!("{} {}", cells[0], cells.get(1).map_or("?", |rate| rate)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::rates;

    #[test]
    fn rates_are_read_from_the_csv() {
        let csv =
            "\"test\",\"rps\",\"avg\"\n\"SET\",\"151.5\",\"0.1\"\n\"GET\",\"200.0\",\"0.1\"\n";
        assert_eq!(rates(csv), ["SET 151.5", "GET 200.0"]);
        assert!(rates("ERROR: x").is_empty());
    }
}
