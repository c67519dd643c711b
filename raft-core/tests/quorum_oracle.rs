//! Answers that nobody here wrote: the data files of etcd's `quorum` package ask for commits and
//! votes of majorities and of joint configurations, and our answers must be equal on all of them.
//!
//! The files are not part of this repository. They are looked for in the folder that
//! `RAFT_ORACLE_DIR` names, or else in `shared/oracle/etcd-quorum` beside the workspace; without
//! them the tests say so on standard error and check nothing.
//!
//! A case is a line such as `committed cfg=(1,2) cfgj=(2,3) idx=(7,_,5)`: the incoming half, the
//! outgoing half if there is one, and a value for every voter of either in the order of their
//! ids, `_` if unknown. Below `----` stands a drawing, which we skip, and then the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use raft_core::{
    Half, Joint, LogIndex, ReplicaId, Verdict, VoteResult, committed, joint_committed,
    joint_vote_result, vote_result,
};

#[derive(Debug)]
struct Case {
    /// Where the case stands in its file.
    line: usize,
    incoming: Vec<ReplicaId>,
    outgoing: Vec<ReplicaId>,
    question: Question,
}

#[derive(Debug, Eq, PartialEq)]
enum Question {
    Committed {
        known: Vec<(ReplicaId, LogIndex)>,
        /// `None`: everything, as nobody holds it back.
        answer: Option<LogIndex>,
    },
    Vote {
        known: Vec<(ReplicaId, Verdict)>,
        answer: VoteResult,
    },
}

impl Case {
    /// Every way our functions offer to ask this question gives the one answer.
    fn check(&self) {
        let (incoming, outgoing) = (Half::new(&self.incoming), Half::new(&self.outgoing));
        let joint = Joint::new(&self.incoming, &self.outgoing);
        // The order of the halves, and a half joined with itself, must change nothing.
        let swapped = Joint::new(&self.outgoing, &self.incoming);
        let doubled = Joint::new(&self.incoming, &self.incoming);
        let is_simple = self.outgoing.is_empty();
        match &self.question {
            Question::Committed { known, answer } => {
                let known = || known.iter().copied();
                let halves = joint_committed(incoming.reached(known()), outgoing.reached(known()));
                assert_eq!(halves, *answer, "{self:?}");
                assert_eq!(joint.reached(known()), *answer, "{self:?}");
                assert_eq!(swapped.reached(known()), *answer, "{self:?}");
                if is_simple {
                    assert_eq!(doubled.reached(known()), *answer, "{self:?}");
                    let mut held: Vec<LogIndex> = known().map(|(_, index)| index).collect();
                    held.resize(self.incoming.len(), LogIndex::ZERO);
                    assert_eq!(committed(&mut held), answer.unwrap_or_default(), "{self:?}");
                }
            }
            Question::Vote { known, answer } => {
                let known = || known.iter().copied();
                let halves =
                    joint_vote_result(incoming.vote_result(known()), outgoing.vote_result(known()));
                assert_eq!(halves, *answer, "{self:?}");
                assert_eq!(joint.vote_result(known()), *answer, "{self:?}");
                assert_eq!(swapped.vote_result(known()), *answer, "{self:?}");
                // Only a half may be empty: alone, nobody wins among nobody.
                if is_simple && !self.incoming.is_empty() {
                    assert_eq!(doubled.vote_result(known()), *answer, "{self:?}");
                    let granted = known().filter(|(_, v)| *v == Verdict::Granted).count();
                    let refused = known().count() - granted;
                    let counted = vote_result(self.incoming.len(), granted, refused);
                    assert_eq!(counted, *answer, "{self:?}");
                }
            }
        }
    }
}

/// The cases of a file. What is not understood is a failure, so that no case gets lost.
fn parse(text: &str) -> Vec<Case> {
    let mut lines = text.lines().enumerate().peekable();
    let mut cases = Vec::new();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let separator = lines.next().map(|(_, line)| line);
        assert_eq!(separator, Some("----"), "after line {}", at + 1);
        let mut answer = None;
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            answer = Some(line);
        }
        let answer = answer.unwrap_or_else(|| panic!("line {} has no answer", at + 1));
        cases.push(parse_case(at + 1, line, answer));
    }
    cases
}

fn parse_case(line: usize, command: &str, answer: &str) -> Case {
    let (question, rest) = command.split_once(' ').unwrap_or((command, ""));
    let mut arguments = parse_arguments(rest);
    let mut take = |name| arguments.remove(name).unwrap_or_default();
    let half = |ids: Vec<&str>| -> Vec<ReplicaId> {
        ids.into_iter().map(|id| ReplicaId::new(id.parse().expect("an id"))).collect()
    };
    let (incoming, outgoing) = (half(take("cfg")), half(take("cfgj")));
    let voters: BTreeSet<ReplicaId> = incoming.iter().chain(&outgoing).copied().collect();
    let mut values = |name| {
        let values = take(name);
        assert_eq!(values.len(), voters.len(), "line {line}: one value for every voter");
        voters.iter().copied().zip(values).filter(|(_, value)| *value != "_")
    };
    let index = |word: &str| LogIndex::new(word.parse().expect("an index"));
    let question = match question {
        "committed" => Question::Committed {
            known: values("idx").map(|(voter, word)| (voter, index(word))).collect(),
            answer: (!answer.ends_with('∞')).then(|| index(answer)),
        },
        "vote" => Question::Vote {
            known: values("votes")
                .map(|(voter, word)| match word {
                    "y" => (voter, Verdict::Granted),
                    "n" => (voter, Verdict::Refused),
                    other => panic!("line {line}: vote {other}"),
                })
                .collect(),
            answer: match answer {
                "VoteWon" => VoteResult::Won,
                "VoteLost" => VoteResult::Lost,
                "VotePending" => VoteResult::Pending,
                other => panic!("line {line}: answer {other}"),
            },
        },
        other => panic!("line {line}: command {other}"),
    };
    assert!(arguments.is_empty(), "line {line}: {arguments:?}");
    Case { line, incoming, outgoing, question }
}

/// `name=(a, b) other=zero`: lists by name. `zero` is the empty list.
fn parse_arguments(mut rest: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut arguments = BTreeMap::new();
    while let Some((name, value)) = rest.trim_start().split_once('=') {
        let list;
        if let Some(value) = value.strip_prefix('(') {
            (list, rest) = value.split_once(')').expect("a closed list");
        } else {
            rest = value.strip_prefix("zero").expect("a list or zero");
            list = "";
        }
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        assert!(arguments.insert(name, items).is_none(), "{name} twice");
    }
    assert!(rest.trim().is_empty(), "{rest}");
    arguments
}

/// Checks all cases of a file, and that there are as many as ever.
fn check_file(name: &str, cases_min: usize) {
    let folder = std::env::var_os("RAFT_ORACLE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/etcd-quorum"),
        PathBuf::from,
    );
    if !folder.is_dir() {
        // Not by `eprintln`, which a test that passes would swallow.
        let note = format!("{name}: SKIPPED, no folder {}\n", folder.display());
        std::io::stderr().write_all(note.as_bytes()).expect("standard error");
        return;
    }
    let text = std::fs::read_to_string(folder.join(name)).expect("a file of the oracle");
    let cases = parse(&text);
    assert!(cases.len() >= cases_min, "{name} has {} cases", cases.len());
    cases.iter().for_each(Case::check);
    println!("{name}: {} cases", cases.len());
}

#[test]
fn commits_of_majorities_are_equal() {
    check_file("majority_commit.txt", 16);
}

#[test]
fn votes_of_majorities_are_equal() {
    check_file("majority_vote.txt", 22);
}

#[test]
fn commits_of_joint_configurations_are_equal() {
    check_file("joint_commit.txt", 50);
}

#[test]
fn votes_of_joint_configurations_are_equal() {
    check_file("joint_vote.txt", 39);
}

#[test]
fn a_case_is_read_as_it_is_meant() {
    let text = "# A comment.\n\n\
        committed cfg=(3, 1) cfgj=(2) idx=(7,_,5)\n----\n  drawing\n0\n\n\
        vote cfgj=zero\n----\nVoteWon\n\
        \n\n\
        vote cfg=(1,2) votes=(n,_)\n----\nVoteLost";
    let cases = parse(text);
    let [commit, empty, vote] = &cases[..] else {
        panic!("{cases:?}");
    };
    let [one, two, three] = [1, 2, 3].map(ReplicaId::new);
    assert_eq!(commit.line, 3);
    assert_eq!((&commit.incoming, &commit.outgoing), (&vec![three, one], &vec![two]));
    let known = vec![(one, LogIndex::new(7)), (three, LogIndex::new(5))];
    let answer = Some(LogIndex::ZERO);
    assert_eq!(commit.question, Question::Committed { known, answer });

    assert!(empty.incoming.is_empty() && empty.outgoing.is_empty());
    assert_eq!(empty.question, Question::Vote { known: vec![], answer: VoteResult::Won });

    let known = vec![(one, Verdict::Refused)];
    assert_eq!(vote.question, Question::Vote { known, answer: VoteResult::Lost });
    cases.iter().for_each(Case::check);
}
