//! `cargo xtask field`: what was once found broken by people who knew only the documents, tried
//! again on real processes.
//!
//! Every check behaves as an adversary, an operator or an embedder did who found something, and
//! asks for what should have happened. Nothing here looks into the code: a node is what it
//! answers, prints and leaves on the disk.
//!
//! Invariant: everything is started by the check as its own child on loopback, ends with it, and
//! is bounded in time and size; whatever is missing on this machine is SKIPPED, never passed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo::Workspace;
use crate::checks::{self, Check, Suite, Tally};

mod clock;
mod front;
mod hang;
mod hung_disks;
mod identity;
mod links;
mod memfirst;
mod newcomer;
mod output;
mod settings;
mod space;
mod stops;
mod tls;

mod scene;

const CHECKS: &[Check] = &[
    Check {
        name: "output",
        about: "no output that fails ends a node or a command",
        run: output::run,
    },
    Check {
        name: "newcomer",
        about: "the commands of the first page make a cluster that runs",
        run: newcomer::run,
    },
    Check {
        name: "settings",
        about: "what `config check` calls valid starts, whatever the order of the peers",
        run: settings::run,
    },
    Check {
        name: "front",
        about: "refused transactions, foreign protocols, promises of bytes, late readers",
        run: front::run,
    },
    Check {
        name: "space",
        about: "few descriptors, and a disk that is full at any moment",
        run: space::run,
    },
    Check {
        name: "links",
        about: "a large value over slow links is carried once, by lanes that stay",
        run: links::run,
    },
    Check {
        name: "identity",
        about: "directories that were rolled back, copied or damaged",
        run: identity::run,
    },
    Check {
        name: "tls",
        about: "nodes with certificates, with a foreign CA's, with none, and files that change",
        run: tls::run,
    },
    Check {
        name: "memfirst",
        about: "groups that count what is written: killed, and after lost power",
        run: memfirst::run,
    },
    Check {
        name: "clock",
        about: "one clock that jumps a year, and keys that expire all the same",
        run: clock::run,
    },
    Check {
        name: "hang",
        about: "threads that stand still, and what the node says of itself meanwhile",
        run: hang::run,
    },
    Check {
        name: "hung-disks",
        about: "disks that hang under load: one of three, all, one again and again",
        run: hung_disks::run,
    },
    Check {
        name: "stops",
        about: "nodes that stop in order, together, in turn, or are held: who waits, how long",
        run: stops::run,
    },
];

const SUITE: Suite = Suite {
    name: "field",
    checks: CHECKS,
    rounds: 1,
    before: |directory| space::unmount(&directory.join("disk")),
};

/// Checks that are left out of the CI: they ask how long somebody waited, which a busy machine
/// answers in its own way.
const TIMED: [&str; 3] = ["links", "hung-disks", "stops"];

/// What the CI has time for.
pub(crate) fn run_untimed(workspace: &Workspace, raftd: &Path) -> Result<Tally> {
    let untimed = |check: &Check| !TIMED.contains(&check.name);
    checks::carry_out(&SUITE, workspace, raftd, SUITE.rounds, untimed)
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    checks::run(&SUITE, arguments)
}
