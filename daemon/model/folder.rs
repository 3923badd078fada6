//! A model folder, in either layout: ONNX Runtime GenAI's (`genai_config.json`) or Hugging Face's (`config.json`, `onnx/`).
//!
//! The session's own inputs and outputs decide how a graph is driven; what is read here only fills what they leave open.

mod layouts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fault::Fault;
use crate::model::manifest::Manifest;
use crate::model::variant;
use layouts::{experts, mixtures, read_genai, read_hugging_face};

/// What the config files say about the graph; each may be silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    pub input_ids: String,
    pub logits: String,
    pub head_size: Option<usize>,
    pub kv_heads: Option<usize>,
    pub layers: Option<usize>,
    pub vocabulary: Option<usize>,
    /// Whether one buffer is past and present; silent: found by trial.
    pub share_buffer: Option<bool>,
    /// Positions that a sliding window sees; its cache is never shorter.
    pub window: Option<usize>,
    /// Experts that each layer routes to, where the model has any.
    pub experts: Option<usize>,
    /// Layers that have them, where the config says which do.
    pub mixtures: Option<usize>,
    /// Names of caches: input and output, each with `%d` for the layer.
    pub states: Vec<(String, String)>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            input_ids: "input_ids".to_owned(),
            logits: "logits".to_owned(),
            head_size: None,
            kv_heads: None,
            layers: None,
            vocabulary: None,
            share_buffer: None,
            window: None,
            experts: None,
            mixtures: None,
            states: Vec::new(),
        }
    }
}

/// A folder that was read and found whole.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    /// The manifest's name, else the folder's.
    pub name: String,
    /// The `.onnx` file.
    pub graph: PathBuf,
    /// Whether that is a prepared copy: optimised, its weights in the layout of this machine's kernels.
    pub prepared: bool,
    /// What the file starts with that a profile of the graph's runs goes to; `None` but while somebody looks at one.
    pub profile: Option<PathBuf>,
    pub tokenizer: PathBuf,
    /// The chat template's source.
    pub template: String,
    pub bos: String,
    pub eos: String,
    /// Ids that end an answer: the union of all config files.
    pub eos_ids: Vec<u32>,
    /// Texts that end an answer where only the tokenizer's config names one.
    pub eos_texts: Vec<String>,
    /// Tokens of prompt and answer together.
    pub context: usize,
    pub hints: Hints,
    pub manifest: Option<Manifest>,
}

/// A context for folders whose configs name none.
const CONTEXT_DEFAULT: usize = 2048;

/// More than any model's config needs; a bound for a hostile one.
const CONFIG_BYTES_MAX: u64 = 64 << 20;

impl Folder {
    /// Reads what `path` holds for a provider: the folder itself, or the one in it that is named after the provider.
    pub fn load_for(path: &Path, provider: &str) -> Result<Self, Fault> {
        let chosen = variant::choose(path, provider)?;
        let folder = Self::load(&chosen)?;
        // `cuda` is no name for a model.
        let unnamed = chosen != path && folder.manifest.is_none();
        Ok(if unnamed { Self { name: folder_name(path), ..folder } } else { folder })
    }

    /// Reads a folder and compares its files with its manifest.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        if !path.is_dir() {
            return Err(Fault::config(format!("model folder `{}` does not exist", path.display()))
                .hint("set `model.dir` to a folder with `genai_config.json` or `config.json`"));
        }
        let manifest = Manifest::load(path)?;
        let genai = read_json(path, "genai_config.json")?;
        let config = read_json(path, "config.json")?;
        let generation = read_json(path, "generation_config.json")?;
        let tokenizer_config = read_json(path, "tokenizer_config.json")?;
        let (graph, hints, context) = match (&genai, &config) {
            (Some(genai), _) => read_genai(path, genai)?,
            (None, Some(config)) => read_hugging_face(path, config)?,
            (None, None) => {
                return Err(Fault::config(format!(
                    "model folder `{}` has neither `genai_config.json` nor `config.json`",
                    path.display()
                )));
            }
        };
        // The checkpoint's own config says so in either layout; ONNX Runtime GenAI's does not.
        let (experts, mixtures) = (config.as_ref().and_then(experts), config.as_ref().and_then(mixtures));
        let hints = Hints { experts, mixtures, ..hints };
        let missing =
            |file: &Path| Fault::config(format!("model folder `{}`: `{}` is missing", path.display(), file.display()));
        let tokenizer = path.join("tokenizer.json");
        if let Some(file) = [&graph, &tokenizer].into_iter().find(|file| !file.is_file()) {
            return Err(missing(file.strip_prefix(path).unwrap_or(file)));
        }
        let template = read_template(path, tokenizer_config.as_ref())?.ok_or_else(|| {
            missing(Path::new("chat_template")).hint("put it into `tokenizer_config.json` or `chat_template.jinja`")
        })?;
        let text = |key: &str| tokenizer_config.as_ref().map(|config| token_text(&config[key])).unwrap_or_default();
        let mut eos_ids = BTreeSet::new();
        for value in [
            genai.as_ref().map(|genai| &genai["model"]["eos_token_id"]),
            config.as_ref().map(|config| &config["eos_token_id"]),
            generation.as_ref().map(|generation| &generation["eos_token_id"]),
        ] {
            eos_ids.extend(value.into_iter().flat_map(ids));
        }
        let eos = text("eos_token");
        let limit = manifest.as_ref().map_or(0, |manifest| manifest.limits.context);
        Ok(Self {
            path: path.to_path_buf(),
            name: manifest.as_ref().map_or_else(|| folder_name(path), |manifest| manifest.name.clone()),
            graph,
            prepared: false,
            profile: None,
            tokenizer,
            template,
            bos: text("bos_token"),
            eos_texts: [eos.clone()].into_iter().filter(|text| !text.is_empty()).collect(),
            eos,
            eos_ids: eos_ids.into_iter().collect(),
            context: if limit > 0 { limit } else { context.unwrap_or(CONTEXT_DEFAULT) },
            hints,
            manifest,
        })
    }
}

fn folder_name(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    real.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, Fault> {
    let path = folder.join(name);
    let fault = |reason: String| Fault::config(format!("model file `{}`: {reason}", path.display()));
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
        Ok(meta) if meta.len() > CONFIG_BYTES_MAX => {
            return Err(fault(format!("{} bytes, the most is {CONFIG_BYTES_MAX}", meta.len())));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
    // Only a file that is no JSON is looked through for what Python adds to it.
    serde_json::from_str(&text)
        .or_else(|error| serde_json::from_str(&without_pythons_numbers(&text)).map_err(|_| error))
        .map(Some)
        .map_err(|error| fault(error.to_string()))
}

/// Python writes `Infinity` and `NaN`, which no JSON knows, into configs of models with state spaces; here they say nothing.
fn without_pythons_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    // Every other part is inside quotes; a quote behind a backslash does not end it.
    let mut inside = false;
    let mut rest = text;
    while !rest.is_empty() {
        let mut escaped = false;
        let end = rest.find(|letter| {
            let ends = letter == '"' && !escaped;
            escaped = inside && letter == '\\' && !escaped;
            ends
        });
        let (part, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        if inside {
            plain.push_str(part);
        } else {
            plain.push_str(&part.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"));
        }
        (inside, rest) = (!inside, behind);
    }
    plain
}

fn read_template(folder: &Path, tokenizer_config: Option<&Value>) -> Result<Option<String>, Fault> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let text = std::fs::read_to_string(&file);
        return text.map(Some).map_err(|error| Fault::config(format!("model file `{}`: {error}", file.display())));
    }
    Ok(tokenizer_config.and_then(|config| match &config["chat_template"] {
        Value::String(text) => Some(text.clone()),
        // Some tokenizers hold several by name; `tool_use` would be used by transformers only where tools are given.
        Value::Array(list) => list
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str().map(str::to_owned)),
        _ => None,
    }))
}

fn token_text(value: &Value) -> String {
    value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
}

fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
    }

    /// A copy of the tiny folder that a test may damage.
    fn copy() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(tiny()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        folder
    }

    #[test]
    fn which_layers_have_experts_is_counted_as_each_family_says_it() {
        let count = |text: &str| mixtures(&serde_json::from_str(text).unwrap());
        for (config, layers) in [
            (r#"{"num_hidden_layers": 6}"#, Some(6)),
            (r#"{"num_hidden_layers": 6, "first_k_dense_replace": 2, "moe_layer_freq": 1}"#, Some(4)),
            (r#"{"num_hidden_layers": 6, "moe_layer_freq": 2}"#, Some(3)),
            (r#"{"num_hidden_layers": 7, "decoder_sparse_step": 2}"#, Some(3)),
            (r#"{"num_hidden_layers": 6, "mlp_only_layers": [0, 5]}"#, Some(4)),
            (r#"{"num_hidden_layers": 6, "num_dense_layers": 1}"#, Some(5)),
            (r#"{"text_config": {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}}"#, Some(2)),
            (r#"{"num_hidden_layers": 6, "expert_layer_period": 2}"#, None),
            (r#"{"num_hidden_layers": 6, "moe_layer_freq": [0, 1]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(count(config), layers, "{config}");
        }
    }

    #[test]
    fn the_genai_layout_is_read() {
        let folder = Folder::load(&tiny()).unwrap();
        assert_eq!(
            (folder.name.as_str(), folder.context, folder.eos_ids.as_slice()),
            ("tiny", 8192, [256, 258].as_slice())
        );
        assert_eq!(folder.hints.head_size, Some(16));
        assert!(folder.manifest.unwrap().golden[0].expected["cpu"].ends_with(&[258]));
    }

    #[test]
    fn the_hugging_face_layout_is_read_and_eos_is_the_union() {
        let folder = copy();
        let path = folder.path();
        for file in ["genai_config.json", "manifest.toml"] {
            std::fs::remove_file(path.join(file)).unwrap();
        }
        std::fs::create_dir(path.join("onnx")).unwrap();
        std::fs::rename(path.join("model.onnx"), path.join("onnx/model_q4.onnx")).unwrap();
        let config = r#"{"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 16, "vocab_size": 264,
                         "max_position_embeddings": 128, "eos_token_id": 256}"#;
        std::fs::write(path.join("config.json"), config).unwrap();
        std::fs::write(path.join("generation_config.json"), r#"{"eos_token_id": [258, 256]}"#).unwrap();
        let read = Folder::load(path).unwrap();
        assert_eq!(
            (read.context, read.eos_ids.as_slice(), read.hints.head_size),
            (128, [256, 258].as_slice(), Some(16))
        );
        assert!(read.graph.ends_with("onnx/model_q4.onnx"));
    }

    #[test]
    fn a_config_with_pythons_infinity_is_read() {
        let folder = copy();
        std::fs::remove_file(folder.path().join("manifest.toml")).unwrap();
        let config = r#"{"limits": [0.0, Infinity, -Infinity, NaN], "note": "NaN \"Infinity", "num_experts": 4}"#;
        assert_eq!(
            without_pythons_numbers(config),
            r#"{"limits": [0.0, null, null, null], "note": "NaN \"Infinity", "num_experts": 4}"#
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(Folder::load(folder.path()).unwrap().hints.experts, Some(4));
        std::fs::write(folder.path().join("config.json"), r#"{"limits": Infinite}"#).unwrap();
        let fault = Folder::load(folder.path()).unwrap_err();
        assert!(fault.message.contains("config.json`: expected value at line 1 column 12"), "{fault}");
    }

    #[test]
    fn a_folder_with_a_fault_is_refused_with_its_name() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 6] = [
            ("digest of `model.onnx` is", |path| {
                let bytes = std::fs::read(path.join("model.onnx")).unwrap();
                std::fs::write(path.join("model.onnx"), &bytes[..bytes.len() / 2]).unwrap();
            }),
            ("`model.onnx`: No such file", |path| std::fs::remove_file(path.join("model.onnx")).unwrap()),
            ("`tokenizer.json` is missing", |path| {
                std::fs::remove_file(path.join("manifest.toml")).unwrap();
                std::fs::remove_file(path.join("tokenizer.json")).unwrap();
            }),
            ("neither `genai_config.json` nor `config.json`", |path| {
                std::fs::remove_file(path.join("manifest.toml")).unwrap();
                std::fs::remove_file(path.join("genai_config.json")).unwrap();
            }),
            ("`../other.onnx` leaves the folder", |path| {
                std::fs::remove_file(path.join("manifest.toml")).unwrap();
                let config = std::fs::read_to_string(path.join("genai_config.json")).unwrap();
                std::fs::write(path.join("genai_config.json"), config.replace("model.onnx", "../other.onnx")).unwrap();
            }),
            ("has version 2, this daemon reads 1", |path| {
                let text = std::fs::read_to_string(path.join("manifest.toml")).unwrap();
                std::fs::write(path.join("manifest.toml"), text.replace("version = 1", "version = 2")).unwrap();
            }),
        ];
        for (expected, damage) in cases {
            let folder = copy();
            damage(folder.path());
            let fault = Folder::load(folder.path()).unwrap_err();
            assert!(fault.message.contains(expected), "expected `{expected}`, got: {}", fault.message);
        }
        let fault = Folder::load(Path::new("/no/such/folder")).unwrap_err();
        assert!(fault.message.contains("`/no/such/folder` does not exist"), "{}", fault.message);
    }
}
