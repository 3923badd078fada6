//! A [`Forward`] without a model: it says what it was told to say, and can fail or dawdle at a chosen step.
//!
//! The next token is a function of the tokens so far, so a wrong cache position shows as a wrong answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::engine::forward::{Forward, ForwardError, Row, Shape, check_rows};

/// Chooses the next token from all tokens of a sequence so far.
pub type Script = Box<dyn Fn(&[u32]) -> u32 + Send>;

/// The double. Every field may be set before it is handed to the engine.
pub struct ScriptedForward {
    shape: Shape,
    script: Script,
    /// What the cache holds, slot by slot.
    cache: Vec<Vec<u32>>,
    /// Runs so far, over all rows; shared, so that a test can watch it.
    pub steps: Arc<AtomicUsize>,
    /// The runs that fail, counted from 0.
    pub fails_at: Vec<usize>,
    /// The runs that return scores that are no numbers.
    pub not_a_number_at: Vec<usize>,
    /// How long a run takes.
    pub step_time: Duration,
}

impl ScriptedForward {
    /// A double with this vocabulary, context and number of slots.
    pub fn new(vocabulary: usize, context: usize, slots: usize, script: Script) -> Self {
        Self {
            shape: Shape { vocabulary, context, row_max: context, slots, cache_bytes: 0, batch_invariant: true },
            script,
            cache: vec![Vec::new(); slots],
            steps: Arc::new(AtomicUsize::new(0)),
            fails_at: Vec::new(),
            not_a_number_at: Vec::new(),
            step_time: Duration::ZERO,
        }
    }
}

impl ScriptedForward {
    /// Takes rows of this many tokens at most.
    pub fn set_row_max(&mut self, row_max: usize) {
        self.shape.row_max = row_max;
    }
}

impl Forward for ScriptedForward {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn forward(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        check_rows(rows, &self.shape)?;
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if !self.step_time.is_zero() {
            std::thread::sleep(self.step_time);
        }
        if self.fails_at.contains(&step) {
            return Err(ForwardError::Runtime(format!("scripted failure at step {step}")));
        }
        logits.clear();
        logits.resize(rows.len() * self.shape.vocabulary, 0.0);
        for (row, scores) in rows.iter().zip(logits.chunks_exact_mut(self.shape.vocabulary)) {
            let cache = &mut self.cache[row.slot];
            if row.past > cache.len() {
                return Err(ForwardError::Malformed(format!("past {} but the slot holds {}", row.past, cache.len())));
            }
            cache.truncate(row.past);
            cache.extend_from_slice(row.tokens);
            let next = (self.script)(cache) as usize;
            scores[next] = if self.not_a_number_at.contains(&step) { f32::NAN } else { 10.0 };
        }
        Ok(())
    }

    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize) {
        self.cache[to] = self.cache[from][..tokens].to_vec();
    }
}
