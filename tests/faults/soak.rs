//! The mix, for as long as one likes: `make soak` for an hour, or `MINUTES=`; a few seconds among the tests.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::fleet::Fleet;
use crate::harness::{TestDaemon, client};
use crate::ledger::Ledger;
use crate::{Dice, computed, node, right_texts, stagger};

/// Requests of one round.
const ROUND: usize = 100;
/// Rounds after which the daemon has everything that it will ever need.
const WARM: usize = 3;
/// What may be added to its own memory after that, with kept beginnings and long contexts out of the way: those fill up to
/// bounds of their own, which are memory that is meant to be used.
const GROWTH_MAX: f64 = 24.0 * 1024.0 * 1024.0;

/// The broker dies no more often: a node that loses every connection within 20 s takes it for a fight over its client id and
/// stands back for minutes, as it should.
const DEATH_EVERY: Duration = Duration::from_secs(30);

fn minutes() -> f64 {
    std::env::var("MINUTES").map_or(0.1, |minutes| minutes.parse().unwrap())
}

fn anonymous(daemon: &TestDaemon) -> f64 {
    daemon.metric("moed_memory_bytes{kind=\"anonymous\"}")
}

/// What is wrong, too large, too late, unknown, cancelled, remembered, streamed: beside the requests that must be answered.
fn disturb(fleet: &Fleet, daemon: &TestDaemon, round: usize) {
    let node = |verb: &str| format!("moed/v1/node/n1/c/noise/{verb}");
    let text = |value: Value| value.to_string().into_bytes();
    let id = format!("n{round}");
    let long = json!({"max_tokens": 2000, "ignore_eos": true, "temperature": 1.5});
    for (verb, payload) in [
        ("request", b"{\"id\": broken".to_vec()),
        ("request", vec![b'x'; 300 << 10]),
        ("request", text(json!({"id": id, "prompt": "hi", "params": long, "stream": true, "ack": true}))),
        ("cancel", id.clone().into_bytes()),
        ("cancel", format!("unknown{round}").into_bytes()),
        ("get", b"unknown".to_vec()),
        (
            "request",
            text(json!({"id": format!("l{round}"), "prompt": "hi", "deadline_ms": 1, "priority": "background"})),
        ),
        ("request", text(json!({"id": format!("s{round}"), "prompt": "hi", "session": format!("s{}", round % 5)}))),
        ("ack", id.into_bytes()),
    ] {
        fleet.drive("a connection", || fleet.publish_raw(&node(verb), payload.clone()));
    }
    let reply = client::chat(&daemon.socket(), &client::say("hi", json!({"max_tokens": 3})));
    assert_eq!(client::content(&reply), "abc");
}

/// Round after round of requests, each answered once, with noise beside them and a broker that dies now and then; what is
/// answered is acknowledged, so neither the journal nor the memory may grow.
#[test]
fn the_mix_goes_on_within_its_memory() {
    let mut dice = Dice::new("soak");
    let mut broker = Broker::start("");
    let daemon = node(
        &broker,
        "n1",
        &[("queue.waiting_max", "200"), ("engine.prefix_max", "\"1KiB\""), ("engine.context_max", "2560")],
        &[],
    );
    let ledger = Ledger::new(0, right_texts(&daemon));
    let mut fleet = Fleet::new(broker.port, ledger, |client| format!("moed/v1/node/n1/c/{client}/request"));
    fleet.patience = Some(Duration::from_secs(5));
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes());
    let (mut round, mut warm, mut most) = (0, 0.0, 0.0_f64);
    let mut next_death = Instant::now();
    while Instant::now() < end || round <= WARM {
        fleet.ledger().renew(round, ROUND);
        disturb(&fleet, &daemon, round);
        if round > 0 && Instant::now() >= next_death {
            next_death = Instant::now() + DEATH_EVERY;
            fleet.until_answered(dice.roll(1..ROUND));
            stagger(&mut dice);
            broker.kill();
            broker.again();
        }
        fleet.until_answered(ROUND);
        fleet.acknowledge_all(|client| format!("moed/v1/node/n1/c/{client}/ack"));
        if round == WARM {
            warm = anonymous(&daemon);
        }
        most = most.max(anonymous(&daemon));
        if round > WARM {
            let grown = anonymous(&daemon) - warm;
            assert!(grown < GROWTH_MAX, "after {round} rounds it has {grown} bytes more than after {WARM}");
        }
        if round % 200 == 199 {
            println!("soak: round {round}, {:.1} MB", anonymous(&daemon) / 1e6);
        }
        round += 1;
    }
    // The noise is never acknowledged but for the cancelled one; everything else has left.
    fleet.drive("the journal to be emptied", || {
        let rows = |state: &str| daemon.metric(&format!("moed_journal_rows{{state=\"{state}\"}}"));
        rows("pending") < 0.5 && rows("done") < f64::from(u32::try_from(3 * round + ROUND).unwrap())
    });
    println!("soak: {round} rounds, {:.1} MB after {WARM} rounds, {:.1} MB at most", warm / 1e6, most / 1e6);
    fleet.judge("soak", computed(&daemon));
}
