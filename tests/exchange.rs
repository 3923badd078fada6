//! A reload exchanges the model and the broker of a daemon that has work: nobody's answer is lost, cut or told twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;
#[expect(dead_code, reason = "each test binary uses its own part")]
#[path = "mqtt/peer.rs"]
mod peer;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

use broker::Broker;
use harness::client::{self, Reply, chat, content, say};
use harness::{Home, TestDaemon, copy_model, skip, until};
use peer::{ALPHABET, Peer, REQUEST, very_long};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};

/// The tiny model under another name, at a path that is laid out whole before anybody looks at it.
fn lay_out(home: &Home, name: &str) -> String {
    let folder = home.path(name);
    copy_model("tiny", &folder);
    change(&folder.join("manifest.toml"), "name = \"tiny\"", &format!("name = \"{name}\""));
    quoted(&folder)
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// Replaces a file by a changed one, as a package manager does: whoever reads the old one goes on reading it.
fn change(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "`{from}` is not in {}", path.display());
    let next = path.with_extension("next");
    fs::write(&next, text.replace(from, to)).unwrap();
    fs::rename(&next, path).unwrap();
}

fn reload(daemon: &TestDaemon) -> Reply {
    client::post(&daemon.socket(), "/admin/reload", b"").unwrap()
}

/// A reload that must be carried out: its report.
fn reloaded(daemon: &TestDaemon) -> Value {
    let reply = reload(daemon);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A reload while the model before may still finish what it has, which is refused for as long.
fn reloaded_in_time(daemon: &TestDaemon) -> Reply {
    until("a reload that is not put off", || Some(reload(daemon)).filter(|reply| reply.status != 503))
}

/// Hears one more topic from now on.
fn listen(peer: &Peer, filter: &str) {
    let before = peer.heard.lock().unwrap().subscribed;
    peer.client.subscribe(filter, QoS::AtLeastOnce).unwrap();
    until("the subscription", || (peer.heard.lock().unwrap().subscribed > before).then_some(()));
}

/// An answer that takes seconds.
fn ask_at_length(daemon: &TestDaemon, stream: bool) -> JoinHandle<Reply> {
    let socket = daemon.socket();
    spawn(move || chat(&socket, &say("hi", json!({"ignore_eos": true, "max_tokens": 8000, "stream": stream}))))
}

/// Asks one short question after another until it is told to stop: who answered each, and with what status.
fn keep_asking(daemon: &TestDaemon, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<(u16, String)>> {
    let (socket, stop) = (daemon.socket(), Arc::clone(stop));
    spawn(move || {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let reply = chat(&socket, &say("hi", json!({"max_tokens": 40, "ignore_eos": true})));
            let model = reply.json()["model"].as_str().unwrap_or_default().to_owned();
            answers.push((reply.status, model));
        }
        answers
    })
}

fn until_taken_on(daemon: &TestDaemon, jobs: f64) {
    until("jobs taken on", || {
        let waiting = ["alarm", "interactive", "background"]
            .map(|priority| daemon.metric(&format!("moed_requests_waiting{{priority=\"{priority}\"}}")));
        (daemon.metric("moed_requests_running") + waiting.iter().sum::<f64>() > jobs - 0.5).then_some(())
    });
}

#[test]
fn another_model_takes_over_under_load_and_every_answer_names_the_model_that_gave_it() {
    let home = Home::new();
    let (one, two) = (lay_out(&home, "one"), lay_out(&home, "two"));
    let broker = Broker::start("");
    let url = format!("{:?}", broker.url());
    home.configure(&[("model.dir", &one), ("mqtt.url", &url), ("engine.slots", "1"), ("engine.alarm_slots", "0")]);
    let daemon = TestDaemon::start_in(home, &[]);
    let peer = Peer::new(&broker);
    until("the node", || (peer.available()? == "online").then_some(()));
    assert_eq!(reloaded(&daemon)["summary"], "reloaded: nothing has changed");

    let before = [ask_at_length(&daemon, true), ask_at_length(&daemon, false)];
    for id in ["q1", "q2"] {
        peer.request(id, &very_long());
    }
    until_taken_on(&daemon, 4.0);
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..2).map(|_| keep_asking(&daemon, &stop)).collect();
    daemon.home.configure(&[("model.dir", &two), ("mqtt.url", &url), ("engine.slots", "3")]);
    let report = reloaded(&daemon);
    let overlapped = !before.iter().all(JoinHandle::is_finished) || peer.said("q2", "result").is_empty();
    assert_eq!(report["changed"], json!(["engine.alarm_slots", "engine.slots", "model.dir"]), "{report}");
    assert!(report["summary"].as_str().unwrap().contains("model `two` ("), "{report}");
    assert!(report["summary"].as_str().unwrap().contains(" in place of `one` ("), "{report}");

    // Newcomers are served by the new model, while the old one finishes what it has.
    let after = chat(&daemon.socket(), &say("hi", json!({"model": "two"})));
    assert_eq!((content(&after).as_str(), &after.json()["model"]), (ALPHABET, &json!("two")));
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({"model": "one"}))).status, 404);
    peer.request("q3", &json!({}));
    let third = peer.answer("q3");
    assert_eq!((&third["model"], &third["text"], &third["attempt"]), (&json!("two"), &json!(ALPHABET), &json!(1)));
    let status = client::get(&daemon.socket(), "/status").unwrap().json();
    assert_eq!((&status["model"]["name"], &status["model"]["slots"]), (&json!("two"), &json!(3)));
    assert!(status["model"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{status}");
    let card = until("the new card", || {
        let card = peer.messages("moed/v1/node/n1/info").pop()?.json();
        (card["model"] == "two").then_some(card)
    });
    assert_eq!((&card["digest"], &card["slots"]), (&status["model"]["digest"], &json!(3)), "{card}");

    let [streamed, whole] = before.map(|asker| asker.join().unwrap());
    let chunks: Vec<Value> = streamed.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    assert!(chunks.len() > 1000 && chunks.iter().all(|chunk| chunk["model"] == "one"), "{} chunks", chunks.len());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!((whole.status, &whole.json()["model"]), (200, &json!("one")), "{}", whole.text());
    for id in ["q1", "q2"] {
        let answer = peer.answer(id);
        let named = (&answer["model"], &answer["finish"], &answer["attempt"]);
        assert_eq!(named, (&json!("one"), &json!("length"), &json!(1)), "{answer}");
    }
    until("the old model's end", || daemon.log().contains("has finished what it had").then_some(()));
    stop.store(true, Ordering::Relaxed);
    for answers in askers.into_iter().map(|asker| asker.join().unwrap()) {
        let turn = answers.iter().position(|(_, model)| model == "two").expect("some came after the exchange");
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let of = |model: &'static str| move |answer: &(u16, String)| answer.1 == model;
        assert!(answers[..turn].iter().all(of("one")) && answers[turn..].iter().all(of("two")), "{answers:?}");
    }
    // What both had is counted once, and nothing of the old one is left.
    until("an idle engine", || (daemon.metric("moed_requests_running") < 0.5).then_some(()));
    assert!((daemon.metric("moed_slots{state=\"free\"}") - 4.0).abs() < 0.1);
    assert_eq!(peer.messages("moed/v1/node/n1/available").len(), 1, "the node never left its broker");
    if !overlapped {
        skip("another_model_takes_over_under_load", "the old model was done before the new one was loaded");
    }
}

#[test]
fn a_model_that_fails_or_does_not_fit_changes_nothing_and_says_why_to_everybody() {
    let home = Home::new();
    let (one, two) = (lay_out(&home, "one"), lay_out(&home, "two"));
    let proc = home.path("proc");
    fs::create_dir(&proc).unwrap();
    let memory = |kib: u64| {
        let text = format!("MemTotal: 8000000 kB\nMemAvailable: {kib} kB\n");
        fs::write(proc.join("next"), text).unwrap();
        fs::rename(proc.join("next"), proc.join("meminfo")).unwrap();
    };
    memory(4_000_000);
    let broker = Broker::start("");
    let (url, place) = (format!("{:?}", broker.url()), quoted(&proc));
    let fixed = [
        ("mqtt.url", url.as_str()),
        ("board.proc", &place),
        ("governor.mode", "\"off\""),
        // Nothing is kept of prompts, so that a cache takes the same bytes however much is free.
        ("engine.prefix_max", "\"1\""),
    ];
    let configure = |home: &Home, more: &[(&str, &str)]| home.configure(&[&fixed, more].concat());
    configure(&home, &[("model.dir", &one)]);
    let daemon = TestDaemon::start_in(home, &[]);
    let peer = Peer::new(&broker);
    listen(&peer, "moed/v1/node/n1/event");
    until("the node", || (peer.available()? == "online").then_some(()));
    let refused = |part: &str| {
        let said = |event: &str| {
            let events = peer.messages("moed/v1/node/n1/event");
            events.iter().map(peer::Message::json).filter(|said| said["event"] == event).collect::<Vec<_>>()
        };
        let before = said("reload_refused").len();
        let reply = reload(&daemon);
        assert_eq!(reply.status, 400, "{}", reply.text());
        let (_, message) = reply.error();
        assert!(message.contains(part), "`{part}` is not in `{message}`");
        let event = until("the event", || said("reload_refused").get(before).cloned());
        assert!(message.starts_with(event["reason"].as_str().unwrap()), "{event} for `{message}`");
        let logged = |line: &str| line.contains("order refused") && line.contains(part);
        until("the log", || daemon.log().lines().any(logged).then_some(()));
        let answer = chat(&daemon.socket(), &say("hi", json!({})));
        assert_eq!((content(&answer).as_str(), &answer.json()["model"]), (ALPHABET, &json!("one")));
        message
    };

    // A file that was damaged on its way.
    let graph = daemon.home.path("two").join("model.onnx");
    let sound = fs::read(&graph).unwrap();
    fs::write(&graph, &sound[..sound.len() - 1]).unwrap();
    configure(&daemon.home, &[("model.dir", &two)]);
    refused("digest of `model.onnx`");
    fs::write(&graph, &sound).unwrap();

    // Answers that are not the expected ones.
    let manifest = daemon.home.path("two").join("manifest.toml");
    change(&manifest, "cpu = [97,", "cpu = [98,");
    let message = refused("golden");
    assert!(message.contains("the model `one` (") && message.contains("goes on"), "{message}");
    change(&manifest, "cpu = [98,", "cpu = [97,");

    // No room beside the model at work: for its weights, for its caches, under what the caches may take together.
    memory(10);
    let peak = sound.len() * 17 / 10;
    refused(&format!("`two` takes up to {peak} bytes while it is loaded, 0 bytes are free"));
    memory(4_000_000);
    let status = client::get(&daemon.socket(), "/status").unwrap().json();
    let cache = status["model"]["cache_bytes"].as_u64().unwrap();
    memory((cache + cache / 2) / 1024);
    refused(&format!("takes {cache} bytes"));
    memory(4_000_000);
    let set = (cache + cache / 2).to_string();
    configure(&daemon.home, &[("model.dir", &two), ("engine.memory_max", &format!("\"{set}\""))]);
    refused(&format!("the limit is {}", cache / 2));

    // All of it mended, and other settings with it: taken over whole.
    configure(&daemon.home, &[("model.dir", &two), ("queue.waiting_max", "9")]);
    let report = reloaded_in_time(&daemon).json();
    assert_eq!(report["changed"], json!(["model.dir", "queue.waiting_max"]), "{report}");
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({}))).json()["model"], "two");

    // The same folder with other files is another model; the same files are not.
    change(&manifest, "for tests", "for more tests");
    let report = reloaded_in_time(&daemon).json();
    assert_eq!(report["changed"], json!([]), "{report}");
    assert!(report["summary"].as_str().unwrap().starts_with("reloaded: model `two` ("), "{report}");
    assert_eq!(reloaded(&daemon)["summary"], "reloaded: nothing has changed");
}

#[test]
fn reloads_at_once_are_carried_out_one_after_another() {
    let home = Home::new();
    let (one, two) = (lay_out(&home, "one"), lay_out(&home, "two"));
    home.configure(&[("model.dir", &one)]);
    let daemon = TestDaemon::start_in(home, &[]);
    daemon.home.configure(&[("model.dir", &two)]);
    let socket = daemon.socket();
    let givers: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket.clone();
            spawn(move || client::post(&socket, "/admin/reload", b"").unwrap())
        })
        .collect();
    let mut said: Vec<String> = givers
        .into_iter()
        .map(|giver| {
            let reply = giver.join().unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()["summary"].as_str().unwrap().to_owned()
        })
        .collect();
    said.sort();
    let (first, rest) = said.split_first().unwrap();
    assert!(first.contains("model `two` (") && first.contains("in place of `one`"), "{said:?}");
    assert!(rest.iter().all(|summary| summary == "reloaded: nothing has changed"), "{said:?}");
    assert_eq!(chat(&socket, &say("hi", json!({}))).json()["model"], "two");
}

/// Asks for sampled answers, no two alike.
fn ask(peer: &Peer, name: &str, count: usize, tokens: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|number| format!("{name}-{number}")).collect();
    for id in &ids {
        let params = json!({"max_tokens": tokens, "ignore_eos": true, "temperature": 1.5});
        peer.send(REQUEST, json!({"v": 1, "id": id, "prompt": "hi", "params": params, "ack": true}).to_string());
    }
    ids
}

/// The one answer to each, wherever it was heard: a result, whole.
fn texts(peers: &[&Peer], ids: &[String]) -> Vec<String> {
    let heard = |id: &String| -> Vec<Value> {
        peers.iter().flat_map(|peer| [peer.said(id, "result"), peer.said(id, "error")].concat()).collect()
    };
    let one = |id: &String| {
        let all = until(&format!("the answer to {id}"), || Some(heard(id)).filter(|all| !all.is_empty()));
        assert!(all.iter().all(|answer| answer["type"] == "result" && answer["text"] == all[0]["text"]), "{all:?}");
        all[0]["text"].as_str().unwrap().to_owned()
    };
    ids.iter().map(one).collect()
}

#[test]
fn another_broker_is_joined_on_the_same_journal_and_every_request_has_one_answer() {
    const ASKED: usize = 60;
    let (first, second) = (Broker::start(""), Broker::start(""));
    let urls = [&first, &second].map(|broker| format!("{:?}", broker.url()));
    let settings = |url: usize, timeout: &'static str| {
        [
            ("mqtt.url", urls[url].clone()),
            ("mqtt.admins", "[\"ops\"]".to_owned()),
            ("queue.waiting_max", "200".to_owned()),
            ("queue.drain_timeout", timeout.to_owned()),
        ]
    };
    let configure = |home: &Home, url: usize, timeout: &'static str| {
        let settings = settings(url, timeout);
        home.configure(&settings.each_ref().map(|(key, value)| (*key, value.as_str())));
    };
    let home = Home::new();
    configure(&home, 0, "\"30s\"");
    let daemon = TestDaemon::start_in(home, &[]);
    let peers = [Peer::new(&first), Peer::new(&second)];
    let online = |peer: &Peer| until("the node", || (peer.available()? == "online").then_some(()));
    listen(&peers[0], "moed/v1/c/ops/#");
    online(&peers[0]);

    // Left while it answers: what was accepted there is answered there. Whoever gave the order there hears of it there.
    let ids = ask(&peers[0], "a", ASKED, 400);
    until("the last one's acceptance", || peers[0].said(ids.last()?, "accepted").pop());
    configure(&daemon.home, 1, "\"30s\"");
    peers[0].send("moed/v1/node/n1/control/ops/reload", json!({"v": 1, "id": "r"}).to_string());
    let told = until("the order's end", || peers[0].messages("moed/v1/c/ops/r/r").pop()).json();
    assert_eq!(told["changed"], json!(["mqtt.url"]), "{told}");
    assert!(told["summary"].as_str().unwrap().contains("is left for"), "{told}");
    online(&peers[1]);
    let given = texts(&[&peers[0]], &ids);
    assert_eq!(peers[0].available().unwrap(), "offline");
    let rows = client::get(&daemon.socket(), "/admin/journal?state=pending").unwrap().json();
    assert_eq!((&rows["pending"], &rows["done"]), (&json!(0), &json!(ASKED)), "{rows}");

    // The same journal: whoever asks there for what was answered here gets the same answer.
    let again = ask(&peers[1], "a", ASKED, 400);
    assert_eq!(texts(&[&peers[1]], &again), given);
    assert!(peers[1].answer("a-0")["repeat"] == true);
    let more = ask(&peers[1], "b", ASKED, 400);
    texts(&[&peers[1]], &more);

    // Left in the middle of answers: they are finished on the broker that is met.
    configure(&daemon.home, 0, "\"0s\"");
    let long = ask(&peers[1], "c", 12, 4000);
    until("the last one's acceptance", || peers[1].said(long.last()?, "accepted").pop());
    reloaded(&daemon);
    until("the node's end there", || (peers[1].available()? == "offline").then_some(()));
    online(&peers[0]);
    let finished = texts(&[&peers[0], &peers[1]], &long);
    assert!(finished.iter().all(|text| !text.is_empty()));
    let rows = until("an empty line", || {
        let rows = client::get(&daemon.socket(), "/admin/journal?state=pending").unwrap().json();
        (rows["pending"] == 0).then_some(rows)
    });
    assert_eq!(rows["done"], json!(2 * ASKED + 12), "{rows}");

    // No broker any more, and then one again.
    daemon.home.configure(&[("queue.waiting_max", "200"), ("queue.drain_timeout", "\"0s\"")]);
    assert!(reloaded(&daemon)["summary"].as_str().unwrap().contains("is left"));
    until("the journal's end", || {
        let status = client::get(&daemon.socket(), "/admin/journal").unwrap().status;
        (status == 404).then_some(())
    });
    assert_eq!(content(&chat(&daemon.socket(), &say("hi", json!({})))), ALPHABET);
    configure(&daemon.home, 1, "\"30s\"");
    reloaded(&daemon);
    until("the node there", || (peers[1].available()? == "online").then_some(()));
    assert_eq!(peers[1].catch_up_with("z")["text"], ALPHABET);
}

#[test]
fn a_kill_in_the_middle_of_both_exchanges_loses_nothing() {
    let home = Home::new();
    let (one, two) = (lay_out(&home, "one"), lay_out(&home, "two"));
    let (first, second) = (Broker::start(""), Broker::start(""));
    let urls = [&first, &second].map(|broker| format!("{:?}", broker.url()));
    let configure = |home: &Home, model: &str, url: &str| {
        home.configure(&[("model.dir", model), ("mqtt.url", url), ("queue.waiting_max", "200"), ("engine.slots", "2")]);
    };
    configure(&home, &one, &urls[0]);
    let mut daemon = TestDaemon::start_in(home, &[]);
    let peers = [Peer::new(&first), Peer::new(&second)];
    until("the node", || (peers[0].available()? == "online").then_some(()));
    let ids = ask(&peers[0], "k", 30, 2000);
    until("the last one's acceptance", || peers[0].said(ids.last()?, "accepted").pop());
    configure(&daemon.home, &two, &urls[1]);
    reloaded(&daemon);
    // Two engines are at work, and the room is on its way out.
    daemon.kill();
    daemon.restart(&[]);
    until("the node there", || (peers[1].available()? == "online").then_some(()));
    let given = texts(&[&peers[0], &peers[1]], &ids);
    // What was told on either broker is what is stored.
    let again = ask(&peers[1], "k", 30, 2000);
    assert_eq!(texts(&[&peers[1]], &again), given);
    let rows = client::get(&daemon.socket(), "/admin/journal").unwrap().json();
    assert_eq!((&rows["pending"], &rows["done"]), (&json!(0), &json!(30)), "{rows}");
}
