//! JSON values into the words of [`crate::job`]: what both transports read the same way.
//!
//! Each reader takes one value and names the field that is wrong by its path (`messages[2].content`), in the text and in
//! [`Fault::param`]. Limits stand here once, so that a request means the same over a socket and over a broker.
//! Which keys exist at the top of a request is the transports' own affair.

mod messages;
mod settings;
mod tools;
mod value;

use std::time::Duration;

use serde_json::Value;

pub use messages::{read_messages, read_prompt};
pub use settings::Settings;
pub use tools::{ToolChoice, read_tool_choice, read_tools};
use value::{integer, shown};
pub use value::{object, present, read_bool, text, wrong};

use crate::fault::Fault;
use crate::job::Priority;

/// The longest deadline that is told apart from none.
pub const DEADLINE_MAX: Duration = Duration::from_hours(30 * 24);

/// Lets `response_format` pass where it asks for what happens anyway.
pub fn read_response_format(value: &Value) -> Result<(), Fault> {
    match value.get("type").and_then(Value::as_str) {
        _ if value.is_null() => Ok(()),
        Some("text") => Ok(()),
        _ => Err(wrong("response_format", "is not supported by this version, only `{\"type\":\"text\"}` is")),
    }
}

/// Reads `priority`.
pub fn read_priority(value: &Value) -> Result<Priority, Fault> {
    let name = text(value, "priority")?;
    Priority::from_name(&name).ok_or_else(|| {
        wrong("priority", &format!("is `{}`, it must be `alarm`, `interactive` or `background`", shown(&name)))
    })
}

/// Reads a length of time in milliseconds that ends a job.
pub fn read_deadline(value: &Value, path: &str) -> Result<Duration, Fault> {
    let most = u64::try_from(DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX);
    integer(value, path, 1, most).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::shape::value::param;

    #[test]
    fn what_this_version_cannot_do_is_refused_by_name() {
        assert!(read_response_format(&json!({"type": "text"})).is_ok());
        assert_eq!(param(read_response_format(&json!({"type": "json_object"}))), "response_format");
        assert_eq!(param(read_priority(&json!("urgent"))), "priority");
        assert_eq!(param(read_deadline(&json!(0), "deadline_ms")), "deadline_ms");
        assert_eq!(read_deadline(&json!(5), "deadline_ms").unwrap(), Duration::from_millis(5));
    }
}
