//! `moed model`: what a folder is, whether it is whole, and making it ready for this machine.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::{Configured, print, say};
use crate::config::{Config, check, find};
use crate::engine::operators;
use crate::engine::prepare::Afresh;
use crate::engine::provider::Provider;
use crate::engine::threads::{PIECE, Taken};
use crate::fault::Fault;
use crate::loading;
use crate::model::folder::Folder;
use crate::model::graph::{Graph, Port, type_name};
use crate::model::inspect::Summary;

/// Arguments of `moed model`.
#[derive(Args)]
pub(super) struct Model {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Say what a model folder is; needs no runtime
    Inspect {
        /// The model folder
        folder: PathBuf,
    },
    /// Make a copy of the model for this machine, as the first start of the daemon does
    Prepare(Run),
    /// Compare every file with the manifest and run the self-test
    Verify(Run),
}

#[derive(Args)]
struct Run {
    /// The model folder
    folder: PathBuf,
    #[command(flatten)]
    configured: Configured,
}

impl Run {
    /// The config as the daemon would have it, with this folder.
    fn config(&self) -> Result<Config, Fault> {
        let mut config = self.configured.load()?;
        check::check(&config)?;
        config.model.dir.clone_from(&self.folder);
        find::fill(&mut config, &find::Places::of_process())?;
        Ok(config)
    }
}

/// Runs the verb.
pub(super) fn run(model: &Model) -> Result<(), Fault> {
    match &model.what {
        What::Inspect { folder } => inspect(folder),
        What::Prepare(run) => prepare(run),
        What::Verify(run) => verify(run),
    }
}

/// Each folder that may be loaded, one after the other.
fn inspect(path: &Path) -> Result<(), Fault> {
    let mut lines = Vec::new();
    for (provider, folder) in loading::read_folders(path, "auto").map_err(together)? {
        if folder.path != path {
            let break_before = if lines.is_empty() { "" } else { "\n" };
            lines.push(format!("{break_before}provider    {}", provider.name()));
        }
        lines.extend(say_folder(&folder, provider)?);
    }
    print(&(lines.join("\n") + "\n"))
}

/// One fault of several.
fn together(faults: Vec<Fault>) -> Fault {
    Fault::together(faults).err().unwrap_or_else(|| Fault::bug("nothing was read, and nothing is wrong"))
}

fn say_folder(folder: &Folder, provider: Provider) -> Result<Vec<String>, Fault> {
    let path = &folder.path;
    let graph = Graph::read(&folder.graph)
        .map_err(|error| Fault::config(format!("model `{}`: `{}`: {error}", folder.name, folder.graph.display())))?;
    let mut lines = vec![
        format!("model       {}", folder.name),
        format!("layout      {}", if path.join("genai_config.json").is_file() { "genai" } else { "hugging face" }),
        format!("graph       {}", folder.graph.strip_prefix(path).unwrap_or(&folder.graph).display()),
        format!("context     {} tokens", folder.context),
    ];
    match &folder.manifest {
        Some(manifest) => lines.push(format!(
            "manifest    {} files compared, {} golden prompts, tool dialect {}",
            manifest.files.len(),
            manifest.golden.len(),
            if manifest.tool_dialect.is_empty() { "none" } else { &manifest.tool_dialect }
        )),
        None => lines.push("manifest    none: nothing says whether the files are whole".to_owned()),
    }
    lines.push(format!("producer    {}", if graph.producer.is_empty() { "unknown" } else { &graph.producer }));
    for opset in &graph.opsets {
        let domain = if opset.domain.is_empty() { "ai.onnx" } else { &opset.domain };
        lines.push(format!("opset       {domain} {}", opset.version));
    }
    for (what, minor) in operators::needs(&graph, provider) {
        lines.push(format!("needs       ONNX Runtime 1.{minor} for {what}"));
    }
    lines.extend(ports("input", &graph.inputs).chain(ports("output", &graph.outputs)));
    lines.extend(Summary::of(&graph).lines());
    Ok(lines)
}

/// Ports of one kind; those that differ only in a layer's number are one line.
fn ports<'a>(word: &'a str, ports: &'a [Port]) -> impl Iterator<Item = String> + 'a {
    let shape = |port: &Port| {
        let name: Vec<&str> =
            port.name.split('.').map(|part| if part.parse::<u32>().is_ok() { "N" } else { part }).collect();
        let sizes: Vec<String> =
            port.dims.iter().map(|size| if *size < 0 { "?".into() } else { size.to_string() }).collect();
        format!("{} {} [{}]", name.join("."), type_name(port.dtype), sizes.join(", "))
    };
    let mut counted: Vec<(String, usize)> = Vec::new();
    for port in ports {
        let shape = shape(port);
        match counted.iter_mut().find(|(known, _)| *known == shape) {
            Some((_, count)) => *count += 1,
            None => counted.push((shape, 1)),
        }
    }
    counted.into_iter().map(move |(shape, count)| {
        let times = if count > 1 { format!(" × {count}") } else { String::new() };
        format!("{word:<11} {shape}{times}")
    })
}

fn prepare(run: &Run) -> Result<(), Fault> {
    let mut config = run.config()?;
    "auto".clone_into(&mut config.engine.prepare);
    let ready = loading::prepare_model(&config, Afresh::Yes, &mut |line| say(line))?;
    for note in &ready.prepared.notes {
        say(note);
    }
    let Some(place) = &ready.prepared.place else {
        return Err(Fault::machine(format!("model `{}` is not prepared", ready.folder.name)));
    };
    if let Some(finding) = ready.finding {
        let say_one = |threads, taken: Taken| {
            say(&format!(
                "{threads} threads: a piece of {PIECE} prompt tokens takes {} µs, a step {} µs",
                taken.piece_us, taken.step_us
            ));
        };
        say_one(1, finding.one);
        say_one(finding.cores, finding.all);
        say(&format!("{} will be used", finding.threads));
    }
    print(&format!("{}\n", place.display()))
}

fn verify(run: &Run) -> Result<(), Fault> {
    let config = run.config()?;
    for (_, folder) in loading::read_folders(&config.model.dir, &config.engine.provider).map_err(together)? {
        let place = folder.path.display();
        match &folder.manifest {
            Some(manifest) => say(&format!("`{place}`: {} files are what the manifest says", manifest.files.len())),
            None => say(&format!("`{place}` has no manifest: nothing says whether its files are whole")),
        }
    }
    // The files as they are: what a prepared copy does is compared when it is made and at every start.
    let plain =
        Config { engine: crate::config::Engine { prepare: "never".to_owned(), ..config.engine.clone() }, ..config };
    let loaded = loading::load_model(&plain)?;
    let tested = if loaded.golden > 0 {
        format!("{} golden prompts gave the expected tokens", loaded.golden)
    } else {
        "no golden prompts; whole and in pieces agree".to_owned()
    };
    print(&format!(
        "{} on {}: {tested}; batch invariant: {}, ONNX Runtime {}\n",
        loaded.name,
        loaded.choice.provider.name(),
        loaded.shape.batch_invariant,
        loaded.runtime.version
    ))
}
