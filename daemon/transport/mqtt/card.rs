//! The retained card: who this node is, what it serves and what it takes. Said at every connection, and anew when a reload
//! exchanges the model.

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::link::{Link, Orders};
use super::pool::Marks;
use super::reply::Parcel;
use super::topics::{Topics, Verb};
use crate::config;

/// What of the node changes while it stays on its broker.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The model's name.
    pub model: String,
    /// What the card says beside the room's own: limits, provider, features.
    pub card: Map<String, Value>,
    /// Unanswered requests at which a member leaves its pool, and at which it comes back.
    pub pool_marks: (usize, usize),
}

/// Makes the card out of what is served just now. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Card {
    topic: String,
    /// What does not change on this broker.
    fixed: Map<String, Value>,
    served: watch::Receiver<Served>,
}

impl Card {
    /// `boot` names this start of the daemon, so that whoever reads the card sees that it was started again.
    pub(super) fn new(topics: &Topics, settings: &config::Mqtt, boot: &str, served: watch::Receiver<Served>) -> Self {
        let fixed = json!({
            "v": 1,
            "node": topics.node(),
            "version": env!("CARGO_PKG_VERSION"),
            "limits": { "payload_max": settings.payload_max.0, "window": settings.window },
            "verbs": Verb::ALL.map(Verb::name),
            "boot": boot,
        });
        Self { topic: topics.info(), fixed: fixed.as_object().cloned().unwrap_or_default(), served }
    }

    /// The card of a node in this state: `ready` or `draining`.
    pub(super) fn say(&self, state: &str) -> Parcel {
        let served = self.served.borrow();
        let mut card = self.fixed.clone();
        card.insert("state".to_owned(), state.into());
        card.insert("model".to_owned(), served.model.as_str().into());
        card.extend(served.card.clone());
        Parcel::retained(self.topic.clone(), Value::Object(card).to_string().into_bytes(), true)
    }

    pub(super) fn marks(&self) -> Marks {
        let (leave, rejoin) = self.served.borrow().pool_marks;
        Marks { leave, rejoin }
    }

    /// Says it anew whenever something else is served, until it is cut off.
    pub(super) async fn keep(mut self, link: Link, orders: watch::Sender<Orders>) {
        // Whoever could tell has gone: nothing changes any more.
        while self.served.changed().await.is_ok() {
            let said = self.say("ready");
            orders.send_modify(|orders| {
                orders.birth.retain(|parcel| parcel.topic != said.topic);
                orders.birth.push(said.clone());
            });
            if link.send(said).is_err() {
                tracing::debug!("no room for the card; the next connection says it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_says_what_is_served_now_under_the_rooms_own_facts() {
        let served = |model: &str, context: usize| {
            let card = json!({"context": context});
            let card = card.as_object().cloned().unwrap_or_default();
            Served { model: model.to_owned(), card, pool_marks: (context, 1) }
        };
        let (sender, receiver) = watch::channel(served("one", 10));
        let topics = Topics::new("moed/v1", "hall");
        let card = Card::new(&topics, &config::Mqtt::default(), "b", receiver);
        let said = |state: &str| -> Value { serde_json::from_slice(&card.say(state).payload).unwrap_or_default() };
        let first = said("ready");
        assert_eq!((&first["node"], &first["model"], &first["context"]), (&json!("hall"), &json!("one"), &json!(10)));
        assert!(card.say("ready").retain && first["verbs"].is_array() && first["boot"] == "b");
        sender.send_replace(served("two", 20));
        let second = said("draining");
        assert_eq!(
            (&second["state"], &second["model"], &second["context"]),
            (&json!("draining"), &json!("two"), &json!(20))
        );
        assert_eq!(card.marks(), Marks { leave: 20, rejoin: 1 });
    }
}
