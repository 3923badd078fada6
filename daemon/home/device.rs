//! One device: what it is called, where it is, what it can do, and how much harm a wrong call does.

use serde::{Deserialize, Serialize};

/// Characters of a name; longer ones are cut, since every one of them is a token or two in every prompt.
const NAME_MAX: usize = 64;
/// As MQTT bounds nothing sensible.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Of the name of a field that holds a state.
const FIELD_BYTES_MAX: usize = 64;
/// Other names of one device.
const ALIASES_MAX: usize = 4;

/// What a device is. The words are the ones that the model was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Light,
    Switch,
    Fan,
    Climate,
    MediaPlayer,
    Pump,
    Cover,
    Valve,
    Lock,
    Vacuum,
    Sensor,
    Contact,
}

impl Kind {
    /// Its word in prompts and calls.
    pub fn word(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Switch => "switch",
            Self::Fan => "fan",
            Self::Climate => "climate",
            Self::MediaPlayer => "media_player",
            Self::Pump => "pump",
            Self::Cover => "cover",
            Self::Valve => "valve",
            Self::Lock => "lock",
            Self::Vacuum => "vacuum",
            Self::Sensor => "sensor",
            Self::Contact => "contact",
        }
    }

    /// Reads a word, Home Assistant's domains among them.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "light" => Self::Light,
            "switch" => Self::Switch,
            "fan" => Self::Fan,
            "climate" | "thermostat" => Self::Climate,
            "media_player" => Self::MediaPlayer,
            "pump" => Self::Pump,
            "cover" => Self::Cover,
            "valve" => Self::Valve,
            "lock" => Self::Lock,
            "vacuum" => Self::Vacuum,
            "sensor" => Self::Sensor,
            "contact" | "binary_sensor" => Self::Contact,
            _ => return None,
        })
    }

    /// Whether a call can change it.
    pub fn is_settable(self) -> bool {
        !matches!(self, Self::Sensor | Self::Contact)
    }

    /// What a call can set, and what to.
    pub(super) fn properties(self) -> &'static [(&'static str, Setting)] {
        const SWITCHED: Setting = Setting::Words(&["on", "off"]);
        const SHUT: Setting = Setting::Words(&["open", "closed"]);
        match self {
            Self::Light => &[("state", SWITCHED), ("brightness", Setting::Percent), ("color", Setting::Text)],
            Self::Switch => &[("state", SWITCHED)],
            Self::Fan | Self::Pump => &[("state", SWITCHED), ("speed", Setting::Percent)],
            Self::Climate => &[("state", SWITCHED), ("temperature", Setting::Number), ("mode", Setting::Text)],
            Self::MediaPlayer => {
                &[("state", Setting::Words(&["on", "off", "playing", "paused"])), ("volume", Setting::Percent)]
            }
            Self::Cover | Self::Valve => &[("state", SHUT), ("position", Setting::Percent)],
            Self::Lock => &[("state", Setting::Words(&["locked", "unlocked"]))],
            Self::Vacuum => &[("state", Setting::Words(&["cleaning", "docked"]))],
            Self::Sensor | Self::Contact => &[],
        }
    }

    /// Other words that people use for it, in the singular.
    pub(super) fn synonyms(self) -> &'static [&'static str] {
        match self {
            Self::Light => &["light", "lamp", "bulb"],
            Self::Switch => &["switch", "plug", "socket", "outlet"],
            Self::Fan => &["fan", "ventilator"],
            Self::Climate => &["thermostat", "heating", "heater", "climate", "temperature"],
            Self::MediaPlayer => &["tv", "speaker", "radio", "music", "volume"],
            Self::Pump => &["pump"],
            Self::Cover => &["cover", "blind", "shutter", "curtain", "shade", "garage", "gate"],
            Self::Valve => &["valve", "water"],
            Self::Lock => &["lock", "door"],
            Self::Vacuum => &["vacuum", "hoover", "robot"],
            Self::Sensor => &["sensor", "temperature", "humidity", "reading", "level"],
            Self::Contact => &["door", "window", "motion", "contact"],
        }
    }
}

/// What a property is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Words(&'static [&'static str]),
    /// 0 to 100.
    Percent,
    Number,
    Text,
}

/// How sure the model must be before a call reaches whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    /// Reads.
    None,
    /// Can be taken back at once: a light.
    Low,
    /// Lets in people, water or heat: locks, valves, doors, heaters.
    High,
}

/// A device as the config and discovery give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    pub kind: Kind,
    #[serde(default)]
    pub area: String,
    #[serde(default)]
    pub floor: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Of a sensor's values, as it is written behind them.
    #[serde(default)]
    pub unit: String,
    /// A wrong call does harm, whatever the kind says.
    #[serde(default)]
    pub risky: bool,
    /// The topic on which it tells its state; empty: none.
    #[serde(default)]
    pub topic: String,
    /// The field of the state, where that is a JSON object; empty: the payload is the state.
    #[serde(default)]
    pub field: String,
}

impl Device {
    /// A device that is called, is and stands so, and has nothing else.
    pub fn new(name: impl Into<String>, kind: Kind, area: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            area: area.into(),
            floor: String::new(),
            aliases: Vec::new(),
            unit: String::new(),
            risky: false,
            topic: String::new(),
            field: String::new(),
        }
    }

    /// Takes what others wrote to bounds, so that it can be kept: texts are cut, a topic or field too long to be one is none.
    pub fn bound(&mut self) {
        for text in [&mut self.name, &mut self.area, &mut self.unit] {
            *text = clean(text);
        }
        if self.topic.len() > TOPIC_BYTES_MAX || self.field.len() > FIELD_BYTES_MAX {
            // The state cannot be told from half of either.
            self.topic.clear();
            self.field.clear();
        }
    }

    /// What a call that changes it risks.
    pub fn risk(&self) -> Risk {
        const HARMFUL: [&str; 8] = ["garage", "gate", "door", "oven", "stove", "heater", "boiler", "alarm"];
        let words = words(&self.name);
        let harmful = HARMFUL.iter().any(|word| words.iter().any(|own| own == word));
        match self.kind {
            Kind::Sensor | Kind::Contact => Risk::None,
            Kind::Lock | Kind::Valve => Risk::High,
            Kind::Cover | Kind::Switch | Kind::Pump | Kind::Climate if harmful => Risk::High,
            _ if self.risky => Risk::High,
            _ => Risk::Low,
        }
    }
}

/// A text from outside as one line: no control characters, no runs of white space, not too long.
pub(super) fn clean(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(NAME_MAX).collect::<String>().trim_end().to_owned()
}

/// Names cleaned, and told apart: of two with one name the second carries its area, or goes.
pub(super) fn settle(devices: Vec<Device>, most: usize) -> Vec<Device> {
    let mut taken = std::collections::HashSet::new();
    let mut settled = Vec::with_capacity(devices.len().min(most));
    for mut device in devices {
        device.name = clean(&device.name);
        device.area = clean(&device.area);
        device.floor = clean(&device.floor);
        device.unit = clean(&device.unit);
        device.aliases.truncate(ALIASES_MAX);
        device.aliases.iter_mut().for_each(|alias| *alias = clean(alias));
        device.aliases.retain(|alias| !alias.is_empty());
        if taken.contains(&device.name.to_lowercase()) && !device.area.is_empty() {
            device.name = format!("{} ({})", device.name, device.area);
        }
        if settled.len() < most && !device.name.is_empty() && taken.insert(device.name.to_lowercase()) {
            settled.push(device);
        }
    }
    settled
}

/// The words of a text, in lower case and the singular.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| {
            let word = word.to_lowercase();
            match word.strip_suffix('s') {
                Some(stem) if word.len() > 3 && !stem.ends_with('s') => stem.to_owned(),
                _ => word,
            }
        })
        .collect()
}
