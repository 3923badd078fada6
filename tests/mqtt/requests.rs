//! Requests in every form, and how each ends.

use std::process::Command;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::{self, Broker};
use crate::harness::{Ran, until};
use crate::peer::{ALPHABET, Peer, REQUEST, brake, daemon, long, occupy, very_long};

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
    assert_eq!(message.properties.payload_format_indicator, Some(1), "text");
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
    assert_eq!(Ran::of(Command::new(&sub).args(session).arg("-E")).code, Some(0));
    let mut publish = Command::new(broker::find("mosquitto_pub").unwrap());
    publish
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "311", "-q", "1", "-t", "moed/v1/node/n1/c/esp/request"])
        .args(["-m", r#"{"v":1,"id":"7","prompt":"hi","cid":"abc"}"#]);
    assert_eq!(Ran::of(&mut publish).code, Some(0));
    let answer = Ran::of(Command::new(&sub).args(session).args(["-C", "1", "-W", "30"]));
    let result: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!((&result["text"], &result["cid"]), (&json!(ALPHABET), &json!("abc")));
}

#[test]
fn mosquitto_rr_asks_a_bare_question_and_prints_the_answer() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let mut ask = Command::new(broker::find("mosquitto_rr").unwrap());
    ask.args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-V", "5", "-q", "1", "-W", "30"]).args([
        "-t",
        "moed/v1/node/n1/c/me/request",
        "-e",
        "moed/v1/c/me/answer",
        "-m",
        "hi",
    ]);
    let answer = Ran::of(&mut ask);
    let result: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{}", answer.stderr));
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
    let text = PublishProperties { payload_format_indicator: Some(1), ..PublishProperties::default() };
    peer.send_with(REQUEST, vec![b'h', b'i', 0xff], text);
    let refused = &peer.answers("-", 4)[3];
    assert!(refused["message"].as_str().unwrap().contains("payload format indicator"), "{refused}");

    // Acknowledgements leave in order: with this answer, those of all before have left.
    peer.catch_up("before");
    daemon.restart(&[]);
    peer.catch_up("after");
    assert_eq!(peer.answers("-", 4).len(), 4);
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

    brake(&daemon);
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
    brake(&daemon);
    occupy(&peer, 40);
    peer.request("late", &json!({"deadline_ms": 50, "priority": "background"}));
    assert_eq!(peer.answer("late")["code"], "deadline_exceeded");
    // Its turn had not come: more urgent ones still wait.
    assert!(daemon.metric("moed_requests_waiting{priority=\"interactive\"}") > 0.5);
}

#[test]
fn a_message_expiry_is_the_deadline() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    brake(&daemon);
    occupy(&peer, 40);
    let expiry = PublishProperties { message_expiry_interval: Some(1), ..PublishProperties::default() };
    let request = json!({"v": 1, "id": "late", "prompt": "hi", "priority": "background"});
    peer.send_with(REQUEST, request.to_string(), expiry);
    assert_eq!(peer.answer("late")["code"], "deadline_exceeded");
}

#[test]
fn a_running_request_ends_with_what_it_has_when_its_deadline_passes() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    brake(&daemon);
    let mut request = very_long();
    request["deadline_ms"] = 2000.into();
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
