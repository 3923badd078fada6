//! What is counted and measured: metrics, and heartbeats that say whether the rooms still move.
//!
//! Names are DESIGN's; `/metrics` prints them as OpenMetrics text, `/status` as JSON keys.

mod board;

use std::collections::HashSet;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::job::{Priority, Transport};
use crate::pulse::Pulse;
use crate::vitals::board::BoardVitals;

/// `{transport, outcome}`: the outcome is a finish or an error code, so the number of series is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    transport: &'static str,
    outcome: &'static str,
}

/// One label with one of a few fixed values.
macro_rules! one_label {
    ($type:ident, $label:ident) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        #[doc = concat!("`{", stringify!($label), "}`")]
        pub struct $type {
            $label: &'static str,
        }
    };
}
one_label!(PriorityLabel, priority);
one_label!(StateLabel, state);
one_label!(KindLabel, kind);
one_label!(ReasonLabel, reason);
one_label!(BoundLabel, bound);

/// `{version, onnxruntime, provider}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Build {
    version: &'static str,
    onnxruntime: String,
    provider: &'static str,
}

/// Callers that have a series of their own; the others share one. A label without a bound is a leak.
const CLIENTS_MAX: usize = 64;

/// `{transport, client}`: a user of the socket, or a client of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Client {
    transport: &'static str,
    client: String,
}

/// All counters of a daemon. Shared by every room; counting never blocks.
pub struct Vitals {
    registry: Registry,
    started: Instant,
    requests: Family<Ended, Counter>,
    running: Gauge,
    waiting: Family<PriorityLabel, Gauge>,
    slots: Family<StateLabel, Gauge>,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    cached_prompt_tokens: Counter,
    forced_tokens: Counter,
    guessed_tokens: Family<StateLabel, Counter>,
    prefix_blocks: Family<StateLabel, Gauge>,
    queue_seconds: Histogram,
    first_token_seconds: Histogram,
    token_seconds: Histogram,
    step_seconds: Family<KindLabel, Histogram>,
    refusals: Family<ReasonLabel, Counter>,
    over_quota: Family<BoundLabel, Counter>,
    clients: Family<Client, Counter>,
    clients_seen: Mutex<HashSet<Client>>,
    journal_rows: Family<StateLabel, Gauge>,
    journal_bytes: Gauge,
    mqtt_connected: Gauge,
    mqtt_reconnects: Counter,
    memory_bytes: Family<KindLabel, Gauge<i64, AtomicI64>>,
    build_info: Family<Build, Gauge>,
    /// Nanoseconds that the engine spent outside the model while it had work, and the steps it took.
    between: Counter,
    steps: Counter,
    pulse: Arc<Pulse>,
    board: BoardVitals,
}

/// From half a millisecond to a minute, each bound twice the one before.
fn seconds() -> Histogram {
    Histogram::new((0..18).map(|power| 0.0005 * f64::from(1 << power)))
}

impl Vitals {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut vitals = Self {
            registry: Registry::with_prefix("moed"),
            started: Instant::now(),
            requests: Family::default(),
            running: Gauge::default(),
            waiting: Family::default(),
            slots: Family::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            cached_prompt_tokens: Counter::default(),
            forced_tokens: Counter::default(),
            guessed_tokens: Family::default(),
            prefix_blocks: Family::default(),
            queue_seconds: seconds(),
            first_token_seconds: seconds(),
            token_seconds: seconds(),
            step_seconds: Family::new_with_constructor(seconds),
            refusals: Family::default(),
            over_quota: Family::default(),
            clients: Family::default(),
            clients_seen: Mutex::default(),
            journal_rows: Family::default(),
            journal_bytes: Gauge::default(),
            mqtt_connected: Gauge::default(),
            mqtt_reconnects: Counter::default(),
            memory_bytes: Family::default(),
            build_info: Family::default(),
            between: Counter::default(),
            steps: Counter::default(),
            pulse: Arc::default(),
            board: BoardVitals::default(),
        };
        let registry = &mut vitals.registry;
        registry.register("requests", "Requests that ended, by way in and outcome", vitals.requests.clone());
        registry.register("requests_running", "Requests that the engine works on", vitals.running.clone());
        registry.register("requests_waiting", "Requests that wait for a slot", vitals.waiting.clone());
        registry.register("slots", "Places in the key/value cache", vitals.slots.clone());
        registry.register("prompt_tokens", "Prompt tokens read", vitals.prompt_tokens.clone());
        registry.register("generated_tokens", "Tokens generated", vitals.generated_tokens.clone());
        registry.register(
            "cached_prompt_tokens",
            "Prompt tokens that came from a cache",
            vitals.cached_prompt_tokens.clone(),
        );
        registry.register(
            "forced_tokens",
            "Tokens that a schema or grammar left no choice for",
            vitals.forced_tokens.clone(),
        );
        registry.register(
            "guessed_tokens",
            "Tokens guessed from the prompt and checked",
            vitals.guessed_tokens.clone(),
        );
        registry.register("prefix_blocks", "Kept blocks of prompts", vitals.prefix_blocks.clone());
        registry.register("queue_seconds", "From submission to the first work", vitals.queue_seconds.clone());
        registry.register(
            "first_token_seconds",
            "From submission to the first token",
            vitals.first_token_seconds.clone(),
        );
        registry.register("token_seconds", "Between two tokens of one answer", vitals.token_seconds.clone());
        registry.register("step_seconds", "One run of the model", vitals.step_seconds.clone());
        registry.register("refusals", "Requests refused before they were taken on", vitals.refusals.clone());
        registry.register("over_quota", "Requests refused for their caller's quota", vitals.over_quota.clone());
        registry.register("client_requests", "Requests taken on, by who asked", vitals.clients.clone());
        registry.register("journal_rows", "Requests in the journal", vitals.journal_rows.clone());
        registry.register("journal_bytes", "Size of the journal file", vitals.journal_bytes.clone());
        registry.register("mqtt_connected", "1 while the broker is reached", vitals.mqtt_connected.clone());
        registry.register(
            "mqtt_reconnects",
            "Times the link to the broker was opened again",
            vitals.mqtt_reconnects.clone(),
        );
        registry.register("build_info", "What this daemon is", vitals.build_info.clone());
        registry.register("memory_bytes", "Memory by kind", vitals.memory_bytes.clone());
        registry.register(
            "engine_between_steps_nanoseconds",
            "Time outside the model while there was work",
            vitals.between.clone(),
        );
        registry.register("engine_steps", "Runs of the model", vitals.steps.clone());
        vitals.board.register(registry);
        vitals
    }

    /// Says what this build runs on; once, after loading.
    pub fn describe_build(&self, runtime: &str, provider: &'static str) {
        let version = env!("CARGO_PKG_VERSION");
        self.build_info.get_or_create(&Build { version, onnxruntime: runtime.to_owned(), provider }).set(1);
    }

    /// A request ended with this finish or error code.
    pub fn count_request(&self, transport: Transport, outcome: &'static str) {
        self.requests.get_or_create(&Ended { transport: transport.name(), outcome }).inc();
    }

    /// A request was turned away before it was taken on.
    pub fn count_refusal(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A request of this caller was taken on.
    pub fn count_client(&self, transport: Transport, client: &str) {
        let mut label = Client { transport: transport.name(), client: client.to_owned() };
        let mut seen = self.clients_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(&label) {
            if seen.len() < CLIENTS_MAX {
                seen.insert(label.clone());
            } else {
                "other".clone_into(&mut label.client);
            }
        }
        drop(seen);
        self.clients.get_or_create(&label).inc();
    }

    /// A request was over this bound of its caller's quota.
    pub fn count_over_quota(&self, bound: &'static str) {
        self.over_quota.get_or_create(&BoundLabel { bound }).inc();
    }

    /// A room's waiting jobs of this priority were so many and are so many now. Rooms add up.
    pub fn change_waiting(&self, priority: Priority, from: usize, to: usize) {
        change(&self.waiting.get_or_create(&PriorityLabel { priority: priority.name() }), from, to);
    }

    /// What an engine has was this and is that now. Engines add up.
    pub fn change_engine(&self, from: Filling, to: Filling) {
        change(&self.running, from.jobs, to.jobs);
        for (state, of) in [("busy", Filling::busy as fn(Filling) -> usize), ("free", Filling::free)] {
            change(&self.slots.get_or_create(&StateLabel { state }), of(from), of(to));
        }
        for (state, of) in [("kept", Filling::kept as fn(Filling) -> usize), ("free", Filling::blocks_free)] {
            change(&self.prefix_blocks.get_or_create(&StateLabel { state }), of(from), of(to));
        }
    }

    /// Jobs that run just now.
    pub fn running(&self) -> usize {
        usize::try_from(self.running.get()).unwrap_or(0)
    }

    /// A run of the model: what kind, and how long.
    pub fn count_step(&self, kind: &'static str, took: Duration) {
        self.step_seconds.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
        self.steps.inc();
    }

    /// Prompt tokens that were read.
    pub fn count_prompt(&self, tokens: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
    }

    /// Prompt tokens that came from kept blocks instead of being read.
    pub fn count_cached_prompt(&self, tokens: usize) {
        self.cached_prompt_tokens.inc_by(tokens as u64);
    }

    /// Tokens that an answer grew by, `forced` of them by its rule.
    pub fn count_generated(&self, tokens: usize, forced: usize) {
        self.generated_tokens.inc_by(tokens as u64);
        self.forced_tokens.inc_by(forced as u64);
    }

    /// Guessed tokens, and how many of them were right.
    pub fn count_guessed(&self, offered: usize, right: usize) {
        self.guessed_tokens.get_or_create(&StateLabel { state: "right" }).inc_by(right as u64);
        self.guessed_tokens.get_or_create(&StateLabel { state: "wrong" }).inc_by(offered.saturating_sub(right) as u64);
    }

    /// Time that passed between two runs while there was work.
    pub fn count_between(&self, took: Duration) {
        self.between.inc_by(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A job's first token: how long it waited in the queue, and in all.
    pub fn count_first_token(&self, queue: Duration, first_token: Duration) {
        self.queue_seconds.observe(queue.as_secs_f64());
        self.first_token_seconds.observe(first_token.as_secs_f64());
    }

    /// The time between two tokens of one answer.
    pub fn count_token(&self, took: Duration) {
        self.token_seconds.observe(took.as_secs_f64());
    }

    /// The journal's size.
    pub fn set_journal(&self, pending: usize, done: usize, bytes: u64) {
        self.journal_rows.get_or_create(&StateLabel { state: "pending" }).set(signed(pending));
        self.journal_rows.get_or_create(&StateLabel { state: "done" }).set(signed(done));
        self.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether the broker is reached; counts each return after the first connection.
    pub fn set_mqtt_connected(&self, connected: bool, again: bool) {
        self.mqtt_connected.set(i64::from(connected));
        if connected && again {
            self.mqtt_reconnects.inc();
        }
    }

    /// Bytes of memory of one kind (`cache`, `resident`, `anonymous`).
    pub fn set_memory(&self, kind: &'static str, bytes: u64) {
        self.memory_bytes.get_or_create(&KindLabel { kind }).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The heartbeats of all parts.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Tokens generated since the start.
    pub fn generated(&self) -> u64 {
        self.generated_tokens.get()
    }

    /// How long this daemon has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The metrics page, OpenMetrics text.
    pub fn page(&self) -> String {
        self.measure_memory();
        let mut page = String::new();
        // Writing to a `String` cannot fail.
        encode(&mut page, &self.registry).ok();
        page
    }

    /// The same numbers by name and labels, without histogram buckets and without the `# ` lines.
    pub fn numbers(&self) -> Vec<(String, f64)> {
        self.page()
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Resident and anonymous memory from `/proc/self/status`; silent where that cannot be read.
    fn measure_memory(&self) {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
        for (kind, key) in [("resident", "VmRSS:"), ("resident_peak", "VmHWM:"), ("anonymous", "RssAnon:")] {
            let kib =
                status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            if let Some(kib) = kib {
                self.set_memory(kind, kib * 1024);
            }
        }
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

/// How full an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filling {
    /// Jobs in flight.
    pub jobs: usize,
    /// Places for them.
    pub slots: usize,
    /// Kept blocks of prompts.
    pub blocks: usize,
    /// Places for those.
    pub blocks_max: usize,
}

impl Filling {
    fn busy(self) -> usize {
        self.jobs
    }

    fn free(self) -> usize {
        self.slots.saturating_sub(self.jobs)
    }

    fn kept(self) -> usize {
        self.blocks
    }

    fn blocks_free(self) -> usize {
        self.blocks_max.saturating_sub(self.blocks)
    }
}

fn change(gauge: &Gauge, from: usize, to: usize) {
    gauge.inc_by(signed(to) - signed(from));
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixty_fifth_client_shares_a_series() {
        let vitals = Vitals::new();
        for number in 0..CLIENTS_MAX + 5 {
            vitals.count_client(Transport::Mqtt, &format!("lamp{number}"));
        }
        vitals.count_client(Transport::Mqtt, "lamp0");
        let page = vitals.page();
        assert!(page.contains("moed_client_requests_total{transport=\"mqtt\",client=\"lamp0\"} 2"), "{page}");
        assert!(page.contains("moed_client_requests_total{transport=\"mqtt\",client=\"other\"} 5"), "{page}");
    }

    #[test]
    fn the_page_has_the_names_that_users_rely_on() {
        let vitals = Vitals::new();
        vitals.describe_build("1.32.0", "cpu");
        vitals.count_request(Transport::Mqtt, "stop");
        vitals.change_waiting(Priority::Alarm, 0, 2);
        vitals.count_step("decode", Duration::from_millis(1));
        vitals.count_generated(3, 1);
        let page = vitals.page();
        for line in [
            "moed_requests_total{transport=\"mqtt\",outcome=\"stop\"} 1",
            "moed_requests_waiting{priority=\"alarm\"} 2",
            "moed_generated_tokens_total 3",
            "moed_build_info{",
            "moed_step_seconds_count{kind=\"decode\"} 1",
            "moed_memory_bytes{kind=\"resident\"}",
        ] {
            assert!(page.contains(line), "{line} not in\n{page}");
        }
        assert!(
            vitals
                .numbers()
                .iter()
                .any(|(name, value)| name == "moed_generated_tokens_total" && (*value - 3.0).abs() < f64::EPSILON)
        );
    }
}
