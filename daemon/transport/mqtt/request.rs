//! A request at the [`Desk`]: whether it is new, whether there is room, and on its way into the journal.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rand_core::{OsRng, TryRngCore};

use super::answer::Wishes;
use super::desk::{Desk, Fate, Live, Stub, after, conflict};
use super::memory::Turn;
use super::wire::{self, Mail, ReplyTo, Request};
use crate::fault::Fault;
use crate::job::Job;
use crate::journal::{Entry, Key, clock};
use crate::queue::ticket::Ticket;

/// Whom a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Node,
    Pool,
}

/// A request that may be new, while the journal writes.
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) request: Request,
    pub(super) reply: ReplyTo,
    /// Where it is a turn of a conversation.
    pub(super) turn: Option<Turn>,
    /// `None` where the request is known already, or was cancelled before it came.
    pub(super) ticket: Option<Ticket>,
    pub(super) cancelled: bool,
}

impl Desk {
    pub(super) async fn request(&mut self, client: &str, mail: &Mail, way: Way, stub: Stub) {
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
        let deadline = request.deadline;
        let new = !self.live.contains_key(&key) && !self.means.journal.knows(&key);
        let cancelled = new && self.tombs.take(&key, Instant::now());
        let (mut turn, mut ticket) = (None, None);
        if new && !cancelled {
            if let Some((name, asked)) = &request.session {
                match self.memory.begin(Key::new(client, name), &key.id, asked, Instant::now()) {
                    Ok(begun) => turn = Some(begun),
                    Err(fault) => {
                        self.turn_away(&key.id, &reply, &fault);
                        return self.settled(stub);
                    }
                }
            }
            let mut job = request.job(client, request.settings.sampling.seed, 1, after(deadline));
            let scene = set_scene(&mut job, turn.as_ref());
            let submitted = match scene {
                Ok(()) => self.submit(job).await,
                Err(fault) => Err(fault),
            };
            match submitted {
                Ok(taken) => ticket = Some(taken),
                // Refused before it is accepted: nothing is kept, so that the same request may come again.
                Err(fault) => {
                    if let Some((name, _)) = &request.session {
                        self.memory.end(&Key::new(client, name), None, Instant::now());
                    }
                    self.say_no(&key.id, &reply, &fault);
                    return self.settled(stub);
                }
            }
        }
        if new {
            self.enlive(&key, &request, &reply, ticket.as_ref());
        }
        let entry = Entry {
            key: key.clone(),
            body_hash: request.body_hash,
            request: request.stored.clone(),
            reply: serde_json::to_vec(&reply).unwrap_or_default(),
            seed: ticket.as_ref().map(Ticket::seed).or(request.settings.sampling.seed).unwrap_or_else(draw_seed),
            deadline: deadline.and_then(|deadline| clock::now().checked_add(deadline)),
        };
        let accepted = self.means.journal.accept(entry);
        let candidate = Box::new(Candidate { key, request, reply, turn, ticket, cancelled });
        self.intake.push_back(Box::pin(async move { (Fate::Request(candidate, accepted.await), stub) }));
    }

    /// From here on the request is known, also while the journal still writes.
    fn enlive(&mut self, key: &Key, request: &Request, reply: &ReplyTo, ticket: Option<&Ticket>) {
        let live = Live {
            body_hash: request.body_hash,
            wishes: Arc::new(Mutex::new(Wishes { reply: reply.clone(), cancelled: false })),
            cancel: ticket.map(Ticket::cancel_flag).unwrap_or_default(),
            ahead: ticket.map_or(0, Ticket::ahead),
            submitted: ticket.is_some(),
            // One that was cancelled before it came began no turn.
            session: request.session.as_ref().filter(|_| ticket.is_some()).map(|(name, _)| name.clone()),
        };
        self.live.insert(key.clone(), live);
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
