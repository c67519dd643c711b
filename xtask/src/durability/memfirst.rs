//! Check `memfirst`: SIGKILL to all nodes of a cluster that counts what is written loses nothing.

use anyhow::Result;

use super::{Outcome, Setting};
use crate::nodes::memfirst::{InMemory, kill_all_nodes};

/// Kills for each round of the suite: 500 unless told otherwise.
const KILLS: u32 = 25;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>> {
    let what = "all nodes killed, MemFirst";
    let Some(words) = InMemory::new() else {
        return Ok(vec![Outcome::skipped(what, "a tmpfs at /dev/shm")]);
    };
    let kills = setting.rounds * KILLS;
    Ok(vec![match kill_all_nodes(setting, kills, &words) {
        Ok(note) => Outcome::passed(what, note),
        Err(error) => Outcome::failed(what, "see above", format!("{error:#}")),
    }])
}
