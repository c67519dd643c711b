//! What goes wrong on wires: cuts, resets, stalls, dead and sleeping processes; and how it ends.

use std::collections::BTreeMap;
use std::io;

use raft_transport::Lane;

use super::pipe::{Content, Dial, EndState, Garble, Pipe, Way};
use super::{
    ACCEPTOR, DIALER, Link, Listener, Machine, NEVER, NetEvent, NetState, PipeId, Place,
    RETRANSMIT_US, Side,
};

impl NetState {
    /// Cuts one direction between two nodes; several cuts add up.
    pub(in crate::sim::bytes) fn cut(&mut self, from: Place, to: Place) {
        let now = self.now;
        let link = self.link(from, to);
        if link.cuts == 0 {
            link.cut_since = now;
        }
        link.cuts += 1;
    }

    /// Takes one cut away. What was stuck behind the last one is sent again by and by.
    pub(in crate::sim::bytes) fn mend(&mut self, from: Place, to: Place) {
        let now = self.now;
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
        if link.cuts > 0 {
            return;
        }
        // A sender that has waited long asks again late.
        let patience = (now - link.cut_since).clamp(RETRANSMIT_US, 3_000_000);
        self.resume(|from_place, to_place| (from_place, to_place) == (from, to), patience);
    }

    /// What is stuck on these links moves again within `patience`.
    fn resume(&mut self, concerns: impl Fn(Place, Place) -> bool, patience: u64) {
        for pipe in 0..self.pipes.len() as PipeId {
            for from in [DIALER, ACCEPTOR] {
                let Some(pipe_now) = self.pipe(pipe) else { continue };
                let (here, there) = (pipe_now.ends[from].place, pipe_now.ends[1 - from].place);
                if concerns(there, here) {
                    let freed = std::mem::take(&mut pipe_now.ways[from].unacknowledged);
                    self.make_room(pipe, from, freed);
                }
                if !concerns(here, there) {
                    continue;
                }
                let delay = self.rng.below(patience);
                let at = self.travel(here, there, 60);
                let Some(pipe_now) = self.pipe(pipe) else { continue };
                let way = &mut pipe_now.ways[from];
                // What left before the cut may still be on its way ahead of what is stuck.
                if at == NEVER || way.flying.iter().all(|packet| packet.at != NEVER) {
                    continue;
                }
                let left = way.flying.back().map_or(0, |packet| packet.left);
                let at = (at + delay).max(way.last_at).max(left);
                way.last_at = at;
                let stuck = way.flying.iter_mut().filter(|packet| packet.at == NEVER);
                stuck.for_each(|packet| packet.at = at);
                self.counts.retransmissions += 1;
                self.plan(at, NetEvent::Arrive { pipe, from });
            }
        }
    }

    /// The process of a node is gone. Its kernel says so to everybody who is connected, unless
    /// the machine has gone with it.
    pub(in crate::sim::bytes) fn process_gone(&mut self, place: Place, machine: Machine) {
        self.nodes[place].machine = machine;
        self.nodes[place].lanes.clear();
        let now = self.now;
        for pipe in 0..self.pipes.len() as PipeId {
            for side in [DIALER, ACCEPTOR] {
                let Some(pipe_now) = self.pipe(pipe) else { continue };
                if pipe_now.ends[side].place != place {
                    continue;
                }
                // What it stood still before never left.
                pipe_now.ways[side].flying.retain(|packet| packet.left <= now);
                match machine {
                    Machine::Off => {
                        let end = &mut pipe_now.ends[side];
                        if end.state != EndState::Unborn {
                            end.state = EndState::Forgotten;
                        }
                        if side == DIALER && pipe_now.dial == Dial::Connecting {
                            pipe_now.dial = Dial::Failed(io::ErrorKind::ConnectionAborted);
                        }
                        self.forget_if_over(pipe);
                    }
                    Machine::Empty | Machine::Runs | Machine::Paused => {
                        if pipe_now.ends[side].state != EndState::Unborn {
                            self.close(pipe, side);
                        }
                    }
                }
            }
        }
    }

    /// A process begins to listen. A machine that was off answers again.
    pub(in crate::sim::bytes) fn listen(&mut self, place: Place, lanes: BTreeMap<Lane, Listener>) {
        let was = std::mem::replace(&mut self.nodes[place].machine, Machine::Runs);
        self.nodes[place].lanes = lanes;
        if was == Machine::Off {
            self.resume(|_, to| to == place, 3_000_000);
        }
    }

    /// The process of a node stops or goes on, with whatever its kernel has gathered.
    pub(in crate::sim::bytes) fn pause(&mut self, place: Place) {
        if self.nodes[place].machine == Machine::Runs {
            self.nodes[place].machine = Machine::Paused;
        }
    }

    pub(in crate::sim::bytes) fn unpause(&mut self, place: Place) {
        if self.nodes[place].machine != Machine::Paused {
            return;
        }
        self.nodes[place].machine = Machine::Runs;
        for pipe in 0..self.pipes.len() as PipeId {
            let waits = self
                .pipe(pipe)
                .is_some_and(|pipe| pipe.prefix.is_some() && pipe.ends[ACCEPTOR].place == place);
            if waits {
                self.read_prefix(pipe);
            }
        }
    }

    /// Connections between living processes, in order, with the lane they were dialed for.
    pub(in crate::sim::bytes) fn connections(&self) -> Vec<(PipeId, Place, Place, Lane)> {
        let open = |(number, pipe): (usize, &Option<Box<Pipe>>)| {
            let pipe = pipe.as_deref()?;
            let open = pipe.ends.iter().all(|end| end.state == EndState::Open);
            let (from, to) = (pipe.ends[DIALER].place, pipe.ends[ACCEPTOR].place);
            (open && pipe.dial == Dial::Connected).then_some((
                number as PipeId,
                from,
                to,
                pipe.lane,
            ))
        };
        self.pipes.iter().enumerate().filter_map(open).collect()
    }

    /// Resets a connection: of what is under way, the first `bytes` still arrive.
    pub(in crate::sim::bytes) fn reset(&mut self, pipe: PipeId, bytes: [usize; 2]) {
        let now = self.now;
        for side in [DIALER, ACCEPTOR] {
            let Some(pipe_now) = self.pipe(pipe) else { return };
            let way = &mut pipe_now.ways[side];
            // Nothing arrives behind what was lost, though the sender hears of it later.
            way.lost = true;
            let mut left = bytes[side];
            for packet in way.flying.drain(..).filter(|packet| packet.left <= now) {
                if let Content::Bytes(bytes) = packet.content {
                    let count = bytes.len().min(left);
                    way.ready.extend(&bytes[..count]);
                    left -= count;
                }
            }
            let task = pipe_now.ends[1 - side].task;
            self.woken.push(task);
            // Whatever did arrive can be read first.
            let at = self.now + self.rng.below(2_000);
            self.plan(at, NetEvent::Reset { pipe, side: 1 - side });
        }
    }

    /// One end dies without a word: the other may go on believing.
    pub(in crate::sim::bytes) fn half_open(&mut self, pipe: PipeId, side: Side) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        pipe_now.ways[side].flying.clear();
        self.break_end(pipe, side);
    }

    /// One connection is stuck for a while, in one direction.
    pub(in crate::sim::bytes) fn stall(&mut self, pipe: PipeId, side: Side, until: u64) {
        let Some(pipe_now) = self.pipe(pipe) else { return };
        pipe_now.ways[side].stalled_until = until;
        let (here, there) = (pipe_now.ends[side].place, pipe_now.ends[1 - side].place);
        self.stalled.push((here, there, pipe, until));
    }

    /// A bit flips in what a connection carries next in one direction. Its first bytes are spared:
    /// the prefix has no checksum, and a wrong one leads to another door.
    pub(in crate::sim::bytes) fn garble(&mut self, pipe: PipeId, side: Side, draw: u64) {
        if let Some(pipe) = self.pipe(pipe)
            && pipe.prefix.is_none()
            && pipe.ways[side].garble == Garble::None
        {
            pipe.ways[side].garble = Garble::Next(draw);
        }
    }

    /// Connections that a node goes on with although it has read a frame that was damaged.
    pub(in crate::sim::bytes) fn trusts_garbled(&self) -> Vec<(Place, Place, Lane)> {
        let mut found = Vec::new();
        for pipe in self.pipes.iter().flatten() {
            for (way, end) in pipe.ways.iter().zip(pipe.ends.iter().rev()) {
                let Garble::Done(at) = way.garble else { continue };
                let taken = way.tap.as_ref().is_some_and(|tap| tap.has_read_frame_at(at));
                if taken && end.state == EndState::Open {
                    found.push((pipe.ends[DIALER].place, pipe.ends[ACCEPTOR].place, pipe.lane));
                }
            }
        }
        found
    }

    /// Everything gets better: no cuts, no losses, no refusals, no stalls.
    pub(in crate::sim::bytes) fn heal(&mut self) {
        let nodes = self.nodes.len();
        for (from, to) in (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))) {
            while self.is_cut(from, to) {
                self.mend(from, to);
            }
            self.link(from, to).loss_permille = 0;
        }
        for host in &mut self.nodes {
            host.refuses = false;
            host.slow_us = 0;
        }
        self.stalled.clear();
        for pipe in self.pipes.iter_mut().flatten() {
            for way in &mut pipe.ways {
                way.stalled_until = 0;
                if matches!(way.garble, Garble::Next(_)) {
                    way.garble = Garble::None;
                }
            }
        }
    }

    /// Links are slow no more, and what is under way on them arrives soon.
    pub(in crate::sim::bytes) fn full_pace(&mut self) {
        self.pace = None;
        for pipe in 0..self.pipes.len() as PipeId {
            for from in [DIALER, ACCEPTOR] {
                let Some(pipe_now) = self.pipe(pipe) else { continue };
                let (here, there) = (pipe_now.ends[from].place, pipe_now.ends[1 - from].place);
                let soon = self.travel(here, there, 60);
                let Some(pipe_now) = self.pipe(pipe) else { continue };
                let way = &mut pipe_now.ways[from];
                way.busy_until = 0;
                if soon == NEVER || way.flying.front().is_none_or(|packet| packet.at <= soon) {
                    continue;
                }
                for packet in &mut way.flying {
                    packet.at = packet.at.min(soon.max(packet.left));
                    way.last_at = packet.at;
                }
                let first = way.flying.front().map_or(soon, |packet| packet.at);
                self.plan(first, NetEvent::Arrive { pipe, from });
            }
        }
    }

    /// Changes how fast a link is.
    pub(in crate::sim::bytes) fn tune(
        &mut self,
        from: Place,
        to: Place,
        change: impl FnOnce(&mut Link),
    ) {
        change(self.link(from, to));
    }

    /// Whether nothing is under way on any connection of a lane from here to there.
    pub(in crate::sim::bytes) fn is_quiet(&self, from: Place, to: Place, lane: Lane) -> bool {
        self.pipes.iter().flatten().all(|pipe| {
            let ends = (pipe.ends[DIALER].place, pipe.ends[ACCEPTOR].place, pipe.lane);
            let empty = |way: &Way| way.flying.is_empty() && way.ready.is_empty();
            ends != (from, to, lane) || pipe.ways.iter().all(empty)
        })
    }

    /// Connections of which at least one end is held by somebody.
    pub(in crate::sim::bytes) fn live(&self) -> usize {
        self.live
    }
}
