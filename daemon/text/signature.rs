//! Does a call fit the tool that was offered?
//!
//! Checks what a small model gets wrong: an invented name, a missing or unknown argument, a wrong type, a value outside its
//! enum or range. Schema keywords beyond those (`anyOf`, `pattern`, …) are not judged here but by [`super::grammar`], which
//! keeps the model from such calls; this is what stands behind a signature that no grammar can hold.

use serde_json::Value;

use crate::job::{Tool, ToolCall};

/// Says what is wrong with a call, or nothing.
pub fn misfit(call: &ToolCall, tools: &[Tool]) -> Option<String> {
    let Some(tool) = tools.iter().find(|tool| tool.name == call.name) else {
        return Some(format!("there is no tool `{}` among the {} offered", call.name, tools.len()));
    };
    let arguments: Value = match serde_json::from_str(&call.arguments) {
        Ok(value) => value,
        Err(error) => return Some(format!("the arguments of `{}` are no JSON: {error}", call.name)),
    };
    if !arguments.is_object() {
        return Some(format!("the arguments of `{}` are no object", call.name));
    }
    let schema = tool.parameters.as_ref()?;
    check(&arguments, schema, &call.name, 0)
}

/// Deeper than any real tool; a bound for a hostile schema.
const DEPTH_MAX: usize = 32;

fn check(value: &Value, schema: &Value, path: &str, depth: usize) -> Option<String> {
    if depth > DEPTH_MAX {
        return Some(format!("`{path}` is nested more than {DEPTH_MAX} deep"));
    }
    if let Some(kind) = schema.get("type")
        && !types(kind).any(|kind| is_of_type(value, kind))
    {
        return Some(format!("`{path}` is {}, the schema says {kind}", name_of_type(value)));
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.iter().any(|allowed| is_same(allowed, value))
    {
        return Some(format!("`{path}` is {value}, none of the {} allowed values", allowed.len()));
    }
    if let Some(number) = value.as_f64() {
        if let Some(least) = schema.get("minimum").and_then(Value::as_f64).filter(|least| number < *least) {
            return Some(format!("`{path}` is {value}, the least is {least}"));
        }
        if let Some(most) = schema.get("maximum").and_then(Value::as_f64).filter(|most| number > *most) {
            return Some(format!("`{path}` is {value}, the most is {most}"));
        }
    }
    match value {
        Value::Object(fields) => {
            let required =
                schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            for name in required {
                if !fields.contains_key(name) {
                    return Some(format!("`{path}.{name}` is missing"));
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, field) in fields {
                match properties.and_then(|properties| properties.get(name)) {
                    Some(schema) => {
                        if let Some(wrong) = check(field, schema, &format!("{path}.{name}"), depth + 1) {
                            return Some(wrong);
                        }
                    }
                    // Without `properties` any argument goes. With them an unnamed one is one that the model invented, even
                    // where JSON Schema would let it pass for want of a word, unless the schema allows more in so many words.
                    None => match schema.get("additionalProperties") {
                        Some(Value::Bool(true)) => {}
                        Some(more @ Value::Object(_)) => {
                            if let Some(wrong) = check(field, more, &format!("{path}.{name}"), depth + 1) {
                                return Some(wrong);
                            }
                        }
                        _ if properties.is_some() && !is_composed(schema) => {
                            return Some(format!("`{path}.{name}` is not a parameter"));
                        }
                        _ => {}
                    },
                }
            }
            None
        }
        Value::Array(items) => {
            let schema = schema.get("items")?;
            items.iter().enumerate().find_map(|(i, item)| check(item, schema, &format!("{path}[{i}]"), depth + 1))
        }
        _ => None,
    }
}

/// Whether an object's properties are named in more places than `properties`.
fn is_composed(schema: &Value) -> bool {
    COMPOSING.iter().any(|keyword| schema.get(keyword).is_some())
}

/// Keywords that put schemas together.
pub(super) const COMPOSING: [&str; 5] = ["allOf", "anyOf", "oneOf", "$ref", "patternProperties"];

/// 1 and 1.0 are the same number.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        _ => left == right,
    }
}

fn types(kind: &Value) -> impl Iterator<Item = &str> {
    kind.as_str().into_iter().chain(kind.as_array().into_iter().flatten().filter_map(Value::as_str))
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        other => name_of_type(value) == other,
    }
}

fn name_of_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn misfit_of(arguments: &str) -> Option<String> {
        let tool = Tool {
            name: "light".into(),
            description: None,
            strict: false,
            parameters: Some(json!({"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "level": {"type": "integer", "minimum": 0, "maximum": 100},
                "mode": {"enum": ["day", "night"]}, "areas": {"type": "array", "items": {"type": "string"}}}})),
        };
        misfit(&ToolCall { id: "1".into(), name: "light".into(), arguments: arguments.into() }, &[tool])
    }

    #[test]
    fn a_call_that_fits_is_let_through() {
        assert_eq!(misfit_of(r#"{"name": "Hall", "level": 40, "mode": "day", "areas": ["a"]}"#), None);
        assert_eq!(misfit_of(r#"{"name": "Hall", "level": 40.0}"#), None);
    }

    #[test]
    fn more_arguments_go_where_the_schema_says_so() {
        let tool = |more: serde_json::Value| Tool {
            name: "set".into(),
            description: None,
            strict: false,
            parameters: Some(json!({"type": "object", "properties": {}, "additionalProperties": more})),
        };
        let call = ToolCall { id: "1".into(), name: "set".into(), arguments: r#"{"a": "b"}"#.into() };
        assert_eq!(misfit(&call, &[tool(json!(true))]), None);
        assert_eq!(misfit(&call, &[tool(json!({"type": "string"}))]), None);
        assert!(misfit(&call, &[tool(json!({"type": "number"}))]).is_some());
        assert!(misfit(&call, &[tool(json!(false))]).is_some());
    }

    #[test]
    fn numbers_are_equal_however_they_are_written_and_composed_objects_are_not_closed() {
        let tool = Tool {
            name: "set".into(),
            description: None,
            strict: false,
            parameters: Some(json!({"properties": {"a": {"enum": [1.0, 2]}}, "anyOf": [{"properties": {"b": {}}}]})),
        };
        let call = |arguments: &str| ToolCall { id: "1".into(), name: "set".into(), arguments: arguments.into() };
        assert_eq!(misfit(&call(r#"{"a": 1, "b": 0}"#), std::slice::from_ref(&tool)), None);
        assert_eq!(misfit(&call(r#"{"a": 2.0}"#), std::slice::from_ref(&tool)), None);
        assert!(misfit(&call(r#"{"a": 3}"#), &[tool]).is_some());
    }

    #[test]
    fn a_call_that_does_not_fit_is_named_with_its_reason() {
        for (arguments, reason) in [
            (r"{}", "`light.name` is missing"),
            (r#"{"name": 3}"#, "`light.name` is number"),
            (r#"{"name": "x", "level": 101}"#, "the most is 100"),
            (r#"{"name": "x", "mode": "dusk"}"#, "none of the 2 allowed values"),
            (r#"{"name": "x", "colour": "red"}"#, "`light.colour` is not a parameter"),
            (r#"{"name": "x", "areas": [1]}"#, "`light.areas[0]` is number"),
            (r"[]", "are no object"),
            (r"{", "are no JSON"),
        ] {
            let wrong = misfit_of(arguments).unwrap_or_default();
            assert!(wrong.contains(reason), "{arguments}: {wrong}");
        }
        let unknown = ToolCall { id: "1".into(), name: "nope".into(), arguments: "{}".into() };
        assert!(misfit(&unknown, &[]).unwrap().contains("no tool `nope` among the 0"));
    }
}
