//! `moed doctor`: what it says of a machine that is well, and of each runtime that is not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::boards::BoardTree;
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
    lines.collect::<Vec<_>>().join("\n")
}

/// A library of two lines of C, with the version that it claims.
fn library(folder: &Path, code: &str, version: &str) -> PathBuf {
    compile(&folder.join("libonnxruntime.so"), code, version)
}

fn compile(path: &Path, code: &str, version: &str) -> PathBuf {
    let folder = path.parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("it.c"), code).unwrap();
    fs::write(folder.join("it.map"), format!("{version} {{ global: *; }};\n")).unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args(["-shared", "-fPIC", "-Wl,--version-script=it.map", "it.c", "-o"]).arg(path);
    let built = Ran::of(&mut cc);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    path.to_path_buf()
}

/// The real library with another machine in its header.
fn foreign(path: &Path) {
    let mut bytes = fs::read(onnxruntime()).unwrap();
    bytes[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    fs::write(path, bytes).unwrap();
}

/// A CUDA provider beside the library at `path`, with machine code for these architectures and the bridge to it.
fn provider(path: &Path, architectures: &[u8]) {
    let folder = path.parent().unwrap();
    let bytes: Vec<String> = architectures
        .iter()
        .flat_map(|architecture| {
            // A container of one entry, as CUDA's compiler writes it.
            let mut bytes = vec![0_u8; 80];
            bytes[..7].copy_from_slice(&[0x50, 0xed, 0x55, 0xba, 1, 0, 16]);
            (bytes[8], bytes[16], bytes[20], bytes[44]) = (64, 2, 64, *architecture);
            bytes
        })
        .map(|byte| byte.to_string())
        .collect();
    let code = format!(
        "__attribute__((section(\".nv_fatbin\"), aligned(8))) const unsigned char code[] = {{{}}};",
        bytes.join(",")
    );
    compile(&folder.join("libonnxruntime_providers_cuda.so"), &code, "VERS_1.0");
    compile(&folder.join("libonnxruntime_providers_shared.so"), "int bridge;", "VERS_1.0");
}

/// What the doctor says of a library on a board.
fn doctor_on(board: &str, library: &Path) -> (Ran, Value) {
    let (home, tree) = (Home::new(), BoardTree::of(board));
    let settings = tree.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let config = home.configure(&settings);
    let ran =
        home.run(&["doctor", "--json", "--config", config.to_str().unwrap(), "--runtime", library.to_str().unwrap()]);
    let json = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran, json)
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
    let other_machine = home.path("foreign.so");
    foreign(&other_machine);
    for (path, expected) in [
        (&cut, "it is cut"),
        (&other_machine, "it is for "),
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
fn the_daemon_refuses_a_runtime_that_will_not_do_instead_of_dying_of_it() {
    let home = Home::new();
    let cut = home.path("cut.so");
    let whole = fs::read(onnxruntime()).unwrap();
    fs::write(&cut, &whole[..20_000_000]).unwrap();
    let other_machine = home.path("foreign.so");
    foreign(&other_machine);
    let old = library(&home.path("old"), "int OrtGetApiBase(void) { return 0; }", "VERS_1.19.2");
    for (path, expected) in [
        (&cut, "it is cut: its headers speak of"),
        (&other_machine, ", this machine is "),
        (&old, "is ONNX Runtime 1.19.2, the oldest that will do is 1.20"),
    ] {
        let config = home.configure(&[("runtime.onnxruntime", &format!("{:?}", path.display().to_string()))]);
        for verb in [&["serve"][..], &["check", "--models"]] {
            let ran = home.run(&[verb, &["--config", config.to_str().unwrap()]].concat());
            assert_eq!(ran.code, Some(78), "{ran:?}");
            assert!(ran.stderr.contains(expected) && ran.stderr.contains("hint: "), "{}", ran.stderr);
        }
    }
}

#[test]
fn on_each_jetson_a_provider_without_code_for_its_gpu_is_named_and_the_cpu_serves() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = folder.path().join("libonnxruntime.so");
    std::os::unix::fs::symlink(onnxruntime(), &runtime).unwrap();
    // What the published build for 64-bit ARM servers has.
    provider(&runtime, &[89, 90, 120, 121]);
    for (board, name, architecture) in [
        ("xavier", "Xavier", 72),
        ("orin-nano", "Orin", 87),
        ("orin-nx", "Orin", 87),
        ("agx-orin", "Orin", 87),
        ("thor", "Thor", 110),
    ] {
        let (ran, json) = doctor_on(board, &runtime);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(json["gpu"]["gpus"], serde_json::json!([{"name": name, "architecture": architecture}]), "{board}");
        assert_eq!(json["runtimes"][0]["cuda"]["code"], "sm_89, sm_90, sm_120, sm_121; no PTX");
        let missing = missing(&json);
        assert!(missing.contains(&format!("no code for this GPU, sm_{architecture}: it has sm_89")), "{missing}");
        assert!(missing.contains(&format!("CMAKE_CUDA_ARCHITECTURES={architecture}")), "{missing}");
        let cpu = json["providers"].as_array().unwrap().iter().find(|trial| trial["provider"] == "cpu").unwrap();
        assert_eq!(cpu["runs"], true, "{json}");
    }
    for board in ["raspberry-pi-5", "pc"] {
        let (_, json) = doctor_on(board, &runtime);
        assert_eq!((&json["gpu"]["gpus"], missing(&json).as_str()), (&serde_json::json!([]), ""), "{board}");
    }
    provider(&runtime, &[87]);
    let (_, json) = doctor_on("orin-nano", &runtime);
    assert_eq!(missing(&json), "", "code for this GPU is there");
}

#[test]
fn a_gpu_whose_provider_or_its_bridge_is_missing_beside_the_runtime_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = folder.path().join("libonnxruntime.so");
    std::os::unix::fs::symlink(onnxruntime(), &runtime).unwrap();
    let (ran, json) = doctor_on("orin-nx", &runtime);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(missing(&json).contains("has no CUDA provider beside it"), "{}", missing(&json));
    provider(&runtime, &[87]);
    fs::remove_file(folder.path().join("libonnxruntime_providers_shared.so")).unwrap();
    let (_, json) = doctor_on("orin-nx", &runtime);
    let told = missing(&json);
    assert!(told.contains("`libonnxruntime_providers_shared.so` is missing beside"), "{told}");
}

#[test]
fn what_a_board_with_one_memory_for_all_should_know_of_its_swap_and_of_nvmap_is_said() {
    let (home, tree) = (Home::new(), BoardTree::of("orin-nano"));
    tree.write("etc/nv_tegra_release", "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic, EABI: aarch64");
    let settings = tree.settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let config = home.configure(&settings);
    let ran = home.run(&["doctor", "--config", config.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in
        ["shared by CPU and GPU", "(zram)", "`systemctl disable nvzramconfig`", "refuses large NvMap allocations"]
    {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
}
