//! The board that the daemon runs on: temperatures, power, load, memory, throttling, and what it is called.
//!
//! Everything is read from the kernel's files below configurable roots, so a recorded tree is a board too. A reader gives what
//! is there and leaves out what is not: no sensor, one that is switched off, one that says nonsense and one that blocks are
//! all the same to the caller, and the log names each of the last three once. Nothing here runs a program, writes a file or
//! needs root. The watch is the one thread that reads while the daemon runs; [`report`](report::report) reads once, for
//! `moed doctor`.

pub mod files;
pub mod heat;
pub mod identity;
pub mod load;
pub mod memory;
pub mod patience;
pub mod rails;
pub mod report;
pub mod throttle;
