//! The orderly end: take nothing new, finish what runs, at most for a while; a second signal hurries.

use std::future::Future;
use std::time::Duration;

use crate::fault::Fault;
use crate::queue::Queue;
use crate::transport::http::Site;

/// How often connections are counted while their last bytes leave.
const LOOK: Duration = Duration::from_millis(10);
/// What clients get to read the end of their answers after the engine is done.
const READ_OUT: Duration = Duration::from_secs(2);

/// What clients get to read the error that their cut answers end with.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was finished.
    Finished,
    /// The time was up; what ran was cut.
    TimedOut,
    /// Somebody asked twice.
    Hurried,
}

impl End {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::TimedOut => "timed_out",
            Self::Hurried => "hurried",
        }
    }
}

/// Drains the queue and waits for the end of the engines.
pub async fn drain(
    queue: &Queue,
    site: &Site,
    engines: impl Future<Output = ()>,
    timeout: Duration,
    hurry: impl Future<Output = ()>,
) -> End {
    queue.drain();
    let finish = async {
        // An engine's thread ends when its last job is done.
        engines.await;
        read_out(site, READ_OUT).await;
    };
    let end = tokio::select! {
        () = finish => End::Finished,
        () = tokio::time::sleep(timeout) => End::TimedOut,
        () = hurry => End::Hurried,
    };
    queue.close(&Fault::unavailable("the daemon has stopped", Duration::from_secs(1)));
    if end != End::Finished {
        site.cut();
        read_out(site, LAST_WORDS).await;
    }
    end
}

/// Waits until the last bytes have left; clients that do not read them are cut.
async fn read_out(site: &Site, patience: Duration) {
    let out = async {
        while site.busy() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(patience, out).await.is_err() {
        tracing::info!(requests = site.busy(), "clients that did not read their answers are cut");
    }
}
