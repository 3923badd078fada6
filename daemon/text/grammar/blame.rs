//! Which keyword a schema does not compile for. The compiler says what is wrong, seldom where.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::schema::inner_schemas;
use super::{GrammarError, because};

/// Keywords that say nothing about a value.
const SILENT: [&str; 12] = [
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "type",
];
/// The most compilations, and the longest time, that looking for a culprit may take.
const SUSPECTS_MAX: usize = 48;
const SEARCH_MAX: Duration = Duration::from_millis(200);
/// Characters of the compiler's words that a caller is shown.
const REASON_MAX: usize = 160;

/// The compiler's words as an error; which keyword it is about is found by [`blame`].
pub(super) fn read_error(message: &str) -> GrammarError {
    // The library's own failures carry a trace; whatever it calls its state comes after a tag.
    let words = message.split("<backtrace>").next().and_then(|rest| rest.split("<state>").next()).unwrap_or_default();
    let words = words.replace("<non-verbose/>", "").replace("panic: ", "the compiler fell over it: ");
    let reason: String = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(REASON_MAX).collect();
    if message.contains("Unsatisfiable") || message.contains("NoExtensionBias") {
        let reason = reason.trim_start_matches("Unsatisfiable schema: ").replace("NoExtensionBias", "");
        return GrammarError::Unsatisfiable { keyword: String::new(), at: "#".to_owned(), reason };
    }
    GrammarError::Invalid(reason)
}

/// Finds the keyword without which the schema compiles, the innermost first, and puts its name into the error.
pub(super) fn blame(
    schema: &Value,
    error: GrammarError,
    compiles: impl Fn(&Value) -> Result<(), GrammarError>,
) -> GrammarError {
    if !matches!(error, GrammarError::Unsatisfiable { .. } | GrammarError::Invalid(_)) {
        return error;
    }
    let until = Instant::now() + SEARCH_MAX;
    let mut suspects = Vec::new();
    collect_suspects(schema, "", &|keyword| !SILENT.contains(&keyword), SUSPECTS_MAX, &mut suspects);
    // Last: without a type most things compile.
    collect_suspects(schema, "", &|keyword| keyword == "type", 2 * SUSPECTS_MAX, &mut suspects);
    for (at, keyword) in suspects {
        if Instant::now() > until {
            break;
        }
        let mut candidate = schema.clone();
        let Some(fields) = candidate.pointer_mut(&at).and_then(Value::as_object_mut) else { continue };
        fields.remove(&keyword);
        if compiles(&candidate).is_ok() {
            let at = format!("#{at}");
            return match error {
                GrammarError::Unsatisfiable { reason, .. } => GrammarError::Unsatisfiable { keyword, at, reason },
                GrammarError::Invalid(reason) => GrammarError::Unsupported { keyword, at, reason },
                other => other,
            };
        }
    }
    blame_nobody(error)
}

/// The error where no keyword is to blame, or where there are none.
pub(super) fn blame_nobody(error: GrammarError) -> GrammarError {
    match error {
        GrammarError::Unsatisfiable { keyword, reason, .. } if keyword.is_empty() => {
            GrammarError::Invalid(format!("no text fits it{}", because(&reason)))
        }
        other => other,
    }
}

/// Until there are `most`: their places together may be far longer than the schema.
fn collect_suspects(
    schema: &Value,
    at: &str,
    suspicious: &impl Fn(&str) -> bool,
    most: usize,
    suspects: &mut Vec<(String, String)>,
) {
    let Some(fields) = schema.as_object() else { return };
    for (place, inner) in inner_schemas(fields) {
        if suspects.len() >= most {
            return;
        }
        collect_suspects(inner, &format!("{at}/{place}"), suspicious, most, suspects);
    }
    let loud = fields.keys().filter(|keyword| suspicious(keyword));
    let room = most.saturating_sub(suspects.len());
    suspects.extend(loud.take(room).map(|keyword| (at.to_owned(), keyword.clone())));
}
