//! `moed doctor`: what it says of a machine that is well, and of each runtime that is not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Home, Ran, onnxruntime};
use serde_json::Value;

fn doctor(home: &Home, arguments: &[&str]) -> (Ran, Value) {
    let config = home.configure(&[]);
    let all = [&["doctor", "--json", "--config", config.to_str().unwrap()], arguments].concat();
    let ran = home.run(&all);
    let json = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran, json)
}

/// What stands in the way, as one text.
fn missing(json: &Value) -> String {
    let troubles = json["missing"].as_array().unwrap();
    assert!(troubles.iter().all(|trouble| trouble["what"].as_str().is_some_and(|what| !what.is_empty())));
    let lines = troubles.iter().map(|trouble| format!("{} -> {}", trouble["what"], trouble["hint"]));
    lines.collect::<Vec<_>>().join(
        "
",
    )
}

/// A library of two lines of C, with the version that it claims.
fn library(folder: &Path, code: &str, version: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("libonnxruntime.so");
    fs::write(folder.join("it.c"), code).unwrap();
    fs::write(folder.join("it.map"), format!("{version} {{ global: *; }};\n")).unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args(["-shared", "-fPIC", "-Wl,--version-script=it.map", "it.c", "-o", "libonnxruntime.so"]);
    assert!(cc.status().unwrap().success());
    path
}

#[test]
fn a_machine_that_is_well_runs_a_kernel_and_says_what_it_has() {
    let home = Home::new();
    let (ran, json) = doctor(&home, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let runtime = &json["runtimes"][0];
    assert_eq!(runtime["path"], onnxruntime().display().to_string());
    let name = fs::read_link(onnxruntime()).unwrap().display().to_string();
    assert_eq!(format!("libonnxruntime.so.{}", runtime["version"].as_str().unwrap()), name);
    assert_eq!(runtime["troubles"], serde_json::json!([]));
    let cpu = json["providers"].as_array().unwrap().iter().find(|trial| trial["provider"] == "cpu").unwrap();
    assert_eq!(cpu["runs"], true);
    assert!(json["board"]["memory"]["total"].as_u64().unwrap() > 0 && json["subject"]["user"].is_u64(), "{json}");

    let config = home.configure(&[]);
    let ran = home.run(&["doctor", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for line in ["runtime       /", "provider      cpu: runs a kernel", "memory        ", "rights        of "] {
        assert!(ran.stdout.contains(line), "no `{line}` in\n{}", ran.stdout);
    }
    let alone = home.run(&["doctor", "--runtime", "--config", config.to_str().unwrap()]);
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert!(!alone.stdout.contains("memory") && alone.stdout.contains("runs a kernel"), "{}", alone.stdout);
}

#[test]
fn each_runtime_that_will_not_do_is_explained_before_it_is_loaded() {
    let home = Home::new();
    let cut = home.path("cut.so");
    let whole = fs::read(onnxruntime()).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let script = home.path("script.so");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let old = library(&home.path("old"), "int OrtGetApiBase(void) { return 0; }", "VERS_1.16.3");
    let other = library(&home.path("other"), "int crypt(void) { return 0; }", "XCRYPT_2.0");
    let gone = home.path("gone.so");
    for (path, expected) in [
        (&cut, "it is cut"),
        (&script, "it is no ELF file"),
        (&old, "is ONNX Runtime 1.16.3, the oldest that will do is 1."),
        (&other, "not ONNX Runtime"),
        (&gone, "there is no ONNX Runtime"),
    ] {
        let (ran, json) = doctor(&home, &["--runtime", path.to_str().unwrap()]);
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(missing(&json).contains(expected), "{}", missing(&json));
        assert_eq!(json["providers"], serde_json::json!([]), "it was loaded");
        assert!(ran.stderr.contains("no ONNX Runtime that was found here can serve"), "{}", ran.stderr);
    }
}

#[test]
fn a_runtime_that_takes_its_process_down_does_not_take_the_doctor_along() {
    let home = Home::new();
    let code = "#include <stdlib.h>\n__attribute__((constructor)) void fall(void) { abort(); }\nint OrtGetApiBase(void) { return 0; }";
    let path = library(&home.path("falls"), code, "VERS_1.32.0");
    let (ran, json) = doctor(&home, &["--runtime", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(missing(&json).contains("took its process down with signal 6"), "{}", missing(&json));
}

#[test]
fn a_config_with_a_fault_is_a_finding_and_not_the_end() {
    let home = Home::new();
    fs::write(home.path("bad.toml"), "[queue]\ndepht = 3\n").unwrap();
    let bad = home.path("bad.toml");
    let ran = home.run(&[
        "doctor",
        "--json",
        "--config",
        bad.to_str().unwrap(),
        "--runtime",
        onnxruntime().to_str().unwrap(),
    ]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(missing(&json).contains("depht"), "{json}");
    let cpu = json["providers"].as_array().unwrap().iter().find(|trial| trial["provider"] == "cpu").unwrap();
    assert_eq!(cpu["runs"], true);
}

#[test]
fn a_provider_that_the_config_names_and_that_does_not_run_is_a_fault() {
    let home = Home::new();
    let config = home.configure(&[("engine.provider", "\"cuda\"")]);
    let ran = home.run(&["doctor", "--runtime", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stdout.contains("`engine.provider` is `cuda`, which does not run here"), "{}", ran.stdout);
}

#[test]
fn the_daemon_refuses_a_cut_runtime_instead_of_dying_of_it() {
    let home = Home::new();
    let cut = home.path("cut.so");
    let whole = fs::read(onnxruntime()).unwrap();
    fs::write(&cut, &whole[..20_000_000]).unwrap();
    let config = home.configure(&[("runtime.onnxruntime", &format!("{:?}", cut.display().to_string()))]);
    for verb in [&["serve"][..], &["check", "--models"]] {
        let ran = home.run(&[verb, &["--config", config.to_str().unwrap()]].concat());
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.stderr.contains("it is cut: its headers speak of"), "{}", ran.stderr);
    }
}
