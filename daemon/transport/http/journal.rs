//! `/admin/journal`: what was accepted, computed and delivered over MQTT, for those who may give orders. The file itself is
//! the daemon's while it runs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::fault::{Code, Fault, Kind};
use crate::journal::{self, Journal, Key};
use crate::transport::http::Site;
use crate::transport::http::admin::may_order;
use crate::transport::http::peers::Peer;
use crate::transport::shape::record;

/// Rows in one answer at most.
const ROWS_MAX: usize = 10_000;

/// Rows in the order of their keys, without their texts; and how many there are in all.
pub(super) async fn list(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Json<Value>, Fault> {
    let journal = open(&site, peer, "read the journal of")?;
    let [client, state, limit] = read_query(&uri, ["client", "state", "limit"])?;
    let state = state.map(journal::State::read).transpose()?;
    let limit = limit.map(|text| read_number(text, "limit")).transpose()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(ROWS_MAX).min(ROWS_MAX);
    let rows = journal.list(limit, client.map(str::to_owned), state).await?;
    let held = journal.stats();
    let rows: Vec<Value> = rows.iter().map(|row| record::row(row).into()).collect();
    Ok(Json(json!({"rows": rows, "pending": held.pending, "done": held.done, "bytes": held.bytes})))
}

/// One row with its texts.
pub(super) async fn show(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    Path((client, id)): Path<(String, String)>,
) -> Result<Json<Value>, Fault> {
    let journal = open(&site, peer, "read the journal of")?;
    let found = journal.find(Key::new(&client, &id)).await?;
    let none = || {
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        let message = format!("the journal has no request `{}` of `{}`", shown(&id), shown(&client));
        Fault::new(Kind::Caller, Code::NotFound, message)
    };
    Ok(Json(Value::Object(record::whole(&found.ok_or_else(none)?))))
}

/// Removes answers that are older; what is not answered stays.
pub(super) async fn prune(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Json<Value>, Fault> {
    let journal = open(&site, peer, "prune the journal of")?;
    let [age] = read_query(&uri, ["older_than_ms"])?;
    let older_than_ms = read_number(age.ok_or_else(|| Fault::invalid("`older_than_ms` is missing"))?, "older_than_ms")?;
    let removed = journal.prune(Duration::from_millis(older_than_ms)).await?;
    tracing::info!(removed, older_than_ms, by = peer.label(), "answers were removed from the journal");
    Ok(Json(json!({"removed": removed})))
}

fn open(site: &Site, peer: Peer, what: &str) -> Result<Journal, Fault> {
    may_order(site, peer, what)?;
    site.journal().ok_or_else(|| {
        Fault::new(Kind::Caller, Code::NotFound, "this daemon keeps no journal").hint("it does where `mqtt.url` is set")
    })
}

/// The values of these keys, in their order; any other key is refused by its name. Names of clients need no escapes.
fn read_query<'u, const N: usize>(uri: &'u Uri, keys: [&str; N]) -> Result<[Option<&'u str>; N], Fault> {
    let mut values = [None; N];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = keys.iter().position(|known| *known == key).ok_or_else(|| {
            let shown: String = key.chars().take(60).collect();
            Fault::invalid(format!("`{shown}` is not one of `{}`", keys.join("`, `"))).param(shown)
        })?;
        values[place] = Some(value);
    }
    Ok(values)
}

fn read_number(text: &str, key: &str) -> Result<u64, Fault> {
    let shown = || text.chars().take(60).collect::<String>();
    text.parse().map_err(|_| Fault::invalid(format!("`{key}` is `{}`, not a whole number", shown())).param(key))
}
