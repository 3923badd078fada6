//! `manifest.toml`: digests of every file, golden prompts with the tokens that must follow, the tool dialect, limits.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::fault::Fault;

/// The file's name in the folder.
pub const FILE: &str = "manifest.toml";

/// The only version so far.
const VERSION: u32 = 1;

/// A manifest as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// How the model writes calls; `hermes` is the one known.
    #[serde(default)]
    pub tool_dialect: String,
    /// Whether moed's own tools may be added to a request that brings none.
    #[serde(default)]
    pub own_tools: bool,
    /// How sure the model must be before one of moed's own tools is called.
    #[serde(default)]
    pub confidence: Confidence,
    #[serde(default)]
    pub limits: Limits,
    /// File name to `sha256:<hex>`.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub golden: Vec<Golden>,
    /// SHA-256 of the manifest itself, in hex: it names every file's digest, so it names the whole.
    #[serde(skip)]
    pub digest: String,
}

/// Bounds that the model's makers set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Tokens of prompt and answer together that the model was trained for; 0: what its config says.
    pub context: usize,
}

/// The least probability that the least likely token of an answer may have, by what a wrong call risks; 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Confidence {
    /// Where it can be taken back: a light.
    pub low: f32,
    /// Where it lets in people, water or heat.
    pub high: f32,
}

impl Default for Confidence {
    /// What a model gets whose makers measured nothing.
    fn default() -> Self {
        Self { low: 0.8, high: 0.98 }
    }
}

/// A prompt and the tokens that must follow it, greedily.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The rendered prompt, for people.
    #[serde(default)]
    pub text: String,
    pub prompt: Vec<u32>,
    /// Provider (`cpu`, `cuda`) to tokens.
    pub expected: BTreeMap<String, Vec<u32>>,
}

impl Manifest {
    /// Reads a manifest and compares every file that it names; `None` where the folder has none.
    pub fn load(folder: &Path) -> Result<Option<Self>, Fault> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::config(format!("manifest `{}`: {error}", path.display()))),
        };
        let mut manifest: Self = toml::from_str(&text).map_err(|error| {
            Fault::config(format!("manifest `{}`: {}", path.display(), error.to_string().trim_end().replace('\n', " ")))
        })?;
        if manifest.version != VERSION {
            return Err(Fault::config(format!(
                "manifest `{}` has version {}, this daemon reads {VERSION}",
                path.display(),
                manifest.version
            )));
        }
        if !["", "hermes"].contains(&manifest.tool_dialect.as_str()) {
            return Err(Fault::config(format!(
                "manifest `{}`: tool dialect `{}` is not known",
                path.display(),
                manifest.tool_dialect
            )));
        }
        for (name, digest) in &manifest.files {
            manifest.check_file(folder, name, digest)?;
        }
        manifest.digest = hex(&Sha256::digest(text.as_bytes()));
        Ok(Some(manifest))
    }

    fn check_file(&self, folder: &Path, name: &str, expected: &str) -> Result<(), Fault> {
        let fault = |text: String| {
            Fault::config(format!("model `{}`: {text}", self.name))
                .hint("copy the folder again, or run `moed check --models`")
        };
        if !is_inside(name) {
            return Err(fault(format!("the manifest names `{name}`, which leaves the folder")));
        }
        let digest = digest(&folder.join(name)).map_err(|error| fault(format!("`{name}`: {error}")))?;
        if format!("sha256:{digest}") != *expected {
            let short = |hex: &str| hex.trim_start_matches("sha256:").chars().take(12).collect::<String>();
            return Err(fault(format!(
                "digest of `{name}` is {}…, manifest says {}…",
                short(&digest),
                short(expected)
            )));
        }
        Ok(())
    }
}

/// Whether a relative path stays in the folder that it is relative to.
pub fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|component| matches!(component, Component::Normal(_)))
}

/// SHA-256 of a file, in hex, read in pieces.
pub fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0_u8; 1 << 20];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece[..read]);
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a `String` cannot fail.
        write!(out, "{byte:02x}").ok();
        out
    })
}
