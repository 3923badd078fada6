//! JSON values into the words of [`crate::job`]: what both transports read the same way.
//!
//! Each reader takes one value and names the field that is wrong by its path (`messages[2].content`), in the text and in
//! [`Fault::param`]. Limits stand here once, so that a request means the same over a socket and over a broker.
//! Which keys exist at the top of a request is the transports' own affair.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::job::{Message, Priority, Role, Sampling, Tool, ToolCall};
use crate::text::signature;

/// Turns in one conversation. One more is refused; the context would be full of empty turns long before.
pub const MESSAGES_MAX: usize = 4096;
/// Tools in one request, as in OpenAI's service.
pub const TOOLS_MAX: usize = 128;
/// Calls in one assistant turn.
pub const CALLS_MAX: usize = 128;
/// Stop texts in one request; each is compared with the end of the answer at every token.
pub const STOPS_MAX: usize = 16;
/// Bytes of one stop text; the matcher holds back that much of the answer.
pub const STOP_BYTES_MAX: usize = 256;
/// Characters of a tool's name, as in OpenAI's service.
pub const NAME_MAX: usize = 64;
/// The longest deadline that is told apart from none.
pub const DEADLINE_MAX: Duration = Duration::from_hours(30 * 24);

/// Keys that OpenAI's own replies put on a message and that clients send back unread.
const MESSAGE_ECHOES: [&str; 6] =
    ["refusal", "annotations", "audio", "function_call", "reasoning_content", "reasoning"];

/// Reads a conversation.
pub fn read_messages(value: &Value) -> Result<Vec<Message>, Fault> {
    let turns = array(value, "messages")?;
    if turns.is_empty() {
        return Err(wrong("messages", "is empty, at least one message is needed"));
    }
    at_most("messages", turns.len(), MESSAGES_MAX)?;
    turns.iter().enumerate().map(|(index, turn)| read_message(turn, &format!("messages[{index}]"))).collect()
}

/// Reads a prompt: one user message.
pub fn read_prompt(value: &Value) -> Result<Vec<Message>, Fault> {
    Ok(vec![Message::text(Role::User, text(value, "prompt")?)])
}

fn read_message(value: &Value, path: &str) -> Result<Message, Fault> {
    let turn = object(value, path)?;
    for (key, value) in turn {
        let known = matches!(key.as_str(), "role" | "content" | "name" | "tool_calls" | "tool_call_id");
        if !known && !value.is_null() && !MESSAGE_ECHOES.contains(&key.as_str()) {
            return Err(wrong(&format!("{path}.{key}"), "is not a field of a message"));
        }
    }
    let role = read_role(turn.get("role").unwrap_or(&Value::Null), &format!("{path}.role"))?;
    let calls_path = format!("{path}.tool_calls");
    let tool_calls = match present(turn, "tool_calls") {
        None => Vec::new(),
        Some(_) if role != Role::Assistant => return Err(wrong(&calls_path, "belongs to an assistant's message only")),
        Some(calls) => read_calls(calls, &calls_path)?,
    };
    let content_path = format!("{path}.content");
    let content = match present(turn, "content") {
        Some(content) => Some(read_content(content, &content_path)?),
        None if tool_calls.is_empty() => {
            return Err(wrong(&content_path, "is missing, only a message with tool calls may have none"));
        }
        None => None,
    };
    let optional = |key: &str| present(turn, key).map(|value| text(value, &format!("{path}.{key}"))).transpose();
    Ok(Message { role, content, tool_calls, tool_call_id: optional("tool_call_id")?, name: optional("name")? })
}

fn read_role(value: &Value, path: &str) -> Result<Role, Fault> {
    match text(value, path)?.as_str() {
        // OpenAI's newer name for the same turn.
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        other => {
            Err(wrong(path, &format!("is `{other}`, it must be `system`, `developer`, `user`, `assistant` or `tool`")))
        }
    }
}

/// A text, or OpenAI's list of parts, of which only text parts can be read.
fn read_content(value: &Value, path: &str) -> Result<String, Fault> {
    let Value::Array(parts) = value else {
        return match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(path, &format!("is {}, it must be a text or a list of text parts", kind(other)))),
        };
    };
    let mut whole = String::new();
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let part = object(part, &path)?;
        match part.get("type").and_then(Value::as_str) {
            Some("text") => whole.push_str(&text(part.get("text").unwrap_or(&Value::Null), &format!("{path}.text"))?),
            Some(other) => {
                return Err(wrong(&format!("{path}.type"), &format!("is `{other}`, this model reads `text` only")));
            }
            None => return Err(wrong(&format!("{path}.type"), "is missing")),
        }
    }
    Ok(whole)
}

fn read_calls(value: &Value, path: &str) -> Result<Vec<ToolCall>, Fault> {
    let calls = array(value, path)?;
    at_most(path, calls.len(), CALLS_MAX)?;
    calls.iter().enumerate().map(|(index, call)| read_call(call, index, &format!("{path}[{index}]"))).collect()
}

/// OpenAI's `{id, type, function: {name, arguments}}`, or the flat `{id, name, arguments}` that our own results carry.
fn read_call(value: &Value, index: usize, path: &str) -> Result<ToolCall, Fault> {
    let call = object(value, path)?;
    let (function, path_in) = match present(call, "function") {
        Some(function) => (object(function, &format!("{path}.function"))?, format!("{path}.function")),
        None => (call, path.to_owned()),
    };
    let id = match present(call, "id") {
        Some(id) => text(id, &format!("{path}.id"))?,
        None => format!("call_{index}"),
    };
    let name = read_name(function.get("name").unwrap_or(&Value::Null), &format!("{path_in}.name"))?;
    let arguments = read_arguments(function.get("arguments").unwrap_or(&Value::Null), &format!("{path_in}.arguments"))?;
    Ok(ToolCall { id, name, arguments })
}

/// The arguments' text as it was written; a call without any has `{}`.
fn read_arguments(value: &Value, path: &str) -> Result<String, Fault> {
    match value {
        Value::Null => Ok("{}".to_owned()),
        Value::Object(_) => Ok(value.to_string()),
        Value::String(text) if text.trim().is_empty() => Ok("{}".to_owned()),
        Value::String(text) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => Ok(text.clone()),
        Value::String(_) => Err(wrong(path, "is a text that is not a JSON object")),
        other => Err(wrong(path, &format!("is {}, it must be a JSON object or the text of one", kind(other)))),
    }
}

/// Reads the tools that the model may call.
pub fn read_tools(value: &Value) -> Result<Vec<Tool>, Fault> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let entries = array(value, "tools")?;
    at_most("tools", entries.len(), TOOLS_MAX)?;
    let mut tools: Vec<Tool> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("tools[{index}]");
        let tool = read_tool(entry, &path)?;
        if tools.iter().any(|earlier| earlier.name == tool.name) {
            return Err(wrong(&path, &format!("has the name `{}`, which an earlier tool has too", tool.name)));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// OpenAI's `{type: "function", function: {…}}`, or the function by itself.
fn read_tool(value: &Value, path: &str) -> Result<Tool, Fault> {
    let entry = object(value, path)?;
    if let Some(kind) = present(entry, "type")
        && kind != "function"
    {
        return Err(wrong(&format!("{path}.type"), &format!("is {kind}, only \"function\" is served")));
    }
    let (function, path) = match present(entry, "function") {
        Some(function) => {
            refuse_others(entry, &["type", "function"], path)?;
            (object(function, &format!("{path}.function"))?, format!("{path}.function"))
        }
        None => (entry, path.to_owned()),
    };
    // Every call is compared with its signature; `strict` is refused only where that comparison is not a whole one.
    refuse_others(function, &["type", "name", "description", "parameters", "strict"], &path)?;
    let name = read_name(function.get("name").unwrap_or(&Value::Null), &format!("{path}.name"))?;
    let description =
        present(function, "description").map(|value| text(value, &format!("{path}.description"))).transpose()?;
    let parameters = match present(function, "parameters") {
        None => None,
        Some(schema) => Some(read_parameters(schema, &format!("{path}.parameters"))?),
    };
    let strict = present(function, "strict").map(|value| read_bool(value, &format!("{path}.strict"))).transpose()?;
    if strict == Some(true)
        && let Some(keyword) = parameters.as_ref().and_then(signature::unjudged)
    {
        let what = format!("is true, but this version does not check `{keyword}`, which the schema uses");
        return Err(wrong(&format!("{path}.strict"), &what));
    }
    Ok(Tool { name, description, parameters, strict: strict == Some(true) })
}

/// A signature is a schema of an object; what the schema says inside is the grammar's affair.
fn read_parameters(value: &Value, path: &str) -> Result<Value, Fault> {
    let schema = object(value, path)?;
    if let Some(kind) = schema.get("type")
        && kind != "object"
    {
        return Err(wrong(&format!("{path}.type"), &format!("is {kind}, a tool's parameters are of type \"object\"")));
    }
    if let Some(properties) = schema.get("properties") {
        object(properties, &format!("{path}.properties"))?;
    }
    Ok(value.clone())
}

fn read_name(value: &Value, path: &str) -> Result<String, Fault> {
    let name = text(value, path)?;
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits {
        return Ok(name);
    }
    Err(wrong(path, &format!("is `{}`, a name is 1 to {NAME_MAX} of `A-Z a-z 0-9 _ . -`", shown(&name))))
}

/// Whether the model may call the tools that a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// The model sees no tools.
    None,
}

/// Reads `tool_choice`; forcing a call is refused by name.
pub fn read_tool_choice(value: &Value) -> Result<ToolChoice, Fault> {
    match value {
        Value::Null => Ok(ToolChoice::Auto),
        Value::String(choice) if choice == "auto" => Ok(ToolChoice::Auto),
        Value::String(choice) if choice == "none" => Ok(ToolChoice::None),
        other => Err(wrong(
            "tool_choice",
            &format!("is {}, only \"auto\" and \"none\" are supported by this version", shown(&other.to_string())),
        )),
    }
}

/// Lets `response_format` pass where it asks for what happens anyway.
pub fn read_response_format(value: &Value) -> Result<(), Fault> {
    match value.get("type").and_then(Value::as_str) {
        _ if value.is_null() => Ok(()),
        Some("text") => Ok(()),
        _ => Err(wrong("response_format", "is not supported by this version, only `{\"type\":\"text\"}` is")),
    }
}

/// Reads `priority`.
pub fn read_priority(value: &Value) -> Result<Priority, Fault> {
    let name = text(value, "priority")?;
    Priority::from_name(&name).ok_or_else(|| {
        wrong("priority", &format!("is `{}`, it must be `alarm`, `interactive` or `background`", shown(&name)))
    })
}

/// Reads a length of time in milliseconds that ends a job.
pub fn read_deadline(value: &Value, path: &str) -> Result<Duration, Fault> {
    let most = u64::try_from(DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX);
    integer(value, path, 1, most).map(Duration::from_millis)
}

/// Reads a yes or no.
pub fn read_bool(value: &Value, path: &str) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| wrong(path, &format!("is {}, it must be true or false", kind(value))))
}

/// How the answer is made and where it ends: the settings that sit in `params` over MQTT and at the top over HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub max_tokens: Option<usize>,
    pub min_tokens: usize,
    pub ignore_eos: bool,
}

impl Settings {
    /// Takes one setting in; `false` where `name` is none. `path` is the client's spelling. A null leaves the default.
    pub fn read(&mut self, name: &str, value: &Value, path: &str) -> Result<bool, Fault> {
        let known = matches!(
            name,
            "temperature"
                | "top_p"
                | "top_k"
                | "min_p"
                | "repetition_penalty"
                | "presence_penalty"
                | "frequency_penalty"
                | "seed"
                | "stop"
                | "max_tokens"
                | "min_tokens"
                | "ignore_eos"
        );
        if !known || value.is_null() {
            return Ok(known);
        }
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temperature = number(value, path, &Range::closed(0.0, 2.0))?,
            "top_p" => sampling.top_p = number(value, path, &Range::open_below(0.0, 1.0))?,
            "min_p" => sampling.min_p = number(value, path, &Range::closed(0.0, 1.0))?,
            "repetition_penalty" => sampling.repetition_penalty = number(value, path, &Range::open_below(0.0, 10.0))?,
            "presence_penalty" => sampling.presence_penalty = number(value, path, &Range::closed(-2.0, 2.0))?,
            "frequency_penalty" => sampling.frequency_penalty = number(value, path, &Range::closed(-2.0, 2.0))?,
            "top_k" => sampling.top_k = count(value, path, 0)?,
            "seed" => sampling.seed = Some(read_seed(value, path)?),
            "stop" => self.stop = read_stop(value, path)?,
            "max_tokens" => self.max_tokens = Some(count(value, path, 1)?),
            "min_tokens" => self.min_tokens = count(value, path, 0)?,
            _ => self.ignore_eos = read_bool(value, path)?,
        }
        Ok(true)
    }
}

/// Any 64-bit number; a negative one stands for its bit pattern.
fn read_seed(value: &Value, path: &str) -> Result<u64, Fault> {
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .ok_or_else(|| wrong(path, &format!("is {}, it must be a whole number of 64 bits", shown(&value.to_string()))))
}

fn read_stop(value: &Value, path: &str) -> Result<Vec<String>, Fault> {
    let stops = match value {
        Value::Array(stops) => {
            at_most(path, stops.len(), STOPS_MAX)?;
            stops
                .iter()
                .enumerate()
                .map(|(index, stop)| text(stop, &format!("{path}[{index}]")))
                .collect::<Result<_, _>>()?
        }
        single => vec![text(single, path)?],
    };
    for stop in &stops {
        if stop.is_empty() {
            return Err(wrong(path, "has an empty text, which would end every answer at once"));
        }
        if stop.len() > STOP_BYTES_MAX {
            return Err(wrong(path, &format!("has a text of {} bytes, limit {STOP_BYTES_MAX}", stop.len())));
        }
    }
    Ok(stops)
}

struct Range {
    least: f64,
    most: f64,
    least_excluded: bool,
}

impl Range {
    fn closed(least: f64, most: f64) -> Self {
        Self { least, most, least_excluded: false }
    }

    fn open_below(least: f64, most: f64) -> Self {
        Self { least, most, least_excluded: true }
    }
}

fn number(value: &Value, path: &str, range: &Range) -> Result<f32, Fault> {
    let Some(number) = value.as_f64() else {
        return Err(wrong(path, &format!("is {}, it must be a number", kind(value))));
    };
    let low = if range.least_excluded { number <= range.least } else { number < range.least };
    if low || number > range.most {
        let words = if range.least_excluded { "above" } else { "from" };
        return Err(wrong(path, &format!("is {value}, it must be {words} {} and at most {}", range.least, range.most)));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range is small and logits are f32: the nearest f32 is meant"
    )]
    let near = number as f32;
    Ok(near)
}

fn count(value: &Value, path: &str, least: u64) -> Result<usize, Fault> {
    // 2^31 - 1: what a 32-bit client can say, and more tokens than any context.
    let number = integer(value, path, least, i32::MAX.unsigned_abs().into())?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

fn integer(value: &Value, path: &str, least: u64, most: u64) -> Result<u64, Fault> {
    match value.as_u64() {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ if value.is_number() => {
            Err(wrong(path, &format!("is {value}, it must be a whole number from {least} to {most}")))
        }
        _ => Err(wrong(path, &format!("is {}, it must be a whole number", kind(value)))),
    }
}

/// A text, or a fault that names the field.
pub fn text(value: &Value, path: &str) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(wrong(path, "is missing")),
        other => Err(wrong(path, &format!("is {}, it must be a text", kind(other)))),
    }
}

/// An object, or a fault that names the field.
pub fn object<'v>(value: &'v Value, path: &str) -> Result<&'v Map<String, Value>, Fault> {
    value.as_object().ok_or_else(|| wrong(path, &format!("is {}, it must be an object", kind(value))))
}

fn array<'v>(value: &'v Value, path: &str) -> Result<&'v Vec<Value>, Fault> {
    value.as_array().ok_or_else(|| wrong(path, &format!("is {}, it must be a list", kind(value))))
}

/// The value under a key, where null means that there is none.
pub fn present<'v>(map: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn refuse_others(map: &Map<String, Value>, known: &[&str], path: &str) -> Result<(), Fault> {
    match map.iter().find(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, _)) => Err(wrong(&format!("{path}.{}", shown(key)), "is not a field that is read here")),
    }
}

fn at_most(path: &str, length: usize, most: usize) -> Result<(), Fault> {
    if length <= most { Ok(()) } else { Err(wrong(path, &format!("has {length} entries, limit {most}"))) }
}

/// A fault of the caller that names a field.
pub fn wrong(path: &str, what: &str) -> Fault {
    Fault::invalid(format!("`{path}` {what}")).param(path)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value as a message quotes it: short, whatever the client sent.
fn shown(text: &str) -> String {
    const CHARACTERS: usize = 80;
    match text.char_indices().nth(CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn param(result: Result<impl std::fmt::Debug, Fault>) -> String {
        result.unwrap_err().param.unwrap()
    }

    #[test]
    fn a_conversation_with_calls_and_parts_is_read_whole() {
        let messages = read_messages(&json!([
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "how "}, {"type": "text", "text": "warm?"}], "name": "hall"},
            {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{\"room\": 1}"}},
                {"name": "read", "arguments": {"room": 2}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "21"},
        ]))
        .unwrap();
        assert_eq!(messages[0].role, Role::System);
        assert_eq!(messages[1].content.as_deref(), Some("how warm?"));
        assert_eq!(messages[1].name.as_deref(), Some("hall"));
        assert_eq!(messages[2].content, None);
        assert_eq!(messages[2].tool_calls[0].arguments, "{\"room\": 1}");
        assert_eq!(messages[2].tool_calls[1].id, "call_1");
        assert_eq!(messages[2].tool_calls[1].arguments, "{\"room\":2}");
        assert_eq!(messages[3].tool_call_id.as_deref(), Some("a"));
    }

    #[test]
    fn a_wrong_message_is_refused_by_its_path() {
        let cases = [
            (json!("hello"), "messages"),
            (json!([]), "messages"),
            (json!([1]), "messages[0]"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "bot", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": null}]), "messages[0].content"),
            (json!([{"role": "user", "content": 1}]), "messages[0].content"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].type"),
            (json!([{"role": "user", "content": "x", "image": 1}]), "messages[0].image"),
            (json!([{"role": "user", "content": "x", "tool_calls": []}]), "messages[0].tool_calls"),
            (
                json!([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]),
                "messages[0].tool_calls[0].arguments",
            ),
        ];
        for (value, path) in cases {
            assert_eq!(param(read_messages(&value)), path, "{value}");
        }
        let many: Vec<_> = (0..=MESSAGES_MAX).map(|_| json!({"role": "user", "content": "x"})).collect();
        assert!(read_messages(&Value::Array(many)).unwrap_err().message.contains("4097 entries, limit 4096"));
    }

    #[test]
    fn tools_are_read_in_both_forms_and_wrong_ones_refused_by_path() {
        let tools = read_tools(&json!([
            {"type": "function", "function": {"name": "on", "description": "light", "parameters": {"type": "object", "properties": {}}, "strict": true}},
            {"name": "off"},
        ]))
        .unwrap();
        assert_eq!(tools[0].description.as_deref(), Some("light"));
        assert_eq!(tools[1], Tool { name: "off".to_owned(), description: None, parameters: None, strict: false });
        assert_eq!(read_tools(&Value::Null).unwrap(), []);
        let cases = [
            (json!({}), "tools"),
            (json!([{"type": "web_search"}]), "tools[0].type"),
            (json!([{"type": "function", "function": {}}]), "tools[0].function.name"),
            (json!([{"name": "no spaces"}]), "tools[0].name"),
            (json!([{"name": "f", "parameters": {"type": "array"}}]), "tools[0].parameters.type"),
            (json!([{"name": "f", "parameters": {"properties": []}}]), "tools[0].parameters.properties"),
            (json!([{"name": "f", "cost": 1}]), "tools[0].cost"),
            (json!([{"name": "f"}, {"name": "f"}]), "tools[1]"),
        ];
        for (value, path) in cases {
            assert_eq!(param(read_tools(&value)), path, "{value}");
        }
    }

    #[test]
    fn each_setting_has_its_range() {
        let good = [
            ("temperature", json!(0)),
            ("temperature", json!(2.0)),
            ("top_p", json!(1)),
            ("min_p", json!(0)),
            ("top_k", json!(0)),
            ("repetition_penalty", json!(10)),
            ("presence_penalty", json!(-2)),
            ("frequency_penalty", json!(2)),
            ("seed", json!(u64::MAX)),
            ("seed", json!(-1)),
            ("stop", json!("\n")),
            ("stop", json!(["a", "b"])),
            ("max_tokens", json!(1)),
            ("min_tokens", json!(0)),
            ("ignore_eos", json!(true)),
            ("max_tokens", Value::Null),
        ];
        for (name, value) in good {
            assert_eq!(Settings::default().read(name, &value, name), Ok(true), "{name} {value}");
        }
        let bad = [
            ("temperature", json!(2.01)),
            ("temperature", json!(-0.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_p", json!(1.1)),
            ("min_p", json!(1.5)),
            ("top_k", json!(-1)),
            ("repetition_penalty", json!(0)),
            ("presence_penalty", json!(2.5)),
            ("seed", json!(0.5)),
            ("stop", json!("")),
            ("stop", json!(["a", 1])),
            ("stop", json!(vec!["x"; STOPS_MAX + 1])),
            ("stop", json!("x".repeat(STOP_BYTES_MAX + 1))),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(1.5)),
            ("ignore_eos", json!(1)),
        ];
        for (name, value) in bad {
            assert!(param(Settings::default().read(name, &value, name)).starts_with(name), "{name} {value}");
        }
        assert_eq!(Settings::default().read("temprature", &json!(1), "temprature"), Ok(false));
    }

    #[test]
    fn what_this_version_cannot_do_is_refused_by_name() {
        assert_eq!(read_tool_choice(&json!("none")).unwrap(), ToolChoice::None);
        assert_eq!(param(read_tool_choice(&json!("required"))), "tool_choice");
        assert!(read_response_format(&json!({"type": "text"})).is_ok());
        assert_eq!(param(read_response_format(&json!({"type": "json_object"}))), "response_format");
        assert_eq!(param(read_priority(&json!("urgent"))), "priority");
        assert_eq!(param(read_deadline(&json!(0), "deadline_ms")), "deadline_ms");
        assert_eq!(read_deadline(&json!(5), "deadline_ms").unwrap(), Duration::from_millis(5));
    }
}
