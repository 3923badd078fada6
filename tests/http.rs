//! The socket, with the real binary and the tiny model: what is promised, and what happens to bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use harness::client::{self, chat, content, say};
use harness::{Home, TestDaemon, until};
use serde_json::json;

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";

#[test]
fn a_question_gets_its_exact_answer_whole_and_streamed() {
    let daemon = TestDaemon::start(&[]);
    let reply = chat(&daemon.socket(), &say("hi", json!({"model": "tiny"})));
    assert_eq!(content(&reply), ALPHABET);
    let answer = reply.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 21);
    assert_eq!(answer["usage"]["completion_tokens"], 32);

    let reply = chat(&daemon.socket(), &say("hi", json!({"stream": true, "stream_options": {"include_usage": true}})));
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<serde_json::Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, ALPHABET);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[chunks.len() - 1]["usage"]["total_tokens"], 53);
}

#[test]
fn stop_texts_max_tokens_and_seeds_do_what_they_say() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    assert_eq!(content(&chat(&socket, &say("hi", json!({"stop": ["mno", "xyz"]})))), "abcdefghijkl");
    let reply = chat(&socket, &say("hi", json!({"max_tokens": 28})));
    assert_eq!(
        (content(&reply).as_str(), reply.json()["choices"][0]["finish_reason"].as_str()),
        ("abcdefghijklmnopqrstuvwxyzé", Some("length"))
    );
    // Cut inside a character of three bytes: what is incomplete is left out, never replaced.
    assert_eq!(content(&chat(&socket, &say("hi", json!({"max_tokens": 30})))), "abcdefghijklmnopqrstuvwxyzé");
    let hot =
        |seed: u64| content(&chat(&socket, &say("hi", json!({"temperature": 2, "seed": seed, "max_tokens": 40}))));
    assert_eq!(hot(7), hot(7));
    assert_ne!(hot(7), hot(8));
}

#[test]
fn many_clients_at_once_get_the_answers_they_would_get_alone() {
    let daemon = TestDaemon::start(&[("engine.slots", "4"), ("engine.prefill_chunk", "16")]);
    let socket = daemon.socket();
    let ask = |number: usize| {
        let question = "x".repeat(1 + 7 * number);
        content(&chat(
            &socket,
            &say(&question, json!({"temperature": 1.5, "seed": number, "max_tokens": 60, "ignore_eos": true})),
        ))
    };
    let alone: Vec<String> = (0..12).map(ask).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|number| scope.spawn(move || ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn bad_requests_are_refused_with_what_is_wrong() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let refused = |body: &[u8]| {
        let reply = client::post_bytes(&socket, body);
        let (code, message) = reply.error();
        (reply.status, code, message)
    };
    let expect = |body: &str, status: u16, code: &str, part: &str| {
        let (got_status, got_code, message) = refused(body.as_bytes());
        assert!(
            got_status == status && got_code == code && message.contains(part),
            "{body}: {got_status} {got_code} {message}"
        );
    };
    expect("{\"messages\": [", 400, "invalid_json", "line 1 column 14");
    expect("", 400, "invalid_json", "EOF");
    expect("[]", 400, "invalid_request", "must be an object");
    expect("{}", 400, "invalid_request", "`messages` is missing");
    expect(r#"{"messages": []}"#, 400, "invalid_request", "messages");
    expect(r#"{"messages": "hi"}"#, 400, "invalid_request", "messages");
    expect(r#"{"messages": [{"role": "robot", "content": "x"}]}"#, 400, "invalid_request", "robot");
    expect(r#"{"messages": [{"role": "user", "content": 7}]}"#, 400, "invalid_request", "messages[0].content");
    expect(r#"{"messages": [{"role": "user", "content": "x"}], "temperature": -0.5}"#, 400, "invalid_request", "-0.5");
    expect(
        r#"{"messages": [{"role": "user", "content": "x"}], "temprature": 1}"#,
        400,
        "invalid_request",
        "`temprature`",
    );
    expect(
        r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}"#,
        400,
        "invalid_request",
        "max_tokens",
    );
    expect(
        r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "a", "parameters": "string"}}]}"#,
        400,
        "invalid_request",
        "tools[0].function.parameters",
    );
    let (status, code, _) = refused(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}");
    assert_eq!((status, code.as_str()), (400, "invalid_json"));
    // Still there, and still right.
    assert_eq!(content(&chat(&socket, &say("hi", json!({})))), ALPHABET);
}

#[test]
fn a_prompt_over_the_context_is_refused_with_both_numbers() {
    let daemon = TestDaemon::start(&[("engine.context_max", "256")]);
    let reply = chat(&daemon.socket(), &say(&"x".repeat(300), json!({})));
    let (code, message) = reply.error();
    assert_eq!((reply.status, code.as_str()), (400, "context_length_exceeded"));
    assert!(
        message.contains("at most 256") && (message.contains("320 tokens") || message.contains("at least")),
        "{message}"
    );
    let (code, message) = chat(&daemon.socket(), &say("x", json!({"max_tokens": 250}))).error();
    assert!(code == "context_length_exceeded" && message.contains("together 270"), "{message}");
}

#[test]
fn a_body_of_ten_megabytes_is_answered_with_its_limit() {
    let daemon = TestDaemon::start(&[]);
    let reply = chat(&daemon.socket(), &say(&"x".repeat(10 << 20), json!({})));
    let (code, message) = reply.error();
    assert_eq!((reply.status, code.as_str()), (413, "too_large"));
    assert!(message.contains("4194304"), "{message}");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_stream_cancels_its_job() {
    let daemon = TestDaemon::start(&[]);
    let mut stream = client::connect(&daemon.socket()).unwrap();
    let body = say("hi", json!({"stream": true, "ignore_eos": true, "max_tokens": 8000})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", body.as_bytes())).unwrap();
    let mut first = [0; 64];
    stream.read_exact(&mut first).unwrap();
    drop(stream);
    until("the slot to be free", || (daemon.metric("moed_requests_running") < 0.5).then_some(()));
    let generated = daemon.metric("moed_generated_tokens_total");
    assert!(generated < 8000.0, "{generated} tokens were generated for nobody");
    assert_eq!(content(&chat(&daemon.socket(), &say("hi", json!({})))), ALPHABET);
}

#[test]
fn a_client_that_leaves_while_its_prompt_is_read_cancels_its_job() {
    let daemon = TestDaemon::start(&[("engine.prefill_chunk", "3")]);
    let mut stream = client::connect(&daemon.socket()).unwrap();
    let body = say(&"x".repeat(8000), json!({"max_tokens": 4})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", body.as_bytes())).unwrap();
    until("the prompt to be read", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    drop(stream);
    until("the slot to be free", || (daemon.metric("moed_requests_running") < 0.5).then_some(()));
    assert!(daemon.metric("moed_prompt_tokens_total") < 8000.0, "the whole prompt was read for nobody");
    assert!(daemon.metric("moed_generated_tokens_total") < 0.5);
}

#[test]
fn a_client_that_closes_only_its_sending_half_is_served() {
    let daemon = TestDaemon::start(&[]);
    assert_eq!(content(&client::chat_half_closed(&daemon.socket(), &say("hi", json!({})))), ALPHABET);
}

#[test]
fn a_client_that_never_reads_is_cut_and_others_are_served_meanwhile() {
    let daemon = TestDaemon::start(&[("socket.stall_timeout", "\"1s\"")]);
    let mut stream = client::connect(&daemon.socket()).unwrap();
    let body = say("hi", json!({"stream": true, "ignore_eos": true, "max_tokens": 8000})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", body.as_bytes())).unwrap();
    assert_eq!(content(&chat(&daemon.socket(), &say("hi", json!({})))), ALPHABET);
    until("the stalled connection's end in the log", || daemon.log().contains("ended early").then_some(()));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "the stream was cut before its end");
}

#[test]
fn slow_heads_and_slow_bodies_have_their_time_and_no_more() {
    let daemon = TestDaemon::start(&[("socket.body_timeout", "\"1s\""), ("socket.idle_timeout", "\"1s\"")]);
    let mut idle = client::connect(&daemon.socket()).unwrap();
    let mut slow = client::connect(&daemon.socket()).unwrap();
    slow.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty(), "an idle connection is closed without a word");
}

#[test]
fn headers_over_their_limit_are_refused() {
    let daemon = TestDaemon::start(&[]);
    let mut stream = client::connect(&daemon.socket()).unwrap();
    let head =
        format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n", "y".repeat(20 << 10));
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(client::read_reply(stream).unwrap().status, 431);
}

#[test]
fn one_connection_more_than_a_user_may_have_is_told_so() {
    let daemon = TestDaemon::start(&[("socket.connections_max", "3")]);
    // Earlier connections of the harness may still be on their way out.
    let reply = until("a refusal", || {
        let _open: Vec<_> = (0..3).map(|_| client::connect(&daemon.socket()).unwrap()).collect();
        client::get(&daemon.socket(), "/health").ok().filter(|reply| reply.status == 429)
    });
    assert!(reply.error().1.contains("limit 3"), "{:?}", reply.error());
    assert!(reply.header("retry-after").is_some());
    until("the seats to be free again", || {
        client::get(&daemon.socket(), "/health").ok().filter(|reply| reply.status == 200)
    });
}

#[test]
fn a_full_queue_says_no_with_its_limit_and_when_to_come_back() {
    let daemon = TestDaemon::start(&[("queue.waiting_max", "1"), ("engine.slots", "1")]);
    let socket = daemon.socket();
    let long = say("hi", json!({"ignore_eos": true, "max_tokens": 8000, "stream": true})).to_string();
    let open = || {
        let mut stream = client::connect(&socket).unwrap();
        stream.write_all(&client::request("/v1/chat/completions", long.as_bytes())).unwrap();
        stream
    };
    let _running = open();
    until("the first job to run", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    let _waiting = open();
    until("the second job to wait", || {
        (daemon.metric("moed_requests_waiting{priority=\"interactive\"}") > 0.5).then_some(())
    });
    let reply = chat(&socket, &say("hi", json!({})));
    let (code, message) = reply.error();
    assert_eq!(
        (reply.status, code.as_str(), message.as_str()),
        (429, "queue_full", "the queue is full: 1 waiting, limit 1")
    );
    assert_eq!(reply.header("retry-after").as_deref(), Some("1"));
    let late = chat(&socket, &say("hi", json!({"deadline_ms": 1})));
    assert!(["queue_full", "deadline_exceeded"].contains(&late.error().0.as_str()));
}

#[test]
fn a_deadline_ends_a_waiting_job_with_an_error_and_a_running_one_with_what_there_is() {
    let home = Home::new();
    home.configure(&[("engine.slots", "1")]);
    // Slow enough that the first job still runs when the second comes.
    let brake = home.path("brake");
    fs::write(&brake, "5").unwrap();
    let daemon = TestDaemon::start_in(home, &[("MOED_HANG", &format!("engine:{}", brake.display()))]);
    let socket = daemon.socket();
    // On a busy machine the deadline may pass before the job starts; then it is an error, and the next try counts.
    let running = until("a job that is cut by its deadline", || {
        let reply = chat(&socket, &say("hi", json!({"ignore_eos": true, "max_tokens": 8000, "deadline_ms": 150})));
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(running.json()["choices"][0]["finish_reason"], "deadline", "{}", running.text());
    let mut stream = client::connect(&socket).unwrap();
    let long = say("hi", json!({"ignore_eos": true, "max_tokens": 8000})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", long.as_bytes())).unwrap();
    until("the first job to run", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    let reply = chat(&socket, &say("hi", json!({"deadline_ms": 50})));
    assert_eq!((reply.status, reply.error().0.as_str()), (408, "deadline_exceeded"));
}

#[test]
fn models_health_status_and_metrics_are_there_and_unknown_paths_are_not() {
    let daemon = TestDaemon::start(&[]);
    let socket = daemon.socket();
    let get = |path: &str| client::get(&socket, path).unwrap();
    assert_eq!(get("/v1/models").json()["data"][0]["id"], "tiny");
    assert_eq!(get("/v1/models/tiny").json()["object"], "model");
    assert_eq!(get("/v1/models/gpt-4").status, 404);
    let status = get("/status").json();
    assert_eq!(
        (&status["node"], &status["state"], &status["provider"]),
        (&json!("n1"), &json!("ready"), &json!("cpu"))
    );
    assert_eq!(status["model"]["batch_invariant"], true);
    assert!(status["metrics"]["moed_requests_running"].is_number());
    let metrics = get("/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().ends_with("# EOF\n"));
    assert_eq!((get("/nowhere").status, get("/v1/chat/completions").status), (404, 405));
    let unknown = chat(&socket, &say("x", json!({"model": "gpt-4"})));
    assert_eq!((unknown.status, unknown.error().0.as_str()), (404, "not_found"));
}

#[test]
fn a_drain_finishes_what_runs_refuses_what_comes_and_exits_cleanly() {
    let mut daemon = TestDaemon::start(&[("queue.drain_timeout", "\"50s\"")]);
    let socket = daemon.socket();
    let mut stream = client::connect(&socket).unwrap();
    let long = say("hi", json!({"ignore_eos": true, "max_tokens": 3000})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", long.as_bytes())).unwrap();
    until("the job to run", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    until("the drain", || daemon.log().contains("draining").then_some(()));
    // Until the last answer has left, newcomers are told; after that the socket is gone.
    if let Ok(refused) = client::get(&socket, "/health") {
        assert_eq!(refused.status, 503);
    }
    let reply = client::read_reply(stream).unwrap();
    assert_eq!(reply.json()["usage"]["completion_tokens"], 3000);
    assert!(daemon.wait().success());
    assert!(!socket.exists(), "the socket file went with the daemon");
}

/// The time for it is short, and a busy machine may miss it now and then; a daemon that lets go of whom it let in misses it always.
#[test]
fn who_connected_in_the_last_moment_is_told_that_the_daemon_stops() {
    let told = (0..10).any(|_| {
        let mut daemon = TestDaemon::start(&[]);
        let socket = daemon.socket();
        let mut quiet = client::connect(&socket).unwrap();
        // Answered after the one before, so that the daemon has let both in.
        assert_eq!(client::get(&socket, "/health").unwrap().status, 200);
        daemon.signal(rustix::process::Signal::TERM);
        until("nobody to be let in any more", || (!socket.exists()).then_some(()));
        let asked =
            quiet.write_all(&client::request("/v1/chat/completions", say("hi", json!({})).to_string().as_bytes()));
        let told = asked.is_ok() && client::read_reply(quiet).is_ok_and(|reply| reply.status == 503);
        assert!(daemon.wait().success());
        told
    });
    assert!(told);
}

#[test]
fn a_second_signal_hurries_the_drain() {
    let mut daemon = TestDaemon::start(&[("engine.prefill_chunk", "3")]);
    let mut stream = client::connect(&daemon.socket()).unwrap();
    let long = say(&"x".repeat(4000), json!({"ignore_eos": true, "max_tokens": 4000})).to_string();
    stream.write_all(&client::request("/v1/chat/completions", long.as_bytes())).unwrap();
    until("the job to run", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    until("the drain", || daemon.log().contains("draining").then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    assert!(daemon.log().contains("hurried"), "{}", daemon.log());
}

#[test]
fn the_runtime_leaves_no_telemetry_behind() {
    let daemon = TestDaemon::start(&[]);
    assert_eq!(content(&chat(&daemon.socket(), &say("hi", json!({})))), ALPHABET);
    let made: Vec<_> = walk(daemon.home.folder.path());
    assert!(!made.iter().any(|path| path.contains("onnxruntime") || path.contains("Microsoft")), "{made:?}");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

#[test]
fn an_idle_daemon_sleeps() {
    let daemon = TestDaemon::start(&[]);
    // Nanoseconds on a processor, of all its threads.
    let used = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        let times = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
        times.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let (before, start) = (used(), std::time::Instant::now());
    until("five idle seconds", || (start.elapsed() > Duration::from_secs(5)).then_some(()));
    let (spent, passed) = (Duration::from_nanos(used() - before), start.elapsed());
    // A spinning thread takes all of a core.
    assert!(spent < passed * 3 / 1000, "{spent:?} of a core in {passed:?}: more than 0.3 %");
}
