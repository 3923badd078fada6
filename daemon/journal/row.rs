//! What one row of the journal says, and how it lies in the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::store::{Header, TableKey};
use super::{ATTEMPTS_MAX, RECOVERIES_MAX};
use crate::fault::Fault;

/// Whose request, and which: both texts as in the topic and the payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub client: String,
    pub id: String,
}

impl Key {
    /// The key of one client's request.
    pub fn new(client: impl Into<String>, id: impl Into<String>) -> Self {
        Self { client: client.into(), id: id.into() }
    }

    pub(super) fn pair(&self) -> TableKey<'_> {
        (&self.client, &self.id)
    }
}

/// SHA-256 over what makes a request the same request.
pub type BodyHash = [u8; 32];

/// A request about to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub body_hash: BodyHash,
    /// The request, opaque here; handed back as it came when the job has to be made again.
    pub request: Vec<u8>,
    /// Where the answer goes, opaque here.
    pub reply: Vec<u8>,
    /// What the random numbers start from, drawn where the client gave none: a second attempt uses it again.
    pub seed: u64,
    /// By the wall clock, since it has to mean the same after a restart.
    pub deadline: Option<SystemTime>,
}

/// A conversation that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The client, and the session's name as its id.
    pub key: Key,
    pub turns: u32,
    /// Since its last turn.
    pub age: Duration,
    /// What was said, opaque here.
    pub history: Vec<u8>,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted, not answered.
    Pending,
    /// Answered; the answer is kept.
    Done,
}

impl State {
    /// The name in metrics and lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
        }
    }

    /// Reads the name.
    pub fn read(name: &str) -> Result<Self, Fault> {
        [Self::Pending, Self::Done]
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| Fault::invalid("a state is `pending` or `done`").param("state"))
    }
}

/// One row, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub state: State,
    pub body_hash: BodyHash,
    /// Empty once the request is answered.
    pub request: Vec<u8>,
    pub reply: Vec<u8>,
    /// Empty while the request is pending.
    pub answer: Vec<u8>,
    pub seed: u64,
    pub deadline: Option<SystemTime>,
    /// Attempts that the engine has taken up.
    pub attempts: u32,
    /// Starts of the daemon after a death that found this row pending.
    pub recoveries: u32,
    pub accepted: SystemTime,
    /// When the answer was stored; the epoch while there is none.
    pub finished: SystemTime,
    /// The broker has acknowledged the answer.
    pub delivered: bool,
}

impl Record {
    /// How often the process died over this request, where that is often enough to try it no more. An attempt that an
    /// orderly stop cut short is no death.
    pub fn deadly(&self) -> Option<u32> {
        let attempts_died = self.attempts.min(self.recoveries);
        (attempts_died >= ATTEMPTS_MAX || self.recoveries >= RECOVERIES_MAX).then_some(self.recoveries)
    }
}

const DELIVERED: u8 = 1;

/// Milliseconds since the epoch; 0 stands for "none".
pub(super) fn to_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// The part of a row that changes, without its payloads.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) done: bool,
    pub(super) delivered: bool,
    pub(super) attempts: u32,
    pub(super) recoveries: u32,
    pub(super) seed: u64,
    pub(super) accepted_ms: u64,
    pub(super) finished_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) body_hash: BodyHash,
}

impl Head {
    pub(super) fn of(entry: &Entry, now_ms: u64) -> Self {
        Self {
            done: false,
            delivered: false,
            attempts: 0,
            recoveries: 0,
            seed: entry.seed,
            accepted_ms: now_ms,
            finished_ms: 0,
            deadline_ms: entry.deadline.map_or(0, to_millis),
            body_hash: entry.body_hash,
        }
    }

    pub(super) fn read(header: Header<'_>) -> Self {
        let (state, flags, attempts, recoveries, seed, accepted_ms, finished_ms, deadline_ms, body_hash) = header;
        Self {
            done: state == 1,
            delivered: flags & DELIVERED != 0,
            attempts,
            recoveries,
            seed,
            accepted_ms,
            finished_ms,
            deadline_ms,
            body_hash: *body_hash,
        }
    }

    pub(super) fn write(&self) -> Header<'_> {
        (
            u8::from(self.done),
            if self.delivered { DELIVERED } else { 0 },
            self.attempts,
            self.recoveries,
            self.seed,
            self.accepted_ms,
            self.finished_ms,
            self.deadline_ms,
            &self.body_hash,
        )
    }

    pub(super) fn record(&self, key: Key, request: Vec<u8>, reply: Vec<u8>, answer: Vec<u8>) -> Record {
        Record {
            key,
            state: if self.done { State::Done } else { State::Pending },
            body_hash: self.body_hash,
            request,
            reply,
            answer,
            seed: self.seed,
            deadline: (self.deadline_ms != 0).then(|| from_millis(self.deadline_ms)),
            attempts: self.attempts,
            recoveries: self.recoveries,
            accepted: from_millis(self.accepted_ms),
            finished: from_millis(self.finished_ms),
            delivered: self.delivered,
        }
    }
}
