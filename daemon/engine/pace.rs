//! What a step costs on this machine: measured once at load, kept up to date by the steps themselves.
//!
//! Two decisions hang on it: how many prompt tokens one step reads (a running stream stands still for that long), and whether
//! a wider step is worth its guesses.

use std::time::{Duration, Instant};

use crate::engine::forward::{Forward, ForwardError, Row};

/// The widest step whose cost is known.
pub const WIDTH_MAX: usize = 8;
/// Pieces of a prompt that are tried, shortest first.
const CHUNKS: [usize; 5] = [64, 128, 256, 512, 1024];
/// Runs a figure is the median of.
const REPEATS: usize = 3;
/// A run that takes longer is not repeated: the start waits for it, and the clock is fine enough.
const LONG: Duration = Duration::from_millis(15);
/// How much one step moves a kept cost.
const WEIGHT: f32 = 0.05;
/// Steps after which a cost that was not seen again moves with those that were.
const STALE: u32 = 1000;
/// A shorter piece of a prompt says little about what a token takes.
const PIECE_MIN: u32 = 32;
/// A longer piece must read this much faster than a shorter one to be worth its stall.
const GAIN_MIN: f64 = 1.03;

/// Costs, in seconds.
#[derive(Clone, Debug)]
pub struct Pace {
    by_width: [f32; WIDTH_MAX],
    /// For each width, how many steps ago its cost was last seen, up to [`STALE`].
    seen: [u32; WIDTH_MAX],
    chunk: usize,
    token: Duration,
}

impl Pace {
    /// Costs that somebody knows already, for steps of 1, 2, … tokens.
    pub fn of_costs(by_width: &[f32; WIDTH_MAX]) -> Self {
        Self { by_width: *by_width, seen: [STALE; WIDTH_MAX], chunk: CHUNKS[0], token: Duration::ZERO }
    }

    /// A pace that was not measured: nothing is known to pay, and a prompt is read in pieces of `chunk` tokens.
    #[expect(clippy::cast_precision_loss, reason = "widths are below 9")]
    pub fn unmeasured(chunk: usize) -> Self {
        let by_width = std::array::from_fn(|index| index as f32 + 1.0);
        Self { by_width, seen: [STALE; WIDTH_MAX], chunk, token: Duration::ZERO }
    }

    /// Measures on an empty cache. `chunk` 0: the piece of a prompt that reads fastest without taking longer than `stall`.
    pub fn measure(forward: &mut dyn Forward, chunk: usize, stall: Duration) -> Result<Self, ForwardError> {
        let shape = forward.shape();
        // Ids that any vocabulary has; what they mean does not matter.
        let tokens = vec![1_u32; shape.row_max.min(shape.context)];
        let mut pace = Self::unmeasured(CHUNKS[0].min(tokens.len()));
        if shape.rewinds {
            let base = (shape.context / 4).min(128).min(shape.row_max);
            if base > 0 {
                forward.forward(&[Row { slot: 0, past: 0, tokens: &tokens[..base], scores: 0 }])?;
            }
            for width in 1..=WIDTH_MAX.min(tokens.len()).min(shape.context - base).min(shape.scores_max) {
                let took = median(forward, base, &tokens[..width], width)?;
                pace.by_width[width - 1] = took.as_secs_f32().max(1e-6);
            }
        }
        let set = [chunk];
        let lengths = if chunk == 0 { &CHUNKS[..] } else { &set[..] };
        (pace.chunk, pace.token) =
            piece(lengths, tokens.len(), stall, &mut |length| median(forward, 0, &tokens[..length], 1))?;
        Ok(pace)
    }

    /// What a step of so many tokens costs, in any unit; beyond what is known, as the widest known one.
    pub fn cost(&self, width: usize) -> f32 {
        self.by_width[width.clamp(1, WIDTH_MAX) - 1]
    }

    /// Prompt tokens that one step reads.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// What one prompt token takes to read, in a piece of [`Pace::chunk`].
    pub fn prompt_token(&self) -> Duration {
        self.token
    }

    /// The same with another figure for one prompt token.
    #[must_use]
    pub fn with_prompt_token(self, token: Duration) -> Self {
        Self { token, ..self }
    }

    /// A step of one sequence took so long. What was measured on a machine that was busy just then comes right by this: widths
    /// that are not tried keep their ratio to those that are.
    pub fn learn(&mut self, width: usize, took: Duration) {
        let Some(known) = width.checked_sub(1).and_then(|index| self.by_width.get(index)) else { return };
        let factor = 1.0 + WEIGHT * (took.as_secs_f32() / known.max(f32::MIN_POSITIVE) - 1.0);
        for (index, (cost, seen)) in self.by_width.iter_mut().zip(&mut self.seen).enumerate() {
            let own = index + 1 == width;
            *seen = if own { 0 } else { (*seen + 1).min(STALE) };
            if own || *seen == STALE {
                *cost *= factor;
            }
        }
    }

    /// A piece of a prompt took so long.
    pub fn learn_prompt(&mut self, tokens: usize, took: Duration) {
        if let Ok(tokens) = u32::try_from(tokens)
            && tokens >= PIECE_MIN
        {
            self.token = self.token.mul_f32(1.0 - WEIGHT) + (took / tokens).mul_f32(WEIGHT);
        }
    }
}

/// The piece of a prompt, of these lengths and no longer than `most`, that reads fastest without taking longer than `stall`, and
/// what one token of it takes. The shortest is taken however long it takes.
fn piece(
    lengths: &[usize],
    most: usize,
    stall: Duration,
    time: &mut dyn FnMut(usize) -> Result<Duration, ForwardError>,
) -> Result<(usize, Duration), ForwardError> {
    let mut best = None::<(f64, usize, Duration)>;
    for asked in lengths {
        let length = (*asked).min(most);
        let took = time(length)?;
        let count = u32::try_from(length).unwrap_or(u32::MAX);
        let rate = f64::from(count) / took.as_secs_f64().max(1e-9);
        // Where twice the length gains nothing, four times the length does not either.
        if best.is_some_and(|(best_rate, ..)| took > stall || rate <= best_rate * GAIN_MIN) {
            break;
        }
        best = Some((rate, length, took / count.max(1)));
        if length < *asked {
            break;
        }
    }
    Ok(best.map_or((most, Duration::ZERO), |(_, length, token)| (length, token)))
}

fn median(forward: &mut dyn Forward, past: usize, tokens: &[u32], scores: usize) -> Result<Duration, ForwardError> {
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let started = Instant::now();
        forward.forward(&[Row { slot: 0, past, tokens, scores }])?;
        times.push(started.elapsed());
        if times[0] > LONG {
            break;
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scripted::ScriptedForward;

    /// The piece where a step takes `base` ms and `token` µs for each token; `stall` in ms.
    fn chosen(base: u64, token: u64, stall: u64, most: usize) -> usize {
        let mut time = |length| Ok(Duration::from_millis(base) + Duration::from_micros(token * length as u64));
        piece(&CHUNKS, most, Duration::from_millis(stall), &mut time).unwrap().0
    }

    #[test]
    fn a_piece_is_the_fastest_that_keeps_a_stream_standing_still_no_longer_than_it_may() {
        assert_eq!(chosen(100, 1, 10_000, 4096), 1024, "the longer the faster");
        assert_eq!(chosen(2, 1000, 10_000, 4096), 64, "nothing gained by twice the length");
        assert_eq!(chosen(100, 200, 155, 4096), 256, "512 tokens take 202 ms, 256 take 151");
        assert_eq!(chosen(100, 1, 0, 4096), 64, "the shortest is read however long it takes");
        assert_eq!(chosen(100, 1, 10_000, 300), 300, "no longer than the cache");
        let mut forward = ScriptedForward::new(264, 4096, 2, Box::new(|_| 1));
        let set = Pace::measure(&mut forward, 100, Duration::ZERO).unwrap();
        assert_eq!(set.chunk(), 100, "a set piece stays");
        assert!(set.cost(1) > 0.0 && set.prompt_token() > Duration::ZERO);
    }

    #[test]
    fn what_was_measured_on_a_busy_machine_comes_right_by_the_steps_themselves() {
        let true_costs: [f32; WIDTH_MAX] = [0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01];
        let mut pace = Pace::of_costs(&true_costs.map(|cost| 5.0 * cost)).with_prompt_token(Duration::from_millis(5));
        let near = |found: f32, wanted: f32| (found / wanted - 1.0).abs() < 0.02;
        for _ in 0..200 {
            pace.learn(1, Duration::from_secs_f32(true_costs[0]));
            pace.learn_prompt(64, Duration::from_millis(64));
            pace.learn_prompt(2, Duration::from_secs(1));
        }
        assert!(near(pace.cost(1), true_costs[0]) && near(pace.cost(4), true_costs[3]), "{pace:?}");
        assert!(near(pace.prompt_token().as_secs_f32(), 0.001), "{pace:?}");
        // A width that is tried has a cost of its own again.
        for _ in 0..200 {
            pace.learn(4, Duration::from_secs_f32(true_costs[0]));
            pace.learn(1, Duration::from_secs_f32(true_costs[0]));
        }
        assert!(near(pace.cost(4), true_costs[0]) && near(pace.cost(1), true_costs[0]), "{pace:?}");
    }

    #[test]
    fn a_short_context_is_no_obstacle() {
        let mut forward = ScriptedForward::new(264, 16, 2, Box::new(|_| 1));
        assert_eq!(Pace::measure(&mut forward, 0, Duration::from_secs(1)).unwrap().chunk(), 16);
    }
}
