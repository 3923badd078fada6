//! Whether one more job is taken on just now. Shared: the governor writes, the queue asks at every submission.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::fault::{Code, Fault, Kind};
use crate::job::Priority;

/// Why less urgent jobs are refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// `thermal` or `overloaded`.
    pub code: Code,
    /// What is less urgent is refused.
    pub least: Priority,
    /// The numbers.
    pub reason: String,
    /// When it may be over.
    pub retry_after: Duration,
}

/// A shared answer; by default everybody is welcome. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Willingness(Arc<Mutex<Option<Refusal>>>);

impl Willingness {
    /// From now on.
    pub fn set(&self, refusal: Option<Refusal>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// Whether a job of this priority is taken on. An alarm always is.
    pub fn admit(&self, priority: Priority) -> Result<(), Fault> {
        let refusal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal.as_ref().filter(|refusal| priority < refusal.least) {
            None => Ok(()),
            Some(refusal) => {
                let message =
                    format!("{}; `{}` requests are refused until that is better", refusal.reason, priority.name());
                Err(Fault::new(Kind::Busy, refusal.code, message).retry_after(refusal.retry_after))
            }
        }
    }
}
