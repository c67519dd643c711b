//! Words that change nothing and tell what is.

use raft_core::LogIndex;

use crate::cluster::Key;
use crate::describe;
use crate::script::Args;
use crate::vocabulary::Stage;

impl Stage {
    pub(crate) fn tell_status(&mut self, key: Key) {
        let name = self.cluster.name(key);
        let line = match self.cluster.replicas[&key].live.as_ref() {
            Some(live) => format!("{name} {}", describe::status(&live.group)),
            None => format!("{name} is down"),
        };
        self.cluster.lines.push(line);
    }

    pub(crate) fn question(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
        match command {
            "messages" => self.tell_messages(),
            "leaders" => self.tell_leaders(),
            _ => self.tell_of_replicas(command, args)?,
        }
        Ok(())
    }

    /// What is on its way, and what waits for a disk.
    fn tell_messages(&mut self) {
        let mut told: Vec<String> = self.cluster.network.all().map(describe::packet).collect();
        let waiting = self.cluster.replicas.iter().filter(|(_, replica)| replica.gated() > 0);
        told.extend(waiting.map(|(key, replica)| {
            let (name, gated) = (self.cluster.name(*key), replica.gated());
            format!("{name} keeps {gated} until its disk is done")
        }));
        self.cluster.lines.extend(told);
    }

    fn tell_leaders(&mut self) {
        for group in &self.groups {
            let of_group = self.cluster.replicas.iter().filter(|(key, _)| key.0 == *group);
            let leads = of_group.filter_map(|(key, replica)| {
                let group = &replica.live.as_ref()?.group;
                group.is_leader().then(|| format!("n{} in term {}", key.1, group.term()))
            });
            let leads: Vec<String> = leads.collect();
            let leads = if leads.is_empty() { String::from("nobody") } else { leads.join(", ") };
            self.cluster.lines.push(format!("g{group} is led by {leads}"));
        }
    }

    fn tell_of_replicas(&mut self, command: &str, args: &mut Args<'_>) -> Result<(), String> {
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
