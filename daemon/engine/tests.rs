//! The engine above [`Forward`], with the scripted double: no runtime, exact tokens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::scripted::ScriptedForward;
use super::sequence::EVENTS_BESIDE_TOKENS;
use super::*;
use crate::job::{CancelFlag, Event, Finish, JobId, Outcome, Sampling};
use crate::model::manifest::Golden;

/// Work in a list.
struct List(VecDeque<Task>);

impl Source for List {
    fn take(&mut self, running: usize) -> Option<Task> {
        if running > 0 && self.0.front().is_some_and(|task| task.alone) { None } else { self.0.pop_front() }
    }

    fn wait(&mut self, _: Duration) -> bool {
        !self.0.is_empty()
    }
}

const END: u32 = 258;

fn words() -> Words {
    Words { tokenizer: crate::text::test_tokenizer(), eos: vec![END] }
}

/// After a prompt that ends in a letter: the letters after it, up to `z`, then the end.
fn alphabet() -> scripted::Script {
    Box::new(|tokens| match tokens[tokens.len() - 1] {
        last if last < u32::from(b'z') => last + 1,
        _ => END,
    })
}

fn task(prompt: &str, max_tokens: usize) -> (Task, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(max_tokens + EVENTS_BESIDE_TOKENS);
    let task = Task {
        id: JobId::next(),
        prompt: prompt.bytes().map(u32::from).collect(),
        max_tokens,
        min_tokens: 0,
        ignore_eos: false,
        sampling: Sampling::default(),
        seed: 1,
        stop: Vec::new(),
        deadline: None,
        submitted: Instant::now(),
        cancel: CancelFlag::default(),
        alone: false,
        events,
    };
    (task, receiver)
}

fn stepper(forward: ScriptedForward, chunk: usize) -> Stepper {
    Stepper::new(Box::new(forward), words(), chunk)
}

fn run_all(stepper: &mut Stepper, source: &mut dyn Source) -> Turn {
    let vitals = Vitals::new();
    loop {
        match stepper.turn(source, &vitals) {
            Turn::Worked => {}
            end => return end,
        }
    }
}

/// Everything that was said: the text, and the end.
fn heard(receiver: &mut mpsc::Receiver<Event>) -> (String, Result<Outcome, Fault>) {
    let mut text = String::new();
    loop {
        match receiver.try_recv().expect("a job ends with an event") {
            Event::Started => {}
            Event::Text(piece) => text.push_str(&piece),
            Event::Finished(outcome) => return (text, Ok(outcome)),
            Event::Failed(fault) => return (text, Err(fault)),
            Event::Call(call) => panic!("the engine knows no calls: {call:?}"),
        }
    }
}

#[test]
fn many_jobs_of_different_lengths_get_the_answers_they_would_get_alone() {
    for (slots, chunk) in [(1, 3), (3, 3), (3, 5), (8, 64)] {
        let mut forward = ScriptedForward::new(264, 64, slots, alphabet());
        forward.shape_mut().row_max = chunk;
        let mut stepper = stepper(forward, chunk);
        let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..12_u8)
            .map(|number| task(&format!("{}{}", "x".repeat(usize::from(number)), char::from(b'a' + 2 * number)), 30))
            .unzip();
        assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle);
        for (number, mut receiver) in (0..12_u8).zip(receivers) {
            let expected: String = (b'b' + 2 * number..=b'z').map(char::from).collect();
            let (text, outcome) = heard(&mut receiver);
            let outcome = outcome.unwrap();
            assert_eq!((text, outcome.finish), (expected, Finish::Stop), "job {number}, {slots} slots, chunk {chunk}");
            assert_eq!(outcome.usage.prompt_tokens, usize::from(number) + 1);
        }
    }
}

#[test]
fn stop_texts_lengths_and_least_lengths_end_answers_where_they_say() {
    let mut stepper = stepper(ScriptedForward::new(264, 64, 2, alphabet()), 8);
    let (mut stop, mut stop_heard) = task("a", 30);
    stop.stop = vec!["fgh".to_owned()];
    let (length, mut length_heard) = task("a", 3);
    let (mut least, mut least_heard) = task("x", 6);
    least.min_tokens = 4;
    run_all(&mut stepper, &mut List([stop, length, least].into()));
    let (text, outcome) = heard(&mut stop_heard);
    assert_eq!((text.as_str(), outcome.unwrap().finish), ("bcde", Finish::Stop));
    let (text, outcome) = heard(&mut length_heard);
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.finish, outcome.usage.generated_tokens), ("bcd", Finish::Length, 3));
    let (_, outcome) = heard(&mut least_heard);
    let outcome = outcome.unwrap();
    assert!(outcome.usage.generated_tokens > 4, "{outcome:?}");
}

#[test]
fn a_cancelled_job_and_one_whose_listener_left_free_their_slots_and_the_others_go_on() {
    let forward = ScriptedForward::new(264, 256, 3, Box::new(|_| u32::from(b'a')));
    let mut stepper = stepper(forward, 4);
    let vitals = Vitals::new();
    let (cancelled, mut cancelled_heard) = task("one", 100);
    let (left, left_heard) = task("two", 100);
    let (stays, mut stays_heard) = task("three", 40);
    let flag = cancelled.cancel.clone();
    let mut source = List([cancelled, left, stays].into());
    for _ in 0..10 {
        stepper.turn(&mut source, &vitals);
    }
    assert_eq!(stepper.jobs(), 3);
    flag.raise();
    drop(left_heard);
    stepper.turn(&mut source, &vitals);
    assert_eq!(stepper.jobs(), 1, "one turn is enough");
    run_all(&mut stepper, &mut source);
    let (text, outcome) = heard(&mut cancelled_heard);
    assert_eq!(outcome.unwrap().finish, Finish::Cancelled);
    assert!(!text.is_empty(), "what was said stays said");
    assert_eq!(heard(&mut stays_heard).0, "a".repeat(40));
}

#[test]
fn a_job_cancelled_while_its_prompt_is_read_ends_before_its_first_token() {
    let mut stepper = stepper(ScriptedForward::new(264, 256, 2, alphabet()), 4);
    let vitals = Vitals::new();
    let (long, mut long_heard) = task(&"p".repeat(200), 10);
    let flag = long.cancel.clone();
    let mut source = List([long].into());
    stepper.turn(&mut source, &vitals);
    flag.raise();
    stepper.turn(&mut source, &vitals);
    assert_eq!(stepper.jobs(), 0);
    let (text, outcome) = heard(&mut long_heard);
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.finish, outcome.usage.generated_tokens), ("", Finish::Cancelled, 0));
}

#[test]
fn a_deadline_that_passes_while_running_ends_the_answer_with_what_there_is() {
    let mut forward = ScriptedForward::new(264, 256, 2, Box::new(|_| u32::from(b'a')));
    forward.step_time = Duration::from_millis(2);
    let mut stepper = stepper(forward, 4);
    let vitals = Vitals::new();
    let (mut late, mut late_heard) = task("x", 200);
    late.deadline = Some(Instant::now() + Duration::from_millis(20));
    let mut source = List([late].into());
    while stepper.turn(&mut source, &vitals) == Turn::Worked {}
    assert_eq!(heard(&mut late_heard).1.unwrap().finish, Finish::Deadline);
}

#[test]
fn a_failing_step_ends_its_jobs_with_one_error_each_and_the_engine_goes_on() {
    let mut forward = ScriptedForward::new(264, 64, 2, alphabet());
    forward.fails_at = vec![4];
    let mut stepper = stepper(forward, 8);
    let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..3).map(|_| task("a", 30)).unzip();
    assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle);
    let ends: Vec<bool> = receivers.into_iter().map(|mut receiver| heard(&mut receiver).1.is_ok()).collect();
    assert_eq!(ends, [false, false, true]);
}

#[test]
fn scores_that_are_no_numbers_end_only_the_job_they_belong_to() {
    let mut forward = ScriptedForward::new(264, 64, 1, alphabet());
    forward.not_a_number_at = vec![2];
    let mut stepper = stepper(forward, 8);
    let (tasks, mut receivers): (VecDeque<Task>, Vec<_>) = (0..2).map(|_| task("a", 30)).unzip();
    run_all(&mut stepper, &mut List(tasks));
    let fault = heard(&mut receivers[0]).1.unwrap_err();
    assert!(fault.message.contains("no numbers"), "{fault}");
    assert!(heard(&mut receivers[1]).1.is_ok());
}

#[test]
fn steps_that_keep_failing_make_the_engine_give_itself_up() {
    let mut forward = ScriptedForward::new(264, 64, 1, alphabet());
    forward.fails_at = (0..100).collect();
    let steps = forward.steps.clone();
    let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..10).map(|_| task("a", 30)).unzip();
    let engine = Engine::start(Box::new(forward), words(), 8, Box::new(List(tasks)), Arc::new(Vitals::new())).unwrap();
    assert_eq!(engine.join(), Ended::Broken);
    assert_eq!(steps.load(Ordering::SeqCst), step::FAILURES_MAX as usize);
    let failed = receivers.into_iter().filter_map(|mut receiver| receiver.try_recv().ok().map(|_| receiver));
    assert_eq!(
        failed.map(|mut receiver| heard(&mut receiver)).filter(|(_, end)| end.is_err()).count(),
        step::FAILURES_MAX as usize
    );
}

#[test]
fn a_job_that_must_run_alone_does() {
    let mut stepper = stepper(ScriptedForward::new(264, 64, 4, alphabet()), 8);
    let vitals = Vitals::new();
    let (mut lonely, _lonely_heard) = task("a", 10);
    lonely.alone = true;
    let (first, _first_heard) = task("a", 5);
    let (last, _last_heard) = task("a", 5);
    let lonely_id = lonely.id;
    let mut source = List([first, lonely, last].into());
    while stepper.turn(&mut source, &vitals) == Turn::Worked {
        let ids = stepper.job_ids();
        assert!(ids.len() <= 1 || !ids.contains(&lonely_id), "{ids:?}");
    }
}

#[test]
fn golden_prompts_must_give_their_tokens() {
    let golden = |expected: &[u32]| Golden {
        text: String::new(),
        prompt: vec![u32::from(b'w')],
        expected: BTreeMap::from([("cpu".to_owned(), expected.to_vec())]),
    };
    let mut forward = ScriptedForward::new(264, 64, 2, alphabet());
    let found = selfcheck::check(&mut forward, &[golden(&[120, 121, 122, END])], "cpu").unwrap();
    assert_eq!((found.golden, found.batch_invariant), (1, true));
    let fault = selfcheck::check(&mut forward, &[golden(&[120, 99])], "cpu").unwrap_err();
    assert!(fault.message.contains("golden prompt 1 gave token 121 at step 1, the manifest expects 99"), "{fault}");
    assert_eq!(selfcheck::check(&mut forward, &[golden(&[1])], "cuda").unwrap().golden, 0, "none for this provider");
}
