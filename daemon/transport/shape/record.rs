//! A row of the journal as an operator reads it: the same from the running daemon and from the file.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::journal::Record;

/// What a list shows of a row: no text of anybody.
pub fn row(record: &Record) -> Map<String, Value> {
    let row = json!({
        "client": record.key.client,
        "id": record.key.id,
        "state": record.state.name(),
        "attempts": record.attempts,
        "recoveries": record.recoveries,
        "delivered": record.delivered,
        "accepted_ms": millis(record.accepted),
        "finished_ms": millis(record.finished),
        "deadline_ms": record.deadline.map(millis),
    });
    row.as_object().cloned().unwrap_or_default()
}

/// A whole row, with what was asked or answered.
pub fn whole(record: &Record) -> Map<String, Value> {
    let mut row = row(record);
    for (name, bytes) in [("reply", &record.reply), ("request", &record.request), ("answer", &record.answer)] {
        if !bytes.is_empty() {
            let text = || Value::from(String::from_utf8_lossy(bytes));
            row.insert(name.to_owned(), serde_json::from_slice(bytes).unwrap_or_else(|_| text()));
        }
    }
    row.insert("seed".to_owned(), record.seed.into());
    row
}

/// Milliseconds since the epoch; none for what has not happened.
fn millis(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok().filter(|since| !since.is_zero())?;
    u64::try_from(since.as_millis()).ok()
}
