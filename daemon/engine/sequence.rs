//! One job in flight: how much of it the cache holds, what it has said, when it is over.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::engine::confidence::Confidence;
use crate::engine::draft::Drafter;
use crate::engine::forward::{Forward, ForwardError};
use crate::engine::guide::{Guide, Guided};
use crate::engine::pace::Pace;
use crate::engine::prefix::Scope;
use crate::engine::sampler::Sampler;
use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Energy, Event, Finish, JobId, Outcome, Priority, Sampling, Timing, Usage};
use crate::text::stop::{Found, StopMatcher};
use crate::text::tokenizer::{Decoder, Tokenizer};

/// When a job that found no memory may come again: others have let go of theirs by then.
const MEMORY_RETRY: Duration = Duration::from_secs(1);

/// Events beside one `Text` a token: `Started`, what a stop text held back, the end.
pub const EVENTS_BESIDE_TOKENS: usize = 4;

/// What the engine is asked to do: token ids and rules, no messages.
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
    pub priority: Priority,
    /// Same tokens whatever else runs: single-token steps, no drafts, no forced pieces, no runs with rows of other lengths.
    pub exact: bool,
    /// Whose kept beginnings of prompts it may use.
    pub scope: Scope,
    /// What its answer must follow.
    pub guide: Option<Box<dyn Guide>>,
    /// Runs with no other job beside it: earlier attempts died with the process.
    pub alone: bool,
    /// How sure the model was of its answer is wanted.
    pub weigh: bool,
    /// Its text comes in one piece at the end. On a small machine every piece wakes a thread that takes a core from the model.
    pub whole: bool,
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

/// A task and its state.
pub struct Sequence {
    pub task: Task,
    /// The prompt, and the answer so far.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Of `tokens`, how many the cache holds. What is not in it is read by the next step.
    cached: usize,
    /// Of the prompt, how many came from kept blocks.
    reused: usize,
    /// Tokens at the beginning that were read in runs which leave the bits of reading alone.
    exact_to: usize,
    guided: Option<Box<Guided>>,
    /// The rule is computed elsewhere; without it no token may be chosen.
    lent: bool,
    drafter: Drafter,
    sampler: Sampler,
    confidence: Confidence,
    decoder: Decoder,
    stop: StopMatcher,
    /// Text that waits for the end of an answer which is heard whole.
    held: String,
    started: Instant,
    read_at: Option<Instant>,
    first_token_at: Option<Instant>,
    last_token_at: Option<Instant>,
}

/// What a step brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// Tokens that the answer grew by.
    pub tokens: usize,
    /// Of these, how many the rule forced.
    pub forced: usize,
    /// Of these, how many were guessed right.
    pub guessed: usize,
}

impl Sequence {
    /// Takes a task up.
    pub fn new(mut task: Task, words: &Words, vocabulary: usize) -> Self {
        let stop = StopMatcher::new(std::mem::take(&mut task.stop));
        let tokens = std::mem::take(&mut task.prompt);
        Self {
            sampler: Sampler::new(task.sampling.clone(), task.seed, vocabulary, &tokens),
            confidence: Confidence::new(task.weigh),
            decoder: words.tokenizer.decoder(),
            stop,
            held: String::new(),
            prompt_tokens: tokens.len(),
            tokens,
            cached: 0,
            reused: 0,
            exact_to: 0,
            guided: task.guide.take().map(|guide| Box::new(Guided::new(guide))),
            lent: false,
            drafter: Drafter::default(),
            started: Instant::now(),
            read_at: None,
            first_token_at: None,
            last_token_at: None,
            task,
        }
    }

    /// The prompt, and the answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens of the answer so far.
    pub fn answer_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens that the cache holds.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Tokens that the cache lacks: the rest of the prompt, or what was chosen since the last step. Never empty.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.cached..]
    }

    /// Tokens at the beginning that were read in runs which leave the bits of reading alone.
    pub fn exact_to(&self) -> usize {
        self.exact_to
    }

    /// The slot holds these kept tokens already.
    pub fn reuse(&mut self, tokens: usize, exact: bool) {
        self.cached = tokens;
        self.reused = tokens;
        self.exact_to = if exact { tokens } else { 0 };
    }

    /// What the slot held is lost.
    pub fn forget(&mut self) {
        self.reuse(0, true);
    }

    /// A piece of the prompt was read, `alone` in a run of its own; true when that was the last of it.
    pub fn read(&mut self, piece: usize, alone: bool) -> bool {
        if alone && self.exact_to == self.cached {
            self.exact_to += piece;
        }
        self.cached += piece;
        let whole = self.cached == self.prompt_tokens;
        if whole {
            self.read_at = Some(Instant::now());
        }
        whole
    }

    /// Chosen tokens were read whose scores nobody needs.
    pub fn caught_up(&mut self, tokens: usize) {
        self.cached += tokens;
    }

    /// A guess at the tokens after the pending ones, where it pays.
    pub fn guess(&mut self, pace: &Pace, most: usize) -> Vec<u32> {
        if self.guided.as_ref().is_some_and(|guided| guided.is_slow()) {
            return Vec::new();
        }
        // What lies beyond the last token that the answer may have need not be read.
        let left = self.task.max_tokens.saturating_sub(self.answer_tokens()).saturating_sub(1);
        self.drafter.guess(&self.tokens, left.min(most), pace).to_vec()
    }

    /// The rule of the answer, if something has to be computed before the next token.
    pub fn lend_guide(&mut self) -> Option<Box<Guided>> {
        let due = self.guided.as_ref().is_some_and(|guided| guided.is_due());
        self.lent |= due;
        if due { self.guided.take() } else { None }
    }

    /// Takes back what was lent.
    pub fn return_guide(&mut self, guided: Box<Guided>) {
        self.guided = Some(guided);
        self.lent = false;
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

    /// Everything pending is in the cache, and behind it `draft`; `row` has the scores after the last pending token and after
    /// each guessed one. Chooses as many tokens as the guesses were right, and one more; says whether the answer is over.
    pub fn settle(
        &mut self,
        forward: &mut dyn Forward,
        row: usize,
        draft: &[u32],
        words: &Words,
    ) -> (Gain, Option<Leave>) {
        self.cached = self.tokens.len();
        let mut gain = Gain::default();
        let mut right = 0;
        loop {
            let before = self.tokens.len();
            let leave = self.advance(forward.scores(row, right), words, &mut gain);
            let chosen = &self.tokens[before..];
            gain.tokens += chosen.len();
            let agreed = chosen.iter().zip(&draft[right..]).take_while(|(chosen, guessed)| chosen == guessed).count();
            let all = agreed == chosen.len();
            // The first guess is judged by `advance`, tried or not.
            if right > 0 && right < draft.len() {
                self.drafter.count(agreed > 0);
            }
            gain.guessed += agreed;
            right += agreed;
            self.cached += agreed;
            if leave.is_some() || !all {
                return (gain, leave);
            }
        }
    }

    /// Chooses the next token from `scores`, and what the rule forces after it; says whether the answer is over.
    fn advance(&mut self, scores: &mut [f32], words: &Words, gain: &mut Gain) -> Option<Leave> {
        if self.lent {
            return Some(self.broken_rule("it was lost"));
        }
        self.confidence.note(scores);
        if let Some(guided) = &mut self.guided
            && let Err(reason) = guided.rule_out(scores)
        {
            return Some(self.broken_rule(&reason));
        }
        let early = self.task.ignore_eos || self.answer_tokens() < self.task.min_tokens;
        let banned: &[u32] = if early && self.is_free() { &words.eos } else { &[] };
        let token = match self.sampler.sample(scores, banned) {
            Ok(token) => token,
            Err(error) => {
                let number = self.answer_tokens();
                return Some(Leave::Failed(Fault::bug(format!("choosing token {number}: {error}"))));
            }
        };
        self.drafter.judge(token);
        self.confidence.weigh(token);
        if let Some(leave) = self.take(token, words) {
            return Some(leave);
        }
        if self.task.exact {
            // What is forced comes one by one, each in a step of its own.
            return None;
        }
        let forced = self.guided.as_mut().map(|guided| guided.forced()).unwrap_or_default();
        for token in forced {
            self.sampler.note(token);
            gain.forced += 1;
            if let Some(leave) = self.take(token, words) {
                return Some(leave);
            }
        }
        None
    }

    /// The token is part of the answer: gives out the text it completes, and says whether the answer is over.
    fn take(&mut self, token: u32, words: &Words) -> Option<Leave> {
        self.tokens.push(token);
        let now = Instant::now();
        self.first_token_at.get_or_insert(now);
        self.last_token_at = Some(now);
        if words.eos.contains(&token) && !(self.task.ignore_eos && self.is_free()) {
            return Some(Leave::Finished(Finish::Stop));
        }
        if let Some(guided) = &mut self.guided
            && let Err(reason) = guided.accept(token)
        {
            return Some(self.broken_rule(&reason));
        }
        let piece = match self.decoder.push(token) {
            Ok(piece) => piece,
            Err(error) => return Some(Leave::Failed(Fault::bug(error.to_string()))),
        };
        let (text, stopped) = match self.stop.push(&piece) {
            Found::Text(text) => (text, false),
            Found::Stop(text) => (text, true),
        };
        if self.task.whole {
            self.held.push_str(&text);
        } else if !text.is_empty() && !self.give(Event::Text(text)) {
            return Some(Leave::Gone);
        }
        if stopped || self.guided.as_ref().is_some_and(|guided| guided.is_over()) {
            Some(Leave::Finished(Finish::Stop))
        } else if self.answer_tokens() >= self.task.max_tokens {
            Some(Leave::Finished(Finish::Length))
        } else {
            None
        }
    }

    /// Whether no rule says what comes next. Where one does, it alone says when the answer is whole.
    fn is_free(&self) -> bool {
        self.guided.as_ref().is_none_or(|guided| guided.is_free())
    }

    fn broken_rule(&self, reason: &str) -> Leave {
        Leave::Failed(Fault::bug(format!("the rule of the answer, at token {}: {reason}", self.answer_tokens())))
    }

    /// When the last token came.
    pub fn last_token_at(&self) -> Option<Instant> {
        self.last_token_at
    }

    /// From submission to the start, and to the first token.
    pub fn waits(&self) -> (Duration, Duration) {
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

    /// Says the last word, with the energy that the job took, and lets go of it. Returns the outcome's name for the log.
    pub fn leave(mut self, leave: Leave, energy: Option<Energy>) -> &'static str {
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
        let rest = std::mem::take(&mut self.held) + &self.stop.finish();
        if !rest.is_empty() && !self.give(Event::Text(rest)) {
            return "gone";
        }
        let now = Instant::now();
        let since = |at: Option<Instant>| at.map(|at| at - self.task.submitted).unwrap_or_default();
        let outcome = Outcome {
            finish,
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens: self.reused,
                generated_tokens: self.answer_tokens(),
                energy,
            },
            timing: Timing {
                queue: self.started - self.task.submitted,
                prefill: self.read_at.map(|at| at - self.started).unwrap_or_default(),
                first_token: since(self.first_token_at),
                total: now - self.task.submitted,
            },
            seed: self.task.seed,
            confidence: self.confidence.least(),
        };
        let _heard = self.give(Event::Finished(outcome));
        finish.name()
    }
}

/// What a job is told when the step it was part of failed.
pub fn step_fault(error: &ForwardError) -> Fault {
    let message = format!("a step of the engine failed: {error}");
    match error {
        ForwardError::NoMemory(_) => Fault::new(Kind::Machine, Code::Overloaded, message)
            .retry_after(MEMORY_RETRY)
            .hint("lower `engine.slots`, `engine.prefill_chunk` or `engine.memory_max` if this comes again"),
        _ => Fault::new(Kind::Machine, Code::Internal, message),
    }
}
