//! `[governor]`: what heat, power and want of memory lead to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// What is done when the board is hot, draws too much, or is short of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Governor {
    /// `auto` or `off`.
    pub mode: String,
    /// Degrees Celsius at which a zone is throttled; 0: what each zone says of itself.
    pub heat_max: u16,
    /// So many degrees below that the first step is taken; the others at 3/4, 1/2 and 1/4 of it.
    pub heat_margin: u16,
    /// The most watts that the board may draw, over some seconds; 0: as many as it likes.
    pub power_max: f32,
    /// The memory that must stay available; 0: a twentieth of all, at least 128 MiB.
    pub memory_min: Size,
    /// How long it must have been better before a step is taken back.
    pub recover: Span,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            mode: "auto".to_owned(),
            heat_max: 0,
            heat_margin: 12,
            power_max: 0.0,
            memory_min: Size(0),
            recover: Span(Duration::from_secs(10)),
        }
    }
}
