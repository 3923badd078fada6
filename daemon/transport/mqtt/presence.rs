//! What the node shows beside answers: its gauges, events of its life, and its sensors for Home Assistant.
//!
//! Gauges go out at QoS 0 and are not kept by the broker: the next ones are due soon. The device that Home Assistant reads
//! is retained, said at every connection, again when Home Assistant starts, and anew when sensors come or go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::{OsRng, TryRngCore};
use serde_json::{Map, Number, Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::card::Served;
use super::herald::Herald;
use super::link::{Link, Orders};
use super::reply::{Parcel, Surety};
use super::topics::Topics;
use crate::vitals::Vitals;

/// Where Home Assistant says that it has started, and reads devices.
pub(super) const HOME_ASSISTANT: &str = "homeassistant";
/// Many nodes hear the same birth: they answer spread over this long.
const JITTER_MS: u64 = 3_000;
/// What lets Home Assistant call a value old: this many missed gauges.
const MISSES: u32 = 3;
/// The rate of tokens since the gauges before; the one key that is no metric's name.
const RATE: &str = "moed_generated_tokens_per_second";

/// Something that happened to the node, as it is told on its `event` topic.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    pub event: &'static str,
    /// An object.
    pub more: Value,
}

/// What is shown, and with what.
pub(super) struct Presence {
    pub(super) topics: Topics,
    pub(super) herald: Herald,
    pub(super) vitals: Arc<Vitals>,
    pub(super) link: Link,
    /// What is said at every connection; the device is one of it.
    pub(super) orders: watch::Sender<Orders>,
    /// How often gauges go out; zero: never.
    pub(super) every: Duration,
    /// Whether there is a device for Home Assistant.
    pub(super) device: Option<Device>,
}

/// A device for Home Assistant; it names the model that is served.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) served: watch::Receiver<Served>,
    /// Raised when Home Assistant has started.
    pub(super) born: Arc<Notify>,
}

impl Presence {
    /// Shows until it is told to stop, or whoever could tell has gone; says first what has happened until then.
    pub(super) async fn show(self, mut news: mpsc::Receiver<News>, mut stop: oneshot::Receiver<()>) {
        let mut ticks = (!self.every.is_zero()).then(|| interval(self.every));
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut rate = Rate::default();
        let mut shown = None;
        // When the device is due to be said again.
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                () = async { match &mut ticks { Some(ticks) => { ticks.tick().await; } None => std::future::pending().await } } => {
                    let numbers = self.vitals.numbers();
                    self.send(self.gauges(&numbers, rate.of(&numbers, Instant::now())));
                    if let Some(device) = &self.device {
                        let said = self.device(device, &numbers);
                        if shown.as_ref() != Some(&said) {
                            self.send(said.clone());
                            self.orders.send_modify(|orders| {
                                orders.birth.retain(|parcel| parcel.topic != said.topic);
                                orders.birth.push(said.clone());
                            });
                            shown = Some(said);
                        }
                    }
                }
                () = async { match &self.device { Some(device) => device.born.notified().await, None => std::future::pending().await } } => {
                    let jitter = OsRng.try_next_u64().map_or(0, |number| number % JITTER_MS);
                    due = Some(tokio::time::Instant::now() + Duration::from_millis(jitter));
                }
                () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {
                    due = None;
                    if let Some(said) = shown.clone() {
                        self.send(said);
                    }
                }
                Some(News { event, more }) = news.recv() => self.send(self.herald.event(event, &more)),
                _told_or_gone = &mut stop => break,
            }
        }
        while let Ok(News { event, more }) = news.try_recv() {
            self.send(self.herald.event(event, &more));
        }
    }

    fn send(&self, parcel: Parcel) {
        // Gauges that nobody takes are old when somebody does; an event is in the log, too; the device is said again.
        if let Err(parcel) = self.link.send(parcel) {
            tracing::debug!(topic = parcel.topic, "not said: nobody is there to hear it");
        }
    }

    fn gauges(&self, numbers: &[(String, f64)], rate: f64) -> Parcel {
        let mut gauges = Map::new();
        gauges.insert("v".to_owned(), 1.into());
        gauges.insert("node".to_owned(), self.topics.node().into());
        gauges.extend(numbers.iter().filter_map(|(name, value)| Some((name.clone(), plain(*value)?))));
        gauges.extend(plain((rate * 10.0).round() / 10.0).map(|rate| (RATE.to_owned(), rate)));
        let payload = Value::Object(gauges).to_string().into_bytes();
        let mut parcel = Parcel::retained(self.topics.metrics(), payload, true);
        (parcel.retain, parcel.surety, parcel.expiry) = (false, Surety::Fleeting, Some(self.every * MISSES));
        parcel
    }

    /// The device with one sensor for each thing that there is to see.
    fn device(&self, device: &Device, numbers: &[(String, f64)]) -> Parcel {
        let node = self.topics.node();
        let id = format!("moed_{}", node.replace(['.', '-'], "_"));
        let mut sensors = Map::new();
        let mut add = |key: String, name: String, value: String, more: &[(&str, &str)]| {
            let mut sensor = Map::new();
            let own = [("p", "sensor"), ("name", &*name), ("stat_cla", "measurement"), ("val_tpl", &*value)];
            sensor.extend(own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), Value::from(*value))));
            sensor.insert("uniq_id".to_owned(), format!("{id}_{key}").into());
            sensors.insert(key, Value::Object(sensor));
        };
        let waiting = ["alarm", "interactive", "background"]
            .map(|priority| format!("value_json.get('moed_requests_waiting{{priority=\"{priority}\"}}', 0)"));
        add("waiting".into(), "Waiting requests".into(), format!("{{{{ {} }}}}", waiting.join(" + ")), &[]);
        add("running".into(), "Running requests".into(), "{{ value_json.moed_requests_running }}".into(), &[]);
        add(
            "tokens_per_second".into(),
            "Tokens per second".into(),
            format!("{{{{ value_json.{RATE} }}}}"),
            &[("unit_of_meas", "tokens/s")],
        );
        for (name, _) in numbers {
            let class = if name.starts_with("moed_temperature_celsius{") {
                [("dev_cla", "temperature"), ("unit_of_meas", "°C")]
            } else if name.starts_with("moed_power_watts{") {
                [("dev_cla", "power"), ("unit_of_meas", "W")]
            } else {
                continue;
            };
            let place = name.split('"').nth(1).unwrap_or_default();
            let key: String = place.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            add(
                format!("{}_{}", class[0].1, key.to_lowercase()),
                format!("{place} {}", class[0].1),
                format!("{{{{ value_json['{name}'] }}}}"),
                &class,
            );
        }
        let payload = json!({
            "dev": {
                "ids": [id], "name": format!("moed {node}"), "mf": "moed", "mdl": device.served.borrow().model,
                "sw": env!("CARGO_PKG_VERSION"),
            },
            "o": {"name": "moed", "sw": env!("CARGO_PKG_VERSION")},
            "avty_t": self.topics.available(),
            "stat_t": self.topics.metrics(),
            "exp_aft": (self.every * MISSES).as_secs().max(1),
            "qos": 0,
            "cmps": sensors,
        });
        Parcel::retained(device_topic(&id), payload.to_string().into_bytes(), true)
    }
}

/// Where Home Assistant reads a device.
fn device_topic(id: &str) -> String {
    format!("{HOME_ASSISTANT}/device/{id}/config")
}

/// Where Home Assistant says that it has started.
pub(super) fn birth_topic() -> String {
    format!("{HOME_ASSISTANT}/status")
}

/// A whole number as one.
fn plain(value: f64) -> Option<Value> {
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    let whole = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "compared after")]
    let same = (whole as f64 - value).abs() < f64::EPSILON;
    if same { Some(whole.into()) } else { Number::from_f64(value).map(Value::Number) }
}

/// Tokens a second since the look before.
#[derive(Default)]
struct Rate {
    before: Option<(f64, Instant)>,
}

impl Rate {
    fn of(&mut self, numbers: &[(String, f64)], now: Instant) -> f64 {
        let tokens = numbers.iter().find(|(name, _)| name == "moed_generated_tokens_total").map_or(0.0, |(_, n)| *n);
        let before = self.before.replace((tokens, now));
        before.map_or(0.0, |(then, at)| {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            if passed > 0.0 { (tokens - then).max(0.0) / passed } else { 0.0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        let topics = Topics::new("moed/v1", "hall");
        Presence {
            herald: Herald::new(&topics),
            topics,
            vitals: Arc::default(),
            link: Link::nowhere(),
            orders: watch::channel(Orders { birth: Vec::new(), leave: false }).0,
            every: Duration::from_secs(30),
            device: None,
        }
    }

    fn json_of(parcel: &Parcel) -> Value {
        serde_json::from_slice(&parcel.payload).unwrap()
    }

    #[test]
    fn gauges_carry_the_names_of_the_metrics_and_are_not_kept() {
        let numbers = [("moed_requests_running".to_owned(), 2.0), ("moed_queue_seconds_sum".to_owned(), 0.25)];
        let parcel = presence().gauges(&numbers, 12.34);
        let gauges = json_of(&parcel);
        assert_eq!(gauges["moed_requests_running"], json!(2));
        assert_eq!((&gauges["moed_queue_seconds_sum"], &gauges[RATE]), (&json!(0.25), &json!(12.3)));
        assert_eq!(
            (parcel.retain, parcel.surety, parcel.expiry),
            (false, Surety::Fleeting, Some(Duration::from_secs(90)))
        );
    }

    #[test]
    fn the_device_has_a_sensor_for_what_there_is_and_none_for_what_there_is_not() {
        let device = Device { served: watch::channel(Served::default()).1, born: Arc::default() };
        let parcel = presence().device(&device, &[]);
        assert_eq!((parcel.topic.as_str(), parcel.retain), ("homeassistant/device/moed_hall/config", true));
        let bare = json_of(&parcel);
        let keys = |value: &Value| value["cmps"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&bare), ["waiting", "running", "tokens_per_second"]);
        assert_eq!(bare["avty_t"], json!("moed/v1/node/hall/available"));
        let numbers = [
            ("moed_temperature_celsius{zone=\"cpu-thermal\"}".to_owned(), 51.0),
            ("moed_power_watts{rail=\"VDD_IN\"}".to_owned(), 7.5),
        ];
        let full = json_of(&presence().device(&device, &numbers));
        assert_eq!(keys(&full)[3..], ["temperature_cpu_thermal", "power_vdd_in"]);
        let sensor = &full["cmps"]["temperature_cpu_thermal"];
        assert_eq!((&sensor["dev_cla"], &sensor["unit_of_meas"]), (&json!("temperature"), &json!("°C")));
        assert_eq!(sensor["val_tpl"], json!("{{ value_json['moed_temperature_celsius{zone=\"cpu-thermal\"}'] }}"));
        let ids: Vec<_> = full["cmps"].as_object().unwrap().values().map(|sensor| sensor["uniq_id"].clone()).collect();
        assert!(ids.iter().all(|id| id.as_str().unwrap().starts_with("moed_hall_")), "{ids:?}");
    }

    #[test]
    fn the_rate_is_of_the_time_between_two_looks() {
        let mut rate = Rate::default();
        let tokens = |count: f64| [("moed_generated_tokens_total".to_owned(), count)];
        let now = Instant::now();
        assert!(rate.of(&tokens(10.0), now).abs() < 1e-9);
        let later = rate.of(&tokens(40.0), now + Duration::from_secs(10));
        assert!((later - 3.0).abs() < 1e-9, "{later}");
    }
}
