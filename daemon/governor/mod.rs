//! What the daemon does when the board becomes hot, draws too much or runs short of memory: a written policy, carried out.
//!
//! Pure: a [`Reading`] and the time go in, a [`Verdict`] comes out, and every change is a [`Notice`]. The policy is
//! `decisions/0013-heat-power-and-memory.md` and the table in [`level`]. Who reads sensors and who obeys is not known here:
//! the engine gets an `Allowance`, the queue asks [`Willingness`].

pub mod level;
pub mod notice;
pub mod squeeze;
pub mod willingness;

use std::time::{Duration, Instant};

pub use level::Level;
pub use notice::{Cause, Notice};
pub use willingness::Willingness;

use crate::board::heat::Heat;
use crate::config::Governor as Settings;
use crate::engine::oversight::Allowance;
use crate::governor::squeeze::Squeeze;

/// Without a reading for this long a sensor is given up: what it said does not hold any more.
const BLIND_MAX: Duration = Duration::from_mins(1);
/// Power is judged by its mean over about this long: a prompt's peak is no draught.
const POWER_MEAN: f64 = 2.0;
/// A level for power holds at least this long before the next one, so that its effect is seen first.
const POWER_STEP: Duration = Duration::from_secs(2);
/// Below this share of the budget power may rise again.
const POWER_EASED: f64 = 0.9;
const POWER_UNKNOWN: &str = "the board's power is not known any more";

/// What the sensors say.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub heats: Vec<Heat>,
    /// The whole board's, in watts.
    pub watts: Option<f64>,
    /// Bytes that can be had, of all.
    pub memory_available: Option<u64>,
    pub memory_total: Option<u64>,
    /// The share of the last ten seconds in which all tasks waited for memory.
    pub memory_pressure: Option<f64>,
    /// systemd's watch: since the last reading the service itself had to wait for memory for too long.
    pub memory_pressed: bool,
}

/// What holds from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub level: Level,
    pub squeeze: Squeeze,
    /// Kept prompts are to be dropped, now.
    pub forget_prompts: bool,
    /// Why, in numbers, for whoever is refused for memory.
    pub memory_reason: String,
    /// What changed, in order.
    pub notices: Vec<Notice>,
}

/// The policy's state.
#[derive(Debug)]
pub struct Governor {
    settings: Settings,
    heat: Level,
    power: Level,
    squeeze: squeeze::State,
    /// Since when the temperature, or the power, has been low enough for the level below.
    heat_eased: Option<Instant>,
    power_eased: Option<Instant>,
    /// The last change of the level for power.
    power_stepped: Option<Instant>,
    /// `None` once the sensor is given up, too.
    mean_watts: Option<(Instant, f64)>,
    /// The last time that the sensor of power said something.
    power_seen: Option<Instant>,
    /// The last time that a governed zone said something.
    seen: Option<Instant>,
    blind: bool,
    /// The hottest zone by its distance to its limit, for messages.
    hottest: Option<(String, f64, f64)>,
}

impl Governor {
    /// A governor that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            squeeze: squeeze::State::new(settings.clone()),
            settings,
            heat: Level::Free,
            power: Level::Free,
            heat_eased: None,
            power_eased: None,
            power_stepped: None,
            mean_watts: None,
            power_seen: None,
            seen: None,
            blind: false,
            hottest: None,
        }
    }

    /// The temperature at which throttling would begin in this zone: as set, else as the board says.
    fn limit(&self, heat: &Heat) -> Option<f64> {
        if self.settings.heat_max == 0 { heat.limit } else { Some(f64::from(self.settings.heat_max)) }
    }

    /// Judges a reading.
    pub fn judge(&mut self, reading: &Reading, now: Instant) -> Verdict {
        let mut notices = Vec::new();
        self.judge_heat(reading, now, &mut notices);
        self.judge_power(reading, now, &mut notices);
        let forget_prompts = self.squeeze.judge(reading, now, &mut notices);
        Verdict {
            level: self.heat.max(self.power),
            squeeze: self.squeeze.now(),
            forget_prompts,
            memory_reason: self.squeeze.reason(),
            notices,
        }
    }

    /// What is wrong, in numbers, for whoever is refused.
    pub fn reason(&self) -> String {
        if self.power > self.heat {
            let budget = self.settings.power_max;
            return match self.mean_watts {
                Some((_, watts)) => format!("the board draws {watts:.1} W, its budget is {budget:.1} W"),
                None => POWER_UNKNOWN.to_owned(),
            };
        }
        match &self.hottest {
            Some((zone, celsius, limit)) => format!("`{zone}` is at {celsius:.1} °C, it is throttled at {limit:.1} °C"),
            None => "the board's temperature is not known any more".to_owned(),
        }
    }

    fn judge_heat(&mut self, reading: &Reading, now: Instant, notices: &mut Vec<Notice>) {
        let governed = reading.heats.iter().filter_map(|heat| Some((heat, self.limit(heat)?)));
        let nearest = governed.min_by(|(a, a_max), (b, b_max)| (a_max - a.celsius).total_cmp(&(b_max - b.celsius)));
        let Some((heat, limit)) = nearest else {
            return self.go_blind(now, notices);
        };
        self.hottest = Some((heat.zone.clone(), heat.celsius, limit));
        self.seen = Some(now);
        self.blind = false;
        let distance = limit - heat.celsius;
        let margin = f64::from(self.settings.heat_margin);
        let wanted = Level::by_distance(distance, margin);
        if wanted > self.heat {
            self.heat_eased = None;
            let from = std::mem::replace(&mut self.heat, wanted);
            notices.push(Notice::level(Cause::Heat, from, wanted, self.reason_of_heat()));
            return;
        }
        // Down one level at a time, when it has been cooler than the level's threshold by a little for a while.
        let Some(below) = self.heat.below() else { return };
        if distance < self.heat.distance(margin) + margin * level::HYSTERESIS {
            self.heat_eased = None;
            return;
        }
        let since = *self.heat_eased.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.settings.recover.0 {
            self.heat_eased = Some(now);
            let from = std::mem::replace(&mut self.heat, below);
            notices.push(Notice::level(Cause::Heat, from, below, self.reason_of_heat()));
        }
    }

    fn reason_of_heat(&self) -> String {
        let (zone, celsius, limit) = self.hottest.clone().unwrap_or_default();
        format!("`{zone}` is at {celsius:.1} °C, it is throttled at {limit:.1} °C")
    }

    /// No thermometer says anything. A board that never had one is not governed; one that lost all of them keeps its level for
    /// a while and then works slowly until one is back, since it may be hot and it may be cold.
    fn go_blind(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        let Some(seen) = self.seen else { return };
        if self.blind || now.saturating_duration_since(seen) < BLIND_MAX {
            return;
        }
        self.blind = true;
        self.hottest = None;
        self.heat_eased = None;
        let from = std::mem::replace(&mut self.heat, Level::Slowed);
        notices.push(Notice::level(Cause::Heat, from, Level::Slowed, "no thermometer can be read any more".to_owned()));
    }

    fn judge_power(&mut self, reading: &Reading, now: Instant, notices: &mut Vec<Notice>) {
        let budget = f64::from(self.settings.power_max);
        let Some(watts) = reading.watts.filter(|_| budget > 0.0) else {
            return self.lose_power(now, notices);
        };
        self.power_seen = Some(now);
        let mean = match self.mean_watts {
            None => watts,
            Some((then, mean)) => {
                let seconds = now.saturating_duration_since(then).as_secs_f64();
                mean + (1.0 - (-seconds / POWER_MEAN).exp()) * (watts - mean)
            }
        };
        self.mean_watts = Some((now, mean));
        let waited = |since: Option<Instant>, least: Duration| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= least)
        };
        let reason = format!("the board draws {mean:.1} W, its budget is {budget:.1} W");
        let from = self.power;
        if mean > budget {
            self.power_eased = None;
            if let Some(above) = from.above().filter(|_| waited(self.power_stepped, POWER_STEP)) {
                (self.power, self.power_stepped) = (above, Some(now));
                notices.push(Notice::level(Cause::Power, from, above, reason));
            }
        } else if mean < budget * POWER_EASED {
            let since = *self.power_eased.get_or_insert(now);
            if let Some(below) = from.below().filter(|_| waited(Some(since), self.settings.recover.0)) {
                (self.power, self.power_eased) = (below, Some(now));
                notices.push(Notice::level(Cause::Power, from, below, reason));
            }
        } else {
            self.power_eased = None;
        }
    }

    /// Nothing says what the board draws. The level is kept for a while and then left step by step: without a reading nothing
    /// else would ever end it.
    fn lose_power(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        let Some(seen) = self.power_seen else { return };
        if now.saturating_duration_since(seen) < BLIND_MAX {
            return;
        }
        self.mean_watts = None;
        let Some(below) = self.power.below() else { return };
        let since = *self.power_eased.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.settings.recover.0 {
            self.power_eased = Some(now);
            let from = std::mem::replace(&mut self.power, below);
            notices.push(Notice::level(Cause::Power, from, below, POWER_UNKNOWN.to_owned()));
        }
    }
}

impl Verdict {
    /// What the engine may do under this verdict.
    pub fn allowance(&self, slots: usize, piece: usize) -> Allowance {
        self.level.allowance(slots, piece)
    }
}

#[cfg(test)]
mod tests;
