//! The checks of this workspace, run as `cargo xtask <command>`.
//!
//! Written in Rust so that a developer and the CI run the very same thing on every platform, and
//! depending on none of the workspace's crates, so that it still runs when they do not compile.

use std::env;
use std::process::ExitCode;

mod bench;
mod bench_peers;
mod ci;
mod coverage;
mod crashes;
mod durability;
mod field;
mod help;
mod interop;
mod mutants;
mod planted;
mod sim;
mod soak;

mod cargo;
mod checks;
mod job;
mod nodes;
mod table;

/// What `cargo xtask` is asked for. The table of requirements may name these.
const COMMANDS: [&str; 14] = [
    "ci",
    "sim",
    "mutants",
    "planted",
    "interop",
    "durability",
    "field",
    "coverage",
    "crashes",
    "flips",
    "soak",
    "bench",
    "bench-peers",
    "help",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "ci" => ci::run(rest),
        "sim" => sim::run(rest),
        "mutants" => mutants::run(rest),
        "interop" => interop::run(rest),
        "durability" => durability::run(rest),
        "field" => field::run(rest),
        "planted" => planted::run(rest),
        "coverage" => coverage::run(rest),
        "crashes" => crashes::run(&crashes::CRASHES, rest),
        "flips" => crashes::run(&crashes::FLIPS, rest),
        "soak" => soak::run(rest),
        "bench" => bench::run(rest),
        "bench-peers" => bench_peers::run(rest),
        "help" | "-h" | "--help" => help::run(),
        unknown => Err(anyhow::anyhow!("unknown command `{unknown}`; try `cargo xtask help`")),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(2)
    })
}
