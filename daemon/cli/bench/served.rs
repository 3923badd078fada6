//! Queue and engine together: jobs that arrive as they do in life, the wait for the first token, the cost of doing nothing.

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

use crate::cli::bench::Bench;
use crate::cli::bench::load::Opened;
use crate::cli::bench::report::Report;
use crate::engine::Engine;
use crate::fault::Fault;
use crate::job::{Event, Job, Message, Origin, Outcome, Role, Transport};
use crate::queue::Queue;
use crate::queue::admission::Limits;
use crate::vitals::Vitals;

/// Rounds of the mixed load, at most: each takes as long as many of the others.
const MIXED_MAX: u16 = 3;
/// Jobs of the mixed load.
const JOBS: usize = 48;
/// Arrivals, in multiples of what one job after the other would take.
const LOAD: f64 = 2.0;
/// Words of the prefix that jobs share; about a thousand tokens.
const PREFIX_WORDS: usize = 700;
/// After a burst the runtime's threads spin for a moment; that belongs to the burst.
const SETTLE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);
const ROWS: [&str; 5] = ["mixed", "first_token", "between_1", "between_8", "idle"];

const WORDS: [&str; 24] = [
    "the", "light", "in", "kitchen", "is", "on", "and", "door", "to", "garden", "was", "left", "open", "while",
    "heating", "runs", "at", "night", "please", "turn", "it", "off", "before", "morning",
];

/// Rows of a queue and an engine around the model; takes the model for good.
pub(super) fn measure(bench: &Bench, opened: Opened, report: &mut Report) -> Result<(), Fault> {
    if !bench.wants_any(&ROWS) {
        return Ok(());
    }
    let loaded = opened.loaded;
    let shape = loaded.shape;
    let vitals = Arc::new(Vitals::new());
    let limits = Limits::new(JOBS, shape.context);
    let queue = Queue::new(loaded.prompter, limits, Arc::clone(&vitals));
    let engine = Engine::start(loaded.forward, loaded.words, loaded.plan, queue.source(), Arc::clone(&vitals))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| Fault::machine(format!("starting the callers' runtime: {error}")))?;
    let mut random = ChaCha8Rng::seed_from_u64(bench.seed);
    let served = runtime.block_on(async {
        let alone = ask(&queue, job(&sentence(&mut random, 40), 64)).await?;
        if bench.wants("mixed") {
            for round in 0..bench.rounds.clamp(1, MIXED_MAX) {
                let heard = mixed(&queue, alone.timing.total, &mut random, report).await?;
                if round == 0 {
                    differing(&queue, heard, report).await?;
                }
            }
        }
        if bench.wants("first_token") {
            first_tokens(bench, &queue, shape.context, &mut random, report).await?;
        }
        for streams in [1, 8].into_iter().filter(|streams| *streams <= shape.slots) {
            let name = format!("between_{streams}");
            if bench.wants(&name) {
                between(bench, &name, &queue, &vitals, streams, &mut random, report).await?;
            }
        }
        if bench.wants("idle") {
            idle(report).await;
        }
        Ok(())
    });
    queue.drain();
    engine.join();
    served
}

/// Jobs of all sizes that arrive at random times, some of them while others run; each with what it was told.
async fn mixed(
    queue: &Queue,
    alone: Duration,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<Vec<(Job, String)>, Fault> {
    let mut at = Duration::ZERO;
    let mut plan = Vec::new();
    for _ in 0..JOBS {
        at += alone.mul_f64(-unit(random).ln() / LOAD);
        let words = 10 + below(random, 190);
        let tokens = 16 + below(random, 112);
        plan.push((at, job(&sentence(random, words), tokens)));
    }
    let started = tokio::time::Instant::now();
    let local = tokio::task::LocalSet::new();
    let jobs: Vec<_> = plan
        .into_iter()
        .map(|(at, job)| {
            let queue = queue.clone();
            local.spawn_local(async move {
                tokio::time::sleep_until(started + at).await;
                answer(&queue, job.clone()).await.map(|(said, outcome)| (job, said, outcome))
            })
        })
        .collect();
    let mut tokens = 0_u32;
    let mut heard = Vec::with_capacity(JOBS);
    for (job, said, outcome) in local.run_until(all(jobs)).await? {
        heard.push((job, said));
        let generated = u32::try_from(outcome.usage.generated_tokens).unwrap_or(u32::MAX);
        tokens += generated;
        report.sample("mixed_first_token", "ms", ms(outcome.timing.first_token));
        let rest = outcome.timing.total.saturating_sub(outcome.timing.first_token);
        if generated > 1 {
            report.sample("mixed_token", "ms", ms(rest) / f64::from(generated - 1));
        }
    }
    report.sample("mixed_throughput", "tokens/s", f64::from(tokens) / started.elapsed().as_secs_f64());
    Ok(heard)
}

/// Of answers that came by every fast path (runs shared with prompts, guesses), how many an exact request gets otherwise.
async fn differing(queue: &Queue, heard: Vec<(Job, String)>, report: &mut Report) -> Result<(), Fault> {
    let mut differing = 0_u32;
    for (mut job, said) in heard {
        job.reproducible = true;
        differing += u32::from(answer(queue, job).await?.0 != said);
    }
    report.sample("mixed_that_differ", "answers of 48", f64::from(differing));
    Ok(())
}

/// The wait for the first token after a long prompt: new, and with a beginning that was read before.
async fn first_tokens(
    bench: &Bench,
    queue: &Queue,
    context: usize,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<(), Fault> {
    let words = PREFIX_WORDS.min(context / 3);
    let shared = sentence(random, words);
    ask(queue, job(&shared, 1)).await?;
    for _ in 0..bench.rounds {
        let ending = sentence(random, 8);
        let cold = ask(queue, job(&(sentence(random, words) + &ending), 1)).await?;
        report.sample("first_token_cold", "ms", ms(cold.timing.first_token));
        let warm = ask(queue, job(&(shared.clone() + " " + &ending), 1)).await?;
        // Without a kept prefix there is nothing to compare.
        if warm.usage.cached_tokens > 0 {
            report.sample("first_token_cached", "ms", ms(warm.timing.first_token));
        }
    }
    Ok(())
}

/// What the engine does between two runs while so many answers grow, by its own clock; microseconds a run.
async fn between(
    bench: &Bench,
    name: &str,
    queue: &Queue,
    vitals: &Vitals,
    streams: usize,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<(), Fault> {
    for _ in 0..bench.rounds {
        let before = counted(vitals);
        let local = tokio::task::LocalSet::new();
        let jobs: Vec<_> = (0..streams)
            .map(|_| {
                let (queue, job) = (queue.clone(), job(&sentence(random, 20), 64));
                local.spawn_local(async move { ask(&queue, job).await })
            })
            .collect();
        local.run_until(all(jobs)).await?;
        let after = counted(vitals);
        report.sample(name, "us a run", (after.0 - before.0) / 1e3 / (after.1 - before.1).max(1.0));
    }
    Ok(())
}

/// Nanoseconds between runs, and runs.
fn counted(vitals: &Vitals) -> (f64, f64) {
    let numbers = vitals.numbers();
    let of = |start: &str| numbers.iter().find(|(name, _)| name.starts_with(start)).map_or(0.0, |(_, value)| *value);
    (of("moed_engine_between_steps_nanoseconds"), of("moed_engine_steps"))
}

/// Waits for all; the first that failed is the fault.
async fn all<T>(jobs: Vec<tokio::task::JoinHandle<Result<T, Fault>>>) -> Result<Vec<T>, Fault> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        outcomes.push(job.await.map_err(|error| Fault::bug(format!("a caller of the bench: {error}")))??);
    }
    Ok(outcomes)
}

/// CPU time of the whole process while nobody asks.
async fn idle(report: &mut Report) {
    tokio::time::sleep(SETTLE).await;
    let before = clock_gettime(ClockId::ProcessCPUTime);
    tokio::time::sleep(IDLE).await;
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let used =
        Duration::try_from(used).unwrap_or_default().saturating_sub(Duration::try_from(before).unwrap_or_default());
    report.sample("idle", "% of a core", used.as_secs_f64() / IDLE.as_secs_f64() * 100.0);
}

/// One greedy answer of exactly so many tokens.
pub(super) fn job(text: &str, tokens: usize) -> Job {
    let origin = Origin { transport: Transport::Http, client: "bench".to_owned() };
    let mut job = Job::new(origin, vec![Message::text(Role::User, text)]);
    job.max_tokens = Some(tokens);
    job.ignore_eos = true;
    job
}

pub(super) async fn ask(queue: &Queue, job: Job) -> Result<Outcome, Fault> {
    answer(queue, job).await.map(|(_, outcome)| outcome)
}

/// The answer as one text, calls included, and how it came about.
pub(super) async fn answer(queue: &Queue, job: Job) -> Result<(String, Outcome), Fault> {
    let mut ticket = queue.submit(job)?;
    let mut said = String::new();
    while let Some(event) = ticket.next().await {
        match event {
            Event::Finished(outcome) => return Ok((said, outcome)),
            Event::Failed(fault) => return Err(fault),
            Event::Started => {}
            Event::Text(text) => said += &text,
            Event::Call(call) => said.extend([call.name.as_str(), "(", call.arguments.as_str(), ")"]),
        }
    }
    Err(Fault::bug("a job of the bench ended without a last event"))
}

fn sentence(random: &mut ChaCha8Rng, words: usize) -> String {
    (0..words).map(|_| WORDS[below(random, WORDS.len())]).collect::<Vec<_>>().join(" ")
}

fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    random.next_u32() as usize % bound.max(1)
}

/// Above 0, at most 1.
fn unit(random: &mut ChaCha8Rng) -> f64 {
    (f64::from(random.next_u32()) + 1.0) / (f64::from(u32::MAX) + 1.0)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
