//! The log, its reader and the apply worker of each node: threads that wait for a disk or do slow
//! work, as events with time between them.

use std::time::Duration;

use raft_storage::{GroupWrite, LogError};

use super::accounts::After;
use super::clients::FLOOD_BYTES_MAX;
use super::disk::{Aim, SEGMENTS};
use super::machine::KEPT_MAX;
use super::network::Place;
use super::process::LogState;
use super::swarm::READ_US;
use super::world::{Event, Phase, World};
use crate::node::sim::{Append, LastPortion, ShardInput, give_up, read_log};
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};

/// How long a piece of housekeeping takes an idle log.
const HOUSEKEEPING_US: u64 = 200;

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
        if log.state == LogState::Waits
            && let Ok(first) = log.batches.try_recv()
        {
            log.work.take(first, &log.batches);
            log.taken += 1;
            log.state = LogState::Busy;
            self.append(place);
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

    /// The log writes what it has taken; the sync it begins ends later.
    pub(super) fn append(&mut self, place: Place) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let syncs = node.disk.syncs();
        judge.lock().account(place).wrote(process.log.work.waiting());
        let keeps = |write: &GroupWrite| write.compact.is_some() && write.live.is_some();
        self.sightings.hit_if(process.log.work.waiting().any(keeps), Mark::EntryKept);
        let inboxes = std::sync::Arc::clone(process.inboxes());
        process.log.sealed = false;
        // What is small goes between the pieces of what is large.
        if let Ok(batch) = process.log.batches.try_recv() {
            process.log.work.take(batch, &process.log.batches);
            process.log.taken += 1;
        }
        match process.log.work.append(self.swarm.log_last, &inboxes) {
            Ok(outcome @ (Append::Written | Append::Partly)) => {
                judge.lock().account(place).wrote_only(process.log.work.written());
                let partly = outcome == Append::Partly;
                self.sightings.hit_if(partly, Mark::BatchSplitByFullDisk);
                // A change of segment has waited for syncs of its own.
                let own = match self.swarm.log_last {
                    LastPortion::Written => 1,
                    // It is among them, unless the disk took only a part.
                    LastPortion::Synced => 0,
                };
                let waits = (node.disk.syncs() - syncs + own).max(1);
                let (low, high) = self.swarm.sync_us;
                let slow = node.slow_disk_us;
                if waits > 1 {
                    self.mark("segment-changed");
                }
                let one = self.delays.range(low..=high);
                self.plan_in(one * waits + slow, Event::Synced { place, life });
            }
            Ok(Append::NoSegment) => {
                // Until there is room it takes whatever else comes.
                while let Ok(batch) = process.log.batches.try_recv() {
                    process.log.work.take(batch, &process.log.batches);
                }
                judge.lock().account(place).wrote_nothing();
                let pause = process.log.work.pause().as_micros() as u64;
                self.mark("no-segment");
                self.plan_in(pause, Event::LogRetry { place, life });
            }
            Err(failure) => {
                node.after = After::Power;
                self.log_failed(place, &failure);
            }
        }
    }

    pub(super) fn on_synced(&mut self, place: Place) {
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let counters = std::sync::Arc::clone(process.counters());
        match process.log.work.sync(&counters) {
            Ok(_) => {
                let mut judge = judge.lock();
                let account = judge.account(place);
                let lies = account.has_written() && node.disk.has_pending(SEGMENTS);
                if !lies {
                    let buried = account.synced();
                    judge.buried(place, buried);
                }
                drop(judge);
                process.acknowledge();
                let before = process.log.work.stats();
                if let Err(failure) = process.log.work.tend(&counters) {
                    node.after = After::Power;
                    return self.log_failed(place, &failure);
                }
                let after = process.log.work.stats();
                self.sightings.hit_if(after.checkpoints > before.checkpoints, Mark::Checkpoint);
                self.sightings
                    .hit_if(after.segments_reused > before.segments_reused, Mark::SegmentReused);
                self.sightings.hit_if(after.bytes_moved > before.bytes_moved, Mark::EntryMoved);
                let waits = process.log.work.has_waiting();
                process.log.state = if waits { LogState::Busy } else { LogState::Waits };
                let taken = process.log.taken;
                let idle = !waits && process.log.batches.is_empty();
                let pause = process.log.work.wait();
                if lies {
                    let evidence = "the log said durable while sectors wait for a sync";
                    self.fail(Violation::of_run(Check::Externalisation, evidence));
                }
                if idle {
                    self.plan_log_idle(place, life, (taken, pause));
                }
                if waits {
                    self.append(place);
                }
            }
            Err(failure) => {
                node.after = After::Power;
                self.log_failed(place, &failure);
            }
        }
    }

    fn plan_log_idle(&mut self, place: Place, life: u32, (taken, pause): (u64, Duration)) {
        let pause = (pause.as_micros() as u64).max(HOUSEKEEPING_US);
        self.plan_in(pause, Event::LogIdle { place, life, taken });
    }

    pub(super) fn on_log_idle(&mut self, place: Place, taken: u64) {
        let node = &mut self.nodes[place];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let counters = std::sync::Arc::clone(process.counters());
        let log = &mut process.log;
        if log.state == LogState::Waits && log.taken == taken {
            match log.work.rest(&counters) {
                Ok(true) => {
                    let pause = log.work.wait();
                    self.plan_log_idle(place, life, (taken, pause));
                }
                Ok(false) => {
                    log.sealed = true;
                    if node.disk.has_pending(SEGMENTS) {
                        let evidence = "the log fell idle while sectors wait for a sync";
                        self.fail(Violation::of_run(Check::Externalisation, evidence));
                    }
                    if let Some(down_us) = self.nodes[place].flips_when_idle.take() {
                        self.flip(place, Aim::LastBatch, down_us);
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
    fn log_failed(&mut self, place: Place, failure: &LogError) {
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

    pub(super) fn on_read(&mut self, place: Place) {
        let Some(process) = &mut self.nodes[place].process else { return };
        // The disk answers whom it likes.
        let waits = process.reads.under_way.len() as u64;
        let next = if waits > 1 { self.delays.below(waits) as usize } else { 0 };
        self.sightings.hit_if(next > 0, Mark::LogReadOvertook);
        if let Some((shard, fetch)) = process.reads.under_way.remove(next) {
            let answer = read_log(&process.reads.reader, fetch);
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
