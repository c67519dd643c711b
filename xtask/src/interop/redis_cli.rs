//! `redis-cli`: plain through the proxy port, cluster-aware on the cluster port, and its checker.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::server::Server;
use super::{Check, LIMIT};
use crate::job::Job;

/// Enough keys that each of 16 groups and 3 nodes gets some.
const KEYS: usize = 200;

/// How an answer is judged.
enum Want {
    /// The whole answer, lines joined by a blank.
    Text(&'static str),
    /// An integer between these two.
    Between(i64, i64),
    /// An error that begins with this word.
    Error(&'static str),
}

pub(super) fn plain(server: &Server) -> Vec<Check> {
    use Want::{Between, Error, Text};
    let script: [(&str, &[(&str, Want)]); 8] = [
        ("PING", &[("PING", Text("PONG"))]),
        ("SET, GET", &[("SET x:1 one", Text("OK")), ("GET x:1", Text("one"))]),
        (
            "INCR",
            &[
                ("DEL x:n", Between(0, 1)),
                ("INCR x:n", Text("1")),
                ("INCR x:n", Text("2")),
                ("GET x:n", Text("2")),
            ],
        ),
        ("DEL", &[("DEL x:1", Text("1")), ("DEL x:1", Text("0")), ("GET x:1", Text(""))]),
        (
            "SET EX, TTL",
            &[
                ("SET x:t v EX 100", Text("OK")),
                ("TTL x:t", Between(90, 100)),
                ("SET x:t v", Text("OK")),
                ("TTL x:t", Text("-1")),
                ("TTL x:none", Text("-2")),
            ],
        ),
        (
            "MGET within a slot",
            &[
                ("SET {x}a 1", Text("OK")),
                ("SET {x}b 2", Text("OK")),
                ("MGET {x}a {x}none {x}b", Text("1  2")),
            ],
        ),
        ("MGET across slots is refused", &[("MGET a b", Error("CROSSSLOT"))]),
        ("an unknown command is refused", &[("NOSUCHCOMMAND", Error("ERR"))]),
    ];
    script
        .iter()
        .map(|(what, lines)| {
            let result = lines.iter().try_for_each(|(line, want)| {
                let words: Vec<&str> = line.split(' ').collect();
                let answer = redis_cli(server.proxy(), &[], &words, "")?;
                judge(&answer, want).with_context(|| format!("{line} answered `{answer}`"))
            });
            Check::new("redis-cli", *what, result.map(|()| String::new()))
        })
        .collect()
}

/// Writes keys over all slots through the first node and reads them back through each.
pub(super) fn cluster(server: &Server) -> Vec<Check> {
    let sets: String = (0..KEYS).map(|i| format!("SET key:{i} value:{i}\n")).collect();
    let gets: String = (0..KEYS).map(|i| format!("GET key:{i}\n")).collect();
    let written = || -> Result<String> {
        let answer = redis_cli(server.nodes[0].resp, &["-c"], &[], &sets)?;
        let oks = answer.lines().filter(|line| *line == "OK").count();
        ensure!(oks == KEYS, "{oks} of {KEYS} were OK; first other: {:?}", other(&answer, "OK"));
        Ok(format!("{KEYS} keys"))
    };
    let mut checks = vec![Check::new("redis-cli -c", "SET over all slots, node 1", written())];
    for (number, node) in (1..).zip(&server.nodes) {
        let read = || -> Result<String> {
            let answer = redis_cli(node.resp, &["-c"], &[], &gets)?;
            let values: Vec<_> = answer.lines().filter(|line| !redirect(line)).collect();
            for i in 0..KEYS {
                let value = values.get(i).copied();
                ensure!(value == Some(&format!("value:{i}")), "key:{i} is {value:?}");
            }
            Ok(format!("{KEYS} keys"))
        };
        checks.push(Check::new("redis-cli -c", format!("GET all, node {number}"), read()));
    }
    checks
}

pub(super) fn cluster_check(server: &Server) -> Check {
    let checked = || -> Result<String> {
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "check", &server.nodes[0].resp.to_string()]);
        let finished = Job::new(command).limit(LIMIT).merged()?;
        let covered = "All 16384 slots covered";
        let said = |words| finished.stdout.contains(words);
        let holds = finished.success() && said(covered) && !said("[ERR]");
        ensure!(holds, "{}\nwanted `{covered}` and no [ERR]", finished.evidence());
        Ok(covered.to_owned())
    };
    Check::new("redis-cli", "--cluster check", checked())
}

/// Runs one command, or the commands in `input`, and returns the answer without its last newline.
fn redis_cli(at: SocketAddr, options: &[&str], words: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]);
    command.args(options).args(words);
    let finished = Job::new(command).input(input).limit(LIMIT).apart()?;
    ensure!(finished.success(), "{}", finished.evidence());
    Ok(finished.stdout.trim_end_matches('\n').to_owned())
}

fn judge(answer: &str, want: &Want) -> Result<()> {
    match want {
        Want::Text(text) => {
            ensure!(answer.lines().collect::<Vec<_>>().join(" ") == *text, "wanted `{text}`");
        }
        Want::Between(low, high) => {
            let number: i64 = answer.parse().context("not a number")?;
            ensure!((low..=high).contains(&&number), "wanted {low} to {high}");
        }
        Want::Error(word) => ensure!(answer.starts_with(word), "wanted an error {word}"),
    }
    Ok(())
}

/// What `redis-cli -c` prints when it follows a `MOVED`.
fn redirect(line: &str) -> bool {
    line.starts_with("-> Redirected")
}

fn other<'a>(answer: &'a str, expected: &str) -> Option<&'a str> {
    answer.lines().find(|line| *line != expected && !redirect(line) && !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{Want, judge};

    #[test]
    fn answers_are_judged_by_value_range_or_error() {
        assert!(judge("OK", &Want::Text("OK")).is_ok());
        assert!(judge("1\n\n2", &Want::Text("1  2")).is_ok());
        assert!(judge("", &Want::Text("OK")).is_err());
        assert!(judge("95", &Want::Between(90, 100)).is_ok());
        assert!(judge("101", &Want::Between(90, 100)).is_err());
        assert!(judge("x", &Want::Between(0, 1)).is_err());
        assert!(judge("CROSSSLOT Keys in request", &Want::Error("CROSSSLOT")).is_ok());
        assert!(judge("OK", &Want::Error("CROSSSLOT")).is_err());
    }
}
