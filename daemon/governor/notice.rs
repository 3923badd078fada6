//! What the governor did, for the log and for whoever listens.

use crate::governor::Level;

/// Listeners that fall behind by more than this lose the oldest; the level in `/metrics` is always the present one.
pub const NOTICES_MAX: usize = 64;

/// What made it act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Heat,
    Power,
    Memory,
}

impl Cause {
    /// The name in the log and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heat => "heat",
            Self::Power => "power",
            Self::Memory => "memory",
        }
    }
}

/// One step of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub cause: Cause,
    /// Names of levels, or of how short memory is.
    pub from: &'static str,
    pub to: &'static str,
    /// With the number, and the limit that it broke or keeps.
    pub reason: String,
}

impl Notice {
    pub(super) fn new(cause: Cause, from: &'static str, to: &'static str, reason: String) -> Self {
        Self { cause, from, to, reason }
    }

    pub(super) fn level(cause: Cause, from: Level, to: Level, reason: String) -> Self {
        Self::new(cause, from.name(), to.name(), reason)
    }
}
