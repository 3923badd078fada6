//! How the answer is made and where it ends: the settings that sit in `params` over MQTT and at the top over HTTP.

use serde_json::Value;

use super::value::{at_most, integer, kind, read_bool, shown, text, wrong};
use crate::fault::Fault;
use crate::job::Sampling;

/// Stop texts in one request; each is compared with the end of the answer at every token.
pub(super) const STOPS_MAX: usize = 16;
/// Bytes of one stop text; the matcher holds back that much of the answer.
pub(super) const STOP_BYTES_MAX: usize = 256;

/// How the answer is made and where it ends: the settings that sit in `params` over MQTT and at the top over HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub max_tokens: Option<usize>,
    pub min_tokens: usize,
    pub ignore_eos: bool,
}

impl Settings {
    /// Takes one setting in; `false` where `name` is none. `path` is the client's spelling. A null leaves the default.
    pub fn read(&mut self, name: &str, value: &Value, path: &str) -> Result<bool, Fault> {
        let known = matches!(
            name,
            "temperature"
                | "top_p"
                | "top_k"
                | "min_p"
                | "repetition_penalty"
                | "presence_penalty"
                | "frequency_penalty"
                | "seed"
                | "stop"
                | "max_tokens"
                | "min_tokens"
                | "ignore_eos"
        );
        if !known || value.is_null() {
            return Ok(known);
        }
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temperature = number(value, path, &Range::closed(0.0, 2.0))?,
            "top_p" => sampling.top_p = number(value, path, &Range::open_below(0.0, 1.0))?,
            "min_p" => sampling.min_p = number(value, path, &Range::closed(0.0, 1.0))?,
            "repetition_penalty" => sampling.repetition_penalty = number(value, path, &Range::open_below(0.0, 10.0))?,
            "presence_penalty" => sampling.presence_penalty = number(value, path, &Range::closed(-2.0, 2.0))?,
            "frequency_penalty" => sampling.frequency_penalty = number(value, path, &Range::closed(-2.0, 2.0))?,
            "top_k" => sampling.top_k = count(value, path, 0)?,
            "seed" => sampling.seed = Some(read_seed(value, path)?),
            "stop" => self.stop = read_stop(value, path)?,
            "max_tokens" => self.max_tokens = Some(count(value, path, 1)?),
            "min_tokens" => self.min_tokens = count(value, path, 0)?,
            _ => self.ignore_eos = read_bool(value, path)?,
        }
        Ok(true)
    }
}

/// Any 64-bit number; a negative one stands for its bit pattern.
fn read_seed(value: &Value, path: &str) -> Result<u64, Fault> {
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .ok_or_else(|| wrong(path, &format!("is {}, it must be a whole number of 64 bits", shown(&value.to_string()))))
}

fn read_stop(value: &Value, path: &str) -> Result<Vec<String>, Fault> {
    let stops = match value {
        Value::Array(stops) => {
            at_most(path, stops.len(), STOPS_MAX)?;
            stops
                .iter()
                .enumerate()
                .map(|(index, stop)| text(stop, &format!("{path}[{index}]")))
                .collect::<Result<_, _>>()?
        }
        single => vec![text(single, path)?],
    };
    for stop in &stops {
        if stop.is_empty() {
            return Err(wrong(path, "has an empty text, which would end every answer at once"));
        }
        if stop.len() > STOP_BYTES_MAX {
            return Err(wrong(path, &format!("has a text of {} bytes, limit {STOP_BYTES_MAX}", stop.len())));
        }
    }
    Ok(stops)
}

struct Range {
    least: f64,
    most: f64,
    least_excluded: bool,
}

impl Range {
    fn closed(least: f64, most: f64) -> Self {
        Self { least, most, least_excluded: false }
    }

    fn open_below(least: f64, most: f64) -> Self {
        Self { least, most, least_excluded: true }
    }
}

fn number(value: &Value, path: &str, range: &Range) -> Result<f32, Fault> {
    let Some(number) = value.as_f64() else {
        return Err(wrong(path, &format!("is {}, it must be a number", kind(value))));
    };
    let low = if range.least_excluded { number <= range.least } else { number < range.least };
    if low || number > range.most {
        let words = if range.least_excluded { "above" } else { "from" };
        return Err(wrong(path, &format!("is {value}, it must be {words} {} and at most {}", range.least, range.most)));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range is small and logits are f32: the nearest f32 is meant"
    )]
    let near = number as f32;
    Ok(near)
}

fn count(value: &Value, path: &str, least: u64) -> Result<usize, Fault> {
    // 2^31 - 1: what a 32-bit client can say, and more tokens than any context.
    let number = integer(value, path, least, i32::MAX.unsigned_abs().into())?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transport::shape::value::param;

    #[test]
    fn each_setting_has_its_range() {
        let good = [
            ("temperature", json!(0)),
            ("temperature", json!(2.0)),
            ("top_p", json!(1)),
            ("min_p", json!(0)),
            ("top_k", json!(0)),
            ("repetition_penalty", json!(10)),
            ("presence_penalty", json!(-2)),
            ("frequency_penalty", json!(2)),
            ("seed", json!(u64::MAX)),
            ("seed", json!(-1)),
            ("stop", json!("\n")),
            ("stop", json!(["a", "b"])),
            ("max_tokens", json!(1)),
            ("min_tokens", json!(0)),
            ("ignore_eos", json!(true)),
            ("max_tokens", Value::Null),
        ];
        for (name, value) in good {
            assert_eq!(Settings::default().read(name, &value, name), Ok(true), "{name} {value}");
        }
        let bad = [
            ("temperature", json!(2.01)),
            ("temperature", json!(-0.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_p", json!(1.1)),
            ("min_p", json!(1.5)),
            ("top_k", json!(-1)),
            ("repetition_penalty", json!(0)),
            ("presence_penalty", json!(2.5)),
            ("seed", json!(0.5)),
            ("stop", json!("")),
            ("stop", json!(["a", 1])),
            ("stop", json!(vec!["x"; STOPS_MAX + 1])),
            ("stop", json!("x".repeat(STOP_BYTES_MAX + 1))),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(1.5)),
            ("ignore_eos", json!(1)),
        ];
        for (name, value) in bad {
            assert!(param(Settings::default().read(name, &value, name)).starts_with(name), "{name} {value}");
        }
        assert_eq!(Settings::default().read("temprature", &json!(1), "temprature"), Ok(false));
    }
}
