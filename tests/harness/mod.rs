//! What whole-daemon tests need: the real binary in a private folder with a cleared environment, and a client that can misbehave.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "each test binary uses its own part; a test that cannot go on fails"
)]

pub mod boards;
pub mod client;
pub mod fake;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The same for a program that runs to its end: some of them compile, or pack a package.
pub const ENOUGH: Duration = Duration::from_mins(5);

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The pinned ONNX Runtime; `make runtime` fetches it.
pub fn onnxruntime() -> PathBuf {
    let library = root().join(".runtime/libonnxruntime.so");
    assert!(library.is_file(), "{} is missing: run `make runtime`", library.display());
    library
}

/// A test that cannot run here says so in a file that `make test` prints, and CI fails on.
pub fn skip(name: &str, why: &str) {
    use std::io::Write;
    println!("skipped: {name} ({why})");
    if let Some(path) = std::env::var_os("MOED_SKIPPED") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "skipped: {name} ({why})").unwrap();
    }
}

/// Waits for a condition, with a deadline.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition).unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}"))
}

/// Waits so long for a condition; `None`: it did not come true.
pub fn within<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the path has such a program.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A private folder with a config file for the tiny model.
pub struct Home {
    pub folder: tempfile::TempDir,
    /// What the binary is started by; empty: nothing.
    pub launcher: &'static [&'static str],
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), launcher: &[] }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("moed.sock")
    }

    /// Writes a config; each of `settings` is a line `section.key = value` that is added or replaces a default of the tests.
    pub fn configure(&self, settings: &[(&str, &str)]) -> PathBuf {
        let quote = |path: &Path| format!("{:?}", path.display().to_string());
        let mut all: Vec<(String, String)> = vec![
            ("node.name".into(), "\"n1\"".into()),
            ("socket.path".into(), quote(&self.socket())),
            ("model.dir".into(), quote(&root().join("models/tiny"))),
            ("journal.dir".into(), quote(&self.path("journal"))),
            ("runtime.onnxruntime".into(), quote(&onnxruntime())),
            ("engine.threads".into(), "1".into()),
            // Every daemon has a folder of its own: each would make a copy. `tests/prepare.rs` does.
            ("engine.prepare".into(), "\"never\"".into()),
            ("log.level".into(), "\"debug\"".into()),
        ];
        for (key, value) in settings {
            all.retain(|(known, _)| known != key);
            all.push(((*key).to_owned(), (*value).to_owned()));
        }
        // Dotted keys at the top need no section order.
        let lines: Vec<String> = all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let path = self.path("moed.toml");
        fs::write(&path, lines.concat()).unwrap();
        path
    }

    /// The binary with a cleared environment; only what a login gives.
    pub fn moed(&self, arguments: &[&str]) -> Command {
        let program = [self.launcher, &[env!("CARGO_BIN_EXE_moed")]].concat();
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .current_dir(self.folder.path());
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.moed(arguments))
    }
}

/// Copies a model folder's files to where a test may damage them.
pub fn copy_model(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(root().join("models").join(name)).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// What a finished program said.
#[derive(Debug)]
#[must_use]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Runs a program that reads nothing to its end.
    pub fn of(command: &mut Command) -> Self {
        Self::within(ENOUGH, command)
    }

    /// The same with less or more patience.
    pub fn within(patience: Duration, command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self::end(patience, &name, started.unwrap_or_else(|error| panic!("{name}: {error}")))
    }

    /// Waits for the end of one that was started; what it writes into pipes is read.
    pub fn end_of(child: Child) -> Self {
        Self::end(ENOUGH, &format!("process {}", child.id()), child)
    }

    /// A program that hangs is killed and fails the test: it must not hold up all the others.
    fn end(patience: Duration, name: &str, mut child: Child) -> Self {
        let stdout = child.stdout.take().map(Gathered::from);
        let stderr = child.stderr.take().map(Gathered::from);
        let ended = within(patience, || child.try_wait().unwrap());
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let [stdout, stderr] = [stdout, stderr].map(|pipe| pipe.map(Gathered::text).unwrap_or_default());
        let status = ended.unwrap_or_else(|| panic!("{name}: not within {patience:?}\n{stdout}\n{stderr}"));
        Self { code: status.code(), stdout, stderr }
    }
}

/// All that comes out of a pipe, read beside the test.
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Gathered {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                sink.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { bytes, reader }
    }

    /// A child of the program that lives on with the pipe in its hands is not waited for.
    fn text(self) -> String {
        join_or_leave(self.reader);
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

/// Waits for a thread that ends by itself where all is well; one that does not is left behind.
pub fn join_or_leave(thread: JoinHandle<()>) {
    if within(PATIENCE, || thread.is_finished().then_some(())).is_some() {
        // One that fell is missed in what it did not bring.
        thread.join().ok();
    }
}

/// A running daemon; killed when dropped.
pub struct TestDaemon {
    pub home: Home,
    child: Child,
    log: Arc<Mutex<String>>,
    /// What earlier processes logged.
    past: String,
    reader: Option<JoinHandle<()>>,
    environment: Vec<(String, String)>,
}

impl TestDaemon {
    /// The tiny model with these settings, ready.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let home = Home::new();
        home.configure(settings);
        Self::start_in(home, &[])
    }

    /// What the folder's config says, with more environment, ready.
    pub fn start_in(home: Home, environment: &[(&str, &str)]) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (child, log, reader) = spawn(&home, &environment);
        let mut daemon = Self { home, child, log, past: String::new(), reader: Some(reader), environment };
        daemon.wait_ready();
        daemon
    }

    fn wait_ready(&mut self) {
        let socket = self.home.socket();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if client::get(&socket, "/health").is_ok_and(|reply| reply.status == 200) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended before it was ready: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready within {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.home.socket()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGKILL, as the power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What this and all earlier processes in the folder have logged.
    pub fn whole_log(&self) -> String {
        self.past.clone() + &self.log()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().unwrap())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Starts it again in the same folder, ready.
    pub fn restart(&mut self, environment: &[(&str, &str)]) {
        self.start_again(environment);
        self.wait_ready();
    }

    /// Starts it again in the same folder, to die by itself.
    pub fn restart_to_its_end(&mut self, environment: &[(&str, &str)]) -> ExitStatus {
        self.start_again(environment);
        self.wait()
    }

    fn start_again(&mut self, environment: &[(&str, &str)]) {
        self.child.kill().ok();
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            join_or_leave(reader);
        }
        self.past.push_str(&self.log());
        self.environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (child, log, reader) = spawn(&self.home, &self.environment);
        (self.child, self.log, self.reader) = (child, log, Some(reader));
    }

    /// A metric's value by its name and labels, 0 where it has not been counted yet.
    pub fn metric(&self, name: &str) -> f64 {
        let page = client::get(&self.socket(), "/metrics").unwrap().text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or(0.0)
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            join_or_leave(reader);
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

fn spawn(home: &Home, environment: &[(String, String)]) -> (Child, Arc<Mutex<String>>, JoinHandle<()>) {
    let config = home.path("moed.toml");
    let mut command = home.moed(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let lines = BufReader::new(child.stderr.take().unwrap());
    let sink = Arc::clone(&log);
    let reader = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut log = sink.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    (child, log, reader)
}
