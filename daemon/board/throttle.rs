//! Whether the board slows itself down: for heat, for current, for voltage.
//!
//! Three kinds of sign: a cooling device that is not at rest (`/sys/class/thermal/cooling_device*`, fans apart), a count of
//! events that grew (over-current on a Jetson, heat on x86), and a Raspberry Pi's bits of now.

use std::path::PathBuf;

use crate::board::files::Files;

/// Cooling devices that slow something down; the others turn fans or only exist.
const SLOWING: [&str; 4] = ["-throttle-alert", "hot-surface-alert", "cpufreq", "devfreq"];
/// The low bits of a Raspberry Pi's `get_throttled`: too little voltage, a capped clock, throttled, too warm. The high ones
/// say the same of the time since it was started.
const PI_NOW: i64 = 0xf;

/// Where the signs are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signs {
    /// Name and state of what slows down.
    devices: Vec<(String, PathBuf)>,
    counters: Vec<PathBuf>,
    pi: Option<PathBuf>,
}

/// Throttling just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// What is slowed down just now; empty: nothing.
    pub now: Vec<String>,
    /// Events since the board was started, over all counters.
    pub events: i64,
}

impl Signs {
    /// Looks for them.
    pub fn find(files: &Files) -> Self {
        let devices = files.list(&files.sys("class/thermal"), "cooling_device").into_iter().filter_map(|folder| {
            let kind = files.text(&folder.join("type"))?;
            let slows = kind == "Processor" || SLOWING.iter().any(|word| kind.contains(word));
            slows.then(|| (kind, folder.join("cur_state")))
        });
        let devices = devices.collect();
        let mut counters = Vec::new();
        for chip in files.list(&files.sys("class/hwmon"), "hwmon") {
            let counts =
                files.list(&chip, "oc").into_iter().filter(|path| path.to_string_lossy().ends_with("_event_cnt"));
            counters.extend(counts);
        }
        for core in files.list(&files.sys("devices/system/cpu"), "cpu") {
            let count = core.join("thermal_throttle/core_throttle_count");
            counters.extend(files.text(&count).map(|_| count));
        }
        Self { devices, counters, pi: Self::find_pi(files) }
    }

    /// The firmware's node has moved between models.
    fn find_pi(files: &Files) -> Option<PathBuf> {
        let platform = files.sys("devices/platform");
        let buses = files.list(&platform, "soc");
        let nodes = buses.iter().flat_map(|bus| files.list(bus, "soc")).chain(buses.iter().cloned());
        let files_of = nodes.map(|node| node.join("get_throttled"));
        files_of.into_iter().find(|path| files.text(path).is_some())
    }

    /// What they say just now.
    pub fn read(&self, files: &Files) -> Throttling {
        let slowed = |path: &PathBuf| files.number(path).is_some_and(|state| state > 0);
        let mut now: Vec<String> =
            self.devices.iter().filter(|(_, state)| slowed(state)).map(|(name, _)| name.clone()).collect();
        let bits = self.pi.as_ref().and_then(|path| {
            // Hexadecimal with or without its prefix.
            let text = files.text(path)?;
            i64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        });
        if bits.is_some_and(|bits| bits & PI_NOW != 0) {
            now.push("firmware".to_owned());
        }
        let events = self.counters.iter().filter_map(|path| files.number(path)).sum();
        Throttling { now, events }
    }
}
