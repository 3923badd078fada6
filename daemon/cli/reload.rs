//! `moed reload`: the running daemon reads its config again. The unit's `ExecReload` waits with it.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::client::{self, Line};
use crate::cli::say;
use crate::fault::{Code, Fault, Kind};

/// Arguments of `moed reload`.
#[derive(Args)]
pub(super) struct Reload {
    /// Wait until it is done, and say what changed and what needs a restart
    #[arg(long)]
    wait: bool,
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Gives the order; a config that the daemon refuses is the operator's to mend.
pub(super) fn run(reload: &Reload) -> Result<(), Fault> {
    let socket = client::socket(reload.socket.as_deref())?;
    let path = format!("/admin/reload?wait={}", reload.wait);
    let report = client::block_on(async { Line::open(&socket).await?.fetch(Method::POST, &path).await });
    let report = report.map_err(|fault| match fault.code {
        Code::InvalidRequest => Fault { kind: Kind::Config, ..fault },
        _ => fault,
    })?;
    if reload.wait {
        for line in lines(&report) {
            say(&line);
        }
    }
    Ok(())
}

/// The report as lines for people.
fn lines(report: &Value) -> Vec<String> {
    let list =
        |key: &str| -> Vec<&str> { report[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let mut lines = vec![report["summary"].as_str().unwrap_or("reloaded").to_owned()];
    for (key, what) in [("changed", "in force now"), ("restart", "needs a restart")] {
        let settings = list(key);
        if !settings.is_empty() {
            lines.push(format!("{what}: {}", settings.join(", ")));
        }
    }
    lines
}
