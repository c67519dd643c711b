//! Links between nodes: queues that deliver in order, lose, or wait for the script.
//!
//! A message is lost when it is sent over a cut link, and so is what is on its way when the link
//! is cut. What a script holds is in nobody's way and is delivered only when asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft_core::{GroupId, Incarnation, Message, ReplicaId};

use crate::describe::kind;
use crate::disk::Record;

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) group: GroupId,
    pub(crate) from: ReplicaId,
    pub(crate) from_incarnation: Incarnation,
    pub(crate) to: ReplicaId,
    pub(crate) to_incarnation: Incarnation,
    pub(crate) message: Message,
    /// The entries of an append.
    pub(crate) records: Vec<Record>,
}

/// A direction between two nodes.
pub(crate) type Link = (ReplicaId, ReplicaId);

#[derive(Debug, Default)]
pub(crate) struct Network {
    flowing: BTreeMap<Link, VecDeque<Packet>>,
    held: BTreeMap<Link, VecDeque<Packet>>,
    /// What is held: everything on a link, or one kind of message.
    holds: BTreeSet<(Link, Option<String>)>,
    cut: BTreeSet<Link>,
}

impl Network {
    pub(crate) fn send(&mut self, packet: Packet) {
        let link = (packet.from, packet.to);
        if self.cut.contains(&link) {
            return;
        }
        let holds = |what: Option<String>| self.holds.contains(&(link, what));
        let queues = if holds(None) || holds(Some(kind(&packet.message).to_string())) {
            &mut self.held
        } else {
            &mut self.flowing
        };
        queues.entry(link).or_default().push_back(packet);
    }

    /// The next message that flows between these nodes, or any: links take turns.
    pub(crate) fn next(&mut self, after: Option<Link>, among: &[ReplicaId]) -> Option<Packet> {
        let open =
            |(from, to): &Link| among.is_empty() || (among.contains(from) && among.contains(to));
        let ready = |(link, queue): (&Link, &VecDeque<Packet>)| {
            (!queue.is_empty() && open(link)).then_some(*link)
        };
        let later = self.flowing.iter().filter(|(link, _)| after.is_none_or(|last| **link > last));
        let link = later.filter_map(ready).next().or_else(|| self.flowing.iter().find_map(ready));
        self.flowing.get_mut(&link?)?.pop_front()
    }

    /// Takes the first message of a kind, or of any, from a link, held or not.
    pub(crate) fn take(&mut self, link: Link, wanted: Option<&str>) -> Option<Packet> {
        for queues in [&mut self.held, &mut self.flowing] {
            let queue = queues.entry(link).or_default();
            let fits =
                |packet: &Packet| wanted.is_none_or(|wanted| wanted == kind(&packet.message));
            if let Some(at) = queue.iter().position(fits) {
                return queue.remove(at);
            }
        }
        None
    }

    /// Keeps a message until it is asked for.
    pub(crate) fn keep(&mut self, packet: Packet) {
        self.held.entry((packet.from, packet.to)).or_default().push_back(packet);
    }

    /// Puts a message in front of what flows.
    pub(crate) fn put_back(&mut self, packet: Packet) {
        self.flowing.entry((packet.from, packet.to)).or_default().push_front(packet);
    }

    pub(crate) fn hold(&mut self, link: Link, what: Option<&str>) {
        self.holds.insert((link, what.map(str::to_string)));
        if what.is_none() {
            let flowing = self.flowing.remove(&link).unwrap_or_default();
            self.held.entry(link).or_default().extend(flowing);
        }
    }

    /// Holds nothing on this link any more; what was held flows first.
    pub(crate) fn release(&mut self, link: Link) {
        self.holds.retain(|(held, _)| *held != link);
        let mut queue = self.held.remove(&link).unwrap_or_default();
        queue.extend(self.flowing.remove(&link).unwrap_or_default());
        self.flowing.insert(link, queue);
    }

    pub(crate) fn cut(&mut self, link: Link) {
        self.cut.insert(link);
        self.flowing.remove(&link);
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn is_cut(&self, link: Link) -> bool {
        self.cut.contains(&link)
    }

    /// All that is on its way, link by link, held messages first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Packet> {
        let links: BTreeSet<&Link> = self.held.keys().chain(self.flowing.keys()).collect();
        links.into_iter().flat_map(|link| {
            let queues = [self.held.get(link), self.flowing.get(link)];
            queues.into_iter().flatten().flatten()
        })
    }
}
