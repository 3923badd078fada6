//! `moed check`: all that start-up does up to binding. The unit's `ExecStartPre`.

use clap::Args;

use crate::app;
use crate::cli::{Configured, print};
use crate::fault::Fault;
use crate::loading;
use crate::model::folder::Folder;

/// Arguments of `moed check`.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    configured: Configured,
    /// Also load the model and run its self-test
    #[arg(long)]
    models: bool,
}

/// Prints what was found as a config file, or every fault.
pub(super) fn run(arguments: &Check) -> Result<(), Fault> {
    let (config, folders) = app::inspect(arguments.configured.load()?)?;
    let text = toml::to_string(&config).map_err(|error| Fault::bug(format!("writing the config: {error}")))?;
    let models: Vec<String> = folders
        .iter()
        .map(|(provider, folder)| {
            let whom =
                if folder.path == config.model.dir { String::new() } else { format!(" for {}", provider.name()) };
            let (name, context, golden) = (&folder.name, folder.context, golden(folder));
            format!("# model `{name}`{whom}: {context} tokens of context, {golden} golden prompts\n")
        })
        .collect();
    let found = format!("# what `moed serve` would run with\n{text}\n{}", models.concat());
    if arguments.models {
        let loaded = loading::load_model(&config)?;
        let tested = format!(
            "# self-test passed on {}: {} golden prompts, batch invariant: {}, ONNX Runtime {}\n",
            loaded.choice.provider.name(),
            loaded.golden,
            loaded.shape.batch_invariant,
            loaded.runtime.version
        );
        return print(&(found + &tested));
    }
    print(&found)
}

fn golden(folder: &Folder) -> usize {
    folder.manifest.as_ref().map_or(0, |manifest| manifest.golden.len())
}
