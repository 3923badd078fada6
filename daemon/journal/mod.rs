//! What was accepted over MQTT, what was answered, what was delivered; the only home of `redb`.
//!
//! A row is keyed by client and request id. Two moments are on disk before anything else happens: the accepted row
//! before its PUBACK, the answer before it is published. The other marks are lazy: losing one costs a repeated copy,
//! never an answer. The room knows jobs and opaque bytes, no topics and no JSON.
//!
//! One thread owns the file and puts all that waits into one transaction. Everything here is bounded: rows, bytes,
//! waiting work; past a bound a request is refused with the numbers.

pub mod clock;
mod row;
mod store;
pub mod trap;
mod work;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

pub use row::{BodyHash, Entry, Key, Record, Session, State};
pub use store::read_closed;

use crate::config;
use crate::fault::{Code, Fault, Kind};
use crate::pulse::{Part, Pulse};
use row::to_millis;
use store::{Safety, Store};
use work::{Bounds, Work};
use writer::{Letter, Op, Settle, Writer};

/// The file's name in the journal's folder.
pub const FILE: &str = "journal.redb";
/// An attempt that dies with the process is tried again; after this many the request is answered with `internal`.
pub const ATTEMPTS_MAX: u32 = 3;
/// Deaths of the process that a pending row may go through, whether its attempt had started or not. It is the net under
/// [`ATTEMPTS_MAX`]: a request that kills the process before its attempt is on disk must end too.
const RECOVERIES_MAX: u32 = 10;
/// Work that waits for the writer; one more is refused. A batch takes a quarter of it.
const WAITING_MAX: usize = 1024;
/// When to come back to a full journal: answers leave it with `ack` or after `journal.keep`, not in a moment.
const FULL_RETRY: Duration = Duration::from_mins(1);

/// Why the journal did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal `{}`: another process has it open", path.display())]
    InUse { path: PathBuf },
    #[error("journal `{}`: it has schema {found}, this version reads {known}", path.display())]
    Schema { path: PathBuf, found: u64, known: u64 },
    #[error("journal `{}` is corrupt: {cause}", path.display())]
    Corrupt { path: PathBuf, cause: String },
    #[error("journal `{}`: {cause}", path.display())]
    Folder { path: PathBuf, cause: Arc<std::io::Error> },
    #[error("{doing} in the journal: {cause}")]
    Store { doing: &'static str, cause: Arc<redb::Error> },
    #[error("journal is behind: {WAITING_MAX} writes waiting, limit {WAITING_MAX}")]
    Behind,
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    fn folder(path: &Path, error: std::io::Error) -> Self {
        Self::Folder { path: path.to_owned(), cause: Arc::new(error) }
    }
}

/// Whether the disk, a quota or a limit of the process has no room: that passes, unlike a broken disk.
fn is_disk_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | FileTooLarge | QuotaExceeded))
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        match error {
            JournalError::InUse { .. } => Self::config(message).hint("stop the other moed, or set `journal.dir`"),
            JournalError::Schema { .. } => {
                Self::config(message).hint("start the version that wrote it, or move the file away")
            }
            JournalError::Behind => {
                Self::new(Kind::Busy, Code::Overloaded, message).retry_after(Duration::from_secs(1))
            }
            JournalError::Store { cause, .. } if is_disk_full(&cause) => {
                Self::new(Kind::Busy, Code::Overloaded, message)
                    .hint("make room on the journal's disk")
                    .retry_after(FULL_RETRY)
            }
            JournalError::Corrupt { .. }
            | JournalError::Folder { .. }
            | JournalError::Store { .. }
            | JournalError::Closed => Self::machine(message),
        }
    }
}

/// What became of a request that was to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is on disk.
    New,
    /// The same request was accepted before and has no answer yet; its answer now goes to the newer target.
    Pending,
    /// The same request has this answer; its target is the newer one now.
    Done(Vec<u8>),
    /// Another request has this id. Nothing was changed.
    Conflict,
    /// There is no room. Nothing was changed.
    Full { unit: &'static str, used: u64, limit: u64 },
}

impl Acceptance {
    /// The fault that a full journal is.
    pub fn full(unit: &str, used: u64, limit: u64) -> Fault {
        Fault::new(Kind::Busy, Code::Overloaded, format!("journal is full: {used} {unit}, limit {limit}"))
            .hint("acknowledge answers with the `ack` verb, or raise `journal.size_max` or `journal.rows_max`")
            .retry_after(FULL_RETRY)
    }
}

/// Rows and bytes, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub pending: usize,
    pub done: usize,
    pub bytes: u64,
}

impl Stats {
    fn rows_of(&mut self, done: bool) -> &mut usize {
        if done { &mut self.done } else { &mut self.pending }
    }
}

struct Shared {
    /// Every key that has a row; a key may be in it whose transaction has failed, none is missing.
    known: Mutex<HashSet<Key>>,
    stats: Mutex<Stats>,
    /// Where the writer shows that it lives, once somebody looks.
    pulse: OnceLock<Arc<Pulse>>,
    /// Why the last transaction failed, while that is how it is.
    trouble: Mutex<Option<JournalError>>,
    closed: AtomicBool,
}

impl Shared {
    fn know_all(&self, keys: impl IntoIterator<Item = Key>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// Only once the transaction that removed them has ended well.
    fn forget_all(&self, keys: &[Key]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            known.remove(key);
        }
    }

    /// Notes how a transaction ended, and says so where that is news.
    fn note(&self, ended: Result<&(), &JournalError>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (ended, trouble.is_some()) {
            (Ok(()), true) => tracing::info!("the journal is written again"),
            (Err(error), false) => tracing::error!(%error, "the journal could not be written"),
            (Err(error), true) => tracing::debug!(%error, "the journal could still not be written"),
            (Ok(()), false) => {}
        }
        *trouble = ended.err().cloned();
    }

    fn beat(&self) {
        if let Some(pulse) = self.pulse.get() {
            pulse.beat(Part::Journal);
        }
    }
}

/// The handle; cheap to clone. The file is closed when [`Journal::close`] is called.
#[derive(Clone)]
pub struct Journal {
    letters: SyncSender<Letter>,
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    moved_aside: Option<Arc<Path>>,
}

impl Journal {
    /// Opens the journal in `dir`, making folder and file where there are none, and starts its writer.
    pub fn open(dir: &Path, settings: &config::Journal) -> Result<Self, JournalError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| JournalError::folder(dir, error))?;
        let path = dir.join(FILE);
        let bounds = Bounds { bytes: settings.size_max.0, rows: settings.rows_max };
        let (mut store, moved_aside) = Store::open(&path, bounds)?;
        let known = store.batch(Safety::Read, |work| work.keys(usize::MAX, |_| true))?;
        let shared = writer::new_shared(store.stats, known.into_iter().collect());
        let (letters, inbox) = sync_channel(WAITING_MAX);
        let writer = Writer {
            path,
            bounds,
            keep: settings.keep.0,
            session_keep: settings.session_keep.0,
            shared: Arc::clone(&shared),
            letters: inbox,
        };
        let thread = std::thread::Builder::new()
            .name("moed-journal".to_owned())
            .spawn(move || writer.run(store))
            .map_err(|error| JournalError::folder(dir, error))?;
        Ok(Self {
            letters,
            shared,
            thread: Arc::new(Mutex::new(Some(thread))),
            moved_aside: moved_aside.map(Arc::from),
        })
    }

    /// Takes a request in; on disk when this returns.
    pub fn accept(&self, entry: Entry) -> impl Future<Output = Result<Acceptance, JournalError>> + Send + 'static {
        let (shared, key) = (Arc::clone(&self.shared), entry.key.clone());
        let run = move |work: &mut Work<'_>| {
            let acceptance = work.accept(&entry)?;
            if acceptance == Acceptance::New {
                shared.know_all([entry.key]);
            }
            Ok(acceptance)
        };
        let shared = Arc::clone(&self.shared);
        self.ask_then(Safety::Durable, run, move |acceptance| {
            // Once more: an older row of this key may have been forgotten in the same transaction.
            if *acceptance == Acceptance::New {
                shared.know_all([key]);
            }
        })
    }

    /// Whether there is a row, as far as the writer has come; without waiting for it.
    pub fn knows(&self, key: &Key) -> bool {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Reads one row.
    pub fn find(&self, key: Key) -> impl Future<Output = Result<Option<Record>, JournalError>> + Send + 'static {
        self.ask(Safety::Read, move |work| work.record(&key))
    }

    /// Counts an attempt that the engine has taken up; on disk when this returns.
    pub fn begin_attempt(
        &self,
        key: Key,
        attempt: u32,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + 'static {
        self.ask(Safety::Durable, move |work| work.change(&key, |head| head.attempts = attempt))
    }

    /// Stores the answer, with the conversation that it ends where it is a turn of one; on disk when this returns. `false`
    /// where the row has an answer already or is gone.
    pub fn finish(
        &self,
        key: Key,
        answer: Vec<u8>,
        session: Option<Session>,
    ) -> impl Future<Output = Result<bool, JournalError>> + Send + 'static {
        self.ask(Safety::Durable, move |work| work.finish(&key, &answer, session.as_ref()))
    }

    /// All conversations that are remembered.
    pub fn sessions(&self) -> impl Future<Output = Result<Vec<Session>, JournalError>> + Send + 'static {
        self.ask(Safety::Read, |work| work.sessions())
    }

    /// Notes that the broker has the answer. Lazy: if it is lost, the answer is published once more.
    pub fn mark_delivered(&self, key: Key) {
        // The asker does not wait: the future is only the way to hear the end.
        drop(self.ask(Safety::Lazy, move |work| work.change(&key, |head| head.delivered = true)));
    }

    /// Removes a row, since its requester has the answer. Lazy. `false` where there is none.
    pub fn forget(&self, key: Key) -> impl Future<Output = Result<bool, JournalError>> + Send + 'static {
        let (shared, whose) = (Arc::clone(&self.shared), key.clone());
        self.ask_then(Safety::Lazy, move |work| work.forget(&key), move |_| shared.forget_all(&[whose]))
    }

    /// All that was accepted and has no answer.
    pub fn pending(&self) -> impl Future<Output = Result<Vec<Record>, JournalError>> + Send + 'static {
        self.ask(Safety::Read, |work| work.records(usize::MAX, |head| !head.done))
    }

    /// The keys of answers that the broker has not acknowledged, `most` of them at most.
    pub fn undelivered(&self, most: usize) -> impl Future<Output = Result<Vec<Key>, JournalError>> + Send + 'static {
        self.ask(Safety::Read, move |work| work.keys(most, |head| head.done && !head.delivered))
    }

    /// Takes the delivered mark off answers stored since: the broker that had them has lost its memory.
    pub fn undeliver_since(
        &self,
        since: SystemTime,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + 'static {
        let since_ms = to_millis(since);
        self.ask(Safety::Lazy, move |work| {
            for key in work.keys(usize::MAX, |head| head.delivered && head.finished_ms >= since_ms)? {
                work.change(&key, |head| head.delivered = false)?;
            }
            Ok(())
        })
    }

    /// Rows in the order of their keys, without their payloads, `most` of them at most: of one client, in one state, or all.
    pub fn list(
        &self,
        most: usize,
        client: Option<String>,
        state: Option<State>,
    ) -> impl Future<Output = Result<Vec<Record>, JournalError>> + Send + 'static {
        self.ask(Safety::Read, move |work| work.heads(most, client.as_deref(), state))
    }

    /// Where a damaged file was put when this journal was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    /// Removes answers older than `keep` at once instead of at the next sweep; how many there were.
    pub fn prune(&self, keep: Duration) -> impl Future<Output = Result<usize, JournalError>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let swept = self.ask_then(Safety::Durable, move |work| work.sweep(keep), move |old| shared.forget_all(old));
        async move { Ok(swept.await?.len()) }
    }

    /// Rows and bytes, as of the last transaction.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer shows here that it lives: every second, and before every transaction.
    pub fn watch(&self, pulse: &Arc<Pulse>) {
        pulse.begin(Part::Journal);
        // Watched once, by the daemon that opened it.
        drop(self.shared.pulse.set(Arc::clone(pulse)));
    }

    /// Writes all that is lazy, notes that this end was no death, and closes the file. Blocks.
    pub fn close(&self) {
        // A writer that is gone already has nothing left to close.
        if self.letters.send(Letter::Close).is_ok()
            && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's writer ended in a panic");
        }
    }

    /// Whether [`Journal::close`] has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Puts work in the writer's box at once, and returns the way to hear how it ended.
    fn ask<R: Send + 'static>(
        &self,
        safety: Safety,
        run: impl FnOnce(&mut Work<'_>) -> Result<R, JournalError> + Send + 'static,
    ) -> impl Future<Output = Result<R, JournalError>> + Send + 'static {
        self.ask_then(safety, run, |_| ())
    }

    /// The same, with what is to be done by the writer once the transaction has ended well, before the asker hears of it.
    fn ask_then<R: Send + 'static>(
        &self,
        safety: Safety,
        run: impl FnOnce(&mut Work<'_>) -> Result<R, JournalError> + Send + 'static,
        then: impl FnOnce(&R) + Send + 'static,
    ) -> impl Future<Output = Result<R, JournalError>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        // Whoever asked may have stopped listening; the work is done all the same.
        let tell = |sender: oneshot::Sender<_>, end| drop(sender.send(end));
        let run = Box::new(move |work: Result<&mut Work<'_>, JournalError>| match work.and_then(run) {
            Ok(result) => {
                let settle = move |end: Result<(), _>| {
                    if end.is_ok() {
                        then(&result);
                    }
                    tell(sender, end.map(|()| result));
                };
                (Ok(()), Box::new(settle) as Settle)
            }
            Err(error) => (Err(error.clone()), Box::new(move |_| tell(sender, Err(error))) as Settle),
        });
        let sent = self.letters.try_send(Letter::Op(Op { safety, run }));
        async move {
            match sent {
                Ok(()) => receiver.await.unwrap_or(Err(JournalError::Closed)),
                Err(TrySendError::Full(_)) => Err(JournalError::Behind),
                Err(TrySendError::Disconnected(_)) => Err(JournalError::Closed),
            }
        }
    }
}
