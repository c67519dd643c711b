//! One client: reads what has arrived, starts all of it as one batch, answers in request order.
//!
//! Requests of one client run side by side in their groups and finish in any order; a queue
//! holds their places. Only the oldest is waited for. When it ends, all that have ended behind
//! it are written with it in one write, so a pipeline costs few wake-ups and few system calls.
//!
//! Invariants: replies leave in request order. What is read and not yet answered is bounded by
//! [`Limits`](super::server::Limits), and so is what is read ahead from a client that does not
//! read its replies. Memory is in proportion to the bytes that came, and charged to the budget of
//! all clients. Commands on one slot keep their order (see [`super::order`]). A connection whose
//! client has replies to take, or that is to close, makes progress or ends.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::warn;

use super::backend::{Answered, Backend, Operation, OperationKind, Refusal};
use super::budget::Charge;
use super::buffer::Buffer;
use super::cluster::{Leader, moved};
use super::commands::{self, Handler};
use super::http::is_http;
use super::order::SlotOrder;
use super::parser::{Request, RequestParser};
use super::proxy::{BoxedOutcome, Forwarded, Job, Landing, Outcome};
use super::reply::{Protocol, Reply};
use super::request::{ArgumentError, Shape, slot_of, translate};
use super::server::{Mode, Shared};
use super::session::{LocalAnswer, Session};
use super::upstream::{UpstreamError, UpstreamReply};
use crate::kv::{Query, QueryKind};

/// Said to a client whose unfinished request is too much for all of them together.
const OVER_BUDGET: &str = "ERR too many bytes of unfinished requests, try again later";
/// Replies beyond this wait in the queue until the client has taken some.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Commands are encoded into chunks of this size. Larger ones save allocations; but an entry kept
/// in a cache keeps its chunk.
const ARENA_BYTES: usize = 4 << 10;
/// What a request costs beside its bytes.
const REQUEST_OVERHEAD: usize = 64;
/// So much of a client's memory is not charged to the budget of all clients: most never have
/// more, and the number that all share is left alone. With all of the budget taken, this much
/// keeps a client going.
const BYTES_FREE: usize = 64 << 10;
/// What is charged beyond that is rounded up to a multiple of this, for the same reason.
const CHARGE_STEP: usize = 64 << 10;
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
    input: Buffer,
    output: Buffer,
    queue: VecDeque<Queued<B::Pending>>,
    /// The sequence number of the head of `queue`.
    first_sequence: u64,
    bytes_in_flight: usize,
    /// The part of it that is room for answers still to come.
    bytes_promised: usize,
    order: SlotOrder,
    /// Operations of this turn, and who in `queue` waits for them.
    batch: Vec<Operation>,
    batch_sequences: Vec<u64>,
    pending: Vec<B::Pending>,
    released: Vec<u64>,
    arena: BytesMut,
    /// The size of recent replies: a maximum that fades.
    reply_estimate: usize,
    /// What it holds of the budget of all clients.
    charge: Charge,
    /// Memory of what is taken out of `input` and `parser` just now.
    lent: usize,
    phase: Phase,
    /// When something last moved that must move.
    moved: Instant,
    /// Looks whether it still does; armed only where it must.
    stall: Option<Pin<Box<Sleep>>>,
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
    /// What it takes of `bytes_in_flight`, and of `bytes_promised`.
    cost: usize,
    promised: usize,
    /// The client wants no reply.
    is_silent: bool,
    /// The protocol changes with its reply: earlier ones are written in the old one.
    switch: Option<Protocol>,
    /// It was refused, and tried again for as long as that made sense.
    retried: bool,
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
    pub(super) fn new(
        id: u64,
        shared: Arc<Shared<B>>,
        stream: TcpStream,
        session: Session,
    ) -> Self {
        let parser = RequestParser::new(shared.limits().parser);
        let charge = shared.budget().charge();
        Self {
            id,
            shared,
            stream,
            session,
            parser,
            input: Buffer::default(),
            output: Buffer::default(),
            queue: VecDeque::new(),
            first_sequence: 0,
            bytes_in_flight: 0,
            bytes_promised: 0,
            order: SlotOrder::default(),
            batch: Vec::new(),
            batch_sequences: Vec::new(),
            pending: Vec::new(),
            released: Vec::new(),
            arena: BytesMut::new(),
            reply_estimate: REPLY_BYTES_MIN * 4,
            charge,
            lent: 0,
            phase: Phase::Open,
            moved: Instant::now(),
            stall: None,
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
            let Ok(wrote) = self.write(cx) else {
                return Poll::Ready(());
            };
            self.charge();
            let over = match self.phase {
                Phase::Open => false,
                Phase::Draining => self.queue.is_empty(),
                Phase::Cut => true,
            };
            if over && self.output.is_empty() {
                return Poll::Ready(());
            }
            let Ok(read) = self.fill(cx) else {
                return Poll::Ready(());
            };
            // An open connection moves when its client takes something; one that is to close,
            // also when something ends.
            if wrote || (answered && self.phase != Phase::Open) {
                self.moved = Instant::now();
            }
            // A write may have made room for what has been waiting here.
            if !(answered || decoded || wrote || read) {
                return self.poll_stall(cx);
            }
        }
    }

    /// Ends a connection on which nothing has moved for long enough, though something must: one
    /// that is to close, for its client may be gone and nothing else would tell; and one whose
    /// client takes none of its replies, for it may be waiting for us to read, and would for ever.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = self.shared.limits();
        let max = match self.phase {
            Phase::Open if self.output.is_empty() => {
                self.stall = None;
                return Poll::Pending;
            }
            Phase::Open => limits.reply_stall_max,
            Phase::Draining | Phase::Cut => limits.drain_stall_max,
        };
        let end = self.moved + max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(end)));
        // It may have moved since; the timer is moved only when it fires.
        while stall.as_mut().poll(cx).is_ready() {
            if stall.deadline() >= end {
                self.tell_of_stall();
                return Poll::Ready(());
            }
            stall.as_mut().reset(end);
        }
        Poll::Pending
    }

    fn tell_of_stall(&self) {
        if self.phase != Phase::Open {
            return;
        }
        let counters = self.shared.counters();
        counters.stalled.fetch_add(1, Relaxed);
        if let Some(suppressed) = counters.stall_complaint.lock().permit(std::time::Instant::now())
        {
            warn!(
                client = self.session.address(),
                waited = ?self.shared.limits().reply_stall_max,
                unwritten_bytes = self.output.len(),
                unread_bytes = self.input.len(),
                open_requests = self.queue.len(),
                suppressed,
                "closed a client that takes none of its replies"
            );
        }
    }

    /// Tells the budget what this client takes of memory, and what is promised to it.
    fn charge(&mut self) {
        let input = self.input.allocated() + self.parser.allocated() + self.lent;
        let queue = self.queue.capacity() * size_of::<Queued<B::Pending>>();
        let requests = self.bytes_in_flight - self.bytes_promised;
        let held = input + self.output.allocated() + queue + requests;
        let charged = held.saturating_sub(BYTES_FREE);
        let promised = (held + self.bytes_promised).saturating_sub(BYTES_FREE) - charged;
        let rounded = |bytes: usize| bytes.next_multiple_of(CHARGE_STEP) as u64;
        self.charge.set(rounded(charged), rounded(promised));
    }

    /// Whether another request may be taken.
    fn has_room(&self) -> bool {
        let limits = self.shared.limits();
        // With the budget of all clients taken, those with more than a little wait until something
        // of theirs has ended.
        let is_idle = self.queue.is_empty() && self.output.is_empty();
        self.phase == Phase::Open
            && self.queue.len() < limits.requests_in_flight_max
            && self.bytes_in_flight < limits.bytes_in_flight_max
            && self.output.len() < OUTPUT_BYTES_MAX
            && (is_idle || self.charge.bytes() == 0 || !self.shared.budget().is_taken())
    }

    /// Whether requests may be read that cannot be taken yet: a client that writes a long pipeline
    /// before it reads would wait for us to read, as we wait for it.
    fn may_read_ahead(&self) -> bool {
        self.phase == Phase::Open
            && !self.output.is_empty()
            && self.input.len() < self.shared.limits().read_ahead_bytes_max
            && !self.shared.budget().is_taken()
    }

    /// Takes all complete requests that there is room for. Whether there is anything to answer.
    fn decode(&mut self) -> bool {
        let mut input = mem::take(&mut self.input);
        let mut parser = mem::take(&mut self.parser);
        self.lent = input.allocated() + parser.allocated();
        let mut commands = 0;
        let mut broken = false;
        while self.has_room() && !input.is_empty() {
            let consumed = match parser.next(input.as_slice()) {
                Ok(None) => break,
                Ok(Some(request)) if is_http(&request) => {
                    self.cut_http();
                    broken = true;
                    break;
                }
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
                    broken = true;
                    break;
                }
            };
            input.consume(consumed);
            // `has_room` looks at the charge, and many requests may come in one read.
            self.charge();
        }
        // What follows bytes that are no request has no meaning.
        self.input = if broken { Buffer::default() } else { input };
        self.parser = parser;
        self.lent = 0;
        if commands > 0 {
            self.shared.counters().commands.fetch_add(commands, Relaxed);
        }
        broken || commands > 0
    }

    fn take(&mut self, request: &Request<'_>) {
        let bytes = request.frame().len();
        self.session.begin();
        if let Err(error) = self.try_take(request) {
            self.push_reply(error.into_reply(), bytes);
        }
        if self.session.is_silent()
            && let Some(queued) = self.queue.back_mut()
        {
            queued.is_silent = true;
        }
    }

    /// Somebody was made to speak HTTP to us: nothing of it is run, and nothing is answered.
    fn cut_http(&mut self) {
        self.phase = Phase::Cut;
        self.queue.clear();
        self.output.release();
        let counters = self.shared.counters();
        counters.http.fetch_add(1, Relaxed);
        if let Some(suppressed) = counters.http_complaint.lock().permit(std::time::Instant::now()) {
            warn!(
                client = self.session.address(),
                suppressed, "closed a connection that sent HTTP to a port of the Redis protocol"
            );
        }
    }

    fn try_take(&mut self, request: &Request<'_>) -> Result<(), ArgumentError> {
        let name = request.argument(0).unwrap_or_default();
        let spec = commands::find(name);
        self.session.admit(spec)?;
        let spec = spec.ok_or_else(|| ArgumentError::unknown_command(name))?;
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
                        let room = self.reply_room() as u64;
                        let kind = QueryKind::CountInSlot { slot };
                        Query { reply_bytes_max: 0, kind }.encode(&mut payload);
                        self.push_job(Job {
                            group,
                            slot,
                            kind: OperationKind::Read,
                            payload: payload.freeze(),
                            shape: Shape::Plain,
                            frame: Bytes::new(),
                            room,
                            answer_max: None,
                            lane_key: self.id,
                        });
                    }
                    // It starts when it is polled, which is when all before it has ended.
                    LocalAnswer::CountKeys => {
                        let steps = Work::Steps(Box::pin(shared.count_keys()));
                        self.push(steps, None, bytes, 0);
                    }
                }
            }
            Handler::Data(command) => {
                let slot = slot_of(spec, request)?;
                let answer_max = self.session.answer_max;
                let room = (self.reply_room() as u64).min(answer_max.unwrap_or(u64::MAX));
                if self.arena.capacity() - self.arena.len() < bytes + REQUEST_OVERHEAD {
                    self.arena = BytesMut::with_capacity(ARENA_BYTES.max(bytes + REQUEST_OVERHEAD));
                }
                let clock = || self.shared.backend().wall_time();
                let translated = translate(command, spec, request, room, &clock, &mut self.arena);
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
                    room,
                    answer_max,
                    lane_key: self.id,
                });
            }
        }
        Ok(())
    }

    /// How long an answer a read may have now. Longer ones are read again, one at a time and up to
    /// the cap, when their turn has come; so what waits here is bounded however long values are.
    fn reply_room(&self) -> usize {
        self.reply_estimate.saturating_mul(2).clamp(REPLY_BYTES_MIN, REPLY_BYTES_MAX)
    }

    fn push_reply(&mut self, reply: Reply, bytes: usize) {
        // Some local answers are a thousand times as long as their request.
        let bytes = bytes + reply.held_bytes();
        self.push(Work::Ended(Outcome::Reply(reply)), None, bytes, 0);
    }

    fn push_job(&mut self, job: Job) {
        let reply = match job.kind {
            OperationKind::Read => self.reply_room(),
            // Its answer may be as long as a value and cannot be asked for again: nothing else is
            // read until it has been given.
            OperationKind::Write if self.is_new_memory(&job) => {
                self.shared.limits().bytes_in_flight_max
            }
            OperationKind::Write => 0,
        };
        let bytes = job.payload.len() + job.frame.len();
        let sequence = self.first_sequence + self.queue.len() as u64;
        let starts = self.order.admit(job.slot, job.kind, sequence);
        self.push(Work::Held, Some(job), bytes, reply);
        if starts {
            self.start(sequence);
        }
    }

    /// Whether the answer to a write may be a long value that takes memory of its own. One that left
    /// our machine has just given its memory back; one that left another node's is here twice
    /// until our replica has applied the command.
    fn is_new_memory(&self, job: &Job) -> bool {
        match job.shape {
            Shape::Copied => true,
            Shape::Taken => {
                let leader = self.shared.topology().leader(self.shared.backend(), job.group);
                !matches!(leader, Leader::Here)
            }
            Shape::Plain
            | Shape::Flag
            | Shape::Type
            | Shape::Seconds
            | Shape::Milliseconds
            | Shape::Range { .. } => false,
        }
    }

    /// Queues a request that holds so many bytes, and is promised as many for its answer.
    fn push(&mut self, work: Work<B::Pending>, job: Option<Job>, held: usize, promised: usize) {
        let cost = held + promised + REQUEST_OVERHEAD;
        self.bytes_in_flight += cost;
        self.bytes_promised += promised;
        self.queue.push_back(Queued {
            work,
            job,
            cost,
            promised,
            is_silent: false,
            switch: None,
            retried: false,
        });
    }

    fn queued(&mut self, sequence: u64) -> Option<&mut Queued<B::Pending>> {
        let index = sequence.checked_sub(self.first_sequence)?;
        self.queue.get_mut(index as usize)
    }

    /// Sends a job on its way; ours join the batch of this turn.
    fn start(&mut self, sequence: u64) {
        let shared = Arc::clone(&self.shared);
        let Some(queued) = self.queued(sequence) else {
            return;
        };
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
            let Poll::Ready(reply) = self.poll_head(cx) else {
                break;
            };
            answered = true;
            let Some(queued) = self.queue.pop_front() else {
                break;
            };
            self.first_sequence += 1;
            self.bytes_in_flight -= queued.cost;
            self.bytes_promised -= queued.promised;
            let Some(reply) = reply else {
                // Nothing that follows may be answered: replies would shift by one.
                self.phase = Phase::Cut;
                self.stall = None;
                self.queue.clear();
                break;
            };
            if let Some(protocol) = queued.switch {
                self.session.protocol = protocol;
            }
            let before = self.output.len();
            if before == 0 {
                self.moved = Instant::now();
            }
            if !queued.is_silent {
                reply.encode(self.session.protocol, self.output.tail());
            }
            let length = self.output.len() - before;
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
            let Some(head) = self.queue.front_mut() else {
                return Poll::Pending;
            };
            let refusal = match ready!(head.poll(cx, &self.shared)) {
                Outcome::Reply(reply) => return Poll::Ready(Some(reply)),
                Outcome::Refused(refusal) => refusal,
            };
            let retry = match (&head.job, self.shared.mode()) {
                (Some(job), Mode::Proxy) if !head.retried && job.may_retry(refusal) => {
                    Some(job.clone())
                }
                (Some(_) | None, Mode::Proxy | Mode::Cluster) => None,
            };
            if let Some(job) = retry {
                let withdrawn = self.withdraw_followers(cx, &job);
                let Some(head) = self.queue.front_mut() else {
                    return Poll::Pending;
                };
                match withdrawn {
                    Poll::Pending => {
                        head.work = Work::Ended(Outcome::Refused(refusal));
                        return Poll::Pending;
                    }
                    Poll::Ready(true) => {
                        head.retried = true;
                        let retry = Arc::clone(&self.shared).retry(job, refusal);
                        head.work = Work::Steps(Box::pin(retry));
                        continue;
                    }
                    Poll::Ready(false) => {}
                }
            }
            let Some(head) = self.queue.front_mut() else {
                return Poll::Pending;
            };
            let kind = head.job.as_ref().map_or(OperationKind::Read, |job| job.kind);
            let slot = head.job.as_ref().map(|job| job.slot);
            let told_unknown = self.session.told_unknown;
            return Poll::Ready(self.shared.refuse(refusal, kind, slot, told_unknown));
        }
    }

    /// Makes sure that nothing sent after the refused job at the head can overtake its retry.
    ///
    /// Later writes on its slot may be under way already. Once they have all ended: if all were
    /// refused as well, they are held again behind the head, and the answer is `true`. If one
    /// may have taken effect, a retry would come too late, and the answer is `false`.
    fn withdraw_followers(&mut self, cx: &mut Context<'_>, head: &Job) -> Poll<bool> {
        if head.kind == OperationKind::Read {
            // What runs beside a read on its slot are reads.
            return Poll::Ready(true);
        }
        let mut waiting = false;
        let mut refused = true;
        let mut followers = Vec::new();
        for (sequence, queued) in (self.first_sequence..).zip(&mut self.queue).skip(1) {
            let Some(job) = queued.job.as_ref().filter(|job| job.slot == head.slot) else {
                continue;
            };
            if matches!(queued.work, Work::Held) {
                continue;
            }
            let job = job.clone();
            match queued.poll(cx, &self.shared) {
                Poll::Pending => waiting = true,
                Poll::Ready(outcome) => {
                    refused &= match &outcome {
                        Outcome::Reply(_) => false,
                        Outcome::Refused(refusal) => job.may_retry(*refusal),
                    };
                    queued.work = Work::Ended(outcome);
                    followers.push(sequence);
                }
            }
        }
        if waiting {
            return Poll::Pending;
        }
        if refused {
            for &sequence in &followers {
                if let Some(queued) = self.queued(sequence) {
                    queued.work = Work::Held;
                }
            }
            self.order.retry_alone(head.slot, &followers);
        }
        Poll::Ready(refused)
    }

    /// Writes what the socket takes. Whether it took anything.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut written = 0;
        while !self.output.is_empty() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready?,
            }
            match self.stream.try_write(self.output.as_slice()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.output.consume(count);
                    written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if written > 0 {
            self.shared.counters().bytes_out.fetch_add(written, Relaxed);
        }
        Ok(written > 0)
    }

    /// Reads what has arrived, if there is room for it. Whether there was anything.
    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.has_room() && !self.may_read_ahead() {
            return Ok(false);
        }
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => {
                    self.rest();
                    return Ok(false);
                }
                Poll::Ready(ready) => ready?,
            }
            let missing = self.parser.missing(self.input.len());
            self.input.make_room(missing);
            match self.stream.try_read_buf(self.input.tail()) {
                Ok(0) => {
                    // Half a close: what was asked is still answered.
                    self.close_after_replies();
                    return Ok(true);
                }
                Ok(count) => {
                    self.shared.counters().bytes_in.fetch_add(count as u64, Relaxed);
                    self.charge();
                    // It cannot be taken before it is complete, and there is no memory for that.
                    if self.has_room()
                        && self.shared.budget().is_exceeded()
                        && self.input.len() > BYTES_FREE
                    {
                        self.input.release();
                        self.push_reply(Reply::error(OVER_BUDGET), 0);
                        self.close_after_replies();
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives memory back while the client has nothing to say, so that idle clients cost little.
    fn rest(&mut self) {
        if self.input.is_empty() {
            self.input.release();
        }
        if self.queue.is_empty() && self.output.is_empty() {
            self.queue.shrink_to(16);
            self.output.release();
            self.arena = BytesMut::new();
        }
        self.charge();
    }

    fn close_after_replies(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.moved = Instant::now();
            self.stall = None;
        }
    }
}

impl<P> Queued<P>
where
    P: Future<Output = Result<Answered, Refusal>> + Send + Unpin + 'static,
{
    /// Takes the outcome once there is one; whoever does not use it puts it back as
    /// [`Work::Ended`].
    fn poll<B: Backend<Pending = P>>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Arc<Shared<B>>,
    ) -> Poll<Outcome> {
        let outcome = loop {
            match &mut self.work {
                Work::Held => return Poll::Pending,
                Work::Ended(_) => {
                    let Work::Ended(outcome) = mem::replace(&mut self.work, Work::Held) else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(outcome);
                }
                Work::Here(pending) => {
                    let answer = ready!(Pin::new(pending).poll(cx));
                    let Some(job) = &self.job else {
                        break Outcome::Refused(Refusal::Unknown);
                    };
                    match job.land(answer) {
                        Landing::Ended(outcome) => break outcome,
                        Landing::Again(again) => {
                            let again = Arc::clone(shared).read_again(job.clone(), again);
                            self.work = Work::Steps(Box::pin(again));
                        }
                    }
                }
                Work::Elsewhere(reply) => {
                    let reply = ready!(Pin::new(reply).poll(cx));
                    let forwarded = shared.forwarded(reply.unwrap_or(Err(UpstreamError::Lost)));
                    match (forwarded, &self.job) {
                        (Forwarded::Ended(outcome), _) => break outcome,
                        // It starts when it is polled: when its client has taken what was before.
                        (Forwarded::TooLong { bytes }, Some(job)) => {
                            let again = Arc::clone(shared).ask_again(job.clone(), bytes);
                            self.work = Work::Steps(Box::pin(again));
                        }
                        (Forwarded::TooLong { .. }, None) => {
                            break Outcome::Refused(Refusal::Unknown);
                        }
                    }
                }
                Work::Steps(steps) => break ready!(steps.as_mut().poll(cx)),
            }
        };
        self.work = Work::Held;
        Poll::Ready(outcome)
    }
}
