//! What a node says: payloads out of outcomes and faults, and the parcels they travel in.
//!
//! An answer is stored without what changes between its copies (`cid`, `repeat`); `deliver` adds that.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::memory::Turn;
use super::wire::ReplyTo;
use crate::fault::{Code, Fault, Kind};
use crate::job::{Finish, Outcome, ToolCall};
use crate::journal::Key;
use crate::transport::shape::{energy_json, energy_total};

/// Expiry of a delta: by then the reader has the result or has gone.
const DELTA_EXPIRY: Duration = Duration::from_secs(10);
/// Expiry of `accepted`: it says that a request arrived, which nobody asks a minute later.
const ACCEPTED_EXPIRY: Duration = Duration::from_mins(1);

/// Whether the broker has to say that it has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surety {
    /// QoS 0: lost with the connection, and nobody is worse off.
    Fleeting,
    /// QoS 1: handed in again until the broker has acknowledged it.
    Sure,
}

/// One message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) surety: Surety,
    pub(super) retain: bool,
    pub(super) json: bool,
    pub(super) expiry: Option<Duration>,
    pub(super) correlation: Option<Vec<u8>>,
    /// User properties; the payload says the same.
    pub(super) labels: Vec<(String, String)>,
    /// The answer in the journal that this is a copy of.
    pub(super) answer: Option<Key>,
}

impl Parcel {
    /// A retained state of the node.
    pub(super) fn retained(topic: String, payload: Vec<u8>, json: bool) -> Self {
        Self {
            topic,
            payload,
            surety: Surety::Sure,
            retain: true,
            json,
            expiry: None,
            correlation: None,
            labels: Vec::new(),
            answer: None,
        }
    }
}

/// Whether the same request may come again, and when.
#[derive(Clone, Copy)]
enum Again {
    Never,
    After(Option<Duration>),
}

/// Says things in one node's name.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    pub(super) node: String,
    /// Whose results they are; nothing else names it.
    pub(super) model: String,
    /// Expiry of results and errors: as long as the journal keeps them.
    pub(super) keep: Duration,
}

impl Voice {
    /// The same for results of this model.
    pub(super) fn of(&self, model: &str) -> Self {
        Self { model: model.to_owned(), ..self.clone() }
    }

    fn head(&self, kind: &str, id: &str) -> Map<String, Value> {
        let mut head = Map::new();
        head.insert("v".to_owned(), 1.into());
        head.insert("type".to_owned(), kind.into());
        head.insert("id".to_owned(), id.into());
        head.insert("node".to_owned(), self.node.as_str().into());
        head
    }

    /// The whole answer, as it is stored.
    pub(super) fn result(
        &self,
        id: &str,
        text: &str,
        calls: &[ToolCall],
        outcome: &Outcome,
        attempt: u32,
        turn: Option<&Turn>,
    ) -> Vec<u8> {
        let mut result = self.head("result", id);
        result.insert("model".to_owned(), self.model.as_str().into());
        result.insert("text".to_owned(), text.into());
        if !calls.is_empty() {
            result.insert("tool_calls".to_owned(), calls.iter().map(call).collect());
        }
        result.insert("finish".to_owned(), outcome.finish.name().into());
        let usage = outcome.usage;
        result.insert(
            "usage".to_owned(),
            json!({
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.generated_tokens,
                "total_tokens": usage.prompt_tokens + usage.generated_tokens,
            }),
        );
        if let Some(energy) = &usage.energy {
            result["usage"]["energy"] = energy_json(Some(energy));
            result.insert("energy_j".to_owned(), energy_total(energy).into());
        }
        let timing = outcome.timing;
        result.insert(
            "timing".to_owned(),
            json!({
                "queue_ms": millis(timing.queue),
                "first_token_ms": millis(timing.first_token),
                "total_ms": millis(timing.total),
            }),
        );
        result.insert("attempt".to_owned(), attempt.into());
        if let Some(turn) = turn {
            result.insert("session".to_owned(), turn.session().into());
            result.insert("turn".to_owned(), turn.number.into());
        }
        Value::Object(result).to_string().into_bytes()
    }

    /// An error that ends nothing: nothing is stored, and the same request may come again.
    fn refusal(&self, id: &str, fault: &Fault) -> Vec<u8> {
        let again = if fault.code.retryable() { Again::After(fault.retry_after) } else { Again::Never };
        self.error(id, fault, again, fault.hint.as_deref())
    }

    /// An error that is the answer, as it is stored: the same request gets it again, so that asking again is no use, whatever
    /// the code. Under another id it may fare better where the machine was at fault; where we were, nobody knows.
    pub(super) fn failure(&self, id: &str, fault: &Fault) -> Vec<u8> {
        let fresh = fault.kind == Kind::Machine && fault.code.retryable();
        let hint = fault.hint.as_deref().or(fresh.then_some("ask again with a new id"));
        self.error(id, fault, Again::Never, hint)
    }

    fn error(&self, id: &str, fault: &Fault, again: Again, hint: Option<&str>) -> Vec<u8> {
        let mut error = self.head("error", id);
        error.insert("code".to_owned(), fault.code.name().into());
        error.insert("status".to_owned(), fault.code.status().into());
        error.insert("retryable".to_owned(), matches!(again, Again::After(_)).into());
        if let Again::After(Some(after)) = again {
            error.insert("retry_after_ms".to_owned(), millis(after).into());
        }
        error.insert("message".to_owned(), fault.message.as_str().into());
        if let Some(hint) = hint {
            error.insert("hint".to_owned(), hint.into());
        }
        Value::Object(error).to_string().into_bytes()
    }

    /// A stored answer, or an error that is none, on its way to `reply`.
    pub(super) fn deliver(
        &self,
        stored: &[u8],
        id: &str,
        reply: &ReplyTo,
        repeat: bool,
        answer: Option<Key>,
    ) -> Parcel {
        let is_result = stored.starts_with(br#"{"v":1,"type":"result""#);
        let mut tail = String::new();
        if let Some(cid) = &reply.cid {
            tail = format!(",\"cid\":{}", Value::from(cid.as_str()));
        }
        // A result always says it; an error only where a copy went before.
        if is_result || repeat {
            tail.push_str(if repeat { ",\"repeat\":true" } else { ",\"repeat\":false" });
        }
        tail.push('}');
        let mut payload = stored.strip_suffix(b"}").unwrap_or(stored).to_vec();
        payload.extend_from_slice(tail.as_bytes());
        self.parcel(payload, if is_result { "result" } else { "error" }, id, reply, Surety::Sure, self.keep, answer)
    }

    /// Says no.
    pub(super) fn refuse(&self, id: &str, reply: &ReplyTo, fault: &Fault) -> Parcel {
        self.deliver(&self.refusal(id, fault), id, reply, false, None)
    }

    /// Says what came of an order.
    pub(super) fn report(&self, id: &str, reply: &ReplyTo, more: &Value) -> Parcel {
        let mut report = self.head("result", id);
        report.extend(more.as_object().cloned().unwrap_or_default());
        let payload = Value::Object(report).to_string().into_bytes();
        self.parcel(payload, "result", id, reply, Surety::Sure, ACCEPTED_EXPIRY, None)
    }

    /// Says that a request is in the journal.
    pub(super) fn accepted(&self, id: &str, reply: &ReplyTo, queue_pos: usize, eta: Option<Duration>) -> Parcel {
        let mut accepted = self.head("accepted", id);
        accepted.insert("queue_pos".to_owned(), queue_pos.into());
        if let Some(eta) = eta {
            accepted.insert("eta_ms".to_owned(), millis(eta).into());
        }
        if let Some(cid) = &reply.cid {
            accepted.insert("cid".to_owned(), cid.as_str().into());
        }
        let payload = Value::Object(accepted).to_string().into_bytes();
        self.parcel(payload, "accepted", id, reply, Surety::Sure, ACCEPTED_EXPIRY, None)
    }

    /// Says a piece of the text.
    pub(super) fn delta(&self, id: &str, reply: &ReplyTo, attempt: u32, seq: u64, text: &str) -> Parcel {
        let mut delta = self.head("delta", id);
        delta.insert("attempt".to_owned(), attempt.into());
        delta.insert("seq".to_owned(), seq.into());
        delta.insert("text".to_owned(), text.into());
        if let Some(cid) = &reply.cid {
            delta.insert("cid".to_owned(), cid.as_str().into());
        }
        let payload = Value::Object(delta).to_string().into_bytes();
        let mut parcel = self.parcel(payload, "delta", id, reply, Surety::Fleeting, DELTA_EXPIRY, None);
        parcel.labels.push(("moed-seq".to_owned(), seq.to_string()));
        parcel
    }

    #[expect(clippy::too_many_arguments, reason = "private, and each caller reads as one sentence")]
    fn parcel(
        &self,
        payload: Vec<u8>,
        kind: &str,
        id: &str,
        reply: &ReplyTo,
        surety: Surety,
        expiry: Duration,
        answer: Option<Key>,
    ) -> Parcel {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Parcel {
            topic: reply.topic.clone(),
            payload,
            surety,
            retain: false,
            json: true,
            expiry: Some(expiry),
            correlation: reply.correlation.clone(),
            labels: vec![label("moed-type", kind), label("moed-id", id), label("moed-node", &self.node)],
            answer,
        }
    }
}

fn call(call: &ToolCall) -> Value {
    // A call that was cut in the middle is no JSON; its text is told as it is.
    let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::from(call.arguments.as_str()));
    json!({"id": call.id, "name": call.name, "arguments": arguments})
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Makes a payload shorter by at least `over` bytes: a result loses the end of its text and says `length`,
/// anything else that is too long becomes `too_large`. `None` where even that does not fit.
pub(super) fn shrink(payload: &[u8], over: usize) -> Option<Vec<u8>> {
    let limit = payload.len().checked_sub(over)?;
    let Ok(Value::Object(mut object)) = serde_json::from_slice(payload) else { return None };
    if object.get("type").and_then(Value::as_str) == Some("result")
        && let Some(shorter) = cut_text(&mut object, limit)
    {
        return Some(shorter);
    }
    let fault = Fault::new(
        Kind::Caller,
        Code::TooLarge,
        format!("the answer has {} bytes, the broker takes {limit}", payload.len()),
    );
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let voice = Voice { node: text("node"), model: String::new(), keep: Duration::ZERO };
    let error = voice.failure(&text("id"), &fault);
    (error.len() <= limit).then_some(error)
}

fn cut_text(result: &mut Map<String, Value>, limit: usize) -> Option<Vec<u8>> {
    let text = result.get("text")?.as_str()?.to_owned();
    result.insert("finish".to_owned(), Finish::Length.name().into());
    let mut write = |text: &str| {
        result.insert("text".to_owned(), text.into());
        serde_json::to_vec(&result).unwrap_or_default()
    };
    let frame = write("").len();
    let room = limit.checked_sub(frame)?;
    // A character takes its own bytes or its escape; what fits is counted as it would be written.
    let mut used = 0;
    let mut end = 0;
    for (start, character) in text.char_indices() {
        used += match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            control if control < ' ' => 6,
            plain => plain.len_utf8(),
        };
        if used > room {
            break;
        }
        end = start + character.len_utf8();
    }
    Some(write(&text[..end]))
}

#[cfg(test)]
mod tests;
