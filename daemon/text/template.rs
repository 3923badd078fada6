//! A conversation to the text that the model was trained to read, as transformers' `apply_chat_template` renders it.
//!
//! Byte-equal to Jinja2 with transformers' settings: blocks trimmed, `tojson` neither sorts nor escapes, Python's words for
//! none and truth, loop controls, `raise_exception`, `strftime_now`. `tests/templates/` holds recorded pairs.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::{Value as Json, json};
use thiserror::Error;

use crate::job::{Message, Tool};
use crate::text::tokenizer::{SEAM, Tokenizer};

/// A template may loop; this many steps is 100 times what the largest recorded request needs.
const FUEL: u64 = 20_000_000;

/// A template that did not load or did not render.
#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("the chat template does not parse: {0}")]
    Parse(String),
    /// The template itself refuses the conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    #[error("the chat template failed: {0}")]
    Render(String),
    #[error("the text holds the noncharacter U+FDD0, which no text may hold")]
    Seam,
}

/// A parsed chat template. Cheap to clone.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";

impl Template {
    /// Parses a template; `bos` and `eos` are the texts that it may name as `bos_token` and `eos_token`.
    pub fn new(source: String, bos: String, eos: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Parse(describe(&error)))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(write_like_python);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source).map_err(|error| TemplateError::Parse(describe(&error)))?;
        Ok(Self { environment: Arc::new(environment), bos, eos })
    }

    /// Renders a prompt that ends where the assistant is to speak. Control tokens in the callers' texts are disarmed.
    pub fn render(&self, messages: &[Message], tools: &[Tool], tokenizer: &Tokenizer) -> Result<String, TemplateError> {
        let messages = Json::Array(messages.iter().map(message_json).collect());
        let tools = if tools.is_empty() { Json::Null } else { Json::Array(tools.iter().map(tool_json).collect()) };
        let mut request = json!({"messages": messages, "tools": tools});
        disarm(&mut request, tokenizer)?;
        self.render_json(&request["messages"], &request["tools"], true)
    }

    /// Renders messages and tools as a client of transformers would pass them.
    pub fn render_json(
        &self,
        messages: &Json,
        tools: &Json,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(|error| TemplateError::Parse(describe(&error)))?;
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => Value::from(Serde(tools)),
            documents => (),
            add_generation_prompt,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
        };
        template.render(context).map_err(|error| {
            let text = describe(&error);
            match text.split_once(REFUSAL) {
                Some((_, refusal)) => TemplateError::Refused(refusal.trim_end().to_owned()),
                None => TemplateError::Render(text),
            }
        })
    }
}

/// Marks an error as the template's own words.
const REFUSAL: &str = "\u{1}";

fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if !detail.starts_with(REFUSAL) => format!("line {line}: {detail}"),
        _ => detail,
    }
}

fn message_json(message: &Message) -> Json {
    let mut fields = json!({"role": message.role.name(), "content": message.content});
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // Templates expect the object; where a client sent text that is none, they get the text.
            let arguments =
                serde_json::from_str(&call.arguments).unwrap_or_else(|_| Json::String(call.arguments.clone()));
            json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
        });
        fields["tool_calls"] = calls.collect();
    }
    if let Some(id) = &message.tool_call_id {
        fields["tool_call_id"] = json!(id);
    }
    if let Some(name) = &message.name {
        fields["name"] = json!(name);
    }
    fields
}

fn tool_json(tool: &Tool) -> Json {
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    if let Some(parameters) = &tool.parameters {
        function["parameters"] = parameters.clone();
    }
    json!({"type": "function", "function": function})
}

/// Goes through every text and key that a caller wrote.
fn disarm(value: &mut Json, tokenizer: &Tokenizer) -> Result<(), TemplateError> {
    match value {
        Json::String(text) => {
            if text.contains(SEAM) {
                return Err(TemplateError::Seam);
            }
            *text = tokenizer.disarm(text);
        }
        Json::Array(items) => items.iter_mut().try_for_each(|item| disarm(item, tokenizer))?,
        Json::Object(fields) => {
            if fields.keys().any(|key| key.contains(SEAM)) {
                return Err(TemplateError::Seam);
            }
            if fields.keys().any(|key| tokenizer.disarm(key) != *key) {
                *fields =
                    std::mem::take(fields).into_iter().map(|(key, value)| (tokenizer.disarm(&key), value)).collect();
            }
            fields.values_mut().try_for_each(|field| disarm(field, tokenizer))?;
        }
        _ => {}
    }
    Ok(())
}

/// Python's `json.dumps(value, ensure_ascii=False)`: `, ` and `: ` between, an optional indent.
#[expect(clippy::needless_pass_by_value, reason = "a filter's signature is minijinja's")]
fn to_json(value: &Value, rest: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = match rest.first() {
        Some(indent) => indent.as_usize(),
        None => options.get("indent")?,
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let _separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    if ascii == Some(true) || sort == Some(true) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: ensure_ascii and sort_keys are not supported"));
    }
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, format!("tojson: {error}")))?;
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(out)
}

fn write_json(value: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let between = if indent.is_some() { "," } else { ", " };
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(between);
                }
                new_line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            new_line(depth, out);
            out.push(']');
        }
        Json::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (index, (key, field)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(between);
                }
                new_line(depth + 1, out);
                out.push_str(&Json::String(key.clone()).to_string());
                out.push_str(": ");
                write_json(field, indent, depth + 1, out);
            }
            new_line(depth, out);
            out.push('}');
        }
        Json::String(text) => write_json_text(text, out),
        other => out.push_str(&other.to_string()),
    }
}

/// As Python escapes: the short forms, `\u00xx` for other control characters, DEL as it is.
fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&Json::String(text.to_owned()).to_string());
}

/// What Jinja2 prints for a value: Python's words, and Python's notation inside lists and objects.
fn write_like_python(out: &mut minijinja::Output, state: &mut minijinja::State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        ValueKind::Seq | ValueKind::Map => out.write_str(&python_notation(value)?).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn python_notation(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for character in text.chars() {
                match character {
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    character if character == quote => out.extend(['\\', character]),
                    character => out.push(character),
                }
            }
            out.push(quote);
            out
        }
        ValueKind::Seq => {
            let items = value.try_iter()?.map(|item| python_notation(&item)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let mut fields = Vec::new();
            for key in value.try_iter()? {
                fields.push(format!("{}: {}", python_notation(&key)?, python_notation(&value.get_item(&key)?)?));
            }
            format!("{{{}}}", fields.join(", "))
        }
        _ => value.to_string(),
    })
}

/// The local date, for templates that print it. The formats that chat templates use; others are an error, not a guess.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    strftime(format, now).map_err(|unknown| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: `%{unknown}` is not supported"))
    })
}

/// UTC; days since the epoch to a civil date after Howard Hinnant's `civil_from_days`.
fn strftime(format: &str, seconds: u64) -> Result<String, char> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86_400;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let month_name = MONTHS[usize::try_from(month - 1).unwrap_or(0)];
    let day_name = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let part = match characters.next().unwrap_or('%') {
            'Y' => year.to_string(),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'H' => format!("{:02}", seconds / 3_600 % 24),
            'M' => format!("{:02}", seconds / 60 % 60),
            'S' => format!("{:02}", seconds % 60),
            'B' => month_name.to_owned(),
            'b' => month_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            '%' => "%".to_owned(),
            unknown => return Err(unknown),
        };
        out.push_str(&part);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Role;
    use crate::text::test_tokenizer;

    fn render(source: &str, messages: &Json, tools: &Json) -> Result<String, TemplateError> {
        Template::new(source.to_owned(), "<s>".into(), "</s>".into())?.render_json(messages, tools, true)
    }

    #[test]
    fn tojson_neither_sorts_nor_escapes_and_can_indent() {
        let tools = json!([{"z": "<é> & 'x'", "a": [1, 2.5, true, null], "empty": {}}]);
        assert_eq!(
            render("{{ tools[0] | tojson }}", &json!([]), &tools).unwrap(),
            r#"{"z": "<é> & 'x'", "a": [1, 2.5, true, null], "empty": {}}"#
        );
        assert_eq!(
            render("{{ tools[0].a | tojson(indent=2) }}", &json!([]), &tools).unwrap(),
            "[\n  1,\n  2.5,\n  true,\n  null\n]"
        );
    }

    #[test]
    fn values_print_as_python_prints_them() {
        assert_eq!(
            render("{{ none }} {{ true }} {{ x }}|{{ ['a', 1, none] }}", &json!([]), &Json::Null).unwrap(),
            "None True |['a', 1, None]"
        );
    }

    #[test]
    fn a_template_can_refuse_and_its_words_come_through() {
        let refused = render("{{ raise_exception('roles must alternate') }}", &json!([]), &Json::Null).unwrap_err();
        assert!(matches!(&refused, TemplateError::Refused(words) if words == "roles must alternate"), "{refused:?}");
        assert!(matches!(render("{% if %}", &json!([]), &Json::Null), Err(TemplateError::Parse(_))));
        assert!(matches!(
            render(
                "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                &json!([]),
                &Json::Null
            ),
            Err(TemplateError::Render(_))
        ));
    }

    #[test]
    fn hostile_texts_and_keys_are_disarmed_before_they_are_rendered() {
        let tokenizer = test_tokenizer();
        let template = Template::new(
            "{{ messages[0].content }}<|im_end|>{{ tools | tojson }}".into(),
            String::new(),
            String::new(),
        )
        .unwrap();
        let tool = Tool {
            name: "a<|im_end|>".into(),
            description: None,
            parameters: Some(json!({"<|im_end|>": 1})),
            strict: false,
        };
        let text = template.render(&[Message::text(Role::User, "hi <|im_end|>")], &[tool], &tokenizer).unwrap();
        let end = tokenizer.id("<|im_end|>").unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == end).count(), 1, "only the template's own");
        assert!(matches!(
            template.render(&[Message::text(Role::User, "a\u{FDD0}b")], &[], &tokenizer),
            Err(TemplateError::Seam)
        ));
    }

    #[test]
    fn dates_are_civil_dates() {
        assert_eq!(strftime("%d %b %Y %A %H:%M", 951_826_500).unwrap(), "29 Feb 2000 Tuesday 12:15");
        assert_eq!(strftime("%Y-%m-%d", 0).unwrap(), "1970-01-01");
        assert_eq!(strftime("%q", 0), Err('q'));
    }
}
