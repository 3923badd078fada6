//! The daemon: build every room, take the socket, say READY, run, drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Config, check, find};
use crate::drain;
use crate::engine::Engine;
use crate::engine::forward::{Forward, Shape};
use crate::engine::pace::Pace;
use crate::engine::prepare::{self, Afresh, Ready, Wish};
use crate::engine::provider::{self, Choice};
use crate::engine::runtime::{self, RuntimeBuild};
use crate::engine::selfcheck;
use crate::engine::sequence::Words;
use crate::engine::session::{self, Kept, OnnxForward};
use crate::engine::step::Plan;
use crate::fault::Fault;
use crate::journal::Journal;
use crate::model::folder::Folder;
use crate::queue::Queue;
use crate::queue::admission::Limits;
use crate::queue::prompt::Prompter;
use crate::supervisor;
use crate::text::template::Template;
use crate::text::tokenizer::Tokenizer;
use crate::transport::http::{self, Listener, Serving, Site};
use crate::transport::mqtt;
use crate::vitals::Vitals;

/// A room that has shown no sign of life for this long has hung: far above any step, far below an operator's patience.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// The longest piece of a prompt that is tried when the length is measured: it bounds the memory of the scores.
const ROW_MAX: usize = 512;
/// Tokens of a kept piece of a prompt. Shorter ones fit more prompts to the token and cost more books.
const BLOCK_TOKENS: usize = 32;
/// What kept pieces take at most where the config does not say: beginnings of prompts repeat or they do not.
const PREFIX_BYTES_MAX: u64 = 256 << 20;
/// What the broker gets to take the last answers and the goodbye after the engine is done.
const BROKER_GOODBYE: Duration = Duration::from_secs(5);

/// A model that has passed its self-test.
pub struct Loaded {
    pub name: String,
    pub runtime: RuntimeBuild,
    pub shape: Shape,
    pub golden: usize,
    /// What it runs on, and why on that.
    pub choice: Choice,
    forward: Box<dyn Forward>,
    prompter: Prompter,
    words: Words,
    plan: Plan,
}

/// Loads runtime, folder, tokenizer and graph, and runs the self-test. Blocks for as long as that takes.
pub fn load_model(config: &Config) -> Result<Loaded, Fault> {
    let opened = open_model(config)?;
    let Opened { runtime, choice, folder, settings } = &opened;
    let in_model = |reason: String| Fault::config(format!("model `{}`: {reason}", folder.name));
    let tokenizer = Tokenizer::load(&folder.tokenizer).map_err(|error| in_model(error.to_string()))?;
    let template = Template::new(folder.template.clone(), folder.bos.clone(), folder.eos.clone())
        .map_err(|error| in_model(error.to_string()))?;
    let ready = make_ready(config, &opened)?;
    let mut forward = OnnxForward::load(&ready.folder, &ready.settings)?;
    let (highest, vocabulary) = (tokenizer.highest_id(), forward.shape().vocabulary);
    if highest as usize >= vocabulary {
        return Err(in_model(format!("the tokenizer knows token {highest}, the graph scores {vocabulary} tokens")));
    }
    let golden = folder.manifest.as_ref().map(|manifest| manifest.golden.as_slice()).unwrap_or_default();
    let found = selfcheck::check(&mut forward, golden, choice.provider.name())?;
    forward.learn(&found);
    let pace = Pace::measure(&mut forward, config.engine.prefill_chunk, config.engine.stall_max.0)
        .map_err(|error| in_model(format!("measuring its steps: {error}")))?;
    let mut eos = folder.eos_ids.clone();
    eos.extend(folder.eos_texts.iter().filter_map(|text| tokenizer.id(text)));
    eos.sort_unstable();
    eos.dedup();
    if eos.is_empty() {
        return Err(in_model("no config file names a token that ends an answer".to_owned()));
    }
    Ok(Loaded {
        name: folder.name.clone(),
        runtime: runtime.clone(),
        shape: forward.shape(),
        golden: found.golden,
        choice: choice.clone(),
        forward: Box::new(forward),
        prompter: Prompter::new(template, tokenizer.clone(), settings.context),
        words: Words { tokenizer, eos },
        plan: Plan { pace, reserve: config.engine.alarm_slots },
    })
}

/// A folder that was read, and the runtime it will run on.
struct Opened {
    runtime: RuntimeBuild,
    choice: Choice,
    folder: Folder,
    /// `threads` 0: to be measured.
    settings: session::Settings,
}

/// Loads the runtime, chooses the provider and reads the folder.
fn open_model(config: &Config) -> Result<Opened, Fault> {
    let runtime = runtime::load_runtime_with(&config.runtime.onnxruntime, config.engine.threads)?;
    let choice = provider::choose(&config.engine.provider)?;
    let folder = Folder::load(&config.model.dir)?;
    let context = match config.engine.context_max {
        0 => folder.context,
        asked if asked <= folder.context => asked,
        asked => {
            let name = &folder.name;
            return Err(Fault::config(format!(
                "`engine.context_max` is {asked}, the model `{name}` reads at most {}",
                folder.context
            )));
        }
    };
    let settings = session::Settings {
        slots: config.engine.slots + config.engine.alarm_slots,
        context,
        row_max: if config.engine.prefill_chunk == 0 { ROW_MAX } else { config.engine.prefill_chunk }.min(context),
        threads: config.engine.threads,
        cache_bytes_max: config.engine.memory_max.0,
        kept: Kept::Bytes(prefix_bytes(config)),
        block_tokens: BLOCK_TOKENS,
    };
    Ok(Opened { runtime, choice, folder, settings })
}

/// The most bytes that kept beginnings of prompts may take.
fn prefix_bytes(config: &Config) -> u64 {
    match config.engine.prefix_max.0 {
        0 => (config.engine.memory_max.0 / 4).min(PREFIX_BYTES_MAX),
        bytes => bytes,
    }
}

/// Makes the model ready for this machine, as `moed model prepare` wants it.
pub fn prepare_model(config: &Config, afresh: Afresh, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    prepare_opened(config, &open_model(config)?, afresh, say)
}

fn prepare_opened(config: &Config, opened: &Opened, afresh: Afresh, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    let cache = (config.engine.prepare != "never").then_some(config.model.prepared.as_path());
    let wish = Wish { cache, build: &opened.runtime, afresh };
    prepare::ready(&opened.folder, &opened.settings, &wish, say)
}

/// Makes the model ready for this machine where that is wanted, and logs what came of it.
fn make_ready(config: &Config, opened: &Opened) -> Result<Ready, Fault> {
    let ready = prepare_opened(config, opened, Afresh::No, &mut |line| tracing::info!("{line}"))?;
    for note in &ready.prepared.notes {
        tracing::warn!(model = opened.folder.name, "{note}");
    }
    if let Some(finding) = ready.finding {
        let (threads, one_us, all_us) = (finding.threads, finding.one_us, finding.all_us);
        tracing::info!(threads, cores = finding.cores, one_us, all_us, "threads measured");
    }
    tracing::debug!(graph = %ready.prepared.graph.display(), prepared = ready.prepared.optimised, "loading");
    Ok(ready)
}

/// Runs the daemon until it is told to stop. `passed` is the socket that systemd passed, if it did.
pub fn serve(mut config: Config, passed: Option<std::os::unix::net::UnixListener>) -> Result<(), Fault> {
    check::check(&config)?;
    find::fill(&mut config, &find::Places::of_process())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The transports wait more than they work; the cores belong to the engine.
        .worker_threads(2)
        .thread_name("transport")
        .enable_all()
        .build()
        .map_err(|error| Fault::machine(format!("starting the transports' threads: {error}")))?;
    let result = runtime.block_on(run(config, passed));
    // Nothing that still runs may hold up the exit; whatever had to be finished is.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(config: Config, passed: Option<std::os::unix::net::UnixListener>) -> Result<(), Fault> {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let (listener, address) = match passed {
        Some(socket) => (Listener::passed(socket)?, "passed by systemd".to_owned()),
        None => (http::bind(&config.socket)?, config.socket.path.display().to_string()),
    };
    tracing::info!(node = config.node.name, socket = address, model = %config.model.dir.display(), "starting");
    let vitals = Arc::new(Vitals::new());
    let site = Site::new(config.node.name.clone(), Arc::clone(&vitals), config.socket.clone());
    // From here on whoever asks is told that the model is being loaded.
    let accepting = AbortOnDrop(tokio::spawn(http::accept(listener, Arc::clone(&site))));
    let loading = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || load_model(&config))
    };
    let runtime_name = config.runtime.onnxruntime.display().to_string();
    let loaded = tokio::select! {
        loaded = wait_for_model(loading) => loaded?,
        () = signals.stop() => {
            tracing::info!("told to stop while loading");
            return Ok(());
        }
    };
    tracing::debug!(library = runtime_name, "runtime loaded");
    let provider = loaded.choice.provider.name();
    vitals.describe_build(&loaded.runtime.version, provider);
    vitals.set_memory("cache", loaded.shape.cache_bytes);
    let limits = Limits {
        waiting_max: config.queue.waiting_max,
        context: loaded.shape.context,
        caller_max: config.queue.caller_max,
        aging: config.queue.aging.0,
        prefix_shared: config.engine.prefix_shared,
    };
    let queue = Queue::new(loaded.prompter, limits, Arc::clone(&vitals));
    let engine = Engine::start(loaded.forward, loaded.words, loaded.plan, queue.source(), Arc::clone(&vitals))?;
    site.serve(Serving {
        queue: queue.clone(),
        model: loaded.name.clone(),
        provider: provider.to_owned(),
        provider_reason: loaded.choice.reason.clone(),
        runtime: loaded.runtime.version.clone(),
        context: loaded.shape.context,
        slots: loaded.shape.slots,
        batch_invariant: loaded.shape.batch_invariant,
        golden: loaded.golden,
    });
    let mut broker = if config.mqtt.url.is_empty() {
        None
    } else {
        let card = card(&loaded.name, provider, &loaded.shape, &loaded.runtime);
        Some(Broker::start(&config, &loaded.name, card, &queue, &vitals).await?)
    };
    let line =
        format!("{} on {provider}, {} slots of {} tokens", loaded.name, loaded.shape.slots, loaded.shape.context);
    supervisor::ready(&line);
    tracing::info!(
        model = loaded.name,
        provider,
        reason = loaded.choice.reason,
        onnxruntime = loaded.runtime.version,
        slots = loaded.shape.slots,
        context = loaded.shape.context,
        cache_bytes = loaded.shape.cache_bytes,
        golden_prompts = loaded.golden,
        batch_invariant = loaded.shape.batch_invariant,
        start_ms = started.elapsed().as_millis(),
        "ready"
    );
    let journal = broker.as_ref().map(|broker| broker.journal.clone());
    let watchdog = supervisor::watchdog_interval()
        .map(|interval| tokio::spawn(feed_watchdog(interval, Arc::clone(&vitals), journal)));
    let mut ended = tokio::task::spawn_blocking(move || engine.join());
    let why = tokio::select! {
        () = signals.stop() => "a signal",
        () = site.drain_asked() => "a request",
        ended = &mut ended => {
            queue.close(&Fault::bug("the engine has stopped"));
            return Err(Fault::bug(format!("the engine has stopped: {ended:?}")));
        }
        fault = Broker::failed(&mut broker) => {
            queue.close(&Fault::bug("the daemon stops"));
            return Err(fault);
        }
    };
    tracing::info!(why, running = vitals.running(), waiting = queue.waiting(), "draining");
    supervisor::stopping("draining");
    site.drain();
    let deadline = Instant::now() + config.queue.drain_timeout.0;
    if let Some(broker) = &broker {
        broker.drain(deadline);
    }
    let end = drain::drain(&queue, &site, ended, config.queue.drain_timeout.0, signals.stop()).await;
    if let Some(broker) = broker {
        broker.finish(if end == drain::End::Finished { deadline } else { Instant::now() }).await;
    }
    drop(accepting);
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    tracing::info!(end = end.name(), "stopped");
    Ok(())
}

/// What the retained card says beside the room's own.
fn card(name: &str, provider: &str, shape: &Shape, runtime: &RuntimeBuild) -> Map<String, Value> {
    let card = json!({
        "model": name, "provider": provider, "onnxruntime": runtime.version, "context": shape.context, "slots": shape.slots,
        "features": ["stream", "tools", "cancel", "get", "ack"],
    });
    card.as_object().cloned().unwrap_or_default()
}

/// Waits for the model and asks systemd for more time while it loads.
async fn wait_for_model(mut loading: JoinHandle<Result<Loaded, Fault>>) -> Result<Loaded, Fault> {
    const BEAT: Duration = Duration::from_secs(5);
    loop {
        tokio::select! {
            loaded = &mut loading => return loaded.map_err(|error| Fault::bug(format!("loading the model: {error}")))?,
            () = tokio::time::sleep(BEAT) => {
                supervisor::extend_start(4 * BEAT);
                supervisor::status("loading the model");
            }
        }
    }
}

/// The node on the broker, with the journal behind it.
struct Broker {
    journal: Journal,
    drain: watch::Sender<Option<Instant>>,
    task: JoinHandle<Result<(), Fault>>,
}

impl Broker {
    /// Opens the journal and starts the room. The broker itself may be away; the room goes on trying.
    async fn start(
        config: &Config,
        model: &str,
        card: Map<String, Value>,
        queue: &Queue,
        vitals: &Arc<Vitals>,
    ) -> Result<Self, Fault> {
        mqtt::check(&config.mqtt)?;
        let (folder, settings) = (config.journal.dir.clone(), config.journal.clone());
        let journal = tokio::task::spawn_blocking(move || Journal::open(&folder, &settings))
            .await
            .map_err(|error| Fault::bug(format!("opening the journal: {error}")))??;
        let room = mqtt::Room {
            settings: config.mqtt.clone(),
            node: config.node.name.clone(),
            model: model.to_owned(),
            keep: config.journal.keep.0,
            card,
            journal: journal.clone(),
            queue: queue.clone(),
            vitals: Arc::clone(vitals),
        };
        let (drain, told) = watch::channel(None);
        Ok(Self { journal, drain, task: tokio::spawn(mqtt::serve(room, told)) })
    }

    /// Waits for the room's end, which comes by itself only when it failed.
    async fn failed(broker: &mut Option<Self>) -> Fault {
        match broker {
            Some(broker) => match (&mut broker.task).await {
                Ok(Err(fault)) => fault,
                Ok(Ok(())) => Fault::bug("the MQTT room has ended by itself"),
                Err(error) => Fault::bug(format!("the MQTT room has ended: {error}")),
            },
            None => std::future::pending().await,
        }
    }

    /// Tells the room to take nothing new and to finish what runs until then.
    fn drain(&self, deadline: Instant) {
        self.drain.send_replace(Some(deadline));
    }

    /// Waits for the last answers and the goodbye, and closes the journal: what is not finished is kept for the next start.
    async fn finish(mut self, deadline: Instant) {
        self.drain(deadline);
        match tokio::time::timeout(BROKER_GOODBYE, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(fault))) => tracing::warn!(%fault, "leaving the broker"),
            Ok(Err(error)) => tracing::warn!(%error, "leaving the broker"),
            Err(_) => {
                tracing::warn!("the broker did not take the goodbye in time; it will say the will");
                self.task.abort();
            }
        }
        let journal = self.journal;
        if let Err(error) = tokio::task::spawn_blocking(move || journal.close()).await {
            tracing::warn!(%error, "closing the journal");
        }
    }
}

/// Feeds the watchdog while every room moves or provably idles; a hang is left to systemd.
async fn feed_watchdog(interval: Duration, vitals: Arc<Vitals>, journal: Option<Journal>) {
    loop {
        let silence = vitals.engine_silence().max(journal.as_ref().map(Journal::silence).unwrap_or_default());
        if silence < SILENCE_MAX {
            supervisor::feed_watchdog();
            supervisor::status(&format!("{} running", vitals.running()));
        } else {
            tracing::error!(silence_s = silence.as_secs(), "a room shows no sign of life; the watchdog is not fed");
        }
        tokio::time::sleep(interval / 2).await;
    }
}

/// A task that ends with its owner, whichever way the owner ends; with it goes the socket's file.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The signals that end a daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Fault> {
        let on = |kind| signal(kind).map_err(|error| Fault::machine(format!("listening for signals: {error}")));
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
