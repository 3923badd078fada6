//! The room with a scripted engine behind it.

use std::time::{Duration, Instant};

use super::room::RETRY_AFTER;
use super::*;
use crate::engine::pace::Pace;
use crate::engine::scripted::ScriptedForward;
use crate::engine::sequence::Words;
use crate::engine::step::Plan;
use crate::engine::{Engine, Room as Space};
use crate::job::{Event, Finish, Format, JobId, Message, Origin, Priority, Role, Tool, ToolChoice, Transport};
use crate::text::template::Template;

const CONTEXT: usize = 128;
const TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% endfor %}|";

pub(crate) fn room(waiting_max: usize, script: &'static str) -> (Queue, ScriptedForward, Words) {
    build(Limits::new(waiting_max, CONTEXT), script)
}

fn build(limits: Limits, script: &'static str) -> (Queue, ScriptedForward, Words) {
    let tokenizer = crate::text::test_tokenizer();
    let end = tokenizer.id("<|im_end|>").unwrap();
    let template = Template::new(TEMPLATE.to_owned(), String::new(), String::new()).unwrap();
    let vocabulary = crate::text::grammar::Vocabulary::new(&tokenizer, &[end], 264);
    let prompter = Prompter::new(template, tokenizer.clone(), CONTEXT, vocabulary);
    let queue = Queue::new(prompter, limits, Arc::new(Vitals::new()));
    // Says `script` after the bar that ends the prompt.
    let forward = ScriptedForward::new(
        264,
        CONTEXT,
        2,
        Box::new(move |tokens| {
            let said = tokens.len() - 1 - tokens.iter().position(|token| *token == u32::from(b'|')).unwrap_or(0);
            script.as_bytes().get(said).map_or(end, |byte| u32::from(*byte))
        }),
    );
    (queue, forward, Words { tokenizer, eos: vec![end] })
}

fn start(queue: &Queue, forward: ScriptedForward, words: Words) -> Engine {
    Engine::start(
        Box::new(forward),
        words,
        Plan { pace: Pace::unmeasured(16), reserve: 0, guesses: true },
        queue.source(),
        Arc::new(Vitals::new()),
    )
    .unwrap()
}

fn job(text: &str) -> Job {
    Job::new(Origin { transport: Transport::Http, client: "uid:0".into() }, vec![Message::text(Role::User, text)])
}

async fn hear(ticket: &mut Ticket) -> (String, Vec<Event>) {
    let (mut text, mut rest) = (String::new(), Vec::new());
    while let Some(event) = ticket.next().await {
        match event {
            Event::Text(piece) => text.push_str(&piece),
            Event::Started => {}
            other => rest.push(other),
        }
    }
    (text, rest)
}

fn finish(events: &[Event]) -> Option<Finish> {
    match events {
        [.., Event::Finished(outcome)] => Some(outcome.finish),
        _ => None,
    }
}

#[tokio::test]
async fn a_job_is_answered_and_ends_once() {
    let (queue, forward, words) = room(4, "hello");
    let engine = start(&queue, forward, words);
    let mut ticket = queue.submit(job("hi")).unwrap();
    assert_eq!(ticket.prompt_tokens(), 3);
    let (text, rest) = hear(&mut ticket).await;
    assert_eq!((text.as_str(), rest.len(), finish(&rest)), ("hello", 1, Some(Finish::Stop)));
    assert_eq!(ticket.next().await, None);
    queue.drain();
    assert_eq!(engine.join(), crate::engine::Ended::Drained);
    assert_eq!(queue.submit(job("hi")).err().unwrap().code, Code::Unavailable);
}

#[tokio::test]
async fn one_job_more_than_may_wait_is_refused_with_both_numbers() {
    let (queue, _forward, _words) = room(2, "");
    let _waiting = [queue.submit(job("a")).unwrap(), queue.submit(job("b")).unwrap()];
    let fault = queue.submit(job("c")).err().unwrap();
    assert_eq!((fault.code, fault.message.as_str()), (Code::QueueFull, "the queue is full: 2 waiting, limit 2"));
    assert!(fault.retry_after.is_some());
}

#[tokio::test]
async fn what_was_accepted_waits_in_the_line_when_less_urgent_jobs_are_refused_and_is_never_counted_as_refused() {
    let (queue, _forward, _words) = room(1, "");
    let willingness = Willingness::default();
    willingness.set(Some(crate::governor::willingness::Refusal {
        code: Code::Thermal,
        least: Priority::Interactive,
        reason: "hot".to_owned(),
        retry_after: RETRY_AFTER,
    }));
    assert!(queue.is_willing(Priority::Background), "nobody has said otherwise");
    queue.heed(willingness);
    assert_eq!(Priority::ALL.map(|priority| queue.is_willing(priority)), [true, true, false]);
    let refusals = || queue.gate.vitals.page().lines().filter(|line| line.starts_with("moed_refusals_total")).count();
    let background = |accepted| Job { priority: Priority::Background, accepted, ..job("a") };
    let _waiting = queue.submit(background(true)).unwrap();
    assert_eq!(queue.submit(background(true)).err().unwrap().code, Code::QueueFull, "it comes again by itself");
    assert_eq!(refusals(), 0);
    assert_eq!(queue.submit(background(false)).err().unwrap().code, Code::Thermal);
    assert_eq!(refusals(), 1);
}

#[tokio::test]
async fn a_waiting_job_ends_when_it_is_cancelled_dropped_or_late_not_when_its_turn_comes() {
    let (queue, _forward, _words) = room(8, "");
    let mut cancelled = queue.submit(job("a")).unwrap();
    cancelled.cancel_flag().raise();
    let (_, rest) = hear(&mut cancelled).await;
    assert!(matches!(&rest[..], [Event::Failed(fault)] if fault.code == Code::Cancelled), "{rest:?}");

    let mut late = job("b");
    late.deadline = Some(Instant::now() + Duration::from_millis(30));
    let mut late = queue.submit(late).unwrap();
    let (_, rest) = hear(&mut late).await;
    assert!(matches!(&rest[..], [Event::Failed(fault)] if fault.code == Code::DeadlineExceeded), "{rest:?}");

    let dropped = queue.submit(job("c")).unwrap();
    assert_eq!(queue.waiting(), 1);
    drop(dropped);
    assert_eq!(queue.waiting(), 0);

    let mut passed = job("d");
    passed.deadline = Some(Instant::now());
    assert_eq!(queue.submit(passed).err().unwrap().code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_most_urgent_job_goes_first() {
    let (queue, _forward, _words) = room(8, "");
    let tickets: Vec<Ticket> = [Priority::Background, Priority::Interactive, Priority::Alarm, Priority::Interactive]
        .into_iter()
        .map(|priority| queue.submit(Job { priority, ..job("x") }).unwrap())
        .collect();
    let ids: Vec<JobId> = tickets.iter().map(Ticket::id).collect();
    let mut source = queue.source();
    let order: Vec<JobId> = std::iter::from_fn(|| source.take(Space { running: 0, least: Priority::Background }))
        .map(|task| task.id)
        .collect();
    assert_eq!(order, [ids[2], ids[1], ids[3], ids[0]]);
}

#[tokio::test]
async fn a_prompt_over_the_context_is_refused_with_its_number_even_when_it_is_huge() {
    let (queue, _forward, _words) = room(8, "");
    let fault = queue.submit(job(&"x".repeat(CONTEXT))).err().unwrap();
    assert_eq!(fault.code, Code::ContextLengthExceeded);
    assert!(
        fault.message.contains("129 tokens, this model reads at most 128") || fault.message.contains("at least"),
        "{fault}"
    );
    let fault = queue.submit(job(&"x".repeat(4 << 20))).err().unwrap();
    assert!(fault.message.contains("at least"), "{fault}");
}

#[tokio::test]
async fn calls_are_split_from_text_and_one_that_does_not_fit_is_an_error() {
    let tool = || Tool {
        name: "on".into(),
        description: None,
        strict: false,
        parameters: Some(serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}}})),
    };
    let with_tool = || Job { tools: vec![tool()], ..job("x") };
    let (queue, forward, words) =
        room(4, "ok <tool_call>{\"name\": \"on\", \"arguments\": {\"name\": \"Hall\"}}</tool_call>");
    let _engine = start(&queue, forward, words);
    let (text, rest) = hear(&mut queue.submit(with_tool()).unwrap()).await;
    assert_eq!(text, "ok");
    assert!(
        matches!(&rest[0], Event::Call(call) if call.name == "on" && call.arguments == "{\"name\": \"Hall\"}"),
        "{rest:?}"
    );
    assert_eq!(finish(&rest), Some(Finish::ToolCalls));
    let (text, _) = hear(&mut queue.submit(job("x")).unwrap()).await;
    assert!(text.starts_with("ok <tool_call>"), "without tools it is text: {text}");

    let (queue, forward, words) =
        room(4, "<tool_call>{\"name\": \"on\", \"arguments\": {\"colour\": 3}}</tool_call> and more");
    let _engine = start(&queue, forward, words);
    let (_, rest) = hear(&mut queue.submit(with_tool()).unwrap()).await;
    assert!(
        matches!(&rest[..], [Event::Failed(fault)] if fault.message.contains("`on.colour` is not a parameter")),
        "{rest:?}"
    );

    let (queue, forward, words) = room(4, "<tool_call>{\"name\": \"on\"");
    let _engine = start(&queue, forward, words);
    let (text, rest) = hear(&mut queue.submit(with_tool()).unwrap()).await;
    assert!(
        matches!(&rest[..], [Event::Failed(fault)] if fault.message.contains("middle of a call")),
        "{text} {rest:?}"
    );
    // Cut by its length it says so, and what there is is text.
    let cut = Job { max_tokens: Some(20), ..with_tool() };
    let (text, rest) = hear(&mut queue.submit(cut).unwrap()).await;
    assert_eq!((text.as_str(), finish(&rest)), ("<tool_call>{\"name\": ", Some(Finish::Length)));
}

#[tokio::test]
async fn a_caller_over_its_share_is_refused_and_gets_its_share_back() {
    let (queue, _forward, _words) = build(Limits::new(8, CONTEXT), "");
    queue.ration(crate::config::Quota { concurrent: 2, ..crate::config::Quota::default() });
    let first = queue.submit(job("a")).unwrap();
    let _second = queue.submit(job("b")).unwrap();
    let fault = queue.submit(job("c")).err().unwrap();
    assert_eq!((fault.code, fault.retry_after.is_some()), (Code::QuotaExceeded, true), "{fault}");
    let mut other = job("d");
    other.origin.client = "uid:1".into();
    let _other = queue.submit(other).unwrap();
    drop(first);
    assert!(queue.submit(job("c")).is_ok());
}

#[test]
fn a_form_that_cannot_be_had_is_the_callers_fault_and_names_field_and_keyword() {
    let (queue, _, _) = room(8, "");
    let refused =
        |job: Job| queue.submit(job).err().map(|fault| (fault.code, fault.param.unwrap_or_default(), fault.message));
    let schema = |schema: serde_json::Value| Format::JsonSchema { schema, strict: false };
    let with = |format: Format| Job { format, ..job("x") };
    let (code, param, message) = refused(with(schema(serde_json::json!({"not": {}})))).unwrap();
    assert_eq!((code, param.as_str()), (Code::InvalidRequest, "response_format"));
    assert_eq!(message, "`response_format` cannot be enforced: `not` at `#` is not supported");
    let (_, param, message) = refused(with(Format::Regex("[".to_owned()))).unwrap();
    assert_eq!(param, "response_format");
    assert!(message.contains("unclosed character class"), "{message}");
    let tool = |strict| Tool {
        name: "f".to_owned(),
        description: None,
        parameters: Some(serde_json::json!({"type": "object", "properties": {"a": {"contains": {}}}})),
        strict,
    };
    let fine = Tool { name: "g".to_owned(), parameters: None, ..tool(true) };
    let (code, param, message) = refused(Job { tools: vec![fine.clone(), tool(true)], ..job("x") }).unwrap();
    assert_eq!((code, param.as_str()), (Code::InvalidRequest, "tools[1].function.parameters"));
    assert!(message.contains("`contains` at `#/properties/a`"), "{message}");
    assert_eq!(refused(Job { tools: vec![fine, tool(false)], ..job("x") }), None);
    assert_eq!(refused(with(schema(serde_json::json!({"type": "object"})))), None);
    assert_eq!(queue.waiting(), 0, "a dropped ticket leaves nothing behind");
}

#[test]
fn without_a_vocabulary_only_what_counts_on_a_form_is_refused() {
    let error = crate::text::grammar::GrammarError::Vocabulary("it is of no known kind".to_owned());
    let template = Template::new(TEMPLATE.to_owned(), String::new(), String::new()).unwrap();
    let prompter = Prompter::new(template, crate::text::test_tokenizer(), CONTEXT, Err(error));
    let tool = Tool { name: "f".to_owned(), description: None, parameters: None, strict: false };
    let plain = Job { tools: vec![tool.clone()], ..job("x") };
    assert!(prompter.grammar(&plain).unwrap().is_none() && prompter.grammar(&job("x")).unwrap().is_none());
    for demanding in [
        Job { format: Format::JsonObject, ..job("x") },
        Job { tool_choice: ToolChoice::Required, ..plain.clone() },
        Job { parallel_calls: false, ..plain.clone() },
        Job { tools: vec![Tool { strict: true, ..tool }], ..job("x") },
    ] {
        let fault = prompter.grammar(&demanding).unwrap_err();
        assert_eq!((fault.code, fault.kind), (Code::InvalidRequest, Kind::Caller));
        assert!(fault.message.contains("vocabulary"), "{fault}");
    }
}

#[tokio::test]
async fn a_drain_finishes_the_background_work_that_a_hot_board_keeps_waiting() {
    let (queue, forward, words) = room(4, "hello");
    let mut background = job("hi");
    background.priority = Priority::Background;
    let mut ticket = queue.submit(background).unwrap();
    let mut source = queue.source();
    let mut kept_out = |least| source.take(Space { running: 0, least }).is_none();
    assert!(kept_out(Priority::Interactive), "it waits while the room is open");
    queue.drain();
    assert!(kept_out(Priority::Alarm), "a slot that is kept for alarms stays theirs");

    let limits = crate::engine::oversight::Limits::default();
    limits.set(&crate::governor::Level::Refusing.allowance(2, 16));
    let oversight = crate::engine::oversight::Oversight { limits, ..Default::default() };
    let plan = Plan { pace: Pace::unmeasured(16), reserve: 0, guesses: true };
    let vitals = Arc::new(Vitals::new());
    let engine = Engine::start_under(oversight, Box::new(forward), words, plan, source, vitals).unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(30), hear(&mut ticket)).await;
    let (text, rest) = heard.expect("the job is served");
    assert_eq!((text.as_str(), finish(&rest)), ("hello", Some(Finish::Stop)));
    assert_eq!(engine.join(), crate::engine::Ended::Drained);
}

#[tokio::test]
async fn whoever_comes_after_a_move_is_served_by_the_other_model_and_the_first_one_finishes_what_it_has() {
    let (queue, forward, words) = room(3, "old");
    let (_, other, other_words) = room(3, "new");
    let (first, source) = (queue.room(), queue.source());
    let before = [queue.submit(job("a")).unwrap(), queue.submit(job("b")).unwrap()];
    let template = Template::new(TEMPLATE.to_owned(), String::new(), String::new()).unwrap();
    let vocabulary = crate::text::grammar::Vocabulary::new(&words.tokenizer, &words.eos, 264);
    let prompter = Prompter::new(template, words.tokenizer.clone(), CONTEXT, vocabulary);
    let limits = Limits::new(3, CONTEXT);
    let annex = queue.annex(Fittings { model: "other".to_owned(), prompter, limits, house: None });
    let plan = Plan { pace: Pace::unmeasured(16), reserve: 0, guesses: true };
    let mut door = annex.source();
    queue.move_to(annex);
    let alone = queue.submit(Job { attempt: 3, ..job("c") }).unwrap();
    assert_eq!((queue.waiting(), alone.model(), before[0].model()), (3, "other", ""));
    let full = queue.submit(job("d")).err().unwrap();
    assert_eq!(full.message, "the queue is full: 3 waiting, limit 3", "both rooms count");
    let space = Space { running: 0, least: Priority::Background };
    assert!(door.take(space).is_none(), "it is not alone while the other engine has work");
    // A job that was sent to the first room in time, and is still being rendered.
    let late = Coming::to(&first);
    let engine = Engine::start(Box::new(forward), words, plan.clone(), source, Arc::new(Vitals::new())).unwrap();
    for mut ticket in before {
        assert_eq!(hear(&mut ticket).await.0, "old");
    }
    assert!(engine.is_alive(), "it waits for whoever is on the way");
    let mut ticket = late.room.submit(job("e")).unwrap();
    drop(late);
    assert_eq!(hear(&mut ticket).await.0, "old");
    assert_eq!(engine.join(), crate::engine::Ended::Drained);
    let engine = Engine::start(Box::new(other), other_words, plan, door, Arc::new(Vitals::new())).unwrap();
    let mut alone = alone;
    assert_eq!(hear(&mut alone).await.0, "new");
    assert_eq!(queue.state(), State::Open);
    queue.drain();
    assert_eq!(engine.join(), crate::engine::Ended::Drained);
    assert_eq!(queue.state(), State::Closed);
}

#[tokio::test]
async fn ten_thousand_jobs_wait_and_come_out_by_urgency_and_age_and_the_next_one_is_refused() {
    const JOBS: usize = 10_000;
    let (queue, _forward, _words) = room(JOBS, "");
    let mut tickets = Vec::with_capacity(JOBS);
    for number in 0..JOBS {
        let priority = if number % 3 == 0 { Priority::Background } else { Priority::Interactive };
        tickets.push(queue.submit(Job { priority, whole: true, ..job("a") }).unwrap());
    }
    let fault = queue.submit(job("b")).err().unwrap();
    assert_eq!(fault.message, format!("the queue is full: {JOBS} waiting, limit {JOBS}"));
    let mut source = queue.source();
    let mut order = Vec::with_capacity(JOBS);
    while let Some(task) = source.take(Space { running: 0, least: Priority::Background }) {
        order.push((task.priority, task.id));
    }
    let mut expected: Vec<(Priority, JobId)> = tickets
        .iter()
        .enumerate()
        .map(|(number, ticket)| {
            (if number % 3 == 0 { Priority::Background } else { Priority::Interactive }, ticket.id())
        })
        .collect();
    expected.sort_by_key(|(priority, _)| *priority == Priority::Background);
    assert!(order == expected, "{} of {JOBS} in order", order.iter().zip(&expected).filter(|(a, b)| a == b).count());
}

#[tokio::test]
async fn callers_share_kept_prompts_only_where_the_limits_say_so() {
    for shared in [false, true] {
        let (queue, _forward, _words) = build(Limits { prefix_shared: shared, ..Limits::new(4, CONTEXT) }, "");
        let mut tickets = Vec::new();
        for client in ["uid:1", "uid:1", "uid:2"] {
            let mut asked = job("a");
            asked.origin.client = client.to_owned();
            tickets.push(queue.submit(asked).unwrap());
        }
        let mut source = queue.source();
        let scopes: Vec<_> = std::iter::from_fn(|| source.take(Space { running: 0, least: Priority::Background }))
            .map(|task| task.scope)
            .collect();
        assert_eq!((scopes.len(), scopes[0] == scopes[1], scopes[0] == scopes[2]), (3, true, shared));
    }
}
