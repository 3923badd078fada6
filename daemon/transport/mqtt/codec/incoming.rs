//! Bytes of a broker, as what it says.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::{self, QoS as Qos4, v4};
use rumqttc::v5::mqttbytes::{self as mqttbytes5, QoS as Qos5, v5};

use super::{Hello, Incoming, PACKET_MAX_V4, Refusal};
use crate::transport::mqtt::line::{Happening, LineError, Version};
use crate::transport::mqtt::wire::Mail;

/// Type and flags of a goodbye.
const DISCONNECT: u8 = 0xE0;
/// What a broker that knows nothing newer than 3.1.1 says to a 5.0 client, in its own version: "unacceptable protocol version".
const OLD_REFUSAL: [u8; 4] = [0x20, 0x02, 0x00, 0x01];

/// The next whole packet, if there is one.
pub(in super::super) fn read(
    version: Version,
    packet_max: u32,
    input: &mut BytesMut,
) -> Result<Option<Incoming>, LineError> {
    // The library takes a packet that is shorter than it thinks off the buffer and then says that it wants more.
    let before = input.len();
    let whole = |input: &BytesMut| if input.len() == before { Ok(None) } else { Err(cut_short()) };
    match version {
        Version::V5 if input.first() == Some(&DISCONNECT) && input.get(1) == Some(&1) => {
            // The short form of a goodbye: the reason and no properties, which the library does not know.
            let Some(&code) = input.get(2) else { return Ok(None) };
            input.advance(3);
            Ok(Some(Incoming::Goodbye(goodbye(code))))
        }
        Version::V5 if *input == OLD_REFUSAL[..] => {
            input.clear();
            Ok(Some(Incoming::Refused(Refusal::old_broker())))
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
