//! The daemon: build every room, take the socket, say READY, run, carry out orders, drain.

mod broker;
mod loading;
mod orders;
mod reload;
mod watch;

pub use reload::inspect;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use tokio::sync::broadcast::error::RecvError;

use crate::app::broker::Broker;
use crate::app::orders::{Orders, Told};
use crate::app::reload::Settings;
use crate::app::watch::{Watch as Watchdog, Watched};
use crate::config::{self, Config};
use crate::control;
use crate::drain;
use crate::engine::Engine;
use crate::engine::runtime::RuntimeBuild;
use crate::fault::Fault;
use crate::governor::notice::Notice;
use crate::home::Home;
use crate::loading::Loaded;
use crate::model::manifest::Confidence;
use crate::pulse::Part;
use crate::queue::admission::Limits;
use crate::queue::own::House;
use crate::queue::{Fittings, Queue};
use crate::supervisor;
use crate::transport::http::{self, Listener, Serving, Site};
use crate::transport::mqtt;
use crate::transport::mqtt::listen::Sources;
use crate::vitals::Vitals;
use crate::watch::{Watch, Whole};

/// What those who wait for a drain get to read how it went.
const END_HEARD: Duration = Duration::from_millis(500);
/// What systemd gives us beyond the drain's own time: the broker's goodbye, the journal's last writes.
const END_MARGIN: Duration = Duration::from_secs(15);
/// When those come again whom the engine's end has turned away: systemd has started us again by then.
const RETRY_AFTER: Duration = Duration::from_secs(5);

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
    let result = runtime.block_on(run(settings, passed));
    // Nothing that still runs may hold up the exit; whatever had to be finished is.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(mut settings: Settings, passed: Option<std::os::unix::net::UnixListener>) -> Result<(), Fault> {
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
    let (loading, step) = loading::start(config.clone());
    let runtime_name = config.runtime.onnxruntime.display().to_string();
    let Ok(loaded) = orders.during(loading::wait(loading, &step), "the model is being loaded").await else {
        tracing::info!("told to stop while loading");
        return Ok(());
    };
    let loaded = loaded?;
    tracing::debug!(library = runtime_name, "runtime loaded");
    let provider = loaded.choice.provider.name();
    vitals.describe_build(&loaded.runtime.version, provider);
    vitals.set_memory("cache", loaded.shape.cache_bytes);
    let context = loaded.shape.context;
    let bounds = limits(&config, context);
    let traits = traits(&config, &loaded);
    let prefill_chunk = loaded.plan.pace.chunk();
    let house = house(&config, loaded.own_tools);
    let _ears = listen(&config, house.as_ref());
    let fittings = Fittings { model: loaded.name.clone(), prompter: loaded.prompter, limits: bounds, house };
    let queue = Queue::fitted(fittings, Arc::clone(&vitals));
    queue.ration(config.quota.clone());
    let watch = Watch::start(&config, Whole { slots: config.engine.slots, piece: prefill_chunk }, &vitals)?;
    queue.heed(watch.willingness());
    let (forward, source) = (loaded.forward, queue.source());
    let oversight = watch.oversight(Part::Engine);
    vitals.pulse().begin(Part::Engine);
    let engine = Engine::start_under(oversight, forward, loaded.words, loaded.plan, source, Arc::clone(&vitals))?;
    site.serve(Serving {
        queue: queue.clone(),
        model: loaded.name.clone(),
        provider: provider.to_owned(),
        provider_reason: loaded.choice.reason.clone(),
        runtime: loaded.runtime.version.clone(),
        context: loaded.shape.context,
        traits: traits.clone(),
    });
    let mut broker = if config.mqtt.url.is_empty() {
        None
    } else {
        let card = card(&loaded.name, provider, &loaded.runtime, &traits);
        let broker = Broker::start(&config, &loaded.name, card, &queue, &vitals, control).await?;
        broker.tell("ready", json!({"model": loaded.name, "provider": provider, "context": loaded.shape.context}));
        Some(broker)
    };
    if let Some(broker) = &broker {
        site.show_journal(broker.journal.clone());
    }
    let line =
        format!("{} on {provider}, {} slots of {} tokens", loaded.name, config.engine.slots, loaded.shape.context);
    supervisor::ready(&line);
    tracing::info!(
        model = loaded.name,
        provider,
        reason = loaded.choice.reason,
        onnxruntime = loaded.runtime.version,
        slots = config.engine.slots,
        alarm_slots = config.engine.alarm_slots,
        context = loaded.shape.context,
        cache_bytes = loaded.shape.cache_bytes,
        memory_max = loaded.memory_max,
        prefix_blocks = loaded.shape.blocks,
        prefill_chunk,
        golden_prompts = loaded.golden,
        batch_invariant = loaded.shape.batch_invariant,
        remark = loaded.shape.remark,
        start_ms = started.elapsed().as_millis(),
        "ready"
    );
    let watched = Watched {
        pulse: Arc::clone(vitals.pulse()),
        vitals: Arc::clone(&vitals),
        queue: queue.clone(),
        loaded: line.clone(),
    };
    let watchdog = Watchdog::start(watched)?;
    let mut ended = tokio::task::spawn_blocking(move || engine.join());
    let mut notices = watch.notices();
    let why = loop {
        tokio::select! {
            told = orders.next() => match told {
                Told::Stop(why) => break why,
                Told::Reload(errand) => {
                    supervisor::reloading();
                    let result = settings.reload().and_then(|report| {
                        site.limit(settings.found.socket.clone())?;
                        queue.limit(limits(&settings.found, context));
                        queue.ration(settings.found.quota.clone());
                        Ok(report)
                    });
                    supervisor::ready(&line);
                    if let Some(broker) = &broker {
                        match &result {
                            Ok(report) => broker.tell("reloaded", json!(report)),
                            Err(fault) => broker.tell("reload_refused", json!({"reason": fault.message})),
                        }
                    }
                    errand.answer(result);
                }
            },
            notice = notices.recv() => match (notice, &broker) {
                (Ok(Notice { cause, from, to, reason }), Some(broker)) => {
                    broker.tell("governor", json!({"cause": cause.name(), "from": from, "to": to, "reason": reason}));
                }
                // Nobody listens, or more happened than can be told; the log has it all.
                (Ok(_) | Err(RecvError::Lagged(_)), _) => {}
                (Err(RecvError::Closed), _) => {
                    return Err(Fault::bug("the board's watch has ended"));
                }
            },
            ended = &mut ended => {
                // What waits has done nothing wrong: over MQTT it stays accepted for the next start.
                queue.close(&Fault::unavailable("the engine has stopped", RETRY_AFTER));
                return Err(Fault::bug(format!("the engine has stopped: {ended:?}")));
            }
            fault = Broker::failed(&mut broker) => {
                queue.close(&Fault::bug("the daemon stops"));
                return Err(fault);
            }
        }
    };
    let drain_timeout = settings.found.queue.drain_timeout.0;
    tracing::info!(why, running = vitals.running(), waiting = queue.waiting(), "draining");
    supervisor::stopping("draining");
    supervisor::extend(drain_timeout + END_MARGIN);
    site.drain();
    let deadline = Instant::now() + drain_timeout;
    if let Some(broker) = &broker {
        broker.tell("draining", json!({"why": why, "running": vitals.running(), "waiting": queue.waiting()}));
        broker.drain(deadline);
    }
    let end = drain::drain(&queue, &site, ended, drain_timeout, orders.stop()).await;
    vitals.pulse().rest(Part::Engine);
    if let Some(broker) = broker {
        broker.finish(if end == drain::End::Finished { deadline } else { Instant::now() }).await;
    }
    site.say_end(end.name(), END_HEARD).await;
    drop(accepting);
    drop(watchdog);
    tracing::info!(end = end.name(), "stopped");
    Ok(())
}

/// What moed knows of the place, where the model was made to be told.
fn house(config: &Config, own_tools: Option<Confidence>) -> Option<House> {
    let Some(confidence) = own_tools else {
        if config.home != config::Home::default() {
            tracing::warn!("the model's manifest says no `own_tools`: what `[home]` holds is not used");
        }
        return None;
    };
    let (home, left_out) = Home::new(config.home.device.clone());
    if left_out > 0 {
        tracing::warn!(left_out, "devices without a name, with the name of another, or too many are left out");
    }
    Some(House { home, confidence })
}

/// Hears what devices there are and what they say, where the config names somebody to listen to.
fn listen(config: &Config, house: Option<&House>) -> Option<AbortOnDrop> {
    let sources = Sources {
        homeassistant: config.home.homeassistant.clone(),
        zigbee2mqtt: config.home.zigbee2mqtt.clone(),
        devices: config.home.device.clone(),
    };
    let home = house?.home.clone();
    if config.mqtt.url.is_empty() || sources.is_silent() {
        return None;
    }
    let (settings, node) = (config.mqtt.clone(), config.node.name.clone());
    Some(AbortOnDrop(tokio::spawn(async move {
        if let Err(fault) = mqtt::listen::listen(settings, node, sources, home).await {
            tracing::error!(%fault, "devices are not heard");
        }
    })))
}

/// The queue's bounds, as the settings and the loaded model have them.
fn limits(config: &Config, context: usize) -> Limits {
    Limits {
        waiting_max: config.queue.waiting_max,
        context,
        aging: config.queue.aging.0,
        prefix_shared: config.engine.prefix_shared,
    }
}

/// What the retained card says beside the room's own.
fn card(name: &str, provider: &str, runtime: &RuntimeBuild, traits: &Map<String, Value>) -> Map<String, Value> {
    let card = json!({
        "model": name, "provider": provider, "onnxruntime": runtime.version,
        "context": traits["context"], "slots": traits["slots"], "batch_invariant": traits["batch_invariant"],
        "features": ["stream", "tools", "response_format", "cancel", "get", "ack", "session"],
    });
    card.as_object().cloned().unwrap_or_default()
}

/// What the loaded model can do here, for `/status`.
fn traits(config: &Config, loaded: &Loaded) -> Map<String, Value> {
    let shape = &loaded.shape;
    let traits = json!({
        "name": loaded.name,
        "context": shape.context,
        "slots": config.engine.slots,
        "alarm_slots": config.engine.alarm_slots,
        "threads": loaded.threads,
        "prefill_chunk": loaded.plan.pace.chunk(),
        "cache_bytes": shape.cache_bytes,
        "prefix_blocks": shape.blocks,
        "prefix_block_tokens": shape.block_tokens,
        "batches": shape.batches,
        "ragged": shape.ragged,
        "batch_invariant": shape.batch_invariant,
        "chunk_invariant": shape.chunk_invariant,
        "remark": if shape.remark.is_empty() { Value::Null } else { json!(shape.remark) },
        "golden_prompts": loaded.golden,
    });
    traits.as_object().cloned().unwrap_or_default()
}

/// A task that ends with its owner, whichever way the owner ends; with it goes the socket's file.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
