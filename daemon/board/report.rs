//! The board in one look, for `moed doctor` and `/status`: what it is, what it measures, and what stands in the way.
//!
//! [`report`] reads everything once, within a few seconds however broken the board is. [`Report::to_json`] is the shape that
//! machines read; [`Report::lines`] says the same to people; [`Report::advice`] is what an operator may want to change, each
//! with how.

use serde_json::{Value, json};

use crate::board::files::Files;
use crate::board::heat::{self, Heat};
use crate::board::identity::{self, Identity};
use crate::board::load::{Clocks, Load};
use crate::board::memory::{self, Memory, Swap};
use crate::board::patience::Patience;
use crate::board::rails::{Powers, Rails};
use crate::board::throttle::{Signs, Throttling};
use crate::config::Board as Roots;

/// What one look finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub identity: Identity,
    pub heats: Vec<Heat>,
    pub powers: Powers,
    /// The rail that is the whole, or the sum that stands for it; empty without a sensor.
    pub whole: String,
    pub load: Load,
    pub throttling: Throttling,
    pub memory: Memory,
    /// Bytes that this process may still take.
    pub room: Option<u64>,
    pub swaps: Vec<Swap>,
    /// Files that block.
    pub blocked: Vec<String>,
}

/// Reads the board once.
pub fn report(roots: &Roots) -> Report {
    let mut patience = Patience::new(Files::new(roots.clone()));
    let mut report = patience.read(look).unwrap_or_default();
    report.blocked = patience.lost().iter().map(|path| path.display().to_string()).collect();
    report
}

fn look(files: &Files) -> Report {
    let mut rails = Rails::find(files);
    let whole = if rails.is_empty() { String::new() } else { rails.whole() };
    let mut powers = rails.read(files, std::time::Instant::now);
    if powers.mean {
        // A counter says something from its second reading on.
        std::thread::sleep(std::time::Duration::from_millis(100));
        powers = rails.read(files, std::time::Instant::now);
    }
    Report {
        identity: identity::read(files),
        heats: heat::read(files, &heat::zones(files)),
        powers,
        whole,
        load: Clocks::find(files).read(files),
        throttling: Signs::find(files).read(files),
        memory: memory::read(files),
        room: memory::room(files),
        swaps: memory::swaps(files),
        blocked: Vec::new(),
    }
}

impl Report {
    /// Whether CPU and GPU share one memory here, as on every Jetson.
    pub fn is_unified(&self) -> bool {
        self.identity.l4t.is_some()
    }

    /// For machines. Absent sensors are empty lists and nulls.
    pub fn to_json(&self) -> Value {
        let heats =
            self.heats.iter().map(|heat| json!({"zone": heat.zone, "celsius": heat.celsius, "limit": heat.limit}));
        let rails = self.powers.rails.iter().map(|power| json!({"rail": power.rail, "watts": round(power.watts)}));
        let swaps = self.swaps.iter();
        let swaps =
            swaps.map(|swap| json!({"name": swap.name, "bytes": swap.bytes, "used": swap.used, "zram": swap.zram}));
        let clocks: serde_json::Map<String, Value> =
            self.load.clocks.iter().map(|(name, hertz)| (name.clone(), json!(hertz))).collect();
        json!({
            "model": self.identity.model,
            "l4t": self.identity.l4t,
            "jetpack": self.identity.jetpack,
            "power_mode": self.identity.power_mode,
            "temperatures": heats.collect::<Vec<_>>(),
            "power": {"watts": self.powers.total.map(round), "of": self.whole, "rails": rails.collect::<Vec<_>>()},
            "gpu_load": self.load.gpu,
            "clocks": clocks,
            "throttled": self.throttling.now,
            "throttle_events": self.throttling.events,
            "memory": {
                "total": self.memory.total, "available": self.memory.available, "room": self.room,
                "some_pressure": self.memory.some_pressure, "full_pressure": self.memory.full_pressure,
                "unified": self.is_unified(), "swaps": swaps.collect::<Vec<_>>(),
            },
            "blocked": self.blocked,
            "advice": self.advice(),
        })
    }

    /// For people: a name and what there is to say of it.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let none = || "no sensor".to_owned();
        let joined = |parts: Vec<String>| if parts.is_empty() { none() } else { parts.join(", ") };
        let mut lines = vec![("board", self.identity.model.clone().unwrap_or_else(|| "unknown".to_owned()))];
        if let Some(l4t) = &self.identity.l4t {
            lines.push(("l4t", format!("{l4t} ({})", self.identity.jetpack.unwrap_or("unknown JetPack"))));
        }
        if let Some(mode) = &self.identity.power_mode {
            lines.push(("power mode", mode.clone()));
        }
        let heat = |heat: &Heat| {
            let limit = heat.limit.map(|limit| format!(" of {limit:.0}")).unwrap_or_default();
            format!("{} {:.1}{limit} °C", heat.zone, heat.celsius)
        };
        lines.push(("temperature", joined(self.heats.iter().map(heat).collect())));
        let power = self.powers.total.map_or_else(none, |watts| format!("{watts:.2} W ({})", self.whole));
        lines.push(("power", power));
        if !self.throttling.now.is_empty() || self.throttling.events > 0 {
            let now =
                if self.throttling.now.is_empty() { "not now".to_owned() } else { self.throttling.now.join(", ") };
            lines.push(("throttled", format!("{now}; {} events since the start of the board", self.throttling.events)));
        }
        if let (Some(available), Some(total)) = (self.memory.available, self.memory.total) {
            let kind = if self.is_unified() { ", shared by CPU and GPU" } else { "" };
            lines.push(("memory", format!("{} of {} available{kind}", mib(available), mib(total))));
        }
        let swap = |swap: &Swap| format!("{} {}{}", swap.name, mib(swap.bytes), if swap.zram { " (zram)" } else { "" });
        lines.push((
            "swap",
            if self.swaps.is_empty() {
                "none".to_owned()
            } else {
                self.swaps.iter().map(swap).collect::<Vec<_>>().join(", ")
            },
        ));
        lines
    }

    /// What an operator may want to change, each with how.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let zram = self.swaps.iter().any(|swap| swap.zram);
        if self.is_unified() && zram {
            advice.push(
                "zram takes from the memory that the GPU needs, and GPU memory cannot be swapped: `systemctl disable nvzramconfig`, and swap on NVMe instead"
                    .to_owned(),
            );
        }
        if self.is_unified() && self.identity.l4t.as_deref().is_some_and(limits_nvmap) {
            advice.push(
                "this L4T refuses large NvMap allocations while memory is free: start moed soon after the boot, or take a later L4T"
                    .to_owned(),
            );
        }
        if self.memory.available.is_some() && self.memory.some_pressure.is_none() {
            advice.push(
                "this kernel does not report memory pressure (`CONFIG_PSI`): moed goes by what is available alone"
                    .to_owned(),
            );
        }
        if self.powers.total.is_none() {
            advice.push("no power sensor can be read: answers carry no energy".to_owned());
        }
        if !self.throttling.now.is_empty() {
            advice.push(format!(
                "the board slows itself down ({}): look at its cooling and its supply",
                self.throttling.now.join(", ")
            ));
        }
        for path in &self.blocked {
            advice.push(format!("reading `{path}` blocks: the sensor or its bus hangs"));
        }
        advice
    }
}

/// From 36.4.7 on a security fix makes large NvMap allocations fail although memory is free.
fn limits_nvmap(l4t: &str) -> bool {
    let numbers: Vec<u32> = l4t.split('.').map_while(|part| part.parse().ok()).collect();
    numbers.first() == Some(&36)
        && numbers.as_slice() >= [36, 4, 7].as_slice()
        && numbers.as_slice() < [36, 5].as_slice()
}

fn round(watts: f64) -> f64 {
    (watts * 1e3).round() / 1e3
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
