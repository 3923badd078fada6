//! The pages that are no completion: health, metrics, status, models.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::fault::{Code, Fault, Kind};
use crate::transport::http::chat::serving;
use crate::transport::http::{Serving, Site};

/// 200 when a request would be taken on now, else 503 and why.
pub(super) async fn health(State(site): State<Arc<Site>>) -> Response {
    match serving(&site) {
        Ok(_) => Json(json!({"status": "ok"})).into_response(),
        Err(fault) => fault.into_response(),
    }
}

/// The metrics page, OpenMetrics text.
pub(super) async fn metrics(State(site): State<Arc<Site>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], site.vitals.page()).into_response()
}

/// Node, model, provider, and every metric by its name.
pub(super) async fn status(State(site): State<Arc<Site>>) -> Json<Value> {
    let serving = site.serving();
    let serving = serving.as_deref();
    let state = match serving {
        None => "loading",
        Some(_) if site.is_draining() => "draining",
        Some(_) => "ready",
    };
    let numbers: Map<String, Value> =
        site.vitals.numbers().into_iter().map(|(name, value)| (name, json!(value))).collect();
    Json(json!({
        "node": site.node,
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "uptime_s": site.vitals.uptime().as_secs(),
        "waiting": serving.map(|serving| serving.queue.waiting()),
        "model": serving.map(|serving| &serving.traits),
        "provider": serving.map(|serving| &serving.provider),
        "provider_reason": serving.map(|serving| &serving.provider_reason),
        "onnxruntime": serving.map(|serving| &serving.runtime),
        "metrics": numbers,
    }))
}

/// The one model, in OpenAI's list.
pub(super) async fn models(State(site): State<Arc<Site>>) -> Result<Json<Value>, Fault> {
    let serving = serving(&site)?;
    Ok(Json(json!({"object": "list", "data": [model_json(&serving, site.started)]})))
}

/// One model by name.
pub(super) async fn model(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Result<Json<Value>, Fault> {
    let serving = serving(&site)?;
    if id != serving.model && id != "default" {
        let shown: String = id.chars().take(80).collect();
        let message = format!("there is no model `{shown}` here, `{}` is loaded", serving.model);
        return Err(Fault::new(Kind::Caller, Code::NotFound, message).param("model"));
    }
    Ok(Json(model_json(&serving, site.started)))
}

fn model_json(serving: &Serving, created: u64) -> Value {
    json!({"id": serving.model, "object": "model", "created": created, "owned_by": "moed", "context_length": serving.context})
}

/// A path that is none.
pub(super) async fn not_found(uri: Uri) -> Fault {
    let shown: String = uri.path().chars().take(120).collect();
    Fault::new(Kind::Caller, Code::NotFound, format!("there is nothing at `{shown}`"))
}

/// A path that knows other methods.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let shown: String = uri.path().chars().take(120).collect();
    let fault = Fault::invalid(format!("`{shown}` does not know the method {method}"));
    let mut response = fault.into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}
