//! The engine above [`Forward`], with the scripted double: no runtime, exact tokens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::pace::Pace;
use super::prefix::Scope;
use super::scripted::ScriptedForward;
use super::sequence::EVENTS_BESIDE_TOKENS;
use super::*;
use crate::fault::Code;
use crate::job::{CancelFlag, Event, Finish, JobId, Outcome, Sampling};
use crate::model::manifest::Golden;
use crate::text::grammar::Mask;

mod oversight;

/// Work in a list.
struct List(VecDeque<Task>);

impl Source for List {
    fn take(&mut self, room: Room) -> Option<Task> {
        let front = self.0.front()?;
        let waits = room.running > 0 && front.alone || front.priority < room.least;
        if waits { None } else { self.0.pop_front() }
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
        priority: Priority::Interactive,
        exact: false,
        scope: Scope::default(),
        guide: None,
        alone: false,
        weigh: false,
        whole: false,
        events,
    };
    (task, receiver)
}

fn stepper(forward: ScriptedForward, chunk: usize) -> Stepper {
    Stepper::new(Box::new(forward), words(), plan(chunk)).unwrap()
}

fn plan(chunk: usize) -> Plan {
    Plan { pace: Pace::unmeasured(chunk), reserve: 0, guesses: true }
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
fn a_step_without_memory_is_an_error_for_its_jobs_however_often_it_comes() {
    let mut forward = ScriptedForward::new(264, 64, 1, alphabet());
    forward.no_memory_at = (0..5).collect();
    let mut stepper = stepper(forward, 8);
    let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..6).map(|_| task("a", 30)).unzip();
    assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle, "the engine does not give itself up");
    let ends: Vec<_> = receivers.into_iter().map(|mut receiver| heard(&mut receiver).1).collect();
    for fault in ends[..5].iter().map(|end| end.as_ref().unwrap_err()) {
        assert!(fault.code == Code::Overloaded && fault.message.contains("no memory"), "{fault}");
    }
    assert!(ends[5].is_ok());
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
    let engine =
        Engine::start(Box::new(forward), words(), plan(8), Box::new(List(tasks)), Arc::new(Vitals::new())).unwrap();
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
    let (mut lonely, mut lonely_heard) = task("a", 10);
    lonely.alone = true;
    let (first, mut first_heard) = task("a", 5);
    let (last, mut last_heard) = task("a", 5);
    let lonely_id = lonely.id;
    let mut source = List([first, lonely, last].into());
    let mut alone = 0;
    while stepper.turn(&mut source, &vitals) == Turn::Worked {
        let ids = stepper.job_ids();
        assert!(ids.len() <= 1 || !ids.contains(&lonely_id), "{ids:?}");
        alone += usize::from(ids == [lonely_id]);
    }
    assert!(alone >= 8, "it was seen in {alone} turns");
    for (heard_by, tokens) in [(&mut first_heard, 5), (&mut lonely_heard, 10), (&mut last_heard, 5)] {
        assert_eq!(heard(heard_by).1.unwrap().usage.generated_tokens, tokens);
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

/// Says what `guide_text` says, whatever the model wants, then may end.
struct Spelling {
    left: Vec<u32>,
    /// How many of the letters come without a choice, from here on.
    forces: usize,
}

impl guide::Guide for Spelling {
    fn is_free(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    fn allow(&mut self, mask: &mut Mask) -> Result<(), String> {
        *mask = Mask::new(264);
        mask.allow_only(&[self.left.first().copied().unwrap_or(END)]);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if self.left.first() != Some(&token) {
            return Err(format!("{token} is not next"));
        }
        self.left.remove(0);
        Ok(())
    }

    fn forced(&mut self) -> Vec<u32> {
        self.left.iter().take(self.forces).copied().collect()
    }
}

fn spelling(text: &str, forces: usize) -> Box<dyn guide::Guide> {
    Box::new(Spelling { left: text.bytes().map(u32::from).collect(), forces })
}

#[test]
fn a_rule_decides_over_the_model_and_forced_tokens_take_no_steps_of_their_own() {
    // With three forced after each choice: `h` and `ell`, `o` and ` wo`, `r` and `ld`.
    for (forces, expected) in [(0, 11), (3, 3), (100, 1)] {
        let forward = ScriptedForward::new(264, 64, 2, alphabet());
        let steps = forward.steps.clone();
        let mut stepper = stepper(forward, 8);
        let (mut ruled, mut ruled_heard) = task("a", 30);
        ruled.guide = Some(spelling("hello world", forces));
        run_all(&mut stepper, &mut List([ruled].into()));
        let (text, outcome) = heard(&mut ruled_heard);
        assert_eq!((text.as_str(), outcome.unwrap().finish), ("hello world", Finish::Stop), "{forces} forced");
        assert_eq!(steps.load(Ordering::SeqCst), expected, "{forces} forced");
    }
}

#[test]
fn an_exact_job_follows_its_rule_in_single_steps() {
    let forward = ScriptedForward::new(264, 64, 2, alphabet());
    let steps = forward.steps.clone();
    let mut stepper = stepper(forward, 8);
    let (mut ruled, mut ruled_heard) = task("a", 30);
    ruled.guide = Some(spelling("hello", 100));
    ruled.exact = true;
    run_all(&mut stepper, &mut List([ruled].into()));
    assert_eq!(heard(&mut ruled_heard).0, "hello");
    assert_eq!(steps.load(Ordering::SeqCst), 5);
}

#[test]
fn ruled_and_free_jobs_of_all_kinds_share_the_engine_and_get_what_they_would_get_alone() {
    for (ragged, batches_same, blocks) in [(true, true, 0), (false, true, 6), (true, false, 6), (false, false, 0)] {
        let mut forward = ScriptedForward::new(264, 96, 5, alphabet());
        forward.set_blocks(blocks, 4);
        forward.shape_mut().ragged = ragged;
        forward.shape_mut().batch_invariant = batches_same;
        let mut stepper = stepper(forward, 5);
        let mut expected = Vec::new();
        let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..24_u8)
            .map(|number| {
                let begin = "beginning".repeat(usize::from(number % 3));
                let (mut task, heard) = task(&format!("{begin}{}", char::from(b'a' + number)), 40);
                task.exact = number % 5 == 0;
                if number % 4 == 1 {
                    task.guide = Some(spelling("ruled answer", usize::from(number % 7)));
                    expected.push("ruled answer".to_owned());
                } else {
                    expected.push((b'b' + number..=b'z').map(char::from).collect());
                }
                (task, heard)
            })
            .unzip();
        assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle);
        for (mut receiver, expected) in receivers.into_iter().zip(expected) {
            let (text, outcome) = heard(&mut receiver);
            assert_eq!((text, outcome.unwrap().finish), (expected, Finish::Stop), "ragged {ragged}, blocks {blocks}");
        }
    }
}

#[test]
fn a_beginning_that_was_read_before_is_copied_and_counted() {
    for rewinds in [true, false] {
        let mut forward = ScriptedForward::new(264, 64, 3, alphabet());
        forward.set_blocks(8, 4);
        forward.shape_mut().rewinds = rewinds;
        let mut stepper = stepper(forward, 8);
        let ask = |stepper: &mut Stepper, prompt: &str, scope: u64| {
            let (mut asked, mut asked_heard) = task(prompt, 40);
            asked.scope = Scope(scope);
            run_all(stepper, &mut List([asked].into()));
            let (text, outcome) = heard(&mut asked_heard);
            (text, outcome.unwrap().usage.cached_tokens)
        };
        assert_eq!(ask(&mut stepper, "a long beginning x", 1), ("yz".to_owned(), 0));
        assert_eq!(ask(&mut stepper, "a long beginning w", 1), ("xyz".to_owned(), 16), "rewinds {rewinds}");
        assert_eq!(ask(&mut stepper, "a long beginning w", 2).1, 0, "another caller's");
        assert_eq!(ask(&mut stepper, "a long winter w", 1), ("xyz".to_owned(), 4));
    }
}

#[test]
fn a_conversation_goes_on_from_its_last_answer_unless_it_must_be_exact() {
    let mut forward = ScriptedForward::new(264, 64, 2, alphabet());
    forward.set_blocks(16, 4);
    let mut stepper = stepper(forward, 16);
    let ask = |stepper: &mut Stepper, prompt: &str, exact: bool| {
        let (mut asked, mut asked_heard) = task(prompt, 40);
        asked.exact = exact;
        run_all(stepper, &mut List([asked].into()));
        let (text, outcome) = heard(&mut asked_heard);
        (text, outcome.unwrap().usage.cached_tokens)
    };
    assert_eq!(ask(&mut stepper, "12345m", false), ("nopqrstuvwxyz".to_owned(), 0));
    assert_eq!(ask(&mut stepper, "12345mnopqrstuvwxyz, x", false), ("yz".to_owned(), 16));
    // The answer was decoded token by token, which rounds differently from reading it.
    assert_eq!(ask(&mut stepper, "12345mnopqrstuvwxyz, x", true), ("yz".to_owned(), 4));
}

#[test]
fn copied_text_is_guessed_and_every_guess_is_checked() {
    // Repeats what stands in the prompt three letters after a bar, with one letter changed on the way.
    let source = "the lamp in the northern hallway of the second floor";
    let said = "the lamp in the northern hallway of the SECOND floor";
    let forward = || {
        ScriptedForward::new(
            264,
            256,
            2,
            Box::new(move |tokens| {
                let at =
                    tokens.iter().position(|token| *token == u32::from(b'|')).map_or(0, |at| tokens.len() - at - 1);
                said.as_bytes().get(at).map_or(END, |byte| u32::from(*byte))
            }),
        )
    };
    let run = |pace: Pace, exact: bool| {
        let forward = forward();
        let steps = forward.steps.clone();
        let mut stepper = Stepper::new(Box::new(forward), words(), Plan { pace, reserve: 0, guesses: true }).unwrap();
        let (mut copies, mut copies_heard) = task(&format!("{source}|"), 100);
        copies.exact = exact;
        run_all(&mut stepper, &mut List([copies].into()));
        let (text, outcome) = heard(&mut copies_heard);
        assert_eq!((text.as_str(), outcome.unwrap().finish), (said, Finish::Stop));
        steps.load(Ordering::SeqCst)
    };
    let cheap = || Pace::of_costs(&[1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35]);
    let plain = run(Pace::unmeasured(64), false);
    assert_eq!(plain, said.len() + 1, "a guess that costs as much as it saves is not tried");
    assert!(run(cheap(), false) * 2 < plain, "{} steps with guesses, {plain} without", run(cheap(), false));
    assert_eq!(run(cheap(), true), plain, "an exact job is not guessed for");
}

#[test]
fn an_alarm_starts_within_one_piece_though_every_slot_is_taken_and_a_long_prompt_is_read() {
    let forward = ScriptedForward::new(264, 256, 3, Box::new(|tokens| tokens[tokens.len() - 1]));
    let plan = Plan { pace: Pace::unmeasured(8), reserve: 1, guesses: true };
    let mut stepper = Stepper::new(Box::new(forward), words(), plan).unwrap();
    let vitals = Vitals::new();
    let (running, mut running_heard) = task("r", 60);
    let (long, mut long_heard) = task(&"l".repeat(100), 20);
    let (waiting, mut waiting_heard) = task("w", 20);
    let mut source = List([running, long].into());
    for _ in 0..4 {
        stepper.turn(&mut source, &vitals);
    }
    source.0.push_back(waiting);
    stepper.turn(&mut source, &vitals);
    assert_eq!(stepper.jobs(), 2, "an ordinary job leaves the reserved slot alone");
    let (mut alarm, mut alarm_heard) = task("!", 5);
    alarm.priority = Priority::Alarm;
    source.0.push_front(alarm);
    stepper.turn(&mut source, &vitals);
    assert_eq!(alarm_heard.try_recv().unwrap(), Event::Started);
    assert!(
        matches!(alarm_heard.try_recv(), Ok(Event::Text(text)) if text == "!"),
        "its first token came in the same turn"
    );
    run_all(&mut stepper, &mut source);
    assert_eq!(heard(&mut alarm_heard).0, "!".repeat(4));
    assert_eq!(heard(&mut running_heard).0, "r".repeat(60));
    assert_eq!(heard(&mut long_heard).0, "l".repeat(20));
    assert_eq!(heard(&mut waiting_heard).0, "w".repeat(20));
}

#[test]
fn alarms_take_turns_so_that_each_starts_at_once_however_long_the_others_prompts_are() {
    let forward = ScriptedForward::new(264, 256, 6, Box::new(|tokens| tokens[tokens.len() - 1]));
    let plan = Plan { pace: Pace::unmeasured(8), reserve: 1, guesses: true };
    let mut stepper = Stepper::new(Box::new(forward), words(), plan).unwrap();
    let vitals = Vitals::new();
    let alarm = |text: &str| {
        let (mut task, heard) = task(text, 5);
        task.priority = Priority::Alarm;
        (task, heard)
    };
    let (long, mut long_heard) = task(&"l".repeat(100), 20);
    let (first, mut first_heard) = alarm(&"1".repeat(100));
    let (second, mut second_heard) = alarm(&"2".repeat(40));
    let (third, mut third_heard) = alarm("3");
    let mut source = List([long].into());
    stepper.turn(&mut source, &vitals);
    source.0.extend([first, second, third]);
    for _ in 0..3 {
        stepper.turn(&mut source, &vitals);
    }
    for heard in [&mut first_heard, &mut second_heard, &mut third_heard] {
        assert_eq!(heard.try_recv().unwrap(), Event::Started);
    }
    // The first two have read a piece each; the third came to its turn and, being short, to its first token.
    let mut turns = 0;
    while third_heard.is_empty() {
        stepper.turn(&mut source, &vitals);
        turns += 1;
        assert!(turns < 3, "the third alarm waits for the others' prompts");
    }
    run_all(&mut stepper, &mut source);
    assert_eq!(heard(&mut first_heard).0, "1".repeat(5));
    assert_eq!(heard(&mut second_heard).0, "2".repeat(5));
    assert_eq!(heard(&mut third_heard).0, "3".repeat(5));
    assert_eq!(heard(&mut long_heard).0, "l".repeat(20));
}

#[test]
fn a_cancelled_prompt_is_let_go_of_inside_its_piece_and_the_model_goes_on() {
    for rewinds in [true, false] {
        let mut forward = ScriptedForward::new(264, 256, 2, alphabet());
        forward.step_time = Duration::from_mins(1);
        forward.shape_mut().rewinds = rewinds;
        let (long, mut long_heard) = task(&"p".repeat(200), 10);
        let flag = long.cancel.clone();
        let steps = forward.steps.clone();
        let source = Box::new(List([long].into()));
        let plan = Plan { pace: Pace::unmeasured(256), reserve: 0, guesses: true };
        let engine = Engine::start(Box::new(forward), words(), plan, source, Arc::new(Vitals::new())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while steps.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "the prompt is not being read");
            std::thread::yield_now();
        }
        // Again and again: the first may come before the run is armed.
        while engine.is_alive() {
            assert!(Instant::now() < deadline, "a run of a minute was not ended");
            flag.raise();
            std::thread::yield_now();
        }
        assert_eq!(engine.join(), Ended::Drained);
        assert_eq!(heard(&mut long_heard).1.unwrap().finish, Finish::Cancelled);
    }
}

#[test]
fn ten_thousand_jobs_leave_no_slot_behind() {
    let mut forward = ScriptedForward::new(264, 32, 9, alphabet());
    forward.set_blocks(4, 4);
    let mut stepper = stepper(forward, 8);
    let (tasks, receivers): (VecDeque<Task>, Vec<_>) =
        (0..10_000_u32).map(|number| task(&format!("{:04}x", number % 50), 3)).unzip();
    assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle);
    assert_eq!(stepper.jobs(), 0);
    for mut receiver in receivers {
        assert_eq!(heard(&mut receiver).0, "yz");
    }
}

#[test]
fn a_deadline_that_reading_the_prompt_alone_would_pass_is_refused_with_both_numbers() {
    let mut forward = ScriptedForward::new(264, 256, 2, alphabet());
    forward.set_blocks(8, 8);
    let steps = forward.steps.clone();
    let pace = Pace::unmeasured(64).with_prompt_token(Duration::from_secs(1));
    let mut stepper = Stepper::new(Box::new(forward), words(), Plan { pace, reserve: 0, guesses: true }).unwrap();
    let late = || {
        let (mut late, late_heard) = task(&"x".repeat(100), 5);
        late.deadline = Some(Instant::now() + Duration::from_secs(20));
        (late, late_heard)
    };
    let (refused, mut refused_heard) = late();
    run_all(&mut stepper, &mut List([refused].into()));
    let fault = heard(&mut refused_heard).1.unwrap_err();
    assert_eq!(fault.code, crate::fault::Code::DeadlineExceeded);
    assert!(fault.message.contains("100 tokens") && fault.message.contains("100000 ms"), "{fault}");
    assert_eq!(steps.load(Ordering::SeqCst), 0, "it costs no step");
    // What is kept need not be read.
    let (first, _first_heard) = task(&"x".repeat(100), 5);
    let (again, mut again_heard) = late();
    run_all(&mut stepper, &mut List([first].into()));
    run_all(&mut stepper, &mut List([again].into()));
    assert!(heard(&mut again_heard).1.is_err(), "64 of 100 are kept, the rest still takes 36 s");
    let mut long = late();
    long.0.deadline = Some(Instant::now() + Duration::from_secs(50));
    run_all(&mut stepper, &mut List([long.0].into()));
    assert!(heard(&mut long.1).1.is_ok());
}

#[test]
fn what_is_forced_may_be_longer_than_a_row() {
    for jobs in [1, 3] {
        let mut forward = ScriptedForward::new(264, 256, 4, alphabet());
        forward.shape_mut().row_max = 8;
        let mut stepper = stepper(forward, 8);
        let text = "forced beyond the length of a row, again and again";
        let (tasks, receivers): (VecDeque<Task>, Vec<_>) = (0..jobs)
            .map(|_| {
                let (mut task, heard) = task("a", 100);
                // One letter is chosen, twenty follow by force.
                task.guide = Some(spelling(text, 20));
                (task, heard)
            })
            .unzip();
        assert_eq!(run_all(&mut stepper, &mut List(tasks)), Turn::Idle);
        for mut receiver in receivers {
            assert_eq!(heard(&mut receiver).0, text, "{jobs} jobs");
        }
    }
}
