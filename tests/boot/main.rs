//! A real systemd as PID 1, driven by `systemctl`: `boot.sh` boots it in namespaces, `cases.sh` is what happens there.
//!
//! `make test` boots once, for the cases that take seconds. `make service-test` (`MOED_BOOT=all`) runs the slow ones too, boots
//! again for the packages in `MOED_BOOT_DEBS`, and all of it once more over the root that `root.sh` made of a newer Debian.
//! `MOED_BOOT="CASE CASE"` runs these alone, `quick`, `slow` and `packages` those of a kind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../harness/mod.rs"]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Ran, onnxruntime, root, skip};

/// The longest boot takes ten minutes; `boot.sh` ends what hangs before this.
const LONGEST: Duration = Duration::from_mins(30);

const NAME: &str = "a_booted_systemd_runs_the_service";
/// The newer Debian.
const NEWER: &str = ".boot/trixie";

/// What is booted, and what happens there.
struct Boot<'a> {
    /// `None`: this machine's own files.
    root: Option<PathBuf>,
    /// Packages to install, and a folder with a later version of `moed`; else the tree as it is.
    packages: Option<(&'a Path, &'a Path)>,
    cases: &'a str,
}

/// Boots, and gives how many cases passed; says so and gives `None` where the kernel does not allow it.
#[expect(clippy::print_stdout, reason = "the cases are this test's own results")]
fn boot(boot: &Boot) -> Option<usize> {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(root().join("tests/boot/boot.sh"));
    command.arg(out.path()).arg(root()).arg(env!("CARGO_BIN_EXE_moed")).arg(boot.cases);
    if let Some(folder) = &boot.root {
        command.env("ROOT", folder);
    }
    if let Some((packages, newer)) = boot.packages {
        command.env("DEBS", packages).env("NEWER", newer);
    }
    let ended = Ran::within(LONGEST, &mut command);
    let read = |file: &str| fs::read_to_string(out.path().join(file)).unwrap_or_default();
    if ended.code == Some(77) {
        skip(NAME, &format!("the kernel does not allow it: {}", read("why").trim()));
        return None;
    }
    let results = read("results");
    let is_whole = results.lines().any(|line| line == "done");
    let failed = results.lines().any(|line| line.starts_with("not ok"));
    println!("{results}");
    let told = ["journal", "log", "console"].map(|file| format!("--- {file}\n{}", read(file))).join("\n");
    assert!(is_whole && !failed, "{told}\n{results}");
    Some(results.lines().filter(|line| line.starts_with("ok ")).count())
}

/// A later version of `moed`: the same binary under a number higher than any there is.
fn later(packages: &Path, folder: &Path) {
    let found = fs::read_dir(packages).unwrap().flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("moed_"))
            && path.extension().is_some_and(|extension| extension == "deb")
    });
    let (package, tree) = (found.expect("a package `moed`"), folder.join("tree"));
    let run = |command: &mut Command| {
        let ran = Ran::of(command);
        assert_eq!(ran.code, Some(0), "{command:?}: {}", ran.stderr);
    };
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(version, "Version: 99.0.0")).unwrap();
    let newer = folder.join("moed_99.0.0.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&tree).arg(newer));
}

#[test]
fn a_booted_systemd_runs_the_service_as_its_operator_expects() {
    if !rustix::process::geteuid().is_root() {
        return skip(NAME, "only root may boot a systemd in namespaces");
    }
    if !["/lib/systemd/systemd", "/usr/lib/systemd/systemd"].iter().any(|path| fs::metadata(path).is_ok()) {
        return skip(NAME, "systemd is not installed");
    }
    onnxruntime();
    let wanted = std::env::var("MOED_BOOT").unwrap_or_else(|_| "quick".to_owned());
    let debs = std::env::var_os("MOED_BOOT_DEBS").map(|folder| root().join(folder));
    let scratch = tempfile::tempdir().unwrap();
    if let Some(debs) = &debs {
        later(debs, scratch.path());
    }
    let packages = debs.as_deref().map(|debs| (debs, scratch.path()));
    let newer = root().join(NEWER).join("root");
    if wanted != "all" {
        let own = std::env::var_os("MOED_BOOT_ROOT").map(PathBuf::from);
        let packages = packages.filter(|_| wanted.contains("packages"));
        let passed = boot(&Boot { root: own, packages, cases: &wanted });
        return assert!(passed.is_none_or(|passed| passed > 0));
    }
    let packages = packages.expect("`MOED_BOOT_DEBS` names the folder with the packages");
    let mut roots = vec![None];
    if root().join(NEWER).join("made").exists() {
        roots.push(Some(newer));
    } else {
        skip(NAME, &format!("a newer systemd: there is no root in `{NEWER}`, `tests/boot/root.sh` makes it"));
    }
    for root in roots {
        for (packages, cases, least) in [(None, "quick", 14), (None, "slow", 6), (Some(packages), "packages", 9)] {
            let passed = boot(&Boot { root: root.clone(), packages, cases });
            assert!(passed.is_none_or(|passed| passed >= least), "{passed:?} cases passed, expected {least}");
        }
    }
}
