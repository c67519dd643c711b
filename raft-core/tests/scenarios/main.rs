//! Scenarios: one claim each, driven by hand, message by message.

mod bench;
mod elections;
mod gates;
mod reads;
mod replication;
mod start;
mod transfer;
