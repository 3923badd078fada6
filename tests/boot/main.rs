//! A real systemd as PID 1, driven by `systemctl`: `boot.sh` boots it in namespaces, `cases.sh` is what happens there.
//!
//! `make test` boots once, for the cases that take seconds; `MOED_BOOT=all` (`make service-test`) runs the slow ones too, and
//! `MOED_BOOT_DEBS=FOLDER` installs built packages instead of the tree.

#[path = "../harness/mod.rs"]
mod harness;

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::{Ran, onnxruntime, root, skip};

/// All cases take ten minutes; `boot.sh` ends what hangs before this.
const LONGEST: Duration = Duration::from_mins(30);

#[test]
fn a_booted_systemd_runs_the_service_as_its_operator_expects() {
    let name = "a_booted_systemd_runs_the_service";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "only root may boot a systemd in namespaces");
    }
    if !["/lib/systemd/systemd", "/usr/lib/systemd/systemd"].iter().any(|path| fs::metadata(path).is_ok()) {
        return skip(name, "systemd is not installed");
    }
    onnxruntime();
    let wanted = std::env::var("MOED_BOOT").unwrap_or_else(|_| "quick".to_owned());
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(root().join("tests/boot/boot.sh"));
    command.arg(out.path()).arg(root()).arg(env!("CARGO_BIN_EXE_moed")).arg(&wanted);
    if let Some(folder) = std::env::var_os("MOED_BOOT_DEBS") {
        command.env("DEBS", folder);
    }
    let ended = Ran::within(LONGEST, &mut command);
    let read = |file: &str| fs::read_to_string(out.path().join(file)).unwrap_or_default();
    if ended.code == Some(77) {
        return skip(name, &format!("the kernel does not allow it: {}", read("why").trim()));
    }
    let results = read("results");
    let is_whole = results.lines().any(|line| line == "done");
    let failed: Vec<&str> = results.lines().filter(|line| line.starts_with("not ok")).collect();
    let passed = results.lines().filter(|line| line.starts_with("ok ")).count();
    println!("{results}");
    let told = ["journal", "log", "console"].map(|file| format!("--- {file}\n{}", read(file))).join("\n");
    assert!(is_whole && failed.is_empty() && passed >= 6, "{told}\n{results}");
}
