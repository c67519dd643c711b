//! Words for what goes wrong or slow: links, single messages, lanes, disks, restarts.

use raft_core::{Input, LogIndex, Promise, ReplicaId};

use crate::describe;
use crate::disk::Pace;
use crate::network::{Link, Packet};
use crate::script::{Args, number, numbers};
use crate::vocabulary::Stage;

impl Stage {
    pub(crate) fn nodes(&self) -> Vec<ReplicaId> {
        let mut nodes: Vec<ReplicaId> =
            self.cluster.replicas.keys().map(|(_, node)| *node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// `1->2`, `1->*`, `*->2`
    fn links_of(&self, text: &str) -> Result<Vec<Link>, String> {
        let (from, to) = text.split_once("->").ok_or_else(|| format!("{text} is no link: 1->2"))?;
        let side = |text: &str| -> Result<Vec<ReplicaId>, String> {
            if text == "*" { Ok(self.nodes()) } else { Ok(vec![ReplicaId::new(number(text)?)]) }
        };
        let (from, to) = (side(from)?, side(to)?);
        let pairs = from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
        let links: Vec<Link> = pairs.filter(|(from, to)| from != to).collect();
        if links.is_empty() { Err(format!("{text} is no link")) } else { Ok(links) }
    }

    /// `isolate 1`, `cut 1->2`, `partition 1,2 3,4,5`, `heal`
    pub(crate) fn links(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        let nodes = self.nodes();
        let camps: Vec<Vec<ReplicaId>> = match command {
            "isolate" => vec![vec![args.node()?]],
            "cut" => {
                for link in self.links_of(args.word("a link")?)? {
                    self.cluster.network.cut(link);
                }
                return Ok(());
            }
            "partition" => {
                let mut camps = Vec::new();
                while let Some(camp) = args.any_word() {
                    camps.push(numbers(camp)?.into_iter().map(ReplicaId::new).collect());
                }
                camps
            }
            _ => {
                self.cluster.network.heal();
                return Ok(());
            }
        };
        let camp_of = |node: &ReplicaId| camps.iter().position(|camp| camp.contains(node));
        for from in &nodes {
            for to in &nodes {
                if camp_of(from) != camp_of(to) {
                    self.cluster.network.cut((*from, *to));
                }
            }
        }
        Ok(())
    }

    /// `hold 1->2 [append]`, `release 1->2`, `deliver 1->2 [append] [all]`, `drop`, `duplicate`:
    /// a copy of the message is kept until it is asked for.
    pub(crate) fn messages(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        let links = self.links_of(args.word("a link")?)?;
        let all = |args: &mut Args<'_>| args.says("all");
        let every = all(args);
        let kind = if every { None } else { args.any_word() };
        let every = every || all(args);
        if let Some(kind) = kind.filter(|kind| !describe::KINDS.contains(kind)) {
            return Err(format!("{kind} is no kind of message"));
        }
        let mut packets = 0;
        for link in &links {
            match command {
                "hold" => self.cluster.network.hold(*link, kind),
                "release" => self.cluster.network.release(*link),
                _ => packets += self.single_messages(command, *link, kind, every),
            }
        }
        let needs_some = command != "hold" && command != "release";
        if needs_some && packets == 0 { Err(String::from("no such message")) } else { Ok(()) }
    }

    /// How many messages it was done to.
    fn single_messages(
        &mut self,
        command: &str,
        link: Link,
        kind: Option<&str>,
        every: bool,
    ) -> usize {
        let most = if every { usize::MAX } else { 1 };
        let next = || self.cluster.network.take(link, kind);
        let packets: Vec<Packet> = std::iter::from_fn(next).take(most).collect();
        let count = packets.len();
        for packet in packets {
            let told = describe::packet(&packet);
            match command {
                "deliver" => {
                    if !self.cluster.shows_messages {
                        self.cluster.lines.push(told);
                    }
                    self.cluster.deliver(packet);
                }
                "drop" => self.cluster.lines.push(format!("{told} is lost")),
                _ => {
                    self.cluster.lines.push(format!("{told} is copied"));
                    self.cluster.network.keep(packet.clone());
                    self.cluster.network.put_back(packet);
                }
            }
        }
        count
    }

    /// `hold-lane 1->2`, `pull 1->2 [bytes=300]`, `release-lane 1->2`
    pub(crate) fn lanes(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        let links = self.links_of(args.word("a link")?)?;
        let budget = match command {
            "pull" => args.value("bytes").map(number).transpose()?.unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        for link in links {
            let key = (self.groups[0], link.0);
            match command {
                "hold-lane" => self.cluster.held_lanes.push(link),
                "pull" => {
                    if !self.cluster.pull(key, link.1, budget) {
                        self.cluster
                            .lines
                            .push(format!("nothing is due from {} to {}", link.0, link.1));
                    }
                }
                _ => {
                    self.cluster.held_lanes.retain(|held| *held != link);
                    for group in self.groups.clone() {
                        self.cluster.settle((group, link.0));
                    }
                }
            }
        }
        Ok(())
    }

    /// `hold-disk 2`, `write 2` into the page cache, `persist 2 [1]` the oldest writes or all,
    /// `release-disk 2`
    pub(crate) fn disk(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        match command {
            "hold-disk" => self.cluster.replica(key)?.disk.pace = Pace::WhenTold,
            "write" => {
                let seq = self.cluster.newest_write(key).ok_or("nothing is being written")?;
                self.cluster.acknowledge(key, Input::Written(seq));
            }
            _ => {
                if !self.cluster.replica(key)?.is_held() {
                    return Err(String::from("this disk is not held"));
                }
                let count = args.any_word().map(number).transpose()?.unwrap_or(usize::MAX);
                if command == "release-disk" {
                    self.cluster.replica(key)?.disk.pace = Pace::AtOnce;
                }
                for _ in 0..count {
                    if !self.cluster.sync_one(key) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// `restart 2`, `restart 2 lost | damaged`: its log says that promises may be lost, or anything,
    /// with `keeping=3` that nothing is left beyond index 3;
    /// `restart 2 wiped`: under its old name with an empty disk, which nobody should do.
    pub(crate) fn restart(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        self.cluster.crash(key)?;
        let replica = self.cluster.replica(key)?;
        if args.says("lost") {
            replica.judge(Promise::Lost);
        } else if args.says("unproven") {
            replica.judge(Promise::Unproven);
        } else if args.says("damaged") {
            replica.judge(Promise::Damaged);
            if let Some(last) = args.value("keeping").map(number).transpose()? {
                replica.disk.image.damage(LogIndex::new(last));
            }
        } else if args.says("wiped") {
            replica.wipe();
            self.cluster.history.broken_on_purpose = true;
        }
        self.cluster.boot(key)?;
        self.tell_status(key);
        Ok(())
    }
}
