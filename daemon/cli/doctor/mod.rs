//! `moed doctor`: what this machine is, what runs on it, what stands in the way, and what to do about it.
//!
//! Nothing is loaded into this process: libraries are judged by their headers first, and only a sound one is tried, in a
//! process of its own, since a library may take its process down with it.

mod gpu;
mod rights;
mod tell;
mod trial;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::board::files::Files;
use crate::board::report;
use crate::cli::{Configured, print};
use crate::config::{Config, find};
use crate::fault::Fault;
use crate::library::{self, Machine, Runtime, Trouble};
use gpu::Graphics;
use rights::{Places, Rights, Subject};
use trial::Trial;

/// Arguments of `moed doctor`.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    configured: Configured,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look at ONNX Runtime alone: the libraries that would be found, or this one
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    runtime: Option<OsString>,
    /// Load this library and run a kernel on each provider; what the doctor starts itself
    #[arg(long, value_name = "FILE", hide = true)]
    try_kernels: Option<PathBuf>,
}

/// Names, and what there is to say of each.
type Lines = Vec<(&'static str, String)>;

/// All that was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    #[serde(skip_serializing_if = "Option::is_none")]
    board: Option<Value>,
    gpu: Graphics,
    /// The library that the daemon would load, first.
    runtimes: Vec<Runtime>,
    providers: Vec<Trial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rights: Option<Rights>,
    /// What stands in the way, each with what to do about it.
    missing: Vec<Trouble>,
}

/// Prints what was found; a fault where the daemon could not compute here.
pub(super) fn run(arguments: &Doctor) -> Result<(), Fault> {
    if let Some(library) = &arguments.try_kernels {
        return trial::run_kernels(library);
    }
    let mut missing = Vec::new();
    // A config with a fault is one more finding: the machine can be looked at without it.
    let config = arguments.configured.load().unwrap_or_else(|fault| {
        missing.push(Trouble::new(fault.message, fault.hint.unwrap_or_else(|| "see `moed check`".to_owned())));
        Config::default()
    });
    let (mut findings, lines) = look(arguments, &config, missing);
    let runs = findings.providers.iter().any(|trial| trial.runs);
    let named = findings.providers.iter().any(|trial| trial.runs && trial.provider == config.engine.provider);
    if !named && config.engine.provider != "auto" {
        let what = format!("`engine.provider` is `{}`, which does not run here", config.engine.provider);
        findings.missing.push(Trouble::new(what, "set `engine.provider` to `auto`, or give it what it lacks"));
    }
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&findings).unwrap_or_default()))?;
    } else {
        print(&tell::tell(&findings, lines))?;
    }
    if runs && (named || config.engine.provider == "auto") {
        return Ok(());
    }
    Err(Fault::machine("no ONNX Runtime that was found here can serve").hint("see `missing` above"))
}

/// Looks at everything, or at the runtime alone. With it come the board's lines for people.
fn look(arguments: &Doctor, config: &Config, missing: Vec<Trouble>) -> (Findings, Lines) {
    let files = Files::new(config.board.clone());
    let mut findings =
        Findings { gpu: gpu::find(&files, Path::new("/usr/local/cuda")), missing, ..Findings::default() };
    let mut lines = Vec::new();
    if arguments.runtime.is_none() {
        let board = report::report(&config.board);
        lines = board.lines();
        findings.missing.extend(board.advice().into_iter().map(|advice| Trouble::new(advice, "")));
        findings.board = Some(board.to_json());
    }

    let machine = Machine::here(findings.gpu.gpus.iter().filter_map(|gpu| gpu.architecture).collect());
    let named = arguments.runtime.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from);
    findings.runtimes = candidates(config, named).iter().map(|path| library::judge(path, &machine)).collect();
    // As the daemon does: the first that is there, and no other.
    match findings.runtimes.iter().find(|runtime| runtime.found) {
        None => findings.missing.push(absent(&findings.runtimes)),
        Some(runtime) => {
            findings
                .missing
                .extend(runtime.troubles.iter().chain(runtime.cuda.iter().flat_map(|cuda| &cuda.troubles)).cloned());
            if runtime.is_sound() {
                match trial::of(&runtime.path) {
                    Ok(trials) => findings.providers = trials,
                    Err(why) => findings.missing.push(Trouble::new(
                        format!("`{}` looks sound, and trying it failed: {why}", runtime.path.display()),
                        "take another build of ONNX Runtime",
                    )),
                }
            }
            if !findings.gpu.gpus.is_empty() && runtime.cuda.is_none() && runtime.is_sound() {
                findings.missing.push(Trouble::new(
                    format!("there is a GPU, and `{}` has no CUDA provider beside it", runtime.path.display()),
                    "a build with CUDA for this GPU in `runtime.onnxruntime` uses it; the CPU serves without",
                ));
            }
        }
    }
    if arguments.runtime.is_none() {
        let places = find::Places::of_process();
        let set = |path: &Path, other: PathBuf| if path.as_os_str().is_empty() { other } else { path.to_path_buf() };
        let subject = Subject::of_process(Path::new("/etc"));
        let state = if subject.name == "moed" { Some(PathBuf::from("/var/lib/moed")) } else { places.state };
        let rights = rights::look(
            &subject,
            &Places {
                dev: "/dev".into(),
                etc: "/etc".into(),
                state: set(&config.journal.dir, state.unwrap_or_default()),
                socket: set(&config.socket.path, "/run/moed.sock".into()),
            },
        );
        findings.missing.extend(rights.troubles.iter().cloned());
        (findings.subject, findings.rights) = (Some(subject), Some(rights));
    }
    (findings, lines)
}

/// The libraries that the daemon would look at, in its order.
fn candidates(config: &Config, named: Option<PathBuf>) -> Vec<PathBuf> {
    let set = Some(&config.runtime.onnxruntime).filter(|path| !path.as_os_str().is_empty()).cloned();
    named.or(set).map_or_else(|| find::Places::of_process().runtimes().to_vec(), |path| vec![path])
}

fn absent(runtimes: &[Runtime]) -> Trouble {
    let places: Vec<String> = runtimes.iter().map(|runtime| format!("`{}`", runtime.path.display())).collect();
    Trouble::new(
        format!("there is no ONNX Runtime: {}", places.join(", ")),
        "install the package `moed-runtime-cpu`, run `make runtime` in a checkout, or name a library in `runtime.onnxruntime`",
    )
}
