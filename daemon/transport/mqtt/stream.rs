//! Events into deltas: pieces of text, gathered so that a broker sees ten messages a second and not one a token.

use std::time::{Duration, Instant};

/// The least time between two deltas of one answer. A display shows no more; a broker's window is spared.
pub(super) const DELTA_EVERY: Duration = Duration::from_millis(100);

/// Gathers text; hands it out at most every [`DELTA_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    waiting: String,
    seq: u64,
    last: Option<Instant>,
}

impl Gatherer {
    /// Takes text in; hands out all that waits if its time has come. The first piece goes at once: it is what a person
    /// waits for.
    pub(super) fn push(&mut self, text: &str, now: Instant) -> Option<(u64, String)> {
        self.waiting.push_str(text);
        if self.last.is_none_or(|last| now >= last + DELTA_EVERY) { self.flush(now) } else { None }
    }

    /// When what waits should go; `None` when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.last.filter(|_| !self.waiting.is_empty()).map(|last| last + DELTA_EVERY)
    }

    /// Hands out all that waits.
    pub(super) fn flush(&mut self, now: Instant) -> Option<(u64, String)> {
        if self.waiting.is_empty() {
            return None;
        }
        self.last = Some(now);
        let seq = self.seq;
        self.seq += 1;
        Some((seq, std::mem::take(&mut self.waiting)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_goes_at_once_and_the_rest_ten_times_a_second() {
        let mut gatherer = Gatherer::default();
        let start = Instant::now();
        assert_eq!(gatherer.due(), None);
        assert_eq!(gatherer.push("a", start), Some((0, "a".to_owned())));
        let soon = start + Duration::from_millis(40);
        assert_eq!(gatherer.push("b", soon), None);
        assert_eq!(gatherer.push("c", soon), None);
        assert_eq!(gatherer.due(), Some(start + DELTA_EVERY));
        assert_eq!(gatherer.flush(start + DELTA_EVERY), Some((1, "bc".to_owned())));
        assert_eq!(gatherer.flush(start + DELTA_EVERY), None, "an empty delta is never sent");
        assert_eq!(gatherer.push("d", start + 2 * DELTA_EVERY), Some((2, "d".to_owned())));
    }
}
