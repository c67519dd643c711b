//! The key-value state machine behind the Redis-protocol front.
//!
//! Reading order: [`slots`] (which group holds a key), [`command`] (what goes through the log),
//! [`machine`] (what it does), [`output`] (what comes back). Nothing here knows RESP.

pub mod command;
pub mod machine;
pub mod output;
pub mod slots;

mod codec;
mod digest;

pub use codec::DecodeError;
pub use command::{Command, Condition, Expiry, Query, QueryKind};
pub use machine::{KvFactory, KvMachine};
pub use output::{KvError, Output, ReadOutput};
pub use slots::{SlotMap, SlotMapError, key_slot};
