//! Past values of a sensor, and figures over them. Kept in memory, in two resolutions, each bounded.
//!
//! Arithmetic is done here and never by the model: it names the operation and the window.

use std::collections::VecDeque;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};

/// Minutes are kept for two days, so that yesterday is whole; hours for a month.
const MINUTES: Tier = Tier { seconds: 60, most: 48 * 60 };
const HOURS: Tier = Tier { seconds: 3600, most: 31 * 24 };

#[derive(Clone, Copy)]
struct Tier {
    seconds: i64,
    most: usize,
}

/// What came in one minute or hour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    /// Seconds since 1970 at its begin.
    begin: i64,
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
}

/// Past values of one sensor.
#[derive(Debug, Default)]
pub(super) struct Series {
    minutes: VecDeque<Bucket>,
    hours: VecDeque<Bucket>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Max,
    Min,
    Mean,
    Trend,
    Count,
}

impl Operation {
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "max" => Self::Max,
            "min" => Self::Min,
            "mean" => Self::Mean,
            "trend" => Self::Trend,
            "count" => Self::Count,
            _ => return None,
        })
    }
}

/// A span of time, and the resolution that covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    begin: i64,
    end: i64,
    hourly: bool,
}

impl Window {
    /// Reads the window's name; days are days where the machine stands.
    pub(super) fn named(word: &str, now: Timestamp, zone: &TimeZone) -> Option<Self> {
        let end = now.as_second();
        let back = |hours: i64| Self { begin: end - hours * 3600, end, hourly: hours > 48 };
        let midnight = |day: &ZonedDateTime| day.start_of_day().ok().map(|begin| begin.timestamp().as_second());
        let today = now.to_zoned_datetime(zone.clone());
        Some(match word {
            "1h" => back(1),
            "24h" => back(24),
            "7d" => back(7 * 24),
            "30d" => back(30 * 24),
            "today" => Self { begin: midnight(&today)?, end, hourly: false },
            "yesterday" => {
                let yesterday = today.checked_sub(1.day()).ok()?;
                // What lies on the border belongs to today.
                Self { begin: midnight(&yesterday)?, end: midnight(&today)? - 1, hourly: false }
            }
            _ => return None,
        })
    }
}

/// A figure, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) value: f64,
    /// When: of a maximum or minimum, to the minute or hour.
    pub(super) at: Option<i64>,
    /// The first value that counted, where the window begins earlier than what is known.
    pub(super) since: Option<i64>,
}

impl Series {
    /// A state was told; one that is no number is none of ours.
    pub(super) fn push(&mut self, text: &str, at: Timestamp) {
        let Some(value) = number(text) else { return };
        push(&mut self.minutes, MINUTES, value, at.as_second());
        push(&mut self.hours, HOURS, value, at.as_second());
    }

    /// The figure over the window; `None` where nothing is known of it.
    pub(super) fn figure(&self, operation: Operation, window: Window) -> Option<Figure> {
        let (buckets, tier) = if window.hourly { (&self.hours, HOURS) } else { (&self.minutes, MINUTES) };
        // Whole minutes and hours: one that the window cuts counts whole.
        let inside = || buckets.iter().filter(|b| b.begin + tier.seconds > window.begin && b.begin <= window.end);
        let (first, last) = (inside().next()?, inside().next_back()?);
        let extreme = |better: fn(f64, f64) -> bool, of: fn(&Bucket) -> f64| {
            let best = inside().fold(first, |best, bucket| if better(of(bucket), of(best)) { bucket } else { best });
            (of(best), Some(best.begin))
        };
        let count = inside().map(|bucket| f64::from(bucket.count)).sum::<f64>();
        let (value, at) = match operation {
            Operation::Max => extreme(|one, other| one > other, |bucket| bucket.max),
            Operation::Min => extreme(|one, other| one < other, |bucket| bucket.min),
            Operation::Mean => (inside().map(|bucket| bucket.sum).sum::<f64>() / count, None),
            Operation::Trend => (last.last - first.first, None),
            Operation::Count => (count, None),
        };
        let since = (first.begin > window.begin + tier.seconds).then_some(first.begin);
        Some(Figure { value, at, since })
    }
}

fn push(buckets: &mut VecDeque<Bucket>, tier: Tier, value: f64, at: i64) {
    let begin = at - at.rem_euclid(tier.seconds);
    match buckets.back_mut() {
        // A clock that went back: what it says now belongs to the newest that is known.
        Some(last) if last.begin >= begin => {
            last.count = last.count.saturating_add(1);
            last.sum += value;
            last.min = last.min.min(value);
            last.max = last.max.max(value);
            last.last = value;
        }
        _ => {
            if buckets.len() >= tier.most {
                buckets.pop_front();
            }
            buckets.push_back(Bucket {
                begin,
                count: 1,
                sum: value,
                min: value,
                max: value,
                first: value,
                last: value,
            });
        }
    }
}

/// The number at the begin of a state: `21.5`, `1,234.5 W`, `-3 °C`.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+'))).unwrap_or(text.len());
    let digits: String = text[..end].chars().filter(|c| *c != ',').collect();
    digits.parse().ok().filter(|value: &f64| value.is_finite())
}
