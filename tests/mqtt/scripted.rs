//! A broker that does what a real one won't do on demand: acknowledges nothing, takes little, forgets, sends twice.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use serde_json::{Value, json};

use crate::harness::fake::no_properties;
use crate::harness::{Home, PATIENCE, TestDaemon, until};
use crate::peer::{ALPHABET, REQUEST};

/// No connection of these tests lives as long: a node that gives nothing but life signs ends its test.
const CONNECTION: Duration = PATIENCE.saturating_mul(3);

struct Scripted {
    listener: TcpListener,
}

/// One connection of the node.
struct Line {
    stream: TcpStream,
    input: BytesMut,
    next_id: u16,
    until: Instant,
}

/// What the node is told of its session and of us.
#[derive(Default)]
struct Greeting {
    session_present: bool,
    receive_max: Option<u16>,
    packet_max: Option<u32>,
}

impl Scripted {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    fn node(&self) -> TestDaemon {
        let home = Home::new();
        let url = format!("\"mqtt://{}\"", self.listener.local_addr().unwrap());
        home.configure(&[("mqtt.url", &url)]);
        TestDaemon::start_in(home, &[])
    }

    /// Waits for the node to come and greets it; its subscriptions are granted.
    fn greet(&self, greeting: &Greeting) -> Line {
        let (stream, _) = until("the node", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut line = Line { stream, input: BytesMut::new(), next_id: 0, until: Instant::now() + CONNECTION };
        assert!(matches!(line.read(), Packet::Connect(..)));
        let properties = ConnAckProperties {
            receive_max: greeting.receive_max,
            max_packet_size: greeting.packet_max,
            ..no_properties()
        };
        let session_present = greeting.session_present;
        let hello = ConnAck { session_present, code: ConnectReturnCode::Success, properties: Some(properties) };
        line.write(&Packet::ConnAck(hello));
        line
    }
}

impl Line {
    fn write(&mut self, packet: &Packet) {
        let mut output = BytesMut::new();
        packet.write(&mut output, None).unwrap();
        self.stream.write_all(&output).unwrap();
    }

    /// The next packet of the node, life signs included.
    fn read(&mut self) -> Packet {
        loop {
            assert!(Instant::now() < self.until, "what was waited for did not come");
            match Packet::read(&mut self.input, None) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the node has hung up");
            self.input.extend_from_slice(&piece[..count]);
        }
    }

    /// The next packet that is no subscription and no life sign; those are answered.
    fn next(&mut self) -> Packet {
        loop {
            match self.read() {
                Packet::PingReq(_) => self.write(&Packet::PingResp(PingResp)),
                Packet::Subscribe(subscribe) => {
                    let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                    self.write(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None }));
                }
                other => return other,
            }
        }
    }

    /// The next publish about a request; what the node says of itself is acknowledged on the way.
    fn reply(&mut self) -> (Publish, Value) {
        loop {
            if let Packet::Publish(publish) = self.next() {
                if publish.topic.starts_with(b"moed/v1/c/") {
                    let payload = serde_json::from_slice(&publish.payload).unwrap();
                    return (publish, payload);
                }
                self.acknowledge(&publish);
            }
        }
    }

    fn acknowledge(&mut self, publish: &Publish) {
        self.write(&Packet::PubAck(PubAck::new(publish.pkid, None)));
    }

    /// Hands the node a request and waits until it has acknowledged it.
    fn ask(&mut self, id: &str) {
        let payload = json!({"v": 1, "id": id, "prompt": "hi"}).to_string();
        self.hand(payload.into_bytes());
    }

    /// Replies that come before the acknowledgement stay unread by the test, and unacknowledged.
    fn hand(&mut self, payload: Vec<u8>) {
        self.next_id += 1;
        let mut publish = Publish::new(REQUEST, QoS::AtLeastOnce, payload, None);
        publish.pkid = self.next_id;
        self.write(&Packet::Publish(publish));
    }

    /// The acknowledgement of the last request, whatever comes before.
    fn acknowledged(&mut self) {
        loop {
            match self.next() {
                Packet::PubAck(ack) if ack.pkid == self.next_id => return,
                Packet::Publish(publish) if !publish.topic.starts_with(b"moed/v1/c/") => self.acknowledge(&publish),
                Packet::Publish(publish) => panic!("published before its request was acknowledged: {publish:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn an_answer_that_is_never_acknowledged_comes_again_on_the_next_connection_and_not_after_that() {
    let broker = Scripted::start();
    let daemon = broker.node();
    let mut line = broker.greet(&Greeting::default());
    line.ask("q1");
    line.acknowledged();
    let (_, first) = line.reply();
    assert_eq!((&first["text"], &first["repeat"]), (&json!(ALPHABET), &json!(false)));
    drop(line);
    let mut line = broker.greet(&Greeting { session_present: true, ..Greeting::default() });
    let (publish, again) = line.reply();
    assert_eq!(again["text"], first["text"]);
    line.acknowledge(&publish);
    line.ask("q2");
    line.acknowledged();
    let (publish, other) = line.reply();
    assert_eq!(other["id"], "q2");
    line.acknowledge(&publish);
    drop(line);
    // Nothing is owed: the first that is said on a third connection is the answer to a third question.
    let mut line = broker.greet(&Greeting { session_present: true, ..Greeting::default() });
    line.ask("q3");
    line.acknowledged();
    assert_eq!(line.reply().1["id"], "q3");
    drop(daemon);
}

#[test]
fn a_broker_that_has_forgotten_the_session_is_told_recent_answers_again() {
    let broker = Scripted::start();
    let daemon = broker.node();
    let mut line = broker.greet(&Greeting::default());
    line.ask("q1");
    line.acknowledged();
    let (publish, first) = line.reply();
    line.acknowledge(&publish);
    // A second one, so that the first acknowledgement has been read.
    line.ask("q2");
    line.acknowledged();
    let (publish, _) = line.reply();
    line.acknowledge(&publish);
    drop(line);
    let mut line = broker.greet(&Greeting::default());
    let mut again = HashSet::new();
    while again.len() < 2 {
        let (publish, copy) = line.reply();
        line.acknowledge(&publish);
        assert_eq!((&copy["repeat"], &copy["text"]), (&json!(true), &first["text"]));
        again.insert(copy["id"].as_str().unwrap().to_owned());
    }
    drop(daemon);
}

#[test]
fn no_more_is_sent_than_a_broker_with_a_low_receive_maximum_takes() {
    let broker = Scripted::start();
    let daemon = broker.node();
    let mut line = broker.greet(&Greeting { receive_max: Some(2), ..Greeting::default() });
    // Half of what the broker takes is used: one.
    for id in ["q1", "q2", "q3", "q4"] {
        line.ask(id);
    }
    let mut answered = HashSet::new();
    while answered.len() < 4 {
        let publish = loop {
            // Gauges are at QoS 0, which no window holds back.
            if let Packet::Publish(publish) = line.next()
                && publish.pkid != 0
            {
                break publish;
            }
        };
        // Until its next life sign the node sends acknowledgements at most.
        loop {
            match line.read() {
                Packet::PingReq(_) => break line.write(&Packet::PingResp(PingResp)),
                Packet::Publish(second) if second.pkid != 0 => {
                    panic!("{:?} came before {:?} was acknowledged", second.topic, publish.topic)
                }
                _ => {}
            }
        }
        if publish.topic.starts_with(b"moed/v1/c/") {
            let payload: Value = serde_json::from_slice(&publish.payload).unwrap();
            answered.insert(payload["id"].as_str().unwrap().to_owned());
        }
        line.acknowledge(&publish);
    }
    drop(daemon);
}

#[test]
fn an_answer_that_a_broker_could_not_take_in_any_form_stays_in_the_journal_and_the_link_lives() {
    let broker = Scripted::start();
    let daemon = broker.node();
    let mut line = broker.greet(&Greeting { packet_max: Some(150), ..Greeting::default() });
    line.ask("q1");
    line.acknowledged();
    // Not even an error fits. The next question is taken all the same.
    line.ask("q2");
    line.acknowledged();
    drop(line);
    let mut line = broker.greet(&Greeting { session_present: true, ..Greeting::default() });
    line.hand(json!({"v": 1, "id": "q1", "prompt": "hi"}).to_string().into_bytes());
    let copies = loop {
        let (publish, copy) = line.reply();
        line.acknowledge(&publish);
        if copy["id"] == "q1" {
            break copy;
        }
    };
    assert_eq!((&copies["text"], &copies["repeat"]), (&json!(ALPHABET), &json!(true)));
    drop(daemon);
}

#[test]
fn a_request_that_comes_twice_on_one_connection_is_computed_once() {
    let broker = Scripted::start();
    let daemon = broker.node();
    let mut line = broker.greet(&Greeting::default());
    let payload = json!({"v": 1, "id": "q1", "prompt": "hi", "params": {"temperature": 1.5, "max_tokens": 200}});
    for _ in 0..2 {
        line.hand(payload.to_string().into_bytes());
    }
    let (publish, first) = line.reply();
    line.acknowledge(&publish);
    line.ask("after");
    let mut texts = HashSet::from([first["text"].to_string()]);
    loop {
        let (publish, reply) = line.reply();
        line.acknowledge(&publish);
        if reply["id"] == "after" {
            break;
        }
        texts.insert(reply["text"].to_string());
    }
    assert_eq!(texts.len(), 1);
    // The gauge follows with the desk's next turn.
    let done =
        until("two answers", || Some(daemon.metric("moed_journal_rows{state=\"done\"}")).filter(|rows| *rows > 1.5));
    assert!(done < 2.5, "{done}");
}
