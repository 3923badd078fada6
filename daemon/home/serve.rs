//! What a call of one of moed's own tools comes to: an answer from what is known, or a call for whoever asked.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::device::{Device, Risk};
use super::series::{Figure, Operation, Window};
use super::tools::{EVERYWHERE, NONE, Own};
use super::{Home, Known};
use crate::job::ToolCall;

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Served {
    /// It is answered here, with this text.
    Say(String),
    /// It goes to whoever asked, if the model was sure enough for this risk.
    Pass(Risk),
}

impl Home {
    /// Serves one call. Anything that is not wholly known here is passed on.
    pub fn serve(&self, call: &ToolCall, now: Timestamp) -> Served {
        let Some(own) = Own::named(&call.name) else { return Served::Pass(Risk::High) };
        let Ok(Value::Object(arguments)) = serde_json::from_str(&call.arguments) else {
            return Served::Pass(Risk::High);
        };
        let text = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("device") == NONE {
            return Served::Say("There is no such device here.".to_owned());
        }
        let known = self.known();
        let device = known.devices.iter().find(|device| device.name == text("device"));
        match own {
            Own::DeviceGet => {
                device.and_then(|device| state(&known, device)).map_or(Served::Pass(Risk::None), Served::Say)
            }
            Own::SensorStats => device
                .and_then(|device| statistics(&known, device, &arguments, now, &TimeZone::system()))
                .map_or(Served::Pass(Risk::None), Served::Say),
            Own::TimerSet | Own::TimerCancel | Own::RuleAdd => Served::Pass(Risk::Low),
            Own::DeviceSet => Served::Pass(device.map_or(Risk::High, Device::risk)),
            Own::AreaSet => {
                let (area, kind) = (text("area"), text("kind"));
                let meant = known
                    .devices
                    .iter()
                    .filter(|device| device.kind.word() == kind && (area == EVERYWHERE || device.area == area));
                Served::Pass(meant.map(Device::risk).max().unwrap_or(Risk::High))
            }
        }
    }

    /// The question that stands in for a call that the model was not sure of.
    pub fn question(call: &ToolCall) -> String {
        let arguments: Map<String, Value> = serde_json::from_str(&call.arguments).unwrap_or_default();
        let text = |key: &str| match arguments.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        };
        match Own::named(&call.name) {
            Some(Own::DeviceSet) => {
                format!(
                    "I am not sure I understood. Shall I set {} of {} to {}?",
                    text("property"),
                    text("device"),
                    text("value")
                )
            }
            Some(Own::AreaSet) => format!(
                "I am not sure I understood. Shall I set {} of every {} in {} to {}?",
                text("property"),
                text("kind").replace('_', " "),
                text("area"),
                text("value")
            ),
            _ => "I am not sure I understood. Can you say it another way?".to_owned(),
        }
    }
}

fn state(known: &Known, device: &Device) -> Option<String> {
    let state = known.states.get(&device.name).filter(|state| !state.text.is_empty())?;
    let unit = if device.unit.is_empty() || state.text.ends_with(&device.unit) {
        String::new()
    } else {
        format!(" {}", device.unit)
    };
    Some(format!("{} is {}{unit}.", device.name, state.text))
}

fn statistics(
    known: &Known,
    device: &Device,
    arguments: &Map<String, Value>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<String> {
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let operation = Operation::named(text("operation")?)?;
    let word = text("window")?;
    let window = Window::named(word, now, zone)?;
    let over = match word {
        "today" | "yesterday" => word.to_owned(),
        "1h" => "over the last hour".to_owned(),
        "24h" => "over the last 24 hours".to_owned(),
        days => format!("over the last {} days", days.trim_end_matches('d')),
    };
    // A device of which nothing was ever heard may be known to whoever asked.
    let state = known.states.get(&device.name)?;
    let Some(figure) = state.series.figure(operation, window) else {
        return Some(format!("I have no values of {} {over}.", device.name));
    };
    Some(sentence(device, operation, &over, &figure, zone))
}

fn sentence(device: &Device, operation: Operation, over: &str, figure: &Figure, zone: &TimeZone) -> String {
    let unit = if device.unit.is_empty() { String::new() } else { format!(" {}", device.unit) };
    let value = |value: f64| {
        let text = format!("{value:.2}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let name = &device.name;
    let at = figure.at.map(|at| format!(", at {}", clock(at, zone))).unwrap_or_default();
    let main = match operation {
        Operation::Max => format!("The highest value of {name} {over} was {}{at}", value(figure.value)),
        Operation::Min => format!("The lowest value of {name} {over} was {}{at}", value(figure.value)),
        Operation::Mean => format!("The mean of {name} {over} was {}", value(figure.value)),
        Operation::Count => format!("{name} reported {:.0} values {over}", figure.value),
        Operation::Trend if figure.value > 0.0 => format!("{name} rose by {} {over}", value(figure.value)),
        Operation::Trend if figure.value < 0.0 => format!("{name} fell by {} {over}", value(-figure.value)),
        Operation::Trend => format!("{name} did not change {over}"),
    };
    match figure.since {
        Some(since) => format!("{main} (known since {}).", clock(since, zone)),
        None => format!("{main}."),
    }
}

fn clock(seconds: i64, zone: &TimeZone) -> String {
    Timestamp::from_second(seconds)
        .map(|at| at.to_zoned_datetime(zone.clone()).strftime("%a %H:%M").to_string())
        .unwrap_or_default()
}
