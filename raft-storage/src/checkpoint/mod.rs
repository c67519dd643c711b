//! Checkpoints: the state of all groups at a place of the log, so that what came before need not be
//! read again, nor kept.
//!
//! A checkpoint is a stream of numbers ([`outline`], [`row`]) cut into chunks that vouch for
//! themselves ([`chunks`]). There are three files for it, written in turn ([`files`]): two checkpoints
//! are kept while the next one is made, and a crash or damage leaves one of them.
//!
//! It is *fuzzy*: groups are copied one after the other while the log goes on ([`capture`]). Each row
//! says up to where it holds what the log says of its group, and replay begins where the first row
//! was copied. A checkpoint is ended only when all that its rows hold is durable in the log.

pub(crate) mod capture;
pub(crate) mod chunks;
pub(crate) mod files;
pub(crate) mod outline;
pub(crate) mod row;
