//! `raft-sim`: simulated clusters under faults, many seeds or one, with every check on.

use std::process::ExitCode;

fn main() -> ExitCode {
    raft_harness::sim::command::main()
}
