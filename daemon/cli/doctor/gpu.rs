//! NVIDIA GPUs, their driver and CUDA, without loading any of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::board::files::Files;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gpu {
    pub name: String,
    /// Its compute capability: 87 is `sm_87`. `None` where nothing says it.
    pub architecture: Option<u32>,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Graphics {
    pub gpus: Vec<Gpu>,
    pub driver: Option<String>,
    /// The CUDA toolkit or its libraries, where they say their version.
    pub cuda: Option<String>,
}

/// A driver that hangs must not hang the doctor.
const SMI_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks for them.
pub(super) fn find(files: &Files, cuda: &Path) -> Graphics {
    let driver = files.text(&files.proc("driver/nvidia/version")).as_deref().and_then(driver);
    let mut gpus: Vec<Gpu> =
        files.text(&files.proc("device-tree/compatible")).and_then(|names| jetson(&names)).into_iter().collect();
    if gpus.is_empty() && driver.is_some() {
        gpus = asked().unwrap_or_else(|| named(files));
    }
    Graphics { gpus, driver, cuda: toolkit(cuda) }
}

/// A Jetson's GPU is part of its processor, which the device tree names.
fn jetson(names: &str) -> Option<Gpu> {
    let known = [("nvidia,tegra194", "Xavier", 72), ("nvidia,tegra234", "Orin", 87), ("nvidia,tegra264", "Thor", 110)];
    let (_, name, architecture) = known.into_iter().find(|(name, ..)| names.split('\0').any(|found| found == *name))?;
    Some(Gpu { name: name.to_owned(), architecture: Some(architecture) })
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`
fn driver(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    line.split_whitespace().find(version).map(str::to_owned)
}

/// What the driver's own program says, within its time.
fn asked() -> Option<Vec<Gpu>> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=name,compute_cap", "--format=csv,noheader"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + SMI_TIMEOUT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            // What hangs in the kernel stays there; it is not waited for.
            child.kill().ok();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    let gpus = listed(&text);
    (!gpus.is_empty()).then_some(gpus)
}

/// `NVIDIA H100 80GB HBM3, 9.0`
fn listed(text: &str) -> Vec<Gpu> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(','));
    lines
        .map(|(name, capability)| {
            let digits = capability.trim().split_once('.').map(|(major, minor)| format!("{major}{minor}"));
            Gpu { name: name.trim().to_owned(), architecture: digits.and_then(|digits| digits.parse().ok()) }
        })
        .collect()
}

/// Their names alone, from the driver's files.
fn named(files: &Files) -> Vec<Gpu> {
    let name = |folder: &PathBuf| {
        let text = files.text(&folder.join("information"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(Gpu { name: line.trim().to_owned(), architecture: None })
    };
    files.list(&files.proc("driver/nvidia/gpus"), "").iter().filter_map(name).collect()
}

fn toolkit(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("version.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    json["cuda"]["version"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Board;

    #[test]
    fn boards_and_drivers_say_what_they_are() {
        let orin = jetson("nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234").unwrap();
        assert_eq!((orin.name.as_str(), orin.architecture), ("Orin", Some(87)));
        assert_eq!(jetson("raspberrypi,5-model-b\0brcm,bcm2712"), None);
        let text =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n";
        assert_eq!(driver(text).as_deref(), Some("550.54.15"));
        let gpus = listed("NVIDIA H100 80GB HBM3, 9.0\nodd\nNVIDIA GB10, 12.1\nOld, [N/A]\n");
        let found: Vec<(&str, Option<u32>)> = gpus.iter().map(|gpu| (gpu.name.as_str(), gpu.architecture)).collect();
        assert_eq!(found, [("NVIDIA H100 80GB HBM3", Some(90)), ("NVIDIA GB10", Some(121)), ("Old", None)]);
    }

    #[test]
    fn a_board_is_read_from_its_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/device-tree/compatible", "nvidia,p3971-0089+p3834-0008\0nvidia,tegra264\0");
        write("cuda/version.json", r#"{"cuda": {"name": "CUDA SDK", "version": "13.0.48"}}"#);
        let files = Files::new(Board { proc: folder.path().join("proc"), ..Board::default() });
        let found = find(&files, &folder.path().join("cuda"));
        assert_eq!(found.gpus, [Gpu { name: "Thor".to_owned(), architecture: Some(110) }]);
        assert_eq!((found.driver, found.cuda.as_deref()), (None, Some("13.0.48")));
    }
}
