//! Preparation on real models and the real runtime: a prepared copy answers as the original does, is used again, and is made
//! anew where it cannot be trusted; where none can be made the daemon says so and serves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::{Home, Ran, TestDaemon, copy_model, onnxruntime, root};
use moed::engine::forward::{Forward, Row};
use moed::engine::placement;
use moed::engine::prepare::{self, Afresh, Ready, Wish};
use moed::engine::provider::Provider;
use moed::engine::runtime::{self, cores};
use moed::engine::session::{Kept, OnnxForward, Settings};
use moed::model::folder::Folder;

fn folder(name: &str) -> Folder {
    Folder::load(&root().join("models").join(name)).unwrap()
}

fn ready(folder: &Folder, cache: Option<&Path>) -> Ready {
    let build = runtime::load_runtime(&onnxruntime()).unwrap();
    let settings = Settings {
        slots: 2,
        context: folder.context.min(2048),
        row_max: 512,
        threads: 1,
        cache_bytes_max: 1 << 30,
        kept: Kept::Pieces(0),
        block_tokens: 32,
    };
    let wish = Wish { cache, build: &build, afresh: Afresh::No };
    prepare::ready(folder, &settings, &wish, &mut |_| ()).unwrap()
}

/// The tokens that follow each golden prompt, and the scores after the first.
fn answers(ready: &Ready) -> (Vec<Vec<u32>>, Vec<f32>) {
    let mut forward = OnnxForward::load(&ready.folder, &ready.settings).unwrap();
    let (mut all, mut first) = (Vec::new(), Vec::new());
    for golden in &ready.folder.manifest.as_ref().unwrap().golden {
        let mut past = 0;
        for piece in golden.prompt.chunks(512) {
            forward.forward(&[Row { slot: 0, past, tokens: piece, scores: 1 }]).unwrap();
            past += piece.len();
        }
        if first.is_empty() {
            first.extend_from_slice(forward.scores(0, 0));
        }
        let mut tokens = Vec::new();
        for _ in 0..golden.expected["cpu"].len() {
            let scores = forward.scores(0, 0);
            let token = (0_u32..).zip(scores).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).unwrap().0;
            tokens.push(token);
            forward.forward(&[Row { slot: 0, past, tokens: &[token], scores: 1 }]).unwrap();
            past += 1;
        }
        all.push(tokens);
    }
    (all, first)
}

#[test]
fn a_prepared_copy_answers_as_the_original_does_and_is_used_again() {
    for name in ["tiny", "default"] {
        let cache = tempfile::tempdir().unwrap();
        let folder = folder(name);
        let plain = ready(&folder, None);
        assert!(!plain.prepared.optimised && plain.prepared.notes.is_empty());
        let made = ready(&folder, Some(cache.path()));
        assert!(made.prepared.optimised && made.folder.prepared, "{name}: {:?}", made.prepared.notes);
        assert!(made.prepared.graph.starts_with(cache.path()));
        let ((tokens, scores), (prepared_tokens, prepared_scores)) = (answers(&plain), answers(&made));
        assert_eq!(tokens, prepared_tokens, "{name}");
        for (golden, tokens) in folder.manifest.as_ref().unwrap().golden.iter().zip(&prepared_tokens) {
            assert_eq!(&golden.expected["cpu"], tokens, "{name}");
        }
        let difference = scores.iter().zip(&prepared_scores).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= prepare::TOLERANCE, "{name}: {difference}");
        // The second start finds it: the file is the same one.
        let written = fs::metadata(&made.prepared.graph).unwrap().modified().unwrap();
        let again = ready(&folder, Some(cache.path()));
        assert_eq!(again.prepared.graph, made.prepared.graph);
        assert_eq!(fs::metadata(&again.prepared.graph).unwrap().modified().unwrap(), written);
        assert!(again.prepared.notes.is_empty(), "{:?}", again.prepared.notes);
    }
}

/// The default model with its weights beside the graph, as large models have them: a prepared copy is one.
fn with_external_weights() -> tempfile::TempDir {
    let (cache, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = ready(&folder("default"), Some(cache.path())).prepared.place.unwrap();
    copy_model("default", model.path());
    fs::remove_file(model.path().join("manifest.toml")).unwrap();
    for file in ["model.onnx", "model.data"] {
        fs::copy(place.join(file), model.path().join(file)).unwrap();
    }
    model
}

#[test]
fn weights_beside_the_graph_are_found_and_belong_to_the_key_and_must_stay_in_the_folder() {
    let (cache, model) = (tempfile::tempdir().unwrap(), with_external_weights());
    let read = || Folder::load(model.path()).unwrap();
    let first = ready(&read(), Some(cache.path()));
    assert!(first.prepared.optimised, "{:?}", first.prepared.notes);
    // One byte more, which no weight looks at: another file, and so another key.
    let weights = model.path().join("model.data");
    let mut bytes = fs::read(&weights).unwrap();
    bytes.push(0);
    fs::write(&weights, bytes).unwrap();
    let second = ready(&read(), Some(cache.path()));
    assert!(second.prepared.optimised, "{:?}", second.prepared.notes);
    assert_ne!(first.prepared.graph, second.prepared.graph);
    // One copy for each model folder: the old one is gone.
    assert!(!first.prepared.graph.exists() && second.prepared.graph.exists());
    // A graph that looks elsewhere for its weights is refused, prepared or not.
    let graph = model.path().join("model.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    let name = b"model.data";
    for at in 0..bytes.len() - name.len() {
        if &bytes[at..at + name.len()] == name {
            bytes[at..at + name.len()].copy_from_slice(b"../el.data");
        }
    }
    fs::write(&graph, bytes).unwrap();
    let build = runtime::load_runtime(&onnxruntime()).unwrap();
    let wish = Wish { cache: None, build: &build, afresh: Afresh::No };
    let fault = prepare::ready(&read(), &first.settings, &wish, &mut |_| ()).unwrap_err();
    assert!(fault.message.contains("`../el.data`, which leaves the folder"), "{fault}");
}

#[test]
fn a_copy_that_is_corrupt_foreign_or_older_is_made_anew_and_said() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("`model.data` is not what was written", |place| {
            let path = place.join("model.data");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("`model.onnx` is not what was written", |place| fs::write(place.join("model.onnx"), "cut").unwrap()),
        ("made for another machine or model", |place| {
            let path = place.join("prepared.toml");
            let text = fs::read_to_string(&path).unwrap();
            let key = text.lines().find(|line| line.starts_with("key = ")).unwrap();
            fs::write(&path, text.replace(key, "key = \"0123456789abcdef\"")).unwrap();
        }),
        ("its format is 0, this daemon writes 1", |place| {
            let path = place.join("prepared.toml");
            fs::write(&path, fs::read_to_string(&path).unwrap().replace("format = 1", "format = 0")).unwrap();
        }),
    ];
    for (expected, damage) in cases {
        let cache = tempfile::tempdir().unwrap();
        let folder = folder("tiny");
        let place = ready(&folder, Some(cache.path())).prepared.place.unwrap();
        damage(&place);
        let again = ready(&folder, Some(cache.path()));
        let notes = again.prepared.notes.join("\n");
        assert!(notes.contains("is made anew") && notes.contains(expected), "{expected}: {notes}");
        assert_eq!(again.prepared.place.as_ref(), Some(&place));
        // The new one is whole: nothing is to be said about it.
        assert!(ready(&folder, Some(cache.path())).prepared.notes.is_empty());
    }
}

/// A daemon's home whose copies lie in a folder of the test.
fn home(cache: &Path, settings: &[(&str, &str)]) -> Home {
    let home = Home::new();
    let cache = format!("{:?}", cache.display().to_string());
    let mut all = vec![("model.prepared", cache.as_str()), ("engine.prepare", "\"auto\"")];
    // The last of two lines with one key counts.
    all.extend_from_slice(settings);
    home.configure(&all);
    home
}

fn places(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).unwrap().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn two_daemons_that_start_at_once_make_one_copy_between_them() {
    let cache = tempfile::tempdir().unwrap();
    let start = || TestDaemon::start_in(home(cache.path(), &[]), &[]);
    let daemons = std::thread::scope(|scope| {
        let other = scope.spawn(start);
        [start(), other.join().unwrap()]
    });
    let made = daemons.iter().filter(|daemon| daemon.log().contains("prepared in `")).count();
    assert_eq!((made, places(cache.path()).len()), (1, 1));
    for daemon in &daemons {
        let status = harness::client::get(&daemon.socket(), "/status").unwrap().json();
        assert_eq!(status["provider"], "cpu");
        // The reason names what was tried before: this runtime has no other provider.
        let reason = status["provider_reason"].as_str().unwrap();
        assert!(reason.contains("a kernel ran on it") && reason.contains("`cuda` does not run here"), "{reason}");
        assert!(daemon.home.run(&["ask", "hi"]).stdout.starts_with("abc"));
        assert!(daemon.log().contains("prepared=true"), "{}", daemon.log());
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning_and_the_model_runs_as_it_is() {
    // A file where the folder should be: not even root can write there.
    let blocked = tempfile::NamedTempFile::new().unwrap();
    let daemon = TestDaemon::start_in(home(&blocked.path().join("cache"), &[]), &[]);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("not prepared")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("WARN") && line.contains("more memory"), "{line}");
    assert!(daemon.home.run(&["ask", "hi"]).stdout.starts_with("abc"));
    // The verb, whose whole purpose it is, fails.
    let config = daemon.home.path("moed.toml");
    let tiny = root().join("models/tiny");
    let ran = daemon.home.run(&["model", "prepare", tiny.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("is not prepared"), "{}", ran.stderr);
}

#[test]
fn never_means_that_nothing_is_written() {
    let cache = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start_in(home(cache.path(), &[("engine.prepare", "\"never\"")]), &[]);
    assert!(places(cache.path()).is_empty() && daemon.log().contains("prepared=false"), "{}", daemon.log());
}

#[test]
fn threads_are_measured_once_and_kept_with_the_copy() {
    let cache = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::start_in(home(cache.path(), &[("engine.threads", "0")]), &[]);
    if cores() == 1 {
        harness::skip("threads_are_measured_once_and_kept_with_the_copy", "one core: nothing to choose");
        return;
    }
    let said = |log: &str| {
        let line = log.lines().find(|line| line.contains("threads measured")).unwrap_or_else(|| panic!("{log}"));
        line[line.find("threads=").unwrap()..].to_owned()
    };
    let first = said(&daemon.log());
    daemon.restart(&[]);
    assert_eq!(said(&daemon.log()), first);
    assert!(places(cache.path())[0].join("threads.toml").is_file());
}

#[test]
fn the_runtimes_own_variables_do_not_reach_it() {
    // This one chooses other kernels, and so another layout of the packed weights.
    let prepare = |variables: &[(&str, &str)]| {
        let cache = tempfile::tempdir().unwrap();
        let home = home(cache.path(), &[]);
        let (model, config) = (root().join("models/default"), home.path("moed.toml"));
        let mut prepare =
            home.moed(&["model", "prepare", model.to_str().unwrap(), "--config", config.to_str().unwrap()]);
        let ran = Ran::of(prepare.envs(variables.iter().copied()));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let stamp = fs::read_to_string(places(cache.path())[0].join("prepared.toml")).unwrap();
        stamp.lines().find(|line| line.contains("model.data")).unwrap().to_owned()
    };
    assert_eq!(prepare(&[]), prepare(&[("ORT_QMOE_CPU_QNBIT_GEMM", "0"), ("ORT_USE_MLAS_Q4_GEMM_MOE", "1")]));
}

#[test]
fn a_warm_up_run_says_where_each_node_ran_and_a_gpu_that_did_not_run_them_is_refused() {
    for (name, heavy) in [("tiny", "GroupQueryAttention"), ("default", "QMoE")] {
        let ready = ready(&folder(name), None);
        let nodes = placement::observe(&ready.folder, &ready.settings).unwrap();
        assert!(nodes.iter().any(|node| node.op == heavy), "{name}: {nodes:?}");
        placement::refuse(name, &nodes, Provider::Cpu).unwrap();
        let fault = placement::refuse(name, &nodes, Provider::Cuda).unwrap_err();
        assert!(fault.message.contains("on `CPUExecutionProvider`"), "{fault}");
    }
}

#[test]
fn a_folder_is_inspected_without_a_runtime_and_verified_with_one() {
    let home = Home::new();
    let model = root().join("models/default");
    let model = model.to_str().unwrap();
    let seen = home.run(&["model", "inspect", model]);
    assert_eq!((seen.code, seen.stderr.as_str()), (Some(0), ""));
    for part in [
        "model       moed-xs-3",
        "layout      genai",
        "3 golden prompts",
        "experts     8 layers of 8, 2 a token",
        "input       past_key_values.N.key float32 [?, 2, ?, 64] × 8",
        "output      logits float32 [?, ?, 4096]",
        "opset       com.microsoft 1",
        "needs       ONNX Runtime 1.31 for `QMoE` with `accuracy_level`",
        "a token     reads ",
    ] {
        assert!(seen.stdout.contains(part), "{part} is not in {}", seen.stdout);
    }
    let config = home.configure(&[]);
    let config = config.to_str().unwrap();
    let whole = home.run(&["model", "verify", model, "--config", config]);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert!(whole.stdout.contains("moed-xs-3 on cpu: 3 golden prompts gave the expected tokens"), "{}", whole.stdout);
    assert!(whole.stderr.contains("8 files are what the manifest says"), "{}", whole.stderr);
    let damaged = home.path("damaged");
    copy_model("tiny", &damaged);
    fs::write(damaged.join("tokenizer.json"), "{}").unwrap();
    let ran = home.run(&["model", "verify", damaged.to_str().unwrap(), "--config", config]);
    assert_eq!(ran.code, Some(78));
    assert!(ran.stderr.contains("digest of `tokenizer.json`"), "{}", ran.stderr);
    assert_eq!(home.run(&["model", "inspect", "/no/such/folder"]).code, Some(78));
}

#[test]
fn every_family_is_prepared_and_its_nodes_are_found_where_they_run() {
    let cache = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(root().join("models/families")).unwrap().flatten() {
        let path = entry.path();
        // What is there to be refused is refused in `tests/families.rs`.
        if !path.join("references.json").is_file() || entry.file_name().to_string_lossy().starts_with("broken-") {
            continue;
        }
        let folder = Folder::load(&path).unwrap();
        let ready = ready(&folder, Some(cache.path()));
        assert!(
            ready.prepared.optimised && ready.prepared.notes.is_empty(),
            "{}: {:?}",
            folder.name,
            ready.prepared.notes
        );
        for folder in [&folder, &ready.folder] {
            let nodes = placement::observe(folder, &ready.settings).unwrap();
            assert!(nodes.iter().any(|node| node.op.contains("MatMul")), "{}: {nodes:?}", folder.name);
            placement::refuse(&folder.name, &nodes, Provider::Cpu).unwrap();
            placement::refuse(&folder.name, &nodes, Provider::Cuda).unwrap_err();
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen} families");
}
