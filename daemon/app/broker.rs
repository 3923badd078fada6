//! The node on the broker, with the journal behind it: met, left, met again, ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::control::Control;
use crate::fault::Fault;
use crate::journal::Journal;
use crate::pulse::Part;
use crate::queue::Queue;
use crate::transport::mqtt::{self, Served};
use crate::vitals::Vitals;

/// What the broker gets to take the last answers and the goodbye after the engine is done.
const BROKER_GOODBYE: Duration = Duration::from_secs(5);
/// Events that wait to be told.
const NEWS_MAX: usize = 16;

/// The node on the broker, with the journal behind it.
pub(super) struct Broker {
    journal: Journal,
    drain: watch::Sender<Option<Instant>>,
    news: mpsc::Sender<mqtt::News>,
    task: JoinHandle<Result<(), Fault>>,
}

/// Where the node is.
pub(super) enum Post {
    /// No broker is set.
    Nowhere,
    There(Broker),
    /// On the way to the broker that the settings name by then.
    Moving(JoinHandle<Journal>),
}

/// What became of the node's place.
pub(super) enum Turn {
    /// The broker is left; its journal goes along.
    Left(Journal),
    Failed(Fault),
}

impl Post {
    /// Begins to leave the broker: what runs has until `deadline`, the rest stays in the journal.
    pub(super) fn leave(&mut self, deadline: Instant) {
        match std::mem::replace(self, Self::Nowhere) {
            Self::There(broker) => {
                broker.drain(deadline);
                *self = Self::Moving(tokio::spawn(broker.leave(deadline)));
            }
            other => *self = other,
        }
    }

    /// Waits until the broker is left, or for the room's end, which comes by itself only when it failed. Cancel safe.
    pub(super) async fn next(&mut self) -> Turn {
        match self {
            Self::There(broker) => Turn::Failed(match (&mut broker.task).await {
                Ok(Err(fault)) => fault,
                Ok(Ok(())) => Fault::bug("the MQTT room has ended by itself"),
                Err(error) => Fault::bug(format!("the MQTT room has ended: {error}")),
            }),
            Self::Moving(task) => match task.await {
                Ok(journal) => Turn::Left(journal),
                Err(error) => Turn::Failed(Fault::bug(format!("leaving the broker: {error}"))),
            },
            Self::Nowhere => std::future::pending().await,
        }
    }

    /// Leaves the broker for good and closes the journal: what is not finished is kept for the next start.
    pub(super) async fn finish(self, deadline: Instant) {
        let journal = match self {
            Self::Nowhere => return,
            Self::There(broker) => broker.leave(deadline).await,
            Self::Moving(task) => match task.await {
                Ok(journal) => journal,
                Err(error) => return tracing::error!(%error, "leaving the broker"),
            },
        };
        Broker::close(journal).await;
    }
}

impl Broker {
    /// Opens the journal.
    pub(super) async fn open_journal(config: &Config) -> Result<Journal, Fault> {
        let (folder, settings) = (config.journal.dir.clone(), config.journal.clone());
        let journal = tokio::task::spawn_blocking(move || Journal::open(&folder, &settings)).await;
        Ok(journal.map_err(|error| Fault::bug(format!("opening the journal: {error}")))??)
    }

    /// Starts the room on an open journal. The broker itself may be away; the room goes on trying.
    pub(super) fn meet(
        config: &Config,
        served: watch::Receiver<Served>,
        queue: &Queue,
        vitals: &Arc<Vitals>,
        control: Control,
        journal: &Journal,
    ) -> Result<Self, Fault> {
        mqtt::check(&config.mqtt)?;
        let (news, told) = mpsc::channel(NEWS_MAX);
        journal.watch(vitals.pulse());
        vitals.pulse().begin(Part::Mqtt);
        let room = mqtt::Room {
            settings: config.mqtt.clone(),
            node: config.node.name.clone(),
            retention: config.journal.clone(),
            served,
            journal: journal.clone(),
            queue: queue.clone(),
            vitals: Arc::clone(vitals),
            control,
            news: told,
        };
        let (drain, told) = watch::channel(None);
        Ok(Self { journal: journal.clone(), drain, news, task: tokio::spawn(mqtt::serve(room, told)) })
    }

    /// Tells whoever listens to the node what has happened; the log has it, too, and is what counts.
    pub(super) fn tell(&self, event: &'static str, more: Value) {
        if self.news.try_send(mqtt::News { event, more }).is_err() {
            tracing::debug!(event, "too much happens to tell it all");
        }
    }

    /// Tells the room to take nothing new and to finish what runs until then.
    pub(super) fn drain(&self, deadline: Instant) {
        self.drain.send_replace(Some(deadline));
    }

    /// Waits for the last answers and the goodbye. What is not finished stays in the journal.
    async fn leave(mut self, deadline: Instant) -> Journal {
        self.drain(deadline);
        let patience = deadline.saturating_duration_since(Instant::now()) + BROKER_GOODBYE;
        match tokio::time::timeout(patience, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(fault))) => tracing::warn!(%fault, "leaving the broker"),
            Ok(Err(error)) => tracing::warn!(%error, "leaving the broker"),
            Err(_) => {
                tracing::warn!("the broker did not take the goodbye in time; it will say the will");
                self.task.abort();
            }
        }
        self.journal
    }

    /// Closes the journal.
    pub(super) async fn close(journal: Journal) {
        if let Err(error) = tokio::task::spawn_blocking(move || journal.close()).await {
            tracing::warn!(%error, "closing the journal");
        }
    }
}
