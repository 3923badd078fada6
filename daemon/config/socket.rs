//! `[socket]`: the local socket.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// The local socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Socket {
    /// Empty: the socket that systemd passes, else `$XDG_RUNTIME_DIR/moed.sock`, else one in a private folder.
    pub path: PathBuf,
    /// The group that owns the socket file; empty: the daemon's own.
    pub group: String,
    /// Permission bits of the socket file, octal.
    pub mode: String,
    /// The largest request body. A request over it is answered with 413.
    pub body_max: Size,
    /// How long a client may take to send its whole body.
    pub body_timeout: Span,
    /// How long an idle connection stays open.
    pub idle_timeout: Span,
    /// How long a stream may stand still because its reader does not read.
    pub stall_timeout: Span,
    /// Connections of one user at a time.
    pub connections_max: usize,
    /// Who may give orders (`/admin/*`) beside root and the daemon's own user: users, and groups as `@group`, each by name
    /// or number.
    pub admins: Vec<String>,
    /// Who may ask, written like `admins`; who may give orders may ask too. Empty: whoever may open the socket's file.
    pub peers: Vec<String>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            group: String::new(),
            mode: "0660".to_owned(),
            body_max: Size(4 << 20),
            body_timeout: Span(Duration::from_secs(30)),
            idle_timeout: Span(Duration::from_mins(1)),
            stall_timeout: Span(Duration::from_secs(20)),
            connections_max: 64,
            admins: Vec::new(),
            peers: Vec::new(),
        }
    }
}
