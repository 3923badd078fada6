//! Random answers: at every step any token that the mask allows. Each that ends must parse and fit.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::{judge, test_tokenizer, tool};
use crate::job::{Format, ToolCall, ToolChoice};
use crate::text::dialect::{Piece, Splitter};
use crate::text::grammar::{Constraint, Limits, Shape, Vocabulary};
use crate::text::signature;
use crate::text::tokenizer::Tokenizer;

/// Tokens after which a walk takes what ends the answer, where it may.
const WANDER: usize = 150;
/// Tokens after which a walk has failed to end.
const STEPS_MAX: usize = 3_000;
const WALKS: u64 = 200;

/// A tokenizer, its vocabulary and its end.
pub(super) struct Ground {
    pub(super) tokenizer: Tokenizer,
    pub(super) vocabulary: Vocabulary,
    pub(super) end: u32,
}

impl Ground {
    /// Single bytes.
    pub(super) fn tiny() -> Self {
        let tokenizer = test_tokenizer();
        Self { vocabulary: super::vocabulary(), end: super::END, tokenizer }
    }

    /// Words of several bytes, spelled in one canonical way.
    pub(super) fn whole() -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default/tokenizer.json");
        let tokenizer = Tokenizer::load(&path).unwrap();
        let end = tokenizer.id("<|im_end|>").unwrap();
        let vocabulary = Vocabulary::new(&tokenizer, &[end], tokenizer.highest_id() as usize + 1).unwrap();
        Self { tokenizer, vocabulary, end }
    }

    pub(super) fn compile(&self, shape: &Shape) -> Constraint {
        self.vocabulary.compile(shape, &Limits::default()).unwrap_or_else(|error| panic!("{shape:?}: {error}"))
    }

    /// One random answer's tokens, without the end. `forcing`: what must come is not asked for.
    pub(super) fn walk(&self, mut constraint: Constraint, seed: u64, forcing: bool) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut answer: Vec<u32> = Vec::new();
        while !constraint.is_over() {
            assert!(answer.len() < STEPS_MAX, "no end: {}", self.text(&answer));
            if forcing {
                let forced = constraint.forced();
                for token in &forced {
                    let mask = constraint.mask().unwrap();
                    assert!(mask.contains(*token) && mask.count() == 1, "a forced token has no rival");
                    constraint.accept(*token).unwrap();
                }
                answer.extend(&forced);
                if !forced.is_empty() {
                    continue;
                }
            }
            let wander = answer.len() < WANDER;
            let allowed: Vec<u32> = constraint.mask().unwrap().tokens().collect();
            assert!(!allowed.is_empty());
            let token = if allowed.contains(&self.end) && (!wander || random.next_u32() % 4 == 0) {
                self.end
            } else {
                let closing: Vec<u32> = allowed.iter().copied().filter(|token| self.closes(*token)).collect();
                let from =
                    if closing.is_empty() || (wander && random.next_u32() % 3 != 0) { &allowed } else { &closing };
                from[random.next_u32() as usize % from.len()]
            };
            constraint.accept(token).unwrap();
            if token == self.end {
                break;
            }
            answer.push(token);
        }
        answer
    }

    fn closes(&self, token: u32) -> bool {
        matches!(self.text(&[token]).as_str(), "\"" | "}" | "]" | "\"}" | "]}" | "}}" | "</tool_call>")
    }

    pub(super) fn text(&self, answer: &[u32]) -> String {
        let mut decoder = self.tokenizer.decoder();
        answer.iter().map(|token| decoder.push(*token).unwrap()).collect()
    }
}

/// The value of a text that must be JSON; nothing where it holds a number that JSON allows and a double does not (`1e916`).
fn read(text: &str, schema: &Value) -> Option<Value> {
    let whole = serde_json::from_str::<serde::de::IgnoredAny>(text);
    assert!(whole.is_ok(), "{schema}\n{text}: {whole:?}");
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().contains("number out of range"), "{schema}\n{text}: {error}");
            None
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the list of schemas reads as JSON")]
fn object(properties: Value, required: Value) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Thirty schemas of the kinds that devices and clients send, and a few that are there for their corners.
fn schemas() -> Vec<Value> {
    let text = || json!({"type": "string", "maxLength": 12});
    vec![
        json!({"type": "object"}),
        object(json!({"on": {"type": "boolean"}}), json!(["on"])),
        object(json!({"level": {"type": "integer", "minimum": 0, "maximum": 100}}), json!(["level"])),
        object(json!({"level": {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 17}}), json!(["level"])),
        object(json!({"warm": {"type": "number", "minimum": 16.5, "maximum": 24}}), json!(["warm"])),
        object(json!({"step": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500}}), json!(["step"])),
        object(json!({"room": {"enum": ["hall", "kitchen", "Küche", "a \"quoted\" \\ one"]}}), json!(["room"])),
        object(json!({"mixed": {"enum": [1, "1", null, true, 2.5, ["x"], {"y": 1}]}}), json!(["mixed"])),
        object(json!({"fixed": {"const": {"a": [1, 2], "b": null}}}), json!(["fixed"])),
        object(json!({"a": text(), "b": text(), "c": text()}), json!(["b"])),
        object(json!({"a": {"type": ["string", "null"], "maxLength": 3}}), json!(["a"])),
        object(
            json!({"list": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 4}}),
            json!(["list"]),
        ),
        object(
            json!({"pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false, "minItems": 2}}),
            json!(["pair"]),
        ),
        object(
            json!({"deep": object(json!({"deeper": object(json!({"x": {"type": "number"}}), json!(["x"]))}), json!(["deeper"]))}),
            json!(["deep"]),
        ),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string", "maxLength": 5}}),
        json!({"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 3}),
        json!({"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "maxItems": 2}),
        json!({"type": "string", "minLength": 3, "maxLength": 5}),
        json!({"type": "string", "pattern": "^[a-f]{2}-[0-9]+$"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"enum": ["only"]}),
        json!({"anyOf": [object(json!({"a": {"type": "integer"}}), json!(["a"])), object(json!({"b": text()}), json!(["b"]))]}),
        json!({"oneOf": [object(json!({"kind": {"const": "on"}}), json!(["kind"])), object(json!({"kind": {"const": "dim"}, "to": {"type": "integer"}}), json!(["kind", "to"]))]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}]}),
        json!({"$ref": "#/$defs/node", "$defs": {"node": object(json!({"name": text(), "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}), json!(["name", "next"]))}}),
        object(json!({"tree": {"$ref": "#/$defs/tree"}}), json!(["tree"]))
            .as_object()
            .map(|fields| {
                let mut fields = fields.clone();
                fields.insert(
                    "$defs".to_owned(),
                    json!({"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}),
                );
                Value::Object(fields)
            })
            .unwrap(),
        object(json!({"name with \"quotes\" and ü": {"type": "boolean"}}), json!(["name with \"quotes\" and ü"])),
        object(
            json!({"at": {"type": "string", "format": "time"}, "days": {"type": "array", "items": {"enum": ["mo", "tu", "we"]}, "maxItems": 3}}),
            json!(["at"]),
        ),
        json!({"type": ["integer", "boolean"]}),
        json!({"title": "Nothing but notes", "description": "any value", "type": ["object", "null"], "default": null}),
    ]
}

#[test]
fn two_hundred_random_answers_a_schema_parse_and_fit() {
    let ground = Ground::tiny();
    let schemas = schemas();
    assert_eq!(schemas.len(), 30);
    for schema in &schemas {
        let constraint = || ground.compile(&Shape::JsonSchema { schema, strict: false });
        for seed in 0..WALKS {
            let text = ground.text(&ground.walk(constraint(), seed, seed % 2 == 0));
            let Some(value) = read(&text, schema) else { continue };
            let wrong = judge::misfit(&value, schema, schema);
            assert_eq!(wrong, None, "{schema}\n{text}");
        }
    }
}

#[test]
fn a_vocabulary_of_words_leads_to_fitting_answers_too() {
    let ground = Ground::whole();
    for schema in &schemas() {
        for seed in 0..10 {
            let constraint = ground.compile(&Shape::JsonSchema { schema, strict: false });
            let text = ground.text(&ground.walk(constraint, seed, seed % 2 == 0));
            let Some(value) = read(&text, schema) else { continue };
            assert_eq!(judge::misfit(&value, schema, schema), None, "{schema}\n{text}");
        }
    }
}

#[test]
fn random_calls_name_a_tool_and_fit_its_signature() {
    let tools: Vec<_> = schemas()
        .into_iter()
        .filter(|schema| schema["type"] == "object")
        .enumerate()
        .map(|(index, schema)| tool(&format!("tool_{index}"), Some(schema), false))
        .chain([tool("bare", None, true)])
        .collect();
    for (ground, walks) in [(Ground::tiny(), 200), (Ground::whole(), 50)] {
        for choice in [ToolChoice::Required, ToolChoice::Named("tool_1".to_owned())] {
            for seed in 0..walks {
                let shape =
                    Shape::Tools { tools: &tools, choice: &choice, parallel: seed % 3 == 0, format: &Format::Text };
                let text = ground.text(&ground.walk(ground.compile(&shape), seed, seed % 2 == 0));
                let mut splitter = Splitter::new(seed);
                let mut pieces = splitter.push(&text);
                pieces.extend(splitter.finish());
                let calls: Vec<ToolCall> = pieces
                    .into_iter()
                    .map(|piece| match piece {
                        Piece::Call(call) => call,
                        other => panic!("{text}: {other:?}"),
                    })
                    .collect();
                assert!(!calls.is_empty() && (seed % 3 == 0 || calls.len() == 1), "{text}");
                for call in &calls {
                    let schema = tools.iter().find(|tool| tool.name == call.name).unwrap().parameters.clone();
                    let Some(value) = read(&call.arguments, schema.as_ref().unwrap_or(&Value::Null)) else { continue };
                    assert_eq!(signature::misfit(call, &tools), None, "{text}");
                    assert!(choice == ToolChoice::Required || call.name == "tool_1", "{text}");
                    assert_eq!(schema.and_then(|schema| judge::misfit(&value, &schema, &schema)), None, "{text}");
                }
            }
        }
    }
}
