//! Requests that take their time on the way into the queue, at a desk with a room that nobody serves.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::timeout;

use super::super::backlog::tests::desk;
use super::super::topics::Verb;
use super::*;
use crate::config;
use crate::journal::Journal;

fn mail(request: &serde_json::Value) -> Mail {
    Mail { payload: request.to_string().into_bytes(), ..Mail::default() }
}

fn ask(desk: &mut Desk, client: &str, id: &str, prompt: &str) {
    let request = json!({"v": 1, "id": id, "prompt": prompt});
    desk.request(client, &mail(&request), Way::Node, Stub::nobodys());
}

/// A form that takes long to compile is one thing that keeps that thread busy.
#[test]
fn while_requests_are_made_ready_the_desk_goes_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
        let mut desk = desk(&journal, 8);
        let (release, busy) = sync_channel::<()>(0);
        let _busy = tokio::task::spawn_blocking(move || busy.recv());
        let key = |id: &str| Key::new("lamp", id);
        for id in ["a", "b", "c"] {
            ask(&mut desk, "lamp", id, "x");
        }
        // A copy of the first, another question under its name, one that cannot fit.
        ask(&mut desk, "lamp", "a", "x");
        ask(&mut desk, "lamp", "a", "y");
        ask(&mut desk, "door", "d", &"x".repeat(4096));
        let named = |id: &str| mail(&json!({"v": 1, "id": id}));
        desk.named("lamp", Verb::Cancel, &named("b"), Stub::nobodys());
        desk.named("lamp", Verb::Get, &named("c"), Stub::nobodys());
        assert_eq!(desk.intake.len(), 8, "nothing is acknowledged before the first");
        assert!(desk.intake.next().now_or_never().is_none(), "and nothing is known");
        assert!(journal.find(key("a")).await.unwrap().is_none() && desk.backlog.is_empty());
        drop(release);
        while !desk.intake.is_empty() {
            let (number, fate) = timeout(Duration::from_mins(1), desk.intake.next()).await.unwrap().unwrap();
            if let Fate::Get(_, _, found) = &fate {
                assert!(found.as_ref().as_ref().is_ok_and(Option::is_some), "asked for when it was accepted");
            }
            desk.settle(number, fate).await;
        }
        // The cancelled one may have left the line before the last came, or not yet.
        for (id, ahead) in [("a", 0..=0), ("c", 1..=2)] {
            let live = &desk.live[&key(id)];
            assert!(
                live.submitted && live.entering.is_none() && ahead.contains(&live.ahead),
                "{id} has {} ahead",
                live.ahead
            );
        }
        assert!(!desk.live.contains_key(&Key::new("door", "d")) && !journal.knows(&Key::new("door", "d")));
        assert!(desk.backlog.is_empty(), "the copy is none of its own");
        while journal.find(key("b")).await.unwrap().unwrap().answer.is_empty() {
            timeout(Duration::from_mins(1), desk.answers.join_next()).await.unwrap();
        }
        let answer = String::from_utf8(journal.find(key("b")).await.unwrap().unwrap().answer).unwrap();
        assert!(answer.contains("\"cancelled\""), "{answer}");
        journal.close();
    });
}

async fn settle_all(desk: &mut Desk) {
    while !desk.intake.is_empty() {
        let (number, fate) = timeout(Duration::from_mins(1), desk.intake.next()).await.unwrap().unwrap();
        desk.settle(number, fate).await;
    }
}

/// A disk that was full may report an error and have the row all the same.
#[tokio::test]
async fn a_pending_row_that_nobody_follows_is_followed_once_when_its_request_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
    let mut other = desk(&journal, 8);
    ask(&mut other, "lamp", "a", "x");
    settle_all(&mut other).await;
    // This one was told that it could not be accepted.
    let mut desk = desk(&journal, 8);
    for _ in 0..3 {
        ask(&mut desk, "lamp", "a", "x");
    }
    settle_all(&mut desk).await;
    assert_eq!(desk.backlog.len(), 1);
    desk.retry().await;
    assert!(desk.live[&Key::new("lamp", "a")].submitted && desk.backlog.is_empty());
    journal.close();
}
