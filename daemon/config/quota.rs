//! `[quota]`: what one caller may have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::units::Size;

/// What one caller may have: a user of the socket, a client of the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Requests a minute; one more is refused with `quota_exceeded`. A caller that was silent may make a minute's worth at once.
    /// 0: any number, as below.
    pub requests_per_minute: u64,
    /// Bytes of requests a minute.
    pub bytes_per_minute: Size,
    /// Jobs at a time, waiting and running.
    pub concurrent: usize,
    /// The most urgent that a request may be: `alarm`, `interactive` or `background`. One above is refused with `forbidden`.
    pub priority: String,
    /// Other bounds for one client of the broker, `[quota.client.NAME]`.
    pub client: BTreeMap<String, Share>,
    /// Other bounds for one user of the socket, `[quota.uid.NUMBER]`.
    pub uid: BTreeMap<String, Share>,
    /// Other bounds for each user of the socket in a group, `[quota.gid.NUMBER]`. What is said of the user itself counts
    /// first; of several groups the widest counts, setting by setting.
    pub gid: BTreeMap<String, Share>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            requests_per_minute: 0,
            bytes_per_minute: Size(0),
            concurrent: 0,
            priority: "alarm".to_owned(),
            client: BTreeMap::new(),
            uid: BTreeMap::new(),
            gid: BTreeMap::new(),
        }
    }
}

/// What is said of one caller; the rest is as for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_minute: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
}
