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

/// Tokens of the made-up prompts; long enough that a wrong cache position shows.
const PROBE_TOKENS: usize = 24;
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
            forward.forward(&[Row { slot: 0, past, tokens: &tokens[tokens.len() - 1..] }], &mut logits)?;
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
        forward.forward(&[Row { slot, past, tokens: piece }], logits)?;
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

/// Whether two ragged rows, decoded together, give the same bits as each alone.
fn rows_equal_alone(forward: &mut dyn Forward) -> Result<bool, ForwardError> {
    if forward.shape().slots < 2 {
        return Ok(true);
    }
    let prompts = [probe(forward, 3), probe(forward, 11)[..PROBE_TOKENS / 2].to_vec()];
    let mut logits = Vec::new();
    // Scores by slot and step.
    let mut alone: Vec<Vec<Vec<f32>>> = Vec::new();
    for (slot, prompt) in prompts.iter().enumerate() {
        let mut steps = Vec::new();
        read(forward, slot, 0, prompt, &mut logits)?;
        for step in 0..PROBE_STEPS {
            let token = [next_probe(step, slot)];
            forward.forward(&[Row { slot, past: prompt.len() + step, tokens: &token }], &mut logits)?;
            steps.push(logits.clone());
        }
        alone.push(steps);
    }
    let vocabulary = forward.shape().vocabulary;
    for step in 0..PROBE_STEPS {
        let tokens = [[next_probe(step, 0)], [next_probe(step, 1)]];
        let rows = [0, 1].map(|slot| Row { slot, past: prompts[slot].len() + step, tokens: &tokens[slot] });
        forward.forward(&rows, &mut logits)?;
        for (row, alone) in logits.chunks_exact(vocabulary).zip(&alone) {
            if row.iter().zip(&alone[step]).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// A made-up prompt: ids that any vocabulary has.
fn probe(forward: &dyn Forward, stride: u32) -> Vec<u32> {
    let vocabulary = u32::try_from(forward.shape().vocabulary).unwrap_or(u32::MAX).max(2);
    let length = u32::try_from(PROBE_TOKENS.min(forward.shape().context / 2)).unwrap_or(1);
    (1..=length).map(|index| (index * stride + 1) % vocabulary).collect()
}

fn next_probe(step: usize, slot: usize) -> u32 {
    u32::try_from(step + slot).unwrap_or(0) % 2
}

fn best(logits: &[f32]) -> u32 {
    (0_u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(token, _)| token)
}
