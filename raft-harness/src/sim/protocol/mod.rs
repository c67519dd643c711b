//! The protocol profile: the real cores of many groups, with messages for a network and a model
//! of the log for a disk.
//!
//! What lies between core and wire is left out here, so that a run is fast and every rare state of
//! the protocol is in reach: memberships, hand-overs, snapshots, compaction, leases, sleep and
//! lost promises, all under fire.
//!
//! | file | holds |
//! |---|---|
//! | `setup` | what a seed draws: sizes, limits, weather |
//! | `faults` | trouble as data, and how it is done to the world |
//! | `operator` | memberships, hand-overs, snapshots, repair |
//! | `clients`, `machine` | the workload and the state machine it works on |
//! | `world` | events, steps, and effects carried out one by one |
//! | `node`, `replica`, `disk`, `network`, `record` | what a world is made of |
//! | `run` | the two phases of a run and the judgement |
//! | `notes` | the trace and the marks |

mod clients;
mod disk;
mod events;
mod faults;
mod machine;
mod network;
mod node;
mod notes;
mod operator;
mod record;
mod replica;
mod run;
mod setup;
#[cfg(test)]
mod tests;
mod world;

pub(crate) use run::{Options, Report, run};
