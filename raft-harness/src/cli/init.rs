//! `raftd init`: makes a data directory, once in the life of a node.
//!
//! It is a command of its own because `serve` must never do it: a node that finds its directory
//! missing has lost what it promised, and starting empty under the old name would break them.

use std::path::{Path, PathBuf};

use clap::Args;
use raft_core::NodeId;
use raft_storage::{InitError, InitOptions};

use super::error::{CliError, Exit};
use crate::config::{Environment, load};
use crate::output;

#[derive(Args, Debug)]
pub(super) struct InitArguments {
    /// Take directory, node and cluster from this configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "node", "cluster"])]
    config: Option<PathBuf>,
    /// The directory to make.
    #[arg(long, value_name = "DIR", requires_all = ["node", "cluster"])]
    data_dir: Option<PathBuf>,
    /// The node's number.
    #[arg(long, requires = "data_dir", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// The cluster's name.
    #[arg(long, requires = "data_dir")]
    cluster: Option<String>,
}

pub(super) fn run(arguments: &InitArguments) -> Result<Exit, CliError> {
    let (directory, cluster, node) = match arguments {
        InitArguments { config: Some(file), .. } => {
            let loaded = load(file, &Environment::of_process())?;
            for warning in loaded.warnings.iter() {
                output::remark(warning);
            }
            (loaded.config.data_dir, loaded.config.cluster, loaded.config.node)
        }
        InitArguments {
            data_dir: Some(directory),
            node: Some(node),
            cluster: Some(cluster),
            ..
        } => (directory.clone(), cluster.clone(), NodeId::new(*node)),
        InitArguments { .. } => {
            return Err(CliError::Usage(
                "name a configuration file with --config, or --data-dir, --node and --cluster",
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
