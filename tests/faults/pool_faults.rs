//! Three nodes that share the questions of one pool.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;

use crate::broker::Broker;
use crate::fleet::Fleet;
use crate::harness::boards::BoardTree;
use crate::harness::{TestDaemon, until};
use crate::ledger::Ledger;
use crate::{Dice, computed, node, requests, right_texts, stagger};

/// What a requester waits before it asks the pool again, with the same id. What a dead member was given and had not
/// accepted is lost with it: brokers do not hand it to another.
const PATIENCE: Duration = Duration::from_secs(5);

fn member(broker: &Broker, name: &str) -> TestDaemon {
    node(broker, name, &[("mqtt.pool", "\"house\""), ("engine.slots", "2")], &[])
}

/// Answers of each node so far.
fn shares(fleet: &Fleet) -> HashMap<String, usize> {
    fleet.ledger().by_node()
}

/// One member loses its power, another is taken out of service; the third goes on, and no question stays without an answer.
#[test]
fn three_nodes_share_a_pool_and_one_is_killed_and_one_is_drained() {
    let mut dice = Dice::new("pool");
    let broker = Broker::start("");
    let mut first = member(&broker, "n1");
    let mut second = member(&broker, "n2");
    let third = member(&broker, "n3");
    let ledger = Ledger::new(requests(), right_texts(&third));
    let mut fleet = Fleet::new(broker.port, ledger, |client| format!("moed/v1/pool/house/c/{client}/request"));
    fleet.patience = Some(PATIENCE);
    fleet.until_answered(requests() / 4);
    fleet.drive("answers of all three", || shares(&fleet).len() == 3);
    stagger(&mut dice);
    first.kill();
    fleet.until_answered(requests() / 2);
    second.signal(Signal::TERM);
    fleet.drive("the drain", || second.has_ended());
    assert!(second.wait().success(), "a drain is an orderly end");
    assert!(second.log().contains("member=false"), "it leaves the pool first");
    let alone = shares(&fleet)["n3"];
    fleet.until_answered(requests());
    assert!(shares(&fleet)["n3"] > alone, "the third goes on");
    let count: usize = [&first, &second, &third].into_iter().map(computed).sum();
    println!("pool: {:?}", shares(&fleet));
    fleet.judge("pool", count);
}

/// A member that has enough to do leaves the others their turn, and comes back when it has caught up.
#[test]
fn a_loaded_member_leaves_its_pool_and_comes_back() {
    let broker = Broker::start("");
    let settings =
        [("mqtt.pool", "\"house\""), ("engine.slots", "1"), ("mqtt.pool_leave", "6"), ("mqtt.pool_rejoin", "1")];
    // Slow enough that it does not keep up, however fast the machine.
    let folder = tempfile::tempdir().unwrap();
    let brake = folder.path().join("brake");
    std::fs::write(&brake, "5").unwrap();
    let busy = node(&broker, "n1", &settings, &[("MOED_HANG", &format!("engine:{}", brake.display()))]);
    let idle = member(&broker, "n2");
    let ledger = Ledger::new(requests(), right_texts(&idle));
    let mut fleet = Fleet::new(broker.port, ledger, |client| format!("moed/v1/pool/house/c/{client}/request"));
    fleet.patience = Some(PATIENCE);
    fleet.until_answered(requests());
    let (left, came) = (busy.log().matches("member=false").count(), busy.log().matches("member=true").count());
    assert!(left > 0, "64 requests on their way are more than 6");
    fleet.drive("it to come back", || {
        busy.log().matches("member=true").count() == busy.log().matches("member=false").count()
    });
    println!("pool load: {:?}, left {left} times, came back {came} times", shares(&fleet));
    let count: usize = [&busy, &idle].into_iter().map(computed).sum();
    fleet.judge("pool load", count);
}

/// A board that would refuse what the pool asks leaves it to the others, and takes its share again when it has cooled.
#[test]
fn a_hot_member_leaves_its_pool_and_comes_back_when_it_has_cooled() {
    const ZONE: &str = "sys/class/thermal/thermal_zone0/temp";
    let broker = Broker::start("log_type all");
    let tree = BoardTree::of("orin-nano");
    let board = tree.settings();
    let mut settings: Vec<(&str, &str)> = board.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    settings.extend([("mqtt.pool", "\"house\""), ("board.period", "\"20ms\""), ("governor.recover", "\"100ms\"")]);
    let hot = node(&broker, "n1", &settings, &[]);
    let cool = member(&broker, "n2");
    tree.write(ZONE, "98900");
    let told = |what: &str| broker.log().matches(&format!("Received {what} from moed-n1.pool")).count();
    until("it to leave", || (told("UNSUBSCRIBE") == 1).then_some(()));
    assert!(hot.log().contains("fit=false"), "{}", hot.log());
    let ledger = Ledger::new(requests() / 2, right_texts(&cool));
    let mut fleet = Fleet::new(broker.port, ledger, |client| format!("moed/v1/pool/house/c/{client}/request"));
    fleet.patience = Some(PATIENCE);
    fleet.until_answered(requests() / 2);
    assert_eq!((shares(&fleet).len(), fleet.ledger().counts.refused), (1, 0), "{:?}", shares(&fleet));
    // Whoever asks it by its name is told why not, and when to come again.
    let asked = hot.home.run(&["ask", "--mqtt", &broker.url(), "--node", "n1", "hi"]);
    assert_eq!(asked.code, Some(75), "{}", asked.stderr);
    assert!(asked.stderr.contains("it is throttled at 99.0 °C"), "{}", asked.stderr);
    tree.write(ZONE, "45000");
    until("it to come back", || (told("SUBSCRIBE") == 2).then_some(()));
    fleet.ledger().renew(1, requests() / 2);
    fleet.until_answered(requests() / 2);
    assert!(shares(&fleet).contains_key("n1"), "{:?}", shares(&fleet));
    fleet.judge("pool heat", [&hot, &cool].into_iter().map(computed).sum());
}
