//! What `cross/` promises without a cross build: the check of the glibc floor, the pins of the runtimes, and scripts that say why not.

mod harness;

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Ran, root};
use moed::library::RUNTIME_MINOR_MIN;

fn run(script: &str, arguments: &[&str]) -> Ran {
    Ran::of(Command::new(root().join("cross").join(script)).args(arguments))
}

fn machine(own: bool) -> &'static str {
    if cfg!(target_arch = "aarch64") == own { "AArch64" } else { "X86-64" }
}

fn compile(folder: &Path, arguments: &[&str]) {
    let built = Ran::of(Command::new("cc").current_dir(folder).args(arguments));
    assert_eq!(built.code, Some(0), "{arguments:?}: {}", built.stderr);
}

#[test]
fn a_program_that_a_board_could_not_start_is_refused_with_the_reason() {
    let daemon = env!("CARGO_BIN_EXE_moed");
    let sound = run("floor.sh", &[daemon, machine(true), "2.99"]);
    assert!(sound.code == Some(0) && sound.stdout.contains("or newer"), "{sound:?}");
    let new = run("floor.sh", &[daemon, machine(true), "2.5"]);
    assert!(new.code == Some(70) && new.stderr.contains("at most 2.5 was wanted"), "{new:?}");
    let foreign = run("floor.sh", &[daemon, machine(false), "2.99"]);
    assert!(foreign.code == Some(70) && foreign.stderr.contains("is not for "), "{foreign:?}");

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("odd.c"), "int odd(void) { return 1; }").unwrap();
    fs::write(folder.path().join("main.c"), "int odd(void); int main(void) { return odd(); }").unwrap();
    compile(folder.path(), &["-shared", "-fPIC", "odd.c", "-o", "libodd.so"]);
    compile(folder.path(), &["main.c", "-L.", "-lodd", "-o", "main"]);
    let odd = run("floor.sh", &[folder.path().join("main").to_str().unwrap(), machine(true), "2.99"]);
    assert!(odd.code == Some(70) && odd.stderr.contains("needs `libodd.so`, which a board may not have"), "{odd:?}");
    let script = run("floor.sh", &[root().join("cross/floor.sh").to_str().unwrap(), machine(true), "2.99"]);
    assert_eq!(script.code, Some(70), "{script:?}");
}

#[test]
fn each_target_has_a_runtime_that_is_pinned_and_new_enough_or_says_how_to_get_one() {
    let pins: toml::Table = toml::from_str(&fs::read_to_string(root().join("cross/runtimes.toml")).unwrap()).unwrap();
    let mut pinned = Vec::new();
    for (target, pin) in &pins {
        let text = |key: &str| pin.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        if !text("how").is_empty() {
            let said = run("fetch-runtime.sh", &[target]);
            assert_eq!(said.code, Some(69), "{said:?}");
            assert!(said.stderr.contains(text("how")), "{said:?}");
            continue;
        }
        pinned.push(target.as_str());
        let version = text("version");
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        assert!(minor >= RUNTIME_MINOR_MIN, "{target}: {version}");
        assert!(text("package").ends_with(&format!("=={version}")), "{target}: {}", text("package"));
        assert!(text("library").ends_with(&format!(".so.{version}")), "{target}: {}", text("library"));
        let digest = text("wheel_sha256");
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{target}: {digest}");
        assert!(text("glibc").starts_with("2.") && !text("platform").is_empty(), "{target}");
        assert_eq!(target.ends_with("cuda13"), !text("code").is_empty(), "{target} says what GPUs it has code for");
        // What a Jetson's GPU needs is in none of them; a build that has it belongs under its JetPack.
        assert!(["sm_72", "sm_87", "sm_110"].iter().all(|code| !text("code").contains(code)), "{target}");
    }
    pinned.sort_unstable();
    assert_eq!(pinned, ["aarch64-cpu", "aarch64-cuda13", "x86_64-cpu", "x86_64-cuda13"]);
    let unknown = run("fetch-runtime.sh", &["riscv64-cpu"]);
    assert!(unknown.code == Some(78) && unknown.stderr.contains("is no target of"), "{unknown:?}");
}

#[test]
fn without_a_gpu_the_gpu_check_says_that_nothing_was_checked() {
    if ["/dev/nvidiactl", "/dev/nvmap"].iter().any(|device| Path::new(device).exists()) {
        println!("there is a GPU here: `make gpu-check` runs it");
        return;
    }
    let ran = run("gpu-check.sh", &[]);
    assert!(ran.code == Some(69) && ran.stderr.contains("nothing was checked"), "{ran:?}");
}
