//! A client that remembers all it hears, and a node to ask.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{Client, Event};
use serde_json::{Value, json};

use crate::broker::{Broker, client_options};
use crate::harness::{Home, TestDaemon, until};

pub(crate) const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";
pub(crate) const REQUEST: &str = "moed/v1/node/n1/c/lamp/request";

/// A message as a peer got it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) properties: PublishProperties,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.properties.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<Message>,
    pub(crate) subscribed: usize,
    pub(crate) acked: usize,
}

/// An MQTT 5 client that remembers all it hears.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) heard: Arc<Mutex<Heard>>,
}

impl Peer {
    /// Connects and listens to everything that is said to `lamp`, and to the node's own topics.
    pub(crate) fn new(broker: &Broker) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (client, mut connection) = Client::new(client_options(format!("peer-{number}"), broker.port), 256);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let ears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for event in connection.iter() {
                let Ok(event) = event else {
                    // The broker is away; the next turn connects again.
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let mut heard = ears.lock().unwrap();
                match event {
                    Event::Incoming(Packet::Publish(publish)) => heard.messages.push(Message {
                        topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                        payload: publish.payload.to_vec(),
                        qos: publish.qos,
                        retain: publish.retain,
                        properties: publish.properties.unwrap_or_default(),
                    }),
                    Event::Incoming(Packet::SubAck(_)) => heard.subscribed += 1,
                    Event::Incoming(Packet::PubAck(_)) => heard.acked += 1,
                    _ => {}
                }
            }
        });
        let peer = Self { client, heard };
        peer.client.subscribe("moed/v1/c/lamp/#", QoS::AtLeastOnce).unwrap();
        peer.client.subscribe("moed/v1/node/n1/available", QoS::AtLeastOnce).unwrap();
        peer.client.subscribe("moed/v1/node/n1/info", QoS::AtLeastOnce).unwrap();
        until("subscriptions", || (peer.heard.lock().unwrap().subscribed == 3).then_some(()));
        peer
    }

    pub(crate) fn messages(&self, topic: &str) -> Vec<Message> {
        self.heard.lock().unwrap().messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    pub(crate) fn send(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).unwrap();
    }

    pub(crate) fn send_with(&self, topic: &str, payload: impl Into<Vec<u8>>, properties: PublishProperties) {
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload.into(), properties).unwrap();
    }

    /// Sends a request of `lamp` with this id.
    pub(crate) fn request(&self, id: &str, more: &Value) {
        let mut request = json!({"v": 1, "id": id, "prompt": "hi"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(REQUEST, request.to_string());
    }

    pub(crate) fn verb(&self, verb: &str, id: &str) {
        self.send(&format!("moed/v1/node/n1/c/lamp/{verb}"), json!({"v": 1, "id": id}).to_string());
    }

    /// All that is said about an id on its default topic, of this type.
    pub(crate) fn said(&self, id: &str, kind: &str) -> Vec<Value> {
        let all = self.messages(&format!("moed/v1/c/lamp/r/{id}"));
        all.iter().map(Message::json).filter(|value| value["type"] == kind).collect()
    }

    /// The first result or error about an id.
    pub(crate) fn answer(&self, id: &str) -> Value {
        self.answers(id, 1).remove(0)
    }

    /// Waits for this many results and errors about an id.
    pub(crate) fn answers(&self, id: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} answers to {id}"), || {
            let all = self.messages(&format!("moed/v1/c/lamp/r/{id}"));
            let ends = |value: &Value| value["type"] == "result" || value["type"] == "error";
            let ended: Vec<Value> = all.iter().map(Message::json).filter(ends).collect();
            (ended.len() >= count).then_some(ended)
        })
    }

    /// A question asked, and its answer.
    pub(crate) fn catch_up_with(&self, id: &str) -> Value {
        self.request(id, &json!({}));
        self.answer(id)
    }

    /// A question asked and answered: whatever was on its way before it has arrived.
    pub(crate) fn catch_up(&self, id: &str) {
        self.request(id, &json!({}));
        self.answer(id);
    }

    /// Messages of ours that the broker has acknowledged.
    pub(crate) fn acked(&self) -> usize {
        self.heard.lock().unwrap().acked
    }

    pub(crate) fn available(&self) -> Option<String> {
        let last = self.messages("moed/v1/node/n1/available").pop()?;
        Some(String::from_utf8(last.payload).unwrap())
    }
}

pub(crate) fn daemon(broker: &Broker, settings: &[(&str, &str)]) -> TestDaemon {
    let url = format!("{:?}", broker.url());
    let mut all = vec![("mqtt.url", url.as_str())];
    all.extend_from_slice(settings);
    let home = Home::new();
    home.configure(&all);
    let brake = format!("engine:{}", home.path(BRAKE).display());
    let daemon = TestDaemon::start_in(home, &[("MOED_HANG", &brake)]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

/// The file that slows the engine down.
const BRAKE: &str = "brake";

/// From now on a step of the engine takes 5 ms and more, so that what is to come while it works does, however busy the machine.
/// For the daemon as it was started; after a restart it runs freely.
pub(crate) fn brake(daemon: &TestDaemon) {
    fs::write(daemon.home.path(BRAKE), "5").unwrap();
}

/// The engine goes as fast as it can again.
pub(crate) fn release(daemon: &TestDaemon) {
    fs::remove_file(daemon.home.path(BRAKE)).unwrap();
}

/// Long sampled answers, so that the engine has something to do and every seed says something else.
pub(crate) fn long() -> Value {
    json!({"params": {"max_tokens": 400, "ignore_eos": true, "temperature": 1.5}})
}

/// Answers that take so long that a test can come between; where it has to, with the [`brake`] on.
pub(crate) fn very_long() -> Value {
    json!({"params": {"max_tokens": 8000, "ignore_eos": true, "temperature": 1.5}, "stream": true, "ack": true})
}

/// Fills the one slot and the line before it with work of another client.
pub(crate) fn occupy(peer: &Peer, jobs: usize) {
    for number in 0..jobs {
        let mut request = very_long();
        request["id"] = format!("busy{number}").into();
        request["prompt"] = "hi".into();
        peer.send("moed/v1/node/n1/c/other/request", request.to_string());
    }
}
