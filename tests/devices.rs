//! The examples for devices, run as they are: one question each, whatever is away when they ask.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
mod harness;

use std::fs;
use std::process::{Child, Command, Stdio};

use broker::Broker;
use harness::{Home, Ran, TestDaemon, is_installed, root, skip, until};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";

/// The sketch, compiled for the host with a board of our own around it.
fn sketch(home: &Home, broker: &Broker) -> Option<Command> {
    if !is_installed("g++") {
        skip("the sketch", "there is no g++");
        return None;
    }
    fs::copy(root().join("examples/arduino/ask.ino"), home.path("sketch.ino")).unwrap();
    let program = home.path("sketch");
    let mut compiler = Command::new("g++");
    compiler
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-DBROKER=\"127.0.0.1\""])
        .arg(format!("-DPORT={}", broker.port))
        .arg("-I")
        .arg(root().join("tests/devices"))
        .arg("-I")
        .arg(home.folder.path())
        .arg(root().join("tests/devices/main.cpp"))
        .arg("-o")
        .arg(&program);
    let built = Ran::of(&mut compiler);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    Some(Command::new(program))
}

/// The module, under CPython.
fn python(broker: &Broker) -> Option<Command> {
    if !is_installed("python3") {
        skip("the MicroPython example", "there is no python3");
        return None;
    }
    let script = format!(
        "import ask; ask.BROKER, ask.PORT, ask.CLIENT = '127.0.0.1', {}, 'door'\nprint('answer:', ask.ask('hi', wait=2, tries=60)['text'])",
        broker.port
    );
    let mut command = Command::new("python3");
    command.args(["-B", "-c", &script]).current_dir(root().join("examples/micropython"));
    Some(command)
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn daemon(broker: &Broker) -> TestDaemon {
    let home = Home::new();
    home.configure(&[("node.name", "\"hall\""), ("mqtt.url", &format!("{:?}", broker.url()))]);
    TestDaemon::start_in(home, &[])
}

#[test]
fn the_examples_are_as_short_as_they_say() {
    for name in ["arduino/ask.ino", "micropython/ask.py"] {
        let lines = fs::read_to_string(root().join("examples").join(name)).unwrap().lines().count();
        assert!(lines <= 60, "{name} has {lines} lines");
    }
}

#[test]
fn a_device_that_asks_before_the_node_is_there_is_answered_once_it_is() {
    let broker = Broker::start("log_type all");
    let home = Home::new();
    let devices: Vec<Command> = [sketch(&home, &broker), python(&broker)].into_iter().flatten().collect();
    let mut waiting: Vec<Child> = devices.into_iter().map(|mut device| start(&mut device)).collect();
    // Each has sent its question into the void at least once.
    until("the questions", || {
        let asked = |client: &str| broker.log().contains(&format!("/c/{client}/request"));
        (waiting.len() < 2 || (asked("lamp") && asked("door"))).then_some(())
    });
    let daemon = daemon(&broker);
    for device in waiting.drain(..) {
        let ran = Ran::end_of(device);
        assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), &*format!("answer: {ALPHABET}")), "{}", ran.stderr);
    }
    // Both have thanked, and nothing is kept of them.
    until("an empty journal", || {
        let rows = ["pending", "done"].map(|state| daemon.metric(&format!("moed_journal_rows{{state=\"{state}\"}}")));
        (rows.iter().sum::<f64>() < 0.5).then_some(())
    });
}
