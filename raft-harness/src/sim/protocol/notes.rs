//! What a run is remembered for: its trace, and the rare states it has been to.
//!
//! Notes look and change nothing: they draw no randomness, make no event, and no part of the world
//! but the checks in `reception` asks them anything. What they must remember to recognise a rare state is theirs alone.
//!
//! | file | holds |
//! |---|---|
//! | `before` | a replica before a step, and what the step was given |
//! | `memory` | what notes remember of a replica's life, and of the run |
//! | `concerns` | which marks this profile can reach |
//! | `elections`, `replication`, `membership`, `snapshots`, `requests` | marks seen in steps |
//! | `arrivals` | marks seen in messages as they arrive |
//! | `lives`, `partitions` | marks seen in what happens to nodes and links |

mod arrivals;
mod before;
mod concerns;
mod elections;
mod lives;
mod membership;
mod memory;
mod partitions;
mod replication;
mod requests;
mod snapshots;

use raft_core::{
    AppendResult, Group, GroupId, Message, Micros, Outcome, Promise, ReplicaId, RoleKind, Status,
    Token,
};

pub(crate) use self::before::Before;
use self::before::Cause;
pub(crate) use self::concerns::concerns;
pub(crate) use self::memory::{Memory, RunMemory};
use super::network::NodeAt;
use super::packet::Packet;
use super::replica::{LogEvents, Replica};
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::rng::mix;
use crate::sim::trace::{EventKind, Happened, MessageId};

/// A step that was done, as notes look at it.
struct Step<'a> {
    at: NodeAt,
    group: GroupId,
    /// When, on the clock of its node.
    local: Micros,
    before: Before,
    /// The replica after it.
    now: Status,
    core: &'a Group,
    log: LogEvents,
    /// The requests that ended in it.
    ended: &'a [(Token, Outcome)],
}

impl Step<'_> {
    fn was_leader(&self) -> bool {
        self.before.role == RoleKind::Leader
    }

    fn is_leader(&self) -> bool {
        self.now.role == RoleKind::Leader
    }

    /// It began to lead in this step.
    fn takes_over(&self) -> bool {
        self.is_leader() && (!self.was_leader() || self.now.term > self.before.term)
    }

    /// Whether somebody's log may have reached the leader's disk or been acknowledged to it: when
    /// the question who holds what is worth asking anew.
    fn may_commit(&self) -> bool {
        self.is_leader()
            && self.now.commit_index < self.now.last_index
            && matches!(self.before.cause, Cause::Persisted | Cause::AppendReply(..))
    }
}

impl World {
    /// Something happened that belongs into the trace.
    pub(crate) fn tell(
        &mut self,
        at: NodeAt,
        group: Option<GroupId>,
        kind: EventKind,
        digest: u64,
        text: impl FnOnce() -> String,
    ) {
        let happened = Happened {
            at: Micros::new(self.now),
            node: self.nodes[at].id,
            group,
            kind,
            link: None,
            digest,
        };
        self.trace.event(happened, text);
    }

    pub(crate) fn tell_sent(&mut self, packet: &Packet) {
        let happened = Happened {
            at: Micros::new(self.now),
            node: self.nodes[packet.from_node].id,
            group: Some(packet.group),
            kind: EventKind::Send,
            link: Some(MessageId(packet.id)),
            digest: digest_of(&packet.message) ^ mix(packet.to.get()),
        };
        self.trace.event(happened, || format!("to {:?}: {:?}", packet.to, packet.message));
    }

    pub(crate) fn tell_received(
        &mut self,
        at: NodeAt,
        group: GroupId,
        id: u64,
        from: ReplicaId,
        message: &Message,
    ) {
        let happened = Happened {
            at: Micros::new(self.now),
            node: self.nodes[at].id,
            group: Some(group),
            kind: EventKind::Receive,
            link: Some(MessageId(id)),
            digest: mix(id),
        };
        self.trace.event(happened, || format!("from {from:?}: {message:?}"));
    }

    /// Looks at what a step did.
    pub(crate) fn note_step(
        &mut self,
        at: NodeAt,
        replica: &mut Replica,
        before: Before,
        log: LogEvents,
    ) {
        let Replica { core, effects, memory, .. } = replica;
        let step = Step {
            at,
            group: core.id(),
            local: self.nodes[at].local(self.now),
            before,
            now: core.status(),
            core,
            log,
            ended: &effects.outcomes[before.ended..],
        };
        self.note_election(&step, memory);
        self.note_office(&step);
        self.note_replication(&step, memory);
        self.note_membership(&step);
        self.note_snapshot(&step);
        self.note_requests(&step, memory);
        self.note_sleep_and_promises(&step);
        self.tell_step(&step);
    }

    fn note_sleep_and_promises(&mut self, step: &Step<'_>) {
        let (before, now) = (&step.before, &step.now);
        if now.asleep && !before.asleep {
            self.marks.hit(Mark::Quiesced);
        }
        if before.asleep && before.cause == Cause::Propose {
            self.marks.hit(Mark::QuiescedWoken);
        }
        // The only voter of a group gets over it without a fence, when its patience ends.
        let is_kept = before.promise != Promise::Kept && now.promise.promise == Promise::Kept;
        if before.promise == Promise::Unproven && now.leader.is_some() {
            self.marks.hit(Mark::PromiseUnprovenFollowed);
        }
        if is_kept && before.cause != Cause::Deadline {
            self.marks.hit(Mark::PromiseLostFenced);
        }
    }

    fn tell_step(&mut self, step: &Step<'_>) {
        let (before, now) = (&step.before, &step.now);
        let group = Some(step.group);
        if (now.role, now.term) != (before.role, before.term) {
            let digest = mix(now.term.get() << 3 | now.role as u64);
            let (role, term) = (now.role, now.term);
            self.tell(step.at, group, EventKind::Role, digest, || format!("{role:?} in {term:?}"));
        }
        if (now.commit_index, now.last_index) != (before.commit, before.last) {
            let (commit, last) = (now.commit_index, now.last_index);
            let digest = mix(commit.get() ^ last.get() << 32);
            let text = || format!("log to {last:?}, committed {commit:?}");
            self.tell(step.at, group, EventKind::Commit, digest, text);
        }
    }
}

/// A message in one word, for the trace's hash.
fn digest_of(message: &Message) -> u64 {
    let body = match message {
        Message::PreVote(m) => (1, m.last_index.get(), m.attempt),
        Message::PreVoteReply(m) => (2, m.attempt, m.verdict as u64),
        Message::Vote(m) => (3, m.last_index.get(), m.attempt),
        Message::VoteReply(m) => (4, m.attempt, m.verdict as u64),
        Message::Append(m) => (5, m.prev_index.get(), m.count() ^ m.commit.get() << 32),
        Message::AppendReply(m) => match m.result {
            AppendResult::Accepted { durable, verified, .. } => (6, durable.get(), verified.get()),
            AppendResult::Rejected { prev_index, hint_index, .. } => {
                (7, prev_index.get(), hint_index.get())
            }
            AppendResult::StaleTerm => (8, 0, 0),
            AppendResult::Receiving { index } => (9, index.get(), 0),
            AppendResult::Declined(why) => (10, why as u64, 0),
        },
        Message::Heartbeat(m) => (11, m.commit.get(), m.read_seq ^ m.sent.get() << 20),
        Message::ReadConfirm(m) => (12, m.commit.get(), m.read_seq ^ m.sent.get() << 20),
        Message::HeartbeatReply(m) => (13, m.read_seq, m.sent.get()),
        Message::TimeoutNow(m) => (14, m.transfer, m.last_index.get()),
        Message::TransferRefused(m) => (15, m.transfer, 0),
        Message::ReadIndex(m) => (16, m.id, 0),
        Message::ReadIndexReply(m) => (17, m.id, m.index.unwrap_or_default().get()),
        Message::Snapshot(m) => (18, m.meta.index.get(), m.meta.term.get()),
        Message::Recover(m) => (19, m.incarnation.get(), 0),
        Message::Fence(m) => (20, m.index.get(), m.incarnation.get()),
    };
    let (kind, a, b) = body;
    mix(mix(mix(kind ^ message.term().get() << 8) ^ a) ^ b)
}
