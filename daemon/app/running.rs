//! The daemon at work: what it is told, what happens to it, and how it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::app::broker::{Broker, Post, Turn};
use crate::app::exchange::{Exchange, Now, Ready};
use crate::app::orders::{Orders, Told};
use crate::app::place::Place;
use crate::app::reload::Settings;
use crate::app::stage::{Cast, Stage, World, limits};
use crate::config::Config;
use crate::control::{Control, Errand, Report};
use crate::drain::{self, End};
use crate::engine::{Ended, give_back_heap};
use crate::fault::{Code, Fault, Kind};
use crate::governor::notice::Notice;
use crate::journal::Journal;
use crate::pulse::Part;
use crate::queue::Queue;
use crate::supervisor;
use crate::transport::mqtt::Served;

/// When those come again whom a reload in progress has turned away.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Reloads that wait for the one in progress; one more is refused.
const RELOADS_MAX: usize = 8;
/// What those who wait for a drain get to read how it went.
const END_HEARD: Duration = Duration::from_millis(500);
/// What systemd gives us beyond the drain's own time: the broker's goodbye, the journal's last writes.
const END_MARGIN: Duration = Duration::from_secs(15);

/// All that runs.
pub(super) struct Running {
    pub(super) settings: Settings,
    pub(super) world: World,
    pub(super) queue: Queue,
    pub(super) stage: Stage,
    pub(super) place: Option<Place>,
    pub(super) post: Post,
    /// What the node says of itself on its broker.
    pub(super) served: watch::Sender<Served>,
    pub(super) control: Control,
    /// What the status line begins with.
    pub(super) line: Arc<Mutex<String>>,
    /// The model before this one, until it has finished what it had.
    pub(super) leaving: Option<Leaving>,
    /// The reload in progress, and those behind it.
    pub(super) exchange: Option<Exchange>,
    pub(super) reloads: VecDeque<Errand>,
}

/// A model that finishes what it has.
pub(super) struct Leaving {
    title: String,
    heart: Part,
    engine: JoinHandle<Ended>,
}

impl Leaving {
    async fn ended(leaving: &mut Option<Self>) -> Result<Ended, JoinError> {
        match leaving {
            Some(leaving) => (&mut leaving.engine).await,
            None => std::future::pending().await,
        }
    }
}

impl Running {
    /// Works until it is told to stop: why. `Err` where it cannot go on.
    pub(super) async fn work(&mut self, orders: &mut Orders) -> Result<&'static str, Fault> {
        let mut notices = self.world.watch.notices();
        loop {
            tokio::select! {
                told = orders.next() => match told {
                    Told::Stop(why) => return Ok(why),
                    Told::Reload(errand) => self.hear(errand),
                },
                ready = Exchange::ready(&mut self.exchange) => self.settle(ready).await,
                ended = Leaving::ended(&mut self.leaving) => self.say_farewell(ended),
                turn = self.post.next() => match turn {
                    Turn::Left(journal) => self.arrive(journal).await,
                    Turn::Failed(fault) => {
                        self.queue.close(&Fault::bug("the daemon stops"));
                        return Err(fault);
                    }
                },
                notice = notices.recv() => match notice {
                    Ok(Notice { cause, from, to, reason }) => {
                        self.tell("governor", json!({"cause": cause.name(), "from": from, "to": to, "reason": reason}));
                    }
                    // More happened than can be told; the log has it all.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(Fault::bug("the board's watch has ended")),
                },
                ended = &mut self.stage.engine => {
                    // What waited has been told by the room, which went with its engine.
                    return Err(Fault::bug(format!("the engine has stopped: {ended:?}")));
                }
            }
        }
    }

    /// Tells whoever listens on the broker what has happened.
    fn tell(&self, event: &'static str, more: Value) {
        if let Post::There(broker) = &self.post {
            broker.tell(event, more);
        }
    }

    /// Reloads are carried out one after another.
    fn hear(&mut self, errand: Errand) {
        if self.exchange.is_none() {
            return self.begin(errand);
        }
        if self.reloads.len() < RELOADS_MAX {
            return self.reloads.push_back(errand);
        }
        let message = format!("{RELOADS_MAX} reloads wait for the one in progress, limit {RELOADS_MAX}");
        errand.answer(Err(Fault::new(Kind::Busy, Code::QueueFull, message).retry_after(RETRY_AFTER)));
    }

    fn begin(&mut self, errand: Errand) {
        supervisor::reloading();
        let now = Now {
            reader: self.settings.reader(),
            title: self.stage.title.clone(),
            cache_bytes: self.stage.cache_bytes,
            print: self.stage.print.clone(),
            leaving: self.leaving.as_ref().map(|leaving| leaving.title.clone()),
        };
        self.exchange = Some(Exchange::begin(errand, now));
    }

    /// The reload in progress is ready, or refused.
    async fn settle(&mut self, ready: Result<Ready, Fault>) {
        let Some(Exchange { errand, .. }) = self.exchange.take() else { return };
        let result = match ready {
            Ok(ready) => self.take_over(ready).await,
            Err(fault) => Err(fault),
        };
        supervisor::ready(&self.stage.line);
        let moves = result.as_ref().is_ok_and(|(_, moves)| *moves);
        let result = result.map(|(report, _)| report);
        match &result {
            Ok(report) => self.tell("reloaded", json!(report)),
            Err(fault) => self.tell("reload_refused", json!({"reason": fault.message})),
        }
        // Before the room leaves its broker: whoever asked over it hears the answer there.
        errand.answer(result);
        if moves {
            self.post.leave(Instant::now() + self.settings.found.queue.drain_timeout.0);
        }
        if let Some(next) = self.reloads.pop_front() {
            self.begin(next);
        }
    }

    /// Puts everything in force. Says what was done, and whether the broker is to be left.
    async fn take_over(&mut self, ready: Ready) -> Result<(Report, bool), Fault> {
        let Ready { fresh, cast } = ready;
        let joins = !fresh.found.mqtt.url.is_empty() && matches!(self.post, Post::Nowhere);
        let journal = if joins { Some(Broker::open_journal(&fresh.found).await?) } else { None };
        let mut done = Vec::new();
        match self.change_stage(&fresh.found, cast) {
            Ok(change) => done.extend(change),
            Err(fault) => {
                if let Some(journal) = journal {
                    Broker::close(journal).await;
                }
                return Err(fault);
            }
        }
        // From here on nothing fails.
        let config = &fresh.found;
        self.queue.ration(config.quota.clone());
        self.queue.limit(limits(config, self.stage.context));
        let moves = fresh.exchanges_broker() && matches!(self.post, Post::There(_));
        if moves {
            let (from, to) = (&self.settings.found.mqtt.url, &config.mqtt.url);
            done.push(match to.as_str() {
                "" => format!("broker `{from}` is left"),
                to if to == from => format!("broker `{from}` is met anew"),
                to => format!("broker `{from}` is left for `{to}`"),
            });
        }
        let report = fresh.report(done);
        self.settings.put(fresh);
        self.served.send_replace(self.stage.served(&self.settings.found));
        if let Some(journal) = journal {
            self.meet(journal).await;
        }
        Ok((report, moves))
    }

    /// Puts another model to work, where there is one, and the socket's bounds in force. Says what was done; a failure leaves
    /// everything as it was.
    fn change_stage(&mut self, config: &Config, cast: Option<Cast>) -> Result<Option<String>, Fault> {
        self.world.site.limit(config.socket.clone())?;
        let Some(cast) = cast else { return Ok(None) };
        let has_tools = cast.loaded.own_tools.is_some();
        let house = Place::house(&mut self.place, config, cast.loaded.own_tools, self.world.vitals.pulse());
        let stage = match self.stage.beside(config, cast, house, &self.world, &self.queue) {
            Ok(stage) => stage,
            Err(fault) => {
                self.world.site.limit(self.settings.found.socket.clone())?;
                return Err(fault);
            }
        };
        if !has_tools {
            self.place = None;
        }
        let done = format!("model {} in place of {}", stage.title, self.stage.title);
        let Stage { title, heart, engine, .. } = std::mem::replace(&mut self.stage, stage);
        self.leaving = Some(Leaving { title, heart, engine });
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.stage.line);
        Ok(Some(done))
    }

    /// Joins the broker that the settings name, on this journal.
    async fn meet(&mut self, journal: Journal) {
        let config = &self.settings.found;
        let served = self.served.subscribe();
        match Broker::meet(config, served, &self.queue, &self.world.vitals, self.control.clone(), &journal) {
            Ok(broker) => {
                self.world.site.show_journal(Some(journal));
                broker.tell("ready", self.stage.ready());
                self.post = Post::There(broker);
            }
            Err(fault) => {
                // The settings were checked; a file that they name has changed since.
                tracing::error!(%fault, "the broker is not met; a reload tries again");
                Broker::close(journal).await;
                self.world.site.show_journal(None);
                self.post = Post::Nowhere;
            }
        }
    }

    /// The room has left its broker.
    async fn arrive(&mut self, journal: Journal) {
        if self.settings.found.mqtt.url.is_empty() {
            self.world.site.show_journal(None);
            Broker::close(journal).await;
            self.post = Post::Nowhere;
        } else {
            self.meet(journal).await;
        }
        if let Some(place) = &mut self.place {
            place.listen(&self.settings.found);
        }
    }

    /// The model before this one has finished what it had.
    fn say_farewell(&mut self, ended: Result<Ended, JoinError>) {
        let Some(Leaving { title, heart, .. }) = self.leaving.take() else { return };
        self.world.vitals.pulse().rest(heart);
        self.world.vitals.set_memory("cache", self.stage.cache_bytes);
        // Nobody waits for it.
        drop(spawn_blocking(give_back_heap));
        match ended {
            Ok(Ended::Drained) => tracing::info!(model = title, "the model before has finished what it had"),
            // Its room told those who waited; over MQTT they are served by the model of today.
            other => tracing::error!(model = title, ?other, "the model before has stopped"),
        }
    }

    /// Drains and ends all of it; how that went.
    pub(super) async fn end(self, why: &'static str, orders: &mut Orders) -> End {
        let Self { settings, world: World { site, vitals, watch }, queue, stage, post, leaving, .. } = self;
        let timeout = settings.found.queue.drain_timeout.0;
        tracing::info!(why, running = vitals.running(), waiting = queue.waiting(), "draining");
        supervisor::stopping("draining");
        supervisor::extend(timeout + END_MARGIN);
        site.drain();
        let deadline = Instant::now() + timeout;
        if let Post::There(broker) = &post {
            broker.tell("draining", json!({"why": why, "running": vitals.running(), "waiting": queue.waiting()}));
            broker.drain(deadline);
        }
        let engines = async move {
            // How an engine ended makes no difference now.
            for engine in leaving.map(|leaving| leaving.engine).into_iter().chain([stage.engine]) {
                if let Err(error) = engine.await {
                    tracing::warn!(%error, "an engine's end was not seen");
                }
            }
        };
        let end = drain::drain(&queue, &site, engines, timeout, orders.stop()).await;
        for heart in [Part::Engine, Part::Relief] {
            vitals.pulse().rest(heart);
        }
        post.finish(if end == End::Finished { deadline } else { Instant::now() }).await;
        site.say_end(end.name(), END_HEARD).await;
        drop(watch);
        end
    }
}
