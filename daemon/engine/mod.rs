//! The engine: one thread that owns the model and everything that changes with a step.
//!
//! It looks for arrivals and cancellations between steps, at its own pace; it never waits for a reader, since each job's
//! channel has room for all its events. It knows token ids and text pieces; no JSON, no topics, no HTTP.
//! It asks a [`Source`] for work and so names neither the queue nor a transport.

pub mod binding;
mod confidence;
pub mod draft;
pub mod forward;
pub mod guide;
pub mod operators;
pub mod oversight;
pub mod pace;
pub mod placement;
pub mod prefix;
pub mod prepare;
pub mod provider;
mod raw;
mod runs;
pub mod runtime;
pub mod sampler;
pub mod scripted;
pub mod selfcheck;
pub mod sequence;
pub mod session;
pub mod step;
pub mod threads;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::forward::{Forward, Shape};
use crate::engine::oversight::Oversight;
pub use crate::engine::raw::give_back_heap;
use crate::engine::sequence::{Task, Words};
use crate::engine::step::{Plan, Stepper, Turn};
use crate::fault::Fault;
use crate::job::Priority;
use crate::pulse::Part;
use crate::vitals::Vitals;

/// How often an idle engine shows that it is alive.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// What the engine has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Jobs that run just now.
    pub running: usize,
    /// Nothing less urgent than this.
    pub least: Priority,
}

/// Where work comes from.
pub trait Source: Send {
    /// The next task that may start in this room. Never blocks.
    fn take(&mut self, room: Room) -> Option<Task>;

    /// Blocks until there may be a task, at most for `timeout`. False: there will be none any more.
    fn wait(&mut self, timeout: Duration) -> bool;
}

/// Why the engine's thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source was closed and the last job done.
    Drained,
    /// Steps failed one after another.
    Broken,
}

/// A running engine.
pub struct Engine {
    shape: Shape,
    thread: Option<JoinHandle<Ended>>,
}

impl Engine {
    /// Starts the thread that owns the model; nobody watches over it.
    pub fn start(
        forward: Box<dyn Forward>,
        words: Words,
        plan: Plan,
        source: Box<dyn Source>,
        vitals: Arc<Vitals>,
    ) -> Result<Self, Fault> {
        Self::start_under(Oversight::default(), forward, words, plan, source, vitals)
    }

    /// Starts the thread that owns the model.
    pub fn start_under(
        oversight: Oversight,
        forward: Box<dyn Forward>,
        words: Words,
        plan: Plan,
        mut source: Box<dyn Source>,
        vitals: Arc<Vitals>,
    ) -> Result<Self, Fault> {
        let (shape, heart) = (forward.shape(), oversight.heart);
        let stepper = Stepper::new(forward, words, plan)?.under(oversight);
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || run(stepper, heart, source.as_mut(), &vitals))
            .map_err(|error| Fault::machine(format!("starting the engine's thread: {error}")))?;
        Ok(Self { shape, thread: Some(thread) })
    }

    /// What the model can take.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for the thread's end, which comes when its source is closed and its jobs are done. Blocks.
    pub fn join(mut self) -> Ended {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            // A panic: its message is in the log already.
            Some(Err(_)) | None => Ended::Broken,
        }
    }
}

/// When those come again whom the engine's end has turned away: a restart takes about as long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

fn run(mut stepper: Stepper, heart: Part, source: &mut dyn Source, vitals: &Vitals) -> Ended {
    let ended = work(&mut stepper, heart, source, vitals);
    stepper.leave(vitals);
    ended
}

fn work(stepper: &mut Stepper, heart: Part, source: &mut dyn Source, vitals: &Vitals) -> Ended {
    loop {
        let began = Instant::now();
        match stepper.turn(source, vitals) {
            Turn::Worked => stepper.rest(began.elapsed()),
            Turn::Idle => {
                vitals.pulse().beat(heart);
                if !source.wait(IDLE_BEAT) {
                    return Ended::Drained;
                }
                stepper.hold();
            }
            Turn::Broken => {
                tracing::error!(failures = step::FAILURES_MAX, "steps failed one after another; the engine stops");
                // Not the jobs' fault as far as anybody knows: what is kept is tried again, a bounded number of times.
                stepper.abandon(&Fault::unavailable("the engine stopped after repeated failures", RETRY_AFTER));
                return Ended::Broken;
            }
        }
    }
}

#[cfg(test)]
mod tests;
