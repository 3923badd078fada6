//! One model folder with an export for each provider: which one is loaded, checked and shown.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::Path;

use harness::client::{self, chat, content, say};
use harness::{Home, Ran, TestDaemon, copy_model};
use serde_json::json;

/// A home whose model folder holds an export of the tiny model for each of these providers.
fn home(providers: &[&str]) -> Home {
    let home = Home::new();
    for provider in providers {
        copy_model("tiny", &home.path("both").join(provider));
    }
    home
}

fn configure(home: &Home, more: &[(&str, &str)]) -> String {
    let dir = format!("{:?}", home.path("both").display().to_string());
    home.configure(&[&[("model.dir", dir.as_str())][..], more].concat()).display().to_string()
}

fn check(home: &Home, more: &[(&str, &str)]) -> Ran {
    let config = configure(home, more);
    home.run(&["check", "--models", "--config", &config])
}

/// Other bytes than the manifest says.
fn damage(folder: &Path) {
    let graph = fs::read(folder.join("model.onnx")).unwrap();
    fs::write(folder.join("model.onnx"), &graph[..graph.len() / 2]).unwrap();
}

#[test]
fn the_export_of_the_provider_in_use_answers_and_the_model_keeps_its_name() {
    let home = home(&["cpu", "cuda"]);
    configure(&home, &[("engine.provider", "\"cpu\"")]);
    // The other provider's export is not even looked at.
    damage(&home.path("both/cuda"));
    for provider in ["cpu", "cuda"] {
        fs::remove_file(home.path("both").join(provider).join("manifest.toml")).unwrap();
    }
    let daemon = TestDaemon::start_in(home, &[]);
    assert!(!content(&chat(&daemon.socket(), &say("hi", json!({"max_tokens": 3})))).is_empty());
    let models = client::get(&daemon.socket(), "/v1/models").unwrap().json();
    assert_eq!(models["data"][0]["id"], "both", "the folder's name, where no manifest says one");
}

#[test]
fn a_check_reads_every_export_that_may_be_loaded_and_says_which_is() {
    let both = home(&["cpu", "cuda"]);
    let ran = check(&both, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for line in ["model `tiny` for cpu: 8192 tokens", "model `tiny` for cuda: 8192 tokens", "self-test passed on cpu"] {
        assert!(ran.stdout.contains(line), "no `{line}` in\n{}", ran.stdout);
    }
    let folder = both.path("both").display().to_string();
    let shown = both.run(&["model", "inspect", &folder]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("provider    cpu") && shown.stdout.contains("provider    cuda"), "{}", shown.stdout);

    damage(&both.path("both/cuda"));
    let ran = check(&both, &[]);
    assert!(ran.code == Some(78) && ran.stderr.contains("digest of `model.onnx` is"), "{}", ran.stderr);
    let ran = check(&both, &[("engine.provider", "\"cpu\"")]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("for cpu") && !ran.stdout.contains("for cuda"), "{}", ran.stdout);
}

#[test]
fn another_providers_export_is_no_substitute() {
    let home = home(&["cuda"]);
    let config = configure(&home, &[("engine.provider", "\"cpu\"")]);
    for verb in [&["serve"][..], &["check"], &["check", "--models"]] {
        let ran = home.run(&[verb, &["--config", &config]].concat());
        assert_eq!(ran.code, Some(78), "{}", ran.stderr);
        assert!(ran.stderr.contains("has nothing for `cpu`: it has `cuda`"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: put an export for it into `"), "{}", ran.stderr);
    }
    // Which provider it will be is known once a kernel has run: here the CPU.
    let ran = check(&home, &[]);
    assert!(ran.code == Some(78) && ran.stderr.contains("has nothing for `cpu`"), "{}", ran.stderr);
}
