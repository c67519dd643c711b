//! `raftd`: the engine with a key-value machine, a Redis-protocol front, and a command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    raft_harness::cli::main()
}
