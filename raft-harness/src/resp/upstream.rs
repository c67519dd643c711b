//! Connections from the proxy to other nodes' cluster ports: few, shared and pipelined.
//!
//! A lane is one task with one connection. It writes what is queued in one go and matches
//! replies to calls by their order. Calls that share a lane key take the same lane, so their
//! order holds on the other node as well.
//!
//! A node that stands still keeps its connections open and answers nothing. So a lane looks
//! whether its node still leads the groups it was called for: once another one does, a call has a
//! moment left to be answered and is then given up, alone. The calls of other groups go on, and a
//! reply that comes after all finds its place in the order and is dropped.
//!
//! Lanes are shared, so none ever stops reading because of one caller: what a reply may cost is
//! agreed before it is made. A read names the room for its answer (`CLIENT ROOM`); a longer answer
//! is not made, its length is told instead (`TOOLONG`), and the caller asks again once it has room
//! for it. Such long answers have a lane of their own, so that short ones do not wait behind them.
//!
//! Invariant: a call is answered exactly once. [`Lost`](UpstreamError::Lost) means its bytes may
//! have left; [`NotSent`](UpstreamError::NotSent) means none of them did.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use raft_core::{GroupId, NodeId};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::buffer::Buffer;
use super::cluster::FrontNode;
use super::reply::Reply;
use super::reply_parser::{self, Parsed};

/// Connections per node. One is enough for order; a few use more cores at both ends.
const LANES_PER_NODE: u64 = 4;
/// The lane for answers that were measured to be long; it comes after those.
const LONG_LANE: usize = LANES_PER_NODE as usize;
/// Calls waiting in one lane; a call beyond that is not sent. A caller bounds its own calls far
/// below, so this is met only when very many callers forward to one node at once.
const LANE_CALLS_MAX: usize = 16_384;
/// Most calls sent and not yet answered, per lane.
const LANE_IN_FLIGHT_MAX: usize = 16_384;
/// Bytes on their way out beyond which further calls stay in the queue.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// A node that does not take the connection in this time is not there. Shared out evenly among
/// the addresses of its name, so that one that swallows packets leaves the others their turn.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A name with more addresses is no single node's.
const ADDRESSES_MAX: usize = 4;
/// How often a lane with open calls looks who leads their groups.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Replies of other commands wait behind the oldest, so a node that sends nothing for longer loses
/// the lane.
const REPLY_MAX: Duration = Duration::from_secs(5);
/// Written before the first call: tell us of unknown outcomes rather than cut all of us off.
const GREETING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$4\r\nCAPA\r\n$7\r\nunknown\r\n";

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum UpstreamError {
    /// The node was not reached; nothing was sent.
    #[error("not sent")]
    NotSent,
    /// The connection broke, stayed silent, or its node lost the group to another, after the call
    /// may have been sent.
    #[error("no reply, though the call may have been sent")]
    Lost,
}

/// The reply to one call.
pub(super) type UpstreamReply = oneshot::Receiver<Result<Reply, UpstreamError>>;

/// What lanes ask about the nodes they lead to.
pub(super) struct Leaders {
    /// Who leads a group, as far as known.
    pub(super) leader_of: Box<dyn Fn(GroupId) -> Option<NodeId> + Send + Sync>,
    /// How long a call is left to a node once another leads its group.
    pub(super) deposed_max: Duration,
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("deposed_max", &self.deposed_max).finish_non_exhaustive()
    }
}

impl Leaders {
    /// Whether another node than this one is known to lead the group.
    fn is_deposed(&self, node: NodeId, group: Option<GroupId>) -> bool {
        group.and_then(|group| (self.leader_of)(group)).is_some_and(|leader| leader != node)
    }
}

/// All lanes to all nodes. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Upstream {
    lanes: Vec<(FrontNode, Vec<mpsc::Sender<Call>>)>,
}

/// What is asked of another node.
#[derive(Debug)]
pub(super) struct Ask {
    /// Whose leader the node is called as; `None` if any node would do.
    pub(super) group: Option<GroupId>,
    /// The request as it is.
    pub(super) frame: Bytes,
    /// How long the answer of a read may be; `None` for what is no read.
    pub(super) room: Option<u64>,
    pub(super) lane: LaneChoice,
}

/// Which of a node's lanes a call takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum LaneChoice {
    /// The one of this key: calls of one key keep their order.
    Keyed(u64),
    /// The one for long answers. Only for whoever waits for the reply before the next call.
    Long,
}

#[derive(Debug)]
struct Call {
    ask: Ask,
    reply: oneshot::Sender<Result<Reply, UpstreamError>>,
}

impl Upstream {
    /// Lanes to all these nodes; each connects at its first call. Needs a tokio runtime.
    pub(super) fn new<'a>(
        nodes: impl IntoIterator<Item = &'a FrontNode>,
        leaders: Leaders,
    ) -> Self {
        let leaders = Arc::new(leaders);
        let lane = |front: &FrontNode| {
            let (sender, receiver) = mpsc::channel(LANE_CALLS_MAX);
            tokio::spawn(run(front.clone(), receiver, Arc::clone(&leaders)));
            sender
        };
        let node =
            |front: &FrontNode| (front.clone(), (0..=LONG_LANE).map(|_| lane(front)).collect());
        Self { lanes: nodes.into_iter().map(node).collect() }
    }

    /// Sends a request as it is. Never waits: a full lane is [`UpstreamError::NotSent`].
    pub(super) fn call(&self, to: &FrontNode, ask: Ask) -> UpstreamReply {
        let (reply, receiver) = oneshot::channel();
        let lanes = self.lanes.iter().find(|(front, _)| front == to).map(|(_, lanes)| lanes);
        let index = match ask.lane {
            LaneChoice::Keyed(key) => (key % LANES_PER_NODE) as usize,
            LaneChoice::Long => LONG_LANE,
        };
        match lanes.and_then(|lanes| lanes.get(index)) {
            Some(lane) => {
                if let Err(error) = lane.try_send(Call { ask, reply }) {
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

async fn run(front: FrontNode, mut calls: mpsc::Receiver<Call>, leaders: Arc<Leaders>) {
    while let Some(first) = calls.recv().await {
        let connecting = connect(&front.host, front.port);
        let Ok(Ok(stream)) = timeout(CONNECT_MAX, connecting).await else {
            let _ = first.reply.send(Err(UpstreamError::NotSent));
            while let Ok(call) = calls.try_recv() {
                let _ = call.reply.send(Err(UpstreamError::NotSent));
            }
            continue;
        };
        let mut lane = Lane::new(stream, front.node, Arc::clone(&leaders), first);
        let ended = lane.serve(&mut calls).await;
        debug!(node = %front.node, lost = lane.waiting.len(), ?ended, "upstream connection ended");
        lane.lose_all();
    }
}

/// Tries one address of a name after the other.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
    connect_any(&addresses).await
}

async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let share = CONNECT_MAX / addresses.len().max(1) as u32;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A place in the order of replies.
#[derive(Debug)]
struct Waiting {
    /// Nobody waits for the greeting's, nor for that of a call that was given up.
    reply: Option<oneshot::Sender<Result<Reply, UpstreamError>>>,
    group: Option<GroupId>,
    /// Since when another node has been known to lead the group.
    deposed: Option<Instant>,
}

/// One connection and who waits for its replies.
struct Lane {
    stream: TcpStream,
    node: NodeId,
    leaders: Arc<Leaders>,
    /// In the order of the requests.
    waiting: VecDeque<Waiting>,
    /// Calls that were looked at before there was room for them: at most [`LANE_CALLS_MAX`].
    backlog: VecDeque<Call>,
    /// When to look at who leads the groups of open calls.
    look: Instant,
    output: BytesMut,
    /// At most twice the longest answer that anybody had room for, or a write has answered with.
    input: Buffer,
    /// How much of the answer begun is still to come, as its node says.
    missing: usize,
    /// The room for answers that the node was told last.
    told_room: Option<u64>,
    /// When the oldest call, or the last byte, is [`REPLY_MAX`] old.
    deadline: Instant,
}

impl Lane {
    fn new(stream: TcpStream, node: NodeId, leaders: Arc<Leaders>, first: Call) -> Self {
        // A failure costs latency only.
        let _ = stream.set_nodelay(true);
        let mut lane = Self {
            stream,
            node,
            leaders,
            waiting: VecDeque::from([Waiting { reply: None, group: None, deposed: None }]),
            backlog: VecDeque::new(),
            look: Instant::now() + LOOK_PERIOD,
            output: BytesMut::from(GREETING),
            input: Buffer::default(),
            missing: 0,
            told_room: None,
            deadline: Instant::now() + REPLY_MAX,
        };
        lane.take(first);
        lane
    }

    async fn serve(&mut self, calls: &mut mpsc::Receiver<Call>) -> io::Result<()> {
        const BATCH: usize = 256;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            while self.has_room()
                && let Some(call) = self.backlog.pop_front()
            {
                self.take(call);
            }
            let room = if self.backlog.is_empty() && self.output.len() < OUTPUT_BYTES_MAX {
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
                    self.input.make_room(self.missing);
                    match self.stream.try_read_buf(self.input.tail()) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => {
                            // Bytes that come are life, however long the whole answer takes.
                            self.deadline = Instant::now() + REPLY_MAX;
                            self.deliver()?;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(self.deadline.min(self.look)), if !self.waiting.is_empty() => {
                    let now = Instant::now();
                    if self.deadline <= now {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.give_up_deposed(calls, now);
                    self.look = now + LOOK_PERIOD;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX && self.waiting.len() < LANE_IN_FLIGHT_MAX
    }

    fn take(&mut self, Call { ask, reply }: Call) {
        if reply.is_closed() {
            // Who asked is gone, and nothing was sent.
            return;
        }
        if self.waiting.is_empty() {
            let now = Instant::now();
            self.deadline = now + REPLY_MAX;
            self.look = now + LOOK_PERIOD;
        }
        if ask.room.is_some() && ask.room != self.told_room {
            self.told_room = ask.room;
            let room = ask.room.unwrap_or_default().to_string();
            let told = format!("*3\r\n$6\r\nCLIENT\r\n$4\r\nROOM\r\n${}\r\n{room}\r\n", room.len());
            self.output.extend_from_slice(told.as_bytes());
            self.waiting.push_back(Waiting { reply: None, group: None, deposed: None });
        }
        self.output.extend_from_slice(&ask.frame);
        self.waiting.push_back(Waiting { reply: Some(reply), group: ask.group, deposed: None });
    }

    /// Gives up what was asked of this node as the leader of a group that another leads now: what
    /// was sent, after a moment in which the answer may still come; what was not, at once.
    fn give_up_deposed(&mut self, calls: &mut mpsc::Receiver<Call>, now: Instant) {
        for waiting in &mut self.waiting {
            if waiting.reply.is_none() || !self.leaders.is_deposed(self.node, waiting.group) {
                waiting.deposed = None;
                continue;
            }
            let since = *waiting.deposed.get_or_insert(now);
            if now.duration_since(since) >= self.leaders.deposed_max
                && let Some(reply) = waiting.reply.take()
            {
                let _ = reply.send(Err(UpstreamError::Lost));
            }
        }
        while self.backlog.len() < LANE_CALLS_MAX
            && let Ok(call) = calls.try_recv()
        {
            self.backlog.push_back(call);
        }
        for call in std::mem::take(&mut self.backlog) {
            if self.leaders.is_deposed(self.node, call.ask.group) {
                let _ = call.reply.send(Err(UpstreamError::NotSent));
            } else if !call.reply.is_closed() {
                // A request whose client is gone is dropped: its memory is counted for nobody.
                self.backlog.push_back(call);
            }
        }
    }

    fn deliver(&mut self) -> io::Result<()> {
        loop {
            let parsed = reply_parser::next(self.input.as_slice()).map_err(io::Error::other)?;
            let (reply, length) = match parsed {
                Parsed::Reply { reply, length } => (reply, length),
                Parsed::Incomplete { missing } => {
                    self.missing = missing;
                    return Ok(());
                }
            };
            self.input.consume(length);
            match self.waiting.pop_front().map(|waiting| waiting.reply) {
                // A caller that went away has no use for its reply.
                Some(Some(waiting)) => drop(waiting.send(Ok(reply))),
                Some(None) => {}
                None => return Err(io::Error::other("a reply nobody asked for")),
            }
        }
    }

    fn lose_all(&mut self) {
        for reply in self.waiting.drain(..).filter_map(|waiting| waiting.reply) {
            let _ = reply.send(Err(UpstreamError::Lost));
        }
        for call in self.backlog.drain(..) {
            let _ = call.reply.send(Err(UpstreamError::NotSent));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_leaves_the_others_their_turn() {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback");
        let silent = socket.listen(1).expect("a short queue");
        let silent = (silent.local_addr().expect("bound"), silent);
        // A full queue drops what comes, like a firewall.
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(CONNECT_MAX, TcpStream::connect(silent.0)).await {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue never fills");
        }
        let node = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let there = node.local_addr().expect("bound");
        let connected = timeout(CONNECT_MAX, connect_any(&[silent.0, there])).await;
        let stream = connected.expect("in time").expect("the second address takes it");
        assert_eq!(stream.peer_addr().expect("connected"), there);
        assert!(connect_any(&[]).await.is_err());
    }
}
