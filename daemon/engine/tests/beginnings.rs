//! What need not be computed again: kept beginnings, copied text.

use super::*;

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
