//! The judgement: every acknowledged write is there, with its value, and all replicas agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use raft_core::GroupId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::resp_client::Reply;
use super::router::{Attempt, Router};
use super::workload::{Outcome, Stream, Workload};
use crate::status::{AdminClient, DigestView};

/// Reads under way at a time.
const READERS: usize = 256;
/// A reader takes so many keys at once.
const BATCH: usize = 64;
/// Between two tries of a read.
const PAUSE: Duration = Duration::from_millis(20);
/// Lost keys that are named.
const NAMED_MAX: usize = 10;
/// Groups whose digests are asked for at a time.
const DIGESTS: usize = 16;

/// What was found of the writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Acknowledged writes that were read back with their value.
    pub(super) verified: u64,
    /// Acknowledged writes that are not there, have another value, or cannot be read at all.
    pub(super) lost: u64,
    /// Some of the lost ones.
    pub(super) lost_keys: Vec<LostKey>,
    /// Writes that were refused as not executed, and are there all the same.
    pub(super) phantoms: u64,
    /// Some of those.
    pub(super) phantom_keys: Vec<String>,
    /// Writes of unknown outcome that did happen.
    pub(super) unknown_present: u64,
}

/// An acknowledged write that is gone.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub(super) struct LostKey {
    pub(super) key: String,
    pub(super) group: u32,
    /// What was found in its place.
    pub(super) found: &'static str,
}

/// Reads back every write of all streams, each through the leader of its group. `limit` is how
/// long a group may have no leader before its keys count as unreadable.
pub(super) async fn read_back(
    router: &Arc<Router>,
    workload: &Workload,
    streams: Vec<Stream>,
    limit: Duration,
) -> Findings {
    let batches: Vec<(usize, usize)> = streams
        .iter()
        .enumerate()
        .flat_map(|(stream, writes)| {
            (0..writes.outcomes.len()).step_by(BATCH).map(move |from| (stream, from))
        })
        .collect();
    let (streams, batches) = (Arc::new(streams), Arc::new(batches));
    let next = Arc::new(AtomicUsize::new(0));
    let mute: Arc<Vec<AtomicBool>> =
        Arc::new((0..router.group_count()).map(|_| AtomicBool::new(false)).collect());
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (router, workload) = (Arc::clone(router), workload.clone());
        let (streams, batches) = (Arc::clone(&streams), Arc::clone(&batches));
        let (next, mute) = (Arc::clone(&next), Arc::clone(&mute));
        readers.spawn(async move {
            let mut findings = Findings::default();
            while let Some(&(stream, from)) = batches.get(next.fetch_add(1, Relaxed)) {
                let stream: &Stream = &streams[stream];
                let to = stream.outcomes.len().min(from + BATCH);
                for n in from..to {
                    let key = workload.key(&stream.name, n);
                    let mute = &mute[router.group_of(&key).get() as usize - 1];
                    // A group that gave no answer for that long is not asked for each other key.
                    let found = if mute.load(Relaxed) {
                        Found::Unreadable
                    } else {
                        read(&router, &workload, &key, reader, limit).await
                    };
                    mute.fetch_or(found == Found::Unreadable, Relaxed);
                    findings.judge(&router, key, stream.outcomes[n], found);
                }
            }
            findings
        });
    }
    let mut findings = Findings::default();
    while let Some(part) = readers.join_next().await {
        findings.merge(part.expect("readers do not panic and are not aborted"));
    }
    findings
}

/// What is stored under a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Right,
    Nothing,
    Other,
    Unreadable,
}

async fn read(
    router: &Router,
    workload: &Workload,
    key: &str,
    lane: usize,
    limit: Duration,
) -> Found {
    let deadline = Instant::now() + limit;
    let command = Workload::get(key);
    loop {
        match router.attempt(key, lane, &command).await {
            Attempt::Done(Reply::Bulk(value)) if value == workload.value(key) => {
                return Found::Right;
            }
            Attempt::Done(Reply::Null) => return Found::Nothing,
            Attempt::Done(_) => return Found::Other,
            // Reading changes nothing, so it may be tried again whatever came of it.
            Attempt::Refused | Attempt::Rejected(_) | Attempt::Unknown => {}
        }
        if Instant::now() > deadline {
            return Found::Unreadable;
        }
        sleep(PAUSE).await;
    }
}

impl Findings {
    fn judge(&mut self, router: &Router, key: String, outcome: Outcome, found: Found) {
        match (outcome, found) {
            (Outcome::Acked, Found::Right) => self.verified += 1,
            (Outcome::Acked, Found::Nothing) => self.lose(router, key, "nothing"),
            (_, Found::Other) => self.lose(router, key, "another value"),
            // For all a client can tell, it is lost.
            (Outcome::Acked, Found::Unreadable) => self.lose(router, key, "no leader to ask"),
            (Outcome::Failed, Found::Right) => {
                self.phantoms += 1;
                if self.phantom_keys.len() < NAMED_MAX {
                    self.phantom_keys.push(key);
                }
            }
            (Outcome::Unknown, Found::Right) => self.unknown_present += 1,
            (Outcome::Failed | Outcome::Unknown, Found::Nothing | Found::Unreadable) => {}
        }
    }

    fn lose(&mut self, router: &Router, key: String, found: &'static str) {
        self.lost += 1;
        if self.lost_keys.len() < NAMED_MAX {
            let group = router.group_of(&key).get();
            self.lost_keys.push(LostKey { key, group, found });
        }
    }

    fn merge(&mut self, other: Self) {
        self.verified += other.verified;
        self.lost += other.lost;
        self.phantoms += other.phantoms;
        self.unknown_present += other.unknown_present;
        let room = NAMED_MAX - self.lost_keys.len();
        self.lost_keys.extend(other.lost_keys.into_iter().take(room));
        let room = NAMED_MAX - self.phantom_keys.len();
        self.phantom_keys.extend(other.phantom_keys.into_iter().take(room));
    }
}

/// Compares the digests of every group on all nodes at the same applied index; returns what does
/// not agree. The load must have stopped.
pub(super) async fn compare_digests(
    cluster: &Cluster,
    groups: u32,
    limit: Duration,
) -> Vec<String> {
    let nodes: Arc<Vec<(u64, AdminClient)>> =
        Arc::new(cluster.nodes().iter().map(|node| (node.id, node.admin)).collect());
    let deadline = Instant::now() + limit;
    let mut differences = Vec::new();
    let mut tasks = JoinSet::new();
    for group in 1..=groups {
        if tasks.len() >= DIGESTS {
            differences.extend(tasks.join_next().await);
        }
        let nodes = Arc::clone(&nodes);
        tasks.spawn(async move { compare(&nodes, GroupId::new(group), deadline).await });
    }
    while let Some(difference) = tasks.join_next().await {
        differences.push(difference);
    }
    differences
        .into_iter()
        .filter_map(|task| task.expect("comparisons do not panic and are not aborted"))
        .collect()
}

async fn compare(
    nodes: &[(u64, AdminClient)],
    group: GroupId,
    deadline: Instant,
) -> Option<String> {
    loop {
        let mut digests: Vec<(u64, Option<DigestView>)> = Vec::with_capacity(nodes.len());
        for (id, admin) in nodes {
            digests.push((*id, admin.digest(group).await.ok()));
        }
        match verdict(&digests) {
            Verdict::Equal => return None,
            Verdict::Different => return Some(describe(group, "digests differ", &digests)),
            // A replica that is behind is catching up; that takes a moment, not forever.
            Verdict::Uneven if Instant::now() > deadline => {
                return Some(describe(group, "replicas never met", &digests));
            }
            Verdict::Uneven => sleep(PAUSE).await,
        }
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    /// All at one index, all alike.
    Equal,
    /// Two at one index, not alike.
    Different,
    /// Not all at one index yet.
    Uneven,
}

fn verdict(digests: &[(u64, Option<DigestView>)]) -> Verdict {
    let known: Vec<&DigestView> =
        digests.iter().filter_map(|(_, digest)| digest.as_ref()).collect();
    for (at, a) in known.iter().enumerate() {
        let differs = |b: &&&DigestView| a.applied_index == b.applied_index && a.digest != b.digest;
        if known[at + 1..].iter().any(|b| differs(&b)) {
            return Verdict::Different;
        }
    }
    let complete = known.len() == digests.len();
    let even = known.windows(2).all(|pair| pair[0].applied_index == pair[1].applied_index);
    if complete && even { Verdict::Equal } else { Verdict::Uneven }
}

fn describe(group: GroupId, what: &str, digests: &[(u64, Option<DigestView>)]) -> String {
    let parts: Vec<String> = digests
        .iter()
        .map(|(node, digest)| match digest {
            Some(digest) => format!("n{node} {} at {}", digest.digest, digest.applied_index),
            None => format!("n{node} does not answer"),
        })
        .collect();
    format!("group {group}: {what}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::slots::SlotMap;

    fn digest(node: u64, applied_index: u64, digest: &str) -> (u64, Option<DigestView>) {
        (node, Some(DigestView { group: 1, applied_index, digest: digest.to_owned() }))
    }

    #[test]
    fn digests_are_compared_at_the_same_index_only() {
        assert_eq!(verdict(&[digest(1, 5, "a"), digest(2, 5, "a")]), Verdict::Equal);
        assert_eq!(verdict(&[digest(1, 5, "a"), digest(2, 6, "b")]), Verdict::Uneven);
        assert_eq!(verdict(&[digest(1, 5, "a"), (2, None)]), Verdict::Uneven);
        let third = [digest(1, 5, "a"), digest(2, 6, "b"), digest(3, 5, "c")];
        assert_eq!(verdict(&third), Verdict::Different);
        assert!(describe(GroupId::new(1), "differ", &third).contains("n3 c at 5"));
    }

    #[test]
    fn every_way_a_write_can_be_missing_counts_as_lost() {
        let slots = SlotMap::new(1).expect("legal");
        let router = Router::new(&["127.0.0.1:1".parse().expect("an address")], slots);
        let mut findings = Findings::default();
        for (outcome, found) in [
            (Outcome::Acked, Found::Right),
            (Outcome::Acked, Found::Nothing),
            (Outcome::Acked, Found::Other),
            (Outcome::Acked, Found::Unreadable),
            (Outcome::Unknown, Found::Nothing),
            (Outcome::Unknown, Found::Right),
            (Outcome::Unknown, Found::Other),
            (Outcome::Failed, Found::Nothing),
            (Outcome::Failed, Found::Right),
        ] {
            findings.judge(&router, format!("{outcome:?} {found:?}"), outcome, found);
        }
        assert_eq!((findings.verified, findings.lost), (1, 4));
        assert_eq!((findings.phantoms, findings.unknown_present), (1, 1));
        assert_eq!(findings.lost_keys[0].group, 1);
        let mut all = Findings::default();
        for _ in 0..5 {
            all.merge(findings.clone());
        }
        assert_eq!((all.lost, all.lost_keys.len()), (20, NAMED_MAX));
    }
}
