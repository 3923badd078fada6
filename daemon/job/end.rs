//! What a job comes to: its events, its end, what it cost.

use std::time::Duration;

use super::ToolCall;
use crate::fault::Fault;

/// Why an answer ended, when it was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model said so, or a stop text did.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The answer is (or ends in) calls for the caller to run.
    ToolCalls,
    /// The caller asked for the end after the job had started.
    Cancelled,
    /// The deadline passed after the job had started.
    Deadline,
}

impl Finish {
    /// The name on the wire, in the journal and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
        }
    }
}

/// Energy of the whole board.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Joules {
    /// All that was drawn.
    pub gross: f64,
    /// What was drawn beyond the idle board; `None`: the board has not been seen idle yet.
    pub net: Option<f64>,
}

/// A job's share of the board's energy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Energy {
    pub prefill: Joules,
    pub decode: Joules,
    /// The share of the time, 0 to 1, that lies between two readings of the sensor; the rest is estimated by the nearest one.
    pub coverage: f64,
}

/// What a job cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub prompt_tokens: usize,
    /// Of the prompt, how many came from a cache instead of being computed.
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    /// `None`: no sensor says.
    pub energy: Option<Energy>,
}

/// Where a job's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to the first work on it.
    pub queue: Duration,
    /// Reading the prompt.
    pub prefill: Duration,
    /// From submission to the first token; zero when there was none.
    pub first_token: Duration,
    /// From submission to the end.
    pub total: Duration,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub finish: Finish,
    pub usage: Usage,
    pub timing: Timing,
    /// The seed that made it; drawn where the client gave none.
    pub seed: u64,
    /// How likely the least likely of its tokens was to the model, no rule applied; 0 to 1, `None` where nobody asked.
    pub confidence: Option<f32>,
}

/// What comes back for a job, in order: `Started`, any number of `Text` and `Call`, then exactly one `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The engine has taken the job up.
    Started,
    /// More of the answer's text; whole characters, never empty.
    Text(String),
    /// One whole call.
    Call(ToolCall),
    /// The end of an answer.
    Finished(Outcome),
    /// The end without one.
    Failed(Fault),
}
