//! Temperatures, and where each zone begins to be throttled.
//!
//! `/sys/class/thermal/thermal_zone*/{type,temp,trip_point_*_{type,temp}}`, all in thousandths of a degree. A zone whose
//! domain is switched off fails to read, or says -256 degrees; it is left out until it is back.

use std::path::PathBuf;

use crate::board::files::{Files, scaled};

/// What a die can have while its machine runs; anything else is a sensor that is off, or broken.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -60.0..=160.0;
/// A zone that is switched off says this on some kernels.
const SWITCHED_OFF: f64 = -200.0;
/// Where only the temperature of the emergency stop is known, throttling is assumed to begin so far below it: a Raspberry Pi
/// stops at 110 degrees and throttles from 80 to 85.
const BELOW_CRITICAL: f64 = 25.0;
/// A trip point below this is a setting that nobody made.
const TRIP_MIN: f64 = 30.0;
/// Constants that some boards show as zones; they measure nothing.
const MADE_UP: [&str; 2] = ["PMIC-Die", "thermal-fan-est"];
/// Trip points of a zone that are looked at; the kernel allows twelve.
const TRIPS_MAX: usize = 16;

/// A zone that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its `type`, with a number behind it where several have the same.
    pub name: String,
    /// Where throttling begins, in degrees Celsius; `None`: not known.
    pub limit: Option<f64>,
    temp: PathBuf,
}

/// A zone's temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    pub zone: String,
    pub celsius: f64,
    /// As in [`Zone`].
    pub limit: Option<f64>,
}

/// The zones of the board. What measures nothing is left out.
pub fn zones(files: &Files) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    for folder in files.list(&files.sys("class/thermal"), "thermal_zone") {
        let Some(kind) = files.text(&folder.join("type")).filter(|kind| !kind.is_empty()) else { continue };
        if MADE_UP.contains(&kind.as_str()) {
            continue;
        }
        let same = zones.iter().filter(|zone| zone.name == kind || zone.name.starts_with(&format!("{kind}-#"))).count();
        let name = if same == 0 { kind } else { format!("{kind}-#{}", same + 1) };
        zones.push(Zone { name, limit: limit(files, &folder), temp: folder.join("temp") });
    }
    zones
}

/// The lowest trip point at which the board slows itself down.
fn limit(files: &Files, folder: &std::path::Path) -> Option<f64> {
    let (mut slowed, mut stopped) = (None::<f64>, None::<f64>);
    for number in 0..TRIPS_MAX {
        let Some(kind) = files.text(&folder.join(format!("trip_point_{number}_type"))) else { break };
        let Some(at) = files.number(&folder.join(format!("trip_point_{number}_temp"))) else { continue };
        let at = scaled(at, 1e-3);
        if at < TRIP_MIN || !PLAUSIBLE.contains(&at) {
            continue;
        }
        let lowest = match kind.as_str() {
            "passive" | "hot" => &mut slowed,
            "critical" => &mut stopped,
            // A fan's speed: the board is cooled, not slowed.
            _ => continue,
        };
        *lowest = Some(lowest.map_or(at, |before| before.min(at)));
    }
    slowed.or_else(|| stopped.map(|at| at - BELOW_CRITICAL))
}

/// What each zone says just now.
pub fn read(files: &Files, zones: &[Zone]) -> Vec<Heat> {
    let read = |zone: &Zone| {
        let celsius = scaled(files.number(&zone.temp)?, 1e-3);
        if !PLAUSIBLE.contains(&celsius) {
            if celsius > SWITCHED_OFF {
                files.complain(&zone.temp, &format!("{celsius} degrees Celsius cannot be"));
            }
            return None;
        }
        Some(Heat { zone: zone.name.clone(), celsius, limit: zone.limit })
    };
    zones.iter().filter_map(read).collect()
}
