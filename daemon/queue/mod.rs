//! The waiting room in front of the engine: renders, counts, lets in or says no, and hands out a [`Ticket`].
//!
//! Called by the transports, on their threads; names the engine, never a transport. A job is taken on or refused at once.
//! What waits is bounded; who waits is served by priority, then in order. A waiting job ends the moment it is cancelled or its
//! deadline passes, not when its turn comes.

pub mod admission;
pub mod prompt;
pub mod ticket;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::engine::Source;
use crate::engine::sampler::draw_seed;
use crate::engine::sequence::{EVENTS_BESIDE_TOKENS, Task};
use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Job, JobId, Priority};
use crate::queue::admission::Limits;
use crate::queue::prompt::Prompter;
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// What a refused caller is told to wait. A guess on the safe side: an answer takes about this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The seed of a request that asks to be reproducible and names none.
const SEED_REPRODUCIBLE: u64 = 0;

/// The last attempt of a job runs with no other beside it (DESIGN section 6, attempts).
const ATTEMPT_ALONE: u32 = 3;

/// A handle on the waiting room. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    room: Arc<Room>,
}

struct Room {
    prompter: Prompter,
    limits: Limits,
    vitals: Arc<Vitals>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

/// Jobs that wait, the most urgent list first.
struct Waiting {
    lists: [VecDeque<Task>; 3],
    state: State,
}

/// Whether the room takes anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// What is in is served, nobody else comes in.
    Draining,
    /// The engine is gone.
    Closed,
}

impl Waiting {
    fn len(&self) -> usize {
        self.lists.iter().map(VecDeque::len).sum()
    }
}

impl Queue {
    /// An empty room.
    pub fn new(prompter: Prompter, limits: Limits, vitals: Arc<Vitals>) -> Self {
        let waiting = Mutex::new(Waiting { lists: Default::default(), state: State::Open });
        Self { room: Arc::new(Room { prompter, limits, vitals, waiting, wake: Condvar::new() }) }
    }

    /// What the engine takes its work from.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Door { room: Arc::clone(&self.room) })
    }

    /// Takes a job on or refuses it; answers at once. Renders and tokenises on the caller's thread: up to a few milliseconds
    /// for a prompt that fits.
    pub fn submit(&self, job: Job) -> Result<Ticket, Fault> {
        let result = self.try_submit(job);
        if let Err(fault) = &result {
            self.room.vitals.count_refusal(fault.code.name());
        }
        result
    }

    fn try_submit(&self, job: Job) -> Result<Ticket, Fault> {
        let submitted = Instant::now();
        if job.deadline.is_some_and(|deadline| deadline <= submitted) {
            return Err(passed_deadline());
        }
        // Before the work of rendering: a full room refuses cheaply.
        self.room.limits.admit(self.room.waiting().len()).map_err(|full| full.retry_after(RETRY_AFTER))?;
        let prompt = self.room.prompter.prompt(&job)?;
        let prompt_tokens = prompt.len();
        let max_tokens = self.room.limits.fit(prompt_tokens, job.max_tokens)?;
        let (events, receiver) = mpsc::channel(max_tokens + EVENTS_BESIDE_TOKENS);
        let cancel = CancelFlag::default();
        let seed = match job.sampling.seed {
            Some(seed) => seed,
            None if job.reproducible => SEED_REPRODUCIBLE,
            None => draw_seed(),
        };
        let task = Task {
            id: job.id,
            prompt,
            max_tokens,
            min_tokens: job.min_tokens.min(max_tokens),
            ignore_eos: job.ignore_eos,
            sampling: job.sampling,
            seed,
            stop: job.stop,
            deadline: job.deadline,
            submitted,
            cancel: cancel.clone(),
            alone: job.attempt >= ATTEMPT_ALONE,
            events,
        };
        let ahead = self.room.enter(task, job.priority)?;
        Ok(Ticket::new(self.clone(), job.id, job.tools, job.deadline, cancel, receiver, seed, ahead, prompt_tokens))
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.room.waiting().len()
    }

    /// Whether the room takes anybody in.
    pub fn state(&self) -> State {
        self.room.waiting().state
    }

    /// Lets nobody in any more; what waits and runs is served.
    pub fn drain(&self) {
        let mut waiting = self.room.waiting();
        if waiting.state == State::Open {
            waiting.state = State::Draining;
        }
        drop(waiting);
        self.room.wake.notify_all();
    }

    /// Lets nobody in and ends what waits with this fault; for the end of the engine.
    pub fn close(&self, fault: &Fault) {
        let mut waiting = self.room.waiting();
        waiting.state = State::Closed;
        for task in waiting.lists.iter_mut().flat_map(|list| list.drain(..)) {
            // A caller who has left needs no answer.
            let _heard = task.events.try_send(crate::job::Event::Failed(fault.clone()));
        }
        self.room.report(&waiting);
        drop(waiting);
        self.room.wake.notify_all();
    }

    /// Takes a waiting job out; false when the engine has it already, or it is over.
    fn remove(&self, id: JobId) -> bool {
        let mut waiting = self.room.waiting();
        for list in &mut waiting.lists {
            if let Some(index) = list.iter().position(|task| task.id == id) {
                list.remove(index);
                self.room.report(&waiting);
                return true;
            }
        }
        false
    }
}

impl Room {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; if it did, the lists are still whole lists.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enter(&self, task: Task, priority: Priority) -> Result<usize, Fault> {
        let mut waiting = self.waiting();
        match waiting.state {
            State::Open => {}
            State::Draining => {
                return Err(Fault::unavailable("the daemon is draining and takes no new requests", RETRY_AFTER));
            }
            State::Closed => return Err(Fault::unavailable("the engine has stopped", RETRY_AFTER)),
        }
        self.limits.admit(waiting.len()).map_err(|full| full.retry_after(RETRY_AFTER))?;
        let place = Priority::ALL.iter().position(|known| *known == priority).unwrap_or(1);
        let ahead = waiting.lists[..=place].iter().map(VecDeque::len).sum::<usize>() + self.vitals.running();
        waiting.lists[place].push_back(task);
        self.report(&waiting);
        drop(waiting);
        self.wake.notify_all();
        Ok(ahead)
    }

    fn report(&self, waiting: &Waiting) {
        for (priority, list) in Priority::ALL.into_iter().zip(&waiting.lists) {
            self.vitals.set_waiting(priority, list.len());
        }
    }
}

/// A waiting job whose deadline passed.
fn passed_deadline() -> Fault {
    Fault::new(Kind::Caller, Code::DeadlineExceeded, "the deadline passed before the request was started")
}

/// The engine's side of the room.
struct Door {
    room: Arc<Room>,
}

impl Source for Door {
    fn take(&mut self, running: usize) -> Option<Task> {
        let mut waiting = self.room.waiting();
        let list = waiting.lists.iter_mut().find(|list| !list.is_empty())?;
        // One that must run alone holds up those behind it, or it would never find the engine empty.
        if running > 0 && list.front().is_some_and(|task| task.alone) {
            return None;
        }
        let task = list.pop_front();
        self.room.report(&waiting);
        task
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let waiting = self.room.waiting();
        if waiting.len() > 0 {
            return true;
        }
        if waiting.state != State::Open {
            return false;
        }
        let wait = self
            .room
            .wake
            .wait_timeout_while(waiting, timeout, |waiting| waiting.len() == 0 && waiting.state == State::Open);
        drop(wait);
        true
    }
}

#[cfg(test)]
mod tests;
