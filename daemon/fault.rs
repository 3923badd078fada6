//! A [`Fault`] says whose it is, what happened, and what to do next.
//!
//! Rooms have error enums of their own; at a room's door they become a `Fault`.
//! What a fault looks like outside is decided in one table per mouth: `transport/http/reply.rs`, `transport/mqtt/reply.rs`, `main.rs`.

use std::fmt;
use std::time::Duration;

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The caller asked for something that cannot be had; asking again is no use.
    Caller,
    /// Nothing is wrong but the moment; ask again.
    Busy,
    /// The operator's settings or files.
    Config,
    /// The machine: a file, a device, memory, the network.
    Machine,
    /// Us.
    Bug,
}

/// The stable name of a fault on every wire. The list is closed: clients match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidJson,
    InvalidRequest,
    ContextLengthExceeded,
    Forbidden,
    NotFound,
    DeadlineExceeded,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    QuotaExceeded,
    QueueFull,
    Cancelled,
    Internal,
    Unavailable,
    Overloaded,
    Thermal,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 16] = [
        Self::InvalidJson,
        Self::InvalidRequest,
        Self::ContextLengthExceeded,
        Self::Forbidden,
        Self::NotFound,
        Self::DeadlineExceeded,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::QuotaExceeded,
        Self::QueueFull,
        Self::Cancelled,
        Self::Internal,
        Self::Unavailable,
        Self::Overloaded,
        Self::Thermal,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::QuotaExceeded => "quota_exceeded",
            Self::QueueFull => "queue_full",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Thermal => "thermal",
        }
    }

    /// Reads the name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The number that HTTP and MQTT answers carry beside the name.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidJson | Self::InvalidRequest | Self::ContextLengthExceeded => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::DeadlineExceeded => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::QuotaExceeded | Self::QueueFull => 429,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::Unavailable | Self::Overloaded | Self::Thermal => 503,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        matches!(self.status(), 429 | 500 | 503)
    }
}

/// Something that did not work, ready to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    pub code: Code,
    /// Lower case, no full stop: what was being done, to what, why it failed, the limit and the number that broke it.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The request's field that is at fault, in the wire's spelling.
    pub param: Option<String>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of this kind and code.
    pub fn new(kind: Kind, code: Code, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), hint: None, param: None, retry_after: None }
    }

    /// The caller's request cannot be served as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Caller, Code::InvalidRequest, message)
    }

    /// The operator has to change a setting or a file.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, Code::Unavailable, message)
    }

    /// The machine did not do what was asked of it.
    pub fn machine(message: impl Into<String>) -> Self {
        Self::new(Kind::Machine, Code::Internal, message)
    }

    /// We broke a promise of our own.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, Code::Internal, message)
    }

    /// The daemon cannot take work just now.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Kind::Busy, Code::Unavailable, message).retry_after(retry_after)
    }

    /// All of these as one fault of the operator's, each with its hint; none is no fault.
    pub fn together(faults: Vec<Self>) -> Result<(), Self> {
        if faults.len() <= 1 {
            return faults.into_iter().next().map_or(Ok(()), Err);
        }
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Err(Self::config(lines.join("\n")))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the request's field that is at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds when to ask again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_429_500_and_503_are_retryable_and_names_read_back() {
        for code in Code::ALL {
            assert_eq!(code.retryable(), [429, 500, 503].contains(&code.status()), "{}", code.name());
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
        assert_eq!(Code::from_name("queue_ful"), None);
    }
}
