//! Random histories of a small Raft whose entries count once they are written: replicas forget what was
//! not on disk, members come and go, and whoever is asked accepts the loss by some of the words or all.
//!
//! What must hold then: somebody is elected, and whoever is lacks no committed entry that was left with
//! any of the voters. Where all words are there, and nobody is damaged, nothing is refused for ever.

use std::collections::BTreeSet;

use super::tests::{at, first, voters};
use super::*;

/// Terms, ids and choices are drawn from one seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    term: u64,
    /// No two entries share it.
    id: u64,
    /// A command has none; the first entry of a term neither, but it counts on disk as well.
    voters: Option<Voters>,
    is_command: bool,
}

#[derive(Clone, Debug, Default)]
struct Replica {
    /// What is written, and what of it a power cut leaves.
    log: Vec<Entry>,
    disk: Vec<Entry>,
    term: u64,
    trusts_itself: bool,
    has_forgotten: bool,
}

struct Cluster {
    rng: Rng,
    replicas: BTreeMap<u64, Replica>,
    first: Voters,
    /// Who leads, in which term.
    leader: Option<(u64, u64)>,
    committed: BTreeSet<u64>,
    ids: u64,
    /// Why nothing was accepted last.
    refused: String,
}

impl std::fmt::Display for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (id, replica) in &self.replicas {
            write!(f, "\n{id} {}", if replica.trusts_itself { "kept" } else { "lost" })?;
            for Entry { term, id, voters, .. } in &replica.log {
                write!(f, " {id}t{term}")?;
                if let Some(Voters { incoming, outgoing }) = voters {
                    write!(f, "{incoming:?}{outgoing:?}")?;
                }
                write!(f, "{}", if self.committed.contains(id) { "!" } else { "" })?;
            }
        }
        Ok(())
    }
}

fn end(log: &[Entry]) -> (u64, usize) {
    (log.last().map_or(0, |entry| entry.term), log.len())
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            rng.below(2);
        }
        let size = 2 + rng.below(4) as u64;
        let first = voters(&(1..=size).collect::<Vec<_>>(), &[]);
        let sound = Replica { trusts_itself: true, ..Replica::default() };
        let replicas = (1..=7).map(|id| (id, sound.clone())).collect();
        let (leader, committed) = (None, BTreeSet::new());
        Self { rng, replicas, first, leader, committed, ids: 0, refused: String::new() }
    }

    fn voters_of(&self, log: &[Entry]) -> Voters {
        let named = log.iter().rev().find_map(|entry| entry.voters.clone());
        named.unwrap_or_else(|| self.first.clone())
    }

    /// Whether a replica knows that the group is there: a founder, or one that was sent something.
    fn is_there(&self, id: u64) -> bool {
        self.first.incoming.contains(&id) || !self.replicas[&id].log.is_empty()
    }

    fn elects(&self, candidate: u64, reached: &BTreeSet<u64>) -> bool {
        let own = &self.replicas[&candidate];
        let voters = self.voters_of(&own.log);
        let votes = |voter: u64| {
            let other = &self.replicas[&voter];
            other.trusts_itself && reached.contains(&voter) && end(&other.log) <= end(&own.log)
        };
        own.trusts_itself
            && self.is_there(candidate)
            && voters.all().any(|voter| voter == candidate)
            && voters.is_quorum(votes)
    }

    fn push(&mut self, leader: u64, term: u64, voters: Option<Voters>, is_command: bool) {
        self.ids += 1;
        let entry = Entry { term, id: self.ids, voters, is_command };
        self.replicas.get_mut(&leader).expect("it is there").log.push(entry);
    }

    fn elect(&mut self) {
        let reached: BTreeSet<u64> = (1..=7).filter(|_| !self.rng.one_in(4)).collect();
        let candidate = 1 + self.rng.below(7) as u64;
        let term = self.replicas.values().map(|replica| replica.term).max().unwrap_or(0) + 1;
        if self.elects(candidate, &reached) {
            let log = self.replicas[&candidate].log.clone();
            for voter in self.voters_of(&log).all().filter(|voter| reached.contains(voter)) {
                let replica = self.replicas.get_mut(&voter).expect("it is there");
                if replica.trusts_itself && end(&replica.log) <= end(&log) {
                    replica.term = term;
                }
            }
            self.replicas.get_mut(&candidate).expect("it is there").term = term;
            self.leader = Some((candidate, term));
            self.push(candidate, term, None, false);
        }
    }

    /// The leader's log, or some of it, comes to another.
    fn replicate(&mut self) {
        let Some((leader, term)) = self.leader else { return };
        let to = 1 + self.rng.below(7) as u64;
        let log = self.replicas[&leader].log.clone();
        let upto = if self.rng.one_in(2) { log.len() } else { self.rng.below(log.len() + 1) };
        let follower = self.replicas.get_mut(&to).expect("it is there");
        if to == leader || follower.term > term {
            return;
        }
        follower.term = term;
        let same = follower.log.iter().zip(&log).take_while(|(one, other)| one == other).count();
        if same < upto {
            follower.log.truncate(same);
            follower.log.extend_from_slice(&log[same..upto]);
        }
        // It has all that its leader has, on disk: a fence.
        if !follower.trusts_itself && follower.log == log {
            (follower.disk, follower.trusts_itself) = (log, true);
        }
    }

    fn flush(&mut self) {
        let id = 1 + self.rng.below(7) as u64;
        let replica = self.replicas.get_mut(&id).expect("it is there");
        replica.disk.clone_from(&replica.log);
    }

    /// Up to where a quorum has the leader's log, by the membership in force; by the disks of a quorum
    /// where it matters.
    fn commit(&mut self) {
        let Some((leader, term)) = self.leader else { return };
        let log = self.replicas[&leader].log.clone();
        let voters = self.voters_of(&log);
        let counted = |upto: usize, on_disk: bool| {
            voters.is_quorum(|voter| {
                let replica = &self.replicas[&voter];
                let held = if on_disk { &replica.disk } else { &replica.log };
                let follows = replica.term == term && replica.trusts_itself;
                follows && held.len() >= upto && held[..upto] == log[..upto]
            })
        };
        let rests = |upto: usize| {
            log[..upto].iter().rposition(|entry| !entry.is_command).map_or(0, |at| at + 1)
        };
        let upto = (1..=log.len()).rev().find(|upto| {
            log[upto - 1].term == term && counted(*upto, false) && counted(rests(*upto), true)
        });
        let ids = upto.map(|upto| log[..upto].iter().map(|entry| entry.id));
        self.committed.extend(ids.into_iter().flatten());
    }

    /// One voter more or less, or several through a joint membership.
    fn change(&mut self) {
        let Some((leader, term)) = self.leader else { return };
        let log = self.replicas[&leader].log.clone();
        let newest = log.iter().rev().find(|entry| !entry.is_command);
        if newest.is_none_or(|entry| !self.committed.contains(&entry.id))
            || !log.iter().any(|entry| entry.term == term && self.committed.contains(&entry.id))
        {
            return;
        }
        let now = self.voters_of(&log);
        let mut next: BTreeSet<u64> = now.incoming.iter().copied().collect();
        let moved = if now.outgoing.is_empty() { 1 + self.rng.below(2) } else { 0 };
        for _ in 0..moved {
            let id = 1 + self.rng.below(7) as u64;
            // Who comes has been a learner, and who left does not come back under its name.
            let is_new = !next.contains(&id);
            if is_new && self.was_voter(id, &log) {
                continue;
            }
            if is_new {
                next.insert(id);
            } else if next.len() > 1 {
                next.remove(&id);
            }
        }
        let next: Vec<u64> = next.into_iter().collect();
        let apart = next.iter().filter(|id| !now.incoming.contains(id)).count()
            + now.incoming.iter().filter(|id| !next.contains(id)).count();
        let outgoing = if apart > 1 { now.incoming.clone() } else { Vec::new() };
        if apart > 0 || !now.outgoing.is_empty() {
            self.push(leader, term, Some(Voters { incoming: next, outgoing }), false);
        }
    }

    fn was_voter(&self, id: u64, log: &[Entry]) -> bool {
        let named = log.iter().filter_map(|entry| entry.voters.as_ref());
        named.chain([&self.first]).any(|voters| voters.all().any(|voter| voter == id))
    }

    /// One loses what is not on disk, or a part of that, and is started anew.
    fn lose(&mut self, id: u64) {
        let keeps = self.rng.below(4);
        let replica = self.replicas.get_mut(&id).expect("it is there");
        let (written, durable) = (replica.log.len(), replica.disk.len());
        if replica.log.starts_with(&replica.disk) {
            replica.log.truncate(durable + (written - durable) * keeps / 4);
        } else {
            replica.log.clone_from(&replica.disk);
        }
        replica.disk.clone_from(&replica.log);
        replica.trusts_itself = false;
        if self.leader.is_some_and(|(leader, _)| leader == id) {
            self.leader = None;
        }
    }

    /// Most of them do at once, and all are stopped.
    fn lose_power(&mut self) {
        for id in 1..=7 {
            if !self.rng.one_in(3) {
                self.lose(id);
            }
        }
        self.leader = None;
        for replica in self.replicas.values_mut() {
            replica.disk.clone_from(&replica.log);
            replica.has_forgotten = !replica.trusts_itself;
        }
    }

    fn word(&self, id: u64) -> Held {
        let replica = &self.replicas[&id];
        let is_founder = self.first.incoming.contains(&id);
        let begins = is_founder.then(|| first(&self.first.incoming));
        let named = replica.log.iter().enumerate().filter_map(|(place, entry)| {
            let voters = entry.voters.as_ref()?;
            let term_before = place.checked_sub(1).map_or(0, |before| replica.log[before].term);
            let named = at(place as u64 + 1, entry.term, &voters.incoming, &voters.outgoing);
            Some(Named { term_before, ..named })
        });
        let (last_term, last_index) = end(&replica.log);
        Held {
            group: 7,
            life: 1,
            replica: id,
            memberships: begins.into_iter().chain(named).collect(),
            snapshot_index: 0,
            may_have_forgotten: replica.has_forgotten,
            is_damaged: false,
            last_term,
            last_index: last_index as u64,
            loss_epoch: 0,
        }
    }

    /// What is done by these words. Whether anything was accepted.
    fn accept(&mut self, asked: &BTreeSet<u64>) -> bool {
        let words: Vec<Held> = asked.iter().map(|id| self.word(*id)).collect();
        let reports = [Report { node: 1, groups: words.clone() }];
        let verdicts: Vec<Verdict> = words.iter().map(|own| judge(own, &reports)).collect();
        let is_refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
        if verdicts.is_empty() || verdicts.iter().any(is_refused) {
            assert!(verdicts.iter().all(is_refused), "{verdicts:?}");
            self.refused = format!("{:?}", verdicts.first());
            return false;
        }
        for (own, verdict) in words.iter().zip(verdicts) {
            let replica = self.replicas.get_mut(&own.replica).expect("it is there");
            replica.trusts_itself = false;
            if let Verdict::Accepts { end: goes_on, cut } = verdict {
                replica.trusts_itself = true;
                replica.has_forgotten = false;
                if let Some(cut) = cut {
                    let gone = replica.log.split_off(cut.get() as usize - 1);
                    let committed = gone.iter().find(|entry| self.committed.contains(&entry.id));
                    assert_eq!(committed, None, "a committed entry was taken back");
                    replica.disk.clone_from(&replica.log);
                }
                assert_eq!(end(&replica.log), (goes_on.term, goes_on.index as usize));
            }
        }
        true
    }

    /// What must hold once a loss was accepted; `left` is what was left with voters before. A joint
    /// membership may need others than the one that held it.
    fn check(&mut self, left: &BTreeSet<u64>, is_joint: bool) {
        let trusted = self.replicas.values().filter(|replica| replica.trusts_itself);
        let kept: BTreeSet<u64> =
            trusted.flat_map(|replica| replica.log.iter().map(|entry| entry.id)).collect();
        let left: BTreeSet<u64> =
            left.iter().copied().filter(|id| !is_joint || kept.contains(id)).collect();
        let everybody: BTreeSet<u64> = (1..=7).collect();
        let elected: Vec<u64> = (1..=7).filter(|id| self.elects(*id, &everybody)).collect();
        assert!(!elected.is_empty(), "nobody is elected: {self}");
        for id in elected {
            let has: BTreeSet<u64> = self.replicas[&id].log.iter().map(|entry| entry.id).collect();
            let lacks: Vec<u64> = left.difference(&has).copied().collect();
            assert!(lacks.is_empty(), "{id} leads without {lacks:?}: {self}");
        }
        self.committed.retain(|id| left.contains(id));
    }

    /// Committed entries that are left with those who vote by the newest certain membership, and whether
    /// that is joint.
    fn left(&self) -> (BTreeSet<u64>, bool) {
        let longest = self.replicas.values().max_by_key(|replica| end(&replica.log));
        let log = longest.map_or(&[][..], |replica| &replica.log[..]);
        let certain =
            log.iter().rev().find(|e| e.voters.is_some() && self.committed.contains(&e.id));
        let voters =
            certain.and_then(|entry| entry.voters.clone()).unwrap_or_else(|| self.first.clone());
        let held = voters.all().flat_map(|id| self.replicas[&id].log.iter().map(|entry| entry.id));
        let left = held.filter(|id| self.committed.contains(id)).collect();
        (left, !voters.outgoing.is_empty())
    }
}

#[test]
fn whatever_came_before_somebody_is_elected_and_lacks_nothing_that_was_left() {
    let (mut accepted, mut with_some, mut cuts, mut refused) = (0, 0, 0, 0);
    for seed in 0..6_000 {
        let mut cluster = Cluster::new(seed);
        for _ in 0..3 {
            for _ in 0..60 {
                match cluster.rng.below(12) {
                    0 => cluster.elect(),
                    1..=4 => cluster.replicate(),
                    5..=6 => cluster.flush(),
                    7..=8 => cluster.commit(),
                    9 => cluster.change(),
                    10 => {
                        let id = 1 + cluster.rng.below(21) as u64;
                        if id <= 7 {
                            cluster.lose(id);
                        }
                    }
                    _ => {
                        if let Some((leader, term)) = cluster.leader {
                            cluster.push(leader, term, None, true);
                        }
                    }
                }
            }
            cluster.lose_power();
            let everybody: BTreeSet<u64> = (1..=7).collect();
            let stands = !everybody.iter().any(|id| cluster.elects(*id, &everybody));
            let (left, is_joint) = cluster.left();
            let lengths = |cluster: &Cluster| {
                cluster.replicas.values().map(|replica| replica.log.len()).sum::<usize>()
            };
            let before = lengths(&cluster);
            let was = format!("{}, {cluster}", cluster.first.incoming.len());
            let some: BTreeSet<u64> = (1..=7).filter(|_| !cluster.rng.one_in(4)).collect();
            let by_some = stands && cluster.accept(&some);
            let goes_on = by_some || cluster.accept(&everybody);
            assert_eq!(goes_on, stands, "seed {seed}, {}: {cluster}", cluster.refused);
            accepted += usize::from(goes_on);
            with_some += usize::from(by_some);
            cuts += usize::from(lengths(&cluster) < before);
            refused += usize::from(!goes_on);
            if goes_on {
                let checked = std::panic::AssertUnwindSafe(|| cluster.check(&left, is_joint));
                if let Err(panic) = std::panic::catch_unwind(checked) {
                    println!(
                        "seed {seed}, by some: {by_some}, {some:?} left were {left:?}, before: {was}"
                    );
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    println!(
        "{accepted} losses, {with_some} by some words, {cuts} with a change taken back, {refused} none"
    );
    assert!(with_some > 1_000 && accepted - with_some > 1_000 && cuts > 100 && refused > 1_000);
}
