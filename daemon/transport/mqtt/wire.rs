//! Bytes of a message into a [`Request`]: JSON or a bare prompt, checked by name, hashed for "the same request".
//!
//! The payload counts, properties are mirrors: a 3.1.1 client has none, and a bridge may drop them.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::same::hash_of;
use super::topics::{NO_ID, Topics, is_name};
use crate::fault::{Code, Fault, Kind};
use crate::job::{Format, Job, Message, Origin, Priority, Tool, ToolChoice, Transport};
use crate::journal::BodyHash;
use crate::transport::shape::{self, DEADLINE_MAX, Settings, present, text, wrong};

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
    let object = match body_of(mail)? {
        Body::Prompt(prompt) => {
            let id = match &mail.id {
                Some(id) if is_name(id) => id.clone(),
                Some(_) => return Err(wrong("moed-id", ID_RULE)),
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

const ID_RULE: &str = "is not 1 to 64 of `A-Z a-z 0-9 _ . -`";

fn read_id(object: &Map<String, Value>) -> Result<String, Fault> {
    let id = text(object.get("id").unwrap_or(&Value::Null), "id")?;
    if is_name(&id) { Ok(id) } else { Err(wrong("id", ID_RULE)) }
}

fn read_object(object: Map<String, Value>) -> Result<Request, Fault> {
    if let Some(version) = present(&object, "v")
        && version.as_u64() != Some(VERSION)
    {
        return Err(wrong("v", &format!("is {version}, this node speaks version {VERSION}")));
    }
    let id = read_id(&object)?;
    if present(&object, "session").is_some() {
        return Err(wrong("session", "is not supported by this version"));
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

enum Body {
    Json(Map<String, Value>),
    Prompt(String),
}

/// Tells JSON from a bare prompt, by Content Type, else by the first character.
fn body_of(mail: &Mail) -> Result<Body, Fault> {
    let kind =
        mail.content_type.as_deref().map(|kind| kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase());
    let starts_as_object = mail.payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let bare = match kind.as_deref() {
        None | Some("") => !starts_as_object,
        Some("text/plain") => true,
        Some("application/json") => false,
        Some(other) => {
            return Err(Fault::new(
                Kind::Caller,
                Code::UnsupportedMediaType,
                format!("content type `{other}` is not read here"),
            )
            .hint("use `application/json`, `text/plain` or none"));
        }
    };
    if bare {
        let prompt = std::str::from_utf8(&mail.payload)
            .map_err(|error| Fault::invalid(format!("prompt is not UTF-8: {error}")))?;
        if prompt.trim().is_empty() {
            return Err(Fault::invalid("prompt is empty"));
        }
        return Ok(Body::Prompt(prompt.to_owned()));
    }
    match serde_json::from_slice(&mail.payload) {
        Ok(Value::Object(object)) => Ok(Body::Json(object)),
        Ok(_) => Err(Fault::new(Kind::Caller, Code::InvalidJson, "payload is JSON but no object")),
        Err(error) => Err(Fault::new(Kind::Caller, Code::InvalidJson, format!("payload is not JSON: {error}"))),
    }
}

/// The id alone, out of a payload that is not read otherwise.
fn peek_id(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    serde_json::from_slice::<OnlyId>(payload).ok().map(|only| only.id).filter(|id| is_name(id))
}

/// A bare prompt's id. With Correlation Data it is the same at every delivery; without, the time tells two equal
/// questions apart, at the price that a redelivered one is computed twice.
fn bare_id(mail: &Mail) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(mail.topic.as_bytes());
    add(mail.correlation.as_deref().unwrap_or_default());
    add(&mail.payload);
    if mail.correlation.is_none() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        add(&now.as_nanos().to_le_bytes());
    }
    hex(&hash.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn allowed_reply(topics: &Topics, client: &str, topic: Option<&str>) -> Option<String> {
    topic.filter(|topic| topics.may_reply(client, topic)).map(str::to_owned)
}

/// What `cancel`, `get` and `ack` say: an id, in JSON or bare; and for `get`, where the copy goes.
pub(super) fn read_named(
    topics: &Topics,
    client: &str,
    mail: &Mail,
) -> Result<(String, Option<ReplyTo>), Box<Refusal>> {
    let mut reply = ReplyTo { topic: topics.reply(client, NO_ID), correlation: mail.correlation.clone(), cid: None };
    let read = || -> Result<(String, Option<String>), Fault> {
        let payload = std::str::from_utf8(&mail.payload)
            .map_err(|error| Fault::invalid(format!("payload is not UTF-8: {error}")))?;
        if !payload.trim_start().starts_with('{') {
            let id = payload.trim();
            return if is_name(id) { Ok((id.to_owned(), None)) } else { Err(wrong("id", ID_RULE)) };
        }
        let object: Map<String, Value> = serde_json::from_str(payload)
            .map_err(|error| Fault::new(Kind::Caller, Code::InvalidJson, format!("payload is not JSON: {error}")))?;
        let wanted = present(&object, "reply_to").map(|topic| text(topic, "reply_to")).transpose()?;
        Ok((read_id(&object)?, wanted))
    };
    match read() {
        Ok((id, wanted)) => {
            let wanted = mail.response_topic.clone().or(wanted);
            let target = match wanted {
                None => None,
                Some(topic) if topics.may_reply(client, &topic) => Some(ReplyTo { topic, ..reply }),
                Some(_) => {
                    reply.topic = topics.reply(client, &id);
                    let fault =
                        Fault::new(Kind::Caller, Code::Forbidden, "reply topic is not below the client's own subtree");
                    return Err(Box::new(Refusal { id, reply, fault }));
                }
            };
            Ok((id, target))
        }
        Err(fault) => Err(Box::new(Refusal { id: NO_ID.to_owned(), reply, fault })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MAX: usize = 4096;

    fn topics() -> Topics {
        Topics::new("moed/v1", "hall")
    }

    fn mail(payload: &(impl ToString + ?Sized)) -> Mail {
        Mail {
            topic: "moed/v1/node/hall/c/lamp/request".to_owned(),
            payload: payload.to_string().into_bytes(),
            ..Mail::default()
        }
    }

    fn read(mail: &Mail) -> Result<(Request, ReplyTo), Box<Refusal>> {
        read_request(&topics(), "lamp", mail, MAX)
    }

    fn refused(mail: &Mail) -> (Code, Option<String>, String, String) {
        let refusal = read(mail).unwrap_err();
        (refusal.fault.code, refusal.fault.param, refusal.id, refusal.reply.topic)
    }

    #[test]
    fn a_whole_request_is_read() {
        let (request, reply) = read(&mail(&json!({
            "v": 1, "id": "q.1", "prompt": "hi", "params": {"max_tokens": 5, "seed": 3, "stop": "\n"},
            "stream": true, "ack": true, "priority": "alarm", "deadline_ms": 1500, "cid": "c", "newer": {"field": 1},
            "reply_to": "moed/v1/c/lamp/inbox", "tools": [{"name": "on"}],
        })))
        .unwrap();
        assert_eq!((request.id.as_str(), request.messages[0].content.as_deref()), ("q.1", Some("hi")));
        assert_eq!((request.settings.max_tokens, request.settings.sampling.seed), (Some(5), Some(3)));
        assert!(request.stream && request.ack && request.priority == Priority::Alarm && request.tools.len() == 1);
        assert_eq!(request.deadline, Some(Duration::from_millis(1500)));
        assert_eq!(
            reply,
            ReplyTo {
                topic: "moed/v1/c/lamp/inbox".to_owned(),
                correlation: Some(b"c".to_vec()),
                cid: Some("c".to_owned())
            }
        );
        let again = read_stored(&request.stored).unwrap();
        assert_eq!(again, request, "what is stored reads back the same");
        let job = request.job("lamp", Some(3), 2, None);
        assert!(job.reproducible && job.attempt == 2 && job.sampling.seed == Some(3) && job.origin.client == "lamp");
    }

    #[test]
    fn the_form_of_the_answer_is_read_stored_and_goes_into_the_job() {
        let schema = json!({"type": "object"});
        let format = Format::JsonSchema { schema: schema.clone(), strict: false };
        let (request, _) = read(&mail(&json!({"id": "q", "prompt": "x",
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})))
        .unwrap();
        let job = read_stored(&request.stored).unwrap().job("lamp", None, 1, None);
        assert_eq!(job.format, format);
        let (request, _) =
            read(&mail(&json!({"id": "q", "prompt": "x", "tools": [{"name": "on"}], "tool_choice": "required",
            "parallel_tool_calls": false})))
            .unwrap();
        let job = read_stored(&request.stored).unwrap().job("lamp", None, 1, None);
        assert_eq!((job.tool_choice, job.parallel_calls), (ToolChoice::Required, false));
    }

    #[test]
    fn what_cannot_be_read_is_answered_where_it_can_be() {
        let r = |id: &str| format!("moed/v1/c/lamp/r/{id}");
        let cases = [
            (mail("{"), Code::InvalidJson, None, "-"),
            (Mail { content_type: Some("application/json".to_owned()), ..mail("[1]") }, Code::InvalidJson, None, "-"),
            (mail("{}"), Code::InvalidRequest, Some("id"), "-"),
            (mail(&json!({"id": "a/b", "prompt": "x"})), Code::InvalidRequest, Some("id"), "-"),
            (mail(&json!({"id": 7, "prompt": "x"})), Code::InvalidRequest, Some("id"), "-"),
            (mail(&json!({"id": "1"})), Code::InvalidRequest, Some("messages"), "1"),
            (mail(&json!({"id": "1", "prompt": "x", "messages": []})), Code::InvalidRequest, Some("prompt"), "1"),
            (mail(&json!({"id": "1", "prompt": "x", "v": 2})), Code::InvalidRequest, Some("v"), "1"),
            (mail(&json!({"id": "1", "prompt": "x", "session": "s"})), Code::InvalidRequest, Some("session"), "1"),
            (
                mail(&json!({"id": "1", "prompt": "x", "params": {"temprature": 1}})),
                Code::InvalidRequest,
                Some("params.temprature"),
                "1",
            ),
            (
                mail(&json!({"id": "1", "prompt": "x", "tool_choice": "required"})),
                Code::InvalidRequest,
                Some("tool_choice"),
                "1",
            ),
            (
                mail(&json!({"id": "1", "prompt": "x", "response_format": {"type": "xml"}})),
                Code::InvalidRequest,
                Some("response_format.type"),
                "1",
            ),
            (
                mail(
                    &json!({"id": "1", "prompt": "x", "response_format": {"type": "json_object"}, "params": {"stop": "}"}}),
                ),
                Code::InvalidRequest,
                Some("stop"),
                "1",
            ),
            (
                mail(&json!({"id": "1", "prompt": "x", "reply_to": "homeassistant/x"})),
                Code::Forbidden,
                Some("reply_to"),
                "1",
            ),
            (mail(&json!({"id": "1", "prompt": "x", "cid": "y".repeat(129)})), Code::InvalidRequest, Some("cid"), "1"),
            (Mail { retain: true, ..mail(&json!({"id": "1", "prompt": "x"})) }, Code::InvalidRequest, None, "1"),
            (Mail { content_type: Some("image/png".to_owned()), ..mail("x") }, Code::UnsupportedMediaType, None, "-"),
            (mail(&json!({"id": "big", "prompt": "x".repeat(MAX)})), Code::TooLarge, None, "big"),
            (mail(&"y".repeat(MAX + 1)), Code::TooLarge, None, "-"),
            (mail("   "), Code::InvalidRequest, None, "-"),
        ];
        for (mail, code, param, id) in cases {
            let shown = String::from_utf8_lossy(&mail.payload).chars().take(60).collect::<String>();
            assert_eq!(refused(&mail), (code, param.map(str::to_owned), id.to_owned(), r(id)), "{shown}");
        }
        let garbage = Mail { payload: vec![0xff, 0xfe], ..mail("") };
        assert_eq!(refused(&garbage).0, Code::InvalidRequest);
        let forbidden =
            Mail { response_topic: Some("moed/v1/c/other/r/1".to_owned()), ..mail(&json!({"id": "1", "prompt": "x"})) };
        assert_eq!(refused(&forbidden), (Code::Forbidden, Some("reply_to".to_owned()), "1".to_owned(), r("1")));
    }

    #[test]
    fn a_bare_prompt_needs_nothing_and_keeps_its_id_with_correlation_data() {
        let with = Mail { correlation: Some(vec![1, 2]), ..mail("how warm is it?") };
        let (first, reply) = read(&with).unwrap();
        assert_eq!(first.messages, [Message::text(crate::job::Role::User, "how warm is it?")]);
        assert_eq!(reply.topic, topics().reply("lamp", &first.id));
        assert_eq!(read(&with).unwrap().0.id, first.id);
        assert_ne!(read(&mail("how warm is it?")).unwrap().0.id, read(&mail("how warm is it?")).unwrap().0.id);
        let named = Mail { id: Some("n1".to_owned()), ..mail("x") };
        assert_eq!(read(&named).unwrap().0.id, "n1");
        let plain = Mail { content_type: Some("text/plain; charset=utf-8".to_owned()), ..mail("{not json}") };
        assert_eq!(read(&plain).unwrap().0.messages[0].content.as_deref(), Some("{not json}"));
    }

    #[test]
    fn message_expiry_and_deadline_the_sooner_counts() {
        let expiry = |seconds| Some(Duration::from_secs(seconds));
        let with = |expiry, deadline: Value| {
            read(&Mail { expiry, ..mail(&json!({"id": "1", "prompt": "x", "deadline_ms": deadline})) })
                .unwrap()
                .0
                .deadline
        };
        assert_eq!(with(expiry(5), json!(9000)), expiry(5));
        assert_eq!(with(expiry(50), json!(9000)), expiry(9));
        assert_eq!(with(None, Value::Null), None);
        assert_eq!(with(expiry(u64::from(u32::MAX)), Value::Null), Some(DEADLINE_MAX));
    }

    #[test]
    fn verbs_take_an_id_in_json_or_bare() {
        let named = |payload: &str| read_named(&topics(), "lamp", &mail(payload));
        assert_eq!(named("{\"v\":1,\"id\":\"a\"}").unwrap(), ("a".to_owned(), None));
        assert_eq!(named(" a\n").unwrap().0, "a");
        assert_eq!(named("").unwrap_err().reply.topic, "moed/v1/c/lamp/r/-");
        assert_eq!(named("{\"id\":").unwrap_err().fault.code, Code::InvalidJson);
        let target = named("{\"id\":\"a\",\"reply_to\":\"moed/v1/c/lamp/x\"}").unwrap().1.unwrap();
        assert_eq!(target.topic, "moed/v1/c/lamp/x");
        assert_eq!(named("{\"id\":\"a\",\"reply_to\":\"x\"}").unwrap_err().fault.code, Code::Forbidden);
    }

    proptest! {
        #[test]
        fn no_message_makes_the_reader_fall_or_points_an_answer_elsewhere(
            payload in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "\\{\"id\":\"\\PC{0,9}\",\"reply_to\":\"\\PC{0,30}\",\"prompt\":\"x\"\\}".prop_map(String::into_bytes),
            ],
            response_topic in proptest::option::of("(moed/v1/c/lamp/)?\\PC{0,30}"),
            content_type in proptest::option::of("application/json|text/plain|\\PC{0,9}"),
            id in proptest::option::of("\\PC{0,70}"),
        ) {
            let mail = Mail { payload, response_topic, content_type, id, ..mail("") };
            let (id, topic) = match read(&mail) {
                Ok((request, reply)) => (request.id, reply.topic),
                Err(refusal) => (refusal.id, refusal.reply.topic),
            };
            prop_assert!(is_name(&id));
            prop_assert!(topics().may_reply("lamp", &topic), "{}", topic);
        }
    }
}
