//! A second broker: aedes, in JavaScript, which speaks 3.1.1 and keeps everything in memory. `make test` installs it in
//! seconds where there is npm; without it these tests are skipped and say so.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, TestDaemon, is_installed, root, skip, until};
use crate::peer::ALPHABET;

const AVAILABLE: &str = "moed/v1/node/n1/available";

/// A running aedes; it dies with its test.
struct Aedes {
    child: Child,
    port: u16,
}

impl Aedes {
    /// `None` where it is not installed; `name` is the test that is skipped for it.
    fn start(name: &str) -> Option<Self> {
        if !modules().join("aedes").is_dir() || !is_installed("node") {
            skip(name, "aedes is not installed: `make aedes`");
            return None;
        }
        let (child, port) = run(0);
        Some(Self { child, port })
    }

    /// As a power cut: all sessions and messages are gone.
    fn lose_everything(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.port) = run(self.port);
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Aedes {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn modules() -> PathBuf {
    root().join(".tools/aedes/node_modules")
}

/// Starts one on a port, 0 for any, and waits until it listens.
fn run(port: u16) -> (Child, u16) {
    let mut child = Command::new("node")
        .arg(root().join("tests/aedes/server.js"))
        .arg(port.to_string())
        .env("NODE_PATH", modules())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let told = Arc::new(Mutex::new(None));
    let said = Arc::clone(&told);
    std::thread::spawn(move || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        *said.lock().unwrap() = line.trim().parse().ok();
    });
    let port = until("aedes to listen", || *told.lock().unwrap());
    (child, port)
}

/// A 3.1.1 client, with a session that is kept, that remembers all it hears.
struct Device {
    client: Client,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Device {
    fn new(name: &str, port: u16) -> Self {
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_clean_session(false);
        let (client, mut connection) = Client::new(options, 256);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ears, speaker, own) = (Arc::clone(&heard), client.clone(), format!("moed/v1/c/{name}/#"));
        let (ready, subscribed) = std::sync::mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    // A broker that lost everything knows no subscription either.
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for topic in [&own, AVAILABLE] {
                            speaker.try_subscribe(topic, QoS::AtLeastOnce).unwrap();
                        }
                    }
                    // Only those of the first connection are waited for.
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.try_send(())),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let text = || String::from_utf8_lossy(&publish.payload).into();
                        let payload = serde_json::from_slice(&publish.payload).unwrap_or_else(|_| text());
                        ears.lock().unwrap().push((publish.topic, payload));
                    }
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        for _ in 0..2 {
            subscribed.recv_timeout(PATIENCE).unwrap();
        }
        Self { client, heard }
    }

    /// A question whose answer is another with every seed.
    fn ask(&self, name: &str, id: &str) {
        let params = json!({"max_tokens": 200, "ignore_eos": true, "temperature": 1.5});
        let request = json!({"v": 1, "id": id, "prompt": "hi", "cid": "c", "params": params}).to_string();
        self.client.publish(format!("moed/v1/node/n1/c/{name}/request"), QoS::AtLeastOnce, false, request).unwrap();
    }

    /// How often the node was heard to be online: at each connection it subscribes first and says this then.
    fn births(&self) -> usize {
        self.heard.lock().unwrap().iter().filter(|said| **said == (AVAILABLE.to_owned(), json!("online"))).count()
    }

    /// What was said about an id, without what tells copies apart.
    fn answers(&self, name: &str, id: &str) -> Vec<Value> {
        let topic = format!("moed/v1/c/{name}/r/{id}");
        let heard = self.heard.lock().unwrap();
        let mut answers: Vec<Value> =
            heard.iter().filter(|(said, _)| *said == topic).map(|(_, payload)| payload.clone()).collect();
        for answer in &mut answers {
            answer.as_object_mut().unwrap().remove("repeat");
        }
        answers
    }
}

fn node(aedes: &Aedes, version: &str) -> TestDaemon {
    let home = Home::new();
    let (url, version) = (format!("{:?}", aedes.url()), format!("{version:?}"));
    home.configure(&[("mqtt.url", &url), ("mqtt.version", &version), ("queue.waiting_max", "200")]);
    TestDaemon::start_in(home, &[])
}

fn linked(daemon: &TestDaemon) {
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
}

#[test]
fn a_node_at_aedes_loses_nothing_when_it_is_killed_nor_when_the_broker_forgets_everything() {
    const COUNT: usize = 60;
    let name = "a_node_at_aedes_loses_nothing";
    let Some(mut aedes) = Aedes::start(name) else { return };
    let mut daemon = node(&aedes, "3.1.1");
    linked(&daemon);
    let devices = ["lamp", "door"].map(|name| (name, Device::new(name, aedes.port)));
    let ids: Vec<String> = (0..COUNT).map(|number| format!("q{number}")).collect();
    let answered = |count: usize| {
        until(&format!("{count} answers each"), || {
            let whole = |(name, device): &(&str, Device)| {
                ids.iter().filter(|id| !device.answers(name, id).is_empty()).count() >= count
            };
            devices.iter().all(whole).then_some(())
        });
    };
    for id in &ids {
        for (name, device) in &devices {
            device.ask(name, id);
        }
    }
    answered(COUNT / 4);
    daemon.restart(&[]);
    answered(COUNT);
    // Nobody knows anything any more but the node; who asks again gets what there is.
    let births = devices.iter().map(|(_, device)| device.births()).max().unwrap();
    aedes.lose_everything();
    for (name, device) in &devices {
        until("the node to be back", || (device.births() > births).then_some(()));
        for id in &ids {
            device.ask(name, id);
        }
    }
    for (name, device) in &devices {
        for id in &ids {
            let answers = until("a copy", || Some(device.answers(name, id)).filter(|answers| answers.len() > 1));
            let first = &answers[0];
            assert_eq!(
                (&first["type"], &first["cid"], &first["finish"]),
                (&json!("result"), &json!("c"), &json!("length"))
            );
            assert!(answers.iter().all(|answer| answer == first), "{answers:?}");
        }
    }
    assert!((daemon.metric("moed_journal_rows{state=\"pending\"}")).abs() < 0.5);
}

#[test]
fn who_speaks_5_to_a_broker_of_3_1_1_is_told_what_to_change() {
    let name = "who_speaks_5_to_a_broker_of_3_1_1_is_told";
    let Some(aedes) = Aedes::start(name) else { return };
    let stranger = node(&aedes, "5");
    until("the refusal", || stranger.log().contains("unsupported protocol version (0x84)").then_some(()));
    drop(stranger);
    let daemon = node(&aedes, "3.1.1");
    linked(&daemon);
    let ask = |more: &[&str]| daemon.home.run(&[&["ask", "--mqtt", &aedes.url()], more, &["hi"]].concat());
    let refused = ask(&[]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("--mqtt-version 3.1.1"), "{}", refused.stderr);
    for more in [&["--mqtt-version", "3.1.1"][..], &["--mqtt-version", "3.1.1", "--stream", "--node", "n1"]] {
        let ran = ask(more);
        assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ALPHABET), "{}", ran.stderr);
    }
}
