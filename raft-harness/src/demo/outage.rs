//! How long each group takes to acknowledge a write again after a kill.
//!
//! Every group has a prober of its own that does nothing else, so that a group's silence is
//! neither hidden nor prolonged by clients that wait for other groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::resp_client::Reply;
use super::router::{Attempt, Router};
use super::workload::{Outcome, Stream, Workload};

/// Between two tries; also how precise the measure is.
const PAUSE: Duration = Duration::from_millis(5);

/// When each group was back.
#[derive(Debug)]
pub(super) struct Outage {
    /// By group: time from the start of the probing to the first acknowledgement, or `None` if
    /// there was none before the deadline.
    pub(super) silence: Vec<Option<Duration>>,
    /// The probes' own writes, to be verified like all others.
    pub(super) streams: Vec<Stream>,
}

/// Probes under way.
#[derive(Debug)]
pub(super) struct Probes {
    tasks: JoinSet<(usize, Option<Duration>, Stream)>,
    given_up: Arc<AtomicBool>,
}

impl Probes {
    /// Starts to probe all groups; `since` is the moment times are counted from.
    pub(super) fn start(
        router: &Arc<Router>,
        workload: &Workload,
        tags: &[String],
        name: &str,
        since: Instant,
        deadline: Duration,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let given_up = Arc::new(AtomicBool::new(false));
        for (group, tag) in tags.iter().enumerate() {
            let router = Arc::clone(router);
            let (workload, given_up) = (workload.clone(), Arc::clone(&given_up));
            let mut stream = Stream { name: format!("{name}{{{tag}}}"), outcomes: Vec::new() };
            tasks.spawn(async move {
                while since.elapsed() < deadline && !given_up.load(Relaxed) {
                    let key = workload.key(&stream.name, stream.outcomes.len());
                    match router.attempt(&key, group, &workload.set(&key)).await {
                        Attempt::Done(Reply::Simple(_)) => {
                            stream.outcomes.push(Outcome::Acked);
                            return (group, Some(since.elapsed()), stream);
                        }
                        Attempt::Done(_) | Attempt::Unknown => {
                            stream.outcomes.push(Outcome::Unknown);
                        }
                        // It did not happen, so the same key may be used again.
                        Attempt::Refused | Attempt::Rejected(_) => {}
                    }
                    sleep(PAUSE).await;
                }
                (group, None, stream)
            });
        }
        Self { tasks, given_up }
    }

    /// Ends the probes that still wait, when set: nobody is left to answer them.
    pub(super) fn given_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.given_up)
    }

    /// Waits for all of them; at most until their deadline.
    pub(super) async fn finish(mut self) -> Outage {
        let mut silence = vec![None; self.tasks.len()];
        let mut streams = Vec::new();
        while let Some(task) = self.tasks.join_next().await {
            let (group, time, stream) = task.expect("probes do not panic and are not aborted");
            silence[group] = time;
            streams.push(stream);
        }
        Outage { silence, streams }
    }
}
