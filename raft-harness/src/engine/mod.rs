//! The engine of one shard: many groups, no I/O.
//!
//! [`ShardEngine`](shard_engine::ShardEngine) takes inputs and returns a turn's output exactly as
//! the core does, for many groups. Threads, sockets and files are thin drivers around it, in
//! [`crate::node`].

mod ailing;
mod applying;
mod creation;
mod handing_over;
mod io;
mod log_health;
mod log_load;
mod log_sizes;
mod log_time;
mod machine;
mod messages;
pub(crate) mod panics;
mod payloads;
mod peers;
mod persisting;
mod reads;
mod removal;
mod replacing;
mod replication;
mod replies;
mod requests;
mod shard_engine;
mod slot;
mod snapshots;
mod spreading;
mod stopping;
mod timers;
mod unusable;
#[cfg(feature = "sim")]
mod watch;
mod work;

pub use io::Created;
pub(crate) use io::{
    ApplyJob, ApplyTask, CarrierConnection, CreateDone, CreateGroup, CreateRefusal, EngineInput,
    Fetch, HandingOver, MakeMachine, PersistTicket, Route, SendLane, Source, TurnOutput, Via,
};
pub(crate) use log_health::{Call, Caller, LogCondition, LogHealth};
pub(crate) use log_load::LogLoad;
pub(crate) use log_time::Told;
pub(crate) use machine::{Applied, MachineHost};
pub(crate) use shard_engine::{Durability, EngineOptions, ShardEngine};
#[cfg(feature = "sim")]
pub(crate) use watch::{Replica, Watch};

#[cfg(test)]
mod tests;
