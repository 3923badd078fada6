//! The node on the broker, with the journal behind it: started, told to drain, ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::control::Control;
use crate::fault::Fault;
use crate::journal::Journal;
use crate::pulse::Part;
use crate::queue::Queue;
use crate::transport::mqtt;
use crate::vitals::Vitals;

/// What the broker gets to take the last answers and the goodbye after the engine is done.
const BROKER_GOODBYE: Duration = Duration::from_secs(5);
/// Events that wait to be told.
const NEWS_MAX: usize = 16;

/// The node on the broker, with the journal behind it.
pub(super) struct Broker {
    pub(super) journal: Journal,
    drain: watch::Sender<Option<Instant>>,
    news: mpsc::Sender<mqtt::News>,
    task: JoinHandle<Result<(), Fault>>,
}

impl Broker {
    /// Opens the journal and starts the room. The broker itself may be away; the room goes on trying.
    pub(super) async fn start(
        config: &Config,
        model: &str,
        card: Map<String, Value>,
        queue: &Queue,
        vitals: &Arc<Vitals>,
        control: Control,
    ) -> Result<Self, Fault> {
        mqtt::check(&config.mqtt)?;
        let (folder, settings) = (config.journal.dir.clone(), config.journal.clone());
        let journal = tokio::task::spawn_blocking(move || Journal::open(&folder, &settings))
            .await
            .map_err(|error| Fault::bug(format!("opening the journal: {error}")))??;
        let (news, told) = mpsc::channel(NEWS_MAX);
        journal.watch(vitals.pulse());
        vitals.pulse().begin(Part::Mqtt);
        let room = mqtt::Room {
            settings: config.mqtt.clone(),
            node: config.node.name.clone(),
            model: model.to_owned(),
            retention: config.journal.clone(),
            card,
            journal: journal.clone(),
            queue: queue.clone(),
            vitals: Arc::clone(vitals),
            pool_marks: config.pool_marks(),
            control,
            news: told,
        };
        let (drain, told) = watch::channel(None);
        Ok(Self { journal, drain, news, task: tokio::spawn(mqtt::serve(room, told)) })
    }

    /// Waits for the room's end, which comes by itself only when it failed.
    pub(super) async fn failed(broker: &mut Option<Self>) -> Fault {
        match broker {
            Some(broker) => match (&mut broker.task).await {
                Ok(Err(fault)) => fault,
                Ok(Ok(())) => Fault::bug("the MQTT room has ended by itself"),
                Err(error) => Fault::bug(format!("the MQTT room has ended: {error}")),
            },
            None => std::future::pending().await,
        }
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

    /// Waits for the last answers and the goodbye, and closes the journal: what is not finished is kept for the next start.
    pub(super) async fn finish(mut self, deadline: Instant) {
        self.drain(deadline);
        match tokio::time::timeout(BROKER_GOODBYE, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(fault))) => tracing::warn!(%fault, "leaving the broker"),
            Ok(Err(error)) => tracing::warn!(%error, "leaving the broker"),
            Err(_) => {
                tracing::warn!("the broker did not take the goodbye in time; it will say the will");
                self.task.abort();
            }
        }
        let journal = self.journal;
        if let Err(error) = tokio::task::spawn_blocking(move || journal.close()).await {
            tracing::warn!(%error, "closing the journal");
        }
    }
}
