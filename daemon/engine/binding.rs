//! What a graph takes and gives, read from what the session declares. Pure.
//!
//! Names follow the exporters' habits (`past_key_values.N.key` → `present.N.key`); a `genai_config.json` may rename them.
//! An input that is not understood is refused by name before anything runs.

use thiserror::Error;

use crate::model::folder::Hints;

/// One declared input or output: its name, element type in ONNX's words, and sizes (-1 where open).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub name: String,
    pub dtype: String,
    pub dims: Vec<i64>,
}

/// A graph that this engine cannot drive.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BindingError {
    #[error("the graph needs the input `{name}` ({dtype}, rank {rank}), which is not known here")]
    UnknownInput { name: String, dtype: String, rank: usize },
    #[error("the graph has no `{0}`")]
    Missing(String),
    #[error("`{name}` is {dtype}, this engine drives {wanted}")]
    Type { name: String, dtype: String, wanted: &'static str },
    #[error("`{name}` has {rank} dimensions, expected {wanted}")]
    Rank { name: String, rank: usize, wanted: &'static str },
    #[error("the cache input `{0}` has no output beside it")]
    Unpaired(String),
    #[error("`{name}` leaves its {what} open and no config file gives it")]
    Open { name: String, what: &'static str },
    #[error("the graph has {graph} cache layers, the config says {config}")]
    Layers { graph: usize, config: usize },
}

/// One key or value cache: bound as past and as present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePair {
    pub past: String,
    pub present: String,
    pub heads: usize,
    pub head_size: usize,
}

/// How to drive a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub input_ids: String,
    pub attention_mask: Option<String>,
    pub position_ids: Option<String>,
    pub logits: String,
    pub vocabulary: usize,
    /// Whether the graph gives scores for the last position only.
    pub pruned: bool,
    pub caches: Vec<CachePair>,
}

impl Binding {
    /// Reads a binding from what the session declares.
    pub fn read(inputs: &[Declared], outputs: &[Declared], hints: &Hints) -> Result<Self, BindingError> {
        let mut binding = Self {
            input_ids: String::new(),
            attention_mask: None,
            position_ids: None,
            logits: String::new(),
            vocabulary: 0,
            pruned: false,
            caches: Vec::new(),
        };
        for input in inputs {
            if input.name == hints.input_ids {
                expect(input, "int64", "2", &[2])?;
                binding.input_ids.clone_from(&input.name);
            } else if input.name == "attention_mask" {
                expect(input, "int64", "2", &[2])?;
                binding.attention_mask = Some(input.name.clone());
            } else if input.name == "position_ids" {
                expect(input, "int64", "2", &[2])?;
                binding.position_ids = Some(input.name.clone());
            } else if let Some(present) = present_name(&input.name) {
                expect(input, "float32", "4", &[4])?;
                if !outputs.iter().any(|output| output.name == present) {
                    return Err(BindingError::Unpaired(input.name.clone()));
                }
                let size = |index: usize, hint: Option<usize>, what| {
                    usize::try_from(input.dims[index])
                        .ok()
                        .filter(|size| *size > 0)
                        .or(hint)
                        .ok_or_else(|| BindingError::Open { name: input.name.clone(), what })
                };
                let heads = size(1, hints.kv_heads, "number of heads")?;
                let head_size = size(3, hints.head_size, "head size")?;
                binding.caches.push(CachePair { past: input.name.clone(), present, heads, head_size });
            } else {
                return Err(BindingError::UnknownInput {
                    name: input.name.clone(),
                    dtype: input.dtype.clone(),
                    rank: input.dims.len(),
                });
            }
        }
        if binding.input_ids.is_empty() {
            return Err(BindingError::Missing(hints.input_ids.clone()));
        }
        let logits = outputs.iter().find(|output| output.name == hints.logits);
        let logits = logits.ok_or_else(|| BindingError::Missing(hints.logits.clone()))?;
        expect(logits, "float32", "3", &[3])?;
        binding.vocabulary = usize::try_from(logits.dims[2])
            .ok()
            .filter(|size| *size > 0)
            .or(hints.vocabulary)
            .ok_or_else(|| BindingError::Open { name: logits.name.clone(), what: "vocabulary" })?;
        binding.pruned = logits.dims[1] == 1;
        binding.logits.clone_from(&logits.name);
        if binding.caches.is_empty() {
            return Err(BindingError::Missing("past_key_values.0.key".to_owned()));
        }
        if let Some(layers) = hints.layers
            && binding.caches.len() != 2 * layers
        {
            return Err(BindingError::Layers { graph: binding.caches.len() / 2, config: layers });
        }
        Ok(binding)
    }
}

fn present_name(past: &str) -> Option<String> {
    let rest = past.strip_prefix("past_key_values.").or_else(|| past.strip_prefix("past."))?;
    matches!(rest.rsplit('.').next(), Some("key" | "value")).then(|| format!("present.{rest}"))
}

fn expect(declared: &Declared, dtype: &'static str, wanted: &'static str, ranks: &[usize]) -> Result<(), BindingError> {
    if declared.dtype != dtype {
        return Err(BindingError::Type { name: declared.name.clone(), dtype: declared.dtype.clone(), wanted: dtype });
    }
    if !ranks.contains(&declared.dims.len()) {
        return Err(BindingError::Rank { name: declared.name.clone(), rank: declared.dims.len(), wanted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, dtype: &str, dims: &[i64]) -> Declared {
        Declared { name: name.into(), dtype: dtype.into(), dims: dims.to_vec() }
    }

    fn graph() -> (Vec<Declared>, Vec<Declared>) {
        let cache = [-1, 2, -1, 64];
        let inputs = vec![
            declared("input_ids", "int64", &[-1, -1]),
            declared("attention_mask", "int64", &[-1, -1]),
            declared("past_key_values.0.key", "float32", &cache),
            declared("past_key_values.0.value", "float32", &cache),
        ];
        let outputs = vec![
            declared("logits", "float32", &[-1, -1, 4096]),
            declared("present.0.key", "float32", &cache),
            declared("present.0.value", "float32", &cache),
        ];
        (inputs, outputs)
    }

    #[test]
    fn a_graph_is_read_from_what_it_declares() {
        let (inputs, outputs) = graph();
        let binding = Binding::read(&inputs, &outputs, &Hints::default()).unwrap();
        assert_eq!((binding.vocabulary, binding.caches.len(), binding.pruned), (4096, 2, false));
        assert_eq!(binding.caches[0].present, "present.0.key");
        assert_eq!((binding.caches[0].heads, binding.caches[0].head_size), (2, 64));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let (mut inputs, outputs) = graph();
        inputs.push(declared("token_type_ids", "int64", &[-1, -1]));
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("`token_type_ids`"), "{error}");

        let (mut inputs, outputs) = graph();
        inputs[2].dtype = "float16".into();
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("`past_key_values.0.key` is float16"), "{error}");

        let (inputs, mut outputs) = graph();
        outputs.remove(2);
        assert_eq!(
            Binding::read(&inputs, &outputs, &Hints::default()),
            Err(BindingError::Unpaired("past_key_values.0.value".into()))
        );
    }

    #[test]
    fn an_open_head_size_comes_from_the_config_or_is_an_error() {
        let (mut inputs, outputs) = graph();
        inputs[2].dims[3] = -1;
        inputs[3].dims[3] = -1;
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("leaves its head size open"), "{error}");
        let hints = Hints { head_size: Some(64), ..Hints::default() };
        assert_eq!(Binding::read(&inputs, &outputs, &hints).unwrap().caches[1].head_size, 64);
        let hints = Hints { layers: Some(3), head_size: Some(64), ..Hints::default() };
        assert_eq!(Binding::read(&inputs, &outputs, &hints), Err(BindingError::Layers { graph: 1, config: 3 }));
    }
}
