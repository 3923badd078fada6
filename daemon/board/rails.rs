//! Power: the rails that the board measures, and which of them is the whole.
//!
//! | sensor | file | unit |
//! |---|---|---|
//! | INA3221 (Jetson) | `in<n>_input`, `curr<n>_input`, named by `in<n>_label` | mV, mA |
//! | INA238 (Thor) and other `hwmon` | `power<n>_average` or `power<n>_input` | µW |
//! | powercap (RAPL) | `energy_uj`, a counter that wraps at `max_energy_range_uj` | µJ |
//!
//! A channel `NC` is not connected. An INA3221's seventh voltage is the sum of its shunts and no rail. One rail of the board's
//! input is the whole where there is one; where there is none, the sum of those that lie beside each other is.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::board::files::{Files, scaled};

/// Rails that measure the whole board, or the whole module, the best first. RAPL's `psys` is the platform.
const WHOLE: [&str; 5] = ["VIN", "VDD_IN", "POM_5V_IN", "psys", "power_meter"];
/// Rails that are fed by another measured one; added, they would count twice.
const BEHIND: [&str; 1] = ["VDDQ_VDD2_1V8AO"];
/// Chips whose power is the power of what they measure. Others show a limit, a part of a card, or one fan.
const CHIPS: [&str; 8] = ["ina3221", "ina238", "ina237", "ina226", "ina219", "ina230", "ina260", "power_meter"];
/// No board that this runs on takes more; a reading above it is nonsense.
const WATTS_MAX: f64 = 5000.0;

/// Where a rail's power comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// Millivolts and milliamperes.
    Product(PathBuf, PathBuf),
    /// Microwatts.
    Power(PathBuf),
    /// Microjoules, and where the counter wraps.
    Counter(PathBuf, i64),
}

/// A rail that is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Rail {
    pub name: String,
    source: Source,
    /// The counter's last value and when it was.
    before: Option<(Instant, i64)>,
}

/// The power of a rail.
#[derive(Clone, Debug, PartialEq)]
pub struct Power {
    pub rail: String,
    pub watts: f64,
}

/// All rails just now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Powers {
    pub rails: Vec<Power>,
    /// The board's, in watts; `None` where no sensor says anything.
    pub total: Option<f64>,
    /// Whether the powers are means since the last reading, not those of a moment.
    pub mean: bool,
}

/// The rails that this board measures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rails {
    rails: Vec<Rail>,
}

impl Rails {
    /// Looks for them.
    pub fn find(files: &Files) -> Self {
        let mut rails = Vec::new();
        for chip in files.list(&files.sys("class/hwmon"), "hwmon") {
            let Some(name) = files.text(&chip.join("name")).filter(|name| CHIPS.contains(&name.as_str())) else {
                continue;
            };
            if name == "ina3221" {
                channels(files, &chip, &mut rails);
            } else {
                whole_chip(files, &chip, &name, &mut rails);
            }
        }
        // A counter of a part is no use beside a sensor of the whole.
        if rails.is_empty() {
            counters(files, &mut rails);
        }
        Self { rails }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rails.is_empty()
    }

    /// Whether these are the same rails of the same sensors.
    pub fn has_the_rails_of(&self, other: &Self) -> bool {
        let same = |(one, other): (&Rail, &Rail)| one.name == other.name && one.source == other.source;
        self.rails.len() == other.rails.len() && self.rails.iter().zip(&other.rails).all(same)
    }

    /// The name of the rail that is the whole, or of the sum.
    pub fn whole(&self) -> String {
        let names: Vec<&str> = self.rails.iter().map(|rail| rail.name.as_str()).collect();
        match whole_of(&names) {
            Whole::Rail(index) => names[index].to_owned(),
            Whole::Sum(parts) => parts.iter().map(|index| names[*index]).collect::<Vec<_>>().join("+"),
        }
    }

    /// What each rail takes just now. A rail that fails is left out, and with it the total that needs it.
    pub fn read(&mut self, files: &Files, now: impl Fn() -> Instant) -> Powers {
        let watts: Vec<Option<f64>> = self.rails.iter_mut().map(|rail| rail.read(files, now())).collect();
        let names: Vec<&str> = self.rails.iter().map(|rail| rail.name.as_str()).collect();
        let total = match whole_of(&names) {
            Whole::Rail(index) => watts[index],
            Whole::Sum(parts) if parts.is_empty() => None,
            Whole::Sum(parts) => parts.iter().map(|index| watts[*index]).sum(),
        };
        let mean = self.rails.iter().any(|rail| matches!(rail.source, Source::Counter(..)));
        let read = self.rails.iter().zip(&watts);
        let rails = read.filter_map(|(rail, watts)| Some(Power { rail: rail.name.clone(), watts: (*watts)? }));
        Powers { rails: rails.collect(), total, mean }
    }
}

enum Whole {
    Rail(usize),
    Sum(Vec<usize>),
}

fn whole_of(names: &[&str]) -> Whole {
    if let Some(index) = WHOLE.iter().find_map(|whole| names.iter().position(|name| name == whole)) {
        return Whole::Rail(index);
    }
    Whole::Sum((0..names.len()).filter(|index| !BEHIND.contains(&names[*index])).collect())
}

/// The connected channels of an INA3221.
fn channels(files: &Files, chip: &Path, rails: &mut Vec<Rail>) {
    for number in 1..=3 {
        let Some(name) = files.text(&chip.join(format!("in{number}_label"))) else { continue };
        let (volts, amperes) = (chip.join(format!("in{number}_input")), chip.join(format!("curr{number}_input")));
        if !name.is_empty() && name != "NC" && files.text(&amperes).is_some() {
            rails.push(Rail { name, source: Source::Product(volts, amperes), before: None });
        }
    }
}

/// A chip with one power, or several.
fn whole_chip(files: &Files, chip: &Path, kind: &str, rails: &mut Vec<Rail>) {
    for number in 1..=8 {
        let files_of = ["average", "input"].map(|what| chip.join(format!("power{number}_{what}")));
        let Some(power) = files_of.into_iter().find(|path| files.text(path).is_some()) else { continue };
        let labels = [format!("power{number}_label"), format!("in{number}_label")];
        let label = labels.iter().find_map(|label| files.text(&chip.join(label)));
        // Thor's board has one of these, at its input, and no label.
        let name = label.unwrap_or_else(|| if kind == "ina238" { "VIN".to_owned() } else { kind.to_owned() });
        rails.push(Rail { name, source: Source::Power(power), before: None });
    }
}

/// RAPL's domains: `psys` where there is one, else the packages. What lies inside a package is part of it. Only root may read
/// them on most systems.
fn counters(files: &Files, rails: &mut Vec<Rail>) {
    for zone in files.list(&files.sys("class/powercap"), "intel-rapl:") {
        let inner = zone.file_name().is_some_and(|name| name.to_string_lossy().matches(':').count() > 1);
        let counter = zone.join("energy_uj");
        if inner || files.number(&counter).is_none() {
            continue;
        }
        let range = files.number(&zone.join("max_energy_range_uj")).unwrap_or(i64::MAX);
        let name = files.text(&zone.join("name")).unwrap_or_else(|| "package".to_owned());
        rails.push(Rail { name, source: Source::Counter(counter, range), before: None });
    }
}

impl Rail {
    fn read(&mut self, files: &Files, now: Instant) -> Option<f64> {
        let (watts, path) = match &self.source {
            Source::Product(volts, amperes) => {
                (scaled(files.number(volts)?, 1e-3) * scaled(files.number(amperes)?, 1e-3), amperes)
            }
            Source::Power(path) => (scaled(files.number(path)?, 1e-6), path),
            Source::Counter(path, range) => {
                let count = files.number(path)?;
                let (then, before) = self.before.replace((now, count))?;
                let used =
                    if count >= before { count - before } else { range.saturating_sub(before).saturating_add(count) };
                let seconds = now.saturating_duration_since(then).as_secs_f64();
                if seconds <= 0.0 {
                    return None;
                }
                (scaled(used, 1e-6) / seconds, path)
            }
        };
        if (0.0..=WATTS_MAX).contains(&watts) {
            return Some(watts);
        }
        files.complain(path, &format!("{watts} watts cannot be"));
        None
    }
}
