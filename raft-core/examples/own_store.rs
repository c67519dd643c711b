//! A driver with a store of its own: one journal file per replica, made with `std` alone.
//!
//! It shows what a store owes the protocol. An operation is whole or not there; operations become
//! durable in order; a message that promises something leaves only after the sync it waits for;
//! a new life of a replica has a larger number than any before. Three replicas elect a leader and
//! take commands, one crashes in the middle of a write, all crash and come back.
//!
//! Run with `cargo run -p raft-core --example own_store`. A store for more than an example needs
//! checksums (here a torn write is recognised by its missing end), a synced folder, memberships as
//! entries, and one file for many groups, so that they share their syncs: that is `raft-storage`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::{
    Durable, Effects, Gated, Group, GroupId, HardState, Incarnation, Input, LogChange, LogIndex,
    LogTime, Membership, Message, Micros, Outgoing, Persist, ReadPath, ReplicaId, Settings, Start,
    Term, Token,
};

/// Errors end the example.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A command, or nothing: the empty entry a leader begins with.
#[derive(Clone, Debug, Default)]
struct Entry {
    term: Term,
    command: String,
}

/// What a journal holds.
#[derive(Debug, Default)]
struct Recovered {
    life: u64,
    hard_state: HardState,
    log: Vec<Entry>,
}

/// A text file to which operations are appended: some lines, then `end`.
struct Journal {
    file: File,
}

impl Journal {
    /// Opens a journal, cuts a torn operation from its end, and begins a new life.
    fn open(path: &Path) -> Result<(Self, Recovered)> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let text = io::read_to_string(&mut file)?;
        let whole = text.rfind("\nend\n").map_or(0, |at| at + "\nend\n".len());
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut recovered = Recovered::default();
        text[..whole].lines().try_for_each(|line| recovered.replay(line))?;
        recovered.life += 1;
        let mut journal = Self { file };
        journal.append(&format!("life {}\n", recovered.life))?;
        Ok((journal, recovered))
    }

    /// Makes one operation durable. When this returns, and not before, it may be attested.
    fn persist(&mut self, persist: &Persist, log: &[Entry]) -> Result<()> {
        let mut lines = String::new();
        if let Some(HardState { term, vote }) = persist.hard_state {
            writeln!(lines, "term {term} {}", vote.map_or(0, ReplicaId::get))?;
        }
        if let Some(from) = persist.truncate_from {
            writeln!(lines, "cut {from}")?;
        }
        if let Some((first, last)) = persist.append {
            for Entry { term, command } in &log[at(first)..=at(last)] {
                writeln!(lines, "add {term} {command}")?;
            }
        }
        self.append(&lines)
    }

    fn append(&mut self, lines: &str) -> Result<()> {
        // One write, so that a crash tears at most this operation.
        self.file.write_all(format!("{lines}end\n").as_bytes())?;
        self.file.sync_data()?;
        Ok(())
    }
}

impl Recovered {
    fn replay(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "life" => self.life = first.parse()?,
            "term" => {
                let vote = Some(second.parse()?).filter(|vote| *vote != 0).map(ReplicaId::new);
                self.hard_state = HardState { term: Term::new(first.parse()?), vote };
            }
            "cut" => self.log.truncate(at(LogIndex::new(first.parse()?))),
            "add" => {
                let (term, command) = (Term::new(first.parse()?), second.to_string());
                self.log.push(Entry { term, command });
            }
            "end" => {}
            _ => return Err(format!("the journal says {line:?}").into()),
        }
        Ok(())
    }

    /// The terms of the log as runs, which is all that the protocol wants to know of it.
    fn term_runs(&self) -> Vec<(LogIndex, Term)> {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (entry, index) in self.log.iter().zip(1..) {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((LogIndex::new(index), entry.term));
            }
        }
        runs
    }
}

/// Where an entry is in a `Vec` that holds the whole log.
fn at(index: LogIndex) -> usize {
    index.get() as usize - 1
}

struct Replica {
    group: Group,
    effects: Effects,
    journal: Journal,
    log: Vec<Entry>,
    /// Messages that promise what is not on disk yet.
    gated: Vec<Gated>,
    /// The state machine: all commands so far. It is rebuilt from the log after a crash.
    state: Vec<String>,
}

impl Replica {
    fn start(now: Micros, me: ReplicaId, path: &Path) -> Result<Self> {
        let (journal, recovered) = Journal::open(path)?;
        let voters = Membership::of_voters((1..=3).map(ReplicaId::new))?;
        let start = Start {
            incarnation: Incarnation::new(recovered.life),
            hard_state: recovered.hard_state,
            term_runs: recovered.term_runs(),
            last_index: LogIndex::new(recovered.log.len() as u64),
            ..Start::fresh(GroupId::new(7), me, voters, Arc::new(Settings::default()))
        };
        let Recovered { life, log, .. } = recovered;
        println!("replica {me}: life {life} begins with {} entries", log.len());
        let (effects, gated, state) = (Effects::default(), Vec::new(), Vec::new());
        Ok(Self { group: Group::new(now, start)?, effects, journal, log, gated, state })
    }

    /// One step. What is to be persisted stays in the effects, and grows, until the next sync.
    fn step(&mut self, now: Micros, input: Input, entries: &[Entry]) {
        let after = match &input {
            Input::Message { message: Message::Append(append), .. } => append.prev_index,
            _ => LogIndex::ZERO,
        };
        let applied = self.group.status().appliable_index;
        self.group.step(now, input, &mut self.effects);
        let term = self.group.term();
        for change in self.effects.log_changes.drain(..) {
            match change {
                LogChange::Appended { .. } => {
                    let command = entries.first().map(|entry| entry.command.clone());
                    self.log.push(Entry { term, command: command.unwrap_or_default() });
                }
                LogChange::Received { first, .. } => {
                    let known = first.prev().since(after) as usize;
                    self.log.extend_from_slice(&entries[known..]);
                }
                LogChange::Truncated { from } => self.log.truncate(at(from)),
                // This driver never reports a snapshot, so none is offered.
                LogChange::Reset { .. } | LogChange::Compacted { .. } => {}
            }
        }
        if let Some(upto) = self.effects.appliable.take() {
            let new = &self.log[applied.get() as usize..upto.get() as usize];
            let commands = new.iter().map(|entry| entry.command.clone());
            self.state.extend(commands.filter(|command| !command.is_empty()));
        }
        for (token, outcome) in self.effects.outcomes.drain(..) {
            println!("replica {}: request {token} ended: {outcome:?}", self.group.replica());
        }
    }

    /// What may leave now. With everything else that waits, one sync makes it durable.
    fn sync(&mut self, now: Micros) -> Result<Vec<Outgoing>> {
        self.effects.messages.hold_gated(&mut self.gated);
        let mut leaving: Vec<Outgoing> = self.effects.messages.drain_ready().collect();
        if let Some(persist) = self.effects.persist.take() {
            self.journal.persist(&persist, &self.log)?;
            let durable = Durable::attest(persist.seq);
            for gate in std::mem::take(&mut self.gated) {
                match gate.open(durable) {
                    Ok(message) => leaving.push(message),
                    Err(gate) => self.gated.push(gate),
                }
            }
            self.step(now, Input::Persisted(persist.seq), &[]);
        }
        Ok(leaving)
    }

    /// Appends are made when there is room for them; here always.
    fn appends(&mut self, now: Micros) -> Vec<(Outgoing, Vec<Entry>)> {
        let mut appends = Vec::new();
        for to in (1..=3).map(ReplicaId::new) {
            while let Some(append) = self.group.make_append(now, to, u64::MAX, |_| Some(64)) {
                let range = append.prev_index.get() as usize..append.last_index().get() as usize;
                let entries = self.log[range].to_vec();
                appends.push((Outgoing { to, message: Message::Append(append) }, entries));
            }
        }
        appends
    }
}

struct Packet {
    from: ReplicaId,
    from_incarnation: Incarnation,
    to_incarnation: Incarnation,
    outgoing: Outgoing,
    entries: Vec<Entry>,
}

struct Cluster {
    now: Micros,
    folder: PathBuf,
    /// By replica; `None` while it is down.
    replicas: [Option<Replica>; 3],
    network: VecDeque<Packet>,
    requests: u64,
}

impl Cluster {
    fn path(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("{}.journal", replica + 1))
    }

    fn start(&mut self, replica: usize) -> Result<()> {
        let me = ReplicaId::new(replica as u64 + 1);
        self.replicas[replica] = Some(Replica::start(self.now, me, &self.path(replica))?);
        Ok(())
    }

    /// Syncs and sends until nothing is under way, then lets time jump, until `done`.
    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            if let Some(packet) = self.network.pop_front() {
                let Packet { from, from_incarnation, to_incarnation, outgoing, entries } = packet;
                let message = outgoing.message;
                let input = Input::Message { from, from_incarnation, to_incarnation, message };
                if let Some(replica) = &mut self.replicas[outgoing.to.get() as usize - 1] {
                    replica.step(self.now, input, &entries);
                }
            } else if !self.sync_all()? {
                let alive = self.replicas.iter_mut().flatten();
                let next = alive.min_by_key(|it| it.group.next_deadline());
                let next = next.ok_or("everybody is down")?;
                self.now = next.group.next_deadline().ok_or("nobody waits")?;
                next.step(self.now, Input::Deadline, &[]);
            }
        }
        Ok(())
    }

    /// Whether anything left.
    fn sync_all(&mut self) -> Result<bool> {
        let lives: Vec<Incarnation> = (self.replicas.iter())
            .map(|it| it.as_ref().map_or_else(Incarnation::default, |it| it.group.incarnation()))
            .collect();
        for replica in self.replicas.iter_mut().flatten() {
            let mut leaving = replica.appends(self.now);
            leaving.extend(replica.sync(self.now)?.into_iter().map(|it| (it, Vec::new())));
            let (from, from_incarnation) = (replica.group.replica(), replica.group.incarnation());
            self.network.extend(leaving.into_iter().map(|(outgoing, entries)| {
                let to_incarnation = lives[outgoing.to.get() as usize - 1];
                Packet { from, from_incarnation, to_incarnation, outgoing, entries }
            }));
        }
        Ok(!self.network.is_empty())
    }

    fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|it| it.as_ref().is_some_and(|it| it.group.is_leader()))
    }

    fn propose(&mut self, command: &str) -> Result<()> {
        self.run_until(|cluster| cluster.leader().is_some())?;
        self.requests += 1;
        let token = Token::new(self.requests);
        let leader = self.leader().and_then(|at| self.replicas[at].as_mut()).ok_or("no leader")?;
        let entry = Entry { term: leader.group.term(), command: command.to_string() };
        let input = Input::Propose { token, bytes: 64, time: LogTime::default() };
        leader.step(self.now, input, &[entry]);
        Ok(())
    }

    fn everybody_has(&self, commands: usize) -> bool {
        self.replicas.iter().flatten().all(|it| it.state.len() == commands)
    }
}

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("raft-own-store-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let network = VecDeque::new();
    let replicas = [None, None, None];
    let mut cluster = Cluster { now: Micros::ZERO, folder, replicas, network, requests: 0 };
    (0..3).try_for_each(|replica| cluster.start(replica))?;
    for command in ["lay foundations", "raise walls", "put up the roof"] {
        cluster.propose(command)?;
    }
    cluster.run_until(|cluster| cluster.everybody_has(3))?;

    println!("\nA follower crashes while it writes; half an operation is on its disk.");
    let follower = (0..3).find(|at| Some(*at) != cluster.leader()).ok_or("no follower")?;
    cluster.replicas[follower] = None;
    let mut journal = OpenOptions::new().append(true).open(cluster.path(follower))?;
    journal.write_all(b"add 1 paint the do")?;
    cluster.propose("paint the door")?;
    cluster.run_until(|cluster| cluster.everybody_has(4))?;
    cluster.start(follower)?;
    cluster.run_until(|cluster| cluster.everybody_has(4))?;
    println!("replica {}: caught up", follower + 1);

    println!("\nThe power fails. All start again from their journals.");
    cluster.replicas = [None, None, None];
    cluster.network.clear();
    (0..3).try_for_each(|replica| cluster.start(replica))?;
    cluster.run_until(|cluster| cluster.leader().is_some())?;
    let leader = cluster.leader().ok_or("no leader")?;
    if let Some(leader) = &mut cluster.replicas[leader] {
        let input = Input::Read { token: Token::new(5), path: ReadPath::Quorum };
        leader.step(cluster.now, input, &[]);
    }
    cluster.run_until(|cluster| cluster.everybody_has(4))?;
    for replica in cluster.replicas.iter().flatten() {
        println!("replica {}: {}", replica.group.replica(), replica.state.join(", "));
    }
    let journal = std::fs::read_to_string(cluster.path(0))?;
    println!("\nThe journal of replica 1:\n{}", journal.replace("\nend\n", "; ").trim_end());
    std::fs::remove_dir_all(&cluster.folder)?;
    Ok(())
}
