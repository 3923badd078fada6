//! Answers with a rule, whose tokens may be forced.

use super::*;

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
