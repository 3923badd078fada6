//! A library that looks sound is loaded and tried in a process of its own: it may take its process down with it.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::print;
use crate::engine::provider::{self, Provider};
use crate::engine::runtime;
use crate::fault::Fault;

/// A library that takes longer to run three kernels than this hangs.
const TRIAL_TIMEOUT: Duration = Duration::from_mins(2);

/// One provider, and whether it ran a kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trial {
    pub provider: String,
    pub runs: bool,
    /// Why it does not.
    pub why: Option<String>,
}

/// Tries a library in a process of its own.
pub(super) fn of(library: &Path) -> Result<Vec<Trial>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["doctor", "--try-kernels"]).arg(library);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let end = Instant::now() + TRIAL_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() > end {
            child.kill().map_err(failed)?;
            return Err(format!("it did not end within {} s", TRIAL_TIMEOUT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |pipe: Option<&mut dyn Read>| {
        let mut text = String::new();
        // What cannot be read is as good as nothing: the status speaks.
        pipe.map(|pipe| pipe.read_to_string(&mut text).ok());
        text
    };
    let out = text(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read));
    let talk = text(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read));
    match (status.success(), status.signal()) {
        (true, _) => serde_json::from_str(&out).map_err(|error| format!("it said `{out}`: {error}")),
        (_, Some(signal)) => Err(format!("it took its process down with signal {signal}")),
        _ if talk.trim().is_empty() => Err(format!("it ended without a word, {status}")),
        _ => Err(talk.trim().trim_start_matches("error: ").to_owned()),
    }
}

/// What the doctor's other process does.
pub(super) fn run_kernels(library: &Path) -> Result<(), Fault> {
    runtime::load_runtime_with(library, 1)?;
    let trials: Vec<Trial> = Provider::ALL
        .into_iter()
        .map(|provider| match provider::choose(provider.name()) {
            Ok(_) => Trial { provider: provider.name().to_owned(), runs: true, why: None },
            Err(fault) => {
                let why =
                    fault.message.split_once("does not run here: ").map_or(fault.message.as_str(), |(_, why)| why);
                Trial { provider: provider.name().to_owned(), runs: false, why: Some(one_line(why)) }
            }
        })
        .collect();
    print(&json!(trials).to_string())
}

/// The runtime's messages have lines and places of its own.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
