//! Carrying out one command wherever its group is led, and trying again when that is safe.
//!
//! The rule: a refusal that promises "no effect" may be tried again, here or elsewhere, until a
//! deadline; a write whose outcome is unknown never is. Reads have no effect and may always be.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft_core::{GroupId, NodeId};
use tokio::time::{Instant, sleep};

use super::backend::{Answered, Backend, Operation, OperationKind, Refusal};
use super::budget::Charge;
use super::cluster::{FrontNode, Leader, moved};
use super::reply::Reply;
use super::request::{Shape, read_reply, with_limit, write_reply};
use super::server::{Mode, Shared};
use super::upstream::{Ask, LaneChoice, UpstreamError, UpstreamReply};
use crate::kv::{Command, Output, Query, QueryKind, ReadOutput};

/// First pause before trying again; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause: a small part of an election.
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// How often a read is repeated because its answer has grown meanwhile.
const READS_AGAIN_MAX: usize = 4;
/// Room beyond what an answer was measured to need.
const ANSWER_SLACK: u64 = 4 << 10;

/// The code of the error that tells how long an answer is that had no room.
const TOO_LONG: &str = "TOOLONG";

/// One command for one group.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) group: GroupId,
    pub(super) slot: u16,
    pub(super) kind: OperationKind,
    pub(super) payload: Bytes,
    pub(super) shape: Shape,
    /// The request as the client sent it, to be forwarded; empty on a cluster port.
    pub(super) frame: Bytes,
    /// The room for the answer of a read, at the first attempt.
    pub(super) room: u64,
    /// The client is told of the length of a longer answer instead.
    pub(super) answer_max: Option<u64>,
    /// Which upstream lane it takes.
    pub(super) lane_key: u64,
}

/// How one attempt ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// With the reply for the client.
    Reply(Reply),
    /// Without one.
    Refused(Refusal),
}

/// What another node said.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// How the attempt ended.
    Ended(Outcome),
    /// The answer was not made: it has so many bytes, more than there was room for.
    TooLong { bytes: u64 },
}

/// Work in progress that owns what it needs.
pub(super) type BoxedOutcome = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What the engine's answer to a job means.
pub(super) enum Landing {
    /// The job has ended.
    Ended(Outcome),
    /// The read must be repeated.
    Again(Again),
}

/// Why a read must be repeated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    /// A deadline has passed that log time has not reached: it must be moved past it first.
    overdue: bool,
    /// The answer has so many bytes and needs more room than it had.
    bytes: Option<u64>,
}

impl Job {
    pub(super) fn operation(&self) -> Operation {
        Operation { group: self.group, kind: self.kind, payload: self.payload.clone() }
    }

    /// Whether the job may be tried again after this refusal.
    pub(super) fn may_retry(&self, refusal: Refusal) -> bool {
        match refusal {
            Refusal::NotLeader { .. }
            | Refusal::Transferring
            | Refusal::NotExecuted
            | Refusal::Unavailable => true,
            Refusal::Unknown => self.kind == OperationKind::Read,
            // A full queue is not made shorter by asking again.
            Refusal::Overloaded { .. } | Refusal::TooLarge { .. } => false,
        }
    }

    /// Reads the engine's answer. Whether a deadline has passed is judged by the time that its
    /// leader would stamp, not by a clock here: by a clock that is ahead, every read of the key
    /// would move log time in vain, and by one that is behind, none would.
    pub(super) fn land(&self, answer: Result<Answered, Refusal>) -> Landing {
        let Answered { output: answer, time } = match answer {
            Ok(answer) => answer,
            Err(refusal) => return Landing::Ended(Outcome::Refused(refusal)),
        };
        match self.kind {
            OperationKind::Write => {
                Landing::Ended(Outcome::Reply(write_reply(&answer, self.shape)))
            }
            OperationKind::Read => match ReadOutput::decode(&answer) {
                Err(error) => Landing::Ended(Outcome::Reply(Reply::error(format!(
                    "ERR undecodable output: {error}"
                )))),
                Ok(read) => {
                    let overdue = read.next_deadline.is_some_and(|at| at <= time);
                    let bytes = too_large(&read);
                    if overdue || bytes.is_some() {
                        Landing::Again(Again { overdue, bytes })
                    } else {
                        Landing::Ended(Outcome::Reply(read_reply(read, self.shape, time)))
                    }
                }
            },
        }
    }
}

/// How much an answer needs that had no room.
fn too_large(read: &ReadOutput) -> Option<u64> {
    if let Output::TooLarge { bytes } = read.output { Some(bytes) } else { None }
}

impl<B: Backend> Shared<B> {
    async fn execute(&self, operation: Operation) -> Result<Answered, Refusal> {
        let mut pending = Vec::with_capacity(1);
        self.backend().submit(&mut vec![operation], &mut pending);
        match pending.pop() {
            Some(answer) => answer.await,
            None => Err(Refusal::Unknown),
        }
    }

    /// Repeats a read: once log time has passed the deadline it met, and with the room its answer
    /// needs, if that is within the cap and can be promised out of the budget of all clients.
    pub(super) async fn read_again(self: Arc<Self>, job: Job, again: Again) -> Outcome {
        if again.overdue {
            // Expiry is judged by log time alone, and nothing but an entry moves that.
            let mut tick = BytesMut::new();
            Command::Tick.encode(&mut tick);
            let (group, kind) = (job.group, OperationKind::Write);
            let tick = Operation { group, kind, payload: tick.freeze() };
            if let Err(refusal) = self.execute(tick).await {
                // An unknown tick has no effect that anyone could tell from the passing of time.
                return Outcome::Refused(match refusal {
                    Refusal::Unknown => Refusal::NotExecuted,
                    refusal => refusal,
                });
            }
        }
        let mut needed = again.bytes;
        for _ in 0..READS_AGAIN_MAX {
            let promised = needed.map(|bytes| self.promise(bytes, job.answer_max)).transpose();
            let (payload, _promise) = match promised {
                Ok(Some((room, promise))) => (with_limit(&job.payload, room), Some(promise)),
                Ok(None) => (job.payload.clone(), None),
                Err(reply) => return Outcome::Reply(reply),
            };
            let answered = match self.execute(Operation { payload, ..job.operation() }).await {
                Ok(answer) => answer,
                Err(refusal) => return Outcome::Refused(refusal),
            };
            let read = match ReadOutput::decode(&answered.output) {
                Ok(read) => read,
                Err(error) => {
                    return Outcome::Reply(Reply::error(format!(
                        "ERR undecodable output: {error}"
                    )));
                }
            };
            match too_large(&read) {
                Some(bytes) => needed = Some(bytes),
                None => {
                    return Outcome::Reply(read_reply(read, job.shape, answered.time));
                }
            }
        }
        // It grew faster than we could ask.
        Outcome::Refused(Refusal::NotExecuted)
    }

    /// Room for a long answer, with the promise of it; the reply if there is none.
    fn promise(&self, bytes: u64, answer_max: Option<u64>) -> Result<(u64, Charge), Reply> {
        if answer_max.is_some_and(|max| bytes > max) {
            return Err(Reply::error(format!("{TOO_LONG} {bytes}")));
        }
        let cap = match self.limits().reply_bytes_max {
            0 => u64::MAX,
            cap => cap,
        };
        // A little more than it had: values grow, and pieces have headers.
        let room = bytes.saturating_add(bytes / 8 + ANSWER_SLACK);
        let room = room.min(cap).min(answer_max.unwrap_or(u64::MAX));
        // When clients that do not read hold all there is, an answer that is large waits for
        // none of them; it is refused.
        match self.budget().promise(room) {
            Some(promise) if bytes <= cap => Ok((room, promise)),
            Some(_) | None => {
                let max = cap.min(self.budget().bytes_left());
                Err(Reply::error(format!(
                    "ERR the answer has {bytes} bytes, at most {max} are sent at once"
                )))
            }
        }
    }

    async fn attempt_here(self: &Arc<Self>, job: &Job) -> Outcome {
        let answer = self.execute(job.operation()).await;
        match job.land(answer) {
            Landing::Ended(outcome) => outcome,
            Landing::Again(again) => Arc::clone(self).read_again(job.clone(), again).await,
        }
    }

    /// Sends a job to another node.
    pub(super) fn forward(&self, job: &Job, to: &FrontNode) -> Option<UpstreamReply> {
        let room = match job.kind {
            // Rounded down to a power of two, so that a lane seldom has to tell of another one.
            OperationKind::Read => Some(1 << job.room.max(1).ilog2()),
            OperationKind::Write => None,
        };
        self.ask(job, to, room, LaneChoice::Keyed(job.lane_key))
    }

    fn ask(
        &self,
        job: &Job,
        to: &FrontNode,
        room: Option<u64>,
        lane: LaneChoice,
    ) -> Option<UpstreamReply> {
        self.counters().forwarded.fetch_add(1, Relaxed);
        let (group, frame) = (Some(job.group), job.frame.clone());
        Some(self.upstream()?.call(to, Ask { group, frame, room, lane }))
    }

    /// Asks the leader of a read whose answer has so many bytes again, with room for it. One client
    /// has one such answer under way, in a lane where nobody else's short answers wait behind it.
    pub(super) async fn ask_again(self: Arc<Self>, job: Job, bytes: u64) -> Outcome {
        match self.target(&job, None) {
            Leader::At(front) => self.attempt_at(&job, front, Some(bytes)).await,
            Leader::Here | Leader::Nobody => {
                // It has moved: whoever tries again finds it.
                Outcome::Refused(Refusal::NotLeader { leader: None })
            }
        }
    }

    async fn attempt_at(&self, job: &Job, to: &FrontNode, mut needed: Option<u64>) -> Outcome {
        for _ in 0..READS_AGAIN_MAX {
            let promised = needed.map(|bytes| self.promise(bytes, job.answer_max)).transpose();
            let (reply, _promise) = match promised {
                Ok(None) => (self.forward(job, to), None),
                Ok(Some((room, promise))) => {
                    (self.ask(job, to, Some(room), LaneChoice::Long), Some(promise))
                }
                Err(reply) => return Outcome::Reply(reply),
            };
            let Some(reply) = reply else {
                return Outcome::Refused(Refusal::Unavailable);
            };
            match self.forwarded(reply.await.unwrap_or(Err(UpstreamError::Lost))) {
                Forwarded::Ended(outcome) => return outcome,
                Forwarded::TooLong { bytes } => needed = Some(bytes),
            }
        }
        // It grew faster than we could ask.
        Outcome::Refused(Refusal::NotExecuted)
    }

    /// What another node's reply means for us.
    pub(super) fn forwarded(&self, reply: Result<Reply, UpstreamError>) -> Forwarded {
        let refusal = match reply {
            Err(UpstreamError::NotSent) => Refusal::Unavailable,
            Err(UpstreamError::Lost) => Refusal::Unknown,
            Ok(Reply::Error(message)) => {
                let (code, rest) = message.split_once(' ').unwrap_or((&*message, ""));
                match code {
                    "MOVED" => {
                        let address = rest.rsplit(' ').next().unwrap_or_default();
                        Refusal::NotLeader { leader: self.topology().node_at(address) }
                    }
                    "CLUSTERDOWN" => Refusal::NotLeader { leader: None },
                    "TRYAGAIN" => Refusal::Transferring,
                    "UNKNOWN" => Refusal::Unknown,
                    TOO_LONG if let Ok(bytes) = rest.parse() => {
                        return Forwarded::TooLong { bytes };
                    }
                    _ => return Forwarded::Ended(Outcome::Reply(Reply::Error(message))),
                }
            }
            Ok(reply) => return Forwarded::Ended(Outcome::Reply(reply)),
        };
        Forwarded::Ended(Outcome::Refused(refusal))
    }

    /// Tries a refused job again, following the leader, until it ends or time is up.
    pub(super) async fn retry(self: Arc<Self>, job: Job, refused: Refusal) -> Outcome {
        self.counters().retried.fetch_add(1, Relaxed);
        let deadline = Instant::now() + self.limits().proxy_retry_max;
        let mut refusal = refused;
        let mut pause = PAUSE_MIN;
        // A hint is followed at once, but two hints in a row are two nodes that disagree.
        let mut hint_allowed = true;
        loop {
            let hint = match refusal {
                Refusal::NotLeader { leader: Some(leader) } if hint_allowed => Some(leader),
                _ => None,
            };
            hint_allowed = hint.is_none();
            if hint.is_none() {
                if Instant::now() + pause > deadline {
                    return Outcome::Refused(refusal);
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            let outcome = match self.target(&job, hint) {
                Leader::Here => self.attempt_here(&job).await,
                Leader::At(front) => self.attempt_at(&job, front, None).await,
                Leader::Nobody => Outcome::Refused(Refusal::NotLeader { leader: None }),
            };
            match outcome {
                Outcome::Refused(again) if job.may_retry(again) => refusal = again,
                Outcome::Reply(_) | Outcome::Refused(_) => return outcome,
            }
        }
    }

    fn target(&self, job: &Job, hint: Option<NodeId>) -> Leader<'_> {
        match hint {
            Some(node) if node == self.topology().node() => Leader::Here,
            Some(node) => self.topology().front(node).map_or(Leader::Nobody, Leader::At),
            None => self.topology().leader(self.backend(), job.group),
        }
    }

    /// Counts the keys of all groups led from here and, on a proxy port, of the other nodes'.
    ///
    /// The groups are counted one by one, so this is no snapshot: like Redis Cluster's, it is
    /// exact only while nothing changes.
    pub(super) async fn count_keys(self: Arc<Self>) -> Outcome {
        const DBSIZE: &[u8] = b"*1\r\n$6\r\nDBSIZE\r\n";
        let mut operations = Vec::new();
        let mut others: Vec<&FrontNode> = Vec::new();
        for group in self.topology().slots().groups() {
            match self.topology().leader(self.backend(), group) {
                Leader::Here => {
                    let mut payload = BytesMut::new();
                    Query { reply_bytes_max: 0, kind: QueryKind::Count }.encode(&mut payload);
                    let kind = OperationKind::Read;
                    operations.push(Operation { group, kind, payload: payload.freeze() });
                }
                Leader::At(front) if self.mode() == Mode::Proxy && !others.contains(&front) => {
                    others.push(front);
                }
                Leader::At(_) => {}
                Leader::Nobody if self.mode() == Mode::Proxy => {
                    return Outcome::Refused(Refusal::NotLeader { leader: None });
                }
                Leader::Nobody => {}
            }
        }
        let mut pending = Vec::with_capacity(operations.len());
        self.backend().submit(&mut operations, &mut pending);
        let replies: Vec<_> = others
            .into_iter()
            .filter_map(|front| {
                let frame = Bytes::from_static(DBSIZE);
                let lane = LaneChoice::Keyed(0);
                Some(self.upstream()?.call(front, Ask { group: None, frame, room: None, lane }))
            })
            .collect();
        let mut total = 0i64;
        for answer in pending {
            match answer.await.map(|answer| ReadOutput::decode(&answer.output)) {
                Ok(Ok(ReadOutput { output: Output::Integer(count), .. })) => total += count,
                Ok(Ok(_) | Err(_)) => return Outcome::Refused(Refusal::Unavailable),
                Err(refusal) => return Outcome::Refused(refusal),
            }
        }
        for reply in replies {
            match self.forwarded(reply.await.unwrap_or(Err(UpstreamError::Lost))) {
                Forwarded::Ended(Outcome::Reply(Reply::Integer(count))) => total += count,
                Forwarded::Ended(other) => return other,
                Forwarded::TooLong { .. } => return Outcome::Refused(Refusal::Unavailable),
            }
        }
        Outcome::Reply(Reply::Integer(total))
    }

    /// The reply for a refusal that stands; `None` if the connection is to be cut instead.
    pub(super) fn refuse(
        &self,
        refusal: Refusal,
        kind: OperationKind,
        slot: Option<u16>,
        told_unknown: bool,
    ) -> Option<Reply> {
        const DOWN: Reply = Reply::Error(std::borrow::Cow::Borrowed(
            "CLUSTERDOWN Hash slot not served: no leader is known",
        ));
        Some(match (refusal, self.mode()) {
            (Refusal::NotLeader { leader: Some(leader) }, Mode::Cluster)
                if leader != self.topology().node() =>
            {
                match (slot, self.topology().front(leader)) {
                    (Some(slot), Some(front)) => moved(slot, front),
                    _ => DOWN,
                }
            }
            (Refusal::NotLeader { .. }, _) => DOWN,
            (Refusal::Unavailable, _) => {
                Reply::error("CLUSTERDOWN Hash slot not served: its group is not available here")
            }
            (Refusal::Transferring, _) => {
                Reply::error("TRYAGAIN Leadership of the slot is being handed over")
            }
            (Refusal::NotExecuted, _) => Reply::error("TRYAGAIN Not executed, try again"),
            (Refusal::Overloaded { uncommitted_bytes }, _) => Reply::error(format!(
                "BUSY Not executed: {uncommitted_bytes} bytes wait to be committed"
            )),
            (Refusal::TooLarge { bytes, max }, _) => Reply::error(format!(
                "ERR Not executed: the command has {bytes} bytes, at most {max} are taken"
            )),
            (Refusal::Unknown, _) if kind == OperationKind::Read => {
                Reply::error("TRYAGAIN Not answered, try again")
            }
            (Refusal::Unknown, mode) => {
                self.counters().unknown_outcomes.fetch_add(1, Relaxed);
                if mode == Mode::Cluster && !told_unknown {
                    return None;
                }
                Reply::error("UNKNOWN outcome: the command may or may not have been executed")
            }
        })
    }
}
