//! What the daemon is told while it runs: by signals, and by errands from whoever may give orders.

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::control::{Errand, Order, Report};
use crate::fault::Fault;
use crate::telemetry;

/// What to do next.
#[derive(Debug)]
pub(super) enum Told {
    /// Drain and end; why, for the log.
    Stop(&'static str),
    /// Read the config again and answer.
    Reload(Errand),
}

/// The ways in which orders come.
pub(super) struct Orders {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    errands: mpsc::Receiver<Errand>,
}

impl Orders {
    pub(super) fn listen(errands: mpsc::Receiver<Errand>) -> Result<Self, Fault> {
        let on = |kind| signal(kind).map_err(|error| Fault::machine(format!("listening for signals: {error}")));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            // From here on it no longer ends the process; one that comes while the model loads is served after that.
            hangup: on(SignalKind::hangup())?,
            errands,
        })
    }

    /// Waits for the next signal that ends the daemon. Cancel safe.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for what changes the daemon's course; a log level is set right here. Cancel safe.
    pub(super) async fn next(&mut self) -> Told {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Told::Stop("a signal"),
                _ = self.interrupt.recv() => return Told::Stop("a signal"),
                _ = self.hangup.recv() => return Told::Reload(Errand::own(Order::Reload, "SIGHUP")),
                // The site holds the other end for as long as the daemon runs.
                Some(errand) = self.errands.recv() => match &errand.order {
                    Order::Drain => return drain(errand),
                    Order::Reload => return Told::Reload(errand),
                    Order::LogLevel(_) => set_level(errand),
                },
            }
        }
    }

    /// Does something long; `Err` when the daemon is told to stop meanwhile. A reload is refused with `busy`, the reason.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>, busy: &str) -> Result<T, &'static str> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = self.terminate.recv() => return Err("a signal"),
                _ = self.interrupt.recv() => return Err("a signal"),
                Some(errand) = self.errands.recv() => match &errand.order {
                    Order::Drain => if let Told::Stop(why) = drain(errand) {
                        return Err(why);
                    },
                    Order::Reload => errand.answer(Err(Fault::unavailable(busy, Duration::from_secs(1)))),
                    Order::LogLevel(_) => set_level(errand),
                },
            }
        }
    }
}

fn drain(errand: Errand) -> Told {
    errand.answer(Ok(Report::new("draining")));
    Told::Stop("a request")
}

fn set_level(errand: Errand) {
    let Order::LogLevel(level) = &errand.order else { return };
    let result = telemetry::set_level(level).map(|()| Report::new(format!("logging at {level}")));
    errand.answer(result);
}
