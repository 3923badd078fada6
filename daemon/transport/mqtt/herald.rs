//! What the node says of itself beside answers: events of its life. Cheap to clone; says nothing twice.

use serde_json::{Map, Value, json};

use super::reply::Parcel;
use super::topics::Topics;

/// Says what happens to one node.
#[derive(Clone, Debug)]
pub(super) struct Herald {
    topic: String,
    node: String,
}

impl Herald {
    pub(super) fn new(topics: &Topics) -> Self {
        Self { topic: topics.event(), node: topics.node().to_owned() }
    }

    /// `{v, type: "event", node, event, …}`, QoS 1, not retained.
    pub(super) fn event(&self, name: &str, more: &Value) -> Parcel {
        let mut event = Map::new();
        event.insert("v".to_owned(), 1.into());
        event.insert("type".to_owned(), "event".into());
        event.insert("node".to_owned(), self.node.as_str().into());
        event.insert("event".to_owned(), name.into());
        event.extend(more.as_object().cloned().unwrap_or_default());
        let mut parcel = Parcel::retained(self.topic.clone(), Value::Object(event).to_string().into_bytes(), true);
        parcel.retain = false;
        parcel
    }

    /// The broker does not want what we publish there. Nothing is said of a refused event: nobody would hear that either.
    pub(super) fn refused(&self, topic: &str, reason: &str) -> Option<Parcel> {
        (topic != self.topic).then(|| self.event("publish_refused", &json!({"topic": topic, "reason": reason})))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_event_makes_no_event() {
        let herald = Herald::new(&Topics::new("moed/v1", "hall"));
        let event = herald.refused("moed/v1/c/lamp/r/1", "not authorized (0x87)").unwrap();
        let payload: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!((&payload["event"], &payload["node"]), (&json!("publish_refused"), &json!("hall")));
        assert!(!event.retain);
        assert_eq!(herald.refused(&event.topic, "not authorized (0x87)"), None);
    }
}
