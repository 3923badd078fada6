//! The figures of the README: `make figures`. Real binary, default model, real broker; medians, interleaved where compared.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on fails; it prints what it found"
)]

#[path = "../harness/broker.rs"]
mod broker;
#[path = "../harness/mod.rs"]
mod harness;

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use broker::Broker;
use harness::client::chat;
use harness::{Home, TestDaemon, root, until};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::{Value, json};

const PAIRS: usize = 200;
const LONG_ANSWERS: usize = 20;

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn start(broker: &Broker) -> TestDaemon {
    let home = Home::new();
    let text = |value: String| format!("{value:?}");
    home.configure(&[
        ("mqtt.url", &text(broker.url())),
        ("model.dir", &text(root().join("models/default").display().to_string())),
        ("engine.threads", "0"),
        ("engine.prepare", "\"auto\""),
        ("log.level", "\"info\""),
    ]);
    let daemon = TestDaemon::start_in(home, &[]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

/// A client whose replies come out of a channel.
fn peer(broker: &Broker) -> (Client, Receiver<()>) {
    let mut options = MqttOptions::new("figures", "127.0.0.1", broker.port);
    options.set_max_packet_size(Some(4 << 20));
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut connection) = Client::new(options, 64);
    let (heard, ears) = sync_channel(64);
    std::thread::spawn(move || {
        for event in connection.iter().map_while(Result::ok) {
            let counts = matches!(event, Event::Incoming(Packet::Publish(_) | Packet::SubAck(_)));
            if counts && heard.send(()).is_err() {
                return;
            }
        }
    });
    client.subscribe("moed/v1/c/figures/#", QoS::AtLeastOnce).unwrap();
    ears.recv().unwrap();
    (client, ears)
}

fn main() {
    // cargo passes `--bench`; there is nothing to choose.
    let broker = Broker::start("");
    let mut starts: Vec<f64> = (0..5)
        .map(|_| {
            let daemon = start(&broker);
            let log = daemon.log();
            log.split("start_ms=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
        })
        .collect();
    println!("start to READY, default model: {:.0} ms (median of {})", median(&mut starts), starts.len());

    let daemon = start(&broker);
    let socket = daemon.socket();
    // Exact: one step a token. An answer that repeats itself would be guessed, and the figure would be another one.
    let long = json!({"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 200, "ignore_eos": true,
        "reproducible": true});
    let (mut rates, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..LONG_ANSWERS {
        let answer = chat(&socket, &long).json();
        let timing = |name: &str| answer["timings"][name].as_f64().unwrap();
        rates.push(199.0 / (timing("total_ms") - timing("first_token_ms")) * 1e3);
        firsts.push(timing("first_token_ms"));
    }
    println!("decode, one stream: {:.0} tokens/s (median of {LONG_ANSWERS} answers of 200 tokens)", median(&mut rates));
    println!("time to first token, prompt of 12 tokens: {:.1} ms", median(&mut firsts));
    let between =
        daemon.metric("moed_engine_between_steps_nanoseconds_total") / daemon.metric("moed_engine_steps_total");
    println!("between two runs of the model: {:.0} us a step", between / 1e3);

    let devices: Vec<String> =
        (0..40).map(|number| format!("room {number}: Lamp {number} [light]; Fan {number} [fan]\n")).collect();
    let devices = devices.concat();
    let ask = |content: String, number: usize| {
        let user = format!("Turn on lamp {number}");
        let messages = json!([{"role": "system", "content": content}, {"role": "user", "content": user}]);
        let answer = chat(&socket, &json!({"messages": messages, "max_tokens": 1})).json();
        let count = |path: &str| answer.pointer(path).and_then(Value::as_u64).unwrap();
        let first = answer["timings"]["first_token_ms"].as_f64().unwrap();
        (first, count("/usage/prompt_tokens"), count("/usage/prompt_tokens_details/cached_tokens"))
    };
    // New from its first word on, and with a beginning that was read before.
    let new: Vec<_> = (0..LONG_ANSWERS).map(|number| ask(format!("Home {number}.\n{devices}"), number)).collect();
    let known: Vec<_> = (0..LONG_ANSWERS).map(|number| ask(format!("Home 0.\n{devices}"), number)).collect();
    for (name, answers) in [("new", new), ("of a known beginning", known)] {
        let (_, tokens, cached) = *answers.last().unwrap();
        let mut firsts: Vec<f64> = answers.iter().map(|(first, ..)| *first).collect();
        let first = median(&mut firsts);
        println!("time to first token, prompt of {tokens} tokens, {name} ({cached} kept): {first:.1} ms");
    }

    let (client, ears) = peer(&broker);
    let (mut over_socket, mut over_mqtt) = (Vec::new(), Vec::new());
    for number in 0..PAIRS {
        let messages = json!([{"role": "user", "content": "hello"}]);
        let begun = Instant::now();
        let reply = chat(&socket, &json!({"messages": messages, "max_tokens": 8, "ignore_eos": true}));
        assert_eq!(reply.status, 200);
        over_socket.push(ms(begun.elapsed()));
        let request: Value = json!({"v": 1, "id": number.to_string(), "messages": messages, "params": {"max_tokens": 8, "ignore_eos": true}});
        let begun = Instant::now();
        client.publish("moed/v1/node/n1/c/figures/request", QoS::AtLeastOnce, false, request.to_string()).unwrap();
        ears.recv().unwrap();
        over_mqtt.push(ms(begun.elapsed()));
    }
    let (socket_ms, mqtt_ms) = (median(&mut over_socket), median(&mut over_mqtt));
    println!(
        "8 tokens over the socket {socket_ms:.2} ms, over MQTT {mqtt_ms:.2} ms: {:.2} ms more (medians of {PAIRS}, interleaved; journal on disk)",
        mqtt_ms - socket_ms
    );
    let megabytes = |kind: &str| daemon.metric(&format!("moed_memory_bytes{{kind=\"{kind}\"}}")) / 1e6;
    println!(
        "memory: {:.0} MB resident at most, {:.0} MB anonymous",
        megabytes("resident_peak"),
        megabytes("anonymous")
    );
}
