//! The wall clock of everything that has to mean the same after a restart, and how far it was set.
//!
//! A device without a clock of its own starts in the past and is set right minutes later. What is measured here is by how
//! much the wall clock went another way than time did; the writer moves the marks of all rows by as much.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A smaller difference is the clock being trimmed, not set.
const STEP_MIN: Duration = Duration::from_secs(2);

/// The time on the wall.
pub fn now() -> SystemTime {
    let now = SystemTime::now();
    #[cfg(debug_assertions)]
    let now = hook::moved(now);
    now
}

/// Holds the wall clock against one that nobody sets.
#[derive(Debug)]
pub(super) struct Watch {
    wall: SystemTime,
    /// Since the start of the machine, sleep included.
    up: Duration,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self { wall: now(), up: up() }
    }

    /// By how many milliseconds the wall clock was set since this was last asked; negative: back. 0: it was not.
    pub(super) fn step_ms(&mut self) -> i64 {
        let next = Self::start();
        let step_ms = Self::between(self, &next);
        *self = next;
        step_ms
    }

    fn between(before: &Self, after: &Self) -> i64 {
        let due = before.wall + after.up.saturating_sub(before.up);
        let (length, sign) = match after.wall.duration_since(due) {
            Ok(ahead) => (ahead, 1),
            Err(behind) => (behind.duration(), -1),
        };
        if length < STEP_MIN { 0 } else { i64::try_from(length.as_millis()).unwrap_or(i64::MAX) * sign }
    }
}

fn up() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// In debug builds a test may set this process's clock: `MOED_CLOCK` names a file with the seconds to add.
#[cfg(debug_assertions)]
mod hook {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::{Duration, SystemTime};

    pub(super) fn moved(now: SystemTime) -> SystemTime {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(file) = FILE.get_or_init(|| std::env::var_os("MOED_CLOCK").map(PathBuf::from)) else { return now };
        let seconds = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(0);
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - by } else { now + by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_in_both_directions_and_one_that_is_trimmed_is_not() {
        let hour = Duration::from_hours(1);
        let at = |wall: Duration, up: Duration| Watch { wall: SystemTime::UNIX_EPOCH + wall, up };
        let before = at(hour * 10, hour);
        let step = |wall| Watch::between(&before, &at(wall, hour * 2));
        assert_eq!(step(hour * 11), 0);
        assert_eq!(step(hour * 11 + Duration::from_millis(1900)), 0);
        assert_eq!(step(hour * 12), 3_600_000);
        assert_eq!(step(hour * 9), -7_200_000);
    }

    #[test]
    fn a_watch_that_nobody_disturbs_sees_nothing() {
        let mut watch = Watch::start();
        assert_eq!(watch.step_ms(), 0);
    }
}
