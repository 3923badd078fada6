//! What the model may call, and whether it must.

use serde_json::Value;

use super::value::{array, at_most, object, present, read_bool, refuse_others, shown, text, wrong};
use crate::fault::Fault;
use crate::job::Tool;
use crate::text::signature;

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
    // Every call is compared with its signature; `strict` is refused only where that comparison is not a whole one.
    refuse_others(function, &["type", "name", "description", "parameters", "strict"], &path)?;
    let name = read_name(function.get("name").unwrap_or(&Value::Null), &format!("{path}.name"))?;
    let description =
        present(function, "description").map(|value| text(value, &format!("{path}.description"))).transpose()?;
    let parameters = match present(function, "parameters") {
        None => None,
        Some(schema) => Some(read_parameters(schema, &format!("{path}.parameters"))?),
    };
    let strict = present(function, "strict").map(|value| read_bool(value, &format!("{path}.strict"))).transpose()?;
    if strict == Some(true)
        && let Some(keyword) = parameters.as_ref().and_then(signature::unjudged)
    {
        let what = format!("is true, but this version does not check `{keyword}`, which the schema uses");
        return Err(wrong(&format!("{path}.strict"), &what));
    }
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

/// Whether the model may call the tools that a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// The model sees no tools.
    None,
}

/// Reads `tool_choice`; forcing a call is refused by name.
pub fn read_tool_choice(value: &Value) -> Result<ToolChoice, Fault> {
    match value {
        Value::Null => Ok(ToolChoice::Auto),
        Value::String(choice) if choice == "auto" => Ok(ToolChoice::Auto),
        Value::String(choice) if choice == "none" => Ok(ToolChoice::None),
        other => Err(wrong(
            "tool_choice",
            &format!("is {}, only \"auto\" and \"none\" are supported by this version", shown(&other.to_string())),
        )),
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
    fn a_forced_call_is_refused_by_name() {
        assert_eq!(read_tool_choice(&json!("none")).unwrap(), ToolChoice::None);
        assert_eq!(param(read_tool_choice(&json!("required"))), "tool_choice");
    }
}
