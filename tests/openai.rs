//! Compatibility, proved with the official `openai` Python client over a Unix socket transport.

mod harness;

use std::process::Command;

use harness::{Ran, TestDaemon, root};

fn run_client(daemon: &TestDaemon, model: &str) -> String {
    let python = root().join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make client`", python.display());
    let client = root().join("tests/clients/openai_client.py");
    let ran = Ran::of(Command::new(python).arg(client).arg(daemon.socket()).arg(model));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

#[test]
fn the_official_client_is_served() {
    let daemon = TestDaemon::start(&[]);
    assert!(run_client(&daemon, "tiny").ends_with("ok\n"));
}

#[test]
fn the_official_client_is_served_by_the_default_model() {
    let model = format!("{:?}", root().join("models/default").display().to_string());
    let daemon = TestDaemon::start(&[("model.dir", &model)]);
    let name = harness::client::get(&daemon.socket(), "/v1/models").unwrap().json();
    let name = name["data"][0]["id"].as_str().unwrap().to_owned();
    assert!(run_client(&daemon, &name).ends_with("ok\n"));
}
