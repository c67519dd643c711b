//! Every request ends, and ends once.
//!
//! A request that is dropped in silence leaves a client waiting, and one that ends twice tells
//! two stories. The ledger gives out the names, so nothing can end that has not begun.

use raft_core::NodeId;

use super::violation::{Check, Violation};

/// Names a request, in the order in which they began.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

/// How a request ended, as far as this ledger cares.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Terminal {
    /// It was done.
    Done,
    /// It was refused and had no effect.
    Refused,
    /// Nobody can tell.
    Unknown,
    /// Another entry took its place: it had no effect and never will.
    Superseded,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Open {
        at: NodeId,
    },
    Ended(Terminal),
    /// The node that would have answered crashed, and its memory of the request with it.
    LostWithNode,
}

/// All requests of a run. Grows by a few bytes for each.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    requests: Vec<Stage>,
    /// By terminal outcome, and lost with their node last.
    counts: [u64; 5],
}

impl Outcomes {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request is handed to `at`.
    pub fn begin(&mut self, at: NodeId) -> RequestId {
        self.requests.push(Stage::Open { at });
        RequestId(self.requests.len() as u64 - 1)
    }

    /// A request ends.
    ///
    /// # Errors
    /// If it had ended, or never began.
    pub fn end(&mut self, id: RequestId, terminal: Terminal) -> Result<(), Violation> {
        let Some(stage) = self.requests.get_mut(id.0 as usize) else {
            return Err(violation(format!("{id:?} ends and never began")));
        };
        match *stage {
            Stage::Open { .. } => {
                *stage = Stage::Ended(terminal);
                self.counts[slot(terminal)] += 1;
                Ok(())
            }
            Stage::Ended(first) => {
                Err(violation(format!("{id:?} ended as {first:?} and again as {terminal:?}")))
            }
            Stage::LostWithNode => {
                Err(violation(format!("{id:?} ends as {terminal:?} after its node has crashed")))
            }
        }
    }

    /// A node crashes: its open requests will not be answered.
    pub fn crashed(&mut self, node: NodeId) {
        for stage in &mut self.requests {
            if *stage == (Stage::Open { at: node }) {
                *stage = Stage::LostWithNode;
                self.counts[LOST] += 1;
            }
        }
    }

    /// How many requests ended so.
    pub const fn count(&self, terminal: Terminal) -> u64 {
        self.counts[slot(terminal)]
    }

    /// How many were open when their node crashed.
    pub const fn lost_with_node(&self) -> u64 {
        self.counts[LOST]
    }

    /// How many began.
    pub fn total(&self) -> u64 {
        self.requests.len() as u64
    }

    /// At the end of a run, after everybody had time to answer.
    ///
    /// # Errors
    /// The first request that is still open.
    pub fn settled(&self) -> Result<(), Violation> {
        let open = |stage: &Stage| matches!(stage, Stage::Open { .. });
        match self.requests.iter().position(open) {
            None => Ok(()),
            Some(first) => {
                let total = self.requests.iter().filter(|stage| open(stage)).count();
                Err(violation(format!(
                    "{total} requests never ended; the first is {first}, {:?}",
                    self.requests[first]
                )))
            }
        }
    }
}

const LOST: usize = 4;

const fn slot(terminal: Terminal) -> usize {
    match terminal {
        Terminal::Done => 0,
        Terminal::Refused => 1,
        Terminal::Unknown => 2,
        Terminal::Superseded => 3,
    }
}

fn violation(evidence: String) -> Violation {
    Violation::of_run(Check::Outcomes, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(1);

    #[test]
    fn one_end_each_settles() {
        let mut outcomes = Outcomes::new();
        let (a, b) = (outcomes.begin(NODE), outcomes.begin(NodeId::new(2)));
        outcomes.end(a, Terminal::Done).expect("its first end");
        assert_eq!(outcomes.settled().expect_err("b is open").check, Check::Outcomes);
        outcomes.crashed(NodeId::new(2));
        outcomes.settled().expect("b was lost with its node");
        assert_eq!((outcomes.count(Terminal::Done), outcomes.lost_with_node()), (1, 1));
        assert_eq!(outcomes.total(), 2);
        outcomes.end(b, Terminal::Done).expect_err("a crashed node answers");
    }

    #[test]
    fn a_second_end_is_refused_whatever_it_says() {
        for second in [Terminal::Done, Terminal::Unknown, Terminal::Superseded] {
            let mut outcomes = Outcomes::new();
            let id = outcomes.begin(NODE);
            outcomes.end(id, Terminal::Done).expect("its first end");
            outcomes.end(id, second).expect_err("its second end");
        }
    }

    #[test]
    fn an_end_without_a_beginning_is_refused() {
        Outcomes::new().end(RequestId(0), Terminal::Refused).expect_err("nothing began");
    }
}
