//! Where prepared copies are kept: one folder a copy, its stamp written last, everything compared before it is used.
//!
//! A copy's folder is named after the model folder's path and the copy's key. It appears whole or not at all: it is made under
//! another name, written out, stamped and renamed, while a lock keeps other processes away. Old copies of the same model
//! folder go when a new one comes, so a cache holds one copy for each model folder.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::manifest::{digest, hex, is_inside};
use crate::model::prepare::{FORMAT, Key};

/// The prepared graph in a copy's folder.
pub const GRAPH: &str = "model.onnx";
/// Its weights.
pub const WEIGHTS: &str = "model.data";
/// What the copy is, written last.
const STAMP: &str = "prepared.toml";
/// More than any stamp needs.
const STAMP_BYTES_MAX: u64 = 1 << 20;
/// How long one process waits for another that makes the same copy. A 500 M model takes 8 s on two slow cores.
const LOCK_WAIT_MAX: Duration = Duration::from_mins(5);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What a copy is, for whom, and what its files hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    pub format: u32,
    /// [`Key::name`].
    pub key: String,
    /// The model's name and its folder, for people.
    pub model: String,
    pub folder: PathBuf,
    pub runtime: String,
    pub provider: String,
    /// Names of the patches that were made.
    pub patches: Vec<String>,
    /// What was tried and did not hold, and why.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// File name to digest.
    pub files: BTreeMap<String, String>,
}

/// What a look into the cache found.
#[derive(Debug)]
pub enum Found {
    /// A copy whose files are what its stamp says.
    Whole(Stamp),
    Nothing,
    /// Something that is not to be trusted, and why.
    Bad(String),
}

/// The place of one model folder's copies.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// What this model folder's copies start with.
    prefix: String,
}

impl Cache {
    /// The cache under `root` for a model folder. Makes the folder; refuses one that others may write to.
    pub fn open(root: &Path, folder: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        DirBuilder::new().mode(0o700).recursive(true).create(root).map_err(failed)?;
        let meta = fs::metadata(root).map_err(failed)?;
        let owner = meta.uid();
        if !meta.is_dir() || ![0, rustix::process::geteuid().as_raw()].contains(&owner) || meta.mode() & 0o022 != 0 {
            let mode = meta.mode() & 0o777;
            return Err(format!(
                "it belongs to user {owner} with mode {mode:o}; others must not be able to write there"
            ));
        }
        let real = folder.canonicalize().map_err(failed)?;
        let prefix = hex(&Sha256::digest(real.as_os_str().as_encoded_bytes())[..6]);
        Ok(Self { root: root.to_path_buf(), prefix })
    }

    /// The folder of the copy for a key.
    pub fn place(&self, key: &Key) -> PathBuf {
        self.root.join(format!("{}-{}", self.prefix, key.name()))
    }

    /// Looks for the copy for a key and compares every byte of it.
    pub fn find(&self, key: &Key) -> Found {
        let place = self.place(key);
        if !place.exists() {
            return Found::Nothing;
        }
        match read_stamp(&place).and_then(|stamp| check(&place, &stamp, key).map(|()| stamp)) {
            Ok(stamp) => Found::Whole(stamp),
            Err(reason) => Found::Bad(reason),
        }
    }

    /// Bytes that may still be written here.
    pub fn room(&self) -> Result<u64, String> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| error.to_string())?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Keeps every other process from making a copy of this model folder, for as long as the lock lives. A process that dies
    /// gives it back.
    pub fn lock(&self) -> Result<Lock, String> {
        let path = self.root.join(format!("{}.lock", self.prefix));
        let failed = |error: String| format!("lock `{}`: {error}", path.display());
        let file = File::create(&path).map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(failed(format!("another process holds it since {LOCK_WAIT_MAX:?} and more")));
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }

    /// An empty folder to make a copy in. What a process that died left behind goes first.
    pub fn begin(&self, _lock: &Lock) -> Result<Draft, String> {
        for left in self.siblings(".new")? {
            fs::remove_dir_all(&left).map_err(|error| format!("removing `{}`: {error}", left.display()))?;
        }
        let folder = self.root.join(format!("{}.new", self.prefix));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("making `{}`: {error}", folder.display()))?;
        Ok(Draft { folder })
    }

    /// Stamps a finished copy, writes it out and gives it its name; older copies of the same model folder go.
    pub fn finish(&self, _lock: &Lock, draft: Draft, key: &Key, mut stamp: Stamp) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("writing `{}`: {error}", draft.folder.display());
        stamp.files.clear();
        for entry in fs::read_dir(&draft.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
            stamp.files.insert(name, format!("sha256:{}", digest(&path).map_err(failed)?));
        }
        let text = toml::to_string(&stamp).map_err(|error| format!("writing the stamp: {error}"))?;
        write_whole(&draft.folder.join(STAMP), &text).map_err(failed)?;
        let place = self.place(key);
        for old in self.siblings("-")? {
            fs::remove_dir_all(&old).map_err(|error| format!("removing `{}`: {error}", old.display()))?;
        }
        fs::rename(&draft.folder, &place).map_err(failed)?;
        sync_folder(&self.root).map_err(failed)?;
        drop(draft);
        Ok(())
    }

    /// Folders of this model folder's copies whose name goes on so.
    fn siblings(&self, middle: &str) -> Result<Vec<PathBuf>, String> {
        let start = format!("{}{middle}", self.prefix);
        let entries = fs::read_dir(&self.root).map_err(|error| error.to_string())?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        Ok(paths
            .filter(|path| {
                path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start))
            })
            .collect())
    }
}

/// Held while a copy is made.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file gives the lock back")] File);

/// A copy that is being made; what is left of it goes with it.
#[derive(Debug)]
pub struct Draft {
    pub folder: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Renamed away when all went well; otherwise the next one to come removes what this cannot.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// An older or newer stamp may have other fields: its format is looked at before anything else.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn read_stamp(place: &Path) -> Result<Stamp, String> {
    let path = place.join(STAMP);
    let length = fs::metadata(&path).map_err(|error| format!("its stamp: {error}"))?.len();
    if length > STAMP_BYTES_MAX {
        return Err(format!("its stamp has {length} bytes, the most is {STAMP_BYTES_MAX}"));
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("its stamp: {error}"))?;
    let version: Version = toml::from_str(&text).map_err(|_| "its stamp is unreadable".to_owned())?;
    if version.format != FORMAT {
        return Err(format!("its format is {}, this daemon writes {FORMAT}", version.format));
    }
    toml::from_str(&text).map_err(|error| format!("its stamp: {}", error.message()))
}

/// Compares a copy with its stamp, and the stamp with what is wanted.
fn check(place: &Path, stamp: &Stamp, key: &Key) -> Result<(), String> {
    if stamp.key != key.name() {
        return Err(format!("it was made for another machine or model: key {}, wanted {}", stamp.key, key.name()));
    }
    if !stamp.files.contains_key(GRAPH) {
        return Err(format!("its stamp names no `{GRAPH}`"));
    }
    for (name, expected) in &stamp.files {
        if !is_inside(name) {
            return Err(format!("its stamp names `{name}`, which leaves the folder"));
        }
        let found = digest(&place.join(name)).map_err(|error| format!("`{name}`: {error}"))?;
        if format!("sha256:{found}") != *expected {
            return Err(format!("`{name}` is not what was written"));
        }
    }
    Ok(())
}

/// Writes a small file so that it is there whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str) -> Key {
        Key { model: model.into(), runtime: "1.32.0".into(), provider: "cpu".into(), cpu: "x".into() }
    }

    fn stamp(key: &Key) -> Stamp {
        Stamp {
            format: FORMAT,
            key: key.name(),
            model: "m".into(),
            folder: "/m".into(),
            runtime: "1.32.0".into(),
            provider: "cpu".into(),
            patches: Vec::new(),
            dropped: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// A cache with one copy in it.
    fn filled(root: &Path, model: &str) -> (Cache, Key) {
        let cache = Cache::open(&root.join("cache"), root).unwrap();
        let lock = cache.lock().unwrap();
        let draft = cache.begin(&lock).unwrap();
        fs::write(draft.folder.join(GRAPH), "graph").unwrap();
        fs::write(draft.folder.join(WEIGHTS), "weights").unwrap();
        let key = key(model);
        cache.finish(&lock, draft, &key, stamp(&key)).unwrap();
        (cache, key)
    }

    #[test]
    fn a_copy_is_found_whole_and_only_under_its_key() {
        let root = tempfile::tempdir().unwrap();
        let (cache, first) = filled(root.path(), "a");
        let Found::Whole(found) = cache.find(&first) else { panic!("{:?}", cache.find(&first)) };
        assert_eq!(found.files.len(), 2);
        assert!(matches!(cache.find(&key("b")), Found::Nothing));
        // A new copy takes the place of the old one of the same folder.
        let (cache, second) = filled(root.path(), "b");
        assert!(matches!(cache.find(&first), Found::Nothing) && matches!(cache.find(&second), Found::Whole(_)));
        assert!(!cache.root.join(format!("{}.new", cache.prefix)).exists());
    }

    #[test]
    fn a_copy_that_was_touched_is_foreign_or_of_another_format_is_bad() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 6] = [
            ("`model.data` is not what was written", |place| fs::write(place.join(WEIGHTS), "Weights").unwrap()),
            ("`model.data`: No such file", |place| fs::remove_file(place.join(WEIGHTS)).unwrap()),
            ("its stamp: No such file", |place| fs::remove_file(place.join(STAMP)).unwrap()),
            ("its stamp is unreadable", |place| fs::write(place.join(STAMP), "forma").unwrap()),
            ("its format is 0, this daemon writes 1", |place| {
                let text = fs::read_to_string(place.join(STAMP)).unwrap();
                fs::write(place.join(STAMP), text.replace("format = 1", "format = 0")).unwrap();
            }),
            ("made for another machine or model", |place| {
                let text = fs::read_to_string(place.join(STAMP)).unwrap();
                fs::write(place.join(STAMP), text.replace(&key("a").name(), "0123456789abcdef")).unwrap();
            }),
        ];
        for (expected, damage) in cases {
            let root = tempfile::tempdir().unwrap();
            let (cache, key) = filled(root.path(), "a");
            damage(&cache.place(&key));
            let Found::Bad(reason) = cache.find(&key) else { panic!("{expected}: {:?}", cache.find(&key)) };
            assert!(reason.contains(expected), "expected `{expected}`, got `{reason}`");
        }
    }

    #[test]
    fn what_a_dead_process_left_is_cleared_and_a_dropped_draft_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (cache, key) = filled(root.path(), "a");
        let lock = cache.lock().unwrap();
        let left = cache.root.join(format!("{}.new", cache.prefix));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half"), "x").unwrap();
        let draft = cache.begin(&lock).unwrap();
        assert!(!left.join("half").exists());
        drop(draft);
        assert!(!left.exists() && matches!(cache.find(&key), Found::Whole(_)));
    }

    #[test]
    fn a_cache_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let reason = Cache::open(&open, root.path()).unwrap_err();
        assert!(reason.contains("mode 777"), "{reason}");
    }

    #[test]
    fn a_lock_that_is_held_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let (cache, _) = filled(root.path(), "a");
        let held = cache.lock().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| cache.lock().map(drop));
            // The other one cannot have it as long as it is held here.
            assert!(
                flock(
                    File::create(cache.root.join(format!("{}.lock", cache.prefix))).unwrap(),
                    FlockOperation::NonBlockingLockExclusive
                )
                .is_err()
            );
            drop(held);
            other.join().unwrap().unwrap();
        });
    }
}
