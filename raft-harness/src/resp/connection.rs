//! One client: reads what has arrived, starts all of it as one batch, answers in request order.
//!
//! Requests of one client run side by side in their groups and finish in any order; a queue
//! holds their places. Only the oldest is waited for. When it ends, all that have ended behind
//! it are written with it in one write, so a pipeline costs few wake-ups and few system calls.
//!
//! Invariants: replies leave in request order. What is read and not yet answered is bounded by
//! [`Limits`](super::server::Limits): a client that does not read its replies is not read from
//! either. Commands on one slot keep their order (see [`super::order`]).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::backend::{Backend, Operation, OperationKind, Refusal};
use super::cluster::{Leader, moved};
use super::commands::{self, Handler};
use super::order::SlotOrder;
use super::parser::{Request, RequestParser};
use super::proxy::{BoxedOutcome, Job, Landing, Outcome};
use super::reply::{Protocol, Reply};
use super::request::{ArgumentError, Shape, slot_of, translate};
use super::server::{Mode, Shared};
use super::session::{LocalAnswer, Session};
use super::upstream::{UpstreamError, UpstreamReply};
use crate::kv::{Query, QueryKind};

/// Room for one read from the socket.
const READ_BYTES: usize = 16 << 10;
/// Most that is reserved at once for an argument whose length was announced.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// Replies beyond this wait in the queue until the client has taken some.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Commands are encoded into chunks of this size. Larger ones save allocations; but an entry kept
/// in a cache keeps its chunk.
const ARENA_BYTES: usize = 4 << 10;
/// What a request costs beside its bytes.
const REQUEST_OVERHEAD: usize = 64;
/// Smallest and largest room for the answer of one read.
const REPLY_BYTES_MIN: usize = 8 << 10;
const REPLY_BYTES_MAX: usize = 4 << 20;

/// One client's connection.
pub(super) struct Connection<B: Backend> {
    id: u64,
    shared: Arc<Shared<B>>,
    stream: TcpStream,
    session: Session,
    parser: RequestParser,
    input: BytesMut,
    output: BytesMut,
    queue: VecDeque<Queued<B::Pending>>,
    /// The sequence number of the head of `queue`.
    first_sequence: u64,
    bytes_in_flight: usize,
    order: SlotOrder,
    /// Operations of this turn, and who in `queue` waits for them.
    batch: Vec<Operation>,
    batch_sequences: Vec<u64>,
    pending: Vec<B::Pending>,
    released: Vec<u64>,
    arena: BytesMut,
    /// The size of recent replies: a maximum that fades.
    reply_estimate: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Reading and answering.
    Open,
    /// Answering what was read, then closing.
    Draining,
    /// Writing the replies already in the output, then closing.
    Cut,
}

/// One request's place in the order of replies.
struct Queued<P> {
    work: Work<P>,
    job: Option<Job>,
    /// What it takes of `bytes_in_flight`.
    cost: usize,
    /// The protocol changes once its reply is written.
    switch: Option<Protocol>,
}

enum Work<P> {
    /// Over; only its place in the order keeps it.
    Ended(Outcome),
    /// Waits for earlier requests on its slot.
    Held,
    /// With our own engine.
    Here(P),
    /// With another node.
    Elsewhere(UpstreamReply),
    /// Of more than one step.
    Steps(BoxedOutcome),
}

impl<B: Backend> Connection<B> {
    pub(super) fn new(id: u64, shared: Arc<Shared<B>>, stream: TcpStream, session: Session) -> Self {
        let parser = RequestParser::new(shared.limits().parser);
        Self {
            id,
            shared,
            stream,
            session,
            parser,
            input: BytesMut::new(),
            output: BytesMut::new(),
            queue: VecDeque::new(),
            first_sequence: 0,
            bytes_in_flight: 0,
            order: SlotOrder::default(),
            batch: Vec::new(),
            batch_sequences: Vec::new(),
            pending: Vec::new(),
            released: Vec::new(),
            arena: BytesMut::new(),
            reply_estimate: REPLY_BYTES_MIN * 4,
            phase: Phase::Open,
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or `stop` comes.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut stopped = false;
        poll_fn(|cx| {
            if !stopped && stop.as_mut().poll(cx).is_ready() {
                stopped = true;
                self.close_after_replies();
            }
            self.poll(cx)
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let answered = self.collect(cx);
            let decoded = self.decode();
            self.start_batch();
            match self.write(cx) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(()),
            }
            let over = match self.phase {
                Phase::Open => false,
                Phase::Draining => self.queue.is_empty(),
                Phase::Cut => true,
            };
            if over && self.output.is_empty() {
                return Poll::Ready(());
            }
            let read = match self.fill(cx) {
                Ok(read) => read,
                Err(_) => return Poll::Ready(()),
            };
            if !(answered || decoded || read) {
                return Poll::Pending;
            }
        }
    }

    /// Whether another request may be taken.
    fn has_room(&self) -> bool {
        let limits = self.shared.limits();
        self.phase == Phase::Open
            && self.queue.len() < limits.requests_in_flight_max
            && self.bytes_in_flight < limits.bytes_in_flight_max
            && self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Takes all complete requests that there is room for. Whether there were any.
    fn decode(&mut self) -> bool {
        let mut input = mem::take(&mut self.input);
        let mut parser = mem::take(&mut self.parser);
        let mut commands = 0;
        while self.has_room() && !input.is_empty() {
            let consumed = match parser.next(&input) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    if !request.is_empty() {
                        commands += 1;
                        self.take(&request);
                    }
                    request.frame().len()
                }
                Err(error) => {
                    self.push_reply(Reply::error(format!("ERR {error}")), 0);
                    self.close_after_replies();
                    break;
                }
            };
            input.advance(consumed);
        }
        self.input = input;
        self.parser = parser;
        if commands > 0 {
            self.shared.counters().commands.fetch_add(commands, Relaxed);
        }
        commands > 0
    }

    fn take(&mut self, request: &Request<'_>) {
        let bytes = request.frame().len();
        if let Err(error) = self.try_take(request) {
            self.push_reply(error.into_reply(), bytes);
        }
    }

    fn try_take(&mut self, request: &Request<'_>) -> Result<(), ArgumentError> {
        let name = request.argument(0).unwrap_or_default();
        let spec = commands::find(name).ok_or_else(|| ArgumentError::unknown_command(name))?;
        if !spec.accepts(request.len()) {
            return Err(ArgumentError::Arity(spec.name));
        }
        let bytes = request.frame().len();
        match spec.handler {
            Handler::Local(command) => {
                let shared = Arc::clone(&self.shared);
                match self.session.answer(&shared, command, request)? {
                    LocalAnswer::Reply(reply) => self.push_reply(reply, bytes),
                    LocalAnswer::Switch(protocol, reply) => {
                        self.push_reply(reply, bytes);
                        if let Some(queued) = self.queue.back_mut() {
                            queued.switch = Some(protocol);
                        }
                    }
                    LocalAnswer::Close(reply) => {
                        self.push_reply(reply, bytes);
                        self.close_after_replies();
                    }
                    LocalAnswer::CountKeysInSlot { group, slot } => {
                        let mut payload = BytesMut::new();
                        let kind = QueryKind::CountInSlot { slot };
                        Query { reply_bytes_max: 0, kind }.encode(&mut payload);
                        self.push_job(Job {
                            group,
                            slot,
                            kind: OperationKind::Read,
                            payload: payload.freeze(),
                            shape: Shape::Plain,
                            frame: Bytes::new(),
                            lane_key: self.id,
                        });
                    }
                    // It starts when it is polled, which is when all before it has ended.
                    LocalAnswer::CountKeys => {
                        let steps = Work::Steps(Box::pin(shared.count_keys()));
                        self.push(steps, None, bytes);
                    }
                }
            }
            Handler::Data(command) => {
                let slot = slot_of(spec, request)?;
                let reply_bytes_max = self.reply_room();
                if self.arena.capacity() - self.arena.len() < bytes + REQUEST_OVERHEAD {
                    self.arena = BytesMut::with_capacity(ARENA_BYTES.max(bytes + REQUEST_OVERHEAD));
                }
                let room = reply_bytes_max as u64;
                let translated = translate(command, spec, request, room, &mut self.arena);
                // What an error left behind must not precede the next command.
                let payload = self.arena.split().freeze();
                let (kind, shape) = translated?;
                let frame = match self.shared.mode() {
                    Mode::Cluster => Bytes::new(),
                    Mode::Proxy => Bytes::copy_from_slice(request.frame()),
                };
                self.push_job(Job {
                    group: self.shared.topology().slots().group_of(slot),
                    slot,
                    kind,
                    payload,
                    shape,
                    frame,
                    lane_key: self.id,
                });
            }
        }
        Ok(())
    }

    /// How long an answer a read may have now. Longer ones are read again, one at a time, when
    /// their turn has come; so what waits here is bounded however long the values are.
    fn reply_room(&self) -> usize {
        self.reply_estimate.saturating_mul(2).clamp(REPLY_BYTES_MIN, REPLY_BYTES_MAX)
    }

    fn push_reply(&mut self, reply: Reply, bytes: usize) {
        self.push(Work::Ended(Outcome::Reply(reply)), None, bytes);
    }

    fn push_job(&mut self, job: Job) {
        let reply = match job.kind {
            OperationKind::Read => self.reply_room(),
            OperationKind::Write => 0,
        };
        let bytes = job.payload.len() + job.frame.len() + reply;
        let sequence = self.first_sequence + self.queue.len() as u64;
        let starts = self.order.admit(job.slot, job.kind, sequence);
        self.push(Work::Held, Some(job), bytes);
        if starts {
            self.start(sequence);
        }
    }

    fn push(&mut self, work: Work<B::Pending>, job: Option<Job>, bytes: usize) {
        let cost = bytes + REQUEST_OVERHEAD;
        self.bytes_in_flight += cost;
        self.queue.push_back(Queued { work, job, cost, switch: None });
    }

    fn queued(&mut self, sequence: u64) -> Option<&mut Queued<B::Pending>> {
        let index = sequence.checked_sub(self.first_sequence)?;
        self.queue.get_mut(index as usize)
    }

    /// Sends a job on its way; ours join the batch of this turn.
    fn start(&mut self, sequence: u64) {
        let shared = Arc::clone(&self.shared);
        let Some(queued) = self.queued(sequence) else { return };
        let Some(job) = &queued.job else { return };
        match (shared.topology().leader(shared.backend(), job.group), shared.mode()) {
            (Leader::Here, _) => {
                let operation = job.operation();
                self.batch.push(operation);
                self.batch_sequences.push(sequence);
            }
            (Leader::At(front), Mode::Cluster) => {
                queued.work = Work::Ended(Outcome::Reply(moved(job.slot, front)));
            }
            (Leader::At(front), Mode::Proxy) => {
                queued.work = match shared.forward(job, front) {
                    Some(reply) => Work::Elsewhere(reply),
                    None => Work::Ended(Outcome::Refused(Refusal::Unavailable)),
                };
            }
            (Leader::Nobody, _) => {
                let refusal = Refusal::NotLeader { leader: None };
                queued.work = Work::Ended(Outcome::Refused(refusal));
            }
        }
    }

    fn start_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut pending = mem::take(&mut self.pending);
        let mut sequences = mem::take(&mut self.batch_sequences);
        self.shared.backend().submit(&mut self.batch, &mut pending);
        debug_assert_eq!(pending.len(), sequences.len());
        self.batch.clear();
        for (sequence, pending) in sequences.drain(..).zip(pending.drain(..)) {
            if let Some(queued) = self.queued(sequence) {
                queued.work = Work::Here(pending);
            }
        }
        self.pending = pending;
        self.batch_sequences = sequences;
    }

    /// Writes the replies of all requests at the head that have ended. Whether there were any.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut answered = false;
        while self.phase != Phase::Cut && self.output.len() < OUTPUT_BYTES_MAX {
            let Poll::Ready(reply) = self.poll_head(cx) else { break };
            answered = true;
            let Some(queued) = self.queue.pop_front() else { break };
            self.first_sequence += 1;
            self.bytes_in_flight -= queued.cost;
            let Some(reply) = reply else {
                // Nothing that follows may be answered: replies would shift by one.
                self.phase = Phase::Cut;
                break;
            };
            let before = self.output.len();
            reply.encode(self.session.protocol, &mut self.output);
            let length = self.output.len() - before;
            if let Some(protocol) = queued.switch {
                self.session.protocol = protocol;
            }
            if let Some(job) = queued.job {
                if job.kind == OperationKind::Read {
                    self.reply_estimate = length.max(self.reply_estimate - self.reply_estimate / 8);
                }
                let mut released = mem::take(&mut self.released);
                self.order.finish(job.slot, job.kind, &mut released);
                for sequence in released.drain(..) {
                    self.start(sequence);
                }
                self.released = released;
            }
        }
        answered
    }

    /// The reply of the oldest request, once it has one; `None` if the client must be cut off.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        loop {
            let Some(head) = self.queue.front_mut() else { return Poll::Pending };
            let refusal = match ready!(head.poll(cx, &self.shared)) {
                Outcome::Reply(reply) => return Poll::Ready(Some(reply)),
                Outcome::Refused(refusal) => refusal,
            };
            let job = match (&head.job, self.shared.mode()) {
                (Some(job), Mode::Proxy) if job.may_retry(refusal) => job.clone(),
                (job, _) => {
                    let kind = job.as_ref().map_or(OperationKind::Read, |job| job.kind);
                    let slot = job.as_ref().map(|job| job.slot);
                    let told_unknown = self.session.told_unknown;
                    return Poll::Ready(self.shared.refuse(refusal, kind, slot, told_unknown));
                }
            };
            if matches!(head.work, Work::Ended(_)) && head.retried() {
                // Its retries have ended with this refusal.
                let told_unknown = self.session.told_unknown;
                return Poll::Ready(self.shared.refuse(refusal, job.kind, Some(job.slot), told_unknown));
            }
            match ready!(self.poll_followers(cx, &job)) {
                Followers::Done => {
                    let told_unknown = self.session.told_unknown;
                    let (kind, slot) = (job.kind, Some(job.slot));
                    return Poll::Ready(self.shared.refuse(refusal, kind, slot, told_unknown));
                }
                Followers::None => {}
            }
            let retry = Box::pin(Arc::clone(&self.shared).retry(job, refusal));
            if let Some(head) = self.queue.front_mut() {
                head.work = Work::Steps(retry);
            }
        }
    }
}
