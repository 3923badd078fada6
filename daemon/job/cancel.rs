//! How a job is ended from outside, wherever it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A caller's way to end a job; shared by everyone who may.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<Cancel>);

/// Ends a run of the model that works for one job alone.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Cancel {
    raised: AtomicBool,
    wake: Notify,
    /// Set while the model works for this job alone.
    interrupt: Mutex<Option<Interrupt>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("raised", &self.raised).finish_non_exhaustive()
    }
}

impl CancelFlag {
    /// Asks for the end: a waiting job ends at once, a started one within one step.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
        self.0.wake.notify_one();
        self.interrupt();
    }

    /// Ends the run that works for this job alone, if there is one, so that the engine looks at the job again. Whether the job
    /// goes on is not said here.
    pub fn interrupt(&self) {
        if let Some(interrupt) = self.armed().as_ref() {
            interrupt();
        }
    }

    /// A run for this job alone begins, and this ends it.
    pub fn arm(&self, interrupt: Interrupt) {
        *self.armed() = Some(interrupt);
    }

    /// The run is over.
    pub fn disarm(&self) {
        *self.armed() = None;
    }

    fn armed(&self) -> MutexGuard<'_, Option<Interrupt>> {
        // A panic inside an interrupt leaves the option as it was.
        self.0.interrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody asked.
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    /// Waits until somebody asks. For the one who watches the job.
    pub async fn raised(&self) {
        while !self.is_raised() {
            self.0.wake.notified().await;
        }
    }
}
