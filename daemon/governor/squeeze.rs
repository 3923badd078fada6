//! Memory: what is dropped and what is refused as it runs short.

use std::time::Instant;

use crate::config::Governor as Settings;
use crate::governor::notice::{Cause, Notice};
use crate::governor::{BLIND_MAX, Reading};

/// Where nothing is set, the least that must stay available: a twentieth of all, and no less than this.
const LEAST: u64 = 128 << 20;
const LEAST_SHARE: u64 = 20;
/// Everybody waits for memory for this share of the time: the machine is about to stand still.
const PRESSURE_MAX: f64 = 0.10;
/// So many times the least: kept prompts are dropped in good time.
const TIGHT: f64 = 2.0;
/// Above this times its threshold a state is left.
const HYSTERESIS: f64 = 1.25;

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Squeeze {
    #[default]
    Roomy,
    /// Kept prompts are dropped.
    Tight,
    /// Only alarms are taken on.
    Short,
}

impl Squeeze {
    /// The name in the log and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roomy => "roomy",
            Self::Tight => "tight",
            Self::Short => "short",
        }
    }

    /// The next roomier one.
    fn below(self) -> Option<Self> {
        match self {
            Self::Roomy => None,
            Self::Tight => Some(Self::Roomy),
            Self::Short => Some(Self::Tight),
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    now: Squeeze,
    eased: Option<Instant>,
    /// systemd's watch: its first sign and its last one, without `recover` between any two.
    pressed: Option<(Instant, Instant)>,
    /// The last time that the kernel said how much is available.
    seen: Option<Instant>,
    reason: String,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, now: Squeeze::Roomy, eased: None, pressed: None, seen: None, reason: String::new() }
    }

    pub(super) fn now(&self) -> Squeeze {
        self.now
    }

    /// The last reading in numbers.
    pub(super) fn reason(&self) -> String {
        self.reason.clone()
    }

    /// True: kept prompts are to be dropped now.
    pub(super) fn judge(&mut self, reading: &Reading, now: Instant, notices: &mut Vec<Notice>) -> bool {
        let Some(available) = reading.memory_available else {
            self.go_blind(now, notices);
            return false;
        };
        self.seen = Some(now);
        let least = match self.settings.memory_min.0 {
            0 => (reading.memory_total.unwrap_or(0) / LEAST_SHARE).max(LEAST),
            bytes => bytes,
        };
        let pressure = reading.memory_pressure.unwrap_or(0.0);
        let pressed = self.press(reading.memory_pressed, now);
        let reason = format!(
            "{} MiB of memory are available, the least is {} MiB, and everybody waits for memory {:.0} % of the time{}",
            available >> 20,
            least >> 20,
            pressure * 100.0,
            if pressed > Squeeze::Roomy { ", the service alone for long enough that systemd says so" } else { "" }
        );
        self.reason.clone_from(&reason);
        let wanted = wanted(available, least, pressure, 1.0).max(pressed);
        if wanted > self.now {
            self.eased = None;
            let from = std::mem::replace(&mut self.now, wanted);
            notices.push(Notice::new(Cause::Memory, from.name(), wanted.name(), reason));
            // Once on the way down; what is kept again when memory is short is the engine's own to replace.
            return true;
        }
        let Some(below) = self.now.below() else { return false };
        if wanted_with_hysteresis(available, least, pressure) > below || reading.memory_pressed {
            self.eased = None;
        } else {
            self.ease(below, reason, now, notices);
        }
        false
    }

    /// What systemd's watch asks for: kept prompts are dropped, and where it still gives signs `recover` later that was not
    /// enough.
    fn press(&mut self, is_sign: bool, now: Instant) -> Squeeze {
        let recover = self.settings.recover.0;
        let lasting = self.pressed.filter(|(_, last)| now.saturating_duration_since(*last) < recover);
        self.pressed = if is_sign { Some((lasting.map_or(now, |(first, _)| first), now)) } else { lasting };
        match self.pressed {
            None => Squeeze::Roomy,
            Some((first, last)) if last.saturating_duration_since(first) < recover => Squeeze::Tight,
            Some(_) => Squeeze::Short,
        }
    }

    /// Nothing says how much is available. The state is kept for a while and then left step by step: without a reading nothing
    /// else would ever end it.
    fn go_blind(&mut self, now: Instant, notices: &mut Vec<Notice>) {
        let (Some(seen), Some(below)) = (self.seen, self.now.below()) else { return };
        if now.saturating_duration_since(seen) >= BLIND_MAX {
            "the memory that is available is not known any more".clone_into(&mut self.reason);
            self.ease(below, self.reason.clone(), now, notices);
        }
    }

    /// One state down, once that has been due for long enough.
    fn ease(&mut self, below: Squeeze, reason: String, now: Instant, notices: &mut Vec<Notice>) {
        let since = *self.eased.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.settings.recover.0 {
            self.eased = Some(now);
            let from = std::mem::replace(&mut self.now, below);
            notices.push(Notice::new(Cause::Memory, from.name(), below.name(), reason));
        }
    }
}

fn wanted_with_hysteresis(available: u64, least: u64, pressure: f64) -> Squeeze {
    wanted(available, least, pressure * HYSTERESIS, HYSTERESIS)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory, compared to a few per cent")]
fn wanted(available: u64, least: u64, pressure: f64, factor: f64) -> Squeeze {
    let (available, least) = (available as f64, least as f64 * factor);
    if available < least || pressure > PRESSURE_MAX {
        Squeeze::Short
    } else if available < least * TIGHT || pressure > PRESSURE_MAX / TIGHT {
        Squeeze::Tight
    } else {
        Squeeze::Roomy
    }
}
