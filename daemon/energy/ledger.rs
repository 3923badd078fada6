//! The arithmetic of energy: spans of power and runs of the model in, joules a job and a phase out.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::engine::oversight::{Phase, Run, Share};
use crate::job::{Energy, JobId, Joules};

/// Between readings further apart nothing is known: five of them failed at the slowest rate.
pub const GAP_MAX: Duration = Duration::from_millis(500);
/// Runs that wait for the reading behind them. The fastest model makes some hundred between two readings; more than this, and
/// the oldest is estimated.
const RUNS_MAX: usize = 4096;
/// How long the board must have been at rest before its power is taken for idle power: clocks and capacitors take a moment.
const SETTLED: Duration = Duration::from_secs(1);
/// Idle power is a mean over about this long, since a fan and a room change it slowly.
const IDLE_MEAN: f64 = 30.0;

/// The board's power between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub from: Instant,
    pub to: Instant,
    /// Watts at both ends; equal where the sensor gives the mean between them.
    pub watts: (f64, f64),
}

impl Span {
    /// Joules of the part of the span that lies in `from..to`, and its seconds. The power changes evenly.
    fn part(&self, from: Instant, to: Instant) -> (f64, f64) {
        let (from, to) = (from.max(self.from), to.min(self.to));
        let whole = (self.to - self.from).as_secs_f64();
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        if seconds <= 0.0 || whole <= 0.0 {
            return (0.0, 0.0);
        }
        let at = |when: Instant| {
            let share = when.saturating_duration_since(self.from).as_secs_f64() / whole;
            self.watts.0 + (self.watts.1 - self.watts.0) * share
        };
        (f64::midpoint(at(from), at(to)) * seconds, seconds)
    }
}

/// Joules since the start, by what they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub prefill: f64,
    pub decode: f64,
    /// While no run was made.
    pub idle: f64,
}

#[derive(Clone, Debug)]
struct Entry {
    from: Instant,
    to: Instant,
    shares: Vec<Share>,
}

/// How energy is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Between two readings.
    Measured,
    /// By the nearest reading.
    Estimated,
    Not,
}

/// A job's account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    prefill: Part,
    decode: Part,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    joules: f64,
    /// Of the idle board, in the same time.
    idle: f64,
    /// Share of a second.
    measured: f64,
    estimated: f64,
    unknown: f64,
}

/// The books.
#[derive(Debug, Default)]
pub struct Ledger {
    last: Option<Span>,
    /// Watts of the idle board.
    idle: Option<f64>,
    /// The end of the last run.
    worked: Option<Instant>,
    runs: VecDeque<Entry>,
    /// Jobs in flight; they leave with their bill.
    accounts: HashMap<JobId, Account>,
    totals: Totals,
}

impl Ledger {
    /// What was drawn so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Watts of the idle board, once it was seen.
    pub fn idle_watts(&self) -> Option<f64> {
        self.idle
    }

    /// A run of the model. Runs come in order and do not overlap.
    pub fn run(&mut self, run: &Run<'_>) {
        if self.runs.len() >= RUNS_MAX
            && let Some(oldest) = self.runs.pop_front()
        {
            self.estimate(&oldest);
        }
        self.worked = Some(run.to);
        for share in run.shares {
            self.accounts.entry(share.job).or_default();
        }
        self.runs.push_back(Entry { from: run.from, to: run.to, shares: run.shares.to_vec() });
    }

    /// The board's power since the last reading.
    pub fn span(&mut self, span: Span, busy: bool) {
        let (all, seconds) = span.part(span.from, span.to);
        if span.to - span.from > GAP_MAX && !self.runs.is_empty() {
            // Too long ago to say anything of the runs in between.
            self.settle_before(span.to);
        }
        let mut used = 0.0;
        while let Some(entry) = self.runs.front() {
            if entry.from >= span.to {
                break;
            }
            let Some(mut entry) = self.runs.pop_front() else { break };
            if entry.from < span.from {
                let early = Entry { to: entry.to.min(span.from), ..entry.clone() };
                self.estimate(&early);
                entry.from = early.to;
            }
            let (joules, seconds) = span.part(entry.from, entry.to);
            used += joules;
            self.share_out(&entry.shares, joules, seconds, Known::Measured);
            if entry.to > span.to {
                // The rest lies behind this reading.
                entry.from = span.to;
                self.runs.push_front(entry);
                break;
            }
        }
        self.totals.idle += (all - used).max(0.0);
        let settled = self.worked.is_none_or(|worked| worked + SETTLED <= span.from);
        if !busy && settled && seconds > 0.0 {
            let mean = all / seconds;
            let weight = 1.0 - (-seconds / IDLE_MEAN).exp();
            self.idle = Some(self.idle.map_or(mean, |idle| idle + weight * (mean - idle)));
        }
        self.last = Some(span);
    }

    /// The sensor is gone: what comes now is not known.
    pub fn lose_sensor(&mut self) {
        self.last = None;
    }

    /// What the job cost, for its last word; its account is closed.
    pub fn bill(&mut self, job: JobId) -> Option<Energy> {
        let mut account = self.accounts.remove(&job).unwrap_or_default();
        // What the sensor has not reached yet. The totals get it when it does.
        for entry in self.runs.iter().filter(|entry| entry.shares.iter().any(|share| share.job == job)) {
            let watts = self.watts_near(entry.to);
            let seconds = (entry.to - entry.from).as_secs_f64();
            let tokens: usize = entry.shares.iter().map(|share| share.tokens).sum();
            for share in entry.shares.iter().filter(|share| share.job == job) {
                let fraction = fraction(share.tokens, tokens);
                let seconds = seconds * fraction;
                let known = if watts.is_some() { Known::Estimated } else { Known::Not };
                let joules = watts.unwrap_or(0.0) * seconds;
                account.of(share.phase).add(joules, self.idle.unwrap_or(0.0), seconds, known);
            }
        }
        let parts = [account.prefill, account.decode];
        let sum = |what: fn(&Part) -> f64| parts.iter().map(what).sum::<f64>();
        let (measured, estimated, unknown) =
            (sum(|part| part.measured), sum(|part| part.estimated), sum(|part| part.unknown));
        let known = measured + estimated;
        // Half of the truth is a wrong figure.
        if known <= 0.0 || unknown > known {
            return None;
        }
        let joules =
            |part: Part| Joules { gross: part.joules, net: self.idle.map(|_| (part.joules - part.idle).max(0.0)) };
        Some(Energy {
            prefill: joules(account.prefill),
            decode: joules(account.decode),
            coverage: measured / (known + unknown),
        })
    }

    /// Settles runs, or parts of them, that end before `end`, by what is known.
    fn settle_before(&mut self, end: Instant) {
        while let Some(mut entry) = self.runs.pop_front() {
            if entry.from >= end {
                self.runs.push_front(entry);
                break;
            }
            let early = Entry { to: entry.to.min(end), ..entry.clone() };
            self.estimate(&early);
            if entry.to > end {
                entry.from = end;
                self.runs.push_front(entry);
                break;
            }
        }
    }

    /// Puts a run down by the nearest reading.
    fn estimate(&mut self, entry: &Entry) {
        let seconds = (entry.to - entry.from).as_secs_f64();
        match self.watts_near(entry.to) {
            Some(watts) => self.share_out(&entry.shares, watts * seconds, seconds, Known::Estimated),
            None => self.share_out(&entry.shares, 0.0, seconds, Known::Not),
        }
    }

    fn watts_near(&self, when: Instant) -> Option<f64> {
        let last = self.last?;
        (when.saturating_duration_since(last.to) <= GAP_MAX).then_some(last.watts.1)
    }

    fn share_out(&mut self, shares: &[Share], joules: f64, seconds: f64, known: Known) {
        let tokens: usize = shares.iter().map(|share| share.tokens).sum();
        let idle = self.idle.unwrap_or(0.0);
        for share in shares {
            let fraction = fraction(share.tokens, tokens);
            let (joules, seconds) = (joules * fraction, seconds * fraction);
            match share.phase {
                Phase::Prefill => self.totals.prefill += joules,
                Phase::Decode => self.totals.decode += joules,
            }
            // A job that has left has its bill.
            if let Some(account) = self.accounts.get_mut(&share.job) {
                account.of(share.phase).add(joules, idle, seconds, known);
            }
        }
    }

    /// Jobs with an account.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }
}

impl Account {
    fn of(&mut self, phase: Phase) -> &mut Part {
        match phase {
            Phase::Prefill => &mut self.prefill,
            Phase::Decode => &mut self.decode,
        }
    }
}

impl Part {
    /// `idle` is what the idle board draws, in watts.
    fn add(&mut self, joules: f64, idle: f64, seconds: f64, known: Known) {
        match known {
            Known::Measured => self.measured += seconds,
            Known::Estimated => self.estimated += seconds,
            Known::Not => {
                self.unknown += seconds;
                return;
            }
        }
        self.joules += joules;
        self.idle += idle * seconds;
    }
}

#[expect(clippy::cast_precision_loss, reason = "tokens of a run are some thousand")]
fn fraction(tokens: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { tokens as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        ledger: Ledger,
        zero: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { ledger: Ledger::default(), zero: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.zero + Duration::from_millis(millis)
        }

        fn span(&mut self, from: u64, to: u64, watts: (f64, f64), busy: bool) {
            let span = Span { from: self.at(from), to: self.at(to), watts };
            self.ledger.span(span, busy);
        }

        fn run(&mut self, from: u64, to: u64, shares: &[(JobId, Phase, usize)]) {
            let shares: Vec<Share> =
                shares.iter().map(|(job, phase, tokens)| Share { job: *job, phase: *phase, tokens: *tokens }).collect();
            self.ledger.run(&Run { from: self.at(from), to: self.at(to), shares: &shares });
        }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn a_run_gets_the_integral_of_the_power_and_each_job_its_share() {
        let mut bench = Bench::new();
        let (one, two) = (JobId::next(), JobId::next());
        bench.run(100, 300, &[(one, Phase::Decode, 1), (two, Phase::Prefill, 3)]);
        // From 10 to 20 watts within 400 ms: over the run's 200 ms the mean is 15.
        bench.span(0, 400, (10.0, 20.0), true);
        let bill = bench.ledger.bill(one).unwrap();
        near(bill.decode.gross, 0.75);
        near(bill.prefill.gross, 0.0);
        assert_eq!(bill.decode.net, None, "the idle board was never seen");
        near(bill.coverage, 1.0);
        near(bench.ledger.bill(two).unwrap().prefill.gross, 2.25);
        let totals = bench.ledger.totals();
        near(totals.prefill, 2.25);
        near(totals.decode, 0.75);
        near(totals.idle, 6.0 - 3.0);
        assert_eq!(bench.ledger.accounts(), 0);
    }

    #[test]
    fn what_the_idle_board_draws_is_learned_while_it_is_idle_and_taken_off() {
        let mut bench = Bench::new();
        let job = JobId::next();
        for second in 0..5 {
            bench.span(second * 1000, second * 1000 + 1000, (4.0, 4.0), false);
        }
        near(bench.ledger.idle_watts().unwrap(), 4.0);
        bench.run(5000, 5400, &[(job, Phase::Decode, 1)]);
        bench.span(5000, 5400, (10.0, 10.0), true);
        let bill = bench.ledger.bill(job).unwrap();
        near(bill.decode.gross, 4.0);
        near(bill.decode.net.unwrap(), 2.4);
        bench.span(5400, 5800, (9.0, 9.0), false);
        near(bench.ledger.idle_watts().unwrap(), 4.0);
        bench.span(6500, 7500, (5.0, 5.0), false);
        let idle = bench.ledger.idle_watts().unwrap();
        assert!(idle > 4.0 && idle < 4.1, "slowly, and not right after work: {idle}");
    }

    #[test]
    fn what_lies_behind_the_last_reading_is_estimated_and_said_to_be() {
        let mut bench = Bench::new();
        let job = JobId::next();
        bench.run(0, 100, &[(job, Phase::Prefill, 8)]);
        bench.span(0, 75, (10.0, 12.0), true);
        bench.run(100, 200, &[(job, Phase::Decode, 1)]);
        let bill = bench.ledger.bill(job).unwrap();
        near(bill.prefill.gross, 11.0 * 0.075 + 12.0 * 0.025);
        near(bill.decode.gross, 1.2);
        near(bill.coverage, 75.0 / 200.0);
        // The totals get it when the sensor does, and the job no account again.
        bench.span(75, 250, (12.0, 12.0), true);
        near(bench.ledger.totals().decode, 1.2);
        assert_eq!(bench.ledger.accounts(), 0);
    }

    #[test]
    fn without_a_reading_near_there_is_no_figure() {
        let mut bench = Bench::new();
        let (before, after, mixed) = (JobId::next(), JobId::next(), JobId::next());
        bench.run(0, 100, &[(before, Phase::Decode, 1)]);
        assert_eq!(bench.ledger.bill(before), None, "no sensor at all");
        bench.span(0, 200, (5.0, 5.0), true);
        bench.run(200, 300, &[(mixed, Phase::Decode, 1)]);
        bench.run(1000, 2000, &[(after, Phase::Decode, 1)]);
        bench.run(2000, 2900, &[(mixed, Phase::Decode, 1)]);
        // The sensor was away for three seconds.
        bench.span(200, 3000, (5.0, 5.0), true);
        assert_eq!(bench.ledger.bill(after), None, "the nearest reading is too old");
        assert_eq!(bench.ledger.bill(mixed), None, "most of it is not known");
        bench.ledger.lose_sensor();
        bench.run(3000, 3100, &[(before, Phase::Decode, 1)]);
        assert_eq!(bench.ledger.bill(before), None);
    }

    #[test]
    fn many_runs_without_a_reading_take_bounded_room() {
        let mut bench = Bench::new();
        let job = JobId::next();
        bench.span(0, 10, (5.0, 5.0), true);
        for number in 0..2 * RUNS_MAX as u64 {
            bench.run(10 + number / 100, 10 + number / 100, &[(job, Phase::Decode, 1)]);
        }
        assert!(bench.ledger.runs.len() <= RUNS_MAX);
    }
}
