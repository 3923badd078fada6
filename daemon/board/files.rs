//! Small files of the kernel: a number, a word, a line. Reading never fails loudly; what is odd is logged once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Board as Roots;

/// More than any file that is read here; what a file has beyond is left unread.
const BYTES_MAX: u64 = 64 << 10;
/// Entries of a folder that are looked at; `/sys/class/hwmon` of a large server has a few dozen.
const ENTRIES_MAX: usize = 512;

/// The file that is being read just now, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<(u64, PathBuf)>>);

impl Place {
    fn set(&self, path: &Path) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.0 += 1;
        path.clone_into(&mut place.1);
    }

    /// How many reads have begun, and the path of the last one.
    pub fn now(&self) -> (u64, PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What readers of the same files know of them.
#[derive(Debug, Default)]
struct Known {
    /// Paths that block: never touched again.
    lost: BTreeSet<PathBuf>,
    /// Paths whose oddity was logged.
    told: BTreeSet<PathBuf>,
}

/// The kernel's files below their roots.
#[derive(Debug)]
pub struct Files {
    roots: Roots,
    known: Arc<Mutex<Known>>,
    place: Place,
}

impl Files {
    /// The files below these roots.
    pub fn new(roots: Roots) -> Self {
        Self { roots, known: Arc::default(), place: Place::default() }
    }

    /// The same files for another thread: what is known of them is shared.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { roots: self.roots.clone(), known: Arc::clone(&self.known), place: Place::default() }
    }

    /// A path below `/sys`.
    pub fn sys(&self, path: &str) -> PathBuf {
        self.roots.sys.join(path)
    }

    /// A path below `/proc`.
    pub fn proc(&self, path: &str) -> PathBuf {
        self.roots.proc.join(path)
    }

    /// A path below `/etc`.
    pub fn etc(&self, path: &str) -> PathBuf {
        self.roots.etc.join(path)
    }

    /// A path below `/var`.
    pub fn var(&self, path: &str) -> PathBuf {
        self.roots.var.join(path)
    }

    /// Where the reader is; shared.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Nobody touches this path again; its reads block.
    pub fn lose(&self, path: PathBuf) {
        self.known().lost.insert(path);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file's text without the blanks around it; `None` where there is none, or reading fails. A device tree's texts end with
    /// a zero byte, which counts as a blank.
    pub fn text(&self, path: &Path) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    /// A file's whole number, decimal or `0x…`; `None` where there is none. A text that is no number is logged once.
    pub fn number(&self, path: &Path) -> Option<i64> {
        let text = self.text(path)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        if number.is_none() {
            let shown: String = text.chars().take(40).collect();
            self.complain(path, &format!("`{shown}` is no number"));
        }
        number
    }

    /// The entries of a folder whose names begin so, in the order of the numbers in their names.
    pub fn list(&self, folder: &Path, prefix: &str) -> Vec<PathBuf> {
        if self.known().lost.contains(folder) {
            return Vec::new();
        }
        self.place.set(folder);
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort_by_key(|name| (first_number(name), name.clone()));
        names.into_iter().map(|name| folder.join(name)).collect()
    }

    /// Logs an oddity of a path, once.
    pub fn complain(&self, path: &Path, oddity: &str) {
        if self.known().told.insert(path.to_owned()) {
            tracing::warn!(path = %path.display(), oddity, "a sensor gives nothing of use");
        }
    }

    fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        if self.known().lost.contains(path) {
            return None;
        }
        self.place.set(path);
        let mut bytes = Vec::new();
        // A sensor that is switched off, a driver that has gone: a fact of the board and no fault.
        let file = File::open(path).ok()?;
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

fn first_number(name: &str) -> u64 {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.chars().map_while(|c| c.to_digit(10)).take(15).fold(0, |number, digit| number * 10 + u64::from(digit))
}

/// A whole number of thousandths or millionths as a number of ones. Sensor values are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "a sensor's value has at most 15 digits that mean anything")]
pub(super) fn scaled(number: i64, unit: f64) -> f64 {
    number as f64 * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Files {
        Files::new(Roots { sys: folder.to_owned(), ..Roots::default() })
    }

    #[test]
    fn numbers_are_read_and_what_is_none_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        for (name, text, number) in [
            ("a", "51234\n", Some(51234)),
            ("b", "-5000", Some(-5000)),
            ("c", "0x50005\n", Some(0x50005)),
            ("d", "", None),
            ("e", "\u{fffd}\0\0", None),
            ("f", "99999999999999999999", None),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
            assert_eq!(files.number(&folder.path().join(name)), number, "{text:?}");
        }
        assert_eq!(files.number(&folder.path().join("none")), None);
        assert_eq!(files.number(folder.path()), None, "a folder");
    }

    #[test]
    fn entries_come_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["zone10", "zone2", "zone1", "fan0"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let names: Vec<String> = files(folder.path())
            .list(folder.path(), "zone")
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["zone1", "zone2", "zone10"]);
    }
}
