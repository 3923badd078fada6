//! `moed journal`: what was accepted, computed and delivered. Asks the running daemon, whose file it is; without one it
//! reads the file itself.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client::{self, Line};
use crate::cli::{Configured, print, say};
use crate::config::find::{self, Places};
use crate::config::{Config, Span};
use crate::fault::{Code, Fault, Kind};
use crate::journal::{self, Record, State};
use crate::transport::shape::record;

/// Arguments of `moed journal`.
#[derive(Args)]
pub(super) struct Journal {
    #[command(subcommand)]
    verb: Verb,
    /// The daemon's config file, for its socket and, where no daemon answers, its journal
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The daemon's socket
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The raw rows
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// One line a request, without its text
    List {
        /// Only requests of this client
        #[arg(long)]
        client: Option<String>,
        /// Only requests in this state: `pending` or `done`
        #[arg(long)]
        state: Option<String>,
        /// Lines at most
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// One request whole: what was asked or answered, and where the answer goes
    Show { client: String, id: String },
    /// Remove answers that nobody will ask for again; what is not answered stays
    Prune {
        /// Only answers older than this, as `12h` or `30m`
        #[arg(long, value_name = "TIME")]
        older_than: String,
    },
}

/// Looks, or removes.
pub(super) fn run(arguments: &Journal) -> Result<(), Fault> {
    let config = Configured { config: arguments.config.clone() }.load()?;
    let named = Some(config.socket.path.as_path()).filter(|path| !path.as_os_str().is_empty());
    let socket = client::socket(arguments.socket.as_deref().or(named))?;
    match &arguments.verb {
        Verb::List { client, state, limit } => {
            let state = state.as_deref().map(State::read).transpose()?;
            let client_is = client.as_ref().map(|client| format!("&client={client}")).unwrap_or_default();
            let state_is = state.map(|state| format!("&state={}", state.name())).unwrap_or_default();
            let path = format!("/admin/journal?limit={limit}{client_is}{state_is}");
            let from_file = |config: &Config| {
                let all = read(config)?;
                let (pending, done) = all.iter().fold((0, 0), |(pending, done), row| match row.state {
                    State::Pending => (pending + 1, done),
                    State::Done => (pending, done + 1),
                });
                let wanted = |row: &&Record| {
                    client.as_ref().is_none_or(|client| *client == row.key.client)
                        && state.is_none_or(|state| state == row.state)
                };
                let rows: Vec<Value> =
                    all.iter().filter(wanted).take(*limit).map(|row| record::row(row).into()).collect();
                Ok(json!({"rows": rows, "pending": pending, "done": done}))
            };
            tell_list(&ask(config, &socket, Method::GET, &path, from_file)?, arguments.json)
        }
        Verb::Show { client, id } => {
            let from_file = |config: &Config| {
                let found = read(config)?.into_iter().find(|row| row.key.client == *client && row.key.id == *id);
                found.map(|row| record::whole(&row).into()).ok_or_else(|| {
                    Fault::new(Kind::Caller, Code::NotFound, format!("the journal has no request `{id}` of `{client}`"))
                })
            };
            let row = ask(config, &socket, Method::GET, &format!("/admin/journal/{client}/{id}"), from_file)?;
            print(&format!("{row:#}\n"))
        }
        Verb::Prune { older_than } => {
            let Span(age) = Span::try_from(older_than.clone()).map_err(Fault::invalid)?;
            let path = format!("/admin/journal/prune?older_than_ms={}", age.as_millis());
            let told = ask(config, &socket, Method::POST, &path, |config| prune(config, age))?;
            if arguments.json {
                return print(&format!("{told}\n"));
            }
            say(&format!("{} answers removed", told["removed"]));
            Ok(())
        }
    }
}

/// Asks the daemon; where there is none, does it with the file.
fn ask(
    mut config: Config,
    socket: &std::path::Path,
    method: Method,
    path: &str,
    without: impl FnOnce(&Config) -> Result<Value, Fault>,
) -> Result<Value, Fault> {
    match client::block_on(async { Line::open(socket).await?.fetch(method, path).await }) {
        Err(fault) if fault.kind == Kind::Machine && fault.code == Code::Unavailable => {
            // Only the journal's folder is of interest; a missing model is the daemon's affair.
            let found = find::fill(&mut config, &Places::of_process());
            if config.journal.dir.as_os_str().is_empty() {
                found?;
            }
            without(&config)
        }
        told => told,
    }
}

fn read(config: &Config) -> Result<Vec<Record>, Fault> {
    let path = config.journal.dir.join(journal::FILE);
    if !path.is_file() {
        let message = format!("no daemon answers, and there is no journal `{}`", path.display());
        return Err(Fault::new(Kind::Machine, Code::Unavailable, message).hint("name the config with `--config`"));
    }
    Ok(journal::read_closed(&path)?)
}

fn prune(config: &Config, age: Duration) -> Result<Value, Fault> {
    read(config)?;
    let journal = journal::Journal::open(&config.journal.dir, &config.journal)?;
    let removed = client::block_on(async { Ok(journal.prune(age).await?) });
    journal.close();
    Ok(json!({"removed": removed?}))
}

fn tell_list(told: &Value, raw: bool) -> Result<(), Fault> {
    if raw {
        return print(&format!("{told}\n"));
    }
    let rows = told["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let widest = |key: &str| rows.iter().map(|row| text(row, key).len()).max().unwrap_or(0).max(key.len());
    let (client, id) = (widest("client"), widest("id"));
    let line = |row: &Value| {
        let state = match (text(row, "state").as_str(), row["delivered"] == true) {
            ("done", true) => "delivered".to_owned(),
            (state, _) => state.to_owned(),
        };
        let (attempts, age) = (row["attempts"].as_u64().unwrap_or(0), age(row["accepted_ms"].as_u64().unwrap_or(0)));
        format!("{:client$}  {:id$}  {state:9}  {attempts:>8}  {age:>9}\n", text(row, "client"), text(row, "id"))
    };
    let head = format!("{:client$}  {:id$}  {:9}  {:>8}  {:>9}\n", "client", "id", "state", "attempts", "age");
    let table: String = std::iter::once(head).chain(rows.iter().map(line)).collect();
    print(&table)?;
    let (pending, done) = (told["pending"].as_u64().unwrap_or(0), told["done"].as_u64().unwrap_or(0));
    say(&format!("{} shown; {pending} pending, {done} answered in all", rows.len()));
    Ok(())
}

/// How long ago, in the largest unit that fits.
fn age(since_ms: u64) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_millis(since_ms)).unwrap_or_default();
    match since.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
