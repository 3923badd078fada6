//! Heartbeats: whether the parts of the daemon that may hang still move.
//!
//! A part beats when it has done something or has seen that there is nothing to do, at least about once a second. systemd's
//! watchdog is fed only while all parts that have begun are fresh (`app/watch.rs`), so that a hang of one is a restart.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// How often a part beats that waits for something.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A part that may hang by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The thread that owns the model.
    Engine,
    /// The thread of another model, while a reload exchanges them. Which is which alternates: whoever comes takes the part
    /// that is free.
    Relief,
    /// The threads of the transports: a task there does nothing but beat.
    Transports,
    /// The desk of the MQTT room.
    Mqtt,
    /// The task that keeps the node's connection to the broker.
    Link,
    /// The same for the pool's connection.
    PoolLink,
    /// The task that hears what devices say.
    Home,
    /// The journal's writer.
    Journal,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Engine,
        Self::Relief,
        Self::Transports,
        Self::Mqtt,
        Self::Link,
        Self::PoolLink,
        Self::Home,
        Self::Journal,
    ];

    /// Of the two engines' parts the other one.
    #[must_use]
    pub fn relief(self) -> Self {
        if self == Self::Engine { Self::Relief } else { Self::Engine }
    }

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Relief => "engine-relief",
            Self::Transports => "transports",
            Self::Mqtt => "mqtt",
            Self::Link => "link",
            Self::PoolLink => "pool-link",
            Self::Home => "home",
            Self::Journal => "journal",
        }
    }

    /// Stands still if a test asked for it: with `MOED_HANG=PART:FILE` the part does so for as long as the file exists, or each
    /// time for as many milliseconds as the file says. Debug builds only; a release build has no such place.
    pub fn pass(self) {
        #[cfg(debug_assertions)]
        {
            use std::sync::OnceLock;
            static ARMED: OnceLock<Option<(String, std::path::PathBuf)>> = OnceLock::new();
            let armed = ARMED.get_or_init(|| {
                let value = std::env::var("MOED_HANG").ok()?;
                value.split_once(':').map(|(part, file)| (part.to_owned(), file.into()))
            });
            let Some((_, file)) = armed.as_ref().filter(|(part, _)| part == self.name()) else { return };
            while let Ok(text) = std::fs::read_to_string(file) {
                let pause = text.trim().parse().map(Duration::from_millis);
                std::thread::sleep(*pause.as_ref().unwrap_or(&Duration::from_millis(5)));
                if pause.is_ok() {
                    return;
                }
            }
        }
    }
}

/// When each part last showed that it is alive. Beating never blocks.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Milliseconds after the start, in the order of [`Part::ALL`]; 0: not begun.
    beats: [AtomicU64; Part::ALL.len()],
}

impl Pulse {
    pub fn new() -> Self {
        Self { started: Instant::now(), beats: Default::default() }
    }

    /// This part begins: from now on it is waited for, also if it never gets as far as its first beat.
    pub fn begin(&self, part: Part) {
        self.mark(part);
    }

    /// This part is alive.
    pub fn beat(&self, part: Part) {
        self.mark(part);
        part.pass();
    }

    fn mark(&self, part: Part) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beats[part as usize].store(now.max(1), Ordering::Relaxed);
    }

    /// This part has ended in good order and is no longer waited for.
    pub fn rest(&self, part: Part) {
        self.beats[part as usize].store(0, Ordering::Relaxed);
    }

    /// How long ago this part last beat; `None` before it begins and after it rests.
    pub fn silence(&self, part: Part) -> Option<Duration> {
        match self.beats[part as usize].load(Ordering::Relaxed) {
            0 => None,
            beat => Some(self.started.elapsed().saturating_sub(Duration::from_millis(beat))),
        }
    }

    /// The parts that have been silent for longer than this.
    pub fn hung(&self, longer_than: Duration) -> Vec<Part> {
        let hangs = |part: &Part| self.silence(*part).is_some_and(|silence| silence > longer_than);
        Part::ALL.into_iter().filter(hangs).collect()
    }
}

/// The life of a part that is one task: begun with it, and at rest when it ends, in whatever way.
pub struct Life {
    pulse: Arc<Pulse>,
    part: Part,
}

impl Life {
    /// From now on the part is waited for.
    pub fn begin(pulse: &Arc<Pulse>, part: Part) -> Self {
        pulse.begin(part);
        Self { pulse: Arc::clone(pulse), part }
    }

    /// Awaits `work`, which may take as long as it likes: as long as the task is run, it beats.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.pulse.beat(self.part);
            if let Ok(done) = timeout(BEAT_EVERY, &mut work).await {
                return done;
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.pulse.rest(self.part);
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_has_begun_and_is_silent_hangs_and_one_that_rests_does_not() {
        let pulse = Pulse { started: Instant::now().checked_sub(Duration::from_secs(100)).unwrap(), ..Pulse::new() };
        assert_eq!(pulse.hung(Duration::ZERO), [], "nothing has begun");
        for part in Part::ALL {
            pulse.beat(part);
        }
        assert_eq!(pulse.hung(Duration::from_secs(50)), []);
        pulse.beats[Part::Mqtt as usize].store(1, Ordering::Relaxed);
        assert_eq!(pulse.hung(Duration::from_secs(50)), [Part::Mqtt]);
        pulse.rest(Part::Mqtt);
        assert_eq!(pulse.hung(Duration::from_secs(50)), []);
    }

    #[tokio::test]
    async fn a_task_beats_while_it_waits_and_rests_when_it_ends() {
        let started = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        let pulse = Arc::new(Pulse { started, ..Pulse::new() });
        let life = Life::begin(&pulse, Part::Link);
        let beaten = life.during(async {
            // As if it had been silent all the time; what is awaited does not beat by itself.
            pulse.beats[Part::Link as usize].store(1, Ordering::Relaxed);
            let until = Instant::now() + Duration::from_mins(1);
            while pulse.hung(Duration::from_secs(50)) == [Part::Link] && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pulse.hung(Duration::from_secs(50)).is_empty()
        });
        assert!(beaten.await);
        drop(life);
        assert_eq!(pulse.silence(Part::Link), None);
    }
}
