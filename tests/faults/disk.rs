//! A disk for the journal that can be filled up and emptied.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{Ran, TestDaemon, is_installed};

/// The daemon is started with this where a limit stands for the disk: by default the kernel ends a process at its limit.
pub const LAUNCHER: &[&str] = &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""];

pub struct Disk {
    folder: tempfile::TempDir,
    /// A small disk of its own, where mounting is allowed; else a limit on the size of the daemon's files.
    mounted: bool,
}

impl Disk {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs"];
        let mount = || Ran::of(Command::new("mount").args(options).arg(folder.path()));
        let mounted = is_installed("mount") && mount().code == Some(0);
        Self { folder, mounted }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn kind(&self) -> &'static str {
        if self.mounted { "a small tmpfs" } else { "a limit on the size of files" }
    }

    /// Takes all the room there is.
    pub fn fill(&self, daemon: &TestDaemon) {
        if !self.mounted {
            return limit(daemon, Some(4096));
        }
        let mut file = fs::File::create(self.ballast()).unwrap();
        for piece in [&[7; 1 << 14][..], &[7; 4096], &[7]] {
            // Until there is no room: that is what is wanted.
            while file.write_all(piece).is_ok() {}
        }
    }

    pub fn empty(&self, daemon: &TestDaemon) {
        if self.mounted { fs::remove_file(self.ballast()).unwrap() } else { limit(daemon, None) }
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

fn limit(daemon: &TestDaemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid().try_into().unwrap());
    let whole = getrlimit(Resource::Fsize);
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes.or(whole.current), ..whole }).unwrap();
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: whoever still has a file open keeps it.
            let ran = Ran::of(Command::new("umount").arg("-l").arg(self.path()));
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
    }
}
