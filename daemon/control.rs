//! Orders to the running daemon: drain, reload, another log level.
//!
//! Whoever may give one (the socket's `/admin/*`, a broker's control topics, a signal) has checked who is asking; `app.rs`
//! carries them out, one at a time, and each gets exactly one answer. Knows no transport.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::fault::{Code, Fault, Kind};

/// Orders that wait. They come from people and from systemd; a program that gives more than this is told to stop.
const ORDERS_MAX: usize = 8;

/// What the daemon is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take nothing new, finish what runs, end. Answered when the drain has begun.
    Drain,
    /// Read the config again and do what it says. Answered when that is done; a config that cannot be served changes nothing.
    Reload,
    /// Log at this level until the next reload or start.
    LogLevel(String),
}

impl Order {
    /// The name in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Reload => "reload",
            Self::LogLevel(_) => "loglevel",
        }
    }
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One line for people.
    pub summary: String,
    /// Settings that are in force now and were not before, as `section.key`.
    pub changed: Vec<String>,
    /// Settings that the file changes and only a restart can.
    pub restart: Vec<String>,
}

impl Report {
    /// A report of one line.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }
}

/// Where orders are given. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    orders: mpsc::Sender<Errand>,
}

impl Control {
    /// Gives an order and waits for what comes of it. `by` is who gave it, for the log: `uid:0`, `SIGHUP`, `mqtt:ops`.
    pub async fn give(&self, order: Order, by: impl Into<String>) -> Result<Report, Fault> {
        let (answer, heard) = oneshot::channel();
        let gone = || Fault::unavailable("the daemon is ending", std::time::Duration::from_secs(1));
        self.orders.try_send(Errand { order, by: by.into(), answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Fault::new(Kind::Busy, Code::QueueFull, format!("{ORDERS_MAX} orders wait, limit {ORDERS_MAX}"))
                    .retry_after(std::time::Duration::from_secs(1))
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        heard.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// An order on its way, and the one who waits for its answer.
#[derive(Debug)]
pub struct Errand {
    pub order: Order,
    pub by: String,
    answer: oneshot::Sender<Result<Report, Fault>>,
}

impl Errand {
    /// An order of the process itself, such as a signal; nobody waits for its answer but the log.
    pub fn own(order: Order, by: impl Into<String>) -> Self {
        Self { order, by: by.into(), answer: oneshot::channel().0 }
    }

    /// Tells whoever gave the order. Dropping an errand tells them that the daemon ends.
    pub fn answer(self, result: Result<Report, Fault>) {
        match &result {
            Ok(report) => tracing::info!(
                order = self.order.name(),
                by = self.by,
                changed = report.changed.join(" "),
                restart = report.restart.join(" "),
                "{}",
                report.summary
            ),
            Err(fault) => tracing::warn!(order = self.order.name(), by = self.by, reason = %fault, "order refused"),
        }
        // Whoever gave it may have left; it is carried out all the same.
        drop(self.answer.send(result));
    }
}

/// Both ends: where orders are given, and where they are carried out.
pub fn channel() -> (Control, mpsc::Receiver<Errand>) {
    let (orders, errands) = mpsc::channel(ORDERS_MAX);
    (Control { orders }, errands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_gets_one_answer_and_the_ninth_that_waits_is_refused() {
        let (control, mut errands) = channel();
        let mut givers = Vec::new();
        for _ in 0..ORDERS_MAX {
            let control = control.clone();
            givers.push(tokio::spawn(async move { control.give(Order::Reload, "test").await }));
        }
        while errands.len() < ORDERS_MAX {
            tokio::task::yield_now().await;
        }
        let refused = control.give(Order::Drain, "test").await.unwrap_err();
        assert!(refused.message.contains("8 orders wait, limit 8"), "{refused}");
        errands.recv().await.unwrap().answer(Ok(Report::new("done")));
        assert_eq!(givers.remove(0).await.unwrap(), Ok(Report::new("done")));
        // The daemon ends with orders in its box: every one is told.
        drop(errands);
        for giver in givers {
            assert!(giver.await.unwrap().unwrap_err().message.contains("is ending"));
        }
        assert!(control.give(Order::Drain, "test").await.is_err());
    }
}
