//! A load of several kinds of clients that overwrite a bounded set of keys, and its honest account.
//!
//! Keys are few and written again and again, so that what the machines hold stays bounded and whatever
//! grows is a leak. A key belongs to one client. What may be found in it is the last value that was
//! acknowledged, or any that was asked for since it was first written and never answered.
//!
//! Invariant: a write counts as acknowledged only once its `+OK` was read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::nodes::resp::{Client, Reply};

/// One read for so many writes.
const READ_EVERY: usize = 4;
/// Before a client dials again.
const REDIAL: Duration = Duration::from_millis(20);
/// How long a key may be unreadable in the end.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Values that were never answered and are remembered for a key.
const UNANSWERED_MAX: usize = 64;

/// What one client does.
#[derive(Clone, Debug)]
pub(super) struct Habit {
    /// In whose groups its keys lie, in turn.
    pub(super) tags: Vec<String>,
    /// How many it has in each.
    pub(super) keys_per_tag: usize,
    pub(super) value_bytes: usize,
    /// Requests under way at a time.
    pub(super) depth: usize,
    /// From one batch to the next; a slow answer takes some of it.
    pub(super) period: Duration,
    /// Whether how long its writes take is told.
    pub(super) is_timed: bool,
}

/// Clients at work.
pub(super) struct MixedLoad {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    latencies: Receiver<Duration>,
    clients: Vec<JoinHandle<Account>>,
}

/// What one client wrote, and what it found wrong while it read.
pub(super) struct Account {
    keys: Vec<Key>,
    value_bytes: usize,
    pub(super) wrong: Vec<String>,
}

/// A key, and what may be found in it.
struct Key {
    name: String,
    acked: Option<u64>,
    /// Asked for and not answered, at most [`UNANSWERED_MAX`], the newest.
    unanswered: Vec<u64>,
    next: u64,
}

impl MixedLoad {
    pub(super) fn start(proxies: &[SocketAddr], habits: &[Habit]) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (tell, latencies) = channel();
        let clients = habits
            .iter()
            .enumerate()
            .map(|(number, habit)| {
                let worker = Worker {
                    proxies: proxies.to_vec(),
                    habit: habit.clone(),
                    stop: Arc::clone(&stop),
                    acked: Arc::clone(&acked),
                    tell: tell.clone(),
                };
                thread::spawn(move || worker.run(number))
            })
            .collect();
        Self { stop, acked, latencies, clients }
    }

    /// Acknowledged so far.
    pub(super) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// How long the writes took that ended since this was asked last.
    pub(super) fn latencies(&self) -> Vec<Duration> {
        self.latencies.try_iter().collect()
    }

    pub(super) fn stop(mut self) -> Vec<Account> {
        self.stop.store(true, Relaxed);
        let clients = std::mem::take(&mut self.clients);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client has no reason to panic"))
            .collect()
    }
}

impl Drop for MixedLoad {
    fn drop(&mut self) {
        // The threads end by themselves, at the latest when a reply does not come.
        self.stop.store(true, Relaxed);
    }
}

struct Worker {
    proxies: Vec<SocketAddr>,
    habit: Habit,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    tell: Sender<Duration>,
}

impl Worker {
    fn run(self, number: usize) -> Account {
        let Habit { tags, keys_per_tag, value_bytes, period, .. } = &self.habit;
        let key = |n: usize| format!("{{{}}}:{number}:{}", tags[n % tags.len()], n / tags.len());
        let keys = (0..tags.len() * keys_per_tag).map(|n| Key::new(key(n))).collect();
        let mut account = Account { keys, value_bytes: *value_bytes, wrong: Vec::new() };
        let (mut dial, mut turn) = (number, 0);
        while !self.stop.load(Relaxed) {
            let address = self.proxies[dial % self.proxies.len()];
            dial += 1;
            let Ok(mut connection) = Client::connect(address) else {
                thread::sleep(REDIAL);
                continue;
            };
            while !self.stop.load(Relaxed) {
                let begun = Instant::now();
                if self.turn(&mut connection, &mut account, turn).is_err() {
                    break;
                }
                turn += 1;
                thread::sleep(period.saturating_sub(begun.elapsed()));
            }
        }
        account
    }

    /// One batch of writes, or of reads.
    fn turn(
        &self,
        connection: &mut Client,
        account: &mut Account,
        turn: usize,
    ) -> std::io::Result<()> {
        let depth = self.habit.depth.min(account.keys.len());
        let first = turn * depth;
        let batch: Vec<usize> = (first..first + depth).map(|n| n % account.keys.len()).collect();
        if turn % (READ_EVERY + 1) == READ_EVERY {
            // What was written a moment ago.
            let keys = account.keys.len();
            return account.read(connection, batch.into_iter().map(|n| (n + keys - depth) % keys));
        }
        let mut asked = Vec::new();
        for at in batch {
            let number = account.keys[at].ask();
            let key = &account.keys[at].name;
            let value = value(key, number, account.value_bytes);
            connection.push(&[b"SET", key.as_bytes(), &value]);
            asked.push((at, number));
        }
        let begun = Instant::now();
        connection.flush()?;
        for (at, number) in asked {
            if connection.reply()? == Reply::Ok {
                account.keys[at].acknowledge(number);
                self.acked.fetch_add(1, Relaxed);
            }
        }
        if self.habit.is_timed {
            // Nobody listens any more if the soak was given up.
            let _ = self.tell.send(begun.elapsed());
        }
        Ok(())
    }
}

impl Account {
    /// How many keys have an acknowledged value.
    pub(super) fn acked_keys(&self) -> usize {
        self.keys.iter().filter(|key| key.acked.is_some()).count()
    }

    /// Reads all keys, patiently.
    pub(super) fn read_back(&mut self, proxies: &[SocketAddr]) -> Result<()> {
        const BATCH: usize = 16;
        for first in (0..self.keys.len()).step_by(BATCH) {
            let batch = first..self.keys.len().min(first + BATCH);
            let deadline = Instant::now() + READ_LIMIT;
            let mut dial = 0;
            loop {
                let read = Client::connect(proxies[dial % proxies.len()])
                    .and_then(|mut connection| self.read(&mut connection, batch.clone()));
                match read {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => bail!("cannot read back: {error}"),
                    Err(_) => thread::sleep(REDIAL),
                }
                dial += 1;
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        connection: &mut Client,
        keys: impl Iterator<Item = usize> + Clone,
    ) -> std::io::Result<()> {
        for at in keys.clone() {
            connection.push(&[b"GET", self.keys[at].name.as_bytes()]);
        }
        connection.flush()?;
        for at in keys {
            let found = match connection.reply()? {
                Reply::Null => None,
                Reply::Bulk(bytes) => Some(bytes),
                other @ (Reply::Ok | Reply::Other(_)) => {
                    return Err(std::io::Error::other(format!("a read: {other:?}")));
                }
            };
            self.judge(at, found.as_deref());
        }
        Ok(())
    }

    fn judge(&mut self, at: usize, found: Option<&[u8]>) {
        let Key { name, acked, unanswered, .. } = &self.keys[at];
        let is = |number: &u64| found == Some(&value(name, *number, self.value_bytes)[..]);
        let is_right = match found {
            None => acked.is_none(),
            Some(_) => acked.iter().chain(unanswered).any(is),
        };
        if !is_right {
            let found = found.map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
            self.wrong.push(format!("{name}: acknowledged {acked:?}, found {found:?}"));
        }
    }
}

impl Key {
    fn new(name: String) -> Self {
        Self { name, acked: None, unanswered: Vec::new(), next: 0 }
    }

    fn ask(&mut self) -> u64 {
        self.next += 1;
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.remove(0);
        }
        self.unanswered.push(self.next);
        self.next
    }

    fn acknowledge(&mut self, number: u64) {
        self.acked = Some(number);
        self.unanswered.retain(|other| *other != number);
    }
}

/// What is written to a key for the `number`th time.
fn value(key: &str, number: u64, bytes: usize) -> Vec<u8> {
    format!("{number}={key};").into_bytes().into_iter().cycle().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::{Account, Key, value};

    #[test]
    fn the_last_acknowledged_value_and_unanswered_ones_may_be_found_and_nothing_else() {
        let mut account =
            Account { keys: vec![Key::new("k".into())], value_bytes: 32, wrong: Vec::new() };
        let found = |number| value("k", number, 32);
        account.judge(0, None);
        for number in 1..=3 {
            assert_eq!(account.keys[0].ask(), number);
        }
        account.keys[0].acknowledge(2);
        for number in [1, 2, 3] {
            account.judge(0, Some(&found(number)));
        }
        assert!(account.wrong.is_empty(), "{:?}", account.wrong);
        account.judge(0, None);
        account.judge(0, Some(&found(4)));
        account.judge(0, Some(b"2=k"));
        assert_eq!(account.wrong.len(), 3);
        assert_eq!(account.acked_keys(), 1);
    }
}
