//! The command line: what each fault says, and with which exit code.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use harness::{Home, Ran, TestDaemon, copy_model};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€\n";

fn check(home: &Home, settings: &[(&str, &str)]) -> Ran {
    let config = home.configure(settings);
    home.run(&["check", "--config", config.to_str().unwrap(), "--models"])
}

#[test]
fn ask_prints_the_answer_whole_streamed_and_from_stdin() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    for arguments in
        [&["ask", "--socket", socket, "hi"][..], &["ask", "--socket", socket, "--stream", "hi"], &["ask", "hi"]]
    {
        let ran = daemon.home.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), ALPHABET, ""), "{arguments:?}");
    }
    let mut child = daemon
        .home
        .moed(&["ask", "--system", "be brief", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("what?\n".as_bytes()).unwrap();
    assert_eq!(Ran::end_of(child).stdout, ALPHABET);
    let cut = daemon.home.run(&["ask", "--max-tokens", "3", "hi"]);
    assert_eq!((cut.code, cut.stdout.as_str()), (Some(0), "abc\n"));
    assert!(cut.stderr.contains("the answer is cut"), "{}", cut.stderr);
}

#[test]
fn chat_remembers_and_forgets() {
    let daemon = TestDaemon::start(&[]);
    let mut child = daemon
        .home
        .moed(&["chat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\n\ntwo\n/new\nthree\n").unwrap();
    let ran = Ran::end_of(child);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ALPHABET.repeat(3).as_str()), "{}", ran.stderr);
    // 3 words, then all of the first turn, then forgotten again.
    let prompts: Vec<usize> = harness::until("three finished requests in the log", || {
        let prompts: Vec<usize> = daemon
            .log()
            .lines()
            .filter(|line| line.contains("request finished"))
            .filter_map(|line| line.split("prompt_tokens=").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        (prompts.len() >= 3).then_some(prompts)
    });
    assert_eq!(prompts.len(), 3, "{}", daemon.log());
    assert!(prompts[1] > prompts[0] + ALPHABET.len() && prompts[2] < prompts[1], "{prompts:?}");
}

#[test]
fn faults_of_a_question_have_their_exit_codes() {
    let home = Home::new();
    let away = home.run(&["ask", "--socket", "/no/such.sock", "hi"]);
    assert_eq!(away.code, Some(69));
    assert!(
        away.stderr.contains("no daemon answers at `/no/such.sock`") && away.stderr.contains("hint: start one"),
        "{}",
        away.stderr
    );
    assert_eq!(home.run(&["ask"]).code, Some(64));
    assert_eq!(home.run(&["aks", "hi"]).code, Some(64));
    let broker = home.run(&["ask", "--mqtt", "mqtt://127.0.0.1:1", "hi"]);
    assert!(broker.code == Some(69) && broker.stderr.contains("127.0.0.1:1"), "{broker:?}");

    let daemon = TestDaemon::start(&[]);
    let long = daemon.home.run(&["ask", &"x".repeat(9000)]);
    assert_eq!(long.code, Some(64));
    assert!(long.stderr.contains("9019 tokens") || long.stderr.contains("at least"), "{}", long.stderr);
    let tools = daemon.home.path("tools.json");
    fs::write(&tools, "{").unwrap();
    let unread = daemon.home.run(&["ask", "--tools", tools.to_str().unwrap(), "hi"]);
    assert!(unread.code == Some(64) && unread.stderr.contains("tools.json"), "{}", unread.stderr);
}

#[test]
fn check_says_what_it_found() {
    let ran = check(&Home::new(), &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for part in [
        "name = \"n1\"",
        "model `tiny`: 8192 tokens of context",
        "self-test passed on cpu: 1 golden prompts",
        "ONNX Runtime 1.32.0",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
}

#[test]
fn a_config_fault_names_file_line_and_key_and_exits_78() {
    let expect = |settings: &[(&str, &str)], parts: &[&str]| {
        let home = Home::new();
        let ran = check(&home, settings);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{settings:?}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part} is not in {}", ran.stderr);
        }
        // serve says the same and does not start.
        let config = home.path("moed.toml");
        let served = home.run(&["serve", "--config", config.to_str().unwrap()]);
        assert_eq!(served.code, Some(78), "{}", served.stderr);
    };
    expect(
        &[("engine.slosts", "2")],
        &["moed.toml`, line 9: `engine.slosts` is not a setting", "did you mean `engine.slots`?"],
    );
    expect(
        &[("engine.slots", "0"), ("engine.provider", "\"tpu\""), ("engine.prepare", "\"always\"")],
        &["`engine.slots` is 0", "`engine.provider` is `tpu`", "`engine.prepare` is `always`"],
    );
    // Named and not there: said with what was looked for, never replaced by the CPU.
    expect(
        &[("engine.provider", "\"cuda\"")],
        &["`engine.provider` is `cuda`", "built without `CUDAExecutionProvider`", "`runtime.onnxruntime`"],
    );
    expect(&[("model.dir", "\"/no/such/model\"")], &["model folder `/no/such/model` does not exist"]);
    expect(&[("runtime.onnxruntime", "\"/no/such/lib.so\"")], &["`/no/such/lib.so`"]);
    expect(
        &[("engine.context_max", "100000")],
        &["`engine.context_max` is 100000, the model `tiny` reads at most 8192"],
    );
    expect(&[("engine.memory_max", "\"1KiB\"")], &["bytes, the limit is 1024", "lower `engine.slots`"]);
    expect(&[("mqtt.url", "\"http://x\"")], &["`mqtt.url` starts with none of"]);
    let home = Home::new();
    let ran = home.run(&["check", "--config", "/no/such/moed.toml"]);
    assert!(ran.code == Some(78) && ran.stderr.contains("`/no/such/moed.toml`"), "{}", ran.stderr);
}

#[test]
fn a_model_folder_with_a_fault_is_refused_before_it_is_loaded() {
    let damage = |name: &str, change: fn(&std::path::Path)| {
        let home = Home::new();
        let folder = home.path("model");
        copy_model("tiny", &folder);
        change(&folder);
        let ran = check(&home, &[("model.dir", &format!("{:?}", folder.display().to_string()))]);
        assert!(ran.code == Some(78) && ran.stderr.contains(name), "{name}: {}", ran.stderr);
    };
    damage("digest of `model.onnx` is", |folder| {
        let graph = fs::read(folder.join("model.onnx")).unwrap();
        fs::write(folder.join("model.onnx"), &graph[..graph.len() - 100]).unwrap();
    });
    damage("`model.onnx`", |folder| fs::remove_file(folder.join("model.onnx")).unwrap());
    damage("golden prompt 1 gave token 97 at step 0, the manifest expects 98", |folder| {
        let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
        fs::write(folder.join("manifest.toml"), manifest.replace("cpu = [97,", "cpu = [98,")).unwrap();
    });
}

#[test]
fn a_socket_path_that_cannot_be_bound_is_a_config_fault() {
    let daemon = TestDaemon::start(&[]);
    let home = Home::new();
    let live = format!("{:?}", daemon.socket().display().to_string());
    let config = home.configure(&[("socket.path", &live)]);
    let ran = home.run(&["serve", "--config", config.to_str().unwrap()]);
    assert!(ran.code == Some(78) && ran.stderr.contains("another daemon answers"), "{}", ran.stderr);
    let config = home.configure(&[("socket.path", "\"/no/such/folder/moed.sock\"")]);
    let ran = home.run(&["serve", "--config", config.to_str().unwrap()]);
    assert!(ran.code == Some(78) && ran.stderr.contains("cannot be bound"), "{}", ran.stderr);
}

#[test]
fn a_broker_that_is_away_is_said_in_the_log_and_the_socket_is_served_all_the_same() {
    let daemon = TestDaemon::start(&[("mqtt.url", "\"mqtt://127.0.0.1:1\"")]);
    harness::until("the broker's absence in the log", || daemon.log().contains("127.0.0.1:1").then_some(()));
    assert_eq!(daemon.home.run(&["ask", "hi"]).stdout, ALPHABET);
    assert!(daemon.metric("moed_mqtt_connected") < 0.5);
}

#[test]
fn a_port_where_something_else_answers_is_no_broker_and_the_log_says_so() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            // What a web server says to a stranger. The stranger may have left already.
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
        }
    });
    let daemon = TestDaemon::start(&[("mqtt.url", &format!("\"mqtt://127.0.0.1:{port}\""))]);
    let said = format!("127.0.0.1:{port}");
    let line = harness::until("the fault in the log", || {
        daemon.log().lines().find(|line| line.contains("the broker is away")).map(str::to_owned)
    });
    assert!(line.contains(&said), "{line}");
    assert_eq!(daemon.home.run(&["ask", "hi"]).stdout, ALPHABET);
}

#[test]
fn completions_and_the_manual_page_come_from_the_same_definitions() {
    let home = Home::new();
    let bash = home.run(&["completions", "bash"]);
    assert!(bash.code == Some(0) && bash.stdout.contains("serve ask chat check") && bash.stdout.contains("--stream"));
    let man = home.run(&["man"]);
    assert!(
        man.code == Some(0) && man.stdout.contains(".TH moed 1") && man.stdout.contains("moed\\-check"),
        "{}",
        man.stdout
    );
    let pages = home.path("man");
    assert_eq!(home.run(&["man", pages.to_str().unwrap()]).code, Some(0));
    for page in ["moed.1", "moed-serve.1", "moed-model-verify.1"] {
        assert!(fs::read_to_string(pages.join(page)).unwrap().contains(".TH"), "{page}");
    }
    assert!(home.run(&["--version"]).stdout.starts_with("moed 0."));
}

#[test]
fn bench_measures_the_rows_that_were_asked_for_and_no_others() {
    let home = Home::new();
    let config = home.configure(&[]);
    let model = harness::root().join("models/tiny");
    let bench = |more: &[&str]| {
        let start = ["bench", model.to_str().unwrap(), "--config", config.to_str().unwrap(), "--rounds", "2"];
        home.run(&[&start[..], more].concat())
    };
    let ran = bench(&["--json", "--row", "decode_1", "--row", "prefill_128", "--row", "between_1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows: Vec<(&str, usize)> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["samples"].as_array().unwrap().len()))
        .collect();
    assert_eq!(rows, [("load", 1), ("prefill_128", 2), ("decode_1", 2), ("between_1", 2)]);
    let table = bench(&["--row", "decode_2"]);
    assert!(table.stdout.contains("decode_2 ") && !table.stdout.contains("decode_1 "), "{}", table.stdout);
    assert_eq!(home.run(&["bench", "/nowhere"]).code, Some(78));
}
