//! The books between two threads: the engine's writes runs and takes bills, the board's writes readings.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::energy::ledger::{Ledger, Span, Totals};
use crate::engine::oversight::{Observer, Run};
use crate::job::{Energy, JobId};

/// A power meter that many look at. The lock is held for the time of a few sums.
#[derive(Debug, Default)]
pub struct Meter {
    ledger: Mutex<Ledger>,
    /// Whether anything was ever measured: without a sensor no book is kept. One that is lost may come back, and until then the
    /// books say what is not known.
    measures: AtomicBool,
    /// Engines that have work.
    busy: Mutex<usize>,
    woken: Condvar,
    /// Whose run ended last, and when.
    last: Mutex<Option<(usize, Instant)>>,
    dials: AtomicUsize,
}

impl Meter {
    /// A meter without a sensor yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A reading, and the one before.
    pub fn read(&self, span: Span) {
        self.measures.store(true, Ordering::Relaxed);
        let busy = self.is_busy();
        self.ledger().span(span, busy);
    }

    /// The sensor says nothing.
    pub fn lose_sensor(&self) {
        self.ledger().lose_sensor();
    }

    /// Joules so far; `None`: nothing was measured.
    pub fn totals(&self) -> Option<Totals> {
        let totals = self.ledger().totals();
        (totals != Totals::default()).then_some(totals)
    }

    /// Watts of the idle board.
    pub fn idle_watts(&self) -> Option<f64> {
        self.ledger().idle_watts()
    }

    /// Whether an engine has work.
    pub fn is_busy(&self) -> bool {
        *lock(&self.busy) > 0
    }

    /// One more engine's side.
    pub fn dial(self: &Arc<Self>) -> Dial {
        let number = self.dials.fetch_add(1, Ordering::Relaxed);
        Dial { meter: Arc::clone(self), number, busy: AtomicBool::new(false) }
    }

    /// A run has ended.
    pub fn ran(&self, run: &Run<'_>) {
        if self.measures.load(Ordering::Relaxed) {
            self.ledger().run(run);
        }
    }

    /// A job leaves: what it cost, where that was measured.
    pub fn bill(&self, job: JobId) -> Option<Energy> {
        self.measures.load(Ordering::Relaxed).then(|| self.ledger().bill(job))?
    }

    /// Waits until an engine has work, at most so long. True: it has.
    pub fn wait_for_work(&self, most: Duration) -> bool {
        let busy = lock(&self.busy);
        let waited = self.woken.wait_timeout_while(busy, most, |busy| *busy == 0);
        let (busy, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *busy > 0
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One engine's side of a meter. Two engines work at a time while a reload exchanges models; a moment of the board's power is
/// counted once, for the run that ended first.
#[derive(Debug)]
pub struct Dial {
    meter: Arc<Meter>,
    number: usize,
    busy: AtomicBool,
}

impl Dial {
    fn set_busy(&self, busy: bool) {
        if self.busy.swap(busy, Ordering::Relaxed) == busy {
            return;
        }
        let mut engines = lock(&self.meter.busy);
        *engines = if busy { *engines + 1 } else { engines.saturating_sub(1) };
        drop(engines);
        if busy {
            self.meter.woken.notify_all();
        }
    }
}

impl Observer for Dial {
    fn wake(&self) {
        self.set_busy(true);
    }

    fn ran(&self, run: &Run<'_>) {
        let last = lock(&self.meter.last).replace((self.number, run.to));
        let from = last.filter(|(number, _)| *number != self.number).map_or(run.from, |(_, to)| run.from.max(to));
        if from < run.to {
            self.meter.ran(&Run { from, ..*run });
        }
    }

    fn sleep(&self) {
        self.set_busy(false);
    }

    fn bill(&self, job: JobId) -> Option<Energy> {
        self.meter.bill(job)
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.set_busy(false);
    }
}

/// The span between the reading before and this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readings(Option<(Instant, f64)>);

impl Readings {
    /// A reading; gives the span since the one before. `mean`: the sensor gives the mean since then.
    pub fn next(&mut self, now: Instant, watts: f64, mean: bool) -> Option<Span> {
        let (then, before) = self.0.replace((now, watts))?;
        (now > then).then_some(Span { from: then, to: now, watts: (if mean { watts } else { before }, watts) })
    }

    /// A sensor that gives means has been read for the first time.
    pub fn start(&mut self, now: Instant) {
        self.0 = Some((now, 0.0));
    }

    /// The sensor said nothing.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::oversight::{Phase, Share};

    #[test]
    fn jobs_that_outlive_the_sensor_leave_the_books_and_what_it_missed_counts_as_not_known() {
        let (meter, zero) = (Meter::new(), Instant::now());
        let at = |millis: u64| zero + Duration::from_millis(millis);
        let [short, long, late, back] = [JobId::next(), JobId::next(), JobId::next(), JobId::next()];
        let ran = |job: JobId, from: u64, to: u64| {
            meter.ran(&Run { from: at(from), to: at(to), shares: &[Share { job, phase: Phase::Decode, tokens: 1 }] });
        };
        let read = |from: u64, to: u64| meter.read(Span { from: at(from), to: at(to), watts: (5.0, 5.0) });
        read(0, 100);
        for job in [short, long, back] {
            ran(job, 100, 200);
        }
        read(100, 200);
        meter.lose_sensor();
        ran(short, 200, 250);
        ran(long, 250, 1000);
        ran(late, 1000, 1100);
        ran(back, 1100, 1300);
        let bill = meter.bill(short).unwrap();
        assert!((bill.decode.gross - 0.5).abs() < 1e-6 && (bill.coverage - 2.0 / 3.0).abs() < 1e-6, "{bill:?}");
        assert_eq!(meter.bill(long), None, "most of it is not known");
        assert_eq!(meter.bill(late), None, "nothing of it is known");
        assert_eq!(meter.ledger().accounts(), 1, "one is still in flight");
        // The sensor is back before the last one ends: what it ran in between is not forgotten.
        ran(back, 1300, 1400);
        read(1300, 1400);
        let bill = meter.bill(back).unwrap();
        assert!((bill.coverage - 0.5).abs() < 1e-6, "{bill:?}");
        assert_eq!(meter.ledger().accounts(), 0);
    }

    #[test]
    fn an_idle_engine_does_not_put_a_busy_one_to_sleep_and_a_moment_is_billed_once() {
        let (meter, zero) = (Meter::new(), Instant::now());
        let at = |millis: u64| zero + Duration::from_millis(millis);
        let (old, new) = (meter.dial(), meter.dial());
        old.wake();
        new.sleep();
        assert!(meter.is_busy() && meter.wait_for_work(Duration::ZERO));
        new.wake();
        old.sleep();
        assert!(meter.is_busy());
        drop(new);
        assert!(!meter.is_busy(), "an engine that is gone has no work");
        let new = meter.dial();
        meter.read(Span { from: at(0), to: at(100), watts: (5.0, 5.0) });
        let [first, second] = [JobId::next(), JobId::next()];
        let ran = |dial: &Dial, job: JobId, from: u64, to: u64| {
            dial.ran(&Run { from: at(from), to: at(to), shares: &[Share { job, phase: Phase::Decode, tokens: 1 }] });
        };
        ran(&old, first, 100, 200);
        ran(&new, second, 150, 250);
        ran(&old, first, 200, 300);
        meter.read(Span { from: at(100), to: at(300), watts: (5.0, 5.0) });
        let joules = |job| meter.bill(job).unwrap().decode.gross;
        assert!((joules(first) - 0.75).abs() < 1e-6 && (joules(second) - 0.25).abs() < 1e-6);
    }
}
