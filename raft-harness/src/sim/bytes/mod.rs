//! The bytes profile: the whole engine in one thread, down to bytes on wires and sectors on
//! disks.
//!
//! Each node is the real shard engine, log, lanes, control plane and bulk lane, put together as a
//! start puts them together; only threads, sockets, files and clocks are simulated. So what is
//! tested here is what runs: the mux prefix, handshakes, frames, credits and heartbeat batches,
//! the frames and segments of the log and its recovery, and the order in which the threads do
//! things.
//!
//! A run has two halves. In the first everything goes wrong that its seed has drawn; in the
//! second nothing does, and the cluster must recover: every group serves, all replicas end
//! equal, no request is without an end and no connection without a purpose. All the while the
//! [`Checker`](crate::sim::invariants::Checker) looks at every step of every core, and promises
//! are compared with disks when their bytes leave.
//!
//! | file | holds |
//! |---|---|
//! | `cases` | runs as cases, for sweeps and shrinking |
//! | `options` | what a run is told and what it reports |
//! | `swarm`, `faults`, `races`, `floods` | what a seed draws |
//! | `world`, `queue`, `tasks` | events in virtual time, and who is woken |
//! | `lives`, `process`, `threads`, `clock`, `fuse` | nodes: birth, work, death |
//! | `network`, `stream`, `disk` | wires and disks |
//! | `snapshots` | the desk, and the disk it keeps snapshots on |
//! | `clients`, `machine`, `operator`, `incarnations` | the workload |
//! | `weather` | faults taking effect |
//! | `tap`, `accounts`, `patience`, `judge`, `verdict` | what the checks are told, and those of this profile |
//! | `sightings` | the rare states a run has been to |

mod accounts;
mod cases;
mod clients;
mod clock;
mod disk;
mod faults;
mod floods;
mod fuse;
mod hangs;
mod incarnations;
mod judge;
mod lives;
mod losses;
mod machine;
mod memory;
mod network;
mod operator;
mod options;
mod patience;
mod process;
mod queue;
mod races;
mod sightings;
mod snapshots;
mod stream;
mod swarm;
mod tap;
mod tasks;
mod threads;
mod timekeeper;
mod verdict;
mod weather;
mod words;
mod world;

pub(crate) use self::cases::{draw, run_case};
pub use self::faults::{Fault, PlannedFault, Power};
pub use self::options::{Options, RunReport, Size, Stats, TraceLine, Weather};
pub(crate) use self::sightings::concerns;

use self::world::World;

/// Lives through one run. The same seed and options give the same report, whatever machine,
/// build or thread this is.
pub fn run(seed: u64, options: &Options) -> RunReport {
    World::new(seed, options).live()
}

#[cfg(test)]
mod tests;
