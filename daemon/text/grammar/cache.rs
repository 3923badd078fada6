//! Shapes that were compiled before: a device sends the same tools with every question.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::compile::Blueprint;
use super::{GrammarError, Limits, Shape};
use crate::job::ToolChoice;

/// Shapes that are kept; a house has a few device types, each with its own tools.
const SHAPES_MAX: usize = 64;
/// Bytes of their automata together.
const BYTES_MAX: usize = 64 << 20;
/// What a refusal is counted as; its text is bounded.
const REFUSAL_BYTES: usize = 1 << 10;

/// Names a shape: equal keys are equal shapes under equal limits.
pub(super) type Key = [u8; 32];

/// What became of a shape. Whoever sends again what was refused is told so again, for the price of looking it up.
pub(super) type Verdict = Result<Arc<Blueprint>, GrammarError>;

#[derive(Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
    bytes: usize,
    clock: u64,
}

struct Kept {
    verdict: Verdict,
    bytes: usize,
    used: u64,
}

impl Cache {
    pub(super) fn get(&mut self, key: &Key) -> Option<Verdict> {
        self.clock += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.clock;
        Some(kept.verdict.clone())
    }

    /// Keeps what became of a shape; the least recently used leave.
    pub(super) fn put(&mut self, key: Key, verdict: Verdict) {
        self.clock += 1;
        let bytes = verdict.as_ref().map_or(REFUSAL_BYTES, |blueprint| blueprint.bytes());
        if let Some(old) = self.kept.insert(key, Kept { verdict, bytes, used: self.clock }) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        while self.kept.len() > SHAPES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { break };
            if let Some(old) = self.kept.remove(&oldest) {
                self.bytes -= old.bytes;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

/// The shape's key.
pub(super) fn digest(shape: &Shape, limits: &Limits) -> Key {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    };
    add(&format!("{limits:?}"));
    match shape {
        Shape::JsonObject => add("object"),
        Shape::JsonSchema { schema, strict } => {
            add(if *strict { "strict schema" } else { "schema" });
            add(&schema.to_string());
        }
        Shape::Regex(expression) => {
            add("regex");
            add(expression);
        }
        Shape::Lark(grammar) => {
            add("lark");
            add(grammar);
        }
        Shape::Tools { tools, choice, parallel, format } => {
            add(&format!("{format:?}"));
            add(if *parallel { "calls" } else { "call" });
            match choice {
                ToolChoice::Auto => add("auto"),
                ToolChoice::None => add("none"),
                ToolChoice::Required => add("required"),
                ToolChoice::Named(name) => add(&format!("={name}")),
            }
            for tool in *tools {
                add(if tool.strict { "strict" } else { "" });
                add(&tool.name);
                add(&tool.parameters.as_ref().map_or_else(String::new, ToString::to_string));
            }
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::{Format, Tool};

    #[test]
    fn the_least_recently_used_leaves_when_there_are_too_many_or_they_are_too_large() {
        let of = |bytes: usize| Ok(Arc::new(Blueprint::nothing(bytes)));
        let mut cache = Cache::default();
        let key = |number: usize| digest(&Shape::Regex(&number.to_string()), &Limits::default());
        let refusal = GrammarError::Invalid("no".to_owned());
        cache.put(key(0), Err(refusal.clone()));
        for number in 1..SHAPES_MAX {
            cache.put(key(number), of(10));
        }
        assert_eq!(cache.get(&key(0)).and_then(Result::err), Some(refusal));
        cache.put(key(SHAPES_MAX), of(10));
        assert!(cache.get(&key(0)).is_some() && cache.get(&key(1)).is_none());
        cache.put(key(1), of(BYTES_MAX));
        assert_eq!((cache.kept.len(), cache.bytes), (1, BYTES_MAX));
        cache.put(key(2), of(BYTES_MAX + 1));
        assert_eq!((cache.kept.len(), cache.bytes), (0, 0), "what is larger than the cache is not kept");
    }

    #[test]
    fn whatever_changes_the_answer_changes_the_key() {
        let tool = |name: &str, strict| Tool { name: name.to_owned(), description: None, parameters: None, strict };
        let (tools, strict) = ([tool("a", false)], [tool("a", true)]);
        let (auto, named) = (ToolChoice::Auto, ToolChoice::Named("a".to_owned()));
        let schema = json!({"type": "object"});
        let shapes = [
            Shape::JsonObject,
            Shape::JsonSchema { schema: &schema, strict: false },
            Shape::JsonSchema { schema: &schema, strict: true },
            Shape::Regex("a"),
            Shape::Lark("a"),
            Shape::Tools { tools: &tools, choice: &auto, parallel: true, format: &Format::Text },
            Shape::Tools { tools: &tools, choice: &auto, parallel: false, format: &Format::Text },
            Shape::Tools { tools: &tools, choice: &named, parallel: true, format: &Format::Text },
            Shape::Tools { tools: &tools, choice: &auto, parallel: true, format: &Format::JsonObject },
            Shape::Tools { tools: &strict, choice: &auto, parallel: true, format: &Format::Text },
        ];
        let mut keys: Vec<Key> = shapes.iter().map(|shape| digest(shape, &Limits::default())).collect();
        keys.push(digest(&Shape::JsonObject, &Limits { nesting: 1, ..Limits::default() }));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
