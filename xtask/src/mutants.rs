//! `cargo xtask mutants`: bugs are planted, one at a time, and the simulator must find each.
//!
//! The bugs are in a build of their own, in a target directory of its own, behind a compiler flag
//! that no dependency can switch on. Each is looked for in five ranges of seeds that share no
//! seed; it must be found in all of them within the budget of its class.
//!
//! Invariant: the ordinary release binaries contain nothing of them. That is looked up in its
//! bytes, and the same look must find them in the special one, or it would prove nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::Workspace;
use crate::job::Job;
use crate::sim::{SIMULATOR, executable, simulator_build};
use crate::table;

/// What a planted build says of itself.
pub(crate) const MARKER: &str = "this simulator has planted bugs";

/// What the command line asks for.
#[derive(Debug, Default, Eq, PartialEq)]
struct Options {
    /// Names of the only mutants to plant; empty means all.
    only: Vec<String>,
    profile: Option<String>,
    class: Option<String>,
    /// Seeds per range instead of the class's own budget.
    budget: Option<u64>,
    /// Print the table as a document has it.
    markdown: bool,
    list: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value =
                || rest.next().cloned().with_context(|| format!("`{argument}` needs a value"));
            match argument.as_str() {
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--profile" => options.profile = Some(value()?),
                "--class" => options.class = Some(value()?),
                "--budget" => options.budget = Some(value()?.parse().context("--budget")?),
                "--markdown" => options.markdown = true,
                "--list" => options.list = true,
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }

    fn wants(&self, mutant: &Value) -> bool {
        let is = |wanted: &Option<String>, key: &str| {
            wanted.as_ref().is_none_or(|wanted| mutant[key] == wanted.as_str())
        };
        let named = self.only.is_empty() || self.only.iter().any(|name| mutant["mutant"] == **name);
        named && is(&self.profile, "profile") && is(&self.class, "class")
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let workspace = Workspace::load()?;
    let planted = executable(planted_build(&workspace), SIMULATOR)?;
    let mutants = list(&planted)?;
    let chosen: Vec<&Value> = mutants.iter().filter(|mutant| options.wants(mutant)).collect();
    if chosen.is_empty() {
        bail!("no mutant is chosen; --list names them");
    }
    if options.list {
        let rows: Vec<_> = chosen
            .iter()
            .map(|mutant| ["mutant", "class", "profile", "about"].map(|key| text(mutant, key)))
            .collect();
        println!("{}", table::render(["mutant", "class", "profile", "what it does"], &rows));
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let mut rows = Vec::new();
    let mut survivors = Vec::new();
    for mutant in chosen {
        let found = hunt(&planted, &text(mutant, "mutant"), options.budget)?;
        println!("{}", found.row().join("  "));
        if let Some(count) = found.told["sound_failures"].as_u64().filter(|count| *count > 0) {
            println!(
                "  {count} seeds failed without the bug as well, or for something else, and do not count"
            );
        }
        if found.survives() {
            survivors.push(text(mutant, "mutant"));
        }
        rows.push(found.row());
    }
    let header =
        ["mutant", "class", "profile", "seeds to find, five ranges", "median", "caught by"];
    println!(
        "\n{}",
        if options.markdown { markdown(header, &rows) } else { table::render(header, &rows) }
    );
    let release = workspace.cargo(["build", "--release", "-p", "raft-harness", "--bin", "raftd"]);
    let ordinary = [
        executable(release, "raftd")?,
        executable(simulator_build(&workspace, "release"), SIMULATOR)?,
    ];
    let contained = compare(&planted, &ordinary, &mutants)?;
    println!("\n{contained}");
    println!(
        "{} mutants in {:.0} s, {} survive {}",
        rows.len(),
        begun.elapsed().as_secs_f64(),
        survivors.len(),
        survivors.join(", ")
    );
    Ok(if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn planted_build(workspace: &Workspace) -> Command {
    let mut command = simulator_build(workspace, "release");
    command.arg("--quiet");
    command.arg("--target-dir").arg(workspace.target_directory.join("planted"));
    command.env("RUSTFLAGS", "--cfg planted");
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    command
}

fn list(planted: &Path) -> Result<Vec<Value>> {
    let mut command = Command::new(planted);
    command.arg("--planted-list");
    let finished = Job::new(command).apart()?;
    if !finished.success() {
        bail!("the planted build does not list its mutants:\n{}", finished.evidence());
    }
    finished.stdout.lines().map(|line| serde_json::from_str(line).context("a mutant")).collect()
}

/// What came of one mutant.
struct Found {
    told: Value,
}

fn hunt(planted: &Path, name: &str, budget: Option<u64>) -> Result<Found> {
    let mut command = Command::new(planted);
    command.args(["--planted", name, "--expect-fail"]);
    if let Some(budget) = budget {
        command.args(["--budget", &budget.to_string()]);
    }
    let finished = Job::new(command).apart()?;
    let told = finished.stdout.lines().find_map(|line| serde_json::from_str(line).ok());
    match told {
        Some(told) => Ok(Found { told }),
        None => bail!("{name} was not run:\n{}", finished.evidence()),
    }
}

impl Found {
    fn survives(&self) -> bool {
        self.seeds().iter().any(Option::is_none)
    }

    /// In each range, how many seeds it took; the last is `None` if it was not found there.
    fn seeds(&self) -> Vec<Option<u64>> {
        self.told["found"].as_array().into_iter().flatten().map(Value::as_u64).collect()
    }

    fn row(&self) -> [String; 6] {
        let mut found: Vec<u64> = self.seeds().into_iter().flatten().collect();
        let each: Vec<String> = self
            .seeds()
            .iter()
            .map(|seeds| seeds.map_or_else(|| "SURVIVES".to_owned(), |seeds| seeds.to_string()))
            .collect();
        found.sort_unstable();
        let median = if self.survives() {
            format!("> {}", self.told["budget"])
        } else {
            found[found.len() / 2].to_string()
        };
        let mut checks: Vec<&str> = self.told["checks"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        checks.sort_unstable();
        checks.dedup();
        [
            text(&self.told, "mutant"),
            text(&self.told, "class"),
            text(&self.told, "profile"),
            each.join(" "),
            median,
            checks.join(", "),
        ]
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn markdown<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&header);
    text.push_str(&line(&header.map(|_| "---")));
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str)));
    }
    text
}

/// Looks for the marker and for every mutant's story in the planted and in the ordinary binaries.
fn compare(planted: &PathBuf, ordinary: &[PathBuf], mutants: &[Value]) -> Result<String> {
    let read =
        |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let special = read(planted)?;
    let ordinary = ordinary.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut words: Vec<String> = mutants.iter().map(|mutant| text(mutant, "about")).collect();
    words.push(MARKER.to_owned());
    for word in &words {
        if !contains(&special, word) {
            bail!("the planted build does not contain {word:?}: looking for it proves nothing");
        }
        if ordinary.iter().any(|bytes| contains(bytes, word)) {
            bail!("an ordinary release build contains {word:?}");
        }
    }
    Ok(format!(
        "the ordinary release binaries contain none of {} texts that the planted one contains",
        words.len()
    ))
}

/// Whether these bytes occur in the file.
pub(crate) fn contains(bytes: &[u8], word: &str) -> bool {
    let word = word.as_bytes();
    let Some(first) = word.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(word) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Found, Options, contains};

    fn parse(line: &str) -> anyhow::Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_found_in_bytes_wherever_they_are() {
        assert!(contains(b"xxabaabc", "abc") && contains(b"abc", "abc") && contains(b"", ""));
        assert!(!contains(b"ababab", "abc") && !contains(b"", "a"));
    }

    #[test]
    fn mutants_are_chosen_by_name_profile_and_class() {
        let mutant = json!({ "mutant": "VoteTwice", "class": "easy", "profile": "protocol" });
        assert!(parse("").unwrap().wants(&mutant));
        assert!(parse("--only VoteTwice,Other --class easy").unwrap().wants(&mutant));
        assert!(!parse("--only Other").unwrap().wants(&mutant));
        assert!(!parse("--profile bytes").unwrap().wants(&mutant));
        assert!(parse("--only").is_err() && parse("VoteTwice").is_err());
    }

    #[test]
    fn a_mutant_survives_if_one_range_misses_it() {
        let told = |found| Found {
            told: json!({ "found": found, "budget": 50, "checks": ["b", "a", "b"] }),
        };
        let killed = told(json!([3, 9, 1, 4, 2]));
        assert!(!killed.survives());
        assert_eq!(killed.row()[3..], ["3 9 1 4 2", "3", "a, b"]);
        let alive = told(json!([3, null]));
        assert!(alive.survives());
        assert_eq!(alive.row()[3..5], ["3 SURVIVES", "> 50"]);
    }
}
