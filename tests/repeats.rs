//! The log's own bound, in a process of its own: what a layer says of itself reaches the process's subscriber, and no other.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use moed::telemetry::repeats::{BURST, Repeats};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}

#[test]
fn a_loop_of_warnings_is_cut_and_what_is_no_warning_is_not() {
    let lines = Lines::default();
    let log = tracing_subscriber::registry().with(lines.clone()).with(Repeats::default());
    tracing::subscriber::set_global_default(log).unwrap();
    for number in 0..100 {
        tracing::warn!(number, "the disk is full");
        tracing::info!(number, "request finished");
    }
    let lines = lines.0.lock().unwrap();
    let count = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
    assert_eq!(count("the disk is full"), BURST as usize);
    assert_eq!(count("this warning repeats"), 1);
    assert_eq!(count("request finished"), 100);
}
