//! One model for several providers: a folder that holds a whole model folder for each, named after it (`cpu/`, `cuda/`).
//!
//! A GPU wants weights in half precision or in blocks of four bits, a CPU other ones: which export is loaded follows from what
//! the model runs on. A folder without such folders serves every provider.

use std::path::{Path, PathBuf};

use crate::fault::Fault;

/// Either of these makes a folder a model folder.
const CONFIGS: [&str; 2] = ["genai_config.json", "config.json"];

/// The folder to load from `folder` for a provider: the one that is named after it, else `folder` itself. A folder with
/// nothing but other providers' is refused with their names: another provider's export is no substitute.
pub fn choose(folder: &Path, provider: &str) -> Result<PathBuf, Fault> {
    let own = folder.join(provider);
    if is_model(&own) {
        return Ok(own);
    }
    let others = if is_model(folder) { Vec::new() } else { named(folder) };
    if others.is_empty() {
        return Ok(folder.to_path_buf());
    }
    Err(Fault::config(format!(
        "model folder `{}` has nothing for `{provider}`: it has {}",
        folder.display(),
        others.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    ))
    .hint(format!("put an export for it into `{}`, or set `engine.provider` to one that is there", own.display())))
}

fn is_model(folder: &Path) -> bool {
    CONFIGS.iter().any(|name| folder.join(name).is_file())
}

/// Names of the model folders in a folder.
fn named(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| is_model(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        folder
    }

    #[test]
    fn a_provider_gets_its_own_export_else_the_one_for_all_and_never_another_providers() {
        let both = folder(&["cpu/genai_config.json", "cuda/config.json", "notes/readme.txt"]);
        assert_eq!(choose(both.path(), "cpu").unwrap(), both.path().join("cpu"));
        assert_eq!(choose(both.path(), "cuda").unwrap(), both.path().join("cuda"));
        let plain = folder(&["config.json", "cuda/config.json"]);
        assert_eq!(choose(plain.path(), "cpu").unwrap(), plain.path());
        assert_eq!(choose(plain.path(), "cuda").unwrap(), plain.path().join("cuda"));
        let other = folder(&["cuda/config.json", "npu/config.json"]);
        let fault = choose(other.path(), "cpu").unwrap_err();
        assert!(fault.message.ends_with("has nothing for `cpu`: it has `cuda`, `npu`"), "{fault}");
        assert!(fault.hint.unwrap().contains("/cpu`, or set `engine.provider`"));
        // What is no model folder at all is said by who reads it.
        let empty = folder(&["notes/readme.txt"]);
        assert_eq!(choose(empty.path(), "cpu").unwrap(), empty.path());
    }
}
