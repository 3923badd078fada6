//! The ways in and out: bytes into jobs, events into bytes.
//!
//! [`shape`] reads what both ways share.

pub mod shape;
