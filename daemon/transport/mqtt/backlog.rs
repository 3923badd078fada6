//! What the [`Desk`] owes from before: accepted requests that are not in the queue, answers that the broker does not have.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::answer::{Ended, Wishes, put_on_disk, with_wishes};
use super::desk::{Desk, Live, after, cancelled_early, stored_reply};
use super::request::set_scene;
use super::wire;
use crate::fault::{Fault, Kind};
use crate::job::{CancelFlag, Transport};
use crate::journal::{JournalError, Key, Record, clock};

/// Undelivered answers taken from the journal at a time.
const RESEND_MAX: usize = 128;

/// The conversation that a stored request is a turn of.
fn session_of(record: &Record) -> Option<(String, Vec<Value>)> {
    wire::read_stored(&record.request).ok()?.session
}

impl Desk {
    /// Takes up what an earlier process left: unanswered requests and undelivered answers.
    pub(super) async fn recover(&mut self) -> Result<(), JournalError> {
        let pending = self.means.journal.pending().await?;
        if !pending.is_empty() {
            tracing::info!(pending = pending.len(), "requests that were accepted before this start");
        }
        for record in pending {
            let reply = stored_reply(&record);
            let wishes = Arc::new(Mutex::new(Wishes { reply, cancelled: false }));
            let cancel = CancelFlag::default();
            // Held from here on, so that no newer question of the same conversation overtakes it.
            let session = session_of(&record);
            if let Some((name, asked)) = &session {
                // What does not fit it is answered when its turn comes.
                self.memory.turn(Key::new(&record.key.client, name), &record.key.id, asked).ok();
            }
            let session = session.map(|(name, _)| name);
            let live = Live { body_hash: record.body_hash, wishes, cancel, ahead: 0, submitted: false, session };
            self.live.insert(record.key.clone(), live);
            self.backlog.push_back(record);
        }
        self.retry().await;
        self.resend().await;
        Ok(())
    }

    /// Puts a pending row back in our own line.
    pub(super) async fn keep(&mut self, key: Key) {
        match self.means.journal.find(key.clone()).await {
            Ok(Some(record)) if record.answer.is_empty() => {
                let fresh = || Live {
                    body_hash: record.body_hash,
                    wishes: Arc::new(Mutex::new(Wishes { reply: stored_reply(&record), cancelled: false })),
                    cancel: CancelFlag::default(),
                    ahead: 0,
                    submitted: false,
                    session: session_of(&record).map(|(name, _)| name),
                };
                self.live.entry(key).or_insert_with(fresh).submitted = false;
                self.backlog.push_back(record);
            }
            Ok(_) => self.unlive(&key, None),
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "a pending request could not be read");
            }
        }
    }

    /// Offers what waits here to the queue, in order, until it has no place.
    pub(super) async fn retry(&mut self) {
        while !self.draining
            && let Some(record) = self.backlog.pop_front()
        {
            let key = record.key.clone();
            if self.live.get(&key).is_some_and(|live| with_wishes(&live.wishes, |wishes| wishes.cancelled)) {
                self.give_up(key, &cancelled_early());
                continue;
            }
            if let Some(deaths) = record.deadly() {
                let fault =
                    Fault::bug(format!("the process died {deaths} times over this request, which is not tried again"));
                self.give_up(key, &fault);
                continue;
            }
            let request = match wire::read_stored(&record.request) {
                Ok(request) => request,
                Err(fault) => {
                    self.give_up(key, &fault);
                    continue;
                }
            };
            let turn = match &request.session {
                None => None,
                Some((name, asked)) => match self.memory.turn(Key::new(&key.client, name), &key.id, asked) {
                    Ok(turn) => Some(turn),
                    Err(fault) => {
                        self.give_up(key, &fault);
                        continue;
                    }
                },
            };
            let left = record.deadline.map(|deadline| deadline.duration_since(clock::now()).unwrap_or_default());
            let attempt = record.attempts + 1;
            let mut job = request.job(&key.client, Some(record.seed), attempt, after(left));
            job.accepted = true;
            if let Err(fault) = set_scene(&mut job, turn.as_ref()) {
                self.give_up(key, &fault);
                continue;
            }
            match self.submit(job).await {
                Ok(ticket) => {
                    if let Some(live) = self.live.get_mut(&key) {
                        live.cancel = ticket.cancel_flag();
                        live.submitted = true;
                    }
                    self.begin(key, &request, turn, ticket, attempt);
                }
                Err(fault) if fault.kind == Kind::Busy => {
                    self.backlog.push_front(record);
                    return;
                }
                Err(fault) => self.give_up(key, &fault),
            }
        }
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
        let answer = self.means.voice.error(&key.id, fault);
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
