//! The payloads, as a requester sees them.

use super::*;
use crate::job::{Timing, Usage};

fn voice() -> Voice {
    Voice { node: "hall".to_owned(), model: "m".to_owned(), keep: Duration::from_hours(1) }
}

fn outcome(finish: Finish) -> Outcome {
    let usage = Usage { prompt_tokens: 3, cached_tokens: 1, generated_tokens: 2, energy: None };
    let timing = Timing { queue: Duration::from_millis(1), total: Duration::from_millis(9), ..Timing::default() };
    Outcome { finish, usage, timing, seed: 5, confidence: None }
}

fn read(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap()
}

#[test]
fn a_result_has_the_contracts_shape_and_copies_differ_in_repeat_only() {
    let calls = [ToolCall { id: "c1".to_owned(), name: "on".to_owned(), arguments: "{\"room\":1}".to_owned() }];
    let stored = voice().result("q", "a \"b\"", &calls, &outcome(Finish::ToolCalls), 2, None);
    let reply = ReplyTo { topic: "t".to_owned(), correlation: Some(vec![9]), cid: Some("x\"y".to_owned()) };
    let first = voice().deliver(&stored, "q", &reply, false, None);
    assert_eq!(
        read(&first.payload),
        json!({
            "v": 1, "type": "result", "id": "q", "node": "hall", "model": "m", "text": "a \"b\"",
            "tool_calls": [{"id": "c1", "name": "on", "arguments": {"room": 1}}], "finish": "tool_calls",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            "timing": {"queue_ms": 1, "first_token_ms": 0, "total_ms": 9}, "attempt": 2, "cid": "x\"y", "repeat": false,
        })
    );
    assert_eq!((first.correlation.as_deref(), first.surety), (Some([9].as_slice()), Surety::Sure));
    assert!(first.labels.contains(&("moed-type".to_owned(), "result".to_owned())));
    let mut measured = outcome(Finish::Stop);
    let decode = crate::job::Joules { gross: 2.5, net: None };
    measured.usage.energy = Some(crate::job::Energy { decode, coverage: 1.0, ..crate::job::Energy::default() });
    let measured = read(&voice().result("q", "a", &[], &measured, 1, None));
    assert_eq!((&measured["energy_j"], &measured["usage"]["energy"]["gross_j"]), (&json!(2.5), &json!(2.5)));
    let again = voice().deliver(&stored, "q", &reply, true, None);
    let (mut first, again) = (read(&first.payload), read(&again.payload));
    first["repeat"] = true.into();
    assert_eq!(first, again);
}

#[test]
fn an_error_says_what_to_do() {
    let fault = Fault::new(Kind::Busy, Code::QueueFull, "queue is full: 8 waiting, limit 8")
        .retry_after(Duration::from_secs(2))
        .hint("later");
    let parcel = voice().refuse("q", &ReplyTo::default(), &fault);
    assert_eq!(
        read(&parcel.payload),
        json!({
            "v": 1, "type": "error", "id": "q", "node": "hall", "code": "queue_full", "status": 429, "retryable": true,
            "retry_after_ms": 2000, "message": "queue is full: 8 waiting, limit 8", "hint": "later",
        })
    );
    assert_eq!(parcel.expiry, Some(Duration::from_hours(1)));
    for code in Code::ALL {
        let fault = Fault::new(Kind::Bug, code, "x").retry_after(Duration::from_secs(1));
        let error = read(&voice().refusal("q", &fault));
        assert_eq!((&error["code"], &error["status"]), (&json!(code.name()), &json!(code.status())));
        assert_eq!(error["retryable"], code.retryable());
        assert_eq!(error.get("retry_after_ms").is_some(), code.retryable(), "{error}");
    }
}

#[test]
fn an_error_that_is_stored_is_not_worth_asking_again() {
    for code in Code::ALL {
        let fault = Fault::new(Kind::Machine, code, "x").retry_after(Duration::from_secs(1));
        let error = read(&voice().failure("q", &fault));
        assert_eq!((&error["code"], &error["retryable"]), (&json!(code.name()), &json!(false)));
        assert_eq!(error.get("retry_after_ms"), None);
        let hint = code.retryable().then_some("ask again with a new id");
        assert_eq!(error.get("hint").and_then(Value::as_str), hint);
    }
    // A new id is no remedy for what would kill the process again.
    assert_eq!(read(&voice().failure("q", &Fault::bug("it died")))["hint"], Value::Null);
    let known = read(&voice().failure("q", &Fault::machine("no memory").hint("lower `engine.slots`")));
    assert_eq!(known["hint"], "lower `engine.slots`");
}

#[test]
fn an_answer_over_the_brokers_limit_is_cut_and_says_so() {
    let text = "warm \"ä\"\n\u{1}".repeat(50);
    let stored = voice().result("q", &text, &[], &outcome(Finish::Stop), 1, None);
    for over in [1, 10, 100, 500] {
        let shorter = shrink(&stored, over).unwrap();
        assert!(shorter.len() <= stored.len() - over, "{over}");
        assert!(stored.len() - over - shorter.len() < 8, "no more is cut than needed");
        let value = read(&shorter);
        assert_eq!(value["finish"], "length");
        assert!(text.starts_with(value["text"].as_str().unwrap()));
    }
    let call =
        ToolCall { id: "c".to_owned(), name: "f".to_owned(), arguments: format!("{{\"x\":\"{}\"}}", "y".repeat(900)) };
    let stored = voice().result("q", "", &[call], &outcome(Finish::ToolCalls), 1, None);
    assert_eq!(read(&shrink(&stored, 500).unwrap())["code"], "too_large");
    assert_eq!(shrink(&stored, stored.len() - 20), None);
}
