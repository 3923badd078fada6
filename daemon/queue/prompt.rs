//! A job's messages and tools to token ids, and the form of its answer to a constraint. After this no message exists and no
//! schema.

use std::time::Duration;

use crate::fault::{Code, Fault, Kind};
use crate::job::{Format, Job, ToolChoice};
use crate::text::grammar::{Constraint, GrammarError, Limits, Shape, Vocabulary};
use crate::text::template::{Template, TemplateError};
use crate::text::tokenizer::Tokenizer;

/// When whoever finds too many new forms being compiled may come back: compiling one takes about as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Renders and tokenises. Cheap to clone.
#[derive(Clone)]
pub struct Prompter {
    template: Template,
    tokenizer: Tokenizer,
    context: usize,
    /// Bytes of the longest token's text: a rendered prompt of `n` bytes has at least `n / longest` tokens.
    longest: usize,
    /// Why there is none, where the tokenizer's words cannot be told.
    vocabulary: Result<Vocabulary, GrammarError>,
}

impl Prompter {
    /// A prompter for a model that reads `context` tokens. Without a vocabulary it refuses whatever asks for a form.
    pub fn new(
        template: Template,
        tokenizer: Tokenizer,
        context: usize,
        vocabulary: Result<Vocabulary, GrammarError>,
    ) -> Self {
        let longest = tokenizer.longest_token().max(1);
        Self { template, tokenizer, context, longest, vocabulary }
    }

    /// What holds a job's answer to its form; `None` where it may be anything.
    pub fn grammar(&self, job: &Job) -> Result<Option<Constraint>, Fault> {
        let Some(shape) = shape_of(job) else { return Ok(None) };
        match &self.vocabulary {
            Ok(vocabulary) => {
                vocabulary.compile(&shape, &Limits::default()).map(Some).map_err(|error| refuse(job, &error))
            }
            // Calls that the model makes by itself are compared with their tools when they are whole.
            Err(_) if !demands(job) => Ok(None),
            Err(error) => Err(refuse(job, error)),
        }
    }

    /// The ids that a job's conversation becomes.
    pub fn prompt(&self, job: &Job) -> Result<Vec<u32>, Fault> {
        let text = self.template.render(&job.messages, &job.tools, &self.tokenizer).map_err(|error| match error {
            // A template that fails or loops too long does so because of what it was given.
            TemplateError::Refused(_) | TemplateError::Seam | TemplateError::Render(_) => {
                Fault::invalid(error.to_string()).param("messages")
            }
            TemplateError::Parse(_) => Fault::bug(error.to_string()),
        })?;
        // Tokenising takes time; a text that cannot fit is refused without it.
        let least = text.len() / self.longest;
        if least >= self.context {
            let message = format!(
                "the prompt has at least {least} tokens ({} bytes), this model reads at most {}",
                text.len(),
                self.context
            );
            return Err(Fault::new(Kind::Caller, Code::ContextLengthExceeded, message).param("messages"));
        }
        let ids = self.tokenizer.encode(&text).map_err(|error| Fault::bug(error.to_string()))?;
        if ids.is_empty() {
            return Err(Fault::invalid("the conversation renders to nothing").param("messages"));
        }
        Ok(ids)
    }
}

/// What a job's answer has to be, if anything.
fn shape_of(job: &Job) -> Option<Shape<'_>> {
    if !job.tools.is_empty() {
        let (tools, choice) = (job.tools.as_slice(), &job.tool_choice);
        return Some(Shape::Tools { tools, choice, parallel: job.parallel_calls, format: &job.format });
    }
    match &job.format {
        Format::Text => None,
        Format::JsonObject => Some(Shape::JsonObject),
        Format::JsonSchema { schema, strict } => Some(Shape::JsonSchema { schema, strict: *strict }),
        Format::Regex(expression) => Some(Shape::Regex(expression)),
        Format::Lark(grammar) => Some(Shape::Lark(grammar)),
    }
}

/// Whether the caller counts on the form, as against a model that may call a tool.
fn demands(job: &Job) -> bool {
    job.format != Format::Text
        || !job.parallel_calls
        || matches!(job.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
        || job.tools.iter().any(|tool| tool.strict)
}

/// A form that cannot be had is the caller's to change, and the fault names the field.
fn refuse(job: &Job, error: &GrammarError) -> Fault {
    let param = match error {
        GrammarError::Machine(_) => return Fault::machine(error.to_string()),
        GrammarError::Stopped(_) => return Fault::bug(error.to_string()),
        GrammarError::Crowded { .. } => {
            return Fault::new(Kind::Busy, Code::Overloaded, error.to_string()).retry_after(RETRY_AFTER);
        }
        GrammarError::Tool { index, .. } => format!("tools[{index}].function.parameters"),
        _ if job.format == Format::Text => "tools".to_owned(),
        _ => "response_format".to_owned(),
    };
    let reason = match error {
        GrammarError::Tool { error, .. } => error,
        other => other,
    };
    Fault::invalid(format!("`{param}` cannot be enforced: {reason}")).param(param)
}
