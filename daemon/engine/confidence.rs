//! How sure the model is of its answer: the probability of the least likely token that it chose, by its own scores, before any
//! rule or setting changes them. A rule that leaves one token says nothing of the model, but a rule that turns a refusal into a
//! call shows here: the token that it allows was an unlikely one.

/// Measures one answer, where that is wanted.
pub(super) struct Confidence {
    wanted: bool,
    /// The model's scores at the token that is being chosen, as it left them.
    scores: Vec<f32>,
    least: f32,
}

impl Confidence {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, scores: Vec::new(), least: 1.0 }
    }

    /// Looks at the scores before anything changes them.
    pub(super) fn note(&mut self, scores: &[f32]) {
        if self.wanted {
            self.scores.clear();
            self.scores.extend_from_slice(scores);
        }
    }

    /// This token was chosen by them.
    pub(super) fn weigh(&mut self, token: u32) {
        let Some(score) = self.scores.get(token as usize) else { return };
        let highest = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = self.scores.iter().map(|other| (other - highest).exp()).sum();
        let probability = (score - highest).exp() / sum;
        // Scores that are no numbers say nothing for the token.
        self.least = if probability.is_nan() { 0.0 } else { self.least.min(probability) };
    }

    /// The figure, 0 to 1; `None` where it is not wanted.
    pub(super) fn least(&self) -> Option<f32> {
        self.wanted.then_some(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_likely_token_counts_and_nothing_is_measured_unasked() {
        let mut confidence = Confidence::new(true);
        confidence.note(&[0.0, 3.0_f32.ln(), f32::NEG_INFINITY]);
        confidence.weigh(1);
        assert!((confidence.least().unwrap() - 0.75).abs() < 1e-6);
        confidence.weigh(0);
        assert!((confidence.least().unwrap() - 0.25).abs() < 1e-6);
        confidence.note(&[5.0, 5.0]);
        confidence.weigh(0);
        assert!((confidence.least().unwrap() - 0.25).abs() < 1e-6, "a surer token does not make up for it");
        confidence.note(&[f32::NAN, 1.0]);
        confidence.weigh(1);
        assert_eq!(confidence.least(), Some(0.0));
        let mut silent = Confidence::new(false);
        silent.note(&[1.0, 2.0]);
        silent.weigh(0);
        assert_eq!(silent.least(), None);
    }
}
