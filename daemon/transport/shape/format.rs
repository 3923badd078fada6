//! What the answer's text must be: `response_format`.

use serde_json::Value;

use super::value::{object, present, read_bool, refuse_others, shown, text, wrong};
use crate::fault::Fault;
use crate::job::Format;
use crate::transport::shape::Settings;

/// Reads OpenAI's `response_format`, and beside its three kinds `{"type":"regex","regex":…}` and `{"type":"lark","lark":…}`.
/// What a schema says is the grammar's affair.
pub fn read_response_format(value: &Value) -> Result<Format, Fault> {
    if value.is_null() {
        return Ok(Format::Text);
    }
    let path = "response_format";
    let format = object(value, path)?;
    let kind = text(format.get("type").unwrap_or(&Value::Null), "response_format.type")?;
    let known: &[&str] = match kind.as_str() {
        "json_schema" => &["type", "json_schema"],
        "regex" => &["type", "regex"],
        "lark" => &["type", "lark"],
        _ => &["type"],
    };
    let asked = match kind.as_str() {
        "text" => Format::Text,
        "json_object" => Format::JsonObject,
        "json_schema" => read_json_schema(format.get("json_schema").unwrap_or(&Value::Null))?,
        "regex" => Format::Regex(text(format.get("regex").unwrap_or(&Value::Null), "response_format.regex")?),
        "lark" => Format::Lark(text(format.get("lark").unwrap_or(&Value::Null), "response_format.lark")?),
        other => {
            let what = "it must be `text`, `json_object`, `json_schema`, `regex` or `lark`";
            return Err(wrong("response_format.type", &format!("is `{}`, {what}", shown(other))));
        }
    };
    refuse_others(format, known, path)?;
    Ok(asked)
}

fn read_json_schema(value: &Value) -> Result<Format, Fault> {
    let path = "response_format.json_schema";
    let named = object(value, path)?;
    // OpenAI wants a name; nothing here depends on one.
    refuse_others(named, &["name", "description", "schema", "strict"], path)?;
    for label in ["name", "description"] {
        present(named, label).map(|value| text(value, &format!("{path}.{label}"))).transpose()?;
    }
    let strict = present(named, "strict").map(|value| read_bool(value, &format!("{path}.strict"))).transpose()?;
    let schema = named.get("schema").unwrap_or(&Value::Null);
    object(schema, &format!("{path}.schema"))?;
    Ok(Format::JsonSchema { schema: schema.clone(), strict: strict == Some(true) })
}

/// Refuses what would end a formatted answer before it has its form.
pub fn check_format(format: &Format, settings: &Settings) -> Result<(), Fault> {
    if *format == Format::Text {
        return Ok(());
    }
    if !settings.stop.is_empty() {
        return Err(wrong(
            "stop",
            "stands beside a `response_format`, and would cut the answer before it has its form",
        ));
    }
    for (name, given) in [("ignore_eos", settings.ignore_eos), ("min_tokens", settings.min_tokens > 0)] {
        if given {
            return Err(wrong(name, "stands beside a `response_format`, which says where the answer ends"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::shape::value::param;

    #[test]
    fn each_kind_of_format_is_read() {
        let schema = json!({"type": "object"});
        for (value, format) in [
            (Value::Null, Format::Text),
            (json!({"type": "text"}), Format::Text),
            (json!({"type": "json_object"}), Format::JsonObject),
            (
                json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}}),
                Format::JsonSchema { schema: schema.clone(), strict: true },
            ),
            (
                json!({"type": "json_schema", "json_schema": {"schema": schema}}),
                Format::JsonSchema { schema: schema.clone(), strict: false },
            ),
            (json!({"type": "regex", "regex": "a+"}), Format::Regex("a+".to_owned())),
            (json!({"type": "lark", "lark": "start: \"a\""}), Format::Lark("start: \"a\"".to_owned())),
        ] {
            assert_eq!(read_response_format(&value), Ok(format), "{value}");
        }
    }

    #[test]
    fn a_wrong_format_is_refused_by_its_path() {
        for (value, path) in [
            (json!("json"), "response_format"),
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_object", "schema": {}}), "response_format.schema"),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
            (json!({"type": "json_schema", "json_schema": {"name": "x"}}), "response_format.json_schema.schema"),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}),
                "response_format.json_schema.strict",
            ),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {}, "mode": 1}}),
                "response_format.json_schema.mode",
            ),
            (json!({"type": "regex"}), "response_format.regex"),
            (json!({"type": "lark", "lark": 1}), "response_format.lark"),
        ] {
            assert_eq!(param(read_response_format(&value)), path, "{value}");
        }
    }

    #[test]
    fn nothing_may_end_a_formatted_answer_early() {
        let stop = vec!["x".to_owned()];
        let cut = Settings { stop, ..Settings::default() };
        let late = Settings { min_tokens: 3, ..Settings::default() };
        let endless = Settings { ignore_eos: true, ..Settings::default() };
        assert_eq!(check_format(&Format::JsonObject, &Settings::default()), Ok(()));
        for (settings, name) in [(cut, "stop"), (late, "min_tokens"), (endless, "ignore_eos")] {
            assert_eq!(check_format(&Format::Text, &settings), Ok(()));
            assert_eq!(param(check_format(&Format::JsonObject, &settings)), name);
        }
    }
}
