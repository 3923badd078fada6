//! `[board]`: where the kernel shows the board.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// Where the kernel shows the board. Other roots are for containers and recorded boards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Board {
    pub sys: PathBuf,
    pub proc: PathBuf,
    pub etc: PathBuf,
    pub var: PathBuf,
    /// How often temperatures, load and memory are read.
    pub period: Span,
    /// How often power is read while the engine works.
    pub power_period: Span,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            etc: "/etc".into(),
            var: "/var".into(),
            period: Span(Duration::from_millis(500)),
            // 20 readings a second: the shortest answers take about this long.
            power_period: Span(Duration::from_millis(50)),
        }
    }
}
