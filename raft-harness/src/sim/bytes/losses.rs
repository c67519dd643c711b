//! Somebody accepts that a group has lost what a quorum of its replicas has forgotten.
//!
//! Whoever runs the nodes looks now and then whether a group stands still because too many of its
//! replicas may have forgotten, stops the nodes it lives on, has each say what it holds, and
//! does with each what `raftd recover` does.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use raft_core::{GroupId, GroupIncarnation, LogIndex, Promise};
use raft_storage::{Expected, GroupWrite, Log, Lsn, Opened};

use super::accounts::After;
use super::disk::SimDisk;
use super::faults::Power;
use super::incarnations::life_of;
use super::network::Place;
use super::process::{CLUSTER, LogState};
use super::snapshots::SimStore;
use super::world::{Event, World};
use crate::loss::{End, Report, Verdict, held, judge, remembered};
use crate::node::sim::LogEnd;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};
use crate::snapshot::fitting::has_state;
use crate::snapshot::shelf::Shelf;

/// So often they look, in virtual microseconds.
const LOOK_US: u64 = 700_000;

impl World {
    pub(super) fn start_accepting(&mut self) {
        if self.swarm.accepts_losses {
            self.plan_in(LOOK_US, Event::Losses);
        }
    }

    /// They look at every group.
    pub(super) fn accept_losses(&mut self) {
        self.plan_in(LOOK_US, Event::Losses);
        let counted = self.swarm.groups.iter();
        let counted = counted.filter(|spec| spec.counts_written());
        let groups: Vec<GroupId> = counted.map(|spec| spec.group).collect();
        for group in groups {
            let places = self.operator.places_of(group);
            if self.stands_still(group, &places) {
                self.accept_loss(group, &places);
                return;
            }
        }
    }

    /// Whether all nodes of a group are up, and too few of its replicas remember everything.
    fn stands_still(&self, group: GroupId, places: &[Place]) -> bool {
        let mut lost = 0;
        for place in places {
            let node = &self.nodes[*place];
            let Some(process) = &node.process else { return false };
            let sleeps = node.paused_until.is_some() || node.fuse.is_dead();
            if sleeps || process.log.state == LogState::Failed {
                return false;
            }
            let mut here = process.replicas();
            let Some(replica) = here.find(|replica| replica.core().id() == group) else {
                return false;
            };
            lost += usize::from(replica.core().status().promise.promise == Promise::Lost);
        }
        places.len() - lost <= places.len() / 2
    }

    fn accept_loss(&mut self, group: GroupId, places: &[Place]) {
        let room = 2 * self.swarm.log.segment_bytes;
        if !places.iter().all(|place| self.nodes[*place].disk.has_room(room)) {
            // It would be refused there, and be said again when there is room.
            return;
        }
        self.note(None, || format!("a loss of group {group} is accepted at {places:?}"));
        for place in places {
            let down = self.delays.range(20_000..=300_000);
            self.crash(*place, Power::Stays, down);
        }
        let mut opened: BTreeMap<Place, Opened<SimDisk>> = BTreeMap::new();
        let mut reports = Vec::new();
        for place in places {
            let report = self.open_stopped(*place).map(|log| {
                let report = self.report_of(*place, &log);
                opened.insert(*place, log);
                report
            });
            let Some(Ok(report)) = report else {
                // Its disk is full, or the like: they come up as they were, and are looked at again.
                opened.keys().for_each(|place| self.nodes[*place].disk.process_died());
                return;
            };
            reports.push(report);
        }
        // Other groups of these nodes may have lost a quorum as well.
        let mut goes_on: BTreeMap<GroupId, (End, u64)> = BTreeMap::new();
        for held in reports.iter().flat_map(|report| &report.groups) {
            let life = life_of(GroupId::new(held.group), GroupIncarnation::new(held.life));
            if let Verdict::Accepts { end, .. } = judge(held, &reports) {
                let best = goes_on.entry(life).or_insert((end, held.replica));
                *best = if end > best.0 { (end, held.replica) } else { *best };
            }
        }
        let goes_on: Vec<(GroupId, u64)> =
            goes_on.into_iter().map(|(life, (_, best))| (life, best)).collect();
        for (report, (place, mut log)) in reports.iter().zip(opened) {
            let writes: Vec<GroupWrite> = report
                .groups
                .iter()
                .filter_map(|held| remembered(held, &judge(held, &reports), true))
                .collect();
            let done = log.writer.commit(&writes).map(drop).and_then(|()| log.writer.close());
            let judge = self.judge_of(place);
            let mut judge = judge.lock();
            judge.account(place).departs(&writes);
            if let Err(error) = done {
                judge.found.push(Violation::of_run(Check::Profile("start"), error.to_string()));
            }
            judge.account(place).synced();
            self.nodes[place].disk.process_died();
        }
        for (life, best) in goes_on {
            let told = self.judge.lock().accepted_loss(life, best);
            match told {
                Ok((kept, lost)) => self.forget_lost(life, kept, lost),
                Err(violation) => self.fail(violation),
            }
        }
    }

    /// What a node holds that is stopped, as `raftd recover` says it.
    fn report_of(&self, place: Place, log: &Opened<SimDisk>) -> io::Result<Report> {
        let (id, node) = (self.swarm.nodes[place], &self.nodes[place]);
        let is_covered = |lives, end| node.memory.covers(log.identity.store, lives, end);
        let ended = LogEnd::of(&log.report, log.incarnation, is_covered);
        let shelf = Shelf::open(Arc::new(SimStore::open(node.snapshots.clone())?))?;
        let has_state = |spec: &_, held: &_| has_state(&shelf, &log.reader, held, spec);
        let groups = held(id, ended.is_whole(), &log.groups, has_state)?;
        Ok(Report { node: id.get(), groups })
    }

    /// The log of a node that is stopped, as `raftd recover` opens it.
    fn open_stopped(&mut self, place: Place) -> Option<Opened<SimDisk>> {
        let expected =
            Expected { cluster: Some(CLUSTER.to_owned()), node: Some(self.swarm.nodes[place]) };
        let judge = self.judge_of(place);
        let node = &mut self.nodes[place];
        node.fuse.replace();
        node.crash = None;
        let opened = match Log::open_on(node.disk.clone(), &expected, &self.swarm.log) {
            Ok(opened) => opened,
            Err(why) => {
                self.note(Some(place), || format!("cannot be looked at: {why}"));
                self.nodes[place].disk.process_died();
                return None;
            }
        };
        node.log_end = None::<Lsn>;
        let after = std::mem::replace(&mut node.after, After::Process);
        let broken = {
            let mut judge = judge.lock();
            judge.account(place).recovered(&opened.groups, &opened.tombstones, after)
        };
        for (group, evidence) in broken {
            self.fail(Violation::of_group(Check::Externalisation, group, evidence));
        }
        Some(opened)
    }

    /// What the group goes on without never was.
    pub(super) fn forget_lost(&mut self, life: GroupId, kept: LogIndex, lost: u64) {
        self.note(None, || format!("group {life} goes on from {kept}, {lost} entries are lost"));
        self.sightings.hit(Mark::LossAccepted);
        self.sightings.hit_if(lost > 0, Mark::CommittedLost);
        self.record.look(|recorded| {
            let applied = recorded.groups.entry(life).or_default();
            applied.truncate(kept.get() as usize);
        });
        if lost > 0 {
            self.history.forget(life, kept);
        }
    }
}
