//! The ways in and out: bytes into jobs, events into bytes.
//!
//! [`http`] is the local socket; [`shape`] reads what every way shares.

pub mod http;
pub mod shape;
