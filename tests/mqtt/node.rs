//! The node on its broker: what it says of itself, what it refuses, which protocol it speaks.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rustix::process::Signal;
use serde_json::json;

use crate::broker::Broker;
use crate::harness::until;
use crate::peer::{ALPHABET, Peer, REQUEST, brake, daemon, long, occupy, release};

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
    brake(&daemon);
    occupy(&peer, 10);
    peer.request("full", &long());
    let refused = peer.answer("full");
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("queue_full"), &json!(true)));
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    release(&daemon);
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
    let broker = Broker::start("log_type all");
    let settings = [("mqtt.version", "\"3.1.1\""), ("mqtt.payload_max", "\"4KiB\""), ("mqtt.pool", "\"house\"")];
    let mut daemon = daemon(&broker, &settings);
    let peer = Peer::new(&broker);
    until("its share of the pool", || broker.log().contains("Received SUBSCRIBE from moed-n1.pool").then_some(()));
    peer.send("moed/v1/pool/house/c/lamp/request", json!({"v": 1, "id": "p4", "prompt": "hi"}).to_string());
    assert_eq!(peer.answer("p4")["text"], ALPHABET);
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
fn a_question_over_the_broker_finds_the_node_by_its_card() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let request = json!({"prompt": "hi", "stream": true});
    let ask = moed::transport::mqtt::ask::Ask {
        url: broker.url(),
        version: "5".to_owned(),
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
