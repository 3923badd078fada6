//! moed's own tools, as the model was trained on them, and the list of devices beside them.

use serde_json::{Value, json};

use super::device::{Device, Kind, Setting};
use crate::job::Tool;

/// What a call may name where none of the devices is meant: without it the grammar would turn a refusal into a wrong call.
pub(super) const NONE: &str = "none of these";
/// Characters of a colour or a mode.
const TEXT_MAX: usize = 32;
/// Everywhere, in the place of an area.
pub(super) const EVERYWHERE: &str = "all";

pub(super) const OPERATIONS: [&str; 5] = ["max", "min", "mean", "trend", "count"];
pub(super) const WINDOWS: [&str; 6] = ["1h", "24h", "today", "yesterday", "7d", "30d"];

/// The tools for these devices: as the prompt shows them, and as the grammar sees them, where names are choices.
pub(super) fn offer(devices: &[Device]) -> (Vec<Tool>, Vec<Tool>) {
    let some = |fits: fn(&Device) -> bool| devices.iter().any(fits);
    let settable = |device: &Device| device.kind.is_settable();
    let measures = |device: &Device| device.kind == Kind::Sensor;
    let tools: Vec<Own> = [
        (some(settable), Own::DeviceSet),
        (some(|device| device.kind.is_settable() && !device.area.is_empty()), Own::AreaSet),
        (true, Own::DeviceGet),
        (true, Own::TimerSet),
        (true, Own::TimerCancel),
        (some(measures), Own::SensorStats),
        (some(measures), Own::RuleAdd),
    ]
    .into_iter()
    .filter_map(|(offered, tool)| offered.then_some(tool))
    .collect();
    let shown = tools.iter().map(|tool| tool.tool(&|_| json!({"type": "string"}))).collect();
    let narrowed = tools.iter().map(|tool| match tool {
        Own::DeviceSet | Own::AreaSet => {
            Tool { parameters: Some(alternatives(*tool, devices)), ..tool.tool(&|_| Value::Null) }
        }
        _ => tool.tool(&|what| choices(what, devices)),
    });
    (shown, narrowed.collect())
}

/// The parameters of a tool that sets: for each kind of device and each of its properties what that can be set to, so that no
/// lock is dimmed and no lamp unlocked.
fn alternatives(tool: Own, devices: &[Device]) -> Value {
    let closed = |properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(|fields| fields.keys()).collect();
        json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
    };
    let mut kinds: Vec<Kind> = devices.iter().map(|device| device.kind).filter(|kind| kind.is_settable()).collect();
    kinds.sort_by_key(|kind| kind.word());
    kinds.dedup();
    let mut found = Vec::new();
    for kind in kinds {
        for (property, setting) in kind.properties() {
            let value = match setting {
                Setting::Words(words) => json!({"enum": words}),
                Setting::Percent => json!({"type": "integer", "minimum": 0, "maximum": 100}),
                Setting::Number => json!({"type": "number"}),
                Setting::Text => json!({"type": "string", "maxLength": TEXT_MAX}),
            };
            let (property, of_kind) = (json!({"const": property}), |device: &&Device| device.kind == kind);
            found.push(closed(if tool == Own::AreaSet {
                let (area, kind) = (choices(Names::Area, devices), json!({"const": kind.word()}));
                json!({"area": area, "kind": kind, "property": property, "value": value})
            } else {
                let names: Vec<&str> = devices.iter().filter(of_kind).map(|device| device.name.as_str()).collect();
                json!({"device": {"enum": names}, "property": property, "value": value})
            }));
        }
    }
    if tool == Own::DeviceSet {
        let any = json!({"type": "string", "maxLength": TEXT_MAX});
        found.push(closed(json!({"device": {"const": NONE}, "property": any, "value": any})));
    }
    json!({"type": "object", "anyOf": found})
}

/// The devices, one a line, without their states: the list is the same in every prompt and is read once.
pub(super) fn list(devices: &[Device]) -> String {
    let mut text = "Devices:".to_owned();
    for device in devices {
        text.push('\n');
        text.push_str(&device.name);
        for alias in &device.aliases {
            text.push_str(" / ");
            text.push_str(alias);
        }
        text.push_str(" (");
        text.push_str(&device.kind.word().replace('_', " "));
        for place in [&device.area, &device.floor].into_iter().filter(|place| !place.is_empty()) {
            text.push_str(", ");
            text.push_str(place);
        }
        text.push(')');
    }
    text
}

/// What a parameter names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Device,
    Sensor,
    Area,
    Kind,
}

fn choices(what: Names, devices: &[Device]) -> Value {
    let mut names: Vec<&str> = match what {
        Names::Device => names(devices, |_| true),
        Names::Sensor => names(devices, |device| device.kind == Kind::Sensor),
        Names::Area => devices.iter().map(|device| device.area.as_str()).filter(|area| !area.is_empty()).collect(),
        Names::Kind => {
            devices.iter().filter(|device| device.kind.is_settable()).map(|device| device.kind.word()).collect()
        }
    };
    names.sort_unstable();
    names.dedup();
    match what {
        Names::Area => names.push(EVERYWHERE),
        Names::Kind => {}
        _ => names.push(NONE),
    }
    json!({"type": "string", "enum": names})
}

fn names(devices: &[Device], fits: fn(&Device) -> bool) -> Vec<&str> {
    devices.iter().filter(|device| fits(device)).map(|device| device.name.as_str()).collect()
}

/// One of moed's own tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    DeviceSet,
    AreaSet,
    DeviceGet,
    TimerSet,
    TimerCancel,
    SensorStats,
    RuleAdd,
}

impl Own {
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [
            Self::DeviceSet,
            Self::AreaSet,
            Self::DeviceGet,
            Self::TimerSet,
            Self::TimerCancel,
            Self::SensorStats,
            Self::RuleAdd,
        ];
        all.into_iter().find(|tool| tool.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeviceSet => "device_set",
            Self::AreaSet => "area_set",
            Self::DeviceGet => "device_get",
            Self::TimerSet => "timer_set",
            Self::TimerCancel => "timer_cancel",
            Self::SensorStats => "sensor_stats",
            Self::RuleAdd => "rule_add",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::DeviceSet => "Set a property of one device",
            Self::AreaSet => "Set a property of all devices of a kind in an area, or in area all",
            Self::DeviceGet => "Read the current state of one device",
            Self::TimerSet => "Start a timer",
            Self::TimerCancel => "Cancel a timer",
            Self::SensorStats => "Statistics of a sensor's past values",
            Self::RuleAdd => "Tell the user when a sensor passes a limit",
        }
    }

    fn tool(self, names: &dyn Fn(Names) -> Value) -> Tool {
        let (integer, number, string) =
            (json!({"type": "integer"}), json!({"type": "number"}), json!({"type": "string"}));
        let value = json!({"type": ["string", "number"]});
        let (properties, required) = match self {
            Self::DeviceSet => (
                json!({"device": names(Names::Device), "property": string, "value": value}),
                json!(["device", "property", "value"]),
            ),
            Self::AreaSet => (
                json!({"area": names(Names::Area), "kind": names(Names::Kind), "property": string, "value": value}),
                json!(["area", "kind", "property", "value"]),
            ),
            Self::DeviceGet => (json!({"device": names(Names::Device)}), json!(["device"])),
            Self::TimerSet => {
                (json!({"hours": integer, "minutes": integer, "seconds": integer, "name": string}), json!([]))
            }
            Self::TimerCancel => (json!({"name": string}), json!([])),
            Self::SensorStats => (
                json!({
                    "device": names(Names::Sensor),
                    "operation": {"type": "string", "enum": OPERATIONS},
                    "window": {"type": "string", "enum": WINDOWS},
                }),
                json!(["device", "operation", "window"]),
            ),
            Self::RuleAdd => {
                (json!({"device": names(Names::Sensor), "above": number, "below": number}), json!(["device"]))
            }
        };
        let mut parameters = json!({"type": "object", "properties": properties});
        if required.as_array().is_some_and(|required| !required.is_empty()) {
            parameters["required"] = required;
        }
        Tool {
            name: self.name().to_owned(),
            description: Some(self.description().to_owned()),
            parameters: Some(parameters),
            strict: false,
        }
    }
}
