//! What a graph takes and gives, read from what the session declares. Pure.
//!
//! Names follow the exporters' habits (`past_key_values.N.key` → `present.N.key`); a `genai_config.json` may rename them.
//! An input that is not understood is refused by name before anything runs.

mod state;

use std::collections::BTreeSet;

use thiserror::Error;

pub use crate::engine::binding::state::{Form, Kind, StatePair};
use crate::engine::binding::state::{layer, state};
use crate::model::folder::Hints;
use crate::model::prepare::SCORE_ROWS;

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
    #[error("`{past}` is {past_dtype} and `{present}` is {present_dtype}")]
    Changes { past: String, past_dtype: String, present: String, present_dtype: String },
    #[error("`{name}` leaves its {what} open and no config file gives it")]
    Open { name: String, what: &'static str },
    #[error("the graph has {graph} cache layers, the config says {config}")]
    Layers { graph: usize, config: usize },
}

/// An input or output whose name and element type the graph chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    pub name: String,
    pub kind: Kind,
    /// Dimensions that it has.
    pub rank: usize,
}

/// How to drive a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `[rows, width]`.
    pub input_ids: Typed,
    /// `[rows, positions]`: 1 where a row holds a token.
    pub attention_mask: Option<Typed>,
    /// `[rows, width]`, or with rank 3 `[3, rows, width]`: the same position thrice for text.
    pub position_ids: Option<Typed>,
    /// `[rows]`: how many tokens of the padded width each row has. What makes rows of different lengths possible.
    pub query_lengths: Option<Typed>,
    /// A number: how many of the last positions the graph shall score.
    pub logits_to_keep: Option<Typed>,
    /// `[scores]`: the positions to be scored, counted through the padded rows. Then the scores are `[1, scores, vocabulary]`.
    pub score_rows: Option<Typed>,
    /// `[rows, positions scored, vocabulary]`.
    pub logits: Typed,
    pub vocabulary: usize,
    /// Whether the graph scores the last position only.
    pub pruned: bool,
    /// Whether the graph was exported for one sequence only.
    pub single: bool,
    pub states: Vec<StatePair>,
}

const IDS: &[Kind] = &[Kind::Int64, Kind::Int32];
const MASKS: &[Kind] = &[Kind::Int64, Kind::Int32, Kind::Bool];
const FLOATS: &[Kind] = &[Kind::Float32, Kind::Float16, Kind::Bfloat16];

impl Binding {
    /// Reads a binding from what the session declares.
    pub fn read(inputs: &[Declared], outputs: &[Declared], hints: &Hints) -> Result<Self, BindingError> {
        let find = |list: &[Declared], name: &str| list.iter().find(|declared| declared.name == name).cloned();
        let input_ids = find(inputs, &hints.input_ids).ok_or_else(|| BindingError::Missing(hints.input_ids.clone()))?;
        let logits = find(outputs, &hints.logits).ok_or_else(|| BindingError::Missing(hints.logits.clone()))?;
        let mut binding = Self {
            input_ids: typed(&input_ids, IDS, "int64 or int32", &[2], "2")?,
            attention_mask: None,
            position_ids: None,
            query_lengths: None,
            logits_to_keep: None,
            score_rows: None,
            logits: typed(&logits, FLOATS, "float32, float16 or bfloat16", &[3], "3")?,
            vocabulary: known(logits.dims[2])
                .or(hints.vocabulary)
                .ok_or_else(|| BindingError::Open { name: logits.name.clone(), what: "vocabulary" })?,
            pruned: logits.dims[1] == 1,
            single: input_ids.dims[0] == 1,
            states: Vec::new(),
        };
        for input in inputs.iter().filter(|input| input.name != input_ids.name) {
            match input.name.as_str() {
                "attention_mask" => {
                    binding.attention_mask = Some(typed(input, MASKS, "int64, int32 or bool", &[2], "2")?);
                }
                "position_ids" => {
                    let positions = typed(input, IDS, "int64 or int32", &[2, 3], "2 or 3")?;
                    if positions.rank == 3 && input.dims[0] > 0 && input.dims[0] != PLANES {
                        return Err(unknown(input));
                    }
                    binding.position_ids = Some(positions);
                }
                "query_seqlens" => {
                    binding.query_lengths = Some(typed(input, &[Kind::Int32], "int32", &[1], "1")?);
                }
                "num_logits_to_keep" | "logits_to_keep" => {
                    binding.logits_to_keep = Some(typed(input, IDS, "int64 or int32", &[0, 1], "0 or 1")?);
                }
                SCORE_ROWS => {
                    binding.score_rows = Some(typed(input, &[Kind::Int64], "int64", &[1], "1")?);
                }
                _ => {
                    let state = state(input, outputs, hints)?.ok_or_else(|| unknown(input))?;
                    binding.single |= input.dims[0] == 1;
                    binding.states.push(state);
                }
            }
        }
        if binding.states.is_empty() {
            return Err(BindingError::Missing("past_key_values.0.key".to_owned()));
        }
        let layers: BTreeSet<&str> = binding.states.iter().filter_map(|state| layer(&state.past)).collect();
        match hints.layers {
            Some(config) if config != layers.len() => Err(BindingError::Layers { graph: layers.len(), config }),
            _ => Ok(binding),
        }
    }

    /// The inputs' names, in the order in which a run hands them over.
    pub fn input_names(&self) -> Vec<String> {
        let lengths = [&self.query_lengths, &self.logits_to_keep, &self.score_rows];
        let optional = [&self.attention_mask, &self.position_ids].into_iter().chain(lengths);
        let given = [&self.input_ids].into_iter().chain(optional.flatten());
        given.map(|input| &input.name).chain(self.states.iter().map(|state| &state.past)).cloned().collect()
    }

    /// The outputs' names, in the order in which a run hands them over.
    pub fn output_names(&self) -> Vec<String> {
        [&self.logits.name].into_iter().chain(self.states.iter().map(|state| &state.present)).cloned().collect()
    }

    /// Whether some state has one size whatever was read, so that tokens cannot be taken back.
    pub fn has_fixed_state(&self) -> bool {
        self.states.iter().any(StatePair::is_fixed)
    }
}

/// Planes of positions where they have three dimensions: time, height and width of a picture.
const PLANES: i64 = 3;

fn known(size: i64) -> Option<usize> {
    usize::try_from(size).ok().filter(|size| *size > 0)
}

fn unknown(input: &Declared) -> BindingError {
    BindingError::UnknownInput { name: input.name.clone(), dtype: input.dtype.clone(), rank: input.dims.len() }
}

fn typed(
    declared: &Declared,
    kinds: &[Kind],
    wanted: &'static str,
    ranks: &[usize],
    rank: &'static str,
) -> Result<Typed, BindingError> {
    let kind = Kind::named(&declared.dtype).filter(|kind| kinds.contains(kind));
    let kind =
        kind.ok_or_else(|| BindingError::Type { name: declared.name.clone(), dtype: declared.dtype.clone(), wanted })?;
    if !ranks.contains(&declared.dims.len()) {
        return Err(BindingError::Rank { name: declared.name.clone(), rank: declared.dims.len(), wanted: rank });
    }
    Ok(Typed { name: declared.name.clone(), kind, rank: declared.dims.len() })
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
        assert_eq!((binding.vocabulary, binding.states.len(), binding.pruned), (4096, 2, false));
        assert_eq!(binding.states[0].present, "present.0.key");
        assert_eq!(binding.states[0].form, Form::Growing { heads: 2, head_size: 64 });
        assert_eq!(binding.states[0].row_bytes(10), 2 * 10 * 64 * 4);
        assert_eq!(binding.output_names(), ["logits", "present.0.key", "present.0.value"]);
    }

    #[test]
    fn every_optional_input_and_kind_of_state_is_read() {
        let (mut inputs, mut outputs) = graph();
        inputs.push(declared("position_ids", "int64", &[3, -1, -1]));
        inputs.push(declared("query_seqlens", "int32", &[-1]));
        inputs.push(declared("num_logits_to_keep", "int64", &[]));
        inputs.push(declared("past.1.conv", "float16", &[-1, 48, 3]));
        inputs.push(declared("past_key_values.1.recurrent", "bfloat16", &[-1, 4, 8, 8]));
        outputs.push(declared("present.1.conv", "float16", &[-1, 48, 3]));
        outputs.push(declared("present.1.recurrent", "bfloat16", &[-1, 4, 8, 8]));
        inputs[1].dtype = "bool".into();
        outputs[0] = declared("logits", "bfloat16", &[-1, 1, 4096]);
        let hints = Hints { layers: Some(2), ..Hints::default() };
        let binding = Binding::read(&inputs, &outputs, &hints).unwrap();
        assert_eq!(binding.attention_mask.as_ref().unwrap().kind, Kind::Bool);
        assert_eq!(binding.position_ids.as_ref().unwrap().rank, 3);
        assert!(binding.query_lengths.is_some() && binding.logits_to_keep.is_some() && binding.pruned);
        assert_eq!((binding.logits.kind, binding.has_fixed_state()), (Kind::Bfloat16, true));
        assert_eq!(binding.states[2].shape(5, 100), [5, 48, 3]);
        assert_eq!(binding.states[3].row_bytes(100), 4 * 8 * 8 * 2);
        assert_eq!(binding.states[3].present, "present.1.recurrent");
        let names = binding.input_names();
        assert_eq!(names[..4], ["input_ids", "attention_mask", "position_ids", "query_seqlens"]);
    }

    #[test]
    fn a_configs_templates_rename_caches() {
        let (mut inputs, mut outputs) = graph();
        inputs[2].name = "k_in_0".into();
        outputs[1].name = "k_out_0".into();
        assert!(matches!(
            Binding::read(&inputs, &outputs, &Hints::default()),
            Err(BindingError::UnknownInput { name, .. }) if name == "k_in_0"
        ));
        let hints = Hints { states: vec![("k_in_%d".into(), "k_out_%d".into())], ..Hints::default() };
        assert_eq!(Binding::read(&inputs, &outputs, &hints).unwrap().states[0].present, "k_out_0");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let (mut inputs, outputs) = graph();
        inputs.push(declared("token_type_ids", "int64", &[-1, -1]));
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("`token_type_ids`"), "{error}");

        let (mut inputs, outputs) = graph();
        inputs[2].dtype = "float64".into();
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("`past_key_values.0.key` is float64"), "{error}");

        let (mut inputs, outputs) = graph();
        inputs[2].dtype = "float16".into();
        let error = Binding::read(&inputs, &outputs, &Hints::default()).unwrap_err().to_string();
        assert!(error.contains("is float16 and `present.0.key` is float32"), "{error}");

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
        let form = Form::Growing { heads: 2, head_size: 64 };
        assert_eq!(Binding::read(&inputs, &outputs, &hints).unwrap().states[1].form, form);
        let hints = Hints { layers: Some(3), head_size: Some(64), ..Hints::default() };
        assert_eq!(Binding::read(&inputs, &outputs, &hints), Err(BindingError::Layers { graph: 1, config: 3 }));
    }
}
