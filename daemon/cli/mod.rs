//! The command line: one file a verb. Data goes to stdout, talk to stderr, and the exit code says who must act.

mod ask;
mod bench;
mod chat;
mod check;
mod client;
mod doctor;
mod drain;
mod journal;
mod model;
mod reload;
mod serve;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, load};
use crate::fault::{Code, Fault, Kind};

/// The language-model daemon for devices.
#[derive(Parser)]
#[command(name = "moed", version, about, max_term_width = 100)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon
    Serve(Configured),
    /// Ask one question, over the socket or a broker
    Ask(Box<ask::Ask>),
    /// Hold a conversation on the terminal
    Chat(chat::Chat),
    /// Do all that start-up does up to binding, and say what was found
    Check(check::Check),
    /// Have the running daemon read its config again
    Reload(reload::Reload),
    /// Watch what the running daemon does
    Top(top::Top),
    /// Have the running daemon finish what it does, and end
    Drain(drain::Drain),
    /// Look at what was accepted, computed and delivered over MQTT
    Journal(journal::Journal),
    /// Measure a model folder on this machine
    Bench(bench::Bench),
    /// Look at a model folder, check it, make it ready for this machine
    Model(model::Model),
    /// Say what this machine is, what runs on it, what is missing and how to get it
    Doctor(doctor::Doctor),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write every verb's into a folder
    Man {
        /// Where `moed.1`, `moed-serve.1` and the others go; without it `moed.1` is printed
        folder: Option<PathBuf>,
    },
}

/// Where settings come from.
#[derive(Args, Clone, Debug)]
pub struct Configured {
    /// The config file; without one the defaults serve the default model on your own socket
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Configured {
    /// Where the settings are read again when the daemon is told to.
    fn file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    fn load(&self) -> Result<Config, Fault> {
        self.config.as_ref().map_or_else(|| Ok(Config::default()), |path| load::load(path))
    }
}

/// Reads the arguments, runs the verb, prints a fault, gives the exit code.
pub fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // To stdout for --help and --version, to stderr otherwise; a closed pipe is nobody's fault.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let result = match command.verb {
        Verb::Serve(configured) => serve::run(&configured),
        Verb::Ask(ask) => ask::run(&ask),
        Verb::Chat(chat) => chat::run(&chat),
        Verb::Check(check) => check::run(&check),
        Verb::Reload(reload) => reload::run(&reload),
        Verb::Top(top) => top::run(&top),
        Verb::Drain(drain) => drain::run(&drain),
        Verb::Journal(journal) => journal::run(&journal),
        Verb::Bench(bench) => bench::run(&bench),
        Verb::Doctor(doctor) => doctor::run(&doctor),
        Verb::Model(model) => model::run(&model),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "moed", &mut std::io::stdout());
            Ok(())
        }
        Verb::Man { folder } => {
            write_man(folder.as_deref()).map_err(|error| Fault::machine(format!("writing the manual pages: {error}")))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) if fault.message == READER_LEFT => ExitCode::SUCCESS,
        Err(fault) => {
            say(&format!("error: {fault}"));
            ExitCode::from(exit_code(&fault))
        }
    }
}

/// One page on stdout, or one a verb into a folder.
fn write_man(folder: Option<&Path>) -> std::io::Result<()> {
    // `moed help VERB` says what `moed VERB --help` says: a page of its own for each would be no use.
    let command = Command::command().disable_help_subcommand(true);
    match folder {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout()),
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(command, folder)
        }
    }
}

const EXIT_USAGE: u8 = 64;

/// The one table from a fault to an exit code, after sysexits. The unit does not restart on 78.
fn exit_code(fault: &Fault) -> u8 {
    match (fault.kind, fault.code) {
        (Kind::Config, _) => 78,
        (Kind::Bug, _) => 70,
        (Kind::Busy, _) => 75,
        (_, Code::Forbidden) => 77,
        (Kind::Machine, _) | (_, Code::Unavailable) => 69,
        (Kind::Caller, _) => EXIT_USAGE,
    }
}

/// A line of talk.
#[expect(clippy::print_stderr, reason = "the one place that talks to the terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// What ends a program whose reader has left: nothing is wrong, and nobody is there to be told.
const READER_LEFT: &str = "the reader has left";

/// A piece of data. A reader who has left (`moed ask … | head -1`) is a fault that ends the program quietly.
fn print(text: &str) -> Result<(), Fault> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Fault::new(Kind::Caller, Code::Cancelled, READER_LEFT),
        _ => Fault::machine(format!("writing to stdout: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_and_exit_codes_say_who_must_act() {
        Command::command().debug_assert();
        assert_eq!(exit_code(&Fault::config("x")), 78);
        assert_eq!(exit_code(&Fault::bug("x")), 70);
        assert_eq!(exit_code(&Fault::machine("x")), 69);
        assert_eq!(exit_code(&Fault::invalid("x")), 64);
        assert_eq!(exit_code(&Fault::new(Kind::Caller, Code::Forbidden, "x")), 77);
        assert_eq!(exit_code(&Fault::unavailable("x", std::time::Duration::ZERO)), 75);
    }
}
