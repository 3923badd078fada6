//! The way to the broker: TLS, passwords, access lists, several brokers, and brokers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "harness/broker.rs"]
mod broker;
#[path = "harness/certificates.rs"]
mod certificates;
mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use broker::Broker;
use certificates::{Authority, Signed};
use harness::fake::FakeBroker;
use harness::{Home, Ran, TestDaemon, is_installed, root, skip, until};
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzé€";

fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// A node with these settings and, waiting for the link, without a broker named yet.
fn start(settings: &[(&str, &str)]) -> TestDaemon {
    let home = Home::new();
    home.configure(settings);
    TestDaemon::start_in(home, &[])
}

fn linked(settings: &[(&str, &str)]) -> TestDaemon {
    let daemon = start(settings);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    daemon
}

/// The log line that holds all of these, once it is there.
fn logged(daemon: &TestDaemon, parts: &[&str]) -> String {
    until(&format!("{parts:?} in the log"), || {
        let log = daemon.log();
        log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    })
}

/// A listener that wants certificates of `authority` from its clients.
fn tls(authority: &Authority, server: &Signed, more: &str) -> Broker {
    Broker::start(&format!(
        "cafile {}\ncertfile {}\nkeyfile {}\n{more}\n",
        authority.certificate, server.certificate, server.key
    ))
}

const MUTUAL: &str = "require_certificate true\nuse_identity_as_username true";

/// `moed ask` with these arguments.
fn ask(home: &Home, arguments: &[&str]) -> Ran {
    home.run(&[&["ask", "--node", "n1"], arguments, &["hi"]].concat())
}

fn expect(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "`{part}` is not in {}", ran.stderr);
    }
}

#[test]
fn a_node_and_a_client_meet_over_tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "site");
    let broker = tls(&authority, &authority.sign("broker", &["localhost"]), MUTUAL);
    let node = authority.sign("n1", &[]);
    let url = format!("mqtts://localhost:{}", broker.port);
    let (ca, cert, key) = (quote(&authority.certificate), quote(&node.certificate), quote(&node.key));
    let settings = [("mqtt.url", &*quote(&url)), ("mqtt.ca", &*ca), ("mqtt.cert", &*cert), ("mqtt.key", &*key)]
        .map(|(key, value)| (key, value.to_owned()));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let _daemon = linked(&settings);
    let lamp = authority.sign("lamp", &[]);
    let home = Home::new();
    let certificates = ["--ca", &authority.certificate, "--cert", &lamp.certificate, "--key", &lamp.key];
    for stream in [&[][..], &["--stream"][..]] {
        let ran = ask(&home, &[&["--mqtt", &url, "--client", "lamp"], &certificates[..], stream].concat());
        assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ALPHABET), "{}", ran.stderr);
    }
}

#[test]
fn each_quarrel_over_certificates_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "site");
    let stranger = Authority::new(folder.path(), "stranger");
    let good = tls(&authority, &authority.sign("broker", &["localhost"]), MUTUAL);
    let expired = tls(&authority, &authority.sign_expired("expired", &["localhost"]), "");
    let lamp = authority.sign("lamp", &[]);
    let foreign = stranger.sign("foreign", &[]);
    let home = Home::new();
    let url = |broker: &Broker, host: &str| format!("mqtts://{host}:{}", broker.port);
    let with = |url: &str, ca: &str, pair: &[&str]| ask(&home, &[&["--mqtt", url, "--ca", ca], pair].concat());
    let ca = authority.certificate.as_str();
    let ours = ["--cert", &lamp.certificate, "--key", &lamp.key];
    expect(&with(&url(&good, "localhost"), &stranger.certificate, &ours), 78, &["UnknownIssuer", "`mqtt.ca` (`--ca`)"]);
    expect(&with(&url(&good, "127.0.0.1"), ca, &ours), 78, &["not valid for name", "by a name that its certificate"]);
    expect(&with(&url(&expired, "localhost"), ca, &[]), 78, &["expired", "renew the broker's certificate"]);
    expect(&with(&url(&good, "localhost"), ca, &[]), 78, &["client certificate", "`--cert`"]);
    let theirs = ["--cert", &foreign.certificate, "--key", &foreign.key];
    expect(&with(&url(&good, "localhost"), ca, &theirs), 78, &["does not know the authority"]);
    // A key that others may read is not used, and a pair that is none is not shown.
    fs::set_permissions(&lamp.key, fs::Permissions::from_mode(0o640)).unwrap();
    expect(&with(&url(&good, "localhost"), ca, &ours), 78, &[lamp.key.as_str(), "its mode is 0640", "chmod 600"]);
    let mixed = ["--cert", &lamp.certificate, "--key", &foreign.key];
    expect(&with(&url(&good, "localhost"), ca, &mixed), 78, &[lamp.certificate.as_str(), foreign.key.as_str()]);
    // TLS where there is none, and none where there is.
    let plain = Broker::start("");
    expect(&with(&url(&plain, "localhost"), ca, &[]), 69, &["broker `mqtts://localhost:"]);
    let ran = ask(&home, &["--mqtt", &format!("mqtt://localhost:{}", good.port)]);
    expect(&ran, 69, &["broker `mqtt://localhost:"]);
}

#[test]
fn a_node_that_is_not_believed_says_why_and_comes_back_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "site");
    let broker = tls(&authority, &authority.sign("broker", &["localhost"]), "");
    let url = quote(&format!("mqtts://127.0.0.1:{}", broker.port));
    let daemon = start(&[("mqtt.url", &url), ("mqtt.ca", &quote(&authority.certificate))]);
    logged(&daemon, &["the broker is away", "not valid for name"]);
    let again = number(&logged(&daemon, &["is tried again later"]), "again_ms=");
    assert!(again >= 2_500, "a certificate does not mend itself within {again} ms");
    // What is wrong at once is said before the start.
    let home = Home::new();
    let config = home.configure(&[("mqtt.url", &url), ("mqtt.ca", "\"/no/such/ca.crt\"")]);
    let ran = home.run(&["check", "--config", config.to_str().unwrap()]);
    expect(&ran, 78, &["authorities `/no/such/ca.crt`"]);
}

fn number(line: &str, name: &str) -> u64 {
    let rest = line.split(name).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// A password file as Mosquitto reads it: SHA-512 over password and salt.
fn password_file(folder: &Path, users: &[(&str, &str)]) -> String {
    let salt = b"0123456789ab";
    let lines = users.iter().map(|(user, password)| {
        let digest = Sha512::new().chain_update(password).chain_update(salt).finalize();
        format!("{user}:$6${}${}\n", base64(salt), base64(&digest))
    });
    let path = folder.join("passwords");
    fs::write(&path, lines.collect::<String>()).unwrap();
    path.display().to_string()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn secret(home: &Home, name: &str, text: &str) -> String {
    let path = home.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn passwords_come_from_files_and_credentials_and_a_wrong_one_is_told_by_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = password_file(folder.path(), &[("n1", "node pass"), ("lamp", "lamp pass")]);
    let broker = Broker::start(&format!("allow_anonymous false\npassword_file {passwords}"));
    let url = broker.url();
    // The node has its password as a systemd credential.
    let home = Home::new();
    home.configure(&[("mqtt.url", &quote(&url)), ("mqtt.user", "\"n1\""), ("mqtt.password_file", "\"broker\"")]);
    secret(&home, "broker", "node pass\n");
    let credentials = home.folder.path().display().to_string();
    let daemon = TestDaemon::start_in(home, &[("CREDENTIALS_DIRECTORY", &credentials)]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    let home = Home::new();
    let (good, bad) = (secret(&home, "good", "lamp pass"), secret(&home, "bad", "wrong pass"));
    let with = |arguments: &[&str]| ask(&home, &[&["--mqtt", &*url], arguments].concat());
    let ran = with(&["--user", "lamp", "--password-file", &good]);
    assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ALPHABET), "{}", ran.stderr);
    expect(&with(&["--user", "lamp", "--password-file", &bad]), 77, &["not authorized (0x87)"]);
    expect(&with(&[]), 77, &["not authorized (0x87)"]);
    assert!(!with(&["--user", "lamp", "--password-file", &bad]).stderr.contains("wrong pass"));
    let ran = home.run(&["ask", "--mqtt", &url.replace("mqtt://", "mqtt://lamp:pass@"), "hi"]);
    expect(&ran, 78, &["names a user", "--password-file"]);
    // A node with a wrong password: told with the code, and tried again slowly.
    let other = Home::new();
    let bad = quote(&secret(&other, "bad", "wrong pass"));
    let pass = [("mqtt.url", &*quote(&url)), ("mqtt.user", "\"n1\""), ("mqtt.password_file", &*bad)]
        .map(|(key, value)| (key, value.to_owned()));
    let pass: Vec<(&str, &str)> = pass.iter().map(|(key, value)| (*key, value.as_str())).collect();
    other.configure(&pass);
    let daemon = TestDaemon::start_in(other, &[]);
    logged(&daemon, &["the broker is away", "not authorized (0x87)"]);
    let line = logged(&daemon, &["is tried again later"]);
    assert!(number(&line, "again_ms=") >= 2_500, "{line}");
    assert!(!daemon.log().contains("wrong pass"));
}

#[test]
fn what_an_access_list_forbids_is_told_and_not_tried_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = password_file(folder.path(), &[("n1", "n"), ("lamp", "l"), ("ops", "o")]);
    let acl = folder.path().join("acl");
    // The node may not answer anybody, nor hear `cancel`; the lamp may ask, and only as itself.
    fs::write(
        &acl,
        "user n1\ntopic readwrite moed/v1/node/n1/#\nuser lamp\ntopic write moed/v1/node/+/c/lamp/request\n\
         topic read moed/v1/c/lamp/#\nuser ops\ntopic read moed/v1/node/#\n",
    )
    .unwrap();
    let broker =
        Broker::start(&format!("allow_anonymous false\npassword_file {passwords}\nacl_file {}", acl.display()));
    let url = broker.url();
    let home = Home::new();
    let password = quote(&secret(&home, "n", "n"));
    home.configure(&[("mqtt.url", &quote(&url)), ("mqtt.user", "\"n1\""), ("mqtt.password_file", &password)]);
    let daemon = TestDaemon::start_in(home, &[]);
    until("the link", || (daemon.metric("moed_mqtt_connected") > 0.5).then_some(()));
    // Somebody wants the node's events: `-E` ends once the subscription is there, and the broker keeps them.
    let port = broker.port.to_string();
    let session =
        ["-h", "127.0.0.1", "-p", &*port, "-V", "5", "-i", "watcher", "-c", "-x", "600", "-u", "ops", "-P", "o"];
    let watch = |more: &[&str]| {
        let mut sub = Command::new(broker::find("mosquitto_sub").unwrap());
        Ran::of(sub.args(session).args(["-q", "1", "-t", "moed/v1/node/n1/event"]).args(more))
    };
    assert_eq!(watch(&["-E"]).code, Some(0));
    let client = Home::new();
    let password = secret(&client, "l", "l");
    let lamp = ["--mqtt", &*url, "--user", "lamp", "--password-file", &*password];
    // As somebody else: refused at once by the broker's word on the publish.
    expect(
        &ask(&client, &[&lamp[..], &["--client", "door"]].concat()),
        77,
        &["let `door` publish", "not authorized (0x87)"],
    );
    // As itself: the question arrives, the answer is what the node may not publish.
    let mut asking = client.moed(&[&["ask", "--node", "n1"], &lamp[..], &["hi"]].concat()).spawn().unwrap();
    let line = logged(&daemon, &["the broker refused a publish", "not authorized (0x87)"]);
    assert!(line.contains("moed/v1/c/lamp/r/"), "{line}");
    let event: Value = serde_json::from_str(&watch(&["-C", "1", "-W", "30"]).stdout).unwrap();
    assert_eq!((&event["event"], &event["reason"]), (&json!("publish_refused"), &json!("not authorized (0x87)")));
    asking.kill().unwrap();
    asking.wait().unwrap();
    // Once for the one answer, and the link stands.
    assert_eq!(daemon.log().matches("the broker refused a publish").count(), 1);
    assert!(daemon.metric("moed_mqtt_reconnects_total") < 0.5);
}

#[test]
fn a_broker_behind_a_unix_socket_serves_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("broker.sock");
    let _broker = Broker::start(&format!("listener 0 {}\nallow_anonymous true", socket.display()));
    let url = format!("unix:{}", socket.display());
    let _daemon = linked(&[("mqtt.url", &quote(&url))]);
    let ran = ask(&Home::new(), &["--mqtt", &url]);
    assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ALPHABET), "{}", ran.stderr);
}

#[test]
fn the_next_broker_is_taken_when_the_first_is_away_and_the_first_again_when_it_is_back() {
    let (mut first, mut second) = (Broker::start(""), Broker::start(""));
    first.stop();
    let fallback = format!("[{}]", quote(&second.url()));
    let daemon = linked(&[("mqtt.url", &quote(&first.url())), ("mqtt.fallback", &fallback)]);
    assert_eq!(ask(&Home::new(), &["--mqtt", &second.url()]).code, Some(0));
    first.again();
    second.stop();
    logged(&daemon, &["connected to the broker", &first.url()]);
    assert_eq!(ask(&Home::new(), &["--mqtt", &first.url()]).code, Some(0));
}

#[test]
fn whom_nobody_answers_is_told_what_is_missing() {
    let mut broker = Broker::start("");
    let home = Home::new();
    let url = broker.url();
    expect(&ask(&home, &["--mqtt", &url]), 75, &["nobody listens on `moed/v1/node/n1/c/"]);
    let ran = home.run(&["ask", "--mqtt", &url, "--pool", "house", "--client", "lamp", "hi"]);
    expect(&ran, 75, &["nobody listens on `moed/v1/pool/house/c/lamp/request`"]);
    let ran = home.run(&["ask", "--mqtt", &url, "--node", "a/b", "hi"]);
    expect(&ran, 64, &["`a/b` is no node's name"]);
    {
        let mut daemon = linked(&[("mqtt.url", &quote(&url))]);
        daemon.kill();
    }
    expect(&ask(&home, &["--mqtt", &url]), 75, &["node `n1` is offline"]);
    broker.stop();
    expect(&ask(&home, &["--mqtt", &url]), 69, &["Connection refused", "is the broker up"]);
}

/// Mosquitto on the shipped files, with the certificates that the README there makes. Only the folders are others, and
/// the port is a free one.
#[test]
fn the_shipped_broker_configuration_lets_in_whom_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = root().join("systemd/mosquitto");
    let readme = fs::read_to_string(shipped.join("README.md")).unwrap();
    let script = readme.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    if !is_installed("openssl") {
        return skip("the_shipped_broker_configuration_lets_in_whom_it_should", "there is no openssl");
    }
    let made = Ran::of(Command::new("sh").args(["-e", "-c", script]).current_dir(folder.path()));
    assert_eq!(made.code, Some(0), "the README's commands fail: {}", made.stderr);
    fs::copy(shipped.join("acl"), folder.path().join("acl")).unwrap();
    let here = folder.path().display().to_string();
    let config = fs::read_to_string(shipped.join("moed.conf")).unwrap();
    assert!(config.contains("\nlistener 8883\n") && config.contains("/etc/mosquitto/moed/"));
    let config = config.replace("/etc/mosquitto/moed", &here);
    // Beside what Debian's own file says: a setting that stands in both ends the broker.
    let parts = folder.path().join("conf.d");
    fs::create_dir(&parts).unwrap();
    let broker = Broker::start_as(|port| {
        let own = config.replace("listener 8883", &format!("listener {port} 127.0.0.1"));
        fs::write(parts.join("moed.conf"), own).unwrap();
        format!(
            "pid_file {here}/pid\npersistence true\npersistence_location {here}/\nlog_dest stderr\ninclude_dir {here}/conf.d\n"
        )
    });
    let path = |name: &str| format!("{here}/{name}");
    let url = format!("mqtts://localhost:{}", broker.port);
    let (ca, cert, key) = (quote(&path("ca.crt")), quote(&path("hall.crt")), quote(&path("hall.key")));
    let daemon = linked(&[
        ("node.name", "\"hall\""),
        ("mqtt.url", &quote(&url)),
        ("mqtt.ca", &ca),
        ("mqtt.cert", &cert),
        ("mqtt.key", &key),
    ]);
    let home = Home::new();
    let as_who = |who: &str, client: &str| {
        let (ca, cert, key) = (path("ca.crt"), path(&format!("{who}.crt")), path(&format!("{who}.key")));
        let whom = ["--mqtt", &url, "--node", "hall", "--client", client];
        home.run(&[&["ask"], &whom[..], &["--ca", &ca, "--cert", &cert, "--key", &key, "hi"]].concat())
    };
    let ran = as_who("lamp", "lamp");
    assert_eq!((ran.code, ran.stdout.trim_end()), (Some(0), ALPHABET), "{}", ran.stderr);
    expect(&as_who("lamp", "door"), 77, &["let `door` publish on `moed/v1/node/hall/c/door/request`"]);
    assert!(!daemon.log().contains("the broker refused"), "the node may do all that it does");
}

#[test]
fn no_more_is_on_its_way_than_half_of_what_the_broker_takes() {
    let most = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (seen, replies) = (Arc::clone(&most), Arc::clone(&answered));
    let fake = FakeBroker::start(move |caller| {
        caller.greet(false, |properties| properties.receive_max = Some(6));
        let mut held: Vec<Publish> = Vec::new();
        let mut asked = false;
        while let Some(packet) = caller.read() {
            let is_ping = matches!(packet, Packet::PingReq(_));
            if matches!(packet, Packet::Subscribe(_)) && !asked {
                asked = true;
                let packet = caller.serve(packet);
                assert_eq!(packet, None);
                for id in 1..=8_u16 {
                    let request = json!({"v": 1, "id": format!("q{id}"), "prompt": "hi"}).to_string();
                    let topic = "moed/v1/node/n1/c/lamp/request";
                    let mut publish = Publish::new(topic, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, request, None);
                    publish.pkid = id;
                    caller.send(&Packet::Publish(publish));
                }
                continue;
            }
            if let Some(publish) = caller.serve(packet)
                && publish.pkid != 0
            {
                replies.lock().unwrap().push(String::from_utf8_lossy(&publish.topic).into_owned());
                held.push(publish);
                seen.fetch_max(held.len(), Ordering::SeqCst);
            }
            // Acknowledged one at a time, and only when nothing more comes: a ping says that the node has gone quiet.
            if held.len() == 3 || is_ping {
                for publish in held.drain(..) {
                    caller.ack(&publish);
                }
            }
        }
    });
    let _daemon = linked(&[("mqtt.url", &quote(&fake.url()))]);
    until("eight answers", || {
        let replies = answered.lock().unwrap();
        (1..=8).all(|id| replies.contains(&format!("moed/v1/c/lamp/r/q{id}"))).then_some(())
    });
    assert_eq!(most.load(Ordering::SeqCst), 3, "of a Receive Maximum of 6");
    assert_eq!(fake.connections(), 1);
}

#[test]
fn a_broker_that_stops_reading_is_left_after_two_keep_alives() {
    let fake = FakeBroker::start(|caller| {
        caller.greet(false, |_| {});
        if caller.number > 0 {
            while let Some(packet) = caller.read() {
                if let Some(publish) = caller.serve(packet) {
                    caller.ack(&publish);
                }
            }
        } else {
            // Neither reads nor closes.
            std::thread::sleep(harness::PATIENCE);
        }
    });
    let daemon = start(&[("mqtt.url", &quote(&fake.url())), ("mqtt.keep_alive", "\"5s\"")]);
    logged(&daemon, &["the broker is away", "nothing moves for 5s"]);
    until("another connection", || (fake.connections() == 2).then_some(()));
}

#[test]
fn every_connection_subscribes_again_whatever_the_broker_says_it_remembers() {
    let filters = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&filters);
    let fake = FakeBroker::start(move |caller| {
        caller.greet(true, |_| {});
        while let Some(packet) = caller.read() {
            if let Packet::Subscribe(subscribe) = &packet {
                seen.lock().unwrap().push(subscribe.filters.len());
                if caller.number < 2 {
                    return;
                }
            }
            if let Some(publish) = caller.serve(packet) {
                caller.ack(&publish);
            }
        }
    });
    let _daemon = start(&[("mqtt.url", &quote(&fake.url()))]);
    let counts = until("three connections", || {
        let filters = filters.lock().unwrap();
        (filters.len() == 3).then(|| filters.clone())
    });
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}

#[test]
fn a_node_whose_client_id_is_taken_says_so_and_does_not_fight() {
    let fake = FakeBroker::start(|caller| {
        caller.greet(false, |_| {});
        while let Some(packet) = caller.read() {
            if matches!(packet, Packet::Subscribe(_)) {
                // The short form, without properties, which the library writes wrongly.
                caller.send_raw(&[0xE0, 0x01, 0x8E]);
            }
        }
    });
    let daemon = start(&[("mqtt.url", &quote(&fake.url()))]);
    logged(&daemon, &["the broker is away", "session taken over (0x8E)"]);
    let line = logged(&daemon, &["another connection uses our client id", "moed-n1"]);
    assert!(number(&line, "pause_s=") >= 30, "{line}");
    assert_eq!(fake.connections(), 1);
}
