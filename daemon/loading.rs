//! From a config to a model that may answer: runtime, provider, folder, preparation, graph, self-test, measured pace.
//!
//! What `moed serve` does before READY, and `moed check`, `moed model` and `moed bench` do the same way.

use std::collections::BTreeMap;
use std::path::Path;

use crate::board::files::Files;
use crate::board::{identity, memory};
use crate::config::Config;
use crate::engine::forward::{Forward, Shape};
use crate::engine::pace::Pace;
use crate::engine::prepare::{self, Afresh, Ready, Wish};
use crate::engine::provider::{self, Choice, Provider};
use crate::engine::runtime::{self, RuntimeBuild};
use crate::engine::selfcheck;
use crate::engine::sequence::Words;
use crate::engine::session::{self, DeviceMemory, Kept, OnnxForward};
use crate::engine::step::Plan;
use crate::fault::Fault;
use crate::model::folder::Folder;
use crate::model::graph::Graph;
use crate::model::manifest::Confidence;
use crate::model::pagecache;
use crate::model::variant;
use crate::queue::prompt::Prompter;
use crate::text::grammar::Vocabulary;
use crate::text::template::Template;
use crate::text::tokenizer::Tokenizer;

/// The longest piece of a prompt that is tried when the length is measured: it bounds the memory of the scores.
const ROW_MAX: usize = 512;
/// Tokens of a kept piece of a prompt. Shorter ones fit more prompts to the token and cost more books.
const BLOCK_TOKENS: usize = 32;
/// Taken as free where the kernel does not say.
const MEMORY_UNKNOWN: u64 = 1 << 30;
/// What loading takes at its peak, in tenths of the weights: a model that no copy was made of yet is optimised and packed.
const LOADING_TENTHS: u64 = 17;
/// What kept pieces take at most where the config does not say: beginnings of prompts repeat or they do not.
const PREFIX_BYTES_MAX: u64 = 256 << 20;

/// A model that has passed its self-test.
pub struct Loaded {
    pub name: String,
    /// What the folder holds, by its manifest: `sha256:…`; `None` where it has none.
    pub digest: Option<String>,
    pub runtime: RuntimeBuild,
    pub shape: Shape,
    pub golden: usize,
    /// Threads that compute, measured where the config does not say.
    pub threads: usize,
    /// Bytes that the caches may take, found where the config does not say.
    pub memory_max: u64,
    /// What it runs on, and why on that.
    pub choice: Choice,
    pub forward: Box<dyn Forward>,
    pub prompter: Prompter,
    pub words: Words,
    pub plan: Plan,
    /// How sure the model must be to call one of moed's own tools; `None` where it was not made for them.
    pub own_tools: Option<Confidence>,
}

/// Loads runtime, folder, tokenizer and graph, and runs the self-test. Blocks for as long as that takes.
pub fn load_model(config: &Config) -> Result<Loaded, Fault> {
    load_model_beside(config, None, &mut |_| {})
}

/// A model that is at work while another is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// Bytes of its caches, touched or not.
    pub cache_bytes: u64,
}

/// The same while another model may be at work, and says each step before it is taken. What does not fit beside that model is
/// refused before it is loaded.
pub fn load_model_beside(config: &Config, beside: Option<Beside>, say: &mut dyn FnMut(&str)) -> Result<Loaded, Fault> {
    say("reading the model's files");
    let opened = open_model(config, beside)?;
    let Opened { runtime, choice, folder, settings } = &opened;
    let in_model = |reason: String| Fault::config(format!("model `{}`: {reason}", folder.name));
    let tokenizer = Tokenizer::load(&folder.tokenizer).map_err(|error| in_model(error.to_string()))?;
    let template = Template::new(folder.template.clone(), folder.bos.clone(), folder.eos.clone())
        .map_err(|error| in_model(error.to_string()))?;
    say("making the model ready for this machine");
    let ready = make_ready(config, &opened, say)?;
    say("loading the graph");
    let mut forward = OnnxForward::load(&ready.folder, &ready.settings)?;
    forget_weights(config, &opened);
    let (highest, vocabulary) = (tokenizer.highest_id(), forward.shape().vocabulary);
    if highest as usize >= vocabulary {
        return Err(in_model(format!("the tokenizer knows token {highest}, the graph scores {vocabulary} tokens")));
    }
    let golden = folder.manifest.as_ref().map(|manifest| manifest.golden.as_slice()).unwrap_or_default();
    let mut eos = folder.eos_ids.clone();
    eos.extend(folder.eos_texts.iter().filter_map(|text| tokenizer.id(text)));
    eos.sort_unstable();
    eos.dedup();
    if eos.is_empty() {
        return Err(in_model("no config file names a token that ends an answer".to_owned()));
    }
    say("self-test");
    // Two things that take their time and need nothing of each other. The pace comes after both: it is measured.
    let (found, grammars) = std::thread::scope(|scope| {
        let grammars = scope.spawn(|| Vocabulary::new(&tokenizer, &eos, vocabulary));
        let found = selfcheck::check(&mut forward, golden, choice.provider.name());
        (found, grammars.join())
    });
    let found = found?;
    let grammars = grammars.map_err(|_| Fault::bug("reading the tokenizer's vocabulary panicked"))?;
    forward.learn(&found);
    say("measuring steps");
    let pace = Pace::measure(&mut forward, config.engine.prefill_chunk, config.engine.stall_max.0)
        .map_err(|error| in_model(format!("measuring its steps: {error}")))?;
    if let Err(error) = &grammars {
        tracing::warn!(%error, "answers of a given form cannot be had from this model");
    }
    Ok(Loaded {
        name: folder.name.clone(),
        digest: folder.manifest.as_ref().map(|manifest| format!("sha256:{}", manifest.digest)),
        runtime: runtime.clone(),
        shape: forward.shape(),
        golden: found.golden,
        threads: ready.settings.threads,
        memory_max: ready.settings.cache_bytes_max,
        choice: choice.clone(),
        forward: Box::new(forward),
        prompter: Prompter::new(template, tokenizer.clone(), settings.context, grammars),
        words: Words { tokenizer, eos },
        own_tools: folder.manifest.as_ref().filter(|manifest| manifest.own_tools).map(|manifest| manifest.confidence),
        plan: Plan { pace, reserve: config.engine.alarm_slots, guesses: config.engine.guesses },
    })
}

/// What `dir` holds for each provider that the setting `engine.provider` allows, read and compared with its manifest; a folder
/// that serves several is there once. Every fault at once.
pub fn read_folders(dir: &Path, setting: &str) -> Result<Vec<(Provider, Folder)>, Vec<Fault>> {
    let allowed: Vec<Provider> =
        Provider::ALL.into_iter().rev().filter(|provider| ["auto", provider.name()].contains(&setting)).collect();
    let (mut found, mut faults, mut absent) = (BTreeMap::new(), Vec::new(), Vec::new());
    for provider in allowed {
        match variant::choose(dir, provider.name()) {
            Ok(path) => {
                found.entry(path).or_insert(provider);
            }
            Err(fault) => absent.push(fault),
        }
    }
    // With `auto` one of them is enough here: which one it must be is known once a kernel has run.
    if found.is_empty() {
        return Err(absent);
    }
    let mut folders = Vec::new();
    for provider in found.into_values() {
        match Folder::load_for(dir, provider.name()) {
            Ok(folder) => folders.push((provider, folder)),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(folders) } else { Err(faults) }
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
fn open_model(config: &Config, beside: Option<Beside>) -> Result<Opened, Fault> {
    let runtime = runtime::load_runtime_with(&config.runtime.onnxruntime, config.engine.threads)?;
    let choice = provider::choose(&config.engine.provider)?;
    let folder = Folder::load_for(&config.model.dir, choice.provider.name())?;
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
    let device = runtime::device().map(|device| device.memory()).transpose();
    let device = device.map_err(|reason| Fault::machine(format!("provider `{}`: {reason}", choice.provider.name())))?;
    let available = memory::room(&Files::new(config.board.clone()));
    let weights = weights(&folder);
    let memory = budget(config.engine.memory_max.0, available, device, weights, beside).map_err(|free| {
        let name = &folder.name;
        match beside {
            None => Fault::machine(format!("model `{name}` has {weights} bytes of weights, {free} bytes are free"))
                .hint("stop what else uses memory, or take a smaller model"),
            Some(_) => Fault::machine(format!(
                "model `{name}` takes up to {} bytes while it is loaded, {free} bytes are free beside the model at work",
                peak(weights)
            ))
            .hint("make room, or restart the daemon: alone the model has more"),
        }
    })?;
    let settings = session::Settings {
        slots: config.engine.slots + config.engine.alarm_slots,
        context,
        row_max: if config.engine.prefill_chunk == 0 { ROW_MAX } else { config.engine.prefill_chunk }.min(context),
        threads: config.engine.threads,
        cache_bytes_max: memory,
        kept: kept(config, memory),
        block_tokens: BLOCK_TOKENS,
    };
    Ok(Opened { runtime, choice, folder, settings })
}

/// Bytes that the caches may take: what was set, else half of what is free where they will lie, and never what the weights need.
/// While another model is at work, what was set holds for the caches of both together. `Err`: what is free, where that is less
/// than the weights, or than what loading takes while another model is at work and would be pushed out.
fn budget(
    set: u64,
    available: Option<u64>,
    device: Option<DeviceMemory>,
    weights: u64,
    beside: Option<Beside>,
) -> Result<u64, u64> {
    let others = beside.map_or(0, |beside| beside.cache_bytes);
    // Pages of a cache in the host's memory that were not touched yet still count as available.
    let untouched = if device.is_none() { others } else { 0 };
    let free = free(available, device).saturating_sub(untouched);
    // Where the kernel does not say what is free, nobody is refused for it.
    let known = available.is_some() || device.is_some();
    let needed = if beside.is_some() { peak(weights) } else { weights };
    if known && needed > free {
        return Err(free);
    }
    let left = if known { free.saturating_sub(weights) } else { u64::MAX };
    let share = if set == 0 { free / 2 } else { set.saturating_sub(others) };
    Ok(share.min(left))
}

/// What loading takes for a moment.
fn peak(weights: u64) -> u64 {
    weights.saturating_mul(LOADING_TENTHS) / 10
}

/// Bytes that are free where caches and weights will lie. A device that shares the host's memory has no more of it than the host.
fn free(available: Option<u64>, device: Option<DeviceMemory>) -> u64 {
    let host = available.unwrap_or(MEMORY_UNKNOWN);
    device.map_or(host, |device| if device.shared { device.free.min(host) } else { device.free })
}

/// Bytes of a folder's graph and weights. What cannot be read is refused later, with its reason.
fn weights(folder: &Folder) -> u64 {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let outside = Graph::read(&folder.graph).map(|graph| graph.external_files()).unwrap_or_default();
    let place = folder.graph.parent().unwrap_or(&folder.path);
    bytes(&folder.graph) + outside.iter().map(|name| bytes(&place.join(name))).sum::<u64>()
}

/// Where CPU and GPU share one memory, weights that were read and are not mapped leave the page cache: the GPU's driver does
/// not always get that memory back in time. Elsewhere they stay, and the next start is faster.
fn forget_weights(config: &Config, opened: &Opened) {
    let unified = identity::read(&Files::new(config.board.clone())).l4t.is_some();
    let Some(folder) = opened.folder.graph.parent().filter(|_| unified) else { return };
    let bytes = pagecache::let_go(folder);
    tracing::debug!(folder = %folder.display(), bytes, "weights that are not mapped need not stay cached");
}

/// Room for kept beginnings of prompts. What is found at start gives way to the slots.
fn kept(config: &Config, memory: u64) -> Kept {
    match config.engine.prefix_max.0 {
        0 => Kept::UpTo((memory / 4).min(PREFIX_BYTES_MAX)),
        bytes => Kept::Bytes(bytes),
    }
}

/// Makes the model ready for this machine, as `moed model prepare` wants it.
pub fn prepare_model(config: &Config, afresh: Afresh, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    prepare_opened(config, &open_model(config, None)?, afresh, say)
}

fn prepare_opened(config: &Config, opened: &Opened, afresh: Afresh, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    let cache = (config.engine.prepare != "never").then_some(config.model.prepared.as_path());
    let wish = Wish { cache, build: &opened.runtime, afresh };
    prepare::ready(&opened.folder, &opened.settings, &wish, say)
}

/// Makes the model ready for this machine where that is wanted, and logs what came of it.
fn make_ready(config: &Config, opened: &Opened, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    let ready = prepare_opened(config, opened, Afresh::No, &mut |line| {
        say(line);
        tracing::info!("{line}");
    })?;
    for note in &ready.prepared.notes {
        tracing::warn!(model = opened.folder.name, "{note}");
    }
    if let Some(finding) = ready.finding {
        let (threads, one, all) = (finding.threads, finding.one, finding.all);
        tracing::info!(threads, cores = finding.cores, ?one, ?all, "threads measured");
    }
    tracing::debug!(graph = %ready.prepared.graph.display(), prepared = ready.prepared.optimised, "loading");
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caches_get_what_was_set_or_half_of_what_is_free_where_they_lie_and_leave_room_for_the_weights() {
        let device = |free, shared| Some(DeviceMemory { free, total: 1000, shared });
        let alone = None;
        let beside = Some(Beside { cache_bytes: 100 });
        for (set, available, device, weights, beside, limit) in [
            (0, Some(600), None, 20, alone, Ok(300)),
            (0, Some(600), None, 400, alone, Ok(200)),
            (0, Some(600), None, 601, alone, Err(600)),
            (0, None, None, u64::MAX, alone, Ok(MEMORY_UNKNOWN / 2)),
            (70, Some(600), None, 20, alone, Ok(70)),
            (900, Some(600), None, 20, alone, Ok(580)),
            (0, Some(600), device(900, false), 20, alone, Ok(450)),
            (0, Some(600), device(900, true), 20, alone, Ok(300)),
            (0, Some(600), device(100, true), 20, alone, Ok(50)),
            (0, Some(600), device(100, true), 101, alone, Err(100)),
            // Beside another model the caches share what was set.
            (0, Some(700), None, 50, beside, Ok(300)),
            (0, Some(700), None, 350, beside, Ok(250)),
            (0, Some(700), None, 360, beside, Err(600)),
            (250, Some(700), None, 50, beside, Ok(150)),
            (100, Some(700), None, 50, beside, Ok(0)),
            (900, Some(700), None, 50, beside, Ok(550)),
            // What a device holds for a cache is not free any more.
            (0, Some(10), device(600, false), 50, beside, Ok(300)),
        ] {
            assert_eq!(budget(set, available, device, weights, beside), limit, "{set} {available:?} {weights}");
        }
    }
}
