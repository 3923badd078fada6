//! What a graph is made of, in numbers: operators, experts, weights by kind, and the bytes that one token touches.

use std::collections::{BTreeMap, HashMap};

use crate::model::graph::{Graph, Initializer, Node, type_name};

/// The numbers of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Operator to nodes.
    pub operators: BTreeMap<String, usize>,
    /// Layers with experts, experts in each, experts that one token uses.
    pub experts: Option<(usize, u64, u64)>,
    /// Bytes of weights by who reads them.
    pub kinds: BTreeMap<Kind, u64>,
    /// Element type to bytes.
    pub types: BTreeMap<&'static str, u64>,
    /// Bytes of weights that one decode step of one sequence reads.
    pub token_bytes: u64,
    /// Weights that no node reads; an exporter that drops experts leaves such, or drops them too.
    pub unread: Vec<String>,
}

/// Who reads a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Embedding,
    Attention,
    Experts,
    Products,
    Other,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Experts => "experts",
            Self::Products => "products",
            Self::Other => "other",
        }
    }

    fn of(op: &str) -> Self {
        match op {
            "Gather" | "GatherBlockQuantized" => Self::Embedding,
            op if op.contains("Attention") => Self::Attention,
            "QMoE" | "MoE" => Self::Experts,
            op if op.contains("MatMul") || op == "Gemm" => Self::Products,
            _ => Self::Other,
        }
    }
}

impl Summary {
    /// Counts a graph.
    pub fn of(graph: &Graph) -> Self {
        let mut operators = BTreeMap::new();
        // The first reader that is not a shape's business names the kind; products win over the embedding that shares them.
        let mut readers: HashMap<&str, Vec<&Node>> = HashMap::new();
        for node in graph.nodes.iter().chain(&graph.inner) {
            *operators.entry(node.op.clone()).or_insert(0) += 1;
            for input in node.inputs.iter().filter(|input| !input.is_empty()) {
                readers.entry(input).or_default().push(node);
            }
        }
        let (mut kinds, mut types, mut unread, mut token_bytes) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), 0);
        for weight in &graph.initializers {
            let Some(readers) = readers.get(weight.name.as_str()) else {
                unread.push(weight.name.clone());
                continue;
            };
            let bytes = weight.bytes();
            let kind =
                readers.iter().map(|node| Kind::of(&node.op)).max_by_key(|kind| rank(*kind)).unwrap_or(Kind::Other);
            *kinds.entry(kind).or_insert(0) += bytes;
            *types.entry(type_name(weight.dtype)).or_insert(0) += bytes;
            token_bytes += readers.iter().map(|node| read_a_token(weight, node)).max().unwrap_or(0);
        }
        let moe: Vec<&Node> = graph.nodes.iter().filter(|node| Kind::of(&node.op) == Kind::Experts).collect();
        let experts = moe.first().map(|node| {
            let weights = graph.initializers.iter().find(|weight| node.input(2) == Some(weight.name.as_str()));
            let count = weights.and_then(|weight| weight.dims.first()).map_or(0, |count| (*count).unsigned_abs());
            (moe.len(), count, chosen(node))
        });
        Self { operators, experts, kinds, types, token_bytes, unread }
    }

    /// As lines for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let operators: Vec<String> = self.operators.iter().map(|(op, count)| format!("{op} × {count}")).collect();
        lines.push(format!("operators   {}", operators.join(", ")));
        if let Some((layers, count, chosen)) = self.experts {
            lines.push(format!("experts     {layers} layers of {count}, {chosen} a token"));
        }
        for (kind, bytes) in &self.kinds {
            lines.push(format!("weights     {} {bytes} bytes", kind.name()));
        }
        for (kind, bytes) in &self.types {
            lines.push(format!("stored as   {kind} {bytes} bytes"));
        }
        lines.push(format!("a token     reads {} bytes of weights", self.token_bytes));
        if !self.unread.is_empty() {
            lines.push(format!("unread      {} weights: {}", self.unread.len(), self.unread.join(", ")));
        }
        lines
    }
}

/// Whose business a shared weight is first.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Other => 0,
        Kind::Embedding => 1,
        Kind::Attention => 2,
        Kind::Products => 3,
        Kind::Experts => 4,
    }
}

fn chosen(node: &Node) -> u64 {
    node.int("k").map_or(1, i64::unsigned_abs)
}

/// Bytes of a weight that one token reads: the chosen experts' part, one row of a table, all of a matrix.
fn read_a_token(weight: &Initializer, node: &Node) -> u64 {
    let first = weight.dims.first().map_or(1, |size| (*size).unsigned_abs()).max(1);
    match Kind::of(&node.op) {
        Kind::Experts => weight.bytes() / first * chosen(node).min(first),
        // Rows of a table: an embedding, a position's angles.
        Kind::Embedding | Kind::Attention => weight.bytes() / first,
        _ => weight.bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_default_model_is_counted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let graph = Graph::read(&root.join("models/default/model.onnx")).unwrap();
        let summary = Summary::of(&graph);
        assert_eq!(summary.experts, Some((8, 8, 2)));
        assert_eq!(summary.operators["QMoE"], 8);
        assert!(summary.unread.is_empty(), "{:?}", summary.unread);
        let (all, experts) = (summary.kinds.values().sum::<u64>(), summary.kinds[&Kind::Experts]);
        assert_eq!(all, summary.types.values().sum::<u64>());
        // Six of eight experts of every layer are not read.
        assert!(summary.token_bytes < all - experts * 3 / 4 + 1, "{} of {all}", summary.token_bytes);
        assert!(summary.token_bytes > experts / 4, "{} of {all}", summary.token_bytes);
        let text = summary.lines().join("\n");
        assert!(text.contains("8 layers of 8, 2 a token") && !text.contains("unread"), "{text}");
    }

    #[test]
    fn a_weight_that_nothing_reads_is_named() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut graph = Graph::read(&root.join("models/tiny/model.onnx")).unwrap();
        graph.initializers.push(Initializer { name: "lost".to_owned(), ..Initializer::default() });
        let summary = Summary::of(&graph);
        assert_eq!((summary.unread.as_slice(), summary.experts), (["lost".to_owned()].as_slice(), None));
        assert!(summary.lines().last().unwrap().contains("1 weights: lost"));
    }
}
