//! The broker dies, or stands still.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::{Dice, computed, fleet, node, requests, stagger};

/// How long a device waits before it asks again. Mosquitto acknowledges what it has not written, so that its death may lose
/// what it was given last; the requester's patience is the remedy, and the same id makes it harmless.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn three_deaths_of_the_broker_lose_nothing_that_is_asked_again() {
    let mut dice = Dice::new("broker kills");
    let mut broker = Broker::start("");
    let daemon = node(&broker, "n1", &[], &[]);
    let mut fleet = fleet(&broker, &daemon, requests());
    fleet.patience = Some(PATIENCE);
    for death in 1..=3 {
        fleet.until_answered(requests() * death / 4);
        stagger(&mut dice);
        broker.kill();
        broker.again();
    }
    fleet.until_answered(requests());
    fleet.ask_all_again();
    fleet.judge("broker kills", computed(&daemon));
}

/// As behind a dead network: all connections stay open, nothing moves, for longer than two keep-alives.
#[test]
fn a_broker_that_stands_still_for_15_seconds_loses_nothing() {
    let broker = Broker::start("");
    let daemon = node(&broker, "n1", &[], &[]);
    let mut fleet = fleet(&broker, &daemon, requests());
    fleet.patience = Some(Duration::from_secs(20));
    fleet.until_answered(requests() / 3);
    broker.freeze(true);
    let until = Instant::now() + Duration::from_secs(15);
    fleet.drive("the end of the freeze", || Instant::now() >= until);
    broker.freeze(false);
    fleet.until_answered(requests());
    fleet.ask_all_again();
    fleet.judge("broker freeze", computed(&daemon));
}
