//! The model by itself: reading prompts, one step of one and of many streams. Random tokens, so that a
//! mixture-of-experts model touches its experts as it would in use.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::cli::bench::Bench;
use crate::cli::bench::load::STREAMS_MAX;
use crate::cli::bench::report::{Report, memory};
use crate::engine::forward::{Forward, ForwardError, Row, Shape};
use crate::engine::sampler::most_likely;
use crate::fault::Fault;

const PROMPTS: [usize; 3] = [128, 512, 2048];
const STREAMS: [usize; 6] = [1, 2, 4, 8, 16, STREAMS_MAX];
const CONTEXTS: [usize; 3] = [128, 1024, 4096];
/// Tokens that the first stream holds before it decodes; each further one holds some more.
const PAST: usize = 128;
const RAGGED_BY: usize = 7;
/// Steps of one sample.
const STEPS: usize = 32;

/// Prefill, decode and context rows, and the memory that a loaded model with eight short streams takes.
pub(super) fn measure(bench: &Bench, forward: &mut dyn Forward, report: &mut Report) -> Result<(), Fault> {
    let mut random = ChaCha8Rng::seed_from_u64(bench.seed);
    let failed = |error: ForwardError| Fault::machine(format!("measuring: {error}"));
    let Shape { context, slots, .. } = forward.shape();
    for tokens in PROMPTS.into_iter().filter(|tokens| *tokens < context) {
        let name = format!("prefill_{tokens}");
        if bench.wants(&name) {
            for _ in 0..bench.rounds {
                let seconds = read(forward, 0, tokens, &mut random).map_err(failed)?;
                report.sample(&name, "tokens/s", count(tokens) / seconds);
            }
        }
    }
    for streams in STREAMS.into_iter().filter(|streams| *streams <= slots) {
        let name = format!("decode_{streams}");
        let longest = PAST + RAGGED_BY * (streams - 1) + STEPS;
        if bench.wants(&name) && longest < context {
            let pasts: Vec<usize> = (0..streams).map(|stream| PAST + RAGGED_BY * stream).collect();
            decode(bench, forward, &pasts, &name, &mut random, report).map_err(failed)?;
        }
        if streams == 8 && bench.wants("memory") {
            for (kind, bytes) in memory()? {
                report.sample(&format!("memory_{kind}"), "MB", bytes / 1e6);
            }
        }
    }
    for past in CONTEXTS.into_iter().filter(|past| past + STEPS < context) {
        let name = format!("context_{past}");
        if bench.wants(&name) {
            decode(bench, forward, &[past], &name, &mut random, report).map_err(failed)?;
        }
    }
    Ok(())
}

/// Reads a prompt of random tokens into a slot, in the engine's pieces; returns seconds.
fn read(forward: &mut dyn Forward, slot: usize, tokens: usize, random: &mut ChaCha8Rng) -> Result<f64, ForwardError> {
    let shape = forward.shape();
    let prompt: Vec<u32> = (0..tokens).map(|_| token(random, shape.vocabulary)).collect();
    let started = Instant::now();
    let mut past = 0;
    for piece in prompt.chunks(shape.row_max) {
        let scores = usize::from(past + piece.len() == tokens);
        forward.forward(&[Row { slot, past, tokens: piece, scores }])?;
        past += piece.len();
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Decodes streams that hold so many tokens each, one batch a step, the model's best token looked for as the sampler does.
fn decode(
    bench: &Bench,
    forward: &mut dyn Forward,
    pasts: &[usize],
    name: &str,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<(), ForwardError> {
    let vocabulary = forward.shape().vocabulary;
    // The longest stream is read, the others begin as it does.
    read(forward, 0, pasts.iter().copied().max().unwrap_or(PAST), random)?;
    for (slot, past) in pasts.iter().enumerate().skip(1) {
        forward.copy_slot(0, slot, *past);
    }
    for round in 0..=bench.rounds {
        let tokens: Vec<Vec<u32>> =
            (0..STEPS).map(|_| pasts.iter().map(|_| token(random, vocabulary)).collect()).collect();
        let mut started = Instant::now();
        for (step, tokens) in tokens.iter().enumerate() {
            // What a model that does not rewind has read stays read: its streams are a little longer in later rounds.
            let grown = if forward.shape().rewinds { step } else { usize::from(round) * STEPS + step };
            let rows: Vec<Row<'_>> = pasts
                .iter()
                .zip(tokens)
                .enumerate()
                .map(|(slot, (past, token))| Row {
                    slot,
                    past: past + grown,
                    tokens: std::slice::from_ref(token),
                    scores: 1,
                })
                .collect();
            if step == 0 {
                started = Instant::now();
            }
            forward.forward(&rows)?;
            for row in 0..pasts.len() {
                std::hint::black_box(most_likely(forward.scores(row, 0)).ok());
            }
        }
        // The first round warms up.
        if round > 0 {
            report.sample(name, "tokens/s", count(STEPS * pasts.len()) / started.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

fn token(random: &mut ChaCha8Rng, vocabulary: usize) -> u32 {
    // Vocabularies are far below 2^32; what the remainder prefers does not matter here.
    random.next_u32() % u32::try_from(vocabulary).unwrap_or(u32::MAX)
}

/// A count as a number to divide. Counts here are far below 2^32.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
