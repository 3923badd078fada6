//! Runs of the model: which rows share one, and what comes of it.
//!
//! Rows of one run are padded to the longest, so rows of different lengths share a run only where that costs less than one more
//! run would. Answers that must be exact never share a run with longer rows, and, on a model whose batches change bits, no run
//! at all.

use std::time::{Duration, Instant};

use crate::engine::forward::{ForwardError, Row};
use crate::engine::oversight::{Phase, Run, Share};
use crate::engine::sequence::{Leave, Sequence, step_fault};
use crate::engine::step::{Company, Stepper};
use crate::vitals::Vitals;

/// Tokens that a run may compute more than separate runs would, because of padding: about the fixed cost of one more run.
const PADDING_MAX: usize = 8;

/// Tokens guessed at a time, at most.
const GUESS_MAX: usize = 7;

/// What one sequence adds to a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// Of its pending tokens, the first so many.
    pub(super) tokens: usize,
    /// Scores wanted after the last of them, 0 or 1; a draft adds its own.
    pub(super) scores: usize,
    /// Guessed tokens behind all pending ones.
    pub(super) draft: Vec<u32>,
}

impl Part {
    fn width(&self) -> usize {
        self.tokens + self.draft.len()
    }
}

impl Stepper {
    /// Whether a piece of a prompt is read in the run of the running answers instead of one of its own.
    pub(super) fn goes_along(&self, sequence: &Sequence, piece: usize) -> bool {
        let exact = sequence.task.exact || self.decoding.iter().any(|sequence| sequence.task.exact);
        self.shape.ragged
            && !exact
            && self.reading.len() == 1
            && !self.decoding.is_empty()
            && piece + self.behind() <= self.piece_max()
            && together(self.decoding.iter().map(|sequence| sequence.pending().len()).chain([piece]))
    }

    /// Tokens that rules forced and no run has read yet, but the last of each answer.
    fn behind(&self) -> usize {
        self.decoding.iter().map(|sequence| sequence.pending().len() - 1).sum()
    }

    /// Lets every running answer grow, and reads `along` tokens of the prompt that is being read in the same run. Of what rules
    /// forced at most `most` tokens are read before that, or in it.
    pub(super) fn decode(&mut self, along: Option<usize>, most: usize, vitals: &Vitals) {
        if self.decoding.is_empty() {
            return;
        }
        let exact = self.decoding.iter().any(|sequence| sequence.task.exact);
        let widths = self.decoding.iter().map(|sequence| sequence.pending().len());
        let wide = self.decoding.len() > 1 && widths.clone().any(|width| width > 1);
        // What a rule forces may be longer than a row can be, and longer than everybody else may have to wait.
        let long = self.behind() > most || widths.clone().any(|width| width > self.shape.row_max);
        let apart = long || wide && (exact || !self.shape.ragged || !together(widths.chain(along)));
        if apart {
            self.catch_up(most, vitals);
        }
        let part = |sequence: &Sequence| match sequence.pending().len() {
            // Whoever is still behind sits this step out.
            tokens if apart && tokens > 1 => Part::default(),
            tokens => Part { tokens, scores: 1, draft: Vec::new() },
        };
        let mut parts: Vec<Part> = self.decoding.iter().map(part).collect();
        if let ([part], [sequence]) = (parts.as_mut_slice(), self.decoding.as_mut_slice())
            && part.tokens > 0
            && self.guesses
            && along.is_none()
            && !exact
            && self.shape.rewinds
        {
            let row = self.shape.row_max.min(self.shape.context - sequence.cached()).saturating_sub(part.tokens);
            let room = row.min(self.shape.scores_max.saturating_sub(1));
            part.draft = sequence.guess(&self.pace, GUESS_MAX.min(room));
        }
        if let Some(piece) = along
            && let Some(sequence) = self.reading.last()
        {
            let last = piece == sequence.pending().len();
            parts.push(Part { tokens: piece, scores: usize::from(last), draft: Vec::new() });
        }
        let mut leaving = Vec::new();
        let mut first = 0;
        while first < parts.len() {
            let ready = parts[first..].iter().take_while(|part| part.tokens > 0).count();
            if ready == 0 {
                first += 1;
                continue;
            }
            let count = self.company(first, first + ready);
            self.grow(first, &parts[first..first + count], &mut leaving, vitals);
            first += count;
        }
        // From the back, so that the indices that are still to come stay true.
        for (index, leave) in leaving.into_iter().rev() {
            self.retire_at(index, leave, vitals);
        }
    }

    /// How many sequences from slot `first` on share one run.
    fn company(&self, first: usize, end: usize) -> usize {
        if self.shape.batch_invariant {
            return end - first;
        }
        let exact = |slot: usize| self.decoding.get(slot).is_some_and(|sequence| sequence.task.exact);
        if exact(first) { 1 } else { (first..end).take_while(|slot| !exact(*slot)).count() }
    }

    /// Reads what rules forced, but the last token of each answer, in runs of their own, so that a step of one token each can
    /// follow: at most `most` tokens in all, of whoever has waited longest first.
    fn catch_up(&mut self, most: usize, vitals: &Vitals) {
        let mut order: Vec<usize> =
            (0..self.decoding.len()).filter(|index| self.decoding[*index].pending().len() > 1).collect();
        order.sort_by_key(|index| self.decoding[*index].last_token_at());
        let mut left = most;
        let mut leaving = Vec::new();
        for index in order {
            let tokens = left.min(self.shape.row_max).min(self.decoding[index].pending().len() - 1);
            if tokens == 0 {
                break;
            }
            left -= tokens;
            match self.run("decode", index, &[Part { tokens, ..Part::default() }], vitals) {
                Ok(_) => self.decoding[index].caught_up(tokens),
                Err(error) => leaving.push((index, Leave::Failed(step_fault(&error)))),
            }
        }
        self.owed = self.behind() > 0;
        // From the back, so that the indices that are still to come stay true.
        leaving.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, leave) in leaving {
            self.retire_at(index, leave, vitals);
        }
    }

    /// Runs these parts from slot `first` on and settles each answer; whoever is done goes on the list.
    fn grow(&mut self, first: usize, parts: &[Part], leaving: &mut Vec<(usize, Leave)>, vitals: &Vitals) {
        let answers = parts.len().min(self.decoding.len() - first);
        let kind = if answers < parts.len() { "mixed" } else { "decode" };
        let took = match self.run(kind, first, parts, vitals) {
            Ok(took) => took,
            Err(error) => {
                leaving.extend((first..first + answers).map(|index| (index, Leave::Failed(step_fault(&error)))));
                if answers < parts.len() {
                    self.retire_reading(self.reading.len() - 1, Leave::Failed(step_fault(&error)));
                }
                return;
            }
        };
        if let [part] = parts {
            self.pace.learn(part.width(), took);
        }
        for (row, part) in parts.iter().take(answers).enumerate() {
            let sequence = &mut self.decoding[first + row];
            let before = sequence.last_token_at();
            let (gain, leave) = sequence.settle(self.forward.as_mut(), row, &part.draft, &self.words);
            vitals.count_generated(gain.tokens, gain.forced);
            if !part.draft.is_empty() {
                vitals.count_guessed(part.draft.len(), gain.guessed);
            }
            if let (Some(before), Some(now), Ok(tokens)) =
                (before, sequence.last_token_at(), u32::try_from(gain.tokens))
            {
                for _ in 0..tokens {
                    vitals.count_token(now.saturating_duration_since(before) / tokens);
                }
            }
            leaving.extend(leave.map(|leave| (first + row, leave)));
        }
        if let Some(part) = parts.get(answers) {
            // A piece goes along only where no other prompt is read.
            self.piece_read(0, part.tokens, Company::Row(answers), vitals);
        }
    }

    /// One run of the model over the sequences in slots `first..`, with what their rules allow computed beside it. Says how long
    /// the model took.
    pub(super) fn run(
        &mut self,
        kind: &'static str,
        first: usize,
        parts: &[Part],
        vitals: &Vitals,
    ) -> Result<Duration, ForwardError> {
        for (slot, part) in (first..).zip(parts) {
            if part.scores > 0
                && let Some(guided) = sequence_mut(&mut self.decoding, &mut self.reading, slot).lend_guide()
                && let Err(guided) = self.guides.begin(slot, guided)
            {
                // The worker is gone: what may come next is computed when it is needed.
                sequence_mut(&mut self.decoding, &mut self.reading, slot).return_guide(guided);
            }
        }
        let drafted: Vec<Vec<u32>> = (first..)
            .zip(parts)
            .map(|(slot, part)| match part.draft.as_slice() {
                [] => Vec::new(),
                draft => [sequence(&self.decoding, &self.reading, slot).pending(), draft].concat(),
            })
            .collect();
        let rows: Vec<Row<'_>> = (first..)
            .zip(parts)
            .zip(&drafted)
            .map(|((slot, part), drafted)| {
                let sequence = sequence(&self.decoding, &self.reading, slot);
                let tokens = if drafted.is_empty() { &sequence.pending()[..part.tokens] } else { drafted.as_slice() };
                Row { slot, past: sequence.cached(), tokens, scores: part.scores + part.draft.len() }
            })
            .collect();
        let started = Instant::now();
        if let Some(end) = self.last_run_end {
            vitals.count_between(started - end);
        }
        let result = self.forward.forward(&rows);
        let ended = Instant::now();
        self.report_run(first, parts, self.last_run_end.unwrap_or(started), ended);
        self.last_run_end = Some(ended);
        vitals.count_step(kind, ended - started);
        vitals.pulse().beat(self.oversight.heart);
        while let Some((slot, guided)) = self.guides.collect() {
            sequence_mut(&mut self.decoding, &mut self.reading, slot).return_guide(guided);
        }
        match &result {
            Ok(()) => self.failures = 0,
            Err(ForwardError::Stopped) => {}
            // The jobs of this step asked for too much at once; the machine is as good as before.
            Err(error @ ForwardError::NoMemory(_)) => {
                tracing::warn!(%error, kind, rows = parts.len(), "a run was too large");
            }
            Err(error) => {
                self.failures += 1;
                tracing::error!(%error, kind, rows = parts.len(), "a run of the model failed");
            }
        }
        result.map(|()| ended - started)
    }

    /// Tells whoever wants to know whose tokens were in a run.
    fn report_run(&self, first: usize, parts: &[Part], from: Instant, to: Instant) {
        let Some(observer) = &self.oversight.observer else { return };
        let share = |(slot, part): (usize, &Part)| Share {
            job: sequence(&self.decoding, &self.reading, slot).task.id,
            phase: if slot < self.decoding.len() { Phase::Decode } else { Phase::Prefill },
            tokens: part.width(),
        };
        let shares: Vec<Share> = (first..).zip(parts).map(share).collect();
        observer.ran(&Run { from, to, shares: &shares });
    }
}

/// Whether rows of these lengths share a run without computing much more than they must.
fn together(widths: impl Iterator<Item = usize> + Clone) -> bool {
    let (rows, sum) = (widths.clone().count(), widths.clone().sum::<usize>());
    rows * widths.max().unwrap_or(0) <= sum + PADDING_MAX
}

/// The sequence in a slot: running answers first, prompts that are being read behind them.
fn sequence<'a>(decoding: &'a [Sequence], reading: &'a [Sequence], slot: usize) -> &'a Sequence {
    decoding.get(slot).unwrap_or_else(|| &reading[slot - decoding.len()])
}

fn sequence_mut<'a>(decoding: &'a mut [Sequence], reading: &'a mut [Sequence], slot: usize) -> &'a mut Sequence {
    let running = decoding.len();
    if slot < running { &mut decoding[slot] } else { &mut reading[slot - running] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_a_run_where_padding_costs_less_than_another_run() {
        assert!(together([1, 1, 1, 1].into_iter()));
        assert!(together([1, 9].into_iter()), "one answer and a piece of nine");
        assert!(!together([1, 10].into_iter()));
        assert!(together([1, 1, 1, 1, 1, 1, 1, 1, 2].into_iter()), "eight answers and a piece of two");
        assert!(!together([1, 1, 1, 1, 1, 1, 1, 1, 3].into_iter()));
    }
}
