//! One shape is compiled at a time: whoever sends new ones takes at most one core from the model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::GrammarError;

/// Callers inside: one that compiles, the others wait for it. Each holds a thread; at this many the next is told to come back.
pub(super) const INSIDE_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Gate {
    turn: Mutex<()>,
    inside: AtomicUsize,
}

/// The right to compile.
pub(super) struct Turn<'g> {
    gate: &'g Gate,
    /// `None` while it waits.
    held: Option<MutexGuard<'g, ()>>,
}

impl Gate {
    /// Waits for its turn.
    pub(super) fn enter(&self) -> Result<Turn<'_>, GrammarError> {
        let waiting = self.inside.fetch_add(1, Ordering::Relaxed);
        // From here on it is counted out again when it is dropped.
        let mut turn = Turn { gate: self, held: None };
        if waiting >= INSIDE_MAX {
            return Err(GrammarError::Crowded { waiting, limit: INSIDE_MAX });
        }
        // Nothing is kept under this lock that a panic could have left in pieces.
        turn.held = Some(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(turn)
    }

    #[cfg(test)]
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        self.gate.inside.fetch_sub(1, Ordering::Relaxed);
    }
}
