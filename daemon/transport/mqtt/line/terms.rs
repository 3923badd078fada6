//! What a connection is opened with.

use std::time::Duration;

use crate::fault::Fault;
use crate::transport::mqtt::access::Access;
use crate::transport::mqtt::address::Address;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Version {
    V5,
    V311,
}

impl Version {
    /// Reads `what`, a setting or an argument.
    pub(in super::super) fn read(what: &str, text: &str) -> Result<Self, Fault> {
        match text {
            "5" => Ok(Self::V5),
            "3.1.1" => Ok(Self::V311),
            other => Err(Fault::config(format!("{what} is `{other}`, it must be `5` or `3.1.1`"))),
        }
    }
}

/// All that a connection is opened with.
#[derive(Clone, Debug)]
pub(in super::super) struct Terms {
    pub(in super::super) address: Address,
    /// Where else, in this order; a line goes to `address` alone.
    pub(in super::super) fallback: Vec<Address>,
    pub(in super::super) access: Access,
    pub(in super::super) version: Version,
    pub(in super::super) client_id: String,
    pub(in super::super) keep_alive: Duration,
    pub(in super::super) session_expiry: Duration,
    /// Keep the broker's session over connections.
    pub(in super::super) durable: bool,
    /// Our Receive Maximum.
    pub(in super::super) window: u16,
    /// The Maximum Packet Size that is announced.
    pub(in super::super) packet_max: u32,
    /// Topic and text of the retained will.
    pub(in super::super) will: Option<(String, String)>,
}

#[cfg(test)]
impl Terms {
    /// Terms that lead nowhere.
    pub(in super::super) fn nowhere(version: Version) -> Self {
        Self {
            address: Address::Unix("/nowhere".to_owned()),
            fallback: Vec::new(),
            access: Access::default(),
            version,
            client_id: "t".to_owned(),
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::ZERO,
            durable: true,
            window: 8,
            packet_max: 1 << 20,
            will: None,
        }
    }
}
