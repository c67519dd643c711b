//! `raftd demo`: the runtime, Ctrl-C, and where the result goes.

use clap::{Args, FromArgMatches};

use super::error::{CliError, Exit};
use super::signals::StopSignals;
use crate::demo::{self, DemoOptions};
use crate::output;

/// The options of a demo that was asked for without any.
pub(super) fn defaults() -> DemoOptions {
    let command = DemoOptions::augment_args(clap::Command::new("demo"));
    DemoOptions::from_arg_matches(&command.get_matches_from(["demo"]))
        .expect("every option of the demo has a default")
}

pub(super) fn run(options: &DemoOptions) -> Result<Exit, CliError> {
    // One thread is enough for the load, and leaves the other cores to the nodes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|source| CliError::System { what: "cannot start a runtime", source })?;
    runtime.block_on(async {
        let mut signals = StopSignals::new()
            .map_err(|source| CliError::System { what: "cannot watch for signals", source })?;
        if options.hold {
            let complaints = demo::hold(options, signals.next()).await.map_err(CliError::Demo)?;
            for complaint in &complaints {
                output::remark(complaint);
            }
            return Ok(if complaints.is_empty() { Exit::Ok } else { Exit::Warning });
        }
        tokio::select! {
            // Dropping the demo kills its nodes and removes their folder.
            () = signals.next() => {
                output::remark("interrupted; the nodes are gone");
                Ok(Exit::Warning)
            }
            ended = demo::run(options) => match ended {
                Ok(report) => {
                    print(options, &report)?;
                    Ok(if report.is_ok() { Exit::Ok } else { Exit::Warning })
                }
                Err(error) => {
                    if options.json {
                        let object = serde_json::json!({ "ok": false, "error": error.to_string() });
                        // The error is told all the same.
                        let _ = output::result(object);
                    }
                    Err(CliError::Demo(error))
                }
            }
        }
    })
}

fn print(options: &DemoOptions, report: &demo::Report) -> Result<(), CliError> {
    let text = match options.json {
        true => serde_json::to_string(report)
            .unwrap_or_else(|error| format!("{{\"ok\":false,\"error\":\"{error}\"}}")),
        false => format!("\n{report}"),
    };
    output::result(text).map_err(CliError::Output)
}
