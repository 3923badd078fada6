//! The state of one answer.

use std::sync::Arc;

use llguidance::Matcher;

use super::compile::Blueprint;
use super::{Allowed, GrammarError, Mask};

/// Says which tokens one answer may go on with. `Send`: it may go to another thread and come back with its mask.
pub struct Constraint {
    /// What calls are made of, and whether there is more after one.
    blueprint: Arc<Blueprint>,
    state: State,
    eos: Arc<[u32]>,
    size: usize,
    mask: Mask,
}

enum State {
    /// Text, until the token that opens a call.
    Free,
    /// Inside a grammar; `None` where nobody has asked yet. An answer that waits for the model holds no automata of its own.
    Ruled(Option<Box<Matcher>>),
    /// Complete: nothing but an end of sequence may follow.
    Over,
    /// The grammar gave up; it says why at every question.
    Broken(String),
}

impl Constraint {
    pub(super) fn new(blueprint: Arc<Blueprint>, eos: Arc<[u32]>, size: usize) -> Self {
        let state = if blueprint.starts_free() { State::Free } else { State::Ruled(None) };
        Self { blueprint, state, eos, size, mask: Mask::default() }
    }

    /// Which tokens may come next. The time it takes is bounded by [`super::Limits`].
    pub fn mask(&mut self) -> Result<Allowed<'_>, GrammarError> {
        let mut mask = std::mem::take(&mut self.mask);
        let filled = self.mask_into(&mut mask);
        self.mask = mask;
        filled.map(|()| self.mask.allowed())
    }

    /// The same into memory of the caller's.
    pub fn mask_into(&mut self, mask: &mut Mask) -> Result<(), GrammarError> {
        mask.fit(self.size);
        let broken = match &mut self.state {
            State::Free => {
                mask.allow_all();
                return Ok(());
            }
            State::Over => {
                mask.allow_only(&self.eos);
                return Ok(());
            }
            State::Broken(reason) => return Err(GrammarError::Stopped(reason.clone())),
            State::Ruled(matcher) => match own(matcher, &self.blueprint).compute_mask_or_eos() {
                Ok(bits) => {
                    mask.copy_from(bits.as_slice());
                    return Ok(());
                }
                Err(error) => error.to_string(),
            },
        };
        Err(self.fail(&broken))
    }

    /// The tokens that come next whatever the model says, spelled as the tokenizer spells them; none where the model has a
    /// choice. They are not accepted yet: give each to [`Self::accept`].
    ///
    /// A last piece that the tokenizer might join with what follows is left out, so the answer has the tokens that its whole
    /// text would have.
    pub fn forced(&mut self) -> Vec<u32> {
        match &mut self.state {
            // Where it fails it says nothing; the next mask says why.
            State::Ruled(matcher) => own(matcher, &self.blueprint).compute_ff_tokens(),
            State::Free | State::Over | State::Broken(_) => Vec::new(),
        }
    }

    /// Takes the token that was chosen, or one that was forced. Refuses one that the mask would not have allowed; nothing can
    /// follow after that.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        let broken = match &mut self.state {
            State::Free if self.eos.contains(&token) => {
                self.state = State::Over;
                return Ok(());
            }
            State::Free => {
                if self.blueprint.opens(token) {
                    self.state = State::Ruled(None);
                }
                return Ok(());
            }
            State::Over if self.eos.contains(&token) => return Ok(()),
            State::Over => format!("token {token} came after the end"),
            State::Broken(reason) => return Err(GrammarError::Stopped(reason.clone())),
            State::Ruled(matcher) => {
                let matcher = own(matcher, &self.blueprint);
                match matcher.consume_token(token) {
                    Ok(()) => {
                        if matcher.is_stopped() {
                            let again = self.blueprint.starts_again() && !self.eos.contains(&token);
                            self.state = if again { State::Free } else { State::Over };
                        }
                        return Ok(());
                    }
                    Err(error) => error.to_string(),
                }
            }
        };
        Err(self.fail(&broken))
    }

    /// Whether the answer is complete: only an end of sequence may follow, so that none need be asked for.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether every token may come next, so that no mask is needed: text before a possible call.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }

    /// Whether both were compiled in one.
    #[cfg(test)]
    pub(super) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blueprint, &other.blueprint)
    }

    fn fail(&mut self, reason: &str) -> GrammarError {
        // The library adds its state below the first line.
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        self.state = State::Broken(reason.clone());
        GrammarError::Stopped(reason)
    }
}

/// The answer's own automata: a copy from the moment on that they are asked.
fn own<'m>(matcher: &'m mut Option<Box<Matcher>>, blueprint: &Blueprint) -> &'m mut Matcher {
    matcher.get_or_insert_with(|| Box::new(blueprint.matcher()))
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Free => "free",
            State::Ruled(None) => "not begun",
            State::Ruled(Some(_)) => "ruled",
            State::Over => "over",
            State::Broken(_) => "broken",
        };
        f.debug_struct("Constraint").field("state", &state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Shape};

    #[test]
    fn an_answer_has_automata_of_its_own_from_the_first_question_on() {
        let vocabulary = super::super::tests::vocabulary();
        let compile = || vocabulary.compile(&Shape::Regex("[ab]c"), &Limits::default()).unwrap();
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        let is_begun = |constraint: &super::Constraint| matches!(constraint.state, super::State::Ruled(Some(_)));
        let mut waiting: Vec<_> = (0..64).map(|_| compile()).collect();
        assert!(waiting.iter().all(|constraint| !is_begun(constraint) && constraint.shares_with(&waiting[0])));
        assert_eq!(waiting[0].mask().unwrap().tokens().collect::<Vec<_>>(), [a, b]);
        waiting[1].accept(b).unwrap();
        assert!(waiting[2].forced().is_empty());
        assert_eq!(waiting.iter().filter(|constraint| is_begun(constraint)).count(), 3);
        assert_eq!(waiting[3].mask().unwrap().tokens().collect::<Vec<_>>(), [a, b], "what one made of it is its own");
    }
}
