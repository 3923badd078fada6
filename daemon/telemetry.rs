//! What is written to the log, and how: text for people, JSON for collectors. Never prompt or answer text above `trace`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::Log;

/// Starts the log on stderr, which is the journal's where systemd runs the daemon; once in a process.
pub fn start(log: &Log) {
    // Libraries speak up only when something is wrong; ours at the level that was asked for.
    let filter = EnvFilter::new(format!("warn,moed={},ort=off", log.level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    let as_service = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match log.format.as_str() {
        "json" => builder.json().try_init(),
        // The journal has its own clock and no colours.
        _ if as_service => builder.without_time().with_ansi(false).try_init(),
        _ => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the log runs already");
    }
}
