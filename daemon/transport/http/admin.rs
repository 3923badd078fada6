//! `/admin/*`: orders to the daemon, for those who may give them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use crate::control::Order;
use crate::fault::{Code, Fault, Kind};
use crate::transport::http::Site;
use crate::transport::http::connection::Peer;

/// Starts a drain and answers at once.
pub(super) async fn drain(State(site): State<Arc<Site>>, Extension(peer): Extension<Peer>) -> Result<Response, Fault> {
    may_order(&site, peer, "drain")?;
    site.control.give(Order::Drain, label(peer)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"status": "draining"}))).into_response())
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
    let order = async move { control.give(Order::Reload, label(peer)).await };
    if wait {
        return Ok(Json(order.await?).into_response());
    }
    // What comes of it is in the log.
    tokio::spawn(order);
    Ok((StatusCode::ACCEPTED, Json(json!({"status": "reloading"}))).into_response())
}

fn may_order(site: &Site, peer: Peer, what: &str) -> Result<(), Fault> {
    if peer.user == 0 || peer.user == site.owner {
        return Ok(());
    }
    let message = format!("user {} may not {what} this daemon; root and user {} may", peer.user, site.owner);
    Err(Fault::new(Kind::Caller, Code::Forbidden, message))
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

fn label(peer: Peer) -> String {
    format!("uid:{}", peer.user)
}
