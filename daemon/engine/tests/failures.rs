//! Steps and scores that fail.

use super::*;

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
