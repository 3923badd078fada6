//! `[queue]`: the waiting room.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// The waiting room in front of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Jobs that wait; one more is refused with `queue_full`.
    pub waiting_max: usize,
    /// A background job that has waited this long counts as interactive.
    pub aging: Span,
    /// How long a drain waits for what runs.
    pub drain_timeout: Span,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting_max: 64, aging: Span(Duration::from_secs(10)), drain_timeout: Span(Duration::from_secs(30)) }
    }
}
