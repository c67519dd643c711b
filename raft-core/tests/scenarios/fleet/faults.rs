//! What a test does to a fleet: links, disks, power, clocks.

use raft_core::{Durable, Effects, Group, Incarnation, Input, ReplicaId, Start};

use super::disk::{Disk, Log};
use super::{Fleet, Packet, Up};

impl Fleet {
    /// Nothing passes between these two.
    pub(crate) fn cut(&mut self, a: ReplicaId, b: ReplicaId) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Nothing passes between this replica and any other.
    pub(crate) fn isolate(&mut self, id: ReplicaId) {
        for other in self.ids() {
            self.cut(id, other);
        }
    }

    /// Only these links are whole.
    pub(crate) fn join_only(&mut self, links: &[(ReplicaId, ReplicaId)]) {
        for a in self.ids() {
            for b in self.ids() {
                self.cut(a, b);
            }
        }
        for (a, b) in links {
            self.cut.remove(&(*a, *b));
            self.cut.remove(&(*b, *a));
        }
    }

    /// All links are whole.
    pub(crate) fn join(&mut self) {
        self.cut.clear();
    }

    /// From now on such messages wait in [`held`](Self::held).
    pub(crate) fn hold(&mut self, which: impl Fn(&Packet) -> bool + 'static) {
        self.hold = Some(Box::new(which));
    }

    /// Messages pass again; those held stay held.
    pub(crate) fn let_pass(&mut self) {
        self.hold = None;
    }

    /// Messages pass again, and those held arrive, oldest first.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        for packet in std::mem::take(&mut self.held) {
            self.deliver(packet);
        }
    }

    /// What the replica writes stays under way.
    pub(crate) fn hold_disk(&mut self, id: ReplicaId) {
        self.node_mut(id).disk.held = true;
    }

    /// The oldest operation of a replica becomes durable, and it hears of it.
    pub(crate) fn step_disk(&mut self, id: ReplicaId) -> bool {
        let node = self.node_mut(id);
        let Some(seq) = node.disk.step() else { return false };
        let Some(up) = &mut node.up else { return true };
        let mut free = Vec::new();
        for gate in std::mem::take(&mut up.gated) {
            match gate.open(Durable::attest(seq)) {
                Ok(outgoing) => free.push(outgoing),
                Err(gate) => up.gated.push(gate),
            }
        }
        for outgoing in free {
            self.post(id, outgoing);
        }
        self.input(id, Input::Persisted(seq));
        true
    }

    /// What the replica writes next is not made durable, now or later.
    pub(crate) fn fail_disk(&mut self, id: ReplicaId) {
        let disk = &mut self.node_mut(id).disk;
        disk.held = true;
        let failed = disk.pending.front().map(|operation| operation.persist.seq);
        self.input(id, Input::PersistFailed(failed.expect("something to be written")));
    }

    /// What the replica has written is in its page cache, and it hears of it.
    pub(crate) fn report_written(&mut self, id: ReplicaId) {
        let newest = self.node(id).disk.pending.back().map(|operation| operation.persist.seq);
        self.input(id, Input::Written(newest.expect("something was written")));
    }

    pub(crate) fn release_disk(&mut self, id: ReplicaId) {
        self.node_mut(id).disk.held = false;
    }

    /// The power fails: what is not durable is gone.
    pub(crate) fn crash(&mut self, id: ReplicaId) {
        let node = self.node_mut(id);
        node.up = None;
        node.paused = None;
        node.disk.crash();
    }

    /// The same, but the oldest operations reached the disk unheard.
    pub(crate) fn crash_after(&mut self, id: ReplicaId, operations: usize) {
        for _ in 0..operations {
            self.node_mut(id).disk.step();
        }
        self.crash(id);
    }

    /// It starts again, in its next life, from what its disk has.
    pub(crate) fn restart(&mut self, id: ReplicaId) {
        let start = self.node(id).disk.recover(self.node(id));
        self.start_from(id, start);
    }

    /// It starts again with an empty disk, under its old name.
    pub(crate) fn wipe(&mut self, id: ReplicaId) {
        self.crash(id);
        let first = self.node(id).first.clone();
        self.node_mut(id).disk = Disk { log: Log::of(first), ..Disk::default() };
        self.restart(id);
    }

    /// It starts with these promises, term and vote, and its disk has them.
    pub(crate) fn start_from(&mut self, id: ReplicaId, mut start: Start) {
        let true_now = self.now;
        let node = self.node_mut(id);
        node.life = Incarnation::new(node.life.get() + 1);
        start.incarnation = node.life;
        (node.disk.promise, node.disk.hard_state) = (start.promise, start.hard_state);
        let applied_seen = start.applied;
        let now = node.clock(true_now);
        let group = Group::new(now, start).expect("a sound start");
        let commit_seen = group.commit_index();
        let log = node.disk.log.clone();
        node.up = Some(Up {
            group,
            effects: Effects::default(),
            log,
            gated: Vec::new(),
            commit_seen,
            applied_seen,
            led: false,
            in_force: None,
            fetch: None,
        });
    }

    /// What [`restart`](Self::restart) starts from.
    pub(crate) fn recovered(&self, id: ReplicaId) -> Start {
        self.node(id).disk.recover(self.node(id))
    }

    /// The process stands still. Its clock does not.
    pub(crate) fn pause(&mut self, id: ReplicaId) {
        self.node_mut(id).paused = Some(Vec::new());
    }

    /// It goes on; what arrived meanwhile is still to be heard.
    pub(crate) fn resume(&mut self, id: ReplicaId) {
        let waiting = self.node_mut(id).paused.take().unwrap_or_default();
        self.wire.extend(waiting);
    }

    /// Its clock runs so much faster than true time, or slower, in parts per million.
    pub(crate) fn drift(&mut self, id: ReplicaId, ppm: i64) {
        let true_now = self.now;
        let node = self.node_mut(id);
        let shows = node.clock(true_now).get();
        node.rate = 1_000_000u64.saturating_add_signed(ppm);
        node.offset = shows - true_now * node.rate / 1_000_000;
    }

    /// This replica may meet the impossible and go mute.
    pub(crate) fn allow_fault(&mut self, id: ReplicaId) {
        self.may_fault.insert(id);
    }
}
