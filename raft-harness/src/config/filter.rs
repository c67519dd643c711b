//! What is logged: `info`, or `warn,raft_harness=debug`.
//!
//! The library takes any word alone for a module that logs everything, so a misspelt level would
//! silence all the others without a word. Here a word alone is a level, or an error.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Reads a filter.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(text: &str) -> Result<Targets, String> {
    let mut column = 1;
    for part in text.split(',') {
        let word = part.trim();
        let at = column + part.chars().take_while(|c| c.is_whitespace()).count();
        let level = word.rsplit_once('=').map_or(word, |(_, level)| level);
        // No level at all would be taken for "error".
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if !word.is_empty() && !is_level {
            return Err(format!(
                "`{word}`, at character {at} of the filter, names no level: those are off, error, \
                 warn, info, debug, trace"
            ));
        }
        column += part.chars().count() + 1;
    }
    text.parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_a_level_or_an_error_with_its_place() {
        for right in ["info", "OFF", "", "warn, raft_harness=debug", "raft_core::log=trace,info"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        let wrong = [
            ("infoo", "`infoo`, at character 1 "),
            ("warn, raft_harness", "`raft_harness`, at character 7 "),
            ("warn,raft_harness=dbug", "`raft_harness=dbug`, at character 6 "),
            ("warn,raft_harness=", "`raft_harness=`, at character 6 "),
            ("é,warn", "`é`, at character 1 "),
        ];
        for (text, told) in wrong {
            let error = parse(text).expect_err("refused");
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }
}
