//! The model as the daemon would run it, but in the hands of the bench.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::Configured;
use crate::config::{Config, check, find};
use crate::fault::Fault;
use crate::loading::{self, Loaded};

/// The most streams that a row has.
pub(super) const STREAMS_MAX: usize = 32;

/// A model that is ready to be measured.
pub(super) struct Opened {
    /// From nothing to a model that passed its self-test and whose pace is known.
    pub(super) load: Duration,
    pub(super) loaded: Loaded,
}

/// Loads the folder with a slot for each stream, as `moed serve` would with this config and this change to it.
pub(super) fn open(model: &Path, configured: &Configured, change: impl FnOnce(&mut Config)) -> Result<Opened, Fault> {
    let mut config = configured.load()?;
    config.model.dir = model.to_path_buf();
    check::check(&config)?;
    find::fill(&mut config, &find::Places::of_process())?;
    config.engine.slots = STREAMS_MAX;
    config.engine.alarm_slots = 0;
    change(&mut config);
    let started = Instant::now();
    let loaded = loading::load_model(&config)?;
    Ok(Opened { load: started.elapsed(), loaded })
}
