//! `[journal]`: what is kept of requests over MQTT.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// What was accepted, computed and delivered over MQTT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/moed`, else a private temporary folder.
    pub dir: PathBuf,
    /// How long an answer is kept for a client that asks again.
    pub keep: Span,
    /// The most bytes of the journal file; a request that would pass it is refused.
    pub size_max: Size,
    /// The most requests in it, answered ones included; one more is refused.
    pub rows_max: usize,
    /// Conversations that are remembered at a time (`session` in a request over MQTT); one more is refused.
    pub sessions_max: usize,
    /// Questions in one conversation; one more is refused.
    pub session_turns_max: u32,
    /// Bytes of one conversation; a question that would pass it is refused.
    pub session_bytes_max: Size,
    /// How long a conversation is remembered after its last answer.
    pub session_keep: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            keep: Span(Duration::from_hours(24)),
            size_max: Size(256 << 20),
            rows_max: 65_536,
            sessions_max: 64,
            session_turns_max: 32,
            session_bytes_max: Size(64 << 10),
            session_keep: Span(Duration::from_hours(1)),
        }
    }
}
