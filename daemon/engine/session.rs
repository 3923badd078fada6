//! [`Forward`] through ONNX Runtime: the session, its caches, the tensors that look into them.
//!
//! With `raw.rs` and `runtime.rs` the only home of `ort`. `session/` holds the parts: `cache.rs` with its two forms (`inplace.rs`,
//! `apart.rs`), `feed.rs` (what goes in), `scores.rs` (what comes out), `group.rs` (which rows share a run) and `trial.rs`,
//! which finds out at load which form the graph wants.

mod apart;
mod cache;
mod feed;
mod group;
mod inplace;
mod scores;
mod trial;

use std::sync::Arc;

use ort::value::Outlet;

use crate::engine::binding::{Binding, BindingError, Declared};
use crate::engine::forward::{Forward, ForwardError, Row, Shape, Stop, check_rows};
use crate::engine::raw::Runner;
pub use crate::engine::raw::{Described, Device, DeviceMemory};
use crate::engine::runtime;
pub use crate::engine::runtime::{RuntimeBuild, load_runtime};
use crate::engine::selfcheck::Findings;
use crate::engine::session::cache::{Cache, Room, Way};
use crate::engine::session::feed::{Extent, Feed, MaskWidth};
use crate::engine::session::group::Limits;
use crate::engine::session::scores::Scores;
use crate::fault::Fault;
use crate::model::folder::{Folder, Hints};
use crate::model::graph::Graph;
use crate::model::weights;

/// How a session is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub slots: usize,
    pub context: usize,
    /// The longest row of one run: it bounds the scores' memory.
    pub row_max: usize,
    /// Threads that compute; at least 1.
    pub threads: usize,
    /// Bytes that the cache may take, kept pieces of prompts included.
    pub cache_bytes_max: u64,
    /// How much is kept of prompts.
    pub kept: Kept,
    /// Tokens of a kept piece.
    pub block_tokens: usize,
}

/// Room for kept pieces of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// So many pieces.
    Pieces(usize),
    /// As many as these bytes hold.
    Bytes(u64),
    /// As many as these bytes hold and the slots leave room for.
    UpTo(u64),
}

/// A model, loaded.
pub struct OnnxForward {
    runner: Runner,
    binding: Binding,
    shape: Shape,
    limits: Limits,
    cache: Cache,
    feed: Feed,
    scores: Scores,
    /// Positions that each slot holds, so that a step on a wrong past is refused instead of computed.
    held: Vec<usize>,
}

impl OnnxForward {
    /// Loads the folder's graph, allocates the whole cache where the process's provider computes, and finds out how the graph
    /// takes it.
    pub fn load(folder: &Folder, settings: &Settings) -> Result<Self, Fault> {
        Self::load_on(folder, settings, runtime::device())
    }

    /// As [`Self::load`], with the cache on this device; `None`: in the host's memory.
    pub fn load_on(folder: &Folder, settings: &Settings, device: Option<Arc<Device>>) -> Result<Self, Fault> {
        let environment = runtime::environment()?;
        let graph = folder.graph.display().to_string();
        let failed = |reason: String| Fault::config(format!("model `{}`: loading `{graph}`: {reason}", folder.name));
        // A prepared copy was made of a graph that passed.
        if let Some(experts) = folder.hints.experts.filter(|_| !folder.prepared) {
            let read = Graph::read(&folder.graph).map_err(|error| error.to_string());
            read.and_then(|graph| weights::check_experts(&graph, experts, folder.hints.mixtures)).map_err(
                |reason| {
                    failed(reason)
                        .hint("export the model again; `models/export/` compares every export with its source")
                },
            )?;
        }
        let session = runtime::open(environment, folder, settings.threads).map_err(failed)?;
        let inputs: Vec<Declared> = session.inputs().iter().map(declared).collect();
        let outputs: Vec<Declared> = session.outputs().iter().map(declared).collect();
        let binding = bind(folder, &inputs, &outputs).map_err(failed)?;
        let runner = Runner::new(session, &binding.input_names(), &binding.output_names(), device).map_err(failed)?;
        trial::settle(folder, settings, runner, binding)
    }

    /// A model that is driven this way; fails where its cache has no room.
    fn assemble(
        folder: &Folder,
        settings: &Settings,
        mut runner: Runner,
        binding: Binding,
        (way, mask): (Way, MaskWidth),
    ) -> Result<Self, Fault> {
        let failed = |reason: String| Fault::config(format!("model `{}`: {reason}", folder.name));
        let mut room = Room {
            slots: settings.slots,
            // A window's cache has room for the whole window, however short the context.
            capacity: settings.context.max(folder.hints.window.unwrap_or(0)),
            blocks: 1,
            block_tokens: settings.block_tokens,
        };
        let (all_slots, piece_bytes) = way.bytes(&binding.states, &room);
        room.blocks = match settings.kept {
            Kept::Pieces(pieces) => pieces,
            Kept::Bytes(bytes) => usize::try_from(bytes / piece_bytes.max(1)).unwrap_or(0),
            Kept::UpTo(bytes) => {
                let left = settings.cache_bytes_max.saturating_sub(all_slots);
                usize::try_from(bytes.min(left) / piece_bytes.max(1)).unwrap_or(0)
            }
        };
        let (slots_bytes, blocks_bytes) = way.bytes(&binding.states, &room);
        let cache_bytes = slots_bytes.saturating_add(blocks_bytes);
        if cache_bytes > settings.cache_bytes_max {
            let kept = if room.blocks == 0 {
                String::new()
            } else {
                format!(
                    " ({slots_bytes} for the slots, {blocks_bytes} for {} kept pieces of {} tokens)",
                    room.blocks, room.block_tokens
                )
            };
            return Err(failed(format!(
                "a cache of {} slots with {} tokens each takes {cache_bytes} bytes{kept}, the limit is {}",
                room.slots, settings.context, settings.cache_bytes_max
            ))
            .hint("lower `engine.slots`, `engine.context_max` or `engine.prefix_max`, or raise `engine.memory_max`"));
        }
        let fixed = binding.has_fixed_state();
        let batches = way == Way::InPlace && !binding.single;
        let head = binding.pruned && binding.logits_to_keep.is_none();
        let shape = Shape {
            vocabulary: binding.vocabulary,
            context: settings.context,
            row_max: settings.row_max,
            slots: settings.slots,
            cache_bytes,
            batch_invariant: true,
            chunk_invariant: true,
            batches,
            // A padded row would run its padding through a fixed state, and a pruned head would score the padding.
            ragged: batches && binding.query_lengths.is_some() && !fixed && !head,
            rewinds: !fixed,
            scores_max: if head { 1 } else { settings.row_max },
            blocks: room.blocks,
            block_tokens: settings.block_tokens,
            remark: match () {
                () if binding.single => "one sequence at a time: the graph was exported for one",
                () if way == Way::Apart => "one sequence at a time: the graph copies its cache in every step",
                () => "",
            },
        };
        let tokens = settings.row_max.max(settings.slots);
        let extent = Extent { rows: settings.slots, tokens, capacity: room.capacity };
        Ok(Self {
            shape,
            limits: Limits { together: batches, capacity: room.capacity, tokens_max: tokens },
            cache: Cache::new(way, &binding.states, room, &mut runner).map_err(failed)?,
            feed: Feed::new(&runner, &binding, extent, mask).map_err(failed)?,
            scores: Scores::new(
                &runner,
                &binding.logits,
                binding.vocabulary,
                if head { settings.slots } else { tokens },
            )
            .map_err(failed)?,
            held: vec![0; settings.slots],
            binding,
            runner,
        })
    }

    /// Takes over what the check at load found out.
    pub fn learn(&mut self, found: &Findings) {
        self.shape.batch_invariant = found.batch_invariant;
        self.shape.chunk_invariant = found.chunk_invariant;
    }

    /// Rows one after another from now on, for this reason.
    fn run_alone(&mut self, remark: &'static str) {
        self.limits.together = false;
        self.shape.batches = false;
        self.shape.ragged = false;
        self.shape.remark = remark;
    }

    /// Refuses a row whose past is not what its slot holds.
    fn check_past(&self, rows: &[Row<'_>]) -> Result<(), ForwardError> {
        for row in rows {
            let held = self.held[row.slot];
            if row.past > held || (row.past < held && row.past > 0 && !self.shape.rewinds) {
                return Err(ForwardError::Malformed(format!(
                    "slot {} holds {held} tokens, the step goes on after {}",
                    row.slot, row.past
                )));
            }
        }
        Ok(())
    }

    /// Runs rows that share a run.
    fn run(&mut self, rows: &[Row<'_>]) -> Result<(), ForwardError> {
        let width = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let listed = self.binding.score_rows.is_some();
        let kept = if listed {
            rows.iter().map(|row| row.scores).sum::<usize>().max(1)
        } else if self.binding.logits_to_keep.is_some() {
            // From the earliest position that a row wants to the end of the padded width.
            rows.iter().map(|row| width - row.tokens.len() + row.scores).max().unwrap_or(1).max(1)
        } else if self.binding.pruned {
            1
        } else {
            width
        };
        let runtime = ForwardError::Runtime;
        self.cache.prepare(&mut self.runner, rows).map_err(runtime)?;
        self.feed.fill(&mut self.runner, rows, width, kept).map_err(runtime)?;
        self.scores.choose(&self.runner, if listed { 1 } else { rows.len() }, kept).map_err(runtime)?;
        let inputs = self.feed.tensors().chain(self.cache.past());
        let outputs = self.scores.tensor().into_iter().chain(self.cache.present());
        let result = self.runner.run(inputs, outputs);
        for row in rows {
            // After a failure a fixed state is whatever the run left of it.
            self.held[row.slot] = match (&result, self.shape.rewinds) {
                (Ok(()), _) => row.past + row.tokens.len(),
                (Err(_), true) => row.past,
                (Err(_), false) => 0,
            };
        }
        result?;
        self.cache.commit(rows);
        if listed {
            self.scores.take_listed(&self.runner, rows);
        } else {
            self.scores.take(&self.runner, rows, width, kept);
        }
        Ok(())
    }
}

impl Forward for OnnxForward {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<(), ForwardError> {
        check_rows(rows, &self.shape)?;
        self.check_past(rows)?;
        let mut left = rows;
        let mut count = self.limits.first(left);
        self.scores.begin(count == rows.len());
        loop {
            self.run(&left[..count])?;
            left = &left[count..];
            if left.is_empty() {
                return Ok(());
            }
            count = self.limits.first(left);
        }
    }

    fn scores(&mut self, row: usize, place: usize) -> &mut [f32] {
        self.scores.of(&mut self.runner, row, place)
    }

    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize) {
        self.cache.copy(&mut self.runner, from, to, tokens);
        self.held[to] = tokens.min(self.held[from]);
    }

    fn exchange_slots(&mut self, one: usize, other: usize, tokens: usize) {
        self.cache.exchange(&mut self.runner, one, other, tokens);
        self.held.swap(one, other);
        for slot in [one, other] {
            self.held[slot] = self.held[slot].min(tokens);
        }
    }

    fn keep_block(&mut self, slot: usize, first: usize, block: usize) {
        self.cache.keep(&mut self.runner, slot, first, block);
    }

    fn use_block(&mut self, block: usize, slot: usize, first: usize) {
        self.cache.restore(&mut self.runner, block, slot, first);
        self.held[slot] = first.min(self.held[slot]) + self.shape.block_tokens;
    }

    fn forget_blocks(&mut self) {
        self.cache.forget(&mut self.runner);
    }

    fn stopper(&self) -> Arc<dyn Stop> {
        self.runner.brake()
    }
}

/// Reads how to drive the graph. A head size that neither the session nor a config gives is looked for in the graph's weights.
fn bind(folder: &Folder, inputs: &[Declared], outputs: &[Declared]) -> Result<Binding, String> {
    match Binding::read(inputs, outputs, &folder.hints) {
        Err(BindingError::Open { .. }) if folder.hints.head_size.is_none() => {
            let graph = Graph::read(&folder.graph).map_err(|error| error.to_string())?;
            let hints = Hints { head_size: weights::rotated_head_size(&graph), ..folder.hints.clone() };
            Binding::read(inputs, outputs, &hints)
        }
        read => read,
    }
    .map_err(|error| error.to_string())
}

fn declared(outlet: &Outlet) -> Declared {
    let dtype = outlet.dtype();
    Declared {
        name: outlet.name().to_owned(),
        dtype: dtype.tensor_type().map_or_else(
            || "no tensor".to_owned(),
            |kind| match kind {
                ort::value::TensorElementType::Float32 => "float32".to_owned(),
                ort::value::TensorElementType::Int64 => "int64".to_owned(),
                ort::value::TensorElementType::Float16 => "float16".to_owned(),
                ort::value::TensorElementType::Bfloat16 => "bfloat16".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            },
        ),
        dims: dtype.tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default(),
    }
}
