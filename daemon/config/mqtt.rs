//! `[mqtt]`: the broker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// The broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://host[:port]`, `mqtts://host[:port]` (TLS) or `unix:/path`; empty: no MQTT.
    pub url: String,
    /// Other brokers, tried in this order when those before are away.
    pub fallback: Vec<String>,
    /// The user that the broker knows us by; empty: none, or the one of the certificate.
    pub user: String,
    /// The file with the password. Here and below a name without a slash is a systemd credential. A file that others than its
    /// owner may read is refused.
    pub password_file: String,
    /// The authorities, PEM, that may have signed the broker's certificate; empty: the system's.
    pub ca: String,
    /// Our own certificate, PEM, where the broker wants one.
    pub cert: String,
    /// Its key, PEM, secret like the password.
    pub key: String,
    /// `5` or `3.1.1`.
    pub version: String,
    /// Stable over restarts, since the broker keeps the session under it; empty: `moed-<node>`.
    pub client_id: String,
    /// What every topic starts with.
    pub root: String,
    /// The pool that this node is a member of; empty: none.
    pub pool: String,
    /// Unanswered requests at which a member leaves its pool; 0: `engine.slots` and half of `queue.waiting_max`. What is asked
    /// of a pool that all have left is lost, so a member leaves late.
    pub pool_leave: usize,
    /// Unanswered requests at which it comes back; 0: `engine.slots`.
    pub pool_rejoin: usize,
    /// The largest request payload. A request over it is answered with `too_large`.
    pub payload_max: Size,
    /// Topic filters where answers may go beside the asking client's own subtree (`<root>/c/<client>/`). Whoever may ask can
    /// make the node publish there.
    pub reply_topics: Vec<String>,
    /// Requests received and not yet acknowledged (our Receive Maximum), and answers sent and not yet acknowledged.
    pub window: u16,
    /// The MQTT keep-alive interval; a link that makes no progress for more than twice this is cut and opened again.
    pub keep_alive: Span,
    /// How long the broker keeps our session while we are away.
    pub session_expiry: Span,
    /// How often the gauges are published; "0s": never.
    pub metrics_every: Span,
    /// `homeassistant`: the node is a device there, with a sensor for each gauge of interest; empty: it is none.
    pub discovery: String,
    /// Who may give orders (drain, reload, loglevel) over the broker, as the level of their topics; empty: nobody.
    pub admins: Vec<String>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: String::new(),
            fallback: Vec::new(),
            user: String::new(),
            password_file: String::new(),
            ca: String::new(),
            cert: String::new(),
            key: String::new(),
            version: "5".to_owned(),
            client_id: String::new(),
            root: "moed/v1".to_owned(),
            pool: String::new(),
            pool_leave: 0,
            pool_rejoin: 0,
            payload_max: Size(256 << 10),
            reply_topics: Vec::new(),
            window: 8,
            keep_alive: Span(Duration::from_secs(5)),
            session_expiry: Span(Duration::from_hours(24)),
            metrics_every: Span(Duration::from_secs(30)),
            discovery: String::new(),
            admins: Vec::new(),
        }
    }
}
