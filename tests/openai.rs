//! Compatibility, proved with the official `openai` Python client over a Unix socket transport.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::process::Command;

use harness::{TestDaemon, root};

fn run_client(daemon: &TestDaemon, model: &str) -> String {
    let python = root().join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make client`", python.display());
    let client = root().join("tests/clients/openai_client.py");
    let output = Command::new(python).arg(client).arg(daemon.socket()).arg(model).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
