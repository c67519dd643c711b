//! `cargo xtask help`: every command, its options and its exit codes on one screen.

use std::process::ExitCode;

use anyhow::Result;

const TEXT: &str = "\
cargo xtask <command>

  ci [--strict] [--only a,b] [--skip a,b] [--list]
      Runs every check, goes on after a failure, and ends with a table and a line
      `N passed, N failed`. --list names the steps. A step whose tool is missing is
      SKIPPED; with --strict a skipped step, or a skipped part of one, counts as failed.

  sim [--checked] [arguments of raft-sim]
      Builds the simulator in release, or with all assertions, and runs it:
      --seeds N, --first S, --profile P, --seed S, --replay FILE; see docs/SIMULATOR.md.

  mutants [--only A,B] [--profile P] [--class easy|medium|hard] [--budget N]
          [--markdown] [--list]
      Plants bugs, one at a time, in a build of its own, and fails if the simulator misses
      one of them in one of five ranges of seeds. Shows that the release build has none.

  interop [--raftd <binary>]
      Starts a cluster of three nodes and talks to it with the Redis clients found on
      this machine, unmodified. Builds raftd in release unless given one.

  durability [--only a,b] [--rounds N] [--raftd <binary>]
      Shows from outside that acknowledged means on disk: strace (order of system calls),
      powercut (as root; N cuts of a whole site, default 20, and a quarter as many of one
      node and of two), cut-tails (the demo can fail), kill9, sigkill (22 N kills at system calls),
      eio (5 N failed syncs), memfirst (25 N kills of all nodes).
      Builds raftd in release unless given one.

  field [--only a,b] [--raftd <binary>]
      What was once found broken from outside, tried again on real nodes: outputs that fail,
      settings, the Redis ports, and so on. Builds raftd in release unless given one.

  planted [bug..]
      Builds the scenarios of raft-core with bugs that can be planted, and shows that every
      test fails that docs/HISTORY_OF_BUGS.md names for the bug. Without arguments: all.

  coverage [--seeds N] [--lines]
      Counts which lines of raft-core its tests reach, file by file; with --seeds also what so
      many seeds of the simulator reach. --lines names the others. Needs LLVM's programs,
      and says how to get them; see docs/COVERAGE.md.

  crashes [--cycles N] [--first S]
      Random histories of the log with a crash after each life, so many crashes and
      recoveries (default 1,000,000), in release and on all processors.

  flips [--samples N] [--first S]
      Random logs in which a bit flips at rest, so many bits (default 100,000), each in a log
      of its own: it is seen, or nothing differs. In release and on all processors.

  soak [--minutes N] [--svg FILE] [--raftd <binary>]
      Mixed load on three real nodes with 300 groups (default 30 minutes), seen every 10 s: fails if
      the log on disk, memory or descriptors grow in the last two thirds, or writes get slower.
      Everything acknowledged is read back. Draws a picture; builds raftd unless given one.

  bench hol [--quick] [--seconds N] [--only loopback|link] [--size BYTES]
            [--markdown] [--svg FILE]
      What one group with large messages costs the others, by layout of lanes, over
      loopback and over a link of 1 Gbit/s between network namespaces (as root, else
      SKIPPED). Ten minutes; --quick three.

  bench-peers [arguments]
      Runs raft-harness/benches/peers/run.sh with these arguments.

  help
      This text.

Exit code: 0 all passed, 1 something failed, 2 the command could not run.";

pub(crate) fn run() -> Result<ExitCode> {
    println!("{TEXT}");
    Ok(ExitCode::SUCCESS)
}
