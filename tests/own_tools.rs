//! A model that was made for moed's own tools, asked by a client that says nothing of tools.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::fs;
use std::process::Command;

use broker::{Broker, find};
use harness::client::{chat, content, say};
use harness::{Home, Ran, TestDaemon, copy_model, root, until};
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
    assert!(log.contains("what `[home]` holds is not used"), "{log}");
}

#[test]
fn devices_that_are_announced_over_the_broker_are_known_and_so_is_what_they_say() {
    let broker = Broker::start("");
    let keep = |topic: &str, payload: &str| {
        let publish = find("mosquitto_pub").expect("mosquitto_pub is needed: `make setup` unpacks it");
        let port = broker.port.to_string();
        let done = Ran::of(Command::new(publish).args(["-p", &port, "-r", "-t", topic, "-m", payload]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    };
    let announce = |topic: &str, payload: &Value| keep(topic, &payload.to_string());
    announce(
        "homeassistant/sensor/freezer/config",
        &json!({"name": "Freezer", "state_topic": "cellar/freezer", "unit_of_measurement": "°C"}),
    );
    announce(
        "zigbee2mqtt/bridge/devices",
        &json!([{"friendly_name": "Desk Lamp", "definition": {"exposes": [{"type": "light"}]}}]),
    );
    keep("cellar/freezer", "-18.5");
    let home = Home::new();
    let own = model(&home, true);
    home.configure(&[
        ("model.dir", &own),
        ("mqtt.url", &format!("\"{}\"", broker.url())),
        ("home.homeassistant", "\"homeassistant\""),
        ("home.zigbee2mqtt", "\"zigbee2mqtt\""),
    ]);
    let daemon = TestDaemon::start_in(home, &[]);
    until("both are known", || daemon.log().contains("devices are known devices=2").then_some(()));
    let both = prompt_tokens(&daemon, json!({}));
    // An empty announcement takes a device away.
    keep("homeassistant/sensor/freezer/config", "");
    until("one is gone", || daemon.log().contains("devices are known devices=1").then_some(()));
    let one = prompt_tokens(&daemon, json!({}));
    assert!(one < both, "{one} {both}");
}
