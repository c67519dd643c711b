//! `cargo xtask coverage`: which lines of `raft-core` its own tests reach, and the simulator.
//!
//! The compiler counts (`-C instrument-coverage`), in a target directory of its own; two programs
//! of LLVM read what it counted. They come with `rustup component add llvm-tools`. A line counts
//! if code is on it and it is no unit test; one that any test reached is covered.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo::{Workspace, build};
use crate::job::Job;
use crate::sim::{SIMULATOR, executable, simulator_build};
use crate::table;

const MEMBER: &str = "raft-core";
/// Names are kept as they are, because not every build of LLVM's programs can unpack them.
const FLAGS: &str = "-C instrument-coverage -C llvm-args=-enable-name-compression=false";
const HOW: &str = "`rustup component add llvm-tools` brings it; or the variable names one, of the \
    LLVM version that `rustc -vV` tells";

/// How often each line of a file was reached, by its number.
type Lines = BTreeMap<usize, u64>;
/// The same for each file of the crate, by its path within it.
type Files = BTreeMap<String, Lines>;

#[derive(Debug, Default, Eq, PartialEq)]
struct Options {
    /// So many seeds of the simulator's protocol profile as well.
    seeds: Option<u64>,
    /// Print the lines nothing reached.
    lines: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--seeds" => {
                    let seeds = rest.next().context("`--seeds` needs a number")?;
                    options.seeds = Some(seeds.parse().context("--seeds")?);
                }
                "--lines" => options.lines = true,
                _ => bail!("unknown option `{argument}`; try `cargo xtask help`"),
            }
        }
        Ok(options)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let workspace = Workspace::load()?;
    let member = workspace.members.get(MEMBER).context("the workspace has no raft-core")?;
    let counting = Counting {
        profdata: tool("llvm-profdata", "LLVM_PROFDATA")?,
        cov: tool("llvm-cov", "LLVM_COV")?,
        sources: member.directory.join("src"),
        folder: workspace.target_directory.join("coverage"),
    };

    let tests = build(counting.cargo(&workspace, ["test", "--no-run", "-p", MEMBER, "--tests"]))?
        .map_err(|failed| anyhow::anyhow!(failed.evidence()))?;
    let tests: Vec<PathBuf> = tests.into_iter().map(|built| built.path).collect();
    let profiles = counting.empty_folder("tests")?;
    for test in &tests {
        let mut command = Command::new(test);
        command.current_dir(&member.directory);
        counting.count(command, &profiles)?;
    }
    let by_tests = counting.lines(&profiles, &tests)?;

    let mut by_simulator = None;
    if let Some(seeds) = options.seeds {
        let cargo = counting.counted(simulator_build(&workspace, "checked"));
        let simulator = executable(cargo, SIMULATOR)?;
        let profiles = counting.empty_folder("simulator")?;
        let mut command = Command::new(&simulator);
        command.current_dir(&counting.folder);
        command.args(["--profile", "protocol", "--seeds", &seeds.to_string()]);
        counting.count(command, &profiles)?;
        by_simulator = Some(counting.lines(&profiles, &[simulator])?);
    }
    println!("{}", report(&by_tests, by_simulator.as_ref()));
    if options.lines {
        for (file, lines) in &by_tests {
            let source = fs::read_to_string(counting.sources.join(file))?;
            let source: Vec<&str> = source.lines().collect();
            let others = by_simulator.as_ref().and_then(|files| files.get(file));
            let reached = |at| reaches(lines, at) || others.is_some_and(|them| reaches(them, at));
            for at in lines.keys().filter(|at| !reached(**at)) {
                println!("{file}:{at}: {}", source.get(at - 1).unwrap_or(&"").trim());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where one of LLVM's programs is.
fn tool(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Ok(path.into());
    }
    let rustc = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new("rustc");
        command.args(arguments);
        Ok(Job::new(command).apart()?.stdout)
    };
    let host = rustc(&["-vV"])?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV")?;
    let root = rustc(&["--print", "sysroot"])?;
    let path = Path::new(root.trim()).join("lib/rustlib").join(host).join("bin").join(name);
    if !path.is_file() {
        bail!("{name} is not there and {variable} names none: {HOW}");
    }
    Ok(path)
}

/// A build that counts, and what reads its numbers.
struct Counting {
    profdata: PathBuf,
    cov: PathBuf,
    /// Only lines of files in here are of interest.
    sources: PathBuf,
    /// The build and all it counted.
    folder: PathBuf,
}

impl Counting {
    fn cargo<const N: usize>(&self, workspace: &Workspace, arguments: [&str; N]) -> Command {
        self.counted(workspace.cargo(arguments))
    }

    /// Makes a build count the lines that run.
    fn counted(&self, mut command: Command) -> Command {
        command.arg("--target-dir").arg(&self.folder);
        command.env("RUSTFLAGS", FLAGS).env("CARGO_INCREMENTAL", "0");
        // Nobody looks into it with a debugger, and it is large without.
        command.env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_PROFILE_CHECKED_DEBUG", "0");
        // Programs that only help to build count as well; that is of no interest.
        command.env("LLVM_PROFILE_FILE", self.folder.join("building/%m.profraw"));
        command
    }

    fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("counted").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Runs a program of the build, which must succeed.
    fn count(&self, mut command: Command, profiles: &Path) -> Result<()> {
        command.env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw"));
        let finished = Job::new(command).apart()?;
        if !finished.success() {
            bail!("it fails, so it shows nothing:\n{}", finished.evidence());
        }
        Ok(())
    }

    fn lines(&self, profiles: &Path, programs: &[PathBuf]) -> Result<Files> {
        let merged = profiles.join("merged.profdata");
        let mut merge = Command::new(&self.profdata);
        merge.args(["merge", "-sparse", "-o"]).arg(&merged);
        for entry in fs::read_dir(profiles)? {
            merge.arg(entry?.path());
        }
        let mut export = Command::new(&self.cov);
        export.args(["export", "-format=lcov", "-instr-profile"]).arg(&merged);
        for program in programs {
            export.arg("-object").arg(program);
        }
        export.arg("-sources").arg(&self.sources);
        let mut told = String::new();
        for command in [merge, export] {
            let finished = Job::new(command).apart()?;
            if !finished.success() {
                bail!("{HOW}:\n{}", finished.evidence());
            }
            told = finished.stdout;
        }
        let mut files = read(&told, &self.sources)?;
        for (file, lines) in &mut files {
            let source = fs::read_to_string(self.sources.join(file))?;
            let end = tests_from(&source);
            lines.retain(|at, _| *at < end);
        }
        Ok(files)
    }
}

/// Reads `lcov`'s format: a file's name in `SF:`, then `DA:` with a line and its count.
fn read(lcov: &str, sources: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut open = None;
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            let within = Path::new(path).strip_prefix(sources).ok();
            open = within.map(|file| files.entry(file.display().to_string()).or_default());
        } else if let Some(data) = line.strip_prefix("DA:")
            && let Some(lines) = &mut open
        {
            let mut numbers = data.split(',').map(str::parse::<u64>);
            let (Some(Ok(at)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
                bail!("llvm-cov told `{line}`");
            };
            *lines.entry(usize::try_from(at)?).or_default() += count;
        }
    }
    Ok(files)
}

/// The line at which a file's unit tests begin, by the convention that they are at its foot.
fn tests_from(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().collect();
    let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
    lines.windows(2).position(begins).map_or(usize::MAX, |at| at + 1)
}

fn reaches(lines: &Lines, at: usize) -> bool {
    lines.get(&at).is_some_and(|count| *count > 0)
}

/// How many lines there are, and how many of them the tests, the simulator, and either reach.
fn counts(lines: &Lines, others: &Lines) -> [usize; 4] {
    let count = |wanted: &dyn Fn(usize) -> bool| lines.keys().filter(|at| wanted(**at)).count();
    [
        lines.len(),
        count(&|at| reaches(lines, at)),
        count(&|at| reaches(others, at)),
        count(&|at| reaches(lines, at) || reaches(others, at)),
    ]
}

fn report(by_tests: &Files, by_simulator: Option<&Files>) -> String {
    let nothing = Lines::new();
    let mut rows = Vec::new();
    let mut sums = [0; 4];
    let row = |name: &str, counts: [usize; 4]| {
        let [total, tests, simulator, either] = counts.map(|count| count.to_string());
        [name.to_owned(), total, tests, simulator, either]
    };
    for (file, lines) in by_tests {
        let others = by_simulator.and_then(|files| files.get(file)).unwrap_or(&nothing);
        let counts = counts(lines, others);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        rows.push(row(file, counts));
    }
    rows.push(row("all", sums));
    if by_simulator.is_some() {
        return table::render(["file", "lines", "tests", "simulator", "either"], &rows);
    }
    let rows: Vec<_> =
        rows.into_iter().map(|[file, lines, tests, ..]| [file, lines, tests]).collect();
    table::render(["file", "lines", "tests"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LCOV: &str = "SF:/x/src/a.rs\nFN:3,name\nDA:3,1\nDA:4,0\nend_of_record\n\
        SF:/y/src/b.rs\nDA:1,0\nend_of_record\nSF:/x/src/c/d.rs\nDA:9,0\nDA:9,2\n";

    #[test]
    fn lines_of_other_crates_do_not_count_and_counts_of_one_line_add_up() {
        let files = read(LCOV, Path::new("/x/src")).unwrap();
        let a = ("a.rs".to_owned(), Lines::from([(3, 1), (4, 0)]));
        let d = ("c/d.rs".to_owned(), Lines::from([(9, 2)]));
        assert_eq!(files, Files::from([a, d]));
        assert!(read("SF:/x/src/a.rs\nDA:3", Path::new("/x/src")).is_err());
    }

    #[test]
    fn a_line_is_covered_if_anybody_reached_it() {
        let tests = read(LCOV, Path::new("/x/src")).unwrap();
        let simulator = read("SF:/x/src/a.rs\nDA:4,7\nDA:5,1\n", Path::new("/x/src")).unwrap();
        let cells = |told: String| -> Vec<Vec<String>> {
            let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            told.lines().skip(1).map(cells).collect()
        };
        let both = [
            ["a.rs", "2", "1", "1", "2"],
            ["c/d.rs", "1", "1", "0", "1"],
            ["all", "3", "2", "1", "3"],
        ];
        assert_eq!(cells(report(&tests, Some(&simulator))), both);
        let alone = [["a.rs", "2", "1"], ["c/d.rs", "1", "1"], ["all", "3", "2"]];
        assert_eq!(cells(report(&tests, None)), alone);
    }

    #[test]
    fn unit_tests_do_not_count() {
        let source = "fn a() {}\n#[cfg(test)]\nfn b() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(tests_from(source), 5);
        assert_eq!(tests_from("fn a() {}\n"), usize::MAX);
    }
}
