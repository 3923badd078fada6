//! Memory: what can be had without pushing anybody out, what stands behind it, and how much the machine suffers.
//!
//! On a board where CPU and GPU share one memory the kernel's `MemAvailable` is the figure that counts: the GPU's own says
//! what its driver could take, page cache and all. A control group's limit lies below it where there is one.

use std::path::PathBuf;

use crate::board::files::Files;

/// Groups above the own one that are looked at; deeper trees do not occur.
const GROUPS_MAX: usize = 16;

/// Memory just now, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub total: Option<u64>,
    /// `MemAvailable`: free, or the kernel's own to give up.
    pub available: Option<u64>,
    pub swap_total: Option<u64>,
    pub swap_free: Option<u64>,
    /// The share of the last ten seconds, 0 to 1, in which some task waited for memory, and in which all did. `None`: the
    /// kernel does not say.
    pub some_pressure: Option<f64>,
    pub full_pressure: Option<f64>,
}

/// A place that pages are moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    pub name: String,
    pub bytes: u64,
    pub used: u64,
    /// Compressed memory: it takes from what it gives.
    pub zram: bool,
}

/// What the kernel says of memory.
pub fn read(files: &Files) -> Memory {
    let text = files.text(&files.proc("meminfo")).unwrap_or_default();
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let pressure = files.text(&files.proc("pressure/memory")).unwrap_or_default();
    let share = |kind: &str| {
        let line = pressure.lines().find_map(|line| line.strip_prefix(kind))?;
        let percent: f64 = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
    };
    Memory {
        total: bytes("MemTotal"),
        available: bytes("MemAvailable"),
        swap_total: bytes("SwapTotal"),
        swap_free: bytes("SwapFree"),
        some_pressure: share("some "),
        full_pressure: share("full "),
    }
}

/// The bytes that this process may still take: `MemAvailable`, or less where its control group says so. `None` where the
/// kernel says nothing.
pub fn room(files: &Files) -> Option<u64> {
    let available = read(files).available?;
    Some(group_room(files).map_or(available, |room| room.min(available)))
}

/// What the own control group, and each above it, has left.
fn group_room(files: &Files) -> Option<u64> {
    let groups = files.text(&files.proc("self/cgroup"))?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, limit, used) = match controllers {
            "" => (files.sys("fs/cgroup"), "memory.max", "memory.current"),
            one if one.split(',').any(|name| name == "memory") => {
                (files.sys("fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        let mut folder: PathBuf = root.join(path.trim_start_matches('/'));
        for _ in 0..GROUPS_MAX {
            // `max`, or a number beyond all memory, is no limit.
            let number = |name: &str| files.text(&folder.join(name)).and_then(|text| text.parse::<u64>().ok());
            if let (Some(limit), Some(used)) = (number(limit), number(used)) {
                let left = limit.saturating_sub(used);
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            if folder == root || !folder.pop() {
                break;
            }
        }
    }
    least
}

/// The swap areas in use.
pub fn swaps(files: &Files) -> Vec<Swap> {
    let text = files.text(&files.proc("swaps")).unwrap_or_default();
    let swap = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, _kind) = (words.next()?, words.next()?);
        let (kib, used): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Swap { name: name.to_owned(), bytes: kib * 1024, used: used * 1024, zram: name.contains("zram") })
    };
    text.lines().skip(1).filter_map(swap).collect()
}
