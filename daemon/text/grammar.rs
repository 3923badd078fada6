//! Schemas, signatures, regular expressions and grammars to token masks: an answer that ends by itself has the shape that was
//! asked for.
//!
//! A [`Vocabulary`] is made once for a tokenizer. It compiles a [`Shape`] into a [`Constraint`], the state of one answer, which
//! says before every token which tokens may come next ([`Constraint::mask`]) and which must ([`Constraint::forced`]).
//! The only home of `llguidance` and `toktrie`; the engine sees token ids and bits.
//!
//! What is promised: a compiled shape costs bounded time and memory, at compiling and at every token ([`Limits`]); what cannot
//! be enforced is refused by its keyword, never let through. What is left out on purpose: white space that the model might
//! want. JSON answers are compact (`{"a":1,"b":[2,3]}`), calls have the white space of chat templates (`{"a": 1}`): with one
//! way to write everything between two values, all of it is forced and costs no decoding.

mod blame;
mod cache;
mod compile;
mod constraint;
mod gate;
mod lexemes;
mod limits;
mod mask;
mod multiple;
mod schema;
mod size;
mod terminals;
mod vocabulary;

use serde_json::Value;
use thiserror::Error;

pub use constraint::Constraint;
pub use limits::Limits;
pub use mask::{Allowed, Mask};
pub use vocabulary::Vocabulary;

use crate::job::{Format, Tool, ToolChoice};

/// What an answer has to be.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// Any JSON object.
    JsonObject,
    /// JSON that the schema describes; `strict` closes its objects to properties that it does not name.
    JsonSchema { schema: &'a Value, strict: bool },
    /// A text that the expression matches whole.
    Regex(&'a str),
    /// A text of the grammar, in llguidance's variant of Lark.
    Lark(&'a str),
    /// Calls of these tools, and where the choice leaves room for it text: any, or JSON of this format.
    Tools { tools: &'a [Tool], choice: &'a ToolChoice, parallel: bool, format: &'a Format },
}

/// A shape that cannot be had, or an answer that left its shape.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// A keyword that would have to be ignored.
    #[error("`{}` at `{}` is not supported{}", shown(.keyword), shown(.at), because(.reason))]
    Unsupported { keyword: String, at: String, reason: String },
    /// No answer fits.
    #[error("`{}` at `{}` cannot be satisfied{}", shown(.keyword), shown(.at), because(.reason))]
    Unsatisfiable { keyword: String, at: String, reason: String },
    /// More than a limit allows.
    #[error("it has {found} {what}, limit {limit}")]
    TooLarge { what: &'static str, found: usize, limit: usize },
    /// It does not compile, for a reason that belongs to no single keyword.
    #[error("it does not compile: {0}")]
    Invalid(String),
    /// One of the tools, by its place in the request.
    #[error("tool {index}: {error}")]
    Tool { index: usize, error: Box<GrammarError> },
    /// The tokenizer's words cannot be told from its file.
    #[error("the tokenizer's vocabulary cannot be read as bytes: {0}")]
    Vocabulary(String),
    /// The compiled grammar broke, or a token came that it does not allow.
    #[error("the grammar stopped: {0}")]
    Stopped(String),
    /// Others have new shapes, too.
    #[error("{waiting} requests with new forms are before it, limit {limit}")]
    Crowded { waiting: usize, limit: usize },
    /// The machine has no thread or memory for it.
    #[error("compiling: {0}")]
    Machine(String),
}

/// The end of a place or name, which may be as long as the schema.
fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    match text.char_indices().rev().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((start, first)) => format!("…{}", &text[start + first.len_utf8()..]),
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

#[cfg(test)]
mod tests;
