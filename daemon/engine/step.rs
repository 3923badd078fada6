//! One turn of the engine: take in, read a piece of a prompt, let every running answer grow by a token, retire.
//!
//! Running answers occupy slots `0..n` of the cache; the one prompt that is being read sits right behind them, so that a
//! decode step is one batch over consecutive rows. Between two pieces of a prompt every running answer gets its token:
//! no stream stands still for longer than one piece.

use std::time::{Duration, Instant};

use crate::engine::Source;
use crate::engine::forward::{Forward, Row, Shape};
use crate::engine::sequence::{Leave, Sequence, Words, step_fault};
use crate::job::{Event, Finish, JobId};
use crate::vitals::Vitals;

/// Steps that may fail one after another, with none that works between them, before the engine gives itself up.
///
/// One failure may be a job's own; three in a row are the machine's, and a restart is the only cure we have.
pub const FAILURES_MAX: u32 = 3;

/// The shortest piece of a prompt that leaves no single token behind; see [`piece_length`].
pub const CHUNK_MIN: usize = 3;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do.
    Idle,
    /// At least one step was run, or a job was retired.
    Worked,
    /// Too many steps failed in a row; the engine cannot be trusted any more.
    Broken,
}

/// The jobs in flight and the model that serves them.
pub struct Stepper {
    forward: Box<dyn Forward>,
    shape: Shape,
    words: Words,
    /// Prompt tokens read in one step.
    chunk: usize,
    decoding: Vec<Sequence>,
    reading: Option<Sequence>,
    failures: u32,
    /// When the last run ended, while there has been work ever since.
    last_run_end: Option<Instant>,
}

impl Stepper {
    /// A stepper with no jobs. `chunk` is at least [`CHUNK_MIN`] and at most what a row may hold.
    pub fn new(forward: Box<dyn Forward>, words: Words, chunk: usize) -> Self {
        let shape = forward.shape();
        Self {
            forward,
            shape,
            words,
            chunk: chunk.min(shape.row_max).max(CHUNK_MIN),
            decoding: Vec::new(),
            reading: None,
            failures: 0,
            last_run_end: None,
        }
    }

    /// Jobs in flight.
    pub fn jobs(&self) -> usize {
        self.decoding.len() + usize::from(self.reading.is_some())
    }

    /// Whose jobs they are.
    pub fn job_ids(&self) -> Vec<JobId> {
        self.decoding.iter().chain(&self.reading).map(|sequence| sequence.task.id).collect()
    }

    /// Makes one turn.
    pub fn turn(&mut self, source: &mut dyn Source, vitals: &Vitals) -> Turn {
        let before = self.jobs();
        self.interrupt();
        self.take_in(source);
        vitals.set_running(self.jobs(), self.shape.slots);
        if self.jobs() == 0 {
            self.last_run_end = None;
            return if before > 0 { Turn::Worked } else { Turn::Idle };
        }
        self.read_piece(vitals);
        self.decode(vitals);
        debug_assert_eq!(self.violations(), Vec::<String>::new());
        if self.failures >= FAILURES_MAX { Turn::Broken } else { Turn::Worked }
    }

    /// Ends every job with this fault; for an engine that stops.
    pub fn abandon(&mut self, fault: &crate::fault::Fault) {
        for sequence in self.reading.take().into_iter().chain(self.decoding.drain(..)) {
            retire(sequence, Leave::Failed(fault.clone()));
        }
    }

    /// Everything that must hold between two turns and does not.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.jobs() > self.shape.slots {
            found.push(format!("{} jobs on {} slots", self.jobs(), self.shape.slots));
        }
        for sequence in &self.decoding {
            if sequence.read != sequence.task.prompt.len() || sequence.answer.is_empty() {
                found.push(format!(
                    "job {} decodes with {} of {} prompt tokens",
                    sequence.task.id,
                    sequence.read,
                    sequence.task.prompt.len()
                ));
            }
            if sequence.past() >= self.shape.context {
                found.push(format!(
                    "job {} holds {} tokens, context {}",
                    sequence.task.id,
                    sequence.past(),
                    self.shape.context
                ));
            }
        }
        if let Some(sequence) = self.reading.as_ref().filter(|sequence| !sequence.answer.is_empty()) {
            found.push(format!("job {} answers before its prompt is read", sequence.task.id));
        }
        found
    }

    /// Retires what was cancelled, ran out of time, or lost its listener.
    fn interrupt(&mut self) {
        let now = Instant::now();
        for index in (0..self.decoding.len()).rev() {
            if let Some(leave) = self.decoding[index].interrupted(now) {
                self.retire_at(index, leave);
            }
        }
        if let Some(leave) = self.reading.as_ref().and_then(|sequence| sequence.interrupted(now))
            && let Some(sequence) = self.reading.take()
        {
            retire(sequence, leave);
        }
    }

    /// Starts to read the next prompt, if there is a slot for it.
    fn take_in(&mut self, source: &mut dyn Source) {
        let lonely = self.decoding.iter().chain(&self.reading).any(|sequence| sequence.task.alone);
        if self.reading.is_some() || self.jobs() >= self.shape.slots || lonely {
            return;
        }
        if let Some(task) = source.take(self.jobs()) {
            let sequence = Sequence::new(task, &self.words, self.shape.vocabulary);
            if sequence.give(Event::Started) {
                self.reading = Some(sequence);
            }
        }
    }

    /// Reads the next piece of the prompt that is being read; after the last one the job has its first token.
    fn read_piece(&mut self, vitals: &Vitals) {
        let slot = self.decoding.len();
        let Some(sequence) = self.reading.as_mut() else { return };
        let left = sequence.task.prompt.len() - sequence.read;
        let piece = piece_length(left, self.chunk);
        let tokens = &sequence.task.prompt[sequence.read..sequence.read + piece];
        let row = Row { slot, past: sequence.read, tokens, scores: usize::from(piece == left) };
        let started = Instant::now();
        if let Some(end) = self.last_run_end {
            vitals.count_between(started - end);
        }
        let result = self.forward.forward(&[row]);
        let ended = Instant::now();
        self.last_run_end = Some(ended);
        vitals.count_step("prefill", ended - started, piece, usize::from(piece == left));
        vitals.beat_engine();
        match result {
            Ok(()) => {
                self.failures = 0;
                sequence.read += piece;
                if piece < left {
                    return;
                }
                let Some(mut sequence) = self.reading.take() else { return };
                sequence.prompt_read();
                let leave = sequence.advance(self.forward.scores(0, 0), &self.words);
                let (queue, first_token) = sequence.waits();
                vitals.count_first_token(queue, first_token);
                match leave {
                    Some(leave) => retire(sequence, leave),
                    None => self.decoding.push(sequence),
                }
            }
            Err(error) => {
                self.failures += 1;
                tracing::error!(job = %sequence.task.id, %error, "reading a prompt failed");
                if let Some(sequence) = self.reading.take() {
                    retire(sequence, Leave::Failed(step_fault(&error)));
                }
            }
        }
    }

    /// Gives every running answer its next token.
    fn decode(&mut self, vitals: &Vitals) {
        if self.decoding.is_empty() {
            return;
        }
        let rows: Vec<Row<'_>> = self
            .decoding
            .iter()
            .enumerate()
            .map(|(slot, sequence)| Row {
                slot,
                past: sequence.past(),
                tokens: &sequence.answer[sequence.answer.len() - 1..],
                scores: 1,
            })
            .collect();
        let started = Instant::now();
        if let Some(end) = self.last_run_end {
            vitals.count_between(started - end);
        }
        let result = self.forward.forward(&rows);
        let ended = Instant::now();
        self.last_run_end = Some(ended);
        vitals.count_step("decode", ended - started, 0, rows.len());
        vitals.beat_engine();
        if let Err(error) = result {
            self.failures += 1;
            tracing::error!(%error, jobs = self.decoding.len(), "a decode step failed");
            for index in (0..self.decoding.len()).rev() {
                self.retire_at(index, Leave::Failed(step_fault(&error)));
            }
            return;
        }
        self.failures = 0;
        let mut leaving: Vec<(usize, Leave)> = Vec::new();
        for (index, sequence) in self.decoding.iter_mut().enumerate() {
            let before = sequence.last_token_at();
            if let Some(leave) = sequence.advance(self.forward.scores(index, 0), &self.words) {
                leaving.push((index, leave));
            }
            if let (Some(before), Some(now)) = (before, sequence.last_token_at()) {
                vitals.count_token(now.saturating_duration_since(before).max(Duration::ZERO));
            }
        }
        // From the back, so that the indices that are still to come stay true.
        for (index, leave) in leaving.into_iter().rev() {
            self.retire_at(index, leave);
        }
    }

    /// Retires a running answer and closes the gap in the cache: the last one moves into its slot, a prompt being read into
    /// the last one's.
    fn retire_at(&mut self, index: usize, leave: Leave) {
        let last = self.decoding.len() - 1;
        let sequence = self.decoding.swap_remove(index);
        if index != last {
            self.forward.copy_slot(last, index, self.decoding[index].past());
        }
        if let Some(reading) = &self.reading {
            self.forward.copy_slot(last + 1, last, reading.read);
        }
        retire(sequence, leave);
    }
}

/// How many of `left` prompt tokens the next step reads: at most `chunk`, and never so many that one is left over, since a
/// 1-token step rounds differently from the same token inside a piece. A `chunk` of 3 is the least that allows this.
fn piece_length(left: usize, chunk: usize) -> usize {
    if left == chunk + 1 { chunk - 1 } else { left.min(chunk) }
}

fn retire(sequence: Sequence, leave: Leave) {
    let (id, prompt_tokens, generated_tokens) = (sequence.task.id, sequence.task.prompt.len(), sequence.answer.len());
    let (queue, first_token) = sequence.waits();
    let interrupted = matches!(leave, Leave::Finished(Finish::Cancelled | Finish::Deadline));
    let outcome = sequence.leave(leave);
    tracing::debug!(job = %id, outcome, interrupted, prompt_tokens, generated_tokens, queue_ms = queue.as_millis(), first_token_ms = first_token.as_millis(), "job left the engine");
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
