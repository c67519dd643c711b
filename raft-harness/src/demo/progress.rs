//! What one sees while it runs: a live line on a terminal, plain lines otherwise, always on
//! standard error, so that standard output carries the result alone.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::load::Tally;
use crate::output;

/// How often the live line changes.
const LIVE: Duration = Duration::from_millis(200);
/// How often a plain line is written.
const PLAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    live: Option<ProgressBar>,
    watcher: Option<JoinHandle<()>>,
}

impl Progress {
    pub(super) fn start() -> Self {
        let live = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {spinner} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(LIVE);
            bar
        });
        Self { started: Instant::now(), live, watcher: None }
    }

    /// Something happened.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        say(self.started, self.live.as_ref(), text.as_ref());
    }

    /// Shows a load until [`unwatch`](Self::unwatch).
    pub(super) fn watch(&mut self, tally: Arc<Tally>) {
        let (started, live) = (self.started, self.live.clone());
        self.watcher = Some(tokio::spawn(async move {
            let period = if live.is_some() { LIVE } else { PLAIN };
            let (mut acked_before, mut before) = (0, Instant::now());
            loop {
                tokio::time::sleep(period).await;
                let acked = tally.acked.load(Relaxed);
                let seconds = before.elapsed().as_secs_f64();
                before = Instant::now();
                let rate = (acked - acked_before) as f64 / seconds;
                acked_before = acked;
                let text = format!(
                    "{acked} acknowledged, {rate:.0}/s, {} unknown, {} refused and tried again",
                    tally.unknown.load(Relaxed),
                    tally.refused.load(Relaxed),
                );
                match &live {
                    Some(bar) => bar.set_message(text),
                    None => say(started, None, &text),
                }
            }
        }));
    }

    pub(super) fn unwatch(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.abort();
        }
        if let Some(bar) = &self.live {
            bar.set_message("");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.unwatch();
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }
}

fn say(started: Instant, live: Option<&ProgressBar>, text: &str) {
    let line = format!("[{:6.2} s] {text}", started.elapsed().as_secs_f64());
    match live {
        // The bar comes back below the line, so the line must be there.
        Some(bar) => bar.suspend(|| {
            output::remark(line);
            output::settle();
        }),
        None => output::remark(line),
    }
}
