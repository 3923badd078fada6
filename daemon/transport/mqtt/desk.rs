//! The desk: takes every message in, answers what can be answered at once, and sees the rest into journal and queue.
//!
//! One task owns all that is known of living requests, so nothing here is locked. It never waits for the broker: what it
//! sends goes into the pipe or is kept for later. Acknowledgements leave in the order of the messages, each after what
//! it promises is on disk.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answer::{Answer, Ended, SharedWishes, Wishes, with_wishes};
use super::link::{Link, LinkEvent};
use super::pipe::Receipt;
use super::reply::{Parcel, Voice};
use super::tombs::Tombs;
use super::topics::{Incoming, Topics, Verb};
use super::wire::{self, Mail, Refusal, ReplyTo, Request};
use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Job};
use crate::journal::trap::Trap;
use crate::journal::{ATTEMPTS_MAX, Acceptance, BodyHash, Entry, Journal, JournalError, Key, RECOVERIES_MAX, Record};
use crate::queue::Queue;
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// Messages whose fate is not on disk yet. The window is smaller; QoS 0 has none.
const INTAKE_MAX: usize = 64;
/// How often accepted jobs that found no place in the queue try again.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Undelivered answers taken from the journal at a time, and the load below which more are taken.
const RESEND_MAX: usize = 128;
const RESEND_BELOW: usize = 32;
/// A broker that forgot our session may have forgotten these answers with it.
const AMNESIA: Duration = Duration::from_mins(5);
/// How long the last messages may take to reach the broker at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// What the desk works with.
pub(super) struct Means {
    pub(super) topics: Topics,
    pub(super) voice: Voice,
    pub(super) journal: Journal,
    pub(super) queue: Queue,
    pub(super) vitals: Arc<Vitals>,
    pub(super) link: Link,
    pub(super) payload_max: usize,
    /// The card that says that nothing new is taken.
    pub(super) leaving: Parcel,
    /// Said when somebody's `offline` stands where ours should not.
    pub(super) online: Parcel,
}

/// An accepted request that has no answer yet.
struct Live {
    body_hash: BodyHash,
    wishes: SharedWishes,
    /// Ends the job in the queue or the engine; for one that waits here, nothing listens to it.
    cancel: CancelFlag,
    ahead: usize,
    /// In the queue or the engine, as opposed to our own backlog.
    submitted: bool,
}

/// What a message comes to, once the journal has spoken.
enum Fate {
    /// All is said.
    Settled,
    /// A request that may be new.
    Request(Box<Candidate>, Result<Acceptance, JournalError>),
    /// A request to look one up.
    Get(Key, Option<ReplyTo>, Box<Result<Option<Record>, JournalError>>),
}

struct Candidate {
    key: Key,
    request: Request,
    reply: ReplyTo,
    /// `None` where the request is known already, or was cancelled before it came.
    ticket: Option<Ticket>,
    cancelled: bool,
}

type Intake = Pin<Box<dyn Future<Output = (Fate, Receipt)> + Send>>;

pub(super) struct Desk {
    means: Means,
    live: HashMap<Key, Live>,
    /// Accepted before, not in the queue now.
    backlog: VecDeque<Record>,
    intake: FuturesOrdered<Intake>,
    answers: JoinSet<(Key, Ended)>,
    tombs: Tombs,
    /// Answers that found no room in the pipe wait in the journal.
    owing: bool,
    draining: bool,
    /// How long an answer takes, smoothed.
    pace: Option<Duration>,
}

impl Desk {
    pub(super) fn new(means: Means) -> Self {
        Self {
            means,
            live: HashMap::new(),
            backlog: VecDeque::new(),
            intake: FuturesOrdered::new(),
            answers: JoinSet::new(),
            tombs: Tombs::default(),
            owing: false,
            draining: false,
            pace: None,
        }
    }

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
            let live = Live { body_hash: record.body_hash, wishes, cancel, ahead: 0, submitted: false };
            self.live.insert(record.key.clone(), live);
            self.backlog.push_back(record);
        }
        self.retry().await;
        self.resend().await;
        Ok(())
    }

    /// Works until it is told to drain and nothing is left to do, or the deadline of the drain has passed.
    pub(super) async fn work(
        &mut self,
        inbox: &mut mpsc::Receiver<LinkEvent>,
        mut drain: watch::Receiver<Option<Instant>>,
    ) {
        let mut deadline = *drain.borrow_and_update();
        loop {
            if deadline.is_some() && !self.draining {
                self.draining = true;
                self.send(self.means.leaving.clone());
            }
            let idle = self.intake.is_empty() && self.answers.is_empty();
            if deadline.is_some_and(|deadline| idle || Instant::now() >= deadline) {
                return;
            }
            let pause = if self.draining { Duration::from_millis(20) } else { RETRY_EVERY };
            tokio::select! {
                event = inbox.recv(), if self.intake.len() < INTAKE_MAX => match event {
                    Some(event) => self.hear(event).await,
                    None => return,
                },
                Some((fate, receipt)) = self.intake.next(), if !self.intake.is_empty() => self.settle(fate, receipt).await,
                Some(ended) = self.answers.join_next(), if !self.answers.is_empty() => self.end(ended).await,
                () = sleep(pause), if self.draining || !self.backlog.is_empty() => self.retry().await,
                changed = drain.changed(), if deadline.is_none() => {
                    // Whoever could tell us to drain has gone: that is the end, too.
                    deadline = if changed.is_ok() { *drain.borrow_and_update() } else { Some(Instant::now()) };
                }
            }
        }
    }

    /// Lets go of what is not finished; it stays pending. Gives the last messages a moment to reach the broker.
    pub(super) async fn close(&mut self, last: Parcel) {
        self.answers.shutdown().await;
        self.intake.clear();
        self.send(last);
        let until = Instant::now() + FAREWELL;
        while self.means.link.is_connected() && self.means.link.load() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected { forgotten: false } => {}
            LinkEvent::Connected { forgotten: true } => {
                tracing::warn!("the broker has forgotten our session; recent answers are sent again");
                if let Err(error) = self.means.journal.undeliver_since(SystemTime::now() - AMNESIA).await {
                    tracing::error!(%error, "recent answers could not be looked up");
                }
                self.resend().await;
            }
            LinkEvent::Delivered(key) => {
                self.means.journal.mark_delivered(key);
                if self.owing && self.means.link.load() < RESEND_BELOW {
                    self.resend().await;
                }
            }
            LinkEvent::Mail(mail, receipt) => self.receive(&mail, receipt).await,
        }
    }

    async fn receive(&mut self, mail: &Mail, receipt: Receipt) {
        let topics = self.means.topics.clone();
        match topics.parse(&mail.topic) {
            Some(Incoming::Client { client, verb: Verb::Request }) => self.request(client, mail, receipt).await,
            Some(Incoming::Client { client, verb }) => self.named(client, verb, mail, receipt),
            Some(Incoming::Available) => {
                // The will of an older connection of ours, or somebody's mistake; said while we are here, it is wrong.
                if mail.payload == b"offline" && !self.draining {
                    self.send(self.means.online.clone());
                }
                self.settled(receipt);
            }
            None => {
                tracing::debug!(topic = mail.topic, "a message that is not for us");
                self.settled(receipt);
            }
        }
    }

    async fn request(&mut self, client: &str, mail: &Mail, receipt: Receipt) {
        let (request, reply) = match wire::read_request(&self.means.topics, client, mail, self.means.payload_max) {
            Ok(read) => read,
            Err(refusal) => return self.refuse_mail(&refusal, receipt),
        };
        let key = Key::new(client, &request.id);
        if self.live.get(&key).is_some_and(|live| live.body_hash != request.body_hash) {
            self.say_no(&key.id, &reply, &conflict());
            return self.settled(receipt);
        }
        let deadline = request.deadline;
        let new = !self.live.contains_key(&key) && !self.means.journal.knows(&key);
        let cancelled = new && self.tombs.take(&key, Instant::now());
        let mut ticket = None;
        if new && !cancelled {
            match self.submit(request.job(client, request.settings.sampling.seed, 1, after(deadline))).await {
                Ok(taken) => ticket = Some(taken),
                // Refused before it is accepted: nothing is kept, so that the same request may come again.
                Err(fault) => {
                    self.say_no(&key.id, &reply, &fault);
                    return self.settled(receipt);
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
            seed: ticket.as_ref().map_or(0, Ticket::seed),
            deadline: deadline.and_then(|deadline| SystemTime::now().checked_add(deadline)),
        };
        let accepted = self.means.journal.accept(entry);
        let candidate = Box::new(Candidate { key, request, reply, ticket, cancelled });
        self.intake.push_back(Box::pin(async move { (Fate::Request(candidate, accepted.await), receipt) }));
    }

    /// From here on the request is known, also while the journal still writes.
    fn enlive(&mut self, key: &Key, request: &Request, reply: &ReplyTo, ticket: Option<&Ticket>) {
        let live = Live {
            body_hash: request.body_hash,
            wishes: Arc::new(Mutex::new(Wishes { reply: reply.clone(), cancelled: false })),
            cancel: ticket.map(Ticket::cancel_flag).unwrap_or_default(),
            ahead: ticket.map_or(0, Ticket::ahead),
            submitted: ticket.is_some(),
        };
        self.live.insert(key.clone(), live);
    }

    fn named(&mut self, client: &str, verb: Verb, mail: &Mail, receipt: Receipt) {
        let (id, target) = match wire::read_named(&self.means.topics, client, mail) {
            Ok(read) => read,
            Err(refusal) => return self.refuse_mail(&refusal, receipt),
        };
        let key = Key::new(client, id);
        match verb {
            Verb::Cancel => self.cancel(key, receipt),
            Verb::Ack => {
                if self.live.contains_key(&key) {
                    return self.settled(receipt);
                }
                let forgotten = self.means.journal.forget(key);
                self.intake.push_back(Box::pin(async move {
                    if let Err(error) = forgotten.await {
                        tracing::error!(%error, "an acknowledged answer could not be removed");
                    }
                    (Fate::Settled, receipt)
                }));
            }
            Verb::Get | Verb::Request => {
                let found = self.means.journal.find(key.clone());
                self.intake
                    .push_back(Box::pin(async move { (Fate::Get(key, target, Box::new(found.await)), receipt) }));
            }
        }
    }

    fn cancel(&mut self, key: Key, receipt: Receipt) {
        let Some(live) = self.live.get(&key) else {
            if !self.means.journal.knows(&key) {
                self.tombs.dig(key, Instant::now());
            }
            return self.settled(receipt);
        };
        tracing::debug!(client = key.client, id = key.id, submitted = live.submitted, "cancelled by the client");
        with_wishes(&live.wishes, |wishes| wishes.cancelled = true);
        live.cancel.raise();
        if live.submitted {
            return self.settled(receipt);
        }
        // It waits here, where no flag is looked at.
        self.backlog.retain(|record| record.key != key);
        let given_up = self.give_up(key, &cancelled_early());
        self.intake.push_back(Box::pin(async move {
            given_up.await;
            (Fate::Settled, receipt)
        }));
    }

    /// What the journal's word means for a message; then it is acknowledged.
    async fn settle(&mut self, fate: Fate, receipt: Receipt) {
        match fate {
            Fate::Settled => {}
            Fate::Request(candidate, acceptance) => self.settle_request(*candidate, acceptance).await,
            Fate::Get(key, target, found) => self.settle_get(&key, target, *found),
        }
        self.means.link.ack(receipt);
    }

    async fn settle_request(&mut self, candidate: Candidate, acceptance: Result<Acceptance, JournalError>) {
        let Candidate { key, request, reply, ticket, cancelled } = candidate;
        match acceptance {
            Ok(Acceptance::New) => {
                Trap::AfterJournal.pass();
                match ticket {
                    Some(ticket) => {
                        if request.ack {
                            self.say_accepted(&key, &reply, ticket.ahead());
                        }
                        self.begin(key, &request, ticket, 1);
                    }
                    None if cancelled => self.give_up(key, &cancelled_early()).await,
                    // It was known a moment ago and acknowledged since; now it is a new request without a place.
                    None => self.keep(key).await,
                }
            }
            Ok(Acceptance::Pending) => {
                let live = self.live.get(&key);
                if let Some(live) = live {
                    with_wishes(&live.wishes, |wishes| wishes.reply = reply.clone());
                }
                if request.ack {
                    self.say_accepted(&key, &reply, live.map_or(0, |live| live.ahead));
                }
            }
            Ok(Acceptance::Done(answer)) => {
                let copy = self.means.voice.deliver(&answer, &key.id, &reply, true, Some(key.clone()));
                self.send(copy);
            }
            Ok(Acceptance::Conflict) => {
                self.say_no(&key.id, &reply, &conflict());
            }
            Ok(Acceptance::Full { unit, used, limit }) => {
                self.live.remove(&key);
                let fault = Acceptance::full(unit, used, limit);
                self.means.vitals.count_refusal(fault.code.name());
                self.say_no(&key.id, &reply, &fault);
            }
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "a request could not be accepted");
                // With the ticket goes the job. A copy of a living request changes nothing.
                if ticket.is_some() || cancelled {
                    self.live.remove(&key);
                }
                self.say_no(&key.id, &reply, &error.into());
            }
        }
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

    fn begin(&mut self, key: Key, request: &Request, ticket: Ticket, attempt: u32) {
        let Some(live) = self.live.get(&key) else { return };
        let answer = Answer {
            key: key.clone(),
            attempt,
            stream: request.stream,
            wishes: Arc::clone(&live.wishes),
            ticket,
            voice: self.means.voice.clone(),
            journal: self.means.journal.clone(),
            link: self.means.link.clone(),
            vitals: Arc::clone(&self.means.vitals),
        };
        self.answers.spawn(async move { (key, answer.follow().await) });
    }

    async fn end(&mut self, ended: Result<(Key, Ended), tokio::task::JoinError>) {
        match ended {
            Ok((key, Ended::Stored { sent, took })) => {
                self.live.remove(&key);
                self.owing |= !sent;
                self.pace = Some(self.pace.map_or(took, |pace| (pace * 4 + took) / 5));
            }
            Ok((key, Ended::Kept)) => self.keep(key).await,
            // The row is pending and is answered after the next start; the requester can ask with `get`.
            Err(error) => tracing::error!(%error, "an answer ended in a panic"),
        }
    }

    /// Puts a pending row back in our own line.
    async fn keep(&mut self, key: Key) {
        match self.means.journal.find(key.clone()).await {
            Ok(Some(record)) if record.answer.is_empty() => {
                let fresh = || Live {
                    body_hash: record.body_hash,
                    wishes: Arc::new(Mutex::new(Wishes { reply: stored_reply(&record), cancelled: false })),
                    cancel: CancelFlag::default(),
                    ahead: 0,
                    submitted: false,
                };
                self.live.entry(key).or_insert_with(fresh).submitted = false;
                self.backlog.push_back(record);
            }
            Ok(_) => {
                self.live.remove(&key);
            }
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "a pending request could not be read");
            }
        }
    }

    /// Offers what waits here to the queue, in order, until it has no place.
    async fn retry(&mut self) {
        while !self.draining
            && let Some(record) = self.backlog.pop_front()
        {
            let key = record.key.clone();
            let died = record.attempts >= ATTEMPTS_MAX || record.recoveries >= RECOVERIES_MAX;
            if died {
                let fault = Fault::bug(format!(
                    "the process died {} times over this request, which is not tried again",
                    record.attempts.max(record.recoveries)
                ));
                self.give_up(key, &fault).await;
                continue;
            }
            let request = match wire::read_stored(&record.request) {
                Ok(request) => request,
                Err(fault) => {
                    self.give_up(key, &fault).await;
                    continue;
                }
            };
            let left = record.deadline.map(|deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default());
            let attempt = record.attempts + 1;
            match self.submit(request.job(&key.client, Some(record.seed), attempt, after(left))).await {
                Ok(ticket) => {
                    if let Some(live) = self.live.get_mut(&key) {
                        live.cancel = ticket.cancel_flag();
                        live.submitted = true;
                    }
                    self.begin(key, &request, ticket, attempt);
                }
                Err(fault) if fault.kind == Kind::Busy => {
                    self.backlog.push_front(record);
                    return;
                }
                Err(fault) => self.give_up(key, &fault).await,
            }
        }
    }

    /// Answers an accepted request with an error that nobody computes.
    fn give_up(&mut self, key: Key, fault: &Fault) -> impl Future<Output = ()> + Send + 'static {
        tracing::info!(
            transport = "mqtt",
            client = key.client,
            id = key.id,
            code = fault.code.name(),
            reason = fault.message,
            "answered with an error"
        );
        self.means.vitals.count_request(crate::job::Transport::Mqtt, fault.code.name());
        let answer = self.means.voice.error(&key.id, fault);
        let reply = self.live.remove(&key).map(|live| with_wishes(&live.wishes, |wishes| wishes.reply.clone()));
        let (voice, link) = (self.means.voice.clone(), self.means.link.clone());
        let stored = self.means.journal.finish(key.clone(), answer.clone());
        async move {
            if let Err(error) = stored.await {
                tracing::error!(%error, client = key.client, id = key.id, "an answer could not be stored");
            }
            let parcel = voice.deliver(&answer, &key.id, &reply.unwrap_or_default(), false, Some(key.clone()));
            if link.send(parcel).is_err() {
                tracing::warn!(client = key.client, id = key.id, "an answer waits in the journal for the next start");
            }
        }
    }

    /// Sends what the journal has and the broker has not.
    async fn resend(&mut self) {
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

    /// Renders and counts a prompt, which may take milliseconds, off the threads that move messages.
    fn submit(&self, job: Job) -> impl Future<Output = Result<Ticket, Fault>> + Send + 'static {
        let queue = (!self.draining).then(|| self.means.queue.clone());
        async move {
            let Some(queue) = queue else {
                let message = "the daemon is draining and takes no new requests";
                return Err(Fault::unavailable(message, Duration::from_secs(5)));
            };
            match tokio::task::spawn_blocking(move || queue.submit(job)).await {
                Ok(submitted) => submitted,
                Err(error) => Err(Fault::bug(format!("the request could not be taken on: {error}"))),
            }
        }
    }

    fn refuse_mail(&mut self, refusal: &Refusal, receipt: Receipt) {
        self.means.vitals.count_refusal(refusal.fault.code.name());
        self.say_no(&refusal.id, &refusal.reply, &refusal.fault);
        self.settled(receipt);
    }

    /// Acknowledges a message in its turn.
    fn settled(&mut self, receipt: Receipt) {
        self.intake.push_back(Box::pin(std::future::ready((Fate::Settled, receipt))));
    }

    fn say_no(&mut self, id: &str, reply: &ReplyTo, fault: &Fault) {
        tracing::debug!(id, code = fault.code.name(), reason = fault.message, "refused");
        let refusal = self.means.voice.refuse(id, reply, fault);
        self.send(refusal);
    }

    fn say_accepted(&mut self, key: &Key, reply: &ReplyTo, ahead: usize) {
        let eta = self.pace.map(|pace| pace * u32::try_from(ahead + 1).unwrap_or(u32::MAX));
        let accepted = self.means.voice.accepted(&key.id, reply, ahead, eta);
        self.send(accepted);
    }

    fn send(&mut self, parcel: Parcel) {
        if let Err(parcel) = self.means.link.send(parcel) {
            // An answer waits in the journal. A refusal is lost: its requester asks again, as after any lost message.
            self.owing |= parcel.answer.is_some();
            tracing::warn!(topic = parcel.topic, "no room for a message to the broker");
        }
    }
}

fn cancelled_early() -> Fault {
    Fault::new(Kind::Caller, Code::Cancelled, "cancelled before it was started")
}

fn conflict() -> Fault {
    Fault::new(Kind::Caller, Code::Conflict, "another request has this id").hint("use a new id for a new question")
}

/// Where a stored answer goes. The bytes are ours; if they are no target after all, nothing can be sent anywhere.
fn stored_reply(record: &Record) -> ReplyTo {
    serde_json::from_slice(&record.reply).unwrap_or_default()
}

/// A length of time from now on the clock that jobs are measured by; one too long for it is none.
fn after(length: Option<Duration>) -> Option<Instant> {
    length.and_then(|length| Instant::now().checked_add(length))
}
