//! `moed top`: what the running daemon does, once a second, as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::cli::client::{self, Line};
use crate::cli::print;
use crate::fault::Fault;

/// How often a terminal is drawn again, and how long an answer is waited for.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// To the upper left corner, and clear what is below. No other control codes: whatever ends this leaves the terminal as it was.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Arguments of `moed top`.
#[derive(Args)]
pub(super) struct Top {
    /// Print it once instead of drawing it again; so it is where stdout is no terminal
    #[arg(long)]
    once: bool,
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Draws until it is interrupted.
pub(super) fn run(top: &Top) -> Result<(), Fault> {
    let socket = client::socket(top.socket.as_deref())?;
    let once = top.once || !std::io::stdout().is_terminal();
    client::block_on(watch(&socket, once))
}

async fn watch(socket: &Path, once: bool) -> Result<(), Fault> {
    let mut before = look(socket).await?;
    loop {
        // A rate needs two looks.
        tokio::time::sleep(EVERY).await;
        let text = match look(socket).await {
            Ok(now) => {
                let text = now.page(&before);
                before = now;
                text
            }
            Err(fault) if once => return Err(fault),
            // A restart is no reason to leave.
            Err(fault) => format!("{fault}\n"),
        };
        if once {
            return print(&text);
        }
        print(&format!("{REDRAW}{text}"))?;
    }
}

async fn look(socket: &Path) -> Result<Look, Fault> {
    let ask = async { Line::open(socket).await?.fetch(Method::GET, "/status").await };
    let late = |_| Fault::machine(format!("no answer within {} s", PATIENCE.as_secs()));
    let status = tokio::time::timeout(PATIENCE, ask).await.map_err(late)??;
    Ok(Look { at: Instant::now(), status })
}

/// What `/status` said, and when.
struct Look {
    at: Instant,
    status: Value,
}

impl Look {
    /// The page, with rates since an earlier look.
    fn page(&self, before: &Self) -> String {
        let (status, model) = (&self.status, &self.status["model"]);
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let mut page = String::new();
        // Writing to a `String` cannot fail.
        let mut line = |name: &str, value: String| writeln!(page, "{name:<10}{value}").unwrap_or_default();
        let uptime = status["uptime_s"].as_u64().unwrap_or(0);
        line(
            "node",
            format!(
                "{}  {}  up {}  moed {}",
                text(&status["node"]),
                text(&status["state"]),
                span(uptime),
                text(&status["version"])
            ),
        );
        line(
            "model",
            format!(
                "{} on {}, {} tokens of context",
                text(&model["name"]),
                text(&status["provider"]),
                model["context"]
            ),
        );
        let busy = self.number("moed_slots{state=\"busy\"}");
        let slots = busy + self.number("moed_slots{state=\"free\"}");
        line(
            "jobs",
            format!(
                "{busy:.0} of {slots:.0} slots busy, {:.0} waiting{}",
                self.sum("moed_requests_waiting"),
                self.waiting()
            ),
        );
        let rate = |name: &str| self.rate(before, name);
        line(
            "tokens/s",
            format!(
                "{:.1} generated, {:.1} read, {:.1} from kept beginnings",
                rate("moed_generated_tokens_total"),
                rate("moed_prompt_tokens_total"),
                rate("moed_cached_prompt_tokens_total")
            ),
        );
        line("steps/s", format!("{:.1}", rate("moed_engine_steps_total")));
        line(
            "memory",
            ["cache", "resident", "anonymous"]
                .map(|kind| format!("{kind} {}", bytes(self.number(&format!("moed_memory_bytes{{kind=\"{kind}\"}}")))))
                .join(", "),
        );
        for (name, prefix, unit) in [("heat", "moed_temperature_celsius{", "°C"), ("power", "moed_power_watts{", "W")]
        {
            let found: Vec<String> =
                self.labelled(prefix).map(|(label, value)| format!("{label} {value:.1} {unit}")).collect();
            if !found.is_empty() {
                line(name, found.join(", "));
            }
        }
        if self.number("moed_throttled") > 0.0 {
            line("throttled", "yes".to_owned());
        }
        if self.has("moed_journal_bytes") && self.number("moed_journal_bytes") > 0.0 {
            let connected = if self.number("moed_mqtt_connected") > 0.0 { "connected" } else { "broker away" };
            line("mqtt", format!("{connected}, {:.0} reconnects", self.number("moed_mqtt_reconnects_total")));
            line(
                "journal",
                format!("{}, {}", self.list("moed_journal_rows{"), bytes(self.number("moed_journal_bytes"))),
            );
        }
        line("ended", self.outcomes());
        let refused = self.list("moed_refusals_total{");
        if !refused.is_empty() {
            line("refused", refused);
        }
        page
    }

    fn number(&self, name: &str) -> f64 {
        self.status["metrics"][name].as_f64().unwrap_or(0.0)
    }

    fn has(&self, name: &str) -> bool {
        self.status["metrics"].get(name).is_some()
    }

    fn rate(&self, before: &Self, name: &str) -> f64 {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        // A daemon that was started again counts from 0.
        if seconds > 0.0 { (self.number(name) - before.number(name)).max(0.0) / seconds } else { 0.0 }
    }

    /// Values of a family by what stands in its last label.
    fn labelled(&self, prefix: &str) -> impl Iterator<Item = (&str, f64)> {
        let metrics = self.status["metrics"].as_object().into_iter().flatten();
        metrics.filter_map(move |(name, value)| {
            let labels = name.strip_prefix(prefix)?;
            let label = labels.trim_end_matches(['}', '"']).rsplit('"').next()?;
            Some((label, value.as_f64()?))
        })
    }

    fn list(&self, prefix: &str) -> String {
        let found: Vec<String> = self.labelled(prefix).map(|(label, value)| format!("{value:.0} {label}")).collect();
        found.join(", ")
    }

    fn sum(&self, family: &str) -> f64 {
        self.labelled(&format!("{family}{{")).map(|(_, value)| value).sum()
    }

    fn waiting(&self) -> String {
        let found: Vec<String> = self
            .labelled("moed_requests_waiting{")
            .filter(|(_, jobs)| *jobs > 0.0)
            .map(|(priority, jobs)| format!("{jobs:.0} {priority}"))
            .collect();
        if found.is_empty() { String::new() } else { format!(" ({})", found.join(", ")) }
    }

    /// How requests ended, both ways in together.
    fn outcomes(&self) -> String {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (outcome, value) in self.labelled("moed_requests_total{") {
            *sums.entry(outcome).or_default() += value;
        }
        if sums.is_empty() {
            return "nothing yet".to_owned();
        }
        sums.iter().map(|(outcome, count)| format!("{count:.0} {outcome}")).collect::<Vec<_>>().join(", ")
    }
}

fn bytes(count: f64) -> String {
    let units = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    let unit = units.into_iter().find(|(_, size)| count >= *size);
    unit.map_or_else(|| format!("{count:.0} B"), |(name, size)| format!("{:.1} {name}", count / size))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_has_rates_since_the_look_before_and_leaves_out_what_is_not_there() {
        let look = |at: Instant, tokens: f64| Look {
            at,
            status: json!({
                "node": "n1", "state": "ready", "version": "0.1.0", "uptime_s": 7260, "provider": "cpu",
                "model": {"name": "tiny", "context": 8192},
                "metrics": {
                    "moed_slots{state=\"busy\"}": 2.0, "moed_slots{state=\"free\"}": 6.0,
                    "moed_requests_waiting{priority=\"alarm\"}": 1.0, "moed_requests_waiting{priority=\"background\"}": 0.0,
                    "moed_generated_tokens_total": tokens, "moed_memory_bytes{kind=\"resident\"}": 104_857_600.0,
                    "moed_requests_total{transport=\"http\",outcome=\"stop\"}": 3.0,
                    "moed_requests_total{transport=\"mqtt\",outcome=\"stop\"}": 4.0,
                }
            }),
        };
        let begin = Instant::now();
        let page = look(begin + Duration::from_secs(2), 120.0).page(&look(begin, 20.0));
        for part in [
            "n1  ready  up 2 h 1 min",
            "tiny on cpu, 8192 tokens",
            "2 of 8 slots busy, 1 waiting (1 alarm)",
            "50.0 generated",
            "resident 100.0 MiB",
            "7 stop",
        ] {
            assert!(page.contains(part), "`{part}` is not in\n{page}");
        }
        assert!(!page.contains("mqtt") && !page.contains("heat") && !page.contains("refused"), "{page}");
        // A daemon that was started again.
        assert!(look(begin + Duration::from_secs(1), 0.0).page(&look(begin, 20.0)).contains("0.0 generated"));
    }
}
