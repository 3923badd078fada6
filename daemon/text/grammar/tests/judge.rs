//! Whether a value fits a schema, for the keywords that the tests use, written from the standard and not from the compiler.
//! A published validator would bring some forty crates into the lock for this one test.

use serde_json::Value;

/// What is wrong with the value, or nothing.
pub(super) fn misfit(value: &Value, schema: &Value, root: &Value) -> Option<String> {
    let Some(words) = schema.as_object() else {
        return (schema == &Value::Bool(false)).then(|| format!("{value} where nothing may be"));
    };
    words
        .iter()
        .find_map(|(word, rule)| breaks(value, word, rule, schema, root))
        .map(|wrong| format!("{wrong} in {value}"))
}

fn breaks(value: &Value, word: &str, rule: &Value, schema: &Value, root: &Value) -> Option<String> {
    let fits = |value: &Value, schema: &Value| misfit(value, schema, root).is_none();
    let list = || rule.as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |wrong: fn(f64, f64) -> bool| matches!((value.as_f64(), rule.as_f64()), (Some(value), Some(rule)) if wrong(value, rule));
    let count = |length: Option<usize>, wrong: fn(usize, usize) -> bool| {
        let bound = usize::try_from(rule.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
        length.is_some_and(|length| wrong(length, bound))
    };
    let letters = value.as_str().map(|text| text.chars().count());
    let items = value.as_array().map(Vec::len);
    let fields = value.as_object().map(serde_json::Map::len);
    let wrong = match word {
        "type" => {
            !rule.as_str().into_iter().chain(list().iter().filter_map(Value::as_str)).any(|kind| is_of(value, kind))
        }
        "enum" => !list().iter().any(|allowed| equal(allowed, value)),
        "const" => !equal(rule, value),
        "minimum" => number(|value, least| value < least),
        "maximum" => number(|value, most| value > most),
        "exclusiveMinimum" => number(|value, least| value <= least),
        "exclusiveMaximum" => number(|value, most| value >= most),
        "multipleOf" => number(|value, part| (value / part - (value / part).round()).abs() > 1e-9),
        "minLength" => count(letters, |length, bound| length < bound),
        "maxLength" => count(letters, |length, bound| length > bound),
        "minItems" => count(items, |length, bound| length < bound),
        "maxItems" => count(items, |length, bound| length > bound),
        "minProperties" => count(fields, |length, bound| length < bound),
        "maxProperties" => count(fields, |length, bound| length > bound),
        "required" => {
            value.is_object() && list().iter().any(|name| value.get(name.as_str().unwrap_or_default()).is_none())
        }
        "allOf" => !list().iter().all(|schema| fits(value, schema)),
        "anyOf" => !list().iter().any(|schema| fits(value, schema)),
        "oneOf" => list().iter().filter(|schema| fits(value, schema)).count() != 1,
        "$ref" => !fits(
            value,
            root.pointer(rule.as_str().unwrap_or_default().trim_start_matches('#')).unwrap_or(&Value::Bool(false)),
        ),
        "properties" => value.as_object().is_some_and(|fields| {
            fields.iter().any(|(name, field)| rule.get(name).is_some_and(|schema| !fits(field, schema)))
        }),
        "additionalProperties" => value.as_object().is_some_and(|fields| {
            fields.iter().any(|(name, field)| schema["properties"].get(name).is_none() && !fits(field, rule))
        }),
        "prefixItems" => {
            value.as_array().is_some_and(|items| items.iter().zip(list()).any(|(item, schema)| !fits(item, schema)))
        }
        "items" => {
            let first = schema["prefixItems"].as_array().map_or(0, Vec::len);
            value.as_array().is_some_and(|items| items.iter().skip(first).any(|item| !fits(item, rule)))
        }
        "pattern" | "format" | "$defs" | "description" | "title" | "default" => false,
        other => panic!("the test's judge does not know `{other}`"),
    };
    wrong.then(|| format!("`{word}` {rule}"))
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type `{other}`"),
    }
}

/// 1 and 1.0 are the same number.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| equal(value, other)))
        }
        _ => left == right,
    }
}

#[test]
fn the_judge_finds_what_is_wrong() {
    let schema = serde_json::json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
        "a": {"type": "integer", "minimum": 1, "maximum": 3}, "b": {"type": "array", "items": {"type": "string", "maxLength": 1}}}});
    let judge = |text: &str| misfit(&serde_json::from_str(text).unwrap(), &schema, &schema);
    assert_eq!(judge(r#"{"a": 2, "b": ["é"]}"#), None);
    for wrong in [r"[]", r"{}", r#"{"a": 4}"#, r#"{"a": 1.5}"#, r#"{"a": 1, "c": 1}"#, r#"{"a": 1, "b": ["xy"]}"#] {
        assert!(judge(wrong).is_some(), "{wrong}");
    }
}
