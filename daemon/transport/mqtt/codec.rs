//! Packets to bytes and back, in either protocol version: the only file that names `rumqttc`, which knows how each looks.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS as Qos4, v4};
use rumqttc::v5::mqttbytes::{self as mqttbytes5, QoS as Qos5, v5};
use std::time::Duration;

use super::line::{Happening, LineError, Terms, Version};
use super::reply::{Parcel, Surety};
use super::topics;
use super::wire::Mail;

/// The largest packet that the protocol knows. A 3.1.1 broker cannot be told a smaller one: a packet over the limit would
/// end the connection and come again for ever, so everything is taken and what is too large is answered.
const PACKET_MAX_V4: usize = 268_435_455;
/// Type and flags of a goodbye.
const DISCONNECT: u8 = 0xE0;
/// Type, flags, length and packet id of a publish, at most.
const FRAME: usize = 7;

/// What was read off a connection.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The answer to our first packet.
    Hello(Hello),
    /// The broker does not let us in.
    Refused(Refusal),
    /// The broker ends the connection and says why.
    Goodbye(Refusal),
    Said(Happening),
    /// A life sign, or what has no meaning to us.
    Nothing,
}

/// What the broker says of itself and of our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) session_present: bool,
    pub(super) packet_max: Option<usize>,
    pub(super) receive_max: Option<u16>,
    /// The keep-alive that the broker wants instead of ours.
    pub(super) keep_alive: Option<Duration>,
}

/// A reason code, with its name in the standard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} (0x{code:02X})")]
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) name: String,
}

impl Refusal {
    /// Another connection has come with our client id.
    pub(super) const TAKEN_OVER: u8 = 0x8E;

    /// Taken, and nobody reads it: no refusal.
    pub(super) const UNHEARD: u8 = 0x10;

    fn new(code: u8, name: &impl std::fmt::Debug) -> Self {
        Self { code, name: words(&format!("{name:?}")) }
    }

    /// Whether it is about who we are, which waiting does not change.
    pub(super) fn is_about_us(&self) -> bool {
        matches!(self.code, 0x85 | 0x86 | 0x87 | 0x8A | 0x8C)
    }
}

/// `NotAuthorized` as `not authorized`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// The first packet of a connection.
pub(super) fn hello(terms: &Terms, password: Option<String>, output: &mut BytesMut) -> Result<(), LineError> {
    let user = terms.access.user.clone();
    let keep_alive = u16::try_from(terms.keep_alive.as_secs()).unwrap_or(u16::MAX);
    match terms.version {
        Version::V5 => {
            let connect = v5::Connect {
                keep_alive,
                client_id: terms.client_id.clone(),
                clean_start: !terms.durable,
                properties: Some(v5::ConnectProperties {
                    session_expiry_interval: Some(seconds(terms.session_expiry)),
                    receive_maximum: Some(terms.window.max(1)),
                    max_packet_size: Some(terms.packet_max),
                    topic_alias_max: Some(0),
                    ..v5::ConnectProperties::new()
                }),
            };
            let will = terms.will.as_ref();
            let will = will.map(|(topic, text)| v5::LastWill::new(topic, text.clone(), Qos5::AtLeastOnce, true, None));
            let login = (!user.is_empty()).then(|| v5::Login::new(user, password.unwrap_or_default()));
            write5(&v5::Packet::Connect(connect, will, login), output)
        }
        Version::V311 => {
            let will = terms.will.as_ref();
            let last_will = will.map(|(topic, text)| v4::LastWill::new(topic, text.clone(), Qos4::AtLeastOnce, true));
            let login = (!user.is_empty()).then(|| v4::Login::new(user, password.unwrap_or_default()));
            let connect = v4::Connect {
                protocol: mqttbytes::Protocol::V4,
                keep_alive,
                client_id: terms.client_id.clone(),
                clean_session: !terms.durable,
                last_will,
                login,
            };
            write4(&v4::Packet::Connect(connect), output)
        }
    }
}

/// Packet id 0 stands for QoS 0.
pub(super) fn publish(
    version: Version,
    parcel: Parcel,
    packet_id: u16,
    output: &mut BytesMut,
) -> Result<(), LineError> {
    let sure = parcel.surety == Surety::Sure;
    match version {
        Version::V5 => {
            let qos = if sure { Qos5::AtLeastOnce } else { Qos5::AtMostOnce };
            let properties = properties(&parcel);
            let mut publish = v5::Publish::new(parcel.topic, qos, parcel.payload, Some(properties));
            (publish.retain, publish.pkid) = (parcel.retain, packet_id);
            write5(&v5::Packet::Publish(publish), output)
        }
        Version::V311 => {
            let qos = if sure { Qos4::AtLeastOnce } else { Qos4::AtMostOnce };
            let mut publish = v4::Publish::new(parcel.topic, qos, parcel.payload);
            (publish.retain, publish.pkid) = (parcel.retain, packet_id);
            write4(&v4::Packet::Publish(publish), output)
        }
    }
}

/// Bytes that a parcel takes as a packet.
pub(super) fn size_of(version: Version, parcel: &Parcel) -> usize {
    match version {
        Version::V5 => {
            v5::Publish::new(&parcel.topic, Qos5::AtLeastOnce, Bytes::new(), Some(properties(parcel))).size()
                + parcel.payload.len()
                + FRAME
        }
        Version::V311 => parcel.topic.len() + parcel.payload.len() + FRAME,
    }
}

pub(super) fn ack(version: Version, packet_id: u16, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => write5(&v5::Packet::PubAck(v5::PubAck::new(packet_id, None)), output),
        Version::V311 => write4(&v4::Packet::PubAck(v4::PubAck::new(packet_id)), output),
    }
}

/// Subscribes at QoS 1, to orders at QoS 0: what a broker kept of them while we were away is not meant any more. On 5.0 retained messages come only if wanted, and live ones keep their retain flag.
pub(super) fn subscribe(
    version: Version,
    filters: &[String],
    retained: bool,
    packet_id: u16,
    output: &mut BytesMut,
) -> Result<(), LineError> {
    match version {
        Version::V5 => {
            let rule = if retained { v5::RetainForwardRule::OnEverySubscribe } else { v5::RetainForwardRule::Never };
            let filters = filters.iter().map(|path| v5::Filter {
                path: path.clone(),
                qos: if topics::is_control_filter(path) { Qos5::AtMostOnce } else { Qos5::AtLeastOnce },
                // Our own birth need not come back; the standard forbids this on a shared subscription.
                nolocal: !path.starts_with("$share/"),
                preserve_retain: true,
                retain_forward_rule: rule.clone(),
            });
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = packet_id;
            write5(&v5::Packet::Subscribe(subscribe), output)
        }
        Version::V311 => {
            let filters = filters.iter().map(|path| {
                let orders = topics::is_control_filter(path);
                v4::SubscribeFilter::new(path.clone(), if orders { Qos4::AtMostOnce } else { Qos4::AtLeastOnce })
            });
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = packet_id;
            write4(&v4::Packet::Subscribe(subscribe), output)
        }
    }
}

pub(super) fn unsubscribe(
    version: Version,
    filters: &[String],
    packet_id: u16,
    output: &mut BytesMut,
) -> Result<(), LineError> {
    match version {
        Version::V5 => {
            let mut unsubscribe = v5::Unsubscribe { pkid: packet_id, filters: filters.to_vec(), properties: None };
            unsubscribe.pkid = packet_id;
            write5(&v5::Packet::Unsubscribe(unsubscribe), output)
        }
        Version::V311 => {
            let unsubscribe = v4::Unsubscribe { pkid: packet_id, topics: filters.to_vec() };
            write4(&v4::Packet::Unsubscribe(unsubscribe), output)
        }
    }
}

pub(super) fn ping(version: Version, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => write5(&v5::Packet::PingReq(v5::PingReq), output),
        Version::V311 => write4(&v4::Packet::PingReq, output),
    }
}

/// The broker drops the will and keeps the session.
pub(super) fn leave(version: Version, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => {
            let goodbye = v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
            write5(&v5::Packet::Disconnect(goodbye), output)
        }
        Version::V311 => write4(&v4::Packet::Disconnect, output),
    }
}

/// The next whole packet, if there is one.
pub(super) fn read(version: Version, packet_max: u32, input: &mut BytesMut) -> Result<Option<Incoming>, LineError> {
    // The library takes a packet that is shorter than it thinks off the buffer and then says that it wants more.
    let before = input.len();
    let whole = |input: &BytesMut| if input.len() == before { Ok(None) } else { Err(cut_short()) };
    match version {
        Version::V5 if input.first() == Some(&DISCONNECT) && input.get(1) == Some(&1) => {
            // The short form of a goodbye: the reason and no properties, which the library does not know.
            Ok(input.get(2).copied().map(|code| Incoming::Goodbye(goodbye(code))))
        }
        Version::V5 => match v5::Packet::read(input, Some(packet_max)) {
            Ok(packet) => from_v5(packet).map(Some),
            Err(mqttbytes5::Error::InsufficientBytes(_)) => whole(input),
            Err(error) => Err(LineError::Protocol(error.to_string())),
        },
        Version::V311 => match v4::Packet::read(input, PACKET_MAX_V4) {
            Ok(packet) => from_v4(packet).map(Some),
            Err(mqttbytes::Error::InsufficientBytes(_)) => whole(input),
            Err(error) => Err(LineError::Protocol(error.to_string())),
        },
    }
}

fn write5(packet: &v5::Packet, output: &mut BytesMut) -> Result<(), LineError> {
    packet.write(output, None).map(|_length| ()).map_err(|error| LineError::Protocol(error.to_string()))
}

fn write4(packet: &v4::Packet, output: &mut BytesMut) -> Result<(), LineError> {
    packet.write(output, PACKET_MAX_V4).map(|_length| ()).map_err(|error| LineError::Protocol(error.to_string()))
}

fn properties(parcel: &Parcel) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: parcel.expiry.map(|expiry| seconds(expiry).max(1)),
        correlation_data: parcel.correlation.clone().map(Into::into),
        user_properties: parcel.labels.clone(),
        content_type: Some(if parcel.json { "application/json" } else { "text/plain" }.to_owned()),
        ..v5::PublishProperties::default()
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn from_v5(packet: v5::Packet) -> Result<Incoming, LineError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) if connack.code == v5::ConnectReturnCode::Success => {
            let properties = connack.properties.as_ref();
            Incoming::Hello(Hello {
                session_present: connack.session_present,
                packet_max: properties.and_then(|p| p.max_packet_size).and_then(|max| usize::try_from(max).ok()),
                receive_max: properties.and_then(|p| p.receive_max),
                keep_alive: properties.and_then(|p| p.server_keep_alive).map(|s| Duration::from_secs(s.into())),
            })
        }
        v5::Packet::ConnAck(connack) => Incoming::Refused(Refusal::new(refusal_code(connack.code), &connack.code)),
        v5::Packet::Disconnect(packet) => Incoming::Goodbye(goodbye(packet.reason_code as u8)),
        v5::Packet::Publish(publish) if publish.qos == Qos5::ExactlyOnce => return Err(exactly_once()),
        v5::Packet::Publish(publish) => {
            let packet_id = publish.pkid;
            Incoming::Said(Happening::Mail { mail: mail_v5(publish), packet_id })
        }
        v5::Packet::PubAck(ack) => {
            let remark = puback_code(ack.reason).map(|code| Refusal::new(code, &ack.reason));
            Incoming::Said(Happening::Acked { packet_id: ack.pkid, remark })
        }
        v5::Packet::SubAck(ack) => {
            let codes = ack.return_codes.iter().enumerate();
            let refused = codes.filter(|(_, code)| !matches!(code, v5::SubscribeReasonCode::Success(_)));
            Incoming::Said(Happening::Subscribed { refused: refused.map(|(place, _)| place).collect() })
        }
        _ => Incoming::Nothing,
    })
}

fn from_v4(packet: v4::Packet) -> Result<Incoming, LineError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) if connack.code == v4::ConnectReturnCode::Success => Incoming::Hello(Hello {
            session_present: connack.session_present,
            packet_max: None,
            receive_max: None,
            keep_alive: None,
        }),
        v4::Packet::ConnAck(connack) => {
            // The codes of 3.1.1 are 1 to 5; told as those of 5.0 that mean the same.
            let code = match connack.code {
                v4::ConnectReturnCode::Success => 0,
                v4::ConnectReturnCode::RefusedProtocolVersion => 0x84,
                v4::ConnectReturnCode::BadClientId => 0x85,
                v4::ConnectReturnCode::ServiceUnavailable => 0x88,
                v4::ConnectReturnCode::BadUserNamePassword => 0x86,
                v4::ConnectReturnCode::NotAuthorized => 0x87,
            };
            Incoming::Refused(Refusal::new(code, &connack.code))
        }
        v4::Packet::Publish(publish) if publish.qos == Qos4::ExactlyOnce => return Err(exactly_once()),
        v4::Packet::Publish(publish) => {
            let (packet_id, payload) = (publish.pkid, publish.payload.to_vec());
            let mail = Mail { topic: publish.topic, payload, retain: publish.retain, ..Mail::default() };
            Incoming::Said(Happening::Mail { mail, packet_id })
        }
        v4::Packet::PubAck(ack) => Incoming::Said(Happening::Acked { packet_id: ack.pkid, remark: None }),
        v4::Packet::SubAck(ack) => {
            let codes = ack.return_codes.iter().enumerate();
            let refused = codes.filter(|(_, code)| matches!(code, v4::SubscribeReasonCode::Failure));
            Incoming::Said(Happening::Subscribed { refused: refused.map(|(place, _)| place).collect() })
        }
        _ => Incoming::Nothing,
    })
}

/// A broker's reason to end the connection.
fn goodbye(code: u8) -> Refusal {
    match v5::DisconnectReasonCode::try_from(code) {
        Ok(name) => Refusal::new(code, &name),
        Err(_) => Refusal { code, name: "a reason without a name".to_owned() },
    }
}

fn cut_short() -> LineError {
    LineError::Protocol("a packet is shorter than it says".to_owned())
}

/// Never subscribed, so never due.
fn exactly_once() -> LineError {
    LineError::Protocol("a message came at QoS 2, which was not asked for".to_owned())
}

fn mail_v5(publish: v5::Publish) -> Mail {
    let properties = publish.properties.unwrap_or_default();
    Mail {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload.to_vec(),
        retain: publish.retain,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(|data| data.to_vec()),
        content_type: properties.content_type,
        is_text: properties.payload_format_indicator == Some(1),
        expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
        id: properties.user_properties.into_iter().find(|(name, _)| name == "moed-id").map(|(_, id)| id),
    }
}

/// The number of a CONNACK's reason, which the library does not give.
fn refusal_code(code: v5::ConnectReturnCode) -> u8 {
    use v5::ConnectReturnCode as Code;
    match code {
        Code::Success => 0x00,
        Code::UnspecifiedError => 0x80,
        Code::MalformedPacket => 0x81,
        Code::ProtocolError => 0x82,
        Code::ImplementationSpecificError => 0x83,
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => 0x84,
        Code::ClientIdentifierNotValid | Code::BadClientId => 0x85,
        Code::BadUserNamePassword => 0x86,
        Code::NotAuthorized => 0x87,
        Code::ServerUnavailable | Code::ServiceUnavailable => 0x88,
        Code::ServerBusy => 0x89,
        Code::Banned => 0x8A,
        Code::BadAuthenticationMethod => 0x8C,
        Code::TopicNameInvalid => 0x90,
        Code::PacketTooLarge => 0x95,
        Code::QuotaExceeded => 0x97,
        Code::PayloadFormatInvalid => 0x99,
        Code::RetainNotSupported => 0x9A,
        Code::QoSNotSupported => 0x9B,
        Code::UseAnotherServer => 0x9C,
        Code::ServerMoved => 0x9D,
        Code::ConnectionRateExceeded => 0x9F,
    }
}

/// The number of a remark; `None` where there is nothing to say.
fn puback_code(reason: v5::PubAckReason) -> Option<u8> {
    use v5::PubAckReason as Reason;
    match reason {
        Reason::Success => None,
        Reason::NoMatchingSubscribers => Some(Refusal::UNHEARD),
        Reason::UnspecifiedError => Some(0x80),
        Reason::ImplementationSpecificError => Some(0x83),
        Reason::NotAuthorized => Some(0x87),
        Reason::TopicNameInvalid => Some(0x90),
        Reason::PacketIdentifierInUse => Some(0x91),
        Reason::QuotaExceeded => Some(0x97),
        Reason::PayloadFormatInvalid => Some(0x99),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reason_is_told_by_its_name_and_its_number() {
        let refusal = Refusal::new(0x87, &v5::ConnectReturnCode::NotAuthorized);
        assert_eq!(refusal.to_string(), "not authorized (0x87)");
        assert!(refusal.is_about_us());
        assert!(!Refusal::new(0x89, &v5::ConnectReturnCode::ServerBusy).is_about_us());
    }

    #[test]
    fn a_goodbye_is_understood_in_all_its_forms() {
        for bytes in [&[0xE0, 0x01, 0x8E][..], &[0xE0, 0x02, 0x8E, 0x00][..]] {
            let read = read(Version::V5, 1 << 20, &mut BytesMut::from(bytes)).unwrap();
            let Some(Incoming::Goodbye(reason)) = read else { panic!("{read:?}") };
            assert_eq!(reason.to_string(), "session taken over (0x8E)");
        }
        assert!(read(Version::V5, 1 << 20, &mut BytesMut::from(&[0xE0, 0x01][..])).unwrap().is_none());
        // A PUBACK of one byte: the library takes it off and asks for more.
        assert!(read(Version::V5, 1 << 20, &mut BytesMut::from(&[0x40, 0x01, 0x00][..])).is_err());
    }

    #[test]
    fn half_a_packet_waits_for_its_other_half_and_nonsense_ends_the_line() {
        for version in [Version::V5, Version::V311] {
            let mut bytes = BytesMut::new();
            let mut parcel = Parcel::retained("a/b".to_owned(), b"payload".to_vec(), false);
            parcel.surety = Surety::Fleeting;
            publish(version, parcel, 0, &mut bytes).unwrap();
            let whole = bytes.split();
            let mut input = BytesMut::from(&whole[..whole.len() - 1]);
            assert!(read(version, 1 << 20, &mut input).unwrap().is_none());
            input.extend_from_slice(&whole[whole.len() - 1..]);
            let read_back = read(version, 1 << 20, &mut input).unwrap();
            let Some(Incoming::Said(Happening::Mail { mail, packet_id: 0 })) = read_back else {
                panic!("{read_back:?}")
            };
            assert_eq!((mail.topic.as_str(), mail.payload.as_slice()), ("a/b", b"payload".as_slice()));
            let mut nonsense = BytesMut::from(&[0x00, 0x02, 0x00, 0x00][..]);
            assert!(read(version, 1 << 20, &mut nonsense).is_err());
        }
    }

    /// Packets as a broker sends them, with every property that there is.
    fn samples() -> Vec<Vec<u8>> {
        let mut parcel = Parcel::retained("a/b".to_owned(), b"payload".to_vec(), true);
        (parcel.expiry, parcel.correlation) = (Some(Duration::from_secs(9)), Some(vec![1, 2, 3]));
        parcel.labels = vec![("moed-id".to_owned(), "7".to_owned())];
        let mut published = BytesMut::new();
        publish(Version::V5, parcel, 7, &mut published).unwrap();
        let reason = |kind: u8| [&[kind, 9, 0, 7, 0x87, 5, 0x1F, 0, 2, b'n', b'o'][..]].concat();
        vec![
            published.to_vec(),
            reason(0x40),
            vec![0x90, 6, 0, 1, 0, 1, 0x87, 0x80],
            vec![0x20, 14, 0, 0, 11, 0x27, 0, 0, 0x10, 0, 0x21, 0, 20, 0x13, 0, 60],
            vec![0xE0, 7, 0x8E, 5, 0x1F, 0, 2, b'g', b'o'],
        ]
    }

    proptest! {
        /// A broker that sends rubbish ends its connection, and nothing else.
        #[test]
        fn no_bytes_make_the_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..200), old in any::<bool>()) {
            let version = if old { Version::V311 } else { Version::V5 };
            let mut input = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = read(version, 1 << 20, &mut input) {}
        }

        #[test]
        fn no_damaged_packet_makes_the_reader_fall(
            which in 0..5_usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            short in any::<bool>(),
        ) {
            let mut bytes = samples().swap_remove(which);
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if short {
                bytes.truncate(cut.index(bytes.len()));
            }
            for version in [Version::V5, Version::V311] {
                let mut input = BytesMut::from(bytes.as_slice());
                while let Ok(Some(_)) = read(version, 1 << 20, &mut input) {}
            }
        }
    }

    #[test]
    fn the_samples_are_what_they_say() {
        for bytes in samples() {
            let read = read(Version::V5, 1 << 20, &mut BytesMut::from(bytes.as_slice()));
            assert!(matches!(read, Ok(Some(_))), "{bytes:02x?}: {read:?}");
        }
    }
}
