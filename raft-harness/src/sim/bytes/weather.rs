//! Faults take effect, and end.

use super::accounts::After;
use super::clock::Still;
use super::disk::{Aim, Harm, Harmed, SimDisk};
use super::faults::{Fault, Power};
use super::floods::{Snare, Use};
use super::network::{ACCEPTOR, DIALER, Place};
use super::operator::Of;
use super::snapshots::stored;
use super::world::{Event, Phase, Standing, World};
use crate::node::sim::KnownStores;
use crate::sim::marks::Mark;
use crate::sim::rng::Rng;
use raft_core::GroupId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Waits for a node that works on a snapshot.
pub(super) struct Trap {
    then: Then,
    until: u64,
}

/// What happens when it does.
enum Then {
    /// It dies after so many more effects.
    Crash(u64, Power),
    /// Who leads the group is cut off, by this fault and for so long.
    CutSource(usize, u64),
}

/// Waits for a thread whose turn comes to a certain look at its clocks.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Of this node; `None`: of whichever comes there first.
    node: Option<Place>,
    /// Which look it stands still before; the first one: after it.
    pub(super) before_look: u32,
    for_us: u64,
    until: u64,
    /// Nobody stands still for longer: the faults are over.
    end: u64,
}

impl Stop {
    pub(super) fn concerns(&self, place: Place, now: u64) -> bool {
        now < self.until.min(self.end) && self.node.is_none_or(|node| node == place)
    }

    /// When it is over if it begins now.
    pub(super) fn end(&self, now: u64) -> u64 {
        (now + self.for_us).min(self.end)
    }

    pub(super) fn still(&self, now: u64) -> Still {
        Still { before_look: self.before_look, for_us: self.end(now) - now }
    }
}

/// So long a stop waits for its turn to come, in microseconds.
const STOP_WAITS_US: u64 = 4_000_000;

impl World {
    /// A node works on a snapshot that is on its way to it.
    pub(super) fn spring_trap(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let Some(trap) = self.trap.take_if(|trap| trap.until > self.now && node.crash.is_none())
        else {
            return;
        };
        match trap.then {
            Then::Crash(effects, power) => {
                node.fuse.light(effects);
                node.crash = Some((power, 50_000 + trap.until - self.now));
            }
            Then::CutSource(fault, lasts) => self.cut_source(place, fault, lasts),
        }
    }

    /// Who leads the group that a node fetches a snapshot of is cut off.
    fn cut_source(&mut self, place: Place, fault: usize, lasts: u64) {
        let Some(process) = &self.nodes[place].process else { return };
        let groups: Vec<GroupId> = process.desk.wanted().map(|name| name.group).collect();
        let leaders = self.judge.lock().onlooker.leaders();
        let source = leaders.iter().find(|(group, at)| groups.contains(group) && *at != place);
        let Some((_, source)) = source else { return };
        let links = self.links_of(*source);
        {
            let mut net = self.net.lock();
            links.iter().for_each(|(from, to)| net.cut(*from, *to));
            net.quiet_from = net.quiet_from.max(self.now + lasts + 5_000_000);
        }
        self.note(Some(*source), || format!("is cut off while place {place} fetches"));
        // The fault stays what it is: whoever repeats the run waits for the same moment.
        self.sources_cut.insert(fault, links);
        self.plan_in(lasts, Event::FaultEnd(fault));
    }

    /// A fault begins; returns the node whose process it has touched.
    pub(super) fn begin_fault(&mut self, at: usize) -> Option<Place> {
        let mut rng = Rng::new(self.faults[at].draw);
        // From here on the fault is what it has become: that is what has to end.
        let fault = self.resolved(&self.faults[at].fault, &mut rng)?;
        self.faults[at].fault = fault;
        let planned = self.faults[at].clone();
        let took_effect = self.carry_out(at, &planned.fault, planned.lasts, &mut rng);
        if took_effect {
            *self.stats.faults.entry(planned.fault.kind()).or_default() += 1;
            if planned.fault != Fault::CutSource {
                self.plan_in(planned.lasts, Event::FaultEnd(at));
            }
            // Whoever it made silent has a while to be heard of again; a disk makes nobody silent.
            let is_hang = matches!(planned.fault, Fault::Hang { .. });
            let quiet = if is_hang { 0 } else { self.now + planned.lasts + 5_000_000 };
            let mut net = self.net.lock();
            net.quiet_from = net.quiet_from.max(quiet);
            drop(net);
            self.note(None, || format!("{:?}", planned.fault));
        }
        None
    }

    fn carry_out(&mut self, at: usize, fault: &Fault, lasts: u64, rng: &mut Rng) -> bool {
        match *fault {
            Fault::Cut { ref links, .. } => {
                let mut net = self.net.lock();
                links.iter().for_each(|(from, to)| net.cut(*from, *to));
                drop(net);
                self.note_cut(links);
                !links.is_empty()
            }
            Fault::SlowLink { from, to, latency_us } => {
                self.net.lock().tune(from, to, |link| link.latency_us += latency_us);
                true
            }
            Fault::LossyLink { from, to, permille } => {
                self.net.lock().tune(from, to, |link| link.loss_permille = permille);
                true
            }
            Fault::Reset => self.on_some_connection(rng, |net, rng, pipe| {
                let bytes = [rng.skewed(4096) as usize, rng.skewed(4096) as usize];
                net.reset(pipe, bytes);
            }),
            Fault::HalfOpen => self.on_some_connection(rng, |net, rng, pipe| {
                let side = if rng.chance(1, 2) { DIALER } else { ACCEPTOR };
                net.half_open(pipe, side);
            }),
            Fault::StallLane => {
                let until = self.now + lasts;
                self.on_some_connection(rng, |net, rng, pipe| {
                    let side = if rng.chance(1, 2) { DIALER } else { ACCEPTOR };
                    net.stall(pipe, side, until);
                })
            }
            Fault::Garble => self.on_some_connection(rng, |net, rng, pipe| {
                let side = if rng.chance(1, 2) { DIALER } else { ACCEPTOR };
                net.garble(pipe, side, rng.bits());
            }),
            Fault::Refuse { node } => {
                self.net.lock().nodes[node].refuses = true;
                true
            }
            Fault::SlowConnect { node, by_us } => {
                self.net.lock().nodes[node].slow_us = by_us;
                true
            }
            Fault::Crash { node, effects, power } => {
                let state = &mut self.nodes[node];
                let lives = state.process.is_some() && state.crash.is_none();
                if lives {
                    state.fuse.light(effects);
                    state.crash = Some((power, lasts));
                }
                lives
            }
            Fault::CrashInstall { effects, power } => {
                let then = Then::Crash(effects, power);
                self.trap = Some(Trap { then, until: self.now + lasts });
                true
            }
            Fault::CutSource => {
                let then = Then::CutSource(at, lasts);
                self.trap = Some(Trap { then, until: self.now + lasts });
                true
            }
            Fault::ResetBusy | Fault::ResetShared => {
                let waits_for = if *fault == Fault::ResetBusy { Use::Busy } else { Use::Shared };
                self.snare = Some(Snare { waits_for, until: self.now + lasts });
                true
            }
            Fault::CrashChore { chore } => {
                self.chore = Some((chore, self.now + lasts));
                true
            }
            Fault::Flood { group, count, bytes } => {
                let Some(group) = self.swarm.groups.get(group).map(|spec| spec.group) else {
                    return false;
                };
                let leaders = self.judge.lock().onlooker.leaders();
                let leads = leaders.iter().find(|(of, _)| *of == group);
                leads.is_some_and(|(_, place)| self.flood(*place, group, count, bytes))
            }
            Fault::Rot { node } => {
                // A machine that cannot read what its snapshot left in the log is out of use, for good.
                let runs = self.nodes[node].is_member()
                    && self.nodes[node].process.is_some()
                    && !self.swarm.keeps_entries;
                let harm = self.harm(rng);
                let disk = &self.nodes[node].disk;
                let harmed = if runs { disk.harm(Aim::Old, harm) } else { None };
                self.note_harm(node, harmed)
            }
            Fault::RotSnapshot { node } => {
                let runs = self.nodes[node].is_member() && self.nodes[node].process.is_some();
                let disk = &self.nodes[node].snapshots;
                // All of them, or nearly: whichever a peer or a start wants next.
                let tries = if runs { 2 * stored(disk).len() } else { 0 };
                let mut harmed = None;
                for _ in 0..tries {
                    harmed = disk.harm(Aim::Snapshot, Harm::Flip).or(harmed);
                }
                self.nodes[node].snapshot_rots |= harmed.is_some();
                self.note_harm(node, harmed)
            }
            Fault::FlipIdle { node } => {
                let runs = self.nodes[node].is_member() && self.nodes[node].process.is_some();
                let harm = self.harm(rng);
                self.nodes[node].harmed_when_idle = runs.then_some((harm, lasts));
                runs
            }
            Fault::CrashAll { within_us, power } => {
                for place in 0..self.nodes.len() {
                    let delay = rng.below(within_us + 1);
                    let down_us = lasts / 4 + rng.below(within_us + 1);
                    self.plan_in(delay, Event::PowerCut { place, power, down_us });
                }
                true
            }
            Fault::Pause { node } => {
                let until = self.now + lasts;
                let state = &mut self.nodes[node];
                let runs = state.process.is_some() && state.paused_until.is_none();
                if runs {
                    self.pause(node, until);
                }
                runs
            }
            Fault::Still { node, before_look } => {
                self.stop = Some(Stop {
                    node,
                    before_look,
                    for_us: lasts,
                    until: self.now + STOP_WAITS_US,
                    end: self.options.faults_s * 1_000_000,
                });
                true
            }
            Fault::WallJump { node, by_ms } => {
                self.set_wall(node, self.nodes[node].wall_offset_ms.saturating_add(by_ms));
                true
            }
            Fault::SyncFails { node } => {
                // Its node forgets: nobody vouches for what a log has written that failed.
                let may_fail = self.swarm.accepts_losses || self.may_forget(node);
                let fails = self.nodes[node].process.is_some() && may_fail;
                if fails {
                    self.nodes[node].disk.fail_next_sync();
                }
                fails
            }
            Fault::DiskFull { node, spare } => {
                if rng.chance(1, 4) {
                    // Room there is, but clients have taken all descriptors.
                    let runs = self.nodes[node].process.is_some();
                    self.nodes[node].disk.limit_open(runs);
                    self.sightings.hit_if(runs, Mark::DescriptorsGone);
                    return runs;
                }
                self.nodes[node].disk.limit(Some(spare));
                self.nodes[node].snapshots.limit(Some(spare));
                self.judge.lock().onlooker.full.insert(node);
                true
            }
            Fault::Hang { .. } => self.begin_hang(fault, lasts, at),
            Fault::SlowDisk { node, by_us } => {
                self.nodes[node].slow_disk_us = by_us;
                true
            }
            Fault::Miscount => {
                let leaders = self.judge.lock().onlooker.leaders();
                let leader = rng.pick(&leaders).copied();
                leader.is_some_and(|(_, place)| {
                    self.nodes[place].slip.is_due(true);
                    true
                })
            }
            Fault::SlowApply { node, by_us } => {
                self.nodes[node].slow_apply_us = by_us;
                true
            }
            Fault::TakeSnapshot { group } => self.order_snapshots(group, Of::Leaders),
            Fault::TakeSnapshots { group } => self.order_snapshots(group, Of::All),
            Fault::Change { group } => self.order_change(group),
            // They have become something else by now.
            Fault::CutLeader { .. }
            | Fault::CutFollower { .. }
            | Fault::CrashLeader { .. }
            | Fault::FullLeader { .. }
            | Fault::SlowLeader { .. } => false,
            Fault::Flip { node, file } => {
                let sealed = self.nodes[node].process.as_ref();
                let sealed = sealed.is_some_and(|process| process.log.sealed);
                let aim = if sealed { Aim::Sealed(file) } else { Aim::Open(file) };
                let harm = self.harm(rng);
                self.damage(node, (aim, harm), lasts)
            }
            Fault::Wipe { node } => {
                self.wipe(node, lasts);
                true
            }
            Fault::PutBack { node } => {
                let runs = self.nodes[node].process.is_some();
                if runs {
                    self.crash(node, Power::Stays, 100_000);
                    self.keep_copy(node);
                }
                runs
            }
        }
    }

    /// Links were cut: who hears nobody, or leads without being heard.
    fn note_cut(&self, links: &[(Place, Place)]) {
        let net = self.net.lock();
        let deaf = links.iter().any(|(from, to)| !net.is_cut(*to, *from));
        self.sightings.hit_if(deaf, Mark::OneWayCut);
        let hears = |a: Place, b: Place| !net.is_cut(a, b) && !net.is_cut(b, a);
        for (group, leader) in self.judge.lock().onlooker.leaders() {
            let places: Vec<Place> = self.operator.places_of(group);
            let reached = places.iter().filter(|at| **at == leader || hears(leader, **at)).count();
            let alone = places.len() > 1 && reached <= places.len() / 2;
            self.sightings.hit_if(alone, Mark::MajorityCutOff);
        }
    }

    /// Somebody was elected: whether it is the bridge between two that hear nothing of each other.
    pub(super) fn note_bridge(&self, leader: Place) {
        let net = self.net.lock();
        let hears = |a: Place, b: Place| !net.is_cut(a, b) && !net.is_cut(b, a);
        let others: Vec<Place> = (0..self.nodes.len()).filter(|at| *at != leader).collect();
        let joins_all = others.iter().all(|at| hears(leader, *at));
        let apart = others.iter().any(|a| others.iter().any(|b| a != b && !hears(*a, *b)));
        self.sightings.hit_if(joins_all && apart, Mark::BridgeLed);
    }

    /// A wall clock is set.
    pub(super) fn set_wall(&mut self, node: Place, offset_ms: i64) {
        let state = &mut self.nodes[node];
        state.wall_offset_ms = offset_ms;
        if let Some(process) = &mut state.process {
            process.jump(offset_ms);
        }
        let mut judge = self.judge.lock();
        let leads = judge.onlooker.leaders().iter().any(|(_, leader)| *leader == node);
        let mark = if leads { Mark::WallJumpOnLeader } else { Mark::WallJumpOnFollower };
        self.sightings.hit_if(state.process.is_some(), mark);
        judge.timekeeper.set(node, self.now, offset_ms);
    }

    fn on_some_connection(
        &self,
        rng: &mut Rng,
        work: impl FnOnce(&mut super::network::NetState, &mut Rng, super::network::PipeId),
    ) -> bool {
        let mut net = self.net.lock();
        let connections = net.connections();
        let Some((pipe, ..)) = rng.pick(&connections).copied() else { return false };
        work(&mut net, rng, pipe);
        true
    }

    /// What is to become of bytes at rest. A machine that reads what its snapshot left in the log waits
    /// for a disk that refuses, on a real clock.
    fn harm(&self, rng: &mut Rng) -> Harm {
        let may_refuse = !self.swarm.keeps_entries;
        if rng.chance(1, 3) && may_refuse { Harm::Unreadable } else { Harm::Flip }
    }

    /// Whether anything was harmed, beneath a node that goes on.
    fn note_harm(&mut self, node: Place, harmed: Option<Harmed>) -> bool {
        self.note(Some(node), || match &harmed {
            Some(Harmed { name, at, harm, .. }) => format!("harmed {name} at {at}: {harm:?}"),
            None => "nothing to be harmed".to_owned(),
        });
        let unreadable = harmed.as_ref().is_some_and(|harmed| harmed.harm == Harm::Unreadable);
        self.sightings.hit_if(unreadable, Mark::BlockUnreadable);
        harmed.is_some()
    }

    /// A node crashes, and its log is harmed before it comes back.
    pub(super) fn damage(&mut self, node: Place, (aim, harm): (Aim, Harm), down_us: u64) -> bool {
        self.crash(node, Power::Fails, down_us);
        let harmed = self.nodes[node].disk.harm(aim, harm);
        let is_last = harmed.as_ref().is_some_and(|harmed| harmed.is_last);
        self.sightings.hit_if(is_last, Mark::SealedBatchDamaged);
        if self.note_harm(node, harmed) {
            self.nodes[node].standing = Standing::Damaged;
            if self.swarm.keeps_entries {
                self.judge.lock().rotten.insert(node);
            }
        }
        true
    }

    /// The disk is replaced by an empty one, and the node started as if nothing had been.
    fn wipe(&mut self, node: Place, down_us: u64) {
        self.crash(node, Power::Fails, down_us);
        let state = &mut self.nodes[node];
        state.store += 1;
        let rng = self.streams.stream("disk", &[node as u64, state.store]);
        state.disk = SimDisk::new(u64::MAX, Arc::clone(&state.fuse), rng);
        let rng = self.streams.stream("snapshots", &[node as u64, state.store]);
        state.snapshots = SimDisk::new(u64::MAX, Arc::clone(&state.fuse), rng);
        state.standing = Standing::Stranger;
        state.after = After::Process;
        self.net.lock().nodes[node].is_stranger = true;
        self.mark("wiped");
        // What the disk held still counts: whoever was told of it could not know. From now on the
        // node's account is another one, which nobody asks.
        self.judge.lock().checker.wiped(self.swarm.nodes[node]);
    }

    fn keep_copy(&mut self, node: Place) {
        let (mut rng, state) = (self.streams.stream("copy", &[node as u64]), &self.nodes[node]);
        let copied = [&state.disk, &state.snapshots]
            .map(|disk| disk.copy(Arc::clone(&state.fuse), Rng::new(rng.bits())));
        self.nodes[node].copy = Some(copied);
    }

    /// A node is put back to the copy of its disks, if all others have met and noted a life that is
    /// forgotten by that: then nobody may take it back.
    fn put_back(&mut self, node: Place) {
        let Some([disk, snapshots]) = self.nodes[node].copy.take() else { return };
        let id = self.swarm.nodes[node];
        let life = self.nodes[node].process.as_ref().map(|process| process.incarnation());
        let is_known_at = |at: Place| {
            let other = &self.nodes[at];
            let known = KnownStores::load(other.disk.clone());
            other.is_member()
                && other.process.is_some()
                && known.is_ok_and(|known| {
                    known.iter().any(|(peer, met)| peer == id && Some(met.incarnation) == life)
                })
        };
        let others = (0..self.nodes.len()).filter(|at| *at != node);
        if life.is_none() || !self.nodes[node].is_member() || !others.into_iter().all(is_known_at) {
            self.mark("not-put-back");
            return;
        }
        self.crash(node, Power::Fails, 200_000);
        let state = &mut self.nodes[node];
        (state.disk, state.snapshots) = (disk, snapshots);
        state.standing = Standing::Stranger;
        state.after = After::Process;
        self.net.lock().nodes[node].is_stranger = true;
        self.sightings.hit(Mark::PutBack);
        self.judge.lock().checker.wiped(id);
    }

    pub(super) fn end_fault(&mut self, at: usize) {
        match self.faults[at].fault {
            Fault::Cut { ref links, .. } => {
                let mut net = self.net.lock();
                links.iter().for_each(|(from, to)| net.mend(*from, *to));
            }
            Fault::CutSource => {
                let links = self.sources_cut.remove(&at).unwrap_or_default();
                let mut net = self.net.lock();
                links.iter().for_each(|(from, to)| net.mend(*from, *to));
            }
            Fault::SlowLink { from, to, latency_us } => {
                self.net.lock().tune(from, to, |link| {
                    link.latency_us = link.latency_us.saturating_sub(latency_us);
                });
            }
            Fault::LossyLink { from, to, .. } => {
                self.net.lock().tune(from, to, |link| link.loss_permille = 0);
            }
            Fault::Refuse { node } => self.net.lock().nodes[node].refuses = false,
            Fault::SlowConnect { node, .. } => self.net.lock().nodes[node].slow_us = 0,
            Fault::DiskFull { node, .. } => {
                self.nodes[node].disk.limit(None);
                self.nodes[node].disk.limit_open(false);
                self.nodes[node].snapshots.limit(None);
                self.judge.lock().onlooker.full.remove(&node);
            }
            Fault::SlowDisk { node, .. } => self.nodes[node].slow_disk_us = 0,
            Fault::Hang { ref nodes, .. } => {
                for node in nodes {
                    self.nodes[*node].hang = None;
                    self.nodes[*node].resumed = self.now;
                }
            }
            Fault::PutBack { node } => self.put_back(node),
            Fault::Miscount => self.restart_miscounters(),
            // Half of them are noticed and set right, to the millisecond as far as it matters.
            Fault::WallJump { node, .. } if self.faults[at].draw & 1 == 0 => {
                self.set_wall(node, 0);
            }
            Fault::WallJump { .. } => {}
            Fault::SlowApply { node, .. } => self.nodes[node].slow_apply_us = 0,
            Fault::Reset
            | Fault::HalfOpen
            | Fault::StallLane
            | Fault::Garble
            | Fault::Crash { .. }
            | Fault::CrashInstall { .. }
            | Fault::CrashAll { .. }
            | Fault::Pause { .. }
            | Fault::Still { .. }
            | Fault::SyncFails { .. }
            | Fault::Flip { .. }
            | Fault::FlipIdle { .. }
            | Fault::Rot { .. }
            | Fault::RotSnapshot { .. }
            | Fault::CutLeader { .. }
            | Fault::CutFollower { .. }
            | Fault::CrashLeader { .. }
            | Fault::FullLeader { .. }
            | Fault::SlowLeader { .. }
            | Fault::Flood { .. }
            | Fault::ResetBusy
            | Fault::ResetShared
            | Fault::CrashChore { .. }
            | Fault::TakeSnapshot { .. }
            | Fault::TakeSnapshots { .. }
            | Fault::Change { .. }
            | Fault::Wipe { .. } => {}
        }
    }

    /// Nodes with a machine that left out an answer have groups that are mute: they are started
    /// again.
    fn restart_miscounters(&mut self) {
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            node.slip.is_due(false);
            if node.slip.came() && node.process.is_some() {
                self.sightings.hit(Mark::AnswerLeftOut);
                let down = self.delays.range(10_000..=500_000);
                self.crash(place, Power::Stays, down);
            }
        }
    }

    /// So are those on which a machine could not read what its snapshot left in the log.
    pub(super) fn restart_mute(&mut self, places: BTreeSet<Place>) {
        for place in places {
            if self.nodes[place].process.is_some() {
                self.sightings.hit(Mark::KeptEntryUnreadable);
                let down = self.delays.range(10_000..=500_000);
                self.crash(place, Power::Stays, down);
            }
        }
    }

    /// From here on nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.phase = Phase::Healing;
        (self.trap, self.snare, self.stop) = (None, None, None);
        self.chore = None;
        {
            let mut net = self.net.lock();
            net.heal();
            net.quiet_from = self.now + 5_000_000;
        }
        for place in 0..self.nodes.len() {
            self.set_wall(place, 0);
            let node = &mut self.nodes[place];
            node.disk.heal();
            node.snapshots.heal();
            node.slow_disk_us = 0;
            if node.hang.take().is_some() {
                node.resumed = self.now;
            }
            node.slow_apply_us = 0;
            node.harmed_when_idle = None;
            node.crash = None;
            if node.process.is_some() && !node.fuse.is_dead() {
                node.fuse.light(u64::MAX);
            }
            if node.paused_until.is_some() {
                node.paused_until = Some(self.now);
                self.plan_in(0, Event::Resume { place });
            }
            if self.nodes[place].process.is_none() {
                let delay = self.delays.range(10_000..=500_000);
                self.plan_restart(place, delay);
            }
        }
        self.restart_miscounters();
    }
}
