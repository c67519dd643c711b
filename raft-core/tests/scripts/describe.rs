//! How scripts tell what they see: short, stable, and the same for the same thing.

use raft_core::{
    AppendResult, Campaign, Declined, EntryKind, Group, LogIndex, Membership, Message, Outcome,
    Promise, Refusal, ReplicaId, Rest, RoleKind, SnapshotMeta, Standing, Unwilling, Verdict,
    VoteReply, VoteRequest,
};

use crate::disk::{Log, Record};
use crate::network::Packet;

/// The names of the kinds of messages.
pub(crate) const KINDS: [&str; 16] = [
    "pre-vote",
    "pre-vote-reply",
    "vote",
    "vote-reply",
    "append",
    "append-reply",
    "heartbeat",
    "heartbeat-reply",
    "read-confirm",
    "timeout-now",
    "transfer-refused",
    "read-index",
    "read-index-reply",
    "snapshot",
    "recover",
    "fence",
];

pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote(_) => "pre-vote",
        Message::PreVoteReply(_) => "pre-vote-reply",
        Message::Vote(_) => "vote",
        Message::VoteReply(_) => "vote-reply",
        Message::Append(_) => "append",
        Message::AppendReply(_) => "append-reply",
        Message::Heartbeat(_) => "heartbeat",
        Message::HeartbeatReply(_) => "heartbeat-reply",
        Message::ReadConfirm(_) => "read-confirm",
        Message::TimeoutNow(_) => "timeout-now",
        Message::TransferRefused(_) => "transfer-refused",
        Message::ReadIndex(_) => "read-index",
        Message::ReadIndexReply(_) => "read-index-reply",
        Message::Snapshot(_) => "snapshot",
        Message::Recover(_) => "recover",
        Message::Fence(_) => "fence",
    }
}

/// `1->2 append t1 2..3 after 1@1 commit 1: x, y`
pub(crate) fn packet(packet: &Packet) -> String {
    let Packet { from, to, message, records, .. } = packet;
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    format!("{from}->{to} {}", self::message(message, &names))
}

/// A message; `names` are the entries of an append.
pub(crate) fn message(message: &Message, names: &[&str]) -> String {
    let head = format!("{} t{}", kind(message), message.term());
    let rest = match message {
        Message::PreVote(request) | Message::Vote(request) => vote(request),
        Message::PreVoteReply(reply) | Message::VoteReply(reply) => verdict(reply).to_string(),
        Message::Append(append) => {
            let first = append.prev_index.next();
            let after = format!("after {}@{}", append.prev_index, append.prev_term);
            let what = if names.is_empty() {
                String::from("empty")
            } else {
                span(first, append.last_index())
            };
            let names = if names.is_empty() { String::new() } else { list(names) };
            format!("{what} {after} commit {}{names}", append.commit)
        }
        Message::AppendReply(reply) => append_result(&reply.result),
        Message::Heartbeat(beat) | Message::ReadConfirm(beat) => {
            let read = match beat.read_seq {
                0 => String::new(),
                seq => format!(" read {seq}"),
            };
            let rest = match beat.rest {
                Rest::Awake => "",
                Rest::Quiesce => " and good night",
            };
            format!("commit {}{read}{rest}", beat.commit)
        }
        Message::HeartbeatReply(reply) => match reply.read_seq {
            0 => String::new(),
            seq => format!("read {seq}"),
        },
        Message::TimeoutNow(request) => format!("log ends at {}", request.last_index),
        Message::TransferRefused(refused) => match refused.why {
            Unwilling::NotNow => String::new(),
            Unwilling::LessEager => String::from("less eager"),
            Unwilling::Withheld => String::from("takes no office"),
        },
        Message::ReadIndex(_) => String::new(),
        Message::ReadIndexReply(reply) => match reply.index {
            Some(index) => format!("read at {index}"),
            None => String::from("read elsewhere"),
        },
        Message::Snapshot(offer) => snapshot(&offer.meta),
        Message::Recover(request) => format!("life {}", request.incarnation),
        Message::Fence(fence) => format!("life {} at {}", fence.incarnation, fence.index),
    };
    format!("{head} {rest}").trim_end().to_string()
}

fn vote(request: &VoteRequest) -> String {
    let cause = match request.cause {
        Campaign::Timeout => "",
        Campaign::Transfer => " (transfer)",
        Campaign::Barred => " (asks for the leader)",
    };
    format!("log ends at {}@{}{cause}", request.last_index, request.last_term)
}

fn verdict(reply: &VoteReply) -> &'static str {
    match reply.verdict {
        Verdict::Granted => "granted",
        Verdict::Refused => "refused",
        Verdict::Removed => "refused, it was removed",
    }
}

fn append_result(result: &AppendResult) -> String {
    match result {
        AppendResult::Accepted { durable, written, verified, promise } => {
            let written =
                if written > durable { format!(", written {written}") } else { String::new() };
            let verified =
                if verified > durable { format!(", holds {verified}") } else { String::new() };
            let promise = match promise {
                Promise::Kept => String::new(),
                Promise::Lost | Promise::Damaged | Promise::Unproven => {
                    format!(", promise {}", self::promise(*promise))
                }
            };
            format!("durable {durable}{written}{verified}{promise}")
        }
        AppendResult::Rejected { prev_index, hint_index, hint_term } => {
            format!("not after {prev_index}, perhaps after {hint_index}@{hint_term}")
        }
        AppendResult::StaleTerm => String::from("that term is over"),
        AppendResult::Receiving { index } => format!("fetching snapshot {index}"),
        AppendResult::Declined(Declined::DiskFull) => String::from("disk full"),
        AppendResult::Declined(Declined::SnapshotFailed) => String::from("snapshot failed"),
        AppendResult::Declined(Declined::OtherStrategy) => String::from("other strategy"),
    }
}

pub(crate) fn promise(promise: Promise) -> &'static str {
    match promise {
        Promise::Kept => "kept",
        Promise::Lost => "lost",
        Promise::Damaged => "damaged",
        Promise::Unproven => "unproven",
    }
}

pub(crate) fn snapshot(meta: &SnapshotMeta) -> String {
    format!("{}@{} {}", meta.index, meta.term, membership(&meta.membership))
}

/// `follower@2 of n1`, `leader@3`
pub(crate) fn role(group: &Group) -> String {
    let term = group.term();
    let role = match group.role_kind() {
        RoleKind::Follower => "follower",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => return format!("leader@{term}"),
    };
    match group.leader() {
        Some(leader) => format!("{role}@{term} of n{leader}"),
        None => format!("{role}@{term}"),
    }
}

/// `voters 1,2,3 learners 4`; while a change is under way `voters 2,3,4 and 1,2,3`.
pub(crate) fn membership(membership: &Membership) -> String {
    let ids = |replicas: &[ReplicaId]| {
        replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let learners: Vec<ReplicaId> = membership
        .members()
        .iter()
        .filter(|member| member.standing == Standing::Learner)
        .map(|member| member.replica)
        .collect();
    let mut text = format!("voters {}", ids(membership.incoming()));
    if membership.is_joint() {
        text += &format!(" and {}", ids(membership.outgoing()));
    }
    if !learners.is_empty() {
        text += &format!(" learners {}", ids(&learners));
    }
    text
}

/// `3` or `3..5`
pub(crate) fn span(first: LogIndex, last: LogIndex) -> String {
    if first == last { first.to_string() } else { format!("{first}..{last}") }
}

/// `: x, y`, and of a long list only its ends.
fn list(names: &[&str]) -> String {
    match names {
        [first, .., last] if names.len() > 8 => format!(": {first}, ..., {last}"),
        _ => format!(": {}", names.join(", ")),
    }
}

/// `3..4: x, y`
pub(crate) fn entries(log: &Log, first: LogIndex, last: LogIndex) -> String {
    let names: Vec<&str> = log.range(first, last).map(|(_, record)| record.name.as_str()).collect();
    format!("{}{}", span(first, last), list(&names))
}

/// `1@1 noop, 2@1 x | 3@2 y`: the bar stands after what is committed.
pub(crate) fn log(log: &Log, commit: LogIndex) -> String {
    let mut text = String::new();
    if log.base > LogIndex::ZERO {
        text += &format!(" after {}:", log.base);
    }
    if commit <= log.base {
        text += " |";
    }
    for (index, Record { term, name, .. }) in log.range(log.base.next(), log.last()) {
        text += &format!(" {index}@{term} {name}");
        text += if index == commit {
            " |"
        } else if index == log.last() {
            ""
        } else {
            ","
        };
    }
    text
}

pub(crate) fn entry_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Noop => "noop",
        EntryKind::Command => "command",
        EntryKind::Config => "members",
    }
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed { index, term } => format!("committed at {index}@{term}"),
        Outcome::Superseded => String::from("superseded"),
        Outcome::Unknown => String::from("unknown"),
        Outcome::ReadReady { index } => format!("ready at {index}"),
        Outcome::Transferred => String::from("transferred"),
        Outcome::Refused(refusal) => format!("refused, {}", self::refusal(refusal)),
    }
}

fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader: Some(leader) } => format!("n{leader} leads"),
        Refusal::NotLeader { leader: None } => String::from("nobody leads"),
        Refusal::Transferring => String::from("leadership is being transferred"),
        Refusal::Overloaded { uncommitted_bytes } => {
            format!("{uncommitted_bytes} bytes are uncommitted")
        }
        Refusal::TooManyReads => String::from("too many reads wait"),
        Refusal::LeadershipLost => String::from("leadership was lost"),
        Refusal::TransferFailed => String::from("the transfer failed"),
        Refusal::NoHeir => String::from("nobody takes over"),
        Refusal::Faulted => String::from("the replica is mute"),
        Refusal::DiskFull => String::from("the disk is full"),
        Refusal::ChangePending => String::from("a change is pending"),
        Refusal::TermTooYoung => String::from("nothing of this term is committed"),
        Refusal::QuorumAtRisk => String::from("no majority would be at hand"),
        Refusal::NotCaughtUp { replica } => format!("n{replica} is not caught up"),
        Refusal::InvalidChange(error) => error.to_string(),
    }
}

/// All of a replica that one line holds.
pub(crate) fn status(group: &Group) -> String {
    let status = group.status();
    let mut text = role(group);
    if let Some(vote) = status.vote.filter(|_| status.leader.is_none()) {
        text += &format!(" voted n{vote}");
    }
    text += " log";
    if status.base_index > LogIndex::ZERO {
        text += &format!(" {}..", status.base_index.next());
    }
    text += &format!(" {}@{}", status.last_index, status.last_term);
    if status.durable_index < status.last_index {
        text += &format!(" durable {}", status.durable_index);
    }
    text += &format!(" commit {}", status.commit_index);
    if status.appliable_index < status.commit_index {
        text += &format!(" appliable {}", status.appliable_index);
    }
    if status.snapshot_index > LogIndex::ZERO {
        text += &format!(" snapshot {}", status.snapshot_index);
    }
    if let Some(standing) = status.standing.filter(|standing| *standing != Standing::Voter) {
        text += match standing {
            Standing::Voter => "",
            Standing::Learner => ", learner",
            Standing::Incoming => ", incoming",
            Standing::Outgoing => ", outgoing",
            Standing::Demoting => ", demoting",
            Standing::Successor => ", successor",
        };
    } else if status.removed {
        text += ", removed";
    } else if status.standing.is_none() {
        text += ", no member";
    }
    match status.promise.promise {
        Promise::Kept => {}
        lost @ (Promise::Lost | Promise::Damaged | Promise::Unproven) => {
            text += &format!(", promise {}", promise(lost))
        }
    }
    if status.promise.loss_epoch > 0 {
        text += &format!(", loss epoch {}", status.promise.loss_epoch);
    }
    if status.asleep {
        text += ", asleep";
    }
    match status.fault {
        Some(fault) => format!("{text}, mute: {fault}"),
        None => text,
    }
}
