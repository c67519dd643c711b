//! Connections from the proxy to other nodes' cluster ports: few, shared and pipelined.
//!
//! A lane is one task with one connection. It writes what is queued in one go and matches
//! replies to calls by their order. Calls that share a lane key take the same lane, so their
//! order holds on the other node as well.
//!
//! Invariant: a call is answered exactly once. [`Lost`](UpstreamError::Lost) means its bytes may
//! have left; [`NotSent`](UpstreamError::NotSent) means none of them did.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::cluster::FrontNode;
use super::reply::Reply;
use super::reply_parser;

/// Connections per node. One is enough for order; a few use more cores at both ends.
const LANES_PER_NODE: u64 = 4;
/// Calls waiting in one lane; a call beyond that is not sent. A caller bounds its own calls far
/// below, so this is met only when very many callers forward to one node at once.
const LANE_CALLS_MAX: usize = 16_384;
/// Most calls sent and not yet answered, per lane.
const LANE_IN_FLIGHT_MAX: usize = 16_384;
/// Bytes on their way out beyond which further calls stay in the queue.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// A node that does not take the connection in this time is not there.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Replies of other commands wait behind the oldest, so one that takes longer loses the lane.
const REPLY_MAX: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 << 10;
/// Written before the first call: tell us of unknown outcomes rather than cut all of us off.
const GREETING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$4\r\nCAPA\r\n$7\r\nunknown\r\n";

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum UpstreamError {
    /// The node was not reached; nothing was sent.
    #[error("not sent")]
    NotSent,
    /// The connection broke, or stayed silent, after the call may have been sent.
    #[error("the connection broke before the reply")]
    Lost,
}

/// The reply to one call.
pub(super) type UpstreamReply = oneshot::Receiver<Result<Reply, UpstreamError>>;

/// All lanes to all nodes. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Upstream {
    lanes: Vec<(FrontNode, Vec<mpsc::Sender<Call>>)>,
}

#[derive(Debug)]
struct Call {
    frame: Bytes,
    reply: oneshot::Sender<Result<Reply, UpstreamError>>,
}

impl Upstream {
    /// Lanes to all these nodes; each connects at its first call. Needs a tokio runtime.
    pub(super) fn new<'a>(nodes: impl IntoIterator<Item = &'a FrontNode>) -> Self {
        let lane = |front: &FrontNode| {
            let (sender, receiver) = mpsc::channel(LANE_CALLS_MAX);
            tokio::spawn(run(front.clone(), receiver));
            sender
        };
        let node =
            |front: &FrontNode| (front.clone(), (0..LANES_PER_NODE).map(|_| lane(front)).collect());
        Self { lanes: nodes.into_iter().map(node).collect() }
    }

    /// Sends a request as it is. Never waits: a full lane is [`UpstreamError::NotSent`].
    pub(super) fn call(&self, to: &FrontNode, lane_key: u64, frame: Bytes) -> UpstreamReply {
        let (reply, receiver) = oneshot::channel();
        let lanes = self.lanes.iter().find(|(front, _)| front == to).map(|(_, lanes)| lanes);
        match lanes.and_then(|lanes| lanes.get((lane_key % LANES_PER_NODE) as usize)) {
            Some(lane) => {
                if let Err(error) = lane.try_send(Call { frame, reply }) {
                    let _ = error.into_inner().reply.send(Err(UpstreamError::NotSent));
                }
            }
            None => {
                let _ = reply.send(Err(UpstreamError::NotSent));
            }
        }
        receiver
    }
}

async fn run(front: FrontNode, mut calls: mpsc::Receiver<Call>) {
    while let Some(first) = calls.recv().await {
        let connecting = TcpStream::connect((front.host.as_str(), front.port));
        let Ok(Ok(stream)) = timeout(CONNECT_MAX, connecting).await else {
            let _ = first.reply.send(Err(UpstreamError::NotSent));
            while let Ok(call) = calls.try_recv() {
                let _ = call.reply.send(Err(UpstreamError::NotSent));
            }
            continue;
        };
        let mut lane = Lane::new(stream, first);
        let ended = lane.serve(&mut calls).await;
        debug!(node = %front.node, lost = lane.waiting.len(), ?ended, "upstream connection ended");
        lane.lose_all();
    }
}

/// One connection and who waits for its replies.
struct Lane {
    stream: TcpStream,
    /// In the order of the requests; the greeting has nobody who waits.
    waiting: VecDeque<Option<oneshot::Sender<Result<Reply, UpstreamError>>>>,
    output: BytesMut,
    input: BytesMut,
    /// When the oldest call, or the last reply, is [`REPLY_MAX`] old.
    deadline: Instant,
}

impl Lane {
    fn new(stream: TcpStream, first: Call) -> Self {
        // A failure costs latency only.
        let _ = stream.set_nodelay(true);
        let mut lane = Self {
            stream,
            waiting: VecDeque::from([None]),
            output: BytesMut::from(GREETING),
            input: BytesMut::new(),
            deadline: Instant::now() + REPLY_MAX,
        };
        lane.take(first);
        lane
    }

    async fn serve(&mut self, calls: &mut mpsc::Receiver<Call>) -> io::Result<()> {
        const BATCH: usize = 256;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let room = if self.output.len() < OUTPUT_BYTES_MAX {
                LANE_IN_FLIGHT_MAX.saturating_sub(self.waiting.len()).min(BATCH)
            } else {
                0
            };
            tokio::select! {
                taken = calls.recv_many(&mut batch, room), if room > 0 => {
                    if taken == 0 && self.waiting.is_empty() {
                        return Ok(());
                    }
                    if taken == 0 {
                        // The server is gone, and so are those who wait.
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    for call in batch.drain(..) {
                        self.take(call);
                    }
                }
                ready = self.stream.writable(), if !self.output.is_empty() => {
                    ready?;
                    match self.stream.try_write(&self.output) {
                        Ok(written) => self.output.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                ready = self.stream.readable() => {
                    ready?;
                    self.input.reserve(READ_BYTES);
                    match self.stream.try_read_buf(&mut self.input) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => self.deliver()?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(self.deadline), if !self.waiting.is_empty() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    fn take(&mut self, call: Call) {
        if self.waiting.is_empty() {
            self.deadline = Instant::now() + REPLY_MAX;
        }
        self.output.extend_from_slice(&call.frame);
        self.waiting.push_back(Some(call.reply));
    }

    fn deliver(&mut self) -> io::Result<()> {
        while let Some(reply) = reply_parser::next(&mut self.input).map_err(io::Error::other)? {
            self.deadline = Instant::now() + REPLY_MAX;
            match self.waiting.pop_front() {
                // A caller that went away has no use for its reply.
                Some(Some(waiting)) => drop(waiting.send(Ok(reply))),
                Some(None) => {}
                None => return Err(io::Error::other("a reply nobody asked for")),
            }
        }
        Ok(())
    }

    fn lose_all(&mut self) {
        for waiting in self.waiting.drain(..).flatten() {
            let _ = waiting.send(Err(UpstreamError::Lost));
        }
    }
}
