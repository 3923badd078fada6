//! One model's waiting room: renders, counts, lets in or says no, and keeps who waits until the engine takes them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
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

/// When those come again whom the engine's end has turned away: a restart takes about as long.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// How often it is looked whether those have come, or gone, of whom nothing is heard.
const LOOK: Duration = Duration::from_millis(5);

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

/// What a room is made of: a model, as far as the queue knows it.
pub struct Fittings {
    /// The model's name, as answers tell it.
    pub model: String,
    pub prompter: Prompter,
    pub limits: Limits,
    /// Where the model takes moed's own tools.
    pub house: Option<House>,
}

/// A room with one model behind it.
pub(super) struct Room {
    gate: Arc<Gate>,
    pub(super) model: String,
    /// The room that took in before this one.
    before: Weak<Room>,
    prompter: Prompter,
    /// Where the model takes moed's own tools.
    house: Option<House>,
    /// Read once a job; changed by a reload.
    limits: Mutex<Limits>,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Jobs that were sent here and do not stand in line yet: a room that is left waits for them.
    coming: AtomicUsize,
}

/// Jobs that wait.
struct Waiting {
    line: Line,
    state: State,
    /// What the metrics have of this room, in the order of [`Priority::ALL`].
    shown: [usize; Priority::ALL.len()],
}

impl Room {
    pub(super) fn new(gate: Arc<Gate>, fittings: Fittings, before: Weak<Room>) -> Self {
        let Fittings { model, prompter, limits, house } = fittings;
        let line = Line::new(limits.aging);
        let waiting = Mutex::new(Waiting { line, state: State::Open, shown: Default::default() });
        let (limits, wake, coming) = (Mutex::new(limits), Condvar::new(), AtomicUsize::new(0));
        Self { gate, model, before, prompter, house, limits, waiting, wake, coming }
    }

    /// The room before this one, while its engine has not finished what it has.
    pub(super) fn before(&self) -> Option<Arc<Room>> {
        self.before.upgrade().filter(|room| room.state() != State::Closed)
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
        let elsewhere = self.before().map_or(0, |room| room.rivals(job.priority));
        let admit = |here: usize| limits.admit(here + elsewhere).map_err(|full| full.retry_after(RETRY_AFTER));
        admit(self.rivals(job.priority))?;
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
        let (events, receiver) = mpsc::channel(EVENTS_BESIDE_TOKENS + if job.whole { 0 } else { max_tokens });
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
            whole: job.whole,
            events,
        };
        let ahead = self.enter(task, admit)?;
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

    fn rivals(&self, priority: Priority) -> usize {
        self.waiting().line.rivals(priority)
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().line.len()
    }

    pub(super) fn state(&self) -> State {
        self.waiting().state
    }

    /// Nobody is sent here any more, or nobody is let in; what waits and runs is served, and then the engine ends.
    pub(super) fn end(&self, state: State) {
        let mut waiting = self.waiting();
        if waiting.state == State::Open {
            waiting.state = state;
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
        self.report(&mut waiting);
        drop(waiting);
        self.wake.notify_all();
    }

    /// Takes a waiting job out; false when the engine has it already, or it is over.
    pub(super) fn remove(&self, id: JobId) -> bool {
        let mut waiting = self.waiting();
        let found = waiting.line.remove(id).is_some();
        if found {
            self.report(&mut waiting);
        }
        found
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    fn enter(&self, task: Task, admit: impl Fn(usize) -> Result<(), Fault>) -> Result<usize, Fault> {
        let mut waiting = self.waiting();
        match waiting.state {
            State::Open | State::Left => {}
            State::Draining => {
                return Err(Fault::unavailable("the daemon is draining and takes no new requests", RETRY_AFTER));
            }
            State::Closed => return Err(Fault::unavailable("the engine has stopped", RETRY_AFTER)),
        }
        admit(waiting.line.rivals(task.priority))?;
        let ahead = waiting.line.push(task) + self.gate.vitals.running();
        self.report(&mut waiting);
        drop(waiting);
        self.wake.notify_all();
        Ok(ahead)
    }

    fn report(&self, waiting: &mut Waiting) {
        for ((priority, jobs), shown) in waiting.line.counts().zip(&mut waiting.shown) {
            self.gate.vitals.change_waiting(priority, std::mem::replace(shown, jobs), jobs);
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

/// A job on its way into a room.
pub(super) struct Coming {
    pub(super) room: Arc<Room>,
}

impl Coming {
    /// To be called where it is decided which room takes in, so that one that is left knows of everybody who was sent to it.
    pub(super) fn to(room: &Arc<Room>) -> Self {
        room.coming.fetch_add(1, Ordering::AcqRel);
        Self { room: Arc::clone(room) }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.room.coming.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The engine's side of the room. It goes with the engine, and nobody is served here any more.
pub(super) struct Door {
    pub(super) room: Arc<Room>,
}

impl Source for Door {
    fn take(&mut self, mut space: Space) -> Option<Task> {
        // Whoever must run alone waits for the other engine's last job, too.
        space.running += usize::from(self.room.before().is_some());
        let mut waiting = self.room.waiting();
        // What was taken on is finished: neither a drain nor another model waits for a cooler board. Slots kept for alarms
        // stay theirs.
        if matches!(waiting.state, State::Draining | State::Left) && space.least < Priority::Alarm {
            space.least = Priority::Background;
        }
        let task = waiting.line.take(space, Instant::now())?;
        self.room.report(&mut waiting);
        Some(task)
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let held = self.room.before().is_some();
        let waiting = self.room.waiting();
        // They come within the milliseconds that rendering takes, or are refused without a word to this condition.
        let coming = waiting.state == State::Left && self.room.coming.load(Ordering::Acquire) > 0;
        if coming || (held && waiting.line.len() > 0) {
            drop(self.room.wake.wait_timeout(waiting, timeout.min(LOOK)));
            return true;
        }
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

impl Drop for Door {
    fn drop(&mut self) {
        // What waits has done nothing wrong: over MQTT it stays accepted.
        self.room.close(&Fault::unavailable("the engine has stopped", RESTART_AFTER));
    }
}
