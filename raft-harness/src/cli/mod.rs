//! The command line of `raftd`.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | all is well |
//! | 1 | a claim did not hold, or there is a warning |
//! | 2 | wrong usage or configuration, or a port is taken |
//! | 3 | the data directory: not initialised, locked, foreign, or damaged |
//! | 4 | the node cannot be reached |
//! | 5 | the log or a thread of the node failed while it ran |
//!
//! Every error says what happened and what to do about it.

mod config;
mod demo;
mod descriptors;
mod error;
mod first_cluster;
pub(crate) mod init;
mod log;
mod recover;
mod serve;
mod signals;
mod status;
pub(crate) mod stdin;
#[cfg(feature = "certificates")]
mod tls;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo::DemoOptions;
use crate::output;

use error::Exit;

/// Many Raft groups on one node, behind one port. Without a command: `raftd demo`.
#[derive(Debug, Parser)]
#[command(name = "raftd", version, about, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  a claim did not hold, or there is a warning
  2  wrong usage or configuration, or a port is taken
  3  the data directory: not initialised, locked, foreign, or damaged
  4  the node cannot be reached
  5  the log or a thread of the node failed while it ran";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a real cluster on this machine, kill it under load, and check that nothing is lost.
    Demo(DemoOptions),
    /// Make the data directory of a node, or a whole cluster to try; `serve` never does.
    Init(init::InitArguments),
    /// Run a node.
    Serve(serve::ServeArguments),
    /// Show a node, leaderless groups first.
    Status(status::StatusArguments),
    /// Accept that a group goes on without entries that a quorum may have forgotten.
    Recover(recover::RecoverArguments),
    /// Check or print the log of a node that does not run.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Certificates by which nodes know each other.
    #[cfg(feature = "certificates")]
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// Print or check configuration files.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs `raftd` with the arguments of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs `raftd` with the given arguments, the first of which is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let told = output::forgive(error.print());
            return match (error.use_stderr(), told) {
                (true, _) => Exit::Usage,
                (false, Ok(())) => Exit::Ok,
                (false, Err(_)) => Exit::Warning,
            }
            .into();
        }
    };
    let command = arguments.command.unwrap_or_else(|| Command::Demo(demo::defaults()));
    let ended = match command {
        Command::Demo(options) => demo::run(&options),
        Command::Init(arguments) => init::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Recover(arguments) => recover::run(&arguments),
        Command::Log(command) => log::run(&command),
        #[cfg(feature = "certificates")]
        Command::Tls(command) => tls::run(&command),
        Command::Config(command) => config::run(&command),
    };
    let exit = match ended {
        Ok(exit) => exit,
        Err(error) => {
            output::remark(error.tell());
            error.exit()
        }
    };
    output::settle();
    exit.into()
}
