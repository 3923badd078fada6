//! The thread that looks after the board: reads its sensors, keeps the books of energy, lets the governor judge, and tells
//! engine, queue, metrics and listeners what comes of it.
//!
//! It reads power often while the engine works and everything else now and then; an idle board costs a few small reads a
//! second. Sensors that block cost their reader, not this thread (see [`Patience`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use crate::board::files::Files;
use crate::board::heat::{self, Heat, Zone};
use crate::board::load::{Clocks, Load};
use crate::board::memory::{self, Memory};
use crate::board::patience::Patience;
use crate::board::rails::{Powers, Rails};
use crate::board::throttle::{Signs, Throttling};
use crate::config::{Board, Config, Governor as Policy};
use crate::energy::meter::{Meter, Readings};
use crate::engine::oversight::{Limits, Observer, Oversight};
use crate::fault::{Code, Fault};
use crate::governor::notice::NOTICES_MAX;
use crate::governor::squeeze::Squeeze;
use crate::governor::willingness::Refusal;
use crate::governor::{Governor, Level, Notice, Reading, Verdict, Willingness};
use crate::job::Priority;
use crate::pulse::Part;
use crate::supervisor::pressure::Pressure;
use crate::vitals::Vitals;

/// How often sensors are looked for again: a GPU's node may come up after the daemon.
const FIND_AGAIN: Duration = Duration::from_mins(1);

/// What the engine may have at most, and so what parts of it mean.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    pub slots: usize,
    pub piece: usize,
}

/// A board that is looked after, until this is dropped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    meter: Arc<Meter>,
    limits: Limits,
    willingness: Willingness,
    notices: broadcast::Sender<Notice>,
    whole: Arc<Mutex<Whole>>,
}

impl Watch {
    /// Starts the thread.
    pub fn start(config: &Config, whole: Whole, vitals: &Arc<Vitals>) -> Result<Self, Fault> {
        let watch = Self {
            stop: Arc::default(),
            meter: Meter::new(),
            limits: Limits::default(),
            willingness: Willingness::default(),
            notices: broadcast::channel(NOTICES_MAX).0,
            whole: Arc::new(Mutex::new(whole)),
        };
        let keeper = Keeper {
            patience: Patience::new(Files::new(config.board.clone())),
            settings: config.board.clone(),
            policy: config.governor.clone(),
            governor: (config.governor.mode != "off").then(|| Governor::new(config.governor.clone())),
            pressure: (config.governor.mode != "off").then(Pressure::of_environment).flatten(),
            found: Sensors::default(),
            readings: Readings::default(),
            watts: None,
            told: false,
            whole: Arc::clone(&watch.whole),
            stop: Arc::clone(&watch.stop),
            meter: Arc::clone(&watch.meter),
            limits: watch.limits.clone(),
            willingness: watch.willingness.clone(),
            notices: watch.notices.clone(),
            vitals: Arc::clone(vitals),
        };
        std::thread::Builder::new()
            .name("board".to_owned())
            .spawn(move || keeper.keep())
            .map_err(|error| Fault::machine(format!("starting the board's thread: {error}")))?;
        Ok(watch)
    }

    /// What one engine works under; `heart` is its heartbeat.
    pub fn oversight(&self, heart: Part) -> Oversight {
        let observer: Arc<dyn Observer> = Arc::new(self.meter.dial());
        Oversight { limits: self.limits.clone(), observer: Some(observer), heart }
    }

    /// From now on this is what the engine may have at most.
    pub fn measure_by(&self, whole: Whole) {
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = whole;
    }

    /// What the queue asks.
    pub fn willingness(&self) -> Willingness {
        self.willingness.clone()
    }

    /// Every step of the governor from now on. A listener that falls behind loses the oldest.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What this board has.
#[derive(Clone, Debug, Default)]
struct Sensors {
    zones: Vec<Zone>,
    clocks: Clocks,
    signs: Signs,
}

/// Everything but power.
#[derive(Default)]
struct Look {
    heats: Vec<Heat>,
    load: Load,
    throttling: Throttling,
    memory: Memory,
}

struct Keeper {
    patience: Patience,
    settings: Board,
    policy: Policy,
    governor: Option<Governor>,
    /// systemd's watch on the service's own memory, where it has one.
    pressure: Option<Pressure>,
    found: Sensors,
    readings: Readings,
    /// The last reading of the whole board's power.
    watts: Option<f64>,
    /// It was logged that the sensor of power says nothing; once is enough, for one that comes and goes, too.
    told: bool,
    whole: Arc<Mutex<Whole>>,
    stop: Arc<AtomicBool>,
    meter: Arc<Meter>,
    limits: Limits,
    willingness: Willingness,
    notices: broadcast::Sender<Notice>,
    vitals: Arc<Vitals>,
}

impl Keeper {
    fn keep(mut self) {
        let mut rails = Rails::default();
        let (mut look_next, mut find_next) = (Instant::now(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= find_next {
                find_next = now + FIND_AGAIN;
                rails = self.find(rails);
            }
            if !rails.is_empty() {
                rails = self.read_power(rails);
            }
            if now >= look_next {
                look_next = now + self.settings.period.0;
                self.look(now);
            }
            let left = look_next.saturating_duration_since(Instant::now());
            if rails.is_empty() {
                std::thread::sleep(left);
            } else if self.meter.is_busy() {
                std::thread::sleep(self.settings.power_period.0.min(left));
            } else {
                self.meter.wait_for_work(left);
            }
        }
    }

    /// Looks for sensors. Rails that are known keep what they remember.
    fn find(&mut self, known: Rails) -> Rails {
        let found = self.patience.read(|files| {
            let sensors = Sensors { zones: heat::zones(files), clocks: Clocks::find(files), signs: Signs::find(files) };
            (sensors, Rails::find(files))
        });
        let (sensors, rails) = found.unwrap_or_default();
        let names = |zones: &[Zone]| zones.iter().map(|zone| zone.name.clone()).collect::<Vec<_>>();
        let same = known.has_the_rails_of(&rails);
        if names(&sensors.zones) != names(&self.found.zones) || !same {
            let whole = if rails.is_empty() { "no sensor".to_owned() } else { rails.whole() };
            tracing::info!(zones = names(&sensors.zones).join(","), power = whole, "the board's sensors");
        }
        self.found = sensors;
        if same { known } else { rails }
    }

    fn read_power(&mut self, rails: Rails) -> Rails {
        let read = self.patience.read({
            let rails = rails.clone();
            move |files| {
                let mut rails = rails.clone();
                let powers = rails.read(files, Instant::now);
                (rails, powers, Instant::now())
            }
        });
        let (rails, powers, at) = read.unwrap_or_else(|| (rails, Powers::default(), Instant::now()));
        match powers.total {
            Some(watts) => {
                if let Some(span) = self.readings.next(at, watts, powers.mean) {
                    self.meter.read(span);
                }
            }
            // A counter says nothing the first time.
            None if powers.mean && self.watts.is_none() => self.readings.start(at),
            None => {
                if self.watts.is_some() && !self.told {
                    self.told = true;
                    tracing::warn!(
                        rail = rails.whole(),
                        "the board's power is not known any more; answers go on without energy"
                    );
                }
                self.readings.forget();
                self.meter.lose_sensor();
            }
        }
        self.watts = powers.total;
        self.vitals.set_power(&powers);
        if let Some(totals) = self.meter.totals() {
            let phases = [("prefill", totals.prefill), ("decode", totals.decode), ("idle", totals.idle)];
            self.vitals.set_energy(&phases, self.meter.idle_watts());
        }
        rails
    }

    /// Reads everything but power, and lets the governor judge.
    fn look(&mut self, now: Instant) {
        let found = self.found.clone();
        let look = self.patience.read(move |files| Look {
            heats: heat::read(files, &found.zones),
            load: found.clocks.read(files),
            throttling: found.signs.read(files),
            memory: memory::read(files),
        });
        // With too many sensors that block nothing is read any more, which looks like a board without any.
        let look = look.unwrap_or_default();
        self.vitals.set_board(&look.heats, &look.load, &look.throttling);
        self.vitals.set_pressure(look.memory.some_pressure, look.memory.full_pressure);
        for (kind, bytes) in [
            ("available", look.memory.available),
            ("total", look.memory.total),
            ("swap_total", look.memory.swap_total),
            ("swap_free", look.memory.swap_free),
        ] {
            if let Some(bytes) = bytes {
                self.vitals.set_memory(kind, bytes);
            }
        }
        let reading = Reading {
            heats: look.heats,
            watts: self.watts,
            memory_available: look.memory.available,
            memory_total: look.memory.total,
            memory_pressure: look.memory.full_pressure,
            memory_pressed: self.pressure.as_mut().is_some_and(Pressure::has_come),
        };
        let Some(governor) = &mut self.governor else { return };
        let verdict = governor.judge(&reading, now);
        let reason = governor.reason();
        self.obey(&verdict, reason);
    }

    /// Tells everybody what holds from now on.
    fn obey(&self, verdict: &Verdict, reason: String) {
        let whole = *self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        self.limits.set(&verdict.allowance(whole.slots, whole.piece));
        if verdict.forget_prompts {
            self.limits.forget_prompts();
        }
        self.willingness.set(self.refusal(verdict, reason));
        self.vitals.set_governor_level(verdict.level.number());
        for notice in &verdict.notices {
            let (cause, from, to) = (notice.cause.name(), notice.from, notice.to);
            tracing::warn!(cause, from, to, reason = notice.reason, "the governor acts");
            // Nobody may be listening.
            let _heard = self.notices.send(notice.clone());
        }
    }

    fn refusal(&self, verdict: &Verdict, reason: String) -> Option<Refusal> {
        let retry_after = self.policy.recover.0;
        if verdict.squeeze == Squeeze::Short && verdict.level < Level::Refusing {
            let reason = verdict.memory_reason.clone();
            return Some(Refusal { code: Code::Overloaded, least: Priority::Alarm, reason, retry_after });
        }
        let least = verdict.level.least();
        (least > Priority::Background).then_some(Refusal { code: Code::Thermal, least, reason, retry_after })
    }
}
