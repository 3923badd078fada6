//! One loaded model at work: its room in the queue, its engine's thread, and what is said of it.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::engine::runtime::RuntimeBuild;
use crate::engine::{Ended, Engine, Source};
use crate::fault::Fault;
use crate::loading::Loaded;
use crate::model::print::Print;
use crate::pulse::Part;
use crate::queue::admission::Limits;
use crate::queue::own::House;
use crate::queue::{Fittings, Queue};
use crate::transport::http::{Serving, Site};
use crate::transport::mqtt::Served;
use crate::vitals::Vitals;
use crate::watch::{Watch, Whole};

/// Hex digits of a digest that tell two models apart for people.
const DIGEST_SHOWN: usize = 12;

/// What every model works in.
pub(super) struct World {
    pub(super) site: Arc<Site>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) watch: Watch,
}

/// A model that was loaded, and the folder as it lay there before that.
pub(super) struct Cast {
    pub(super) loaded: Loaded,
    pub(super) print: Print,
}

impl Cast {
    /// What the engine has at most.
    pub(super) fn whole(&self, config: &Config) -> Whole {
        Whole { slots: config.engine.slots, piece: self.loaded.plan.pace.chunk() }
    }
}

/// A model at work.
pub(super) struct Stage {
    pub(super) model: String,
    /// Name and digest, for people.
    pub(super) title: String,
    pub(super) context: usize,
    pub(super) cache_bytes: u64,
    /// What systemd's status line begins with.
    pub(super) line: String,
    /// The folder's files when they were read.
    pub(super) print: Print,
    /// Its engine's heartbeat.
    pub(super) heart: Part,
    /// Ends with the engine's thread.
    pub(super) engine: JoinHandle<Ended>,
    provider: String,
    provider_reason: String,
    runtime: RuntimeBuild,
    /// What it can do here, for `/status`.
    traits: Map<String, Value>,
}

impl Stage {
    /// The first model, and the queue in front of it.
    pub(super) fn first(
        config: &Config,
        cast: Cast,
        house: Option<House>,
        world: &World,
    ) -> Result<(Self, Queue), Fault> {
        let queue = Queue::fitted(fittings(config, &cast.loaded, house), Arc::clone(&world.vitals));
        queue.ration(config.quota.clone());
        queue.heed(world.watch.willingness());
        let stage = Self::start(config, cast, queue.source(), Part::Engine, world)?;
        world.vitals.set_memory("cache", stage.cache_bytes);
        world.site.serve(stage.serving(&queue));
        Ok((stage, queue))
    }

    /// Another model, which whoever comes is sent to from now on; this one finishes what it has.
    pub(super) fn beside(
        &self,
        config: &Config,
        cast: Cast,
        house: Option<House>,
        world: &World,
        queue: &Queue,
    ) -> Result<Self, Fault> {
        let whole = cast.whole(config);
        let annex = queue.annex(fittings(config, &cast.loaded, house));
        let stage = Self::start(config, cast, annex.source(), self.heart.relief(), world)?;
        world.watch.measure_by(whole);
        world.vitals.set_memory("cache", self.cache_bytes + stage.cache_bytes);
        queue.move_to(annex);
        world.site.serve(stage.serving(queue));
        Ok(stage)
    }

    fn start(config: &Config, cast: Cast, source: Box<dyn Source>, heart: Part, world: &World) -> Result<Self, Fault> {
        let Cast { loaded, print } = cast;
        let provider = loaded.choice.provider.name();
        world.vitals.describe_build(&loaded.runtime.version, provider);
        let (model, context, slots) = (loaded.name.clone(), loaded.shape.context, config.engine.slots);
        tracing::info!(
            model,
            digest = loaded.digest,
            provider,
            reason = loaded.choice.reason,
            onnxruntime = loaded.runtime.version,
            slots,
            alarm_slots = config.engine.alarm_slots,
            context,
            cache_bytes = loaded.shape.cache_bytes,
            memory_max = loaded.memory_max,
            prefix_blocks = loaded.shape.blocks,
            prefill_chunk = loaded.plan.pace.chunk(),
            golden_prompts = loaded.golden,
            batch_invariant = loaded.shape.batch_invariant,
            remark = loaded.shape.remark,
            "model at work"
        );
        let untested = if loaded.golden == 0 { ", no golden prompts" } else { "" };
        let traits = traits(config, &loaded);
        let oversight = world.watch.oversight(heart);
        world.vitals.pulse().begin(heart);
        let vitals = Arc::clone(&world.vitals);
        let engine = Engine::start_under(oversight, loaded.forward, loaded.words, loaded.plan, source, vitals)
            .inspect_err(|_| world.vitals.pulse().rest(heart))?;
        Ok(Self {
            title: title(&model, loaded.digest.as_deref()),
            line: format!("{model} on {provider}, {slots} slots of {context} tokens{untested}"),
            model,
            context,
            cache_bytes: loaded.shape.cache_bytes,
            print,
            heart,
            engine: tokio::task::spawn_blocking(move || engine.join()),
            provider: provider.to_owned(),
            provider_reason: loaded.choice.reason,
            runtime: loaded.runtime,
            traits,
        })
    }

    fn serving(&self, queue: &Queue) -> Serving {
        Serving {
            queue: queue.clone(),
            model: self.model.clone(),
            provider: self.provider.clone(),
            provider_reason: self.provider_reason.clone(),
            runtime: self.runtime.version.clone(),
            context: self.context,
            traits: self.traits.clone(),
        }
    }

    /// What the node says of itself on its broker.
    pub(super) fn served(&self, config: &Config) -> Served {
        let card = json!({
            "provider": self.provider, "onnxruntime": self.runtime.version,
            "context": self.traits["context"], "slots": self.traits["slots"],
            "batch_invariant": self.traits["batch_invariant"], "digest": self.traits["digest"],
            "features": ["stream", "tools", "response_format", "cancel", "get", "ack", "session"],
        });
        let card = card.as_object().cloned().unwrap_or_default();
        Served { model: self.model.clone(), card, pool_marks: config.pool_marks() }
    }

    /// What is said of it once it takes requests.
    pub(super) fn ready(&self) -> Value {
        json!({"model": self.model, "digest": self.traits["digest"], "provider": self.provider, "context": self.context})
    }
}

fn title(model: &str, digest: Option<&str>) -> String {
    let short: String = digest.unwrap_or_default().trim_start_matches("sha256:").chars().take(DIGEST_SHOWN).collect();
    if short.is_empty() { format!("`{model}`") } else { format!("`{model}` ({short}…)") }
}

fn fittings(config: &Config, loaded: &Loaded, house: Option<House>) -> Fittings {
    let limits = limits(config, loaded.shape.context);
    Fittings { model: loaded.name.clone(), prompter: loaded.prompter.clone(), limits, house }
}

/// The queue's bounds, as the settings and the loaded model have them.
pub(super) fn limits(config: &Config, context: usize) -> Limits {
    Limits {
        waiting_max: config.queue.waiting_max,
        context,
        aging: config.queue.aging.0,
        prefix_shared: config.engine.prefix_shared,
    }
}

/// What the loaded model can do here, for `/status`.
fn traits(config: &Config, loaded: &Loaded) -> Map<String, Value> {
    let shape = &loaded.shape;
    let traits = json!({
        "name": loaded.name,
        "digest": loaded.digest,
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
