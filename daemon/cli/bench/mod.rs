//! `moed bench`: what a model folder does on this machine. No daemon, no socket: the engine itself, then queue and engine.

mod forms;
mod load;
mod model;
mod report;
mod served;

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Configured, print, say};
use crate::fault::Fault;
use report::Report;

/// Arguments of `moed bench`.
#[derive(Args)]
pub(super) struct Bench {
    /// The model folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only this row, or the rows whose names begin so (`decode` is all of `decode_1`, `decode_2` …); may be repeated
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Samples a row; each is a prompt read, or a few dozen steps
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// What the random tokens, prompts and arrivals start from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Requests with tools for the rows `calls`, one JSON object a line with `messages` and `tools`
    #[arg(long, value_name = "FILE")]
    calls: Option<PathBuf>,
    #[command(flatten)]
    configured: Configured,
}

impl Bench {
    /// Whether the row is asked for.
    fn wants(&self, name: &str) -> bool {
        let begins = |start: &String| {
            name.strip_prefix(start.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        self.row.is_empty() || self.row.iter().any(begins)
    }

    /// Whether any of the rows is.
    fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }
}

/// Measures, prints. A row that this model or this build cannot have is not printed.
pub(super) fn run(bench: &Bench) -> Result<(), Fault> {
    let mut opened = load::open(&bench.model, &bench.configured, |_| ())?;
    let mut report = Report::new(&opened);
    say(&format!("measuring `{}` on {} threads; nothing else should run", opened.loaded.name, opened.loaded.threads));
    model::measure(bench, opened.loaded.forward.as_mut(), &mut report)?;
    served::measure(bench, opened, &mut report)?;
    forms::measure(bench, &mut report)?;
    print(&if bench.json { report.json() } else { report.table() })
}
