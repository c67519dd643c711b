//! The replicated state of a run: registers and lists, small enough to be judged completely.
//!
//! Every command carries a number of its own, so that no two writes can be confused. What the
//! first replica applies at an index is the record for all: whoever applies something else there
//! later, in whatever life of whatever node, is caught at that moment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::{Entry, EntryKind, GroupId, LogIndex, NodeId, ReplicaId, Term};

use super::judge::Judge;
use crate::bodies::Bodies;
use crate::sim::rng::mix;
use crate::state_machine::{ApplyMode, RestoreError, SnapshotPieces, StateMachine};

/// A key of a group: registers and lists have their own.
pub(super) type Key = u8;

/// What a client asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Sets a register to the command's own number.
    Write,
    /// Adds the command's number to a list; answers its new length.
    Append,
    /// Sets a register to the command's number if it holds this one; answers whether it did.
    CompareAndSet { expected: u64 },
    /// Reads a register: 0 if it was never written.
    Read,
    /// Reads a list.
    ReadList,
}

/// A command in bytes: number, action, key, expected value, padding.
pub(super) fn encode(number: u64, action: Action, key: Key, padding: usize) -> Bytes {
    let (kind, expected) = match action {
        Action::Write => (0, 0),
        Action::Append => (1, 0),
        Action::CompareAndSet { expected } => (2, expected),
        Action::Read => (3, 0),
        Action::ReadList => (4, 0),
    };
    let mut bytes = Vec::with_capacity(HEAD + padding);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[kind, key]);
    bytes.extend_from_slice(&expected.to_le_bytes());
    bytes.resize(HEAD + padding, kind);
    bytes.into()
}

fn decode(bytes: &[u8]) -> Option<(u64, Action, Key)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let ([kind, key], rest) = rest.split_first_chunk::<2>()?;
    let expected = u64::from_le_bytes(*rest.first_chunk::<8>()?);
    let action = match kind {
        0 => Action::Write,
        1 => Action::Append,
        2 => Action::CompareAndSet { expected },
        3 => Action::Read,
        4 => Action::ReadList,
        _ => return None,
    };
    Some((u64::from_le_bytes(*number), action, *key))
}

/// The number of a command, if it is one.
pub(super) fn number_of(command: &[u8]) -> Option<u64> {
    decode(command).map(|(number, ..)| number)
}

const HEAD: usize = 18;

/// The state of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    registers: BTreeMap<Key, u64>,
    lists: BTreeMap<Key, Vec<u64>>,
    digest: u64,
    /// The last commands that added to lists, at the ends of the lists: their index and number.
    recent: VecDeque<(LogIndex, u64)>,
}

/// So many commands are recent.
const RECENT: usize = 6;
/// A group's machine never keeps more of them.
pub(super) const KEPT_MAX: u64 = RECENT as u64 + 1;

impl Model {
    /// Carries out a command; what is answered.
    pub(super) fn apply(&mut self, command: &[u8]) -> Bytes {
        let Some((number, action, key)) = decode(command) else { return Bytes::new() };
        self.digest = mix(self.digest ^ number ^ u64::from(key) << 56);
        match action {
            Action::Write => {
                self.registers.insert(key, number);
                Bytes::new()
            }
            Action::Append => {
                let list = self.lists.entry(key).or_default();
                list.push(number);
                answer(list.len() as u64)
            }
            Action::CompareAndSet { expected } => {
                let register = self.registers.entry(key).or_default();
                let swaps = *register == expected;
                if swaps {
                    *register = number;
                }
                answer(u64::from(swaps))
            }
            Action::Read | Action::ReadList => self.read(command),
        }
    }

    /// Keeps a command that adds to a list, and every third of those for long.
    fn keep(&mut self, entry: &Entry, bodies: Option<&Bodies>) {
        let Some(bodies) = bodies else { return };
        let Some((number, Action::Append, _)) = decode(&entry.payload) else { return };
        self.recent.push_back((entry.index, number));
        if self.recent.len() > RECENT {
            let goes = if number.is_multiple_of(3) { RECENT / 2 } else { 0 };
            self.recent.remove(goes);
            bodies.release(entry.payload.len() as u64);
        }
    }

    /// Reads what is kept back from the log; what is wrong with it.
    fn look(&self, bodies: Option<&Bodies>) -> Option<String> {
        let bodies = bodies?;
        self.recent.iter().find_map(|(index, number)| {
            // What cannot be read makes the replica mute, which is judged as every fault is.
            let body = bodies.get(*index).ok()?;
            let found = number_of(&body);
            (found != Some(*number))
                .then(|| format!("entry {index} is command {found:?} and was {number}"))
        })
    }

    /// Answers a query.
    pub(super) fn read(&self, query: &[u8]) -> Bytes {
        match decode(query) {
            Some((_, Action::ReadList, key)) => {
                let list = self.lists.get(&key).map_or(&[][..], Vec::as_slice);
                list.iter().flat_map(|number| number.to_le_bytes()).collect()
            }
            Some((_, _, key)) => answer(self.registers.get(&key).copied().unwrap_or(0)),
            None => Bytes::new(),
        }
    }
}

fn answer(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// What was applied where, by whoever came first.
#[derive(Clone, Default)]
pub(super) struct Record(Arc<Mutex<Recorded>>);

#[derive(Default)]
pub(super) struct Recorded {
    /// From index 1 on.
    pub(super) groups: BTreeMap<GroupId, Vec<Applied>>,
    pub(super) broken: Vec<String>,
    pub(super) applied_total: u64,
}

/// One applied entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Applied {
    pub(super) term: Term,
    pub(super) kind: EntryKind,
    pub(super) payload: Bytes,
    /// What the machine answered, whatever became of that.
    pub(super) output: Bytes,
}

impl Record {
    pub(super) fn look<T>(&self, ask: impl FnOnce(&mut Recorded) -> T) -> T {
        ask(&mut self.0.lock())
    }

    /// The state machine of a replica, empty.
    pub(super) fn machine(&self, of: Identity, how: How, slip: &Slip, judge: &Judge) -> Machine {
        Machine {
            slip: slip.clone(),
            record: self.clone(),
            judge: judge.clone(),
            of,
            how,
            applied: (LogIndex::ZERO, Term::ZERO),
            origin: Origin::Empty,
            model: Model::default(),
            bodies: None,
        }
    }
}

/// Whose machine it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    /// A life of its group, as judges name it.
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
}

/// How machines of a run work.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) mode: ApplyMode,
    /// Bytes on top of each snapshot.
    pub(super) padding: usize,
    /// Whether they leave in the log what they have done lately, and look at it again and again.
    pub(super) keeps: bool,
}

/// Whether a machine of a node is to break its contract, and whether one has.
#[derive(Clone, Debug, Default)]
pub(super) struct Slip(Arc<Mutex<Slipping>>);

#[derive(Debug, Default)]
struct Slipping {
    is_due: bool,
    came: bool,
}

impl Slip {
    /// The next answers of a machine of this node that differ lack one, or none does any more.
    pub(super) fn is_due(&self, is_due: bool) {
        self.0.lock().is_due = is_due;
    }

    /// Whether one lacked one since this was asked last.
    pub(super) fn came(&self) -> bool {
        std::mem::take(&mut self.0.lock().came)
    }

    /// Leaves out the first of two answers that are not the same.
    fn leave_out(&self, answers: &mut Vec<Bytes>) -> bool {
        let mut slipping = self.0.lock();
        let differs = answers.windows(2).position(|pair| pair[0] != pair[1]);
        let Some(at) = differs.filter(|_| slipping.is_due) else { return false };
        answers.remove(at);
        *slipping = Slipping { is_due: false, came: true };
        true
    }
}

/// A replica's state machine.
pub(super) struct Machine {
    slip: Slip,
    record: Record,
    judge: Judge,
    of: Identity,
    how: How,
    applied: (LogIndex, Term),
    origin: Origin,
    model: Model,
    bodies: Option<Bodies>,
}

/// Where a machine's state comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    /// From the log, as the judge knows.
    Empty,
    /// From a snapshot. The judge hears of it when the machine is put to use: some never are.
    Snapshot,
}

impl StateMachine for Machine {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        let mut recorded = self.record.0.lock();
        let Recorded { groups, broken, applied_total } = &mut *recorded;
        let Identity { node, group, replica } = self.of;
        let history = groups.entry(group).or_default();
        let mut judge = self.judge.lock();
        if std::mem::replace(&mut self.origin, Origin::Empty) == Origin::Snapshot {
            let (index, term) = self.applied;
            judge.installed(group, replica, index, term);
        }
        for entry in entries {
            judge.applied(group, replica, entry);
            let (last, _) = self.applied;
            if entry.index != last.next() {
                broken.push(format!(
                    "node {node} group {group}: applied {} after {last}",
                    entry.index
                ));
            }
            self.applied = (entry.index, entry.term);
            *applied_total += 1;
            let output = match entry.kind {
                EntryKind::Command => {
                    self.model.keep(entry, self.bodies.as_ref());
                    self.model.apply(&entry.payload)
                }
                EntryKind::Noop | EntryKind::Config => Bytes::new(),
            };
            let at = entry.index.prev().get() as usize;
            match history.get(at) {
                Some(known) => {
                    let same = known.term == entry.term
                        && known.kind == entry.kind
                        && known.payload == entry.payload;
                    if !same {
                        broken.push(format!(
                            "node {node} group {group}: applied another entry {} of term {}, \
                             the record has one of term {}",
                            entry.index, entry.term, known.term
                        ));
                    }
                }
                None if at == history.len() => history.push(Applied {
                    term: entry.term,
                    kind: entry.kind,
                    // A copy: the buffer it was read into must not live as long as the run.
                    payload: Bytes::copy_from_slice(&entry.payload),
                    output: output.clone(),
                }),
                None => broken.push(format!(
                    "node {node} group {group}: applied {} before anybody applied {}",
                    entry.index,
                    history.len() + 1
                )),
            }
            outputs.push(output);
        }
        broken.extend(
            self.model
                .look(self.bodies.as_ref())
                .map(|what| format!("node {node} group {group}: {what}")),
        );
        if self.slip.leave_out(outputs) {
            // From here on nothing is asked of it until its process ends.
            judge.checker.excuse_fault(group, replica);
        }
    }

    fn read(&self, query: &[u8]) -> Bytes {
        if let Some(what) = self.model.look(self.bodies.as_ref()) {
            let Identity { node, group, .. } = self.of;
            self.record.0.lock().broken.push(format!("node {node} group {group}: {what}"));
        }
        self.model.read(query)
    }

    fn digest(&self) -> u64 {
        self.model.digest
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        let mut bytes = Vec::new();
        let mut put = |number: u64| bytes.extend_from_slice(&number.to_le_bytes());
        let (index, term) = self.applied;
        let Model { registers, lists, digest, recent } = &self.model;
        [index.get(), term.get(), *digest, registers.len() as u64, lists.len() as u64]
            .into_iter()
            .for_each(&mut put);
        put(recent.len() as u64);
        recent
            .iter()
            .for_each(|(index, number)| [index.get(), *number].into_iter().for_each(&mut put));
        for (key, number) in registers {
            [u64::from(*key), *number].into_iter().for_each(&mut put);
        }
        for (key, list) in lists {
            [u64::from(*key), list.len() as u64].into_iter().for_each(&mut put);
            list.iter().copied().for_each(&mut put);
        }
        bytes.resize(bytes.len() + self.how.padding, index.get() as u8);
        let pieces: Vec<Bytes> = bytes.chunks(PIECE).map(Bytes::copy_from_slice).collect();
        Some(Box::new(pieces.into_iter()))
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let bytes: Vec<u8> = pieces.flatten().collect();
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let short = RestoreError::Damaged("it ends too early");
        self.read_words(&mut words).ok_or(short)?;
        self.origin = Origin::Snapshot;
        Ok(())
    }

    fn keeps_entries(&self) -> bool {
        self.how.keeps
    }

    fn attach(&mut self, bodies: Bodies) {
        self.bodies = Some(bodies);
    }

    fn live_entries(&self) -> Box<dyn Iterator<Item = LogIndex> + '_> {
        Box::new(self.model.recent.iter().map(|(index, _)| *index))
    }

    fn mode(&self) -> ApplyMode {
        self.how.mode
    }
}

/// Snapshots come in pieces of so many bytes.
const PIECE: usize = 40_000;

impl Machine {
    fn read_words(&mut self, words: &mut impl Iterator<Item = u64>) -> Option<()> {
        self.applied = (LogIndex::new(words.next()?), Term::new(words.next()?));
        self.model.digest = words.next()?;
        let (registers, lists) = (words.next()?, words.next()?);
        for _ in 0..words.next()? {
            self.model.recent.push_back((LogIndex::new(words.next()?), words.next()?));
        }
        for _ in 0..registers {
            self.model.registers.insert(words.next()? as Key, words.next()?);
        }
        for _ in 0..lists {
            let (key, count) = (words.next()? as Key, words.next()?);
            let list = (0..count).map(|_| words.next()).collect::<Option<Vec<u64>>>()?;
            self.model.lists.insert(key, list);
        }
        Some(())
    }
}
