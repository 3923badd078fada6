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
    "mqtt",
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

/// What is taken over by another model beside the one at work, or by the same one in another size.
const MODEL: &[&str] = &[
    "model.dir",
    "model.prepared",
    "engine.prepare",
    "engine.slots",
    "engine.alarm_slots",
    "engine.context_max",
    "engine.memory_max",
    "engine.prefill_chunk",
    "engine.stall_max",
    "engine.prefix_max",
    "engine.guesses",
];

/// What of the broker is taken over without leaving it.
const ON_THE_SPOT: &[&str] = &["mqtt.pool_leave", "mqtt.pool_rejoin"];

/// The settings in force.
pub(super) struct Settings {
    reader: Reader,
    /// With what the machine filled in.
    pub(super) found: Config,
}

impl Settings {
    /// Checks a config and fills it from the machine.
    pub(super) fn validate(config: Config, file: Option<PathBuf>) -> Result<Self, Fault> {
        let written = table(&config)?;
        let mut found = config;
        Fault::together(faults(&mut found))?;
        Ok(Self { reader: Reader { file, written }, found })
    }

    /// What reads the file again.
    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// From now on these are in force.
    pub(super) fn put(&mut self, fresh: Fresh) {
        // It was checked with the rest; what is left is a log that does not take it.
        if let Err(fault) = telemetry::set_level(&fresh.found.log.level) {
            tracing::error!(%fault, "the log level stays");
        }
        (self.reader.written, self.found) = (fresh.written, fresh.found);
    }
}

/// Reads the file again.
#[derive(Clone)]
pub(super) struct Reader {
    file: Option<PathBuf>,
    /// As written, with what waits for a restart left at what is in force.
    written: toml::Table,
}

impl Reader {
    /// Reads the file and says what it would change; a file with any fault is refused whole. Blocks while the model's files
    /// are compared with their digests.
    pub(super) fn read(&self) -> Result<Fresh, Fault> {
        let Some(file) = &self.file else {
            return Err(Fault::invalid("the daemon was started without a config file, so there is none to read again")
                .hint("start it with `--config FILE`"));
        };
        let read = load::load(file).and_then(|config| {
            inspect(config.clone())?;
            table(&config)
        });
        Fresh::new(&self.written, &read.map_err(refused)?)
    }
}

/// What a file that was read again would put in force.
pub(super) struct Fresh {
    written: toml::Table,
    pub(super) found: Config,
    changed: Vec<String>,
    restart: Vec<String>,
}

impl Fresh {
    fn new(before: &toml::Table, now: &toml::Table) -> Result<Self, Fault> {
        let (written, changed, restart) = take_over(before, now);
        let mut found: Config = written
            .clone()
            .try_into()
            .map_err(|error| Fault::bug(format!("the old settings and the new ones do not go together: {error}")))?;
        find::fill(&mut found, &find::Places::of_process())?;
        Ok(Self { written, found, changed, restart })
    }

    /// Whether a model has to be loaded for it.
    pub(super) fn exchanges_model(&self) -> bool {
        self.changed.iter().any(|key| MODEL.contains(&key.as_str()))
    }

    /// Whether the broker has to be left for it.
    pub(super) fn exchanges_broker(&self) -> bool {
        self.changed.iter().any(|key| key.starts_with("mqtt.") && !ON_THE_SPOT.contains(&key.as_str()))
    }

    /// What came of it, beside what else was done.
    pub(super) fn report(&self, done: Vec<String>) -> Report {
        let mut parts = Vec::new();
        let (changed, restart) = (self.changed.len(), self.restart.len());
        if changed > 0 || restart > 0 {
            parts.push(format!("{changed} settings changed"));
        }
        if restart > 0 {
            parts.push(format!("{restart} wait for a restart"));
        }
        parts.extend(done);
        let summary = if parts.is_empty() { "nothing has changed".to_owned() } else { parts.join(", ") };
        let (changed, restart) = (self.changed.clone(), self.restart.clone());
        Report { summary: format!("reloaded: {summary}"), changed, restart }
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
            let live = [section.as_str(), name.as_str()].iter().any(|key| LIVE.contains(key));
            if live || MODEL.contains(&name.as_str()) {
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
        let text = "[queue]\nwaiting_max = 3\n[engine]\nthreads = 2\nslots = 2\nprefix_shared = true\n[log]\nformat = \"json\"\n";
        let new = table(&load::parse(text, "x").unwrap()).unwrap();
        let (merged, changed, restart) = take_over(&old, &new);
        assert_eq!(changed, ["engine.prefix_shared", "engine.slots", "queue.waiting_max"]);
        assert_eq!(restart, ["engine.threads", "log.format"]);
        let merged: Config = merged.try_into().unwrap();
        assert_eq!((merged.queue.waiting_max, merged.engine.threads, merged.log.format.as_str()), (3, 0, "auto"));
        // The next look still knows what is owed.
        let (_, changed, restart) = take_over(&table(&merged).unwrap(), &new);
        assert_eq!((changed.len(), restart.len()), (0, 2));
    }

    #[test]
    fn every_live_setting_exists() {
        let known = table(&Config::default()).unwrap();
        for name in LIVE.iter().chain(MODEL).chain(ON_THE_SPOT) {
            let found = match name.split_once('.') {
                Some((section, key)) => known.get(section).and_then(|keys| keys.get(key)).is_some(),
                None => known.contains_key(*name),
            };
            assert!(found, "`{name}` is no setting");
        }
    }

    #[test]
    fn what_a_change_takes_is_told_by_its_key() {
        // What is named need not be found on the machine that tests.
        let written = |text: &str| {
            let mut config = load::parse(text, "x").unwrap();
            (config.model.dir, config.runtime.onnxruntime) = ("m".into(), "r".into());
            table(&config).unwrap()
        };
        let fresh = |text: &str| Fresh::new(&written(""), &written(text)).unwrap();
        for (text, model, broker) in [
            ("[quota]\nconcurrent = 1", false, false),
            ("[engine]\nslots = 3", true, false),
            ("[mqtt]\npool_leave = 9\npool_rejoin = 2", false, false),
            ("[mqtt]\nurl = \"mqtt://b\"", false, true),
        ] {
            let fresh = fresh(text);
            assert_eq!((fresh.exchanges_model(), fresh.exchanges_broker()), (model, broker), "{text}");
        }
        assert_eq!(fresh("").report(Vec::new()).summary, "reloaded: nothing has changed");
        let done = vec!["model `b` in place of `a`".to_owned()];
        assert_eq!(fresh("").report(done).summary, "reloaded: model `b` in place of `a`");
        let both = fresh("[engine]\nslots = 3\nthreads = 2").report(Vec::new());
        assert_eq!(both.summary, "reloaded: 1 settings changed, 1 wait for a restart");
    }
}
