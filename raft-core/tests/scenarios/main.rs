//! Scenarios: one claim each, driven by hand, message by message.

mod answers;
mod bench;
mod commits;
mod confirmations;
mod crashes;
mod design;
mod disks;
mod elections;
mod fleet;
mod gates;
mod heirs;
mod leases;
mod membership;
mod partitions;
mod planted;
mod promises;
mod reads;
mod replication;
mod sleep;
mod snapshots;
mod stamps;
mod start;
mod transfer;
mod votes;
