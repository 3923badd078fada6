//! `POST /v1/chat/completions`: bytes to a [`Job`], its events to an answer.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::fault::{Code, Fault, Kind};
use crate::job::{Event, Job, Origin, ToolChoice, Transport};
use crate::transport::http::peers::Peer;
use crate::transport::http::wire::{Answer, Card};
use crate::transport::http::{Asked, DRAIN_RETRY, Serving, Site, stream};
use crate::transport::shape::{self, Settings};

/// A body over the limit is still read up to this many times the limit: a client that is cut off while it writes never sees
/// the answer that says why.
const DISCARD_FACTOR: usize = 16;

/// A request, understood.
struct Request {
    job: Job,
    /// Who is to answer, where the caller named one.
    model: Option<String>,
    stream: bool,
    include_usage: bool,
}

/// The handler.
pub(super) async fn complete(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match answer(&site, peer, &headers, body).await {
        Ok(response) => response,
        Err(fault) => {
            site.vitals.count_request(Transport::Http, fault.code.name());
            fault.into_response()
        }
    }
}

async fn answer(site: &Arc<Site>, peer: Peer, headers: &HeaderMap, body: Body) -> Result<Response, Fault> {
    // The body first: answering before it is read would cut the client off while it writes.
    let bytes = read_body(site, body).await?;
    check_content_type(headers)?;
    let serving = serving(site)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Fault::new(Kind::Caller, Code::InvalidJson, format!("the body is no JSON: {error}")))?;
    let mut request = read(&value, peer, &serving.model)?;
    request.job.bytes = bytes.len();
    drop((value, bytes));
    let Request { mut job, stream, include_usage, model } = request;
    let queue = serving.queue.clone();
    // Rendering and tokenising a long prompt takes milliseconds; they must not hold up other connections.
    let taking = move || {
        job.groups = peer.groups_among(&queue.rationed_groups());
        queue.submit(job)
    };
    let ticket = tokio::task::spawn_blocking(taking)
        .await
        .map_err(|error| Fault::bug(format!("taking the request on: {error}")))??;
    if let Some(asked) = &model {
        // Another model may have taken over since the name was compared.
        check_model(asked, ticket.model())?;
    }
    let card = Card::new(ticket.model(), &serving.provider, site.started);
    if stream {
        return Ok(stream::respond(Asked::new(site, ticket, peer), card, include_usage));
    }
    let mut asked = Asked::new(site, ticket, peer);
    match collect(&mut asked).await {
        Ok(answer) => {
            asked.note(Ok(&answer.outcome));
            Ok(Json(card.whole(&answer)).into_response())
        }
        Err(fault) => {
            asked.note(Err(&fault));
            Ok(fault.into_response())
        }
    }
}

/// Waits for the end of an answer.
async fn collect(asked: &mut Asked) -> Result<Answer, Fault> {
    let (mut text, mut calls) = (String::new(), Vec::new());
    while let Some(event) = asked.next().await {
        match event {
            Event::Started => {}
            Event::Text(piece) => text.push_str(&piece),
            Event::Call(call) => calls.push(call),
            Event::Finished(outcome) => return Ok(Answer { text, calls, outcome }),
            Event::Failed(fault) => return Err(fault),
        }
    }
    Err(Fault::bug("the answer ended without an end"))
}

/// What is served, or why nothing is.
pub(super) fn serving(site: &Site) -> Result<Arc<Serving>, Fault> {
    let loading = || Fault::unavailable("the model is being loaded", std::time::Duration::from_secs(1));
    let serving = site.serving().ok_or_else(loading)?;
    if site.is_draining() {
        return Err(Fault::unavailable("the daemon is draining and takes no new requests", DRAIN_RETRY));
    }
    Ok(serving)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(kind) = headers.get(axum::http::header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or("unreadable");
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // curl's `-d` without a header says it is a form; what it holds decides then.
    if essence == "application/json" || essence == "application/x-www-form-urlencoded" {
        return Ok(());
    }
    let message = format!("the content type is `{kind}`, this endpoint reads `application/json`");
    Err(Fault::new(Kind::Caller, Code::UnsupportedMediaType, message))
}

async fn read_body(site: &Site, body: Body) -> Result<Vec<u8>, Fault> {
    let terms = site.terms();
    let (limit, timeout) = (terms.limits.body_max.bytes(), terms.limits.body_timeout.0);
    let late = |_| {
        let message = format!("the body did not arrive within {} s", timeout.as_secs());
        Fault::new(Kind::Caller, Code::DeadlineExceeded, message)
    };
    tokio::time::timeout(timeout, collect_body(body, limit)).await.map_err(late)?
}

async fn collect_body(mut body: Body, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::invalid(format!("reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(&data);
        } else if length > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    if length > limit {
        let message = format!("the body has {length} bytes or more, the limit is {limit}");
        return Err(Fault::new(Kind::Caller, Code::TooLarge, message).hint("the limit is `socket.body_max`"));
    }
    Ok(bytes)
}

/// Reads a request; every parameter is known by name or refused by name.
fn read(value: &Value, peer: Peer, model: &str) -> Result<Request, Fault> {
    let fields = shape::object(value, "the body")?;
    let messages = fields.get("messages").ok_or_else(|| Fault::invalid("`messages` is missing").param("messages"))?;
    let origin = Origin { transport: Transport::Http, client: peer.label() };
    let mut job = Job::new(origin, shape::read_messages(messages)?);
    job.tools_unsaid = true;
    let mut settings = Settings::default();
    let (mut stream, mut include_usage, mut named) = (false, false, None);
    for (name, value) in fields {
        if settings.read(name, value, name)? {
            continue;
        }
        match name.as_str() {
            // OpenAI's newer name for the same bound.
            "max_completion_tokens" => {
                settings.read("max_tokens", value, name)?;
            }
            "model" => {
                let asked = shape::text(value, "model")?;
                check_model(&asked, model)?;
                named = Some(asked);
            }
            "stream" => stream = !value.is_null() && shape::read_bool(value, name)?,
            "stream_options" => include_usage = read_stream_options(value)?,
            "tools" if value.is_null() => {}
            "tools" => {
                job.tools = shape::read_tools(value)?;
                job.tools_unsaid = false;
            }
            "tool_choice" => job.tool_choice = shape::read_tool_choice(value)?,
            "parallel_tool_calls" => job.parallel_calls = value.is_null() || shape::read_bool(value, name)?,
            "response_format" => job.format = shape::read_response_format(value)?,
            "priority" if !value.is_null() => job.priority = shape::read_priority(value)?,
            "deadline_ms" if !value.is_null() => {
                job.deadline = Some(Instant::now() + shape::read_deadline(value, name)?);
            }
            "reproducible" => job.reproducible = !value.is_null() && shape::read_bool(value, name)?,
            // Read above, null, or labels for the client's own books that change no answer.
            "messages" | "user" | "metadata" | "safety_identifier" | "prompt_cache_key" | "priority"
            | "deadline_ms" => {}
            _ => check_fixed(name, value)?,
        }
    }
    shape::check_calls(&job.tool_choice, &job.tools)?;
    shape::check_format(&job.format, &settings)?;
    if job.tool_choice == ToolChoice::None {
        job.tools.clear();
        job.tools_unsaid = false;
    }
    job.sampling = settings.sampling;
    job.stop = settings.stop;
    job.max_tokens = settings.max_tokens;
    job.min_tokens = settings.min_tokens;
    job.ignore_eos = settings.ignore_eos;
    job.whole = !stream;
    Ok(Request { job, model: named, stream, include_usage })
}

/// Parameters of OpenAI's that may only ask for what happens anyway.
fn check_fixed(name: &str, value: &Value) -> Result<(), Fault> {
    let allowed: &[&str] = match name {
        "n" => &["1"],
        "logprobs" | "store" => &["false"],
        "logit_bias" => &["{}"],
        "top_logprobs" => &["0"],
        "service_tier" => &["\"auto\"", "\"default\""],
        _ => {
            return Err(Fault::invalid(format!("`{name}` is not a parameter of this endpoint")).param(name));
        }
    };
    let written = value.to_string();
    if value.is_null() || allowed.contains(&written.as_str()) {
        return Ok(());
    }
    let shown: String = written.chars().take(60).collect();
    Err(Fault::invalid(format!("`{name}` is {shown}, this version serves {} only", allowed.join(" or "))).param(name))
}

fn check_model(asked: &str, model: &str) -> Result<(), Fault> {
    if asked == model || asked == "default" {
        return Ok(());
    }
    let shown: String = asked.chars().take(80).collect();
    let message = format!("there is no model `{shown}` here, `{model}` is loaded");
    Err(Fault::new(Kind::Caller, Code::NotFound, message)
        .param("model")
        .hint("`default` names whatever model is loaded"))
}

fn read_stream_options(value: &Value) -> Result<bool, Fault> {
    if value.is_null() {
        return Ok(false);
    }
    let mut include_usage = false;
    for (name, value) in shape::object(value, "stream_options")? {
        let path = format!("stream_options.{name}");
        match name.as_str() {
            "include_usage" => include_usage = shape::read_bool(value, &path)?,
            // Padding against traffic analysis on open networks; a local socket has none, so only `false` is honest.
            "include_obfuscation" if value == &Value::Bool(false) => {}
            _ => return Err(Fault::invalid(format!("`{path}` is not a parameter of this endpoint")).param(path)),
        }
    }
    Ok(include_usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Format;
    use serde_json::json;

    fn read_json(value: &Value) -> Result<Request, Fault> {
        read(value, Peer { user: 7, group: 7 }, "tiny")
    }

    fn hi() -> Value {
        json!([{"role": "user", "content": "hi"}])
    }

    #[test]
    fn a_request_becomes_a_job() {
        let asked = read_json(&json!({
            "model": "default", "messages": hi(), "temperature": 0.5, "max_completion_tokens": 9, "stop": "x", "seed": -1,
            "stream": true, "stream_options": {"include_usage": true}, "priority": "alarm", "user": "me", "n": 1
        }))
        .unwrap();
        assert_eq!((asked.stream, asked.include_usage, asked.job.max_tokens), (true, true, Some(9)));
        assert_eq!((asked.job.sampling.seed, asked.job.stop.as_slice()), (Some(u64::MAX), ["x".to_owned()].as_slice()));
        assert_eq!((asked.job.priority.name(), asked.job.origin.client.as_str()), ("alarm", "uid:7"));
    }

    #[test]
    fn the_form_of_the_answer_goes_into_the_job() {
        let tools = json!([{"type": "function", "function": {"name": "on"}}]);
        let asked = read_json(
            &json!({"messages": hi(), "tools": tools, "tool_choice": {"type": "function", "function": {"name": "on"}},
            "parallel_tool_calls": false}),
        )
        .unwrap();
        assert_eq!((asked.job.tool_choice, asked.job.parallel_calls), (ToolChoice::Named("on".to_owned()), false));
        let asked = read_json(&json!({"messages": hi(), "response_format": {"type": "json_object"}})).unwrap();
        assert_eq!((asked.job.format, asked.job.parallel_calls), (Format::JsonObject, true));
        let asked = read_json(&json!({"messages": hi(), "tools": tools, "tool_choice": "none"})).unwrap();
        assert!(asked.job.tools.is_empty());
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for (extra, param) in [
            (json!({"temprature": 1}), "temprature"),
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_object"}, "stop": "}"}), "stop"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
            (json!({"model": "gpt-4"}), "model"),
            (json!({"stream_options": {"speed": 1}}), "stream_options.speed"),
            (json!({"messages": []}), "messages"),
        ] {
            let mut request = json!({"messages": hi()});
            request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let fault = read_json(&request).err().unwrap_or_else(|| panic!("{extra} was accepted"));
            assert_eq!(fault.param.as_deref(), Some(param), "{fault}");
        }
        assert!(read_json(&json!([1])).err().unwrap().message.contains("the body"));
    }

    #[test]
    fn nulls_are_as_good_as_nothing() {
        let asked = read_json(
            &json!({"messages": hi(), "temperature": null, "tools": null, "stop": null, "seed": null, "n": null, "stream": null,
            "stream_options": null, "priority": null, "deadline_ms": null, "response_format": null, "tool_choice": null,
            "parallel_tool_calls": null}),
        );
        assert!(asked.is_ok(), "{:?}", asked.err());
    }
}
