//! The one table from a [`Fault`] to an HTTP answer, in OpenAI's error shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::fault::{Code, Fault, Kind};

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(json!({"error": error_body(&self)}))).into_response();
        // The official clients retry 408 and 409 by themselves unless they are told.
        let retry = HeaderValue::from_static(if self.code.retryable() { "true" } else { "false" });
        response.headers_mut().insert("x-should-retry", retry);
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// What stands under `error`, in a whole answer and in a stream.
pub(super) fn error_body(fault: &Fault) -> Value {
    let kind = match (fault.kind, fault.code) {
        (_, Code::QuotaExceeded | Code::QueueFull) => "rate_limit_error",
        (_, Code::Forbidden) => "permission_error",
        (_, Code::NotFound) => "not_found_error",
        (Kind::Caller, _) => "invalid_request_error",
        (Kind::Busy, _) => "overloaded_error",
        (Kind::Config | Kind::Machine | Kind::Bug, _) => "server_error",
    };
    let mut body = json!({"message": fault.message, "type": kind, "param": fault.param, "code": fault.code.name()});
    if let Some(hint) = &fault.hint {
        body["hint"] = json!(hint);
    }
    body
}

/// The answer to a peer that has no seat.
pub(super) fn too_many_connections(open: usize, limit: usize) -> Response {
    let message = format!("this user has {open} connections open, limit {limit}");
    last(Fault::new(Kind::Busy, Code::QuotaExceeded, message).retry_after(std::time::Duration::from_secs(1)))
}

/// The answer to a peer that may not ask.
pub(super) fn stranger(user: u32) -> Response {
    let message = format!("user {user} may not ask this daemon");
    last(Fault::new(Kind::Caller, Code::Forbidden, message).hint("`socket.peers` lists who may"))
}

/// An answer after which the connection is closed.
fn last(fault: Fault) -> Response {
    let mut response = fault.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_fault_has_openais_shape_its_status_and_a_whole_number_of_seconds() {
        let fault =
            Fault::new(Kind::Busy, Code::QueueFull, "the queue is full").retry_after(Duration::from_millis(1200));
        let response = fault.clone().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()["x-should-retry"], "true");
        let late = Fault::new(Kind::Caller, Code::DeadlineExceeded, "late").into_response();
        assert_eq!(late.headers()["x-should-retry"], "false");
        let body = error_body(&fault.param("messages"));
        assert_eq!(
            body,
            json!({"message": "the queue is full", "type": "rate_limit_error", "param": "messages", "code": "queue_full"})
        );
        for code in Code::ALL {
            assert_eq!(Fault::new(Kind::Caller, code, "x").into_response().status().as_u16(), code.status());
        }
    }
}
