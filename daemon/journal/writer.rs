//! The one thread that owns the store: it takes whatever is waiting into one transaction, and one fsync pays for all.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::clock::Watch;
use super::store::{Opening, Safety, Store};
use super::work::{Bounds, Work};
use super::{JournalError, Shared};
use crate::pulse::Part;

/// Work in one transaction at most, so that the first in it does not wait for an endless rest.
const BATCH_MAX: usize = 256;
/// How often the thread shows that it lives, and how long a lazy mark may stay in memory only.
const IDLE: Duration = Duration::from_secs(1);
/// How often old answers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Tells the asker, once the transaction has ended this way.
pub(super) type Settle = Box<dyn FnOnce(Result<(), JournalError>) + Send>;
/// Does the work, or hears why there is nothing to do it in.
type Run = Box<dyn FnOnce(Result<&mut Work<'_>, JournalError>) -> (Result<(), JournalError>, Settle) + Send>;

pub(super) struct Op {
    pub(super) safety: Safety,
    pub(super) run: Run,
}

pub(super) enum Letter {
    Op(Op),
    /// Write all that is lazy, note that this was no death, and end.
    Close,
}

pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) bounds: Bounds,
    pub(super) keep: Duration,
    pub(super) session_keep: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) letters: Receiver<Letter>,
}

impl Writer {
    pub(super) fn run(self, store: Store) {
        let mut store = Some(store);
        let mut lazy = false;
        let mut swept = Instant::now();
        let mut watch = Watch::start();
        // What the marks on disk still lack, where the disk did not take it.
        let mut owed_ms = 0_i64;
        loop {
            self.shared.beat();
            let first = match self.letters.recv_timeout(IDLE) {
                Ok(Letter::Op(op)) => Some(op),
                Ok(Letter::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => None,
            };
            let step_ms = watch.step_ms();
            owed_ms = owed_ms.saturating_add(step_ms);
            if step_ms != 0 {
                tracing::warn!(step_ms, "the clock was set; what the journal keeps lasts as long as before");
            }
            if owed_ms != 0 && self.tend(&mut store, |work| work.move_marks(owed_ms)) {
                owed_ms = 0;
            }
            let (batch, closing) = match first {
                Some(op) => self.gather(op),
                None => (Vec::new(), false),
            };
            if !batch.is_empty() {
                lazy = self.commit(&mut store, batch, lazy);
            } else if lazy {
                lazy = !self.tend(&mut store, |_| Ok(()));
            }
            // A sweep by marks that are not right would throw away what is owed.
            if swept.elapsed() >= SWEEP_EVERY && owed_ms == 0 {
                swept = Instant::now();
                let mut old = Vec::new();
                let swept = self.tend(&mut store, |work| {
                    old = work.sweep(self.keep)?;
                    work.sweep_sessions(self.session_keep)?;
                    Ok(())
                });
                if swept {
                    tracing::debug!(removed = old.len(), "answers that were kept long enough");
                    self.shared.forget_all(&old);
                }
            }
            if closing {
                break;
            }
        }
        self.tend(&mut store, |work| work.set_meta("clean", 1));
        if let Some(pulse) = self.shared.pulse.get() {
            pulse.rest(Part::Journal);
        }
        self.shared.closed.store(true, Ordering::Release);
    }

    /// Whatever waits behind the first, up to a bound; `true` if the end was asked for.
    fn gather(&self, first: Op) -> (Vec<Op>, bool) {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            match self.letters.try_recv() {
                Ok(Letter::Op(op)) => batch.push(op),
                Ok(Letter::Close) => return (batch, true),
                Err(_) => break,
            }
        }
        (batch, false)
    }

    /// Does a batch and tells everybody in it; `true` while something lazy is not on disk.
    fn commit(&self, store: &mut Option<Store>, batch: Vec<Op>, lazy: bool) -> bool {
        let safety = batch.iter().map(|op| op.safety).max().unwrap_or(Safety::Read);
        let lazy = safety == Safety::Lazy || (lazy && safety == Safety::Read);
        let mut settles: Vec<Settle> = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        let ended = self.with_store(store, |store| {
            store.batch(safety, |work| {
                for op in batch.by_ref() {
                    let (ended, settle) = (op.run)(Ok(work));
                    settles.push(settle);
                    ended?;
                }
                Ok(())
            })
        });
        if ended.is_err() || safety == Safety::Durable {
            self.shared.note(ended.as_ref());
        }
        for settle in settles {
            settle(ended.clone());
        }
        // What was never begun, since the store could not be opened or another's work failed.
        let error = ended.err().unwrap_or(JournalError::Closed);
        for op in batch {
            let (never, settle) = (op.run)(Err(error.clone()));
            settle(never);
        }
        lazy
    }

    /// Work of our own, durable; `true` if it was done.
    fn tend(&self, store: &mut Option<Store>, run: impl FnOnce(&mut Work<'_>) -> Result<(), JournalError>) -> bool {
        let ended = self.with_store(store, |store| store.batch(Safety::Durable, run));
        self.shared.note(ended.as_ref());
        ended.is_ok()
    }

    /// Hands the store out, opening it again after an error of the disk: the store itself stays shut after one.
    fn with_store<R>(
        &self,
        slot: &mut Option<Store>,
        run: impl FnOnce(&mut Store) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        let store = if let Some(store) = slot {
            store
        } else {
            let mut store = Store::open_as_is(&self.path, self.bounds, Opening::Again)?;
            // What was lazily forgotten and not on disk yet is there again.
            self.shared.know_all(store.batch(Safety::Read, |work| work.keys(usize::MAX, |_| true))?);
            slot.insert(store)
        };
        let result = run(store);
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = store.stats;
        if matches!(result, Err(JournalError::Store { .. })) {
            *slot = None;
        }
        result
    }
}

/// Keeps what other threads may look at.
pub(super) fn new_shared(stats: super::Stats, known: HashSet<super::Key>) -> Arc<Shared> {
    Arc::new(Shared {
        known: Mutex::new(known),
        stats: Mutex::new(stats),
        pulse: OnceLock::new(),
        trouble: Mutex::default(),
        closed: false.into(),
    })
}
