//! Marks of requests: how reads, proposals, changes and hand-overs end.

use raft_core::{Outcome, ReadPath, Refusal};

use super::super::world::World;
use super::Step;
use super::before::Cause;
use super::memory::Memory;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn note_requests(&mut self, step: &Step<'_>, memory: &mut Memory) {
        if let Cause::Read(token, path) = step.before.cause {
            memory.reads.push((token, path));
        }
        if let Cause::TimeoutNow(request) = step.before.cause {
            let is_late = request.term < step.before.term || request.last_index < step.before.last;
            if is_late && step.now.term == step.before.term {
                self.marks.hit(Mark::TimeoutNowLate);
            }
        }
        for (token, outcome) in step.ended {
            let asked = memory.reads.iter().position(|(read, _)| read == token);
            let path = asked.map(|at| memory.reads.swap_remove(at).1);
            match outcome {
                Outcome::Committed { .. } | Outcome::Unknown => {}
                Outcome::Superseded => self.marks.hit(Mark::TailSuperseded),
                Outcome::Transferred => self.marks.hit(Mark::TransferDone),
                Outcome::ReadReady { .. } => self.note_read(step, path),
                Outcome::Refused(refusal) => self.note_refusal(step, memory, *refusal, path),
            }
        }
        // It leads and was not answered: commit says nothing yet.
        if let Cause::Read(token, _) = step.before.cause
            && step.is_leader()
            && step.core.entry_term(step.now.commit_index) < Some(step.now.term)
            && memory.reads.iter().any(|(read, _)| *read == token)
        {
            self.marks.hit(Mark::ReadBeforeNoop);
        }
    }

    /// A read may be answered.
    fn note_read(&mut self, step: &Step<'_>, path: Option<ReadPath>) {
        if path.is_none() || !step.is_leader() {
            return;
        }
        if let Cause::Read(_, path) = step.before.cause {
            // Without a lease only a voter that is alone answers at once.
            let leases = step.before.lease_until.is_some_and(|until| until > step.local);
            if path == ReadPath::Lease && leases {
                self.marks.hit(Mark::LeaseRead);
            }
        } else if step.core.membership().incoming().len() > 1 {
            self.marks.hit(Mark::ReadConfirmed);
        }
    }

    fn note_refusal(
        &mut self,
        step: &Step<'_>,
        memory: &mut Memory,
        refusal: Refusal,
        path: Option<ReadPath>,
    ) {
        let cause = step.before.cause;
        let mark = match refusal {
            Refusal::Overloaded { .. } => Mark::UncommittedLimit,
            Refusal::ChangePending => Mark::ConfigRefusedPending,
            Refusal::TermTooYoung => Mark::ConfigRefusedTerm,
            Refusal::NotCaughtUp { .. } => Mark::PromotionTooEarly,
            Refusal::Transferring if cause == Cause::Propose => Mark::ProposalDuringTransfer,
            Refusal::TransferFailed if cause == Cause::Deadline && step.is_leader() => {
                Mark::TransferTimedOut
            }
            Refusal::TransferFailed if cause == Cause::TransferRefused => Mark::TransferRefused,
            // A follower's read ends so as well, when it hears of another leader.
            Refusal::LeadershipLost if path.is_some() && step.was_leader() => Mark::ReadFailedOver,
            Refusal::DiskFull => {
                memory.refused_while_full = true;
                return;
            }
            Refusal::NoHeir => Mark::NoHeir,
            Refusal::NotLeader { .. }
            | Refusal::TooManyReads
            | Refusal::Transferring
            | Refusal::TransferFailed
            | Refusal::LeadershipLost
            | Refusal::Faulted
            | Refusal::QuorumAtRisk
            | Refusal::InvalidChange(_) => return,
        };
        self.marks.hit(mark);
    }
}
