//! Cancellations that came before their requests: a cancel travels on a topic of its own and may overtake.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::journal::Key;

/// How long an early cancel waits for its request.
const KEPT: Duration = Duration::from_mins(5);
/// Early cancels at a time; the oldest makes room, so that nobody can fill the memory with them.
const TOMBS_MAX: usize = 1024;

/// The early cancels.
#[derive(Debug, Default)]
pub(super) struct Tombs {
    tombs: VecDeque<(Key, Instant)>,
}

impl Tombs {
    /// Notes a cancel for a request that is not known.
    pub(super) fn dig(&mut self, key: Key, now: Instant) {
        self.forget_old(now);
        if self.tombs.len() >= TOMBS_MAX {
            self.tombs.pop_front();
        }
        self.tombs.push_back((key, now));
    }

    /// Whether this request was cancelled before it came; asked once.
    pub(super) fn take(&mut self, key: &Key, now: Instant) -> bool {
        self.forget_old(now);
        let before = self.tombs.len();
        self.tombs.retain(|(buried, _)| buried != key);
        self.tombs.len() < before
    }

    fn forget_old(&mut self, now: Instant) {
        while self.tombs.front().is_some_and(|(_, since)| now.duration_since(*since) >= KEPT) {
            self.tombs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_cancel_counts_once_for_five_minutes_and_there_are_not_too_many() {
        let now = Instant::now();
        let key = |number: usize| Key::new("lamp", number.to_string());
        let mut tombs = Tombs::default();
        tombs.dig(key(0), now);
        assert!(!tombs.take(&key(1), now));
        assert!(tombs.take(&key(0), now + KEPT / 2));
        assert!(!tombs.take(&key(0), now), "asked once");
        tombs.dig(key(0), now);
        assert!(!tombs.take(&key(0), now + KEPT));
        for number in 0..=TOMBS_MAX {
            tombs.dig(key(number), now);
        }
        assert!(!tombs.take(&key(0), now));
        assert!(tombs.take(&key(TOMBS_MAX), now));
    }
}
