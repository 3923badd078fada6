//! What the node hears beside requests: orders of an administrator, and that Home Assistant has started.
//!
//! Neither is journaled: an order is acknowledged when it is heard, and one that is lost with the process is given again by
//! whoever gave it. Orders are carried out where all orders are (`control`), one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::link::Link;
use super::presence::birth_topic;
use super::reply::Voice;
use super::topics::{NO_ID, Topics};
use super::wire::{self, Mail, ReplyTo};
use crate::control::{Control, Order};
use crate::fault::{Code, Fault, Kind};

/// Orders that were heard and are not read yet; one more is dropped with a warning.
const HEARD_MAX: usize = 8;
/// What the reply to the last order, which may have been to end, gets to be on its way.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Picks out of all that arrives what is meant here. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Ears {
    home_assistant: Option<Arc<Notify>>,
    control: Option<(Topics, mpsc::Sender<Mail>)>,
    /// Orders that were heard and have no reply yet.
    pending: Arc<AtomicUsize>,
}

impl Ears {
    /// Hears Home Assistant start, too.
    pub(super) fn with_home_assistant(mut self, born: Arc<Notify>) -> Self {
        self.home_assistant = Some(born);
        self
    }

    /// What has to be subscribed for them.
    pub(super) fn filters(&self) -> Vec<String> {
        let birth = self.home_assistant.as_ref().map(|_| birth_topic());
        birth.into_iter().chain(self.control.as_ref().map(|(topics, _)| topics.control_filter())).collect()
    }

    /// Waits until every order that was heard has its reply, a moment at most: one of them may have been to end.
    pub(super) async fn fall_silent(&self) {
        let until = Instant::now() + LAST_WORD;
        while self.pending.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes the message if it is meant here, and gives back any other.
    pub(super) fn take(&self, mail: Mail) -> Option<Mail> {
        if let Some(born) = &self.home_assistant
            && mail.topic == birth_topic()
        {
            if mail.payload == b"online" {
                born.notify_one();
            }
            return None;
        }
        if let Some((topics, orders)) = &self.control
            && topics.read_control(&mail.topic).is_some()
        {
            self.pending.fetch_add(1, Ordering::Relaxed);
            if orders.try_send(mail).is_err() {
                self.pending.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(limit = HEARD_MAX, "an order was dropped: too many wait");
            }
            return None;
        }
        Some(mail)
    }
}

/// Gives orders on behalf of those who may.
pub(super) struct Aide {
    topics: Topics,
    admins: Vec<String>,
    control: Control,
    voice: Voice,
    link: Link,
}

/// Ears for orders, and what carries them on.
pub(super) fn listen(topics: &Topics) -> (Ears, Option<mpsc::Receiver<Mail>>) {
    let (sender, heard) = mpsc::channel(HEARD_MAX);
    (Ears { control: Some((topics.clone(), sender)), ..Ears::default() }, Some(heard))
}

impl Aide {
    pub(super) fn new(topics: Topics, admins: Vec<String>, control: Control, voice: Voice, link: Link) -> Self {
        Self { topics, admins, control, voice, link }
    }

    /// Works, one order after the other, until it is cut off.
    pub(super) async fn work(self, mut heard: mpsc::Receiver<Mail>, ears: Ears) {
        while let Some(mail) = heard.recv().await {
            self.obey(&mail).await;
            ears.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn obey(&self, mail: &Mail) {
        let Some((admin, verb)) = self.topics.read_control(&mail.topic) else { return };
        let (id, reply) = match wire::read_named(&self.topics, admin, mail) {
            Ok((id, target)) => {
                let topic = self.topics.reply(admin, &id);
                let reply = ReplyTo { topic, correlation: mail.correlation.clone(), cid: None };
                (id, target.unwrap_or(reply))
            }
            Err(refusal) => return self.refuse(&refusal.id, &refusal.reply, &refusal.fault),
        };
        let given = match self.read(admin, verb, mail) {
            Ok(order) => self.control.give(order, format!("mqtt:{admin}")).await,
            Err(fault) => {
                tracing::warn!(admin, verb, reason = fault.message, "an order was refused");
                Err(fault)
            }
        };
        match given {
            Ok(report) => {
                let more = json!({
                    "order": verb, "summary": report.summary, "changed": report.changed, "restart": report.restart,
                });
                self.send(self.voice.report(&id, &reply, &more));
            }
            Err(fault) => self.refuse(&id, &reply, &fault),
        }
    }

    fn read(&self, admin: &str, verb: &str, mail: &Mail) -> Result<Order, Fault> {
        if !self.admins.iter().any(|known| known == admin) {
            let message = format!("`{admin}` may not give orders to this node");
            return Err(Fault::new(Kind::Caller, Code::Forbidden, message).hint("the list is `mqtt.admins`"));
        }
        if mail.retain {
            return Err(Fault::invalid("a retained order would be given again at every start"));
        }
        match verb {
            "drain" => Ok(Order::Drain),
            "reload" => Ok(Order::Reload),
            "loglevel" => {
                let payload: Value = serde_json::from_slice(&mail.payload).unwrap_or(Value::Null);
                let level = payload["level"].as_str();
                let level = level.ok_or_else(|| Fault::invalid("`level` is missing").param("level"))?;
                Ok(Order::LogLevel(level.to_owned()))
            }
            other => Err(Fault::invalid(format!("`{other}` is no order: there are drain, reload and loglevel"))),
        }
    }

    fn refuse(&self, id: &str, reply: &ReplyTo, fault: &Fault) {
        let id = if id.is_empty() { NO_ID } else { id };
        self.send(self.voice.refuse(id, reply, fault));
    }

    fn send(&self, parcel: super::reply::Parcel) {
        if let Err(parcel) = self.link.send(parcel) {
            tracing::warn!(topic = parcel.topic, "no room for the reply to an order");
        }
    }
}
