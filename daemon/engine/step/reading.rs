//! Prompts on their way into the cache: what is kept of a beginning, whose piece is next, how long it is, what follows the last.

use std::sync::Arc;
use std::time::Instant;

use super::{Stepper, keep};
use crate::engine::forward::ForwardError;
use crate::engine::runs::Part;
use crate::engine::sequence::{Leave, Sequence, step_fault};
use crate::job::Priority;
use crate::vitals::Vitals;

/// The shortest piece of a prompt that leaves no single token behind; see [`piece_length`].
pub const CHUNK_MIN: usize = 3;

/// The piece in which an exact job's prompt is read where the length of pieces changes the bits: a measured length may differ
/// between two starts.
const CHUNK_EXACT: usize = 64;

/// How a piece of a prompt was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Company {
    /// In a run of its own.
    Alone,
    /// As this row of a run.
    Row(usize),
}

impl Stepper {
    /// Copies what is kept of the prompt's beginning into the slot that it is about to get.
    pub(super) fn reuse(&mut self, sequence: &mut Sequence, vitals: &Vitals) {
        let (exact, slot) = (sequence.task.exact, self.jobs());
        if exact && !self.shape.chunk_invariant {
            return;
        }
        // The last token's scores are wanted, and a piece of one token rounds differently.
        let most = sequence.prompt_tokens().saturating_sub(2);
        let blocks = self.prefixes.find(sequence.tokens(), sequence.task.scope, most, exact);
        for (index, block) in blocks.iter().enumerate() {
            self.forward.use_block(*block, slot, index * self.shape.block_tokens);
        }
        // Kept with the right bits or not: from here on only an exact job's own can be told.
        sequence.reuse(blocks.len() * self.shape.block_tokens, exact);
        vitals.count_cached_prompt(blocks.len() * self.shape.block_tokens);
    }

    /// Reads the next piece of the prompt whose turn it is, unless it is so short that it goes along with the running answers.
    /// Says how many tokens are to go along, and how many were read.
    pub(in crate::engine) fn read_next(&mut self, vitals: &Vitals) -> (Option<usize>, usize) {
        let Some(index) = self.next_reader() else { return (None, 0) };
        let sequence = &self.reading[index];
        let piece = self.next_piece(sequence);
        if self.goes_along(sequence, piece) {
            return (Some(piece), 0);
        }
        self.read_alone(index, piece, vitals);
        (None, piece)
    }

    /// Reads a piece of the `index`-th prompt in a run of its own.
    fn read_alone(&mut self, index: usize, piece: usize, vitals: &Vitals) {
        let sequence = &self.reading[index];
        let part = Part { tokens: piece, scores: usize::from(piece == sequence.pending().len()), draft: Vec::new() };
        let cancel = sequence.task.cancel.clone();
        self.read_last = Some(sequence.task.id);
        cancel.arm(Arc::clone(&self.interrupt));
        if self.reading[index].interrupted(Instant::now()).is_some() {
            // Raised since the turn began, when nothing was armed yet.
            cancel.disarm();
            self.stop.release();
            return;
        }
        let result = self.run("prefill", self.decoding.len() + index, &[part], vitals);
        cancel.disarm();
        // Nobody is armed any more: what is left of a request to stop is meant for a run that is over.
        self.stop.release();
        match result {
            Ok(took) => {
                self.pace.learn_prompt(piece, took);
                self.piece_read(index, piece, Company::Alone, vitals);
            }
            // Whoever stopped it has a reason, which the next turn finds.
            Err(ForwardError::Stopped) if self.shape.rewinds => {}
            Err(ForwardError::Stopped) => self.reading[index].forget(),
            Err(error) => self.retire_reading(index, Leave::Failed(step_fault(&error))),
        }
    }

    /// Tokens that a turn may read before running answers get theirs.
    pub(in crate::engine) fn piece_max(&self) -> usize {
        self.pace.chunk().min(self.shape.row_max).min(self.allowance.piece_max).max(CHUNK_MIN)
    }

    /// Whose prompt is read next: an alarm's before any other, and of several alarms the one that has waited longest.
    fn next_reader(&self) -> Option<usize> {
        let last = self.reading.iter().position(|sequence| Some(sequence.task.id) == self.read_last);
        let count = self.reading.len();
        let begin = last.map_or(0, |index| index + 1);
        let turns = (0..count).map(|offset| (begin + offset) % count);
        let alarm = turns.clone().find(|index| self.reading[*index].task.priority == Priority::Alarm);
        alarm.or_else(|| turns.clone().next())
    }

    /// How many tokens of a prompt the next step reads.
    fn next_piece(&self, sequence: &Sequence) -> usize {
        let exact = sequence.task.exact && !self.shape.chunk_invariant;
        let chunk = self.pace.chunk().min(self.shape.row_max);
        let mut most = if exact { chunk.min(CHUNK_EXACT) } else { self.piece_max() };
        if !self.shape.rewinds && self.shape.blocks > 0 {
            // A state can be kept only where a step ends.
            let block = self.shape.block_tokens;
            let edge = block - sequence.cached() % block;
            most = most.min(if edge < CHUNK_MIN { edge + block } else { edge });
        }
        piece_length(sequence.pending().len(), most.max(CHUNK_MIN))
    }

    /// A piece of the `index`-th prompt is in the cache; after the last one the job has its first token.
    pub(in crate::engine) fn piece_read(&mut self, index: usize, piece: usize, company: Company, vitals: &Vitals) {
        vitals.count_prompt(piece);
        let slot = self.decoding.len() + index;
        let whole = self.reading[index].read(piece, company == Company::Alone);
        let sequence = &self.reading[index];
        if !self.shape.rewinds && sequence.cached().is_multiple_of(self.shape.block_tokens) {
            // Now or never: the next step changes the state.
            let from = sequence.cached() - self.shape.block_tokens;
            keep(&mut self.prefixes, self.forward.as_mut(), slot, sequence, from);
        }
        if !whole {
            return;
        }
        let row = if let Company::Row(row) = company { row } else { 0 };
        let (gain, leave) = self.reading[index].settle(self.forward.as_mut(), row, &[], &self.words);
        // What led to scores that are no numbers is not to be used again.
        if self.shape.rewinds && !matches!(leave, Some(Leave::Failed(_))) {
            keep(&mut self.prefixes, self.forward.as_mut(), slot, &self.reading[index], 0);
        }
        self.show_blocks(vitals);
        vitals.count_generated(gain.tokens, gain.forced);
        let (queue, first_token) = self.reading[index].waits();
        vitals.count_first_token(queue, first_token);
        if let Some(leave) = leave {
            return self.retire_reading(index, leave);
        }
        if index > 0 {
            // It overtook prompts that lie before it: the first of them gets its slot.
            let tokens = self.reading[0].cached().max(self.reading[index].cached());
            self.forward.exchange_slots(self.decoding.len(), slot, tokens);
            self.reading.swap(0, index);
        }
        self.decoding.push(self.reading.remove(0));
    }
}

/// How many of `left` prompt tokens the next step reads: at most `most`, and never so many that one is left over, since a
/// 1-token step rounds differently from the same token inside a piece. A `most` of 3 is the least that allows this.
fn piece_length(left: usize, most: usize) -> usize {
    if left == most + 1 { most - 1 } else { left.min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_leaves_a_single_token_behind() {
        for chunk in CHUNK_MIN..40 {
            for prompt in 1..200 {
                let mut left = prompt;
                while left > 0 {
                    let piece = piece_length(left, chunk);
                    assert!(piece >= 1 && piece <= chunk, "{piece} of {left}, chunk {chunk}");
                    assert!(piece > 1 || prompt == 1, "a single token of {prompt}, chunk {chunk}");
                    left -= piece;
                }
            }
        }
    }
}
