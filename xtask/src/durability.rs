//! `cargo xtask durability`: acknowledged means on disk, shown from outside.
//!
//! Nothing here trusts what `raftd` says of itself: the system calls are watched by a tracer, the
//! power is cut below the file system, log tails are cut off under the feet of the demo, and
//! every acknowledged write is read back over the wire. Each check also shows that it can fail.
//!
//! Invariant: everything is started by the check as its own child on loopback, ends with it, and
//! has a time limit; whatever is missing on this machine is SKIPPED, never passed.

use std::process::ExitCode;

use anyhow::Result;

use crate::checks::{self, Check, Outcome, Setting, Suite};
use crate::nodes::{cluster, load, resp, running};

mod cut_tails;
mod eio;
mod kill9;
mod memfirst;
mod powercut;
mod sigkill;
mod strace;

mod aim;
mod hit;
mod image;
mod tail;
mod trace;

/// Power cuts of a whole site, unless told otherwise.
const ROUNDS: u32 = 20;

const CHECKS: [Check; 7] = [
    Check {
        name: "strace",
        about: "no acknowledgement leaves before the sync that covers it",
        run: strace::run,
    },
    Check { name: "powercut", about: "a power cut loses nothing acknowledged", run: powercut::run },
    Check {
        name: "cut-tails",
        about: "the demo fails when the tails of all logs are cut off",
        run: cut_tails::run,
    },
    Check { name: "kill9", about: "SIGKILL loses nothing acknowledged", run: kill9::run },
    Check {
        name: "sigkill",
        about: "SIGKILL at any system call of the log loses nothing acknowledged",
        run: sigkill::run,
    },
    Check {
        name: "eio",
        about: "a sync of the log that fails ends the node and loses nothing acknowledged",
        run: eio::run,
    },
    Check {
        name: "memfirst",
        about: "SIGKILL of all nodes loses nothing acknowledged that was only written",
        run: memfirst::run,
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let suite = Suite {
        name: "durability",
        checks: &CHECKS,
        rounds: ROUNDS,
        before: image::release_leftovers,
    };
    checks::run(&suite, arguments)
}
