//! The file and its overrides as one tree in which every value knows where it came from.
//!
//! Overrides from the environment are added to the tree with spans beyond the end of the file, so
//! that one number tells the origin of every value, and errors of the TOML reader, which name a
//! span, can be shown at their place whatever it is.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::EXAMPLE;
use super::file::FileConfig;
use super::nearest::nearest;
use super::problem::{Place, Problem, Rule};

/// A configuration file with its overrides.
#[derive(Debug)]
pub(super) struct Document<'a> {
    name: &'a str,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    /// Each value from elsewhere: where its pretended span begins, and where it comes from.
    overrides: Vec<(usize, Origin)>,
    end: usize,
    /// Paths of values that could not be read and have been reported.
    removed: Vec<String>,
}

/// Where a value comes from that is not in the file.
#[derive(Clone, Debug)]
enum Origin {
    Variable(String),
    Preset(&'static str),
}

impl<'a> Document<'a> {
    /// Reads the text. Of a text that is no TOML, what can be understood is kept.
    pub(super) fn parse(name: &'a str, text: &'a str, problems: &mut Vec<Problem>) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self {
            name,
            text,
            root,
            overrides: Vec::new(),
            end: text.len() + 1,
            removed: Vec::new(),
        };
        for error in errors {
            problems.push(Problem {
                rule: Rule::Syntax,
                place: document.place(error.span()),
                message: error.message().to_owned(),
                help: None,
            });
        }
        document
    }

    /// Sets the value at `path` to what a variable says. `like` is a value of the right type.
    pub(super) fn set(
        &mut self,
        path: &[String],
        variable: &str,
        value: &'a str,
        like: &DeValue<'_>,
    ) {
        let parsed = match DeValue::parse(value) {
            Ok(parsed) if !like.is_str() => parsed.into_inner(),
            // Text needs no quotes in a variable. Anything else that does not parse is left to
            // the typed reader, which will say what it expected.
            Ok(_) | Err(_) => DeValue::String(Cow::Borrowed(value)),
        };
        self.insert(path, parsed, Origin::Variable(variable.to_owned()));
    }

    /// Sets the value at `path` to that of a preset, unless it is set. Returns whether it was not.
    pub(super) fn set_missing(
        &mut self,
        path: &[String],
        preset: &'static str,
        value: DeValue<'a>,
    ) -> bool {
        let is_missing = self.span_of(path.iter().map(String::as_str)).is_none();
        if is_missing {
            self.insert(path, value, Origin::Preset(preset));
        }
        is_missing
    }

    fn insert(&mut self, path: &[String], value: DeValue<'a>, origin: Origin) {
        let span = self.end..self.end + 1;
        self.overrides.push((span.start, origin));
        self.end = span.end;
        let Some((leaf, tables)) = path.split_last() else {
            return;
        };
        let mut table = self.root.get_mut();
        for name in tables {
            let key = || Spanned::new(span.clone(), Cow::Owned(name.clone()));
            let entry = table
                .entry(key())
                .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
            let DeValue::Table(inner) = entry.get_mut() else {
                // The file has a value where a section belongs; that is reported as such.
                return;
            };
            table = inner;
        }
        let key = Spanned::new(span.clone(), Cow::Owned(leaf.clone()));
        table.insert(key, Spanned::new(span, value));
    }

    /// The text at `path`, if there is one.
    pub(super) fn text_at(&self, path: [&str; 2]) -> Option<&str> {
        let [table, key] = path;
        self.root.get_ref().get(table)?.get_ref().as_table()?.get(key)?.get_ref().as_str()
    }

    /// Reports and removes every key that the example does not have.
    pub(super) fn remove_unknown_keys(&mut self, problems: &mut Vec<Problem>) {
        let known = known_keys();
        let mut unknown = Vec::new();
        remove_unknown(self.root.get_mut(), known.get_ref(), "", &mut unknown);
        for Unknown { span, name, section, allowed } in unknown {
            if section == "raft" && name.starts_with("quiesce") {
                let message =
                    format!("`{name}`: groups that sleep do not notice yet that their leader died");
                let help = Some("leave it out".to_owned());
                let place = self.place(Some(span));
                problems.push(Problem { rule: Rule::NotYet, place, message, help });
                continue;
            }
            let ours = guide_key(&name).filter(|_| section.starts_with("network"));
            let near = nearest(&name, allowed.iter().map(String::as_str));
            let help = match (ours, near) {
                (Some(ours), _) => format!("that is `{ours}` here"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("known here: {}", allowed.join(", ")),
            };
            let message = match section.as_str() {
                "" => format!("unknown section or key `{name}`"),
                section => format!("unknown key `{name}` in [{section}]"),
            };
            problems.push(Problem {
                rule: Rule::UnknownKey,
                place: self.place(Some(span)),
                message,
                help: Some(help),
            });
        }
    }

    /// Reads the tree into its types. Values of a wrong type are reported and left out, one after
    /// the other, until the rest can be read.
    pub(super) fn read(&mut self, problems: &mut Vec<Problem>) -> FileConfig {
        loop {
            let error = match FileConfig::deserialize(toml::Deserializer::from(self.root.clone())) {
                Ok(file) => return file,
                Err(error) => error,
            };
            problems.push(Problem {
                rule: Rule::WrongType,
                place: self.place(error.span()),
                message: error.message().trim_end().replace('\n', "; "),
                help: None,
            });
            let removed = error.span().and_then(|span| remove_at(self.root.get_mut(), &span));
            match removed {
                Some(path) => self.removed.push(path),
                // Nothing to leave out, so nothing could be read.
                None => return FileConfig::default(),
            }
        }
    }

    /// Whether a value was there and could not be read, which has been reported.
    pub(super) fn was_removed(&self, path: &str) -> bool {
        self.removed.iter().any(|removed| {
            path.strip_prefix(removed.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Where the value of a key is, for messages: `raft.heartbeat_interval_ms`, `peers.0.id`.
    /// For a key that is not set, where its section is.
    pub(super) fn place_of(&self, path: &str) -> Place {
        let mut at = None;
        for (place, _) in self.walk(path.split('.')) {
            at = Some(place);
        }
        self.place(at)
    }

    /// Where the value of a key is; `None` for one that is not set.
    pub(super) fn place_of_value(&self, path: &str) -> Option<Place> {
        let span = self.span_of(path.split('.'))?;
        Some(self.place(Some(span)))
    }

    fn span_of<'p>(&self, path: impl Iterator<Item = &'p str> + Clone) -> Option<Range<usize>> {
        let names = path.clone().count();
        let last = self.walk(path).last();
        last.filter(|(_, depth)| *depth == names).map(|(span, _)| span)
    }

    /// The values on the way to a key, as far as there are some: where each is, and how deep.
    fn walk<'s, 'p: 's>(
        &'s self,
        path: impl Iterator<Item = &'p str> + 's,
    ) -> impl Iterator<Item = (Range<usize>, usize)> + 's {
        let mut value: Option<&Spanned<DeValue<'a>>> = None;
        path.enumerate().map_while(move |(depth, name)| {
            let next = match value.map(Spanned::get_ref) {
                None => self.root.get_ref().get(name),
                Some(DeValue::Table(table)) => table.get(name),
                Some(DeValue::Array(array)) => {
                    name.parse::<usize>().ok().and_then(|index| array.get(index))
                }
                Some(_) => None,
            }?;
            value = Some(next);
            Some((next.span(), depth + 1))
        })
    }

    fn place(&self, span: Option<Range<usize>>) -> Place {
        let Some(span) = span else {
            return Place::File { name: self.name.to_owned() };
        };
        if span.start > self.text.len() {
            let before = self.overrides.partition_point(|(start, _)| *start <= span.start);
            let origin = before.checked_sub(1).and_then(|index| self.overrides.get(index));
            return match origin {
                Some((_, Origin::Variable(name))) => Place::Variable { name: name.clone() },
                Some((_, Origin::Preset(name))) => Place::Preset { name: (*name).to_owned() },
                None => Place::File { name: self.name.to_owned() },
            };
        }
        let before = &self.text.as_bytes()[..span.start];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line_bytes = &self.text.as_bytes()[line_start..];
        let line_length =
            line_bytes.iter().position(|byte| *byte == b'\n').unwrap_or(line_bytes.len());
        let line_end = line_start + line_length;
        let characters = |range: Range<usize>| {
            String::from_utf8_lossy(&self.text.as_bytes()[range]).chars().count()
        };
        let marked = span.start..span.end.clamp(span.start, line_end.max(span.start));
        Place::Line {
            name: self.name.to_owned(),
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: characters(line_start..span.start) + 1,
            width: characters(marked).max(1),
            text: String::from_utf8_lossy(&line_bytes[..line_length]).trim_end().to_owned(),
        }
    }
}

/// The tree of all keys there are, each with a value of its type.
pub(super) fn known_keys() -> Spanned<DeTable<'static>> {
    DeTable::parse(EXAMPLE).expect("the example is TOML; a test reads it")
}

/// What the keys of a transport that sends requests over HTTP/2 are called here, where nothing is
/// requested: `docs/CONFIGURATION.md` has what each means.
fn guide_key(name: &str) -> Option<&'static str> {
    Some(match name.trim_start_matches("http2_") {
        "connect_timeout_in_ms" => "connect_timeout_ms",
        "request_timeout_in_ms" | "request_timeout_ms" => "stall_timeout_ms",
        "concurrency_limit" => "long_messages_max",
        "max_concurrent_streams" => "raft.inflight_appends_max",
        "connection_window_size" | "initial_connection_window_size" => "window_bytes",
        "keep_alive_interval_in_secs" => "keepalive_interval_ms",
        "keep_alive_timeout_in_secs" => "keepalive_timeout_ms",
        "tcp_keepalive_in_secs" => "tcp_keepalive_ms",
        "max_frame_size" => "frame_bytes_max",
        _ => return None,
    })
}

struct Unknown {
    span: Range<usize>,
    name: String,
    section: String,
    allowed: Vec<String>,
}

fn remove_unknown(
    table: &mut DeTable<'_>,
    known: &DeTable<'_>,
    section: &str,
    unknown: &mut Vec<Unknown>,
) {
    let mut strangers = Vec::new();
    for (key, value) in table.iter_mut() {
        let name: &str = key.get_ref();
        let Some(known) = known.get(name) else {
            strangers.push(key.clone());
            continue;
        };
        let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        match (value.get_mut(), known.get_ref()) {
            (DeValue::Table(inner), DeValue::Table(known)) => {
                remove_unknown(inner, known, &path, unknown);
            }
            (DeValue::Array(items), DeValue::Array(known)) => {
                let Some(known) = known.first().and_then(|value| value.get_ref().as_table()) else {
                    continue;
                };
                for item in items.iter_mut() {
                    if let DeValue::Table(inner) = item.get_mut() {
                        remove_unknown(inner, known, &path, unknown);
                    }
                }
            }
            // Of another type than expected, which the typed reader will say.
            _ => {}
        }
    }
    for key in strangers {
        table.remove(&key);
        unknown.push(Unknown {
            span: key.span(),
            name: key.get_ref().to_string(),
            section: section.to_owned(),
            allowed: known.keys().map(|key| key.get_ref().to_string()).collect(),
        });
    }
}

/// Removes the innermost value whose span is, or contains, `span`; returns its path.
fn remove_at(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    // Tables that are opened by a header have the span of that header only, so every table is
    // searched, whatever its span says.
    for (key, value) in table.iter_mut() {
        let inner = match value.get_mut() {
            DeValue::Table(inner) => remove_at(inner, span),
            DeValue::Array(array) => {
                array.iter_mut().enumerate().find_map(|(index, value)| match value.get_mut() {
                    DeValue::Table(inner) => {
                        remove_at(inner, span).map(|path| format!("{index}.{path}"))
                    }
                    _ => None,
                })
            }
            _ => None,
        };
        if let Some(path) = inner {
            return Some(format!("{}.{path}", key.get_ref()));
        }
    }
    let contains = |value: &Spanned<DeValue<'_>>| {
        value.span().start <= span.start && span.end <= value.span().end
    };
    let key = table.iter().find(|(_, value)| contains(value)).map(|(key, _)| key.clone())?;
    table.remove(&key);
    Some(key.get_ref().to_string())
}
