//! Bytes into JSON or a prompt, and the id where there is none in it.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Mail;
use crate::fault::{Code, Fault, Kind};
use crate::transport::mqtt::topics::is_name;

pub(super) enum Body {
    Json(Map<String, Value>),
    Prompt(String),
}

/// Tells JSON from a bare prompt, by Content Type, else by the first character.
pub(super) fn body_of(mail: &Mail) -> Result<Body, Fault> {
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
pub(super) fn peek_id(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    serde_json::from_slice::<OnlyId>(payload).ok().map(|only| only.id).filter(|id| is_name(id))
}

/// A bare prompt's id. With Correlation Data it is the same at every delivery; without, the time tells two equal
/// questions apart, at the price that a redelivered one is computed twice.
pub(super) fn bare_id(mail: &Mail) -> String {
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
