//! What the board says, as metrics. A sensor that has gone takes its series with it: an old temperature looks like a new one.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::board::heat::Heat;
use crate::board::load::Load;
use crate::board::rails::Powers;
use crate::board::throttle::Throttling;

/// One label whose values are names that the board gives: as many as it has sensors.
macro_rules! one_name {
    ($type:ident, $label:ident) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $type {
            $label: String,
        }
    };
}
one_name!(Zone, zone);
one_name!(Rail, rail);
one_name!(Clock, clock);
one_name!(Phase, phase);
one_name!(Kind, kind);

type Decimal = Gauge<f64, AtomicU64>;

/// The board's metrics.
#[derive(Default)]
pub(super) struct BoardVitals {
    temperature: Family<Zone, Decimal>,
    power: Family<Rail, Decimal>,
    energy: Family<Phase, Counter<f64, AtomicU64>>,
    idle_power: Family<Kind, Decimal>,
    throttled: Gauge,
    throttle_events: Gauge,
    gpu_load: Family<Kind, Decimal>,
    clock: Family<Clock, Decimal>,
    pressure: Family<Kind, Decimal>,
    level: Gauge,
}

impl BoardVitals {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("temperature_celsius", "Temperature of a zone", self.temperature.clone());
        registry.register("power_watts", "Power of a rail; `total` is the board's", self.power.clone());
        registry.register("energy_joules", "Energy of the board, by what it was for", self.energy.clone());
        registry.register("idle_power_watts", "Power of the idle board, as learned", self.idle_power.clone());
        registry.register("throttled", "1 while the board slows itself down", self.throttled.clone());
        registry.register(
            "throttle_events",
            "Events of throttling since the board was started",
            self.throttle_events.clone(),
        );
        registry.register("gpu_load_ratio", "Share of the time that the GPU works", self.gpu_load.clone());
        registry.register("clock_hertz", "Clocks", self.clock.clone());
        registry.register(
            "memory_pressure_ratio",
            "Share of the last ten seconds in which memory was waited for",
            self.pressure.clone(),
        );
        registry.register("governor_level", "0 free, 1 eased, 2 slowed, 3 shedding, 4 refusing", self.level.clone());
    }
}

impl super::Vitals {
    /// Temperatures, clocks and throttling just now.
    pub fn set_board(&self, heats: &[Heat], load: &Load, throttling: &Throttling) {
        let board = &self.board;
        board.temperature.clear();
        for heat in heats {
            board.temperature.get_or_create(&Zone { zone: heat.zone.clone() }).set(heat.celsius);
        }
        board.gpu_load.clear();
        if let Some(load) = load.gpu {
            board.gpu_load.get_or_create(&Kind { kind: "gpu".to_owned() }).set(load);
        }
        board.clock.clear();
        for (name, hertz) in &load.clocks {
            board.clock.get_or_create(&Clock { clock: name.clone() }).set(*hertz);
        }
        board.throttled.set(i64::from(!throttling.now.is_empty()));
        board.throttle_events.set(throttling.events);
    }

    /// Power just now.
    pub fn set_power(&self, powers: &Powers) {
        let board = &self.board;
        board.power.clear();
        for power in &powers.rails {
            board.power.get_or_create(&Rail { rail: power.rail.clone() }).set(power.watts);
        }
        if let Some(total) = powers.total {
            board.power.get_or_create(&Rail { rail: "total".to_owned() }).set(total);
        }
    }

    /// Joules since the start, by phase, and the idle board's watts.
    pub fn set_energy(&self, phases: &[(&str, f64)], idle_watts: Option<f64>) {
        for (phase, joules) in phases {
            let counter = self.board.energy.get_or_create(&Phase { phase: (*phase).to_owned() }).clone();
            counter.inc_by((joules - counter.get()).max(0.0));
        }
        if let Some(watts) = idle_watts {
            self.board.idle_power.get_or_create(&Kind { kind: "learned".to_owned() }).set(watts);
        }
    }

    /// How much memory is waited for.
    pub fn set_pressure(&self, some: Option<f64>, full: Option<f64>) {
        self.board.pressure.clear();
        for (kind, share) in [("some", some), ("full", full)] {
            if let Some(share) = share {
                self.board.pressure.get_or_create(&Kind { kind: kind.to_owned() }).set(share);
            }
        }
    }

    /// The governor's level, 0 (free) to 4 (refusing).
    pub fn set_governor_level(&self, level: usize) {
        self.board.level.set(super::signed(level));
    }
}

#[cfg(test)]
mod tests {
    use crate::board::heat::Heat;
    use crate::board::load::Load;
    use crate::board::throttle::Throttling;
    use crate::vitals::Vitals;

    #[test]
    fn a_zone_that_has_gone_has_no_temperature() {
        let vitals = Vitals::new();
        let heat = |zone: &str| Heat { zone: zone.to_owned(), celsius: 51.5, limit: None };
        let set = |heats: &[Heat]| vitals.set_board(heats, &Load::default(), &Throttling::default());
        set(&[heat("cpu"), heat("gpu")]);
        vitals.set_energy(&[("decode", 2.5)], None);
        vitals.set_energy(&[("decode", 4.0)], None);
        let page = vitals.page();
        assert!(page.contains("moed_temperature_celsius{zone=\"gpu\"} 51.5"), "{page}");
        assert!(page.contains("moed_energy_joules_total{phase=\"decode\"} 4.0"), "{page}");
        set(&[heat("cpu")]);
        let page = vitals.page();
        assert!(page.contains("zone=\"cpu\"") && !page.contains("zone=\"gpu\""), "{page}");
    }
}
