//! Packets to bytes and back, in either protocol version: the only room that names `rumqttc`, which knows how each looks.

mod incoming;
mod outgoing;

use std::time::Duration;

pub(super) use incoming::read;
pub(super) use outgoing::{ack, hello, leave, ping, publish, size_of, subscribe, unsubscribe};

use super::line::Happening;

/// The largest packet that the protocol knows. A 3.1.1 broker cannot be told a smaller one: a packet over the limit would
/// end the connection and come again for ever, so everything is taken and what is too large is answered.
const PACKET_MAX_V4: usize = 268_435_455;

/// What was read off a connection.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The answer to our first packet.
    Hello(Hello),
    /// The broker does not let us in.
    Refused(Refusal),
    /// The broker ends the connection and says why.
    Goodbye(Refusal),
    Said(Happening),
    /// A life sign, or what has no meaning to us.
    Nothing,
}

/// What the broker says of itself and of our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) session_present: bool,
    pub(super) packet_max: Option<usize>,
    pub(super) receive_max: Option<u16>,
    /// The keep-alive that the broker wants instead of ours.
    pub(super) keep_alive: Option<Duration>,
}

/// A reason code, with its name in the standard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} (0x{code:02X})")]
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) name: String,
}

impl Refusal {
    /// Another connection has come with our client id.
    pub(super) const TAKEN_OVER: u8 = 0x8E;

    /// Taken, and nobody reads it: no refusal.
    pub(super) const UNHEARD: u8 = 0x10;

    fn new(code: u8, name: &impl std::fmt::Debug) -> Self {
        Self { code, name: words(&format!("{name:?}")) }
    }

    /// The broker does not speak our version.
    pub(super) const VERSION: u8 = 0x84;

    fn old_broker() -> Self {
        Self { code: Self::VERSION, name: "unsupported protocol version".to_owned() }
    }

    /// Whether it is about who we are and how we speak, which waiting does not change.
    pub(super) fn is_about_us(&self) -> bool {
        matches!(self.code, Self::VERSION | 0x85 | 0x86 | 0x87 | 0x8A | 0x8C)
    }
}

/// `NotAuthorized` as `not authorized`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests;
