//! Whose the board's energy was: readings of its power on one side, runs of the model on the other.
//!
//! [`ledger`] is the arithmetic, without clock or thread; [`meter`] stands between the engine's thread, which reports runs and
//! asks for bills, and the thread that reads the sensor. Energy is an integral of the whole board's power over a run, split by
//! the tokens that each job had in it; net of that is what the board would have drawn idle. Nobody waits for a reading: what
//! lies behind the last one is estimated by it, and a bill says how much of its time was measured.

pub mod ledger;
pub mod meter;
