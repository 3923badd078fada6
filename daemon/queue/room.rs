//! One model's waiting room: renders, counts, lets in or says no, and keeps who waits until the engine takes them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::engine::guide::Guide;
use crate::engine::prefix::Scope;
use crate::engine::sampler::draw_seed;
use crate::engine::sequence::{EVENTS_BESIDE_TOKENS, Task};
use crate::engine::{Room as Space, Source};
use crate::fault::Fault;
use crate::governor::Willingness;
use crate::job::{CancelFlag, Event, Job, JobId, Origin, Priority};
use crate::queue::admission::Limits;
use crate::queue::line::Line;
use crate::queue::own::{Held, House};
use crate::queue::prompt::Prompter;
use crate::queue::quota::Quotas;
use crate::queue::ticket::Ticket;
use crate::queue::{State, passed_deadline};
use crate::vitals::Vitals;

/// What a refused caller is told to wait. A guess on the safe side: an answer takes about this long.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The seed of a request that asks to be reproducible and names none.
const SEED_REPRODUCIBLE: u64 = 0;

/// The last attempt of a job runs with no other beside it (DESIGN section 6, attempts).
const ATTEMPT_ALONE: u32 = 3;

/// What is asked before anybody is let in, whichever room it is.
pub(super) struct Gate {
    pub(super) vitals: Arc<Vitals>,
    pub(super) quotas: Quotas,
    pub(super) willingness: OnceLock<Willingness>,
}

/// A room with one model behind it.
pub(super) struct Room {
    gate: Arc<Gate>,
    prompter: Prompter,
    /// Where the model takes moed's own tools.
    house: Option<House>,
    /// Read once a job; changed by a reload.
    limits: Mutex<Limits>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

/// Jobs that wait.
struct Waiting {
    line: Line,
    state: State,
}

impl Room {
    pub(super) fn new(gate: Arc<Gate>, prompter: Prompter, limits: Limits, house: Option<House>) -> Self {
        let waiting = Mutex::new(Waiting { line: Line::new(limits.aging), state: State::Open });
        Self { gate, prompter, house, limits: Mutex::new(limits), waiting, wake: Condvar::new() }
    }

    /// Takes a job on or refuses it.
    pub(super) fn submit(self: &Arc<Self>, mut job: Job) -> Result<Ticket, Fault> {
        let submitted = Instant::now();
        if job.deadline.is_some_and(|deadline| deadline <= submitted) {
            return Err(passed_deadline());
        }
        // What was accepted is owed: it waits in the line, where it is in nobody's way.
        if let Some(willingness) = self.gate.willingness.get().filter(|_| !job.accepted) {
            willingness.admit(job.priority)?;
        }
        let limits = self.limits();
        // Before the work of rendering: a full room refuses cheaply.
        limits.admit(self.waiting().line.rivals(job.priority)).map_err(|full| full.retry_after(RETRY_AFTER))?;
        let seat = self.gate.quotas.take(&job, submitted).map_err(|over| {
            self.gate.vitals.count_over_quota(over.bound);
            over.fault
        })?;
        let own = self.house.as_ref().and_then(|house| Some((house, house.home.furnish(&mut job)?)));
        let prompt = self.prompter.prompt(&job)?;
        let prompt_tokens = prompt.len();
        let max_tokens = limits.fit(prompt_tokens, job.max_tokens)?;
        if let Some((_, furnished)) = &own {
            // The prompt has been written; from here on names are choices.
            job.tools.clone_from(&furnished.narrowed);
        }
        // Last, since it costs the most where it is new.
        let grammar = self.prompter.grammar(&job)?;
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
        let ahead = self.enter(task)?;
        self.gate.vitals.count_client(job.origin.transport, &job.origin.client);
        Ok(Ticket::new(
            Arc::clone(self),
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
    pub(super) fn limit(&self, limits: Limits) {
        *lock(&self.limits) = limits;
        self.waiting().line.age(limits.aging);
    }

    pub(super) fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().line.len()
    }

    pub(super) fn state(&self) -> State {
        self.waiting().state
    }

    /// Lets nobody in any more; what waits and runs is served.
    pub(super) fn drain(&self) {
        let mut waiting = self.waiting();
        if waiting.state == State::Open {
            waiting.state = State::Draining;
        }
        drop(waiting);
        self.wake.notify_all();
    }

    /// Lets nobody in and ends what waits with this fault.
    pub(super) fn close(&self, fault: &Fault) {
        let mut waiting = self.waiting();
        waiting.state = State::Closed;
        for task in waiting.line.drain() {
            // A caller who has left needs no answer.
            let _heard = task.events.try_send(Event::Failed(fault.clone()));
        }
        self.report(&waiting);
        drop(waiting);
        self.wake.notify_all();
    }

    /// Takes a waiting job out; false when the engine has it already, or it is over.
    pub(super) fn remove(&self, id: JobId) -> bool {
        let mut waiting = self.waiting();
        let found = waiting.line.remove(id).is_some();
        if found {
            self.report(&waiting);
        }
        found
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
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
        let ahead = waiting.line.push(task) + self.gate.vitals.running();
        self.report(&waiting);
        drop(waiting);
        self.wake.notify_all();
        Ok(ahead)
    }

    fn report(&self, waiting: &Waiting) {
        for (priority, jobs) in waiting.line.counts() {
            self.gate.vitals.set_waiting(priority, jobs);
        }
    }
}

/// Nothing panics while it holds one of the locks here; if it did, what they guard is still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Callers of one origin share the beginnings of their prompts, and no others'.
fn scope(origin: &Origin) -> Scope {
    let mut hasher = DefaultHasher::new();
    (origin.transport, &origin.client).hash(&mut hasher);
    // 0 is everybody's.
    Scope(hasher.finish() | 1)
}

/// The engine's side of the room.
pub(super) struct Door {
    pub(super) room: Arc<Room>,
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
