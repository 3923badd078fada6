use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5;

use super::*;
use crate::transport::mqtt::line::Version;
use crate::transport::mqtt::reply::{Parcel, Surety};

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
        let mut input = BytesMut::from(bytes);
        let read = read(Version::V5, 1 << 20, &mut input).unwrap();
        let Some(Incoming::Goodbye(reason)) = read else { panic!("{read:?}") };
        assert_eq!((reason.to_string().as_str(), input.len()), ("session taken over (0x8E)", 0));
    }
    assert!(read(Version::V5, 1 << 20, &mut BytesMut::from(&[0xE0, 0x01][..])).unwrap().is_none());
    // A PUBACK of one byte: the library takes it off and asks for more.
    assert!(read(Version::V5, 1 << 20, &mut BytesMut::from(&[0x40, 0x01, 0x00][..])).is_err());
}

#[test]
fn a_broker_that_knows_no_5_0_is_understood_in_its_own_version() {
    let read = read(Version::V5, 1 << 20, &mut BytesMut::from(&[0x20, 0x02, 0x00, 0x01][..])).unwrap();
    let Some(Incoming::Refused(reason)) = read else { panic!("{read:?}") };
    assert_eq!((reason.to_string().as_str(), reason.is_about_us()), ("unsupported protocol version (0x84)", true));
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
        let Some(Incoming::Said(Happening::Mail { mail, packet_id: 0 })) = read_back else { panic!("{read_back:?}") };
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
        read_out(version, &bytes);
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
            read_out(version, &bytes);
        }
    }
}

/// Reads to the end, or to the first fault. What was understood is off the buffer: else it would be read for ever.
fn read_out(version: Version, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    let mut left = input.len();
    while let Ok(Some(packet)) = read(version, 1 << 20, &mut input) {
        assert!(input.len() < left, "{packet:?} is still there: {bytes:02x?}");
        left = input.len();
    }
}

#[test]
fn the_samples_are_what_they_say() {
    for bytes in samples() {
        let read = read(Version::V5, 1 << 20, &mut BytesMut::from(bytes.as_slice()));
        assert!(matches!(read, Ok(Some(_))), "{bytes:02x?}: {read:?}");
    }
}
