//! The kernel's cache of files: weights that were read once and are not read again need not stay in it.
//!
//! Cached pages are given up when somebody needs the memory, but a GPU's driver that shares the host's memory does not always
//! ask for them in time, and they push out what others use. What is mapped stays, whatever is asked here.

use std::fs::File;
use std::path::Path;

/// Smaller files are not worth a thought.
const WORTH: u64 = 1 << 20;

/// Lets the kernel forget the larger files of a folder that nobody maps. Says how many bytes they have. A file that cannot be
/// opened or is not cached is no loss.
pub fn let_go(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let length = entry.metadata().map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
        if length >= WORTH
            && let Ok(file) = File::open(entry.path())
            && rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
        {
            bytes += length;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Write};

    use rustix::io::{Errno, ReadWriteFlags};

    use super::*;

    /// Whether the page at `offset` is cached; `None`: this file system does not say.
    fn is_cached(file: &File, offset: u64) -> Option<bool> {
        let mut byte = [0];
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => Some(true),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    #[test]
    fn large_files_leave_the_cache_and_small_ones_are_left_alone() {
        // The build's folder lies on a disk; a temporary one may be memory, which has no other place.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let write = |name: &str, bytes: usize| {
            let mut file = File::create(folder.path().join(name)).unwrap();
            file.write_all(&vec![7; bytes]).unwrap();
            // What is not on disk yet cannot be forgotten.
            file.sync_all().unwrap();
            File::open(folder.path().join(name)).unwrap()
        };
        let (large, small) = (write("weights", 4 << 20), write("config", 1000));
        if is_cached(&large, 2 << 20) != Some(true) {
            println!("this file system does not say what is cached");
            return;
        }
        assert_eq!(let_go(folder.path()), 4 << 20);
        assert_eq!((is_cached(&large, 2 << 20), is_cached(&small, 0)), (Some(false), Some(true)));
        assert_eq!(let_go(&folder.path().join("none")), 0);
    }
}
