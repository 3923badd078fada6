//! What a node shows of itself: gauges, events, a device for Home Assistant; and the orders that it takes over the broker.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Broker;
use harness::{Home, PATIENCE, TestDaemon, until};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::{Value, json};

/// A client that hears everything.
struct Listener {
    client: Client,
    heard: Arc<Mutex<Vec<Publish>>>,
}

impl Listener {
    fn new(broker: &Broker) -> Self {
        let mut options = MqttOptions::new("listener", "127.0.0.1", broker.port);
        options.set_keep_alive(Duration::from_mins(1));
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut connection) = Client::new(options, 64);
        client.subscribe("#", QoS::AtLeastOnce).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ready, subscribed) = std::sync::mpsc::sync_channel(1);
        let sink = Arc::clone(&heard);
        std::thread::spawn(move || {
            for event in connection.iter().map_while(Result::ok) {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => ready.send(()).unwrap(),
                    Event::Incoming(Packet::Publish(publish)) => sink.lock().unwrap().push(publish),
                    _ => {}
                }
            }
        });
        subscribed.recv_timeout(PATIENCE).unwrap();
        Self { client, heard }
    }

    /// All that was said on a topic so far.
    fn all(&self, topic: &str) -> Vec<Publish> {
        self.heard.lock().unwrap().iter().filter(|publish| publish.topic == topic).cloned().collect()
    }

    /// Waits for something on a topic that is as wanted.
    fn hear(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("a message on {topic}"), || {
            let payloads = self.all(topic).into_iter().filter_map(|publish| json_of(&publish));
            payloads.filter(|payload| wanted(payload)).last()
        })
    }

    fn say(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).unwrap();
    }

    /// Gives an order as this administrator and waits for what comes of it.
    #[expect(clippy::needless_pass_by_value, reason = "called with a literal")]
    fn order(&self, admin: &str, verb: &str, id: &str, more: Value) -> Value {
        let mut payload = json!({"v": 1, "id": id});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.say(&format!("moed/v1/node/n1/control/{admin}/{verb}"), payload.to_string());
        self.hear(&format!("moed/v1/c/{admin}/r/{id}"), |_| true)
    }
}

fn json_of(publish: &Publish) -> Option<Value> {
    serde_json::from_slice(&publish.payload).ok()
}

fn node(broker: &Broker, settings: &[(&str, &str)]) -> TestDaemon {
    let home = Home::new();
    let url = format!("{:?}", broker.url());
    home.configure(&[&[("mqtt.url", &*url)], settings].concat());
    let daemon = TestDaemon::start_in(home, &[]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

#[test]
fn gauges_come_at_their_pace_under_the_names_of_the_metrics() {
    let broker = Broker::start("");
    let listener = Listener::new(&broker);
    let _daemon = node(&broker, &[("mqtt.metrics_every", "\"100ms\"")]);
    listener.say("moed/v1/node/n1/c/lamp/request", json!({"v": 1, "id": "1", "prompt": "hi"}).to_string());
    let total = "moed_generated_tokens_total";
    let gauges = listener.hear("moed/v1/node/n1/metrics", |gauges| gauges[total] == 32);
    assert_eq!(gauges["node"], "n1");
    assert_eq!(gauges["moed_requests_total{transport=\"mqtt\",outcome=\"stop\"}"], 1, "{gauges}");
    assert!(gauges["moed_generated_tokens_per_second"].is_number(), "{gauges}");
    let last = listener.all("moed/v1/node/n1/metrics").pop().unwrap();
    assert_eq!((last.qos, last.retain), (QoS::AtMostOnce, false));
    assert!(last.properties.unwrap().message_expiry_interval.is_some());
}

#[test]
fn the_card_says_which_start_this_is_and_events_say_what_happens() {
    let broker = Broker::start("");
    let listener = Listener::new(&broker);
    let mut daemon = node(&broker, &[]);
    let card = listener.hear("moed/v1/node/n1/info", |card| card["state"] == "ready");
    assert!(card["boot"].as_str().is_some_and(|boot| boot.len() == 16), "{card}");
    let event = listener.hear("moed/v1/node/n1/event", |event| event["event"] == "ready");
    assert_eq!((&event["node"], &event["model"], &event["type"]), (&json!("n1"), &json!("tiny"), &json!("event")));
    daemon.signal(rustix::process::Signal::TERM);
    listener.hear("moed/v1/node/n1/event", |event| event["event"] == "draining");
    assert!(daemon.wait().success());
    until("the goodbye", || {
        let last = listener.all("moed/v1/node/n1/available").pop()?;
        (last.payload == "offline").then_some(())
    });
    daemon.restart(&[]);
    let again =
        listener.hear("moed/v1/node/n1/info", |again| again["state"] == "ready" && again["boot"] != card["boot"]);
    assert_eq!(again["node"], "n1");
}

#[test]
fn home_assistant_finds_the_node_as_a_device_and_finds_it_again_when_it_starts() {
    let broker = Broker::start("");
    let listener = Listener::new(&broker);
    let every = [("mqtt.metrics_every", "\"100ms\"")];
    {
        // Nobody asked for it: nothing is said there.
        let _daemon = node(&broker, &every);
        listener.hear("moed/v1/node/n1/metrics", |_| true);
        assert!(listener.heard.lock().unwrap().iter().all(|publish| !publish.topic.starts_with(b"homeassistant")));
    }
    let _daemon = node(&broker, &[every[0], ("mqtt.discovery", "\"homeassistant\"")]);
    let topic = "homeassistant/device/moed_n1/config";
    let device = listener.hear(topic, |_| true);
    assert_eq!(device["avty_t"], "moed/v1/node/n1/available");
    assert_eq!(device["stat_t"], "moed/v1/node/n1/metrics");
    for key in ["waiting", "running", "tokens_per_second"] {
        assert_eq!(device["cmps"][key]["p"], "sensor", "{device}");
    }
    // What the templates read is there.
    let gauges = listener.hear("moed/v1/node/n1/metrics", |gauges| gauges["moed_requests_running"].is_number());
    assert!(gauges["moed_generated_tokens_per_second"].is_number());
    // Home Assistant's own start: the device is said again.
    let before = listener.all(topic).len();
    listener.say("homeassistant/status", "online");
    until("the device again", || (listener.all(topic).len() > before).then_some(()));
    // A broker that comes late has it kept.
    assert_eq!(Listener::new(&broker).hear(topic, |_| true), device);
}

#[test]
fn an_administrator_gives_orders_over_the_broker_and_nobody_else_does() {
    let broker = Broker::start("");
    let listener = Listener::new(&broker);
    let mut daemon = node(&broker, &[("mqtt.admins", "[\"ops\"]")]);
    let refused = listener.order("lamp", "drain", "1", json!({}));
    assert_eq!((&refused["code"], &refused["status"]), (&json!("forbidden"), &json!(403)), "{refused}");
    let unknown = listener.order("ops", "explode", "2", json!({}));
    assert!(unknown["message"].as_str().unwrap().contains("drain, reload and loglevel"), "{unknown}");
    let level = listener.order("ops", "loglevel", "3", json!({"level": "trace"}));
    assert_eq!((&level["type"], &level["order"]), (&json!("result"), &json!("loglevel")), "{level}");
    let bad = listener.order("ops", "loglevel", "4", json!({"level": "loud"}));
    assert_eq!(bad["type"], "error", "{bad}");
    daemon.home.configure(&[
        ("mqtt.url", &format!("{:?}", broker.url())),
        ("mqtt.admins", "[\"ops\"]"),
        ("queue.waiting_max", "7"),
    ]);
    let reload = listener.order("ops", "reload", "5", json!({}));
    assert_eq!(reload["changed"], json!(["queue.waiting_max"]), "{reload}");
    let event = listener.hear("moed/v1/node/n1/event", |event| event["event"] == "reloaded");
    assert_eq!(event["changed"], json!(["queue.waiting_max"]));
    let drain = listener.order("ops", "drain", "6", json!({}));
    assert_eq!(drain["type"], "result", "{drain}");
    assert!(daemon.wait().success());
    assert!(daemon.log().contains("mqtt:ops"));
}

#[test]
fn without_administrators_no_order_is_even_heard() {
    let broker = Broker::start("");
    let listener = Listener::new(&broker);
    let daemon = node(&broker, &[]);
    listener.say("moed/v1/node/n1/control/ops/drain", json!({"v": 1, "id": "1"}).to_string());
    // A question asked after it is answered, so it was not obeyed and nobody was told anything.
    listener.say("moed/v1/node/n1/c/ops/request", json!({"v": 1, "id": "q", "prompt": "hi"}).to_string());
    listener.hear("moed/v1/c/ops/r/q", |answer| answer["type"] == "result");
    assert!(listener.all("moed/v1/c/ops/r/1").is_empty());
    assert!(daemon.metric("moed_mqtt_connected") > 0.5);
}
