//! The words scripts are written in, each translated into what it does to the cluster.
//!
//! Nodes are numbers, and a replica has its node's number. `1->2` is a link, `1->*` and `*->1`
//! are several. A command that names a word nobody uses is an error.

use std::sync::Arc;

use raft_core::{
    Acknowledge, DiskSpace, GroupId, HardState, Input, Lease, LogIndex, LogTime, Member,
    MemberChange, Membership, NodeId, ReadPath, ReplicaId, Settings, Standing, Term,
};

use crate::cluster::{Clock, Cluster, Key};
use crate::describe;
use crate::disk::Pace;
use crate::network::{Link, Packet};
use crate::replica::{Proposal, Replica};
use crate::script::{Args, duration, number, numbers};

/// A cluster between two commands.
#[derive(Default)]
pub(crate) struct Stage {
    cluster: Cluster,
    groups: Vec<GroupId>,
    settings: Settings,
}

impl Stage {
    /// Does what one command says; gives back what happened.
    pub(crate) fn play(&mut self, text: &str) -> Result<Vec<String>, String> {
        let mut args = Args::new(text);
        let mut command = args.word("a command")?;
        let quietly = command == "quietly";
        if quietly {
            command = args.word("a command")?;
        }
        if command != "cluster" && self.groups.is_empty() {
            return Err(String::from("a script begins with a cluster"));
        }
        self.command(command, &mut args)?;
        args.finish()?;
        let told = std::mem::take(&mut self.cluster.lines);
        Ok(if quietly { Vec::new() } else { told })
    }

    fn command(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        match command {
            "cluster" => self.make_cluster(args),
            "start" => self.start(args),
            "campaign" => self.to_replica(args, Input::Campaign),
            "propose" => self.propose(args),
            "read" => self.read(args),
            "transfer" => self.transfer(args),
            "change" => self.change(args),
            "snapshot" => self.snapshot(args),
            "compact" => {
                let key = self.key(args)?;
                args.says("to");
                let upto = args.index()?;
                self.cluster.input(key, Input::Compact(upto))
            }
            "receive" => self.receive(args),
            "stabilize" => {
                let among: Vec<u64> = args.any_word().map(numbers).transpose()?.unwrap_or_default();
                let among: Vec<ReplicaId> = among.into_iter().map(ReplicaId::new).collect();
                self.cluster.stabilize(&among)
            }
            "wait" => self.cluster.pass(args.duration()?, true),
            "tick" => self.cluster.pass(args.duration()?, false),
            "isolate" | "cut" | "partition" | "heal" => self.links(command, args),
            "hold" | "release" | "deliver" | "drop" | "duplicate" => self.messages(command, args),
            "hold-lane" | "pull" | "release-lane" => self.lanes(command, args),
            "hold-disk" | "write" | "persist" | "release-disk" => self.disk(command, args),
            "disk-full" => self.to_replica(args, Input::Disk(DiskSpace::Full)),
            "disk-ample" => self.to_replica(args, Input::Disk(DiskSpace::Ample)),
            "disk-fails" => {
                let key = self.key(args)?;
                let seq = self.cluster.newest_write(key).ok_or("nothing is being written")?;
                self.cluster.input(key, Input::PersistFailed(seq))
            }
            "unreadable" => {
                let key = self.key(args)?;
                args.says("at");
                let index = args.index()?;
                self.cluster.input(key, Input::LogUnreadable(index))
            }
            "crash" => {
                let key = self.key(args)?;
                self.cluster.crash(key)
            }
            "restart" => self.restart(args),
            "unreachable" => {
                let peer = args.node()?;
                args.says("at");
                self.to_replica(args, Input::PeerUnreachable(peer))
            }
            "wake" => self.to_replica(args, Input::Wake),
            "accept-loss" => {
                self.cluster.history.broken_on_purpose = true;
                self.to_replica(args, Input::AcceptLoss)
            }
            "clock" => {
                let node = args.node()?;
                let percent = args.word("a rate in percent")?;
                let percent = number(percent.strip_suffix('%').ok_or("a rate ends in %")?)?;
                let now = self.cluster.now;
                self.cluster.clocks.entry(node).or_insert_with(Clock::default).run_at(now, percent);
                Ok(())
            }
            "show-messages" => {
                self.cluster.shows_messages = true;
                Ok(())
            }
            "status" | "log" | "state" | "messages" | "progress" | "lease" | "leaders" => {
                self.question(command, args)
            }
            _ => Err(String::from("no such command")),
        }
    }

    /// The replica that `2` or `2 ... group=8` means.
    fn key(&self, args: &mut Args<'_>) -> Result<Key, String> {
        let node = args.node()?;
        self.key_of(node, args)
    }

    fn key_of(&self, node: ReplicaId, args: &mut Args<'_>) -> Result<Key, String> {
        let group = match args.value("group") {
            Some(group) => GroupId::new(number(group)?),
            None => self.groups[0],
        };
        let key = (group, node);
        let known = self.cluster.replicas.contains_key(&key);
        if known { Ok(key) } else { Err(format!("there is no node {node} in group {group}")) }
    }

    fn to_replica(&mut self, args: &mut Args<'_>, input: Input) -> Result<(), String> {
        let key = self.key(args)?;
        self.cluster.input(key, input)
    }

    /// `cluster nodes=3 | voters=1,2 learners=3`, with `groups=7,8`, `leader=1`, `stopped`, and
    /// settings: `election=500ms heartbeat=100ms lease=10% quiesce=1s inflight=2 ...`
    fn make_cluster(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let voters: Vec<u64> = match (args.value("nodes"), args.value("voters")) {
            (Some(nodes), None) => (1..=number(nodes)?).collect(),
            (None, Some(voters)) => numbers(voters)?,
            (Some(_), Some(_)) | (None, None) => return Err(String::from("nodes= or voters=")),
        };
        let learners = args.value("learners").map(numbers).transpose()?.unwrap_or_default();
        let groups: Vec<u32> = args.value("groups").map(numbers).transpose()?.unwrap_or(vec![7]);
        let leader = args.value("leader").map(number).transpose()?.map(ReplicaId::new);
        let stopped = args.says("stopped");
        self.settings = Settings::default();
        let mut priorities = Vec::new();
        while let Some((key, value)) = args.any_pair() {
            match key.strip_prefix("priority.") {
                Some(node) => priorities.push((ReplicaId::new(number(node)?), number(value)?)),
                None => set(&mut self.settings, key, value)?,
            }
        }
        self.groups = groups.into_iter().map(GroupId::new).collect();
        self.cluster = Cluster::default();
        let member = |standing| {
            move |id: u64| Member { replica: ReplicaId::new(id), node: NodeId::new(id), standing }
        };
        let members = voters.into_iter().map(member(Standing::Voter));
        let members: Vec<Member> =
            members.chain(learners.into_iter().map(member(Standing::Learner))).collect();
        let first = Membership::new(members.clone()).map_err(|error| error.to_string())?;
        for group in self.groups.clone() {
            for Member { replica, .. } in &members {
                let mut settings = self.settings.clone();
                if let Some((_, priority)) = priorities.iter().find(|(node, _)| node == replica) {
                    settings.priority = *priority;
                }
                let first = Some(first.clone());
                let key = (group, *replica);
                let made = Replica::new(group, *replica, first, Arc::new(settings));
                self.cluster.replicas.insert(key, made);
                if !stopped {
                    self.cluster.boot(key)?;
                }
            }
            if let Some(leader) = leader {
                self.cluster.input((group, leader), Input::Campaign)?;
                self.cluster.stabilize(&[])?;
                // Everybody hears of the last commit.
                let beat = self.settings.heartbeat_interval;
                self.cluster.pass(beat, true)?;
                let live = self.cluster.replicas[&(group, leader)].live.as_ref();
                if !live.is_some_and(|live| live.group.is_leader()) {
                    return Err(format!("{leader} was not elected"));
                }
                self.cluster.lines.clear();
            }
        }
        Ok(())
    }

    /// `start 4`: a replica that joins; `start 1 log=1,1,2 term=3 vote=2`: one of a stopped
    /// cluster, whose log holds entries of these terms.
    fn start(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let node = args.node()?;
        let group = match args.value("group") {
            Some(group) => GroupId::new(number(group)?),
            None => self.groups[0],
        };
        let key = (group, node);
        let settings = Arc::new(self.settings.clone());
        let made = || Replica::new(group, node, None, settings);
        let replica = self.cluster.replicas.entry(key).or_insert_with(made);
        if replica.live.is_some() {
            return Err(format!("node {node} runs"));
        }
        let terms: Vec<u64> = args.value("log").map(numbers).transpose()?.unwrap_or_default();
        let term = match args.value("term") {
            Some(term) => number(term)?,
            None => terms.last().copied().unwrap_or(0),
        };
        let vote = args.value("vote").map(number).transpose()?.map(ReplicaId::new);
        replica.prepare(&terms, HardState { term: Term::new(term), vote });
        self.cluster.boot(key)
    }

    fn propose(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let cost = args.value("bytes").map(number).transpose()?.unwrap_or(100);
        let first = args.word("what to propose")?;
        let mut name = Some(first);
        while let Some(command) = name {
            let token = self.cluster.token(command.to_string());
            let time = LogTime::new(self.cluster.now / 1_000);
            let proposal = Proposal { name: command.to_string(), cost };
            self.cluster.propose(key, Input::Propose { token, bytes: cost, time }, &proposal)?;
            name = args.any_word();
        }
        Ok(())
    }

    /// `read 1 quorum`, `read 1 lease`, `read 2 follower`, with `as=a` if there are several.
    fn read(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let path = match args.word("quorum, lease or follower")? {
            "quorum" => ReadPath::Quorum,
            "lease" => ReadPath::Lease,
            "follower" => ReadPath::Follower,
            other => return Err(format!("nobody reads by {other}")),
        };
        let name = args.value("as").map_or(String::from("read"), |name| format!("read {name}"));
        let token = self.cluster.token(name);
        self.cluster.input(key, Input::Read { token, path })
    }

    /// `transfer 1 to 2`, or to whom it likes.
    fn transfer(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let to = if args.says("to") { Some(args.node()?) } else { None };
        let name = to.map_or(String::from("transfer"), |to| format!("transfer to n{to}"));
        let token = self.cluster.token(name);
        self.cluster.input(key, Input::Transfer { token, to })
    }

    /// `change 1 add-learner=4`, `change 1 promote=4 remove=1`
    fn change(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let mut changes = Vec::new();
        while let Some((what, who)) = args.any_pair() {
            for id in numbers::<u64>(who)? {
                let replica = ReplicaId::new(id);
                changes.push(match what {
                    "add-learner" => MemberChange::AddLearner { replica, node: NodeId::new(id) },
                    "promote" => MemberChange::Promote(replica),
                    "demote" => MemberChange::Demote(replica),
                    "remove" => MemberChange::Remove(replica),
                    _ => return Err(format!("nobody knows how to {what}")),
                });
            }
        }
        let token = self.cluster.token(String::from("change"));
        self.cluster.input(key, Input::ChangeMembership { token, changes })
    }

    /// `snapshot 1`, `snapshot 1 at 5`
    fn snapshot(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let at = if args.says("at") { Some(args.index()?) } else { None };
        let taken = self.cluster.replica(key)?.take_snapshot(at)?;
        self.cluster.input(key, taken)
    }

    /// `receive 4`: the bytes of the snapshot it wants are there; `receive 4 failed`.
    fn receive(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let live = self.cluster.replica(key)?.live.as_mut().ok_or("it is down")?;
        if args.says("failed") {
            let (_, meta) = live.fetching.take().ok_or("it wants no snapshot")?;
            return self.cluster.input(key, Input::SnapshotFailed { index: meta.index });
        }
        let (from, _) = live.fetching.as_ref().ok_or("it wants no snapshot")?;
        let (from, holder) = (*from, (key.0, *from));
        if self.cluster.network.is_cut((from, key.1)) {
            return Err(String::from("the link is cut"));
        }
        let snapshots = self.cluster.replica(holder)?.disk.image.snapshots.clone();
        let received = self.cluster.replica(key)?.receive(&snapshots)?;
        self.cluster.input(key, received)
    }

    fn nodes(&self) -> Vec<ReplicaId> {
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
        Ok(pairs.filter(|(from, to)| from != to).collect())
    }

    /// `isolate 1`, `cut 1->2`, `partition 1,2 3,4,5`, `heal`
    fn links(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
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
    fn messages(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        let links = self.links_of(args.word("a link")?)?;
        let all = |args: &mut Args<'_>| args.says("all");
        let every = all(args);
        let kind = if every { None } else { args.any_word() };
        let every = every || all(args);
        if let Some(kind) = kind.filter(|kind| !describe::KINDS.contains(kind)) {
            return Err(format!("{kind} is no kind of message"));
        }
        for link in links {
            match command {
                "hold" => self.cluster.network.hold(link, kind),
                "release" => self.cluster.network.release(link),
                _ => self.single_messages(command, link, kind, every)?,
            }
        }
        Ok(())
    }

    fn single_messages(
        &mut self,
        command: &str,
        link: Link,
        kind: Option<&str>,
        every: bool,
    ) -> Result<(), String> {
        let take = |cluster: &mut Cluster| cluster.network.take(link, kind);
        let first = take(&mut self.cluster);
        let first =
            first.ok_or_else(|| format!("no such message from {} to {}", link.0, link.1))?;
        let mut packets: Vec<Packet> = vec![first];
        while let Some(packet) = every.then(|| take(&mut self.cluster)).flatten() {
            packets.push(packet);
        }
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
        Ok(())
    }

    /// `hold-lane 1->2`, `pull 1->2 [bytes=300]`, `release-lane 1->2`
    fn lanes(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
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
    fn disk(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
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

    /// `restart 2`, `restart 2 lost`: its log says promises may be lost; `restart 2 wiped`: under
    /// its old name with an empty disk, which nobody should do.
    fn restart(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let key = self.key(args)?;
        let replica = self.cluster.replica(key)?;
        replica.crash();
        if args.says("lost") {
            replica.loses_promises();
        } else if args.says("wiped") {
            replica.wipe();
            self.cluster.history.broken_on_purpose = true;
        }
        self.cluster.boot(key)?;
        self.tell_status(key);
        Ok(())
    }

    fn tell_status(&mut self, key: Key) {
        let name = self.cluster.name(key);
        let line = match self.cluster.replicas[&key].live.as_ref() {
            Some(live) => format!("{name} {}", describe::status(&live.group)),
            None => format!("{name} is down"),
        };
        self.cluster.lines.push(line);
    }

    fn question(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        if command == "messages" {
            let mut told: Vec<String> = self.cluster.network.all().map(describe::packet).collect();
            let waiting = self.cluster.replicas.iter().filter(|(_, replica)| replica.gated() > 0);
            told.extend(waiting.map(|(key, replica)| {
                let (name, gated) = (self.cluster.name(*key), replica.gated());
                format!("{name} keeps {gated} until its disk is done")
            }));
            self.cluster.lines.extend(told);
            return Ok(());
        }
        if command == "leaders" {
            for group in &self.groups {
                let of_group = self.cluster.replicas.iter().filter(|(key, _)| key.0 == *group);
                let leads = of_group.filter_map(|(key, replica)| {
                    let group = &replica.live.as_ref()?.group;
                    group.is_leader().then(|| format!("n{} in term {}", key.1, group.term()))
                });
                let leads: Vec<String> = leads.collect();
                self.cluster.lines.push(format!("g{group} is led by {}", leads.join(", ")));
            }
            return Ok(());
        }
        let keys: Vec<Key> = match args.any_node()? {
            Some(node) => vec![self.key_of(node, args)?],
            None => self.cluster.replicas.keys().copied().collect(),
        };
        for key in keys {
            if command == "status" {
                self.tell_status(key);
                continue;
            }
            let name = self.cluster.name(key);
            let now = self.cluster.clock(key.1);
            let Some(live) = self.cluster.replicas[&key].live.as_ref() else {
                self.cluster.lines.push(format!("{name} is down"));
                continue;
            };
            let group = &live.group;
            let told = match command {
                "log" => vec![format!("log{}", describe::log(&live.log, group.commit_index()))],
                "state" => {
                    let names: Vec<&str> = live.state.iter().map(|(_, it)| it.as_str()).collect();
                    vec![format!("state {}", names.join(", "))]
                }
                "lease" => vec![match group.lease_until() {
                    Some(until) => format!("lease for {:?} more", until.since(now)),
                    None => String::from("no lease"),
                }],
                _ => self.progress(key),
            };
            self.cluster.lines.extend(told.into_iter().map(|line| format!("{name} {line}")));
        }
        Ok(())
    }

    /// What a leader knows of its peers.
    fn progress(&self, key: Key) -> Vec<String> {
        let Some(live) = self.cluster.replicas[&key].live.as_ref() else {
            return Vec::new();
        };
        let group = &live.group;
        let peers = self.nodes().into_iter().filter_map(|peer| {
            let next = group.next_index(peer)?;
            let state = if group.streams_to(peer) { "streams" } else { "does not stream" };
            let flight = if group.has_in_flight(peer) { ", in flight" } else { "" };
            let due = if group.wants_append(peer) { ", more is due" } else { "" };
            Some(format!("to n{peer} {state} from {next}{flight}{due}"))
        });
        let mut told: Vec<String> = peers.collect();
        if let Some(offered) = group.snapshot_offered() {
            told.push(format!("keeps snapshot {offered} for whom it was offered"));
        }
        let all = group.match_of_all().unwrap_or(LogIndex::ZERO);
        told.push(format!("knows everyone has up to {all}"));
        told
    }
}

/// One setting by its short name.
fn set(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    match key {
        "heartbeat" => settings.heartbeat_interval = duration(value)?,
        "election" => {
            settings.election_timeout_min = duration(value)?;
            settings.election_timeout_max = duration(value)? * 2;
        }
        "append-bytes" => settings.append_bytes_max = number(value)?,
        "inflight" => settings.inflight_appends_max = number(value)?,
        "inflight-bytes" => settings.inflight_bytes_max = number(value)?,
        "uncommitted-bytes" => settings.uncommitted_bytes_max = number(value)?,
        "reads" => settings.reads_pending_max = number(value)?,
        "promotion-lag" => settings.promotion_lag_max = number(value)?,
        "disk-stall" => settings.disk_stall_max = duration(value)?,
        "quiesce" => settings.quiesce_after = Some(duration(value)?),
        "lease-drift" => {
            let percent: u32 = number(value.strip_suffix('%').ok_or("a drift ends in %")?)?;
            settings.lease = Lease::Within { drift_ppm: percent * 10_000 };
        }
        "acknowledge" => {
            settings.acknowledge = match value {
                "durable" => Acknowledge::Durable,
                "written" => Acknowledge::Written,
                _ => return Err(format!("{value} acknowledges nothing")),
            };
        }
        _ => return Err(format!("{key} is no setting")),
    }
    Ok(())
}

#[test]
fn what_nobody_understands_is_an_error() {
    let errors = [
        ("wait 1s", "a script begins with a cluster"),
        ("cluster nodes=3 colour=red", "colour is no setting"),
        ("cluster nodes=3 leader=1 at once", "nobody uses at"),
    ];
    for (command, why) in errors {
        assert_eq!(Stage::default().play(command), Err(String::from(why)), "{command}");
    }
    let mut stage = Stage::default();
    assert_eq!(stage.play("cluster nodes=3 leader=1"), Ok(Vec::new()));
    let errors = [
        ("sing", "no such command"),
        ("propose 4 x", "there is no node 4 in group 7"),
        ("propose 1", "what to propose is missing"),
        ("hold 1->2 letters", "letters is no kind of message"),
        ("deliver 1->2", "no such message from 1 to 2"),
        ("persist 1", "this disk is not held"),
        ("wait soon", "soon is no duration: 100us, 100ms, 1s"),
    ];
    for (command, why) in errors {
        assert_eq!(stage.play(command), Err(String::from(why)), "{command}");
    }
}
