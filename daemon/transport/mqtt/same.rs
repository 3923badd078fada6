//! When two requests are the same one: equal canonical JSON, without what only says how to deliver.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::journal::BodyHash;

/// Keys that say how a request is delivered, not what it asks: they may differ between two copies of one request.
const DELIVERY_KEYS: [&str; 6] = ["cid", "reply_to", "deadline_ms", "stream", "ack", "priority"];

/// Equal canonical JSON, equal hash: keys sorted at every depth, what says how to deliver left out.
pub(super) fn hash_of(object: &Map<String, Value>) -> BodyHash {
    let mut canonical = String::new();
    write_sorted(object.iter().filter(|(key, _)| !DELIVERY_KEYS.contains(&key.as_str())), &mut canonical);
    Sha256::digest(canonical.as_bytes()).into()
}

fn write_sorted<'v>(entries: impl Iterator<Item = (&'v String, &'v Value)>, out: &mut String) {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(key, _)| *key);
    out.push('{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&Value::String(key.clone()).to_string());
        out.push(':');
        write_canonical(value, out);
    }
    out.push('}');
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => write_sorted(object.iter(), out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(value, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(value: &Value) -> BodyHash {
        hash_of(value.as_object().unwrap())
    }

    #[test]
    fn the_same_request_has_the_same_hash_however_it_is_delivered() {
        let first = hash(&json!({"id": "1", "prompt": "x", "params": {"seed": 1, "max_tokens": 2}}));
        let delivered = json!({"stream": true, "params": {"max_tokens": 2, "seed": 1}, "prompt": "x", "id": "1", "cid": "z",
            "deadline_ms": 5, "ack": true, "priority": "alarm", "reply_to": "moed/v1/c/lamp/a"});
        assert_eq!(first, hash(&delivered));
        for other in [
            json!({"id": "1", "prompt": "x", "params": {"seed": 2, "max_tokens": 2}}),
            json!({"id": "1", "prompt": "x", "params": {"seed": 1, "max_tokens": 2, "stream": true}}),
            json!({"id": "1", "prompt": ["x"], "params": {"seed": 1, "max_tokens": 2}}),
        ] {
            assert_ne!(first, hash(&other), "{other}");
        }
    }
}
