//! The Raft protocol for one group, as a pure function of time and inputs.
//!
//! This crate has no sockets, files, clocks, threads, async or randomness of its own; the
//! compiler holds it to that (`no_std`). Whoever drives it supplies all of them:
//!
//! ```text
//!              Input ──▶ ┌─────────┐ ──▶ persist   to the log, then Written and Persisted come back
//!   peers, clients,      │  Group  │ ──▶ messages  at once, or gated until something is durable
//!   log, clock           │  ::step │ ──▶ outcomes  one for every proposal and read
//!              now  ──▶  └─────────┘ ──▶ appliable entries the state machine may see
//!                             └─ next_deadline()   when to come back if nothing happens
//! ```
//!
//! What it knows of a log is metadata: terms by index, and where it ends. Payload bytes never
//! enter it, so an idle group is small and no term lookup ever touches storage. Appends are
//! pulled: a lane with room calls [`Group::make_append`] and attaches the bytes itself.
//!
//! A group of one, driven by hand; an engine does the same for many:
//!
//! ```
//! use std::sync::Arc;
//! use raft_core::*;
//!
//! let mut effects = Effects::default();
//! let alone = Membership::of_voters([ReplicaId::new(1)])?;
//! let settings = Arc::new(Settings::default());
//! let start = Start::fresh(GroupId::new(7), ReplicaId::new(1), alone, settings);
//! let mut group = Group::new(Micros::ZERO, start)?;
//!
//! // It asks to be woken; then it campaigns, and wants its term and vote on disk first.
//! let now = group.next_deadline().expect("a voter has a deadline");
//! group.step(now, Input::Deadline, &mut effects);
//! let vote = effects.persist.take().expect("term and vote");
//! group.step(now, Input::Persisted(vote.seq), &mut effects);
//! assert!(group.is_leader());
//!
//! // A proposal is committed once it is durable.
//! group.step(now, Input::Propose { token: Token::new(1), bytes: 100, time: LogTime::new(0) }, &mut effects);
//! let entries = effects.persist.take().expect("the no-op and the command");
//! group.step(now, Input::Persisted(entries.seq), &mut effects);
//! let (token, outcome) = effects.outcomes[0];
//! assert_eq!(token, Token::new(1));
//! assert!(matches!(outcome, Outcome::Committed { .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (the
//! paper); Ongaro, "Consensus: Bridging Theory and Practice" (the thesis).
#![no_std]

extern crate alloc;

mod audit;
mod configs;
mod durability;
mod election;
mod entry;
mod follower;
mod group;
mod id;
mod io;
mod leader;
mod lease;
mod membership;
mod message;
mod outbox;
pub mod planted;
mod progress;
mod promise;
mod quiescence;
mod quorum;
mod reads;
mod reconfiguration;
mod replication;
mod rng;
mod settings;
mod snapshots;
mod sparse;
mod status;
mod term_log;
mod term_runs;
mod tombstone;
mod transfer;

pub use audit::Discrepancy;
pub use entry::{Entry, EntryKind, HardState};
pub use group::Group;
pub use id::{
    GroupId, GroupIncarnation, Incarnation, LogIndex, LogTime, Micros, NodeId, PersistSeq,
    ReplicaId, Term, Token,
};
pub use io::{
    Candidacy, Disbelief, DiskSpace, Effects, Fault, Input, LogChange, Outcome, Persist, ReadPath,
    Refusal, SnapshotEffect,
};
pub use membership::{Member, MemberChange, Membership, MembershipError, Standing};
pub use message::{
    Append, AppendReply, AppendResult, Campaign, Declined, Fence, Heartbeat, HeartbeatReply,
    Message, Promise, ReadIndex, ReadIndexReply, Recover, Rest, Session, SnapshotMeta,
    SnapshotOffer, TimeoutNow, TransferRefused, Unwilling, Verdict, VoteReply, VoteRequest,
};
pub use outbox::{Durable, Gated, Outbox, Outgoing};
pub use quorum::{
    Half, Joint, MEMBERS_MAX, VoteResult, committed, joint_committed, joint_reached,
    joint_vote_result, majority, majority_reached, vote_result,
};
pub use settings::{
    Acknowledge, Base, Lease, PRIORITY_MAX, PromiseRecord, Settings, SettingsError, Start,
    StartError,
};
pub use sparse::Sparse;
pub use status::{RoleKind, Status};
pub use term_runs::{TermRun, TermRuns};
pub use tombstone::Tombstone;
