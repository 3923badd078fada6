//! Why a line ended, and what that means to whoever asked.

use std::io;
use std::time::Duration;

use crate::fault::{Code, Fault, Kind};
use crate::transport::mqtt::address::Address;
use crate::transport::mqtt::codec::Refusal;
use crate::transport::mqtt::dial::{DialError, tls_error, tls_hint};

/// Why a line ended.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum LineError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("the broker does not let us in: {0}")]
    Refused(Refusal),
    #[error("the broker ends the connection: {0}")]
    Ended(Refusal),
    #[error("the broker has closed the connection")]
    Closed,
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// No byte came, or none could be written, for this long.
    #[error("nothing moves for {0:?}")]
    Still(Duration),
    #[error("the broker breaks the protocol: {0}")]
    Protocol(String),
}

impl LineError {
    /// The reason code of a broker that told one.
    pub(in super::super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Ended(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether coming again changes nothing before somebody changes a setting, a file or the broker's.
    pub(in super::super) fn is_about_us(&self) -> bool {
        match self {
            Self::Dial(DialError::Access(_) | DialError::Name(_) | DialError::Tls(_)) => true,
            Self::Broken(error) => tls_error(error).is_some(),
            other => other.refusal().is_some_and(Refusal::is_about_us),
        }
    }

    /// As the one who asked is told it.
    pub(in super::super) fn fault(self, address: &Address) -> Fault {
        let about_us = self.is_about_us();
        let message = format!("broker `{address}`: {self}");
        match self {
            Self::Dial(DialError::Access(fault)) => fault,
            Self::Dial(DialError::Tls(error)) => Fault::config(message).hint(tls_hint(&error)),
            Self::Dial(DialError::Name(_)) => Fault::config(message),
            Self::Broken(ref error) if about_us => {
                let fault = Fault::config(message);
                match tls_error(error) {
                    Some(error) => fault.hint(tls_hint(error)),
                    None => fault,
                }
            }
            Self::Refused(refusal) if refusal.code == Refusal::VERSION => Fault::config(message)
                .hint("a broker of 3.1.1 wants `mqtt.version = \"3.1.1\"` (`--mqtt-version 3.1.1`)"),
            Self::Refused(_) if about_us => Fault::new(Kind::Caller, Code::Forbidden, message)
                .hint("look at user, password or certificate, and at what the broker allows them"),
            Self::Dial(DialError::Connect(_)) => Fault::new(Kind::Machine, Code::Unavailable, message)
                .hint("is the broker up, and is the address right?"),
            Self::Slow(_) => Fault::new(Kind::Machine, Code::Unavailable, message)
                .hint("does a broker listen there, with or without TLS as the URL says?"),
            Self::Closed => Fault::new(Kind::Machine, Code::Unavailable, message)
                .hint("a broker that wants TLS or a client certificate does so to one who brings none"),
            _ => Fault::new(Kind::Machine, Code::Unavailable, message),
        }
    }
}
