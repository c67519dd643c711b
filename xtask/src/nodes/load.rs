//! A load of unique keys with an honest account of every answer, and its reading back.
//!
//! Invariant: a write counts as acknowledged only once its `+OK` was read; whatever else came of
//! it, it may or may not have happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::resp::{Client, Reply};

/// Requests every client has under way, by its number: alone and in pipelines.
const DEPTHS: [usize; 2] = [1, 8];
/// Bytes of a value, unless told otherwise.
const VALUE_BYTES: usize = 200;
/// Before a client dials again or a refused read is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Keys asked for at a time when reading back.
const BATCH: usize = 128;
/// How long a group may have no leader before its keys count as lost: on a machine that others keep busy
/// elections take several attempts.
const READ_LIMIT: Duration = Duration::from_secs(120);
/// Lost keys that are named.
const NAMED_MAX: usize = 10;

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Writes>>,
}

/// How one client writes.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Requests under way at a time.
    pub(crate) depth: usize,
    pub(crate) value_bytes: usize,
    /// Between one batch and the next.
    pub(crate) pause: Duration,
    /// A hash tag: all its keys lie in one group.
    pub(crate) tag: Option<String>,
}

/// What one client wrote.
pub(crate) struct Writes {
    prefix: String,
    value_bytes: usize,
    /// Whether write `n` was acknowledged.
    acked: Vec<bool>,
}

/// What was found of writes.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Findings {
    pub(crate) acked: u64,
    pub(crate) unknown: u64,
    /// Of the unknown ones, those that did happen.
    pub(crate) unknown_present: u64,
    pub(crate) lost: u64,
    /// Some of the lost ones.
    pub(crate) named: Vec<String>,
}

impl Load {
    /// Starts `clients` threads whose keys begin with `name`, which must be new.
    pub(crate) fn start(proxies: &[SocketAddr], clients: usize, name: &str) -> Self {
        let shape = |client: usize| Shape {
            depth: DEPTHS[client % DEPTHS.len()],
            value_bytes: VALUE_BYTES,
            pause: Duration::ZERO,
            tag: None,
        };
        Self::start_shaped(proxies, (0..clients).map(shape), name)
    }

    /// Starts a thread for each shape; keys as above.
    pub(crate) fn start_shaped(
        proxies: &[SocketAddr],
        shapes: impl IntoIterator<Item = Shape>,
        name: &str,
    ) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = shapes
            .into_iter()
            .enumerate()
            .map(|(client, shape)| {
                let (stop, acked) = (Arc::clone(&stop), Arc::clone(&acked));
                let tag = shape.tag.as_ref().map_or_else(String::new, |tag| format!("{{{tag}}}"));
                let prefix = format!("{tag}{name}:{client}");
                let writes = Writes { prefix, value_bytes: shape.value_bytes, acked: Vec::new() };
                let proxies = proxies.to_vec();
                thread::spawn(move || write(&proxies, (client, &shape), writes, &stop, &acked))
            })
            .collect();
        Self { stop, acked, clients }
    }

    /// Acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    pub(crate) fn stop(mut self) -> Vec<Writes> {
        self.stop.store(true, Relaxed);
        let clients = std::mem::take(&mut self.clients);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client has no reason to panic"))
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The threads end by themselves, at the latest when a reply does not come.
        self.stop.store(true, Relaxed);
    }
}

fn write(
    proxies: &[SocketAddr],
    (client, shape): (usize, &Shape),
    mut writes: Writes,
    stop: &AtomicBool,
    total: &AtomicU64,
) -> Writes {
    let Shape { depth, pause, .. } = *shape;
    let mut dial = client;
    while !stop.load(Relaxed) {
        let Ok(mut connection) = Client::connect(proxies[dial % proxies.len()]) else {
            dial += 1;
            thread::sleep(PAUSE);
            continue;
        };
        'connected: while !stop.load(Relaxed) {
            let from = writes.acked.len();
            writes.acked.resize(from + depth, false);
            for n in from..from + depth {
                let key = writes.key(n);
                let value = value(&key, writes.value_bytes);
                connection.push(&[b"SET", key.as_bytes(), &value]);
            }
            if connection.flush().is_err() {
                break;
            }
            let mut refused = false;
            for n in from..from + depth {
                match connection.reply() {
                    Ok(Reply::Ok) => {
                        writes.acked[n] = true;
                        total.fetch_add(1, Relaxed);
                    }
                    Ok(Reply::Null | Reply::Bulk(_) | Reply::Other(_)) => refused = true,
                    Err(_) => break 'connected,
                }
            }
            if refused {
                thread::sleep(PAUSE);
            } else if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        dial += 1;
    }
    writes
}

impl Writes {
    fn key(&self, n: usize) -> String {
        format!("{}:{n}", self.prefix)
    }
}

/// The value of a key, which no other key has.
fn value(key: &str, bytes: usize) -> Vec<u8> {
    key.bytes().chain(*b"=").cycle().take(bytes).collect()
}

/// Reads every key of `writes` back, through the proxies in turn.
pub(crate) fn read_back<'a>(
    proxies: &[SocketAddr],
    writes: impl IntoIterator<Item = &'a Writes>,
) -> Result<Findings> {
    let mut reader = Reader { proxies, dial: 0, connection: None };
    let mut findings = Findings::default();
    for writes in writes {
        for from in (0..writes.acked.len()).step_by(BATCH) {
            let range = from..writes.acked.len().min(from + BATCH);
            let keys: Vec<String> = range.clone().map(|n| writes.key(n)).collect();
            let found = reader.read(&keys)?;
            for ((n, key), reply) in range.zip(&keys).zip(found) {
                findings.judge((key, writes.value_bytes), writes.acked[n], &reply);
            }
        }
    }
    Ok(findings)
}

struct Reader<'a> {
    proxies: &'a [SocketAddr],
    dial: usize,
    connection: Option<Client>,
}

impl Reader<'_> {
    /// The values of all `keys`; a read changes nothing, so it is tried again until it succeeds.
    fn read(&mut self, keys: &[String]) -> Result<Vec<Reply>> {
        let deadline = Instant::now() + READ_LIMIT;
        let mut found: Vec<Option<Reply>> = vec![None; keys.len()];
        loop {
            let open: Vec<usize> = (0..keys.len()).filter(|at| found[*at].is_none()).collect();
            if open.is_empty() {
                return Ok(found.into_iter().flatten().collect());
            }
            if self.pass(keys, &open, &mut found).is_err() {
                self.connection = None;
                self.dial += 1;
            }
            if found.iter().any(Option::is_none) {
                if Instant::now() > deadline {
                    bail!(
                        "{} of {} keys could not be read in {READ_LIMIT:?}",
                        open.len(),
                        keys.len()
                    );
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// Asks once for the keys at `open`.
    fn pass(&mut self, keys: &[String], open: &[usize], found: &mut [Option<Reply>]) -> Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Client::connect(self.proxies[self.dial % self.proxies.len()])?),
        };
        for at in open {
            connection.push(&[b"GET", keys[*at].as_bytes()]);
        }
        connection.flush()?;
        for at in open {
            match connection.reply().context("a read")? {
                reply @ (Reply::Null | Reply::Bulk(_)) => found[*at] = Some(reply),
                Reply::Ok | Reply::Other(_) => {}
            }
        }
        Ok(())
    }
}

impl Findings {
    fn judge(&mut self, (key, bytes): (&str, usize), acked: bool, found: &Reply) {
        let right = matches!(found, Reply::Bulk(found) if *found == value(key, bytes));
        let nothing = *found == Reply::Null;
        if acked {
            self.acked += 1;
        } else {
            self.unknown += 1;
            self.unknown_present += u64::from(right);
        }
        // A value that nobody wrote is a loss too, whoever asked for the write.
        if !right && (acked || !nothing) {
            self.lost += 1;
            if self.named.len() < NAMED_MAX {
                self.named
                    .push(format!("{key}: {}", if nothing { "nothing" } else { "another value" }));
            }
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.unknown_present += other.unknown_present;
        self.lost += other.lost;
        self.named.extend(other.named);
        self.named.truncate(NAMED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::{Findings, Reply, VALUE_BYTES, value};

    #[test]
    fn only_an_acknowledged_write_can_be_missing_and_a_wrong_value_is_always_a_loss() {
        let mut findings = Findings::default();
        let right = Reply::Bulk(value("k", VALUE_BYTES));
        let other = Reply::Bulk(value("x", VALUE_BYTES));
        for (acked, found) in [
            (true, &right),
            (true, &Reply::Null),
            (true, &other),
            (false, &right),
            (false, &Reply::Null),
            (false, &other),
        ] {
            findings.judge(("k", VALUE_BYTES), acked, found);
        }
        assert_eq!((findings.acked, findings.unknown), (3, 3));
        assert_eq!((findings.lost, findings.unknown_present), (3, 1));
        assert_eq!(findings.named[0], "k: nothing");
    }
}
