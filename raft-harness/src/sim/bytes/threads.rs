//! The log, its reader and the apply worker of each node: threads that wait for a disk or do slow
//! work, as events with time between them.

use std::time::Duration;

use raft_core::Micros;
use raft_storage::{GroupWrite, LogError};

use super::accounts::After;
use super::clients::FLOOD_BYTES_MAX;
use super::disk::{Aim, SEGMENTS};
use super::faults::{Chore, Power};
use super::machine::KEPT_MAX;
use super::network::Place;
use super::process::LogState;
use super::swarm::READ_US;
use super::world::{Event, Phase, World};
use crate::engine::{Call, Caller};
use crate::node::sim::{IDLE_AFTER, Refusal, ShardInput, Staged, give_up, read_log};
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

/// How long a piece of housekeeping takes an idle log.
const HOUSEKEEPING_US: u64 = 200;

/// So late after its time a sync begins at the latest, where the log has nothing else to do.
const FLUSH_LATE_US: u64 = 2_000;

impl World {
    /// Threads that wait for work take what has come.
    pub(super) fn start_threads(&mut self, place: Place) {
        self.start_desk(place);
        self.judge_load(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        // Slow workers are a fault like others.
        let (apply_us, read_us) = match self.phase {
            Phase::Faults => (self.swarm.apply_us, self.swarm.read_us),
            Phase::Healing => (self.swarm.wake_us * 4, READ_US),
        };
        let Some(process) = &mut node.process else { return };
        let mut fetches = 0;
        while let Ok(fetch) = process.reads.fetches.try_recv() {
            process.reads.under_way.push_back(fetch);
            fetches += 1;
        }
        for _ in 0..fetches {
            let delay = 20 + self.delays.skewed(read_us);
            self.plan_in(delay, Event::Read { place, life });
        }
        let Some(process) = &mut self.nodes[place].process else { return };
        if !process.applier.busy && !process.applier.jobs.is_empty() {
            process.applier.busy = true;
            let slow = self.nodes[place].slow_apply_us;
            let delay = slow + self.delays.skewed(apply_us);
            self.plan_in(delay, Event::Apply { place, life });
        }
        let Some(process) = &mut self.nodes[place].process else { return };
        let log = &mut process.log;
        // What comes while the disk is busy is prepared meanwhile, or taken after that.
        let may_take = match log.state {
            LogState::Waits => true,
            LogState::Busy => {
                let is_flying = log.flight.is_some() && !log.batches.is_empty();
                is_flying && self.delays.chance(3, 4)
            }
            LogState::Failed => false,
        };
        if may_take && let Ok(first) = log.batches.try_recv() {
            log.work.take(first, &log.batches);
            log.taken += 1;
            log.state = LogState::Busy;
            self.stage(place);
        }
    }

    /// However long the disk takes, what a node has taken for its log is bounded.
    fn judge_load(&mut self, place: Place) {
        let Some(process) = &self.nodes[place].process else { return };
        let load = &process.load;
        // Each shard takes its last append or command whole; terms, votes and no-ops are taken
        // in any case.
        let command = self.swarm.padding.max(FLOOD_BYTES_MAX);
        let whole = self.swarm.settings.append_bytes_max.max(command) + (4 << 10);
        let beside = (self.swarm.groups.len() as u64) << 11;
        // What is fetched for a snapshot comes when it comes.
        let fetched = match self.swarm.keeps_entries {
            true => self.swarm.groups.len() as u64 * KEPT_MAX * command,
            false => 0,
        };
        let max = load.max() + self.swarm.shards[place] as u64 * whole + beside + fetched;
        self.sightings.hit_if(load.bytes() >= load.max(), Mark::LogOverloaded);
        if load.bytes() > max {
            let evidence = format!(
                "place {place} has taken {} bytes that its log has not, allowed are {}",
                load.bytes(),
                load.max()
            );
            self.fail(Violation::of_run(Check::Profile("log-load"), evidence));
        }
    }

    /// The log prepares what it has taken, and lets it depart if the disk is free.
    pub(super) fn stage(&mut self, place: Place) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let inboxes = std::sync::Arc::clone(process.inboxes());
        let log = &mut process.log;
        log.sealed = false;
        // What is small goes between the pieces of what is large.
        if let Ok(batch) = log.batches.try_recv() {
            log.work.take(batch, &log.batches);
            log.taken += 1;
        }
        log.work.set_time(Micros::new(self.now));
        let staged = log.work.stage(&inboxes);
        let ahead = log.work.take_ahead();
        if staged.is_ok() && !ahead.is_empty() {
            judge.lock().account(place).wrote_ahead(self.now, &ahead);
            self.sightings.hit_if(log.flight.is_some(), Mark::WrittenBeside);
        }
        match staged {
            Ok(outcome @ (Staged::Ready | Staged::Partly)) => {
                log.work.acknowledge_written(&inboxes);
                let is_flying = log.flight.is_some();
                self.sightings.hit_if(outcome == Staged::Partly, Mark::BatchSplitByFullDisk);
                self.sightings.hit_if(is_flying && log.work.has_staged(), Mark::LogOverlapped);
                if !is_flying && log.work.has_departing() {
                    self.depart(place);
                } else if !is_flying {
                    self.go_on(place);
                }
            }
            // It is tried again when that has landed.
            Ok(Staged::NoSegment) if log.flight.is_some() => {}
            Ok(Staged::NoSegment) => {
                // Until there is room it takes whatever else comes.
                while let Ok(batch) = log.batches.try_recv() {
                    log.work.take(batch, &log.batches);
                }
                let pause = log.work.pause().as_micros() as u64;
                self.mark("no-segment");
                self.plan_in(pause, Event::LogRetry { place, life });
            }
            Err(failure) => {
                node.after = After::Power;
                judge.lock().account(place).may_have_written(&ahead);
                self.log_failed(place, &failure);
            }
        }
    }

    /// What is prepared departs. Some of what the disk has to do for it is done at once, the rest later;
    /// in between the node may be gone.
    fn depart(&mut self, place: Place) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let clock = process.clock();
        let log = &mut process.log;
        let (mut flight, makes_durable) = match log.work.depart(self.swarm.log_ending) {
            Ok(Some(departure)) => (departure.flight, departure.syncs),
            Ok(None) => return,
            Err(failure) => {
                node.after = After::Power;
                return self.log_failed(place, &failure);
            }
        };
        let mixed = makes_durable && {
            let mut judge = judge.lock();
            let account = judge.account(place);
            account.departs(log.work.written());
            account.departs_mixed()
        };
        self.sightings.hit_if(mixed, Mark::SyncOfBoth);
        let keeps = |write: &GroupWrite| write.compact.is_some() && write.live.is_some();
        self.sightings.hit_if(log.work.written().any(keeps), Mark::EntryKept);
        let steps = flight.steps();
        let syncs = node.disk.syncs();
        let at_once = *self.delays.pick(&[0, 1, 2, steps]).expect("a list");
        for _ in 0..at_once {
            flight.step();
        }
        // A change of segment waits for syncs of its own.
        let waits = (node.disk.syncs() - syncs + flight.steps() as u64).max(1);
        log.flight = Some(flight);
        log.syncs = makes_durable;
        log.departed = log.work.stats().end;
        log.state = LogState::Busy;
        log.watch.begin(Caller::Disk, clock.local(self.now));
        let reused = log.work.stats().segments_reused;
        let reuses = reused > std::mem::replace(&mut log.reused, reused);
        self.sightings.hit_if(reuses, Mark::SegmentReused);
        if steps > 2 {
            self.mark("segment-changed");
        }
        if self.dies_at_chore(place, false, reuses) {
            return;
        }
        let node = &self.nodes[place];
        let (low, high) = self.swarm.sync_us;
        let one = self.delays.range(low..=high);
        let delay = one * waits + node.slow_disk_us + self.slow_after_hang(place);
        self.plan_in(delay, Event::Synced { place, life });
    }

    pub(super) fn on_synced(&mut self, place: Place) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let Some(process) = &mut node.process else { return };
        let Some(flight) = process.log.flight.take() else { return };
        process.log.work.set_time(Micros::new(self.now));
        // What was written beside it waits for the next sync.
        let is_all = !flight.is_sync() || process.log.work.stats().end == process.log.departed;
        let local = process.clock().local(self.now);
        let syncs = process.log.syncs;
        process.log.watch.end(Caller::Disk, if syncs { Call::Sync } else { Call::Other }, local);
        let landing = flight.land();
        let is_safe = landing.is_safe();
        process.log.landings.push_back(landing);
        self.sightings.hit_if(is_safe && !syncs, Mark::PieceWritten);
        if is_safe && syncs {
            let mut judge = judge.lock();
            let account = judge.account(place);
            if is_all && account.has_departed() && node.disk.has_pending(SEGMENTS) {
                drop(judge);
                let evidence = "the log said durable while sectors wait for a sync";
                return self.fail(Violation::of_run(Check::Externalisation, evidence));
            }
            let buried = account.synced();
            judge.buried(place, buried);
        }
        if is_safe {
            // The disk need not wait for whoever is told.
            if process.log.work.has_departing() && self.delays.chance(1, 2) {
                self.depart(place);
                self.sightings.hit(Mark::LogLandedLate);
                if self.delays.chance(1, 2) {
                    return;
                }
            }
        }
        if self.land(place) {
            self.go_on(place);
        }
    }

    /// Those whose batches are durable are told. `false`: the log has failed, or its machine has died.
    fn land(&mut self, place: Place) -> bool {
        let node = &mut self.nodes[place];
        let Some(process) = &mut node.process else { return false };
        let counters = std::sync::Arc::clone(process.counters());
        while let Some(landing) = process.log.landings.pop_front() {
            if let Err(failure) = process.log.work.land(landing, &counters) {
                node.after = After::Power;
                self.log_failed(place, &failure);
                return false;
            }
        }
        process.acknowledge();
        let before = process.log.work.stats();
        if let Err(failure) = process.log.work.tend(&counters) {
            node.after = After::Power;
            self.log_failed(place, &failure);
            return false;
        }
        let after = process.log.work.stats();
        let checkpoints = after.checkpoints > before.checkpoints;
        self.sightings.hit_if(checkpoints, Mark::Checkpoint);
        self.sightings.hit_if(after.bytes_moved > before.bytes_moved, Mark::EntryMoved);
        !self.dies_at_chore(place, checkpoints, false)
    }

    /// After something has landed: what is there goes next, or the log waits.
    fn go_on(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let log = &mut process.log;
        if log.work.has_waiting() {
            return self.stage(place);
        }
        if log.flight.is_some() {
            return;
        }
        if log.work.has_departing() {
            return self.depart(place);
        }
        log.state = LogState::Waits;
        if log.batches.is_empty() {
            let (taken, pause) = (log.taken, log.work.wait());
            self.plan_log_idle(place, life, (taken, pause));
        }
    }

    /// Housekeeping has done this; whether the machine has died of it.
    fn dies_at_chore(&mut self, place: Place, checkpoints: bool, reuses: bool) -> bool {
        let Some((chore, until)) = self.chore else { return false };
        let (is_it, mark) = match chore {
            Chore::Checkpoint => (checkpoints, Mark::CrashAtCheckpoint),
            Chore::Reuse => (reuses, Mark::CrashInReused),
        };
        let dies = is_it && self.now < until && self.nodes[place].crash.is_none();
        if dies {
            self.chore = None;
            self.sightings.hit(mark);
            let down = self.delays.range(10_000..=500_000);
            self.crash(place, Power::Fails, down);
        }
        dies
    }

    fn plan_log_idle(&mut self, place: Place, life: u32, (taken, pause): (u64, Duration)) {
        let pause = (pause.as_micros() as u64).max(HOUSEKEEPING_US);
        self.plan_in(pause, Event::LogIdle { place, life, taken });
    }

    pub(super) fn on_log_idle(&mut self, place: Place, taken: u64) {
        self.release_desk(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let counters = std::sync::Arc::clone(process.counters());
        let log = &mut process.log;
        log.work.set_time(Micros::new(self.now));
        if log.state == LogState::Waits && log.work.has_departing() {
            return self.depart(place);
        }
        if log.state == LogState::Waits && log.taken == taken && log.work.sync_due().is_none() {
            let before = log.work.stats();
            let rested = log.work.rest(&counters);
            let checkpoints = log.work.stats().checkpoints > before.checkpoints;
            if rested.is_ok() && self.dies_at_chore(place, checkpoints, false) {
                return;
            }
            let node = &mut self.nodes[place];
            let Some(process) = &mut node.process else { return };
            let log = &mut process.log;
            match rested {
                Ok(true) => {
                    let pause = log.work.wait();
                    self.plan_log_idle(place, life, (taken, pause));
                }
                Ok(false) => {
                    log.sealed = true;
                    if self.probe_log(place) {
                        return self.plan_log_idle(place, life, (taken, IDLE_AFTER));
                    }
                    let node = &mut self.nodes[place];
                    if node.disk.has_pending(SEGMENTS) {
                        let evidence = "the log fell idle while sectors wait for a sync";
                        self.fail(Violation::of_run(Check::Externalisation, evidence));
                    }
                    if let Some((harm, down_us)) = self.nodes[place].harmed_when_idle.take() {
                        self.damage(place, (Aim::LastBatch, harm), down_us);
                    }
                }
                Err(failure) => {
                    node.after = After::Power;
                    self.log_failed(place, &failure);
                }
            }
        }
    }

    /// The node acknowledges nothing any more; `raftd` leaves.
    pub(super) fn log_failed(&mut self, place: Place, failure: &LogError) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        process.log.state = LogState::Failed;
        if node.fuse.is_dead() {
            // It only looks like a failure to a node that is gone.
            return;
        }
        // Its groups go mute, and say so: also those that are made in the turn that hears of it.
        judge.lock().failed.insert(place);
        give_up(failure, process.inboxes());
        self.sightings.hit(Mark::FsyncFailed);
        self.note(Some(place), || format!("log failed: {failure}"));
        let delay = self.delays.range(1_000..=200_000);
        self.plan_in(delay, Event::Exit { place, life });
    }

    /// Entries wait for their sync no longer than their group's policy says.
    pub(super) fn judge_flush(&mut self, place: Place) {
        let node = &self.nodes[place];
        let Some(process) = &node.process else { return };
        let idles = process.log.state == LogState::Waits && node.paused_until.is_none();
        let judge = self.judge_of(place);
        let due = judge.lock().account(place).flush_due();
        // A disk that hangs lets nobody begin.
        let idles = idles && node.hang.is_none();
        let late = due.filter(|due| idles && self.now > node.resumed.max(*due) + FLUSH_LATE_US);
        if let Some(due) = late {
            let evidence = format!("place {place} has not begun the sync that was due at {due}");
            self.fail(Violation::of_run(Check::Profile("flush-late"), evidence));
        }
    }

    pub(super) fn on_read(&mut self, place: Place) {
        let Some(process) = &mut self.nodes[place].process else { return };
        // The disk answers whom it likes.
        let waits = process.reads.under_way.len() as u64;
        let next = if waits > 1 { self.delays.below(waits) as usize } else { 0 };
        self.sightings.hit_if(next > 0, Mark::LogReadOvertook);
        if let Some((shard, fetch)) = process.reads.under_way.remove(next) {
            let answer = read_log(&process.reads.reader, fetch, |_| Refusal::Lasting);
            process.tell_shard(shard, ShardInput::Engine(answer));
            self.mark("log-read-back");
        }
    }

    pub(super) fn on_apply(&mut self, place: Place) {
        if let Some(process) = &mut self.nodes[place].process {
            process.applier.busy = false;
            process.apply_next();
        }
    }
}
