//! File to [`Config`]: every fault at once, each with its line, its key and, where a word is nearly right, the right one.

use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::config::{Config, check};
use crate::fault::Fault;

/// More than any sensible file; a bound for a wrong path.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Letters that a wrong key may be off from the setting that it most likely meant.
const LETTERS_OFF: usize = 3;

/// Reads a config file.
pub fn load(path: &Path) -> Result<Config, Fault> {
    let failed = |reason: String| Fault::config(format!("config `{}`: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("{length} bytes, the most is {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse(&text, &path.display().to_string())
}

/// Reads a config text; `name` is what faults call it.
pub fn parse(text: &str, name: &str) -> Result<Config, Fault> {
    let line_at = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        let line = line_at(span.start);
        // What is there, where it is a word: the message alone says `duplicate key` and not which.
        let word = text.get(span).filter(|word| !word.is_empty() && !word.contains('\n'));
        let word = word.map_or_else(String::new, |word| format!(" `{word}`"));
        Fault::config(format!("config `{name}`, line {line}:{word} {}", error.message().replace('\n', ", ")))
    })?;
    let mut reading = Reading { known: known_keys(), found: Vec::new(), faults: Vec::new() };
    for (key, value) in table.get_ref() {
        reading.section(key.get_ref(), line_at(key.span().start), value.get_ref(), &line_at);
    }
    let values: toml::Table = text.parse().map_err(|error| Fault::config(format!("config `{name}`: {error}")))?;
    let config = reading.config(&values)?;
    // What could be read is judged too, so that nobody mends a file one fault at a time.
    for (key, text) in check::faults(&config) {
        // A setting inside a table that is one setting stands where the table begins.
        let holds = |found: &str| key.strip_prefix(found).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let line = reading.found.iter().find(|(found, _)| holds(found)).map_or(1, |(_, line)| *line);
        reading.faults.push((line, format!("`{key}` {text}")));
    }
    if reading.faults.is_empty() {
        return Ok(config);
    }
    reading.faults.sort();
    let lines = reading.faults.iter().map(|(line, text)| format!("config `{name}`, line {line}: {text}"));
    Err(Fault::config(lines.collect::<Vec<_>>().join("\n")))
}

/// What has been read so far.
struct Reading {
    /// Every `(section, key)` that there is; a section that is a list has no keys of its own.
    known: Vec<(String, Option<String>)>,
    /// The settings of the file, with their lines.
    found: Vec<(String, usize)>,
    faults: Vec<(usize, String)>,
}

impl Reading {
    fn section(&mut self, section: &str, line: usize, value: &DeValue<'_>, line_at: &impl Fn(usize) -> usize) {
        if !self.known.iter().any(|(known, _)| known == section) {
            return self.unknown(section, line);
        }
        if self.known.iter().any(|(known, key)| known == section && key.is_none()) {
            return self.found.push((section.to_owned(), line));
        }
        let DeValue::Table(keys) = value else {
            return self.faults.push((line, format!("`{section}` is a section, write it as `[{section}]`")));
        };
        for (key, _) in keys {
            let (full, line) = (format!("{section}.{}", key.get_ref()), line_at(key.span().start));
            if self.known.iter().any(|(known, inner)| known == section && inner.as_deref() == Some(key.get_ref())) {
                self.found.push((full, line));
            } else {
                self.unknown(&full, line);
            }
        }
    }

    fn unknown(&mut self, key: &str, line: usize) {
        let mut text = format!("`{key}` is not a setting");
        if let Some(near) = nearest(key, &self.known) {
            // Writing to a `String` cannot fail.
            write!(text, ", did you mean `{near}`?").ok();
        }
        self.faults.push((line, text));
    }

    /// The settings that can be read, each by itself; what cannot is a fault and stays at its default.
    fn config(&mut self, values: &toml::Table) -> Result<Config, Fault> {
        let mut good = toml::Table::new();
        for (key, line) in &self.found {
            let (section, inner) = key.split_once('.').map_or((key.as_str(), None), |(s, k)| (s, Some(k)));
            let Some(value) = values.get(section) else { continue };
            let value = match inner {
                Some(inner) => match value.get(inner) {
                    Some(value) => toml::Value::Table([(inner.to_owned(), value.clone())].into_iter().collect()),
                    None => continue,
                },
                None => value.clone(),
            };
            let alone: toml::Table = [(section.to_owned(), value.clone())].into_iter().collect();
            match Config::deserialize(alone) {
                Ok(_) => merge(&mut good, section, value),
                Err(error) => {
                    self.faults.push((*line, format!("`{key}`: {}", error.message().trim_end().replace('\n', ", "))));
                }
            }
        }
        Config::deserialize(good).map_err(|error| Fault::bug(format!("putting the settings together: {error}")))
    }
}

fn merge(into: &mut toml::Table, section: &str, value: toml::Value) {
    match (into.get_mut(section), value) {
        (Some(toml::Value::Table(keys)), toml::Value::Table(more)) => keys.extend(more),
        (_, value) => drop(into.insert(section.to_owned(), value)),
    }
}

/// Every setting that there is, read off the defaults.
fn known_keys() -> Vec<(String, Option<String>)> {
    let Ok(toml::Value::Table(sections)) = toml::Value::try_from(Config::default()) else { return Vec::new() };
    let mut known = Vec::new();
    for (section, value) in sections {
        match value {
            toml::Value::Table(keys) => known.extend(keys.into_iter().map(|(key, _)| (section.clone(), Some(key)))),
            _ => known.push((section, None)),
        }
    }
    known
}

/// The setting that a wrong key most likely meant: a few letters off, or the same word in another section.
fn nearest(key: &str, known: &[(String, Option<String>)]) -> Option<String> {
    let full = |entry: &(String, Option<String>)| match entry {
        (section, Some(key)) => format!("{section}.{key}"),
        (section, None) => section.clone(),
    };
    let last = key.rsplit('.').next().unwrap_or(key);
    let by_distance = known
        .iter()
        .map(|entry| if key.contains('.') { full(entry) } else { format!("[{}]", entry.0) })
        .map(|near| (distance(key, near.trim_matches(['[', ']'])), near))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= LETTERS_OFF)
        .map(|(_, near)| near);
    by_distance.or_else(|| known.iter().find(|(_, key)| key.as_deref() == Some(last)).map(full))
}

/// Levenshtein's distance between two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_at_once_with_its_line_and_the_nearest_setting() {
        let text = "[engine]\nslots = \"many\"\nthreds = 2\nprovider = \"tpu\"\n[sockett]\npath = \"x\"\n[log]\nslots = 3\n[journal]\nkeep = \"soon\"\n";
        let fault = parse(text, "moed.toml").unwrap_err();
        let lines: Vec<&str> = fault.message.lines().collect();
        assert!(lines[0].starts_with("config `moed.toml`, line 2: `engine.slots`: invalid type"), "{fault}");
        assert!(lines[0].contains("expected usize"), "{fault}");
        assert_eq!(
            lines[1],
            "config `moed.toml`, line 3: `engine.threds` is not a setting, did you mean `engine.threads`?"
        );
        assert_eq!(
            lines[2],
            "config `moed.toml`, line 4: `engine.provider` is `tpu`, it must be `auto`, `cpu` or `cuda`"
        );
        assert_eq!(lines[3], "config `moed.toml`, line 5: `sockett` is not a setting, did you mean `[socket]`?");
        assert_eq!(lines[4], "config `moed.toml`, line 8: `log.slots` is not a setting, did you mean `engine.slots`?");
        assert!(lines[5].contains("line 10: `journal.keep`: `soon` is not a length of time"), "{fault}");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn broken_toml_names_its_line() {
        let fault = parse("[log]\n[engine\n", "x").unwrap_err();
        assert!(fault.message.contains("config `x`, line 2"), "{fault}");
        let fault = parse("engine = 3\n", "x").unwrap_err();
        assert!(fault.message.contains("line 1: `engine` is a section, write it as `[engine]`"), "{fault}");
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_the_defaults_read_back() {
        assert_eq!(parse("", "x").unwrap(), Config::default());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(parse(&text, "x").unwrap(), Config::default());
    }
}
