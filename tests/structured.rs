//! Answers of a given form, with the real binary and the tiny model: what was asked for, or a refusal, or a cut that says so.
//!
//! The tiny model says the alphabet whatever it is asked. Whatever else comes out of it here, the form has made it say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::path::Path;

use broker::Broker;
use harness::client::{chat, content, say};
use harness::{Home, TestDaemon};
use serde_json::{Value, json};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";

fn lamp() -> Value {
    json!({"type": "object", "properties": {"room": {"enum": ["hall", "kitchen"]}, "level": {"type": "integer", "minimum": 0, "maximum": 9},
        "on": {"type": "boolean"}}, "required": ["room", "level", "on"], "additionalProperties": false})
}

fn by_schema(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "lamp", "schema": schema}})
}

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "set_lamp", "parameters": lamp(), "strict": true}},
        {"type": "function", "function": {"name": "all_off"}},
    ])
}

fn is_lamp(value: &Value) -> bool {
    let fields = value.as_object().unwrap();
    fields.len() == 3
        && ["hall", "kitchen"].contains(&value["room"].as_str().unwrap_or_default())
        && value["level"].as_u64().is_some_and(|level| level <= 9)
        && value["on"].is_boolean()
}

/// The calls of an answer, as names and arguments, and how it ended.
fn calls(socket: &Path, more: Value) -> (Vec<(String, Value)>, String) {
    let reply = chat(socket, &say("hi", more));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let choice = &reply.json()["choices"][0];
    let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let calls = calls.iter().map(|call| {
        let arguments = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        (call["function"]["name"].as_str().unwrap().to_owned(), arguments)
    });
    (calls.collect(), choice["finish_reason"].as_str().unwrap().to_owned())
}

#[test]
fn what_cannot_be_enforced_is_a_400_that_names_field_and_keyword() {
    let daemon = TestDaemon::start(&[]);
    let strict = |schema: Value| {
        json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true,
            "parameters": {"type": "object", "properties": {"a": schema}}}}]})
    };
    for (more, param, word) in [
        (json!({"response_format": by_schema(&json!({"not": {}}))}), "response_format", "`not`"),
        (
            json!({"response_format": by_schema(&json!({"enum": []}))}),
            "response_format",
            "`enum` at `#` cannot be satisfied",
        ),
        (json!({"response_format": {"type": "regex", "regex": "(?=a)"}}), "response_format", "look-around"),
        (json!({"response_format": {"type": "lark", "lark": "x"}}), "response_format", "does not compile"),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "yaml"),
        (json!({"response_format": {"type": "json_object"}, "stop": "}"}), "stop", "response_format"),
        (
            strict(json!({"type": "array", "uniqueItems": true})),
            "tools[0].function.parameters",
            "`uniqueItems` at `#/properties/a`",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", "no tools"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "no"}}}),
            "tool_choice",
            "`no`",
        ),
    ] {
        let reply = chat(&daemon.socket(), &say("hi", more.clone()));
        let (code, message) = reply.error();
        assert_eq!((reply.status, code.as_str()), (400, "invalid_request"), "{more}");
        assert_eq!(reply.json()["error"]["param"], param, "{more}");
        assert!(message.contains(word), "{more}: {message}");
    }
}

/// A client sends schemas that are small to write and endless to work out, and the daemon has other clients.
#[test]
fn schema_bombs_are_refused_with_limit_and_number_and_the_next_question_is_answered() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let mut deep = json!({"type": "null"});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    let values: Vec<usize> = (0..100_000).collect();
    let chain: serde_json::Map<String, Value> =
        (0..600).map(|number| (format!("d{number}"), json!({"$ref": format!("#/$defs/d{}", number + 1)}))).collect();
    for (schema, words) in [
        (deep, "levels of nesting, limit 32"),
        (json!({"enum": values}), "bytes of schema, limit 65536"),
        (json!({"$ref": "#/$defs/d0", "$defs": chain}), "501 `$ref`s, limit 500"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "`$ref`"),
        (
            json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"}),
            "written-out repetitions in patterns, limit 5000",
        ),
        (json!({"type": "string", "minLength": 1_000_000_000}), "1000000000 in one count, limit 10000"),
    ] {
        let reply = chat(&socket, &say("hi", json!({"response_format": by_schema(&schema)})));
        let (_, message) = reply.error();
        assert!(reply.status == 400 && message.contains(words), "{}: {message}", reply.status);
    }
    assert_eq!(content(&chat(&socket, &say("hi", json!({})))), ALPHABET);
}

#[test]
fn text_stays_free_where_tools_may_be_called() {
    let daemon = TestDaemon::start(&[]);
    assert_eq!(content(&chat(&daemon.socket(), &say("hi", json!({"tools": tools()})))), ALPHABET);
}

#[test]
fn a_json_schema_is_kept_at_every_temperature_whole_and_streamed() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    for seed in 0..20 {
        let more = json!({"response_format": by_schema(&lamp()), "temperature": seed % 3, "seed": seed});
        let reply = chat(&socket, &say("hi", more.clone()));
        let text = content(&reply);
        assert!(is_lamp(&serde_json::from_str(&text).unwrap()), "{text}");
        assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
        let mut streamed = more;
        streamed["stream"] = json!(true);
        let events = chat(&socket, &say("hi", streamed)).events();
        let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let pieces: String =
            chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
        assert_eq!(pieces, text);
    }
}

#[test]
fn forced_tokens_change_no_answer() {
    let daemon = TestDaemon::start(&[]);
    let more = |reproducible: bool| json!({"response_format": by_schema(&lamp()), "reproducible": reproducible});
    // A reproducible request takes one token a step; the other may take what is forced at once. Greedy, both say the same.
    let one = content(&chat(&daemon.socket(), &say("hi", more(true))));
    assert!(is_lamp(&serde_json::from_str(&one).unwrap()), "{one}");
    assert_eq!(one, content(&chat(&daemon.socket(), &say("hi", more(false)))));
}

#[test]
fn an_expression_and_a_grammar_are_kept_too() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let say_as = |format: Value| content(&chat(&socket, &say("hi", json!({"response_format": format}))));
    assert_eq!(say_as(json!({"type": "regex", "regex": "[b-d]x[0-9]{2}"})).len(), 4);
    let text = say_as(json!({"type": "lark", "lark": "start: (\"yes\" | \"no\") \", \" /[xyz]/"}));
    assert!(["yes, ", "no, "].iter().any(|start| text.starts_with(start)) && text.len() < 7, "{text}");
    let text = say_as(json!({"type": "regex", "regex": "abcd"}));
    assert_eq!(text, "abcd");
}

#[test]
fn an_answer_that_is_cut_says_so() {
    let daemon = TestDaemon::start(&[]);
    let more = json!({"response_format": by_schema(&lamp()), "max_tokens": 5});
    let reply = chat(&daemon.socket(), &say("hi", more));
    assert_eq!(content(&reply), "{\"roo");
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "length");
    let more = json!({"response_format": {"type": "json_object"}, "max_tokens": 40, "temperature": 2, "seed": 3});
    let reply = chat(&daemon.socket(), &say("hi", more));
    let whole = serde_json::from_str::<Value>(&content(&reply)).is_ok();
    assert_eq!(whole, reply.json()["choices"][0]["finish_reason"] == "stop", "{}", reply.text());
}

#[test]
fn a_call_that_must_come_comes_and_fits() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    for seed in 0..10 {
        let more = |choice: Value| json!({"tools": tools(), "tool_choice": choice, "temperature": 2, "seed": seed, "parallel_tool_calls": false});
        let (made, finish) = calls(&socket, more(json!("required")));
        assert_eq!((made.len(), finish.as_str()), (1, "tool_calls"));
        let (name, arguments) = &made[0];
        assert!(if name == "all_off" { *arguments == json!({}) } else { name == "set_lamp" && is_lamp(arguments) });
        let (made, _) = calls(&socket, more(json!({"type": "function", "function": {"name": "set_lamp"}})));
        assert!(made.len() == 1 && made[0].0 == "set_lamp" && is_lamp(&made[0].1), "{made:?}");
    }
    let (made, finish) = calls(&socket, json!({"tools": tools(), "tool_choice": "required", "max_tokens": 8}));
    assert_eq!((made.len(), finish.as_str()), (0, "length"));
}

#[test]
fn the_command_line_asks_for_a_form_over_the_socket_and_over_a_broker() {
    let broker = Broker::start("");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let quoted = format!("\"{url}\"");
    let home = Home::new();
    std::fs::write(home.path("lamp.json"), lamp().to_string()).unwrap();
    let daemon = TestDaemon::start(&[("mqtt.url", &quoted)]);
    let (schema, socket) = (home.path("lamp.json"), daemon.socket());
    let schema = schema.to_str().unwrap();
    for route in [["--socket", socket.to_str().unwrap()], ["--mqtt", &url]] {
        let mut arguments = vec!["ask", "--json-schema", schema];
        arguments.extend(route);
        arguments.push("hi");
        let ran = home.run(&arguments);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(is_lamp(&serde_json::from_str(&ran.stdout).unwrap()), "{}", ran.stdout);
    }
    let none = home.run(&["ask", "--json-schema", "/nowhere", "--socket", socket.to_str().unwrap(), "hi"]);
    assert!(none.code != Some(0) && none.stderr.contains("/nowhere"), "{}", none.stderr);
}
