//! Events to server-sent events, one chunk an event, `[DONE]` at the end.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use crate::job::Event;
use crate::transport::http::Asked;
use crate::transport::http::reply::error_body;
use crate::transport::http::wire::Card;

/// A streamed answer in the making. Dropping it drops the ticket, which cancels the job, and notes that its caller left.
struct Telling {
    asked: Asked,
    card: Card,
    include_usage: bool,
    calls: usize,
    opened: bool,
}

/// The response whose body is the stream. The job's channel holds every event, so a slow reader holds up nobody but itself.
pub(super) fn respond(asked: Asked, card: Card, include_usage: bool) -> Response {
    let telling = Telling { asked, card, include_usage, calls: 0, opened: false };
    let lines = stream::unfold(telling, |mut telling| async move {
        let line = telling.next_lines().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line)), telling))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(lines)).into_response()
}

impl Telling {
    async fn next_lines(&mut self) -> Option<String> {
        if !self.opened {
            self.opened = true;
            return Some(line(&self.card.opening()));
        }
        loop {
            return Some(match self.asked.next().await? {
                Event::Started => continue,
                Event::Text(text) => line(&self.card.text(&text)),
                Event::Call(call) => {
                    self.calls += 1;
                    line(&self.card.call(self.calls - 1, &call))
                }
                Event::Finished(outcome) => {
                    self.asked.note(Ok(&outcome));
                    let mut lines = line(&self.card.closing(&outcome));
                    if self.include_usage {
                        lines.push_str(&line(&self.card.usage(&outcome.usage)));
                    }
                    lines + DONE
                }
                Event::Failed(fault) => {
                    self.asked.note(Err(&fault));
                    line(&json!({"error": error_body(&fault)})) + DONE
                }
            });
        }
    }
}

const DONE: &str = "data: [DONE]\n\n";

fn line(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}
