//! One connection to a broker, in either protocol version: the only file that names `rumqttc`.
//!
//! A line is made for one connection and thrown away with it. The library keeps packet ids, an alias map and a one-slot
//! "collision" over reconnects, and each of them can wedge a later connection; a fresh line has none of that. What was
//! on its way is not lost with it: the pipe keeps that, and the session lives at the broker.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS as Qos5;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill as Will5, Packet as Packet5, PubAckReason, Publish as Publish5, PublishProperties,
    RetainForwardRule, SubscribeReasonCode as Sub5,
};
use rumqttc::{Outgoing, QoS, SubscribeFilter, SubscribeReasonCode as Sub4, Transport, v5};

use super::address::Address;
use super::reply::{Parcel, Surety};
use super::wire::Mail;

/// Requests that wait inside the library between us and its socket. Publishes are bounded by the window long before;
/// the rest is room for acknowledgements.
pub(super) const CHANNEL: usize = 64;
/// Unacknowledged publishes that the library can hold: its table of packet ids. Twice the largest window, so that ids
/// come round only long after they were acknowledged. Its own default of 65,535 takes 13 MiB.
const PACKET_IDS: u16 = 128;
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest packet that the protocol knows. A 3.1.1 broker cannot be told a smaller one: a packet over the limit would
/// end the connection and come again for ever, so everything is taken and what is too large is answered.
const PACKET_MAX_V4: usize = 268_435_455;
/// Type, flags, length and packet id of a publish, at most.
const FRAME: usize = 7;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V5,
    V311,
}

/// All that a connection is opened with.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) address: Address,
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) keep_alive: Duration,
    pub(super) session_expiry: Duration,
    /// Keep the broker's session over connections.
    pub(super) durable: bool,
    /// Our Receive Maximum.
    pub(super) window: u16,
    /// The Maximum Packet Size that is announced.
    pub(super) packet_max: u32,
    /// Topic and text of the retained will.
    pub(super) will: Option<(String, String)>,
}

/// What the line tells.
#[derive(Debug)]
pub(super) enum Happening {
    Connected {
        session_present: bool,
        packet_max: Option<usize>,
        receive_max: Option<u16>,
        keep_alive: Duration,
    },
    Mail {
        mail: Mail,
        packet_id: u16,
    },
    /// A publish has left us; 0 for QoS 0.
    Sent(u16),
    /// An acknowledgement of ours has left us.
    AckSent,
    /// The broker has a publish of ours; a text where it did not want it.
    Acked {
        packet_id: u16,
        refused: Option<String>,
    },
    /// The broker has answered a subscription; how many filters it refused.
    Subscribed {
        refused: usize,
    },
    /// A goodbye has left us.
    Left,
    /// The library stands still until an old packet id is acknowledged.
    Stuck,
    Nothing,
}

/// Why a line ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("{0}")]
    V5(#[from] v5::ConnectionError),
    #[error("{0}")]
    V4(#[from] rumqttc::ConnectionError),
}

/// Puts packets in; cheap to clone.
#[derive(Clone)]
pub(super) enum Hand {
    V5(v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

/// The library's box is full; the packet was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BoxFull;

/// Makes the connection live; must be polled by one task and never be cut.
pub(super) enum Line {
    V5(Box<v5::EventLoop>),
    V4(Box<rumqttc::EventLoop>),
}

/// A line and its hand; nothing is opened before the first poll.
pub(super) fn open(terms: &Terms) -> (Hand, Line) {
    match terms.version {
        Version::V5 => open_v5(terms),
        Version::V311 => open_v4(terms),
    }
}

fn open_v5(terms: &Terms) -> (Hand, Line) {
    let (host, port) = place(&terms.address);
    let mut options = v5::MqttOptions::new(&terms.client_id, host, port);
    match &terms.address {
        Address::Unix(_) => {
            options.set_transport(Transport::Unix);
        }
        Address::Tcp { login: Some((user, password)), .. } => {
            options.set_credentials(user, password);
        }
        Address::Tcp { .. } => {}
    }
    // The library refuses less than 5 s with a panic; `config::check` says so first.
    options.set_keep_alive(terms.keep_alive.max(Duration::from_secs(5)));
    options.set_clean_start(!terms.durable);
    options.set_session_expiry_interval(Some(seconds(terms.session_expiry)));
    options.set_receive_maximum(Some(terms.window.max(1)));
    options.set_max_packet_size(Some(terms.packet_max));
    options.set_topic_alias_max(Some(0));
    options.set_manual_acks(true);
    options.set_outgoing_inflight_upper_limit(PACKET_IDS);
    options.set_connection_timeout(CONNECT.as_secs());
    if let Some((topic, text)) = &terms.will {
        options.set_last_will(Will5::new(topic, text.as_bytes(), Qos5::AtLeastOnce, true, None));
    }
    options.set_network_options(network());
    let (client, events) = v5::AsyncClient::new(options, CHANNEL);
    (Hand::V5(client), Line::V5(Box::new(events)))
}

fn open_v4(terms: &Terms) -> (Hand, Line) {
    let (host, port) = place(&terms.address);
    let mut options = rumqttc::MqttOptions::new(&terms.client_id, host, port);
    match &terms.address {
        Address::Unix(_) => {
            options.set_transport(Transport::Unix);
        }
        Address::Tcp { login: Some((user, password)), .. } => {
            options.set_credentials(user, password);
        }
        Address::Tcp { .. } => {}
    }
    options.set_keep_alive(terms.keep_alive.max(Duration::from_secs(5)));
    options.set_clean_session(!terms.durable);
    options.set_max_packet_size(PACKET_MAX_V4, PACKET_MAX_V4);
    options.set_manual_acks(true);
    options.set_inflight(PACKET_IDS);
    if let Some((topic, text)) = &terms.will {
        options.set_last_will(rumqttc::LastWill::new(topic, text.as_bytes(), QoS::AtLeastOnce, true));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, CHANNEL);
    events.set_network_options(network());
    (Hand::V4(client), Line::V4(Box::new(events)))
}

/// Small packets leave at once: an acknowledgement and the answer behind it would otherwise wait for the broker's delayed
/// TCP acknowledgement, 40 ms each.
fn network() -> rumqttc::NetworkOptions {
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT.as_secs());
    network
}

fn place(address: &Address) -> (&str, u16) {
    match address {
        Address::Tcp { host, port, .. } => (host, *port),
        Address::Unix(path) => (path, 0),
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Hand {
    pub(super) fn publish(&self, parcel: &Parcel) -> Result<(), BoxFull> {
        let sure = parcel.surety == Surety::Sure;
        match self {
            Self::V5(client) => {
                let qos = if sure { Qos5::AtLeastOnce } else { Qos5::AtMostOnce };
                let properties = properties(parcel);
                client
                    .try_publish_with_properties(&parcel.topic, qos, parcel.retain, parcel.payload.clone(), properties)
                    .map_err(|_| BoxFull)
            }
            Self::V4(client) => {
                let qos = if sure { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(&parcel.topic, qos, parcel.retain, parcel.payload.clone()).map_err(|_| BoxFull)
            }
        }
    }

    /// Acknowledges a received publish by its packet id.
    pub(super) fn ack(&self, packet_id: u16) -> Result<(), BoxFull> {
        match self {
            Self::V5(client) => {
                let mut publish = Publish5::new("", Qos5::AtLeastOnce, Vec::new(), None);
                publish.pkid = packet_id;
                client.try_ack(&publish).map_err(|_| BoxFull)
            }
            Self::V4(client) => {
                let mut publish = rumqttc::Publish::new("", QoS::AtLeastOnce, Vec::new());
                publish.pkid = packet_id;
                client.try_ack(&publish).map_err(|_| BoxFull)
            }
        }
    }

    /// Subscribes at QoS 1; on 5.0 retained messages are not sent, and live ones keep their retain flag.
    pub(super) fn subscribe(&self, filters: &[String], retained: bool) -> Result<(), BoxFull> {
        match self {
            Self::V5(client) => {
                let rule = if retained { RetainForwardRule::OnEverySubscribe } else { RetainForwardRule::Never };
                let filters = filters.iter().map(|path| Filter {
                    path: path.clone(),
                    qos: Qos5::AtLeastOnce,
                    // Our own birth need not come back; the standard forbids this on a shared subscription.
                    nolocal: !path.starts_with("$share/"),
                    preserve_retain: true,
                    retain_forward_rule: rule.clone(),
                });
                client.try_subscribe_many(filters).map_err(|_| BoxFull)
            }
            Self::V4(client) => {
                let filters = filters.iter().map(|path| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(|_| BoxFull)
            }
        }
    }

    /// Says goodbye; the broker drops the will and keeps the session.
    pub(super) fn leave(&self) -> Result<(), BoxFull> {
        match self {
            Self::V5(client) => client.try_disconnect().map_err(|_| BoxFull),
            Self::V4(client) => client.try_disconnect().map_err(|_| BoxFull),
        }
    }

    /// Bytes that the whole packet takes on this line.
    pub(super) fn size_of(&self, parcel: &Parcel) -> usize {
        match self {
            Self::V5(_) => {
                Publish5::new(&parcel.topic, Qos5::AtLeastOnce, Vec::new(), Some(properties(parcel))).size()
                    + parcel.payload.len()
                    + FRAME
            }
            Self::V4(_) => parcel.topic.len() + parcel.payload.len() + FRAME,
        }
    }
}

fn properties(parcel: &Parcel) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: parcel.expiry.map(|expiry| seconds(expiry).max(1)),
        correlation_data: parcel.correlation.clone().map(Into::into),
        user_properties: parcel.labels.clone(),
        content_type: Some(if parcel.json { "application/json" } else { "text/plain" }.to_owned()),
        ..PublishProperties::default()
    }
}

impl Line {
    /// The next thing that happens. Must not be cut: half a packet may be written. After an error the line is dead.
    pub(super) async fn poll(&mut self) -> Result<Happening, LineError> {
        match self {
            Self::V5(events) => {
                let event = events.poll().await?;
                let keep_alive = events.options.keep_alive();
                Ok(from_v5(event, keep_alive))
            }
            Self::V4(events) => {
                let event = events.poll().await?;
                let keep_alive = events.mqtt_options.keep_alive();
                Ok(from_v4(event, keep_alive))
            }
        }
    }

    /// Messages that a dead line has read and not told.
    pub(super) fn leftovers(&mut self) -> Vec<Mail> {
        let mail = |happening| match happening {
            Happening::Mail { mail, .. } => Some(mail),
            _ => None,
        };
        match self {
            Self::V5(events) => {
                events.state.events.drain(..).filter_map(|event| mail(from_v5(event, CONNECT))).collect()
            }
            Self::V4(events) => {
                events.state.events.drain(..).filter_map(|event| mail(from_v4(event, CONNECT))).collect()
            }
        }
    }
}

fn from_v5(event: v5::Event, keep_alive: Duration) -> Happening {
    match event {
        v5::Event::Incoming(Packet5::ConnAck(connack)) => {
            let properties = connack.properties.as_ref();
            Happening::Connected {
                session_present: connack.session_present,
                packet_max: properties.and_then(|p| p.max_packet_size).and_then(|max| usize::try_from(max).ok()),
                receive_max: properties.and_then(|p| p.receive_max),
                keep_alive,
            }
        }
        v5::Event::Incoming(Packet5::Publish(publish)) => {
            let packet_id = publish.pkid;
            Happening::Mail { mail: mail_v5(publish), packet_id }
        }
        v5::Event::Incoming(Packet5::PubAck(ack)) => {
            let refused = match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                reason => Some(format!("{reason:?}")),
            };
            Happening::Acked { packet_id: ack.pkid, refused }
        }
        v5::Event::Incoming(Packet5::SubAck(ack)) => {
            let refused = ack.return_codes.iter().filter(|code| !matches!(code, Sub5::Success(_))).count();
            Happening::Subscribed { refused }
        }
        v5::Event::Incoming(_) => Happening::Nothing,
        v5::Event::Outgoing(outgoing) => from_outgoing(&outgoing),
    }
}

fn mail_v5(publish: Publish5) -> Mail {
    let properties = publish.properties.unwrap_or_default();
    Mail {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        retain: publish.retain,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(|data| data.to_vec()),
        content_type: properties.content_type,
        expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
        id: properties.user_properties.into_iter().find(|(name, _)| name == "moed-id").map(|(_, id)| id),
    }
}

fn from_v4(event: rumqttc::Event, keep_alive: Duration) -> Happening {
    use rumqttc::Packet;
    match event {
        rumqttc::Event::Incoming(Packet::ConnAck(connack)) => Happening::Connected {
            session_present: connack.session_present,
            packet_max: None,
            receive_max: None,
            keep_alive,
        },
        rumqttc::Event::Incoming(Packet::Publish(publish)) => {
            let packet_id = publish.pkid;
            let payload = publish.payload.to_vec();
            Happening::Mail {
                mail: Mail { topic: publish.topic, payload, retain: publish.retain, ..Mail::default() },
                packet_id,
            }
        }
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => Happening::Acked { packet_id: ack.pkid, refused: None },
        rumqttc::Event::Incoming(Packet::SubAck(ack)) => Happening::Subscribed {
            refused: ack.return_codes.iter().filter(|code| matches!(code, Sub4::Failure)).count(),
        },
        rumqttc::Event::Incoming(_) => Happening::Nothing,
        rumqttc::Event::Outgoing(outgoing) => from_outgoing(&outgoing),
    }
}

fn from_outgoing(outgoing: &Outgoing) -> Happening {
    match outgoing {
        Outgoing::Publish(packet_id) => Happening::Sent(*packet_id),
        Outgoing::PubAck(_) => Happening::AckSent,
        Outgoing::Disconnect => Happening::Left,
        Outgoing::AwaitAck(_) => Happening::Stuck,
        _ => Happening::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, PubAck};

    use super::*;

    /// What [`super`] says of the library, so that nobody has to believe it: when this fails, a line may be kept.
    #[test]
    fn the_library_does_not_survive_a_broker_that_lowers_its_receive_maximum() {
        let mut state = v5::MqttState::new(8, true);
        let publish = || v5::Request::Publish(Publish5::new("t", Qos5::AtLeastOnce, "x", None));
        for packet_id in 1..=5 {
            state.handle_outgoing_packet(publish()).unwrap();
            state.handle_incoming_packet(Packet5::PubAck(PubAck::new(packet_id, None))).unwrap();
        }
        let properties = ConnAckProperties { receive_max: Some(4), ..no_properties() };
        let connack = ConnAck { session_present: true, code: ConnectReturnCode::Success, properties: Some(properties) };
        state.handle_incoming_packet(Packet5::ConnAck(connack)).unwrap();
        let mut ended = Vec::new();
        for packet_id in 6..=12 {
            ended.push(state.handle_outgoing_packet(publish()).is_ok());
            if ended.last() == Some(&true) {
                state.handle_incoming_packet(Packet5::PubAck(PubAck::new(packet_id, None))).unwrap();
            }
        }
        assert_eq!(ended, [true, true, true, false, false, false, false], "ids 9 and up have no place, for ever");
    }

    fn no_properties() -> ConnAckProperties {
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
}
