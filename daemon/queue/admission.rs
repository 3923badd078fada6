//! May this job enter? Counting only; no model, no clock.

use std::time::Duration;

use crate::config::Queue;
use crate::fault::{Code, Fault, Kind};

/// The bounds of the room and of the model behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that may wait.
    pub waiting_max: usize,
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// A background job that has waited this long counts as interactive.
    pub aging: Duration,
    /// Whether callers of different identity may notice each other's prompts by the time that a first token takes.
    pub prefix_shared: bool,
}

impl Limits {
    /// Bounds of the room and the context; everything else as the settings have it by default.
    pub fn new(waiting_max: usize, context: usize) -> Self {
        let Queue { aging, .. } = Queue::default();
        Self { waiting_max, context, aging: aging.0, prefix_shared: false }
    }
}

impl Limits {
    /// Whether one more job may wait beside these, which are those that could be before it: alarms count for alarms only.
    pub fn admit(&self, waiting: usize) -> Result<(), Fault> {
        if waiting < self.waiting_max {
            return Ok(());
        }
        let message = format!("the queue is full: {waiting} waiting, limit {}", self.waiting_max);
        Err(Fault::new(Kind::Busy, Code::QueueFull, message))
    }

    /// The most tokens that the answer may have: what was asked for, else all that the context has left.
    pub fn fit(&self, prompt_tokens: usize, max_tokens: Option<usize>) -> Result<usize, Fault> {
        let too_long = |message: String, param: &str| {
            Err(Fault::new(Kind::Caller, Code::ContextLengthExceeded, message).param(param))
        };
        if prompt_tokens >= self.context {
            let message = format!(
                "the prompt has {prompt_tokens} tokens, this model reads at most {} with at least 1 left to answer",
                self.context
            );
            return too_long(message, "messages");
        }
        let left = self.context - prompt_tokens;
        match max_tokens {
            None => Ok(left),
            Some(asked) if asked <= left => Ok(asked.max(1)),
            Some(asked) => {
                let message = format!(
                    "the prompt has {prompt_tokens} tokens and `max_tokens` asks for {asked} more: together {}, this model reads at most {}",
                    prompt_tokens.saturating_add(asked),
                    self.context
                );
                too_long(message, "max_tokens")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_limit_and_the_number_that_broke_it() {
        let limits = Limits::new(8, 100);
        assert!(limits.admit(7).is_ok());
        assert_eq!(limits.admit(8).unwrap_err().message, "the queue is full: 8 waiting, limit 8");
        assert_eq!(limits.fit(40, None), Ok(60));
        assert_eq!(limits.fit(40, Some(60)), Ok(60));
        let fault = limits.fit(40, Some(61)).unwrap_err();
        assert!(
            fault.message.contains("40 tokens")
                && fault.message.contains("together 101")
                && fault.message.contains("at most 100"),
            "{fault}"
        );
        let fault = limits.fit(100, None).unwrap_err();
        assert!(fault.message.contains("has 100 tokens, this model reads at most 100"), "{fault}");
    }
}
