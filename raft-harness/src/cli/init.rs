//! `raftd init`: makes a data directory, once in the life of a node, or those of a whole cluster.
//!
//! It is a command of its own because `serve` must never do it: a node that finds its directory
//! missing has lost what it promised, and starting empty under the old name would break them.

use std::path::{Path, PathBuf};

use clap::Args;
use raft_core::NodeId;
use raft_storage::{InitError, InitOptions};

use super::error::{CliError, Exit};
use super::first_cluster::{self, ClusterArguments};
use crate::config::{Environment, load};
use crate::output;

#[derive(Args, Debug)]
pub(super) struct InitArguments {
    /// Take directory, node and cluster from this configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "node", "name"])]
    config: Option<PathBuf>,
    /// The directory to make.
    #[arg(long, value_name = "DIR", requires_all = ["node", "name"])]
    data_dir: Option<PathBuf>,
    /// The node's number.
    #[arg(long, requires = "data_dir", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// The cluster's name: nodes of other clusters are refused. With --cluster: "example".
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    whole: ClusterArguments,
}

pub(super) fn run(arguments: &InitArguments) -> Result<Exit, CliError> {
    let whole = &arguments.whole;
    if let (Some(nodes), Some(directory)) = (whole.cluster, &whole.directory) {
        let name = arguments.name.as_deref().unwrap_or("example");
        return first_cluster::run(whole, nodes, directory, name);
    }
    let (directory, cluster, node) = match arguments {
        InitArguments { config: Some(file), .. } => {
            let loaded = load(file, &Environment::of_process())?;
            for warning in loaded.warnings.iter() {
                output::remark(warning);
            }
            (loaded.config.data_dir, loaded.config.cluster, loaded.config.node)
        }
        InitArguments {
            data_dir: Some(directory), node: Some(node), name: Some(cluster), ..
        } => (directory.clone(), cluster.clone(), NodeId::new(*node)),
        InitArguments { .. } => {
            return Err(CliError::Usage(
                "make a whole cluster with --cluster N DIR, or name a configuration file with --config, \
                 or --data-dir, --node and --name",
            ));
        }
    };
    init(&directory, &cluster, node).map_err(CliError::Init)?;
    // It is made, whoever can be told of it.
    output::result(format_args!(
        "{} is the data directory of node {node} of cluster {cluster}",
        directory.display()
    ))
    .map_err(CliError::Output)?;
    Ok(Exit::Ok)
}

/// Makes the data directory of a node.
pub(crate) fn init(directory: &Path, cluster: &str, node: NodeId) -> Result<(), InitError> {
    raft_storage::init(directory, cluster, node, &InitOptions::default()).map(drop)
}
