//! A broker that does what no real one does on demand: each connection runs a script over MQTT 5 packets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::PATIENCE;

/// Listens until the test ends.
pub struct FakeBroker {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    failed: Arc<Mutex<Option<String>>>,
}

/// One client that has connected.
pub struct Caller {
    stream: TcpStream,
    input: BytesMut,
    /// Which connection this is, from 0.
    pub number: usize,
}

impl FakeBroker {
    /// Runs `script` for every connection, each on a thread of its own; the connection ends with it.
    pub fn start(script: impl Fn(&mut Caller) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let (count, script, fault) = (Arc::clone(&connections), Arc::new(script), Arc::clone(&failed));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (number, script) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&script));
                let fault = Arc::clone(&fault);
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut caller = Caller { stream, input: BytesMut::new(), number };
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script(&mut caller)));
                    if ran.is_err() {
                        *fault.lock().unwrap() = Some(format!("the script of connection {number} failed"));
                    }
                });
            }
        });
        Self { port, connections, failed }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        assert_eq!(*self.failed.lock().unwrap(), None);
        self.connections.load(Ordering::SeqCst)
    }
}

impl Caller {
    /// The next packet; `None` when the client has gone.
    pub fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.input, None) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.input.extend_from_slice(&bytes[..length]),
            }
        }
    }

    /// Sends a packet; a client that has gone is found out when reading.
    pub fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).ok();
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).ok();
    }

    /// Takes the CONNECT and greets.
    pub fn greet(&mut self, session_present: bool, change: impl FnOnce(&mut ConnAckProperties)) {
        let connect = self.read();
        assert!(matches!(connect, Some(Packet::Connect(..))), "{connect:?}");
        let mut properties = no_properties();
        change(&mut properties);
        let (code, properties) = (ConnectReturnCode::Success, Some(properties));
        self.send(&Packet::ConnAck(ConnAck { session_present, code, properties }));
    }

    /// Does what any broker does with this packet, but for publishes, which are the script's.
    pub fn serve(&mut self, packet: Packet) -> Option<Publish> {
        match packet {
            Packet::Subscribe(subscribe) => {
                let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                self.send(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None }));
                None
            }
            Packet::PingReq(_) => {
                self.send(&Packet::PingResp(PingResp));
                None
            }
            Packet::Publish(publish) => Some(publish),
            _ => None,
        }
    }

    pub fn ack(&mut self, publish: &Publish) {
        if publish.pkid != 0 {
            self.send(&Packet::PubAck(PubAck::new(publish.pkid, None)));
        }
    }
}

/// A greeting that says nothing beside its code.
pub fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
