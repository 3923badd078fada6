//! The model loads on a thread of its own while systemd is told how far it has come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::fault::Fault;
use crate::loading::{Beside, Loaded, load_model_beside};
use crate::supervisor;

/// How often systemd hears from us.
const BEAT: Duration = Duration::from_secs(5);
/// The longest that one step may take before no more time is asked for: making a large model ready on a slow card takes
/// minutes. What hangs for longer than this is left to `TimeoutStartSec=`.
const STEP_MAX: Duration = Duration::from_mins(20);

/// The step that is being taken, and since when.
#[derive(Debug)]
pub(super) struct Step {
    name: String,
    since: Instant,
}

pub(super) type SharedStep = Arc<Mutex<Step>>;

/// Starts to load, perhaps while another model is at work.
pub(super) fn start(config: Config, beside: Option<Beside>) -> (JoinHandle<Result<Loaded, Fault>>, SharedStep) {
    let step = Arc::new(Mutex::new(Step { name: "beginning".to_owned(), since: Instant::now() }));
    let shared = Arc::clone(&step);
    let loading = tokio::task::spawn_blocking(move || {
        load_model_beside(&config, beside, &mut |name| {
            let mut step = shared.lock().unwrap_or_else(PoisonError::into_inner);
            *step = Step { name: name.to_owned(), since: Instant::now() };
        })
    });
    (loading, step)
}

/// Waits for the model, and asks systemd for more time for as long as the loading goes on.
pub(super) async fn wait(mut loading: JoinHandle<Result<Loaded, Fault>>, step: &SharedStep) -> Result<Loaded, Fault> {
    loop {
        say(step);
        tokio::select! {
            loaded = &mut loading => return loaded.map_err(|error| Fault::bug(format!("loading the model: {error}")))?,
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

fn say(step: &SharedStep) {
    let step = step.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = step.since.elapsed();
    if taken < STEP_MAX {
        supervisor::extend(4 * BEAT);
        supervisor::status(&format!("loading: {}, for {} s", step.name, taken.as_secs()));
    } else {
        supervisor::status(&format!("loading: {}, for {} s: no more time is asked for", step.name, taken.as_secs()));
    }
}
