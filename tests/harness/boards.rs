//! Boards as folders: expands a file of `tests/boards/` into a private folder.

use std::fs;
use std::path::{Path, PathBuf};

use moed::config::Board as Roots;

use super::root;

/// A board's tree, and the roots that lead to it.
pub struct BoardTree {
    folder: tempfile::TempDir,
}

impl BoardTree {
    /// `orin-nano` is `tests/boards/orin-nano.txt`.
    pub fn of(name: &str) -> Self {
        let text = fs::read_to_string(root().join("tests/boards").join(format!("{name}.txt"))).unwrap();
        let tree = Self::empty();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.is_empty() || line.starts_with("# ") {
                continue;
            }
            if let Some(path) = line.strip_suffix(" !") {
                // Reading a folder fails for everybody, root too.
                fs::create_dir_all(tree.path(path)).unwrap();
            } else if let Some(path) = line.strip_suffix(" <<") {
                let content: Vec<&str> = lines.by_ref().take_while(|line| *line != ">>").collect();
                tree.write(path, &content.join("\n").replace("\\0", "\0"));
            } else {
                let (path, content) = line.split_once(" = ").unwrap_or_else(|| panic!("{name}: `{line}`"));
                tree.write(path, &content.replace("\\0", "\0"));
            }
        }
        tree
    }

    /// A board that shows nothing.
    pub fn empty() -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        for root in ["sys", "proc", "etc", "var"] {
            fs::create_dir(tree.path(root)).unwrap();
        }
        tree
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file as a kernel would show it: whole at any moment.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("new");
        fs::write(&beside, format!("{content}\n")).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    /// In the place of a sensor, a file whose reader waits for ever.
    pub fn block(&self, path: &str) {
        let path = self.path(path);
        fs::remove_file(&path).ok();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    pub fn roots(&self) -> Roots {
        let at = |name: &str| self.path(name);
        Roots { sys: at("sys"), proc: at("proc"), etc: at("etc"), var: at("var"), ..Roots::default() }
    }

    /// The settings that make a daemon run on it.
    pub fn settings(&self) -> Vec<(String, String)> {
        let quote = |path: &Path| format!("{:?}", path.display().to_string());
        ["sys", "proc", "etc", "var"].map(|name| (format!("board.{name}"), quote(&self.path(name)))).into()
    }
}
