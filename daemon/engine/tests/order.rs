//! Who runs when: alone, at once, one after the other.

use super::*;

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
