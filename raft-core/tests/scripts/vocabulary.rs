//! The words scripts are written in, each translated into what it does to the cluster.
//!
//! Nodes are numbers, and a replica has its node's number. `1->2` is a link, `1->*` and `*->1`
//! are several. A command that names a word nobody uses is an error.

use std::sync::Arc;

use raft_core::{
    Acknowledge, DiskSpace, GroupId, HardState, Input, Lease, Member, Membership, NodeId,
    ReplicaId, Settings, Standing, Term,
};

use crate::cluster::{Cluster, Key};
use crate::replica::Replica;
use crate::script::{Args, duration, number, numbers};

/// A cluster between two commands.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) groups: Vec<GroupId>,
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
            "campaign" => self.tell_replica(args, Input::Campaign),
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
            "disk-full" => self.tell_replica(args, Input::Disk(DiskSpace::Full)),
            "disk-ample" => self.tell_replica(args, Input::Disk(DiskSpace::Ample)),
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
                self.tell_replica(args, Input::PeerUnreachable(peer))
            }
            "wake" => self.tell_replica(args, Input::Wake),
            "accept-loss" => {
                self.cluster.history.broken_on_purpose = true;
                self.tell_replica(args, Input::AcceptLoss)
            }
            "clock" => {
                let node = args.node()?;
                let percent = args.word("a rate in percent")?;
                let percent = number(percent.strip_suffix('%').ok_or("a rate ends in %")?)?;
                let now = self.cluster.now;
                self.cluster.clocks.entry(node).or_default().run_at(now, percent);
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
    pub(crate) fn key(&self, args: &mut Args<'_>) -> Result<Key, String> {
        let node = args.node()?;
        self.key_of(node, args)
    }

    pub(crate) fn key_of(&self, node: ReplicaId, args: &mut Args<'_>) -> Result<Key, String> {
        let group = match args.value("group") {
            Some(group) => GroupId::new(number(group)?),
            None => self.groups[0],
        };
        let key = (group, node);
        let known = self.cluster.replicas.contains_key(&key);
        if known { Ok(key) } else { Err(format!("there is no node {node} in group {group}")) }
    }

    fn tell_replica(&mut self, args: &mut Args<'_>, input: Input) -> Result<(), String> {
        let key = self.key(args)?;
        self.cluster.input(key, input)
    }

    /// `cluster nodes=3 | voters=1,2 learners=3`, with `groups=7,8`, `leader=1`, `stopped`, and
    /// settings: `election=500ms heartbeat=100ms lease-drift=10% quiesce=1s inflight=2 ...`
    fn make_cluster(&mut self, args: &mut Args<'_>) -> Result<(), String> {
        let voters: Vec<u64> = match (args.value("nodes"), args.value("voters")) {
            (Some(nodes), None) => (1..=number(nodes)?).collect(),
            (None, Some(voters)) => numbers(voters)?,
            (Some(_), Some(_)) | (None, None) => return Err(String::from("nodes= or voters=")),
        };
        let learners = args.value("learners").map(numbers).transpose()?.unwrap_or_default();
        let groups: Vec<u32> =
            args.value("groups").map(numbers).transpose()?.unwrap_or_else(|| vec![7]);
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
        ("deliver 1->2", "no such message"),
        ("persist 1", "this disk is not held"),
        ("wait soon", "soon is no duration: 100us, 100ms, 1s"),
    ];
    for (command, why) in errors {
        assert_eq!(stage.play(command), Err(String::from(why)), "{command}");
    }
}
