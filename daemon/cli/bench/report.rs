//! Samples to a table or to JSON: medians, and the 10th, 90th and 99th percentile.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::bench::load::Opened;
use crate::fault::Fault;

struct Line {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
}

/// What was measured, in the order in which it was.
pub(super) struct Report {
    head: Value,
    lines: Vec<Line>,
}

impl Report {
    /// An empty report on this model and machine.
    pub(super) fn new(opened: &Opened) -> Self {
        let head = json!({
            "model": opened.loaded.name,
            "moed": env!("CARGO_PKG_VERSION"),
            "onnxruntime": opened.loaded.runtime.version,
            "machine": machine(),
            "threads": opened.loaded.threads,
            "chunk": opened.loaded.plan.pace.chunk(),
            "batch_invariant": opened.loaded.shape.batch_invariant,
        });
        let mut report = Self { head, lines: Vec::new() };
        report.sample("load", "ms", opened.load.as_secs_f64() * 1e3);
        report
    }

    /// Adds a sample to a row, which begins with its first one.
    pub(super) fn sample(&mut self, name: &str, unit: &'static str, sample: f64) {
        match self.lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.samples.push(sample),
            None => self.lines.push(Line { name: name.to_owned(), unit, samples: vec![sample] }),
        }
    }

    /// One line a row.
    pub(super) fn table(&self) -> String {
        let text = |key: &str| self.head[key].as_str().map_or_else(|| self.head[key].to_string(), str::to_owned);
        let mut out = format!(
            "model {}, {} threads, chunks of {}, batch invariant: {}\nmoed {}, ONNX Runtime {}, {}\n\n{:<24}{:>12}{:>12}{:>12}{:>12}{:>5}  unit\n",
            text("model"),
            text("threads"),
            text("chunk"),
            text("batch_invariant"),
            text("moed"),
            text("onnxruntime"),
            text("machine"),
            "row",
            "median",
            "p10",
            "p90",
            "p99",
            "n"
        );
        for line in &self.lines {
            let at = |part| percentile(&line.samples, part);
            // Writing to a `String` cannot fail.
            writeln!(
                out,
                "{:<24}{:>12.2}{:>12.2}{:>12.2}{:>12.2}{:>5}  {}",
                line.name,
                at(50),
                at(10),
                at(90),
                at(99),
                line.samples.len(),
                line.unit
            )
            .ok();
        }
        out
    }

    /// One object, samples included.
    pub(super) fn json(&self) -> String {
        let rows: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                let at = |part| percentile(&line.samples, part);
                json!({
                    "name": line.name, "unit": line.unit, "median": at(50), "p10": at(10), "p90": at(90), "p99": at(99),
                    "samples": line.samples,
                })
            })
            .collect();
        let mut whole = self.head.clone();
        whole["rows"] = Value::Array(rows);
        format!("{whole:#}\n")
    }
}

/// The nearest sample at or above `part` percent of them.
fn percentile(samples: &[f64], part: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * part).div_ceil(100).clamp(1, sorted.len()) - 1]
}

/// Processor and number of cores.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
    let processor = field("model name").or_else(|| field("CPU part")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{processor}, {cores} cores, {}", std::env::consts::ARCH)
}

/// Bytes of this process: resident at most, and anonymous now.
pub(super) fn memory() -> Result<Vec<(&'static str, f64)>, Fault> {
    let text = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Fault::machine(format!("reading `/proc/self/status`: {error}")))?;
    let kib =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse().ok());
    let fields = [("peak", kib("VmHWM:")), ("anonymous", kib("RssAnon:"))];
    Ok(fields.into_iter().filter_map(|(name, kib): (_, Option<f64>)| Some((name, kib? * 1024.0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let found = [10, 50, 90].map(|part| percentile(&samples, part).round());
        assert_eq!(found.map(|value| value.to_string()), ["2", "10", "18"]);
        assert_eq!(percentile(&[7.5], 10).to_string(), "7.5");
    }
}
