//! `moed drain`: the running daemon takes nothing new, finishes what it does, and ends.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;

use crate::cli::client::{self, Line};
use crate::cli::say;
use crate::fault::{Code, Fault, Kind};

/// Arguments of `moed drain`.
#[derive(Args)]
pub(super) struct Drain {
    /// Wait until the daemon has ended
    #[arg(long)]
    wait: bool,
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Gives the order. A second connection would start a daemon again whose socket systemd holds, so all is said on one.
pub(super) fn run(drain: &Drain) -> Result<(), Fault> {
    let socket = client::socket(drain.socket.as_deref())?;
    let path = format!("/admin/drain?wait={}", drain.wait);
    client::block_on(async {
        let mut line = Line::open(&socket).await?;
        let said = line.fetch(Method::POST, &path).await?;
        if !drain.wait {
            return Ok(());
        }
        line.hung_up().await;
        match said["end"].as_str() {
            Some("finished") => {
                say("drained: every answer was finished");
                Ok(())
            }
            end => {
                let end = end.unwrap_or("unknown").replace('_', " ");
                let message = format!("the daemon has ended before every answer was finished: {end}");
                Err(Fault::new(Kind::Busy, Code::Unavailable, message)
                    .hint("the limit is `queue.drain_timeout`; what came over MQTT is kept for the next start"))
            }
        }
    })
}
