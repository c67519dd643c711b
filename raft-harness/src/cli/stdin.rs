//! The end of standard input, as a sign that whoever started us is gone.

use std::io::Read;
use std::thread;

use tokio::sync::oneshot;

/// Done when standard input is closed or cannot be read. What comes before is ignored.
///
/// The reading thread is left behind: it holds nothing, and the process ends without it.
pub(crate) async fn closed() {
    let (sender, closed) = oneshot::channel::<()>();
    let reading = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut bytes = [0; 64];
        while matches!(std::io::stdin().lock().read(&mut bytes), Ok(1..)) {}
        drop(sender);
    });
    if reading.is_err() {
        // Without a reader we cannot know, so we do not pretend to.
        return std::future::pending().await;
    }
    let _ = closed.await;
}
