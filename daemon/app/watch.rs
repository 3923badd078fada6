//! What systemd is told while the daemon runs: signs of life, and a status line.
//!
//! A thread of its own, so that no other part's hang keeps it from noticing. A timer alone would prove nothing but itself:
//! the watchdog is fed only while every part that has begun is fresh.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::pulse::{Part, Pulse};
use crate::queue::Queue;
use crate::supervisor;
use crate::vitals::Vitals;

/// How often the status line is brought up to date; and the pause of the transports' heartbeat.
const STATUS_EVERY: Duration = Duration::from_secs(5);
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A part may be silent for as long as systemd waits, within these: several beats, and an operator's patience.
const SILENCE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_mins(1));

/// The running thread; dropping it ends it.
pub(super) struct Watch {
    _stop: SyncSender<()>,
}

/// What the thread looks at.
pub(super) struct Watched {
    pub(super) pulse: Arc<Pulse>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) queue: Queue,
    /// What is loaded, on what; the beginning of the status line.
    pub(super) loaded: Arc<Mutex<String>>,
}

impl Watch {
    /// Starts the thread where systemd listens, and the transports' heartbeat on their own threads.
    pub(super) fn start(watched: Watched) -> Result<Option<Self>, Fault> {
        let pulse = Arc::clone(&watched.pulse);
        pulse.begin(Part::Transports);
        tokio::spawn(async move {
            loop {
                pulse.beat(Part::Transports);
                tokio::time::sleep(BEAT_EVERY).await;
            }
        });
        if !supervisor::listens() {
            return Ok(None);
        }
        let (stop, stopped) = sync_channel(0);
        let interval = supervisor::watchdog_interval();
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || run(&watched, interval, &stopped))
            .map_err(|error| Fault::machine(format!("starting the watchdog's thread: {error}")))?;
        Ok(Some(Self { _stop: stop }))
    }
}

fn run(watched: &Watched, interval: Option<Duration>, stopped: &Receiver<()>) {
    // Half the interval, as systemd advises.
    let pause = interval.map_or(STATUS_EVERY, |interval| (interval / 2).min(STATUS_EVERY));
    let silence_max = interval.unwrap_or(SILENCE.1).clamp(SILENCE.0, SILENCE.1);
    let mut status = Status::new(&watched.vitals);
    let mut told = String::new();
    let mut noticed = Vec::new();
    loop {
        let hung = watched.pulse.hung(silence_max);
        if hung.is_empty() && interval.is_some() {
            supervisor::feed_watchdog();
        } else if hung != noticed && !hung.is_empty() {
            let parts: Vec<&str> = hung.iter().map(|part| part.name()).collect();
            let silence_s = silence_max.as_secs();
            tracing::error!(parts = parts.join(" "), silence_s, "no sign of life; the watchdog is not fed");
        }
        noticed = hung;
        if let Some(line) = status.line(watched)
            && line != told
        {
            supervisor::status(&line);
            told = line;
        }
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// The status line: what is loaded, who runs and waits, tokens a second since the last line.
struct Status {
    since: Instant,
    tokens: u64,
}

impl Status {
    fn new(vitals: &Vitals) -> Self {
        Self { since: Instant::now(), tokens: vitals.generated() }
    }

    /// A new line, if it is time for one.
    fn line(&mut self, watched: &Watched) -> Option<String> {
        let (now, tokens) = (Instant::now(), watched.vitals.generated());
        let elapsed = now.duration_since(self.since);
        if elapsed < STATUS_EVERY / 2 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = tokens.saturating_sub(self.tokens) as f64 / elapsed.as_secs_f64();
        (self.since, self.tokens) = (now, tokens);
        let (running, waiting) = (watched.vitals.running(), watched.queue.waiting());
        let loaded = watched.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        Some(format!("{loaded}: {running} running, {waiting} waiting, {rate:.1} tokens/s"))
    }
}
