//! Which call of which thread a traced process was killed at, and what it was doing there.
//!
//! Knows the names of files and threads, and as much of frames as `docs/FORMATS.md` tells.

use std::fmt;

/// What a log or its node was at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Operation {
    /// Recovery and all else before the node serves.
    Open,
    /// A frame of what clients wrote, or its sync.
    Append,
    /// The change to another segment: opening it, its header, the note in `incarnation`.
    Rotation,
    /// A new segment, made ahead of need.
    Preparation,
    /// A checkpoint, and the sync of the log that it vouches for.
    Checkpoint,
    /// Reading what lies scattered in old segments, and writing it to the end of the log.
    Rewrite,
    /// Removing a segment that nobody needs.
    Reclaim,
    /// Writing a snapshot, or removing an older one.
    SnapshotTaking,
    /// Fetching a snapshot of another node, putting it in place, and the record that begins anew.
    SnapshotInstall,
    /// None of these.
    Other,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Append => "append",
            Self::Rotation => "rotation",
            Self::Preparation => "new segment",
            Self::Checkpoint => "checkpoint",
            Self::Rewrite => "rewrite",
            Self::Reclaim => "reclaim",
            Self::SnapshotTaking => "snapshot taken",
            Self::SnapshotInstall => "snapshot installed",
            Self::Other => "other",
        })
    }
}

/// A call that was the last one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hit {
    pub(super) operation: Operation,
    pub(super) thread: String,
    pub(super) call: String,
}

/// Finds the `nth` call of that name by one thread, in a trace made with `strace -f -y -Y`, or
/// without `-f` of the one thread that is called `alone`. Every thread is counted for itself, as
/// strace counts. `None` if no thread came that far.
pub(super) fn find(trace: &str, alone: &str, call: &str, nth: usize) -> Option<Hit> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    let mut course: Vec<(&str, Operation)> = Vec::new();
    for line in trace.lines() {
        let (thread, rest) = thread_of(line, alone);
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            continue;
        }
        let comm = comm_of(thread);
        let before = course.iter().find(|(other, _)| *other == thread).map(|(_, was)| *was);
        let operation = classify(comm, name, arguments, before);
        course.retain(|(other, _)| *other != thread);
        course.push((thread, operation));
        if name == call {
            let at = counts.iter().position(|(other, _)| *other == thread).unwrap_or(counts.len());
            if at == counts.len() {
                counts.push((thread, 0));
            }
            counts[at].1 += 1;
            if counts[at].1 == nth {
                let (thread, call) = (comm.to_owned(), call.to_owned());
                return Some(Hit { operation, thread, call });
            }
        }
    }
    None
}

/// `12<name> ` before a line, or the only thread.
fn thread_of<'t>(line: &'t str, alone: &'t str) -> (&'t str, &'t str) {
    let has_prefix = line.starts_with(|c: char| c.is_ascii_digit());
    match line.split_once("> ") {
        Some((thread, rest)) if has_prefix => (thread, rest.trim_start()),
        _ => (alone, line),
    }
}

fn comm_of(thread: &str) -> &str {
    thread.split_once('<').map_or(thread, |(_, comm)| comm)
}

fn classify(thread: &str, call: &str, arguments: &str, before: Option<Operation>) -> Operation {
    let path = path_of(call, arguments).unwrap_or_default();
    let is_sync = matches!(call, "fdatasync" | "fsync");
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    if path.ends_with(".fetch") || arguments.contains(".fetch\"") {
        return Operation::SnapshotInstall;
    }
    // A directory is synced for what was put into it, and what was fetched is read to be installed.
    let is_read = path.ends_with(".snap") && matches!(call, "openat" | "pread64");
    if path.ends_with("/snapshots") || is_read {
        return before.unwrap_or(Operation::SnapshotTaking);
    }
    if directory.ends_with("/snapshots") {
        return Operation::SnapshotTaking;
    }
    match thread {
        "raftd" | "raft-log-ahead" => Operation::Open,
        "raft-log-tender" => Operation::Checkpoint,
        "raft-log-spares" => Operation::Preparation,
        _ if path.ends_with("/incarnation") => Operation::Rotation,
        _ if !path.ends_with(".seg") => Operation::Other,
        _ if call == "unlink" => Operation::Reclaim,
        _ if call == "openat" => Operation::Rotation,
        _ if call == "pread64" => Operation::Rewrite,
        _ if is_sync => before.unwrap_or(Operation::Append),
        _ => written(arguments),
    }
}

/// The path that a call is about: of its descriptor, or its first string.
fn path_of<'t>(call: &str, arguments: &'t str) -> Option<&'t str> {
    if matches!(call, "openat" | "unlink" | "rename" | "unlinkat" | "renameat2") {
        return arguments.split('"').nth(1);
    }
    let (_, rest) = arguments.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path)
}

/// What a write into a segment holds.
fn written(arguments: &str) -> Operation {
    const REWRITE: u8 = 10;
    const INSTALL: u8 = 6;
    let Some((_, quoted)) = arguments.split_once("iov_base=\"") else { return Operation::Append };
    let bytes = unescape(quoted);
    if bytes.starts_with(b"RAFTSEGM") {
        return Operation::Rotation;
    }
    let types = record_types(&bytes);
    if types.contains(&INSTALL) {
        Operation::SnapshotInstall
    } else if types.contains(&REWRITE) {
        Operation::Rewrite
    } else {
        Operation::Append
    }
}

/// The types of the records of a frame, as far as it is shown.
fn record_types(frame: &[u8]) -> Vec<u8> {
    const HEADER: usize = 64;
    let mut types = Vec::new();
    let mut at = HEADER;
    while let Some(record) = frame.get(at..).filter(|rest| rest.len() > 4) {
        let length = record.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
        if length == 0 {
            break;
        }
        types.push(record[4]);
        at = at.saturating_add(length);
    }
    types
}

/// The bytes of a string as strace shows it, up to its closing quote.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => break,
            b'\\' => match rest.next() {
                Some(digit @ b'0'..=b'7') => {
                    let mut value = u32::from(digit - b'0');
                    for _ in 0..2 {
                        if let Some(digit) = rest.next_if(|byte| (b'0'..=b'7').contains(byte)) {
                            value = value * 8 + u32::from(digit - b'0');
                        }
                    }
                    bytes.push(value as u8);
                }
                Some(b'n') => bytes.push(b'\n'),
                Some(b't') => bytes.push(b'\t'),
                Some(b'r') => bytes.push(b'\r'),
                Some(b'v') => bytes.push(0x0B),
                Some(b'f') => bytes.push(0x0C),
                Some(other) => bytes.push(other),
                None => break,
            },
            other => bytes.push(other),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Operation, classify, find, unescape};

    /// A frame of two records: a run of entries, and another type.
    fn frame(second: &str) -> String {
        // Three digits where one follows.
        let header = format!("RFRM{}", "\\000".repeat(60));
        let first = format!("0\\0\\0\\0\\2{}", "\\000".repeat(43));
        format!(
            r#"13</d/log-00000001.seg>, [{{iov_base="{header}{first}0\0\0\0{second}\0\0\0"..., "#
        )
    }

    #[test]
    fn bytes_are_read_as_they_are_shown() {
        assert_eq!(unescape(r#"a\0\12\1239\n\"\\"rest"#), b"a\0\x0A\x539\n\"\\");
        assert_eq!(unescape(r"\377\f\v"), [0xFF, 0x0C, 0x0B]);
    }

    #[test]
    fn operations_are_told_by_file_thread_and_content() {
        let of = |thread, call, arguments: &str| classify(thread, call, arguments, None);
        assert_eq!(of("raft-log", "pwritev2", &frame(r"\2")), Operation::Append);
        assert_eq!(of("raft-log", "pwritev", &frame(r"\n")), Operation::Rewrite);
        assert_eq!(of("raft-log", "pwritev", &frame(r"\6")), Operation::SnapshotInstall);
        let header = r#"13</d/log-00000001.seg>, [{iov_base="RAFTSEGM\1"..., "#;
        assert_eq!(of("raft-log", "pwritev", header), Operation::Rotation);
        assert_eq!(of("raft-log", "pwritev", "11</d/incarnation>, "), Operation::Rotation);
        assert_eq!(of("raft-log", "unlink", r#""/d/log-00000001.seg""#), Operation::Reclaim);
        assert_eq!(
            of("raft-log-tender", "fdatasync", "4</d/log-00000001.seg>"),
            Operation::Checkpoint
        );
        assert_eq!(of("raft-log-spares", "fsync", "4</d>"), Operation::Preparation);
        assert_eq!(of("raftd", "pread64", "4</d/log-00000001.seg>, "), Operation::Open);
        let part = r#"AT_FDCWD</t>, "/d/snapshots/1-1-9-1.part", O_WRONLY"#;
        assert_eq!(of("raft-snapshot-w", "openat", part), Operation::SnapshotTaking);
        let rename = r#""/d/snapshots/1-1-9-1.7-8.fetch", "/d/snapshots/1-1-9-1.snap""#;
        assert_eq!(of("raft-snapshots", "rename", rename), Operation::SnapshotInstall);
        let read = "4</d/snapshots/1-1-9-1.snap>, ";
        let install = Some(Operation::SnapshotInstall);
        let found = classify("raft-snapshot-w", "pread64", read, install);
        assert_eq!(found, Operation::SnapshotInstall);
        assert_eq!(of("raft-snapshot-w", "fsync", "4</d/snapshots>"), Operation::SnapshotTaking);
        assert_eq!(of("raftd-front", "write", "4<anon_inode:[eventfd]>"), Operation::Other);
    }

    #[test]
    fn a_sync_belongs_to_what_its_thread_wrote_before() {
        let trace = [
            format!("7<raft-log> pwritev({}) = 4096", frame(r"\n")),
            "8<raft-log-tender> fdatasync(4</d/checkpoint-1>) = 0".to_owned(),
            "7<raft-log> fdatasync(4</d/log-00000001.seg>) = ?".to_owned(),
            "7<raft-log> +++ killed by SIGKILL +++".to_owned(),
        ]
        .join("\n");
        let hit = find(&trace, "", "fdatasync", 1).unwrap();
        assert_eq!((hit.operation, &hit.thread[..]), (Operation::Checkpoint, "raft-log-tender"));
        let alone = trace.replace("7<raft-log> ", "");
        let alone: Vec<&str> = alone.lines().filter(|line| !line.starts_with('8')).collect();
        let hit = find(&alone.join("\n"), "raft-log", "fdatasync", 1).unwrap();
        assert_eq!((hit.operation, &hit.thread[..]), (Operation::Rewrite, "raft-log"));
        assert_eq!(find(&trace, "", "fdatasync", 2), None);
    }
}
