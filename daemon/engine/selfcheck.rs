//! What a model must show before READY: golden tokens on the provider in use, or, without golden prompts, that reading whole,
//! in pieces and in a batch agree; and whether a batch's rows come out bit-equal to the same rows alone.

use crate::engine::forward::{Forward, ForwardError, Row};
use crate::fault::Fault;
use crate::model::manifest::Golden;

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Golden prompts answered as expected; 0: the folder has none for this provider.
    pub golden: usize,
    pub batch_invariant: bool,
}

/// Reads one row and copies the scores after its last token.
fn last(
    forward: &mut dyn Forward,
    slot: usize,
    past: usize,
    tokens: &[u32],
    logits: &mut Vec<f32>,
) -> Result<(), ForwardError> {
    forward.forward(&[Row { slot, past, tokens, scores: 1 }])?;
    logits.clear();
    logits.extend_from_slice(forward.scores(0, 0));
    Ok(())
}

/// Tokens of the made-up prompts; long enough that a wrong cache position shows.
const PROBE_TOKENS: usize = 24;
/// Rows of the largest batch that is compared with its rows alone.
const PROBE_ROWS_MAX: usize = 8;
/// Steps decoded after a made-up prompt.
const PROBE_STEPS: usize = 4;
/// Scores may differ by this much between whole and in pieces: rounding, not error. Measured: 2.4e-6 in fp32, 0.12 at worst
/// in int4; a wrong position moves scores by whole units.
const TOLERANCE: f32 = 0.5;

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
    if golden.is_empty() {
        whole_equals_pieces(forward).map_err(failed)??;
    }
    let batch_invariant = rows_equal_alone(forward).map_err(failed)?;
    Ok(Findings { golden: golden.len(), batch_invariant })
}

/// Decodes `steps` tokens after a prompt, always the most likely one.
fn greedy(forward: &mut dyn Forward, prompt: &[u32], steps: usize) -> Result<Vec<u32>, ForwardError> {
    let mut logits = Vec::new();
    let mut tokens: Vec<u32> = Vec::with_capacity(steps);
    read(forward, 0, 0, prompt, &mut logits)?;
    while tokens.len() < steps {
        tokens.push(best(&logits));
        if tokens.len() < steps {
            let past = prompt.len() + tokens.len() - 1;
            last(forward, 0, past, &tokens[tokens.len() - 1..], &mut logits)?;
        }
    }
    Ok(tokens)
}

/// Reads a prompt into a slot, in pieces where a row cannot hold it.
fn read(
    forward: &mut dyn Forward,
    slot: usize,
    past: usize,
    tokens: &[u32],
    logits: &mut Vec<f32>,
) -> Result<(), ForwardError> {
    let mut past = past;
    for piece in tokens.chunks(forward.shape().row_max) {
        last(forward, slot, past, piece, logits)?;
        past += piece.len();
    }
    Ok(())
}

fn whole_equals_pieces(forward: &mut dyn Forward) -> Result<Result<(), Fault>, ForwardError> {
    let prompt = probe(forward, 7);
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    read(forward, 0, 0, &prompt, &mut whole)?;
    let cut = prompt.len() / 3;
    read(forward, 0, 0, &prompt[..cut], &mut pieces)?;
    read(forward, 0, cut, &prompt[cut..], &mut pieces)?;
    let difference = whole.iter().zip(&pieces).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if difference.is_nan() || difference > TOLERANCE {
        return Ok(Err(Fault::config(format!(
            "the model's self-test: scores after a prompt read in pieces differ by {difference} from those read whole, the most is {TOLERANCE}"
        ))
        .hint("this engine needs a graph whose attention writes into a shared past/present buffer (GroupQueryAttention)")));
    }
    Ok(Ok(()))
}

/// Whether ragged rows, decoded together, give the same bits as each alone: two, and as many as a batch may have (kernels
/// choose their path by the number of rows).
fn rows_equal_alone(forward: &mut dyn Forward) -> Result<bool, ForwardError> {
    let most = forward.shape().slots.min(PROBE_ROWS_MAX);
    let mut logits = Vec::new();
    // Scores by slot and step.
    let mut alone: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut lengths = Vec::new();
    for slot in 0..most {
        let prompt = probe(forward, 3 + 2 * narrow(slot));
        // Every other one is shorter, so that the batch is ragged.
        let prompt = if slot % 2 == 0 { &prompt[..] } else { &prompt[..prompt.len().div_ceil(2)] };
        let mut steps = Vec::new();
        read(forward, slot, 0, prompt, &mut logits)?;
        for step in 0..PROBE_STEPS {
            let token = [next_probe(step, slot)];
            last(forward, slot, prompt.len() + step, &token, &mut logits)?;
            steps.push(logits.clone());
        }
        alone.push(steps);
        lengths.push(prompt.len());
    }
    for rows in [2, most] {
        for step in 0..if rows <= most { PROBE_STEPS } else { 0 } {
            let tokens: Vec<[u32; 1]> = (0..rows).map(|slot| [next_probe(step, slot)]).collect();
            let batch: Vec<Row<'_>> = (0..rows)
                .map(|slot| Row { slot, past: lengths[slot] + step, tokens: &tokens[slot], scores: 1 })
                .collect();
            forward.forward(&batch)?;
            for (row, alone) in alone.iter().enumerate().take(rows) {
                if forward.scores(row, 0).iter().zip(&alone[step]).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// A made-up prompt: ids that any vocabulary has.
fn probe(forward: &dyn Forward, stride: u32) -> Vec<u32> {
    let vocabulary = u32::try_from(forward.shape().vocabulary).unwrap_or(u32::MAX).max(2);
    let length = narrow(PROBE_TOKENS.min(forward.shape().context / 2).max(1));
    (1..=length).map(|index| (index * stride + 1) % vocabulary).collect()
}

fn next_probe(step: usize, slot: usize) -> u32 {
    narrow(step + slot) % 2
}

/// A small count as a token id.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

fn best(logits: &[f32]) -> u32 {
    (0_u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(token, _)| token)
}
