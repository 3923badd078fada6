//! The ways in and out: bytes into jobs, events into bytes.
//!
//! [`http`] is the local socket, [`mqtt`] the broker; [`shape`] reads what every way shares.

pub mod http;
pub mod mqtt;
pub mod shape;
