//! The findings in words.

use super::gpu::Graphics;
use super::{Findings, Lines};

/// The findings for people: a name and what there is to say of it, then what is missing.
pub(super) fn tell(findings: &Findings, mut lines: Lines) -> String {
    let Graphics { gpus, driver, cuda } = &findings.gpu;
    let gpus: Vec<String> = gpus
        .iter()
        .map(|gpu| gpu.architecture.map_or_else(|| gpu.name.clone(), |number| format!("{} (sm_{number})", gpu.name)))
        .collect();
    lines.push(("gpu", if gpus.is_empty() { "no NVIDIA GPU".to_owned() } else { gpus.join(", ") }));
    if let Some(driver) = driver {
        lines.push(("driver", driver.clone()));
    }
    if let Some(cuda) = cuda {
        lines.push(("cuda", cuda.clone()));
    }
    let mut first = true;
    for runtime in &findings.runtimes {
        let state = match (runtime.found, runtime.is_sound()) {
            (false, _) => "not there".to_owned(),
            (true, false) => "unsound".to_owned(),
            (true, true) => {
                let version = runtime.version.as_deref().unwrap_or("unknown");
                let glibc = runtime.glibc.as_deref().map(|glibc| format!(", glibc {glibc} or newer"));
                format!("ONNX Runtime {version}{}", glibc.unwrap_or_default())
            }
        };
        let used = if runtime.found && std::mem::take(&mut first) { ", the one that is used" } else { "" };
        lines.push(("runtime", format!("{}: {state}{used}", runtime.path.display())));
        if let Some(code) = runtime.cuda.as_ref().and_then(|cuda| cuda.code.as_ref()) {
            lines.push(("cuda code", code.clone()));
        }
    }
    for trial in &findings.providers {
        let why = trial.why.as_deref().unwrap_or("runs a kernel");
        lines.push(("provider", format!("{}: {why}", trial.provider)));
    }
    if let (Some(subject), Some(rights)) = (&findings.subject, &findings.rights) {
        let devices = match rights.devices.len() {
            0 => "no GPU device".to_owned(),
            count => format!("{count} GPU devices"),
        };
        lines.push(("rights", format!("of {}: {devices}", subject.name)));
    }
    let mut text = Vec::new();
    text.extend(lines.iter().map(|(name, value)| format!("{name:<14}{value}")));
    if !findings.missing.is_empty() {
        text.push("\nmissing".to_owned());
    }
    for trouble in &findings.missing {
        text.push(format!("- {}", trouble.what));
        if !trouble.hint.is_empty() {
            text.push(format!("  hint: {}", trouble.hint));
        }
    }
    text.join("\n") + "\n"
}
