//! The broker, with a real Mosquitto, the real binary and the tiny model: what is promised, whatever dies in between.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aedes;
mod answers;
#[path = "../harness/broker.rs"]
mod broker;
mod deaths;
#[path = "../harness/mod.rs"]
mod harness;
mod memory;
mod node;
mod operator;
mod peer;
mod peers;
mod requests;
mod scripted;
