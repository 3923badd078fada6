//! Events to server-sent events, one chunk an event, `[DONE]` at the end.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use crate::job::Event;
use crate::queue::ticket::Ticket;
use crate::transport::http::Site;
use crate::transport::http::connection::Peer;
use crate::transport::http::reply::error_body;
use crate::transport::http::wire::Card;

/// A streamed answer in the making. Dropping it drops the ticket, which cancels the job.
struct Telling {
    ticket: Ticket,
    card: Card,
    include_usage: bool,
    calls: usize,
    opened: bool,
    peer: Peer,
    site: Arc<Site>,
}

/// The response whose body is the stream. The job's channel holds every event, so a slow reader holds up nobody but itself.
pub(super) fn respond(ticket: Ticket, card: Card, include_usage: bool, peer: Peer, site: Arc<Site>) -> Response {
    let telling = Telling { ticket, card, include_usage, calls: 0, opened: false, peer, site };
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
            return Some(match self.ticket.next().await? {
                Event::Started => continue,
                Event::Text(text) => line(&self.card.text(&text)),
                Event::Call(call) => {
                    self.calls += 1;
                    line(&self.card.call(self.calls - 1, &call))
                }
                Event::Finished(outcome) => {
                    self.site.note_end(&self.ticket, self.peer, Ok(&outcome));
                    let mut lines = line(&self.card.closing(&outcome));
                    if self.include_usage {
                        lines.push_str(&line(&self.card.usage(&outcome.usage)));
                    }
                    lines + DONE
                }
                Event::Failed(fault) => {
                    self.site.note_end(&self.ticket, self.peer, Err(&fault));
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
