//! The machine under the daemon: a full disk, a clock that is set.

use std::fs;

use crate::broker::Broker;
use crate::disk::{Disk, LAUNCHER};
use crate::harness::{Home, TestDaemon, until};
use crate::{computed, fleet, node, requests};

/// The journal's disk fills up in the middle of work. Nothing is accepted that is not on disk, what was accepted before is
/// answered once there is room again, and the devices are told when to come back.
#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing() {
    let broker = Broker::start("");
    let disk = Disk::new();
    let mut home = Home::new();
    home.launcher = LAUNCHER;
    let (url, folder) = (format!("{:?}", broker.url()), format!("{:?}", disk.path()));
    home.configure(&[("mqtt.url", &url), ("journal.dir", &folder), ("log.level", "\"info\"")]);
    // Slow enough that there is something left to ask when the disk has become full.
    let brake = home.path("brake");
    fs::write(&brake, "5").unwrap();
    let daemon = TestDaemon::start_in(home, &[("MOED_HANG", &format!("engine:{}", brake.display()))]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    let fleet = fleet(&broker, &daemon, requests().min(1000));
    let count = fleet.ledger().len();
    for time in 1..=3 {
        fleet.until_answered(count * time / 10);
        disk.fill(&daemon);
        let refused = fleet.ledger().counts.refused;
        fleet.drive("refusals", || fleet.ledger().counts.refused > refused + 5);
        disk.empty(&daemon);
    }
    fleet.until_answered(count);
    fleet.ask_all_again();
    println!("full disk: {}", disk.kind());
    fleet.judge("full disk", computed(&daemon));
}

/// A device without a clock of its own: it starts in the past and is set right by the network, decades on; later somebody
/// sets it back. Answers are kept as long as they would have been, so that nothing is computed twice.
#[test]
fn a_clock_that_is_set_neither_forgets_answers_nor_ends_what_waits() {
    let broker = Broker::start("");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    fs::write(&clock, "-800000000").unwrap();
    let environment = [("MOED_CLOCK", clock.to_str().unwrap())];
    let settings = [("journal.keep", "\"1h\""), ("log.level", "\"debug\"")];
    let mut daemon = node(&broker, "n1", &settings, &environment);
    let fleet = fleet(&broker, &daemon, requests().min(1000));
    let count = fleet.ledger().len();
    let lines = |daemon: &TestDaemon, what: &str| daemon.log().matches(what).count();
    for (part, seconds) in [(1, "0"), (2, "-7200"), (3, "864000")] {
        fleet.until_answered(count * part / 5);
        let noticed = lines(&daemon, "the clock was set");
        fs::write(&clock, seconds).unwrap();
        until("the step is noticed", || (lines(&daemon, "the clock was set") > noticed).then_some(()));
    }
    fleet.until_answered(count);
    let sweeps = lines(&daemon, "answers that were kept long enough");
    until("a sweep", || (lines(&daemon, "answers that were kept long enough") > sweeps).then_some(()));
    fleet.ask_all_again();
    daemon.restart(&environment);
    fleet.ask_all_again();
    fleet.judge("clock steps", computed(&daemon));
}
