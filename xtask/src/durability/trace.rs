//! What a trace of system calls says about acknowledgements: a judge, and nothing else.
//!
//! One tracer watches all nodes, so its lines are one order of events: a call is reported before
//! the kernel runs it and again before its thread goes on, so whatever a thread did because of
//! an earlier call stands below that call's end. From this follows what must hold: above the
//! write of an acknowledgement there must be, on a quorum of nodes, first the end of a write of
//! the entry to the log, then begin and successful end of a sync of the same file; or the
//! successful end of a write of the entry with `RWF_DSYNC`, which covers nothing but itself.

use std::collections::{BTreeMap, BTreeSet};

/// Calls to watch.
pub(super) const CALLS: &str =
    "fdatasync,fsync,pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg,sendmmsg";

/// What is known of one log file at some line of the trace.
#[derive(Default)]
struct File {
    /// Entries whose write has ended and for which no sync has succeeded since.
    written: BTreeSet<usize>,
    /// By thread: entries that were written when the sync began that is still under way.
    syncing: BTreeMap<u32, BTreeSet<usize>>,
}

/// What the judge saw.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Judgement {
    /// Acknowledgements seen on the client's connection.
    pub(super) acks: usize,
    /// Of them, sent in one call together with others.
    pub(super) batched: usize,
    /// Successful syncs of log files, those that came with a write among them.
    pub(super) syncs: usize,
    /// Acknowledgements that left too early, and anything else that must not be.
    pub(super) violations: Vec<String>,
}

/// The rules of one trace.
pub(super) struct Judge<'a> {
    /// What each entry carries, in the order of the requests: distinct, of one length, and ending
    /// in their only semicolon.
    pub(super) markers: &'a [String],
    /// How the other end of the client's connection is named in the trace: `->host:port]`.
    pub(super) client: &'a str,
    /// How many nodes must have an entry on disk before it may be acknowledged.
    pub(super) quorum: usize,
}

impl Judge<'_> {
    /// Reads a trace made with `strace -f -yy`.
    pub(super) fn judge(&self, trace: &str) -> Judgement {
        let mut course = Course {
            judge: self,
            numbers: self.markers.iter().map(String::as_str).zip(0..).collect(),
            files: BTreeMap::new(),
            durable: vec![BTreeSet::new(); self.markers.len()],
            judgement: Judgement::default(),
        };
        let mut unfinished: BTreeMap<u32, Call<'_>> = BTreeMap::new();
        for (line, text) in (1..).zip(trace.lines()) {
            let Some(Event { thread, kind }) = parse(text) else { continue };
            match kind {
                Kind::Whole(call, result) => {
                    course.begin(&call, thread, line);
                    course.end(&call, thread, result);
                }
                Kind::Begin(call) => {
                    course.begin(&call, thread, line);
                    unfinished.insert(thread, call);
                }
                Kind::End(result) => {
                    // One without a beginning began before the tracer came.
                    if let Some(call) = unfinished.remove(&thread) {
                        course.end(&call, thread, result);
                    }
                }
            }
        }
        let mut judgement = course.judgement;
        if judgement.acks < self.markers.len() {
            judgement.violations.push(format!(
                "{} markers but {} acknowledgements on the connection `{}`",
                self.markers.len(),
                judgement.acks,
                self.client
            ));
        }
        judgement
    }
}

/// A trace read up to some line.
struct Course<'a, 't> {
    judge: &'a Judge<'a>,
    numbers: BTreeMap<&'a str, usize>,
    files: BTreeMap<&'t str, File>,
    /// By entry: the nodes that have it on disk.
    durable: Vec<BTreeSet<&'t str>>,
    judgement: Judgement,
}

impl<'t> Course<'_, 't> {
    /// What counts from the beginning of a call, because that is the stricter choice.
    fn begin(&mut self, call: &Call<'t>, thread: u32, line: usize) {
        if call.is_sync() {
            let file = self.files.entry(call.target).or_default();
            file.syncing.insert(thread, file.written.clone());
        } else if call.target.contains(self.judge.client) {
            self.acknowledge(call, line);
        }
    }

    /// What counts only once the call has ended well.
    fn end(&mut self, call: &Call<'t>, thread: u32, result: i64) {
        let Some(node) = node_of(call.target) else { return };
        let file = self.files.entry(call.target).or_default();
        if call.is_sync() {
            let covered = file.syncing.remove(&thread).unwrap_or_default();
            if result < 0 {
                return;
            }
            self.judgement.syncs += 1;
            for entry in covered {
                file.written.remove(&entry);
                self.durable[entry].insert(node);
            }
        } else if result > 0 {
            let length = self.judge.markers.first().map_or(0, String::len);
            let entries = call.arguments.match_indices(';').filter_map(|(at, _)| {
                let marker = call.arguments.get((at + 1).checked_sub(length)?..=at)?;
                self.numbers.get(marker)
            });
            if call.syncs_itself() {
                self.judgement.syncs += 1;
                for entry in entries {
                    self.durable[*entry].insert(node);
                }
            } else {
                file.written.extend(entries);
            }
        }
    }

    /// The bytes of a call on the client's connection: replies come in the order of requests.
    fn acknowledge(&mut self, call: &Call<'_>, line: usize) {
        let Judgement { acks, batched, violations, .. } = &mut self.judgement;
        let mut count = 0;
        for bytes in quoted(call.arguments) {
            // A reply has left as soon as its first byte has.
            count += bytes.matches('+').count();
            if !bytes.replace("+OK\\r\\n", "").is_empty() {
                violations.push(format!("line {line}: not only +OK: {bytes}"));
            }
        }
        for entry in *acks..*acks + count {
            let Some(nodes) = self.durable.get(entry) else {
                violations.push(format!("line {line}: more replies than requests"));
                break;
            };
            if nodes.len() < self.judge.quorum {
                violations.push(format!(
                    "line {line}: {} is acknowledged, but on disk on {} nodes of the {} needed",
                    self.judge.markers[entry],
                    nodes.len(),
                    self.judge.quorum
                ));
            }
        }
        *acks += count;
        *batched += if count > 1 { count } else { 0 };
    }
}

/// The trace as it would be, had nobody waited for a sync: every sync is taken out.
pub(super) fn without_syncs(trace: &str) -> String {
    let kept = trace.lines().filter(|line| {
        !["fdatasync", "fsync"].iter().any(|name| {
            line.contains(&format!(" {name}(")) || line.contains(&format!("<... {name} resumed"))
        })
    });
    // A write that syncs itself becomes one that does not.
    kept.flat_map(|line| [line, "\n"]).collect::<String>().replace(DSYNC, "")
}

/// How strace tells of the flag.
const DSYNC: &str = ", RWF_DSYNC";

struct Event<'t> {
    thread: u32,
    kind: Kind<'t>,
}

enum Kind<'t> {
    Whole(Call<'t>, i64),
    Begin(Call<'t>),
    End(i64),
}

struct Call<'t> {
    name: &'t str,
    /// What the descriptor is: a path, or both ends of a connection.
    target: &'t str,
    arguments: &'t str,
}

impl Call<'_> {
    fn is_sync(&self) -> bool {
        matches!(self.name, "fdatasync" | "fsync")
    }

    /// The flag stands behind the last thing that is quoted.
    fn syncs_itself(&self) -> bool {
        self.name == "pwritev2"
            && self.arguments.rsplit('"').next().is_some_and(|flags| flags.contains(DSYNC))
    }
}

/// `<thread> <time> <name>(<fd><<target>>, <arguments>) = <result>`, or the first or the second
/// half of it. `None` for signals, exits and calls without a descriptor.
fn parse(line: &str) -> Option<Event<'_>> {
    let (thread, rest) = line.split_once(' ')?;
    let thread = thread.parse().ok()?;
    let (_time, rest) = rest.trim_start().split_once(' ')?;
    if rest.starts_with("<... ") {
        return Some(Event { thread, kind: Kind::End(result(rest)?) });
    }
    let (name, rest) = rest.split_once('(')?;
    let open = rest.find('<')?;
    if !rest[..open].chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let (target, arguments) = target(&rest[open + 1..])?;
    let call = Call { name, target, arguments };
    let kind = if line.ends_with("<unfinished ...>") {
        Kind::Begin(call)
    } else {
        Kind::Whole(call, result(arguments)?)
    };
    Some(Event { thread, kind })
}

/// What stands between the angle brackets; an arrow and an inner pair are part of it.
fn target(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
        before = c;
    }
    None
}

/// The number behind the last ` = `; a call that was interrupted for good has none.
fn result(text: &str) -> Option<i64> {
    let (_, result) = text.rsplit_once(" = ")?;
    result.split(' ').next()?.parse().ok()
}

/// What stands in double quotes, as strace escapes it.
fn quoted(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut open = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (c, open) {
            _ if escaped => escaped = false,
            ('\\', Some(_)) => escaped = true,
            ('"', None) => open = Some(at + 1),
            ('"', Some(from)) => {
                parts.push(&text[from..at]);
                open = None;
            }
            _ => {}
        }
    }
    parts
}

fn is_log(path: &str) -> bool {
    path.ends_with(".seg")
}

/// The directory of a log file; every node has one of its own.
fn node_of(path: &str) -> Option<&str> {
    is_log(path).then(|| path.rsplit_once('/').map(|(directory, _)| directory))?
}

#[cfg(test)]
mod tests {
    use super::{Judge, Judgement, without_syncs};

    fn judge(quorum: usize, trace: &str) -> Judgement {
        let markers = ["m-1;".to_owned(), "m-2;".to_owned()];
        Judge { markers: &markers, client: "->127.0.0.1:9]", quorum }.judge(trace)
    }

    fn violations(quorum: usize, trace: &str) -> usize {
        judge(quorum, trace).violations.len()
    }

    const WRITE: &str = r#"7 1.1 pwritev(11</d/node-1/log-0.seg>, [{iov_base="\1m-1;m-2;\"", iov_len=8}], 1, 4096) = 8"#;
    const SYNC: &str = "7 1.2 fdatasync(11</d/node-1/log-0.seg>) = 0";
    const ACKS: &str = r#"8 1.3 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:9]>, "+OK\r\n+OK\r\n", 10, MSG_NOSIGNAL, NULL, 0) = 10"#;

    #[test]
    fn write_then_sync_then_acknowledgement_is_the_only_order() {
        let good = judge(1, &[WRITE, SYNC, ACKS].join("\n"));
        assert_eq!(good, Judgement { acks: 2, batched: 2, syncs: 1, violations: Vec::new() });
        assert_eq!(violations(1, &[WRITE, ACKS, SYNC].join("\n")), 2);
        assert_eq!(violations(1, &[SYNC, WRITE, ACKS].join("\n")), 2);
        assert_eq!(violations(1, &without_syncs(&[WRITE, SYNC, ACKS].join("\n"))), 2);
    }

    #[test]
    fn a_write_that_syncs_itself_covers_itself_and_nothing_before() {
        let both = WRITE.replace("pwritev", "pwritev2").replace("4096) =", "4096, RWF_DSYNC) =");
        let good = judge(1, &[&both, ACKS].join("\n"));
        assert_eq!(good, Judgement { acks: 2, batched: 2, syncs: 1, violations: Vec::new() });
        assert_eq!(violations(1, &without_syncs(&[&both, ACKS].join("\n"))), 2);
        assert_eq!(violations(1, &[ACKS, &both].join("\n")), 2);
        let failed = both.replace("= 8", "= -1 EIO (Input/output error)");
        assert_eq!(violations(1, &[&failed, ACKS].join("\n")), 2);
        // The second entry was written before, and is not covered.
        let first = both.replace("m-2;", "....");
        assert_eq!(violations(1, &[WRITE, &first, ACKS].join("\n")), 1);
        // What an entry says is no flag.
        let quoted = WRITE.replace("pwritev", "pwritev2").replace("m-2;", "m-2;, RWF_DSYNC");
        assert_eq!(violations(1, &[&quoted, ACKS].join("\n")), 2);
        let begins = both.replace(") = 8", " <unfinished ...>");
        let ends = "7 1.2 <... pwritev2 resumed>) = 8";
        assert_eq!(violations(1, &[&begins, ends, ACKS].join("\n")), 0);
        assert_eq!(violations(1, &[&begins, ACKS, ends].join("\n")), 2);
    }

    #[test]
    fn a_failed_sync_and_a_sync_of_another_file_cover_nothing() {
        let failed = SYNC.replace("= 0", "= -1 EIO (Input/output error)");
        assert_eq!(violations(1, &[WRITE, &failed, ACKS].join("\n")), 2);
        let other = SYNC.replace("log-0", "log-1");
        assert_eq!(violations(1, &[WRITE, &other, ACKS].join("\n")), 2);
    }

    #[test]
    fn a_quorum_is_counted_in_nodes() {
        let second = |line: &str| line.replace("node-1", "node-2");
        let trace = [WRITE, SYNC, WRITE, SYNC, ACKS].join("\n");
        assert_eq!(violations(2, &trace), 2);
        let trace = [WRITE, SYNC, &second(WRITE), &second(SYNC), ACKS].join("\n");
        assert_eq!(violations(2, &trace), 0);
        assert_eq!(violations(3, &trace), 2);
    }

    #[test]
    fn calls_that_overlap_are_judged_by_their_begin_and_end() {
        let write_begins = r#"7 1.1 pwritev(11</d/node-1/log-0.seg>, [{iov_base="m-1;m-2;", iov_len=8}], 1, 4096 <unfinished ...>"#;
        let write_ends = "7 1.2 <... pwritev resumed>) = 8";
        let sync_begins = "6 1.2 fdatasync(11</d/node-1/log-0.seg> <unfinished ...>";
        let sync_ends = "6 1.2 <... fdatasync resumed>) = 0";
        let good = [write_begins, write_ends, sync_begins, sync_ends, ACKS].join("\n");
        assert_eq!(violations(1, &good), 0);
        // The sync may have passed the data by.
        let early_sync = [write_begins, sync_begins, write_ends, sync_ends, ACKS].join("\n");
        assert_eq!(violations(1, &early_sync), 2);
        // The acknowledgement is under way before the sync has ended.
        let ack_begins = ACKS.replace(") = 10", " <unfinished ...>");
        let early = [write_begins, write_ends, sync_begins, &ack_begins, sync_ends].join("\n");
        assert_eq!(violations(1, &early), 2);
    }

    #[test]
    fn missing_surplus_and_foreign_replies_are_violations() {
        assert_eq!(violations(1, &[WRITE, SYNC].join("\n")), 1);
        assert_eq!(violations(1, &[WRITE, SYNC, ACKS, ACKS].join("\n")), 1);
        let error = ACKS.replace(r"+OK\r\n+OK", r"+OK\r\n-ERR x");
        assert_eq!(violations(1, &[WRITE, SYNC, &error].join("\n")), 2);
        let elsewhere = ACKS.replace(":9]", ":99]");
        assert_eq!(judge(1, &[WRITE, SYNC, &elsewhere].join("\n")).acks, 0);
    }
}
