//! The signals that ask a process to stop, and the one that seems to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// SIGINT and SIGTERM. From its creation on, neither ends the process by itself.
#[derive(Debug)]
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Says what becomes of SIGHUP, which ends the process no more from now on: nothing.
    ///
    /// It comes when the terminal goes away, and from whoever rotates logs or believes that it
    /// reloads a configuration, as it does for many servers. None of these asks a member of a
    /// quorum to stop, and the default action would stop it without handing anything over.
    ///
    /// To be called within a runtime.
    pub(super) fn ignore_hang_ups() -> io::Result<()> {
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                warn!(
                    "SIGHUP is ignored: the configuration is read at the start only, certificates are \
                     looked at by themselves, the log needs no reopening, and SIGTERM stops this node \
                     in order"
                );
            }
        });
        Ok(())
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
