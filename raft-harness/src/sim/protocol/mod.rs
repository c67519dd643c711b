//! The protocol profile: the real cores of many groups, with messages for a network and a model
//! of the log for a disk.
//!
//! What lies between core and wire is left out here, so that a run is fast and every rare state of
//! the protocol is in reach: memberships, hand-overs, snapshots, compaction, leases, sleep and
//! lost promises, all under fire.
//!
//! | file | holds |
//! |---|---|
//! | `setup` | what a swarm means here |
//! | `faults` | how faults are done to the world, and undone |
//! | `orders` | what a schedule has operators and clients do |
//! | `operator` | memberships, hand-overs, snapshots, repair |
//! | `clients`, `machine` | the workload and the state machine it works on |
//! | `world` | everything there is in a run |
//! | `node`, `replica`, `disk`, `network`, `record` | what a world is made of |
//! | `timeline`, `events` | what happens, and when |
//! | `step`, `turn` | a replica is stepped and checked; its effects are carried out one by one |
//! | `reception` | what a step may make of what it was given |
//! | `packet`, `promises` | messages, from leaving to arriving, and what they promise |
//! | `flush`, `platters` | disks at work, and what they hold |
//! | `apply`, `snapshots` | entries and snapshots reach the state machines |
//! | `requests` | clients and cores meet |
//! | `life` | nodes start, stop and forget |
//! | `run` | the two phases of a run and the judgement |
//! | `standing` | a partition that never heals, and who must serve in it |
//! | `notes` | the trace and the marks |

mod apply;
mod clients;
mod disk;
mod events;
mod faults;
mod flush;
mod life;
mod machine;
mod network;
mod node;
mod notes;
mod operator;
mod orders;
mod packet;
mod platters;
mod promises;
mod reception;
mod record;
mod replica;
mod requests;
mod run;
mod setup;
mod snapshots;
mod stamps;
mod standing;
mod step;
mod stops;
#[cfg(test)]
mod tests;
mod timeline;
mod turn;
mod world;

pub(super) use notes::concerns;
pub(super) use run::run;
