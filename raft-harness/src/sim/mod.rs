//! The deterministic simulator: one seed, one thread, virtual time.
//!
//! This is the half that does not depend on what is simulated. A profile (messages and a model
//! disk around many cores, or bytes and sectors around the whole engine) brings the cluster; here
//! is what decides its fate and judges it:
//!
//! | file | holds |
//! |---|---|
//! | `profile` | what can be simulated, and what came of a run |
//! | `protocol` | messages, cores and a model of the log |
//! | `rng` | one seed, independent streams of randomness by label |
//! | `observe` | what the checks see of a replica, its log and the disks |
//! | `invariants` | the checks after every step (I1 to I12, G1 to G12), with a history per group |
//! | `history` | what clients asked, when, and what they were told; the reference model |
//! | `linearizability` | is that explained by one order: by the log's, by any, per session |
//! | `outcomes` | every request ends once |
//! | `schedule` | faults and operators' actions as data, one a line |
//! | `swarm` | what kind of run a seed is, and the schedule it draws |
//! | `case` | one run with all that decides it, as a text to save and replay |
//! | `command` | the command line of `raft-sim` |
//! | `shrink` | a failing run made smaller |
//! | `sweep` | many seeds on many threads, one report |
//! | `failure` | a failed run, shrunk and told |
//! | `marks` | rare states a sweep must have been to |
//! | `trace` | a hash over everything that happened, and the last events in words |
//! | `diagram` | those events as a space-time diagram, in text and as SVG |
//! | `mutants` | planted bugs, and what is expected to find them |
//! | `panics` | a panic in a run, as a finding |
//! | `violation` | what a run is failed for, by a stable name |
//!
//! Everything here is a pure function of the seed and of what the profile reports.

pub mod bytes;
pub mod case;
#[cfg(feature = "raft-sim")]
pub mod command;
pub mod diagram;
pub mod failure;
pub mod history;
pub mod invariants;
pub mod linearizability;
pub mod marks;
#[cfg(any(test, planted))]
pub mod mutants;
pub mod observe;
pub mod outcomes;
mod panics;
pub mod profile;
mod protocol;
pub mod rng;
pub mod schedule;
pub mod shrink;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod violation;
