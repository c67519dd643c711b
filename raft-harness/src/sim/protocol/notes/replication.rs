//! Marks of replication: appends and their answers, conflicts, windows, commit.

use raft_core::{Append, AppendResult, GroupId, ReplicaId};

use super::super::network::NodeAt;
use super::super::world::World;
use super::Step;
use super::before::{Cause, Extent};
use super::memory::Memory;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn note_replication(&mut self, step: &Step<'_>, memory: &mut Memory) {
        let (before, now) = (&step.before, &step.now);
        if let Cause::Append(_, extent) = before.cause {
            self.note_append_taken(step, memory, extent);
        } else if let Cause::AppendReply(from, reply) = before.cause
            && step.is_leader()
            && reply.term == now.term
        {
            if memory.session(from).is_some_and(|session| reply.session < session) {
                self.marks.hit(Mark::ReplyOfOldSession);
            } else if matches!(reply.result, AppendResult::Rejected { .. })
                && step.core.next_index(from) < before.next_index
            {
                self.marks.hit(Mark::AppendRejected);
            }
        } else if before.cause == Cause::Disk {
            memory.refused_while_full = false;
        }
        if step.log.truncated_terms > 0 {
            self.marks.hit(Mark::ConflictTruncated);
            if step.log.truncated_terms > 1 {
                self.marks.hit(Mark::ConflictDeep);
            }
            if self.notes.lost_truncations.remove(&(step.at, step.group)) {
                self.marks.hit(Mark::TruncationLostInCrash);
            }
        }
        let risen = now.commit_index.since(before.commit);
        if risen > self.settings.inflight_appends_max as u64 && !step.log.installed {
            self.marks.hit(Mark::CommitSkipped);
        }
        if step.may_commit() {
            let index = now.commit_index.next();
            let term = step.core.entry_term(index).unwrap_or_default();
            let voters = step.core.membership().incoming();
            if term < now.term && self.is_held_by_most(step.group, voters, index, term) {
                self.marks.hit(Mark::FigureEight);
            }
        }
    }

    fn note_append_taken(&mut self, step: &Step<'_>, memory: &mut Memory, extent: Extent) {
        let (before, now) = (&step.before, &step.now);
        if extent.term < before.term {
            self.marks.hit(Mark::AppendStale);
            return;
        }
        if extent.last > now.last_index && self.nodes[step.at].disk_weather.full {
            memory.refused_while_full = true;
        }
        let is_taken = extent.last > before.last && now.verified_index >= extent.last;
        if is_taken && extent.prev == now.base_index && now.base_index.get() > 0 {
            self.marks.hit(Mark::AppendAtBase);
        }
    }

    /// An append is about to leave.
    pub(crate) fn note_append(
        &mut self,
        at: NodeAt,
        group: GroupId,
        peer: ReplicaId,
        append: &Append,
    ) {
        let Some(replica) = self.nodes[at].replicas.get_mut(&group) else { return };
        replica.memory.set_session(peer, append.session);
        // Where the logs agree is known, and yet it carries nothing.
        if append.runs.is_empty() && replica.core.streams_to(peer) {
            self.marks.hit(Mark::WindowFullProbe);
        }
    }

    /// There is no more to send to a peer for now.
    pub(crate) fn note_appends_end(&mut self, at: NodeAt, group: GroupId, peer: ReplicaId) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let core = &replica.core;
        let waits = core.next_index(peer).is_some_and(|next| next <= core.last_index());
        if waits && core.streams_to(peer) {
            self.marks.hit(Mark::WindowFull);
        }
    }
}
