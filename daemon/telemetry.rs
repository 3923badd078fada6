//! What is written to the log, and how: text for people, fields for journald, JSON for collectors. Never prompt or answer
//! text above `trace`, never a secret.
//!
//! With `supervisor.rs` the only home of `systemd`. A warning that repeats is counted instead of written ([`repeats`]).

mod journald;
pub mod repeats;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::Log;
use crate::fault::Fault;

/// The process has one log, so its filter is the process's too.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// From the loudest fault to the quietest detail.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Starts the log; once in a process. To journald with its fields where stderr is the journal's, else to stderr.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let out = match log.format.as_str() {
        "json" => lines.json().boxed(),
        "auto" if stderr_is_the_journal() => journald::Journald.boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    match tracing_subscriber::registry().with(filter).with(out).with(repeats::Repeats::default()).try_init() {
        // Set once, here, right after the one start that succeeds.
        Ok(()) => drop(FILTER.set(handle)),
        Err(error) => tracing::debug!(%error, "the log runs already"),
    }
}

/// Logs at another level from now on.
pub fn set_level(level: &str) -> Result<(), Fault> {
    if !LEVELS.contains(&level) {
        return Err(
            Fault::invalid(format!("`{level}` is no log level, there are {}", LEVELS.join(", "))).param("level")
        );
    }
    // Without a log there is nothing to set: a test that runs rooms without one.
    let Some(handle) = FILTER.get() else { return Ok(()) };
    handle.reload(filter(level)).map_err(|error| Fault::bug(format!("setting the log level: {error}")))
}

/// Libraries speak up only when something is wrong; ours at the level that was asked for.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!("warn,moed={level},ort=off"))
}

/// Whether stderr is the stream that systemd opened to the journal: the variable alone is inherited by children whose stderr
/// goes elsewhere.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}
