//! A warning that repeats is written a few times, then counted: a fault in a loop must not fill the disk and bury the rest.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How often one place in the program may warn within [`WINDOW`].
pub const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(30);

/// The layer. The places are a fixed number, so what it remembers is bounded.
#[derive(Default)]
pub struct Repeats {
    places: Mutex<HashMap<Identifier, Place>>,
}

/// One place that warns.
struct Place {
    since: Instant,
    written: u32,
    left_out: u64,
}

/// What to do with a warning.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    /// Write it, and that this many were left out before it.
    WriteAfter(u64),
    /// Leave it out, and say that this begins.
    Begin,
    LeaveOut,
}

impl Place {
    fn new(now: Instant) -> Self {
        Self { since: now, written: 0, left_out: 0 }
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        if now.duration_since(self.since) >= WINDOW {
            let left_out = self.left_out;
            *self = Self { written: 1, ..Self::new(now) };
            return if left_out > 0 { Verdict::WriteAfter(left_out) } else { Verdict::Write };
        }
        if self.written < BURST {
            self.written += 1;
            return Verdict::Write;
        }
        self.left_out += 1;
        if self.left_out == 1 { Verdict::Begin } else { Verdict::LeaveOut }
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // `Level` orders the louder below the quieter. Our own two notices are few by themselves.
        if *metadata.level() > Level::WARN || metadata.target() == module_path!() {
            return true;
        }
        let now = Instant::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = places.entry(metadata.callsite()).or_insert_with(|| Place::new(now)).judge(now);
        // The notices come through here again.
        drop(places);
        match verdict {
            Verdict::Write => true,
            Verdict::WriteAfter(left_out) => {
                tracing::warn!(left_out, what = message(event), "a repeated warning was left out");
                true
            }
            Verdict::Begin => {
                let window_s = WINDOW.as_secs();
                tracing::warn!(
                    what = message(event),
                    window_s,
                    "this warning repeats; more of it is counted, not written"
                );
                false
            }
            Verdict::LeaveOut => false,
        }
    }
}

/// An event's fixed text.
fn message(event: &Event<'_>) -> String {
    struct Text(String);
    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut text = Text(String::new());
    event.record(&mut text);
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_its_burst_then_counts_and_says_how_many_there_were() {
        let begin = Instant::now();
        let mut place = Place::new(begin);
        for _ in 0..BURST {
            assert_eq!(place.judge(begin), Verdict::Write);
        }
        assert_eq!(place.judge(begin), Verdict::Begin);
        for _ in 0..5 {
            assert_eq!(place.judge(begin), Verdict::LeaveOut);
        }
        assert_eq!(place.judge(begin + WINDOW), Verdict::WriteAfter(6));
        assert_eq!(place.judge(begin + WINDOW), Verdict::Write);
        assert_eq!(place.judge(begin + WINDOW * 2), Verdict::Write);
    }
}
