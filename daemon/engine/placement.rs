//! Where each node of a graph really ran: a graph that is half on the CPU under a chosen GPU is slower than either alone, and
//! the runtime does not say so by itself.
//!
//! The runtime's profile of a warm-up run names the provider of every node that ran. From version 1.24 on there is a call
//! for the same (`Session_GetEpGraphAssignmentInfo`); it is a field of the API table that the bindings declare only under a
//! feature which would make every older runtime refuse to load, and reaching it without would be arithmetic on a foreign
//! structure. The profile needs neither and works with every version.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::engine::forward::{Forward, Row};
use crate::engine::provider::Provider;
use crate::engine::runtime;
use crate::engine::session::{Kept, OnnxForward, Settings};
use crate::fault::Fault;
use crate::model::folder::Folder;

/// One node, and where it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub node: String,
    pub op: String,
    /// ONNX Runtime's name.
    pub provider: String,
}

/// Nodes that are named in a refusal; the rest is counted.
const NAMED_MAX: usize = 8;

/// Tokens of the warm-up run, and of the context that it has.
const TOKENS: usize = 4;
const CONTEXT: usize = 64;
/// More than a few runs of any graph leave.
const PROFILE_BYTES_MAX: u64 = 256 << 20;

/// Runs a folder's graph and refuses it where its work is not done by the process's provider.
pub fn check(folder: &Folder, settings: &Settings) -> Result<(), Fault> {
    let provider = runtime::provider();
    if provider == Provider::Cpu {
        // The last resort of the runtime: nothing can run anywhere else.
        return Ok(());
    }
    refuse(&folder.name, &observe(folder, settings)?, provider)
}

/// Runs a folder's graph as the engine does, for a few tokens, and says where its nodes ran.
pub fn observe(folder: &Folder, settings: &Settings) -> Result<Vec<Placed>, Fault> {
    let failed = |reason: String| Fault::config(format!("model `{}`: where its nodes run: {reason}", folder.name));
    let place = Place::make().map_err(failed)?;
    let profiled = Folder { profile: Some(place.0.join("run")), ..folder.clone() };
    let context = settings.context.min(CONTEXT);
    let settings =
        Settings { slots: 1, context, row_max: settings.row_max.min(context), kept: Kept::Pieces(0), ..*settings };
    let mut forward = OnnxForward::load(&profiled, &settings)?;
    let tokens = [1; TOKENS];
    let tokens = &tokens[..TOKENS.min(settings.row_max)];
    forward
        .forward(&[Row { slot: 0, past: 0, tokens, scores: 1 }])
        .map_err(|error| failed(format!("a warm-up run: {error}")))?;
    // The runtime writes the profile out when the session ends.
    drop(forward);
    place.profile().and_then(|profile| read(&profile)).map_err(failed)
}

/// A private folder that goes with its owner.
struct Place(PathBuf);

impl Place {
    fn make() -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("moed-profile-{}-{number}", std::process::id()));
        // Not recursive: a folder of that name that somebody else made is an error.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("`{}`: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// The one file in it; its name ends with the time of day.
    fn profile(&self) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("`{}`: {error}", self.0.display());
        let entry = std::fs::read_dir(&self.0).map_err(failed)?.next().ok_or("the runtime wrote no profile")?;
        let path = entry.map_err(failed)?.path();
        let bytes = std::fs::metadata(&path).map_err(failed)?.len();
        if bytes > PROFILE_BYTES_MAX {
            return Err(format!("the profile has {bytes} bytes, the most is {PROFILE_BYTES_MAX}"));
        }
        std::fs::read_to_string(path).map_err(failed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a profile is left behind");
        }
    }
}

/// Reads the runtime's profile: a list of events, one a kernel among others.
pub fn read(profile: &str) -> Result<Vec<Placed>, String> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        cat: String,
        #[serde(default)]
        name: String,
        #[serde(default)]
        args: Arguments,
    }
    #[derive(Default, Deserialize)]
    struct Arguments {
        #[serde(default)]
        op_name: String,
        #[serde(default)]
        provider: String,
    }
    let events: Vec<Event> = serde_json::from_str(profile).map_err(|error| format!("the profile: {error}"))?;
    let placed: Vec<Placed> = events
        .into_iter()
        .filter(|event| event.cat == "Node" && !event.args.provider.is_empty())
        .map(|event| Placed {
            node: event.name.trim_end_matches("_kernel_time").to_owned(),
            op: event.args.op_name,
            provider: event.args.provider,
        })
        .collect();
    if placed.is_empty() { Err("the profile names no node".to_owned()) } else { Ok(placed) }
}

/// The rule: attention, experts and matrix products belong to the chosen provider. Shapes and masks may stay on the CPU.
pub fn refuse(model: &str, placed: &[Placed], provider: Provider) -> Result<(), Fault> {
    let strays: Vec<&Placed> =
        placed.iter().filter(|node| is_heavy(&node.op) && node.provider != provider.full_name()).collect();
    if strays.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = strays
        .iter()
        .take(NAMED_MAX)
        .map(|node| format!("`{}` ({}) on `{}`", node.node, node.op, node.provider))
        .collect();
    let more = strays.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let of = placed.iter().filter(|node| is_heavy(&node.op)).count();
    Err(Fault::config(format!(
        "model `{model}`: {} of {of} attention, expert and product nodes do not run on `{}`: {}{more}",
        strays.len(),
        provider.name(),
        named.join(", ")
    ))
    .hint("use a graph that was exported for this provider, or set `engine.provider` to `cpu`"))
}

fn is_heavy(op: &str) -> bool {
    ["Attention", "MoE", "MatMul", "Gemm"].iter().any(|part| op.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from the tiny model on 1.32, shortened.
    const PROFILE: &str = r#"[
{"cat" : "Session","pid" :7,"tid" :7,"dur" :34053,"ts" :4916,"ph" : "X","name" :"session_initialization","args" : {}},
{"cat" : "Node","pid" :7,"tid" :7,"dur" :47,"ts" :39692,"ph" : "X","name" :"Gather_18_kernel_time","args" : {"op_name" : "Gather","provider" : "CPUExecutionProvider","node_index" : "18","input_type_shape" : [{"float":[264,16]},{"int64":[1,1]}]}},
{"cat" : "Node","pid" :7,"tid" :7,"dur" :10,"ts" :39743,"ph" : "X","name" :"MatMul_30_kernel_time","args" : {"op_name" : "MatMul","provider" : "CPUExecutionProvider","node_index" : "30"}},
{"cat" : "Node","pid" :7,"tid" :7,"dur" :9,"ts" :39800,"ph" : "X","name" :"/layers.0/attention_kernel_time","args" : {"op_name" : "GroupQueryAttention","provider" : "CPUExecutionProvider","node_index" : "3"}},
{"cat" : "Session","pid" :7,"tid" :7,"dur" :900,"ts" :39600,"ph" : "X","name" :"model_run","args" : {}}
]"#;

    fn placed(op: &str, provider: &str) -> Placed {
        Placed { node: format!("n_{op}"), op: op.to_owned(), provider: provider.to_owned() }
    }

    #[test]
    fn a_profile_says_where_each_node_ran() {
        let nodes = read(PROFILE).unwrap();
        assert_eq!(nodes.len(), 3);
        assert_eq!((nodes[2].node.as_str(), nodes[2].op.as_str()), ("/layers.0/attention", "GroupQueryAttention"));
        assert!(nodes.iter().all(|node| node.provider == Provider::Cpu.full_name()));
        assert!(read("[").is_err() && read("[]").unwrap_err().contains("names no node"));
    }

    #[test]
    fn heavy_nodes_on_another_provider_are_refused_by_name_and_light_ones_are_not() {
        let nodes = read(PROFILE).unwrap();
        refuse("m", &nodes, Provider::Cpu).unwrap();
        let fault = refuse("m", &nodes, Provider::Cuda).unwrap_err();
        assert!(fault.message.contains("2 of 2") && fault.message.contains("`/layers.0/attention`"), "{fault}");
        assert!(!fault.message.contains("Gather"), "{fault}");
        let (cpu, cuda) = (Provider::Cpu.full_name(), Provider::Cuda.full_name());
        let good =
            [placed("QMoE", cuda), placed("GroupQueryAttention", cuda), placed("Shape", cpu), placed("Sub", cpu)];
        refuse("m", &good, Provider::Cuda).unwrap();
        let many: Vec<Placed> = (0..20).map(|_| placed("MatMulNBits", cpu)).collect();
        let fault = refuse("m", &many, Provider::Cuda).unwrap_err();
        assert!(fault.message.contains("and 12 more"), "{fault}");
    }
}
