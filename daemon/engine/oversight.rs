//! What the engine lets others see and set: each run of the model for who counts its energy, and how much of itself it may
//! use for who watches the machine. It knows neither.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::job::{Energy, JobId, Priority};
use crate::pulse::Part;

/// The longest rest between two turns: cancellations and alarms wait for it.
pub const REST_MAX: Duration = Duration::from_millis(100);

/// How much of itself the engine may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Jobs in flight above which nothing but an alarm is taken in; at least 1. Of all engines together, but each may have one.
    pub rows_max: usize,
    /// Tokens of a prompt that one step reads, at most. Where a piece's length changes bits, jobs that must be exact keep
    /// theirs.
    pub piece_max: usize,
    /// How long the engine rests after a turn, in turns: 1 is half of the time.
    pub rest: f32,
    /// Nothing less urgent is taken in.
    pub least: Priority,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { rows_max: usize::MAX, piece_max: usize::MAX, rest: 0.0, least: Priority::Background }
    }
}

/// An [`Allowance`] that may change at any time, and the wish that kept prompts be dropped. Cheap to clone; the engine looks
/// once a turn.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<Cell>);

#[derive(Debug)]
struct Cell {
    rows: AtomicUsize,
    piece: AtomicUsize,
    /// Thousandths.
    rest: AtomicU32,
    /// A place in [`Priority::ALL`].
    least: AtomicUsize,
    /// Rises with each wish.
    forget: AtomicUsize,
    /// Jobs in flight of all engines that obey.
    taken: AtomicUsize,
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            rows: AtomicUsize::new(usize::MAX),
            piece: AtomicUsize::new(usize::MAX),
            rest: AtomicU32::new(0),
            least: AtomicUsize::new(Priority::ALL.len() - 1),
            forget: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        }
    }
}

impl Limits {
    /// From the next turn on.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rest is 0 to some ten turns")]
    pub fn set(&self, allowance: &Allowance) {
        let place = Priority::ALL.iter().position(|priority| *priority == allowance.least);
        self.0.rows.store(allowance.rows_max.max(1), Ordering::Relaxed);
        self.0.piece.store(allowance.piece_max, Ordering::Relaxed);
        self.0.rest.store((allowance.rest.clamp(0.0, 1000.0) * 1000.0) as u32, Ordering::Relaxed);
        self.0.least.store(place.unwrap_or(0), Ordering::Relaxed);
    }

    /// What holds just now.
    #[expect(clippy::cast_precision_loss, reason = "a rest is at most a million thousandths")]
    pub fn get(&self) -> Allowance {
        let least = Priority::ALL.get(self.0.least.load(Ordering::Relaxed));
        Allowance {
            rows_max: self.0.rows.load(Ordering::Relaxed),
            piece_max: self.0.piece.load(Ordering::Relaxed),
            rest: self.0.rest.load(Ordering::Relaxed) as f32 / 1000.0,
            least: least.copied().unwrap_or(Priority::Alarm),
        }
    }

    /// Asks for the memory of kept prompts.
    pub fn forget_prompts(&self) {
        self.0.forget.fetch_add(1, Ordering::Relaxed);
    }

    /// An engine that obeys had so many jobs in flight, and has so many now.
    pub(super) fn change_taken(&self, from: usize, to: usize) {
        self.0.taken.fetch_add(to, Ordering::Relaxed);
        self.0.taken.fetch_sub(from, Ordering::Relaxed);
    }

    /// Jobs that the others may leave to an engine which has so many itself.
    pub(super) fn rows_beside(&self, own: usize) -> usize {
        let others = self.0.taken.load(Ordering::Relaxed).saturating_sub(own);
        self.0.rows.load(Ordering::Relaxed).saturating_sub(others).max(1)
    }

    /// How often that was asked.
    pub(super) fn wishes(&self) -> usize {
        self.0.forget.load(Ordering::Relaxed)
    }
}

/// What a job's tokens in a run were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Of its prompt.
    Prefill,
    /// Of its answer, guesses included.
    Decode,
}

/// A job's part in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub job: JobId,
    pub phase: Phase,
    /// At least 1.
    pub tokens: usize,
}

/// One run of the model.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The end of the run before, if there has been work ever since; the time between is somebody's, too.
    pub from: Instant,
    pub to: Instant,
    pub shares: &'a [Share],
}

/// Who is told of the engine's work. Called on its thread: must not block.
pub trait Observer: Send + Sync {
    /// There is work, after there was none.
    fn wake(&self);
    /// A run has ended, well or not.
    fn ran(&self, run: &Run<'_>);
    /// The last job is gone.
    fn sleep(&self);
    /// The job leaves: what it cost, where that was measured.
    fn bill(&self, job: JobId) -> Option<Energy>;
}

/// Who watches over an engine; by default nobody does.
#[derive(Clone)]
pub struct Oversight {
    pub limits: Limits,
    pub observer: Option<Arc<dyn Observer>>,
    /// Whose heartbeat its own is.
    pub heart: Part,
}

impl Default for Oversight {
    fn default() -> Self {
        Self { limits: Limits::default(), observer: None, heart: Part::Engine }
    }
}

impl fmt::Debug for Oversight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oversight").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_reads_back_and_is_everything_at_first() {
        let limits = Limits::default();
        assert_eq!(limits.get(), Allowance::default());
        let some = Allowance { rows_max: 2, piece_max: 32, rest: 1.5, least: Priority::Alarm };
        limits.clone().set(&some);
        assert_eq!(limits.get(), some);
    }
}
