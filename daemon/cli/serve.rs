//! `moed serve`.

use crate::cli::Configured;
use crate::fault::Fault;
use crate::{app, supervisor, telemetry};

/// Runs the daemon until it is told to stop.
pub(super) fn run(configured: &Configured) -> Result<(), Fault> {
    // Before any thread: the descriptor that systemd passed is taken once.
    let passed = supervisor::passed_socket()?;
    let config = configured.load()?;
    telemetry::start(&config.log);
    app::serve(config, configured.file(), passed)
}
