//! How long to wait before the broker is tried again. No clock, no I/O.

use std::time::Duration;

/// The first pause after a lost connection, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// After a refusal of who we are: somebody has to change a file, and a broker may ban those who keep knocking.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(2));
/// After another connection took our client id: coming back at once would end that one, which would end this one.
const TAKEN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(10));
/// A connection that lived this long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(20);
/// Connections in a row that the broker ends at once, before we call it a fight over our client id. Some brokers end the
/// older connection without saying why.
const SHORT_LIVED: u32 = 4;

/// How a connection, or the attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It was up for this long; `None`: it never was.
    Lost(Option<Duration>),
    /// The two sides do not believe each other, until somebody changes a file.
    Refused,
    /// Another connection has come with our client id.
    TakenOver,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) pause: Duration,
    /// Somebody else uses our client id, or it looks so.
    pub(super) contested: bool,
}

/// Remembers how it went before.
#[derive(Debug, Default)]
pub(super) struct Patience {
    last: Option<Duration>,
    short_lived: u32,
}

impl Patience {
    pub(super) fn after(&mut self, loss: Loss) -> Advice {
        if matches!(loss, Loss::Lost(Some(lived)) if lived > GOOD) {
            *self = Self::default();
        }
        if matches!(loss, Loss::Lost(Some(_))) {
            self.short_lived += 1;
        }
        let contested = loss == Loss::TakenOver || self.short_lived >= SHORT_LIVED;
        let (first, longest) = match loss {
            _ if contested => TAKEN,
            Loss::Refused => REFUSED,
            Loss::Lost(_) | Loss::TakenOver => PAUSE,
        };
        let pause = self.last.map_or(first, |last| (last * 2).clamp(first, longest));
        self.last = Some(pause);
        Advice { pause, contested }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit_and_a_good_connection_starts_over() {
        let mut patience = Patience::default();
        let pauses: Vec<u128> = (0..9).map(|_| patience.after(Loss::Lost(None)).pause.as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        let good = Loss::Lost(Some(Duration::from_mins(1)));
        assert_eq!(patience.after(good), Advice { pause: PAUSE.0, contested: false });
    }

    #[test]
    fn whoever_is_refused_or_taken_over_waits_long_from_the_first_time() {
        let mut patience = Patience::default();
        assert_eq!(patience.after(Loss::Refused).pause, REFUSED.0);
        assert_eq!(patience.after(Loss::Refused).pause, REFUSED.0 * 2);
        let mut patience = Patience::default();
        assert_eq!(patience.after(Loss::TakenOver), Advice { pause: TAKEN.0, contested: true });
        assert_eq!(patience.after(Loss::TakenOver).pause, TAKEN.0 * 2);
    }

    #[test]
    fn connections_that_end_at_once_without_a_word_are_taken_for_a_fight() {
        let mut patience = Patience::default();
        let short = Loss::Lost(Some(Duration::from_secs(1)));
        let contested: Vec<bool> = (0..5).map(|_| patience.after(short).contested).collect();
        assert_eq!(contested, [false, false, false, true, true]);
        assert!(patience.after(short).pause >= TAKEN.0);
        assert!(!patience.after(Loss::Lost(Some(Duration::from_mins(1)))).contested);
    }
}
