//! Where snapshots are asked for: bytes are handed out to whoever fetches, and fetched here.
//!
//! The desk never does anything that takes long, so a question is answered while snapshots are
//! written, synced or restored: that is the [workshop](super::workshop)'s. It knows neither threads
//! nor clocks; whoever drives it hands in what happened and carries out what follows. A snapshot is
//! fetched by asking for its bytes piece by piece, so the receiver sets the pace, the sender
//! remembers nothing, and what a broken lane interrupted, or the end of either process, goes on about
//! where it stopped.
//!
//! Answers come in the order of their questions, and none is lost as long as the lane holds. So
//! what was asked is asked again when the lane is up again, and otherwise only after a long
//! silence: on a slow lane every question asked twice would make it slower.
//!
//! A replica that fetches is served by its leader with nothing else, so no fetch stands still
//! without an end on a lane that stays up, or down: what cannot be asked for long is reported as
//! failed, and when it is offered anew it is asked whatever was said of the lane.
//!
//! A snapshot that leaves entries in the log is fetched first, then those of them that the log here
//! lacks (see [entries](super::entries)); they are made durable in the log on the way, and when none is
//! lacking any more a machine is made. What a restart interrupts there goes on by what the log lacks then.
//!
//! Bounds: one fetch per group, [`fetches_max`](DeskOptions::fetches_max) of them asking at a time
//! with [`pieces_ahead`](DeskOptions::pieces_ahead) questions open each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{Entry, GroupId, GroupIncarnation, LogIndex, Micros, NodeId, SnapshotMeta, Term};
use raft_storage::{LogReader, ReadError};
use raft_transport::{SNAPSHOT_DATA_MAX, SnapshotChunk, SnapshotPull};
use tracing::warn;

use super::entries::{Answer, Entries, Part, Question, answer};
use super::format;
use super::shelf::Shelf;
use super::store::{SnapshotBytes, SnapshotName, SnapshotPart};
use super::workshop::{Job, Made, Taking};
use crate::engine::{CarrierConnection, EngineInput, MakeMachine};
use crate::group_spec::GroupSpec;
use crate::node::{ASKED_WITHIN, REFUSES_MAX};

/// After so long without any progress the question is asked again. Each time in vain doubles it
/// for the fetch, so that a lane slower than that is not filled with repetitions.
const PATIENCE: Duration = Duration::from_secs(3);
/// So often in vain, and the leader may offer it anew.
const TRIES_MAX: u32 = 5;
/// What it grows to.
const PATIENCE_MAX: Duration = Duration::from_secs(48);
/// So long without a lane, and the leader may offer it anew. A lane that can be had is dialed many
/// times meanwhile.
const CUT_OFF_MAX: Duration = Duration::from_secs(10);
/// What came of a snapshot is kept so long for whoever offers the same one again.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// One of ours that a peer doubts is looked at, and for so long not again, whatever was found: a peer
/// costs us no more than that by what it says, and no more is tried of what a disk refuses.
const VERIFY_PAUSE: Duration = Duration::from_secs(60);

/// How a desk goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeskOptions {
    /// Bytes in one answer, at most [`SNAPSHOT_DATA_MAX`].
    pub(crate) piece_bytes: usize,
    /// Questions of one fetch under way at once: with eight pieces of 192 KiB, 75 MiB a second
    /// over a round trip of 20 ms.
    pub(crate) pieces_ahead: u64,
    /// Fetches that ask at once; more would only share the same lane and disk.
    pub(crate) fetches_max: usize,
}

impl DeskOptions {
    /// Where questions and answers share a lane with everything else: a peer that has more answers
    /// waiting than a write buffer (1 MiB) hears no more questions, and with them no votes.
    pub(crate) fn on_one_lane(self) -> Self {
        let piece_bytes = self.piece_bytes.min(SNAPSHOT_DATA_MAX);
        Self { piece_bytes, pieces_ahead: self.pieces_ahead.min(2), fetches_max: 1 }
    }
}

impl Default for DeskOptions {
    fn default() -> Self {
        Self { piece_bytes: SNAPSHOT_DATA_MAX, pieces_ahead: 8, fetches_max: 4 }
    }
}

/// What the desk is asked, or hears.
pub(crate) enum DeskInput {
    /// Write a machine's state down.
    Take(Box<Taking>),
    /// Get what a leader offers and make a machine of it.
    Fetch(Box<Wanted>),
    /// Stop getting what is being got for a group.
    Abort(GroupId),
    /// The replica is gone, and all its snapshots. Its engine is told when that was tried:
    /// what cannot be removed goes at the next start.
    Forget(GroupId, GroupIncarnation),
    /// A peer could make nothing of the snapshot of this index.
    Doubt(GroupId, GroupIncarnation, LogIndex),
    /// A peer asks for bytes, on this connection.
    Pull(CarrierConnection, SnapshotPull),
    /// A peer sent some.
    Chunk(NodeId, SnapshotChunk),
    /// So many bytes of entries that a snapshot leaves in the log are durable there.
    Stored(SnapshotName, u64),
    /// Questions reach this node (again).
    LaneUp(NodeId),
    /// What this node was asked is lost, and nothing can be asked.
    LaneDown(NodeId),
}

/// A snapshot that is wanted.
pub(crate) struct Wanted {
    pub(crate) name: SnapshotName,
    pub(crate) meta: SnapshotMeta,
    /// Who has it.
    pub(crate) node: NodeId,
    /// In which term that one offered it, for the simulator to judge by.
    #[cfg(feature = "sim")]
    pub(crate) term: raft_core::Term,
    pub(crate) maker: MakeMachine,
    pub(crate) spec: Arc<GroupSpec>,
}

/// What is to be done for the desk.
pub(crate) enum DeskOutput {
    /// Ask a node for bytes.
    Pull(NodeId, SnapshotPull),
    /// Answer on this connection.
    Chunk(CarrierConnection, SnapshotChunk),
    /// Tell the group's engine.
    Engine(GroupId, EngineInput),
    /// Work for the workshop.
    Work(Job),
}

pub(crate) struct Desk {
    shelf: Arc<Shelf>,
    /// Where the entries are read from that snapshots leave in the log; `None` without one.
    log: Option<LogReader>,
    /// The last entry that did not fit into an answer: what is left of it is asked for next.
    large: Option<(GroupId, Entry)>,
    options: DeskOptions,
    fetches: BTreeMap<GroupId, Fetch>,
    /// All bytes are here, and the workshop makes machines of them; whether they are still wanted.
    making: BTreeMap<SnapshotName, Wish>,
    /// Nodes that no question reaches.
    down: BTreeSet<NodeId>,
    /// Of ours, those that were doubted lately, and when they were looked at. One each that a peer was
    /// offered within [`VERIFY_PAUSE`].
    doubted: BTreeMap<(GroupId, GroupIncarnation, LogIndex), Micros>,
    /// Entries that a peer asked for and the log cannot read. One each that was asked for within
    /// [`VERIFY_PAUSE`].
    unreadable: BTreeMap<(GroupId, LogIndex, Term), Unreadable>,
    /// Fetches that went on with what an earlier life had got.
    #[cfg(feature = "sim")]
    resumed: u64,
}

/// Whether a snapshot is to be got anew if what is here turns out to be of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Stands,
    Withdrawn,
}

struct Fetch {
    wanted: Box<Wanted>,
    /// What of its entries the log lacks, once all of its own bytes are here.
    entries: Option<Entries>,
    stage: Stage,
    part: Option<Box<dyn SnapshotPart>>,
    got: u64,
    /// Bytes before this were asked for.
    asked: u64,
    /// What one answer holds, as the first one showed.
    piece: u64,
    /// Length and sum of the whole, once known.
    whole: Option<(u64, u32)>,
    patience: Duration,
    tries: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// For its turn.
    Waits,
    /// Since this time, for a lane that nothing reaches its node by.
    CutOff(Micros),
    /// Something was asked, and this is when there was news last.
    Asks(Micros),
    /// Given up at this time; it goes on if the same is offered again.
    Kept(Micros),
}

impl Desk {
    pub(crate) fn new(shelf: Arc<Shelf>, log: Option<LogReader>, options: DeskOptions) -> Self {
        let (fetches, making, down) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self {
            shelf,
            log,
            large: None,
            options,
            fetches,
            making,
            down,
            doubted: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            #[cfg(feature = "sim")]
            resumed: 0,
        }
    }

    pub(crate) fn handle(&mut self, now: Micros, input: DeskInput, out: &mut Vec<DeskOutput>) {
        match input {
            DeskInput::Take(taking) => out.push(DeskOutput::Work(Job::Take(taking))),
            DeskInput::Fetch(wanted) => self.fetch(wanted, out),
            DeskInput::Abort(group) => self.withdraw(group),
            DeskInput::Forget(group, incarnation) => {
                self.withdraw(group);
                out.push(DeskOutput::Work(Job::Forget(group, incarnation)));
            }
            DeskInput::Doubt(group, incarnation, index) => {
                self.doubt(now, (group, incarnation), index, out);
            }
            DeskInput::Pull(connection, pull) => {
                let (chunk, refused) = self.answer(pull);
                out.push(DeskOutput::Chunk(connection, chunk));
                match refused {
                    Some(why) => self.note_unreadable(now, pull, &why, out),
                    // It was read, or is not held: what was refused before was refused in passing.
                    None => drop(self.unreadable.remove(&(pull.group, pull.index, pull.term))),
                }
            }
            DeskInput::Chunk(node, chunk) => self.take_chunk(now, node, &chunk, out),
            DeskInput::Stored(name, bytes) => self.stored(now, name, bytes, out),
            DeskInput::LaneUp(node) => {
                self.down.remove(&node);
            }
            DeskInput::LaneDown(node) => {
                self.down.insert(node);
                let lost = |fetch: &&mut Fetch| fetch.wanted.node == node && fetch.asks();
                self.fetches.values_mut().filter(lost).for_each(Fetch::interrupt);
            }
        }
        self.begin(now, out);
    }

    /// The workshop has done something; what of it is for an engine goes there.
    pub(crate) fn on_made(&mut self, now: Micros, made: Made, out: &mut Vec<DeskOutput>) {
        match made {
            Made::Engine(group, input) => out.push(DeskOutput::Engine(group, input)),
            Made::Over(name) => {
                self.making.remove(&name);
            }
            Made::Useless(wanted) => {
                let name = wanted.name;
                if self.making.remove(&name) == Some(Wish::Stands) {
                    self.fetches.entry(name.group).or_insert_with(|| Fetch::new(wanted));
                }
            }
            Made::Rotten(name) => {
                useless((name.group, name.incarnation), name.index, out);
            }
            Made::Lacking(wanted, missing, each) => {
                let name = wanted.name;
                if self.making.remove(&name) == Some(Wish::Stands) {
                    let entries = Some(Entries::new(missing, each));
                    let fetch = || Fetch { entries, ..Fetch::new(wanted) };
                    self.fetches.entry(name.group).or_insert_with(fetch);
                }
            }
        }
        self.begin(now, out);
    }

    /// Asks again what was not answered.
    pub(crate) fn on_time(&mut self, now: Micros, out: &mut Vec<DeskOutput>) {
        let mut failed = Vec::new();
        for (group, fetch) in &mut self.fetches {
            if fetch.deadline().is_none_or(|deadline| now < deadline) {
                continue;
            }
            match fetch.stage {
                Stage::Asks(_) => {
                    fetch.tries += 1;
                    fetch.patience = PATIENCE_MAX.min(fetch.patience * 2);
                    fetch.interrupt();
                    if fetch.tries >= TRIES_MAX {
                        failed.push((*group, "nobody answers"));
                    }
                }
                Stage::CutOff(_) => failed.push((*group, "there is no lane")),
                Stage::Waits | Stage::Kept(_) => {}
            }
        }
        for (group, why) in failed {
            if let Some(fetch) = self.fetches.get_mut(&group) {
                fetch.stage = Stage::Kept(now);
            }
            self.report_failure(group, why, out);
        }
        let over = |fetch: &Fetch| match fetch.stage {
            Stage::Kept(since) => now >= since.after(KEPT_FOR),
            Stage::Waits | Stage::CutOff(_) | Stage::Asks(_) => false,
        };
        let groups = self.fetches.iter().filter(|(_, fetch)| over(fetch)).map(|(group, _)| *group);
        for group in groups.collect::<Vec<_>>() {
            self.give_up(group);
        }
        self.begin(now, out);
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        self.fetches.values().filter_map(Fetch::deadline).min()
    }

    /// Whether bytes of a snapshot are on their way here, or a machine is made of them.
    #[cfg(feature = "sim")]
    pub(crate) fn is_fetching(&self) -> bool {
        !self.making.is_empty() || self.fetches.values().any(Fetch::asks)
    }

    /// How many fetches went on with what an earlier life had got.
    #[cfg(feature = "sim")]
    pub(crate) fn resumed(&self) -> u64 {
        self.resumed
    }

    /// What of the same leader's was being fetched and is not any more if this is wanted.
    #[cfg(feature = "sim")]
    pub(crate) fn drops_for(&self, wanted: &Wanted) -> Option<SnapshotName> {
        let fetch = self.fetches.get(&wanted.name.group)?;
        let (old, is_kept) = (&fetch.wanted, matches!(fetch.stage, Stage::Kept(_)));
        let same = (old.node, old.term) == (wanted.node, wanted.term) && !is_kept;
        (same && old.name != wanted.name).then_some(old.name)
    }

    /// What is on its way here, or a machine is made of.
    #[cfg(feature = "sim")]
    pub(crate) fn wanted(&self) -> impl Iterator<Item = SnapshotName> {
        let fetched = self.fetches.values().map(|fetch| fetch.wanted.name);
        fetched.chain(self.making.keys().copied())
    }

    fn fetch(&mut self, wanted: Box<Wanted>, out: &mut Vec<DeskOutput>) {
        let name = wanted.name;
        self.withdraw_made(name.group);
        // Who offers it is there. Without a lane for the question, that is told anew.
        self.down.remove(&wanted.node);
        if let Some(wish) = self.making.get_mut(&name) {
            // What comes of it is told when it is there.
            *wish = Wish::Stands;
            return;
        }
        if self.shelf.has(name) {
            // An earlier life got it already, or a later wish found it useless and this one came.
            self.give_up(name.group);
            self.making.insert(name, Wish::Stands);
            out.push(DeskOutput::Work(Job::Restore { wanted, part: None }));
            return;
        }
        let fetch = match self.fetches.remove(&name.group) {
            // Perhaps from another leader: its bytes may differ, which the first of them tells.
            Some(mut same) if same.wanted.name == name => {
                same.wanted = wanted;
                same.tries = 0;
                same.interrupt();
                same
            }
            Some(_) | None => Fetch::new(wanted),
        };
        self.fetches.insert(name.group, fetch);
    }

    /// A peer says that a snapshot of ours was of no use. Sound, damaged or gone, it is not looked at with
    /// each such word: where another cannot be taken in its place, for want of room, or where it cannot be
    /// read, the peer goes on saying so. What is not there at all needs no reading.
    fn doubt(
        &mut self,
        now: Micros,
        life: (GroupId, GroupIncarnation),
        index: LogIndex,
        out: &mut Vec<DeskOutput>,
    ) {
        self.doubted.retain(|_, looked| now < looked.after(VERIFY_PAUSE));
        let is_known = self.doubted.contains_key(&(life.0, life.1, index));
        if is_known || raft_core::planted!(RottenSnapshotStays) {
            return;
        }
        self.doubted.insert((life.0, life.1, index), now);
        let ours = self.shelf.of(life.0, life.1).into_iter().find(|name| name.index == index);
        match ours {
            None => useless(life, index, out),
            Some(name) => out.push(DeskOutput::Work(Job::Verify(name))),
        }
    }

    /// Nobody waits any more for what is got for a group; what came already is put away all the
    /// same.
    fn withdraw(&mut self, group: GroupId) {
        self.give_up(group);
        self.withdraw_made(group);
    }

    /// What came of a fetch is not wanted any more, here or in a later life.
    fn give_up(&mut self, group: GroupId) {
        self.fetches.remove(&group);
        if let Err(error) = self.shelf.discard_if(|name| name.group == group) {
            warn!(%group, %error, "a part of a snapshot stays");
        }
    }

    fn withdraw_made(&mut self, group: GroupId) {
        let of_group = self.making.iter_mut().filter(|(name, _)| name.group == group);
        of_group.for_each(|(_, wish)| *wish = Wish::Withdrawn);
    }

    /// Lets fetches ask whose turn it is.
    fn begin(&mut self, now: Micros, out: &mut Vec<DeskOutput>) {
        let mut asking = self.fetches.values().filter(|fetch| fetch.asks()).count();
        for fetch in self.fetches.values_mut() {
            let is_down = self.down.contains(&fetch.wanted.node);
            match fetch.stage {
                Stage::Waits if is_down => fetch.stage = Stage::CutOff(now),
                Stage::CutOff(_) if !is_down => fetch.stage = Stage::Waits,
                Stage::Waits | Stage::CutOff(_) | Stage::Asks(_) | Stage::Kept(_) => {}
            }
            if fetch.stage == Stage::Waits && asking < self.options.fetches_max {
                fetch.ask(now, self.options, out);
                asking += 1;
            }
        }
    }

    fn take_chunk(
        &mut self,
        now: Micros,
        node: NodeId,
        chunk: &SnapshotChunk,
        out: &mut Vec<DeskOutput>,
    ) {
        let group = chunk.place.group;
        let Some(fetch) = self.fetches.get_mut(&group) else {
            return;
        };
        if fetch.wanted.node != node || !fetch.asks() {
            return;
        }
        if fetch.entries.is_some() {
            self.take_entries(now, chunk, out);
            return;
        }
        // Answers to a question asked twice come twice.
        if fetch.place(fetch.got) != chunk.place {
            return;
        }
        match fetch.take(&self.shelf, chunk) {
            Ok(Taken::Some) => fetch.ask(now, self.options, out),
            Ok(Taken::Resumed) => {
                #[cfg(feature = "sim")]
                {
                    self.resumed += 1;
                }
                fetch.ask(now, self.options, out);
            }
            Ok(Taken::All(part)) => {
                if let Some(Fetch { wanted, .. }) = self.fetches.remove(&group) {
                    self.making.insert(wanted.name, Wish::Stands);
                    out.push(DeskOutput::Work(Job::Restore { wanted, part: Some(part) }));
                }
            }
            Err(error) => {
                self.report_failure(group, &error.to_string(), out);
                self.give_up(group);
            }
        }
    }

    /// Entries came that a snapshot leaves in the log.
    fn take_entries(&mut self, now: Micros, chunk: &SnapshotChunk, out: &mut Vec<DeskOutput>) {
        let group = chunk.place.group;
        let Some(fetch) = self.fetches.get_mut(&group) else { return };
        let name = fetch.wanted.name;
        let Some(entries) = &mut fetch.entries else { return };
        let awaited = entries.awaited();
        if awaited.is_none_or(|question| place_of(name, question) != chunk.place) {
            return;
        }
        match entries.take(chunk.total, chunk.sum, &chunk.data) {
            Ok(came) => {
                fetch.tries = 0;
                fetch.got += chunk.data.len() as u64;
                if !came.is_empty() {
                    let input = EngineInput::SnapshotEntries(name, came);
                    out.push(DeskOutput::Engine(group, input));
                }
                fetch.ask(now, self.options, out);
            }
            Err(error) => {
                self.report_failure(group, &error.to_string(), out);
                self.fetches.remove(&group);
            }
        }
    }

    /// Entries are durable in the log; once all are, a machine can be made.
    fn stored(&mut self, now: Micros, name: SnapshotName, bytes: u64, out: &mut Vec<DeskOutput>) {
        let Some(fetch) = self.fetches.get_mut(&name.group) else { return };
        let Some(entries) = fetch.entries.as_mut().filter(|_| fetch.wanted.name == name) else {
            return;
        };
        entries.stored(bytes);
        if !entries.is_over() {
            if fetch.asks() {
                fetch.ask(now, self.options, out);
            }
            return;
        }
        if let Some(Fetch { wanted, .. }) = self.fetches.remove(&name.group) {
            self.making.insert(name, Wish::Stands);
            out.push(DeskOutput::Work(Job::Restore { wanted, part: None }));
        }
    }

    fn report_failure(&self, group: GroupId, why: &str, out: &mut Vec<DeskOutput>) {
        if let Some(fetch) = self.fetches.get(&group) {
            let Wanted { name, node, .. } = *fetch.wanted;
            let got = fetch.got;
            warn!(%group, index = %name.index, from = %node, got, why, "a snapshot did not come");
            out.push(DeskOutput::Engine(group, EngineInput::SnapshotFetchFailed(name)));
        }
    }

    /// The bytes of a place, none if they are not at hand; and why the log could not read them.
    fn answer(&mut self, place: SnapshotPull) -> (SnapshotChunk, Option<ReadError>) {
        if let Some(part) = Part::unpack(place.offset) {
            return self.answer_entries(place, part);
        }
        let name = SnapshotName {
            group: place.group,
            incarnation: place.group_incarnation,
            index: place.index,
            term: place.term,
        };
        let store = self.shelf.store();
        let read = || -> io::Result<Option<SnapshotChunk>> {
            let Some((total, sum)) = format::fingerprint(store, name)? else {
                return Ok(None);
            };
            let data = store.read(name, place.offset, self.options.piece_bytes)?;
            Ok(Some(SnapshotChunk { place, total, sum, data }))
        };
        let found = read().unwrap_or_else(|error| {
            warn!(%name, %error, "a snapshot that was asked for cannot be read");
            None
        });
        let nothing = SnapshotChunk { place, total: 0, sum: 0, data: Default::default() };
        (found.unwrap_or(nothing), None)
    }

    /// The log cannot read an entry that a peer asked for. If that lasts the engine is told: no peer that
    /// lacks it can be served from here, however often it is offered the snapshot that names it.
    fn note_unreadable(
        &mut self,
        now: Micros,
        place: SnapshotPull,
        why: &ReadError,
        out: &mut Vec<DeskOutput>,
    ) {
        self.unreadable.retain(|_, entry| now < entry.asked.after(VERIFY_PAUSE));
        let key = (place.group, place.index, place.term);
        let fresh = Unreadable { since: now, asked: now, told: None };
        let entry = self.unreadable.entry(key).or_insert(fresh);
        if now.since(entry.asked) > ASKED_WITHIN {
            entry.since = now;
        }
        entry.asked = now;
        let lasts =
            matches!(why, ReadError::Corrupt { .. }) || now.since(entry.since) >= REFUSES_MAX;
        let is_told = entry.told.is_some_and(|told| now < told.after(VERIFY_PAUSE));
        if lasts && !is_told {
            entry.told = Some(now);
            let life = (place.group, place.group_incarnation);
            let input = EngineInput::KeptUnreadable(life, place.index, place.term);
            out.push(DeskOutput::Engine(place.group, input));
        }
    }
}

/// An entry that the log cannot read.
#[derive(Clone, Copy, Debug)]
struct Unreadable {
    /// When it was refused first, and last.
    since: Micros,
    asked: Micros,
    /// When its engine was told.
    told: Option<Micros>,
}

impl Desk {
    /// Entries of the log: the first one has the index and the term of the question.
    fn answer_entries(
        &mut self,
        place: SnapshotPull,
        part: Part,
    ) -> (SnapshotChunk, Option<ReadError>) {
        let (group, log, large) = (place.group, &self.log, &mut self.large);
        let mut refused = None;
        let read = |index: LogIndex| {
            let is_first = index == place.index;
            let term = is_first.then_some(place.term);
            let of = |entry: &Entry| entry.index == index && term.is_none_or(|t| t == entry.term);
            if let Some((_, entry)) = large.as_ref().filter(|(g, entry)| *g == group && of(entry)) {
                return Some(entry.clone());
            }
            let log = log.as_ref()?;
            let term = term.or_else(|| log.held_term(group, index))?;
            match log.entry(group, index, term) {
                Ok(entry) => {
                    if is_first && entry.payload.len() > SNAPSHOT_DATA_MAX {
                        *large = Some((group, entry.clone()));
                    }
                    Some(entry)
                }
                Err(error) => {
                    if is_first {
                        warn!(%group, %index, %error, "an entry that was asked for is not at hand");
                        refused = Some(error).filter(ReadError::is_refusal);
                    }
                    None
                }
            }
        };
        let found = answer(place.index, part, self.options.piece_bytes, read);
        let Answer { total, sum, data } =
            found.unwrap_or(Answer { total: 0, sum: 0, data: Vec::new() });
        (SnapshotChunk { place, total, sum, data: data.into() }, refused)
    }
}

/// One of ours can serve nobody.
fn useless(
    (group, incarnation): (GroupId, GroupIncarnation),
    index: LogIndex,
    out: &mut Vec<DeskOutput>,
) {
    let input = EngineInput::SnapshotUseless(group, incarnation, index);
    out.push(DeskOutput::Engine(group, input));
}

/// How a question for entries travels.
fn place_of(name: SnapshotName, question: Question) -> SnapshotPull {
    SnapshotPull {
        group: name.group,
        group_incarnation: name.incarnation,
        index: question.first,
        term: question.term,
        offset: question.part.pack(),
    }
}

impl Fetch {
    fn new(wanted: Box<Wanted>) -> Self {
        Self {
            wanted,
            entries: None,
            stage: Stage::Waits,
            part: None,
            got: 0,
            asked: 0,
            piece: SNAPSHOT_DATA_MAX as u64,
            whole: None,
            patience: PATIENCE,
            tries: 0,
        }
    }

    fn asks(&self) -> bool {
        matches!(self.stage, Stage::Asks(_))
    }

    fn deadline(&self) -> Option<Micros> {
        match self.stage {
            Stage::Waits => None,
            Stage::CutOff(since) => Some(since.after(CUT_OFF_MAX)),
            Stage::Asks(since) => Some(since.after(self.patience)),
            Stage::Kept(since) => Some(since.after(KEPT_FOR)),
        }
    }

    /// Whatever was asked is not answered any more; it goes on from what came.
    fn interrupt(&mut self) {
        self.stage = Stage::Waits;
        match &mut self.entries {
            Some(entries) => entries.interrupt(),
            None => self.asked = self.got,
        }
    }

    fn place(&self, offset: u64) -> SnapshotPull {
        let SnapshotName { group, incarnation, index, term } = self.wanted.name;
        SnapshotPull { group, group_incarnation: incarnation, index, term, offset }
    }

    /// Asks for as much as may be under way: for one piece until the length is known.
    fn ask(&mut self, now: Micros, options: DeskOptions, out: &mut Vec<DeskOutput>) {
        self.stage = Stage::Asks(now);
        if let Some(entries) = &mut self.entries {
            let bytes = options.piece_bytes as u64;
            while let Some(question) = entries.next(options.pieces_ahead, bytes) {
                let place = place_of(self.wanted.name, question);
                out.push(DeskOutput::Pull(self.wanted.node, place));
            }
            return;
        }
        let ahead = match self.whole {
            Some((total, _)) => {
                total.min(self.got.saturating_add(self.piece * options.pieces_ahead))
            }
            None => 1,
        };
        self.asked = self.asked.max(self.got);
        while self.asked < ahead {
            out.push(DeskOutput::Pull(self.wanted.node, self.place(self.asked)));
            self.asked += self.piece;
        }
    }

    /// Takes the bytes that come next.
    fn take(&mut self, shelf: &Shelf, chunk: &SnapshotChunk) -> io::Result<Taken> {
        let whole = (chunk.total, chunk.sum);
        if self.whole != Some(whole) {
            if chunk.total == 0 {
                return Err(io::ErrorKind::NotFound.into());
            }
            let bytes = SnapshotBytes { total: chunk.total, sum: chunk.sum };
            let (part, here) = shelf.fetch(self.wanted.name, bytes)?;
            self.part = Some(part);
            self.whole = Some(whole);
            let before = std::mem::replace(&mut self.got, here);
            if before > 0 || here > 0 {
                // Other bytes than those before, or an earlier life has got some.
                self.asked = here;
                return Ok(if here > 0 { Taken::Resumed } else { Taken::Some });
            }
        }
        let left = chunk.total - self.got;
        let bytes = chunk.data.len() as u64;
        if bytes == 0 || bytes > left {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let part = self.part.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        part.append(&chunk.data)?;
        self.got += bytes;
        self.tries = 0;
        if bytes != self.piece && self.got < chunk.total {
            // The sender's pieces are of another size: what was asked for was other places.
            self.piece = bytes;
            self.asked = self.got;
        }
        match self.part.take() {
            Some(part) if self.got == chunk.total => Ok(Taken::All(part)),
            part => {
                self.part = part;
                Ok(Taken::Some)
            }
        }
    }
}

/// What became of bytes that came.
enum Taken {
    /// There are more to come.
    Some,
    /// There are more to come, from where an earlier life stopped.
    Resumed,
    /// These are all.
    All(Box<dyn SnapshotPart>),
}

#[cfg(test)]
mod tests;
