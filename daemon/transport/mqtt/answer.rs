//! One accepted request on its way to its one answer: events in, deltas out, the result on disk, then published.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::link::Link;
use super::memory::Turn;
use super::reply::Voice;
use super::stream::Gatherer;
use super::wire::ReplyTo;
use crate::fault::{Code, Fault, Kind};
use crate::job::{Event, Finish, Outcome, ToolCall, Transport};
use crate::journal::trap::Trap;
use crate::journal::{ATTEMPTS_MAX, Journal, Key, Session};
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// How long an answer waits for a disk that did not take it.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// What the desk and one answer both look at.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Where the answer goes; a later copy of the request may change it.
    pub(super) reply: ReplyTo,
    /// The client has asked for the end. Without that, an end by cancelling is ours, and no answer.
    pub(super) cancelled: bool,
}

/// [`Wishes`], shared.
pub(super) type SharedWishes = Arc<Mutex<Wishes>>;

/// Looks at the wishes or changes them.
pub(super) fn with_wishes<R>(wishes: &SharedWishes, look: impl FnOnce(&mut Wishes) -> R) -> R {
    look(&mut wishes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// On disk; `sent` if it is on its way to the broker, too; how long it took where it was computed, and the conversation
    /// where it is a turn of one.
    Stored { sent: bool, took: Option<Duration>, session: Option<Session> },
    /// The engine could not take it or was taken away; the row is pending as before, and there is no use in trying again
    /// before this time has passed.
    Kept { after: Option<Duration> },
}

/// Everything one answer needs.
pub(super) struct Answer {
    pub(super) key: Key,
    pub(super) attempt: u32,
    pub(super) stream: bool,
    /// Where this is a turn of a conversation.
    pub(super) turn: Option<Turn>,
    pub(super) wishes: SharedWishes,
    pub(super) ticket: Ticket,
    pub(super) voice: Voice,
    pub(super) journal: Journal,
    pub(super) link: Link,
    pub(super) vitals: Arc<Vitals>,
}

impl Answer {
    /// Follows the job to its end.
    pub(super) async fn follow(mut self) -> Ended {
        let begun = Instant::now();
        let mut text = String::new();
        let mut calls = Vec::new();
        let mut gatherer = Gatherer::default();
        loop {
            let due = gatherer.due().map(tokio::time::Instant::from_std);
            let event = tokio::select! {
                event = self.ticket.next() => event,
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    self.say(gatherer.flush(Instant::now()));
                    continue;
                }
            };
            match event {
                Some(Event::Started) => {
                    // On disk soon, and in any case before the answer: the writer takes work in order.
                    let counted = self.journal.begin_attempt(self.key.clone(), self.attempt);
                    tokio::spawn(async move {
                        match counted.await {
                            Ok(()) => Trap::AfterAttempt.pass(),
                            Err(error) => tracing::error!(%error, "an attempt could not be counted"),
                        }
                    });
                }
                Some(Event::Text(piece)) => {
                    Trap::MidGeneration.pass();
                    text.push_str(&piece);
                    if self.stream {
                        self.say(gatherer.push(&piece, Instant::now()));
                    }
                }
                Some(Event::Call(call)) => calls.push(call),
                Some(Event::Finished(outcome)) => {
                    if outcome.finish == Finish::Cancelled && !with_wishes(&self.wishes, |wishes| wishes.cancelled) {
                        return Ended::Kept { after: None };
                    }
                    self.say(gatherer.flush(Instant::now()));
                    return self.finish(&text, &calls, &outcome, begun).await;
                }
                Some(Event::Failed(fault)) => return self.fail(&fault, begun).await,
                None => return Ended::Kept { after: None },
            }
        }
    }

    fn say(&self, delta: Option<(u64, String)>) {
        let Some((seq, text)) = delta else { return };
        let reply = with_wishes(&self.wishes, |wishes| wishes.reply.clone());
        let delta = self.voice.delta(&self.key.id, &reply, self.attempt, seq, &text);
        // A delta that finds no room is dropped: the result is whole without it.
        if self.link.send(delta).is_err() {
            tracing::debug!(client = self.key.client, id = self.key.id, seq, "a delta was dropped");
        }
    }

    async fn finish(self, text: &str, calls: &[ToolCall], outcome: &Outcome, begun: Instant) -> Ended {
        tracing::info!(
            job = %self.ticket.id(), transport = "mqtt", client = self.key.client, id = self.key.id,
            finish = outcome.finish.name(), prompt_tokens = outcome.usage.prompt_tokens,
            generated_tokens = outcome.usage.generated_tokens, queue_ms = outcome.timing.queue.as_millis(),
            first_token_ms = outcome.timing.first_token.as_millis(), total_ms = outcome.timing.total.as_millis(),
            attempt = self.attempt, "answered"
        );
        let stored = self.voice.result(&self.key.id, text, calls, outcome, self.attempt, self.turn.as_ref());
        // What was cut short is no turn: its question may be asked again.
        let whole = matches!(outcome.finish, Finish::Stop | Finish::Length | Finish::ToolCalls);
        let session = self.turn.as_ref().filter(|_| whole).map(|turn| turn.answered(text, calls));
        self.store(stored, session, outcome.finish.name(), begun).await
    }

    async fn fail(self, fault: &Fault, begun: Instant) -> Ended {
        if passes(fault, self.attempt) {
            // The request stays accepted, and its turn comes again.
            return Ended::Kept { after: fault.retry_after };
        }
        tracing::info!(
            job = %self.ticket.id(), transport = "mqtt", client = self.key.client, id = self.key.id,
            code = fault.code.name(), reason = fault.message, attempt = self.attempt, "answered with an error"
        );
        let stored = self.voice.failure(&self.key.id, fault);
        self.store(stored, None, fault.code.name(), begun).await
    }

    /// Puts the answer on disk, then on its way.
    async fn store(self, answer: Vec<u8>, session: Option<Session>, outcome: &'static str, begun: Instant) -> Ended {
        self.vitals.count_request(Transport::Mqtt, outcome);
        let took = Some(begun.elapsed());
        if !put_on_disk(&self.journal, &self.key, &answer, session.as_ref()).await {
            return Ended::Stored { sent: true, took, session: None };
        }
        Trap::AfterResultRow.pass();
        let reply = with_wishes(&self.wishes, |wishes| wishes.reply.clone());
        let parcel = self.voice.deliver(&answer, &self.key.id, &reply, false, Some(self.key.clone()));
        let sent = self.link.send(parcel).is_ok();
        Ended::Stored { sent, took, session }
    }
}

/// Whether a later attempt may fare better: nothing is wrong with the request, or it found no memory beside the others. The
/// last attempt runs alone.
fn passes(fault: &Fault, attempt: u32) -> bool {
    fault.kind == Kind::Busy
        || (fault.kind == Kind::Machine && fault.code == Code::Overloaded && attempt < ATTEMPTS_MAX)
}

/// Stores the one answer of a request, however long the disk is full or broken: nobody may see an answer that a restart
/// would not know. What waits here is bounded by what was accepted. `false`: the row has an answer already, or is gone;
/// then this is not the one answer, and nobody may see it.
pub(super) async fn put_on_disk(journal: &Journal, key: &Key, answer: &[u8], session: Option<&Session>) -> bool {
    let mut tries = 0_u32;
    loop {
        match journal.finish(key.clone(), answer.to_vec(), session.cloned()).await {
            Ok(stored) => return stored,
            Err(error) => {
                if tries == 0 {
                    tracing::error!(%error, client = key.client, id = key.id, "an answer waits for the journal");
                }
                tries = tries.saturating_add(1);
                sleep(STORE_AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_no_memory_is_tried_again_while_attempts_remain() {
        // As the engine says it of a step.
        let no_memory = Fault::new(Kind::Machine, Code::Overloaded, "no memory");
        assert!(passes(&no_memory, 1) && passes(&no_memory, ATTEMPTS_MAX - 1));
        assert!(!passes(&no_memory, ATTEMPTS_MAX), "the last attempt ran alone: more of them change nothing");
        assert!(!passes(&Fault::bug("broken"), 1));
        assert!(passes(&Fault::unavailable("the engine restarts", Duration::ZERO), 7));
    }
}
