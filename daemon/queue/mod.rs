//! The waiting room in front of the engine: renders, counts, lets in or says no, and hands out a [`Ticket`].
//!
//! Called by the transports, on their threads; names the engine, never a transport. A job is taken on or refused at once.
//! What waits is bounded; who waits is served by priority, then in order. A waiting job ends the moment it is cancelled or its
//! deadline passes, not when its turn comes.

pub mod admission;
mod line;
pub mod own;
pub mod prompt;
mod quota;
pub mod ticket;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::config;
use crate::engine::guide::Guide;
use crate::engine::prefix::Scope;
use crate::engine::sampler::draw_seed;
use crate::engine::sequence::{EVENTS_BESIDE_TOKENS, Task};
use crate::engine::{Room as Space, Source};
use crate::fault::{Code, Fault, Kind};
use crate::governor::Willingness;
use crate::job::{CancelFlag, Job, JobId, Origin, Priority};
use crate::queue::admission::Limits;
use crate::queue::line::Line;
use crate::queue::own::{Held, House};
use crate::queue::prompt::Prompter;
use crate::queue::quota::Quotas;
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
    /// Where the model takes moed's own tools.
    house: Option<House>,
    /// Read once a job; changed by a reload.
    limits: Mutex<Limits>,
    vitals: Arc<Vitals>,
    quotas: Quotas,
    willingness: OnceLock<Willingness>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

/// Jobs that wait.
struct Waiting {
    line: Line,
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

impl Queue {
    /// An empty room.
    pub fn new(prompter: Prompter, limits: Limits, vitals: Arc<Vitals>) -> Self {
        Self::with_house(prompter, limits, vitals, None)
    }

    /// An empty room that offers moed's own tools to jobs which say nothing of tools.
    pub fn with_house(prompter: Prompter, limits: Limits, vitals: Arc<Vitals>, house: Option<House>) -> Self {
        let waiting = Mutex::new(Waiting { line: Line::new(limits.aging), state: State::Open });
        Self {
            room: Arc::new(Room {
                prompter,
                house,
                limits: Mutex::new(limits),
                vitals,
                quotas: Quotas::new(config::Quota::default()),
                willingness: OnceLock::new(),
                waiting,
                wake: Condvar::new(),
            }),
        }
    }

    /// Asks here before anybody is let in. Once, before the first submission.
    pub fn heed(&self, willingness: Willingness) {
        self.room.willingness.get_or_init(|| willingness);
    }

    /// What the engine takes its work from.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Door { room: Arc::clone(&self.room) })
    }

    /// Takes a job on or refuses it; answers at once. Renders and tokenises on the caller's thread: up to a few milliseconds
    /// for a prompt that fits.
    pub fn submit(&self, job: Job) -> Result<Ticket, Fault> {
        // One that was accepted comes again by itself: that it has to wait is no refusal.
        let accepted = job.accepted;
        let result = self.try_submit(job);
        if let Err(fault) = &result
            && !accepted
        {
            self.room.vitals.count_refusal(fault.code.name());
        }
        result
    }

    fn try_submit(&self, mut job: Job) -> Result<Ticket, Fault> {
        let submitted = Instant::now();
        if job.deadline.is_some_and(|deadline| deadline <= submitted) {
            return Err(passed_deadline());
        }
        // What was accepted is owed: it waits in the line, where it is in nobody's way.
        if let Some(willingness) = self.room.willingness.get().filter(|_| !job.accepted) {
            willingness.admit(job.priority)?;
        }
        let limits = self.room.limits();
        // Before the work of rendering: a full room refuses cheaply.
        limits.admit(self.room.waiting().line.rivals(job.priority)).map_err(|full| full.retry_after(RETRY_AFTER))?;
        let seat = self.room.quotas.take(&job, submitted).map_err(|over| {
            self.room.vitals.count_over_quota(over.bound);
            over.fault
        })?;
        let own = self.room.house.as_ref().and_then(|house| Some((house, house.home.furnish(&mut job)?)));
        let prompt = self.room.prompter.prompt(&job)?;
        let prompt_tokens = prompt.len();
        let max_tokens = limits.fit(prompt_tokens, job.max_tokens)?;
        if let Some((_, furnished)) = &own {
            // The prompt has been written; from here on names are choices.
            job.tools.clone_from(&furnished.narrowed);
        }
        // Last, since it costs the most where it is new.
        let grammar = self.room.prompter.grammar(&job)?;
        let (events, receiver) = mpsc::channel(max_tokens + EVENTS_BESIDE_TOKENS);
        let cancel = CancelFlag::default();
        let exact = job.reproducible || job.sampling.seed.is_some();
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
            priority: job.priority,
            exact,
            scope: if limits.prefix_shared { Scope::default() } else { scope(&job.origin) },
            guide: grammar.map(|grammar| Box::new(grammar) as Box<dyn Guide>),
            alone: job.attempt >= ATTEMPT_ALONE,
            weigh: own.is_some(),
            events,
        };
        let ahead = self.room.enter(task)?;
        self.room.vitals.count_client(job.origin.transport, &job.origin.client);
        Ok(Ticket::new(
            self.clone(),
            job.id,
            job.tools,
            job.deadline,
            cancel,
            receiver,
            seed,
            ahead,
            prompt_tokens,
            seat,
            own.map(|(house, _)| Held::new(house.clone())),
        ))
    }

    /// From now on these bounds hold for whoever comes; who is in stays in.
    pub fn limit(&self, limits: Limits) {
        *self.room.limits.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = limits;
        self.room.waiting().line.age(limits.aging);
    }

    /// The bounds in force.
    pub fn limits(&self) -> Limits {
        self.room.limits()
    }

    /// From now on these bounds for each caller; nobody who is in is sent away.
    pub fn ration(&self, quota: config::Quota) {
        self.room.quotas.change(quota);
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.room.waiting().line.len()
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
        for task in waiting.line.drain() {
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
        let found = waiting.line.remove(id).is_some();
        if found {
            self.room.report(&waiting);
        }
        found
    }
}

impl Room {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; if it did, the lists are still whole lists.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn limits(&self) -> Limits {
        // A plain value; whoever panicked beside it left it whole.
        *self.limits.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enter(&self, task: Task) -> Result<usize, Fault> {
        let mut waiting = self.waiting();
        match waiting.state {
            State::Open => {}
            State::Draining => {
                return Err(Fault::unavailable("the daemon is draining and takes no new requests", RETRY_AFTER));
            }
            State::Closed => return Err(Fault::unavailable("the engine has stopped", RETRY_AFTER)),
        }
        self.limits().admit(waiting.line.rivals(task.priority)).map_err(|full| full.retry_after(RETRY_AFTER))?;
        let ahead = waiting.line.push(task) + self.vitals.running();
        self.report(&waiting);
        drop(waiting);
        self.wake.notify_all();
        Ok(ahead)
    }

    fn report(&self, waiting: &Waiting) {
        for (priority, jobs) in waiting.line.counts() {
            self.vitals.set_waiting(priority, jobs);
        }
    }
}

/// Callers of one origin share the beginnings of their prompts, and no others'.
fn scope(origin: &Origin) -> Scope {
    let mut hasher = DefaultHasher::new();
    (origin.transport, &origin.client).hash(&mut hasher);
    // 0 is everybody's.
    Scope(hasher.finish() | 1)
}

/// A waiting job whose deadline passed.
pub fn passed_deadline() -> Fault {
    Fault::new(Kind::Caller, Code::DeadlineExceeded, "the deadline passed before the request was started")
}

/// The engine's side of the room.
struct Door {
    room: Arc<Room>,
}

impl Source for Door {
    fn take(&mut self, mut space: Space) -> Option<Task> {
        let mut waiting = self.room.waiting();
        // What was taken on is finished: a drain does not wait for a cooler board. Slots kept for alarms stay theirs.
        if waiting.state == State::Draining && space.least < Priority::Alarm {
            space.least = Priority::Background;
        }
        let task = waiting.line.take(space, Instant::now())?;
        self.room.report(&waiting);
        Some(task)
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let waiting = self.room.waiting();
        if waiting.line.len() > 0 {
            return true;
        }
        if waiting.state != State::Open {
            return false;
        }
        let wait = self
            .room
            .wake
            .wait_timeout_while(waiting, timeout, |waiting| waiting.line.len() == 0 && waiting.state == State::Open);
        drop(wait);
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
