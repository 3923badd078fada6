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
mod room;
pub mod ticket;

use std::sync::{Arc, OnceLock};

use crate::config;
use crate::engine::Source;
use crate::fault::{Code, Fault, Kind};
use crate::governor::Willingness;
use crate::job::Job;
use crate::queue::admission::Limits;
use crate::queue::own::House;
use crate::queue::prompt::Prompter;
use crate::queue::quota::Quotas;
use crate::queue::room::{Door, Gate, Room};
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// A handle on the waiting room. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    gate: Arc<Gate>,
    room: Arc<Room>,
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
        let quotas = Quotas::new(config::Quota::default());
        let gate = Arc::new(Gate { vitals, quotas, willingness: OnceLock::new() });
        let room = Arc::new(Room::new(Arc::clone(&gate), prompter, limits, house));
        Self { gate, room }
    }

    /// Asks here before anybody is let in. Once, before the first submission.
    pub fn heed(&self, willingness: Willingness) {
        self.gate.willingness.get_or_init(|| willingness);
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
        let result = self.room.submit(job);
        if let Err(fault) = &result
            && !accepted
        {
            self.gate.vitals.count_refusal(fault.code.name());
        }
        result
    }

    /// From now on these bounds hold for whoever comes; who is in stays in.
    pub fn limit(&self, limits: Limits) {
        self.room.limit(limits);
    }

    /// The bounds in force.
    pub fn limits(&self) -> Limits {
        self.room.limits()
    }

    /// From now on these bounds for each caller; nobody who is in is sent away.
    pub fn ration(&self, quota: config::Quota) {
        self.gate.quotas.change(quota);
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.room.len()
    }

    /// Whether the room takes anybody in.
    pub fn state(&self) -> State {
        self.room.state()
    }

    /// Lets nobody in any more; what waits and runs is served.
    pub fn drain(&self) {
        self.room.drain();
    }

    /// Lets nobody in and ends what waits with this fault; for the end of the engine.
    pub fn close(&self, fault: &Fault) {
        self.room.close(fault);
    }
}

/// A waiting job whose deadline passed.
pub fn passed_deadline() -> Fault {
    Fault::new(Kind::Caller, Code::DeadlineExceeded, "the deadline passed before the request was started")
}

#[cfg(test)]
pub(crate) mod tests;
