//! What is seen and set from outside: shares of each run, the width of the batch, the pieces, what is kept.

use std::sync::Mutex;

use super::*;
use crate::engine::oversight::{Allowance, Limits, Observer, Oversight, Phase, Run, Share};
use crate::job::{Energy, Joules};

/// Writes down what it hears, and bills each job one joule.
#[derive(Default)]
struct Scribe(Mutex<Vec<String>>, Mutex<Vec<Share>>);

impl Scribe {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}

impl Observer for Scribe {
    fn wake(&self) {
        self.note("wake");
    }

    fn ran(&self, run: &Run<'_>) {
        assert!(run.from <= run.to && !run.shares.is_empty());
        self.note("ran");
        self.1.lock().unwrap().extend(run.shares);
    }

    fn sleep(&self) {
        self.note("sleep");
    }

    fn bill(&self, _: JobId) -> Option<Energy> {
        self.note("bill");
        let decode = Joules { gross: 1.0, net: None };
        Some(Energy { decode, coverage: 1.0, ..Energy::default() })
    }
}

#[test]
fn every_token_of_every_job_is_somebodys_share_and_every_job_gets_its_bill() {
    let scribe = Arc::new(Scribe::default());
    let observer: Arc<dyn Observer> = scribe.clone();
    let oversight = Oversight { observer: Some(observer), ..Oversight::default() };
    let mut stepper = stepper(ScriptedForward::new(264, 64, 3, alphabet()), 4).under(oversight);
    let (tasks, receivers): (VecDeque<Task>, Vec<_>) =
        ["long prompts", "bx", "lw"].iter().map(|prompt| task(prompt, 30)).unzip();
    let ids: Vec<JobId> = tasks.iter().map(|task| task.id).collect();
    run_all(&mut stepper, &mut List(tasks));
    let shares = scribe.1.lock().unwrap().clone();
    let tokens = |id: JobId, phase: Phase| -> usize {
        shares.iter().filter(|share| share.job == id && share.phase == phase).map(|share| share.tokens).sum()
    };
    for ((id, mut receiver), (prompt, answer)) in ids.into_iter().zip(receivers).zip([(12, 8), (2, 3), (2, 4)]) {
        // The last token of an answer is chosen and not read.
        assert_eq!((tokens(id, Phase::Prefill), tokens(id, Phase::Decode)), (prompt, answer - 1));
        assert_eq!(heard(&mut receiver).1.unwrap().usage.energy.unwrap().decode.gross.to_bits(), 1.0_f64.to_bits());
    }
    let notes = scribe.0.lock().unwrap();
    assert_eq!((notes[0].as_str(), notes[1].as_str()), ("wake", "ran"));
    assert_eq!(notes.iter().filter(|note| *note == "bill").count(), 3);
    assert_eq!(notes.last().unwrap(), "sleep");
}

/// An engine of four slots, one of them for alarms, that answers without end.
fn endless(limits: &Limits) -> Stepper {
    let forward = ScriptedForward::new(264, 256, 4, Box::new(|tokens| tokens[tokens.len() - 1]));
    let plan = Plan { pace: Pace::unmeasured(32), reserve: 1, guesses: false };
    let oversight = Oversight { limits: limits.clone(), ..Oversight::default() };
    Stepper::new(Box::new(forward), words(), plan).unwrap().under(oversight)
}

#[test]
fn an_allowance_narrows_the_batch_and_shuts_out_the_less_urgent_but_never_an_alarm() {
    let limits = Limits::default();
    let mut stepper = endless(&limits);
    let vitals = Vitals::new();
    limits.set(&Allowance { rows_max: 1, least: Priority::Interactive, ..Allowance::default() });
    let mut heard_by = Vec::new();
    let mut ask = |prompt: &str, priority: Priority| {
        let (mut task, heard) = task(prompt, 200);
        task.priority = priority;
        heard_by.push(heard);
        task
    };
    let mut source = List([ask("a", Priority::Background)].into());
    for _ in 0..3 {
        stepper.turn(&mut source, &vitals);
    }
    assert_eq!((stepper.jobs(), source.0.len()), (0, 1), "background work waits");
    source.0 = [ask("b", Priority::Interactive), ask("c", Priority::Interactive)].into();
    for _ in 0..5 {
        stepper.turn(&mut source, &vitals);
    }
    assert_eq!((stepper.jobs(), source.0.len()), (1, 1), "one at a time");
    source.0.push_front(ask("d", Priority::Alarm));
    for _ in 0..5 {
        stepper.turn(&mut source, &vitals);
    }
    assert_eq!((stepper.jobs(), source.0.len()), (2, 1), "an alarm is always taken in");
    limits.set(&Allowance::default());
    for _ in 0..5 {
        stepper.turn(&mut source, &vitals);
    }
    assert_eq!((stepper.jobs(), source.0.len()), (3, 0), "and everybody, when it is over");
}

#[test]
fn two_engines_share_one_allowance_and_neither_stands_still() {
    let limits = Limits::default();
    limits.set(&Allowance { rows_max: 3, ..Allowance::default() });
    let (mut old, mut new, vitals) = (endless(&limits), endless(&limits), Vitals::new());
    let (tasks, _heard): (Vec<Task>, Vec<_>) =
        ["a", "b", "c", "d", "e", "f"].map(|text| task(text, 200)).into_iter().unzip();
    let mut tasks = tasks.into_iter();
    let mut olds = List(tasks.by_ref().take(2).collect());
    let mut news = List(tasks.collect());
    for _ in 0..5 {
        old.turn(&mut olds, &vitals);
        new.turn(&mut news, &vitals);
    }
    assert_eq!((old.jobs(), new.jobs()), (2, 1), "three in all");
    old.abandon(&Fault::bug("it is over"));
    old.leave(&vitals);
    for _ in 0..5 {
        new.turn(&mut news, &vitals);
    }
    assert_eq!((new.jobs(), vitals.running()), (3, 3), "what the other had is free again");
}

#[test]
fn pieces_are_as_short_as_allowed_but_for_jobs_whose_bits_would_change() {
    let limits = Limits::default();
    limits.set(&Allowance { piece_max: 5, ..Allowance::default() });
    for (exact, invariant, pieces) in [(false, true, 8), (true, true, 8), (true, false, 2)] {
        let mut forward = ScriptedForward::new(264, 256, 2, alphabet());
        forward.shape_mut().chunk_invariant = invariant;
        let steps = forward.steps.clone();
        let mut stepper = stepper(forward, 32).under(Oversight { limits: limits.clone(), ..Oversight::default() });
        let (mut asked, mut asked_heard) = task(&format!("{}z", "x".repeat(39)), 1);
        asked.exact = exact;
        run_all(&mut stepper, &mut List([asked].into()));
        assert!(heard(&mut asked_heard).1.is_ok());
        assert_eq!(steps.load(Ordering::SeqCst), pieces, "exact {exact}, invariant {invariant}");
    }
}

#[test]
fn kept_beginnings_are_dropped_when_somebody_asks_for_their_memory() {
    let limits = Limits::default();
    let mut forward = ScriptedForward::new(264, 64, 2, alphabet());
    forward.set_blocks(8, 4);
    let mut stepper = stepper(forward, 8).under(Oversight { limits: limits.clone(), ..Oversight::default() });
    let mut cached = || {
        let (asked, mut asked_heard) = task("a long beginning x", 40);
        run_all(&mut stepper, &mut List([asked].into()));
        heard(&mut asked_heard).1.unwrap().usage.cached_tokens
    };
    assert_eq!((cached(), cached()), (0, 16));
    limits.forget_prompts();
    assert_eq!((cached(), cached()), (0, 16), "gone, and kept anew");
}

#[test]
fn an_engine_that_may_rest_does_and_says_so() {
    let limits = Limits::default();
    limits.set(&Allowance { rest: 2.0, ..Allowance::default() });
    let mut stepper = endless(&limits);
    let (asked, _asked_heard) = task("a", 200);
    let vitals = Vitals::new();
    let mut source = List([asked].into());
    stepper.turn(&mut source, &vitals);
    assert!(stepper.last_run_end.is_some());
    let began = Instant::now();
    stepper.rest(Duration::from_millis(2));
    assert!(began.elapsed() >= Duration::from_millis(4), "a sleep is never shorter than asked for");
    assert!(stepper.last_run_end.is_none(), "the rest is no time between two runs");
}

#[test]
fn what_a_rule_forces_keeps_nobody_waiting_for_longer_than_a_piece() {
    const PIECE: usize = 24;
    let scribe = Arc::new(Scribe::default());
    let observer: Arc<dyn Observer> = scribe.clone();
    let oversight = Oversight { observer: Some(observer), ..Oversight::default() };
    let forward = ScriptedForward::new(264, 1024, 8, Box::new(|tokens| tokens[tokens.len() - 1]));
    let mut stepper = stepper(forward, PIECE).under(oversight);
    let text = "a".repeat(400);
    let (free, mut free_heard) = task("a", 150);
    let mut jobs = VecDeque::from([free]);
    let mut guided = Vec::new();
    // Two letters of each are chosen and behind each of them two hundred are forced; a long prompt comes between them.
    for prompt in ["a", &"b".repeat(300), "a"] {
        let (mut task, heard) = task(prompt, 410);
        if prompt.len() == 1 {
            task.guide = Some(spelling(&text, 199));
            guided.push(heard);
        } else {
            task.max_tokens = 1;
        }
        jobs.push_back(task);
    }
    let id = jobs[0].id;
    assert_eq!(run_all(&mut stepper, &mut List(jobs)), Turn::Idle);
    for mut heard_by in guided {
        assert_eq!(heard(&mut heard_by).0, text);
    }
    assert_eq!(heard(&mut free_heard).1.unwrap().usage.generated_tokens, 150);
    // What was read between two steps of the free answer, without the tokens that share its step.
    let (mut between, mut longest) = (0, 0);
    for share in scribe.1.lock().unwrap().iter() {
        if share.job == id {
            longest = longest.max(between);
            between = 0;
        } else {
            between += share.tokens;
        }
    }
    assert!((PIECE..=PIECE + 16 + 3).contains(&longest), "{longest} tokens between two steps");
}
