//! systemd's side: the protocol on a notify socket, a passed listener, the units, the shipped configs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::client::{self, chat, content, say};
use harness::{Home, PATIENCE, Ran, TestDaemon, copy_model, is_installed, root, skip, until};
use serde_json::json;

/// What systemd would hear.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(home: &Home) -> Self {
        let path = home.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path: path.display().to_string() }
    }

    /// Forgets what has been said so far.
    fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Listens until a message holds this line.
    fn until(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("waiting for {line}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }
}

/// A process that does not outlive a test that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn systemd_hears_ready_with_a_status_then_the_watchdog_then_stopping() {
    let home = Home::new();
    home.configure(&[]);
    let manager = Manager::new(&home);
    let path = manager.path.clone();
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000")];
    let mut daemon = TestDaemon::start_in(home, &environment);
    let ready = manager.until("READY=1");
    assert!(ready.contains("STATUS=tiny on cpu, 8 slots of 8192 tokens"), "{ready}");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    daemon.signal(rustix::process::Signal::TERM);
    manager.until("STOPPING=1");
    assert!(daemon.wait().success());
}

#[test]
fn a_model_that_nobody_gave_golden_prompts_is_said_to_have_none() {
    let home = Home::new();
    harness::copy_model("tiny", &home.path("untested"));
    fs::remove_file(home.path("untested/manifest.toml")).unwrap();
    home.configure(&[("model.dir", &format!("{:?}", home.path("untested").display().to_string()))]);
    let manager = Manager::new(&home);
    let path = manager.path.clone();
    let _daemon = TestDaemon::start_in(home, &[("NOTIFY_SOCKET", path.as_str())]);
    let ready = manager.until("READY=1");
    assert!(ready.contains("slots of 8192 tokens, no golden prompts"), "{ready}");
}

#[test]
fn ready_is_not_said_before_the_self_test_and_not_at_all_when_it_fails() {
    let home = Home::new();
    let folder = home.path("model");
    copy_model("tiny", &folder);
    let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
    fs::write(folder.join("manifest.toml"), manifest.replace("cpu = [97,", "cpu = [98,")).unwrap();
    let config = home.configure(&[("model.dir", &format!("{:?}", folder.display().to_string()))]);
    let manager = Manager::new(&home);
    let mut serve = home.moed(&["serve", "--config", config.to_str().unwrap()]);
    let ran = Ran::of(serve.env("NOTIFY_SOCKET", &manager.path));
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    manager.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]);
        assert!(!message.contains("READY=1"), "{message}");
    }
}

#[test]
fn a_socket_that_systemd_passes_is_served_and_its_file_is_left_alone() {
    let activate = ["/usr/bin/systemd-socket-activate", "/bin/systemd-socket-activate"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok());
    let Some(activate) = activate else {
        return skip("a_socket_that_systemd_passes_is_served", "systemd-socket-activate is not installed");
    };
    let home = Home::new();
    let config = home.configure(&[("socket.path", "\"/no/such/folder/never-bound.sock\"")]);
    let socket = home.path("passed.sock");
    let serve = home.moed(&["serve", "--config", config.to_str().unwrap()]);
    let mut command = Command::new(activate);
    command.arg("-l").arg(&socket).arg("--fdname=http").arg(serve.get_program()).args(serve.get_args());
    let mut child = Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("the socket", || socket.exists().then_some(()));
    // The first connection starts the daemon; while the model loads, whoever asks is told to come back.
    let reply = until("an answer", || {
        let reply = chat(&socket, &say("hi", json!({})));
        assert!(reply.status == 200 || (reply.status == 503 && reply.header("retry-after").is_some()), "{reply:?}");
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(content(&reply), "abcdefghijklmnopqrstuvwxyzé€");
    assert_eq!(client::get(&socket, "/health").unwrap().status, 200);
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("the daemon's end", || child.0.try_wait().unwrap());
    assert!(socket.exists(), "the socket's file belongs to systemd");
}

/// The units as a machine has them, with these drop-ins, at this binary. `moed@` stands there as one of its instances.
fn units(drop_ins: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in ["moed.service", "moed.socket", "moed@.service", "moed@.socket"] {
        let text = fs::read_to_string(root().join("systemd").join(unit)).unwrap();
        let text =
            text.replace("/usr/bin/moed", env!("CARGO_BIN_EXE_moed")).replace("man:moed(1)", "https://example.org");
        let name = unit.replace('@', "@kitchen");
        fs::write(folder.path().join(&name), text).unwrap();
        if unit.ends_with(".service") {
            let place = folder.path().join(format!("{name}.d"));
            fs::create_dir(&place).unwrap();
            for drop_in in drop_ins {
                let file = format!("{drop_in}.conf");
                fs::copy(root().join("systemd/drop-ins").join(&file), place.join(&file)).unwrap();
            }
        }
    }
    folder
}

/// This machine's systemd, 0 where there is none.
fn systemd_version() -> u32 {
    if !is_installed("systemd-analyze") {
        return 0;
    }
    let version = Ran::of(Command::new("systemd-analyze").arg("--version")).stdout;
    version.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// What systemd thinks of a unit's hardening.
fn security(arguments: &[&str], unit: &Path) -> Ran {
    let mut analyze = Command::new("systemd-analyze");
    Ran::of(analyze.args(["security", "--offline=true", "--no-pager"]).args(arguments).arg(unit))
}

#[test]
fn the_units_are_accepted_by_systemd_and_keep_their_hardening() {
    let version = systemd_version();
    if version == 0 {
        return skip("the_units_are_accepted_by_systemd", "systemd-analyze is not installed");
    }
    // The drop-ins that `select.sh` would choose here; others would be warned about.
    let chosen: Vec<&str> =
        [(249, "249"), (254, "254")].into_iter().filter(|(since, _)| version >= *since).map(|(_, name)| name).collect();
    let with_gpu: Vec<&str> = chosen.iter().copied().chain(["gpu"]).collect();
    for (drop_ins, exposure_max) in [(chosen, "12"), (with_gpu, "16")] {
        let folder = units(&drop_ins);
        for name in ["moed", "moed@kitchen"] {
            let unit = |kind: &str| folder.path().join(format!("{name}.{kind}"));
            let mut verify = Command::new("systemd-analyze");
            let ran = Ran::of(verify.args(["verify", "--man=no"]).arg(unit("service")).arg(unit("socket")));
            let ours: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("moed")).collect();
            assert!(ran.code == Some(0) && ours.is_empty(), "{drop_ins:?}: {}", ran.stderr);
            // Units are judged without a running system from 250 on; an older one judges the syntax above.
            if version >= 250 {
                let threshold = format!("--threshold={exposure_max}");
                let ran = security(&[&threshold], &unit("service"));
                let verdict = ran.stdout.lines().last().unwrap_or_default();
                assert_eq!(ran.code, Some(0), "{name} with {drop_ins:?}, limit {exposure_max} tenths: {verdict}");
            }
        }
    }
}

#[test]
fn an_instance_has_every_line_of_the_one_service() {
    let lines = |unit: &str| -> Vec<String> {
        let text = fs::read_to_string(root().join("systemd").join(unit)).unwrap();
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    };
    for kind in ["service", "socket"] {
        let one: Vec<String> = lines(&format!("moed.{kind}"))
            .iter()
            .map(|line| {
                let line = line
                    .replace("moed.toml", "%i.toml")
                    .replace("moed.sock", if line.contains("/run/") { "moed-%i.sock" } else { "moed@%i.sock" });
                match line.split_once('=') {
                    Some((key, "moed")) if key.ends_with("Directory") => format!("{key}=moed-%i"),
                    Some(("Description", text)) => format!("Description={text} (%i)"),
                    _ => line,
                }
            })
            .collect();
        assert_eq!(lines(&format!("moed@.{kind}")), one);
    }
}

#[test]
fn every_line_that_is_loose_has_its_reason() {
    let said = fs::read_to_string(root().join("systemd/README.md")).unwrap();
    let folder = units(&["249"]);
    if systemd_version() < 250 {
        return skip("every_line_that_is_loose_has_its_reason", "systemd-analyze judges no file here");
    }
    let table = security(&[], &folder.path().join("moed.service")).stdout;
    let loose: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("✗ ")?.split_whitespace().next()).collect();
    assert!(loose.len() >= 5, "{table}");
    for name in loose {
        let key = name.split('=').next().unwrap_or(name);
        let key = key.split('/').next().unwrap_or(key);
        assert!(said.contains(&format!("`{key}")), "`{name}` is loose and systemd/README.md does not say why");
    }
}

#[test]
fn the_full_config_is_the_defaults_and_the_shipped_one_is_valid() {
    let load = |name: &str| moed::config::load::load(&root().join("systemd").join(name)).unwrap();
    assert_eq!(load("moed.full.toml"), moed::config::Config::default());
    moed::config::check::check(&load("moed.toml")).unwrap();
    // Every setting is there by name, not by silence.
    let text = fs::read_to_string(root().join("systemd/moed.full.toml")).unwrap();
    let full: toml::Table = text.parse().unwrap();
    let toml::Value::Table(defaults) = toml::Value::try_from(moed::config::Config::default()).unwrap() else {
        panic!()
    };
    for (section, keys) in &defaults {
        for key in keys.as_table().unwrap().keys() {
            assert!(full[section.as_str()].get(key).is_some(), "`{section}.{key}` is not in moed.full.toml");
        }
    }
}

#[test]
fn the_watchdog_is_fed_while_a_long_answer_is_made() {
    let home = Home::new();
    home.configure(&[]);
    let manager = Manager::new(&home);
    let path = manager.path.clone();
    let daemon = TestDaemon::start_in(home, &[("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "20000")]);
    manager.until("READY=1");
    let socket = daemon.socket();
    let asking = std::thread::spawn(move || chat(&socket, &say("hi", json!({"ignore_eos": true, "max_tokens": 8000}))));
    until("the answer's start", || (daemon.metric("moed_requests_running") > 0.5).then_some(()));
    // What was said before the answer began is still in the socket's queue and does not count.
    manager.drain();
    let mut fed = 0;
    while !asking.is_finished() {
        manager.until("WATCHDOG=1");
        fed += 1;
    }
    assert_eq!(asking.join().unwrap().status, 200);
    assert!(fed >= 3, "fed {fed} times in an answer of 8000 tokens");
}

#[test]
fn a_reload_changes_what_it_can_names_what_it_cannot_and_a_broken_file_changes_nothing() {
    let home = Home::new();
    home.configure(&[]);
    let manager = Manager::new(&home);
    let path = manager.path.clone();
    let daemon = TestDaemon::start_in(home, &[("NOTIFY_SOCKET", path.as_str())]);
    manager.until("READY=1");
    let reload = || client::post(&daemon.socket(), "/admin/reload", b"").unwrap();
    assert_eq!(reload().json()["summary"], "reloaded: nothing has changed");

    daemon.home.configure(&[("socket.body_max", "\"1KiB\""), ("engine.threads", "2"), ("log.level", "\"trace\"")]);
    manager.drain();
    daemon.signal(rustix::process::Signal::HUP);
    let reloading = manager.until("RELOADING=1");
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    manager.until("READY=1");
    let long = say(&"x".repeat(2000), json!({}));
    assert_eq!(chat(&daemon.socket(), &long).status, 413);
    let report = reload().json();
    assert_eq!((&report["changed"], &report["restart"]), (&json!([]), &json!(["engine.threads"])));

    let config = daemon.home.configure(&[]);
    fs::write(&config, "queue.waiting_max = 0\nengine.slotz = 2\n").unwrap();
    let reply = reload();
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.error().1.contains("engine.slotz"), "{}", reply.text());
    assert_eq!(chat(&daemon.socket(), &long).status, 413, "the old settings are still in force");

    daemon.home.configure(&[]);
    assert_eq!(reload().json()["changed"], json!(["log.level", "socket.body_max"]));
    assert_eq!(chat(&daemon.socket(), &long).status, 200);
}

/// A daemon whose socket others can reach, and a verb run as another user; only root can do that.
fn as_user(daemon: &TestDaemon, user: u32, arguments: &[&str]) -> Ran {
    use std::os::unix::process::CommandExt;
    let socket = daemon.socket();
    let mut command = daemon.home.moed(arguments);
    command.arg("--socket").arg(socket).current_dir("/").uid(user).gid(user);
    Ran::of(&mut command)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Folders that others may pass through to the socket, and to the binary under test.
fn open_to_others(home: &Home) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(home.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn orders_come_from_those_who_are_listed_and_strangers_are_refused_by_rule() {
    if !is_root() {
        return skip("orders_come_from_those_who_are_listed", "only root can be somebody else");
    }
    let home = Home::new();
    open_to_others(&home);
    let mode = ("socket.mode", "\"0666\"");
    home.configure(&[mode, ("socket.admins", "[\"64001\", \"@64002\"]")]);
    let daemon = TestDaemon::start_in(home, &[]);
    let refused = as_user(&daemon, 64000, &["reload", "--wait"]);
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.stderr.contains("user 64000 may not reload this daemon"), "{refused:?}");
    for admin in [64001, 64002] {
        let done = as_user(&daemon, admin, &["reload", "--wait"]);
        assert!(done.code == Some(0) && done.stderr.contains("nothing has changed"), "{done:?}");
    }
    assert_eq!(as_user(&daemon, 64000, &["ask", "hi"]).code, Some(0));
    let top = daemon.home.run(&["top"]);
    assert!(top.code == Some(0) && top.stdout.contains("1 stop") && top.stdout.contains("slots busy"), "{top:?}");

    // From now on only 64003 may ask; who may give orders still may.
    daemon.home.configure(&[mode, ("socket.admins", "[\"64001\"]"), ("socket.peers", "[\"64003\"]")]);
    let done = as_user(&daemon, 64001, &["reload", "--wait"]);
    assert!(done.stderr.contains("in force now: socket.admins, socket.peers"), "{done:?}");
    let refused = as_user(&daemon, 64000, &["ask", "hi"]);
    assert!(refused.code == Some(77) && refused.stderr.contains("user 64000 may not ask this daemon"), "{refused:?}");
    assert_eq!(as_user(&daemon, 64003, &["ask", "hi"]).code, Some(0));
    assert!((daemon.metric("moed_client_requests_total{transport=\"http\",client=\"uid:64003\"}") - 1.0).abs() < 0.1);
    assert!((daemon.metric("moed_refusals_total{reason=\"forbidden\"}") - 1.0).abs() < 0.1);

    daemon.home.configure(&[mode, ("socket.admins", "[\"nobody-of-that-name\"]")]);
    let refused = daemon.home.run(&["reload", "--wait"]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("there is no user `nobody-of-that-name`"), "{refused:?}");
}

/// An answer that would take for hours.
fn ask_endlessly(daemon: &TestDaemon) -> std::thread::JoinHandle<client::Reply> {
    let socket = daemon.socket();
    std::thread::spawn(move || {
        chat(&socket, &say("hi", json!({"ignore_eos": true, "max_tokens": 8000, "response_format": {"type": "text"}})))
    })
}

/// Waits until this many requests were taken on.
fn until_taken_on(daemon: &TestDaemon, requests: f64) {
    let taken = "moed_client_requests_total{transport=\"http\",client=\"uid:0\"}";
    let taken = taken.replace("uid:0", &format!("uid:{}", rustix::process::geteuid().as_raw()));
    until("requests taken on", || (daemon.metric(&taken) > requests - 0.5).then_some(()));
}

#[test]
fn a_drain_finishes_what_runs_refuses_what_comes_and_says_how_it_went() {
    // One after another, so that the drain takes its time.
    let mut daemon = TestDaemon::start(&[("engine.slots", "1"), ("engine.alarm_slots", "0")]);
    let asking: Vec<_> = (0..8).map(|_| ask_endlessly(&daemon)).collect();
    until_taken_on(&daemon, 8.0);
    let drain = daemon.home.moed(&["drain", "--wait"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the drain's start", || (client::get(&daemon.socket(), "/health").unwrap().status == 503).then_some(()));
    let late = chat(&daemon.socket(), &say("hi", json!({})));
    assert_eq!((late.status, late.error().0.as_str()), (503, "unavailable"), "{}", late.text());
    assert_eq!(late.header("retry-after").as_deref(), Some("2"));
    for asking in asking {
        assert_eq!(asking.join().unwrap().status, 200, "what ran or waited is finished");
    }
    assert!(daemon.wait().success());
    let drained = Ran::end_of(drain);
    assert!(drained.code == Some(0) && drained.stderr.contains("every answer was finished"), "{drained:?}");
    // Nobody is there any more.
    assert_eq!(daemon.home.run(&["drain"]).code, Some(69));
}

#[test]
fn a_drain_whose_time_is_up_ends_answers_with_an_error_that_says_when_to_ask_again() {
    let mut daemon = TestDaemon::start(&[("queue.drain_timeout", "\"0s\"")]);
    let asking = ask_endlessly(&daemon);
    until_taken_on(&daemon, 1.0);
    let drained = daemon.home.run(&["drain", "--wait"]);
    let cut = asking.join().unwrap();
    if cut.status == 200 {
        // A machine so fast that the answer was whole before the drain began has shown nothing.
        return skip("a_drain_whose_time_is_up", "the answer was finished first");
    }
    assert_eq!((cut.status, cut.error().0.as_str()), (503, "unavailable"), "{}", cut.text());
    assert_eq!(cut.header("retry-after").as_deref(), Some("2"));
    assert!(drained.code == Some(75) && drained.stderr.contains("timed out"), "{drained:?}");
    assert!(daemon.wait().success());
}

#[test]
fn a_second_signal_hurries_a_drain() {
    let mut daemon = TestDaemon::start(&[("queue.drain_timeout", "\"10m\"")]);
    let asking: Vec<_> = (0..3).map(|_| ask_endlessly(&daemon)).collect();
    until_taken_on(&daemon, 3.0);
    daemon.signal(rustix::process::Signal::TERM);
    until("the drain's start", || daemon.log().contains("draining").then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    let ends: Vec<u16> = asking.into_iter().map(|asking| asking.join().unwrap().status).collect();
    let end = if ends.contains(&503) { "hurried" } else { "finished" };
    assert!(daemon.log().contains(&format!("end=\"{end}\"")), "{ends:?}");
}

/// Whether a line names this part among those that hang.
fn names(line: &str, part: &str) -> bool {
    let parts = line.split_once("parts=\"").and_then(|(_, rest)| rest.split_once('"'));
    parts.is_some_and(|(parts, _)| parts.split(' ').any(|name| name == part))
}

/// Hangs one part of the daemon and sees that the watchdog is no longer fed, and that the log names the part.
fn a_hang_starves_the_watchdog(part: &str, before: impl FnOnce(&TestDaemon, &Manager)) {
    let home = Home::new();
    // A model that is told of devices, so that there is a listener for them.
    let folder = home.path("model");
    copy_model("tiny", &folder);
    let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
    fs::write(folder.join("manifest.toml"), manifest.replace("own_tools = false", "own_tools = true")).unwrap();
    // Nobody listens there: journal, desk and links run all the same.
    home.configure(&[
        ("model.dir", &format!("{:?}", folder.display().to_string())),
        ("mqtt.url", "\"mqtt://127.0.0.1:1\""),
        ("mqtt.pool", "\"house\""),
        ("home.homeassistant", "\"homeassistant\""),
    ]);
    let manager = Manager::new(&home);
    let file = home.path("hang");
    let hang = format!("{part}:{}", file.display());
    let environment =
        [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "200000"), ("MOED_HANG", hang.as_str())];
    let daemon = TestDaemon::start_in(home, &environment);
    manager.until("READY=1");
    manager.drain();
    before(&daemon, &manager);
    manager.drain();
    // All parts move: it is fed.
    manager.until("WATCHDOG=1");
    fs::write(&file, "").unwrap();
    until("the hang's notice", || {
        // A manager that does not read would hold up whoever tells it.
        manager.drain();
        let notice = |line: &str| line.contains("no sign of life; the watchdog is not fed") && names(line, part);
        daemon.log().lines().any(notice).then_some(())
    });
    // Whatever was said before is taken out; then nothing more may come in the time in which systemd would act.
    manager.drain();
    manager.socket.set_read_timeout(Some(std::time::Duration::from_millis(600))).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!message.contains("WATCHDOG=1"), "fed while {part} hangs: {message}");
    }
}

#[test]
fn an_engine_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("engine", |_, _| {});
}

/// Gives the engine work for a while, and has another model take over.
fn exchange_models(daemon: &TestDaemon, manager: &Manager) {
    for _ in 0..16 {
        let socket = daemon.socket();
        let body = say("hi", json!({"ignore_eos": true, "max_tokens": 8000})).to_string();
        // The daemon is killed in the middle of it.
        std::thread::spawn(move || client::post(&socket, "/v1/chat/completions", body.as_bytes()).ok());
    }
    until_taken_on(daemon, 16.0);
    let folder = daemon.home.path("other");
    copy_model("tiny", &folder);
    daemon.home.configure(&[
        ("mqtt.url", "\"mqtt://127.0.0.1:1\""),
        ("model.dir", &format!("{:?}", folder.display().to_string())),
    ]);
    let socket = daemon.socket();
    let reload = std::thread::spawn(move || client::post(&socket, "/admin/reload", b"").unwrap());
    until("the exchange", || {
        manager.drain();
        reload.is_finished().then_some(())
    });
    assert!(reload.join().unwrap().text().contains("in place of"));
}

#[test]
fn an_engine_that_hangs_while_another_model_has_taken_over_starves_the_watchdog() {
    a_hang_starves_the_watchdog("engine", exchange_models);
}

#[test]
fn an_engine_that_has_taken_over_and_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("engine-relief", exchange_models);
}

#[test]
fn an_mqtt_desk_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("mqtt", |_, _| {});
}

#[test]
fn a_link_to_the_broker_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("link", |_, _| {});
}

#[test]
fn a_pools_link_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("pool-link", |_, _| {});
}

#[test]
fn a_listener_for_devices_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("home", |_, _| {});
}

#[test]
fn a_journal_that_hangs_starves_the_watchdog() {
    a_hang_starves_the_watchdog("journal", |_, _| {});
}
