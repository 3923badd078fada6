//! What one caller may have, over both ways in: who asks too much is told when to come again, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::cell::RefCell;
use std::sync::mpsc;
use std::time::Duration;

use broker::Broker;
use harness::client::{chat, say};
use harness::{Home, PATIENCE, TestDaemon, until};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::{Value, json};

/// A client of the broker that asks as anybody and hears every answer.
struct Asker {
    client: Client,
    heard: mpsc::Receiver<(String, Value)>,
    /// Heard and not asked for yet.
    kept: RefCell<Vec<(String, Value)>>,
}

impl Asker {
    fn new(broker: &Broker) -> Self {
        let mut options = MqttOptions::new("asker", "127.0.0.1", broker.port);
        options.set_keep_alive(Duration::from_mins(1));
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut connection) = Client::new(options, 64);
        client.subscribe("moed/v1/c/+/r/+", QoS::AtLeastOnce).unwrap();
        let (sender, heard) = mpsc::sync_channel(1024);
        let (ready, subscribed) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for event in connection.iter().map_while(Result::ok) {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => ready.send(()).unwrap(),
                    Event::Incoming(Packet::Publish(publish)) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        let payload = serde_json::from_slice(&publish.payload).unwrap();
                        if sender.send((topic, payload)).is_err() {
                            return;
                        }
                    }
                    _ => {}
                }
            }
        });
        subscribed.recv_timeout(PATIENCE).unwrap();
        Self { client, heard, kept: RefCell::default() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "called with a literal")]
    fn ask(&self, who: &str, id: &str, more: Value) {
        let mut request = json!({"v": 1, "id": id, "prompt": "hi"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let topic = format!("moed/v1/node/n1/c/{who}/request");
        self.client.publish(topic, QoS::AtLeastOnce, false, request.to_string()).unwrap();
    }

    /// The first message of this type to this client that was not taken yet.
    fn hear(&self, who: &str, kind: &str) -> Value {
        let prefix = format!("moed/v1/c/{who}/r/");
        let mut kept = self.kept.borrow_mut();
        let is = |(topic, payload): &(String, Value)| topic.starts_with(&prefix) && payload["type"] == kind;
        loop {
            if let Some(place) = kept.iter().position(is) {
                return kept.remove(place).1;
            }
            kept.push(self.heard.recv_timeout(PATIENCE).unwrap());
        }
    }

    /// Whether the answer to this is a result, and not a refusal.
    fn is_answered(&self, who: &str, id: &str) -> bool {
        self.ask(who, id, json!({}));
        loop {
            let (topic, payload) = self.heard.recv_timeout(PATIENCE).unwrap();
            if topic == format!("moed/v1/c/{who}/r/{id}") {
                return payload["type"] == "result";
            }
        }
    }
}

#[test]
fn a_user_of_the_socket_over_its_rate_is_told_when_to_come_again() {
    let user = rustix::process::geteuid().as_raw();
    let own = format!("quota.uid.{user}.requests_per_minute");
    let daemon = TestDaemon::start(&[(&own, "2"), ("quota.bytes_per_minute", "\"1KiB\"")]);
    for _ in 0..2 {
        assert_eq!(chat(&daemon.socket(), &say("hi", json!({}))).status, 200);
    }
    let reply = chat(&daemon.socket(), &say("hi", json!({})));
    assert_eq!((reply.status, reply.error().0.as_str()), (429, "quota_exceeded"), "{}", reply.text());
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((25..=31).contains(&after), "two a minute come back one every 30 s, not in {after} s");
    assert!((daemon.metric("moed_over_quota_total{bound=\"requests\"}") - 1.0).abs() < 0.1);
    assert!((daemon.metric("moed_refusals_total{reason=\"quota_exceeded\"}") - 1.0).abs() < 0.1);
    let reply = chat(&daemon.socket(), &say(&"x".repeat(2000), json!({})));
    assert_eq!((reply.status, reply.error().0.as_str()), (413, "too_large"), "{}", reply.text());
}

#[test]
fn a_group_has_bounds_for_each_of_its_members_and_what_is_said_of_the_user_comes_first() {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let home = Home::new();
    let of_group = format!("quota.gid.{group}.priority");
    home.configure(&[
        ("quota.priority", "\"alarm\""),
        (&of_group, "\"background\""),
        ("quota.gid.54321.concurrent", "1"),
    ]);
    let daemon = TestDaemon::start_in(home, &[]);
    let reply = chat(&daemon.socket(), &say("hi", json!({})));
    assert_eq!((reply.status, reply.error().0.as_str()), (403, "forbidden"), "{}", reply.text());
    assert!(reply.error().1.contains("`interactive`, its highest is `background`"), "{}", reply.text());
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({"priority": "background"}))).status, 200);

    let own = format!("quota.uid.{user}.priority");
    daemon.home.configure(&[(&of_group, "\"background\""), (&own, "\"interactive\"")]);
    daemon.signal(rustix::process::Signal::HUP);
    until("the user's own", || (chat(&daemon.socket(), &say("hi", json!({}))).status == 200).then_some(()));
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({"priority": "alarm"}))).status, 403);
}

#[test]
fn an_alarm_from_who_may_not_raise_one_is_refused_and_a_reload_allows_it() {
    let home = Home::new();
    home.configure(&[("quota.priority", "\"interactive\"")]);
    let daemon = TestDaemon::start_in(home, &[]);
    let alarm = say("hi", json!({"priority": "alarm"}));
    let reply = chat(&daemon.socket(), &alarm);
    assert_eq!((reply.status, reply.error().0.as_str()), (403, "forbidden"), "{}", reply.text());
    assert!(reply.error().1.contains("`alarm`, its highest is `interactive`"), "{}", reply.text());
    daemon.home.configure(&[]);
    daemon.signal(rustix::process::Signal::HUP);
    until("the alarm's turn", || (chat(&daemon.socket(), &alarm).status == 200).then_some(()));
}

#[test]
fn a_flood_of_one_client_is_refused_and_another_client_stands_behind_one_job_at_most() {
    let broker = Broker::start("");
    let home = Home::new();
    let url = format!("{:?}", broker.url());
    home.configure(&[
        ("mqtt.url", &url),
        ("engine.slots", "1"),
        ("quota.concurrent", "1"),
        ("quota.client.trusted.concurrent", "0"),
    ]);
    let daemon = TestDaemon::start_in(home, &[]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    let asker = Asker::new(&broker);
    let long = json!({"params": {"max_tokens": 8000, "ignore_eos": true, "temperature": 1.5}, "ack": true});
    for number in 0..30 {
        asker.ask("flood", &format!("f{number}"), long.clone());
    }
    let accepted = asker.hear("flood", "accepted");
    for _ in 0..29 {
        let error = asker.hear("flood", "error");
        assert_eq!((&error["code"], &error["status"]), (&json!("quota_exceeded"), &json!(429)), "{error}");
        assert!(error["retryable"] == true && error["retry_after_ms"].as_u64().unwrap() > 0, "{error}");
        assert_ne!(error["id"], accepted["id"]);
    }
    asker.ask("lamp", "1", json!({"ack": true}));
    assert!(asker.hear("lamp", "accepted")["queue_pos"].as_u64().unwrap() <= 1);
    // Who is named has bounds of its own.
    for id in ["1", "2", "3"] {
        asker.ask("trusted", id, json!({}));
    }
    let verb = json!({"v": 1, "id": accepted["id"]}).to_string();
    asker.client.publish("moed/v1/node/n1/c/flood/cancel", QoS::AtLeastOnce, false, verb).unwrap();
    for _ in 0..3 {
        asker.hear("trusted", "result");
    }
    // The place is free again.
    until("a place for the flood", || asker.is_answered("flood", "again").then_some(()));
}
