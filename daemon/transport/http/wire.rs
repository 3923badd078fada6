//! OpenAI's JSON shapes of an answer, whole and in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::job::{JobId, Outcome, Timing, ToolCall, Usage};
use crate::transport::shape::energy_json;

/// A whole answer.
pub(super) struct Answer {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub outcome: Outcome,
}

/// What every chunk of one answer repeats.
pub(super) struct Card {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

impl Card {
    /// A card for one answer of this model. `epoch` tells answers of different daemon lives apart.
    pub(super) fn new(model: &str, provider: &str, epoch: u64) -> Self {
        Self {
            id: format!("chatcmpl-{epoch:x}-{}", JobId::next()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            model: model.to_owned(),
            fingerprint: format!("moed-{}-{provider}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// A `chat.completion`.
    pub(super) fn whole(&self, answer: &Answer) -> Value {
        let content = if answer.text.is_empty() && !answer.calls.is_empty() { Value::Null } else { json!(answer.text) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !answer.calls.is_empty() {
            message["tool_calls"] = answer.calls.iter().map(call_json).collect();
        }
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": answer.outcome.finish.name()}],
            "usage": usage_json(&answer.outcome.usage),
            "timings": timing_json(&answer.outcome.timing),
        })
    }

    /// The chunk that opens a stream.
    pub(super) fn opening(&self) -> Value {
        self.chunk(json!([choice(json!({"role": "assistant", "content": ""}), Value::Null)]))
    }

    /// A chunk with more text.
    pub(super) fn text(&self, text: &str) -> Value {
        self.chunk(json!([choice(json!({"content": text}), Value::Null)]))
    }

    /// A chunk with a whole call, the `index`th of the answer.
    pub(super) fn call(&self, index: usize, call: &ToolCall) -> Value {
        let mut call = call_json(call);
        call["index"] = json!(index);
        self.chunk(json!([choice(json!({"tool_calls": [call]}), Value::Null)]))
    }

    /// The chunk that ends an answer.
    pub(super) fn closing(&self, outcome: &Outcome) -> Value {
        let mut chunk = self.chunk(json!([choice(json!({}), json!(outcome.finish.name()))]));
        chunk["timings"] = timing_json(&outcome.timing);
        chunk
    }

    /// The chunk with the usage and no choice, for those who asked for it.
    pub(super) fn usage(&self, usage: &Usage) -> Value {
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = usage_json(usage);
        chunk
    }

    #[expect(clippy::needless_pass_by_value, reason = "moved into the JSON")]
    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "moved into the JSON")]
fn choice(delta: Value, finish: Value) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish})
}

fn call_json(call: &ToolCall) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        // Not OpenAI's.
        "energy": energy_json(usage.energy.as_ref()),
    })
}

/// Not OpenAI's: where the time went, in milliseconds.
fn timing_json(timing: &Timing) -> Value {
    let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(timing.queue),
        "prefill_ms": ms(timing.prefill),
        "first_token_ms": ms(timing.first_token),
        "total_ms": ms(timing.total),
    })
}
