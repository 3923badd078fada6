//! The runtime's shared library: found, loaded once in a process, and what opens a graph with it.
//!
//! With `session.rs` and `raw.rs` the only home of `ort`.

use std::path::Path;
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::fault::Fault;

/// The oldest ONNX Runtime whose CPU kernels run what our exporter writes.
pub const RUNTIME_MINOR_MIN: u32 = 20;

/// The loaded runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeBuild {
    /// `1.32.0`.
    pub version: String,
    pub path: String,
}

static ENVIRONMENT: OnceLock<(Environment, RuntimeBuild)> = OnceLock::new();

/// Loads the runtime library, once in a process. Its telemetry must have been turned off in the environment before.
pub fn load_runtime(library: &Path) -> Result<RuntimeBuild, Fault> {
    if let Some((_, build)) = ENVIRONMENT.get() {
        return Ok(build.clone());
    }
    let failed = |reason: String| {
        Fault::config(format!("ONNX Runtime `{}`: {reason}", library.display()))
            .hint("set `runtime.onnxruntime`, or fetch the pinned one with `make runtime`")
    };
    if !library.is_file() {
        return Err(failed("no such file".to_owned()));
    }
    let builder = ort::init_from(library).map_err(|error| failed(error.to_string()))?;
    let environment = builder.with_telemetry(false).build().map_err(|error| failed(error.to_string()))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    let build = RuntimeBuild { version: runtime_version(library), path: library.display().to_string() };
    let minor = build.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if let Some(minor) = minor.filter(|minor| *minor < RUNTIME_MINOR_MIN) {
        return Err(failed(format!(
            "version 1.{minor} is older than the least that runs these models, 1.{RUNTIME_MINOR_MIN}"
        )));
    }
    Ok(ENVIRONMENT.get_or_init(|| (environment, build)).1.clone())
}

/// The version, from the library's own name (`libonnxruntime.so.1.32.0`) or the build line.
fn runtime_version(library: &Path) -> String {
    let real = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split_once(".so.").map_or_else(|| "unknown".to_owned(), |(_, version)| version.to_owned())
}

/// The process's environment.
pub(super) fn environment() -> Result<&'static Environment, Fault> {
    ENVIRONMENT
        .get()
        .map(|(environment, _)| environment)
        .ok_or_else(|| Fault::bug("the runtime was not loaded before the model"))
}

/// Opens a graph.
pub(super) fn open(environment: &Environment, graph: &Path, threads: usize) -> Result<Session, String> {
    let builder = Session::builder(environment).map_err(|error| error.to_string())?;
    let builder = builder.with_intra_threads(threads).map_err(|error| error.to_string())?;
    let mut builder =
        builder.with_optimization_level(GraphOptimizationLevel::All).map_err(|error| error.to_string())?;
    builder.commit_from_file(graph).map_err(|error| error.to_string())
}
