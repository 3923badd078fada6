//! Conversations: turns, their texts and the calls that earlier turns made.

use serde_json::{Map, Value};

use super::tools::read_name;
use super::value::{array, at_most, kind, object, present, text, wrong};
use crate::fault::Fault;
use crate::job::{Message, Role, ToolCall};

/// Turns in one conversation. One more is refused; the context would be full of empty turns long before.
pub(super) const MESSAGES_MAX: usize = 4096;
/// Calls in one assistant turn.
pub(super) const CALLS_MAX: usize = 128;

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::shape::value::param;

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
}
