//! What makes a graph ready for one machine, as far as no runtime is needed: which changes help it, and what a prepared
//! copy depends on.
//!
//! A prepared copy holds weights in the layout of one CPU's kernels in one version of the runtime. It is good for exactly the
//! [`Key`] that it was made for and never taken for anything else.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::model::folder::Folder;
use crate::model::graph::{Attribute, FILE_BYTES_MAX, Graph, GraphError, Node};
use crate::model::manifest::{digest, hex, is_inside};

/// Goes up whenever preparation does something else than before; a copy of another version is made anew.
pub const FORMAT: u32 = 1;

/// The level of `accuracy_level` that multiplies in 8-bit integers.
const INT8_ACTIVATIONS: i64 = 4;
/// Where `GroupQueryAttention` takes the number of new tokens of each row.
pub const QUERY_SEQLENS_INPUT: usize = 16;
/// The graph input that feeds it: int32 `[batch]`.
pub const QUERY_SEQLENS: &str = "query_seqlens";
/// The graph input that says which positions are scored: int64 `[scores]`, counted through the padded rows. The engine's own;
/// no exporter writes it.
pub const SCORE_ROWS: &str = "score_rows";
/// `TensorProto.INT32` and `INT64`.
const INT32: i64 = 6;
const INT64: i64 = 7;

/// A change to a graph that leaves what it computes, but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// 8-bit activations in the experts' products: measured 3.4-4.7 against 5.0-6.0 ms a step on a 497 M model.
    AccuracyLevel,
    /// Rows of one run may have different numbers of new tokens.
    QuerySeqlens,
    /// Scores only where somebody looks: reading a prompt needs one position's, and the last product is a fifth of a small
    /// model's work.
    ScoreRows,
}

impl Patch {
    /// Every patch, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::AccuracyLevel, Self::QuerySeqlens, Self::ScoreRows];

    /// Its name in logs and stamps.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccuracyLevel => "accuracy_level",
            Self::QuerySeqlens => "query_seqlens",
            Self::ScoreRows => "score_rows",
        }
    }

    /// The oldest minor version of the runtime that knows it (read off the operators of 1.20 to 1.32).
    fn runtime_minor_min(self) -> u32 {
        match self {
            Self::AccuracyLevel => 31,
            Self::QuerySeqlens => 32,
            // ONNX's own operators; older runtimes were not tried.
            Self::ScoreRows => 20,
        }
    }

    /// Whether a graph gains by it on a runtime of this minor version; `None`: the version is not known.
    pub fn helps(self, graph: &Graph, runtime_minor: Option<u32>) -> bool {
        if runtime_minor.is_none_or(|minor| minor < self.runtime_minor_min()) {
            return false;
        }
        match self {
            Self::AccuracyLevel => graph.nodes.iter().any(takes_accuracy_level),
            Self::QuerySeqlens => takes_query_seqlens(graph),
            Self::ScoreRows => head(graph).is_some(),
        }
    }

    /// Makes it.
    pub fn apply(self, graph: &mut Graph) -> Result<(), GraphError> {
        match self {
            Self::AccuracyLevel => {
                for number in numbers(graph, takes_accuracy_level) {
                    graph.add_node_int(number, "accuracy_level", INT8_ACTIVATIONS)?;
                }
            }
            Self::QuerySeqlens => {
                graph.add_input(QUERY_SEQLENS, INT32, &["batch_size"])?;
                for number in numbers(graph, is_attention) {
                    graph.add_node_input(number, QUERY_SEQLENS_INPUT, QUERY_SEQLENS)?;
                }
            }
            Self::ScoreRows => {
                if let Some((number, hidden)) = head(graph) {
                    score_rows(graph, number, &hidden)?;
                }
            }
        }
        Ok(())
    }
}

/// The node whose product the scores are, and what it reads; `None` where the scores are made in another way or already limited.
fn head(graph: &Graph) -> Option<(usize, String)> {
    let limited = |name: &str| ["num_logits_to_keep", "logits_to_keep", SCORE_ROWS].contains(&name);
    if graph.inputs.iter().any(|input| limited(&input.name)) {
        return None;
    }
    let scores = graph.outputs.iter().find(|output| output.name == "logits" && output.dims.len() == 3)?;
    if scores.dims[1] == 1 {
        return None;
    }
    let made = |node: &&Node| node.outputs.contains(&scores.name);
    let node = graph.nodes.iter().find(made).filter(|node| ["MatMul", "MatMulNBits"].contains(&node.op.as_str()))?;
    let number = graph.nodes.iter().position(|other| other.outputs == node.outputs)?;
    Some((number, node.input(0)?.to_owned()))
}

/// All rows one after another, and of those the listed ones, in front of the last product.
fn score_rows(graph: &mut Graph, number: usize, hidden: &str) -> Result<(), GraphError> {
    let name = |part: &str| format!("/moed/score_rows/{part}");
    let node = |op: &str, inputs: [String; 2], output: String, axis: Option<i64>| Node {
        name: name(op),
        op: op.to_owned(),
        domain: String::new(),
        inputs: inputs.to_vec(),
        outputs: vec![output],
        attributes: axis
            .map(|axis| Attribute { name: "axis".to_owned(), int: Some(axis), ints: Vec::new() })
            .into_iter()
            .collect(),
    };
    graph.add_input(SCORE_ROWS, INT64, &["scores"])?;
    // 0: as long as it was.
    graph.add_int64s(&name("shape"), &[1, -1, 0])?;
    graph.insert_node(number, &node("Reshape", [hidden.to_owned(), name("shape")], name("flat"), None))?;
    graph.insert_node(number, &node("Gather", [name("flat"), SCORE_ROWS.to_owned()], name("rows"), Some(1)))?;
    graph.replace_node_input(number, 0, &name("rows"))
}

fn numbers(graph: &Graph, wanted: fn(&Node) -> bool) -> Vec<usize> {
    graph.nodes.iter().enumerate().filter(|(_, node)| wanted(node)).map(|(number, _)| number).collect()
}

fn is_attention(node: &Node) -> bool {
    node.op == "GroupQueryAttention" && node.domain == "com.microsoft"
}

/// Experts quantised in blocks, whose exporter left the level open. One scale a channel takes another path, which the level
/// does not change.
fn takes_accuracy_level(node: &Node) -> bool {
    let open = !node.attributes.iter().any(|attribute| attribute.name == "accuracy_level");
    node.op == "QMoE" && node.domain == "com.microsoft" && open && node.int("block_size").is_some_and(|size| size > 0)
}

/// Attention with a past in every layer, full windows, and no other state: a convolution's or a recurrent state would read
/// the padding of the shorter rows.
fn takes_query_seqlens(graph: &Graph) -> bool {
    let plain = |node: &Node| {
        node.input(3).is_some()
            && node.input(QUERY_SEQLENS_INPUT).is_none()
            && node.int("sliding_window_cache").unwrap_or(0) == 0
    };
    let states = graph.inputs.iter().filter(|input| input.name.starts_with("past"));
    let mut kinds = states.filter_map(|input| input.name.rsplit('.').next());
    let mut attention = graph.nodes.iter().filter(|node| is_attention(node)).peekable();
    attention.peek().is_some()
        && attention.all(plain)
        && kinds.all(|kind| ["key", "value"].contains(&kind))
        && !graph.inputs.iter().any(|input| input.name == QUERY_SEQLENS)
}

/// All that a prepared copy depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Digest of the graph and of every file of weights.
    pub model: String,
    /// The runtime's version.
    pub runtime: String,
    pub provider: String,
    /// What [`cpu_of`] says.
    pub cpu: String,
}

impl Key {
    /// The key as a name of 16 letters.
    pub fn name(&self) -> String {
        let mut hash = Sha256::new();
        // Another version of this program may drive a graph otherwise, and a patch that did not hold may hold then.
        let format = FORMAT.to_string();
        let moed = env!("CARGO_PKG_VERSION");
        let patches = Patch::ALL.map(Patch::name).join(" ");
        for part in [&format, moed, &patches, &self.model, &self.runtime, &self.provider, &self.cpu] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hex(&hash.finalize()[..8])
    }
}

/// Which files hold a folder's weights, and what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub digest: String,
    /// Bytes of the graph and its files of weights.
    pub bytes: u64,
    /// Whether weights lie beside the graph.
    pub external: bool,
}

impl Source {
    /// Reads the digest of a folder's graph and weights. Files that the manifest lists were compared with it a moment ago,
    /// when the folder was read, and are not read again.
    pub fn read(folder: &Folder, graph: &Graph) -> Result<Self, Fault> {
        let beside = folder.graph.parent().unwrap_or(&folder.path);
        let fault = |file: &Path, reason: String| {
            let file = file.strip_prefix(&folder.path).unwrap_or(file).display();
            Fault::config(format!("model `{}`: `{file}`: {reason}", folder.name))
        };
        let external = graph.external_files();
        let mut files = vec![folder.graph.clone()];
        for name in &external {
            if !is_inside(name) {
                return Err(fault(&folder.graph, format!("its weights are in `{name}`, which leaves the folder")));
            }
            files.push(beside.join(name));
        }
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        for file in &files {
            bytes += std::fs::metadata(file).map_err(|error| fault(file, error.to_string()))?.len();
            let listed = file.strip_prefix(&folder.path).ok().and_then(|name| listed(folder, name));
            let digest = listed.map_or_else(|| digest(file).map_err(|error| fault(file, error.to_string())), Ok)?;
            hash.update(digest);
        }
        Ok(Self { digest: hex(&hash.finalize()), bytes, external: !external.is_empty() })
    }

    /// Bytes that a prepared copy may take while it is made: weights as they were and as the kernels want them, and as much
    /// again for the graph. Measured: 2.0 to 2.2 times the original, 600 kB for a model of 16 kB.
    pub fn room(&self) -> u64 {
        const LEAST: u64 = 4 << 20;
        self.bytes.saturating_mul(3).saturating_add(LEAST)
    }

    /// Whether the graph's own file can take a copy of itself in memory beside the runtime's.
    pub fn is_patchable(&self) -> bool {
        self.external || self.bytes <= FILE_BYTES_MAX / 2
    }
}

fn listed(folder: &Folder, name: &Path) -> Option<String> {
    let digest = folder.manifest.as_ref()?.files.get(name.to_str()?)?;
    digest.strip_prefix("sha256:").map(str::to_owned)
}

/// What a CPU is to the runtime's kernels: its name and its instructions, from the text of `/proc/cpuinfo`.
pub fn cpu_of(cpuinfo: &str) -> String {
    // x86 says a name and flags; ARM says numbers and features. Boxes with two kinds of core list both.
    const WORDS: [&str; 7] =
        ["model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part"];
    let lines: BTreeSet<String> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(word, value)| (word.trim(), value.trim()))
        .filter(|(word, _)| WORDS.contains(word))
        .map(|(word, value)| format!("{word}: {value}"))
        .collect();
    let lines: Vec<String> = lines.into_iter().collect();
    format!("{}\n{}", std::env::consts::ARCH, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::{Attribute, type_name};

    fn shipped(name: &str) -> (Folder, Graph) {
        let folder = Folder::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap();
        let graph = Graph::read(&folder.graph).unwrap();
        (folder, graph)
    }

    #[test]
    fn patches_are_made_where_they_help_and_once() {
        let (_, mut graph) = shipped("default");
        for node in &mut graph.nodes {
            node.attributes.retain(|attribute| node.op != "QMoE" || attribute.name != "accuracy_level");
        }
        let experts = graph.nodes_of("QMoE").count();
        for patch in Patch::ALL {
            let older = patch.runtime_minor_min() - 1;
            assert!(patch.helps(&graph, Some(32)) && !patch.helps(&graph, Some(older)) && !patch.helps(&graph, None));
            patch.apply(&mut graph).unwrap();
            assert!(!patch.helps(&graph, Some(32)), "{}", patch.name());
        }
        assert!(Patch::AccuracyLevel.runtime_minor_min() < Patch::QuerySeqlens.runtime_minor_min());
        assert_eq!(graph.nodes_of("QMoE").filter(|(_, node)| node.int("accuracy_level") == Some(4)).count(), experts);
        let added: Vec<_> =
            graph.inputs.iter().rev().take(2).map(|input| (input.name.as_str(), type_name(input.dtype))).collect();
        assert_eq!(added, [(SCORE_ROWS, "int64"), (QUERY_SEQLENS, "int32")]);
        let written = Graph::from_bytes(graph.bytes()).unwrap();
        let head = written.nodes.iter().position(|node| node.outputs == ["logits"]).unwrap();
        let (flat, rows) = (&written.nodes[head - 2], &written.nodes[head - 1]);
        assert_eq!((flat.op.as_str(), rows.op.as_str(), rows.inputs[1].as_str()), ("Reshape", "Gather", SCORE_ROWS));
        assert_eq!(written.nodes[head].inputs[0], rows.outputs[0]);
        for (_, node) in graph.nodes_of("GroupQueryAttention") {
            assert_eq!((node.input(15), node.input(16)), (None, Some(QUERY_SEQLENS)));
        }
    }

    #[test]
    fn a_graph_that_would_read_padding_or_chose_its_own_level_is_left_alone() {
        let (_, mut graph) = shipped("default");
        assert!(!Patch::AccuracyLevel.helps(&graph, Some(32)), "the exporter set the level");
        let (number, _) = graph.nodes_of("GroupQueryAttention").next().unwrap();
        let window = Attribute { name: "sliding_window_cache".to_owned(), int: Some(1), ints: Vec::new() };
        graph.nodes[number].attributes.push(window);
        assert!(!Patch::QuerySeqlens.helps(&graph, Some(32)));
        let (_, mut graph) = shipped("default");
        graph.add_input("past.0.conv", 1, &["batch_size", "channels", "width"]).unwrap();
        assert!(!Patch::QuerySeqlens.helps(&graph, Some(32)));
    }

    #[test]
    fn the_key_changes_with_each_of_its_parts() {
        let key = Key { model: "a".into(), runtime: "1.32.0".into(), provider: "cpu".into(), cpu: "x".into() };
        let others = [
            Key { model: "b".into(), ..key.clone() },
            Key { runtime: "1.31.0".into(), ..key.clone() },
            Key { provider: "cuda".into(), ..key.clone() },
            Key { cpu: "y".into(), ..key.clone() },
            // The parts are told apart, not run together.
            Key { model: "a1".into(), runtime: ".32.0".into(), ..key.clone() },
        ];
        let names: BTreeSet<String> = others.iter().chain([&key]).map(Key::name).collect();
        assert_eq!(names.len(), 6);
        assert_eq!(key.name().len(), 16);
    }

    #[test]
    fn a_source_follows_the_files_contents() {
        let (folder, graph) = shipped("tiny");
        let listed = Source::read(&folder, &graph).unwrap();
        let unlisted = Source::read(&Folder { manifest: None, ..folder.clone() }, &graph).unwrap();
        assert_eq!(listed, unlisted);
        assert!(listed.room() > 3 * listed.bytes && !listed.external && listed.is_patchable());
        let other = shipped("default");
        assert_ne!(Source::read(&other.0, &other.1).unwrap().digest, listed.digest);
    }

    #[test]
    fn a_cpu_is_its_name_and_its_instructions() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC\ncpu MHz\t: 2445.4\nflags\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\ncpu MHz\t: 3000.1\nflags\t: fpu avx2\n";
        assert_eq!(cpu_of(x86), cpu_of(&x86.replace("2445.4", "1500.0")));
        assert_ne!(cpu_of(x86), cpu_of(&x86.replace("avx2", "avx512f")));
        let arm = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n";
        assert!(cpu_of(arm).contains("CPU part: 0xd42") && cpu_of(arm).contains("asimd"));
    }
}
