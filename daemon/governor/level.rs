//! The levels, from everything allowed to alarms alone. This table is the policy; SPECIFICATION.md shows it to operators.

use crate::engine::oversight::Allowance;
use crate::job::Priority;

/// How far, in parts of the margin, the temperature must fall below a level's threshold before the level is left.
pub const HYSTERESIS: f64 = 1.0 / 6.0;
/// The shortest piece of a prompt: below it a step's fixed cost is most of it.
const PIECE_MIN: usize = 16;

/// How much is allowed. Each level allows less than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Free,
    /// Half of the batch, half of a piece.
    Eased,
    /// A quarter of both, and a third of the time at rest.
    Slowed,
    /// As slowed, half of the time at rest; background work waits and is refused.
    Shedding,
    /// One job at a time, nine tenths of the time at rest; only alarms are taken on.
    Refusing,
}

impl Level {
    /// All of them, the freest first.
    pub const ALL: [Self; 5] = [Self::Free, Self::Eased, Self::Slowed, Self::Shedding, Self::Refusing];

    /// The name in the log, on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Eased => "eased",
            Self::Slowed => "slowed",
            Self::Shedding => "shedding",
            Self::Refusing => "refusing",
        }
    }

    /// Its place in [`Level::ALL`].
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|level| *level == self).unwrap_or(0)
    }

    /// The next stricter one.
    pub fn above(self) -> Option<Self> {
        Self::ALL.get(self.number() + 1).copied()
    }

    /// The next freer one.
    pub fn below(self) -> Option<Self> {
        self.number().checked_sub(1).map(|number| Self::ALL[number])
    }

    /// How many degrees below the trip point it begins: the whole margin, then 3/4, 1/2 and 1/4 of it.
    pub fn distance(self, margin: f64) -> f64 {
        match self {
            Self::Free => f64::INFINITY,
            Self::Eased => margin,
            Self::Slowed => margin * 0.75,
            Self::Shedding => margin * 0.5,
            Self::Refusing => margin * 0.25,
        }
    }

    /// The level for a temperature so far below the trip point.
    pub fn by_distance(distance: f64, margin: f64) -> Self {
        Self::ALL.into_iter().rev().find(|level| distance <= level.distance(margin)).unwrap_or_default()
    }

    /// The least urgent work that is taken on.
    pub fn least(self) -> Priority {
        match self {
            Self::Free | Self::Eased | Self::Slowed => Priority::Background,
            Self::Shedding => Priority::Interactive,
            Self::Refusing => Priority::Alarm,
        }
    }

    /// What the engine may do, of so many slots and with pieces of so many tokens. What was taken on is finished at every
    /// level.
    pub fn allowance(self, slots: usize, piece: usize) -> Allowance {
        let part = |whole: usize, by: usize, least: usize| (whole / by).max(least.min(whole));
        let (rows, piece_max, rest) = match self {
            Self::Free => return Allowance::default(),
            Self::Eased => (part(slots, 2, 1), part(piece, 2, PIECE_MIN), 0.0),
            Self::Slowed => (part(slots, 4, 1), part(piece, 4, PIECE_MIN), 0.5),
            Self::Shedding => (part(slots, 4, 1), part(piece, 4, PIECE_MIN), 1.0),
            Self::Refusing => (1, PIECE_MIN.min(piece), 9.0),
        };
        // What waits was taken on and is served, but background work only when it is cooler.
        let least = if self >= Self::Shedding { Priority::Interactive } else { Priority::Background };
        Allowance { rows_max: rows.max(1), piece_max, rest, least }
    }
}
