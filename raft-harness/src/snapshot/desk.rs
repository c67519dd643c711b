//! Where the work on snapshots is done: taking, sending, fetching, restoring.
//!
//! The desk does one thing after the other and knows neither threads nor clocks; whoever drives
//! it hands in what happened and carries out what follows. A snapshot is fetched by asking for
//! its bytes piece by piece, so the receiver sets the pace, the sender remembers nothing, and
//! what a broken lane interrupted goes on where it stopped.
//!
//! Bounds: one fetch per group, one question open per fetch, one taking per group (the engine's
//! rule).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{GroupId, GroupIncarnation, LogIndex, Micros, NodeId, SnapshotMeta};
use raft_transport::{ConnectionId, SNAPSHOT_DATA_MAX, SnapshotChunk, SnapshotPull};
use tracing::{info, warn};

use super::format::{self, Restored, restore};
use super::store::{SnapshotName, SnapshotPart, SnapshotStore};
use crate::engine::{EngineInput, MakeMachine};
use crate::group_spec::GroupSpec;
use crate::state_machine::SnapshotPieces;

/// A question without an answer is asked again after so long; an answer to the first one is as
/// good.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many questions in vain, and the leader may offer it anew.
const TRIES_MAX: u32 = 10;

/// What the desk is asked, or hears.
pub(crate) enum DeskInput {
    /// Write a machine's state down.
    Take {
        name: SnapshotName,
        meta: SnapshotMeta,
        pieces: SnapshotPieces,
        /// Older ones of the group from here on may still be asked for.
        keep_from: LogIndex,
    },
    /// Get what a leader offers and make a machine of it.
    Fetch(Box<Wanted>),
    /// Stop getting what is being got for a group.
    Abort(GroupId),
    /// The replica is gone, and all its snapshots.
    Forget(GroupId, GroupIncarnation),
    /// A peer asks for bytes, on this connection.
    Pull(ConnectionId, SnapshotPull),
    /// A peer sent some.
    Chunk(NodeId, SnapshotChunk),
}

/// A snapshot that is wanted.
pub(crate) struct Wanted {
    pub(crate) name: SnapshotName,
    pub(crate) meta: SnapshotMeta,
    /// Who has it.
    pub(crate) node: NodeId,
    pub(crate) maker: MakeMachine,
    pub(crate) spec: Arc<GroupSpec>,
}

/// What is to be done for the desk.
pub(crate) enum DeskOutput {
    /// Ask a node for bytes.
    Pull(NodeId, SnapshotPull),
    /// Answer on this connection.
    Chunk(ConnectionId, SnapshotChunk),
    /// Tell the group's engine.
    Engine(GroupId, EngineInput),
}

pub(crate) struct Desk {
    store: Arc<dyn SnapshotStore>,
    fetches: BTreeMap<GroupId, Fetch>,
}

struct Fetch {
    wanted: Box<Wanted>,
    part: Option<Box<dyn SnapshotPart>>,
    got: u64,
    /// Length and sum of the whole, once known.
    whole: Option<(u64, u32)>,
    asked: Micros,
    tries: u32,
}

impl Desk {
    pub(crate) fn new(store: Arc<dyn SnapshotStore>) -> Self {
        Self { store, fetches: BTreeMap::new() }
    }

    pub(crate) fn handle(&mut self, now: Micros, input: DeskInput, out: &mut Vec<DeskOutput>) {
        match input {
            DeskInput::Take { name, meta, pieces, keep_from } => {
                let written = format::write(&*self.store, name, &meta, pieces);
                if let Err(error) = &written {
                    warn!(group = %name.group, index = %name.index, %error, "no snapshot was taken");
                } else {
                    self.prune(name, keep_from);
                }
                let input = EngineInput::SnapshotDone(name, written.is_ok());
                out.push(DeskOutput::Engine(name.group, input));
            }
            DeskInput::Fetch(wanted) => self.fetch(now, wanted, out),
            DeskInput::Abort(group) => {
                self.fetches.remove(&group);
            }
            DeskInput::Forget(group, incarnation) => {
                self.fetches.remove(&group);
                self.remove_if(|name| name.group == group && name.incarnation == incarnation);
            }
            DeskInput::Pull(connection, pull) => {
                out.push(DeskOutput::Chunk(connection, self.answer(pull)));
            }
            DeskInput::Chunk(node, chunk) => self.take_chunk(now, node, chunk, out),
        }
    }

    /// Asks again what was not answered.
    pub(crate) fn on_time(&mut self, now: Micros, out: &mut Vec<DeskOutput>) {
        let late = |fetch: &&mut Fetch| now >= fetch.asked.after(PATIENCE);
        let mut failed = Vec::new();
        for fetch in self.fetches.values_mut().filter(late) {
            fetch.tries += 1;
            if fetch.tries >= TRIES_MAX {
                failed.push(fetch.wanted.name.group);
            } else {
                fetch.ask(now, out);
            }
        }
        for group in failed {
            self.give_up(group, "nobody answers", out);
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        self.fetches.values().map(|fetch| fetch.asked.after(PATIENCE)).min()
    }

    fn fetch(&mut self, now: Micros, wanted: Box<Wanted>, out: &mut Vec<DeskOutput>) {
        let name = wanted.name;
        let group = name.group;
        if let Some(fetch) = self.fetches.get_mut(&group)
            && fetch.wanted.name == name
        {
            // The same from another leader: its bytes may differ, which the first of them tells.
            fetch.wanted = wanted;
            fetch.tries = 0;
            fetch.ask(now, out);
            return;
        }
        let fetch = Fetch { wanted, part: None, got: 0, whole: None, asked: now, tries: 0 };
        self.fetches.insert(group, fetch);
        // An earlier life may have got it already.
        if matches!(self.store.bytes(name), Ok(Some(_))) && self.make_machine(group, out).is_ok() {
            return;
        }
        if let Some(fetch) = self.fetches.get_mut(&group) {
            fetch.ask(now, out);
        }
    }

    fn take_chunk(
        &mut self,
        now: Micros,
        node: NodeId,
        chunk: SnapshotChunk,
        out: &mut Vec<DeskOutput>,
    ) {
        let group = chunk.place.group;
        let Some(fetch) = self.fetches.get_mut(&group) else {
            return;
        };
        // Answers to a question asked twice come twice.
        if fetch.wanted.node != node || fetch.place() != chunk.place {
            return;
        }
        match fetch.take(&*self.store, &chunk) {
            Ok(Progress::More) => fetch.ask(now, out),
            Ok(Progress::Whole) => {
                if let Err(error) = self.make_machine(group, out) {
                    self.give_up(group, &error, out);
                }
            }
            Err(error) => self.give_up(group, &error.to_string(), out),
        }
    }

    /// All bytes are here: makes a machine of them.
    fn make_machine(&mut self, group: GroupId, out: &mut Vec<DeskOutput>) -> Result<(), String> {
        let Some(fetch) = self.fetches.get(&group) else {
            return Ok(());
        };
        let Wanted { name, meta, maker, spec, .. } = &*fetch.wanted;
        let name = *name;
        let restored = restore(&*self.store, name, maker(spec)).map_err(|error| error.to_string());
        let restored = restored.and_then(|restored| {
            let of = |meta: &SnapshotMeta| (meta.config_index, Arc::clone(&meta.membership));
            if of(&restored.meta) == of(meta) {
                Ok(restored)
            } else {
                Err("it stands for something else than was offered".to_owned())
            }
        });
        match restored {
            Ok(restored) => {
                self.fetches.remove(&group);
                info!(%group, index = %name.index, "a snapshot came");
                let input = EngineInput::SnapshotFetched(name, Box::new(restored));
                out.push(DeskOutput::Engine(group, input));
                Ok(())
            }
            Err(error) => {
                if let Err(error) = self.store.remove(name) {
                    warn!(%group, index = %name.index, %error, "a useless snapshot stays");
                }
                Err(error)
            }
        }
    }

    fn give_up(&mut self, group: GroupId, why: &str, out: &mut Vec<DeskOutput>) {
        if let Some(fetch) = self.fetches.remove(&group) {
            let Wanted { name, node, .. } = *fetch.wanted;
            warn!(%group, index = %name.index, from = %node, why, "a snapshot did not come");
            out.push(DeskOutput::Engine(group, EngineInput::SnapshotFetchFailed(name)));
        }
    }

    fn answer(&self, place: SnapshotPull) -> SnapshotChunk {
        let name = SnapshotName {
            group: place.group,
            incarnation: place.group_incarnation,
            index: place.index,
            term: place.term,
        };
        let read = || -> io::Result<Option<SnapshotChunk>> {
            let Some((total, sum)) = format::fingerprint(&*self.store, name)? else {
                return Ok(None);
            };
            let data = self.store.read(name, place.offset, SNAPSHOT_DATA_MAX)?;
            Ok(Some(SnapshotChunk { place, total, sum, data }))
        };
        let found = read().unwrap_or_else(|error| {
            warn!(%name, %error, "a snapshot that was asked for cannot be read");
            None
        });
        found.unwrap_or(SnapshotChunk { place, total: 0, sum: 0, data: Default::default() })
    }

    /// Removes what a newer snapshot of the group makes useless.
    fn prune(&self, newest: SnapshotName, keep_from: LogIndex) {
        self.remove_if(|name| {
            (name.group, name.incarnation) == (newest.group, newest.incarnation)
                && name.index < newest.index
                && name.index < keep_from
        });
    }

    fn remove_if(&self, useless: impl Fn(&SnapshotName) -> bool) {
        let removed = self.store.names().and_then(|names| {
            names.into_iter().filter(useless).try_for_each(|name| self.store.remove(name))
        });
        if let Err(error) = removed {
            warn!(%error, "useless snapshots stay");
        }
    }
}

enum Progress {
    More,
    Whole,
}

impl Fetch {
    fn place(&self) -> SnapshotPull {
        let SnapshotName { group, incarnation, index, term } = self.wanted.name;
        SnapshotPull { group, group_incarnation: incarnation, index, term, offset: self.got }
    }

    fn ask(&mut self, now: Micros, out: &mut Vec<DeskOutput>) {
        self.asked = now;
        out.push(DeskOutput::Pull(self.wanted.node, self.place()));
    }

    fn take(&mut self, store: &dyn SnapshotStore, chunk: &SnapshotChunk) -> io::Result<Progress> {
        let whole = (chunk.total, chunk.sum);
        if self.whole != Some(whole) {
            if chunk.total == 0 {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.part = Some(store.begin(self.wanted.name)?);
            self.whole = Some(whole);
            if std::mem::take(&mut self.got) > 0 {
                // Other bytes than those before: from the beginning.
                return Ok(Progress::More);
            }
        }
        let left = chunk.total - self.got;
        if chunk.data.is_empty() || chunk.data.len() as u64 > left {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let part = self.part.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        part.append(&chunk.data)?;
        self.got += chunk.data.len() as u64;
        self.tries = 0;
        if self.got < chunk.total {
            return Ok(Progress::More);
        }
        match self.part.take() {
            Some(part) => part.finish().map(|()| Progress::Whole),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// The newest snapshot that fits a recovered log, as a machine; a damaged one gives way to an
/// older one.
pub(crate) fn newest_fit(
    store: &dyn SnapshotStore,
    recovered: &raft_storage::RecoveredGroup,
    spec: &GroupSpec,
    maker: &MakeMachine,
) -> io::Result<Option<Restored>> {
    let term_at = |index: LogIndex| {
        if index == recovered.base.index {
            return Some(recovered.base.term);
        }
        let after = recovered.term_runs.partition_point(|(first, _)| *first <= index);
        Some(recovered.term_runs.get(after.checked_sub(1)?)?.1)
    };
    let mut names: Vec<SnapshotName> = store.names()?;
    names.retain(|name| {
        (name.group, name.incarnation) == (spec.group, spec.incarnation)
            && (recovered.base.index..=recovered.last_index).contains(&name.index)
            && term_at(name.index) == Some(name.term)
    });
    names.sort_unstable_by_key(|name| std::cmp::Reverse(name.index));
    for name in names {
        match restore(store, name, maker(spec)) {
            Ok(restored) => return Ok(Some(restored)),
            Err(error) => warn!(group = %name.group, index = %name.index, %error, "passed over"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_core::{Entry, LogTime, Membership, ReplicaId, Term};

    use super::*;
    use crate::snapshot::MemoryStore;
    use crate::state_machine::{RestoreError, StateMachine};

    const GROUP: GroupId = GroupId::new(7);
    const SENDER: NodeId = NodeId::new(2);

    /// Holds the bytes it was restored from.
    struct Holder(Vec<u8>);

    impl StateMachine for Holder {
        fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) {}

        fn read(&self, _: &[u8]) -> Bytes {
            Bytes::copy_from_slice(&self.0)
        }

        fn digest(&self) -> u64 {
            0
        }

        fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
            pieces.for_each(|piece| self.0.extend_from_slice(&piece));
            Ok(())
        }
    }

    fn meta() -> SnapshotMeta {
        SnapshotMeta {
            index: LogIndex::new(11),
            term: Term::new(5),
            time: LogTime::new(7),
            config_index: LogIndex::new(3),
            membership: Arc::new(Membership::of_voters([ReplicaId::new(2)]).unwrap()),
        }
    }

    fn name() -> SnapshotName {
        let incarnation = GroupIncarnation::new(1);
        SnapshotName { group: GROUP, incarnation, index: meta().index, term: meta().term }
    }

    fn state(byte: u8) -> Vec<u8> {
        (0..700_000_u32).map(|at| (at >> 3) as u8 ^ byte).collect()
    }

    fn taking(byte: u8) -> DeskInput {
        let pieces: Vec<Bytes> = state(byte).chunks(100_000).map(Bytes::copy_from_slice).collect();
        let pieces: SnapshotPieces = Box::new(pieces.into_iter());
        DeskInput::Take { name: name(), meta: meta(), pieces, keep_from: LogIndex::ZERO }
    }

    struct Pair {
        sender: Desk,
        receiver: Desk,
        store: MemoryStore,
        now: Micros,
    }

    impl Pair {
        fn new() -> Self {
            let store = MemoryStore::default();
            let mut sender = Desk::new(Arc::new(MemoryStore::default()));
            sender.handle(Micros::ZERO, taking(0), &mut Vec::new());
            let receiver = Desk::new(Arc::new(store.clone()));
            Self { sender, receiver, store, now: Micros::ZERO }
        }

        fn fetch(&mut self) -> Vec<DeskOutput> {
            let wanted = Wanted {
                name: name(),
                meta: meta(),
                node: SENDER,
                maker: Arc::new(|_| Box::new(Holder(Vec::new()))),
                spec: Arc::new(GroupSpec::on_nodes(GROUP, [SENDER])),
            };
            let mut out = Vec::new();
            self.receiver.handle(self.now, DeskInput::Fetch(Box::new(wanted)), &mut out);
            out
        }

        /// The sender's answer to the one question there is.
        fn answer(&mut self, out: &[DeskOutput]) -> SnapshotChunk {
            let [DeskOutput::Pull(SENDER, pull)] = out else { panic!("one question is open") };
            self.sender.answer(*pull)
        }

        fn deliver(&mut self, chunk: SnapshotChunk) -> Vec<DeskOutput> {
            let mut out = Vec::new();
            self.receiver.handle(self.now, DeskInput::Chunk(SENDER, chunk), &mut out);
            out
        }

        /// Goes on to the end; how many pieces came, and what the engine was told.
        fn finish(&mut self, mut out: Vec<DeskOutput>) -> (usize, EngineInput) {
            let mut pieces = 0;
            loop {
                if let [DeskOutput::Engine(GROUP, _)] = &out[..] {
                    let Some(DeskOutput::Engine(_, input)) = out.pop() else { unreachable!() };
                    return (pieces, input);
                }
                let chunk = self.answer(&out);
                pieces += 1;
                out = self.deliver(chunk);
            }
        }

        fn time(&mut self) -> Vec<DeskOutput> {
            self.now = self.receiver.next_deadline().expect("a question is open");
            let mut out = Vec::new();
            self.receiver.on_time(self.now, &mut out);
            out
        }
    }

    fn came(input: EngineInput) -> Vec<u8> {
        match input {
            EngineInput::SnapshotFetched(_, restored) => restored.machine.read(b"").to_vec(),
            _ => panic!("it did not come"),
        }
    }

    #[test]
    fn a_snapshot_comes_piece_by_piece_and_goes_on_where_a_lost_answer_stopped_it() {
        let mut pair = Pair::new();
        let out = pair.fetch();
        let first = pair.answer(&out);
        let second = pair.deliver(first.clone());
        assert!(pair.deliver(first).is_empty(), "the same answer once more is no news");
        // The answer to the second question is lost.
        drop(second);
        let again = pair.time();
        assert_eq!(pair.answer(&again).place.offset, SNAPSHOT_DATA_MAX as u64);
        let (pieces, input) = pair.finish(again);
        assert_eq!(pieces, 3, "three of four");
        assert_eq!(came(input), state(0));
        assert_eq!(pair.receiver.next_deadline(), None);
        // What is here already is not asked for again.
        let (pieces, input) = {
            let out = pair.fetch();
            pair.finish(out)
        };
        assert_eq!((pieces, came(input).len()), (0, 700_000));
    }

    #[test]
    fn bytes_of_two_snapshots_are_never_mixed() {
        let mut pair = Pair::new();
        let out = pair.fetch();
        let first = pair.answer(&out);
        let second = pair.deliver(first);
        // Another node, or another life, wrote the same state in other bytes.
        pair.sender.handle(Micros::ZERO, taking(1), &mut Vec::new());
        let (pieces, input) = pair.finish(second);
        assert_eq!(pieces, 1 + 4, "from the beginning");
        assert_eq!(came(input), state(1));
    }

    #[test]
    fn what_does_not_come_or_comes_damaged_is_given_up() {
        let failed = |input| matches!(input, EngineInput::SnapshotFetchFailed(_));
        let mut pair = Pair::new();
        let mut out = pair.fetch();
        let mut questions = 0;
        while !matches!(out[..], [DeskOutput::Engine(..)]) {
            questions += 1;
            out = pair.time();
        }
        assert_eq!(questions, TRIES_MAX);

        let mut pair = Pair::new();
        let out = pair.fetch();
        let mut damaged = pair.answer(&out);
        let mut bytes = damaged.data.to_vec();
        bytes[100_000] ^= 1;
        damaged.data = bytes.into();
        let out = pair.deliver(damaged);
        let (_, input) = pair.finish(out);
        assert!(failed(input));
        assert_eq!(pair.store.names().unwrap(), [], "it may be fetched anew");

        let mut pair = Pair::new();
        pair.sender = Desk::new(Arc::new(MemoryStore::default()));
        let out = pair.fetch();
        assert!(failed(pair.finish(out).1), "the sender has it no more");
    }

    #[test]
    fn a_new_snapshot_makes_old_ones_go_but_those_still_asked_for() {
        let store = MemoryStore::default();
        let mut desk = Desk::new(Arc::new(store.clone()));
        let mut take = |index: u64, keep_from: u64| {
            let meta = SnapshotMeta { index: LogIndex::new(index), ..meta() };
            let name = SnapshotName { index: meta.index, ..name() };
            let pieces: SnapshotPieces = Box::new(std::iter::empty());
            let keep_from = LogIndex::new(keep_from);
            let input = DeskInput::Take { name, meta, pieces, keep_from };
            desk.handle(Micros::ZERO, input, &mut Vec::new());
            let names = store.names().unwrap();
            names.iter().map(|name| name.index.get()).collect::<Vec<_>>()
        };
        assert_eq!(take(10, 0), [10]);
        assert_eq!(take(20, 10), [10, 20]);
        assert_eq!(take(30, 20), [20, 30]);
        assert_eq!(take(40, 20), [20, 30, 40]);
        let incarnation = GroupIncarnation::new(1);
        desk.handle(Micros::ZERO, DeskInput::Forget(GROUP, incarnation), &mut Vec::new());
        assert_eq!(store.names().unwrap(), []);
    }
}
