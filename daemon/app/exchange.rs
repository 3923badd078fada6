//! A reload on its way: the file read and checked whole, and where it brings another model, that one loaded and tested beside
//! the one at work. All of it happens before anything changes, and beside everything that goes on.

use tokio::task::{JoinHandle, spawn_blocking};

use crate::app::loading;
use crate::app::reload::{Fresh, Reader};
use crate::app::running::RETRY_AFTER;
use crate::app::stage::Cast;
use crate::config::Config;
use crate::control::Errand;
use crate::fault::{Code, Fault, Kind};
use crate::loading::Beside;
use crate::model::print::Print;

/// A reload that is being made ready.
pub(super) struct Exchange {
    pub(super) errand: Errand,
    task: JoinHandle<Result<Ready, Fault>>,
}

/// What is at work while a reload is made ready.
pub(super) struct Now {
    pub(super) reader: Reader,
    /// The model, for people.
    pub(super) title: String,
    pub(super) cache_bytes: u64,
    /// Its folder's files when they were read.
    pub(super) print: Print,
    /// The model before it that still finishes what it has.
    pub(super) leaving: Option<String>,
}

/// All that a reload takes over; what could fail has been tried.
pub(super) struct Ready {
    pub(super) fresh: Fresh,
    /// Another model, where there is to be one.
    pub(super) cast: Option<Cast>,
}

impl Exchange {
    pub(super) fn begin(errand: Errand, now: Now) -> Self {
        Self { errand, task: tokio::spawn(make_ready(now)) }
    }

    /// Waits until everything is ready, or is known not to work. For ever where there is no exchange. Cancel safe.
    pub(super) async fn ready(exchange: &mut Option<Self>) -> Result<Ready, Fault> {
        match exchange {
            Some(exchange) => match (&mut exchange.task).await {
                Ok(ready) => ready,
                Err(error) => Err(Fault::bug(format!("making a reload ready: {error}"))),
            },
            None => std::future::pending().await,
        }
    }
}

async fn make_ready(now: Now) -> Result<Ready, Fault> {
    let Now { reader, title, cache_bytes, print, leaving } = now;
    // Digests of a model's files take their time.
    let fresh = spawn_blocking(move || reader.read()).await;
    let fresh = fresh.map_err(|error| Fault::bug(format!("reading the config: {error}")))??;
    let config = &fresh.found;
    // Looked at before it is read: what changes meanwhile is found by the next reload.
    let now = Print::of(&config.model.dir);
    let cast = if fresh.exchanges_model() || now != print {
        if let Some(first) = leaving {
            let message =
                format!("the model {first} before {title} still finishes what it has; a third one has to wait");
            return Err(Fault::unavailable(message, RETRY_AFTER));
        }
        let loaded = load(config, Beside { cache_bytes }).await;
        let loaded = loaded.map_err(|fault| refused(fault, &title, cache_bytes))?;
        Some(Cast { loaded, print: now })
    } else {
        None
    };
    Ok(Ready { fresh, cast })
}

async fn load(config: &Config, beside: Beside) -> Result<crate::loading::Loaded, Fault> {
    let (task, step) = loading::start(config.clone(), Some(beside));
    loading::wait(task, &step).await
}

/// What is wrong with a model, or that it finds no room, is its owner's to mend, and the other one goes on.
fn refused(fault: Fault, title: &str, cache_bytes: u64) -> Fault {
    let message = format!("{}; the model {title}, whose caches take {cache_bytes} bytes, goes on", fault.message);
    match fault.kind {
        Kind::Config | Kind::Machine => Fault { kind: Kind::Caller, code: Code::InvalidRequest, message, ..fault },
        _ => Fault { message, ..fault },
    }
}
