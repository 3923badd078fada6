//! The readers that all others are made of: one value, its kind and its bounds.

use serde_json::{Map, Value};

use crate::fault::Fault;

/// Reads a yes or no.
pub fn read_bool(value: &Value, path: &str) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| wrong(path, &format!("is {}, it must be true or false", kind(value))))
}

pub(super) fn integer(value: &Value, path: &str, least: u64, most: u64) -> Result<u64, Fault> {
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

pub(super) fn array<'v>(value: &'v Value, path: &str) -> Result<&'v Vec<Value>, Fault> {
    value.as_array().ok_or_else(|| wrong(path, &format!("is {}, it must be a list", kind(value))))
}

/// The value under a key, where null means that there is none.
pub fn present<'v>(map: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    map.get(key).filter(|value| !value.is_null())
}

pub(super) fn refuse_others(map: &Map<String, Value>, known: &[&str], path: &str) -> Result<(), Fault> {
    match map.iter().find(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, _)) => Err(wrong(&format!("{path}.{}", shown(key)), "is not a field that is read here")),
    }
}

pub(super) fn at_most(path: &str, length: usize, most: usize) -> Result<(), Fault> {
    if length <= most { Ok(()) } else { Err(wrong(path, &format!("has {length} entries, limit {most}"))) }
}

/// A fault of the caller that names a field.
pub fn wrong(path: &str, what: &str) -> Fault {
    Fault::invalid(format!("`{path}` {what}")).param(path)
}

pub(super) fn kind(value: &Value) -> &'static str {
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
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS: usize = 80;
    match text.char_indices().nth(CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
/// The field that a refusal names.
pub(super) fn param(result: Result<impl std::fmt::Debug, Fault>) -> String {
    result.expect_err("it is refused").param.expect("a refusal names its field")
}
