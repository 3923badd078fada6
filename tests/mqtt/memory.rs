//! Conversations that the node remembers.

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::harness::until;
use crate::peer::{ALPHABET, Peer, brake, daemon, release, very_long};

fn turn(peer: &Peer, id: &str, more: &Value) -> Value {
    let mut request = json!({"session": "talk"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    peer.request(id, &request);
    peer.answer(id)
}

fn prompt_tokens(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_conversation_goes_on_over_kills_and_copies_and_in_the_second_attempt() {
    let broker = Broker::start("");
    let mut daemon = daemon(&broker, &[]);
    let peer = Peer::new(&broker);
    let alone = peer.catch_up_with("alone");
    let first = turn(&peer, "s1", &json!({}));
    assert_eq!((&first["session"], &first["turn"], &first["text"]), (&json!("talk"), &json!(1), &json!(ALPHABET)));
    assert_eq!(prompt_tokens(&first), prompt_tokens(&alone));
    let second = turn(&peer, "s2", &json!({}));
    assert_eq!(second["turn"], 2);
    let grown = prompt_tokens(&second) - prompt_tokens(&first);
    assert!(
        grown > u64::try_from(ALPHABET.len()).unwrap() / 2,
        "question and answer of before are in the prompt: {grown}"
    );

    // A copy is a copy and no turn.
    peer.request("s2", &json!({"session": "talk"}));
    assert_eq!(peer.answers("s2", 2)[1]["turn"], 2);
    daemon.kill();
    daemon.restart(&[]);
    let third = turn(&peer, "s3", &json!({}));
    assert_eq!((&third["turn"], prompt_tokens(&third) - prompt_tokens(&second)), (&json!(3), grown));

    // The second attempt sees what the first saw.
    let mut long = very_long();
    (long["session"], long["reproducible"]) = ("talk".into(), true.into());
    brake(&daemon);
    peer.request("s4", &long);
    until("the first delta", || peer.said("s4", "delta").pop());
    daemon.kill();
    daemon.restart(&[]);
    let fourth = peer.answer("s4");
    assert_eq!((&fourth["turn"], &fourth["attempt"]), (&json!(4), &json!(2)));
    assert_eq!(prompt_tokens(&fourth) - prompt_tokens(&third), grown);
    assert_eq!(turn(&peer, "s5", &json!({"session": "another"}))["turn"], 1);
}

#[test]
fn a_conversation_has_one_question_at_a_time_and_bounds_that_are_named() {
    let broker = Broker::start("");
    let settings = [("journal.session_turns_max", "2"), ("journal.sessions_max", "1"), ("mqtt.pool", "\"house\"")];
    let daemon = daemon(&broker, &settings);
    let peer = Peer::new(&broker);
    brake(&daemon);
    let mut long = very_long();
    long["session"] = "talk".into();
    peer.request("q1", &long);
    until("it is accepted", || peer.said("q1", "accepted").pop());
    let refused = turn(&peer, "q2", &json!({}));
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("queue_full"), &json!(true)), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("`q1` is not answered"), "{refused}");
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    // What is cut short is no turn.
    peer.verb("cancel", "q1");
    assert_eq!(peer.answer("q1")["finish"], "cancelled");
    release(&daemon);
    peer.request("q2", &json!({"session": "talk"}));
    assert_eq!(peer.answers("q2", 2)[1]["turn"], 1);
    assert_eq!(turn(&peer, "q3", &json!({}))["turn"], 2);
    let full = turn(&peer, "q4", &json!({}));
    assert_eq!((&full["code"], &full["message"]), (&json!("too_large"), &json!("session `talk` has 2 turns, limit 2")));
    let many = turn(&peer, "q5", &json!({"session": "more"}));
    assert_eq!((&many["code"], &many["retryable"]), (&json!("overloaded"), &json!(true)), "{many}");
    peer.send("moed/v1/pool/house/c/lamp/request", json!({"id": "q6", "prompt": "hi", "session": "talk"}).to_string());
    assert_eq!((&peer.answer("q6")["code"], &peer.answer("q6")["status"]), (&json!("invalid_request"), &json!(400)));
    assert_eq!(turn(&peer, "q7", &json!({"session": "a/b"}))["code"], "invalid_request");
}
