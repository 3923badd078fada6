use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::config::{Size, Span};

fn settings() -> config::Journal {
    config::Journal::default()
}

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, rows: 100 };

fn entry(id: &str, request: &[u8]) -> Entry {
    Entry {
        key: Key::new("lamp", id),
        body_hash: [request.len().to_le_bytes()[0]; 32],
        request: request.to_vec(),
        reply: b"here".to_vec(),
        seed: 7,
        deadline: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5_000_000_000)),
    }
}

/// Leaves the journal as a death leaves it: what is not on disk is gone, no clean end is noted.
fn die(journal: Journal, dir: &Path) -> Journal {
    // A copy of the file is what a killed process leaves behind; the live one still holds the lock.
    let copy = dir.join("after");
    fs::create_dir_all(&copy).unwrap();
    fs::copy(dir.join(FILE), copy.join(FILE)).unwrap();
    drop(journal);
    Journal::open(&copy, &settings()).unwrap()
}

#[tokio::test]
async fn an_accepted_request_survives_a_death_with_all_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let first = entry("1", b"what");
    assert_eq!(journal.accept(first.clone()).await.unwrap(), Acceptance::New);
    journal.begin_attempt(first.key.clone(), 1).await.unwrap();
    let journal = die(journal, dir.path());
    let records = journal.pending().await.unwrap();
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!((&record.key, &record.request, &record.reply), (&first.key, &first.request, &first.reply));
    assert_eq!((record.seed, record.deadline, record.body_hash), (7, first.deadline, first.body_hash));
    assert_eq!((record.attempts, record.recoveries, record.state), (1, 1, State::Pending));
    assert_eq!(journal.stats(), Stats { pending: 1, done: 0, bytes: 1024 + 8 });
}

#[tokio::test]
async fn a_clean_end_is_no_recovery_and_keeps_lazy_marks() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    journal.accept(entry("2", b"what")).await.unwrap();
    assert!(journal.finish(Key::new("lamp", "2"), b"that".to_vec(), None).await.unwrap());
    journal.mark_delivered(Key::new("lamp", "2"));
    journal.close();
    assert!(journal.is_closed());
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    assert_eq!(journal.pending().await.unwrap()[0].recoveries, 0);
    assert_eq!(journal.undelivered(10).await.unwrap(), []);
    journal.close();
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_another_one_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let first = entry("1", b"what");
    assert_eq!(journal.accept(first.clone()).await.unwrap(), Acceptance::New);
    let moved = Entry { reply: b"there".to_vec(), ..first.clone() };
    assert_eq!(journal.accept(moved).await.unwrap(), Acceptance::Pending);
    assert_eq!(journal.find(first.key.clone()).await.unwrap().unwrap().reply, b"there");
    assert_eq!(journal.accept(entry("1", b"other one")).await.unwrap(), Acceptance::Conflict);
    assert_eq!(journal.find(first.key.clone()).await.unwrap().unwrap().reply, b"there", "a conflict changes nothing");
    assert!(journal.finish(first.key.clone(), b"that".to_vec(), None).await.unwrap());
    assert!(!journal.finish(first.key.clone(), b"something else".to_vec(), None).await.unwrap(), "one answer only");
    assert_eq!(journal.accept(first.clone()).await.unwrap(), Acceptance::Done(b"that".to_vec()));
    assert_eq!(journal.undelivered(10).await.unwrap(), std::slice::from_ref(&first.key));
    journal.mark_delivered(first.key.clone());
    assert_eq!(journal.undelivered(10).await.unwrap(), []);
    journal.undeliver_since(SystemTime::now() - Duration::from_mins(1)).await.unwrap();
    assert_eq!(journal.undelivered(10).await.unwrap(), std::slice::from_ref(&first.key));
    assert!(journal.forget(first.key.clone()).await.unwrap());
    assert_eq!(journal.accept(first).await.unwrap(), Acceptance::New, "after `ack` the id is free");
}

#[tokio::test]
async fn many_waiting_writes_share_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let all: Vec<_> = (0..200).map(|number| journal.accept(entry(&number.to_string(), b"what"))).collect();
    for ended in futures_util::future::join_all(all).await {
        assert_eq!(ended.unwrap(), Acceptance::New);
    }
    assert_eq!(journal.stats().pending, 200);
    assert_eq!(journal.list(3, None, None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_full_journal_refuses_with_numbers_and_stays_within_its_size() {
    for payload_bytes in [100, 5000, 17_000] {
        let dir = tempfile::tempdir().unwrap();
        let size_max = 3 << 20;
        let small = config::Journal { size_max: Size(size_max), ..settings() };
        let journal = Journal::open(dir.path(), &small).unwrap();
        let prompt = vec![b'x'; payload_bytes];
        let mut refused = None;
        for number in 0..2000 {
            let id = number.to_string();
            match journal.accept(entry(&id, &prompt)).await.unwrap() {
                Acceptance::New => assert!(journal.finish(Key::new("lamp", id), prompt.clone(), None).await.unwrap()),
                Acceptance::Full { unit, used, limit } => {
                    refused = Some(Acceptance::full(unit, used, limit));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let fault = refused.expect("the bound was never reached");
        assert_eq!(fault.code, Code::Overloaded);
        assert!(fault.message.contains("bytes, limit 1048576"), "{}", fault.message);
        assert!(fault.retry_after.is_some());
        let file_bytes = fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert!(file_bytes <= size_max, "file has {file_bytes} bytes with payloads of {payload_bytes}");
        // Room comes back as answers are acknowledged.
        assert!(journal.forget(Key::new("lamp", "0")).await.unwrap());
        assert_eq!(journal.accept(entry("again", &prompt)).await.unwrap(), Acceptance::New);
    }
}

#[tokio::test]
async fn a_journal_with_all_its_rows_refuses_with_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &config::Journal { rows_max: 3, ..settings() }).unwrap();
    for id in ["1", "2", "3"] {
        assert_eq!(journal.accept(entry(id, b"what")).await.unwrap(), Acceptance::New);
    }
    assert_eq!(journal.accept(entry("2", b"what")).await.unwrap(), Acceptance::Pending, "what is in is in");
    let full = Acceptance::Full { unit: "rows", used: 3, limit: 3 };
    assert_eq!(journal.accept(entry("4", b"what")).await.unwrap(), full);
    assert!(!journal.knows(&Key::new("lamp", "4")));
    assert!(journal.forget(Key::new("lamp", "1")).await.unwrap());
    assert_eq!(journal.accept(entry("4", b"what")).await.unwrap(), Acceptance::New);
}

#[tokio::test]
async fn rows_are_listed_by_client_and_state_without_their_texts() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    for id in ["1", "2", "3"] {
        journal.accept(entry(id, b"what")).await.unwrap();
    }
    let other = Entry { key: Key::new("hall", "1"), ..entry("1", b"what") };
    journal.accept(other).await.unwrap();
    journal.finish(Key::new("lamp", "2"), b"that".to_vec(), None).await.unwrap();
    let ids = async |most, client: Option<&str>, state| {
        let rows = journal.list(most, client.map(str::to_owned), state).await.unwrap();
        assert!(rows.iter().all(|row| row.request.is_empty() && row.answer.is_empty()));
        rows.iter().map(|row| format!("{}/{}", row.key.client, row.key.id)).collect::<Vec<_>>()
    };
    assert_eq!(ids(9, None, None).await, ["hall/1", "lamp/1", "lamp/2", "lamp/3"]);
    assert_eq!(ids(9, Some("lamp"), Some(State::Pending)).await, ["lamp/1", "lamp/3"]);
    assert_eq!(ids(9, None, Some(State::Done)).await, ["lamp/2"]);
    assert_eq!(ids(1, Some("lamp"), None).await, ["lamp/1"]);
}

#[tokio::test]
async fn answers_leave_after_keep_and_pending_requests_never() {
    let dir = tempfile::tempdir().unwrap();
    let brief = config::Journal { keep: Span(Duration::from_hours(1)), ..settings() };
    let journal = Journal::open(dir.path(), &brief).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    journal.accept(entry("2", b"what")).await.unwrap();
    journal.finish(Key::new("lamp", "1"), b"that".to_vec(), None).await.unwrap();
    assert_eq!(journal.prune(Duration::from_hours(1)).await.unwrap(), 0);
    assert_eq!(journal.prune(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(journal.stats().pending, 1);
    assert_eq!(journal.find(Key::new("lamp", "1")).await.unwrap(), None);
}

#[test]
fn marks_go_with_a_clock_that_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join(FILE), BOUNDS).unwrap().0;
    let (key, hour_ms) = (Key::new("lamp", "1"), 3_600_000);
    store
        .batch(Safety::Durable, |work| {
            work.accept(&entry("1", b"what"))?;
            work.finish(&key, b"that", None)?;
            let before = work.record(&key)?.unwrap();
            // Set back: what was said a moment ago was said a moment ago.
            work.move_marks(-hour_ms)?;
            let after = work.record(&key)?.unwrap();
            let hour = Duration::from_hours(1);
            assert_eq!(after.finished, before.finished - hour);
            assert_eq!(after.accepted, before.accepted - hour);
            assert_eq!(after.deadline.unwrap(), before.deadline.unwrap() - hour);
            // Set ahead, by more than there is: nothing was said in the future.
            work.move_marks(hour_ms * 5)?;
            let last = work.record(&key)?.unwrap();
            assert!(last.finished >= before.finished && last.finished <= SystemTime::now());
            assert_eq!(last.deadline.unwrap(), before.deadline.unwrap() + 4 * hour);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_corrupt_file_is_moved_aside_and_an_empty_journal_begins() {
    for damage in [b"this is no journal, it is a shopping list".to_vec(), vec![0; 100_000]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), &damage).unwrap();
        let journal = Journal::open(dir.path(), &settings()).unwrap();
        let moved_to = journal.moved_aside().expect("it says where it was put").to_owned();
        assert_eq!(journal.accept(entry("1", b"what")).await.unwrap(), Acceptance::New);
        let aside: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap())
            .filter(|file| file.file_name().to_string_lossy().starts_with("journal.redb.corrupt-"))
            .collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(aside[0].path(), moved_to);
        assert_eq!(fs::read(aside[0].path()).unwrap(), damage, "nothing is deleted");
    }
}

#[tokio::test]
async fn a_journal_damaged_in_the_middle_never_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    for number in 0..50 {
        journal.accept(entry(&number.to_string(), &[b'x'; 3000])).await.unwrap();
    }
    let whole = fs::read(dir.path().join(FILE)).unwrap();
    for start in [0, 64, 4096, 20_000, whole.len() / 2] {
        let copy = tempfile::tempdir().unwrap();
        let mut damaged = whole.clone();
        damaged[start..].iter_mut().take(512).for_each(|byte| *byte ^= 0x5a);
        fs::write(copy.path().join(FILE), &damaged).unwrap();
        let reopened = Journal::open(copy.path(), &settings()).unwrap();
        assert_eq!(reopened.accept(entry("new", b"what")).await.unwrap(), Acceptance::New, "damage at {start}");
    }
}

#[tokio::test]
async fn a_journal_in_use_and_one_of_another_schema_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let error = Journal::open(dir.path(), &settings()).err().unwrap();
    assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    assert_eq!(Fault::from(error).kind, Kind::Config);
    journal.close();

    let mut store = Store::open(&dir.path().join(FILE), BOUNDS).unwrap().0;
    store.batch(Safety::Durable, |work| work.set_meta("schema", 99)).unwrap();
    drop(store);
    let error = Journal::open(dir.path(), &settings()).err().unwrap();
    assert!(error.to_string().contains("it has schema 99, this version reads 2"), "{error}");
}

#[tokio::test]
async fn a_journal_of_the_first_schema_is_brought_up_to_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    journal.close();
    // As the first version left it: without the table of sessions.
    let database = redb::Database::open(dir.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.delete_table(store::SESSIONS).unwrap();
    transaction.open_table(store::META).unwrap().insert("schema", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    assert_eq!(journal.pending().await.unwrap().len(), 1);
    assert_eq!(journal.sessions().await.unwrap(), []);
    journal.close();
    let (mut store, _) = Store::open(&dir.path().join(FILE), BOUNDS).unwrap();
    assert_eq!(store.batch(Safety::Read, |work| work.meta("schema")).unwrap(), Some(2));
}

#[tokio::test]
async fn a_conversation_is_stored_with_the_answer_and_leaves_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    let session = Session { key: Key::new("lamp", "s"), turns: 1, age: Duration::ZERO, history: b"said".to_vec() };
    assert!(journal.finish(Key::new("lamp", "1"), b"that".to_vec(), Some(session.clone())).await.unwrap());
    let again = Session { turns: 9, ..session.clone() };
    assert!(!journal.finish(Key::new("lamp", "1"), b"else".to_vec(), Some(again)).await.unwrap());
    let bytes = journal.stats().bytes;
    let journal = die(journal, dir.path());
    let kept = journal.sessions().await.unwrap();
    assert_eq!((kept.len(), kept[0].turns, kept[0].history.as_slice()), (1, 1, b"said".as_slice()));
    assert_eq!(journal.stats().bytes, bytes, "counted again, it is the same");
    journal.close();
    let (mut store, _) = Store::open(&dir.path().join("after").join(FILE), BOUNDS).unwrap();
    store.batch(Safety::Durable, |work| work.sweep_sessions(Duration::from_hours(1))).unwrap();
    assert_eq!(store.batch(Safety::Read, |work| work.sessions()).unwrap().len(), 1);
    store.batch(Safety::Durable, |work| work.sweep_sessions(Duration::ZERO)).unwrap();
    assert_eq!(store.batch(Safety::Read, |work| work.sessions()).unwrap(), []);
    assert_eq!(store.stats.bytes, bytes - 1024 - 4);
}

#[tokio::test]
async fn a_closed_journal_is_read_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    let path = dir.path().join(FILE);
    assert!(matches!(read_closed(&path).unwrap_err(), JournalError::InUse { .. }));
    journal.close();
    let records = read_closed(&path).unwrap();
    assert_eq!((records.len(), records[0].request.as_slice()), (1, b"what".as_slice()));
}

#[tokio::test]
async fn the_writer_shows_that_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    let pulse = Arc::new(Pulse::new());
    journal.watch(&pulse);
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(30);
    // Being watched is a beginning; a beat is later than that.
    while pulse.silence(Part::Journal).unwrap() + Duration::from_millis(20) > begun.elapsed() {
        assert!(Instant::now() < deadline, "the writer does not beat");
        std::thread::sleep(Duration::from_millis(5));
    }
    let shared = Arc::clone(&journal.shared);
    journal.close();
    assert!(shared.closed.load(Ordering::Acquire));
    assert!(matches!(journal.accept(entry("2", b"what")).await, Err(JournalError::Closed)));
}

#[tokio::test]
async fn a_request_is_given_up_after_three_deaths_of_its_attempts_or_ten_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    journal.accept(entry("1", b"what")).await.unwrap();
    let record = journal.find(Key::new("lamp", "1")).await.unwrap().unwrap();
    let after = |attempts, recoveries| Record { attempts, recoveries, ..record.clone() }.deadly();
    assert_eq!((after(2, 2), after(3, 3)), (None, Some(3)));
    assert_eq!(after(5, 0), None, "orderly stops are no deaths");
    assert_eq!((after(0, 9), after(0, 10)), (None, Some(10)), "dying before the attempt is on disk ends, too");
}

#[tokio::test]
async fn the_journal_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let _journal = Journal::open(&folder, &settings()).unwrap();
    for (path, mode) in [(folder.clone(), 0o700), (folder.join(FILE), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
}

#[tokio::test]
async fn a_row_that_follows_the_removal_of_another_with_its_key_at_once_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let key = Key::new("lamp", "1");
    journal.accept(entry("1", b"what")).await.unwrap();
    // In one transaction if the writer is slow, in two if not: known either way.
    let (forgotten, accepted) = (journal.forget(key.clone()), journal.accept(entry("1", b"what")));
    assert!(forgotten.await.unwrap());
    assert_eq!(accepted.await.unwrap(), Acceptance::New);
    assert!(journal.knows(&key));
    assert!(journal.forget(key.clone()).await.unwrap() && !journal.knows(&key));
}

#[tokio::test]
async fn a_row_whose_removal_could_not_be_committed_is_known_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), &settings()).unwrap();
    let key = Key::new("lamp", "1");
    journal.accept(entry("1", b"what")).await.unwrap();
    // While the writer is held up, the removal and what fails after it come to wait for one transaction.
    let (begun, is_begun) = oneshot::channel();
    let (go, may_go) = sync_channel::<()>(1);
    let held = journal.ask(Safety::Read, move |_| {
        begun.send(()).unwrap();
        may_go.recv().unwrap();
        Ok(())
    });
    is_begun.await.unwrap();
    let forgotten = journal.forget(key.clone());
    let failed = journal.ask(Safety::Durable, |_| Err::<(), _>(JournalError::Behind));
    go.send(()).unwrap();
    held.await.unwrap();
    assert!(forgotten.await.is_err() && failed.await.is_err());
    assert!(journal.knows(&key) && journal.find(key).await.unwrap().is_some());
}
