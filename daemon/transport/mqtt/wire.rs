//! Bytes of a message into a [`Request`]: JSON or a bare prompt, checked by name, hashed for "the same request".
//!
//! The payload counts, properties are mirrors: a 3.1.1 client has none, and a bridge may drop them.

mod body;
mod named;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::same::hash_of;
use super::topics::{NO_ID, Topics, is_name};
use crate::fault::{Code, Fault, Kind};
use crate::job::{Format, Job, Message, Origin, Priority, Tool, ToolChoice, Transport};
use crate::journal::BodyHash;
use crate::transport::shape::{self, DEADLINE_MAX, Settings, present, text, wrong};
use body::{Body, bare_id, body_of, peek_id};
pub(super) use named::read_named;

/// Bytes of Correlation Data; it is stored and echoed with every answer.
pub(super) const CORRELATION_MAX: usize = 128;
/// The only wire version there is.
const VERSION: u64 = 1;
/// A message as it came, with the properties that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
    pub(super) response_topic: Option<String>,
    pub(super) correlation: Option<Vec<u8>>,
    pub(super) content_type: Option<String>,
    /// The Payload Format Indicator says that the payload is text.
    pub(super) is_text: bool,
    /// What the broker has left of the Message Expiry.
    pub(super) expiry: Option<Duration>,
    /// The user property `moed-id`.
    pub(super) id: Option<String>,
}

/// Where answers go and what they carry back unread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplyTo {
    pub(super) topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) correlation: Option<Vec<u8>>,
    /// The payload's `cid`: Correlation Data for 3.1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cid: Option<String>,
}

/// A request, read and checked; nothing of it has been counted or run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Tool>,
    pub(super) tools_unsaid: bool,
    pub(super) tool_choice: ToolChoice,
    pub(super) parallel_calls: bool,
    pub(super) format: Format,
    pub(super) settings: Settings,
    pub(super) priority: Priority,
    pub(super) reproducible: bool,
    pub(super) stream: bool,
    pub(super) ack: bool,
    /// How long the requester waits, from now.
    pub(super) deadline: Option<Duration>,
    pub(super) body_hash: BodyHash,
    /// The conversation that this is a turn of, and its messages as they came.
    pub(super) session: Option<(String, Vec<Value>)>,
    /// What [`read_stored`] makes the same request of again.
    pub(super) stored: Vec<u8>,
}

impl Request {
    /// The job; a later attempt has the seed of the first.
    pub(super) fn job(
        &self,
        client: &str,
        seed: Option<u64>,
        attempt: u32,
        deadline: Option<std::time::Instant>,
    ) -> Job {
        let origin = Origin { transport: Transport::Mqtt, client: client.to_owned() };
        let settings = self.settings.clone();
        let reproducible = self.reproducible || settings.sampling.seed.is_some();
        let mut job = Job::new(origin, self.messages.clone());
        job.tools.clone_from(&self.tools);
        job.tools_unsaid = self.tools_unsaid;
        job.tool_choice.clone_from(&self.tool_choice);
        job.parallel_calls = self.parallel_calls;
        job.format.clone_from(&self.format);
        job.sampling = settings.sampling;
        job.sampling.seed = seed;
        job.stop = settings.stop;
        job.max_tokens = settings.max_tokens;
        job.min_tokens = settings.min_tokens;
        job.ignore_eos = settings.ignore_eos;
        job.priority = self.priority;
        job.bytes = self.stored.len();
        job.deadline = deadline;
        job.reproducible = reproducible;
        job.attempt = attempt;
        job.whole = !self.stream;
        job
    }
}

/// A message that cannot be served, with whatever is known of where to say so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) id: String,
    pub(super) reply: ReplyTo,
    pub(super) fault: Fault,
}

/// Reads a request. `payload_max` bounds what is looked at.
pub(super) fn read_request(
    topics: &Topics,
    client: &str,
    mail: &Mail,
    payload_max: usize,
) -> Result<(Request, ReplyTo), Box<Refusal>> {
    let mut refusal = Refusal {
        id: NO_ID.to_owned(),
        reply: ReplyTo { topic: String::new(), correlation: mail.correlation.clone(), cid: None },
        fault: Fault::bug("a refusal without a reason"),
    };
    match read_into(&mut refusal, topics, client, mail, payload_max) {
        Ok(request) => Ok((request, refusal.reply)),
        Err(fault) => {
            if refusal.reply.topic.is_empty() {
                refusal.reply.topic = topics.reply(client, &refusal.id);
            }
            if refusal.reply.correlation.as_ref().is_some_and(|bytes| bytes.len() > CORRELATION_MAX) {
                refusal.reply.correlation = None;
            }
            refusal.fault = fault;
            Err(Box::new(refusal))
        }
    }
}

/// Reads step by step; what is known of id and reply target stands in `known` whenever a step fails.
fn read_into(
    known: &mut Refusal,
    topics: &Topics,
    client: &str,
    mail: &Mail,
    payload_max: usize,
) -> Result<Request, Fault> {
    if let Some(id) = mail.id.as_ref().filter(|id| is_name(id)) {
        known.id.clone_from(id);
    }
    let size = mail.payload.len();
    if size > payload_max {
        // A somewhat larger payload is still searched for the id, so that the requester learns which one it was.
        if known.id == NO_ID && size <= payload_max.saturating_mul(4) {
            known.id = peek_id(&mail.payload).unwrap_or_else(|| NO_ID.to_owned());
        }
        known.reply.topic = allowed_reply(topics, client, mail.response_topic.as_deref()).unwrap_or_default();
        return Err(Fault::new(Kind::Caller, Code::TooLarge, format!("request has {size} bytes, limit {payload_max}")));
    }
    if mail.is_text
        && let Err(error) = std::str::from_utf8(&mail.payload)
    {
        let message = format!("the payload format indicator says text, and the payload is not UTF-8: {error}");
        return Err(Fault::invalid(message).hint("leave the indicator out, or send UTF-8"));
    }
    let object = match body_of(mail)? {
        Body::Prompt(prompt) => {
            let id = match &mail.id {
                Some(id) if is_name(id) => id.clone(),
                Some(_) => return Err(wrong("moed-id", NAME_RULE)),
                None => bare_id(mail),
            };
            let mut object = Map::new();
            object.insert("id".to_owned(), id.into());
            object.insert("prompt".to_owned(), prompt.into());
            object
        }
        Body::Json(object) => object,
    };
    known.id = read_id(&object)?;
    if mail.response_topic.is_none() {
        known.reply.topic = topics.reply(client, &known.id);
    }
    if let Some(cid) = present(&object, "cid") {
        let cid = text(cid, "cid")?;
        if cid.len() > CORRELATION_MAX {
            return Err(wrong("cid", &format!("has {} bytes, limit {CORRELATION_MAX}", cid.len())));
        }
        if known.reply.correlation.is_none() {
            known.reply.correlation = Some(cid.clone().into_bytes());
        }
        known.reply.cid = Some(cid);
    }
    let wanted = match (&mail.response_topic, present(&object, "reply_to")) {
        (Some(topic), _) => Some(topic.clone()),
        (None, Some(topic)) => Some(text(topic, "reply_to")?),
        (None, None) => None,
    };
    if let Some(wanted) = wanted {
        known.reply.topic = allowed_reply(topics, client, Some(&wanted)).ok_or_else(|| {
            known.reply.topic = String::new();
            Fault::new(Kind::Caller, Code::Forbidden, "reply topic is not a plain name below the client's own subtree")
                .param("reply_to")
                .hint(format!("answers may go below `{}`", topics.reply(client, "").trim_end_matches("r/")))
        })?;
    }
    if let Some(length) = mail.correlation.as_ref().map(Vec::len).filter(|length| *length > CORRELATION_MAX) {
        return Err(Fault::invalid(format!("correlation data has {length} bytes, limit {CORRELATION_MAX}")));
    }
    if mail.retain {
        return Err(Fault::invalid(
            "a retained request is not computed, since the broker would send it again at every start",
        )
        .hint("publish requests without the retain flag"));
    }
    let mut request = read_object(object)?;
    let expiry = mail.expiry.map(|expiry| expiry.min(DEADLINE_MAX));
    request.deadline = [request.deadline, expiry].into_iter().flatten().min();
    Ok(request)
}

/// Reads a request that was accepted before; only another version of this program can find it wrong.
pub(super) fn read_stored(stored: &[u8]) -> Result<Request, Fault> {
    read_object(
        serde_json::from_slice(stored).map_err(|error| Fault::bug(format!("a stored request is no JSON: {error}")))?,
    )
}

const NAME_RULE: &str = "is not 1 to 64 of `A-Z a-z 0-9 _ . -`";

fn read_id(object: &Map<String, Value>) -> Result<String, Fault> {
    let id = text(object.get("id").unwrap_or(&Value::Null), "id")?;
    if is_name(&id) { Ok(id) } else { Err(wrong("id", NAME_RULE)) }
}

fn read_object(object: Map<String, Value>) -> Result<Request, Fault> {
    if let Some(version) = present(&object, "v")
        && version.as_u64() != Some(VERSION)
    {
        return Err(wrong("v", &format!("is {version}, this node speaks version {VERSION}")));
    }
    let id = read_id(&object)?;
    let session = present(&object, "session").map(|session| text(session, "session")).transpose()?;
    if session.as_ref().is_some_and(|session| !is_name(session)) {
        return Err(wrong("session", NAME_RULE));
    }
    let format = shape::read_response_format(object.get("response_format").unwrap_or(&Value::Null))?;
    let tool_choice = shape::read_tool_choice(object.get("tool_choice").unwrap_or(&Value::Null))?;
    let tools = shape::read_tools(object.get("tools").unwrap_or(&Value::Null))?;
    shape::check_calls(&tool_choice, &tools)?;
    let messages = match (present(&object, "messages"), present(&object, "prompt")) {
        (Some(messages), None) => shape::read_messages(messages)?,
        (None, Some(prompt)) => shape::read_prompt(prompt)?,
        (None, None) => return Err(wrong("messages", "is missing, and so is `prompt`")),
        (Some(_), Some(_)) => return Err(wrong("prompt", "stands beside `messages`, one of them is needed")),
    };
    let flag = |key: &str| present(&object, key).map_or(Ok(false), |value| shape::read_bool(value, key));
    let priority = present(&object, "priority").map(shape::read_priority).transpose()?.unwrap_or_default();
    let deadline =
        present(&object, "deadline_ms").map(|value| shape::read_deadline(value, "deadline_ms")).transpose()?;
    let parallel = present(&object, "parallel_tool_calls");
    let parallel_calls = parallel.map_or(Ok(true), |value| shape::read_bool(value, "parallel_tool_calls"))?;
    let settings = read_params(object.get("params").unwrap_or(&Value::Null))?;
    shape::check_format(&format, &settings)?;
    let body_hash = hash_of(&object);
    let asked = |object: &Map<String, Value>| match object.get("messages") {
        Some(Value::Array(messages)) => messages.clone(),
        _ => vec![json!({"role": "user", "content": object.get("prompt")})],
    };
    let session = session.map(|session| (session, asked(&object)));
    Ok(Request {
        id,
        messages,
        tools_unsaid: present(&object, "tools").is_none() && tool_choice != ToolChoice::None,
        tools: if tool_choice == ToolChoice::None { Vec::new() } else { tools },
        tool_choice,
        parallel_calls,
        format,
        settings,
        priority,
        reproducible: flag("reproducible")?,
        stream: flag("stream")?,
        ack: flag("ack")?,
        deadline,
        body_hash,
        session,
        stored: Value::Object(object).to_string().into_bytes(),
    })
}

/// Settings sit in `params`, where an unknown key is refused: at the top it may be a newer client's, here it is a typo.
fn read_params(params: &Value) -> Result<Settings, Fault> {
    let mut settings = Settings::default();
    if params.is_null() {
        return Ok(settings);
    }
    for (key, value) in shape::object(params, "params")? {
        let path = format!("params.{key}");
        if !settings.read(key, value, &path)? {
            return Err(wrong(&path, "is not a setting").hint("a schema goes in `response_format`, tools in `tools`"));
        }
    }
    Ok(settings)
}

fn allowed_reply(topics: &Topics, client: &str, topic: Option<&str>) -> Option<String> {
    topic.filter(|topic| topics.may_reply(client, topic)).map(str::to_owned)
}

#[cfg(test)]
mod tests;
