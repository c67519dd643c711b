//! What a run is remembered for: its trace, and the rare states it has been to.

use raft_core::{
    AppendResult, Group, GroupId, Input, LogIndex, Message, Micros, Outcome, Promise, ReadPath,
    Refusal, ReplicaId, RoleKind, Term, Token,
};

use super::network::NodeAt;
use super::packet::Packet;
use super::replica::{LogEvents, Replica};
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::rng::mix;
use crate::sim::trace::{EventKind, Happened, MessageId};

/// A core before a step, as far as notes need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    role: RoleKind,
    term: Term,
    vote: Option<ReplicaId>,
    commit: LogIndex,
    last: LogIndex,
    asleep: bool,
    promise: Promise,
    lease: bool,
    cause: Cause,
}

/// What kind of input a step had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cause {
    Deadline,
    Propose,
    LeaseRead(Token),
    Vote,
    PreVote,
    TimeoutNow,
    Rejection,
    StaleAppend,
    Message,
    Other,
}

/// Whether this profile is deep enough for a mark: it has messages and no bytes, replicas and no
/// lanes.
pub(crate) const fn concerns(mark: Mark) -> bool {
    !matches!(
        mark,
        Mark::BatchOfManyGroups
            | Mark::TornTail
            | Mark::PersistReordered
            | Mark::CrashInRecovery
            | Mark::LaneStalled
            | Mark::LaneKilled
            | Mark::LaneChanged
            | Mark::CreditsExhausted
            | Mark::FrameCut
            | Mark::OldGenerationFenced
    )
}

impl Before {
    pub(crate) fn of(core: &Group, input: &Input) -> Self {
        let status = core.status();
        let cause = match input {
            Input::Deadline => Cause::Deadline,
            Input::Propose { .. } => Cause::Propose,
            Input::Read { token, path: ReadPath::Lease } => Cause::LeaseRead(*token),
            Input::Message { message: Message::Vote(_), .. } => Cause::Vote,
            Input::Message { message: Message::PreVote(_), .. } => Cause::PreVote,
            Input::Message { message: Message::TimeoutNow(_), .. } => Cause::TimeoutNow,
            Input::Message { message: Message::Append(append), .. }
                if append.term < status.term =>
            {
                Cause::StaleAppend
            }
            Input::Message { message: Message::AppendReply(reply), .. } => match reply.result {
                AppendResult::Rejected { .. } => Cause::Rejection,
                _ => Cause::Message,
            },
            Input::Message { .. } => Cause::Message,
            _ => Cause::Other,
        };
        Self {
            role: status.role,
            term: status.term,
            vote: status.vote,
            commit: status.commit_index,
            last: status.last_index,
            asleep: status.asleep,
            promise: status.promise.promise,
            lease: core.lease_until().is_some(),
            cause,
        }
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
        replica: &Replica,
        before: Before,
        log: LogEvents,
    ) {
        let status = replica.core.status();
        let group = replica.group();
        let is_joint = replica.core.membership().is_joint();
        let marks = &mut self.marks;
        let (was_leader, is_leader) =
            (before.role == RoleKind::Leader, status.role == RoleKind::Leader);
        if is_leader && !was_leader {
            marks.hit(Mark::LeaderElected);
            if is_joint {
                marks.hit(Mark::ElectionUnderJoint);
            }
        }
        if was_leader && !is_leader {
            if status.term > before.term {
                marks.hit(Mark::LeaderDeposedByTerm);
            } else if status.standing.is_none() {
                marks.hit(Mark::LeaderRemoved);
            } else if before.cause == Cause::Deadline {
                marks.hit(if status.durable_index < status.last_index {
                    Mark::DiskStallSeen
                } else {
                    Mark::LeaderWithoutQuorum
                });
            }
        }
        if before.role == RoleKind::Candidate && status.role == RoleKind::Follower {
            marks.hit(if status.term > before.term {
                Mark::CandidateSawHigherTerm
            } else {
                Mark::ElectionLost
            });
        }
        match before.cause {
            Cause::Vote if status.vote == before.vote && status.term == before.term => {
                marks.hit(Mark::VoteRefusedByVote);
            }
            Cause::PreVote if status.leader.is_some() => {
                marks.hit(Mark::PreVoteRefusedByStickiness);
            }
            Cause::TimeoutNow if status.role != RoleKind::Candidate => {
                marks.hit(Mark::TimeoutNowLate);
            }
            Cause::Rejection if is_leader => marks.hit(Mark::AppendRejected),
            Cause::StaleAppend => marks.hit(Mark::AppendStale),
            Cause::Propose if before.asleep => marks.hit(Mark::QuiescedWoken),
            Cause::LeaseRead(token) if before.lease => {
                let answered = replica.effects.outcomes.iter().any(|(of, outcome)| {
                    *of == token && matches!(outcome, Outcome::ReadReady { .. })
                });
                if answered {
                    marks.hit(Mark::LeaseRead);
                }
            }
            _ => {}
        }
        if status.asleep && !before.asleep {
            marks.hit(Mark::Quiesced);
        }
        if before.promise != Promise::Kept && status.promise.promise == Promise::Kept {
            marks.hit(Mark::PromiseLostFenced);
        }
        if before.promise != Promise::Kept && before.cause == Cause::Vote {
            marks.hit(Mark::PromiseLostAbstained);
        }
        if log.truncated {
            marks.hit(Mark::ConflictTruncated);
            if replica.effects.membership_changed {
                marks.hit(Mark::ConfigTruncated);
            }
        } else if replica.effects.membership_changed && is_joint {
            marks.hit(Mark::JointEntered);
        }
        if log.installed {
            marks.hit(Mark::SnapshotInstalled);
        }
        if status.fault.is_some() {
            marks.hit(Mark::GroupMute);
        }
        if is_leader && !was_leader {
            let other = self.nodes.iter().filter_map(|node| node.replicas.get(&group));
            if other.into_iter().any(|other| other.core.is_leader()) {
                self.marks.hit(Mark::StaleLeaderServed);
            }
        }
        if (status.role, status.term) != (before.role, before.term) {
            let digest = mix(status.term.get() << 3 | status.role as u64);
            let (role, term) = (status.role, status.term);
            self.tell(at, Some(group), EventKind::Role, digest, || format!("{role:?} in {term:?}"));
        }
        if (status.commit_index, status.last_index) != (before.commit, before.last) {
            let (commit, last) = (status.commit_index, status.last_index);
            let digest = mix(commit.get() ^ last.get() << 32);
            let text = || format!("log to {last:?}, committed {commit:?}");
            self.tell(at, Some(group), EventKind::Commit, digest, text);
        }
    }

    pub(crate) fn note_refusal(&mut self, refusal: Refusal) {
        let mark = match refusal {
            Refusal::Overloaded { .. } => Mark::UncommittedLimit,
            Refusal::ChangePending => Mark::ConfigRefusedPending,
            Refusal::TermTooYoung => Mark::ConfigRefusedTerm,
            Refusal::NotCaughtUp { .. } => Mark::PromotionTooEarly,
            Refusal::Transferring => Mark::ProposalDuringTransfer,
            Refusal::TransferFailed => Mark::TransferTimedOut,
            Refusal::LeadershipLost => Mark::ReadFailedOver,
            Refusal::DiskFull => Mark::DiskFullSeen,
            Refusal::NotLeader { .. }
            | Refusal::TooManyReads
            | Refusal::Faulted
            | Refusal::QuorumAtRisk
            | Refusal::InvalidChange(_) => return,
        };
        self.marks.hit(mark);
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
