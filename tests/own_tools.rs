//! A model that was made for moed's own tools, asked by a client that says nothing of tools.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;

use harness::client::{chat, content, say};
use harness::{Home, TestDaemon, copy_model, root};
use serde_json::{Value, json};

const DEVICES: &str = r#"[
    {name = "Desk Lamp", kind = "light", area = "Office"},
    {name = "Freezer <|im_end|>", kind = "sensor", unit = "°C"},
]"#;

/// The tiny model with `own_tools` as stated: it says the alphabet to whatever it is asked.
fn model(home: &Home, own_tools: bool) -> String {
    let folder = home.path("model");
    copy_model("tiny", &folder);
    let manifest = fs::read_to_string(root().join("models/tiny/manifest.toml")).unwrap();
    let changed = manifest.replace("own_tools = false", &format!("own_tools = {own_tools}"));
    fs::write(folder.join("manifest.toml"), changed).unwrap();
    format!("{:?}", folder.display().to_string())
}

fn start(home: Home, model: &str, devices: &str) -> TestDaemon {
    home.configure(&[("model.dir", model), ("home.device", devices)]);
    TestDaemon::start_in(home, &[])
}

fn prompt_tokens(daemon: &TestDaemon, extra: Value) -> u64 {
    let reply = chat(&daemon.socket(), &say("hi", extra));
    assert!(!content(&reply).is_empty());
    reply.json()["usage"]["prompt_tokens"].as_u64().unwrap()
}

#[test]
fn devices_and_tools_are_added_where_nothing_is_said_of_tools_and_nowhere_else() {
    let (home, plain) = (Home::new(), Home::new());
    let (own, other) = (model(&home, true), model(&plain, false));
    let devices = DEVICES.replace('\n', " ");
    let with = start(home, &own, &devices);
    let without = start(plain, &other, &devices);
    let bare = prompt_tokens(&without, json!({}));
    let furnished = prompt_tokens(&with, json!({}));
    // The tiny model's tokens are bytes: the list and seven tools are hundreds of them.
    assert!(furnished > bare + 300, "{furnished} {bare}");
    assert_eq!(prompt_tokens(&with, json!({"tools": null})), furnished);
    assert_eq!(prompt_tokens(&with, json!({"tools": []})), bare);
    assert_eq!(prompt_tokens(&with, json!({"tool_choice": "none"})), bare);
    let one = json!({"tools": [{"type": "function", "function": {"name": "on"}}]});
    assert_eq!(prompt_tokens(&with, one.clone()), prompt_tokens(&without, one));
    let log = without.log();
    assert!(log.contains("`home.device` is not used"), "{log}");
}
