//! The one thread that owns the store: it takes whatever is waiting into one transaction, and one fsync pays for all.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::store::{Opening, Safety, Store};
use super::work::Work;
use super::{JournalError, Shared};

/// Work in one transaction at most, so that the first in it does not wait for an endless rest.
const BATCH_MAX: usize = 256;
/// How often the thread shows that it lives, and how long a lazy mark may stay in memory only.
const IDLE: Duration = Duration::from_secs(1);
/// How often old answers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Tells the asker, once the transaction has ended this way.
pub(super) type Settle = Box<dyn FnOnce(Result<(), JournalError>) + Send>;
type Run = Box<dyn FnOnce(&mut Work<'_>) -> (Result<(), JournalError>, Settle) + Send>;

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
    pub(super) size_max: u64,
    pub(super) keep: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) letters: Receiver<Letter>,
}

impl Writer {
    pub(super) fn run(self, store: Store) {
        let mut store = Some(store);
        let mut lazy = false;
        let mut swept = Instant::now();
        loop {
            self.shared.beat();
            let first = match self.letters.recv_timeout(IDLE) {
                Ok(Letter::Op(op)) => Some(op),
                Ok(Letter::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => None,
            };
            let (batch, closing) = match first {
                Some(op) => self.gather(op),
                None => (Vec::new(), false),
            };
            if !batch.is_empty() {
                lazy = self.commit(&mut store, batch, lazy);
            } else if lazy {
                lazy = !self.tend(&mut store, |_| Ok(()));
            }
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                let shared = &self.shared;
                self.tend(&mut store, |work| work.sweep(self.keep).map(|old| shared.forget_all(&old)));
            }
            if closing {
                break;
            }
        }
        self.tend(&mut store, |work| work.set_meta("clean", 1));
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
        let ended = self.with_store(store, |store| {
            store.batch(safety, |work| {
                for op in batch {
                    let (ended, settle) = (op.run)(work);
                    settles.push(settle);
                    ended?;
                }
                Ok(())
            })
        });
        if let Err(error) = &ended {
            tracing::error!(%error, "the journal could not be written");
        }
        for settle in settles {
            settle(ended.clone());
        }
        lazy
    }

    /// Work of our own, durable; `true` if it was done.
    fn tend(&self, store: &mut Option<Store>, run: impl FnOnce(&mut Work<'_>) -> Result<(), JournalError>) -> bool {
        match self.with_store(store, |store| store.batch(Safety::Durable, run)) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the journal could not be written");
                false
            }
        }
    }

    /// Hands the store out, opening it again after an error of the disk: the store itself stays shut after one.
    fn with_store<R>(
        &self,
        slot: &mut Option<Store>,
        run: impl FnOnce(&mut Store) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        let store = match slot {
            Some(store) => store,
            None => slot.insert(Store::open_as_is(&self.path, self.size_max, Opening::Again)?),
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
        beat: Mutex::new(Instant::now()),
        closed: false.into(),
    })
}
