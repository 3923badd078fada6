//! The runtime's shared library: found, loaded once in a process, and what opens a graph with it.
//!
//! With `session.rs` and `raw.rs` the only home of `ort`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::Tensor;

use crate::engine::provider::Provider;
use crate::engine::raw::Device;
use crate::fault::Fault;
use crate::library::vouch;
use crate::model::cache;
use crate::model::folder::Folder;
use crate::model::graph::probe;

/// The loaded runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeBuild {
    /// `1.32.0`.
    pub version: String,
    pub path: String,
}

impl RuntimeBuild {
    /// The 32 of `1.32.0`; `None` where the version is not known.
    pub fn minor(&self) -> Option<u32> {
        self.version.split('.').nth(1)?.parse().ok()
    }

    /// What tells this library from another: two builds of one version may pack weights differently.
    pub fn identity(&self) -> String {
        let bytes = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        format!("{} of {bytes} bytes", self.version)
    }
}

static ENVIRONMENT: OnceLock<(Environment, RuntimeBuild)> = OnceLock::new();
/// Threads of the process's pool, the calling one counted.
static POOL: OnceLock<usize> = OnceLock::new();
static PROVIDER: OnceLock<Provider> = OnceLock::new();
/// The GPU that a kernel ran on.
static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();

/// Loads the runtime library with a pool as wide as the machine, once in a process. Its telemetry must have been turned off
/// in the environment before.
pub fn load_runtime(library: &Path) -> Result<RuntimeBuild, Fault> {
    load_runtime_with(library, 0)
}

/// Loads the runtime library with a pool of `threads`; 0: one for each core. All sessions of that width share the pool, since
/// several pools that spin disturb each other (measured: 3.1 to 8.0 ms for a graph that takes 2.3 ms alone).
pub fn load_runtime_with(library: &Path, threads: usize) -> Result<RuntimeBuild, Fault> {
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
    // Loading a damaged library would end the process without a word.
    let version = vouch(library).map_err(|trouble| Fault::config(trouble.what).hint(trouble.hint))?;
    let builder = ort::init_from(library).map_err(|error| failed(error.to_string()))?;
    let threads = if threads == 0 { cores() } else { threads };
    let pool = pool(threads).map_err(|error| failed(error.to_string()))?;
    let environment = builder
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    let build =
        RuntimeBuild { version: version.unwrap_or_else(|| "unknown".to_owned()), path: library.display().to_string() };
    POOL.get_or_init(|| threads);
    Ok(ENVIRONMENT.get_or_init(|| (environment, build)).1.clone())
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn pool(threads: usize) -> ort::Result<GlobalThreadPoolOptions> {
    // Workers spin for a moment after a step, in case the next one comes, and then sleep: a burst is fast, idling costs
    // nothing. Steps run one operator at a time, so nothing ever runs between operators.
    GlobalThreadPoolOptions::default().with_intra_threads(threads)?.with_inter_threads(1)?.with_spin_control(true)
}

/// Settles what every session of this process runs on. The first call counts.
pub(super) fn settle_provider(provider: Provider) {
    PROVIDER.get_or_init(|| provider);
}

/// What every session of this process runs on.
pub fn provider() -> Provider {
    *PROVIDER.get_or_init(|| Provider::Cpu)
}

/// Where that keeps its caches; `None`: in the host's memory.
pub fn device() -> Option<Arc<Device>> {
    DEVICE.get().filter(|_| provider() == Provider::Cuda).map(Arc::clone)
}

/// The process's environment.
pub(super) fn environment() -> Result<&'static Environment, Fault> {
    ENVIRONMENT
        .get()
        .map(|(environment, _)| environment)
        .ok_or_else(|| Fault::bug("the runtime was not loaded before the model"))
}

/// What opens sessions with so many threads, on the process's provider.
fn builder(environment: &Environment, threads: usize) -> Result<SessionBuilder, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let builder = Session::builder(environment).map_err(|error| failed(&error))?;
    // A session of another width than the process's pool gets threads of its own; with one thread it gets none.
    let shared = threads > 1 && POOL.get() == Some(&threads);
    let builder = if shared {
        builder
    } else {
        let builder = builder.with_independent_thread_pool().map_err(|error| failed(&error))?;
        builder.with_intra_threads(threads).map_err(|error| failed(&error))?
    };
    match provider() {
        Provider::Cpu => Ok(builder),
        // Registration that fails is an error, not a run on the CPU.
        Provider::Cuda => builder
            .with_execution_providers([CUDA::default().build().error_on_failure()])
            .map_err(|error| failed(&error)),
    }
}

fn with_level(builder: SessionBuilder, level: GraphOptimizationLevel) -> Result<SessionBuilder, String> {
    builder.with_optimization_level(level).map_err(|error| error.to_string())
}

/// Opens a folder's graph. A prepared one is optimised already, and optimising it again would undo its layout.
pub(super) fn open(environment: &Environment, folder: &Folder, threads: usize) -> Result<Session, String> {
    let level = if folder.prepared { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::All };
    let mut builder = with_level(builder(environment, threads)?, level)?;
    if let Some(profile) = &folder.profile {
        builder = builder.with_profiling(profile).map_err(|error| error.to_string())?;
    }
    builder.commit_from_file(&folder.graph).map_err(|error| error.to_string())
}

/// A graph to be optimised.
pub(super) enum Original<'a> {
    File(&'a Path),
    /// A changed graph, and the folder of its weights.
    Bytes(&'a [u8], &'a Path),
}

/// Optimises a graph and writes it into `folder`, its weights beside it in the layout that the kernels want; a session on
/// it maps them from the file instead of packing them into memory of its own.
pub(super) fn save_optimised(original: &Original<'_>, folder: &Path) -> Result<(), String> {
    let environment = environment().map_err(|fault| fault.message)?;
    let weights_beside = original_folder(original);
    let entries: [(&str, &str); 4] = [
        ("session.optimized_model_external_initializers_file_name", cache::WEIGHTS),
        // Smaller constants stay in the graph: shapes are computed from them before any file is mapped.
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.model_external_initializers_file_folder_path", &weights_beside),
    ];
    let mut builder = with_level(builder(environment, 1)?, GraphOptimizationLevel::All)?;
    for (key, value) in entries {
        if !value.is_empty() {
            builder = builder.with_config_entry(key, value).map_err(|error| error.to_string())?;
        }
    }
    let mut builder =
        builder.with_optimized_model_path(folder.join(cache::GRAPH)).map_err(|error| error.to_string())?;
    let session = match original {
        Original::File(path) => builder.commit_from_file(path),
        Original::Bytes(bytes, _) => builder.commit_from_memory(bytes),
    };
    session.map(drop).map_err(|error| error.to_string())
}

fn original_folder(original: &Original<'_>) -> String {
    match original {
        Original::File(_) => String::new(),
        Original::Bytes(_, folder) => folder.display().to_string(),
    }
}

/// Whether a provider runs a kernel here, or why it does not: being compiled in says little (a library without code for
/// this GPU lists CUDA and then fails).
pub(super) fn try_provider(provider: Provider) -> Result<(), String> {
    let failed = |error: ort::Error| error.to_string();
    let environment = environment().map_err(|fault| fault.message)?;
    let builder = Session::builder(environment).map_err(failed)?;
    let builder = builder.with_independent_thread_pool().map_err(|error| error.to_string())?;
    let builder = builder.with_intra_threads(1).map_err(|error| error.to_string())?;
    let mut builder = match provider {
        Provider::Cpu => builder,
        Provider::Cuda => {
            if !CUDA::is_available().map_err(failed)? {
                return Err(format!("this ONNX Runtime was built without `{}`", provider.full_name()));
            }
            let builder = builder.with_disable_cpu_fallback().map_err(|error| error.to_string())?;
            let asked = [CUDA::default().build().error_on_failure()];
            builder.with_execution_providers(asked).map_err(|error| error.to_string())?
        }
    };
    let mut session = builder.commit_from_memory(&probe::graph()).map_err(failed)?;
    let input = Tensor::from_array(([probe::SIDE, probe::SIDE], probe::input())).map_err(failed)?;
    let outputs = session.run(ort::inputs![probe::INPUT => input]).map_err(failed)?;
    let (_, found) = outputs[probe::OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
    if found != probe::output() {
        return Err(format!("a product of two matrices came out as {found:?}"));
    }
    if provider == Provider::Cuda && DEVICE.get().is_none() {
        // Without its memory in reach the caches would travel to it and back in every step.
        let device = Device::cuda()?;
        DEVICE.get_or_init(|| device);
    }
    Ok(())
}
