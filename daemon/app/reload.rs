//! Another config for the running daemon: read and checked whole before anything changes.

use std::path::PathBuf;

use crate::config::{Config, check, find, load};
use crate::control::Report;
use crate::engine::provider::Provider;
use crate::fault::{Code, Fault, Kind};
use crate::loading;
use crate::model::folder::Folder;
use crate::telemetry;
use crate::transport::{http, mqtt};

/// What a running daemon takes over: whole sections, or single settings.
const LIVE: &[&str] = &[
    "queue",
    "quota",
    "log.level",
    "engine.prefix_shared",
    "socket.body_max",
    "socket.body_timeout",
    "socket.idle_timeout",
    "socket.stall_timeout",
    "socket.connections_max",
    "socket.admins",
    "socket.peers",
];

/// The settings in force.
pub(super) struct Settings {
    file: Option<PathBuf>,
    /// As written, with what waits for a restart left at what is in force.
    written: toml::Table,
    /// With what the machine filled in.
    pub(super) found: Config,
}

impl Settings {
    /// Checks a config and fills it from the machine.
    pub(super) fn validate(config: Config, file: Option<PathBuf>) -> Result<Self, Fault> {
        let written = table(&config)?;
        let mut found = config;
        Fault::together(faults(&mut found))?;
        Ok(Self { file, written, found })
    }

    /// Reads the file again and takes over what a running daemon can; a file with any fault changes nothing.
    pub(super) fn reload(&mut self) -> Result<Report, Fault> {
        let Some(file) = &self.file else {
            return Err(Fault::invalid("the daemon was started without a config file, so there is none to read again")
                .hint("start it with `--config FILE`"));
        };
        let fresh = load::load(file)
            .and_then(|config| {
                inspect(config.clone())?;
                Self::validate(config, self.file.clone())
            })
            .map_err(refused)?;
        telemetry::set_level(&fresh.found.log.level)?;
        let (written, changed, restart) = take_over(&self.written, &fresh.written);
        let mut found: Config = written
            .clone()
            .try_into()
            .map_err(|error| Fault::bug(format!("the old settings and the new ones do not go together: {error}")))?;
        find::fill(&mut found, &find::Places::of_process())?;
        let summary = match (changed.len(), restart.len()) {
            (0, 0) => "reloaded: nothing has changed".to_owned(),
            (n, 0) => format!("reloaded: {n} settings changed"),
            (n, m) => format!("reloaded: {n} settings changed, {m} wait for a restart"),
        };
        (self.written, self.found) = (written, found);
        Ok(Report { summary, changed, restart })
    }
}

/// Fills a config from the machine and reads its model's folders, one for each provider that it may be loaded for, or says all
/// that is wrong at once: `moed check`.
pub fn inspect(mut config: Config) -> Result<(Config, Vec<(Provider, Folder)>), Fault> {
    let mut faults = faults(&mut config);
    let mut folders = Vec::new();
    // A folder that was not found is no second fault.
    if !config.model.dir.as_os_str().is_empty() {
        match loading::read_folders(&config.model.dir, &config.engine.provider) {
            Ok(read) => folders = read,
            Err(more) => faults.extend(more),
        }
    }
    let library = &config.runtime.onnxruntime;
    if !library.as_os_str().is_empty() && !library.is_file() {
        let message = format!("ONNX Runtime `{}` does not exist", library.display());
        faults.push(Fault::config(message).hint("set `runtime.onnxruntime`"));
    }
    Fault::together(faults)?;
    Ok((config, folders))
}

/// Fills a config from the machine; all that is wrong with it there.
fn faults(config: &mut Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut note = |result: Result<(), Fault>| faults.extend(result.err());
    note(check::check(config));
    note(find::fill(config, &find::Places::of_process()));
    note(http::check(&config.socket));
    if !config.mqtt.url.is_empty() {
        note(mqtt::check(&config.mqtt));
    }
    faults
}

/// Whoever ordered the reload must act, and asking again is no use before that.
fn refused(fault: Fault) -> Fault {
    Fault { kind: Kind::Caller, code: Code::InvalidRequest, ..fault }
}

/// The settings of `new` that may be taken over on top of `old`; which were, and which were not.
fn take_over(old: &toml::Table, new: &toml::Table) -> (toml::Table, Vec<String>, Vec<String>) {
    let (mut merged, mut changed, mut restart) = (new.clone(), Vec::new(), Vec::new());
    for (section, keys) in new {
        let Some(keys) = keys.as_table() else { continue };
        for (key, value) in keys {
            let before = old.get(section).and_then(|keys| keys.get(key));
            if before == Some(value) {
                continue;
            }
            let name = format!("{section}.{key}");
            if LIVE.contains(&section.as_str()) || LIVE.contains(&name.as_str()) {
                changed.push(name);
            } else {
                restart.push(name);
                if let (Some(before), Some(keys)) =
                    (before, merged.get_mut(section).and_then(|keys| keys.as_table_mut()))
                {
                    keys.insert(key.clone(), before.clone());
                }
            }
        }
    }
    (merged, changed, restart)
}

fn table(config: &Config) -> Result<toml::Table, Fault> {
    toml::Table::try_from(config).map_err(|error| Fault::bug(format!("writing the config: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named_and_stays_as_it_was() {
        let old = table(&Config::default()).unwrap();
        let text = "[queue]\nwaiting_max = 3\n[engine]\nslots = 2\nprefix_shared = true\n[log]\nformat = \"json\"\n";
        let new = table(&load::parse(text, "x").unwrap()).unwrap();
        let (merged, changed, restart) = take_over(&old, &new);
        assert_eq!(changed, ["engine.prefix_shared", "queue.waiting_max"]);
        assert_eq!(restart, ["engine.slots", "log.format"]);
        let merged: Config = merged.try_into().unwrap();
        assert_eq!((merged.queue.waiting_max, merged.engine.slots, merged.log.format.as_str()), (3, 8, "auto"));
        // The next look still knows what is owed.
        let (_, changed, restart) = take_over(&table(&merged).unwrap(), &new);
        assert_eq!((changed.len(), restart.len()), (0, 2));
    }

    #[test]
    fn every_live_setting_exists() {
        let known = table(&Config::default()).unwrap();
        for name in LIVE {
            let found = match name.split_once('.') {
                Some((section, key)) => known.get(section).and_then(|keys| keys.get(key)).is_some(),
                None => known.contains_key(*name),
            };
            assert!(found, "`{name}` is no setting");
        }
    }
}
