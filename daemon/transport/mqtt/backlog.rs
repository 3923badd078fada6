//! What the [`Desk`] owes from before: accepted requests that are not in the queue, answers that the broker does not have.

use std::cmp::Reverse;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use serde_json::Value;

use super::answer::{Ended, Wishes, put_on_disk, with_wishes};
use super::desk::{Desk, Live, after, cancelled_early, stored_reply};
use super::request::set_scene;
use super::wire;
use crate::fault::{Fault, Kind};
use crate::job::{CancelFlag, Priority, Transport};
use crate::journal::{JournalError, Key, Record, clock};
use crate::pulse::Part;
use crate::queue::passed_deadline;

/// Undelivered answers taken from the journal at a time.
const RESEND_MAX: usize = 128;
/// The load below which more answers that are owed are taken from the journal.
const RESEND_BELOW: usize = 32;

/// An accepted request that is not in the queue.
pub(super) struct Waiter {
    pub(super) key: Key,
    priority: Priority,
    deadline: Option<SystemTime>,
    /// There is no use in trying before this.
    not_before: Option<Instant>,
    /// `None`: the journal could not be read just then, and is asked again.
    record: Option<Record>,
}

impl Waiter {
    fn new(record: Record, priority: Priority) -> Self {
        Self { key: record.key.clone(), priority, deadline: record.deadline, not_before: None, record: Some(record) }
    }

    /// Goes first until it is known how urgent it is.
    fn unread(key: Key) -> Self {
        Self { key, priority: Priority::Alarm, deadline: None, not_before: None, record: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| not_before <= now)
    }
}

/// What is known of a pending row, and how urgent it is.
fn revive(record: &Record) -> (Live, Priority, Option<(String, Vec<Value>)>) {
    // One that cannot be read is answered when its turn comes.
    let (priority, session) = wire::read_stored(&record.request)
        .map_or_else(|_| Default::default(), |stored| (stored.priority, stored.session));
    let live = Live {
        body_hash: record.body_hash,
        wishes: Arc::new(Mutex::new(Wishes { reply: stored_reply(record), cancelled: false })),
        cancel: CancelFlag::default(),
        ahead: 0,
        submitted: false,
        entering: None,
        session: session.as_ref().map(|(name, _)| name.clone()),
    };
    (live, priority, session)
}

impl Desk {
    /// Takes up what an earlier process left: unanswered requests and undelivered answers.
    pub(super) async fn recover(&mut self) -> Result<(), JournalError> {
        let pending = self.means.journal.pending().await?;
        if !pending.is_empty() {
            tracing::info!(pending = pending.len(), "requests that were accepted before this start");
        }
        for record in pending {
            let (live, priority, session) = revive(&record);
            // Held from here on, so that no newer question of the same conversation overtakes it.
            if let Some((name, asked)) = &session {
                // What does not fit it is answered when its turn comes.
                self.memory.turn(Key::new(&record.key.client, name), &record.key.id, asked).ok();
            }
            self.live.insert(record.key.clone(), live);
            self.backlog.push_back(Waiter::new(record, priority));
        }
        self.retry().await;
        self.resend().await;
        Ok(())
    }

    /// Puts a pending row back in our own line, to be tried again from then on.
    pub(super) async fn keep(&mut self, key: Key, not_before: Option<Instant>) {
        if self.backlog.iter().any(|waiter| waiter.key == key) {
            return;
        }
        if let Some(live) = self.live.get_mut(&key) {
            live.submitted = false;
        }
        let waiter = match self.read(key.clone()).await {
            Ok(Some(waiter)) => waiter,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "a pending request could not be read");
                Waiter::unread(key)
            }
        };
        self.backlog.push_back(Waiter { not_before, ..waiter });
    }

    /// Reads a row that should be pending; `None` where it is not, and then it is over.
    async fn read(&mut self, key: Key) -> Result<Option<Waiter>, JournalError> {
        let found = self.means.journal.find(key.clone()).await?;
        let Some(record) = found.filter(|record| record.answer.is_empty()) else {
            self.unlive(&key, None);
            return Ok(None);
        };
        let (live, priority, _) = revive(&record);
        self.live.entry(key).or_insert(live);
        Ok(Some(Waiter::new(record, priority)))
    }

    /// Offers what waits here to the queue, the most urgent first; what is refused keeps the equally urgent back, and
    /// nobody else.
    pub(super) async fn retry(&mut self) {
        if self.draining || self.backlog.is_empty() {
            return;
        }
        self.give_up_the_late();
        let mut waiting = mem::take(&mut self.backlog);
        waiting.make_contiguous().sort_by_key(|waiter| Reverse(waiter.priority));
        let mut full = None;
        let mut readable = true;
        let now = Instant::now();
        for mut waiter in waiting {
            if !waiter.is_due(now) {
                self.backlog.push_back(waiter);
                continue;
            }
            if waiter.record.is_none() && readable {
                match self.read(waiter.key.clone()).await {
                    Ok(Some(read)) => waiter = read,
                    Ok(None) => continue,
                    Err(_) => readable = false,
                }
            }
            // Kept for the next time, in the order in which they came.
            let Some(record) = waiter.record.take_if(|_| full != Some(waiter.priority)) else {
                self.backlog.push_back(waiter);
                continue;
            };
            // Each may bring a form that takes seconds to compile.
            self.means.vitals.pulse().beat(Part::Mqtt);
            if let Err(record) = self.offer(record).await {
                full = Some(waiter.priority);
                self.backlog.push_back(Waiter { record: Some(record), ..waiter });
            }
        }
    }

    /// Answers those that nobody waits for any more, however full the house is.
    fn give_up_the_late(&mut self) {
        let now = clock::now();
        for waiter in mem::take(&mut self.backlog) {
            let cancelled =
                self.live.get(&waiter.key).is_some_and(|live| with_wishes(&live.wishes, |wishes| wishes.cancelled));
            if cancelled {
                self.give_up(waiter.key, &cancelled_early());
            } else if waiter.deadline.is_some_and(|deadline| deadline <= now) {
                self.give_up(waiter.key, &passed_deadline());
            } else {
                self.backlog.push_back(waiter);
            }
        }
    }

    /// Submits one, or answers it if there is no point; gives it back where there is no room.
    async fn offer(&mut self, record: Record) -> Result<(), Record> {
        let key = record.key.clone();
        let fault = match self.submit_again(&record).await {
            Ok(()) => return Ok(()),
            Err(fault) if fault.kind == Kind::Busy => return Err(record),
            Err(fault) => fault,
        };
        self.give_up(key, &fault);
        Ok(())
    }

    async fn submit_again(&mut self, record: &Record) -> Result<(), Fault> {
        let key = &record.key;
        if let Some(deaths) = record.deadly() {
            let message = format!("the process died {deaths} times over this request, which is not tried again");
            return Err(Fault::bug(message));
        }
        let request = wire::read_stored(&record.request)?;
        let turn = match &request.session {
            None => None,
            Some((name, asked)) => Some(self.memory.turn(Key::new(&key.client, name), &key.id, asked)?),
        };
        let left = record.deadline.map(|deadline| deadline.duration_since(clock::now()).unwrap_or_default());
        let attempt = record.attempts + 1;
        let mut job = request.job(&key.client, Some(record.seed), attempt, after(left));
        job.accepted = true;
        set_scene(&mut job, turn.as_ref())?;
        let ticket = self.submit(job).await?;
        if let Some(live) = self.live.get_mut(key) {
            live.cancel = ticket.cancel_flag();
            live.submitted = true;
        }
        self.begin(key.clone(), &request, turn, ticket, attempt);
        Ok(())
    }

    /// Answers an accepted request with an error that nobody computes.
    pub(super) fn give_up(&mut self, key: Key, fault: &Fault) {
        tracing::info!(
            transport = "mqtt",
            client = key.client,
            id = key.id,
            code = fault.code.name(),
            reason = fault.message,
            "answered with an error"
        );
        self.means.vitals.count_request(Transport::Mqtt, fault.code.name());
        let answer = self.means.voice.failure(&key.id, fault);
        let wishes = self.live.get(&key).map(|live| Arc::clone(&live.wishes)).unwrap_or_default();
        let (voice, link, journal) = (self.means.voice.clone(), self.means.link.clone(), self.means.journal.clone());
        let whose = key.clone();
        let task = self.answers.spawn(async move {
            if !put_on_disk(&journal, &key, &answer, None).await {
                return Ended::Stored { sent: true, took: None, session: None };
            }
            let reply = with_wishes(&wishes, |wishes| wishes.reply.clone());
            let parcel = voice.deliver(&answer, &key.id, &reply, false, Some(key.clone()));
            Ended::Stored { sent: link.send(parcel).is_ok(), took: None, session: None }
        });
        self.following.insert(task.id(), whose);
    }

    /// Sends more of what is owed, once there is room for it.
    pub(super) async fn resend_owed(&mut self) {
        if self.owing && self.means.link.load() < RESEND_BELOW {
            self.resend().await;
        }
    }

    /// Sends what the journal has and the broker has not.
    pub(super) async fn resend(&mut self) {
        let keys = match self.means.journal.undelivered(RESEND_MAX).await {
            Ok(keys) => keys,
            Err(error) => return tracing::error!(%error, "undelivered answers could not be looked up"),
        };
        self.owing = keys.len() == RESEND_MAX;
        for key in keys {
            if self.means.link.holds(&key) {
                continue;
            }
            match self.means.journal.find(key.clone()).await {
                Ok(Some(record)) => {
                    let reply = stored_reply(&record);
                    let copy = self.means.voice.deliver(&record.answer, &key.id, &reply, true, Some(key.clone()));
                    self.send(copy);
                }
                Ok(None) => {}
                Err(error) => return tracing::error!(%error, "an undelivered answer could not be read"),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
