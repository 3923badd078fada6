//! Where answers may go, what they carry, and what becomes of one that is asked for.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::harness::until;
use crate::peer::{ALPHABET, Peer, REQUEST, brake, daemon, release, very_long};

#[test]
fn an_answer_goes_to_a_response_topic_of_its_client_or_of_the_operators_list_and_nowhere_else() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[("mqtt.reply_topics", "[\"site/answers/#\"]")]);
    let peer = Peer::new(&broker);
    peer.client.subscribe("site/#", QoS::AtLeastOnce).unwrap();
    until("the subscription", || (peer.heard.lock().unwrap().subscribed == 4).then_some(()));
    let ask = |id: &str, topic: &str| {
        let properties = PublishProperties { response_topic: Some(topic.to_owned()), ..PublishProperties::default() };
        peer.send_with(REQUEST, json!({"v": 1, "id": id, "prompt": "hi"}).to_string(), properties);
    };
    ask("listed", "site/answers/lamp");
    let answer = until("the answer", || peer.messages("site/answers/lamp").pop());
    assert_eq!((&answer.json()["text"], answer.label("moed-node")), (&json!(ALPHABET), Some("n1")));
    for (id, topic) in [("other", "site/orders"), ("node", "moed/v1/node/n1/available"), ("peer", "moed/v1/c/door/r/1")]
    {
        ask(id, topic);
        let refused = peer.answer(id);
        assert_eq!((&refused["code"], &refused["status"]), (&json!("forbidden"), &json!(403)), "{topic}");
    }
    assert!(peer.messages("site/orders").is_empty());
    assert_eq!(peer.available().as_deref(), Some("online"));
}

#[test]
fn a_call_of_a_tool_comes_whole_with_its_name_and_arguments() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let room = json!({"type": "object", "properties": {"room": {"enum": ["hall", "attic"]}}, "required": ["room"],
        "additionalProperties": false});
    let tools = json!([{"type": "function", "function": {"name": "light", "parameters": room, "strict": true}}]);
    peer.request("t1", &json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false}));
    let result = peer.answer("t1");
    assert_eq!((&result["type"], &result["finish"]), (&json!("result"), &json!("tool_calls")), "{result}");
    let calls = result["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["name"]), (1, &json!("light")), "{result}");
    assert!(["hall", "attic"].contains(&calls[0]["arguments"]["room"].as_str().unwrap()), "{result}");
    let form = json!({"type": "regex", "regex": "on|off"});
    peer.request("f1", &json!({"response_format": form}));
    assert!(["on", "off"].contains(&peer.answer("f1")["text"].as_str().unwrap()));
}

#[test]
fn a_journal_that_is_full_refuses_with_numbers_until_something_is_acknowledged() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[("journal.rows_max", "2")]);
    let peer = Peer::new(&broker);
    for id in ["a", "b"] {
        assert_eq!(peer.catch_up_with(id)["text"], ALPHABET);
    }
    let refused = peer.catch_up_with("c");
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("overloaded"), &json!(true)), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("2 rows, limit 2"), "{refused}");
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    peer.verb("ack", "a");
    peer.request("c", &json!({}));
    assert_eq!(peer.answers("c", 2)[1]["text"], ALPHABET);
}

#[test]
fn a_running_request_that_is_asked_for_is_said_to_be_accepted_and_its_receipt_comes_too_early() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    brake(&daemon);
    let mut request = very_long();
    request["ack"] = false.into();
    peer.request("g1", &request);
    until("the first delta", || peer.said("g1", "delta").pop());
    peer.verb("get", "g1");
    peer.verb("ack", "g1");
    let accepted: Vec<Value> = until("the word", || Some(peer.said("g1", "accepted")).filter(|said| !said.is_empty()));
    assert_eq!((accepted.len(), &accepted[0]["queue_pos"]), (1, &json!(0)));
    release(&daemon);
    assert_eq!(peer.answer("g1")["finish"], "length");
    peer.verb("get", "g1");
    assert_eq!(peer.answers("g1", 2)[1]["repeat"], true, "the answer is kept: the receipt came before it");
}
