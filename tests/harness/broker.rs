//! A real Mosquitto, private to one test, on a port of its own.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::NetworkOptions;
use rumqttc::v5::MqttOptions;

/// A machine under load takes its time; a broker that never listens is a failure all the same.
const START: Duration = Duration::from_secs(10);
/// It has a file to write before it ends, at the most.
const STOP: Duration = Duration::from_secs(30);
/// Somebody else may take the free port before the broker does.
const TRIES: usize = 5;

/// Finds a program of Mosquitto: where `make setup` put it, in the path, or where Debian puts it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/mosquitto/bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// How a client of the tests comes to a broker on this port: with a session that is kept, and room for large answers.
pub(crate) fn client_options(name: impl Into<String>, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(5));
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    options.set_max_packet_size(Some(4 << 20));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options
}

/// A broker that dies with its test.
pub(crate) struct Broker {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

impl Broker {
    /// Starts one that lets everybody in. `more` is appended to its configuration.
    pub(crate) fn start(more: &str) -> Self {
        Self::start_in(|port, folder| {
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n\
                 set_tcp_nodelay true\nautosave_interval 1\nautosave_on_changes true\n{more}\n",
                folder.display()
            )
        })
    }

    /// Starts one whose whole configuration is this, made for its port.
    pub(crate) fn start_as(config: impl Fn(u16) -> String) -> Self {
        Self::start_in(|port, _folder| config(port))
    }

    fn start_in(config: impl Fn(u16, &Path) -> String) -> Self {
        for _ in 0..TRIES {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
            let config = format!("{user}{}", config(port, folder.path()));
            fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
            let mut child = spawn(folder.path());
            if listens(&mut child, port) {
                return Self { child, port, folder };
            }
        }
        panic!("no Mosquitto would start in {TRIES} tries");
    }

    /// Ends it as a stop of the service does: it writes down what it has.
    ///
    /// A Mosquitto that listens may not have begun its loop yet, and forgets a SIGTERM that comes before it (3 of 100 right
    /// after the first connection was taken): so it is told until it has ended.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let until = Instant::now() + STOP;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "Mosquitto did not end within {STOP:?}");
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stands still with all its connections open, as behind a dead network; or goes on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Forgets all sessions and messages; only while it is stopped.
    pub(crate) fn lose_memory(&self) {
        match fs::remove_file(self.folder.path().join("mosquitto.db")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Starts it again on the same port.
    pub(crate) fn again(&mut self) {
        self.child = spawn(self.folder.path());
        assert!(listens(&mut self.child, self.port), "Mosquitto did not come back on port {}", self.port);
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(folder: &Path) -> Child {
    let program = find("mosquitto").expect("mosquitto is needed: `make setup` unpacks it");
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new(program)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn listens(child: &mut Child, port: u16) -> bool {
    let until = Instant::now() + START;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
