//! What the model may call, and whether it must.

use serde_json::Value;

use super::value::{array, at_most, kind, object, present, read_bool, refuse_others, shown, text, wrong};
use crate::fault::Fault;
use crate::job::{Tool, ToolChoice};

/// Tools in one request, as in OpenAI's service.
pub(super) const TOOLS_MAX: usize = 128;
/// Characters of a tool's name, as in OpenAI's service.
pub(super) const NAME_MAX: usize = 64;

/// Reads the tools that the model may call.
pub fn read_tools(value: &Value) -> Result<Vec<Tool>, Fault> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let entries = array(value, "tools")?;
    at_most("tools", entries.len(), TOOLS_MAX)?;
    let mut tools: Vec<Tool> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("tools[{index}]");
        let tool = read_tool(entry, &path)?;
        if tools.iter().any(|earlier| earlier.name == tool.name) {
            return Err(wrong(&path, &format!("has the name `{}`, which an earlier tool has too", tool.name)));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// OpenAI's `{type: "function", function: {…}}`, or the function by itself.
fn read_tool(value: &Value, path: &str) -> Result<Tool, Fault> {
    let entry = object(value, path)?;
    if let Some(kind) = present(entry, "type")
        && kind != "function"
    {
        return Err(wrong(&format!("{path}.type"), &format!("is {kind}, only \"function\" is served")));
    }
    let (function, path) = match present(entry, "function") {
        Some(function) => {
            refuse_others(entry, &["type", "function"], path)?;
            (object(function, &format!("{path}.function"))?, format!("{path}.function"))
        }
        None => (entry, path.to_owned()),
    };
    refuse_others(function, &["type", "name", "description", "parameters", "strict"], &path)?;
    let name = read_name(function.get("name").unwrap_or(&Value::Null), &format!("{path}.name"))?;
    let description =
        present(function, "description").map(|value| text(value, &format!("{path}.description"))).transpose()?;
    let parameters = match present(function, "parameters") {
        None => None,
        Some(schema) => Some(read_parameters(schema, &format!("{path}.parameters"))?),
    };
    let strict = present(function, "strict").map(|value| read_bool(value, &format!("{path}.strict"))).transpose()?;
    Ok(Tool { name, description, parameters, strict: strict == Some(true) })
}

/// A signature is a schema of an object; what the schema says inside is the grammar's affair.
fn read_parameters(value: &Value, path: &str) -> Result<Value, Fault> {
    let schema = object(value, path)?;
    if let Some(kind) = schema.get("type")
        && kind != "object"
    {
        return Err(wrong(&format!("{path}.type"), &format!("is {kind}, a tool's parameters are of type \"object\"")));
    }
    if let Some(properties) = schema.get("properties") {
        object(properties, &format!("{path}.properties"))?;
    }
    Ok(value.clone())
}

pub(super) fn read_name(value: &Value, path: &str) -> Result<String, Fault> {
    let name = text(value, path)?;
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits {
        return Ok(name);
    }
    Err(wrong(path, &format!("is `{}`, a name is 1 to {NAME_MAX} of `A-Z a-z 0-9 _ . -`", shown(&name))))
}

/// Reads `tool_choice`; that it names a tool which is there is [`check_calls`]'s affair.
pub fn read_tool_choice(value: &Value) -> Result<ToolChoice, Fault> {
    let must = "it must be \"auto\", \"none\", \"required\" or `{\"type\":\"function\",\"function\":{\"name\":…}}`";
    match value {
        Value::Null => Ok(ToolChoice::Auto),
        Value::String(choice) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            other => Err(wrong("tool_choice", &format!("is `{}`, {must}", shown(other)))),
        },
        Value::Object(choice) => {
            refuse_others(choice, &["type", "function", "name"], "tool_choice")?;
            if choice.get("type").is_some_and(|kind| kind != "function") {
                return Err(wrong("tool_choice.type", &format!("is not served, {must}")));
            }
            let (function, path) = match present(choice, "function") {
                Some(function) => (object(function, "tool_choice.function")?, "tool_choice.function"),
                None => (choice, "tool_choice"),
            };
            let name = read_name(function.get("name").unwrap_or(&Value::Null), &format!("{path}.name"))?;
            Ok(ToolChoice::Named(name))
        }
        other => Err(wrong("tool_choice", &format!("is {}, {must}", kind(other)))),
    }
}

/// Compares the choice with the tools that there are.
pub fn check_calls(choice: &ToolChoice, tools: &[Tool]) -> Result<(), Fault> {
    match choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            Err(wrong("tool_choice", &format!("names `{name}`, which is none of the {} tools", tools.len())))
        }
        ToolChoice::Required if tools.is_empty() => {
            Err(wrong("tool_choice", "is \"required\", and there are no tools"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::shape::value::param;

    #[test]
    fn tools_are_read_in_both_forms_and_wrong_ones_refused_by_path() {
        let tools = read_tools(&json!([
            {"type": "function", "function": {"name": "on", "description": "light", "parameters": {"type": "object", "properties": {}}, "strict": true}},
            {"name": "off"},
        ]))
        .unwrap();
        assert_eq!(tools[0].description.as_deref(), Some("light"));
        assert!(tools[0].strict);
        assert_eq!(tools[1], Tool { name: "off".to_owned(), description: None, parameters: None, strict: false });
        assert_eq!(read_tools(&Value::Null).unwrap(), []);
        let cases = [
            (json!({}), "tools"),
            (json!([{"type": "web_search"}]), "tools[0].type"),
            (json!([{"type": "function", "function": {}}]), "tools[0].function.name"),
            (json!([{"name": "no spaces"}]), "tools[0].name"),
            (json!([{"name": "f", "parameters": {"type": "array"}}]), "tools[0].parameters.type"),
            (json!([{"name": "f", "parameters": {"properties": []}}]), "tools[0].parameters.properties"),
            (json!([{"name": "f", "cost": 1}]), "tools[0].cost"),
            (json!([{"name": "f"}, {"name": "f"}]), "tools[1]"),
        ];
        for (value, path) in cases {
            assert_eq!(param(read_tools(&value)), path, "{value}");
        }
    }

    #[test]
    fn a_choice_is_a_word_or_a_tool_that_is_there() {
        let named = ToolChoice::Named("on".to_owned());
        for (value, choice) in [
            (Value::Null, ToolChoice::Auto),
            (json!("auto"), ToolChoice::Auto),
            (json!("none"), ToolChoice::None),
            (json!("required"), ToolChoice::Required),
            (json!({"type": "function", "function": {"name": "on"}}), named.clone()),
            (json!({"type": "function", "name": "on"}), named.clone()),
        ] {
            assert_eq!(read_tool_choice(&value), Ok(choice), "{value}");
        }
        for (value, path) in [
            (json!("must"), "tool_choice"),
            (json!(1), "tool_choice"),
            (json!({"type": "web_search"}), "tool_choice.type"),
            (json!({"type": "function"}), "tool_choice.name"),
            (json!({"type": "function", "function": {"name": "no spaces"}}), "tool_choice.function.name"),
            (json!({"type": "function", "function": {"name": "on"}, "mode": 1}), "tool_choice.mode"),
        ] {
            assert_eq!(param(read_tool_choice(&value)), path, "{value}");
        }
        let tools = read_tools(&json!([{"name": "on"}])).unwrap();
        assert_eq!(check_calls(&named, &tools), Ok(()));
        assert_eq!(param(check_calls(&ToolChoice::Named("off".to_owned()), &tools)), "tool_choice");
        assert_eq!(param(check_calls(&ToolChoice::Required, &[])), "tool_choice");
    }
}
