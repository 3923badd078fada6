//! How answers end: done, full, stopped, cancelled, late.

use super::*;

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
fn an_answer_that_is_heard_whole_comes_in_one_piece_however_it_ends() {
    for (max_tokens, stop, expected) in [(30, "", "bcdefghijklmnopqrstuvwxyz"), (3, "", "bcd"), (30, "fg", "bcde")] {
        let mut stepper = stepper(ScriptedForward::new(264, 64, 2, alphabet()), 8);
        let (mut whole, mut receiver) = task("a", max_tokens);
        whole.whole = true;
        whole.stop = if stop.is_empty() { Vec::new() } else { vec![stop.to_owned()] };
        run_all(&mut stepper, &mut List([whole].into()));
        let events: Vec<Event> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert!(
            matches!(&events[..], [Event::Started, Event::Text(text), Event::Finished(_)] if text == expected),
            "{events:?}"
        );
    }
    // Cut in the middle, what there is comes all the same.
    let mut stepper = stepper(ScriptedForward::new(264, 64, 2, alphabet()), 8);
    let (mut whole, mut receiver) = task("a", 30);
    whole.whole = true;
    let cancel = whole.cancel.clone();
    let (mut source, vitals) = (List([whole].into()), Vitals::new());
    for _ in 0..4 {
        stepper.turn(&mut source, &vitals);
    }
    cancel.raise();
    run_all(&mut stepper, &mut source);
    let (text, outcome) = heard(&mut receiver);
    assert!(text.len() > 1 && "bcdefghijklmnopqrstuvwxyz".starts_with(&text), "{text}");
    assert_eq!(outcome.unwrap().finish, Finish::Cancelled);
}
