//! How busy the GPU is, and at which clocks the board runs.

use std::path::PathBuf;

use crate::board::files::{Files, scaled};

/// Names in the device tree, or of the device, that mean a GPU: Xavier, Orin, Thor.
const GPUS: [&str; 5] = ["gv11b", "ga10b", "gb10b", "gpu", "gpu-gpc-0"];

/// Where load and clocks are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clocks {
    /// Thousandths.
    gpu_load: Option<PathBuf>,
    /// Name, file, and what one of its units is in hertz.
    clocks: Vec<(String, PathBuf, f64)>,
}

/// Load and clocks just now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// 0 to 1.
    pub gpu: Option<f64>,
    /// Hertz, by name: `gpu`, `cpu`.
    pub clocks: Vec<(String, f64)>,
}

impl Clocks {
    /// Looks for them. A GPU's node may come up after the daemon: looked for again from time to time.
    pub fn find(files: &Files) -> Self {
        let mut found = Self::default();
        for folder in files.list(&files.sys("class/devfreq"), "") {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let tree = files.text(&folder.join("device/of_node/name")).unwrap_or_default();
            if !GPUS.contains(&tree.as_str())
                && !GPUS.contains(&name.as_str())
                && name.split_once('.').is_none_or(|(_, kind)| kind != "gpu")
            {
                continue;
            }
            let load = [folder.join("device/load"), folder.join("load")];
            found.gpu_load = load.into_iter().find(|path| files.text(path).is_some()).or(found.gpu_load);
            if files.text(&folder.join("cur_freq")).is_some() {
                found.clocks.push(("gpu".to_owned(), folder.join("cur_freq"), 1.0));
            }
            break;
        }
        // The first core stands for all: they share a clock, or a governor.
        let cpu = files.sys("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
        if files.text(&cpu).is_some() {
            found.clocks.push(("cpu".to_owned(), cpu, 1e3));
        }
        found
    }

    /// What they say just now.
    pub fn read(&self, files: &Files) -> Load {
        let gpu = self.gpu_load.as_ref().and_then(|path| {
            let load = scaled(files.number(path)?, 1e-3);
            (0.0..=1.0).contains(&load).then_some(load)
        });
        let clocks = self.clocks.iter().filter_map(|(name, path, unit)| {
            let hertz = scaled(files.number(path).filter(|number| *number >= 0)?, *unit);
            Some((name.clone(), hertz))
        });
        Load { gpu, clocks: clocks.collect() }
    }
}
