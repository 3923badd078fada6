//! Those who ask: one that does not read, one that was away, one that changes its mind too late, and a second node that
//! believes to be the first.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectProperties, Filter, Packet, PubAck, Publish, Subscribe};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::harness::{PATIENCE, until};
use crate::peer::{ALPHABET, Peer, daemon, long};

/// A client whose every byte the test decides on.
struct Raw {
    stream: TcpStream,
    input: BytesMut,
}

impl Raw {
    /// Comes as this client, listening to what is said to it; the broker keeps its session.
    fn come(broker: &Broker, name: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", broker.port)).unwrap();
        // So that little is read on its behalf.
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self { stream, input: BytesMut::new() };
        let properties = ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::new() };
        let connect =
            Connect { keep_alive: 60, client_id: name.to_owned(), clean_start: false, properties: Some(properties) };
        raw.write(&Packet::Connect(connect, None, None));
        assert!(matches!(raw.read(), Packet::ConnAck(_)));
        let mut subscribe = Subscribe::new(Filter::new(format!("moed/v1/c/{name}/#"), QoS::AtLeastOnce), None);
        subscribe.pkid = 1;
        raw.write(&Packet::Subscribe(subscribe));
        raw
    }

    fn write(&mut self, packet: &Packet) {
        let mut output = BytesMut::new();
        packet.write(&mut output, None).unwrap();
        self.stream.write_all(&output).unwrap();
    }

    fn read(&mut self) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(&mut self.input, None) {
                return packet;
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the broker has hung up");
            self.input.extend_from_slice(&piece[..count]);
        }
    }

    fn request(&mut self, name: &str, id: &str, more: &Value) {
        let mut request = json!({"v": 1, "id": id, "prompt": "hi"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let topic = format!("moed/v1/node/n1/c/{name}/request");
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, request.to_string(), None);
        publish.pkid = 2;
        self.write(&Packet::Publish(publish));
    }

    /// The next result, of whichever request; what comes is acknowledged.
    fn result(&mut self) -> Value {
        loop {
            if let Packet::Publish(publish) = self.read() {
                if publish.pkid != 0 {
                    self.write(&Packet::PubAck(PubAck::new(publish.pkid, None)));
                }
                let reply: Value = serde_json::from_slice(&publish.payload).unwrap();
                if reply["type"] == "result" {
                    return reply;
                }
            }
        }
    }
}

#[test]
fn a_subscriber_that_does_not_read_holds_up_nobody_and_finds_its_answer() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut slow = Raw::come(&broker, "slow");
    let mut streaming = long();
    streaming["stream"] = true.into();
    for number in 0..20 {
        slow.request("slow", &format!("s{number}"), &streaming);
    }
    // It reads nothing of all that; others are answered meanwhile.
    for number in 0..20 {
        peer.catch_up(&format!("l{number}"));
    }
    let mut answered = HashSet::new();
    while answered.len() < 20 {
        let result = slow.result();
        assert_eq!(result["finish"], "length");
        answered.insert(result["id"].to_string());
    }
}

#[test]
fn a_subscriber_that_has_died_finds_its_answer_when_it_comes_back() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut dead = Raw::come(&broker, "dead");
    dead.request("dead", "d1", &json!({}));
    until("it is accepted", || (daemon.metric("moed_journal_rows{state=\"done\"}") > 0.5).then_some(()));
    drop(dead);
    daemon.restart(&[]);
    peer.catch_up("between");
    let mut back = Raw::come(&broker, "dead");
    assert_eq!(back.result()["text"], ALPHABET);
    // And where the broker had nothing for it: the same question gets the same answer.
    back.request("dead", "d1", &json!({}));
    let again = back.result();
    assert_eq!((&again["text"], &again["repeat"]), (&json!(ALPHABET), &json!(true)));
}

#[test]
fn a_cancel_after_the_answer_changes_nothing() {
    let broker = Broker::start("");
    let _daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    peer.request("c1", &long());
    let first = peer.answer("c1");
    peer.verb("cancel", "c1");
    peer.catch_up("between");
    assert_eq!(peer.answers("c1", 1).len(), 1, "nothing is sent for it");
    peer.request("c1", &long());
    let again = peer.answers("c1", 2).remove(1);
    assert_eq!((&again["text"], &again["repeat"]), (&first["text"], &json!(true)));
}

#[test]
fn two_nodes_with_one_client_id_say_so_and_one_of_them_answers() {
    let broker = Broker::start("");
    let first = daemon(&broker, &[]);
    let second = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    until("one of them to say so", || {
        let says = |log: String| log.contains("another connection uses our client id");
        (says(first.log()) || says(second.log())).then_some(())
    });
    peer.catch_up("after");
}
