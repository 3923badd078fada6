//! Scores to token. Pure: the same scores, settings, history and random numbers give the same token on every machine.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use thiserror::Error;

use crate::job::Sampling;

/// Scores that no token can be chosen from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SampleError {
    #[error("the model's scores hold {0} values that are no numbers or beyond all numbers")]
    NotANumber(usize),
    #[error("no token is allowed")]
    Nothing,
}

/// Chooses one sequence's tokens.
pub struct Sampler {
    settings: Sampling,
    random: ChaCha8Rng,
    /// How often each token has been seen: `(in the answer, in prompt or answer)`; empty when no penalty is set.
    seen: Vec<(u32, u32)>,
    /// Scratch: the candidates of a step, `(score, token)`.
    candidates: Vec<(f32, u32)>,
    /// Scratch: what each candidate weighs when one is drawn.
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler that starts from `seed`; `prompt` counts for the repetition penalty.
    pub fn new(settings: Sampling, seed: u64, vocabulary: usize, prompt: &[u32]) -> Self {
        let penalised = settings.repetition_penalty.to_bits() != 1.0_f32.to_bits()
            || settings.presence_penalty != 0.0
            || settings.frequency_penalty != 0.0;
        let mut counts = Vec::new();
        if penalised {
            counts.resize(vocabulary, (0, 0));
            for token in prompt {
                counts[*token as usize].1 += 1;
            }
        }
        Self {
            settings,
            random: ChaCha8Rng::seed_from_u64(seed),
            seen: counts,
            candidates: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Chooses from `scores` (`[vocabulary]`, changed in place); tokens in `banned` are never chosen.
    pub fn sample(&mut self, scores: &mut [f32], banned: &[u32]) -> Result<u32, SampleError> {
        let broken = count_broken(scores);
        if broken > 0 {
            return Err(SampleError::NotANumber(broken));
        }
        for token in banned {
            if let Some(score) = scores.get_mut(*token as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        self.penalise(scores);
        let token = if self.settings.temperature <= 0.0 { most_likely(scores)? } else { self.draw(scores)? };
        self.note(token);
        Ok(token)
    }

    /// A token is part of the answer, chosen here or not.
    pub fn note(&mut self, token: u32) {
        if let Some((answered, all)) = self.seen.get_mut(token as usize) {
            *answered += 1;
            *all += 1;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a token's count in one answer is far below 2^24")]
    fn penalise(&self, scores: &mut [f32]) {
        for (score, (answered, all)) in scores.iter_mut().zip(&self.seen) {
            if *all > 0 {
                let penalty = self.settings.repetition_penalty;
                *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
            }
            if *answered > 0 {
                *score -= self.settings.presence_penalty + self.settings.frequency_penalty * *answered as f32;
            }
        }
    }

    /// Temperature last, after the cuts: as in llama.cpp, so that a hotter answer does not let in worse candidates.
    fn draw(&mut self, scores: &[f32]) -> Result<u32, SampleError> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let candidates = &mut self.candidates;
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = if min_p > 0.0 { top + min_p.ln() } else { f32::NEG_INFINITY };
        let least = least.max(floor_of_best(scores, top_k));
        candidates.clear();
        candidates.extend(
            (0_u32..)
                .zip(scores)
                .filter(|(_, score)| **score > f32::NEG_INFINITY && **score >= least)
                .map(|(token, score)| (*score, token)),
        );
        if candidates.is_empty() {
            return Err(SampleError::Nothing);
        }
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_score);
            candidates.truncate(top_k);
            candidates.sort_unstable_by(by_score);
        }
        if top_p < 1.0 {
            keep_mass(candidates, top, f64::from(top_p));
        }
        // Once each, since a vocabulary has tens of thousands: `exp` is most of what drawing costs.
        self.weights.clear();
        self.weights
            .extend(candidates.iter().map(|(score, _)| (f64::from(score - top) / f64::from(temperature)).exp()));
        let mut rest = unit(&mut self.random) * self.weights.iter().sum::<f64>();
        for ((_, token), weight) in candidates.iter().zip(&self.weights) {
            rest -= weight;
            if rest < 0.0 {
                return Ok(*token);
            }
        }
        // Rounding may leave a hair; the last candidate owns it.
        candidates.last().map(|(_, token)| *token).ok_or(SampleError::Nothing)
    }
}

/// How many scores are no numbers or beyond all numbers: half precision that runs over leaves infinities, and next to them no
/// other score means anything. Without branches, as in [`most_likely`].
fn count_broken(scores: &[f32]) -> usize {
    let broken = |score: &f32| u32::from(score.is_nan() || *score == f32::INFINITY);
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut counts = [0_u32; LANES];
    for chunk in chunks {
        for (count, score) in counts.iter_mut().zip(chunk) {
            *count += broken(score);
        }
    }
    counts.into_iter().chain(rest.iter().map(broken)).map(|count| count as usize).sum()
}

/// A score that at least `count` others reach: the `count`-th best of the best of every [`LANES`] scores. What lies below it is
/// not among the `count` best, and need not be looked at; minus infinity where nothing is gained by it.
fn floor_of_best(scores: &[f32], count: usize) -> f32 {
    let (chunks, _) = scores.as_chunks::<LANES>();
    if count == 0 || count >= chunks.len() {
        return f32::NEG_INFINITY;
    }
    let best = |chunk: &[f32; LANES]| {
        chunk.iter().fold(f32::NEG_INFINITY, |top, score| if *score > top { *score } else { top })
    };
    let mut bests: Vec<f32> = chunks.iter().map(best).collect();
    *bests.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one)).1
}

/// The higher score first; ties in the order of the ids, so that the result does not depend on how a sort goes about it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "what sorting asks for")]
fn by_score(one: &(f32, u32), other: &(f32, u32)) -> Ordering {
    other.0.total_cmp(&one.0).then(one.1.cmp(&other.1))
}

/// How many of the best candidates are sorted at first to find the likely ones; four times as many each time it was not enough.
const MASS_SORTED_FIRST: usize = 64;

/// Keeps the most likely candidates that together have this share of all, one at least.
fn keep_mass(candidates: &mut Vec<(f32, u32)>, top: f32, share: f64) {
    let weight = |score: f32| f64::from(score - top).exp();
    let wanted = share * candidates.iter().map(|(score, _)| weight(*score)).sum::<f64>();
    let mut sorted = MASS_SORTED_FIRST;
    loop {
        let all = sorted >= candidates.len();
        if !all {
            candidates.select_nth_unstable_by(sorted - 1, by_score);
        }
        let end = if all { candidates.len() } else { sorted };
        candidates[..end].sort_unstable_by(by_score);
        let (mut sum, mut keep) = (0.0, 0);
        while keep < end && sum < wanted {
            sum += weight(candidates[keep].0);
            keep += 1;
        }
        if all || sum >= wanted {
            return candidates.truncate(keep.max(1));
        }
        sorted *= 4;
    }
}

/// Scores looked at side by side: what the widest vector registers hold, twice.
const LANES: usize = 32;

/// The first token with the highest score.
///
/// Two passes without a branch that depends on a score: a vocabulary has tens of thousands, and every answer of a batch asks.
pub fn most_likely(scores: &[f32]) -> Result<u32, SampleError> {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, score) in tops.iter_mut().zip(chunk) {
            *top = if *score > *top { *score } else { *top };
        }
    }
    let top = tops.iter().chain(rest).fold(f32::NEG_INFINITY, |top, score| if *score > top { *score } else { top });
    if top == f32::NEG_INFINITY {
        return Err(SampleError::Nothing);
    }
    let below = |chunk: &&[f32; LANES]| chunk.iter().map(|score| u32::from(*score >= top)).sum::<u32>() == 0;
    let skipped = chunks.iter().take_while(below).count();
    let at = scores[skipped * LANES..].iter().position(|score| *score >= top).ok_or(SampleError::Nothing)?;
    u32::try_from(skipped * LANES + at).map_err(|_| SampleError::Nothing)
}

/// A number in `[0, 1)` with 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A seed for a request that brought none.
pub fn draw_seed() -> u64 {
    ChaCha8Rng::from_os_rng().next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(settings: Sampling, seed: u64, scores: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings, seed, scores.len(), &[]);
        (0..count).map(|_| sampler.sample(&mut scores.to_vec(), &[]).unwrap()).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_best() {
        assert_eq!(tokens(Sampling::default(), 1, &[0.0, 3.0, 3.0, -1.0], 3), [1, 1, 1]);
    }

    #[test]
    fn the_first_of_the_best_is_found_wherever_it_stands() {
        for length in [1, 31, 32, 33, 64, 100] {
            for at in 0..length {
                let mut scores = vec![-1.0_f32; length];
                scores[at] = 2.0;
                if at + 1 < length {
                    scores[length - 1] = 2.0;
                }
                assert_eq!(most_likely(&scores).map(|token| token as usize), Ok(at), "{at} of {length}");
            }
        }
        assert_eq!(most_likely(&[f32::NEG_INFINITY; 40]), Err(SampleError::Nothing));
        assert_eq!(most_likely(&[]), Err(SampleError::Nothing));
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        let scores: Vec<f32> = (0..50_u8).map(|i| f32::from(i % 7)).collect();
        assert_eq!(tokens(hot.clone(), 7, &scores, 40), tokens(hot.clone(), 7, &scores, 40));
        assert_ne!(tokens(hot.clone(), 7, &scores, 40), tokens(hot, 8, &scores, 40));
    }

    #[test]
    fn drawn_tokens_follow_the_probabilities() {
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        let scores = [0.0_f32, 3.0_f32.ln(), f32::NEG_INFINITY];
        let drawn = tokens(hot, 3, &scores, 4000);
        let share = drawn.iter().filter(|token| **token == 1).count();
        assert!((2850..3150).contains(&share), "{share} of 4000, expected about 3000");
        assert!(!drawn.contains(&2));
    }

    #[test]
    fn cuts_keep_only_what_they_say() {
        let scores = [1.0, 5.0, 4.0, 3.9, -2.0];
        let hot = Sampling { temperature: 5.0, ..Sampling::default() };
        let allowed = |settings: Sampling, set: &[u32]| {
            let drawn = tokens(settings, 5, &scores, 400);
            assert!(drawn.iter().all(|token| set.contains(token)), "{drawn:?}");
            assert!(set.iter().all(|token| drawn.contains(token)), "{drawn:?}");
        };
        allowed(Sampling { top_k: 2, ..hot.clone() }, &[1, 2]);
        allowed(Sampling { min_p: 0.3, ..hot.clone() }, &[1, 2, 3]);
        // Shares at temperature 1: 57 %, 21 %, 19 %, 1 %, 0 %.
        allowed(Sampling { top_p: 0.6, ..hot.clone() }, &[1, 2]);
        allowed(Sampling { top_p: 0.01, ..hot }, &[1]);
    }

    #[test]
    fn the_best_few_are_the_same_whether_all_are_looked_at_or_not() {
        let scores: Vec<f32> =
            (0..4000_u32).map(|token| f32::from(u16::try_from(token * 7919 % 509).unwrap())).collect();
        for count in [1, 2, 40, 124, 125, 3999] {
            let floor = floor_of_best(&scores, count);
            assert!(scores.iter().filter(|score| **score >= floor).count() >= count, "{count}");
            let settings = Sampling { temperature: 40.0, top_k: count, ..Sampling::default() };
            let drawn = tokens(settings, 9, &scores, 200);
            let mut all: Vec<(f32, u32)> = (0..).zip(&scores).map(|(token, score)| (*score, token)).collect();
            all.sort_unstable_by(by_score);
            let best: Vec<u32> = all[..count].iter().map(|(_, token)| *token).collect();
            assert!(drawn.iter().all(|token| best.contains(token)), "{count}");
        }
        assert_eq!(floor_of_best(&scores, 0).to_bits(), f32::NEG_INFINITY.to_bits());
    }

    #[test]
    fn a_share_is_found_among_thousands_as_it_is_by_sorting_all() {
        let scores: Vec<f32> =
            (0..5000_u32).map(|token| f32::from(u16::try_from(token * 7919 % 5003).unwrap()) / 900.0).collect();
        for share in [0.01, 0.3, 0.8, 0.99] {
            let mut quick: Vec<(f32, u32)> = (0..).zip(&scores).map(|(token, score)| (*score, token)).collect();
            let mut slow = quick.clone();
            keep_mass(&mut quick, 5.6, share);
            slow.sort_unstable_by(by_score);
            let total: f64 = slow.iter().map(|(score, _)| f64::from(score - 5.6).exp()).sum();
            let mut sum = 0.0;
            let keep = slow.iter().take_while(|(score, _)| {
                let more = sum < share * total;
                sum += f64::from(score - 5.6).exp();
                more
            });
            let slow: Vec<(f32, u32)> = keep.copied().collect();
            assert!(quick == slow, "share {share}: {} and {} candidates", quick.len(), slow.len());
        }
    }

    #[test]
    fn penalties_push_back_what_was_said() {
        let presence = Sampling { presence_penalty: 2.0, ..Sampling::default() };
        assert_eq!(tokens(presence, 1, &[1.0, 0.5, 0.0], 3), [0, 1, 2]);
        let frequency = Sampling { frequency_penalty: 1.0, ..Sampling::default() };
        assert_eq!(tokens(frequency, 1, &[3.5, 2.0], 4), [0, 0, 1, 0]);
        let repetition = Sampling { repetition_penalty: 4.0, ..Sampling::default() };
        let mut sampler = Sampler::new(repetition, 1, 2, &[0]);
        assert_eq!(sampler.sample(&mut [4.0, 2.0], &[]), Ok(1));
    }

    #[test]
    fn scores_that_are_no_numbers_are_an_error_and_banned_tokens_are_never_taken() {
        let mut sampler = Sampler::new(Sampling::default(), 1, 3, &[]);
        assert_eq!(sampler.sample(&mut [0.0, f32::NAN, 1.0], &[]), Err(SampleError::NotANumber(1)));
        assert_eq!(sampler.sample(&mut [0.0, f32::INFINITY, 1.0], &[]), Err(SampleError::NotANumber(1)));
        let mut many = vec![f32::NAN; 70];
        many[3] = f32::NEG_INFINITY;
        assert_eq!(sampler.sample(&mut many, &[]), Err(SampleError::NotANumber(69)));
        assert_eq!(sampler.sample(&mut [0.0, 2.0, 1.0], &[1]), Ok(2));
        assert_eq!(sampler.sample(&mut [0.0, 2.0, 1.0], &[0, 1, 2]), Err(SampleError::Nothing));
    }
}
