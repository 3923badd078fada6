//! What is written to the log, and how: text for people, JSON for collectors. Never prompt or answer text above `trace`.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::Log;
use crate::fault::Fault;

/// The process has one log, so its filter is the process's too.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log on stderr, which is the journal's where systemd runs the daemon; once in a process.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(&log.level));
    let as_service = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match log.format.as_str() {
        "json" => lines.json().boxed(),
        // The journal has its own clock and no colours.
        _ if as_service => lines.without_time().with_ansi(false).boxed(),
        _ => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    };
    match tracing_subscriber::registry().with(filter).with(lines).try_init() {
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

/// From the loudest fault to the quietest detail.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Libraries speak up only when something is wrong; ours at the level that was asked for.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!("warn,moed={level},ort=off"))
}
