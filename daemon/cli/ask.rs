//! `moed ask`: one question, one answer.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{self, Heard};
use crate::cli::print;
use crate::fault::{Code, Fault, Kind};
use crate::transport::mqtt::ask::Whom;
use crate::transport::mqtt::{self, access};

/// The most that is read from stdin or a file; the daemon's own limit is tighter.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// How long an answer over a broker may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Arguments of `moed ask`.
#[derive(Args)]
pub(super) struct Ask {
    /// The question; `-` reads it from stdin
    text: String,
    /// Print the answer while it is made
    #[arg(long)]
    stream: bool,
    /// What the model is told before the question, such as the list of devices
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A JSON file with the tools that the model may call
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// A JSON file with the schema that the answer must fit
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// The most tokens of the answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// The daemon's socket
    #[arg(long, value_name = "PATH", conflicts_with = "mqtt")]
    socket: Option<PathBuf>,
    /// Ask over a broker instead: `mqtt://HOST[:PORT]`, `mqtts://HOST[:PORT]` or `unix:/PATH`
    #[arg(long, value_name = "URL")]
    mqtt: Option<String>,
    /// With --mqtt: the protocol's version, `5` or `3.1.1`
    #[arg(long, value_name = "VERSION", requires = "mqtt", default_value = "5")]
    mqtt_version: String,
    /// With --mqtt: the node to ask; without it the first that is ready
    #[arg(long, value_name = "NAME", requires = "mqtt")]
    node: Option<String>,
    /// With --mqtt: ask whichever member of this pool
    #[arg(long, value_name = "NAME", requires = "mqtt", conflicts_with = "node")]
    pool: Option<String>,
    /// With --mqtt: your level of the topics; without it the user, else a drawn name
    #[arg(long, value_name = "NAME", requires = "mqtt")]
    client: Option<String>,
    /// With --mqtt: the user that the broker knows
    #[arg(long, value_name = "NAME", requires = "mqtt")]
    user: Option<String>,
    /// With --mqtt: the file with the password, which only its owner may read
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// With --mqtt: the authorities that may have signed the broker's certificate; without it the system's
    #[arg(long, value_name = "FILE", requires = "mqtt")]
    ca: Option<PathBuf>,
    /// With --mqtt: your certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// With --mqtt: its key, which only its owner may read
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// With --mqtt: what every topic starts with
    #[arg(long, value_name = "TOPIC", requires = "mqtt", default_value = "moed/v1")]
    root: String,
}

/// Asks and prints the answer; calls come as one JSON line each.
pub(super) fn run(ask: &Ask) -> Result<(), Fault> {
    let question = if ask.text == "-" { read_all(std::io::stdin(), "stdin")? } else { ask.text.clone() };
    let mut messages = Vec::new();
    if let Some(system) = &ask.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": question}));
    let mut request = json!({"messages": messages});
    if let Some(path) = &ask.tools {
        request["tools"] = read_json(path, "tools")?;
    }
    if let Some(path) = &ask.json_schema {
        request["response_format"] = schema_format(read_json(path, "schema")?);
    }
    if let Some(url) = &ask.mqtt {
        return over_broker(ask, url, request);
    }
    request["model"] = json!("default");
    request["stream"] = json!(true);
    if let Some(most) = ask.max_tokens {
        request["max_tokens"] = json!(most);
    }
    let socket = client::socket(ask.socket.as_deref())?;
    let mut held = String::new();
    let finish = client::block_on(client::complete(&socket, &request, |heard| match heard {
        Heard::Text(text) if ask.stream => print(text),
        Heard::Text(text) => {
            held.push_str(text);
            Ok(())
        }
        Heard::Call(name, arguments) => print(&format!("{}\n", call_line(name, arguments))),
    }))?;
    // Streamed text wants its line ended; calls ended theirs.
    if finish != "tool_calls" || !held.is_empty() {
        print(&format!("{held}\n"))?;
    }
    judge(&finish)
}

/// Says so when an answer was cut.
fn judge(finish: &str) -> Result<(), Fault> {
    match finish {
        "stop" | "tool_calls" => Ok(()),
        "length" => {
            crate::cli::say("note: the answer is cut: it reached its length limit");
            Ok(())
        }
        other => Err(Fault::new(Kind::Busy, Code::Cancelled, format!("the answer is cut: {other}"))),
    }
}

/// The same over a broker.
fn over_broker(ask: &Ask, url: &str, mut request: Value) -> Result<(), Fault> {
    if let Some(most) = ask.max_tokens {
        request["params"] = json!({"max_tokens": most});
    }
    request["stream"] = json!(ask.stream);
    let request = request.as_object().cloned().unwrap_or_default();
    let question = mqtt::ask::Ask {
        url: url.to_owned(),
        version: ask.mqtt_version.clone(),
        access: access::Access {
            user: ask.user.clone().unwrap_or_default(),
            password_file: file(ask.password_file.as_deref()),
            ca: file(ask.ca.as_deref()),
            cert: file(ask.cert.as_deref()),
            key: file(ask.key.as_deref()),
        },
        root: ask.root.clone(),
        whom: match (&ask.node, &ask.pool) {
            (Some(node), _) => Whom::Node(node.clone()),
            (None, Some(pool)) => Whom::Pool(pool.clone()),
            (None, None) => Whom::Anybody,
        },
        client: ask.client.clone(),
        request,
        patience: PATIENCE,
    };
    let mut told = Ok(());
    let result = client::block_on(mqtt::ask::ask(question, |text| {
        if ask.stream && told.is_ok() {
            told = print(text);
        }
    }))?;
    told?;
    let calls = result["tool_calls"].as_array().cloned().unwrap_or_default();
    let text = result["text"].as_str().unwrap_or_default();
    if ask.stream && !text.is_empty() {
        print("\n")?;
    } else if !text.is_empty() || calls.is_empty() {
        print(&format!("{text}\n"))?;
    }
    for call in &calls {
        print(&format!("{}\n", json!({"name": call["name"], "arguments": call["arguments"]})))?;
    }
    judge(result["finish"].as_str().unwrap_or_default())
}

/// A path as one, also where it is a bare name: here nobody means a credential.
fn file(path: Option<&Path>) -> String {
    let Some(path) = path else { return String::new() };
    let text = path.display().to_string();
    if text.contains('/') { text } else { format!("./{text}") }
}

/// A call as a line of JSON.
fn call_line(name: &str, arguments: &str) -> String {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
    json!({"name": name, "arguments": arguments}).to_string()
}

/// A schema as `response_format`; one that is OpenAI's whole `json_schema` object already stays what it is.
fn schema_format(schema: Value) -> Value {
    let whole = schema.get("schema").is_some_and(Value::is_object) && schema.get("type").is_none();
    let named = if whole { schema } else { json!({"name": "answer", "schema": schema}) };
    json!({"type": "json_schema", "json_schema": named})
}

fn read_json(path: &Path, what: &str) -> Result<Value, Fault> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| Fault::invalid(format!("{what} `{name}`: {error}")))?;
    serde_json::from_str(&read_all(file, &name)?).map_err(|error| Fault::invalid(format!("{what} `{name}`: {error}")))
}

fn read_all(from: impl Read, name: &str) -> Result<String, Fault> {
    let mut text = String::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    let length = read.map_err(|error| Fault::invalid(format!("reading {name}: {error}")))?;
    if length as u64 > INPUT_BYTES_MAX {
        return Err(Fault::invalid(format!("{name} holds more than {INPUT_BYTES_MAX} bytes, the limit")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_file_holds_the_schema_or_the_whole_of_openais_object() {
        let bare = json!({"type": "object", "properties": {"schema": {"type": "object"}}});
        assert_eq!(schema_format(bare.clone())["json_schema"], json!({"name": "answer", "schema": bare}));
        let whole = json!({"name": "x", "strict": true, "schema": bare});
        assert_eq!(schema_format(whole.clone()), json!({"type": "json_schema", "json_schema": whole}));
    }
}
