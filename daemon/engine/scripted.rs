//! A [`Forward`] without a model: it says what it was told to say, and can fail or dawdle at a chosen step.
//!
//! The next token is a function of the tokens so far, so a wrong cache position shows as a wrong answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::engine::forward::{Forward, ForwardError, Row, Shape, Stop, check_rows};

/// Chooses the next token from all tokens of a sequence so far.
pub type Script = Box<dyn Fn(&[u32]) -> u32 + Send>;

/// The double. Every field may be set before it is handed to the engine.
pub struct ScriptedForward {
    shape: Shape,
    script: Script,
    /// What the cache holds, slot by slot.
    cache: Vec<Vec<u32>>,
    /// Kept pieces of prompts.
    kept: Vec<Vec<u32>>,
    /// Scores that the last run left, row by row, and where each row's begin.
    scores: Vec<f32>,
    starts: Vec<usize>,
    stop: Arc<Flag>,
    /// Runs so far, over all rows; shared, so that a test can watch it.
    pub steps: Arc<AtomicUsize>,
    /// The runs that fail, counted from 0.
    pub fails_at: Vec<usize>,
    /// Steps, counted from 0, that find no memory.
    pub no_memory_at: Vec<usize>,
    /// The runs that return scores that are no numbers.
    pub not_a_number_at: Vec<usize>,
    /// How long a run takes.
    pub step_time: Duration,
}

impl ScriptedForward {
    /// A double with this vocabulary, context and number of slots.
    pub fn new(vocabulary: usize, context: usize, slots: usize, script: Script) -> Self {
        Self {
            shape: Shape {
                vocabulary,
                context,
                row_max: context,
                slots,
                cache_bytes: 0,
                batch_invariant: true,
                chunk_invariant: true,
                batches: true,
                ragged: true,
                rewinds: true,
                scores_max: context,
                blocks: 0,
                block_tokens: 1,
                remark: "",
            },
            script,
            cache: vec![Vec::new(); slots],
            kept: Vec::new(),
            scores: Vec::new(),
            starts: Vec::new(),
            stop: Arc::default(),
            steps: Arc::new(AtomicUsize::new(0)),
            fails_at: Vec::new(),
            no_memory_at: Vec::new(),
            not_a_number_at: Vec::new(),
            step_time: Duration::ZERO,
        }
    }
}

impl ScriptedForward {
    /// What it says it can take; tests change it before the engine starts.
    pub fn shape_mut(&mut self) -> &mut Shape {
        &mut self.shape
    }

    /// Has room for this many kept pieces of prompts, of so many tokens.
    pub fn set_blocks(&mut self, blocks: usize, block_tokens: usize) {
        self.shape.blocks = blocks;
        self.shape.block_tokens = block_tokens;
        self.kept = vec![Vec::new(); blocks];
    }
}

/// Remembers that somebody asked for the end of a run.
#[derive(Default)]
struct Flag(AtomicBool);

impl Stop for Flag {
    fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn release(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Forward for ScriptedForward {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<(), ForwardError> {
        check_rows(rows, &self.shape)?;
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let end = Instant::now() + self.step_time;
        loop {
            if self.stop.0.load(Ordering::SeqCst) {
                return Err(ForwardError::Stopped);
            }
            if Instant::now() >= end {
                break;
            }
            std::thread::sleep(Duration::from_micros(200).min(self.step_time));
        }
        if self.no_memory_at.contains(&step) {
            return Err(ForwardError::NoMemory(format!("scripted at step {step}")));
        }
        if self.fails_at.contains(&step) {
            return Err(ForwardError::Runtime(format!("scripted failure at step {step}")));
        }
        let vocabulary = self.shape.vocabulary;
        self.starts.clear();
        self.scores.clear();
        for row in rows {
            let cache = &mut self.cache[row.slot];
            if row.past > cache.len() || (row.past < cache.len() && !self.shape.rewinds && row.past > 0) {
                return Err(ForwardError::Malformed(format!("past {} but the slot holds {}", row.past, cache.len())));
            }
            cache.truncate(row.past);
            self.starts.push(self.scores.len());
            for (index, token) in row.tokens.iter().enumerate() {
                cache.push(*token);
                if index + row.scores >= row.tokens.len() {
                    let start = self.scores.len();
                    self.scores.resize(start + vocabulary, 0.0);
                    let next = (self.script)(cache) as usize;
                    self.scores[start + next] = if self.not_a_number_at.contains(&step) { f32::NAN } else { 10.0 };
                }
            }
        }
        Ok(())
    }

    fn scores(&mut self, row: usize, place: usize) -> &mut [f32] {
        let start = self.starts[row] + place * self.shape.vocabulary;
        &mut self.scores[start..start + self.shape.vocabulary]
    }

    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize) {
        self.cache[to] = self.cache[from][..tokens].to_vec();
    }

    fn exchange_slots(&mut self, one: usize, other: usize, tokens: usize) {
        self.cache.swap(one, other);
        // What lies beyond is not promised.
        self.cache[one].truncate(tokens);
        self.cache[other].truncate(tokens);
    }

    fn keep_block(&mut self, slot: usize, first: usize, block: usize) {
        self.kept[block] = self.cache[slot][first..first + self.shape.block_tokens].to_vec();
    }

    fn use_block(&mut self, block: usize, slot: usize, first: usize) {
        self.cache[slot].truncate(first);
        assert_eq!(self.cache[slot].len(), first, "a block is put behind what lies before it");
        self.cache[slot].extend_from_slice(&self.kept[block]);
    }

    fn forget_blocks(&mut self) {
        self.kept.iter_mut().for_each(Vec::clear);
    }

    fn stopper(&self) -> Arc<dyn Stop> {
        Arc::<Flag>::clone(&self.stop)
    }
}
