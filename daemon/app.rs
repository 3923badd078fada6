//! The daemon: build every room, take the socket, say READY, run, carry out orders, drain.

mod broker;
mod exchange;
mod loading;
mod orders;
mod place;
mod reload;
mod running;
mod stage;
mod watch;

pub use reload::inspect;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::app::broker::{Broker, Post};
use crate::app::orders::Orders;
use crate::app::place::Place;
use crate::app::reload::Settings;
use crate::app::running::Running;
use crate::app::stage::{Cast, Stage, World};
use crate::app::watch::{Watch as Watchdog, Watched};
use crate::config::Config;
use crate::control;
use crate::fault::Fault;
use crate::model::print::Print;
use crate::supervisor;
use crate::transport::http::{self, Listener, Site};
use crate::vitals::Vitals;
use crate::watch::Watch;

/// What still runs at the end may take this long.
const LEFTOVERS: Duration = Duration::from_secs(1);
/// What those who connected in the last moment get to ask, and to be told that we stop.
const LAST_QUESTIONS: Duration = Duration::from_millis(500);

/// Runs the daemon until it is told to stop. `file` is where `config` was read, for a reload; `passed` is the socket that
/// systemd passed, if it did.
pub fn serve(
    config: Config,
    file: Option<PathBuf>,
    passed: Option<std::os::unix::net::UnixListener>,
) -> Result<(), Fault> {
    let settings = Settings::validate(config, file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The transports wait more than they work; the cores belong to the engine.
        .worker_threads(2)
        .thread_name("transport")
        .enable_all()
        .build()
        .map_err(|error| Fault::machine(format!("starting the transports' threads: {error}")))?;
    let runtime = Transports(Some(runtime));
    runtime.0.as_ref().map_or(Ok(()), |runtime| runtime.block_on(run(settings, passed)))
}

/// The transports' threads. Nothing that still runs may hold up the exit, whichever way it comes about: whatever had to be
/// finished is, and after a panic the thread that waits for the engine would wait for ever.
struct Transports(Option<tokio::runtime::Runtime>);

impl Drop for Transports {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(LEFTOVERS);
        }
    }
}

async fn run(settings: Settings, passed: Option<std::os::unix::net::UnixListener>) -> Result<(), Fault> {
    let started = Instant::now();
    let (control, errands) = control::channel();
    let mut orders = Orders::listen(errands)?;
    let config = settings.found.clone();
    let (listener, address) = match passed {
        Some(socket) => (Listener::passed(socket)?, "passed by systemd".to_owned()),
        None => (http::bind(&config.socket)?, config.socket.path.display().to_string()),
    };
    tracing::info!(node = config.node.name, socket = address, model = %config.model.dir.display(), "starting");
    let vitals = Arc::new(Vitals::new());
    let site = Site::new(config.node.name.clone(), Arc::clone(&vitals), config.socket.clone(), control.clone())?;
    // From here on whoever asks is told that the model is being loaded.
    let accepting = AbortOnDrop(tokio::spawn(http::accept(listener, Arc::clone(&site))));
    let print = Print::of(&config.model.dir);
    let (loading, step) = loading::start(config.clone(), None);
    let runtime_name = config.runtime.onnxruntime.display().to_string();
    let Ok(loaded) = orders.during(loading::wait(loading, &step), "the model is being loaded").await else {
        tracing::info!("told to stop while loading");
        return Ok(());
    };
    let cast = Cast { loaded: loaded?, print };
    tracing::debug!(library = runtime_name, "runtime loaded");
    let watch = Watch::start(&config, cast.whole(&config), &vitals)?;
    let world = World { site: Arc::clone(&site), vitals: Arc::clone(&vitals), watch };
    let mut place = None;
    let house = Place::house(&mut place, &config, cast.loaded.own_tools, vitals.pulse());
    let (stage, queue) = Stage::first(&config, cast, house, &world)?;
    let (served, _) = tokio::sync::watch::channel(stage.served(&config));
    let post = if config.mqtt.url.is_empty() {
        Post::Nowhere
    } else {
        let journal = Broker::open_journal(&config).await?;
        let broker = Broker::meet(&config, served.subscribe(), &queue, &vitals, control.clone(), &journal)?;
        broker.tell("ready", stage.ready());
        world.site.show_journal(Some(journal));
        Post::There(broker)
    };
    supervisor::ready(&stage.line);
    tracing::info!(model = stage.model, start_ms = started.elapsed().as_millis(), "ready");
    let line = Arc::new(Mutex::new(stage.line.clone()));
    let pulse = Arc::clone(vitals.pulse());
    let watchdog = Watchdog::start(Watched { pulse, vitals, queue: queue.clone(), loaded: Arc::clone(&line) })?;
    let (leaving, exchange, reloads) = (None, None, VecDeque::new());
    let mut running =
        Running { settings, world, queue, stage, place, post, served, control, line, leaving, exchange, reloads };
    let why = running.work(&mut orders).await?;
    let end = running.end(why, &mut orders).await;
    accepting.end().await;
    site.hear_the_last(LAST_QUESTIONS).await;
    drop(watchdog);
    tracing::info!(end = end.name(), "stopped");
    Ok(())
}

/// A task that ends with its owner, whichever way the owner ends; with it goes the socket's file.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Ends it, and comes back when it has ended.
    async fn end(mut self) {
        self.0.abort();
        // An error says that it was aborted.
        (&mut self.0).await.ok();
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
