//! I14: a pre-vote is a question. Answering it promises nothing, changes nothing, and tells the
//! truth (thesis, section 9.6).
//!
//! What a wrong answer leads to is seldom seen: elections that take a little longer, a leader that
//! is deposed without need. So the answers themselves are looked at.

use std::collections::{BTreeMap, VecDeque};

use raft_core::{GroupId, Micros, ReplicaId, Term, Verdict, VoteReply, VoteRequest};

use super::Checker;
use super::replica::Marks;
use crate::sim::observe::ReplicaView;
use crate::sim::violation::{Check, Violation};

/// How many questions of one candidate are remembered; the answer to an older one is not judged.
const OPEN_MAX: usize = 64;

/// The last questions, by voter and candidate.
#[derive(Debug, Default)]
pub(super) struct PreVotes {
    open: BTreeMap<(GroupId, ReplicaId, ReplicaId), Questions>,
}

#[derive(Debug, Default)]
struct Questions {
    last: VecDeque<Asked>,
    /// The largest number among those that are not remembered any more. A candidate numbers its
    /// attempts anew in each life, so up to here an answer may be to one of them: a voter whose disk
    /// stands still answers late, and all at once.
    forgotten: u64,
}

/// One question, and what the voter was when it was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    attempt: u64,
    /// The term it was asked for.
    stands_for: Term,
    /// The voter's own.
    term: Term,
    /// Whether the candidate's log is at least as current as the voter's.
    log: Currency,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Currency {
    Current,
    Behind,
}

impl Checker {
    /// A replica was stepped with a candidate's question; `view` is what that made of it, and
    /// `deadline` when it had wanted to be woken before. To be called before
    /// [`observe`](Self::observe).
    ///
    /// # Errors
    /// If the question has changed anything.
    pub fn pre_vote_asked(
        &mut self,
        view: &ReplicaView<'_>,
        candidate: ReplicaId,
        request: VoteRequest,
        deadline: Option<Micros>,
    ) -> Result<(), Violation> {
        let known = self.groups.get_mut(&view.group).and_then(|group| group.replica(view.replica));
        let Some(before) = known.map(|replica| replica.marks) else { return Ok(()) };
        if before.incarnation != view.incarnation || view.fault.is_some() {
            return Ok(());
        }
        let now = Marks::of(view);
        let state = |marks: &Marks| (marks.term, marks.vote, marks.role, marks.leader);
        let sooner = match (deadline, view.next_deadline) {
            (Some(before), Some(after)) => after <= before,
            (Some(_), None) => false,
            (None, _) => true,
        };
        if state(&before) != state(&now) || !sooner {
            return Err(Violation::of_group(
                Check::PreVote,
                view.group,
                format!(
                    "{:?} was asked by {candidate:?} and went from {:?}, deadline {deadline:?}, to \
                     {:?}, deadline {:?}",
                    view.replica,
                    state(&before),
                    state(&now),
                    view.next_deadline
                ),
            ));
        }
        let theirs = (request.last_term, request.last_index);
        let is_current = theirs >= (now.last_term, now.last);
        let open = self.pre_votes.open.entry((view.group, view.replica, candidate)).or_default();
        if open.last.len() == OPEN_MAX
            && let Some(oldest) = open.last.pop_front()
        {
            open.forgotten = open.forgotten.max(oldest.attempt);
        }
        open.last.push_back(Asked {
            attempt: request.attempt,
            stands_for: request.term,
            term: view.term,
            log: if is_current { Currency::Current } else { Currency::Behind },
        });
        Ok(())
    }

    /// The answer leaves its node.
    ///
    /// # Errors
    /// If it is not the truth.
    pub fn pre_vote_answered(
        &mut self,
        group: GroupId,
        voter: ReplicaId,
        candidate: ReplicaId,
        reply: VoteReply,
    ) -> Result<(), Violation> {
        let Some(open) = self.pre_votes.open.get_mut(&(group, voter, candidate)) else {
            return Ok(());
        };
        // Several may have the number.
        let answered = |asked: &&Asked| {
            let to_this = asked.attempt == reply.attempt;
            match reply.verdict {
                Verdict::Granted => to_this && asked.stands_for == reply.term,
                Verdict::Refused | Verdict::Removed => to_this,
            }
        };
        let is_true = |asked: &Asked| match reply.verdict {
            Verdict::Granted => asked.log == Currency::Current,
            // The candidate may be behind, and learns it nowhere else.
            Verdict::Refused | Verdict::Removed => reply.term == asked.term,
        };
        let mut asked = open.last.iter().filter(answered).peekable();
        if asked.peek().is_none() || asked.any(is_true) || reply.attempt <= open.forgotten {
            return Ok(());
        }
        Err(Violation::of_group(
            Check::PreVote,
            group,
            format!("{voter:?} was asked by {candidate:?}, {open:?}, and answers {reply:?}"),
        ))
    }
}
