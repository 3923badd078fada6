//! `/admin/*`: orders to the daemon, for those who may give them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use crate::control::Order;
use crate::fault::{Code, Fault, Kind};
use crate::transport::http::Site;
use crate::transport::http::peers::Peer;

/// Starts a drain and answers at once, or with `?wait=true` when the daemon is about to end: how the drain went.
pub(super) async fn drain(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Response, Fault> {
    may_order(&site, peer, "drain")?;
    let wait = read_wait(&uri, false)?;
    let watching = wait.then(|| Watching::start(&site));
    site.control.give(Order::Drain, peer.label()).await?;
    if watching.is_none() {
        return Ok((StatusCode::ACCEPTED, Json(json!({"status": "draining"}))).into_response());
    }
    let mut end = site.end.subscribe();
    // The sender lives in the site, which is ours.
    let end = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    Ok(Json(json!({"status": "drained", "end": end})).into_response())
}

/// A request that waits for the drain's end, counted apart from what the drain waits for.
struct Watching {
    site: Arc<Site>,
}

impl Watching {
    fn start(site: &Arc<Site>) -> Self {
        site.watching.fetch_add(1, Ordering::Relaxed);
        Self { site: Arc::clone(site) }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.site.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the config again; answers with what changed and what only a restart can change.
pub(super) async fn reload(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Response, Fault> {
    may_order(&site, peer, "reload")?;
    let wait = read_wait(&uri, true)?;
    let control = site.control.clone();
    let order = async move { control.give(Order::Reload, peer.label()).await };
    if wait {
        return Ok(Json(order.await?).into_response());
    }
    // What comes of it is in the log.
    tokio::spawn(order);
    Ok((StatusCode::ACCEPTED, Json(json!({"status": "reloading"}))).into_response())
}

pub(super) fn may_order(site: &Site, peer: Peer, what: &str) -> Result<(), Fault> {
    if site.terms().rules.may_order(peer) {
        return Ok(());
    }
    let message = format!("user {} may not {what} this daemon; root and user {} may", peer.user, site.owner);
    let fault = Fault::new(Kind::Caller, Code::Forbidden, message);
    Err(fault.hint("`socket.admins` lists who else may"))
}

/// `?wait=true` or `?wait=false`: whether the answer comes at the end or at once.
fn read_wait(uri: &Uri, otherwise: bool) -> Result<bool, Fault> {
    match uri.query() {
        None | Some("") => Ok(otherwise),
        Some("wait=true") => Ok(true),
        Some("wait=false") => Ok(false),
        Some(query) => {
            let shown: String = query.chars().take(60).collect();
            Err(Fault::invalid(format!("`{shown}` is not `wait=true` or `wait=false`")).param("wait"))
        }
    }
}
