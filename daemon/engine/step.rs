//! One turn of the engine: retire, take in, read a piece of a prompt, let every running answer grow, retire.
//!
//! Running answers occupy slots `0..n` of the cache; prompts that are being read sit right behind them, so that a decode step
//! is one batch over consecutive rows. Between two pieces of a prompt every running answer gets its token: no stream stands
//! still for longer than one piece. A prompt is read one at a time; alarms interrupt it between two pieces, and take turns.
//! What a rule forces into an answer is read as a prompt is: a piece a turn, in turn with the prompts.

mod reading;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::forward::{Forward, Shape, Stop};
use crate::engine::guide::Worker;
use crate::engine::oversight::{Allowance, Oversight, REST_MAX};
use crate::engine::pace::Pace;
use crate::engine::prefix::Prefixes;
use crate::engine::sequence::{Leave, Sequence, Words};
use crate::engine::{Room, Source};
use crate::fault::{Code, Fault, Kind};
use crate::job::{Event, Finish, Interrupt, JobId, Priority};
use crate::vitals::{Filling, Vitals};
pub use reading::CHUNK_MIN;
pub(super) use reading::Company;

/// Steps that may fail one after another, with none that works between them, before the engine gives itself up.
///
/// One failure may be a job's own; three in a row are the machine's, and a restart is the only cure we have.
pub const FAILURES_MAX: u32 = 3;

/// Forced tokens that are read in a turn that has read a piece of a prompt, too: so few cost about one step.
const FORCED_MIN: usize = 16;

/// Prompts that are being read at a time: one, and alarms that interrupted it. More alarms than that would each get too little.
const READING_MAX: usize = 4;

/// How often an engine looks whether kept out work may come in.
const HELD: Duration = Duration::from_millis(20);

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

/// How the engine goes about its work.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pace: Pace,
    /// Slots that only alarms may take.
    pub reserve: usize,
    /// Whether guesses are made at all.
    pub guesses: bool,
}

/// The jobs in flight and the model that serves them.
pub struct Stepper {
    pub(super) forward: Box<dyn Forward>,
    pub(super) shape: Shape,
    pub(super) words: Words,
    pub(super) pace: Pace,
    pub(super) guesses: bool,
    reserve: usize,
    prefixes: Prefixes,
    pub(super) guides: Worker,
    stop: Arc<dyn Stop>,
    interrupt: Interrupt,
    /// In slots `0..`.
    pub(super) decoding: Vec<Sequence>,
    /// In the slots behind.
    pub(super) reading: Vec<Sequence>,
    /// Whose prompt was read last: alarms take turns.
    read_last: Option<JobId>,
    /// Forced tokens had to wait in the last turn: the next one is theirs, and reads no prompt.
    pub(super) owed: bool,
    pub(super) failures: u32,
    /// When the last run ended, while there has been work ever since.
    pub(super) last_run_end: Option<Instant>,
    pub(super) oversight: Oversight,
    /// What holds in this turn.
    allowance: Allowance,
    /// Wishes for the memory of kept prompts that were met.
    forgotten: usize,
    /// What the metrics have of this engine.
    shown: Filling,
}

impl Stepper {
    /// A stepper with no jobs. Fails where no thread can be started.
    pub fn new(forward: Box<dyn Forward>, words: Words, plan: Plan) -> Result<Self, Fault> {
        let shape = forward.shape();
        let stop = forward.stopper();
        let stops = Arc::clone(&stop);
        Ok(Self {
            prefixes: Prefixes::new(shape.blocks, shape.block_tokens),
            guides: Worker::start(shape.slots)?,
            interrupt: Arc::new(move || stops.stop()),
            stop,
            forward,
            shape,
            words,
            reserve: plan.reserve.min(shape.slots - 1),
            pace: plan.pace,
            guesses: plan.guesses,
            decoding: Vec::new(),
            reading: Vec::new(),
            read_last: None,
            owed: false,
            failures: 0,
            last_run_end: None,
            oversight: Oversight::default(),
            allowance: Allowance::default(),
            forgotten: 0,
            shown: Filling::default(),
        })
    }

    /// The same under somebody's eyes.
    #[must_use]
    pub fn under(self, oversight: Oversight) -> Self {
        Self { oversight, ..self }
    }

    /// With nothing to do while less urgent work is kept out: what waits may be just that, and looking at it without a pause
    /// would keep a core busy.
    pub fn hold(&self) {
        if self.allowance.least > Priority::Background {
            std::thread::sleep(HELD);
        }
    }

    /// Rests after a turn for as long as the allowance says.
    pub fn rest(&mut self, worked: Duration) {
        if self.allowance.rest > 0.0 {
            std::thread::sleep(worked.mul_f32(self.allowance.rest).min(REST_MAX));
            // What passed was nobody's work.
            self.last_run_end = None;
        }
    }

    /// Jobs in flight.
    pub fn jobs(&self) -> usize {
        self.decoding.len() + self.reading.len()
    }

    /// Whose jobs they are.
    pub fn job_ids(&self) -> Vec<JobId> {
        self.decoding.iter().chain(&self.reading).map(|sequence| sequence.task.id).collect()
    }

    /// Makes one turn.
    pub fn turn(&mut self, source: &mut dyn Source, vitals: &Vitals) -> Turn {
        let before = self.jobs();
        self.allowance = self.oversight.limits.get();
        self.forget_prompts(vitals);
        self.retire_interrupted(vitals);
        self.take_in(source, vitals);
        self.show(vitals);
        if self.jobs() == 0 {
            self.last_run_end = None;
            if let Some(observer) = &self.oversight.observer {
                observer.sleep();
            }
            return if before > 0 { Turn::Worked } else { Turn::Idle };
        }
        let (joins, read) = if std::mem::take(&mut self.owed) { (None, 0) } else { self.read_next(vitals) };
        self.decode(joins, self.piece_max().saturating_sub(read).max(FORCED_MIN), vitals);
        debug_assert_eq!(self.violations(), Vec::<String>::new());
        if self.failures >= FAILURES_MAX { Turn::Broken } else { Turn::Worked }
    }

    /// Takes this engine out of the metrics: it is over.
    pub fn leave(&mut self, vitals: &Vitals) {
        self.show_as(Filling::default(), vitals);
    }

    fn show(&mut self, vitals: &Vitals) {
        let (jobs, slots) = (self.jobs(), self.shape.slots);
        self.show_as(Filling { jobs, slots, ..self.shown }, vitals);
    }

    fn show_blocks(&mut self, vitals: &Vitals) {
        let (blocks, blocks_max) = (self.prefixes.len(), self.shape.blocks);
        self.show_as(Filling { blocks, blocks_max, ..self.shown }, vitals);
    }

    fn show_as(&mut self, filling: Filling, vitals: &Vitals) {
        let shown = std::mem::replace(&mut self.shown, filling);
        self.oversight.limits.change_taken(shown.jobs, filling.jobs);
        vitals.change_engine(shown, filling);
    }

    /// Ends every job with this fault; for an engine that stops.
    pub fn abandon(&mut self, fault: &Fault) {
        let all: Vec<Sequence> = self.reading.drain(..).chain(self.decoding.drain(..)).collect();
        for sequence in all {
            self.retire(sequence, Leave::Failed(fault.clone()));
        }
    }

    /// Everything that must hold between two turns and does not.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.prefixes.adds_up() {
            found.extend(self.prefixes.violations());
        }
        if self.jobs() > self.shape.slots || self.reading.len() > READING_MAX {
            found.push(format!("{} jobs on {} slots, {} read", self.jobs(), self.shape.slots, self.reading.len()));
        }
        for sequence in &self.decoding {
            let (id, cached) = (sequence.task.id, sequence.cached());
            if cached < sequence.prompt_tokens() || sequence.answer_tokens() == 0 || sequence.pending().is_empty() {
                found.push(format!("job {id} decodes with {cached} of {} tokens", sequence.tokens().len()));
            }
            if sequence.tokens().len() > self.shape.context {
                found.push(format!("job {id} has {} tokens, context {}", sequence.tokens().len(), self.shape.context));
            }
        }
        for sequence in &self.reading {
            if sequence.answer_tokens() > 0 || sequence.pending().is_empty() {
                found.push(format!("job {} answers before its prompt is read", sequence.task.id));
            }
        }
        found
    }

    /// Retires what was cancelled, ran out of time, or lost its listener.
    fn retire_interrupted(&mut self, vitals: &Vitals) {
        let now = Instant::now();
        for index in (0..self.decoding.len()).rev() {
            if let Some(leave) = self.decoding[index].interrupted(now) {
                self.retire_at(index, leave, vitals);
            }
        }
        for index in (0..self.reading.len()).rev() {
            if let Some(leave) = self.reading[index].interrupted(now) {
                self.retire_reading(index, leave);
            }
        }
    }

    /// Starts to read the next prompt, if there is a slot for it.
    fn take_in(&mut self, source: &mut dyn Source, vitals: &Vitals) {
        let lonely = self.decoding.iter().chain(&self.reading).any(|sequence| sequence.task.alone);
        if lonely || self.reading.len() >= READING_MAX || self.jobs() >= self.shape.slots {
            return;
        }
        let slots = (self.shape.slots - self.reserve).min(self.oversight.limits.rows_beside(self.shown.jobs));
        let room = self.jobs() < slots && self.reading.is_empty();
        let least = if room { self.allowance.least } else { Priority::Alarm };
        let Some(task) = source.take(Room { running: self.jobs(), least }) else { return };
        if let (0, Some(observer)) = (self.jobs(), &self.oversight.observer) {
            observer.wake();
        }
        let mut sequence = Sequence::new(task, &self.words, self.shape.vocabulary);
        self.reuse(&mut sequence, vitals);
        if let Some(fault) = self.too_late(&sequence) {
            return self.retire(sequence, Leave::Failed(fault));
        }
        if sequence.give(Event::Started) {
            self.reading.push(sequence);
        }
    }

    /// A deadline that will have passed before the prompt is read, by the pace that was measured on the idle machine.
    fn too_late(&self, sequence: &Sequence) -> Option<Fault> {
        let tokens = sequence.pending().len();
        let takes = self.pace.prompt_token().saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX));
        let left = sequence.task.deadline?.saturating_duration_since(Instant::now());
        (takes > left).then(|| {
            let (takes, left) = (takes.as_millis(), left.as_millis());
            let message =
                format!("reading {tokens} tokens of the prompt takes {takes} ms here, the deadline is in {left} ms");
            Fault::new(Kind::Caller, Code::DeadlineExceeded, message)
        })
    }

    /// Retires a running answer and closes the gap in the cache: the last one moves into its slot, prompts being read move up
    /// behind it.
    pub(super) fn retire_at(&mut self, index: usize, leave: Leave, vitals: &Vitals) {
        let last = self.decoding.len() - 1;
        let sequence = self.decoding.swap_remove(index);
        // The next turn of a conversation begins with this one.
        if self.shape.rewinds && matches!(leave, Leave::Finished(_)) {
            keep(&mut self.prefixes, self.forward.as_mut(), index, &sequence, 0);
            self.show_blocks(vitals);
        }
        if index != last {
            self.forward.copy_slot(last, index, self.decoding[index].cached());
        }
        self.close_up(last, 0);
        self.retire(sequence, leave);
    }

    /// Retires a prompt that is being read.
    pub(super) fn retire_reading(&mut self, index: usize, leave: Leave) {
        let sequence = self.reading.remove(index);
        self.close_up(self.decoding.len() + index, index);
        self.retire(sequence, leave);
    }

    /// Says the last word to a job, with what it cost.
    fn retire(&self, sequence: Sequence, leave: Leave) {
        let (id, prompt_tokens, generated_tokens) =
            (sequence.task.id, sequence.prompt_tokens(), sequence.answer_tokens());
        let (queue, first_token) = sequence.waits();
        let interrupted = matches!(leave, Leave::Finished(Finish::Cancelled | Finish::Deadline));
        let energy = self.oversight.observer.as_ref().and_then(|observer| observer.bill(id));
        let outcome = sequence.leave(leave, energy);
        tracing::debug!(job = %id, outcome, interrupted, prompt_tokens, generated_tokens, queue_ms = queue.as_millis(), first_token_ms = first_token.as_millis(), "job left the engine");
    }

    /// Gives the memory of kept prompts back where somebody asked for it.
    fn forget_prompts(&mut self, vitals: &Vitals) {
        let wishes = self.oversight.limits.wishes();
        if std::mem::replace(&mut self.forgotten, wishes) != wishes {
            self.prefixes.clear();
            self.forward.forget_blocks();
            self.show_blocks(vitals);
        }
    }

    /// Moves the prompts from the `from`-th on one slot up, to `slot` and behind.
    fn close_up(&mut self, slot: usize, from: usize) {
        for (offset, sequence) in self.reading[from..].iter().enumerate() {
            self.forward.copy_slot(slot + offset + 1, slot + offset, sequence.cached());
        }
    }
}

/// Copies a sequence's tokens from its slot into kept blocks. `from` as in [`Prefixes::keep`].
fn keep(prefixes: &mut Prefixes, forward: &mut dyn Forward, slot: usize, sequence: &Sequence, from: usize) {
    let cached = sequence.cached();
    let exact_to = sequence.exact_to().min(cached);
    for keep in prefixes.keep(sequence.tokens(), sequence.task.scope, from, cached, exact_to) {
        forward.keep_block(slot, keep.first, keep.block);
    }
}
