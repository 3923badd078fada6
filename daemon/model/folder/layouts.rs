//! What either layout's configs say of the graph, and where its file lies.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Hints;
use crate::fault::Fault;
use crate::model::manifest::is_inside;

/// The graph's file, what is said of it, and the context.
type Read = (PathBuf, Hints, Option<usize>);

pub(super) fn read_genai(folder: &Path, config: &Value) -> Result<Read, Fault> {
    let model = &config["model"];
    let decoder = &model["decoder"];
    let file = decoder["filename"].as_str().unwrap_or("model.onnx");
    let graph = inside(folder, file)?;
    let hints = Hints {
        input_ids: decoder["inputs"]["input_ids"].as_str().unwrap_or("input_ids").to_owned(),
        logits: decoder["outputs"]["logits"].as_str().unwrap_or("logits").to_owned(),
        head_size: number(&decoder["head_size"]),
        kv_heads: number(&decoder["num_key_value_heads"]),
        layers: number(&decoder["num_hidden_layers"]),
        vocabulary: number(&model["vocab_size"]),
        share_buffer: config["search"]["past_present_share_buffer"].as_bool(),
        window: number(&decoder["sliding_window"]["window_size"]),
        experts: None,
        mixtures: None,
        states: state_names(decoder),
    };
    Ok((graph, hints, number(&model["context_length"])))
}

pub(super) fn read_hugging_face(folder: &Path, config: &Value) -> Result<Read, Fault> {
    let graph = inside(folder, "onnx/model.onnx")?;
    let graph = if graph.is_file() { graph } else { other_graph(folder)? };
    let heads = number(&config["num_attention_heads"]);
    let hints = Hints {
        head_size: number(&config["head_dim"])
            .or_else(|| Some(number(&config["hidden_size"])? / heads.filter(|heads| *heads > 0)?)),
        kv_heads: number(&config["num_key_value_heads"]).or(heads),
        layers: number(&config["num_hidden_layers"]),
        vocabulary: number(&config["vocab_size"]),
        window: number(&config["sliding_window"]),
        ..Hints::default()
    };
    Ok((graph, hints, number(&config["max_position_embeddings"])))
}

/// The templates that name caches: `past_key_names` among the inputs goes with `present_key_names` among the outputs.
fn state_names(decoder: &Value) -> Vec<(String, String)> {
    let inputs = decoder["inputs"].as_object().into_iter().flatten();
    inputs
        .filter_map(|(key, past)| {
            let present = &decoder["outputs"][format!("present{}", key.strip_prefix("past")?)];
            Some((past.as_str()?.to_owned(), present.as_str()?.to_owned()))
        })
        .filter(|(past, present)| past.contains("%d") && present.contains("%d"))
        .collect()
}

/// Experts of a layer, by any of the names that configs use; models that also see keep them one level down.
pub(super) fn experts(config: &Value) -> Option<usize> {
    let keys = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];
    let found = keys.iter().find_map(|key| number(&config[*key]).or_else(|| number(&config["text_config"][*key])));
    found.filter(|experts| *experts > 1)
}

/// Layers that have experts: all, but for the dense ones at the begin, those that are listed, and those between every
/// so-manieth. `None` where the config says it in words that are not known here.
pub(super) fn mixtures(config: &Value) -> Option<usize> {
    let config = if config["num_hidden_layers"].is_null() { &config["text_config"] } else { config };
    let read = |keys: &[&str]| keys.iter().find_map(|key| number(&config[*key]));
    let known = ["moe_layer_freq", "interleave_moe_layer_step"];
    let foreign = |key: &String| {
        ["expert_layer", "moe_layer"].iter().any(|word| key.contains(word)) && !known.contains(&key.as_str())
    };
    if config.as_object()?.keys().any(foreign) || config["moe_layer_freq"].is_array() {
        return None;
    }
    let dense = read(&["first_k_dense_replace", "num_dense_layers"]).unwrap_or(0);
    // DeepSeek counts from the first layer, Qwen and Llama from the last of each group.
    let (step, first) = match read(&["moe_layer_freq"]) {
        Some(step) => (step, 0),
        None => (read(&["decoder_sparse_step", "interleave_moe_layer_step"]).unwrap_or(1), 1),
    };
    let listed: Vec<usize> = config["mlp_only_layers"].as_array().into_iter().flatten().filter_map(number).collect();
    let sparse = |layer: &usize| (layer + first).is_multiple_of(step.max(1)) && !listed.contains(layer);
    Some((dense..read(&["num_hidden_layers"])?).filter(sparse).count())
}

/// The first graph by name where there is no `onnx/model.onnx` (`onnx/model_q4.onnx`, `model.onnx`).
fn other_graph(folder: &Path) -> Result<PathBuf, Fault> {
    let mut found: Vec<PathBuf> = [folder.join("onnx"), folder.to_path_buf()]
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flat_map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    found.sort();
    found
        .into_iter()
        .next()
        .ok_or_else(|| Fault::config(format!("model folder `{}`: `onnx/model.onnx` is missing", folder.display())))
}

/// A file named by a config; it may not leave the folder, by its name or by a link.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    let path = folder.join(name);
    let leaves = || Fault::config(format!("model folder `{}`: `{name}` leaves the folder", folder.display()));
    if !is_inside(name) {
        return Err(leaves());
    }
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(real), Ok(root)) if !real.starts_with(&root) => Err(leaves()),
        _ => Ok(path),
    }
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}
