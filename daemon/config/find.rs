//! Fills what a config leaves empty from the machine: folders, the model, the runtime, names. Threads are measured with
//! the model.
//!
//! systemd's variables first, then XDG's, then a private temporary folder; nothing is created here but that.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::check::is_name;
use crate::fault::Fault;

/// Where files are looked for, in order, so that a test can point elsewhere.
#[derive(Clone, Debug)]
pub struct Places {
    /// The folder that holds the binary.
    pub binary: PathBuf,
    /// The working folder.
    pub here: PathBuf,
    /// `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/moed` or `$HOME/.local/state/moed`.
    pub state: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `$CACHE_DIRECTORY`, else `$XDG_CACHE_HOME/moed`, else `$STATE_DIRECTORY/prepared`, else `$HOME/.cache/moed`.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// This process's own.
    pub fn of_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = variable("STATE_DIRECTORY")
            .or_else(|| variable("XDG_STATE_HOME").map(|folder| folder.join("moed")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/moed")));
        let binary = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
        Self {
            binary: binary.unwrap_or_default(),
            here: std::env::current_dir().unwrap_or_default(),
            state,
            runtime: variable("XDG_RUNTIME_DIR"),
            cache: variable("CACHE_DIRECTORY")
                .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("moed")))
                .or_else(|| variable("STATE_DIRECTORY").map(|folder| folder.join("prepared")))
                .or_else(|| variable("HOME").map(|home| home.join(".cache/moed"))),
        }
    }

    /// Where ONNX Runtime is looked for.
    pub fn runtimes(&self) -> [PathBuf; 3] {
        [self.binary.clone(), PathBuf::from("/usr/lib/moed"), self.here.join(".runtime")]
            .map(|folder| folder.join("libonnxruntime.so"))
    }
}

/// Fills every empty setting, or says all that could not be found.
pub fn fill(config: &mut Config, places: &Places) -> Result<(), Fault> {
    let mut missing = Vec::new();
    if config.node.name.is_empty() {
        config.node.name = host_name();
    }
    if config.socket.path.as_os_str().is_empty() {
        config.socket.path = match &places.runtime {
            Some(folder) => folder.join("moed.sock"),
            None => private_folder()?.join("moed.sock"),
        };
    }
    if config.mqtt.client_id.is_empty() {
        config.mqtt.client_id = format!("moed-{}", config.node.name);
    }
    if config.model.dir.as_os_str().is_empty() {
        let candidates = [
            places.binary.join("models/default"),
            PathBuf::from("/usr/share/moed/models/default"),
            places.here.join("models/default"),
        ];
        match first(&candidates, Path::is_dir) {
            Some(folder) => config.model.dir = folder,
            None => missing.push(not_found("model", "model.dir", &candidates)),
        }
    }
    if config.model.prepared.as_os_str().is_empty() {
        config.model.prepared = match &places.cache {
            Some(folder) => folder.clone(),
            None => private_folder()?.join("prepared"),
        };
    }
    if config.runtime.onnxruntime.as_os_str().is_empty() {
        let candidates = places.runtimes();
        match first(&candidates, Path::is_file) {
            Some(library) => config.runtime.onnxruntime = library,
            None => missing.push(not_found("ONNX Runtime", "runtime.onnxruntime", &candidates)),
        }
    }
    if config.journal.dir.as_os_str().is_empty() {
        config.journal.dir = match &places.state {
            Some(folder) => folder.clone(),
            None => private_folder()?,
        };
    }
    Fault::together(missing)
}

fn first(candidates: &[PathBuf], is: fn(&Path) -> bool) -> Option<PathBuf> {
    candidates.iter().find(|path| is(path)).cloned()
}

fn not_found(what: &str, key: &str, candidates: &[PathBuf]) -> Fault {
    let list: Vec<String> = candidates.iter().map(|path| format!("`{}`", path.display())).collect();
    Fault::config(format!("no {what} was found in {}", list.join(", "))).hint(format!("set `{key}`"))
}

/// The host's name, with what no topic may hold replaced.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().map(|c| if is_name(&c.to_string()) { c } else { '-' }).take(64).collect();
    if name.is_empty() { "moed".to_owned() } else { name }
}

/// `/tmp/moed-<uid>`, ours alone.
fn private_folder() -> Result<PathBuf, Fault> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let user = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("moed-{user}"));
    let failed = |reason: String| Fault::machine(format!("private folder `{}`: {reason}", folder.display()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder)
        .map_err(|error| failed(error.to_string()))?;
    let meta = std::fs::symlink_metadata(&folder).map_err(|error| failed(error.to_string()))?;
    if !meta.is_dir() || meta.uid() != user || meta.mode() & 0o077 != 0 {
        return Err(failed("it belongs to somebody else or is open to others".to_owned()));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_settings_are_found_and_what_is_missing_is_named_with_every_place() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            binary: folder.path().join("bin"),
            here: folder.path().to_path_buf(),
            state: Some(folder.path().join("state")),
            runtime: Some(folder.path().join("run")),
            cache: Some(folder.path().join("cache")),
        };
        let mut config = Config::default();
        let fault = fill(&mut config, &places).unwrap_err();
        assert!(
            fault.message.contains("no model was found") && fault.message.contains("bin/models/default"),
            "{fault}"
        );
        std::fs::create_dir_all(folder.path().join("models/default")).unwrap();
        std::fs::create_dir_all(folder.path().join(".runtime")).unwrap();
        std::fs::write(folder.path().join(".runtime/libonnxruntime.so"), "").unwrap();
        let mut config = Config::default();
        fill(&mut config, &places).unwrap();
        assert!(
            config.model.dir.ends_with("models/default")
                && config.runtime.onnxruntime.ends_with(".runtime/libonnxruntime.so")
        );
        assert!(config.socket.path.ends_with("run/moed.sock") && config.journal.dir.ends_with("state"));
        assert!(config.model.prepared.ends_with("cache"));
        assert!(is_name(&config.node.name));
        assert_eq!(config.mqtt.client_id, format!("moed-{}", config.node.name));
    }
}
