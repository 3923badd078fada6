//! One job in flight: how much of its prompt is read, what it has said, when it is over.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::engine::sampler::Sampler;
use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Event, Finish, JobId, Outcome, Sampling, Timing, Usage};
use crate::text::stop::{Found, StopMatcher};
use crate::text::tokenizer::{Decoder, Tokenizer};

/// Events beside one `Text` a token: `Started`, what a stop text held back, the end.
pub const EVENTS_BESIDE_TOKENS: usize = 4;

/// What the engine is asked to do: token ids and rules, no messages.
#[derive(Debug)]
pub struct Task {
    pub id: JobId,
    /// Never empty.
    pub prompt: Vec<u32>,
    /// At least 1; with the prompt it fits the context.
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub ignore_eos: bool,
    pub sampling: Sampling,
    pub seed: u64,
    pub stop: Vec<String>,
    pub deadline: Option<Instant>,
    pub submitted: Instant,
    pub cancel: CancelFlag,
    /// Runs with no other job beside it: earlier attempts died with the process.
    pub alone: bool,
    /// Has room for every event that the job may cause, so the engine never waits for a reader.
    pub events: mpsc::Sender<Event>,
}

/// What the engine must know of a vocabulary.
#[derive(Clone)]
pub struct Words {
    pub tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// Why a sequence leaves the engine.
#[derive(Debug)]
pub enum Leave {
    Finished(Finish),
    Failed(Fault),
    /// Nobody listens any more.
    Gone,
}

/// A task and its state. The tokens in the cache are `prompt[..read]` and all of `answer` but its last.
pub struct Sequence {
    pub task: Task,
    /// Prompt tokens that the cache holds.
    pub read: usize,
    pub answer: Vec<u32>,
    sampler: Sampler,
    decoder: Decoder,
    stop: StopMatcher,
    started: Instant,
    read_at: Option<Instant>,
    first_token_at: Option<Instant>,
    last_token_at: Option<Instant>,
}

impl Sequence {
    /// Takes a task up.
    pub fn new(mut task: Task, words: &Words, vocabulary: usize) -> Self {
        let stop = StopMatcher::new(std::mem::take(&mut task.stop));
        Self {
            sampler: Sampler::new(task.sampling.clone(), task.seed, vocabulary, &task.prompt),
            decoder: words.tokenizer.decoder(),
            stop,
            read: 0,
            answer: Vec::new(),
            started: Instant::now(),
            read_at: None,
            first_token_at: None,
            last_token_at: None,
            task,
        }
    }

    /// Tokens that the cache holds.
    pub fn past(&self) -> usize {
        self.read + self.answer.len().saturating_sub(1)
    }

    /// Says whether the job must end before the next step.
    pub fn interrupted(&self, now: Instant) -> Option<Leave> {
        if self.task.events.is_closed() {
            Some(Leave::Gone)
        } else if self.task.cancel.is_raised() {
            Some(Leave::Finished(Finish::Cancelled))
        } else if self.task.deadline.is_some_and(|deadline| deadline <= now) {
            Some(Leave::Finished(Finish::Deadline))
        } else {
            None
        }
    }

    /// Chooses the next token from `scores`, gives out the text it completes, and says whether the answer is over.
    pub fn advance(&mut self, scores: &mut [f32], words: &Words) -> Option<Leave> {
        let banned: &[u32] =
            if self.task.ignore_eos || self.answer.len() < self.task.min_tokens { &words.eos } else { &[] };
        let token = match self.sampler.sample(scores, banned) {
            Ok(token) => token,
            Err(error) => {
                return Some(Leave::Failed(Fault::bug(format!("choosing token {}: {error}", self.answer.len()))));
            }
        };
        self.answer.push(token);
        let now = Instant::now();
        self.first_token_at.get_or_insert(now);
        self.last_token_at = Some(now);
        if words.eos.contains(&token) && !self.task.ignore_eos {
            return Some(Leave::Finished(Finish::Stop));
        }
        let piece = match self.decoder.push(token) {
            Ok(piece) => piece,
            Err(error) => return Some(Leave::Failed(Fault::bug(error.to_string()))),
        };
        let (text, stopped) = match self.stop.push(&piece) {
            Found::Text(text) => (text, false),
            Found::Stop(text) => (text, true),
        };
        if !text.is_empty() && !self.give(Event::Text(text)) {
            return Some(Leave::Gone);
        }
        if stopped {
            Some(Leave::Finished(Finish::Stop))
        } else if self.answer.len() >= self.task.max_tokens {
            Some(Leave::Finished(Finish::Length))
        } else {
            None
        }
    }

    /// The whole prompt is in the cache.
    pub fn prompt_read(&mut self) {
        self.read_at = Some(Instant::now());
    }

    /// When the last token came.
    pub fn last_token_at(&self) -> Option<Instant> {
        self.last_token_at
    }

    /// From submission to the start, and to the first token.
    pub fn waits(&self) -> (std::time::Duration, std::time::Duration) {
        let first = self.first_token_at.unwrap_or(self.started);
        (self.started - self.task.submitted, first - self.task.submitted)
    }

    /// Gives the event out; false when nobody listens.
    pub fn give(&self, event: Event) -> bool {
        match self.task.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                // The channel was made for more events than a job can cause.
                tracing::error!(job = %self.task.id, "event channel full; the answer is cut");
                false
            }
        }
    }

    /// Says the last word and lets go of the job. Returns the outcome's name for the log.
    pub fn leave(mut self, leave: Leave) -> &'static str {
        let finish = match leave {
            Leave::Gone => return "gone",
            Leave::Failed(fault) => {
                let name = fault.code.name();
                // Nobody may be listening any more; then nobody needs the answer.
                let _heard = self.give(Event::Failed(fault));
                return name;
            }
            Leave::Finished(finish) => finish,
        };
        let rest = self.stop.finish();
        if !rest.is_empty() && !self.give(Event::Text(rest)) {
            return "gone";
        }
        let now = Instant::now();
        let since = |at: Option<Instant>| at.map(|at| at - self.task.submitted).unwrap_or_default();
        let outcome = Outcome {
            finish,
            usage: Usage {
                prompt_tokens: self.task.prompt.len(),
                cached_tokens: 0,
                generated_tokens: self.answer.len(),
            },
            timing: Timing {
                queue: self.started - self.task.submitted,
                prefill: self.read_at.map(|at| at - self.started).unwrap_or_default(),
                first_token: since(self.first_token_at),
                total: now - self.task.submitted,
            },
            seed: self.task.seed,
        };
        let _heard = self.give(Event::Finished(outcome));
        finish.name()
    }
}

/// What a job is told when the step it was part of failed.
pub fn step_fault(error: &impl std::fmt::Display) -> Fault {
    Fault::new(Kind::Machine, Code::Internal, format!("a step of the engine failed: {error}"))
}
