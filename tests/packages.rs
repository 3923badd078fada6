//! The Debian packages: what is in them, that the same input gives the same bytes, and what installing, upgrading, removing
//! and purging them does. `make deb-test` runs the same on the packages as they are released, and lintian.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Home, Ran, root, skip};

/// Packages that are built fast: nobody keeps them.
const FAST: &str = "-Zgzip -z1";

fn build(folder: &Path, variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(root().join("cross/deb/build.sh"));
    command.arg(architecture()).arg(folder).env("BINARY", env!("CARGO_BIN_EXE_moed")).env("COMPRESS", FAST);
    Ran::of(command.envs(variables.iter().copied()))
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// The packages as they are released where `make deb-test` names them, else freshly made ones.
fn packages(home: &Home) -> PathBuf {
    if let Some(folder) = std::env::var_os("MOED_DEBS") {
        return root().join(folder);
    }
    let folder = home.path("debs");
    let ran = build(&folder, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    folder
}

fn package(folder: &Path, name: &str) -> PathBuf {
    let start = format!("{name}_");
    let mut found = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let fits = file.ends_with(&format!("_{}.deb", architecture())) || file.ends_with("_all.deb");
        file.starts_with(&start) && fits
    });
    let path = found.next().unwrap_or_else(|| panic!("no `{name}` in `{}`", folder.display()));
    assert_eq!(found.next(), None, "two of `{name}`");
    path
}

fn dpkg_deb(arguments: &[&str], package: &Path) -> String {
    let ran = Ran::of(Command::new("dpkg-deb").args(arguments).arg(package));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

/// Each path of a package with its permissions; a link with what it points to. Everything must be root's.
fn contents(package: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in dpkg_deb(&["--contents"], package).lines() {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(owner, "root/root", "{line}");
        let rest: Vec<&str> = words.skip(3).collect();
        match rest.as_slice() {
            [path] => found.insert(path.trim_start_matches('.').to_owned(), mode.to_owned()),
            [path, "->", target] => found.insert(path.trim_start_matches('.').to_owned(), format!("-> {target}")),
            other => panic!("{other:?}"),
        };
    }
    found
}

fn assert_holds(package: &Path, expected: &[(&str, &str)]) {
    let found = contents(package);
    for (path, mode) in expected {
        assert_eq!(found.get(*path).map(String::as_str), Some(*mode), "`{path}` in {}", package.display());
    }
    for (path, mode) in &found {
        let own = mode.starts_with(['-', 'd']) && !mode.starts_with("->");
        let loose = mode.as_bytes().get(5) == Some(&b'w') || mode.as_bytes().get(8) == Some(&b'w');
        assert!(!own || !(loose || mode.contains(['s', 't'])), "`{path}` is {mode}");
    }
}

#[test]
fn each_package_holds_what_it_promises_and_names_what_it_needs() {
    let home = Home::new();
    let folder = packages(&home);
    let moed = package(&folder, "moed");
    let file = "-rw-r--r--";
    assert_holds(
        &moed,
        &[
            ("/usr/bin/moed", "-rwxr-xr-x"),
            ("/etc/moed/moed.toml", file),
            ("/usr/lib/systemd/system/moed.service", file),
            ("/usr/lib/systemd/system/moed.socket", file),
            ("/usr/lib/sysusers.d/moed.conf", file),
            ("/usr/share/man/man1/moed.1.gz", file),
            ("/usr/share/man/man1/moed-serve.1.gz", file),
            ("/usr/share/bash-completion/completions/moed", file),
            ("/usr/share/zsh/vendor-completions/_moed", file),
            ("/usr/share/fish/vendor_completions.d/moed.fish", file),
            ("/usr/share/doc/moed/copyright", file),
            ("/usr/share/doc/moed/changelog.gz", file),
            ("/usr/share/doc/moed/third-party.txt.gz", file),
            ("/usr/share/doc/moed/examples/moed.full.toml", file),
        ],
    );
    // Whatever is added to these folders is shipped, or this fails.
    let there = contents(&moed);
    let shipped = |folder: &str, to: &str, which: fn(&str) -> bool| {
        for entry in fs::read_dir(root().join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(
                !which(&name) || there.contains_key(&format!("{to}/{name}")),
                "`{folder}/{name}` is not in the package"
            );
        }
    };
    shipped("systemd", "/usr/lib/systemd/system", |name| name.ends_with(".service") || name.ends_with(".socket"));
    shipped("systemd/drop-ins", "/usr/share/moed/drop-ins", |_| true);
    shipped("systemd/mosquitto", "/usr/share/doc/moed/examples/mosquitto", |_| true);
    assert_eq!(dpkg_deb(&["--info"], &moed).matches("conffiles").count(), 1);
    let field = |package: &Path, name: &str| {
        dpkg_deb(&["--field"], package)
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    let needs = field(&moed, "Depends").unwrap();
    for name in ["libc6 (>= 2.", "libsystemd0 (>= 2", "libgcc-s1", "systemd-sysusers | adduser"] {
        assert!(needs.contains(name), "{needs}");
    }
    let wishes = field(&moed, "Recommends").unwrap();
    assert_eq!(wishes, "moed-runtime-cpu | moed-runtime, moed-model-default | moed-model");

    let runtime = package(&folder, "moed-runtime-cpu");
    let library = fs::read_link(root().join(".runtime/libonnxruntime.so")).unwrap().display().to_string();
    assert_holds(
        &runtime,
        &[
            (&format!("/usr/lib/moed/{library}"), file),
            ("/usr/lib/moed/libonnxruntime.so", &format!("-> {library}")),
            ("/usr/share/doc/moed-runtime-cpu/copyright", file),
            ("/usr/share/doc/moed-runtime-cpu/ThirdPartyNotices.txt.gz", file),
        ],
    );
    assert!(field(&runtime, "Depends").unwrap().contains("libstdc++6 (>= "));
    assert_eq!(field(&runtime, "Provides").as_deref(), Some("moed-runtime"));

    let model = package(&folder, "moed-model-default");
    assert_eq!(field(&model, "Architecture").as_deref(), Some("all"));
    let there = contents(&model);
    for entry in fs::read_dir(root().join("models/default")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(there.contains_key(&format!("/usr/share/moed/models/default/{name}")), "`{name}` is not in the model");
    }
    for path in [&moed, &runtime, &model] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut checked = Command::new("sha256sum");
        checked.args(["--check", "--quiet", &format!("{name}.sha256")]).current_dir(&folder);
        assert_eq!(Ran::of(&mut checked).code, Some(0), "the digest beside {name}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let home = Home::new();
    let variables = [("PACKAGES", "moed moed-model-default"), ("SOURCE_DATE_EPOCH", "1700000000")];
    let folders = ["one", "two"].map(|name| home.path(name));
    for folder in &folders {
        let ran = build(folder, &variables);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    for name in ["moed", "moed-model-default"] {
        let [one, two] = folders.each_ref().map(|folder| fs::read(package(folder, name)).unwrap());
        assert!(one == two, "two builds of `{name}` differ");
    }
}

#[test]
fn a_binary_for_another_architecture_is_not_packed() {
    let home = Home::new();
    let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let mut command = Command::new(root().join("cross/deb/build.sh"));
    command.arg(other).arg(home.path("debs")).env("BINARY", env!("CARGO_BIN_EXE_moed")).env("PACKAGES", "moed");
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("is not for {other}")), "{}", ran.stderr);
}

#[test]
fn install_upgrade_remove_and_purge_keep_to_debians_conventions() {
    let home = Home::new();
    let folder = packages(&home);
    let newer = home.path("newer");
    // Higher than any version there is, with the binary at hand.
    let ran = build(&newer, &[("PACKAGES", "moed"), ("VERSION", "99.0.0")]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut command = Command::new(root().join("cross/deb/try.sh"));
    let ran = Ran::of(command.arg(&folder).arg(package(&newer, "moed")));
    if ran.code == Some(69) {
        return skip("install_upgrade_remove_and_purge", ran.stderr.trim());
    }
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.lines().filter(|line| line.starts_with("ok ")).count() >= 25, "{}", ran.stdout);
}
