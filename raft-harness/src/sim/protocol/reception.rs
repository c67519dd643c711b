//! What a step may make of what it was given: rules that compare a replica before and after.
//!
//! Each broken one leads to harm only in rare company, a lease that is in use, a second fault at
//! the right moment. So the step itself is judged.
//!
//! - What is late changes nothing: a message to an earlier life, an answer to an earlier term or
//!   session (paper, section 5.1).
//! - A voter is patient: within an election timeout of hearing a leader, or of its own restart,
//!   it votes for nobody else unless the leader wants it, or leases would be worth nothing
//!   (thesis, 4.2.3 and 6.4.1). Judged where leases are in use.
//! - A peer that may have forgotten counts for no commit (`raft-core`'s `promise`). Judged where
//!   entries count once they are durable.
//! - Whoever leads in a term that is over is told so, by whatever it sends (paper, section 5.1).
//! - A request to campaign is obeyed only from the leader of the term, and only with the log that
//!   the leader had (thesis, 3.10); and neither by a replica whose state machine lags behind, nor by
//!   one whose node is going to stop.

use raft_core::{
    Acknowledge, AppendResult, Campaign, Candidacy, Group, GroupId, Input, Lease, LogIndex,
    Message, Micros, Promise, ReplicaId, RoleKind, Settings, Term, TimeoutNow, majority,
};

use super::replica::Replica;
use crate::sim::violation::{Check, Violation};

/// What a step was given, as far as it is judged.
#[derive(Clone, Copy, Debug)]
enum Given {
    /// A message to an earlier life.
    ToEarlierLife,
    /// An answer of an earlier term or session.
    LateAnswer { from: ReplicaId },
    /// An acknowledgement by a peer that may have forgotten what it acknowledged before.
    UntrustedAck { from: ReplicaId },
    /// A candidate asks for a vote because it has heard nobody.
    Vote { from: ReplicaId, patient_until: Option<Micros> },
    TimeoutNow {
        from: ReplicaId,
        request: TimeoutNow,
        /// What the driver has said of the replica.
        candidacy: Candidacy,
    },
    /// A leader of an earlier term speaks, and nothing waits to be sent.
    StaleLeader,
}

/// A replica, as far as it is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct State {
    term: Term,
    vote: Option<ReplicaId>,
    role: RoleKind,
    leader: Option<ReplicaId>,
    last: LogIndex,
    commit: LogIndex,
    verified: LogIndex,
    ended: usize,
}

/// A step that is to be judged, before it is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reception {
    given: Given,
    before: State,
    lease_until: Option<Micros>,
    match_index: Option<LogIndex>,
    at: Micros,
}

impl Reception {
    /// `None`: nothing about this input is judged here.
    pub(super) fn of(
        replica: &Replica,
        at: Micros,
        input: &Input,
        settings: &Settings,
    ) -> Option<Self> {
        let Input::Message { from, from_incarnation, to_incarnation, message } = input else {
            return None;
        };
        let core = &replica.core;
        let stale_leader = leads(message)
            && message.term() < core.term()
            && !replica.memory.has_met_later(*from, *from_incarnation)
            && replica.effects.messages.is_empty();
        let given = if *to_incarnation != core.incarnation() {
            Given::ToEarlierLife
        } else if stale_leader {
            Given::StaleLeader
        } else {
            let counts_durable = settings.acknowledge == Acknowledge::Durable;
            Given::of(core, *from, message, replica.candidacy, counts_durable, || {
                let leases = settings.lease != Lease::Never;
                leases.then(|| replica.memory.patient_until(*from, settings)).flatten()
            })?
        };
        let match_index = match given {
            Given::LateAnswer { from } => core.match_index(from),
            Given::ToEarlierLife
            | Given::UntrustedAck { .. }
            | Given::Vote { .. }
            | Given::TimeoutNow { .. }
            | Given::StaleLeader => None,
        };
        let before = State::of(replica);
        Some(Self { given, before, lease_until: core.lease_until(), match_index, at })
    }

    /// Whether the replica is what it may be after the step.
    pub(super) fn judge(&self, group: GroupId, replica: &Replica) -> Result<(), Violation> {
        let core = &replica.core;
        if core.fault().is_some() {
            return Ok(());
        }
        let (before, after) = (self.before, State::of(replica));
        let (check, is_right) = match self.given {
            Given::ToEarlierLife => (Check::Late, before == after),
            Given::LateAnswer { from } => {
                // The messenger may be a new life of the peer, and be all that is heard of it.
                let same = State { leader: before.leader, ..after } == before;
                // A sole voter's lease runs from now on, whenever now is.
                let alone = core.membership().voters().count() == 1;
                let grows = core.match_index(from) > self.match_index
                    || (core.lease_until() > self.lease_until && !alone);
                (Check::Late, same && !grows)
            }
            Given::UntrustedAck { from } => {
                let commits = after.commit > before.commit;
                (Check::PromiseLost, !commits || is_held_without(core, from, after.commit))
            }
            Given::Vote { from, patient_until } => {
                let voted = after.vote == Some(from)
                    && (before.term, before.vote) != (after.term, after.vote);
                (Check::Patience, !voted || patient_until.is_none_or(|until| self.at >= until))
            }
            Given::TimeoutNow { from, request, candidacy } => {
                let stands = after.term > before.term;
                let asked = request.term == before.term
                    && before.leader == Some(from)
                    && request.last_index == before.last
                    && candidacy == Candidacy::Ready;
                (Check::Obedience, !stands || asked)
            }
            Given::StaleLeader => (Check::Told, !replica.effects.messages.is_empty()),
        };
        if is_right {
            return Ok(());
        }
        let evidence = format!("{:?} at {:?}: {self:?}, then {after:?}", replica.id(), self.at);
        Err(Violation::of_group(check, group, evidence))
    }
}

/// A replica that may have forgotten trusts itself again only with everything below a fence on its
/// disk, and the fence is one that this life has asked for.
pub(super) fn trusts_itself_rightly(
    was: Promise,
    replica: &Replica,
    settings: &Settings,
) -> Result<(), Violation> {
    let status = replica.core.status();
    if was == Promise::Kept || status.promise.promise != Promise::Kept {
        return Ok(());
    }
    let held = match settings.acknowledge {
        Acknowledge::Durable => status.durable_index,
        Acknowledge::Written => status.written_index,
    };
    let fences = &replica.memory.fences;
    if fences.iter().any(|(term, index)| *term == status.term && *index <= held) {
        return Ok(());
    }
    let evidence = format!(
        "{:?} in {:?} trusts itself with {held:?}; its fences are {fences:?}",
        replica.id(),
        status.term
    );
    Err(Violation::of_group(Check::PromiseLost, replica.group(), evidence))
}

/// Whether a quorum holds an entry, by the leader's own account, without one of its peers.
fn is_held_without(core: &Group, peer: ReplicaId, index: LogIndex) -> bool {
    let status = core.status();
    let holds = |voter: &&ReplicaId| {
        let held = if **voter == status.replica {
            Some(status.durable_index)
        } else {
            core.match_index(**voter)
        };
        **voter != peer && held.is_some_and(|held| held >= index)
    };
    let decides = |half: &[ReplicaId]| half.iter().filter(holds).count() >= majority(half.len());
    let membership = core.membership();
    let outgoing = membership.outgoing();
    decides(membership.incoming()) && (outgoing.is_empty() || decides(outgoing))
}

/// Whether only leaders say such a thing.
const fn leads(message: &Message) -> bool {
    match message {
        Message::Append(_)
        | Message::Heartbeat(_)
        | Message::ReadConfirm(_)
        | Message::Snapshot(_) => true,
        Message::PreVote(_)
        | Message::PreVoteReply(_)
        | Message::Vote(_)
        | Message::VoteReply(_)
        | Message::AppendReply(_)
        | Message::HeartbeatReply(_)
        | Message::TimeoutNow(_)
        | Message::TransferRefused(_)
        | Message::ReadIndex(_)
        | Message::ReadIndexReply(_)
        | Message::Recover(_)
        | Message::Fence(_) => false,
    }
}

impl Given {
    fn of(
        core: &Group,
        from: ReplicaId,
        message: &Message,
        candidacy: Candidacy,
        counts_durable: bool,
        patient_until: impl FnOnce() -> Option<Micros>,
    ) -> Option<Self> {
        let term = core.term();
        let late = |reply: Term| (reply < term).then_some(Self::LateAnswer { from });
        match message {
            Message::VoteReply(reply) => late(reply.term),
            Message::HeartbeatReply(reply) => late(reply.term),
            Message::AppendReply(reply) => late(reply.term).or_else(|| {
                let live = core.session(from);
                if reply.term > term || live.is_none() {
                    return None;
                }
                match reply.result {
                    _ if live != Some(reply.session) => Some(Self::LateAnswer { from }),
                    AppendResult::Accepted {
                        promise: Promise::Lost | Promise::Damaged | Promise::Unproven,
                        ..
                    } if counts_durable => Some(Self::UntrustedAck { from }),
                    AppendResult::Accepted { .. }
                    | AppendResult::Rejected { .. }
                    | AppendResult::StaleTerm
                    | AppendResult::Receiving { .. }
                    | AppendResult::Declined(_) => None,
                }
            }),
            Message::Vote(request) if request.cause == Campaign::Timeout => {
                Some(Self::Vote { from, patient_until: patient_until() })
            }
            Message::TimeoutNow(request) => {
                Some(Self::TimeoutNow { from, request: *request, candidacy })
            }
            Message::Vote(_)
            | Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Append(_)
            | Message::Heartbeat(_)
            | Message::ReadConfirm(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => None,
        }
    }
}

impl State {
    fn of(replica: &Replica) -> Self {
        let status = replica.core.status();
        Self {
            term: status.term,
            vote: status.vote,
            role: status.role,
            leader: status.leader,
            last: status.last_index,
            commit: status.commit_index,
            verified: status.verified_index,
            ended: replica.effects.outcomes.len(),
        }
    }
}
