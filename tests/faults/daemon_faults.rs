//! The daemon dies.

use crate::broker::Broker;
use crate::harness::until;
use crate::{Dice, computed, fleet, node, requests, stagger, whole};

/// A power cut comes at any moment, again and again, while devices go on asking. They never ask twice: the broker lives, so
/// nothing may be lost.
#[test]
fn kills_at_random_points_lose_nothing_and_double_nothing() {
    let mut dice = Dice::new("random kills");
    let broker = Broker::start("");
    let mut daemon = node(&broker, "n1", &[], &[]);
    let fleet = fleet(&broker, &daemon, requests());
    let mut kills = 0;
    while fleet.answered() < requests() {
        fleet.until_answered(fleet.answered() + dice.roll(15..150));
        if fleet.answered() == requests() {
            break;
        }
        stagger(&mut dice);
        daemon.restart(&[]);
        kills += 1;
    }
    fleet.until_answered(requests());
    fleet.ask_all_again();
    assert!(kills > 0);
    println!("random kills: {kills} kills");
    fleet.judge("random kills", computed(&daemon));
}

/// The process is killed by SIGKILL at a named step of the protocol, at its first passing and at later ones.
#[test]
fn a_kill_at_each_step_of_the_protocol_leaves_one_answer_each() {
    const POINTS: [&str; 7] = [
        "after-journal",
        "after-puback",
        "after-attempt",
        "mid-generation",
        "after-result-row",
        "after-publish",
        "before-delivered",
    ];
    let passings: &[usize] = if whole() { &[1, 2, 3, 7, 20, 45] } else { &[1, 6] };
    for point in POINTS {
        let broker = Broker::start("");
        let mut daemon = node(&broker, "n1", &[], &[]);
        // A window more for each turn, since that much is answered between two.
        let count = if whole() { 600 } else { 200 };
        let fleet = fleet(&broker, &daemon, count);
        // A request over which the process dies a third time is given up. Each turn has two deaths, the first to set the
        // trap; before the next, what was asked till then is answered.
        for passing in passings {
            daemon.restart(&[("MOED_FAULT", &format!("{point}:{passing}"))]);
            fleet.drive("the kill", || daemon.has_ended());
            assert!(!daemon.wait().success(), "{point}:{passing}");
            daemon.restart(&[]);
            fleet.catch_up();
        }
        fleet.until_answered(count);
        fleet.ask_all_again();
        fleet.judge(point, computed(&daemon));
    }
}

/// An orderly stop in the middle of work, by the service manager, again and again.
#[test]
fn stops_and_starts_lose_nothing() {
    let mut dice = Dice::new("stops");
    let broker = Broker::start("");
    let mut daemon = node(&broker, "n1", &[("queue.drain_timeout", "\"1s\"")], &[]);
    let fleet = fleet(&broker, &daemon, requests());
    while fleet.answered() < requests() {
        fleet.until_answered(fleet.answered() + dice.roll(30..200));
        daemon.signal(rustix::process::Signal::TERM);
        fleet.drive("the stop", || daemon.has_ended());
        assert!(daemon.wait().success());
        daemon.restart(&[]);
    }
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    fleet.ask_all_again();
    fleet.judge("stops", computed(&daemon));
}
