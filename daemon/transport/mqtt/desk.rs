//! The desk: takes every message in, answers what can be answered at once, and sees the rest into journal and queue.
//!
//! One task owns all that is known of living requests, so nothing here is locked. It never waits for the broker: what it
//! sends goes into the pipe or is kept for later. Nor does it wait for a request to be rendered and its form compiled: that
//! is done beside it. Acknowledgements leave in the order of the messages, each after what it promises is on disk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{interval, sleep, sleep_until};

use super::answer::{Answer, Ended, SharedWishes};
use super::backlog::Waiter;
use super::card::Card;
use super::intake::{Intake, Lines};
use super::link::{Link, LinkEvent};
use super::memory::{Memory, Turn};
use super::pipe::Receipt;
use super::pool::{self, Pool, State};
use super::reply::{Parcel, Voice};
use super::request::{Candidate, Way};
use super::tombs::Tombs;
use super::topics::{Incoming, Topics, Verb};
use super::wire::{Mail, Refusal, ReplyTo, Request};
use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Job, Priority};
use crate::journal::trap::Trap;
use crate::journal::{Acceptance, BodyHash, Journal, JournalError, Key, Record, Session, clock};
use crate::pulse::Part;
use crate::queue::Queue;
use crate::queue::ticket::Ticket;
use crate::vitals::Vitals;

/// Messages whose fate is not on disk yet. The window is smaller; QoS 0 has none.
const INTAKE_MAX: usize = 64;
/// How often accepted jobs that found no place in the queue try again.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often the desk shows that it lives where nothing happens.
const BEAT_EVERY: Duration = Duration::from_secs(1);
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
    pub(super) card: Card,
    /// Said when somebody's `offline` stands where ours should not.
    pub(super) online: Parcel,
}

/// An accepted request that has no answer yet.
pub(super) struct Live {
    pub(super) body_hash: BodyHash,
    pub(super) wishes: SharedWishes,
    /// Ends the job in the queue or the engine; for one that waits here, nothing listens to it.
    pub(super) cancel: CancelFlag,
    pub(super) ahead: usize,
    /// In the queue or the engine, as opposed to our own backlog.
    pub(super) submitted: bool,
    /// New, and on its way into queue and journal; ends when it is known what became of it.
    pub(super) entering: Option<watch::Receiver<()>>,
    /// The conversation that it is a turn of.
    pub(super) session: Option<String>,
}

/// What a message comes to, once the journal has spoken.
pub(super) enum Fate {
    /// All is said.
    Settled,
    /// A request that may be new.
    Request(Box<Candidate>, Result<Acceptance, JournalError>),
    /// A request that was refused before it was accepted.
    Refused(Box<Candidate>, Fault),
    /// A request to look one up.
    Get(Key, Option<ReplyTo>, Box<Result<Option<Record>, JournalError>>),
}

/// The right to acknowledge one message, with the link that it came by.
pub(super) struct Stub {
    link: Link,
    receipt: Receipt,
}

impl Stub {
    pub(super) fn ack(&self) {
        self.link.ack(self.receipt);
    }

    /// For a message that nobody sent.
    #[cfg(test)]
    pub(super) fn nobodys() -> Self {
        Self { link: Link::nowhere(), receipt: Receipt { epoch: 0, packet_id: 0 } }
    }
}

pub(super) struct Desk {
    pub(super) means: Means,
    pub(super) live: HashMap<Key, Live>,
    /// Accepted before, not in the queue now.
    pub(super) backlog: VecDeque<Waiter>,
    pub(super) intake: Intake<Fate, Stub>,
    pub(super) lines: Lines,
    pub(super) answers: JoinSet<Ended>,
    /// Whose answer a task is; asked when it ends, in whatever way.
    pub(super) following: HashMap<task::Id, Key>,
    pub(super) tombs: Tombs,
    pub(super) memory: Memory,
    /// Our membership, where we are to be a member.
    pub(super) pool: Option<Pool>,
    /// Answers that found no room in the pipe wait in the journal.
    pub(super) owing: bool,
    pub(super) draining: bool,
    /// How long an answer takes, smoothed.
    pub(super) pace: Option<Duration>,
}

impl Desk {
    pub(super) fn new(means: Means, memory: Memory) -> Self {
        Self {
            means,
            live: HashMap::new(),
            backlog: VecDeque::new(),
            intake: Intake::new(),
            lines: Lines::default(),
            answers: JoinSet::new(),
            following: HashMap::new(),
            tombs: Tombs::default(),
            memory,
            pool: None,
            owing: false,
            draining: false,
            pace: None,
        }
    }

    /// Works until it is told to drain and nothing is left to do, or the deadline of the drain has passed.
    pub(super) async fn work(
        &mut self,
        inbox: &mut mpsc::Receiver<LinkEvent>,
        mut drain: watch::Receiver<Option<Instant>>,
    ) {
        let mut deadline = *drain.borrow_and_update();
        let mut beat = interval(BEAT_EVERY);
        // Outlives the turns of the loop, so that steady traffic does not put it off.
        let mut retry_at = Instant::now() + RETRY_EVERY;
        loop {
            self.means.vitals.pulse().beat(Part::Mqtt);
            if deadline.is_some() && !self.draining {
                self.draining = true;
                self.send(self.means.card.say("draining"));
            }
            self.attend();
            let stats = self.means.journal.stats();
            self.means.vitals.set_journal(stats.pending, stats.done, stats.bytes);
            let idle = self.intake.is_empty() && self.answers.is_empty();
            if deadline.is_some_and(|deadline| idle || Instant::now() >= deadline) {
                return;
            }
            let away = self.pool.as_ref().is_some_and(|pool| !pool.is_member());
            let pause = if self.draining { Duration::from_millis(20) } else { RETRY_EVERY };
            retry_at = retry_at.min(Instant::now() + pause);
            tokio::select! {
                _ = beat.tick() => self.resend_owed().await,
                event = inbox.recv(), if self.intake.len() < INTAKE_MAX => match event {
                    Some(event) => self.hear(event).await,
                    None => return,
                },
                Some((number, fate)) = self.intake.next(), if !self.intake.is_empty() => self.settle(number, fate).await,
                Some(ended) = self.answers.join_next_with_id(), if !self.answers.is_empty() => self.end(ended).await,
                event = pool::next(&mut self.pool), if self.intake.len() < INTAKE_MAX => self.hear_pool(event),
                () = sleep_until(retry_at.into()), if self.draining || away || !self.backlog.is_empty() => {
                    self.retry().await;
                    retry_at = Instant::now() + pause;
                }
                changed = drain.changed(), if deadline.is_none() => {
                    // Whoever could tell us to drain has gone: that is the end, too.
                    deadline = if changed.is_ok() { *drain.borrow_and_update() } else { Some(Instant::now()) };
                }
            }
        }
    }

    /// Lets go of what is not finished; it stays pending. Gives the last messages a moment to reach the broker.
    pub(super) async fn close(&mut self, last: Parcel) {
        if let Some(pool) = self.pool.take() {
            pool.close().await;
        }
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
            LinkEvent::Connected { forgotten: false } => self.resend_owed().await,
            LinkEvent::Connected { forgotten: true } => {
                tracing::warn!("the broker has forgotten our session; recent answers are sent again");
                if let Err(error) = self.means.journal.undeliver_since(clock::now() - AMNESIA).await {
                    tracing::error!(%error, "recent answers could not be looked up");
                }
                self.resend().await;
            }
            LinkEvent::Delivered(key) => {
                Trap::BeforeDelivered.pass();
                self.means.journal.mark_delivered(key);
                self.resend_owed().await;
            }
            LinkEvent::Mail(mail, receipt) => {
                let stub = Stub { link: self.means.link.clone(), receipt };
                self.receive(&mail, stub);
            }
        }
    }

    fn hear_pool(&mut self, event: LinkEvent) {
        if let (LinkEvent::Mail(mail, receipt), Some(pool)) = (event, &self.pool) {
            let stub = Stub { link: pool.link.clone(), receipt };
            self.receive(&mail, stub);
        }
    }

    /// Joins the pool or leaves it, as load and board say.
    fn attend(&mut self) {
        if let Some(pool) = &mut self.pool {
            let load = self.means.vitals.running() + self.means.queue.waiting() + self.backlog.len();
            // What is asked without a priority: as long as that is served, to leave could only lose questions.
            let fit = self.means.queue.is_willing(Priority::Interactive);
            pool.attend(State { load, fit, draining: self.draining }, self.means.card.marks());
        }
    }

    fn receive(&mut self, mail: &Mail, stub: Stub) {
        let topics = self.means.topics.clone();
        match topics.parse(&mail.topic) {
            Some(Incoming::Pool { client }) => self.request(client, mail, Way::Pool, stub),
            Some(Incoming::Client { client, verb: Verb::Request }) => self.request(client, mail, Way::Node, stub),
            Some(Incoming::Client { client, verb }) => self.named(client, verb, mail, stub),
            Some(Incoming::Available) => {
                // The will of an older connection of ours, or somebody's mistake; said while we are here, it is wrong.
                if mail.payload == b"offline" && !self.draining {
                    self.send(self.means.online.clone());
                }
                self.settled(stub);
            }
            None => {
                tracing::debug!(topic = mail.topic, "a message that is not for us");
                self.settled(stub);
            }
        }
    }

    /// The request is over: answered, perhaps as a turn of a conversation, or not accepted at all.
    pub(super) fn unlive(&mut self, key: &Key, answered: Option<Session>) {
        if let Some(name) = self.live.remove(key).and_then(|live| live.session) {
            self.memory.end(&Key::new(&key.client, name), answered, Instant::now());
        }
    }

    pub(super) fn begin(&mut self, key: Key, request: &Request, turn: Option<Turn>, ticket: Ticket, attempt: u32) {
        let Some(live) = self.live.get(&key) else { return };
        let answer = Answer {
            key: key.clone(),
            attempt,
            stream: request.stream,
            turn,
            wishes: Arc::clone(&live.wishes),
            voice: self.means.voice.of(ticket.model()),
            ticket,
            journal: self.means.journal.clone(),
            link: self.means.link.clone(),
            vitals: Arc::clone(&self.means.vitals),
        };
        let task = self.answers.spawn(answer.follow());
        self.following.insert(task.id(), key);
    }

    async fn end(&mut self, ended: Result<(task::Id, Ended), JoinError>) {
        let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let Some(key) = self.following.remove(&task) else { return };
        match ended {
            Ok((_, Ended::Stored { sent, took, session })) => {
                self.unlive(&key, session);
                self.owing |= !sent;
                if let Some(took) = took {
                    self.pace = Some(self.pace.map_or(took, |pace| (pace * 4 + took) / 5));
                    // There is a place now. An answer that was given up made none.
                    self.retry().await;
                }
            }
            Ok((_, Ended::Kept { after: pause })) => self.keep(key, after(pause)).await,
            Err(error) => {
                tracing::error!(%error, client = key.client, id = key.id, "an answer ended in a panic");
                self.give_up(key, &Fault::bug("the answer was lost to an error of the daemon"));
            }
        }
    }

    /// Renders and counts a prompt and compiles the form of its answer, which may take milliseconds and seconds, off the
    /// threads that move messages.
    pub(super) fn submit(&self, job: Job) -> impl Future<Output = Result<Ticket, Fault>> + Send + 'static {
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

    pub(super) fn refuse_mail(&mut self, refusal: &Refusal, stub: Stub) {
        self.turn_away(&refusal.id, &refusal.reply, &refusal.fault);
        self.settled(stub);
    }

    /// Acknowledges a message in its turn.
    pub(super) fn settled(&mut self, stub: Stub) {
        for stub in self.intake.settled(stub) {
            stub.ack();
        }
    }

    /// Says no and counts it. The queue counts its own refusals.
    pub(super) fn turn_away(&mut self, id: &str, reply: &ReplyTo, fault: &Fault) {
        self.means.vitals.count_refusal(fault.code.name());
        self.say_no(id, reply, fault);
    }

    pub(super) fn say_no(&mut self, id: &str, reply: &ReplyTo, fault: &Fault) {
        tracing::debug!(id, code = fault.code.name(), reason = fault.message, "refused");
        let refusal = self.means.voice.refuse(id, reply, fault);
        self.send(refusal);
    }

    pub(super) fn say_accepted(&mut self, key: &Key, reply: &ReplyTo, ahead: usize) {
        let eta = self.pace.map(|pace| pace * u32::try_from(ahead + 1).unwrap_or(u32::MAX));
        let accepted = self.means.voice.accepted(&key.id, reply, ahead, eta);
        self.send(accepted);
    }

    pub(super) fn send(&mut self, parcel: Parcel) {
        if let Err(parcel) = self.means.link.send(parcel) {
            // An answer waits in the journal. A refusal is lost: its requester asks again, as after any lost message.
            self.owing |= parcel.answer.is_some();
            tracing::warn!(topic = parcel.topic, "no room for a message to the broker");
        }
    }
}

/// Waits until it is known what became of a request that was on its way.
pub(super) async fn entered(mut entering: watch::Receiver<()>) {
    // Nothing is ever sent: the other end is dropped.
    while entering.changed().await.is_ok() {}
}

pub(super) fn cancelled_early() -> Fault {
    Fault::new(Kind::Caller, Code::Cancelled, "cancelled before it was started")
}

pub(super) fn conflict() -> Fault {
    Fault::new(Kind::Caller, Code::Conflict, "another request has this id").hint("use a new id for a new question")
}

/// Where a stored answer goes. The bytes are ours; if they are no target after all, nothing can be sent anywhere.
pub(super) fn stored_reply(record: &Record) -> ReplyTo {
    serde_json::from_slice(&record.reply).unwrap_or_default()
}

/// A length of time from now on the clock that jobs are measured by; one too long for it is none.
pub(super) fn after(length: Option<Duration>) -> Option<Instant> {
    length.and_then(|length| Instant::now().checked_add(length))
}
