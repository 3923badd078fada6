//! One bit a token: may it come next?

/// Which tokens may come next, with the memory to say it again; made once for an answer, filled at every step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
    vocabulary: usize,
}

/// A view on a [`Mask`].
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    words: &'a [u32],
    vocabulary: usize,
}

impl Mask {
    /// A mask that allows nothing, over token ids below `vocabulary`.
    pub fn new(vocabulary: usize) -> Self {
        Self { words: vec![0; vocabulary.div_ceil(32)], vocabulary }
    }

    /// The view that bans and answers.
    pub fn allowed(&self) -> Allowed<'_> {
        Allowed { words: &self.words, vocabulary: self.vocabulary }
    }

    /// Takes the size of another vocabulary; keeps the memory where it is enough.
    pub(super) fn fit(&mut self, vocabulary: usize) {
        self.words.resize(vocabulary.div_ceil(32), 0);
        self.vocabulary = vocabulary;
    }

    pub(super) fn allow_all(&mut self) {
        self.words.fill(u32::MAX);
    }

    /// Allows these tokens and no others.
    pub fn allow_only(&mut self, tokens: &[u32]) {
        self.words.fill(0);
        for token in tokens.iter().map(|token| *token as usize).filter(|token| *token < self.vocabulary) {
            self.words[token / 32] |= 1 << (token % 32);
        }
    }

    /// Takes over packed bits; what is missing at the end is not allowed.
    pub(super) fn copy_from(&mut self, bits: &[u32]) {
        let length = self.words.len().min(bits.len());
        self.words[..length].copy_from_slice(&bits[..length]);
        self.words[length..].fill(0);
    }
}

impl Allowed<'_> {
    /// Whether the token may come next.
    pub fn contains(&self, token: u32) -> bool {
        let index = token as usize;
        index < self.vocabulary && self.words[index / 32] >> (index % 32) & 1 == 1
    }

    /// Sets the score of every token that may not come next to minus infinity; `scores[token]`.
    pub fn ban(&self, scores: &mut [f32]) {
        for (chunk, word) in scores.chunks_mut(32).zip(self.words.iter().chain(std::iter::repeat(&0))) {
            match *word {
                u32::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, score) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    /// The tokens that may come next, in order.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        (0..u32::try_from(self.vocabulary).unwrap_or(u32::MAX)).filter(|token| self.contains(*token))
    }

    /// How many tokens may come next.
    pub fn count(&self) -> usize {
        self.tokens().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_bans_what_it_does_not_hold_whatever_the_length_of_the_scores() {
        let mut mask = Mask::new(70);
        mask.allow_only(&[0, 33, 69, 70, 4000]);
        for length in [1, 32, 33, 64, 70, 96, 128] {
            let mut scores = vec![1.0; length];
            mask.allowed().ban(&mut scores);
            for (token, score) in scores.iter().enumerate() {
                let held = [0, 33, 69].contains(&token);
                assert_eq!(score.is_finite(), held, "token {token} of {length}");
                assert_eq!(mask.allowed().contains(u32::try_from(token).unwrap()), held);
            }
        }
        mask.allow_all();
        assert_eq!(mask.allowed().count(), 70);
        assert!(!mask.allowed().contains(70));
        mask.copy_from(&[1]);
        assert_eq!(mask.allowed().tokens().collect::<Vec<_>>(), [0]);
    }
}
