//! What is said to a broker, as bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS as Qos4, v4};
use rumqttc::v5::mqttbytes::{QoS as Qos5, v5};

use super::PACKET_MAX_V4;
use crate::transport::mqtt::line::{LineError, Terms, Version};
use crate::transport::mqtt::reply::{Parcel, Surety};
use crate::transport::mqtt::topics;

/// Type, flags, length and packet id of a publish, at most.
const FRAME: usize = 7;

/// The first packet of a connection.
pub(in super::super) fn hello(terms: &Terms, password: Option<String>, output: &mut BytesMut) -> Result<(), LineError> {
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
pub(in super::super) fn publish(
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
pub(in super::super) fn size_of(version: Version, parcel: &Parcel) -> usize {
    match version {
        Version::V5 => {
            v5::Publish::new(&parcel.topic, Qos5::AtLeastOnce, Bytes::new(), Some(properties(parcel))).size()
                + parcel.payload.len()
                + FRAME
        }
        Version::V311 => parcel.topic.len() + parcel.payload.len() + FRAME,
    }
}

pub(in super::super) fn ack(version: Version, packet_id: u16, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => write5(&v5::Packet::PubAck(v5::PubAck::new(packet_id, None)), output),
        Version::V311 => write4(&v4::Packet::PubAck(v4::PubAck::new(packet_id)), output),
    }
}

/// Subscribes at QoS 1, to orders at QoS 0: what a broker kept of them while we were away is not meant any more. On 5.0 retained messages come only if wanted, and live ones keep their retain flag.
pub(in super::super) fn subscribe(
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

pub(in super::super) fn unsubscribe(
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

pub(in super::super) fn ping(version: Version, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => write5(&v5::Packet::PingReq(v5::PingReq), output),
        Version::V311 => write4(&v4::Packet::PingReq, output),
    }
}

/// The broker drops the will and keeps the session.
pub(in super::super) fn leave(version: Version, output: &mut BytesMut) -> Result<(), LineError> {
    match version {
        Version::V5 => {
            let goodbye = v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
            write5(&v5::Packet::Disconnect(goodbye), output)
        }
        Version::V311 => write4(&v4::Packet::Disconnect, output),
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
