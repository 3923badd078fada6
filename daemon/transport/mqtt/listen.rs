//! What devices are there, and what they say of themselves: other people's topics, read over a connection of their own.
//!
//! A connection of its own, since telemetry comes in floods and requests must not stand behind it; without a session, since
//! what is kept at the broker comes again with every subscription. Nothing is published. Bounded in devices, topics and bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::line::{self, BoxFull, CHANNEL, Hand, Happening, Line, LineError, Terms};
use super::patience::{Loss, Patience};
use super::wire::Mail;
use crate::config;
use crate::fault::Fault;
use crate::home::{Device, Home, TOPIC_BYTES_MAX, discovery};

/// Announcements come in bursts; the list is made this long after the first.
const SETTLE: Duration = Duration::from_millis(500);
/// Topics that are read at most, announcements and states each; and devices that are announced.
const TOPICS_MAX: usize = 1000;
/// Filters of one subscription: some brokers take no more than a few dozen.
const FILTERS: usize = 16;
/// Subscriptions at a time; the line's box takes a few more.
const SUBSCRIPTIONS: usize = 16;
/// Acknowledgements in the line's box at a time; the rest of it is for subscriptions.
const ACKS: usize = CHANNEL / 2;
/// zigbee2mqtt's list of a large home.
const PACKET_MAX: u32 = 4 << 20;

/// Whose announcements are read.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The prefix of Home Assistant's discovery; empty: none.
    pub homeassistant: String,
    /// zigbee2mqtt's base topic; empty: none.
    pub zigbee2mqtt: String,
    /// Devices of the config, which come first and stay.
    pub devices: Vec<Device>,
}

impl Sources {
    /// Whether there is anything to listen to.
    pub fn is_silent(&self) -> bool {
        self.homeassistant.is_empty()
            && self.zigbee2mqtt.is_empty()
            && self.devices.iter().all(|device| device.topic.is_empty())
    }

    fn filters(&self) -> Vec<String> {
        let mut filters = Vec::new();
        if !self.homeassistant.is_empty() {
            filters.push(format!("{}/+/+/config", self.homeassistant));
            filters.push(format!("{}/+/+/+/config", self.homeassistant));
        }
        if !self.zigbee2mqtt.is_empty() {
            filters.push(self.zigbee_list());
        }
        filters
    }

    fn zigbee_list(&self) -> String {
        format!("{}/bridge/devices", self.zigbee2mqtt)
    }

    /// The devices that a message announces; `None`: it is no announcement.
    fn announced(&self, mail: &Mail) -> Option<Vec<Device>> {
        if !self.zigbee2mqtt.is_empty() && mail.topic == self.zigbee_list() {
            return Some(discovery::zigbee2mqtt(&self.zigbee2mqtt, &mail.payload));
        }
        let below = mail.topic.strip_prefix(&self.homeassistant)?.strip_prefix('/')?;
        let announces = !self.homeassistant.is_empty() && below.ends_with("/config");
        announces.then(|| discovery::home_assistant(&mail.topic, &mail.payload).into_iter().collect())
    }
}

/// Listens until it is dropped; a broker that is away is tried again.
pub async fn listen(settings: config::Mqtt, node: String, sources: Sources, home: Home) -> Result<(), Fault> {
    let terms = Terms {
        client_id: format!("moed-{node}-home"),
        session_expiry: Duration::ZERO,
        durable: false,
        packet_max: PACKET_MAX,
        will: None,
        ..super::terms(&settings, &node, "")?
    };
    let mut patience = Patience::default();
    let mut ears = Ears::new(sources, home);
    let addresses: Vec<_> = [&terms.address].into_iter().chain(&terms.fallback).cloned().collect();
    // A source that never ends: the addresses in turn, for as long as this is not dropped.
    for address in addresses.iter().cycle() {
        let (hand, mut line) = line::open(&Terms { address: address.clone(), ..terms.clone() });
        let mut since = None;
        let error = ears.hear(&hand, &mut line, &mut since).await;
        let loss =
            if error.is_about_us() { Loss::Refused } else { Loss::Lost(since.map(|since: Instant| since.elapsed())) };
        let pause = patience.after(loss).pause;
        tracing::warn!(%error, broker = %address, pause_ms = pause.as_millis(), "devices are not heard");
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

struct Ears {
    sources: Sources,
    home: Home,
    /// Devices by the topic that announced them.
    announced: BTreeMap<String, Vec<Device>>,
    /// Devices by the topic on which they speak.
    speakers: HashMap<String, Vec<Device>>,
    /// Topics of states that this connection has subscribed to.
    asked: BTreeSet<String>,
    /// Packet ids to acknowledge that are not in the line's box: no more than the broker has on its way.
    acks: VecDeque<u16>,
    /// Acknowledgements in the line's box.
    handed: usize,
}

impl Ears {
    fn new(sources: Sources, home: Home) -> Self {
        Self {
            sources,
            home,
            announced: BTreeMap::new(),
            speakers: HashMap::new(),
            asked: BTreeSet::new(),
            acks: VecDeque::new(),
            handed: 0,
        }
    }

    /// One connection, to its end.
    async fn hear(&mut self, hand: &Hand, line: &mut Line, since: &mut Option<Instant>) -> LineError {
        self.asked.clear();
        self.acks.clear();
        self.handed = 0;
        // When the list is made anew, where something has changed.
        let mut due = None;
        loop {
            let heard = match due {
                Some(due) => timeout_at(due, line.poll()).await,
                None => Ok(line.poll().await),
            };
            let done = match heard {
                Ok(Ok(happening)) => self.heed(hand, happening, since).map(|changed| {
                    if changed {
                        due.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                }),
                Ok(Err(error)) => return error,
                Err(_) => self.settle(hand).map(|whole| due = (!whole).then(|| Instant::now() + SETTLE)),
            };
            if done.is_err() {
                return LineError::Protocol("it does not take our subscriptions".to_owned());
            }
        }
    }

    /// Acts on what happened; whether the list has to be made anew.
    fn heed(&mut self, hand: &Hand, happening: Happening, since: &mut Option<Instant>) -> Result<bool, BoxFull> {
        match happening {
            Happening::Connected { .. } => {
                *since = Some(Instant::now());
                let filters = self.sources.filters();
                if !filters.is_empty() {
                    hand.subscribe(&filters, true)?;
                }
                Ok(true)
            }
            Happening::Subscribed { refused } => {
                if !refused.is_empty() {
                    tracing::warn!(refused = refused.len(), "the broker does not let us read topics of devices");
                }
                Ok(false)
            }
            Happening::Mail { mail, packet_id } => {
                if packet_id != 0 {
                    // A packet id names one message on its way, so there are no more than there are ids.
                    if self.acks.len() >= usize::from(u16::MAX) {
                        return Err(BoxFull);
                    }
                    self.acks.push_back(packet_id);
                    self.acknowledge(hand);
                }
                Ok(self.take(&mail))
            }
            Happening::AckSent => {
                self.handed = self.handed.saturating_sub(1);
                self.acknowledge(hand);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Hands over what has room; more when that has left.
    fn acknowledge(&mut self, hand: &Hand) {
        while self.handed < ACKS
            && let Some(packet_id) = self.acks.front()
            && hand.ack(*packet_id).is_ok()
        {
            self.acks.pop_front();
            self.handed += 1;
        }
    }

    /// Takes a message in; whether it changes which devices there are.
    fn take(&mut self, mail: &Mail) -> bool {
        let bytes = mail.payload.len();
        if bytes > discovery::PAYLOAD_MAX && mail.topic != self.sources.zigbee_list() {
            tracing::warn!(topic = mail.topic, bytes, limit = discovery::PAYLOAD_MAX, "a message too large to read");
            return false;
        }
        if let Some(mut devices) = self.sources.announced(mail) {
            let others = self.announced.iter().filter(|(topic, _)| **topic != mail.topic);
            let room = TOPICS_MAX.saturating_sub(others.map(|(_, devices)| devices.len()).sum());
            if devices.len() > room {
                tracing::warn!(
                    topic = mail.topic,
                    devices = devices.len(),
                    room,
                    limit = TOPICS_MAX,
                    "too many devices"
                );
                devices.truncate(room);
            }
            devices.iter_mut().for_each(Device::bound);
            if devices.is_empty() {
                return self.announced.remove(&mail.topic).is_some();
            }
            if self.announced.get(&mail.topic) == Some(&devices) {
                return false;
            }
            self.announced.insert(mail.topic.clone(), devices);
            return true;
        }
        let now = Timestamp::now();
        for device in self.speakers.get(&mail.topic).into_iter().flatten() {
            if let Some(text) = discovery::state(device, &mail.payload) {
                self.home.observe(&device.name, &text, now);
            }
        }
        false
    }

    /// Makes the list of devices, and subscribes to what the new ones say; whether to all of it.
    fn settle(&mut self, hand: &Hand) -> Result<bool, BoxFull> {
        let all = self.sources.devices.iter().chain(self.announced.values().flatten()).cloned().collect();
        let left_out = self.home.replace(all);
        let devices = self.home.devices();
        tracing::info!(devices = devices.len(), left_out, "devices are known");
        self.speakers.clear();
        for device in devices.iter().filter(|device| is_plain(&device.topic)) {
            if self.speakers.len() < TOPICS_MAX || self.speakers.contains_key(&device.topic) {
                self.speakers.entry(device.topic.clone()).or_default().push(device.clone());
            }
        }
        let new: Vec<String> = self.speakers.keys().filter(|topic| !self.asked.contains(*topic)).cloned().collect();
        for filters in new.chunks(FILTERS).take(SUBSCRIPTIONS) {
            hand.subscribe(filters, true)?;
            self.asked.extend(filters.iter().cloned());
        }
        Ok(new.len() <= FILTERS * SUBSCRIPTIONS)
    }
}

/// A topic that names one place: an announcement may ask us for nothing else.
fn is_plain(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && !topic.contains(['+', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use super::super::line::{Version, open};
    use super::*;

    fn ears() -> Ears {
        let sources = Sources { homeassistant: "ha".to_owned(), zigbee2mqtt: "z".to_owned(), devices: Vec::new() };
        Ears::new(sources, Home::default())
    }

    fn mail(topic: String, payload: String) -> Mail {
        Mail { topic, payload: payload.into_bytes(), ..Mail::default() }
    }

    #[test]
    fn a_broker_that_has_much_on_its_way_is_acknowledged_as_room_comes() {
        let (hand, _line) = open(&Terms::nowhere(Version::V311));
        let mut ears = ears();
        for packet_id in 1..=1000 {
            let mail = mail("other".to_owned(), String::new());
            ears.heed(&hand, Happening::Mail { mail, packet_id }, &mut None).unwrap();
        }
        assert_eq!((ears.handed, ears.acks.len()), (ACKS, 1000 - ACKS));
        let filters = ["f".to_owned()];
        hand.subscribe(&filters, true).expect("the box has room for subscriptions");
        ears.heed(&hand, Happening::AckSent, &mut None).unwrap();
        assert_eq!((ears.handed, ears.acks.len()), (ACKS, 999 - ACKS));
    }

    #[test]
    fn announcements_are_bounded_in_devices_and_in_bytes() {
        let mut ears = ears();
        let switch = |number: usize| format!(r#"{{"name": "switch {number}", "stat_t": "s/{number}"}}"#);
        for number in 0..TOPICS_MAX - 1 {
            assert!(ears.take(&mail(format!("ha/switch/{number}/config"), switch(number))));
        }
        let exposes = r#"{"exposes": [{"type": "switch"}]}"#;
        let list = format!(
            r#"[{{"friendly_name": "a", "definition": {exposes}}}, {{"friendly_name": "b", "definition": {exposes}}}]"#
        );
        assert!(ears.take(&mail("z/bridge/devices".to_owned(), list)));
        assert_eq!(ears.announced.values().flatten().count(), TOPICS_MAX);
        assert!(!ears.take(&mail("ha/switch/more/config".to_owned(), switch(0))));
        assert!(ears.take(&mail("ha/switch/0/config".to_owned(), String::new())), "one goes");
        let padded = switch(0) + &" ".repeat(discovery::PAYLOAD_MAX);
        assert!(!ears.take(&mail("ha/switch/0/config".to_owned(), padded)));
        let long = "x".repeat(10_000);
        let large = format!(
            r#"{{"name": "{long}", "dev": {{"sa": "{long}"}}, "unit_of_meas": "{long}", "stat_t": "s/{long}", "val_tpl": "{{{{ value_json.{long} }}}}"}}"#
        );
        assert!(ears.take(&mail("ha/switch/0/config".to_owned(), large)));
        let device = &ears.announced["ha/switch/0/config"][0];
        assert!(device.name.len() <= 256 && device.area.len() <= 256 && device.unit.len() <= 256, "{device:?}");
        assert_eq!((device.topic.as_str(), device.field.as_str()), ("", ""), "half of a topic is another topic");
    }
}
