//! The waiting room in front of the engine: renders, counts, lets in or says no, and hands out a [`Ticket`].
//!
//! Called by the transports, on their threads; names the engine, never a transport. A job is taken on or refused at once.
//! What waits is bounded; who waits is served by priority, then in order. A waiting job ends the moment it is cancelled or its
//! deadline passes, not when its turn comes.
//!
//! Each model has a room of its own. When another model takes over, whoever comes is sent to its room; the room before serves
//! who is in it or was on the way, and then its engine ends.

pub mod admission;
mod line;
pub mod own;
pub mod prompt;
mod quota;
mod room;
pub mod ticket;

use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::config;
use crate::engine::Source;
use crate::fault::{Code, Fault, Kind};
use crate::governor::Willingness;
use crate::job::{Job, Priority};
use crate::queue::admission::Limits;
use crate::queue::prompt::Prompter;
use crate::queue::quota::Quotas;
pub use crate::queue::room::Fittings;
use crate::queue::room::{Coming, Door, Gate, Room, lock};
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// A handle on the waiting room. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    gate: Arc<Gate>,
    /// Where whoever comes is sent.
    room: Arc<Mutex<Arc<Room>>>,
}

/// Another model's room that nobody is sent to yet.
pub struct Annex {
    room: Arc<Room>,
}

impl Annex {
    /// What the other model's engine takes its work from.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Door { room: Arc::clone(&self.room) })
    }
}

/// Whether the room takes anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Another room takes in; what is in, or was sent here before, is served.
    Left,
    /// What is in is served, nobody else comes in.
    Draining,
    /// The engine is gone.
    Closed,
}

impl Queue {
    /// An empty room for a model without a name.
    pub fn new(prompter: Prompter, limits: Limits, vitals: Arc<Vitals>) -> Self {
        Self::fitted(Fittings { model: String::new(), prompter, limits, house: None }, vitals)
    }

    /// An empty room.
    pub fn fitted(fittings: Fittings, vitals: Arc<Vitals>) -> Self {
        let quotas = Quotas::new(config::Quota::default());
        let gate = Arc::new(Gate { vitals, quotas, willingness: OnceLock::new() });
        let room = Arc::new(Room::new(Arc::clone(&gate), fittings, Weak::new()));
        Self { gate, room: Arc::new(Mutex::new(room)) }
    }

    /// Asks here before anybody is let in. Once, before the first submission.
    pub fn heed(&self, willingness: Willingness) {
        self.gate.willingness.get_or_init(|| willingness);
    }

    /// Whether heat, power and memory let jobs of this priority in just now.
    pub fn is_willing(&self, priority: Priority) -> bool {
        self.gate.willingness.get().is_none_or(|willingness| willingness.admit(priority).is_ok())
    }

    /// What the engine takes its work from. It goes with the engine: a room whose source is dropped is closed.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Door { room: self.room() })
    }

    /// A room for another model; quotas and whoever waits are those of the house.
    pub fn annex(&self, fittings: Fittings) -> Annex {
        let before = Arc::downgrade(&self.room());
        Annex { room: Arc::new(Room::new(Arc::clone(&self.gate), fittings, before)) }
    }

    /// From now on whoever comes is sent there. Who is in the room before, or on the way to it, is served there, and then its
    /// engine ends.
    pub fn move_to(&self, annex: Annex) {
        let before = std::mem::replace(&mut *lock(&self.room), annex.room);
        before.end(State::Left);
    }

    /// Takes a job on or refuses it; answers at once. Renders and tokenises on the caller's thread: up to a few milliseconds
    /// for a prompt that fits.
    pub fn submit(&self, job: Job) -> Result<Ticket, Fault> {
        // One that was accepted comes again by itself: that it has to wait is no refusal.
        let accepted = job.accepted;
        let coming = Coming::to(&lock(&self.room));
        let result = coming.room.submit(job);
        if let Err(fault) = &result
            && !accepted
        {
            self.gate.vitals.count_refusal(fault.code.name());
        }
        result
    }

    /// From now on these bounds hold for whoever comes; who is in stays in.
    pub fn limit(&self, limits: Limits) {
        self.room().limit(limits);
    }

    /// The bounds in force.
    pub fn limits(&self) -> Limits {
        self.room().limits()
    }

    /// From now on these bounds for each caller; nobody who is in is sent away.
    pub fn ration(&self, quota: config::Quota) {
        self.gate.quotas.change(quota);
    }

    /// The groups for whose members other bounds hold; whoever knows a caller's groups says in the job which of these.
    pub fn rationed_groups(&self) -> Vec<u32> {
        self.gate.quotas.groups()
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        let room = self.room();
        room.len() + room.before().map_or(0, |before| before.len())
    }

    /// Whether anybody is taken in.
    pub fn state(&self) -> State {
        self.room().state()
    }

    /// Lets nobody in any more; what waits and runs is served.
    pub fn drain(&self) {
        self.room().end(State::Draining);
    }

    /// Lets nobody in and ends what waits with this fault; for the end of the engine.
    pub fn close(&self, fault: &Fault) {
        let room = self.room();
        if let Some(before) = room.before() {
            before.close(fault);
        }
        room.close(fault);
    }

    fn room(&self) -> Arc<Room> {
        Arc::clone(&lock(&self.room))
    }
}

/// A waiting job whose deadline passed.
pub fn passed_deadline() -> Fault {
    Fault::new(Kind::Caller, Code::DeadlineExceeded, "the deadline passed before the request was started")
}

#[cfg(test)]
pub(crate) mod tests;
