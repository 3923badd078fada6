//! Prompt lookup: what followed the last few tokens when they stood in the text before is a guess at what follows now.
//!
//! A guess costs a wider step and saves whole ones where it is right, which it is where an answer copies its prompt. Whether
//! it pays is decided by two measurements: how often guesses have been right in this answer, and what the wider step costs on
//! this machine. Guesses are judged even while none is tried, so that an answer that begins to copy is noticed.

use std::collections::HashMap;

use crate::engine::pace::{Pace, WIDTH_MAX};

/// Tokens that must agree before the text after them is taken for a guess. Two match by chance too often, with four a copied
/// value is half over before the first guess.
const GRAM: usize = 3;
/// How much one judged guess moves the acceptance; about the last ten count.
const WEIGHT: f32 = 0.15;
/// Where an answer starts: the first right guess already makes trying worth while, the first wrong one does not.
const ACCEPTANCE_AT_FIRST: f32 = 0.4;

/// Guesses one answer's tokens from what stands before them.
#[derive(Debug)]
pub struct Drafter {
    /// Where each run of [`GRAM`] tokens was last followed by something: the index of what followed.
    seen: HashMap<[u32; GRAM], usize>,
    /// Tokens that are in `seen`.
    indexed: usize,
    acceptance: f32,
    /// What the last lookup found, to be judged by the next token.
    guess: Option<u32>,
}

impl Default for Drafter {
    fn default() -> Self {
        Self { seen: HashMap::new(), indexed: 0, acceptance: ACCEPTANCE_AT_FIRST, guess: None }
    }
}

impl Drafter {
    /// A guess at what follows `tokens`, as long as pays and at most `most`; often empty.
    pub fn guess<'a>(&mut self, tokens: &'a [u32], most: usize, pace: &Pace) -> &'a [u32] {
        // Where even guesses that are always right would not pay, none is looked for.
        if worth(1.0, pace, WIDTH_MAX - 1) == 0 {
            return &[];
        }
        self.index(tokens);
        self.guess = None;
        let Some(at) = last_gram(tokens).and_then(|gram| self.seen.get(&gram)).copied() else { return &[] };
        let follows = &tokens[at..];
        self.guess = follows.first().copied();
        let length = worth(self.acceptance, pace, most.min(follows.len()).min(WIDTH_MAX - 1));
        &follows[..length]
    }

    /// Judges the last lookup by the token that came.
    pub fn judge(&mut self, token: u32) {
        if let Some(guess) = self.guess.take() {
            self.count(guess == token);
        }
    }

    /// A guessed token was right or not.
    pub fn count(&mut self, right: bool) {
        self.acceptance += WEIGHT * (f32::from(u8::from(right)) - self.acceptance);
    }

    fn index(&mut self, tokens: &[u32]) {
        self.seen.reserve(tokens.len() - self.indexed.min(tokens.len()));
        // The run that ends at the last token has nothing behind it yet.
        while self.indexed + GRAM < tokens.len() {
            let at = self.indexed + GRAM;
            let gram: [u32; GRAM] = std::array::from_fn(|offset| tokens[self.indexed + offset]);
            self.seen.insert(gram, at);
            self.indexed += 1;
        }
    }
}

fn last_gram(tokens: &[u32]) -> Option<[u32; GRAM]> {
    tokens.last_chunk::<GRAM>().copied()
}

/// How many guessed tokens make the most of a step, when each is right with this probability if all before it were.
fn worth(acceptance: f32, pace: &Pace, most: usize) -> usize {
    let (mut best, mut best_rate) = (0, 1.0 / pace.cost(1));
    let (mut gain, mut likely) = (1.0, 1.0);
    for length in 1..=most {
        likely *= acceptance;
        gain += likely;
        let rate = gain / pace.cost(length + 1);
        if rate > best_rate {
            (best, best_rate) = (length, rate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Pace {
        Pace::of_costs(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7])
    }

    fn dear() -> Pace {
        Pace::of_costs(&[1.0, 1.7, 2.2, 2.7, 3.1, 3.5, 3.9, 4.2])
    }

    #[test]
    fn what_followed_before_is_the_guess() {
        let mut drafter = Drafter::default();
        assert!(drafter.guess(&[1, 2, 3, 9, 8, 7], 8, &cheap()).is_empty());
        let tokens = [1, 2, 3, 9, 8, 7, 5, 1, 2, 3];
        for _ in 0..20 {
            drafter.guess(&tokens, 8, &cheap());
            drafter.judge(9);
        }
        assert_eq!(drafter.guess(&tokens, 8, &cheap()), [9, 8, 7, 5, 1, 2, 3]);
        assert_eq!(drafter.guess(&tokens, 2, &cheap()), [9, 8], "never more than asked for");
    }

    #[test]
    fn guessing_stops_where_it_does_not_pay_and_starts_again_where_it_would() {
        let mut drafter = Drafter::default();
        let tokens = [1, 2, 3, 9, 8, 7, 1, 2, 3];
        for _ in 0..20 {
            drafter.guess(&tokens, 8, &cheap());
            drafter.judge(4);
        }
        assert!(drafter.guess(&tokens, 8, &cheap()).is_empty(), "wrong guesses end it");
        for _ in 0..20 {
            drafter.guess(&tokens, 8, &cheap());
            drafter.judge(9);
        }
        assert!(!drafter.guess(&tokens, 8, &cheap()).is_empty(), "it was judged all the while");
        let mut middling = Drafter::default();
        for round in 0..40 {
            middling.guess(&tokens, 8, &dear());
            middling.judge(if round % 2 == 0 { 9 } else { 4 });
        }
        assert!(middling.guess(&tokens, 8, &dear()).is_empty(), "half right does not pay for a step 1.7 times as long");
        assert!(!middling.guess(&tokens, 8, &cheap()).is_empty());
    }
}
