//! The words that every room shares: a [`Job`] goes in, [`Event`]s come out, one [`Finish`] ends it.
//!
//! A transport makes a `Job` out of bytes and turns `Event`s back into bytes.
//! Nothing here knows JSON text, topics, HTTP or tensors; a tool's schema stays a JSON value because a JSON Schema is one.

mod cancel;
mod end;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use cancel::{CancelFlag, Interrupt};
pub use end::{Energy, Event, Finish, Joules, Outcome, Timing, Usage};

/// Names one job within this process; never reused, never sent to a client as its only handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    /// Draws the next number.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The name that chat templates and the wire use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    /// The text; `None` only beside tool calls.
    pub content: Option<String>,
    /// The calls that an assistant turn made.
    pub tool_calls: Vec<ToolCall>,
    /// For a tool's turn: the call that it answers.
    pub tool_call_id: Option<String>,
    /// A speaker's or a tool's name, where the client gave one.
    pub name: Option<String>,
}

impl Message {
    /// A turn that is text and nothing else.
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), tool_calls: Vec::new(), tool_call_id: None, name: None }
    }
}

/// A function that the model may ask the caller to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// A JSON Schema of type `object`; `None` for a tool without parameters.
    pub parameters: Option<serde_json::Value>,
    /// The schema is kept to the letter or the request is refused; otherwise as far as it can be.
    pub strict: bool,
}

/// Whether the answer may, must or must not call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The model sees no tools.
    None,
    /// One call at least.
    Required,
    /// A call of this tool.
    Named(String),
}

/// What the answer's text must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Whatever the model says.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema describes. `strict`: no property beside those that it names.
    JsonSchema { schema: serde_json::Value, strict: bool },
    /// A text that this regular expression matches whole.
    Regex(String),
    /// A text of this grammar, written as llguidance's variant of Lark.
    Lark(String),
}

/// A call that the model made, or that a client reports it to have made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// A JSON object as text, exactly as it was written.
    pub arguments: String,
}

/// How the next token is chosen. The defaults are the model's own choice at every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// 0 looks at all tokens.
    pub top_k: usize,
    /// 1 keeps all tokens.
    pub top_p: f32,
    /// 0 keeps all tokens.
    pub min_p: f32,
    /// 1 changes nothing; over prompt and answer, as in the CTRL paper.
    pub repetition_penalty: f32,
    /// OpenAI's: once for a token that the answer already has.
    pub presence_penalty: f32,
    /// OpenAI's: for each time that the answer already has it.
    pub frequency_penalty: f32,
    /// What the random numbers start from. Drawn at acceptance where the client gave none.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }
}

/// Who goes first when more wait than run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Background,
    #[default]
    Interactive,
    Alarm,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Alarm, Self::Interactive, Self::Background];

    /// The name on the wire, in logs and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }

    /// Reads the name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

/// The way a job came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Http,
    Mqtt,
}

impl Transport {
    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mqtt => "mqtt",
        }
    }
}

/// Where a job came from; for logs, metrics and quotas, never for routing an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub transport: Transport,
    /// The socket peer's `uid:N`, or the client's name in the topic.
    pub client: String,
}

/// One question, whole: what to say, how to choose, when to stop, for whom.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub origin: Origin,
    /// The conversation; never empty.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    /// Nothing was said of tools, so that a model's own may be offered.
    pub tools_unsaid: bool,
    pub tool_choice: ToolChoice,
    /// Several calls in one answer are as good as one.
    pub parallel_calls: bool,
    pub format: Format,
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// The most tokens to generate; `None`: whatever the context has left.
    pub max_tokens: Option<usize>,
    /// No end-of-sequence token before this many.
    pub min_tokens: usize,
    /// End-of-sequence tokens do not end the answer.
    pub ignore_eos: bool,
    pub priority: Priority,
    /// Of its caller's groups those that may matter; for quotas.
    pub groups: Vec<u32>,
    /// Bytes that the request took on its way in; for quotas.
    pub bytes: usize,
    /// Taken on earlier, by this process or one before it: its caller's quotas have been asked.
    pub accepted: bool,
    pub deadline: Option<Instant>,
    /// Same tokens on the same machine, model and provider, whatever else runs. Implied by a client's seed.
    pub reproducible: bool,
    /// Nobody hears the answer before its end: its text may come in one piece, and whoever waits for it is woken once.
    pub whole: bool,
    /// 1 at first; more when an earlier attempt died with the process.
    pub attempt: u32,
}

impl Job {
    /// A job with the defaults of every setting.
    pub fn new(origin: Origin, messages: Vec<Message>) -> Self {
        Self {
            id: JobId::next(),
            origin,
            messages,
            tools: Vec::new(),
            tools_unsaid: false,
            tool_choice: ToolChoice::Auto,
            parallel_calls: true,
            format: Format::Text,
            sampling: Sampling::default(),
            stop: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            priority: Priority::default(),
            groups: Vec::new(),
            bytes: 0,
            accepted: false,
            deadline: None,
            reproducible: false,
            whole: false,
            attempt: 1,
        }
    }
}
