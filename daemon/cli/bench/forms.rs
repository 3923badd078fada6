//! Answers of a given form: free text against JSON, and calls with what is forced read in pieces against token by token.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cli::bench::Bench;
use crate::cli::bench::load::{self, Opened};
use crate::cli::bench::report::Report;
use crate::cli::bench::served::{answer, ask, job};
use crate::engine::Engine;
use crate::fault::Fault;
use crate::job::{Format, Job, Message, Origin, Role, ToolChoice, Transport};
use crate::queue::Queue;
use crate::queue::admission::Limits;
use crate::transport::shape;
use crate::vitals::Vitals;

/// A report as a device would want it: names that the schema fixes, numbers and words that the model chooses.
const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "required": ["readings"], "properties": {"readings":
    {"type": "array", "minItems": 8, "maxItems": 8, "items": {"type": "object", "additionalProperties": false,
     "required": ["sensor", "value", "state"], "properties": {"sensor": {"type": "integer", "minimum": 0, "maximum": 999},
     "value": {"type": "integer", "minimum": 0, "maximum": 100}, "state": {"enum": ["normal", "warning", "alarm"]}}}}}}"#;
/// Calls of one round: enough that a round is long against the clock, few enough for a minute.
const CALLS_A_ROUND: usize = 20;

/// Rows that need an engine without guesses, so that only what is forced makes the difference.
pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<(), Fault> {
    if !bench.wants_any(&["json", "calls"]) {
        return Ok(());
    }
    let Opened { loaded, .. } = load::open(&bench.model, &bench.configured, |config| config.engine.guesses = false)?;
    let vitals = Arc::new(Vitals::new());
    let queue = Queue::new(loaded.prompter, Limits::new(CALLS_A_ROUND, loaded.shape.context), Arc::clone(&vitals));
    let engine = Engine::start(loaded.forward, loaded.words, loaded.plan, queue.source(), Arc::clone(&vitals))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| Fault::machine(format!("starting the callers' runtime: {error}")))?;
    let measured = runtime.block_on(async {
        if bench.wants("json") {
            json(bench, &queue, report).await?;
        }
        if let Some(file) = bench.calls.as_deref().filter(|_| bench.wants("calls")) {
            calls(bench, &queue, &read(file)?, report).await?;
        }
        Ok(())
    });
    queue.drain();
    engine.join();
    measured
}

/// Tokens a second of free text, and of JSON that follows a schema.
async fn json(bench: &Bench, queue: &Queue, report: &mut Report) -> Result<(), Fault> {
    let schema: Value =
        serde_json::from_str(SCHEMA).map_err(|error| Fault::bug(format!("the bench's schema: {error}")))?;
    for round in 0..=bench.rounds {
        let free = ask(queue, job("Say what you see.", 128)).await?;
        let mut formed = job("Report the sensors.", 1024);
        formed.ignore_eos = false;
        formed.format = Format::JsonSchema { schema: schema.clone(), strict: true };
        let formed = ask(queue, formed).await?;
        // The first round compiles the schema.
        if round > 0 {
            for (name, outcome) in [("json_free_text", &free), ("json_schema", &formed)] {
                // From the end of the prompt on: what is forced behind the first token costs its time before anybody hears it.
                let before = outcome.timing.queue + outcome.timing.prefill;
                let rest = outcome.timing.total.saturating_sub(before).as_secs_f64();
                let tokens = u32::try_from(outcome.usage.generated_tokens.saturating_sub(1)).unwrap_or(u32::MAX);
                report.sample(name, "tokens/s", f64::from(tokens) / rest.max(1e-9));
            }
        }
    }
    Ok(())
}

/// The time from the first token to the end of the same calls, with what is forced in pieces and one by one; interleaved.
async fn calls(bench: &Bench, queue: &Queue, asked: &[Job], report: &mut Report) -> Result<(), Fault> {
    let again = |original: &Job, exact: bool| {
        let mut job = Job::new(original.origin.clone(), original.messages.clone());
        job.tools.clone_from(&original.tools);
        job.tool_choice = ToolChoice::Required;
        job.max_tokens = Some(200);
        job.reproducible = exact;
        job
    };
    let asked = &asked[..asked.len().min(CALLS_A_ROUND)];
    for round in 0..=bench.rounds {
        let (mut pieces, mut singles) = (Duration::ZERO, Duration::ZERO);
        let (mut tokens, mut differing) = (0_u32, 0_u32);
        for original in asked {
            let (quick, fast) = answer(queue, again(original, false)).await?;
            let (careful, slow) = answer(queue, again(original, true)).await?;
            pieces += fast.timing.total.saturating_sub(fast.timing.first_token);
            singles += slow.timing.total.saturating_sub(slow.timing.first_token);
            tokens += u32::try_from(fast.usage.generated_tokens).unwrap_or(u32::MAX);
            differing += u32::from(quick != careful);
        }
        // The first round compiles the tools and reads the prompts.
        if round > 0 {
            report.sample("calls_forced_in_pieces", "ms", pieces.as_secs_f64() * 1e3);
            report.sample("calls_one_by_one", "ms", singles.as_secs_f64() * 1e3);
            report.sample("calls_gain", "times", singles.as_secs_f64() / pieces.as_secs_f64().max(1e-9));
            report.sample("calls_tokens", "tokens", f64::from(tokens));
            report.sample("calls_that_differ", "answers", f64::from(differing));
        }
    }
    Ok(())
}

/// Requests with tools, one JSON object a line: `messages` and `tools` as in a request over the socket.
fn read(file: &Path) -> Result<Vec<Job>, Fault> {
    let named = |reason: String| Fault::config(format!("calls `{}`: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let mut jobs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |reason: String| named(format!("line {}: {reason}", number + 1));
        let value: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let origin = Origin { transport: Transport::Http, client: "bench".to_owned() };
        let mut job = Job::new(origin, vec![Message::text(Role::User, "")]);
        job.messages = shape::read_messages(&value["messages"]).map_err(|fault| wrong(fault.message))?;
        job.tools = shape::read_tools(&value["tools"]).map_err(|fault| wrong(fault.message))?;
        jobs.push(job);
    }
    Ok(jobs)
}
