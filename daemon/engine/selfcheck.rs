//! What a model must show before READY: golden tokens on the provider in use; that a prompt read whole, in pieces and among
//! others of other lengths comes to the same scores; and which of these agree bit for bit.

use std::time::{Duration, Instant};

use crate::engine::forward::{Forward, ForwardError, Row, Shape};
use crate::engine::sampler::most_likely;
use crate::fault::Fault;
use crate::model::manifest::Golden;

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Golden prompts answered as expected; 0: the folder has none for this provider.
    pub golden: usize,
    /// Whether one-token rows of a batch have the bits of the same rows alone.
    pub batch_invariant: bool,
    /// Whether pieces of two tokens or more leave the bits of the prompt read whole.
    pub chunk_invariant: bool,
}

/// Tokens of the made-up prompts; long enough that a wrong cache position shows.
const PROBE_TOKENS: usize = 24;
/// Where reading one such prompt takes longer than [`PROBE_TIME_MAX`], the others have this many, so that the whole check
/// stays near a second. At least 6: two cuts into pieces of two tokens or more.
const PROBE_TOKENS_SHORT: usize = 8;
const PROBE_TIME_MAX: Duration = Duration::from_millis(60);
/// Sizes of batches that are compared with their rows alone, beside the largest there can be: kernels choose their path by it.
const PROBE_ROWS: [usize; 4] = [2, 3, 5, 8];
/// The length of pieces that a long prompt is compared in with itself read whole, and how long that may take.
const LONG_PIECE: usize = 64;
const LONG_TIME_MAX: Duration = Duration::from_millis(400);
/// Steps decoded after a made-up prompt.
const PROBE_STEPS: usize = 4;
/// Scores may differ by this many of their own standard deviations: rounding, not error. Measured at worst: 0.2 in int4 with
/// four of many experts, where rounding moves a token to another expert; 1e-5 in fp32. A wrong position moves scores by
/// whole deviations.
pub(super) const TOLERANCE: f32 = 0.5;

/// Runs all checks. The cache holds nothing of value before or after.
pub fn check(forward: &mut dyn Forward, golden: &[Golden], provider: &str) -> Result<Findings, Fault> {
    let failed = |error: ForwardError| Fault::config(format!("the model's self-test: {error}"));
    let golden: Vec<(&[u32], &[u32])> = golden
        .iter()
        .filter_map(|golden| Some((golden.prompt.as_slice(), golden.expected.get(provider)?.as_slice())))
        .collect();
    let context = forward.shape().context;
    if let Some(longest) = golden.iter().map(|(prompt, expected)| prompt.len() + expected.len()).max()
        && longest > context
    {
        return Err(Fault::config(format!(
            "the model's golden prompts and their answers have up to {longest} tokens, the context has {context}"
        ))
        .hint("raise `engine.context_max`, or set it to 0 for the model's own"));
    }
    for (number, (prompt, expected)) in golden.iter().enumerate() {
        let tokens = greedy(forward, prompt, expected.len()).map_err(failed)?;
        if let Some(at) = (0..expected.len()).find(|at| tokens[*at] != expected[*at]) {
            return Err(Fault::config(format!(
                "golden prompt {} gave token {} at step {at}, the manifest expects {} on `{provider}`",
                number + 1,
                tokens[at],
                expected[at]
            ))
            .hint("this runtime or provider computes the model wrongly; see `moed check --models`"));
        }
    }
    let length = probe_length(forward).map_err(failed)?;
    let short = pieces_equal_whole(forward, length).map_err(failed)??;
    let chunk_invariant = short && long_pieces_equal_whole(forward).map_err(failed)??;
    if forward.shape().ragged {
        ragged_equals_whole(forward, length).map_err(failed)??;
    }
    let batch_invariant = rows_equal_alone(forward, length).map_err(failed)??;
    Ok(Findings { golden: golden.len(), batch_invariant, chunk_invariant })
}

/// The largest difference of two sets of scores, in standard deviations of the first. Infinite where any is no number.
pub(super) fn difference(scores: &[f32], others: &[f32]) -> f32 {
    // Counted as floats: a vocabulary is far below 2^24.
    let (count, sum) = scores.iter().fold((0.0_f32, 0.0), |(count, sum), score| (count + 1.0, sum + score));
    let mean = sum / count;
    let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f32>() / count).sqrt();
    let largest = scores.iter().zip(others).map(|(a, b)| (a - b).abs());
    // `max` would pass over what is no number.
    let largest = largest.fold(0.0, |most, next| if next > most || next.is_nan() { next } else { most });
    let relative = if largest == 0.0 { 0.0 } else { largest / deviation };
    if relative.is_nan() || deviation.is_nan() { f32::INFINITY } else { relative }
}

/// A made-up prompt: ids that any vocabulary has.
pub(super) fn probe(shape: &Shape, stride: u32, length: usize) -> Vec<u32> {
    let vocabulary = narrow(shape.vocabulary).max(2);
    (1..=narrow(length)).map(|index| (index * stride + 1) % vocabulary).collect()
}

/// Decodes `steps` tokens after a prompt, always the most likely one.
fn greedy(forward: &mut dyn Forward, prompt: &[u32], steps: usize) -> Result<Vec<u32>, ForwardError> {
    let mut tokens: Vec<u32> = Vec::with_capacity(steps);
    let mut logits = read(forward, 0, 0, prompt)?;
    while tokens.len() < steps {
        // Scores that are no numbers give a token that no golden prompt expects for long.
        tokens.push(most_likely(&logits).unwrap_or(0));
        if tokens.len() < steps {
            let past = prompt.len() + tokens.len() - 1;
            logits = read(forward, 0, past, &tokens[tokens.len() - 1..])?;
        }
    }
    Ok(tokens)
}

/// Reads tokens into a slot, in pieces where a row cannot hold them, and copies the scores after the last.
fn read(forward: &mut dyn Forward, slot: usize, past: usize, tokens: &[u32]) -> Result<Vec<f32>, ForwardError> {
    let mut past = past;
    for piece in tokens.chunks(forward.shape().row_max) {
        forward.forward(&[Row { slot, past, tokens: piece, scores: 1 }])?;
        past += piece.len();
    }
    Ok(forward.scores(0, 0).to_vec())
}

/// How long made-up prompts may be on this machine, in this context.
fn probe_length(forward: &mut dyn Forward) -> Result<usize, ForwardError> {
    let shape = forward.shape();
    let most = PROBE_TOKENS.min(shape.context / 2).min(shape.row_max).max(1);
    let started = Instant::now();
    read(forward, 0, 0, &probe(&shape, 3, most))?;
    Ok(if started.elapsed() > PROBE_TIME_MAX { most.min(PROBE_TOKENS_SHORT) } else { most })
}

/// A refusal where scores are not what the prompt read whole has.
fn agree(whole: &[f32], other: &[f32], how: &str) -> Result<(), Fault> {
    let difference = difference(whole, other);
    if difference <= TOLERANCE {
        return Ok(());
    }
    Err(Fault::config(format!(
        "the model's self-test: scores after a prompt read {how} differ by {difference} standard deviations from those read whole, the most is {TOLERANCE}"
    ))
    .hint("this runtime computes the graph wrongly; export it again or use the pinned runtime"))
}

fn same_bits(one: &[f32], other: &[f32]) -> bool {
    one.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Reads a prompt whole and cut in several places, no piece shorter than two tokens. Whether all left the same bits.
fn pieces_equal_whole(forward: &mut dyn Forward, length: usize) -> Result<Result<bool, Fault>, ForwardError> {
    let shape = forward.shape();
    let mut bits = true;
    for stride in [7, 11] {
        let prompt = probe(&shape, stride, length);
        let whole = read(forward, 0, 0, &prompt)?;
        let mut cuts = vec![2, length / 3, length / 2, length.saturating_sub(2)];
        cuts.dedup();
        for cut in cuts.into_iter().filter(|cut| *cut >= 2 && cut + 2 <= length) {
            read(forward, 0, 0, &prompt[..cut])?;
            let pieces = read(forward, 0, cut, &prompt[cut..])?;
            if let Err(fault) = agree(&whole, &pieces, "in pieces") {
                return Ok(Err(fault));
            }
            bits &= same_bits(&whole, &pieces);
        }
    }
    Ok(Ok(bits))
}

/// Reads a prompt as long as a row can be whole and in pieces of [`LONG_PIECE`]; kernels choose their path by the length.
/// Whether both left the same bits; no where finding out would take too long.
fn long_pieces_equal_whole(forward: &mut dyn Forward) -> Result<Result<bool, Fault>, ForwardError> {
    let shape = forward.shape();
    let length = shape.row_max.min(shape.context);
    if length <= LONG_PIECE {
        return Ok(Ok(true));
    }
    let prompt = probe(&shape, 13, length);
    let started = Instant::now();
    let mut past = 0;
    let mut pieces = Vec::new();
    while past < length {
        // No single token may be left over.
        let end = if length - past <= LONG_PIECE + 1 { length } else { past + LONG_PIECE };
        pieces = read(forward, 0, past, &prompt[past..end])?;
        past = end;
        if started.elapsed() > LONG_TIME_MAX {
            return Ok(Ok(false));
        }
    }
    let whole = read(forward, 0, 0, &prompt)?;
    Ok(agree(&whole, &pieces, "in long pieces").map(|()| same_bits(&whole, &pieces)))
}

/// Reads prompts of several lengths in one run, each after a past of its own, and compares each with itself read whole.
fn ragged_equals_whole(forward: &mut dyn Forward, length: usize) -> Result<Result<(), Fault>, ForwardError> {
    let shape = forward.shape();
    let rows = shape.slots.min(4);
    if rows < 2 || length < 6 {
        return Ok(Ok(()));
    }
    let mut wholes = Vec::new();
    let mut prompts = Vec::new();
    for slot in 0..rows {
        let prompt = probe(&shape, 5 + narrow(slot), length - slot);
        wholes.push(read(forward, slot, 0, &prompt)?);
        prompts.push(prompt);
    }
    // Nothing, one token, half, and all but one come before.
    let pasts = [0, 1, length / 2, length - 4];
    let batch: Vec<Row<'_>> = prompts
        .iter()
        .zip(pasts)
        .enumerate()
        .map(|(slot, (prompt, past))| Row { slot, past, tokens: &prompt[past..], scores: 1 })
        .collect();
    forward.forward(&batch)?;
    for (row, whole) in wholes.iter().enumerate() {
        if let Err(fault) = agree(whole, forward.scores(row, 0), "in a batch of several lengths") {
            return Ok(Err(fault));
        }
    }
    Ok(Ok(()))
}

/// Whether rows of different pasts, decoded together, give the same bits as each alone: two, and as many as a batch may have
/// (kernels choose their path by the number of rows).
fn rows_equal_alone(forward: &mut dyn Forward, length: usize) -> Result<Result<bool, Fault>, ForwardError> {
    let shape = forward.shape();
    let most = shape.slots;
    if !shape.batches || most < 2 {
        // Every row runs alone.
        return Ok(Ok(true));
    }
    // Every other one is shorter, so that the batch is ragged.
    let prompts: Vec<Vec<u32>> = (0..most)
        .map(|slot| probe(&shape, 3 + 2 * narrow(slot), if slot % 2 == 0 { length } else { length.div_ceil(2) }))
        .collect();
    let steps = PROBE_STEPS.min(shape.context - length);
    // Scores by slot and step.
    let mut alone: Vec<Vec<Vec<f32>>> = Vec::new();
    for (slot, prompt) in prompts.iter().enumerate() {
        read(forward, slot, 0, prompt)?;
        let decode = (0..steps).map(|step| read(forward, slot, prompt.len() + step, &[next_probe(&shape, step, slot)]));
        alone.push(decode.collect::<Result<_, _>>()?);
    }
    let mut bits = true;
    for rows in PROBE_ROWS.into_iter().filter(|rows| *rows < most).chain([most]) {
        for (slot, prompt) in prompts.iter().enumerate().take(rows) {
            // A fixed state takes no token back: from the begin again.
            if !shape.rewinds {
                read(forward, slot, 0, prompt)?;
            }
        }
        for step in 0..steps {
            let tokens: Vec<[u32; 1]> = (0..rows).map(|slot| [next_probe(&shape, step, slot)]).collect();
            let batch: Vec<Row<'_>> = (0..rows)
                .map(|slot| Row { slot, past: prompts[slot].len() + step, tokens: &tokens[slot], scores: 1 })
                .collect();
            forward.forward(&batch)?;
            for (row, alone) in alone.iter().enumerate().take(rows) {
                let scores = forward.scores(row, 0);
                if let Err(fault) = agree(&alone[step], scores, "in a batch") {
                    return Ok(Err(fault));
                }
                bits &= same_bits(&alone[step], scores);
            }
        }
    }
    Ok(Ok(bits))
}

/// Any token, another one at each step and slot, so that many experts have their say.
fn next_probe(shape: &Shape, step: usize, slot: usize) -> u32 {
    narrow((step + 1) * 7919 + slot * 104_729) % narrow(shape.vocabulary).max(2)
}

/// A small count as a token id.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the numbers are chosen so that nothing is rounded")]
    fn scores_are_compared_by_their_own_spread_and_a_score_that_is_no_number_is_infinitely_off() {
        assert_eq!(difference(&[1.0, -1.0], &[1.0, -1.0]), 0.0);
        assert_eq!(difference(&[1.0, -1.0], &[1.0, -0.5]), 0.5);
        assert_eq!(difference(&[100.0, -100.0], &[100.0, -50.0]), 0.5);
        assert_eq!(difference(&[1.0, -1.0], &[f32::NAN, -1.0]), f32::INFINITY);
        assert_eq!(difference(&[f32::NAN, -1.0], &[1.0, -1.0]), f32::INFINITY);
        assert_eq!(difference(&[1.0, 1.0], &[2.0, 1.0]), f32::INFINITY);
    }
}
