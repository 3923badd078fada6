//! The local socket: HTTP/1.1 in OpenAI's shapes, one connection a client, the caller known by its credentials.
//!
//! Called by `app.rs`. Promises: a caller that leaves cancels its job within one step, also while its prompt is read; one that
//! closes only its sending half is served; one that does not read is cut after `stall_timeout`; every wait and every size has
//! a bound. Never does: touch the engine, know a topic.

mod admin;
mod bind;
mod chat;
mod connection;
mod journal;
mod pages;
mod peers;
mod reply;
mod stream;
mod wire;

pub use bind::{Listener, bind};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::{get, post};
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::config;
use crate::control::Control;
use crate::fault::{Code, Fault, Kind};
use crate::job::{Event, Outcome, Transport};
use crate::journal::Journal;
use crate::queue::ticket::Ticket;
use crate::queue::{Queue, State as QueueState};
use crate::transport::http::peers::{Peer, Rules};
use crate::vitals::Vitals;

/// Connections of all users together.
const CONNECTIONS_MAX: usize = 1024;
/// How long to stand back when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When to ask again while the daemon drains: a restart takes about this long.
const DRAIN_RETRY: Duration = Duration::from_secs(2);

/// What is served once the model is loaded.
pub struct Serving {
    pub queue: Queue,
    /// The model's name on the wire.
    pub model: String,
    pub provider: String,
    /// Why that one.
    pub provider_reason: String,
    pub runtime: String,
    pub context: usize,
    /// What `/status` says of the model.
    pub traits: Map<String, Value>,
}

/// On what terms callers are served.
struct Terms {
    limits: config::Socket,
    rules: Rules,
}

impl Terms {
    fn new(limits: config::Socket) -> Result<Arc<Self>, Fault> {
        let rules = Rules::read(&limits)?;
        Ok(Arc::new(Self { limits, rules }))
    }
}

/// Whether these settings can be served; for `moed check`.
pub fn check(settings: &config::Socket) -> Result<(), Fault> {
    Rules::read(settings).map(|_| ())
}

/// What every request may look at.
pub struct Site {
    node: String,
    vitals: Arc<Vitals>,
    /// Changed by a reload.
    terms: Mutex<Arc<Terms>>,
    /// Exchanged with the model.
    serving: Mutex<Option<Arc<Serving>>>,
    draining: AtomicBool,
    /// Where `/admin/*` gives its orders.
    control: Control,
    /// Where requests over MQTT are kept, while there is a broker.
    journal: Mutex<Option<Journal>>,
    /// The daemon's own user.
    owner: u32,
    /// Unix time at which this daemon started; the `created` of its model.
    started: u64,
    connections: Mutex<HashMap<u32, usize>>,
    /// Connections that have not asked anything yet.
    fresh: AtomicUsize,
    busy: AtomicUsize,
    /// Requests that wait for the drain's end; they hold nothing up.
    watching: AtomicUsize,
    /// Raised when the time of a drain is up: what is still being answered ends with an error.
    cut: watch::Sender<bool>,
    /// How the drain went, once it is over.
    end: watch::Sender<Option<&'static str>>,
}

impl Site {
    /// A site that answers 503 until [`Site::serve`] is called.
    pub fn new(
        node: String,
        vitals: Arc<Vitals>,
        limits: config::Socket,
        control: Control,
    ) -> Result<Arc<Self>, Fault> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Arc::new(Self {
            node,
            vitals,
            terms: Mutex::new(Terms::new(limits)?),
            serving: Mutex::default(),
            draining: AtomicBool::new(false),
            control,
            journal: Mutex::default(),
            owner: rustix::process::geteuid().as_raw(),
            started,
            connections: Mutex::default(),
            fresh: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            watching: AtomicUsize::new(0),
            cut: watch::Sender::new(false),
            end: watch::Sender::new(None),
        }))
    }

    /// From now on requests are answered by this model.
    pub fn serve(&self, serving: Serving) {
        *lock(&self.serving) = Some(Arc::new(serving));
    }

    /// From now on operators can look into this journal, or into none.
    pub fn show_journal(&self, journal: Option<Journal>) {
        *lock(&self.journal) = journal;
    }

    fn serving(&self) -> Option<Arc<Serving>> {
        lock(&self.serving).clone()
    }

    fn journal(&self) -> Option<Journal> {
        lock(&self.journal).clone()
    }

    /// From now on new requests are answered 503.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// From now on these bounds and rules hold: for the next request, and for the next connection what is a connection's.
    pub fn limit(&self, limits: config::Socket) -> Result<(), Fault> {
        let terms = Terms::new(limits)?;
        *lock(&self.terms) = terms;
        Ok(())
    }

    fn terms(&self) -> Arc<Terms> {
        Arc::clone(&lock(&self.terms))
    }

    /// Requests whose answers have not left yet.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed).saturating_sub(self.watching.load(Ordering::Relaxed))
    }

    /// Answers those who were let in last: a connection that was accepted and not heard would read to its client as a
    /// refusal. For when nothing is accepted any more; who connects now waits for the next process.
    pub async fn hear_the_last(&self, patience: Duration) {
        let heard = async {
            while self.fresh.load(Ordering::Relaxed) > 0 || self.busy() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(patience, heard).await.is_err() {
            tracing::debug!("somebody who connected at the end has asked nothing");
        }
    }

    /// Ends what is still being answered with an error: the time is up.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Tells those who wait for the drain's end how it went, and gives them this long to hear it.
    pub async fn say_end(&self, end: &'static str, patience: Duration) {
        self.end.send_replace(Some(end));
        let heard = async {
            while self.watching.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(patience, heard).await.is_err() {
            tracing::debug!("somebody who waited for the drain's end did not hear it");
        }
    }

    /// Counts and logs the end of a request; one line each, no text of it.
    fn note_end(&self, ticket: &Ticket, peer: Peer, end: Result<&Outcome, &Fault>) {
        let (job, client) = (ticket.id(), peer.label());
        match end {
            Ok(outcome) => {
                self.vitals.count_request(Transport::Http, outcome.finish.name());
                tracing::info!(
                    %job,
                    transport = "http",
                    client,
                    outcome = outcome.finish.name(),
                    prompt_tokens = outcome.usage.prompt_tokens,
                    generated_tokens = outcome.usage.generated_tokens,
                    queue_ms = outcome.timing.queue.as_millis(),
                    first_token_ms = outcome.timing.first_token.as_millis(),
                    total_ms = outcome.timing.total.as_millis(),
                    "request finished"
                );
            }
            Err(fault) => {
                self.vitals.count_request(Transport::Http, fault.code.name());
                tracing::info!(%job, transport = "http", client, outcome = fault.code.name(), reason = fault.message, "request failed");
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        lock(&self.connections)
    }

    fn is_draining(&self) -> bool {
        let engine_gone = self.serving().is_some_and(|serving| serving.queue.state() != QueueState::Open);
        self.draining.load(Ordering::Relaxed) || engine_gone
    }
}

/// What is guarded here is replaced whole or counted, which cannot panic halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that was taken on. However it ends, it is counted and logged once: with its outcome, or as left by its caller.
struct Asked {
    site: Arc<Site>,
    ticket: Ticket,
    peer: Peer,
    noted: bool,
}

impl Asked {
    fn new(site: &Arc<Site>, ticket: Ticket, peer: Peer) -> Self {
        Self { site: Arc::clone(site), ticket, peer, noted: false }
    }

    /// The job's next event; nothing after its end. A drain whose time is up is an end.
    async fn next(&mut self) -> Option<Event> {
        if self.noted {
            return None;
        }
        let mut cut = self.site.cut.subscribe();
        tokio::select! {
            biased;
            event = self.ticket.next() => event,
            // The sender lives in the site, which is ours.
            _ = cut.wait_for(|cut| *cut) => {
                let message = "the daemon stops and could not finish this answer in time";
                Some(Event::Failed(Fault::unavailable(message, DRAIN_RETRY)))
            }
        }
    }

    fn note(&mut self, end: Result<&Outcome, &Fault>) {
        self.noted = true;
        self.site.note_end(&self.ticket, self.peer, end);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.noted {
            self.note(Err(&Fault::new(Kind::Caller, Code::Cancelled, "the caller left before the end")));
        }
    }
}

/// A user's connection, counted for as long as it lives.
struct Seat {
    site: Arc<Site>,
    user: u32,
}

impl Seat {
    fn take(site: &Arc<Site>, user: u32) -> Result<Self, usize> {
        let mut counts = site.counts();
        let all: usize = counts.values().sum();
        let own = counts.entry(user).or_default();
        if *own >= site.terms().limits.connections_max || all >= CONNECTIONS_MAX {
            return Err(*own);
        }
        *own += 1;
        drop(counts);
        Ok(Self { site: Arc::clone(site), user })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.site.counts();
        if let Some(own) = counts.get_mut(&self.user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.remove(&self.user);
            }
        }
    }
}

/// A connection until its first request, or its end.
struct Fresh(Arc<Site>);

impl Fresh {
    fn new(site: &Arc<Site>) -> Self {
        site.fresh.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(site))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.fresh.fetch_sub(1, Ordering::Relaxed);
    }
}

fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/models", get(pages::models))
        .route("/v1/models/{id}", get(pages::model))
        .route("/health", get(pages::health))
        .route("/metrics", get(pages::metrics))
        .route("/status", get(pages::status))
        .route("/admin/drain", post(admin::drain))
        .route("/admin/reload", post(admin::reload))
        .route("/admin/journal", get(journal::list))
        .route("/admin/journal/prune", post(journal::prune))
        .route("/admin/journal/{client}/{id}", get(journal::show))
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::method_not_allowed)
        .with_state(site)
}

/// Accepts connections until it is dropped. One task a connection.
pub async fn accept(listener: Listener, site: Arc<Site>) {
    let router = router(Arc::clone(&site));
    loop {
        match listener.accept().await {
            Ok(stream) => welcome(stream, &site, &router),
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would spin.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn welcome(stream: UnixStream, site: &Arc<Site>, router: &Router) {
    let peer = match stream.peer_cred() {
        Ok(credentials) => Peer { user: credentials.uid(), group: credentials.gid() },
        Err(error) => {
            tracing::warn!(%error, "a peer without credentials was turned away");
            return;
        }
    };
    let terms = site.terms();
    let seat = if terms.rules.may_ask(peer) {
        Seat::take(site, peer.user).map_err(|open| {
            let limit = terms.limits.connections_max;
            tracing::debug!(user = peer.user, open, limit, "too many connections of one user");
            reply::too_many_connections(open, limit)
        })
    } else {
        tracing::warn!(user = peer.user, group = peer.group, "a peer that `socket.peers` does not list was refused");
        site.vitals.count_refusal(Code::Forbidden.name());
        Err(reply::stranger(peer.user))
    };
    let fresh = Fresh::new(site);
    tokio::spawn(connection::serve(stream, peer, seat, fresh, router.clone()));
}
