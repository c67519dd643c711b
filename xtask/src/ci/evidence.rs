//! What a document names as evidence, and whether it is there.
//!
//! Invariant: a name counts only if it is found in code; a comment that mentions it does not.

use std::fs;
use std::path::Path;

use super::source::{code_of, identifiers};
use crate::COMMANDS;

/// Something a document names.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Evidence<'a> {
    /// `path::function`.
    Test { path: &'a str, function: &'a str },
    /// A file without a function in it.
    File { path: &'a str },
    /// `cargo xtask <command>`.
    Xtask { command: &'a str },
}

impl<'a> Evidence<'a> {
    /// `None` for a word, such as the name of a setting.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        if let Some(rest) = name.strip_prefix("cargo xtask") {
            let command = rest.split_whitespace().next().unwrap_or_default();
            return Some(Self::Xtask { command });
        }
        match name.split_once(".rs::") {
            Some((stem, function)) => {
                Some(Self::Test { path: &name[..stem.len() + ".rs".len()], function })
            }
            None => (name.ends_with(".rs")).then_some(Self::File { path: name }),
        }
    }
}

/// Why this evidence is none, if so.
pub(super) fn missing(evidence: &Evidence<'_>, root: &Path) -> Option<String> {
    match evidence {
        Evidence::Test { path, function } => match fs::read_to_string(root.join(path)) {
            Ok(text) => (!has_function(&text, function))
                .then(|| format!("{path} has no function `{function}`")),
            Err(error) => Some(format!("cannot read {path}: {error}")),
        },
        Evidence::File { path } => {
            (!root.join(path).is_file()).then(|| format!("there is no file {path}"))
        }
        Evidence::Xtask { command } => (!COMMANDS.contains(command))
            .then(|| format!("`cargo xtask` has no command `{command}`")),
    }
}

/// Whether the code, not a comment, has `fn name`.
fn has_function(text: &str, name: &str) -> bool {
    let code = code_of(text);
    // An empty name would be found everywhere.
    !name.is_empty()
        && identifiers(&code, name).any(|at| {
            let before = code[..at].trim_end();
            before.len() < at && identifiers(before, "fn").any(|at| at + 2 == before.len())
        })
}

#[cfg(test)]
mod tests {
    use super::{Evidence, has_function};

    #[test]
    fn evidence_is_told_from_other_words_in_backticks() {
        assert_eq!(
            Evidence::parse("a/b.rs::c"),
            Some(Evidence::Test { path: "a/b.rs", function: "c" })
        );
        assert_eq!(Evidence::parse("a/b.rs"), Some(Evidence::File { path: "a/b.rs" }));
        assert_eq!(
            Evidence::parse("cargo xtask ci --strict"),
            Some(Evidence::Xtask { command: "ci" })
        );
        assert_eq!(Evidence::parse("raftd demo"), None);
    }

    #[test]
    fn a_function_is_found_in_code_only() {
        assert!(has_function("async fn  a_b() {}", "a_b"));
        assert!(!has_function("// fn a_b()\nfn a_b_c() {} call(a_b)", "a_b"));
        assert!(!has_function("x_fn a_b()", "a_b"));
        assert!(!has_function("fn a() {}", ""));
    }
}
