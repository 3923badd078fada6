//! JSON values into the words of [`crate::job`]: what both transports read, and of answers write, the same way.
//!
//! Each reader takes one value and names the field that is wrong by its path (`messages[2].content`), in the text and in
//! [`Fault::param`]. Limits stand here once, so that a request means the same over a socket and over a broker.
//! Which keys exist at the top of a request is the transports' own affair.

mod energy;
mod format;
mod messages;
pub mod record;
mod settings;
mod tools;
mod value;

use std::time::Duration;

use serde_json::Value;

pub use energy::{energy_json, energy_total};
pub use format::{check_format, read_response_format};
pub use messages::{read_messages, read_prompt};
pub use settings::Settings;
pub use tools::{check_calls, read_tool_choice, read_tools};
use value::{integer, shown};
pub use value::{object, present, read_bool, text, wrong};

use crate::fault::Fault;
use crate::job::Priority;

/// The longest deadline that is told apart from none.
pub const DEADLINE_MAX: Duration = Duration::from_hours(30 * 24);

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
    fn a_wrong_priority_or_deadline_is_refused_by_name() {
        assert_eq!(param(read_priority(&json!("urgent"))), "priority");
        assert_eq!(param(read_deadline(&json!(0), "deadline_ms")), "deadline_ms");
        assert_eq!(read_deadline(&json!(5), "deadline_ms").unwrap(), Duration::from_millis(5));
    }
}
