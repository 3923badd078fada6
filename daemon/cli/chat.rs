//! `moed chat`: a conversation on the terminal, until end of input.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{self, Heard};
use crate::cli::{print, say};
use crate::fault::{Code, Fault, Kind};

/// Arguments of `moed chat`.
#[derive(Args)]
pub(super) struct Chat {
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Reads a line, prints the answer, remembers both. `/new` forgets; a conversation that outgrows the model says so.
pub(super) fn run(chat: &Chat) -> Result<(), Fault> {
    let socket = client::socket(chat.socket.as_deref())?;
    let opening: Vec<Value> = chat.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    let mut messages = opening.clone();
    let input = std::io::stdin().lock();
    let prompts = input.is_terminal();
    if prompts {
        say("end with Ctrl-D; `/new` starts over");
    }
    let mut lines = input.lines();
    loop {
        if prompts {
            print("> ")?;
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|error| Fault::invalid(format!("reading stdin: {error}")))?;
        match line.trim() {
            "" => continue,
            "/new" => {
                messages.clone_from(&opening);
                continue;
            }
            text => messages.push(json!({"role": "user", "content": text})),
        }
        let mut answer = String::new();
        let request = json!({"model": "default", "messages": messages, "stream": true});
        let result = client::block_on(client::complete(&socket, &request, |heard| {
            if let Heard::Text(text) = heard {
                answer.push_str(text);
                print(text)?;
            }
            Ok(())
        }));
        print("\n")?;
        match result {
            Ok(_) => messages.push(json!({"role": "assistant", "content": answer})),
            // The conversation can go on after what the caller can mend; the question that failed is forgotten.
            Err(fault) if fault.kind == Kind::Caller || fault.code == Code::QueueFull => {
                say(&format!("error: {fault}"));
                messages.pop();
            }
            Err(fault) => return Err(fault),
        }
    }
}
