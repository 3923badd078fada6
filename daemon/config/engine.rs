//! `[engine]`: what computes, and how much of it at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// The engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// `auto` takes the first provider that runs a real kernel; `cpu` or `cuda` is never replaced.
    pub provider: String,
    /// `auto` makes a copy of the model for this machine at the first start and uses it from then on; `never`.
    pub prepare: String,
    /// Jobs that run at the same time.
    pub slots: usize,
    /// The most tokens of prompt and answer together; 0: what the model was trained for.
    pub context_max: usize,
    /// Threads that compute; 0: one, or one for each core where that was measured to be faster or could not be measured.
    pub threads: usize,
    /// The most memory the key/value cache may take; 0: half of what is available at start. While a reload exchanges models it
    /// holds for the caches of both together.
    pub memory_max: Size,
    /// Prompt tokens read in one step; a running stream never waits longer than one such step. 0: measured at start.
    pub prefill_chunk: usize,
    /// The longest that a measured step may keep running streams waiting.
    pub stall_max: Span,
    /// Slots, beside `slots`, that only alarms may take, so that an alarm starts at once on a busy machine.
    pub alarm_slots: usize,
    /// The most memory that kept beginnings of prompts may take; 0: a quarter of `memory_max`, at most 256 MiB. Less than one
    /// block of 32 tokens keeps nothing.
    pub prefix_max: Size,
    /// Whether text that an answer copies from its prompt is guessed and checked in wider steps, where that was found to pay.
    pub guesses: bool,
    /// Whether callers of different identity share kept beginnings. They could learn by the time to the first token whether
    /// somebody else's prompt began like theirs.
    pub prefix_shared: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            provider: "auto".to_owned(),
            prepare: "auto".to_owned(),
            slots: 8,
            context_max: 0,
            threads: 0,
            memory_max: Size(0),
            prefill_chunk: 0,
            stall_max: Span(Duration::from_millis(250)),
            alarm_slots: 1,
            prefix_max: Size(0),
            guesses: true,
            prefix_shared: false,
        }
    }
}
