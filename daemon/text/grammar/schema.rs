//! JSON Schemas before they are compiled: counted, searched for what cannot be enforced, and closed.

use serde_json::{Map, Value, json};

use super::multiple::Multiples;
use super::size::{Size, at_most, check_text, size};
use super::{GrammarError, Limits};
use crate::text::signature::COMPOSING;

/// Keywords with a meaning that no grammar here enforces. Words that no draft knows are annotations, as JSON Schema says.
const UNSUPPORTED: [&str; 19] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    // The compiler would take orders from it.
    "x-guidance",
];

/// Keywords whose value counts something.
const COUNTS: [&str; 6] = ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];
/// Keywords that bound a number.
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
/// The compiler counts with 64 bits, and does not notice when they are not enough.
const BOUND_MAX: f64 = 9e18;
/// Where white space stands in an answer. There is one way in each style, so that all of it is forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `{"a":1,"b":2}`
    Compact,
    /// `{"a": 1, "b": 2}`, as chat templates write calls.
    Spaced,
}

impl Style {
    /// The schema with what the compiler must know of white space.
    pub(super) fn write_into(self, schema: &Value) -> Value {
        let [item, key] = match self {
            Self::Compact => [",", ":"],
            Self::Spaced => crate::text::dialect::SEPARATORS,
        };
        let mut schema = schema.clone();
        if let Value::Object(fields) = &mut schema {
            let style = json!({"item_separator": item, "key_separator": key, "whitespace_flexible": false});
            fields.insert("x-guidance".to_owned(), style);
        }
        schema
    }
}

/// Checks a schema and makes it ready; `strict` closes its objects.
pub(super) fn prepare(schema: &Value, strict: bool, limits: &Limits) -> Result<Value, GrammarError> {
    if !schema.is_object() {
        return Err(GrammarError::Invalid("a schema is an object".to_owned()));
    }
    at_most("bytes of schema", schema.to_string().len(), limits.source_bytes)?;
    let mut count = Count {
        limits,
        values: 0,
        properties: 0,
        pattern_properties: 0,
        references: 0,
        repeats: 0,
        patterns: Size::default(),
        multiples: Multiples::default(),
    };
    count.visit(schema, "#", 0)?;
    count.multiples.check(limits)?;
    let mut schema = schema.clone();
    if strict {
        close_strictly(&mut schema, "#", false)?;
    }
    Ok(schema)
}

/// The same for a tool's parameters. An argument that the signature does not name is one that the model invented, so objects
/// with `properties` are closed even where the schema is not strict, unless it says more in so many words.
pub(super) fn prepare_signature(schema: &Value, strict: bool, limits: &Limits) -> Result<Value, GrammarError> {
    let mut schema = prepare(schema, strict, limits)?;
    if let Value::Object(fields) = &mut schema {
        fields.entry("type").or_insert_with(|| "object".into());
    }
    if !strict {
        close_named(&mut schema);
    }
    Ok(schema)
}

struct Count<'l> {
    limits: &'l Limits,
    values: usize,
    properties: usize,
    pattern_properties: usize,
    references: usize,
    repeats: usize,
    patterns: Size,
    multiples: Multiples,
}

impl Count<'_> {
    fn visit(&mut self, schema: &Value, at: &str, depth: usize) -> Result<(), GrammarError> {
        at_most("levels of nesting", depth, self.limits.nesting)?;
        let Some(fields) = schema.as_object() else { return Ok(()) };
        if let Some(keyword) = fields.keys().find(|keyword| UNSUPPORTED.contains(&keyword.as_str())) {
            return Err(unsupported(keyword, at, ""));
        }
        let length = |keyword: &str| match fields.get(keyword) {
            Some(Value::Array(values)) => values.len(),
            Some(Value::Object(values)) => values.len(),
            _ => 0,
        };
        self.values += ["enum", "anyOf", "oneOf", "allOf"].into_iter().map(length).sum::<usize>();
        at_most("values and alternatives", self.values, self.limits.values)?;
        self.properties += length("properties") + length("patternProperties");
        at_most("properties", self.properties, self.limits.properties)?;
        self.pattern_properties += length("patternProperties");
        at_most("`patternProperties`", self.pattern_properties, self.limits.pattern_properties)?;
        self.multiples.add(fields).map_err(|reason| unsupported("multipleOf", at, reason))?;
        if let Some(reference) = fields.get("$ref") {
            self.references += 1;
            at_most("`$ref`s", self.references, self.limits.references)?;
            if !reference.as_str().is_some_and(|reference| reference.starts_with('#')) {
                return Err(unsupported("$ref", at, "only references into the schema itself (`#/…`) are followed"));
            }
        }
        for keyword in COUNTS {
            if let Some(count) = fields.get(keyword).and_then(Value::as_f64) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "saturates, which is meant"
                )]
                at_most("in one count", count as usize, self.limits.count)?;
            }
        }
        for keyword in BOUNDS {
            if fields.get(keyword).and_then(Value::as_f64).is_some_and(|bound| bound.abs() > BOUND_MAX) {
                return Err(unsupported(keyword, at, &format!("a bound is at most {BOUND_MAX:e}")));
            }
        }
        let patterns = fields.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let patterns = patterns.map(|pattern| ("patternProperties", pattern.as_str()));
        let pattern = fields.get("pattern").and_then(Value::as_str).map(|pattern| ("pattern", pattern));
        for (keyword, pattern) in patterns.chain(pattern) {
            check_text(pattern, "bytes of pattern", self.limits)?;
            // `d` and `w`: digits and word characters as JavaScript has them.
            let size = size(pattern, "dw").map_err(|reason| unsupported(keyword, at, &reason))?;
            self.repeats = self.repeats.saturating_add(size.repeats(pattern));
            at_most("written-out repetitions in patterns", self.repeats, self.limits.repeats)?;
            self.patterns = self.patterns.and(size);
            at_most("characters in patterns, 16 a class", self.patterns.weight, self.limits.weight)?;
        }
        for (place, inner) in inner_schemas(fields) {
            self.visit(inner, &format!("{at}/{place}"), depth + 1)?;
        }
        Ok(())
    }
}

/// Keywords whose value is a schema or a list of them.
const HOLD_SCHEMAS: [&str; 7] =
    ["items", "additionalItems", "additionalProperties", "prefixItems", "allOf", "anyOf", "oneOf"];
/// Keywords whose value names schemas.
const NAME_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// The schemas right inside a schema, each with its place.
pub(super) fn inner_schemas(fields: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for keyword in HOLD_SCHEMAS {
        match fields.get(keyword) {
            Some(Value::Array(schemas)) => {
                found.extend(schemas.iter().enumerate().map(|(index, schema)| (format!("{keyword}/{index}"), schema)));
            }
            Some(schema) => found.push((keyword.to_owned(), schema)),
            None => {}
        }
    }
    for keyword in NAME_SCHEMAS {
        let named = fields.get(keyword).and_then(Value::as_object).into_iter().flatten();
        found.extend(
            named.map(|(name, schema)| (format!("{keyword}/{}", name.replace('~', "~0").replace('/', "~1")), schema)),
        );
    }
    found
}

/// Calls `change` for every schema right inside a schema; it is told whether that is one of several in an `allOf`.
fn change_inner<E>(
    fields: &mut Map<String, Value>,
    mut change: impl FnMut(&mut Value, &str, bool) -> Result<(), E>,
) -> Result<(), E> {
    for (keyword, value) in fields.iter_mut() {
        let keyword = keyword.as_str();
        match value {
            Value::Array(schemas) if HOLD_SCHEMAS.contains(&keyword) => {
                let part = keyword == "allOf" && schemas.len() > 1;
                for (index, schema) in schemas.iter_mut().enumerate() {
                    change(schema, &format!("{keyword}/{index}"), part)?;
                }
            }
            Value::Object(schemas) if NAME_SCHEMAS.contains(&keyword) => {
                for (name, schema) in schemas.iter_mut() {
                    change(schema, &format!("{keyword}/{name}"), false)?;
                }
            }
            Value::Object(_) if HOLD_SCHEMAS.contains(&keyword) => change(value, keyword, false)?,
            _ => {}
        }
    }
    Ok(())
}

/// OpenAI's `strict`: every object has the properties that it names and no other.
fn close_strictly(schema: &mut Value, at: &str, part: bool) -> Result<(), GrammarError> {
    let Some(fields) = schema.as_object_mut() else { return Ok(()) };
    if fields.get("allOf").and_then(Value::as_array).is_some_and(|schemas| schemas.len() > 1) || part {
        return Err(unsupported("allOf", at, "a strict object names all its properties in one place"));
    }
    match fields.get("additionalProperties") {
        None | Some(Value::Bool(false)) => {}
        Some(_) => return Err(unsupported("additionalProperties", at, "in a strict schema it is false")),
    }
    let is_object = match fields.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => fields.contains_key("properties"),
    };
    if is_object {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
    change_inner(fields, |schema, place, part| close_strictly(schema, &format!("{at}/{place}"), part))
}

/// Closes objects that name properties in one place and do not say what else they hold.
fn close_named(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let composed = COMPOSING.iter().any(|keyword| fields.contains_key(*keyword));
    if fields.contains_key("properties") && !composed && !fields.contains_key("additionalProperties") {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
    let _infallible = change_inner(fields, |schema, _, part| {
        if !part {
            close_named(schema);
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

fn unsupported(keyword: &str, at: &str, reason: &str) -> GrammarError {
    GrammarError::Unsupported { keyword: keyword.to_owned(), at: at.to_owned(), reason: reason.to_owned() }
}
