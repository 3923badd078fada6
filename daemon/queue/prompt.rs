//! A job's messages and tools to token ids. After this no message exists.

use crate::fault::{Code, Fault, Kind};
use crate::job::Job;
use crate::text::template::{Template, TemplateError};
use crate::text::tokenizer::Tokenizer;

/// Renders and tokenises. Cheap to clone.
#[derive(Clone)]
pub struct Prompter {
    template: Template,
    tokenizer: Tokenizer,
    context: usize,
    /// Bytes of the longest token's text: a rendered prompt of `n` bytes has at least `n / longest` tokens.
    longest: usize,
}

impl Prompter {
    /// A prompter for a model that reads `context` tokens.
    pub fn new(template: Template, tokenizer: Tokenizer, context: usize) -> Self {
        let longest = tokenizer.longest_token().max(1);
        Self { template, tokenizer, context, longest }
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
