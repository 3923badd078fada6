//! Events to journald with their fields, so that `journalctl MOED_JOB=17` finds every line about a job.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Bytes of one value. Journald cuts a line of megabytes into pieces that no one can put together; nothing of ours is long.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// The layer. Each event is one message: `MESSAGE` for people, every field as `MOED_…`.
pub(super) struct Journald;

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let fields = fields(event);
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        if let Err(error) = systemd::journal::send(&fields) {
            last_resort(std::io::stderr(), event.metadata(), &fields, &error.to_string());
        }
    }
}

/// An event as journald's fields.
fn fields(event: &Event<'_>) -> Vec<String> {
    let mut collected = Collected::default();
    event.record(&mut collected);
    let metadata = event.metadata();
    let mut fields = vec![
        format!("MESSAGE={}{}", collected.message, collected.plain),
        format!("PRIORITY={}", priority(*metadata.level())),
        format!("MOED_TARGET={}", metadata.target()),
    ];
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        fields.extend([format!("CODE_FILE={file}"), format!("CODE_LINE={line}")]);
    }
    fields.extend(collected.fields);
    fields
}

/// Syslog's number.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The log must not be lost with its daemon: what journald does not take goes to stderr, in the form that systemd reads.
fn last_resort(mut stderr: impl std::io::Write, metadata: &Metadata<'_>, fields: &[&str], error: &str) {
    let message = fields.first().and_then(|field| field.strip_prefix("MESSAGE=")).unwrap_or_default();
    // That ends at journald, too, as a rule: a line that nobody takes is lost, and whoever wrote it goes on.
    writeln!(stderr, "<{}>{message} (journald did not take it: {error})", priority(*metadata.level())).ok();
}

/// What an event says.
#[derive(Default)]
struct Collected {
    message: String,
    /// ` key=value` for each field, as a terminal would show it.
    plain: String,
    /// `MOED_KEY=value` for each field.
    fields: Vec<String>,
}

impl Collected {
    fn take(&mut self, field: &Field, value: &str) {
        let value = match value.char_indices().find(|(at, c)| at + c.len_utf8() > VALUE_BYTES_MAX) {
            Some((at, _)) => &value[..at],
            None => value,
        };
        if field.name() == "message" {
            self.message.push_str(value);
            return;
        }
        // Writing to a `String` cannot fail.
        write!(self.plain, " {}={value}", field.name()).ok();
        self.fields.push(format!("MOED_{}={value}", field_name(field.name())));
    }
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, &format!("{value:?}"));
    }
}

/// Journald's alphabet: capitals, digits, underscores.
fn field_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Vec<String>>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(fields(event));
        }
    }

    #[test]
    fn an_event_is_a_message_for_people_and_a_field_for_each_of_its_values() {
        let kept = Kept::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), || {
            tracing::warn!(job = 17, client = "uid:1000", reason = %"a\nb", "request failed");
            tracing::info!(long = "é".repeat(VALUE_BYTES_MAX), "x");
        });
        let events = kept.0.lock().unwrap();
        let first = &events[0];
        assert_eq!(first[0], "MESSAGE=request failed job=17 client=uid:1000 reason=a\nb");
        for field in ["PRIORITY=4", "MOED_JOB=17", "MOED_CLIENT=uid:1000", "MOED_REASON=a\nb"] {
            assert!(first.iter().any(|found| found == field), "{field} is not in {first:?}");
        }
        assert!(first.iter().any(|field| field.starts_with("CODE_FILE=")), "{first:?}");
        let long = events[1].iter().find(|field| field.starts_with("MOED_LONG=")).unwrap();
        assert_eq!(long.len(), "MOED_LONG=".len() + VALUE_BYTES_MAX);
    }
}
