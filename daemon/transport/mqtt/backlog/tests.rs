//! The desk with a room that nobody serves and a broker that never comes.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::super::card::{Card, Served};
use super::super::desk::Means;
use super::super::link::Link;
use super::super::memory::Memory;
use super::super::reply::{Parcel, Voice};
use super::super::topics::Topics;
use super::*;
use crate::config;
use crate::journal::{Entry, Journal};
use crate::queue::tests::room;
use crate::vitals::Vitals;

/// A desk whose queue takes `places` jobs and starts none.
pub(in super::super) fn desk(journal: &Journal, places: usize) -> Desk {
    let topics = Topics::new("moed", "n");
    let means = Means {
        voice: Voice { node: "n".to_owned(), model: "m".to_owned(), keep: Duration::from_mins(1) },
        journal: journal.clone(),
        queue: room(places, "").0,
        vitals: Arc::new(Vitals::new()),
        link: Link::nowhere(),
        payload_max: 1 << 16,
        card: Card::new(&topics, &config::Mqtt::default(), "b", watch::channel(Served::default()).1),
        online: Parcel::retained("t".to_owned(), Vec::new(), false),
        topics,
    };
    Desk::new(means, Memory::new(config::Journal::default(), Vec::new(), Instant::now()))
}

/// Accepts a request as an earlier process did.
async fn accept(journal: &Journal, id: &str, priority: Priority, deadline: Option<SystemTime>) {
    let request = json!({"v": 1, "id": id, "prompt": "x", "priority": priority.name()}).to_string().into_bytes();
    let key = Key::new("lamp", id);
    journal.accept(Entry { key, body_hash: [0; 32], request, reply: b"{}".to_vec(), seed: 1, deadline }).await.unwrap();
}

fn waiting(desk: &Desk) -> Vec<&str> {
    desk.backlog.iter().map(|waiter| waiter.key.id.as_str()).collect()
}

#[tokio::test]
async fn less_urgent_requests_without_a_place_lock_out_neither_alarms_nor_deadlines() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
    for id in ["a1", "a2", "a3"] {
        accept(&journal, id, Priority::Background, None).await;
    }
    accept(&journal, "late", Priority::Background, Some(clock::now() - Duration::from_secs(1))).await;
    accept(&journal, "z", Priority::Alarm, None).await;
    let mut desk = desk(&journal, 1);
    desk.recover().await.unwrap();
    assert_eq!(waiting(&desk), ["a2", "a3"], "the alarm and the first of the others have places");
    let alarm = &desk.live[&Key::new("lamp", "z")];
    assert!(alarm.submitted && alarm.ahead == 0);
    accept(&journal, "zz", Priority::Alarm, None).await;
    desk.keep(Key::new("lamp", "zz"), None).await;
    desk.retry().await;
    assert_eq!(waiting(&desk), ["zz", "a2", "a3"], "the most urgent goes first when there is a place");
    while let Ok(Some(_)) =
        journal.find(Key::new("lamp", "late")).await.map(|row| row.filter(|row| row.answer.is_empty()))
    {
        desk.answers.join_next().await;
    }
    let row = journal.find(Key::new("lamp", "late")).await.unwrap().unwrap();
    assert!(String::from_utf8(row.answer).unwrap().contains("deadline_exceeded"));
    journal.close();
}

#[tokio::test]
async fn a_row_that_could_not_be_read_keeps_its_place_and_is_read_later() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
    accept(&journal, "a", Priority::Interactive, None).await;
    let mut desk = desk(&journal, 2);
    journal.close();
    desk.keep(Key::new("lamp", "a"), None).await;
    desk.retry().await;
    assert_eq!(waiting(&desk), ["a"]);
    let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
    desk.means.journal = journal.clone();
    desk.retry().await;
    assert!(desk.backlog.is_empty() && desk.live[&Key::new("lamp", "a")].submitted);
    journal.close();
}

#[tokio::test]
async fn what_found_no_memory_comes_again_when_it_was_told_to_and_locks_out_nobody_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &config::Journal::default()).unwrap();
    for id in ["large", "small"] {
        accept(&journal, id, Priority::Interactive, None).await;
    }
    let mut desk = desk(&journal, 2);
    desk.keep(Key::new("lamp", "large"), Instant::now().checked_add(Duration::from_hours(1))).await;
    desk.keep(Key::new("lamp", "small"), None).await;
    desk.retry().await;
    assert_eq!(waiting(&desk), ["large"]);
    assert!(desk.live[&Key::new("lamp", "small")].submitted);
    desk.backlog[0].not_before = Some(Instant::now());
    desk.retry().await;
    assert!(desk.backlog.is_empty() && desk.live[&Key::new("lamp", "large")].submitted);
    journal.close();
}
