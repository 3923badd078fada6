//! Devices that others announce over MQTT: Home Assistant's discovery topics and zigbee2mqtt's list. Read, never written.
//!
//! Both are the announcers' formats, read leniently: what is not understood is left out.

use serde_json::{Map, Value};

use super::device::{Device, Kind};

/// More than any announcement needs.
pub const PAYLOAD_MAX: usize = 1 << 20;

/// One device of Home Assistant's discovery, from `<prefix>/<component>/[<node>/]<object>/config`; `None` for what is no device
/// of ours, and for an empty payload, which takes a device away.
pub fn home_assistant(topic: &str, payload: &[u8]) -> Option<Device> {
    let mut levels = topic.rsplit('/');
    if levels.next()? != "config" {
        return None;
    }
    let levels: Vec<&str> = levels.collect();
    // From the back: object, perhaps node, component, prefix.
    let component = levels.iter().rev().find_map(|level| Kind::from_word(level))?;
    let config: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let read = |long: &str, short: &str| config.get(long).or_else(|| config.get(short)).and_then(Value::as_str);
    let base = read("~", "~").unwrap_or_default();
    let whole = |topic: &str| topic.replace('~', base);
    let device = config.get("device").or_else(|| config.get("dev")).and_then(Value::as_object);
    let of_device = |long: &str, short: &str| {
        let device = device?;
        device.get(long).or_else(|| device.get(short)).and_then(Value::as_str)
    };
    // An entity's name is short where its device has one: "Kitchen" and "Temperature".
    let name = match (of_device("name", "name"), read("name", "name")) {
        (Some(device), Some(own)) if !own.starts_with(device) => format!("{device} {own}"),
        (_, Some(own)) => own.to_owned(),
        (Some(device), None) => device.to_owned(),
        (None, None) => return None,
    };
    let class = read("device_class", "dev_cla").unwrap_or_default();
    let template = read("value_template", "val_tpl").unwrap_or_default();
    Some(Device {
        area: of_device("suggested_area", "sa").unwrap_or_default().to_owned(),
        unit: read("unit_of_measurement", "unit_of_meas").unwrap_or_default().to_owned(),
        risky: matches!(class, "garage" | "gate" | "door" | "heat" | "gas" | "water"),
        topic: read("state_topic", "stat_t").map(whole).unwrap_or_default(),
        field: field_of(template).unwrap_or_default().to_owned(),
        ..Device::new(name, component, "")
    })
}

/// The field that the usual template takes: `{{ value_json.temperature }}`.
fn field_of(template: &str) -> Option<&str> {
    let rest = template.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let field = rest.strip_prefix("value_json.")?;
    field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(field)
}

/// The devices of `<base>/bridge/devices`.
pub fn zigbee2mqtt(base: &str, payload: &[u8]) -> Vec<Device> {
    let Ok(Value::Array(entries)) = serde_json::from_slice(payload) else { return Vec::new() };
    entries.iter().flat_map(|entry| zigbee_device(base, entry)).collect()
}

/// What one Zigbee device shows: what can be set under its own name, what it measures under names of their own.
fn zigbee_device(base: &str, entry: &Value) -> Vec<Device> {
    let Some(name) = entry.get("friendly_name").and_then(Value::as_str) else { return Vec::new() };
    let Some(exposes) = entry.pointer("/definition/exposes").and_then(Value::as_array) else { return Vec::new() };
    let topic = format!("{base}/{name}");
    let word = |expose: &Value, key: &str| expose.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for expose in exposes {
        let (kind, property) = (word(expose, "type"), word(expose, "property"));
        if let Some(settable) = Kind::from_word(&kind).filter(|kind| kind.is_settable()) {
            found.push(Device { topic: topic.clone(), field: "state".to_owned(), ..Device::new(name, settable, "") });
        } else if kind == "numeric" && !word(expose, "unit").is_empty() && property != "linkquality" {
            let title = format!("{name} {}", property.replace('_', " "));
            found.push(Device {
                unit: word(expose, "unit"),
                topic: topic.clone(),
                field: property,
                ..Device::new(title, Kind::Sensor, "")
            });
        } else if kind == "binary" && matches!(property.as_str(), "contact" | "occupancy" | "water_leak" | "smoke") {
            let title = format!("{name} {}", property.replace('_', " "));
            found.push(Device { topic: topic.clone(), field: property, ..Device::new(title, Kind::Contact, "") });
        }
    }
    found
}

/// A device's state in a payload on its topic; `None` where it is not in there.
pub fn state(device: &Device, payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    if device.field.is_empty() {
        return Some(text.to_owned());
    }
    let value: Value = serde_json::from_str(text).ok()?;
    Some(match value.get(&device.field)? {
        Value::String(text) => text.to_lowercase(),
        Value::Bool(set) => match (device.kind, set) {
            // zigbee2mqtt's contact is true while it is closed.
            (Kind::Contact, set) if device.field == "contact" => if *set { "closed" } else { "open" }.to_owned(),
            (_, true) => "on".to_owned(),
            (_, false) => "off".to_owned(),
        },
        Value::Number(number) => number.to_string(),
        _ => return None,
    })
}
