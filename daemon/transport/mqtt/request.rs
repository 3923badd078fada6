//! A request at the [`Desk`]: whether it is new, whether there is room, and on its way into the journal.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rand_core::{OsRng, TryRngCore};
use tokio::sync::watch;

use super::answer::Wishes;
use super::desk::{Desk, Fate, Live, Stub, after, conflict, entered};
use super::memory::Turn;
use super::wire::{self, Mail, ReplyTo, Request};
use crate::fault::Fault;
use crate::job::{CancelFlag, Job};
use crate::journal::{Entry, Key, clock};
use crate::queue::ticket::Ticket;

/// Whom a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Node,
    Pool,
}

/// A request that may be new, while it is submitted and the journal writes.
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) request: Request,
    pub(super) reply: ReplyTo,
    /// Where it is a turn of a conversation.
    pub(super) turn: Option<Turn>,
    /// `None` where the request is known already, or was cancelled before it came.
    pub(super) ticket: Option<Ticket>,
    pub(super) cancelled: bool,
    /// Dropped with it: what came later about the same request waits for that.
    pub(super) entering: Option<watch::Sender<()>>,
}

impl Desk {
    /// Takes a request in. What takes its time is done beside the desk.
    pub(super) fn request(&mut self, client: &str, mail: &Mail, way: Way, stub: Stub) {
        let (request, reply) = match wire::read_request(&self.means.topics, client, mail, self.means.payload_max) {
            Ok(read) => read,
            Err(refusal) => return self.refuse_mail(&refusal, stub),
        };
        let key = Key::new(client, &request.id);
        if way == Way::Pool && request.session.is_some() {
            self.turn_away(&key.id, &reply, &homeless());
            return self.settled(stub);
        }
        if self.live.get(&key).is_some_and(|live| live.body_hash != request.body_hash) {
            self.turn_away(&key.id, &reply, &conflict());
            return self.settled(stub);
        }
        let mut entry = Entry {
            key: key.clone(),
            body_hash: request.body_hash,
            request: request.stored.clone(),
            reply: serde_json::to_vec(&reply).unwrap_or_default(),
            seed: request.settings.sampling.seed.unwrap_or_else(draw_seed),
            deadline: request.deadline.and_then(|deadline| clock::now().checked_add(deadline)),
        };
        let journal = self.means.journal.clone();
        let new = !self.live.contains_key(&key) && !journal.knows(&key);
        let cancelled = new && self.tombs.take(&key, Instant::now());
        if !new || cancelled {
            let before = self.live.get(&key).and_then(|live| live.entering.clone());
            let entering = new.then(|| self.enlive(&key, &request, &reply));
            let candidate = Box::new(Candidate { key, request, reply, turn: None, ticket: None, cancelled, entering });
            if let Some(before) = before {
                // A copy of one whose own fate is not known yet.
                self.intake.push(stub, async move {
                    entered(before).await;
                    let accepted = journal.accept(entry).await;
                    Fate::Request(candidate, accepted)
                });
            } else {
                let accepted = journal.accept(entry);
                self.intake.push(stub, async move { Fate::Request(candidate, accepted.await) });
            }
            return;
        }
        let begun = match &request.session {
            None => Ok(None),
            Some((name, asked)) => self.memory.begin(Key::new(client, name), &key.id, asked, Instant::now()).map(Some),
        };
        let turn = match begun {
            Ok(turn) => turn,
            Err(fault) => {
                self.turn_away(&key.id, &reply, &fault);
                return self.settled(stub);
            }
        };
        let mut job = request.job(client, request.settings.sampling.seed, 1, after(request.deadline));
        let scene = set_scene(&mut job, turn.as_ref());
        let entering = Some(self.enlive(&key, &request, &reply));
        let mut candidate = Box::new(Candidate { key, request, reply, turn, ticket: None, cancelled, entering });
        let submitting = self.submit(job);
        let place = self.lines.join(client);
        self.intake.push(stub, async move {
            let submitted = match scene {
                Ok(()) => place.turn(submitting).await,
                Err(fault) => Err(fault),
            };
            match submitted {
                Err(fault) => Fate::Refused(candidate, fault),
                Ok(ticket) => {
                    entry.seed = ticket.seed();
                    candidate.ticket = Some(ticket);
                    let accepted = journal.accept(entry).await;
                    Fate::Request(candidate, accepted)
                }
            }
        });
    }

    /// From here on the request is known, also while it is submitted and the journal writes.
    fn enlive(&mut self, key: &Key, request: &Request, reply: &ReplyTo) -> watch::Sender<()> {
        let (sender, entering) = watch::channel(());
        let live = Live {
            body_hash: request.body_hash,
            wishes: Arc::new(Mutex::new(Wishes { reply: reply.clone(), cancelled: false })),
            cancel: CancelFlag::default(),
            ahead: 0,
            submitted: false,
            entering: Some(entering),
            session: request.session.as_ref().map(|(name, _)| name.clone()),
        };
        self.live.insert(key.clone(), live);
        sender
    }
}

/// A turn of a conversation is asked with all that was said before.
pub(super) fn set_scene(job: &mut Job, turn: Option<&Turn>) -> Result<(), Fault> {
    if let Some(turn) = turn {
        job.messages = turn.messages()?;
    }
    Ok(())
}

fn homeless() -> Fault {
    Fault::invalid("a conversation is remembered by one node, and a pool is many")
        .param("session")
        .hint("send it to the node that answered first")
}

/// A seed where the queue has drawn none, since the request is not in it yet.
fn draw_seed() -> u64 {
    // Without random numbers from the system, the clock still tells two requests apart.
    OsRng.try_next_u64().unwrap_or_else(|_| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos()) ^ (now.as_secs() << 32)
    })
}

#[cfg(test)]
mod tests;
