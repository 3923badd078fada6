//! File to [`Config`]: every unknown key at once, each with its line and the nearest setting.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::config::Config;
use crate::fault::Fault;

/// More than any sensible file; a bound for a wrong path.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
    let at = |span: Option<Range<usize>>| {
        span.map_or_else(String::new, |span| {
            let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
            format!(", line {line}")
        })
    };
    let table = DeTable::parse(text)
        .map_err(|error| Fault::config(format!("config `{name}`{}: {}", at(error.span()), error.message())))?;
    let known = known_keys();
    let mut unknown = Vec::new();
    for (key, value) in table.get_ref() {
        let section = key.get_ref().to_string();
        match value.get_ref() {
            DeValue::Table(keys) if known.iter().any(|(known, _)| *known == section) => {
                for (inner, _) in keys {
                    let full = format!("{section}.{}", inner.get_ref());
                    if !known.iter().any(|(section, key)| full == format!("{section}.{key}")) {
                        unknown.push((full, inner.span()));
                    }
                }
            }
            _ => {
                if !known.iter().any(|(known, _)| *known == section) {
                    unknown.push((section, key.span()));
                }
            }
        }
    }
    unknown.sort_by_key(|(_, span)| span.start);
    if !unknown.is_empty() {
        return Err(unknown_keys(name, &unknown, &known, at));
    }
    toml::from_str(text)
        .map_err(|error| Fault::config(format!("config `{name}`{}: {}", at(error.span()), error.message())))
}

fn unknown_keys(
    name: &str,
    unknown: &[(String, Range<usize>)],
    known: &[(String, String)],
    at: impl Fn(Option<Range<usize>>) -> String,
) -> Fault {
    let lines: Vec<String> = unknown
        .iter()
        .map(|(key, span)| format!("config `{name}`{}: `{key}` is not a setting", at(Some(span.clone()))))
        .collect();
    let near: Vec<String> =
        unknown.iter().filter_map(|(key, _)| nearest(key, known)).map(|key| format!("`{key}`")).collect();
    let fault = Fault::config(lines.join("\n"));
    if near.is_empty() { fault } else { fault.hint(format!("did you mean {}?", near.join(", "))) }
}

/// Every `(section, key)` that there is, read off the defaults.
fn known_keys() -> Vec<(String, String)> {
    let Ok(toml::Value::Table(sections)) = toml::Value::try_from(Config::default()) else { return Vec::new() };
    sections
        .into_iter()
        .filter_map(|(section, value)| Some((section, value.as_table()?.clone())))
        .flat_map(|(section, keys)| keys.into_iter().map(move |(key, _)| (section.clone(), key)))
        .collect()
}

/// The setting that a wrong key most likely meant: at most three letters off, or the same word in another section.
fn nearest(key: &str, known: &[(String, String)]) -> Option<String> {
    let full = |(section, key): &(String, String)| format!("{section}.{key}");
    let last = key.rsplit('.').next().unwrap_or(key);
    let by_distance = known
        .iter()
        .map(|entry| (if key.contains('.') { distance(key, &full(entry)) } else { distance(key, &entry.0) }, entry))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, entry)| if key.contains('.') { full(entry) } else { format!("[{}]", entry.0) });
    by_distance.or_else(|| known.iter().find(|(_, key)| key == last).map(full))
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
    fn every_unknown_key_is_named_with_its_line_and_the_nearest_setting() {
        let text = "[engine]\nslots = 4\nthreds = 2\n\n[sockett]\npath = \"x\"\n[log]\nslots = 3\n";
        let fault = parse(text, "moed.toml").unwrap_err();
        assert!(fault.message.contains("config `moed.toml`, line 3: `engine.threds` is not a setting"), "{fault}");
        assert!(fault.message.contains("line 5: `sockett` is not a setting"), "{fault}");
        assert!(fault.message.contains("line 8: `log.slots` is not a setting"), "{fault}");
        assert_eq!(fault.hint.as_deref(), Some("did you mean `engine.threads`, `[socket]`, `engine.slots`?"));
    }

    #[test]
    fn wrong_types_and_broken_toml_name_their_line() {
        let fault = parse("[engine]\n\nslots = \"many\"\n", "x").unwrap_err();
        assert!(fault.message.contains("line 3") && fault.message.contains("expected usize"), "{fault}");
        let fault = parse("[engine\n", "x").unwrap_err();
        assert!(fault.message.contains("config `x`, line 1"), "{fault}");
        let fault = parse("[journal]\nkeep = \"soon\"\n", "x").unwrap_err();
        assert!(fault.message.contains("`soon` is not a length of time"), "{fault}");
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_the_defaults_read_back() {
        assert_eq!(parse("", "x").unwrap(), Config::default());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(parse(&text, "x").unwrap(), Config::default());
    }
}
