//! Faults, with a real Mosquitto, the real binary and the tiny model. Each scenario prints what was sent, computed, answered,
//! repeated and lost, and fails on a lost or a differing answer.
//!
//! `cargo test` runs each small; `MOED_FAULTS=whole` (`make faults`) runs them whole, and `report.sh` makes a page of what they
//! print. `MOED_FAULTS_SEED` repeats a run's random points; each run prints its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that cannot go on fails, and says how far it came"
)]

#[path = "../harness/broker.rs"]
mod broker;
mod broker_faults;
mod daemon_faults;
mod disk;
mod fleet;
#[path = "../harness/mod.rs"]
mod harness;
mod ledger;
mod machine_faults;
mod pool_faults;
mod soak;

use std::collections::BTreeMap;
use std::time::Duration;

use broker::Broker;
use fleet::Fleet;
use harness::{Home, TestDaemon, client, until};
use ledger::{Ledger, SEEDS};
use serde_json::json;

/// Whether the scenarios run whole.
fn whole() -> bool {
    std::env::var("MOED_FAULTS").is_ok_and(|size| size == "whole")
}

/// Requests of one scenario.
fn requests() -> usize {
    if whole() { 4000 } else { 200 }
}

/// Numbers for random points; printed, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn new(scenario: &str) -> Self {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() & 0xffff_ffff;
        let seed = std::env::var("MOED_FAULTS_SEED")
            .map_or_else(|_| u64::try_from(clock()).unwrap(), |seed| seed.parse().unwrap());
        println!("{scenario}: MOED_FAULTS_SEED={seed}");
        Self(seed)
    }

    /// A number in a range, by splitmix64.
    fn roll(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        range.start + usize::try_from(mixed % u64::try_from(range.len()).unwrap()).unwrap()
    }
}

/// A node on this broker, connected.
fn node(broker: &Broker, name: &str, settings: &[(&str, &str)], environment: &[(&str, &str)]) -> TestDaemon {
    let home = Home::new();
    let (url, name) = (format!("{:?}", broker.url()), format!("{name:?}"));
    let mut all = vec![("mqtt.url", url.as_str()), ("node.name", &name), ("log.level", "\"info\"")];
    all.extend_from_slice(settings);
    home.configure(&all);
    let daemon = TestDaemon::start_in(home, environment);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

/// The text of each seed, as this node answers while nothing is wrong.
fn right_texts(daemon: &TestDaemon) -> BTreeMap<usize, String> {
    let ask = |seed: usize| {
        let more = json!({"max_tokens": 24, "ignore_eos": true, "temperature": 1.5, "seed": seed});
        client::content(&client::chat(&daemon.socket(), &client::say("hi", more)))
    };
    (0..SEEDS).map(|seed| (seed, ask(seed))).collect()
}

/// Devices that ask the node `n1`.
fn fleet(broker: &Broker, daemon: &TestDaemon, requests: usize) -> Fleet {
    let ledger = Ledger::new(requests, right_texts(daemon));
    Fleet::new(broker.port, ledger, |client| format!("moed/v1/node/n1/c/{client}/request"))
}

/// Answers that the processes of a node have computed.
fn computed(daemon: &TestDaemon) -> usize {
    daemon.whole_log().lines().filter(|line| line.contains("answered") && line.contains("finish=")).count()
}

/// Waits a random while, up to a few milliseconds: a fault should not fall on the same step each time.
fn stagger(dice: &mut Dice) {
    std::thread::sleep(Duration::from_micros(u64::try_from(dice.roll(0..5000)).unwrap()));
}
