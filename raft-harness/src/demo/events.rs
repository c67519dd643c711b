//! Lines for other programs: what happened, as one JSON object each.

use serde::Serialize;

use super::cluster::Cluster;

/// An event, its name first.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// The cluster can be used.
    Ready { data_dir: String, nodes: Vec<NodeAddresses> },
    /// No node runs, until the pause that was asked for is over.
    AllKilled { data_dir: String },
}

/// Where one node is.
#[derive(Debug, Serialize)]
pub(super) struct NodeAddresses {
    id: u64,
    pid: Option<u32>,
    raft: String,
    /// For clients that know Redis Cluster.
    resp: String,
    /// For clients that do not.
    proxy: String,
    admin: String,
}

impl Event {
    pub(super) fn ready(cluster: &Cluster) -> Self {
        let nodes = cluster.nodes().iter().map(|node| NodeAddresses {
            id: node.id,
            pid: node.pid(),
            raft: node.raft.to_string(),
            resp: node.resp.to_string(),
            proxy: node.proxy.to_string(),
            admin: node.admin_address.to_string(),
        });
        Self::Ready { data_dir: cluster.directory().display().to_string(), nodes: nodes.collect() }
    }

    pub(super) fn all_killed(cluster: &Cluster) -> Self {
        Self::AllKilled { data_dir: cluster.directory().display().to_string() }
    }

    /// The line, without its end.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).expect("text and numbers can always be written as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_event_comes_first() {
        let event = Event::AllKilled { data_dir: "/tmp/x".to_owned() };
        assert_eq!(event.line(), r#"{"event":"all-killed","data_dir":"/tmp/x"}"#);
        let event = Event::Ready { data_dir: "d".to_owned(), nodes: Vec::new() };
        assert_eq!(event.line(), r#"{"event":"ready","data_dir":"d","nodes":[]}"#);
    }
}
