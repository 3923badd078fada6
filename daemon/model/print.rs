//! Whether a folder's files are still those that were read: a look from outside, cheap enough for every reload.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How deep a folder is looked into; what a model is loaded from lies at most two folders down (`cpu/onnx/`).
const DEPTH_MAX: usize = 3;

/// A folder's files as they lay there at one time: paths, lengths, identities and times of change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Print(Vec<File>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    path: PathBuf,
    bytes: u64,
    identity: (u64, u64),
    changed: (i64, i64),
}

impl Print {
    /// Looks. What cannot be looked at is left out: loading says why.
    pub fn of(folder: &Path) -> Self {
        let mut files = Vec::new();
        collect(folder, DEPTH_MAX, &mut files);
        files.sort();
        Self(files)
    }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Through links: what they point at is what is read.
        let Some(meta) = std::fs::metadata(&path).ok().filter(|_| !hidden) else { continue };
        if !meta.is_dir() {
            files.push(File::new(path, &meta));
        } else if depth > 1 {
            collect(&path, depth - 1, files);
        }
    }
}

impl File {
    fn new(path: PathBuf, meta: &Metadata) -> Self {
        let (identity, changed) = ((meta.dev(), meta.ino()), (meta.mtime(), meta.mtime_nsec()));
        Self { path, bytes: meta.len(), identity, changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_by_one_of_the_same_length_and_time_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("onnx")).unwrap();
        std::fs::write(at("onnx/model.onnx"), "one").unwrap();
        let before = Print::of(folder.path());
        std::fs::write(at(".model.swp"), "an editor's").unwrap();
        assert_eq!(Print::of(folder.path()), before);
        std::fs::write(at("next"), "two").unwrap();
        let time = std::fs::metadata(at("onnx/model.onnx")).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(at("next")).unwrap().set_modified(time).unwrap();
        std::fs::rename(at("next"), at("onnx/model.onnx")).unwrap();
        assert_ne!(Print::of(folder.path()), before);
        assert_eq!(Print::of(&at("none")), Print::default());
    }
}
