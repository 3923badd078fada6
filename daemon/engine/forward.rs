//! The one thing that the engine asks of a model: read these tokens, give the scores of what comes next.
//!
//! [`Forward`] is implemented by `session.rs` (ONNX Runtime) and by the scripted double in `scripted.rs`.
//! Everything above it (scheduling, sampling, drafting, prefixes, stopping) is the same for both.

use std::sync::Arc;

use thiserror::Error;

/// What a model can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Scores a position has; token ids are below it.
    pub vocabulary: usize,
    /// Tokens that one sequence can hold, prompt and answer together.
    pub context: usize,
    /// Tokens that one row of a run may have.
    pub row_max: usize,
    /// Sequences that the cache has room for.
    pub slots: usize,
    /// Bytes of key/value cache, all slots together.
    pub cache_bytes: u64,
    /// Whether a row of a one-token batch comes out bit-equal to the same row alone. Found at load, not assumed.
    pub batch_invariant: bool,
    /// Whether a prompt read in pieces of two tokens or more leaves the same bits as read whole. Found at load.
    pub chunk_invariant: bool,
    /// Whether several sequences share one run; where not, rows of a batch run one after another inside [`Forward::forward`].
    pub batches: bool,
    /// Whether rows of one run may have different numbers of tokens.
    pub ragged: bool,
    /// Whether tokens that were read may be taken back by a smaller `past`. A recurrent or convolution state forbids it.
    pub rewinds: bool,
    /// How many of a row's last tokens' scores one run can give: all, or 1 where the graph scores the last position only.
    pub scores_max: usize,
    /// Places for kept pieces of prompts; 0: none.
    pub blocks: usize,
    /// Tokens of such a piece.
    pub block_tokens: usize,
    /// What this model cannot do together with others, and why; empty where nothing is amiss.
    pub remark: &'static str,
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The sequence's place in the cache.
    pub slot: usize,
    /// Tokens of it that the cache already holds; what lies beyond is ignored and overwritten.
    pub past: usize,
    /// What to read now; never empty.
    pub tokens: &'a [u32],
    /// How many of the last tokens' scores are wanted, 0 to all of them.
    pub scores: usize,
}

/// A step that did not happen.
///
/// The cache beyond every row's `past` is undefined afterwards; what lies before it is intact, but for a model that does not
/// rewind: there the slot is lost.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The runtime refused or failed.
    #[error("the runtime failed: {0}")]
    Runtime(String),
    /// There was no memory for what the step computes between its inputs and outputs. The next one may have it.
    #[error("no memory for the step: {0}")]
    NoMemory(String),
    /// The rows break the contract of [`Forward::forward`].
    #[error("the step is malformed: {0}")]
    Malformed(String),
    /// A [`Stop`] ended it.
    #[error("the step was stopped")]
    Stopped,
}

/// Ends a run from any thread.
pub trait Stop: Send + Sync {
    /// Ends the run in progress, or else the next one: a request that comes just before a run begins is not lost.
    fn stop(&self);

    /// Forgets requests that no run has met; once nobody makes any more.
    fn release(&self);
}

/// A model that reads tokens.
pub trait Forward: Send {
    /// What it can take. Constant.
    fn shape(&self) -> Shape;

    /// Reads each row's tokens. Slots are consecutive and ascending; several rows have one token each, unless the shape is
    /// `ragged`.
    fn forward(&mut self, rows: &[Row<'_>]) -> Result<(), ForwardError>;

    /// The scores `[vocabulary]` that the last run left for `row`, after the `place`-th of the tokens whose scores were wanted
    /// (0 is the first of them). May be changed in place; valid until the next run.
    fn scores(&mut self, row: usize, place: usize) -> &mut [f32];

    /// Copies the first `tokens` positions of slot `from`, and its state, over slot `to`.
    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize);

    /// Exchanges the first `tokens` positions of two slots, and their states.
    fn exchange_slots(&mut self, one: usize, other: usize, tokens: usize);

    /// Keeps positions `first..first + block_tokens` of a slot as `block`; with them the slot's state, which must be the one
    /// after the last of these positions.
    fn keep_block(&mut self, slot: usize, first: usize, block: usize);

    /// Puts a kept block into a slot at `first`, and the state that was kept with it.
    fn use_block(&mut self, block: usize, slot: usize, first: usize);

    /// Gives the memory of all kept blocks back; what they held is lost.
    fn forget_blocks(&mut self);

    /// A way to end a run early.
    fn stopper(&self) -> Arc<dyn Stop>;
}

/// Refuses rows that break the contract, so that every implementation may rely on it.
pub fn check_rows(rows: &[Row<'_>], shape: &Shape) -> Result<(), ForwardError> {
    let malformed = |text: String| Err(ForwardError::Malformed(text));
    if rows.is_empty() {
        return malformed("no rows".to_owned());
    }
    for (index, row) in rows.iter().enumerate() {
        let single = rows.len() == 1 || shape.ragged;
        if row.tokens.is_empty() || row.tokens.len() > shape.row_max || (!single && row.tokens.len() != 1) {
            return malformed(format!(
                "row {index} of {} has {} tokens, the most is {}",
                rows.len(),
                row.tokens.len(),
                if single { shape.row_max } else { 1 }
            ));
        }
        if row.scores > row.tokens.len() {
            return malformed(format!("row {index} wants {} scores of {} tokens", row.scores, row.tokens.len()));
        }
        if row.scores > shape.scores_max {
            return malformed(format!("row {index} wants {} scores, the most is {}", row.scores, shape.scores_max));
        }
        if row.slot >= shape.slots || row.slot != rows[0].slot + index {
            return malformed(format!("row {index} is on slot {}, {} slots", row.slot, shape.slots));
        }
        if row.past + row.tokens.len() > shape.context {
            return malformed(format!(
                "row {index} ends at {}, context {}",
                row.past + row.tokens.len(),
                shape.context
            ));
        }
        if let Some(token) = row.tokens.iter().find(|token| **token as usize >= shape.vocabulary) {
            return malformed(format!("row {index} holds token {token}, vocabulary {}", shape.vocabulary));
        }
    }
    Ok(())
}
