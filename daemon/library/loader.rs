//! Where the dynamic loader would find a library, without asking it: its cache, then the folders it always looks into.

use std::path::{Path, PathBuf};

use super::elf::number;

/// The loader's cache of a large workstation is 200 kB.
const CACHE_BYTES_MAX: u64 = 16 << 20;
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";

/// What the loader knows of this machine.
#[derive(Debug, Default)]
pub(super) struct Loader {
    /// Names and paths, of this architecture.
    cached: Vec<(String, PathBuf)>,
    folders: Vec<PathBuf>,
}

impl Loader {
    /// This machine's.
    pub(super) fn of_machine() -> Self {
        let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
            .map(|paths| std::env::split_paths(&paths).collect())
            .unwrap_or_default();
        for place in ["/lib", "/usr/lib"] {
            folders.extend([
                Path::new(place).join(&machine),
                PathBuf::from(place),
                PathBuf::from(format!("{place}64")),
            ]);
        }
        let small = std::fs::metadata("/etc/ld.so.cache").is_ok_and(|meta| meta.len() <= CACHE_BYTES_MAX);
        let cache = if small { std::fs::read("/etc/ld.so.cache").unwrap_or_default() } else { Vec::new() };
        Self { cached: parse(&cache), folders }
    }

    /// The library's path; `first` is looked into before anything else.
    pub(super) fn find(&self, name: &str, first: &[PathBuf]) -> Option<PathBuf> {
        let folders = first.iter().chain(&self.folders);
        let mut places = folders.map(|folder| folder.join(name));
        let cached = || self.cached.iter().filter(|(known, _)| known == name).map(|(_, path)| path.clone());
        places.find(|path| is_there(path)).or_else(|| cached().find(|path| is_there(path)))
    }
}

/// Whether it can be opened, which is what the loader does: an emulator shows another machine's files to that alone.
fn is_there(path: &Path) -> bool {
    std::fs::File::open(path).and_then(|file| file.metadata()).is_ok_and(|meta| meta.is_file())
}

/// What the cache marks this machine's libraries with: glibc's, and the architecture's 64-bit ones.
const OWN: u64 = if cfg!(target_arch = "aarch64") { 0x0a03 } else { 0x0303 };

/// Reads the loader's cache: a head of 48 bytes, entries of 24, then the strings that they name by their place in the file.
fn parse(cache: &[u8]) -> Vec<(String, PathBuf)> {
    // An older table may stand before the one that is read today.
    let Some(start) = cache.windows(MAGIC.len()).position(|window| window == MAGIC) else { return Vec::new() };
    let cache = &cache[start..];
    let text = |at: u64| {
        let rest = usize::try_from(at).ok().and_then(|at| cache.get(at..)).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0)?;
        (end > 0).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let count = usize::try_from(number(cache, MAGIC.len(), 4)).unwrap_or_default();
    let entries = cache.get(48..).unwrap_or_default().chunks_exact(24).take(count);
    let entries = entries.filter(|entry| number(entry, 0, 4) == OWN);
    entries.filter_map(|entry| Some((text(number(entry, 4, 4))?, text(number(entry, 8, 4))?.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_machine_has_is_found_and_what_none_has_is_not() {
        let loader = Loader::of_machine();
        assert!(loader.find("libc.so.6", &[]).is_some());
        assert_eq!(loader.find("libno-such-thing.so.7", &[]), None);
        let beside = tempfile::tempdir().unwrap();
        std::fs::write(beside.path().join("libbeside.so"), "").unwrap();
        assert_eq!(
            loader.find("libbeside.so", &[beside.path().to_path_buf()]),
            Some(beside.path().join("libbeside.so"))
        );
    }

    #[test]
    fn a_cache_is_read_and_a_damaged_one_is_empty_or_part_of_it() {
        let mut cache = MAGIC.to_vec();
        cache.extend([1, 0, 0, 0]);
        cache.resize(48, 0);
        let strings = 48 + 24;
        let mut entry = vec![0; 24];
        entry[..2].copy_from_slice(&OWN.to_le_bytes()[..2]);
        entry[4] = strings;
        entry[8] = strings + 8;
        cache.extend(entry);
        cache.extend(b"libx.so\0/opt/libx.so\0");
        assert_eq!(parse(&cache), [("libx.so".to_owned(), PathBuf::from("/opt/libx.so"))]);
        let mut other = cache.clone();
        other[48 + 1] ^= 0xff;
        assert!(parse(&other).is_empty(), "another architecture's");
        for end in 0..cache.len() {
            assert!(parse(&cache[..end]).len() <= 1);
        }
    }
}
