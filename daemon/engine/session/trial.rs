//! Finds out at load how a graph takes its caches. Declarations do not say it, so it is tried.
//!
//! A graph that writes in place (`GroupQueryAttention`) reads a prompt in pieces as it reads it whole; one that joins its past
//! and its new positions refuses the shared buffer or reads garbage, and is then driven with two sides that change roles.

use crate::engine::binding::Binding;
use crate::engine::forward::{Forward, ForwardError, Row};
use crate::engine::raw::Runner;
use crate::engine::selfcheck::{self, TOLERANCE};
use crate::engine::session::cache::Way;
use crate::engine::session::feed::MaskWidth;
use crate::engine::session::{OnnxForward, Settings};
use crate::fault::Fault;
use crate::model::folder::Folder;

/// A multiple that mask widths are rounded up to.
///
/// Measured, interleaved, on the CPU: as fast as exact widths at every context (371 and 371 µs a step of the default model
/// after 100 tokens, 51 and 50 µs of the tiny one after 3,800), and its tensors serve 256 steps. A width that is always the
/// cache's is no faster where the context is full and slower where it is not (377 µs; 25 instead of 12 µs for the tiny one,
/// whose graph computes rotations for the whole width).
const MASK_STEP: usize = 256;

/// Tokens of the prompt that is tried.
const TRIAL_TOKENS: usize = 12;

/// Loads the model in the first way that reads a prompt in pieces as it reads it whole.
pub(super) fn settle(
    folder: &Folder,
    settings: &Settings,
    mut runner: Runner,
    mut binding: Binding,
) -> Result<OnnxForward, Fault> {
    let in_place = [(Way::InPlace, MaskWidth::Rounded(MASK_STEP)), (Way::InPlace, MaskWidth::Exact)];
    let ways = if folder.hints.share_buffer == Some(false) { &in_place[..0] } else { &in_place };
    let mut reasons = Vec::new();
    for (way, mask) in ways.iter().copied().chain([(Way::Apart, MaskWidth::Exact)]) {
        let mut forward = OnnxForward::assemble(folder, settings, runner, binding, (way, mask))?;
        match pieces_differ(&mut forward) {
            Ok(difference) if difference <= TOLERANCE => {
                tracing::debug!(?way, ?mask, difference, "the graph's caches are driven this way");
                if forward.shape.batches {
                    try_batch(&mut forward);
                }
                forward.held.fill(0);
                return Ok(forward);
            }
            Ok(difference) => reasons.push(format!(
                "with its caches {way:?}, scores after a prompt read in pieces differ by {difference}, the most is {TOLERANCE}"
            )),
            Err(error) => reasons.push(format!("with its caches {way:?}, {error}")),
        }
        (runner, binding) = (forward.runner, forward.binding);
    }
    reasons.dedup();
    Err(Fault::config(format!("model `{}`: the graph reads no prompt in pieces: {}", folder.name, reasons.join("; ")))
        .hint("export the model with past and present key/value caches; see `models/README.md`"))
}

/// The largest difference between the scores after a prompt read whole and read in two pieces.
fn pieces_differ(forward: &mut OnnxForward) -> Result<f32, ForwardError> {
    let shape = forward.shape();
    let length = TRIAL_TOKENS.min(shape.row_max).min(shape.context);
    let prompt = selfcheck::probe(&shape, 5, length);
    forward.forward(&[Row { slot: 0, past: 0, tokens: &prompt, scores: 1 }])?;
    let whole = forward.scores(0, 0).to_vec();
    let cut = length / 2;
    if cut > 0 {
        forward.forward(&[Row { slot: 0, past: 0, tokens: &prompt[..cut], scores: 0 }])?;
    }
    forward.forward(&[Row { slot: 0, past: cut, tokens: &prompt[cut..], scores: 1 }])?;
    Ok(selfcheck::difference(&whole, forward.scores(0, 0)))
}

/// Runs two rows of one token together. Where the graph cannot, rows run one after another from then on.
fn try_batch(forward: &mut OnnxForward) {
    let shape = forward.shape();
    if shape.slots < 2 || shape.context < 3 {
        return;
    }
    match batch_differs(forward) {
        Ok(difference) if difference <= TOLERANCE => {}
        Ok(difference) => {
            tracing::warn!(difference, "rows of a batch differ from the same rows alone");
            forward.run_alone("one sequence at a time: rows of a batch do not come out as each alone");
        }
        Err(error) => {
            tracing::warn!(%error, "the graph takes no batch");
            forward.run_alone("one sequence at a time: the graph takes no batch");
        }
    }
}

fn batch_differs(forward: &mut OnnxForward) -> Result<f32, ForwardError> {
    let prompt = selfcheck::probe(&forward.shape(), 3, 2);
    let mut alone = Vec::new();
    for slot in 0..2 {
        let tokens = &prompt[..=slot];
        forward.forward(&[Row { slot, past: 0, tokens, scores: 0 }])?;
        forward.forward(&[Row { slot, past: tokens.len(), tokens: &prompt[1 - slot..=1 - slot], scores: 1 }])?;
        alone.push(forward.scores(0, 0).to_vec());
        // Again from the begin: a fixed state cannot take its last token back.
        forward.forward(&[Row { slot, past: 0, tokens, scores: 0 }])?;
    }
    forward.forward(&[
        Row { slot: 0, past: 1, tokens: &prompt[1..2], scores: 1 },
        Row { slot: 1, past: 2, tokens: &prompt[0..1], scores: 1 },
    ])?;
    let differences = (0..2).map(|row| selfcheck::difference(&alone[row], forward.scores(row, 0)));
    Ok(differences.fold(0.0, f32::max))
}
