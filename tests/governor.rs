//! The real daemon on a board whose temperature follows its work: what heat does, and what broken sensors do not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::boards::BoardTree;
use harness::client::{self, chat, content, say};
use harness::{Home, PATIENCE, TestDaemon, until};
use serde_json::{Value, json};

const TRIP: f64 = 99.0;
const ZONE: &str = "sys/class/thermal/thermal_zone0/temp";
const CURRENT: &str = "sys/class/hwmon/hwmon1/curr1_input";

fn start(tree: &BoardTree, settings: &[(&str, &str)]) -> TestDaemon {
    start_under(tree, settings, &[])
}

fn start_under(tree: &BoardTree, settings: &[(&str, &str)], environment: &[(&str, &str)]) -> TestDaemon {
    let board = tree.settings();
    let mut all: Vec<(&str, &str)> = board.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    all.push(("log.level", "\"info\""));
    all.extend([("board.period", "\"20ms\""), ("board.power_period", "\"10ms\""), ("governor.recover", "\"500ms\"")]);
    all.extend(settings);
    let home = Home::new();
    home.configure(&all);
    TestDaemon::start_in(home, environment)
}

/// A closed box: the die takes what the engine's runs give it and loses it to the room, slowly.
struct Enclosure {
    celsius: f64,
    hottest: f64,
    read: Instant,
    /// Seconds that have passed in the box.
    passed: f64,
    /// Seconds that the model has run.
    ran: f64,
}

/// What the die comes to at rest and, above that, at full work; and in which time.
const ROOM: f64 = 45.0;
const WORK: f64 = 450.0;
const INERTIA: f64 = 30.0;
/// The longest step of the box's time, in seconds. While a stalled machine runs neither the test nor the daemon, time stands
/// still in the box: nobody could have acted.
const STEP_MAX: f64 = 0.05;

impl Enclosure {
    fn new() -> Self {
        Self { celsius: 80.0, hottest: 80.0, read: Instant::now(), passed: 0.0, ran: 0.0 }
    }

    /// Lets the time since the last call pass, with the work that was done in it.
    fn pass(&mut self, daemon: &TestDaemon, tree: &BoardTree) {
        let ran = step_seconds(daemon);
        let (seconds, worked) = (self.read.elapsed().as_secs_f64(), ran - self.ran);
        (self.read, self.ran) = (Instant::now(), ran);
        self.warm(seconds, worked);
        tree.write(ZONE, &format!("{:.0}", self.celsius * 1000.0));
    }

    /// So many seconds pass, in so many of which the model ran.
    fn warm(&mut self, seconds: f64, worked: f64) {
        let busy = (worked / seconds.max(1e-3)).clamp(0.0, 1.0);
        let aim = ROOM + WORK * busy;
        let seconds = seconds.min(STEP_MAX);
        self.passed += seconds;
        self.celsius += (aim - self.celsius) * (1.0 - (-seconds / INERTIA).exp());
        self.hottest = self.hottest.max(self.celsius);
    }
}

/// Seconds that the model has run, over all kinds of steps.
fn step_seconds(daemon: &TestDaemon) -> f64 {
    let page = client::get(&daemon.socket(), "/metrics").unwrap().text();
    let sums = page.lines().filter(|line| line.starts_with("moed_step_seconds_sum"));
    sums.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// What clients of one priority saw.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    refused: AtomicUsize,
}

/// Asks without a pause until told to stop. Whatever is neither an answer nor a refusal for heat fails the test.
fn ask_on(daemon: &TestDaemon, priority: &str, tokens: usize, seen: &Seen, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let more = json!({"priority": priority, "max_tokens": tokens, "ignore_eos": true});
        let reply = chat(&daemon.socket(), &say("hi", more));
        if reply.status == 200 {
            seen.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            let (code, message) = reply.error();
            assert_eq!((reply.status, code.as_str()), (503, "thermal"), "{message}");
            assert!(message.contains("°C, it is throttled at 99.0 °C") && reply.header("retry-after").is_some());
            seen.refused.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Loads the daemon until `enough`; gives the enclosure's highest temperature.
fn load(
    daemon: &TestDaemon,
    tree: &BoardTree,
    alarms: &Seen,
    background: &Seen,
    enough: impl Fn(&Enclosure) -> bool,
) -> Enclosure {
    let stop = AtomicBool::new(false);
    let mut enclosure = Enclosure::new();
    std::thread::scope(|scope| {
        let mut clients: Vec<_> =
            (0..6).map(|_| scope.spawn(|| ask_on(daemon, "background", 400, background, &stop))).collect();
        clients.push(scope.spawn(|| ask_on(daemon, "alarm", 3, alarms, &stop)));
        let deadline = Instant::now() + PATIENCE;
        enclosure.pass(daemon, tree);
        while !enough(&enclosure) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            enclosure.pass(daemon, tree);
        }
        stop.store(true, Ordering::Relaxed);
        // Background work that was let in waits until the box has cooled, which it does only while time passes in it.
        while clients.iter().any(|client| !client.is_finished()) && Instant::now() < deadline + PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
            enclosure.pass(daemon, tree);
        }
    });
    enclosure
}

#[test]
fn a_stalled_machine_does_not_heat_the_box_by_itself() {
    let (mut stalled, mut busy) = (Enclosure::new(), Enclosure::new());
    stalled.warm(60.0, 60.0);
    busy.warm(STEP_MAX, STEP_MAX);
    assert!(stalled.hottest > 80.0 && (stalled.hottest - busy.hottest).abs() < 1e-9, "{:.1} °C", stalled.hottest);
}

#[test]
fn in_a_box_that_would_boil_the_board_stays_under_its_trip_point_and_no_alarm_is_lost() {
    // The same box without a governor: it would boil.
    let tree = BoardTree::of("orin-nano");
    let daemon = start(&tree, &[("governor.mode", "\"off\"")]);
    let unchecked = load(&daemon, &tree, &Seen::default(), &Seen::default(), |enclosure| enclosure.hottest > TRIP);
    assert!(unchecked.hottest > TRIP, "{:.1} °C: too cool a box to show anything", unchecked.hottest);
    drop(daemon);

    let tree = BoardTree::of("orin-nano");
    let daemon = start(&tree, &[]);
    let (alarms, background) = (Seen::default(), Seen::default());
    let mut enclosure = load(&daemon, &tree, &alarms, &background, |enclosure| {
        // Twice the time in which the box without a governor boils, and something was shed.
        enclosure.passed > 8.0
            && background.refused.load(Ordering::Relaxed) > 0
            && alarms.answered.load(Ordering::Relaxed) >= 20
    });
    let log: String =
        daemon.log().lines().filter(|line| !line.contains("request finished")).collect::<Vec<_>>().join("\n");
    assert!(enclosure.hottest < TRIP, "{:.1} °C\n{log}", enclosure.hottest);
    assert!(background.refused.load(Ordering::Relaxed) > 0, "nothing was shed\n{log}");
    assert!(alarms.answered.load(Ordering::Relaxed) >= 20);
    assert_eq!(alarms.refused.load(Ordering::Relaxed), 0, "an alarm was refused\n{log}");
    assert!(log.contains("the governor acts") && log.contains("`cpu-thermal` is at"), "{log}");

    // It cools, step by step, and everybody is welcome again.
    until("everything is allowed again", || {
        enclosure.celsius = enclosure.celsius.min(60.0);
        enclosure.pass(&daemon, &tree);
        (daemon.metric("moed_governor_level").abs() < 0.5).then_some(())
    });
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({"priority": "background"}))).status, 200);
}

#[test]
fn systemds_watch_on_memory_drops_kept_prompts_and_refuses_all_but_alarms_while_it_lasts() {
    let tree = BoardTree::of("orin-nano");
    let watch = tree.path("pressure.sock");
    let listener = UnixListener::bind(&watch).unwrap();
    let environment =
        [("MEMORY_PRESSURE_WATCH", watch.to_str().unwrap()), ("MEMORY_PRESSURE_WRITE", "c29tZSAyMDAwMDAgMjAwMDAwMAA=")];
    let daemon = start_under(&tree, &[], &environment);
    let (mut systemd, _) = listener.accept().unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = [0; 20];
    systemd.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"some 200000 2000000\0");
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({}))).status, 200);

    let refused = until("a refusal", || {
        systemd.write_all(b"!").unwrap();
        let reply = chat(&daemon.socket(), &say("hi", json!({})));
        (reply.status != 200).then_some(reply)
    });
    let (code, message) = refused.error();
    assert_eq!((refused.status, code.as_str()), (503, "overloaded"), "{message}");
    assert!(message.contains("systemd says so"), "{message}");
    assert_eq!(chat(&daemon.socket(), &say("hi", json!({"priority": "alarm"}))).status, 200);
    let log = daemon.log();
    assert!(log.contains("from=\"roomy\" to=\"tight\"") && log.contains("from=\"tight\" to=\"short\""), "{log}");
    // Nothing more comes.
    until("everybody is welcome again", || (chat(&daemon.socket(), &say("hi", json!({}))).status == 200).then_some(()));
}

fn energy(daemon: &TestDaemon) -> Value {
    let reply = chat(&daemon.socket(), &say("hi", json!({"max_tokens": 400, "ignore_eos": true})));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let energy = answer["usage"]["energy"].clone();
    if let Some(gross) = energy["gross_j"].as_f64() {
        // 6 W, as the sensor says, for no longer than the request took.
        let most = 6.0 * answer["timings"]["total_ms"].as_f64().unwrap() / 1e3;
        assert!(gross > 0.0 && gross <= most * 1.01 + 1e-3, "{gross} J, at most {most}");
    }
    energy
}

#[test]
fn an_answer_says_what_energy_it_took_and_the_board_is_in_the_metrics() {
    let tree = BoardTree::of("orin-nano");
    let daemon = start(&tree, &[]);
    until("a reading of power", || (daemon.metric("moed_power_watts{rail=\"total\"}") > 5.9).then_some(()));
    let taken = until("an energy", || Some(energy(&daemon)).filter(|energy| !energy.is_null()));
    let sum = taken["prefill"]["gross_j"].as_f64().unwrap() + taken["decode"]["gross_j"].as_f64().unwrap();
    assert!((taken["gross_j"].as_f64().unwrap() - sum).abs() < 1e-3, "{taken}");
    assert!((0.0..=1.0).contains(&taken["coverage"].as_f64().unwrap()), "{taken}");
    // The books reach the last run with the next reading.
    until("joules for decoding", || (daemon.metric("moed_energy_joules_total{phase=\"decode\"}") > 0.0).then_some(()));
    let near = |name: &str, value: f64| {
        let found = daemon.metric(name);
        assert!((found - value).abs() < value * 1e-3, "{name} is {found}");
    };
    near("moed_temperature_celsius{zone=\"cpu-thermal\"}", 51.187);
    near("moed_power_watts{rail=\"VDD_SOC\"}", 1.4);
    near("moed_memory_bytes{kind=\"available\"}", 5_120_000.0 * 1024.0);
    near("moed_gpu_load_ratio{kind=\"gpu\"}", 0.125);
    near("moed_throttle_events", 7.0);
    let status = client::get(&daemon.socket(), "/status").unwrap().json();
    assert_eq!(status["metrics"]["moed_throttled"], 0.0);
}

#[test]
fn without_a_sensor_energy_is_null_and_with_one_that_vanishes_or_blocks_answers_go_on() {
    let daemon = start(&BoardTree::empty(), &[]);
    assert_eq!(energy(&daemon), Value::Null);
    drop(daemon);

    let tree = BoardTree::of("orin-nano");
    let daemon = start(&tree, &[]);
    let known = |daemon: &TestDaemon| daemon.metric("moed_power_watts{rail=\"total\"}") > 0.0;
    until("a reading of power", || known(&daemon).then_some(()));
    tree.remove(CURRENT);
    until("the sensor is missed", || (!known(&daemon)).then_some(()));
    assert_eq!(energy(&daemon), Value::Null);
    tree.write(CURRENT, "1200");
    until("the sensor is back", || known(&daemon).then_some(()));
    tree.write(CURRENT, "many");
    until("nonsense is no power", || (!known(&daemon)).then_some(()));
    tree.write(CURRENT, "1200");
    until("the sensor is back", || known(&daemon).then_some(()));
    // The daemon's reader hangs in it; nobody else does.
    tree.block(CURRENT);
    until("the sensor is given up", || daemon.log().contains("reading a sensor blocks").then_some(()));
    assert_eq!(energy(&daemon), Value::Null);
    assert!(!content(&chat(&daemon.socket(), &say("hi", json!({})))).is_empty());
    until("temperatures are read on", || {
        tree.write(ZONE, "42000");
        (daemon.metric("moed_temperature_celsius{zone=\"cpu-thermal\"}") < 43.0).then_some(())
    });
    assert_eq!(daemon.log().matches("reading a sensor blocks").count(), 1, "{}", daemon.log());
}
