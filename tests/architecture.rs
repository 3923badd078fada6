//! Which way the rooms point: reads every `use` and path in `daemon/` and holds the arrows. Each rule has its reason and
//! must name something that exists, so that a rule does not outlive what it is about.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Relative to `daemon/`.
    path: String,
    /// Without comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemon");
    let mut files = Vec::new();
    collect(&daemon, &mut files);
    let code = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    };
    files
        .iter()
        .map(|path| Source { path: path.strip_prefix(&daemon).unwrap().display().to_string(), code: code(path) })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether a file belongs to a room: a folder `engine/` or a single file `app.rs`.
fn is_in(path: &str, room: &str) -> bool {
    path == format!("{room}.rs") || path.starts_with(&format!("{room}/"))
}

#[test]
fn the_arrows_hold() {
    let never: &[(&str, &str, &str)] = &[
        ("engine", "queue", "the engine takes its work from a `Source` and runs without a waiting room"),
        ("engine", "transport", "the engine knows no JSON, no topics, no HTTP"),
        ("engine", "journal", "what was promised to whom is not the engine's business"),
        ("queue", "transport", "the queue serves every way in alike"),
        ("queue", "journal", "a job is a job, journaled or not"),
        ("journal", "transport", "the journal knows jobs and bytes, no topics"),
        ("journal", "queue", "the journal keeps, it starts nothing"),
        ("journal", "engine", "the journal keeps, it starts nothing"),
        ("model", "engine", "a folder is read without anything to run it"),
        ("model", "queue", "a folder is read without anything to run it"),
        ("text", "engine", "text is pure"),
        ("text", "queue", "text is pure"),
        ("text", "transport", "text is pure"),
        ("transport/http", "transport::mqtt", "the two ways in do not know each other"),
        ("transport/mqtt", "transport::http", "the two ways in do not know each other"),
        ("transport/http", "engine", "the transports talk to the queue"),
        ("transport/mqtt", "engine", "the transports talk to the queue"),
        ("config", "engine", "settings are read by rooms, not the other way round"),
        ("home", "queue", "what is known of a place runs nothing"),
        ("home", "engine", "what is known of a place runs nothing"),
        ("home", "transport", "what is known of a place has no topics to itself"),
        ("vitals", "engine", "counters know nobody"),
        ("board", "engine", "sensors know nobody"),
        ("board", "queue", "sensors know nobody"),
        ("board", "transport", "sensors know nobody"),
        ("governor", "board::files", "the policy is pure: readings are handed to it"),
        ("governor", "queue", "the policy names nobody who obeys it"),
        ("governor", "transport", "the policy names nobody who obeys it"),
        ("energy", "board", "the books take readings from anywhere"),
        ("energy", "queue", "the books know jobs by name alone"),
        ("queue", "board", "the queue asks for willingness, not for sensors"),
        ("engine", "governor", "the engine obeys an allowance, whoever set it"),
        ("engine", "energy", "the engine reports to an observer, whoever that is"),
        ("engine", "board", "the engine runs on any board, and without one"),
        ("vitals", "queue", "counters know nobody"),
    ];
    let sources = sources();
    for (room, forbidden, reason) in never {
        let home = forbidden.replace("::", "/");
        assert!(sources.iter().any(|source| is_in(&source.path, room)), "there is no room `{room}` any more");
        assert!(sources.iter().any(|source| is_in(&source.path, &home)), "there is no room `{home}` any more");
        let name = format!("crate::{forbidden}");
        for source in sources.iter().filter(|source| is_in(&source.path, room) && !source.path.ends_with("tests.rs")) {
            let found = source.code.match_indices(&name).any(|(at, _)| {
                !source.code[at + name.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            });
            assert!(!found, "`{}` names `{name}`: {reason}", source.path);
        }
    }
}

#[test]
fn each_library_has_its_homes_and_no_other_place() {
    let homes: &[(&str, &[&str], &str)] = &[
        (
            "ort",
            &["engine/session.rs", "engine/raw.rs", "engine/raw", "engine/runtime.rs"],
            "the runtime is behind the trait `Forward`",
        ),
        (
            "jiff",
            &["home", "queue/own.rs", "transport/mqtt/listen.rs"],
            "days are days where the machine stands in one place",
        ),
        ("libloading", &["engine/raw"], "a device's memory is reached in one place"),
        ("ndarray", &["engine/session"], "before the engine there is no tensor"),
        ("rumqttc", &["transport/mqtt/codec.rs", "transport/mqtt/codec"], "packets are made and read in one place"),
        (
            "tokio_rustls",
            &["transport/mqtt/access.rs", "transport/mqtt/dial.rs"],
            "above the bytes nobody knows whether they are encrypted",
        ),
        ("redb", &["journal"], "the journal alone knows how it is stored"),
        ("systemd", &["supervisor.rs", "telemetry.rs", "telemetry"], "everything else runs without systemd"),
        ("tokenizers", &["text/tokenizer.rs"], "ids are made in one place"),
        ("llguidance", &["text/grammar"], "the engine sees masks of token ids, no schema"),
        ("regex_syntax", &["text/grammar"], "expressions are measured where they are compiled"),
        ("toktrie", &["text/grammar"], "the engine sees masks of token ids, no schema"),
        ("minijinja", &["text/template.rs"], "prompts are rendered in one place"),
        ("axum", &["transport/http"], "HTTP stays in its room"),
        ("clap", &["cli"], "arguments are read in one place"),
        ("prometheus_client", &["vitals.rs", "vitals"], "metrics are named in one place"),
    ];
    let sources = sources();
    for (library, homes, reason) in homes {
        let names =
            [format!("use {library}::"), format!(" {library}::"), format!("({library}::"), format!("<{library}::")];
        let users: Vec<&Source> =
            sources.iter().filter(|source| names.iter().any(|name| source.code.contains(name.as_str()))).collect();
        assert!(!users.is_empty(), "nothing uses `{library}` any more");
        for source in users {
            let at_home = homes.iter().any(|home| source.path == *home || source.path.starts_with(&format!("{home}/")));
            assert!(at_home, "`{}` uses `{library}`: {reason}", source.path);
        }
    }
}

#[test]
fn unsafe_stands_in_three_places_with_a_proof_for_each_block() {
    let allowed = ["engine/raw", "main", "supervisor"];
    let daemon = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemon");
    for source in sources() {
        let uses = source.code.contains("unsafe {")
            || source.code.contains("unsafe impl")
            || source.code.contains("unsafe fn");
        assert!(!uses || allowed.iter().any(|place| is_in(&source.path, place)), "`{}` holds unsafe code", source.path);
        if uses {
            let text = fs::read_to_string(daemon.join(&source.path)).unwrap();
            let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
            assert!(
                text.matches("SAFETY:").count() >= blocks,
                "`{}` has {blocks} unsafe blocks and fewer proofs",
                source.path
            );
        }
    }
    for place in allowed {
        assert!(daemon.join(place).with_extension("rs").is_file(), "`{place}` is gone");
    }
}

#[test]
fn nothing_is_called_what_says_nothing_and_no_channel_is_unbounded() {
    for source in sources() {
        for word in ["utils", "helper", "manager", "common", "misc"] {
            assert!(!source.path.to_lowercase().contains(word), "`{}`: what is it?", source.path);
        }
        for call in ["unbounded_channel(", "mpsc::channel::<", "std::sync::mpsc::channel(", "flume::unbounded("] {
            assert!(!source.code.contains(call), "`{}` has a channel without a bound: {call}", source.path);
        }
    }
}

#[test]
fn a_lock_never_stands_around_the_model() {
    let beside = |path: &str| path == "engine/scripted.rs" || path.starts_with("engine/tests/");
    for source in sources().iter().filter(|source| is_in(&source.path, "engine") && !beside(&source.path)) {
        for lock in ["Mutex", "RwLock"] {
            assert!(
                !source.code.contains(lock),
                "`{}` has a {lock}: the engine's thread owns everything alone",
                source.path
            );
        }
    }
}
