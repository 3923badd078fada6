//! The one thing that the engine asks of a model: read these tokens, give the scores of what comes next.
//!
//! [`Forward`] is implemented by `session.rs` (ONNX Runtime) and by the scripted double in `scripted.rs`.
//! Everything above it (scheduling, sampling, stopping) is the same for both.

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
    /// Whether a row of a batch comes out bit-equal to the same row alone. Found at load, not assumed.
    pub batch_invariant: bool,
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
}

/// A step that did not happen.
///
/// The cache beyond every row's `past` is undefined afterwards; what lies before it is intact.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The runtime refused or failed.
    #[error("the runtime failed: {0}")]
    Runtime(String),
    /// The rows break the contract of [`Forward::forward`].
    #[error("the step is malformed: {0}")]
    Malformed(String),
}

/// A model that reads tokens.
pub trait Forward: Send {
    /// What it can take. Constant.
    fn shape(&self) -> Shape;

    /// Reads each row's tokens and leaves in `logits` the scores after each row's last token: `[rows, vocabulary]`.
    ///
    /// Either one row of any length, or several rows of one token each whose slots are consecutive and ascending.
    fn forward(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), ForwardError>;

    /// Copies the first `tokens` positions of slot `from` over slot `to`.
    fn copy_slot(&mut self, from: usize, to: usize, tokens: usize);
}

/// Refuses rows that break the contract, so that every implementation may rely on it.
pub fn check_rows(rows: &[Row<'_>], shape: &Shape) -> Result<(), ForwardError> {
    let malformed = |text: String| Err(ForwardError::Malformed(text));
    if rows.is_empty() {
        return malformed("no rows".to_owned());
    }
    for (index, row) in rows.iter().enumerate() {
        if row.tokens.is_empty() || row.tokens.len() > shape.row_max || (rows.len() > 1 && row.tokens.len() != 1) {
            return malformed(format!(
                "row {index} of {} has {} tokens, the most is {}",
                rows.len(),
                row.tokens.len(),
                shape.row_max
            ));
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
