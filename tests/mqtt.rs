//! The broker, with a real Mosquitto, the real binary and the tiny model: what is promised, whatever dies in between.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::Broker;
use harness::{Home, TestDaemon, until};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{Client, Event, MqttOptions};
use rustix::process::Signal;
use serde_json::{Value, json};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";
const REQUEST: &str = "moed/v1/node/n1/c/lamp/request";

/// A message as a peer got it.
#[derive(Clone, Debug)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
    properties: PublishProperties,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.properties.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    subscribed: usize,
    acked: usize,
}

/// An MQTT 5 client that remembers all it hears.
struct Peer {
    client: Client,
    heard: Arc<Mutex<Heard>>,
}

impl Peer {
    /// Connects and listens to everything that is said to `lamp`, and to the node's own topics.
    fn new(broker: &Broker) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut options = MqttOptions::new(format!("peer-{number}"), "127.0.0.1", broker.port);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(3600));
        options.set_max_packet_size(Some(4 << 20));
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, mut connection) = Client::new(options, 256);
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

    fn messages(&self, topic: &str) -> Vec<Message> {
        self.heard.lock().unwrap().messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    fn send(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.into()).unwrap();
    }

    fn send_with(&self, topic: &str, payload: impl Into<Vec<u8>>, properties: PublishProperties) {
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload.into(), properties).unwrap();
    }

    /// Sends a request of `lamp` with this id.
    fn request(&self, id: &str, more: &Value) {
        let mut request = json!({"v": 1, "id": id, "prompt": "hi"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(REQUEST, request.to_string());
    }

    fn verb(&self, verb: &str, id: &str) {
        self.send(&format!("moed/v1/node/n1/c/lamp/{verb}"), json!({"v": 1, "id": id}).to_string());
    }

    /// All that is said about an id on its default topic, of this type.
    fn said(&self, id: &str, kind: &str) -> Vec<Value> {
        let all = self.messages(&format!("moed/v1/c/lamp/r/{id}"));
        all.iter().map(Message::json).filter(|value| value["type"] == kind).collect()
    }

    /// The first result or error about an id.
    fn answer(&self, id: &str) -> Value {
        self.answers(id, 1).remove(0)
    }

    /// Waits for this many results and errors about an id.
    fn answers(&self, id: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} answers to {id}"), || {
            let all = self.messages(&format!("moed/v1/c/lamp/r/{id}"));
            let ends = |value: &Value| value["type"] == "result" || value["type"] == "error";
            let ended: Vec<Value> = all.iter().map(Message::json).filter(ends).collect();
            (ended.len() >= count).then_some(ended)
        })
    }

    /// A question asked and answered: whatever was on its way before it has arrived.
    fn catch_up(&self, id: &str) {
        self.request(id, &json!({}));
        self.answer(id);
    }

    /// Messages of ours that the broker has acknowledged.
    fn acked(&self) -> usize {
        self.heard.lock().unwrap().acked
    }

    fn available(&self) -> Option<String> {
        let last = self.messages("moed/v1/node/n1/available").pop()?;
        Some(String::from_utf8(last.payload).unwrap())
    }
}

fn daemon(broker: &Broker, settings: &[(&str, &str)]) -> TestDaemon {
    let url = format!("{:?}", broker.url());
    let mut all = vec![("mqtt.url", url.as_str())];
    all.extend_from_slice(settings);
    let home = Home::new();
    home.configure(&all);
    let daemon = TestDaemon::start_in(home, &[]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

/// Long sampled answers, so that the engine has something to do and every seed says something else.
fn long() -> Value {
    json!({"params": {"max_tokens": 400, "ignore_eos": true, "temperature": 1.5}})
}

/// Answers that take so long that a test can come between.
fn very_long() -> Value {
    json!({"params": {"max_tokens": 8000, "ignore_eos": true, "temperature": 1.5}, "stream": true, "ack": true})
}

/// Fills the one slot and the line before it with work of another client.
fn occupy(peer: &Peer, jobs: usize) {
    for number in 0..jobs {
        let mut request = very_long();
        request["id"] = format!("busy{number}").into();
        request["prompt"] = "hi".into();
        peer.send("moed/v1/node/n1/c/other/request", request.to_string());
    }
}

#[test]
fn a_v5_request_is_answered_on_its_response_topic_with_its_correlation_data() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let properties = PublishProperties {
        response_topic: Some("moed/v1/c/lamp/inbox/deep".to_owned()),
        correlation_data: Some(vec![0, 159, 255].into()),
        content_type: Some("application/json".to_owned()),
        ..PublishProperties::default()
    };
    peer.send_with(REQUEST, json!({"v": 1, "id": "q1", "prompt": "hi"}).to_string(), properties);
    let message = until("the answer", || peer.messages("moed/v1/c/lamp/inbox/deep").pop());
    assert_eq!(message.properties.correlation_data.as_deref(), Some([0, 159, 255].as_slice()));
    assert_eq!(message.properties.content_type.as_deref(), Some("application/json"));
    assert!(message.properties.message_expiry_interval.unwrap() > 86_000, "as long as the journal keeps it");
    assert_eq!((message.label("moed-type"), message.label("moed-id")), (Some("result"), Some("q1")));
    assert_eq!(message.qos, QoS::AtLeastOnce);
    let result = message.json();
    assert_eq!(result["text"], ALPHABET);
    assert_eq!((&result["finish"], &result["model"], &result["node"]), (&json!("stop"), &json!("tiny"), &json!("n1")));
    assert_eq!(result["usage"], json!({"prompt_tokens": 21, "completion_tokens": 32, "total_tokens": 53}));
    assert_eq!((&result["attempt"], &result["repeat"], &result["v"]), (&json!(1), &json!(false), &json!(1)));
    assert!(result["timing"]["total_ms"].is_u64());
}

#[test]
fn a_3_1_1_client_with_nothing_but_mosquittos_tools_is_answered() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let port = broker.port.to_string();
    // `-E` ends once the subscription is there; with a session of its own the answer waits for the second call.
    let sub = broker::find("mosquitto_sub").unwrap();
    let session =
        ["-h", "127.0.0.1", "-p", &port, "-V", "311", "-i", "esp", "-c", "-q", "1", "-t", "moed/v1/c/esp/r/7"];
    assert!(Command::new(&sub).args(session).arg("-E").status().unwrap().success());
    let published = Command::new(broker::find("mosquitto_pub").unwrap())
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "311", "-q", "1", "-t", "moed/v1/node/n1/c/esp/request"])
        .args(["-m", r#"{"v":1,"id":"7","prompt":"hi","cid":"abc"}"#])
        .status()
        .unwrap();
    assert!(published.success());
    let answer = Command::new(&sub).args(session).args(["-C", "1", "-W", "30"]).output().unwrap();
    let result: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((&result["text"], &result["cid"]), (&json!(ALPHABET), &json!("abc")));
}

#[test]
fn mosquitto_rr_asks_a_bare_question_and_prints_the_answer() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let output = Command::new(broker::find("mosquitto_rr").unwrap())
        .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-V", "5", "-q", "1", "-W", "30"])
        .args(["-t", "moed/v1/node/n1/c/me/request", "-e", "moed/v1/c/me/answer", "-m", "hi"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["text"], ALPHABET);
    assert_eq!(result["id"].as_str().unwrap().len(), 32, "a hash stands for the id that was not given");
}

#[test]
fn a_stream_tells_the_text_in_order_before_the_whole_result() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = long();
    request["stream"] = true.into();
    request["ack"] = true.into();
    peer.request("s1", &request);
    let result = peer.answer("s1");
    assert_eq!(result["finish"], "length");
    let deltas = until("the deltas", || Some(peer.said("s1", "delta")).filter(|deltas| !deltas.is_empty()));
    let told: String = deltas.iter().map(|delta| delta["text"].as_str().unwrap()).collect();
    assert!(result["text"].as_str().unwrap().starts_with(&told) && !told.is_empty());
    for (seq, delta) in deltas.iter().enumerate() {
        assert_eq!((&delta["seq"], &delta["attempt"]), (&json!(seq), &json!(1)));
    }
    let accepted = peer.said("s1", "accepted");
    assert_eq!((accepted.len(), &accepted[0]["queue_pos"]), (1, &json!(0)));
    let all = peer.messages("moed/v1/c/lamp/r/s1");
    assert!(
        all.iter()
            .filter(|message| message.label("moed-type") == Some("delta"))
            .all(|delta| delta.qos == QoS::AtMostOnce)
    );
}

#[test]
fn a_repeated_request_gets_the_same_text_and_another_body_a_conflict() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    peer.request("r1", &long());
    let first = peer.answer("r1");
    assert_eq!(first["repeat"], false);
    let mut again = long();
    again["priority"] = "alarm".into();
    again["cid"] = "second".into();
    peer.request("r1", &again);
    let second = peer.answers("r1", 2).remove(1);
    assert_eq!((&second["text"], &second["repeat"], &second["cid"]), (&first["text"], &json!(true), &json!("second")));
    assert_eq!(second["timing"], first["timing"], "nothing was computed again");
    peer.request("r1", &json!({}));
    let third = peer.answers("r1", 3).remove(2);
    assert_eq!(
        (&third["code"], &third["status"], &third["retryable"]),
        (&json!("conflict"), &json!(409), &json!(false))
    );

    daemon.restart(&[]);
    peer.request("r1", &again);
    assert_eq!(peer.answers("r1", 4)[3]["text"], first["text"], "also after a restart");
    peer.verb("get", "r1");
    assert_eq!(peer.answers("r1", 5)[4]["text"], first["text"]);
    peer.verb("ack", "r1");
    peer.request("r1", &long());
    let fresh = peer.answers("r1", 6).remove(5);
    assert_eq!(fresh["repeat"], false, "after `ack` the id is free");
    peer.verb("get", "nobody");
    assert_eq!(peer.answer("nobody")["code"], "not_found");
}

#[test]
fn what_cannot_be_served_is_answered_acknowledged_and_never_comes_again() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("mqtt.payload_max", "\"4KiB\""), ("engine.context_max", "512")]);
    let peer = Peer::new(&broker);
    peer.send(REQUEST, "{\"id\": broken");
    assert_eq!(peer.answer("-")["code"], "invalid_json");
    peer.send(REQUEST, vec![b'{'; 5000]);
    assert_eq!(peer.answers("-", 2)[1]["code"], "too_large");
    peer.request("big", &json!({"prompt": "x".repeat(5000)}));
    let refused = peer.answer("big");
    assert!(refused["message"].as_str().unwrap().contains("limit 4096"), "{refused}");
    peer.request("long", &json!({"prompt": "x".repeat(3000)}));
    assert_eq!(peer.answer("long")["code"], "context_length_exceeded");
    peer.request("typo", &json!({"params": {"temprature": 1}}));
    assert!(peer.answer("typo")["message"].as_str().unwrap().contains("params.temprature"));
    peer.request("spy", &json!({"reply_to": "homeassistant/status"}));
    assert_eq!((&peer.answer("spy")["code"], &peer.answer("spy")["status"]), (&json!("forbidden"), &json!(403)));
    let image = PublishProperties { content_type: Some("image/png".to_owned()), ..PublishProperties::default() };
    peer.send_with(REQUEST, "x", image);
    assert_eq!(peer.answers("-", 3)[2]["code"], "unsupported_media_type");

    // Acknowledgements leave in order: with this answer, those of all before have left.
    peer.catch_up("before");
    daemon.restart(&[]);
    peer.catch_up("after");
    assert_eq!(peer.answers("-", 3).len(), 3);
    assert_eq!(peer.answers("big", 1).len(), 1);
}

#[test]
fn a_retained_request_is_refused_and_not_computed_at_any_start() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let request = json!({"v": 1, "id": "stuck", "prompt": "hi"}).to_string();
    peer.client.publish(REQUEST, QoS::AtLeastOnce, true, request).unwrap();
    assert_eq!(peer.answer("stuck")["code"], "invalid_request");
    peer.catch_up("before");
    daemon.restart(&[]);
    peer.catch_up("after");
    assert!(peer.said("stuck", "result").is_empty());
    assert_eq!(peer.said("stuck", "error").len(), 1, "on 5.0 it is not even sent again");
}

#[test]
fn a_cancelled_request_ends_as_far_as_it_had_come() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);

    // Before it came: the cancel travels on a topic of its own and may overtake.
    peer.verb("cancel", "early");
    peer.catch_up("between");
    peer.request("early", &json!({}));
    assert_eq!(peer.answer("early")["code"], "cancelled");

    // While it runs. The daemon stands still while the cancel is on its way, so that it is not too late.
    peer.request("running", &very_long());
    until("the first delta", || peer.said("running", "delta").pop());
    daemon.signal(Signal::STOP);
    let acked = peer.acked();
    peer.verb("cancel", "running");
    until("the broker has the cancel", || (peer.acked() > acked).then_some(()));
    daemon.signal(Signal::CONT);
    let ended = peer.answer("running");
    assert_eq!((&ended["type"], &ended["finish"]), (&json!("result"), &json!("cancelled")));
    let told: String = peer.said("running", "delta").iter().map(|delta| delta["text"].as_str().unwrap()).collect();
    assert!(ended["text"].as_str().unwrap().starts_with(&told) || told.starts_with(ended["text"].as_str().unwrap()));

    // While it waits.
    occupy(&peer, 20);
    peer.request("waiting", &json!({"priority": "background", "ack": true}));
    until("it is accepted", || peer.said("waiting", "accepted").pop());
    peer.verb("cancel", "waiting");
    let ended = peer.answer("waiting");
    assert_eq!((&ended["code"], &ended["status"]), (&json!("cancelled"), &json!(499)));
    peer.request("waiting", &json!({"priority": "background"}));
    assert_eq!(peer.answers("waiting", 2)[1]["repeat"], true, "stored like any answer");
}

#[test]
fn a_waiting_request_ends_when_its_deadline_passes() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    occupy(&peer, 40);
    peer.request("late", &json!({"deadline_ms": 50, "priority": "background"}));
    assert_eq!(peer.answer("late")["code"], "deadline_exceeded");
    // Its turn had not come: more urgent ones still wait.
    assert!(daemon.metric("moed_requests_waiting{priority=\"interactive\"}") > 0.5);
}

#[test]
fn a_message_expiry_is_the_deadline() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    occupy(&peer, 40);
    let expiry = PublishProperties { message_expiry_interval: Some(1), ..PublishProperties::default() };
    let request = json!({"v": 1, "id": "late", "prompt": "hi", "priority": "background"});
    peer.send_with(REQUEST, request.to_string(), expiry);
    assert_eq!(peer.answer("late")["code"], "deadline_exceeded");
}

#[test]
fn a_running_request_ends_with_what_it_has_when_its_deadline_passes() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = very_long();
    request["deadline_ms"] = 60.into();
    peer.request("cut", &request);
    let result = peer.answer("cut");
    assert_eq!((&result["type"], &result["finish"]), (&json!("result"), &json!("deadline")), "{result}");
    assert!(result["usage"]["completion_tokens"].as_u64().unwrap() < 8000);
}

#[test]
fn a_request_at_qos_0_is_served_like_any_other() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let request = json!({"id": "z", "prompt": "hi"}).to_string();
    peer.client.publish(REQUEST, QoS::AtMostOnce, false, request).unwrap();
    assert_eq!(peer.answer("z")["text"], ALPHABET);
}

#[test]
fn a_kill_at_any_point_leaves_exactly_one_answer() {
    // The process is killed by SIGKILL between two steps of one answer, and started again. The request asks for
    // sampling without a seed: only the journal's seed can make the same text twice.
    for point in ["after-journal", "after-puback", "after-result-row", "after-publish"] {
        let broker = Broker::start("");
        let mut daemon = daemon(&broker, &[]);
        let peer = Peer::new(&broker);
        daemon.restart(&[("MOED_FAULT", point)]);
        until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
        peer.request("k1", &long());
        assert!(!daemon.wait().success(), "{point}");
        daemon.restart(&[]);
        let answer = peer.answer("k1");
        assert_eq!(answer["type"], "result", "{point}: {answer}");
        peer.request("k1", &long());
        until("the repeated copy", || {
            peer.said("k1", "result").iter().any(|copy| copy["repeat"] == true).then_some(())
        });
        peer.catch_up("after");
        let copies = peer.answers("k1", 2);
        let texts: HashSet<&str> = copies.iter().map(|copy| copy["text"].as_str().unwrap()).collect();
        assert_eq!(texts.len(), 1, "{point}: copies with different texts");
        assert!(copies.iter().filter(|copy| copy["repeat"] == false).count() <= 1, "{point}: two first answers");
    }
}

#[test]
fn a_kill_in_the_middle_of_an_answer_makes_a_second_attempt_with_the_same_text() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = very_long();
    request["reproducible"] = true.into();
    peer.request("m1", &request);
    until("the first delta", || peer.said("m1", "delta").pop());
    daemon.kill();
    assert!(peer.said("m1", "result").is_empty(), "the answer was faster than the kill");
    until("the will", || (peer.available().as_deref() == Some("offline")).then_some(()));
    daemon.restart(&[]);
    let result = peer.answer("m1");
    assert_eq!(
        (&result["attempt"], &result["repeat"], &result["finish"]),
        (&json!(2), &json!(false), &json!("length"))
    );
    let text = result["text"].as_str().unwrap();
    for attempt in [1, 2] {
        let deltas = peer.said("m1", "delta");
        let of_it = deltas.iter().filter(|delta| delta["attempt"] == attempt);
        // The second attempt may begin before the link is up; from the first gap on, pieces are out of place.
        let whole = of_it.enumerate().take_while(|(seq, delta)| delta["seq"] == *seq).map(|(_, delta)| delta);
        let told: String = whole.map(|delta| delta["text"].as_str().unwrap()).collect();
        assert!(text.starts_with(&told), "attempt {attempt} told `{told}` of `{text}`");
    }
    let attempts: HashSet<u64> =
        peer.said("m1", "delta").iter().filter_map(|delta| delta["attempt"].as_u64()).collect();
    assert_eq!(attempts, HashSet::from([1, 2]));
    peer.catch_up("after");
    assert_eq!(peer.said("m1", "result").len(), 1);
}

#[test]
fn many_requests_through_two_kills_get_one_text_each() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "2")]);
    let peer = Peer::new(&broker);
    let ids: Vec<String> = (0..30).map(|number| format!("w{number}")).collect();
    for id in &ids {
        peer.request(id, &long());
    }
    let answered = || ids.iter().filter(|id| !peer.said(id, "result").is_empty()).count();
    for count in [3, 11] {
        until("some answers", || (answered() >= count).then_some(()));
        daemon.restart(&[]);
    }
    for id in &ids {
        peer.answer(id);
        peer.request(id, &long());
    }
    for id in &ids {
        until("the repeated copy", || peer.said(id, "result").iter().any(|copy| copy["repeat"] == true).then_some(()));
    }
    peer.catch_up("after");
    for id in &ids {
        let copies = peer.said(id, "result");
        let texts: HashSet<&str> = copies.iter().map(|copy| copy["text"].as_str().unwrap()).collect();
        assert_eq!(texts.len(), 1, "{id}");
        assert!(copies.iter().filter(|copy| copy["repeat"] == false).count() <= 1, "{id}: two first answers");
        assert!(peer.said(id, "error").is_empty(), "{id}");
    }
}

#[test]
fn a_request_that_kills_the_process_three_times_is_answered_with_internal() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    daemon.restart(&[("MOED_FAULT", "after-attempt")]);
    peer.request("poison", &long());
    daemon.wait();
    for _ in 0..2 {
        assert!(!daemon.restart_to_its_end(&[("MOED_FAULT", "after-attempt")]).success());
    }
    daemon.restart(&[("MOED_FAULT", "after-attempt")]);
    let answer = peer.answer("poison");
    assert_eq!((&answer["code"], &answer["status"]), (&json!("internal"), &json!(500)));
    assert!(answer["message"].as_str().unwrap().contains("died 3 times"), "{answer}");
}

#[test]
fn answers_survive_a_broker_that_restarts_and_one_that_forgets() {
    let mut broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    for number in 0..10 {
        peer.request(&format!("b{number}"), &long());
    }
    peer.answer("b0");
    broker.stop();
    until("the daemon notices", || (daemon.metric("moed_mqtt_connected") < 0.5).then_some(()));
    broker.again();
    for number in 0..10 {
        peer.answer(&format!("b{number}"));
    }
    until("the link is back", || (daemon.metric("moed_mqtt_reconnects_total") > 0.5).then_some(()));

    // Sessions and queued messages are gone; the node subscribes again and says again what may have been lost.
    broker.kill();
    broker.lose_memory();
    broker.again();
    let peer = Peer::new(&broker);
    until("the birth", || (peer.available().as_deref() == Some("online")).then_some(()));
    until("the link", || (daemon.metric("moed_mqtt_reconnects_total") > 1.5).then_some(()));
    peer.catch_up("after");
}

#[test]
fn a_broker_that_stands_still_is_left_and_nothing_is_lost_or_answered_twice() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("queue.waiting_max", "1000")]);
    let peer = Peer::new(&broker);
    let longer = json!({"params": {"max_tokens": 2000, "ignore_eos": true, "temperature": 1.5}});
    for number in 0..100 {
        peer.request(&format!("f{number}"), &longer);
    }
    // The peer's own outbox is not what is tested: all have come, most are not answered.
    let rows = |state: &str| daemon.metric(&format!("moed_journal_rows{{state=\"{state}\"}}"));
    until("all to be accepted", || (rows("pending") + rows("done") > 99.5).then_some(()));
    assert!(rows("pending") > 10.0, "the broker must stand still while answers are made");
    broker.freeze(true);
    until("the daemon gives the line up", || (daemon.metric("moed_mqtt_connected") < 0.5).then_some(()));
    broker.freeze(false);
    for number in 0..100 {
        let id = format!("f{number}");
        let texts: HashSet<String> = peer.answers(&id, 1).iter().map(|answer| answer["text"].to_string()).collect();
        assert_eq!(texts.len(), 1, "{id}");
    }
    peer.catch_up("after");
    for number in 0..100 {
        // What was sent and not acknowledged is sent again; that is a copy, not a second answer.
        let texts: HashSet<String> =
            peer.said(&format!("f{number}"), "result").iter().map(|answer| answer["text"].to_string()).collect();
        assert_eq!(texts.len(), 1);
    }
}

#[test]
fn a_node_says_when_it_comes_and_goes() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let is = |state: &str| until(state, || (peer.available().as_deref() == Some(state)).then_some(()));
    is("online");
    let card = until("the card", || peer.messages("moed/v1/node/n1/info").pop());
    assert!(card.retain, "a latecomer finds it");
    let card = card.json();
    assert_eq!((&card["node"], &card["model"], &card["state"]), (&json!("n1"), &json!("tiny"), &json!("ready")));
    assert_eq!(card["limits"]["payload_max"], 256 << 10);

    // Somebody else's `offline` on our topic does not stay.
    peer.client.publish("moed/v1/node/n1/available", QoS::AtLeastOnce, true, "offline").unwrap();
    until("the correction", || {
        let said = peer.messages("moed/v1/node/n1/available");
        let texts: Vec<_> = said.iter().map(|message| message.payload.as_slice()).collect();
        texts.ends_with(&[b"offline".as_slice(), b"online".as_slice()]).then_some(())
    });
    daemon.kill();
    is("offline");
    daemon.restart(&[]);
    is("online");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    is("offline");
}

#[test]
fn what_a_stop_leaves_unfinished_is_answered_after_the_next_start() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "1"), ("queue.drain_timeout", "\"1ms\"")]);
    let peer = Peer::new(&broker);
    for number in 0..6 {
        peer.request(&format!("d{number}"), &very_long());
    }
    for number in 0..6 {
        let id = format!("d{number}");
        until("it is accepted", || peer.said(&id, "accepted").pop());
    }
    daemon.signal(Signal::TERM);
    daemon.wait();
    assert!(peer.said("d5", "result").is_empty(), "the stop came too late to leave anything");
    peer.request("meanwhile", &json!({}));
    daemon.restart(&[]);
    for number in 0..6 {
        let answers = peer.answers(&format!("d{number}"), 1);
        assert_eq!(answers[0]["finish"], "length", "{}", answers[0]);
    }
    assert_eq!(peer.answer("meanwhile")["text"], ALPHABET, "the broker kept it");
    peer.catch_up("after");
    for number in 0..6 {
        let first = peer.said(&format!("d{number}"), "result").iter().filter(|copy| copy["repeat"] == false).count();
        assert_eq!(first, 1, "d{number}");
    }
}

#[test]
fn a_drain_finishes_what_runs_and_refuses_what_comes() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    // Seconds of work, so that the drain lasts.
    let ids: Vec<String> = (0..6).map(|number| format!("d{number}")).collect();
    for id in &ids {
        peer.request(id, &very_long());
    }
    for id in &ids {
        until("it is accepted", || peer.said(id, "accepted").pop());
    }
    daemon.signal(Signal::TERM);
    until("the card", || {
        peer.messages("moed/v1/node/n1/info").iter().any(|card| card.json()["state"] == "draining").then_some(())
    });
    peer.request("late", &json!({}));
    let refused = peer.answer("late");
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("unavailable"), &json!(true)));
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    for id in &ids {
        assert_eq!(peer.answer(id)["finish"], "length");
    }
    assert!(daemon.wait().success());
    until("the goodbye", || (peer.available().as_deref() == Some("offline")).then_some(()));
    daemon.restart(&[]);
    peer.request("late", &json!({}));
    assert_eq!(peer.answers("late", 2)[1]["text"], ALPHABET, "nothing was kept of the refused one");
}

#[test]
fn a_stop_while_the_broker_is_away_ends_soon_and_keeps_the_answers() {
    let mut broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = very_long();
    request["stream"] = false.into();
    peer.request("kept", &request);
    until("it is accepted", || peer.said("kept", "accepted").pop());
    broker.stop();
    until("the answer is on disk", || (daemon.metric("moed_journal_rows{state=\"done\"}") > 0.5).then_some(()));
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    broker.again();
    daemon.restart(&[]);
    assert_eq!(peer.answer("kept")["finish"], "length");
}

#[test]
fn a_burst_larger_than_every_window_is_answered_once_each() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[("queue.waiting_max", "1000")]);
    let peer = Peer::new(&broker);
    for number in 0..200 {
        peer.request(&format!("n{number}"), &json!({"params": {"max_tokens": 3}}));
    }
    for number in 0..200 {
        assert_eq!(peer.answer(&format!("n{number}"))["text"], "abc");
    }
    peer.catch_up("after");
    for number in 0..200 {
        assert_eq!(peer.answers(&format!("n{number}"), 1).len(), 1);
    }
}

#[test]
fn a_full_queue_says_when_to_come_back_and_keeps_nothing() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1"), ("queue.waiting_max", "2")]);
    let peer = Peer::new(&broker);
    occupy(&peer, 10);
    peer.request("full", &long());
    let refused = peer.answer("full");
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("queue_full"), &json!(true)));
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    until("the line is short again", || (daemon.metric("moed_requests_running") < 0.5).then_some(()));
    peer.request("full", &long());
    assert_eq!(peer.answers("full", 2)[1]["finish"], "length", "the same id may come again");
}

#[test]
fn an_answer_over_the_brokers_limit_is_cut_and_the_link_lives_on() {
    let broker = Broker::start("max_packet_size 700");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    peer.request("cut", &json!({"params": {"max_tokens": 450, "ignore_eos": true, "stop": ["never"]}}));
    let answer = peer.answer("cut");
    assert_eq!(answer["finish"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 450);
    let text = answer["text"].as_str().unwrap();
    assert!(text.starts_with(ALPHABET) && text.len() < 440, "{} bytes", text.len());
    peer.catch_up("after");
}

#[test]
fn a_node_on_a_3_1_1_link_serves_the_same_requests() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("mqtt.version", "\"3.1.1\""), ("mqtt.payload_max", "\"4KiB\"")]);
    let peer = Peer::new(&broker);
    peer.request("v4", &json!({"stream": true, "cid": "c"}));
    let result = peer.answer("v4");
    assert_eq!((&result["text"], &result["cid"]), (&json!(ALPHABET), &json!("c")));
    // No packet limit can be announced on 3.1.1: even this arrives, is answered, and does not come again.
    peer.send(REQUEST, vec![b'x'; 3 << 20]);
    assert_eq!(peer.answer("-")["code"], "too_large");
    peer.send(REQUEST, "hi");
    until("a bare prompt's answer", || {
        let heard = peer.heard.lock().unwrap();
        heard.messages.iter().any(|message| message.topic.len() == "moed/v1/c/lamp/r/".len() + 32).then_some(())
    });
    daemon.restart(&[]);
    peer.request("v4", &json!({"stream": true}));
    assert_eq!(peer.answers("v4", 2)[1]["repeat"], true);
    assert_eq!(peer.answers("-", 1).len(), 1);
    daemon.kill();
    until("the will", || (peer.available().as_deref() == Some("offline")).then_some(()));
}

#[test]
fn a_broker_that_comes_late_finds_the_node_waiting() {
    let mut broker = Broker::start("");
    broker.stop();
    let url = format!("{:?}", broker.url());
    let home = Home::new();
    home.configure(&[("mqtt.url", &url)]);
    let _daemon = TestDaemon::start_in(home, &[]);
    broker.again();
    let peer = Peer::new(&broker);
    // A request before the first subscription would find nobody, and no broker keeps it.
    until("the birth", || (peer.available().as_deref() == Some("online")).then_some(()));
    peer.catch_up("late");
}

#[test]
fn a_question_over_the_broker_finds_the_node_by_its_card() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let request = json!({"prompt": "hi", "stream": true});
    let ask = moed::transport::mqtt::ask::Ask {
        url: broker.url(),
        root: "moed/v1".to_owned(),
        access: moed::transport::mqtt::access::Access::default(),
        whom: moed::transport::mqtt::ask::Whom::Anybody,
        client: None,
        request: request.as_object().unwrap().clone(),
        patience: Duration::from_secs(30),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut told = String::new();
    let result = runtime.block_on(moed::transport::mqtt::ask::ask(ask.clone(), |text| told.push_str(text))).unwrap();
    assert_eq!((result["text"].as_str(), told.as_str()), (Some(ALPHABET), ALPHABET));
    let bad = moed::transport::mqtt::ask::Ask { request: json!({"prompt": 1}).as_object().unwrap().clone(), ..ask };
    let fault = runtime.block_on(moed::transport::mqtt::ask::ask(bad, |_| ())).unwrap_err();
    assert_eq!(fault.code, moed::fault::Code::InvalidRequest);
}
