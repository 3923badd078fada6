//! The books between two threads: the engine's writes runs and takes bills, the board's writes readings.

use std::sync::atomic::{AtomicBool, Ordering};
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
    busy: Mutex<bool>,
    woken: Condvar,
}

impl Meter {
    /// A meter without a sensor yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A reading, and the one before.
    pub fn read(&self, span: Span) {
        self.measures.store(true, Ordering::Relaxed);
        let busy = *lock(&self.busy);
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

    /// Whether the engine has work.
    pub fn is_busy(&self) -> bool {
        *lock(&self.busy)
    }

    /// Waits until the engine has work, at most so long. True: it has.
    pub fn wait_for_work(&self, most: Duration) -> bool {
        let busy = lock(&self.busy);
        let waited = self.woken.wait_timeout_while(busy, most, |busy| !*busy);
        let (busy, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *busy
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn set_busy(&self, busy: bool) {
        *lock(&self.busy) = busy;
        if busy {
            self.woken.notify_all();
        }
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer for Meter {
    fn wake(&self) {
        self.set_busy(true);
    }

    fn ran(&self, run: &Run<'_>) {
        if self.measures.load(Ordering::Relaxed) {
            self.ledger().run(run);
        }
    }

    fn sleep(&self) {
        if self.is_busy() {
            self.set_busy(false);
        }
    }

    fn bill(&self, job: JobId) -> Option<Energy> {
        self.measures.load(Ordering::Relaxed).then(|| self.ledger().bill(job))?
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
}
