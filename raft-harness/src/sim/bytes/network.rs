//! Byte streams between nodes as TCP gives them, over links that delay, lose, stall and break.
//!
//! What TCP promises is kept: bytes of one direction of one connection arrive in order, unchanged
//! and at most once; only when a fault says so a bit flips, as checksums of sixteen bits let one
//! pass now and then. Everything else may happen. A lost packet is a delay. A cut link stops what
//! is under way; it arrives some time after the cut is mended, if its connection still lives at
//! the other end, whatever has happened to the node in between. A connection can be reset at any
//! byte, or die at one end without the other hearing of it. Windows are finite: who does not read
//! stops the writer.
//!
//! Each direction of a link has its own cuts, latency and bandwidth. The kernel of a node answers
//! for its processes: it completes connections while they sleep, refuses them when they are gone,
//! and says nothing at all while the machine is off.

mod faults;
mod pipe;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use raft_core::NodeId;
use raft_mux::PrefixDecoder;
use raft_transport::Lane;

use self::pipe::{Content, Dial, End, EndState, Garble, Packet, Pipe, Way};
use super::fuse::Fuse;
use super::sightings::Sightings;
use super::tap::{Greeting, Heard, Tap};
use super::tasks::TaskId;
use crate::sim::marks::Mark;
use crate::sim::rng::Rng;
use crate::sim::violation::{Check, Violation};

/// What is under way behind a cut arrives when somebody mends it.
const NEVER: u64 = u64::MAX;

/// The kernel sends again after this long, in microseconds: Linux's smallest timeout.
const RETRANSMIT_US: u64 = 200_000;

/// A dialer has said which lane it wants within this time, or is closed (the mux's deadline).
const PREFIX_US: u64 = 1_000_000;

/// What a slow link carries within so long, in milliseconds, arrives together.
const PIECE_MS: usize = 100;

/// Connections that a lane has not accepted yet; the newest beyond is closed (the mux's bound).
const ACCEPTS_MAX: usize = 64;

/// The number of a node, from zero.
pub(super) type Place = usize;

/// The number of a connection, never used twice.
pub(super) type PipeId = u32;

/// Who dialed, and who was dialed.
pub(super) type Side = usize;
pub(super) const DIALER: Side = 0;
pub(super) const ACCEPTOR: Side = 1;

/// One cluster's network. Clones share it.
#[derive(Clone)]
pub(super) struct Net {
    state: Arc<Mutex<NetState>>,
}

impl Net {
    pub(super) fn new(
        nodes: Vec<Host>,
        links: Vec<Link>,
        rng: Rng,
        chop: Chop,
        sightings: Sightings,
    ) -> Self {
        let state = NetState {
            now: 0,
            rng,
            chop,
            nodes,
            links,
            pipes: Vec::new(),
            live: 0,
            timers: Vec::new(),
            woken: Vec::new(),
            heard: Heard::new(sightings.clone()),
            sightings,
            stalled: Vec::new(),
            counts: Counts::default(),
            pace: None,
            patience_us: 0,
            quiet_from: 0,
            ending: None,
            unjust: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NetState> {
        self.state.lock()
    }
}

/// How streams are cut into pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Chop {
    /// As much as there is room for.
    Whole,
    /// So many writes and reads of a thousand move a few bytes only.
    Permille(u32),
}

/// One node as the network sees it.
pub(super) struct Host {
    pub(super) id: NodeId,
    pub(super) fuse: Arc<Fuse>,
    pub(super) machine: Machine,
    /// Whether nobody may take it for a peer: it came back with an empty disk.
    pub(super) is_stranger: bool,
    /// The lanes that are listened to, each with who listens and who waits to be accepted.
    pub(super) lanes: BTreeMap<Lane, Listener>,
    /// New connections are refused, or answered late by so many microseconds.
    pub(super) refuses: bool,
    pub(super) slow_us: u64,
    /// Bytes a socket holds in each direction.
    pub(super) window: usize,
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Machine {
    /// Its process runs.
    Runs,
    /// Its process is stopped; the kernel goes on.
    Paused,
    /// Its process is gone; the kernel refuses.
    Empty,
    /// It is off.
    Off,
}

pub(super) struct Listener {
    pub(super) task: TaskId,
    pub(super) waiting: VecDeque<PipeId>,
}

/// One direction between two nodes.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// How many faults cut it at the moment, and since when.
    pub(super) cuts: u32,
    pub(super) cut_since: u64,
    pub(super) latency_us: u64,
    pub(super) jitter_us: u64,
    /// Bytes per millisecond.
    pub(super) rate: u64,
    pub(super) busy_until: u64,
    /// Of a thousand packets, how many are lost and sent again.
    pub(super) loss_permille: u32,
}

/// What the network wants to be told when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NetEvent {
    /// The first bytes under way in this direction have arrived.
    Arrive { pipe: PipeId, from: Side },
    /// A connection request has reached the other node.
    Syn { pipe: PipeId },
    /// The answer to it is back.
    Connected { pipe: PipeId },
    /// It was refused.
    Refused { pipe: PipeId },
    /// The dialer gives up.
    DialTimeout { pipe: PipeId },
    /// The acceptor gives up.
    PrefixTimeout { pipe: PipeId },
    /// A reset reaches this end.
    Reset { pipe: PipeId, side: Side },
}

/// How often what happened, for statistics and marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) dials: u64,
    pub(super) connects: u64,
    pub(super) resets: u64,
    pub(super) bytes: u64,
    pub(super) late_arrivals: u64,
    pub(super) retransmissions: u64,
    pub(super) windows_full: u64,
    pub(super) prefixes_timed_out: u64,
    pub(super) garbled: u64,
}

pub(super) struct NetState {
    /// Virtual time, set before anything is asked.
    pub(super) now: u64,
    rng: Rng,
    chop: Chop,
    pub(super) nodes: Vec<Host>,
    links: Vec<Link>,
    pipes: Vec<Option<Box<Pipe>>>,
    live: usize,
    /// To be planned by the world.
    pub(super) timers: Vec<(u64, NetEvent)>,
    /// Tasks with something to read or room to write.
    pub(super) woken: Vec<TaskId>,
    /// What was written in this turn, for the oracle.
    pub(super) heard: Heard,
    sightings: Sightings,
    /// Connections that are stuck in one direction: from where to where, and until when.
    stalled: Vec<(Place, Place, PipeId, u64)>,
    pub(super) counts: Counts,
    /// Each direction of each connection carries so many bytes per millisecond: a slow link whose
    /// routers share it out fairly.
    pub(super) pace: Option<u64>,
    /// A connection on which bytes moved so recently is not silent.
    pub(super) patience_us: u64,
    /// Nothing has gone wrong with wires or nodes since then.
    pub(super) quiet_from: u64,
    /// Why the stream that is closed next is closed.
    pub(super) ending: Option<Ending>,
    /// Connections that were ended for what their peers did not do.
    pub(super) unjust: Vec<Violation>,
}

/// Why an end closes its stream, as far as it says something of the other end.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// The other end broke the lane's rules.
    Accuses(String),
    /// The other end says nothing.
    Silence(String),
    Other,
}

/// What came of an attempt to move bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moved {
    Bytes(usize),
    Blocked,
    Failed(io::ErrorKind),
}

impl NetState {
    fn link(&mut self, from: Place, to: Place) -> &mut Link {
        let nodes = self.nodes.len();
        &mut self.links[from * nodes + to]
    }

    pub(super) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.links[from * self.nodes.len() + to].cuts > 0
    }

    fn pipe(&mut self, pipe: PipeId) -> Option<&mut Pipe> {
        self.pipes.get_mut(pipe as usize)?.as_deref_mut()
    }

    /// When something sent now arrives, or [`NEVER`] behind a cut.
    fn travel(&mut self, from: Place, to: Place, bytes: u64) -> u64 {
        let now = self.now;
        let mut rng = self.rng.clone();
        let link = self.link(from, to);
        if link.cuts > 0 {
            return NEVER;
        }
        link.busy_until = link.busy_until.max(now) + bytes * 1000 / link.rate.max(1);
        let mut at = link.busy_until + link.latency_us;
        if link.jitter_us > 0 {
            at += rng.skewed(link.jitter_us);
        }
        let lost = link.loss_permille > 0 && rng.permille(link.loss_permille);
        self.rng = rng;
        if lost {
            self.counts.retransmissions += 1;
            at += RETRANSMIT_US;
        }
        at
    }

    fn plan(&mut self, at: u64, event: NetEvent) {
        if at != NEVER {
            self.timers.push((at, event));
        }
    }

    /// A process asks for a connection.
    pub(super) fn dial(
        &mut self,
        from: Place,
        task: TaskId,
        to: Place,
        lane: Lane,
        timeout_us: u64,
    ) -> PipeId {
        let pipe = self.pipes.len() as PipeId;
        let end = |place, state| End { place, task, state };
        let ends = [end(from, EndState::Open), end(to, EndState::Unborn)];
        let (local, remote) = (self.nodes[from].id, self.nodes[to].id);
        let watch = |place: Place| {
            if self.nodes[place].is_stranger { Greeting::Watched } else { Greeting::Expected }
        };
        let taps = [
            Tap::dialer(local, remote, lane, watch(to)),
            Tap::acceptor(remote, local, lane, watch(from)),
        ];
        let ways = taps.map(Way::new);
        let prefix = Some(PrefixDecoder::new());
        let dial = Dial::Connecting;
        self.pipes.push(Some(Box::new(Pipe { lane, ends, ways, prefix, dial })));
        self.live += 1;
        self.counts.dials += 1;
        if self.nodes[from].fuse.burn() {
            let at = self.travel(from, to, 0);
            self.plan(at, NetEvent::Syn { pipe });
        }
        self.plan(self.now + timeout_us, NetEvent::DialTimeout { pipe });
        pipe
    }

    /// How a dial stands.
    pub(super) fn dialed(&mut self, pipe: PipeId) -> Option<Result<(), io::ErrorKind>> {
        match self.pipe(pipe)?.dial {
            Dial::Connecting => None,
            Dial::Connected => Some(Ok(())),
            Dial::Failed(kind) => Some(Err(kind)),
        }
    }

    /// The next connection to a lane, if one waits.
    pub(super) fn accept(&mut self, place: Place, lane: Lane) -> Option<PipeId> {
        let listener = self.nodes[place].lanes.get_mut(&lane)?;
        let (task, pipe) = (listener.task, listener.waiting.pop_front()?);
        if let Some(pipe) = self.pipe(pipe) {
            pipe.ends[ACCEPTOR].task = task;
        }
        Some(pipe)
    }

    /// A process writes.
    pub(super) fn write(&mut self, pipe: PipeId, side: Side, parts: &[io::IoSlice<'_>]) -> Moved {
        let Some(place) = self.pipe(pipe).map(|pipe| pipe.ends[side].place) else {
            return Moved::Failed(io::ErrorKind::NotConnected);
        };
        let window = self.nodes[place].window;
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let few = self.is_chopped().then(|| self.rng.range(1..=16) as usize);
        // Packets of a slow link are no longer than what it carries in a moment.
        let piece = self.pace.map(|pace| pace as usize * PIECE_MS);
        let few = few.into_iter().chain(piece).min();
        let Some(pipe_now) = self.pipe(pipe) else {
            return Moved::Failed(io::ErrorKind::NotConnected);
        };
        match pipe_now.ends[side].state {
            EndState::Open => {}
            EndState::Broken(kind) => return Moved::Failed(kind),
            EndState::Unborn | EndState::Closed | EndState::Forgotten => {
                return Moved::Failed(io::ErrorKind::NotConnected);
            }
        }
        let to = pipe_now.ends[1 - side].place;
        let way = &mut pipe_now.ways[side];
        let room = window.saturating_sub(way.in_use);
        let count = total.min(room).min(few.unwrap_or(usize::MAX));
        if count == 0 && total > 0 {
            way.blocked = true;
            self.counts.windows_full += 1;
            return Moved::Blocked;
        }
        if !self.nodes[place].fuse.burn() {
            return Moved::Blocked;
        }
        let mut bytes = Vec::with_capacity(count);
        for part in parts {
            let take = part.len().min(count - bytes.len());
            bytes.extend_from_slice(&part[..take]);
        }
        self.counts.bytes += count as u64;
        let mut at = self.travel(place, to, count as u64 + 60);
        if let (Some(pace), now, Some(pipe)) = (self.pace, self.now, self.pipe(pipe)) {
            let way = &mut pipe.ways[side];
            way.busy_until = way.busy_until.max(now) + count as u64 * 1000 / pace.max(1);
            at = at.max(way.busy_until);
        }
        if let Some(Some(pipe_now)) = self.pipes.get_mut(pipe as usize) {
            let way = &mut pipe_now.ways[side];
            way.in_use += count;
            if let Some(tap) = &mut way.tap {
                tap.hear(&bytes, &mut self.heard);
            }
        }
        self.send(pipe, side, at, Content::Bytes(bytes));
        Moved::Bytes(count)
    }

    fn is_chopped(&mut self) -> bool {
        match self.chop {
            Chop::Whole => false,
            Chop::Permille(permille) => self.rng.permille(permille),
        }
    }

    fn send(&mut self, pipe: PipeId, from: Side, at: u64, content: Content) {
        let left = self.now;
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let way = &mut pipe_now.ways[from];
        if way.lost {
            return;
        }
        let mut at = at;
        if at != NEVER {
            at = at.max(way.last_at).max(way.stalled_until);
            way.last_at = at;
        }
        let is_first = way.flying.is_empty();
        way.flying.push_back(Packet { left, at, content });
        if is_first {
            self.plan(at, NetEvent::Arrive { pipe, from });
        }
    }

    /// What a read would say that finds no bytes; `None` if there are some.
    pub(super) fn nothing_to_read(&mut self, pipe: PipeId, side: Side) -> Option<Moved> {
        let Some(pipe) = self.pipe(pipe) else {
            return Some(Moved::Failed(io::ErrorKind::NotConnected));
        };
        if let EndState::Broken(kind) = pipe.ends[side].state {
            return Some(Moved::Failed(kind));
        }
        let way = &pipe.ways[1 - side];
        let empty = if way.ended { Moved::Bytes(0) } else { Moved::Blocked };
        way.ready.is_empty().then_some(empty)
    }

    /// A process reads.
    pub(super) fn read(&mut self, pipe: PipeId, side: Side, buffer: &mut [u8]) -> Moved {
        if let Some(moved) = self.nothing_to_read(pipe, side) {
            return moved;
        }
        let ready = self.pipe(pipe).map_or(0, |pipe| pipe.ways[1 - side].ready.len());
        let few = self.is_chopped().then(|| self.rng.range(1..=16) as usize);
        let (now, patience, paced) = (self.now, self.patience_us, self.pace.is_some());
        let count = ready.min(buffer.len()).min(few.unwrap_or(usize::MAX));
        let Some(pipe_now) = self.pipe(pipe) else { return Moved::Blocked };
        let (here, there) = (pipe_now.ends[side].place, pipe_now.ends[1 - side].place);
        let way = &mut pipe_now.ways[1 - side];
        let (front, back) = way.ready.as_slices();
        let first = front.len().min(count);
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..count].copy_from_slice(&back[..count - first]);
        way.ready.drain(..count);
        way.read += count as u64;
        way.read_at = now;
        let mut took_long = false;
        if let Some(tap) = &mut way.tap {
            tap.read_upto(way.read);
            // Somebody is in the middle of a frame for longer than lanes wait for a word.
            if tap.cuts_frame(way.read) {
                let since = *way.within_since.get_or_insert(now);
                took_long = paced && now - since > patience;
            } else {
                way.within_since = None;
            }
        }
        self.sightings.hit_if(took_long, Mark::LargeOnSlowLane);
        if self.is_cut(here, there) {
            if let Some(pipe) = self.pipe(pipe) {
                pipe.ways[1 - side].unacknowledged += count;
            }
        } else {
            self.make_room(pipe, 1 - side, count);
        }
        Moved::Bytes(count)
    }

    fn make_room(&mut self, pipe: PipeId, writer: Side, count: usize) {
        let Some(pipe) = self.pipe(pipe) else { return };
        let way = &mut pipe.ways[writer];
        way.in_use -= count;
        if std::mem::take(&mut way.blocked) {
            let task = pipe.ends[writer].task;
            self.woken.push(task);
        }
    }

    /// A process closes its end: the other hears of it in time, or by a reset if bytes are lost.
    pub(super) fn close(&mut self, pipe: PipeId, side: Side) {
        if let Some(ending) = self.ending.take() {
            self.judge_ending(pipe, &ending);
        }
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let was = std::mem::replace(&mut pipe_now.ends[side].state, EndState::Closed);
        let unread = !pipe_now.ways[1 - side].ready.is_empty();
        let (here, there) = (pipe_now.ends[side].place, pipe_now.ends[1 - side].place);
        if was == EndState::Open && pipe_now.dial == Dial::Connected {
            if unread {
                self.reset_other(pipe, side);
            } else {
                let at = self.travel(here, there, 60);
                self.send(pipe, side, at, Content::End);
            }
        } else if side == DIALER && pipe_now.dial == Dial::Connecting {
            pipe_now.dial = Dial::Failed(io::ErrorKind::ConnectionAborted);
        }
        self.forget_if_over(pipe);
    }

    /// Whether an end may say of the other what it says.
    fn judge_ending(&mut self, pipe: PipeId, ending: &Ending) {
        let (now, patience, quiet) = (self.now, self.patience_us, self.quiet_from);
        let Some(pipe) = self.pipe(pipe) else { return };
        let lane = pipe.lane;
        let (from, to) = (pipe.ends[DIALER].place, pipe.ends[ACCEPTOR].place);
        let found = match ending {
            Ending::Other => None,
            Ending::Accuses(what) => {
                let garbled = pipe.ways.iter().any(|way| matches!(way.garble, Garble::Done(_)));
                let evidence = format!("{lane} lane from {from} to {to}: {what}");
                (!garbled).then(|| Violation::of_run(Check::Blame, evidence))
            }
            Ending::Silence(what) => {
                let moved = pipe.ways.iter().map(|way| way.read_at).max().unwrap_or(0);
                let unjust = now.saturating_sub(moved) < patience
                    && now.saturating_sub(2 * patience) > quiet;
                let evidence = format!(
                    "{lane} lane from {from} to {to}: {what}, bytes moved {} ms ago",
                    now.saturating_sub(moved) / 1000
                );
                unjust.then(|| Violation::of_run(Check::Silence, evidence))
            }
        };
        self.unjust.extend(found);
    }

    fn reset_other(&mut self, pipe: PipeId, side: Side) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let (here, there) = (pipe_now.ends[side].place, pipe_now.ends[1 - side].place);
        let at = self.travel(here, there, 60);
        self.plan(at, NetEvent::Reset { pipe, side: 1 - side });
    }

    fn forget_if_over(&mut self, pipe: PipeId) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let over = pipe_now.ends.iter().all(|end| {
            matches!(end.state, EndState::Closed | EndState::Forgotten | EndState::Unborn)
        });
        if over {
            self.pipes[pipe as usize] = None;
            self.live -= 1;
        }
    }

    /// Something planned has come.
    pub(super) fn happen(&mut self, event: NetEvent) {
        match event {
            NetEvent::Arrive { pipe, from } => self.arrive(pipe, from),
            NetEvent::Syn { pipe } => self.on_syn(pipe),
            NetEvent::Connected { pipe } => self.on_dial_end(pipe, Dial::Connected),
            NetEvent::Refused { pipe } => {
                self.on_dial_end(pipe, Dial::Failed(io::ErrorKind::ConnectionRefused));
            }
            NetEvent::DialTimeout { pipe } => {
                self.on_dial_end(pipe, Dial::Failed(io::ErrorKind::TimedOut));
            }
            NetEvent::PrefixTimeout { pipe } => {
                if self.pipe(pipe).is_some_and(|pipe| pipe.prefix.is_some()) {
                    self.counts.prefixes_timed_out += 1;
                    self.close(pipe, ACCEPTOR);
                }
            }
            NetEvent::Reset { pipe, side } => self.break_end(pipe, side),
        }
    }

    fn on_syn(&mut self, pipe: PipeId) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let (from, to) = (pipe_now.ends[DIALER].place, pipe_now.ends[ACCEPTOR].place);
        // The first packet is lost like any other; the dial's timeout is below the kernel's.
        if pipe_now.dial != Dial::Connecting || self.is_cut(from, to) {
            return;
        }
        let host = &self.nodes[to];
        let (machine, refuses, slow) = (host.machine, host.refuses, host.slow_us);
        match machine {
            Machine::Off => {}
            Machine::Runs | Machine::Paused if !refuses => {
                if let Some(pipe) = self.pipe(pipe) {
                    pipe.ends[ACCEPTOR].state = EndState::Open;
                }
                let at = self.travel(to, from, 60);
                self.plan(at.saturating_add(slow), NetEvent::Connected { pipe });
                self.plan(self.now + PREFIX_US, NetEvent::PrefixTimeout { pipe });
            }
            Machine::Runs | Machine::Paused | Machine::Empty => {
                let at = self.travel(to, from, 60);
                self.plan(at, NetEvent::Refused { pipe });
            }
        }
    }

    fn on_dial_end(&mut self, pipe: PipeId, dial: Dial) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        if pipe_now.dial != Dial::Connecting {
            return;
        }
        pipe_now.dial = dial;
        let task = pipe_now.ends[DIALER].task;
        if dial == Dial::Connected {
            self.counts.connects += 1;
        }
        self.woken.push(task);
    }

    fn arrive(&mut self, pipe: PipeId, from: Side) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let (here, there) = (pipe_now.ends[from].place, pipe_now.ends[1 - from].place);
        if self.is_cut(here, there) || self.nodes[there].machine == Machine::Off {
            // It is sent again when there is somebody to hear it.
            if let Some(pipe) = self.pipe(pipe) {
                pipe.ways[from].flying.iter_mut().for_each(|packet| packet.at = NEVER);
            }
            return;
        }
        let now = self.now;
        let Some(pipe_now) = self.pipe(pipe) else { return };
        match pipe_now.ends[1 - from].state {
            EndState::Open => {}
            // A kernel that knows nothing of the connection says so.
            EndState::Unborn | EndState::Closed | EndState::Forgotten => {
                pipe_now.ways[from].flying.clear();
                self.counts.late_arrivals += 1;
                self.reset_other(pipe, 1 - from);
                return;
            }
            EndState::Broken(_) => {
                pipe_now.ways[from].flying.clear();
                return;
            }
        }
        let way = &mut pipe_now.ways[from];
        let mut garbled = 0;
        while way.flying.front().is_some_and(|packet| packet.at <= now)
            && let Some(packet) = way.flying.pop_front()
        {
            match packet.content {
                Content::Bytes(mut bytes) => {
                    if let Garble::Next(draw) = way.garble
                        && !bytes.is_empty()
                    {
                        let at = (draw >> 3) as usize % bytes.len();
                        bytes[at] ^= 1 << (draw & 7);
                        way.garble = Garble::Done(way.read + way.ready.len() as u64 + at as u64);
                        garbled += 1;
                    }
                    way.ready.extend(bytes);
                }
                Content::End => way.ended = true,
            }
        }
        let next = way.flying.front().map(|packet| packet.at);
        let task = pipe_now.ends[1 - from].task;
        self.counts.garbled += garbled;
        if !self.stalled.is_empty() {
            self.stalled.retain(|(.., until)| *until > now);
            let stuck = |(a, b, other, _): &(Place, Place, PipeId, u64)| {
                (*a, *b) == (here, there) && *other != pipe
            };
            self.sightings.hit_if(self.stalled.iter().any(stuck), Mark::LaneStalled);
        }
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let in_prefix = from == DIALER && pipe_now.prefix.is_some();
        if let Some(at) = next {
            self.plan(at, NetEvent::Arrive { pipe, from });
        }
        if in_prefix {
            if self.nodes[there].machine == Machine::Runs {
                self.read_prefix(pipe);
            }
        } else {
            self.woken.push(task);
        }
    }

    /// What the acceptor does with a connection's first bytes.
    fn read_prefix(&mut self, pipe: PipeId) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        let Some(decoder) = &mut pipe_now.prefix else { return };
        let way = &mut pipe_now.ways[DIALER];
        let wanted = decoder.missing().min(way.ready.len());
        let bytes: Vec<u8> = way.ready.drain(..wanted).collect();
        let group = decoder.feed(&mut bytes.as_slice());
        let ended = way.ended;
        let place = pipe_now.ends[ACCEPTOR].place;
        self.make_room(pipe, DIALER, bytes.len());
        let Some(group) = group else {
            if ended {
                self.close(pipe, ACCEPTOR);
            }
            return;
        };
        let lane = Lane::from_group_id(group);
        let listener = lane.and_then(|lane| self.nodes[place].lanes.get_mut(&lane));
        match listener.filter(|listener| listener.waiting.len() < ACCEPTS_MAX) {
            Some(listener) => {
                listener.waiting.push_back(pipe);
                let task = listener.task;
                self.woken.push(task);
                if let Some(pipe) = self.pipe(pipe) {
                    pipe.prefix = None;
                    pipe.ends[ACCEPTOR].task = task;
                }
            }
            None => self.close(pipe, ACCEPTOR),
        }
    }

    /// This end finds its connection broken.
    fn break_end(&mut self, pipe: PipeId, side: Side) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        if pipe_now.ends[side].state != EndState::Open {
            return;
        }
        let kind = io::ErrorKind::ConnectionReset;
        pipe_now.ends[side].state = EndState::Broken(kind);
        let way = &mut pipe_now.ways[1 - side];
        way.ready.clear();
        let cuts = way.tap.as_ref().is_some_and(|tap| tap.cuts_frame(way.read));
        if pipe_now.dial == Dial::Connecting {
            pipe_now.dial = Dial::Failed(kind);
        }
        let task = pipe_now.ends[side].task;
        let in_prefix = side == ACCEPTOR && pipe_now.prefix.is_some();
        self.counts.resets += 1;
        self.sightings.hit_if(cuts, Mark::FrameCut);
        self.woken.push(task);
        if in_prefix {
            self.close(pipe, ACCEPTOR);
        }
    }
}

#[cfg(test)]
mod tests;
