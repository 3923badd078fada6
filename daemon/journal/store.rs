//! The file: tables, opening, and the one transaction that each batch of work is.
//!
//! Heads lie apart from payloads, so that a mark on a row does not rewrite a prompt.
//! The store keeps count of rows and bytes itself: asking the file would walk every page.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition,
};

use super::clock;
use super::row::{Head, Key, Record, to_millis};
use super::work::{Bounds, Work};
use super::{JournalError, Stats};

pub(super) type TableKey<'k> = (&'k str, &'k str);
/// State, flags, attempts, recoveries, seed, accepted, finished, deadline (milliseconds), body hash.
pub(super) type Header<'h> = (u8, u8, u32, u32, u64, u64, u64, u64, &'h [u8; 32]);

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const HEADS: TableDefinition<'_, TableKey<'_>, Header<'_>> = TableDefinition::new("heads");
pub(super) const REQUESTS: TableDefinition<'_, TableKey<'_>, &[u8]> = TableDefinition::new("requests");
pub(super) const REPLIES: TableDefinition<'_, TableKey<'_>, &[u8]> = TableDefinition::new("replies");
pub(super) const ANSWERS: TableDefinition<'_, TableKey<'_>, &[u8]> = TableDefinition::new("answers");

/// Turns, last turn (milliseconds), what was said.
pub(super) const SESSIONS: TableDefinition<'_, TableKey<'_>, (u32, u64, &[u8])> = TableDefinition::new("sessions");

/// The layout of the tables above. A file of an older one is brought up to it; one of a newer is refused, since guessing
/// would lose answers. 2: sessions.
const SCHEMA: u64 = 2;
/// Pages kept in memory. The journal is written far more than read.
const CACHE_BYTES: usize = 4 << 20;

/// Wraps the store's error with what was being done.
pub(super) fn broke<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> JournalError {
    move |error| JournalError::Store { doing, cause: Arc::new(error.into()) }
}

/// How safe the work has to be when the asker is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Safety {
    /// Nothing is changed.
    Read,
    /// May be lost in a power cut; on disk with the next durable work or after a second of idleness.
    Lazy,
    /// On disk.
    Durable,
}

/// Why a file is opened: whether what is pending in it has been through a death.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Start,
    /// After an error of the disk, in the same process.
    Again,
}

pub(super) struct Store {
    database: Database,
    bounds: Bounds,
    pub(super) stats: Stats,
}

impl Store {
    /// Opens or makes the file. A file that cannot be read is moved aside, never deleted; then also tells where to.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<(Self, Option<PathBuf>), JournalError> {
        // The store's own checks end some damaged files in a panic; here that is one more way to say "corrupt".
        match catch_unwind(AssertUnwindSafe(|| Self::open_as_is(path, bounds, Opening::Start))) {
            Ok(Err(JournalError::Corrupt { cause, .. })) => Self::set_aside(path, bounds, &cause),
            Err(_) => Self::set_aside(path, bounds, "reading it failed a check"),
            Ok(opened) => opened.map(|store| (store, None)),
        }
    }

    fn set_aside(path: &Path, bounds: Bounds, cause: &str) -> Result<(Self, Option<PathBuf>), JournalError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".corrupt-{}", to_millis(clock::now()) / 1000));
        let aside = PathBuf::from(aside);
        fs::rename(path, &aside).map_err(|error| JournalError::folder(path, error))?;
        tracing::error!(
            path = %path.display(), moved_to = %aside.display(), cause,
            "the journal is corrupt and was moved aside; what it had accepted and not answered is lost, an empty one begins"
        );
        Self::open_as_is(path, bounds, Opening::Start).map(|store| (store, Some(aside)))
    }

    pub(super) fn open_as_is(path: &Path, bounds: Bounds, opening: Opening) -> Result<Self, JournalError> {
        make_private(path).map_err(|error| JournalError::folder(path, error))?;
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| from_open(path, error))?;
        let mut store = Self { database, bounds, stats: Stats::default() };
        store.begin(path, opening).map_err(|error| match error {
            JournalError::Store { cause, .. } if is_corruption(&cause) => {
                JournalError::Corrupt { path: path.to_owned(), cause: cause.to_string() }
            }
            other => other,
        })?;
        Ok(store)
    }

    /// Checks the schema, counts what is there, and counts one recovery more where the last end was a death.
    fn begin(&mut self, path: &Path, opening: Opening) -> Result<(), JournalError> {
        self.batch(Safety::Durable, |work| {
            match work.meta("schema")? {
                None => work.set_meta("schema", SCHEMA)?,
                Some(SCHEMA) => {}
                // The one table more is there as soon as it is opened.
                Some(1) => {
                    work.set_meta("schema", SCHEMA)?;
                    tracing::info!(from = 1, to = SCHEMA, "the journal was brought up to this version");
                }
                Some(found) => return Err(JournalError::Schema { path: path.to_owned(), found, known: SCHEMA }),
            }
            let died = opening == Opening::Start && work.meta("clean")? == Some(0);
            work.set_meta("clean", 0)?;
            work.count_all()?;
            if died {
                for key in work.keys(usize::MAX, |head| !head.done)? {
                    work.change(&key, |head| head.recoveries += 1)?;
                }
            }
            Ok(())
        })
    }

    /// Does a batch of work in one transaction; what is durable is on disk when this returns.
    pub(super) fn batch<R>(
        &mut self,
        safety: Safety,
        run: impl FnOnce(&mut Work<'_>) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        let mut transaction = self.database.begin_write().map_err(broke("beginning a transaction"))?;
        let durability = if safety == Safety::Durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(broke("beginning a transaction"))?;
        let (result, stats) = {
            let mut work = Work::of(&transaction, self.stats, self.bounds)?;
            (run(&mut work)?, work.stats())
        };
        if safety == Safety::Read {
            transaction.abort().map_err(broke("ending a transaction"))?;
            return Ok(result);
        }
        transaction.commit().map_err(broke("committing"))?;
        self.stats = stats;
        Ok(result)
    }
}

/// Makes the file, where there is none, for its owner alone: prompts and answers will be in it.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        // Without this a power cut may leave the rows on disk and no name for them.
        Ok(_) => path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()),
    }
}

/// Reads the rows of a journal that no daemon has open, in the order of their keys. Nothing of the file is changed: one that
/// a death left as it was is made whole in memory.
pub fn read_closed(path: &Path) -> Result<Vec<Record>, JournalError> {
    let begin = "beginning to read";
    match Database::builder().open_read_only(path) {
        Ok(database) => rows_of(&database.begin_read().map_err(broke(begin))?),
        Err(DatabaseError::RepairAborted) => {
            let bytes = fs::read(path).map_err(|error| JournalError::folder(path, error))?;
            let memory = InMemoryBackend::new();
            let copied = memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, &bytes));
            copied.map_err(|error| JournalError::folder(path, error))?;
            let copy = Database::builder().create_with_backend(memory).map_err(|error| from_open(path, error))?;
            rows_of(&copy.begin_read().map_err(broke(begin))?)
        }
        Err(error) => Err(from_open(path, error)),
    }
}

fn rows_of(transaction: &ReadTransaction) -> Result<Vec<Record>, JournalError> {
    let open = "opening a table";
    let heads = transaction.open_table(HEADS).map_err(broke(open))?;
    let requests = transaction.open_table(REQUESTS).map_err(broke(open))?;
    let replies = transaction.open_table(REPLIES).map_err(broke(open))?;
    let answers = transaction.open_table(ANSWERS).map_err(broke(open))?;
    let mut records = Vec::new();
    for entry in heads.iter().map_err(broke("reading rows"))? {
        let (key, head) = entry.map_err(broke("reading rows"))?;
        let (client, id) = key.value();
        let key = Key::new(client, id);
        let bytes = |table: &redb::ReadOnlyTable<TableKey<'static>, &'static [u8]>| {
            let found = table.get(key.pair()).map_err(broke("reading rows"))?;
            Ok::<_, JournalError>(found.map(|bytes| bytes.value().to_vec()).unwrap_or_default())
        };
        let (request, reply, answer) = (bytes(&requests)?, bytes(&replies)?, bytes(&answers)?);
        records.push(Head::read(head.value()).record(key, request, reply, answer));
    }
    Ok(records)
}

fn from_open(path: &Path, error: DatabaseError) -> JournalError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            JournalError::InUse { path: path.to_owned() }
        }
        error => {
            let error = redb::Error::from(error);
            if is_corruption(&error) {
                return JournalError::Corrupt { path: path.to_owned(), cause: error.to_string() };
            }
            JournalError::Store { doing: "opening it", cause: Arc::new(error) }
        }
    }
}

/// Whether the file's contents are wrong, as opposed to the disk or the permissions.
fn is_corruption(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_) => true,
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
}
