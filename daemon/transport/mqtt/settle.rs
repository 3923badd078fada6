//! What the queue's and the journal's word means for a message at the [`Desk`]; then the message is acknowledged in its turn.

use super::answer::with_wishes;
use super::desk::{Desk, Fate, cancelled_early, conflict, stored_reply};
use super::request::Candidate;
use super::wire::ReplyTo;
use crate::fault::{Code, Fault, Kind};
use crate::journal::trap::Trap;
use crate::journal::{Acceptance, JournalError, Key, Record};
use crate::queue::ticket::Ticket;

impl Desk {
    /// What the journal's word means for the message of this number; then it is acknowledged in its turn.
    pub(super) async fn settle(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Settled => {}
            Fate::Request(candidate, acceptance) => self.settle_request(*candidate, acceptance).await,
            Fate::Refused(candidate, fault) => {
                // Nothing is kept, so that the same request may come again.
                self.unlive(&candidate.key, None);
                self.say_no(&candidate.key.id, &candidate.reply, &fault);
            }
            Fate::Get(key, target, found) => self.settle_get(&key, target, *found),
        }
        for stub in self.intake.done(number) {
            stub.ack();
        }
    }

    async fn settle_request(&mut self, candidate: Candidate, acceptance: Result<Acceptance, JournalError>) {
        let Candidate { key, request, reply, turn, ticket, cancelled, entering } = candidate;
        // Where the journal knows better, what was begun for it is undone.
        let was_new = entering.is_some();
        let cancelled = cancelled || (was_new && self.enter(&key, ticket.as_ref()));
        match acceptance {
            Ok(Acceptance::New) => {
                Trap::AfterJournal.pass();
                match ticket.filter(|_| !cancelled) {
                    Some(ticket) => {
                        if request.ack {
                            self.say_accepted(&key, &reply, ticket.ahead());
                        }
                        self.begin(key, &request, turn, ticket, 1);
                    }
                    None if cancelled => self.give_up(key, &cancelled_early()),
                    // It was known a moment ago and acknowledged since; now it is a new request without a place.
                    None => self.keep(key, None).await,
                }
            }
            Ok(Acceptance::Pending) => {
                let live = self.live.get(&key);
                // A disk that was full may have kept a row whose request was refused: it is pending, and nobody follows it.
                let forlorn = live.is_none();
                let ahead = live.map_or(0, |live| live.ahead);
                if let Some(live) = live {
                    with_wishes(&live.wishes, |wishes| wishes.reply = reply.clone());
                }
                if request.ack {
                    self.say_accepted(&key, &reply, ahead);
                }
                if cancelled {
                    self.give_up(key, &cancelled_early());
                } else if was_new || forlorn {
                    drop(ticket);
                    self.keep(key, None).await;
                }
            }
            Ok(Acceptance::Done(answer)) => {
                let copy = self.means.voice.deliver(&answer, &key.id, &reply, true, Some(key.clone()));
                self.send(copy);
                if was_new {
                    self.unlive(&key, None);
                }
            }
            Ok(Acceptance::Conflict) => {
                if was_new {
                    self.unlive(&key, None);
                }
                self.turn_away(&key.id, &reply, &conflict());
            }
            Ok(Acceptance::Full { unit, used, limit }) => {
                self.unlive(&key, None);
                let fault = Acceptance::full(unit, used, limit);
                self.turn_away(&key.id, &reply, &fault);
            }
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "a request could not be accepted");
                // With the ticket goes the job. A copy of a living request changes nothing.
                if was_new {
                    self.unlive(&key, None);
                }
                self.turn_away(&key.id, &reply, &error.into());
            }
        }
    }

    /// A new request has come through; says whether its client has cancelled it meanwhile.
    fn enter(&mut self, key: &Key, ticket: Option<&Ticket>) -> bool {
        let Some(live) = self.live.get_mut(key) else { return false };
        live.entering = None;
        if let Some(ticket) = ticket {
            live.cancel = ticket.cancel_flag();
            live.ahead = ticket.ahead();
            live.submitted = true;
        }
        with_wishes(&live.wishes, |wishes| wishes.cancelled)
    }

    fn settle_get(&mut self, key: &Key, target: Option<ReplyTo>, found: Result<Option<Record>, JournalError>) {
        let default = || ReplyTo { topic: self.means.topics.reply(&key.client, &key.id), ..ReplyTo::default() };
        match found {
            Ok(Some(record)) if record.answer.is_empty() => {
                let ahead = self.live.get(key).map_or(0, |live| live.ahead);
                self.say_accepted(key, &target.unwrap_or_else(|| stored_reply(&record)), ahead);
            }
            Ok(Some(record)) => {
                let reply = target.unwrap_or_else(|| stored_reply(&record));
                let copy = self.means.voice.deliver(&record.answer, &key.id, &reply, true, Some(key.clone()));
                self.send(copy);
            }
            Ok(None) => {
                let fault = Fault::new(Kind::Caller, Code::NotFound, format!("there is no request `{}`", key.id));
                self.say_no(&key.id, &target.unwrap_or_else(default), &fault);
            }
            Err(error) => self.say_no(&key.id, &target.unwrap_or_else(default), &error.into()),
        }
    }
}
