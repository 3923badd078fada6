//! What dies in between, and what is answered all the same. `tests/faults/` does it with many requests at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::broker::Broker;
use crate::harness::{Home, TestDaemon, until};
use crate::peer::{ALPHABET, Peer, brake, daemon, long, release, very_long};

#[test]
fn a_kill_in_the_middle_of_an_answer_makes_a_second_attempt_with_the_same_text() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = very_long();
    request["reproducible"] = true.into();
    brake(&daemon);
    peer.request("m1", &request);
    until("the first delta", || peer.said("m1", "delta").pop());
    daemon.kill();
    assert!(peer.said("m1", "result").is_empty(), "the answer was faster than the kill");
    until("the will", || (peer.available().as_deref() == Some("offline")).then_some(()));
    daemon.restart(&[]);
    let result = peer.answer("m1");
    assert_eq!(
        (&result["attempt"], &result["repeat"], &result["finish"]),
        (&json!(2), &json!(false), &json!("length"))
    );
    let text = result["text"].as_str().unwrap();
    for attempt in [1, 2] {
        let deltas = peer.said("m1", "delta");
        let of_it = deltas.iter().filter(|delta| delta["attempt"] == attempt);
        // The second attempt may begin before the link is up; from the first gap on, pieces are out of place.
        let whole = of_it.enumerate().take_while(|(seq, delta)| delta["seq"] == *seq).map(|(_, delta)| delta);
        let told: String = whole.map(|delta| delta["text"].as_str().unwrap()).collect();
        assert!(text.starts_with(&told), "attempt {attempt} told `{told}` of `{text}`");
    }
    let attempts: HashSet<u64> =
        peer.said("m1", "delta").iter().filter_map(|delta| delta["attempt"].as_u64()).collect();
    assert_eq!(attempts, HashSet::from([1, 2]));
    peer.catch_up("after");
    assert_eq!(peer.said("m1", "result").len(), 1);
}

#[test]
fn a_request_that_kills_the_process_three_times_is_answered_with_internal() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    daemon.restart(&[("MOED_FAULT", "after-attempt")]);
    peer.request("poison", &long());
    daemon.wait();
    for _ in 0..2 {
        assert!(!daemon.restart_to_its_end(&[("MOED_FAULT", "after-attempt")]).success());
    }
    daemon.restart(&[("MOED_FAULT", "after-attempt")]);
    let answer = peer.answer("poison");
    assert_eq!((&answer["code"], &answer["status"]), (&json!("internal"), &json!(500)));
    assert!(answer["message"].as_str().unwrap().contains("died 3 times"), "{answer}");
    assert_eq!(answer["retryable"], false, "whoever asks again gets this again");
}

#[test]
fn answers_survive_a_broker_that_restarts_and_one_that_forgets() {
    let mut broker = Broker::start("");
    let daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    for number in 0..10 {
        peer.request(&format!("b{number}"), &long());
    }
    peer.answer("b0");
    broker.stop();
    until("the daemon notices", || (daemon.metric("moed_mqtt_connected") < 0.5).then_some(()));
    broker.again();
    for number in 0..10 {
        peer.answer(&format!("b{number}"));
    }
    until("the link is back", || (daemon.metric("moed_mqtt_reconnects_total") > 0.5).then_some(()));

    // Sessions and queued messages are gone; the node subscribes again and says again what may have been lost.
    broker.kill();
    broker.lose_memory();
    broker.again();
    let peer = Peer::new(&broker);
    until("the birth", || (peer.available().as_deref() == Some("online")).then_some(()));
    until("the link", || (daemon.metric("moed_mqtt_reconnects_total") > 1.5).then_some(()));
    peer.catch_up("after");
}

#[test]
fn a_broker_that_stands_still_is_left_and_nothing_is_lost_or_answered_twice() {
    let broker = Broker::start("");
    let daemon = daemon(&broker, &[("queue.waiting_max", "1000")]);
    let peer = Peer::new(&broker);
    let longer = json!({"params": {"max_tokens": 2000, "ignore_eos": true, "temperature": 1.5}});
    for number in 0..100 {
        peer.request(&format!("f{number}"), &longer);
    }
    // The peer's own outbox is not what is tested: all have come, most are not answered.
    let rows = |state: &str| daemon.metric(&format!("moed_journal_rows{{state=\"{state}\"}}"));
    until("all to be accepted", || (rows("pending") + rows("done") > 99.5).then_some(()));
    assert!(rows("pending") > 10.0, "the broker must stand still while answers are made");
    broker.freeze(true);
    until("the daemon gives the line up", || (daemon.metric("moed_mqtt_connected") < 0.5).then_some(()));
    broker.freeze(false);
    for number in 0..100 {
        let id = format!("f{number}");
        let texts: HashSet<String> = peer.answers(&id, 1).iter().map(|answer| answer["text"].to_string()).collect();
        assert_eq!(texts.len(), 1, "{id}");
    }
    peer.catch_up("after");
    for number in 0..100 {
        // What was sent and not acknowledged is sent again; that is a copy, not a second answer.
        let texts: HashSet<String> =
            peer.said(&format!("f{number}"), "result").iter().map(|answer| answer["text"].to_string()).collect();
        assert_eq!(texts.len(), 1);
    }
}

#[test]
fn what_a_stop_leaves_unfinished_is_answered_after_the_next_start() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "1"), ("queue.drain_timeout", "\"1ms\"")]);
    let peer = Peer::new(&broker);
    brake(&daemon);
    for number in 0..6 {
        peer.request(&format!("d{number}"), &very_long());
    }
    for number in 0..6 {
        let id = format!("d{number}");
        until("it is accepted", || peer.said(&id, "accepted").pop());
    }
    daemon.signal(Signal::TERM);
    daemon.wait();
    assert!(peer.said("d5", "result").is_empty(), "the stop came too late to leave anything");
    peer.request("meanwhile", &json!({}));
    daemon.restart(&[]);
    for number in 0..6 {
        let answers = peer.answers(&format!("d{number}"), 1);
        assert_eq!(answers[0]["finish"], "length", "{}", answers[0]);
    }
    assert_eq!(peer.answer("meanwhile")["text"], ALPHABET, "the broker kept it");
    peer.catch_up("after");
    for number in 0..6 {
        let first = peer.said(&format!("d{number}"), "result").iter().filter(|copy| copy["repeat"] == false).count();
        assert_eq!(first, 1, "d{number}");
    }
}

#[test]
fn a_drain_finishes_what_runs_and_refuses_what_comes() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[("engine.slots", "1")]);
    let peer = Peer::new(&broker);
    // Seconds of work, so that the drain lasts.
    let ids: Vec<String> = (0..6).map(|number| format!("d{number}")).collect();
    brake(&daemon);
    for id in &ids {
        peer.request(id, &very_long());
    }
    for id in &ids {
        until("it is accepted", || peer.said(id, "accepted").pop());
    }
    daemon.signal(Signal::TERM);
    until("the card", || {
        peer.messages("moed/v1/node/n1/info").iter().any(|card| card.json()["state"] == "draining").then_some(())
    });
    peer.request("late", &json!({}));
    let refused = peer.answer("late");
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("unavailable"), &json!(true)));
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    release(&daemon);
    for id in &ids {
        assert_eq!(peer.answer(id)["finish"], "length");
    }
    assert!(daemon.wait().success());
    until("the goodbye", || (peer.available().as_deref() == Some("offline")).then_some(()));
    daemon.restart(&[]);
    peer.request("late", &json!({}));
    assert_eq!(peer.answers("late", 2)[1]["text"], ALPHABET, "nothing was kept of the refused one");
}

#[test]
fn a_stop_while_the_broker_is_away_ends_soon_and_keeps_the_answers() {
    let mut broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let mut request = very_long();
    request["stream"] = false.into();
    brake(&daemon);
    peer.request("kept", &request);
    until("it is accepted", || peer.said("kept", "accepted").pop());
    broker.stop();
    release(&daemon);
    until("the answer is on disk", || (daemon.metric("moed_journal_rows{state=\"done\"}") > 0.5).then_some(()));
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    broker.again();
    daemon.restart(&[]);
    assert_eq!(peer.answer("kept")["finish"], "length");
}

#[test]
fn a_broker_that_comes_late_finds_the_node_waiting() {
    let mut broker = Broker::start("");
    broker.stop();
    let url = format!("{:?}", broker.url());
    let home = Home::new();
    home.configure(&[("mqtt.url", &url)]);
    let _daemon = TestDaemon::start_in(home, &[]);
    broker.again();
    let peer = Peer::new(&broker);
    // A request before the first subscription would find nobody, and no broker keeps it.
    until("the birth", || (peer.available().as_deref() == Some("online")).then_some(()));
    peer.catch_up("late");
}
