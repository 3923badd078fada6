//! [`Forward`] through ONNX Runtime: the session, the cache slab, the tensors that look into it.
//!
//! With `raw.rs` and `runtime.rs` the only home of `ort`. The cache of a layer is one block `[slots, heads, context, head_size]`; a sequence
//! is a row of it, a batch is consecutive rows. The same tensor is bound as past and as present, so a step copies no cache.

use std::collections::HashMap;

use ort::value::Outlet;

use crate::engine::binding::{Binding, CachePair, Declared};
use crate::engine::forward::{Forward, ForwardError, Row, Shape, Stop, check_rows};
use crate::engine::raw::{Runner, Slab, Tensor};
use crate::engine::runtime;
pub use crate::engine::runtime::{RuntimeBuild, load_runtime};
use crate::fault::Fault;
use crate::model::folder::Folder;

/// How a session is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub slots: usize,
    pub context: usize,
    /// The longest row of one run: it bounds the scores' memory.
    pub row_max: usize,
    /// Threads that compute; at least 1.
    pub threads: usize,
    /// Bytes that the cache may take.
    pub cache_bytes_max: u64,
}

/// A model, loaded.
pub struct OnnxForward {
    runner: Runner,
    binding: Binding,
    shape: Shape,
    caches: Vec<Slab<f32>>,
    /// The cache tensors of a range of rows, `(first, count)` → one a cache, made when first used.
    views: HashMap<(usize, usize), Vec<Tensor>>,
    ids: Slab<i64>,
    mask: Slab<i64>,
    positions: Slab<i64>,
    scores: Slab<f32>,
    /// Positions of each row whose scores the last run left, and how many of them each row wanted.
    kept: usize,
    wanted: Vec<usize>,
}

impl OnnxForward {
    /// Loads the folder's graph and allocates the whole cache.
    pub fn load(folder: &Folder, settings: &Settings) -> Result<Self, Fault> {
        let environment = runtime::environment()?;
        let graph = folder.graph.display().to_string();
        let failed = |reason: String| Fault::config(format!("model `{}`: loading `{graph}`: {reason}", folder.name));
        let session = runtime::open(environment, &folder.graph, settings.threads).map_err(failed)?;
        let inputs: Vec<Declared> = session.inputs().iter().map(declared).collect();
        let outputs: Vec<Declared> = session.outputs().iter().map(declared).collect();
        let binding = Binding::read(&inputs, &outputs, &folder.hints).map_err(|error| failed(error.to_string()))?;
        let elements = |cache: &CachePair| settings.slots * cache.heads * settings.context * cache.head_size;
        let cache_bytes: u64 = binding.caches.iter().map(|cache| 4 * elements(cache) as u64).sum();
        if cache_bytes > settings.cache_bytes_max {
            return Err(Fault::config(format!(
                "model `{}`: a cache of {} slots with {} tokens each takes {cache_bytes} bytes, the limit is {}",
                folder.name, settings.slots, settings.context, settings.cache_bytes_max
            ))
            .hint("lower `engine.slots` or `engine.context_max`, or raise `engine.memory_max`"));
        }
        let (input_names, output_names) = names(&binding);
        let runner = Runner::new(session, &input_names, &output_names).map_err(failed)?;
        let caches: Vec<Slab<f32>> = binding.caches.iter().map(|cache| runner.slab(elements(cache))).collect();
        let tokens_max = settings.row_max.max(settings.slots);
        let shape = Shape {
            vocabulary: binding.vocabulary,
            context: settings.context,
            row_max: settings.row_max,
            slots: settings.slots,
            cache_bytes,
            batch_invariant: true,
            chunk_invariant: true,
            batches: true,
            ragged: false,
            rewinds: true,
            blocks: 0,
            block_tokens: 1,
        };
        Ok(Self {
            shape,
            caches,
            views: HashMap::new(),
            ids: runner.slab(tokens_max),
            mask: runner.slab(settings.context * settings.slots),
            positions: runner.slab(tokens_max),
            scores: runner.slab(binding.vocabulary * tokens_max),
            binding,
            runner,
            kept: 0,
            wanted: Vec::new(),
        })
    }

    /// Says what the load-time check found out about batches.
    pub fn set_batch_invariant(&mut self, batch_invariant: bool) {
        self.shape.batch_invariant = batch_invariant;
    }

    fn run(&mut self, rows: &[Row<'_>]) -> Result<(), String> {
        let count = rows.len();
        let width = rows[0].tokens.len();
        let total = rows.iter().map(|row| row.past + row.tokens.len()).max().unwrap_or(0);
        let (batch, sequence, mask_width) = (wide(count), wide(width), wide(total));

        for (place, token) in
            self.runner.write(&self.ids, count * width).iter_mut().zip(rows.iter().flat_map(|row| row.tokens))
        {
            *place = i64::from(*token);
        }
        for (line, row) in self.runner.write(&self.mask, count * total).chunks_exact_mut(total).zip(rows) {
            let used = row.past + row.tokens.len();
            line[..used].fill(1);
            line[used..].fill(0);
        }
        let places = rows.iter().flat_map(|row| row.past..row.past + row.tokens.len());
        for (place, position) in self.runner.write(&self.positions, count * width).iter_mut().zip(places) {
            *place = wide(position);
        }

        let key = (rows[0].slot, count);
        if !self.views.contains_key(&key) {
            let views = cache_views(&self.binding, &self.caches, key, self.shape.context)?;
            self.views.insert(key, views);
        }
        let views = &self.views[&key];
        let kept = if self.binding.pruned { 1 } else { width };
        let ids = Tensor::over(&self.ids, 0, &[batch, sequence])?;
        let mask = Tensor::over(&self.mask, 0, &[batch, mask_width])?;
        let positions = Tensor::over(&self.positions, 0, &[batch, sequence])?;
        let scores = Tensor::over(&self.scores, 0, &[batch, wide(kept), wide(self.shape.vocabulary)])?;

        let mut inputs = vec![&ids];
        inputs.extend(self.binding.attention_mask.as_ref().map(|_| &mask));
        inputs.extend(self.binding.position_ids.as_ref().map(|_| &positions));
        inputs.extend(views);
        let mut outputs = vec![&scores];
        outputs.extend(views);
        self.runner.run(&inputs, &outputs)?;

        self.kept = kept;
        self.wanted = rows.iter().map(|row| row.scores).collect();
        Ok(())
    }
}

impl Forward for OnnxForward {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<(), ForwardError> {
        check_rows(rows, &self.shape)?;
        self.run(rows).map_err(ForwardError::Runtime)
    }

    fn scores(&mut self, row: usize, place: usize) -> &mut [f32] {
        let vocabulary = self.shape.vocabulary;
        let start = (row * self.kept + self.kept - self.wanted[row] + place) * vocabulary;
        let end = start + vocabulary;
        &mut self.runner.write(&self.scores, end)[start..]
    }

    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize) {
        for (cache, pair) in self.caches.iter().zip(&self.binding.caches) {
            let head = self.shape.context * pair.head_size;
            for index in 0..pair.heads {
                self.runner.copy(
                    cache,
                    (from * pair.heads + index) * head,
                    (to * pair.heads + index) * head,
                    tokens * pair.head_size,
                );
            }
        }
    }

    fn exchange_slots(&mut self, _one: usize, _other: usize, _tokens: usize) {
        unimplemented!()
    }

    fn keep_block(&mut self, _slot: usize, _first: usize, _block: usize) {
        unimplemented!()
    }

    fn use_block(&mut self, _block: usize, _slot: usize, _first: usize) {
        unimplemented!()
    }

    fn stopper(&self) -> std::sync::Arc<dyn Stop> {
        unimplemented!()
    }
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

/// The names in the order in which `run` hands over the tensors.
fn names(binding: &Binding) -> (Vec<String>, Vec<String>) {
    let mut inputs = vec![binding.input_ids.clone()];
    inputs.extend(binding.attention_mask.clone());
    inputs.extend(binding.position_ids.clone());
    inputs.extend(binding.caches.iter().map(|cache| cache.past.clone()));
    let mut outputs = vec![binding.logits.clone()];
    outputs.extend(binding.caches.iter().map(|cache| cache.present.clone()));
    (inputs, outputs)
}

fn cache_views(
    binding: &Binding,
    caches: &[Slab<f32>],
    (first, count): (usize, usize),
    context: usize,
) -> Result<Vec<Tensor>, String> {
    binding
        .caches
        .iter()
        .zip(caches)
        .map(|(pair, slab)| {
            let row = pair.heads * context * pair.head_size;
            Tensor::over(slab, first * row, &[wide(count), wide(pair.heads), wide(context), wide(pair.head_size)])
        })
        .collect()
}

/// A size as ONNX counts. Sizes here are products of checked settings, far below 2^63.
fn wide(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
