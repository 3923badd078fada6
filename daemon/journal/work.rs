//! The words for what is done to rows, inside one transaction.

use std::time::Duration;

use redb::{ReadableTable, Table, WriteTransaction};

use super::clock;
use super::row::{Entry, Head, Key, Record, Session, State, from_millis, to_millis};
use super::store::{ANSWERS, HEADS, Header, META, REPLIES, REQUESTS, SESSIONS, TableKey, broke};
use super::{Acceptance, JournalError, Stats};

/// How much the journal may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Of the file.
    pub(super) bytes: u64,
    /// The heads of all rows are read at start and in every sweep.
    pub(super) rows: usize,
}

/// What a row takes beside its payloads: its head, its key in four tables, half-empty pages.
const ROW_BYTES: u64 = 1024;
/// Pages are copied when written and values rounded up to powers of two of them, so the file may be this many times
/// as large as what is in it; 2.1 was measured with payloads just above a page.
const FILE_FACTOR: u64 = 3;

const READING: &str = "reading a row";
const WRITING: &str = "writing a row";

type Payloads<'t> = Table<'t, TableKey<'static>, &'static [u8]>;

/// The tables of one transaction.
pub(super) struct Work<'t> {
    meta: Table<'t, &'static str, u64>,
    heads: Table<'t, TableKey<'static>, Header<'static>>,
    requests: Payloads<'t>,
    replies: Payloads<'t>,
    answers: Payloads<'t>,
    sessions: Table<'t, TableKey<'static>, (u32, u64, &'static [u8])>,
    stats: Stats,
    bounds: Bounds,
}

impl<'t> Work<'t> {
    pub(super) fn of(transaction: &'t WriteTransaction, stats: Stats, bounds: Bounds) -> Result<Self, JournalError> {
        let open = "opening a table";
        Ok(Self {
            meta: transaction.open_table(META).map_err(broke(open))?,
            heads: transaction.open_table(HEADS).map_err(broke(open))?,
            requests: transaction.open_table(REQUESTS).map_err(broke(open))?,
            replies: transaction.open_table(REPLIES).map_err(broke(open))?,
            answers: transaction.open_table(ANSWERS).map_err(broke(open))?,
            sessions: transaction.open_table(SESSIONS).map_err(broke(open))?,
            stats,
            bounds,
        })
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<u64>, JournalError> {
        Ok(self.meta.get(name).map_err(broke(READING))?.map(|value| value.value()))
    }

    pub(super) fn set_meta(&mut self, name: &str, value: u64) -> Result<(), JournalError> {
        self.meta.insert(name, value).map_err(broke(WRITING))?;
        Ok(())
    }

    /// Counts rows and bytes from what is in the tables.
    pub(super) fn count_all(&mut self) -> Result<(), JournalError> {
        let mut stats = Stats::default();
        for entry in self.heads.iter().map_err(broke(READING))? {
            let (_, head) = entry.map_err(broke(READING))?;
            *stats.rows_of(Head::read(head.value()).done) += 1;
            stats.bytes += ROW_BYTES;
        }
        for table in [&self.requests, &self.replies, &self.answers] {
            for entry in table.iter().map_err(broke(READING))? {
                stats.bytes += entry.map_err(broke(READING))?.1.value().len() as u64;
            }
        }
        for entry in self.sessions.iter().map_err(broke(READING))? {
            stats.bytes += ROW_BYTES + entry.map_err(broke(READING))?.1.value().2.len() as u64;
        }
        self.stats = stats;
        Ok(())
    }

    /// Takes a request in, or says what is known of it already.
    pub(super) fn accept(&mut self, entry: &Entry) -> Result<Acceptance, JournalError> {
        if let Some(head) = self.head(&entry.key)? {
            if head.body_hash != entry.body_hash {
                return Ok(Acceptance::Conflict);
            }
            self.put_reply(&entry.key, &entry.reply)?;
            return Ok(if head.done { Acceptance::Done(self.answer(&entry.key)?) } else { Acceptance::Pending });
        }
        let rows = self.stats.pending + self.stats.done;
        if rows >= self.bounds.rows {
            return Ok(Acceptance::Full { unit: "rows", used: rows as u64, limit: self.bounds.rows as u64 });
        }
        let used = self.stats.bytes + ROW_BYTES + (entry.request.len() + entry.reply.len()) as u64;
        if used.saturating_mul(FILE_FACTOR) > self.bounds.bytes {
            return Ok(Acceptance::Full { unit: "bytes", used, limit: self.bounds.bytes / FILE_FACTOR });
        }
        self.put_head(&entry.key, &Head::of(entry, to_millis(clock::now())))?;
        self.stats.pending += 1;
        self.stats.bytes += ROW_BYTES;
        put(&mut self.requests, &mut self.stats, &entry.key, Some(&entry.request))?;
        self.put_reply(&entry.key, &entry.reply)?;
        Ok(Acceptance::New)
    }

    /// Replaces where the answer goes.
    pub(super) fn put_reply(&mut self, key: &Key, reply: &[u8]) -> Result<(), JournalError> {
        put(&mut self.replies, &mut self.stats, key, Some(reply))
    }

    /// Stores the one answer; `false` where there is no such pending row.
    pub(super) fn finish(&mut self, key: &Key, answer: &[u8], session: Option<&Session>) -> Result<bool, JournalError> {
        let Some(mut head) = self.head(key)?.filter(|head| !head.done) else { return Ok(false) };
        head.done = true;
        head.finished_ms = to_millis(clock::now());
        self.put_head(key, &head)?;
        self.stats.pending -= 1;
        self.stats.done += 1;
        put(&mut self.requests, &mut self.stats, key, None)?;
        put(&mut self.answers, &mut self.stats, key, Some(answer))?;
        if let Some(session) = session {
            let value = (session.turns, to_millis(clock::now()), session.history.as_slice());
            let before = self.sessions.insert(session.key.pair(), value).map_err(broke(WRITING))?;
            let before = before.map_or(0, |before| ROW_BYTES + before.value().2.len() as u64);
            self.stats.bytes = (self.stats.bytes + ROW_BYTES + session.history.len() as u64).saturating_sub(before);
        }
        Ok(true)
    }

    /// All conversations.
    pub(super) fn sessions(&self) -> Result<Vec<Session>, JournalError> {
        let now = clock::now();
        let mut sessions = Vec::new();
        for entry in self.sessions.iter().map_err(broke(READING))? {
            let (key, value) = entry.map_err(broke(READING))?;
            let ((client, name), (turns, last_ms, history)) = (key.value(), value.value());
            let age = now.duration_since(from_millis(last_ms)).unwrap_or_default();
            sessions.push(Session { key: Key::new(client, name), turns, age, history: history.to_vec() });
        }
        Ok(sessions)
    }

    /// Removes conversations whose last turn is long ago.
    pub(super) fn sweep_sessions(&mut self, keep: Duration) -> Result<(), JournalError> {
        for session in self.sessions()?.into_iter().filter(|session| session.age >= keep) {
            self.sessions.remove(session.key.pair()).map_err(broke(WRITING))?;
            let bytes = ROW_BYTES + session.history.len() as u64;
            self.stats.bytes = self.stats.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Changes a row's head in place; nothing where there is none.
    pub(super) fn change(&mut self, key: &Key, edit: impl FnOnce(&mut Head)) -> Result<(), JournalError> {
        let Some(mut head) = self.head(key)? else { return Ok(()) };
        edit(&mut head);
        self.put_head(key, &head)
    }

    /// Removes a row; `false` where there is none.
    pub(super) fn forget(&mut self, key: &Key) -> Result<bool, JournalError> {
        let Some(head) = self.head(key)? else { return Ok(false) };
        self.heads.remove(key.pair()).map_err(broke(WRITING))?;
        *self.stats.rows_of(head.done) -= 1;
        self.stats.bytes = self.stats.bytes.saturating_sub(ROW_BYTES);
        put(&mut self.requests, &mut self.stats, key, None)?;
        put(&mut self.replies, &mut self.stats, key, None)?;
        put(&mut self.answers, &mut self.stats, key, None)?;
        Ok(true)
    }

    /// Removes answers that have been kept long enough.
    pub(super) fn sweep(&mut self, keep: Duration) -> Result<Vec<Key>, JournalError> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let before_ms = to_millis(clock::now()).saturating_sub(keep_ms);
        let old = self.keys(usize::MAX, |head| head.done && head.finished_ms <= before_ms)?;
        for key in &old {
            self.forget(key)?;
        }
        Ok(old)
    }

    /// The wall clock was set: the marks of all rows go with it, so that everything lasts as long as it would have. No mark
    /// of the past comes to lie in the future.
    pub(super) fn move_marks(&mut self, step_ms: i64) -> Result<(), JournalError> {
        let now_ms = to_millis(clock::now());
        let moved = |mark_ms: u64| if mark_ms == 0 { 0 } else { mark_ms.saturating_add_signed(step_ms).max(1) };
        for key in self.keys(usize::MAX, |_| true)? {
            self.change(&key, |head| {
                head.accepted_ms = moved(head.accepted_ms).min(now_ms);
                head.finished_ms = moved(head.finished_ms).min(now_ms);
                head.deadline_ms = moved(head.deadline_ms);
            })?;
        }
        for session in self.sessions()? {
            let last =
                self.sessions.get(session.key.pair()).map_err(broke(READING))?.map_or(0, |value| value.value().1);
            let value = (session.turns, moved(last).min(now_ms), session.history.as_slice());
            self.sessions.insert(session.key.pair(), value).map_err(broke(WRITING))?;
        }
        Ok(())
    }

    /// The keys of at most `most` rows that `wanted` says yes to.
    pub(super) fn keys(&self, most: usize, wanted: impl Fn(&Head) -> bool) -> Result<Vec<Key>, JournalError> {
        let mut keys = Vec::new();
        for entry in self.heads.iter().map_err(broke(READING))? {
            if keys.len() == most {
                break;
            }
            let (key, head) = entry.map_err(broke(READING))?;
            if wanted(&Head::read(head.value())) {
                let (client, id) = key.value();
                keys.push(Key::new(client, id));
            }
        }
        Ok(keys)
    }

    /// At most `most` whole rows that `wanted` says yes to.
    pub(super) fn records(&self, most: usize, wanted: impl Fn(&Head) -> bool) -> Result<Vec<Record>, JournalError> {
        let keys = self.keys(most, wanted)?;
        keys.iter().filter_map(|key| self.record(key).transpose()).collect()
    }

    /// Rows without their payloads.
    pub(super) fn heads(
        &self,
        most: usize,
        client: Option<&str>,
        state: Option<State>,
    ) -> Result<Vec<Record>, JournalError> {
        let mut found = Vec::new();
        for entry in self.heads.iter().map_err(broke(READING))? {
            let (key, head) = entry.map_err(broke(READING))?;
            let (whose, id) = key.value();
            if client.is_some_and(|client| client != whose) {
                continue;
            }
            let record = Head::read(head.value()).record(Key::new(whose, id), Vec::new(), Vec::new(), Vec::new());
            if state.is_none_or(|state| state == record.state) {
                found.push(record);
            }
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    /// One whole row.
    pub(super) fn record(&self, key: &Key) -> Result<Option<Record>, JournalError> {
        let Some(head) = self.head(key)? else { return Ok(None) };
        let (request, reply) = (bytes(&self.requests, key)?, bytes(&self.replies, key)?);
        Ok(Some(head.record(key.clone(), request, reply, self.answer(key)?)))
    }

    fn answer(&self, key: &Key) -> Result<Vec<u8>, JournalError> {
        bytes(&self.answers, key)
    }

    fn head(&self, key: &Key) -> Result<Option<Head>, JournalError> {
        Ok(self.heads.get(key.pair()).map_err(broke(READING))?.map(|head| Head::read(head.value())))
    }

    fn put_head(&mut self, key: &Key, head: &Head) -> Result<(), JournalError> {
        self.heads.insert(key.pair(), head.write()).map_err(broke(WRITING))?;
        Ok(())
    }
}

fn bytes(table: &Payloads<'_>, key: &Key) -> Result<Vec<u8>, JournalError> {
    Ok(table.get(key.pair()).map_err(broke(READING))?.map(|bytes| bytes.value().to_vec()).unwrap_or_default())
}

/// Puts a payload in or takes it out, and keeps the byte count true.
fn put(table: &mut Payloads<'_>, stats: &mut Stats, key: &Key, payload: Option<&[u8]>) -> Result<(), JournalError> {
    let before = match payload {
        Some(payload) => {
            stats.bytes += payload.len() as u64;
            table.insert(key.pair(), payload).map_err(broke(WRITING))?.map(|old| old.value().len())
        }
        None => table.remove(key.pair()).map_err(broke(WRITING))?.map(|old| old.value().len()),
    };
    stats.bytes = stats.bytes.saturating_sub(before.unwrap_or(0) as u64);
    Ok(())
}
