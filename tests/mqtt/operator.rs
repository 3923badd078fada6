//! What an operator sees of the journal, from the running daemon and without one.

use std::fs;

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::harness::{Home, Ran, TestDaemon, until};
use crate::peer::{ALPHABET, Peer, brake, daemon, release, very_long};

fn journal(home: &Home, arguments: &[&str]) -> Ran {
    let config = home.path("moed.toml");
    let all = [&["journal"], arguments, &["--config", config.to_str().unwrap()]].concat();
    home.run(&all)
}

#[test]
fn the_journal_is_listed_shown_and_pruned_while_the_daemon_runs_and_after() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    peer.request("done", &json!({}));
    peer.answer("done");
    brake(&daemon);
    peer.request("running", &very_long());
    until("it is accepted", || peer.said("running", "accepted").pop());

    let listed = journal(&daemon.home, &["list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let lines: Vec<Vec<&str>> = listed.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["client", "id", "state", "attempts", "age"]);
    assert_eq!(lines[1][..2], ["lamp", "done"]);
    assert_eq!(lines[2][..3], ["lamp", "running", "pending"], "{}", listed.stdout);
    assert!(!listed.stdout.contains(ALPHABET), "a list shows nobody's text");
    let pending = journal(&daemon.home, &["list", "--state", "pending", "--client", "lamp", "--json"]);
    let pending: Value = serde_json::from_str(&pending.stdout).unwrap();
    assert_eq!((pending["rows"].as_array().unwrap().len(), &pending["rows"][0]["id"]), (1, &json!("running")));
    let shown = journal(&daemon.home, &["show", "lamp", "done"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["answer"]["text"], &shown["reply"]["topic"]),
        (&json!(ALPHABET), &json!("moed/v1/c/lamp/r/done"))
    );
    let none = journal(&daemon.home, &["show", "lamp", "nothing"]);
    assert_eq!(
        (none.code, none.stderr.contains("no request `nothing` of `lamp`")),
        (Some(64), true),
        "{}",
        none.stderr
    );
    assert_eq!(journal(&daemon.home, &["list", "--state", "lost"]).code, Some(64));
    let young = journal(&daemon.home, &["prune", "--older-than", "1h"]);
    assert!(young.stderr.contains("0 answers removed"), "{}", young.stderr);
    assert!(journal(&daemon.home, &["prune", "--older-than", "0s"]).stderr.contains("1 answers removed"));
    assert_eq!(journal(&daemon.home, &["show", "lamp", "done"]).code, Some(64));

    release(&daemon);
    peer.answer("running");
    daemon.kill();
    let listed = journal(&daemon.home, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!((&listed["rows"][0]["id"], &listed["done"]), (&json!("running"), &json!(1)), "{listed}");
    let shown = journal(&daemon.home, &["show", "lamp", "running"]);
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap()["answer"]["finish"], "length");
    assert!(journal(&daemon.home, &["prune", "--older-than", "0s"]).stderr.contains("1 answers removed"));
    daemon.restart(&[]);
    peer.request("running", &json!({}));
    assert_eq!(peer.answers("running", 2)[1]["text"], ALPHABET, "what was pruned is a new request");
}

#[test]
fn a_corrupt_journal_is_moved_aside_and_said_on_the_event_topic() {
    let broker = Broker::start("");
    let peer = Peer::new(&broker);
    peer.client.subscribe("moed/v1/node/n1/event", rumqttc::v5::mqttbytes::QoS::AtLeastOnce).unwrap();
    let home = Home::new();
    fs::create_dir(home.path("journal")).unwrap();
    fs::write(home.path("journal/journal.redb"), "this is no journal").unwrap();
    let url = format!("{:?}", broker.url());
    home.configure(&[("mqtt.url", &url)]);
    let daemon = TestDaemon::start_in(home, &[]);
    // It may not be the only event.
    let event = until("the event", || {
        let mut events = peer.messages("moed/v1/node/n1/event").into_iter().map(|message| message.json());
        events.find(|event| event["event"] == "journal_corrupt")
    });
    assert_eq!(event["node"], "n1");
    let moved_to = event["moved_to"].as_str().unwrap();
    assert_eq!(fs::read(moved_to).unwrap(), b"this is no journal");
    assert!(daemon.log().contains("moved aside"));
    peer.catch_up("after");
}
