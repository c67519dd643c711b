//! `raftd init --cluster N DIR`: a whole cluster on this machine, ready to be started.
//!
//! Each file is the documented example with its own identity and addresses in front, so that the
//! first file a newcomer opens explains itself.
//!
//! Invariant: nothing is written if any part of it exists already.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use raft_core::NodeId;

use super::error::{CliError, Exit};
use super::init::init;
use crate::config::{CLUSTER_BYTES_MAX, EXAMPLE};
use crate::output;

/// Where the sections begin that are the same on all nodes.
const SHARED: &str = "[groups]";
/// The first ports of the example: Raft, cluster clients, plain clients, operators.
const PORTS: [u16; 4] = [7001, 6371, 6471, 9071];

#[derive(Args, Debug)]
pub(super) struct ClusterArguments {
    /// Make so many nodes, 1 to 9, each with a configuration file and a data directory in DIR.
    #[arg(long, value_name = "N", requires = "directory", conflicts_with_all = ["config", "data_dir"],
          value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(super) cluster: Option<u16>,
    /// The directory for `--cluster`.
    #[arg(value_name = "DIR", requires = "cluster")]
    pub(super) directory: Option<PathBuf>,
    /// Give the nodes consecutive ports from here on, four each, instead of the usual ones.
    #[arg(long, value_name = "PORT", requires = "cluster",
          value_parser = clap::value_parser!(u16).range(1..=65_500))]
    first_port: Option<u16>,
}

/// One node of the cluster, by its addresses on this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Node {
    id: u16,
    raft: u16,
    resp: u16,
    proxy: u16,
    admin: u16,
}

pub(super) fn run(
    arguments: &ClusterArguments,
    nodes: u16,
    directory: &Path,
    name: &str,
) -> Result<Exit, CliError> {
    if !(1..=CLUSTER_BYTES_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(CliError::Usage("--name has 1 to 255 bytes and no control characters"));
    }
    let nodes = layout(nodes, arguments.first_port);
    let file = |path: &Path, source| CliError::File { path: path.to_owned(), source };
    let directory = std::path::absolute(directory).map_err(|source| file(directory, source))?;
    let config = |node: &Node| directory.join(format!("node-{}.toml", node.id));
    let data = |node: &Node| directory.join(format!("data-{}", node.id));
    for path in nodes.iter().flat_map(|node| [config(node), data(node)]) {
        if path.try_exists().map_err(|source| file(&path, source))? {
            return Err(CliError::Exists { path });
        }
    }
    fs::create_dir_all(&directory).map_err(|source| file(&directory, source))?;
    for node in &nodes {
        let (config, data) = (config(node), data(node));
        fs::write(&config, configuration(node, &nodes, &data, name))
            .map_err(|source| file(&config, source))?;
        init(&data, name, NodeId::new(u64::from(node.id))).map_err(CliError::Init)?;
    }
    output::result(next_steps(&nodes, |node| config(node))).map_err(CliError::Output)?;
    Ok(Exit::Ok)
}

fn layout(nodes: u16, first_port: Option<u16>) -> Vec<Node> {
    let node = |at: u16| {
        let [raft, resp, proxy, admin] = match first_port {
            Some(first) => [0, 1, 2, 3].map(|offset| first + at * 4 + offset),
            None => PORTS.map(|port| port + at),
        };
        Node { id: at + 1, raft, resp, proxy, admin }
    };
    (0..nodes).map(node).collect()
}

/// The example with this node's own sections instead of its first ones.
fn configuration(node: &Node, nodes: &[Node], data: &Path, name: &str) -> String {
    let shared = EXAMPLE.find(SHARED).map_or("", |at| &EXAMPLE[at..]);
    let text = |text: &str| toml::Value::from(text).to_string();
    let (cluster, data) = (text(name), text(&data.display().to_string()));
    let Node { id, raft, resp, proxy, admin } = node;
    let mut file = format!(
        "# Node {id} of cluster {cluster}, made by `raftd init --cluster`.\n\
         # Every key is explained by `raftd config example`; this file is checked by\n\
         # `raftd config check <file>`.\n\n\
         [node]\n\
         id = {id}\n\
         cluster = {cluster}\n\
         data_dir = {data}\n\n\
         [listen]\n\
         raft = \"127.0.0.1:{raft}\"         # The only port for peers.\n\
         resp = \"127.0.0.1:{resp}\"         # For clients that know Redis Cluster.\n\
         resp_proxy = \"127.0.0.1:{proxy}\"   # For plain Redis clients.\n\
         admin = \"127.0.0.1:{admin}\"        # Status, metrics, health.\n\n\
         # All nodes of the cluster, this one included; the same on each.\n"
    );
    for Node { id, raft, resp, .. } in nodes {
        // Writing to a string cannot fail.
        let _ = write!(
            file,
            "[[peers]]\nid = {id}\nraft = \"127.0.0.1:{raft}\"\nresp = \"127.0.0.1:{resp}\"\n\n"
        );
    }
    file + shared
}

fn next_steps(nodes: &[Node], config: impl Fn(&Node) -> PathBuf) -> String {
    let mut text = String::from("Start each node in a terminal of its own:\n\n");
    for node in nodes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  raftd serve --config {}", config(node).display());
    }
    let Some(first) = nodes.first() else { return text };
    let _ = write!(
        text,
        "\nand then, for instance:\n\n  raftd status --admin 127.0.0.1:{}\n  \
         redis-cli -p {} set greeting hello",
        first.admin, first.proxy
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, parse};

    #[test]
    fn every_file_is_valid_and_they_agree_on_the_cluster() {
        for first_port in [None, Some(20_000)] {
            let nodes = layout(3, first_port);
            let mut lists = Vec::new();
            for node in &nodes {
                let text = configuration(node, &nodes, Path::new("/a \"b\"/c"), "my \"own\"");
                let loaded = parse("node.toml", &text, &Environment::default()).unwrap();
                assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
                assert_eq!(loaded.config.cluster, "my \"own\"");
                assert_eq!(loaded.config.data_dir, Path::new("/a \"b\"/c"));
                assert_eq!(loaded.config.own_peer().raft, loaded.config.listen.raft.to_string());
                lists.push(loaded.config.peers);
            }
            assert!(lists.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
