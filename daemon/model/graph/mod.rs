//! What an ONNX file holds, read without a runtime, and small changes to it that keep every other byte.
//!
//! Own code, since no kept crate does it: generated protobuf types drop the fields they do not know when they write a file
//! again, and the runtime's own graph editor goes through its optimiser. Here a file is a list of spans; a change splices
//! bytes into the spans of one node or of the graph, and all the rest is copied as it was.
//!
//! The weights' bytes are never looked at. A file is bounded before it is read: its size, the depth of graphs in graphs, and
//! the number of things in it. Bytes that are no ONNX file are an error with the place in the file.

mod patch;
pub mod probe;
mod read;
mod wire;

use std::ops::Range;
use std::path::Path;

use thiserror::Error;

/// The format itself ends here: larger models keep their weights in files beside the graph.
pub const FILE_BYTES_MAX: u64 = 1 << 31;
/// Graphs in attributes of nodes (`If`, `Loop`), each in the one before; exporters need two.
pub const NESTING_MAX: usize = 8;
/// Nodes, names, attributes, sizes and numbers in one file, all together; a 60-layer model has 10,000.
pub const ENTRIES_MAX: usize = 1 << 20;

/// A file that is no graph, or a change that does not fit it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GraphError {
    #[error("{0}")]
    File(String),
    #[error("the file has {bytes} bytes, the most is {FILE_BYTES_MAX}")]
    Large { bytes: u64 },
    #[error("the file is cut short: what starts at byte {at} goes beyond its end")]
    Cut { at: usize },
    #[error("no protocol buffer: byte {at} starts neither a number nor a known kind of field")]
    Number { at: usize },
    #[error("the {what} at byte {at} is of another kind than ONNX gives it")]
    Kind { what: &'static str, at: usize },
    #[error("the {what} at byte {at} is no UTF-8")]
    Text { what: &'static str, at: usize },
    #[error("graphs lie in each other more than {NESTING_MAX} deep")]
    Deep,
    #[error("the file holds more than {ENTRIES_MAX} nodes, names, attributes and sizes")]
    Many,
    #[error("the file holds {0} graphs, an ONNX file holds one")]
    Graphs(usize),
    #[error("there is no node {0}")]
    NoNode(usize),
    #[error("node `{node}` has the input `{input}` at {index} already")]
    InputTaken { node: String, index: usize, input: String },
    #[error("node `{node}` has the attribute `{attribute}` already")]
    AttributeTaken { node: String, attribute: String },
    #[error("node `{node}` has no input at {index}")]
    NoInput { node: String, index: usize },
    #[error("the graph has the input `{0}` already")]
    GraphInputTaken(String),
    #[error("the graph has the constant `{0}` already")]
    ConstantTaken(String),
}

/// A graph's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// ONNX's number for the element type; [`type_name`] says it. 0: no tensor.
    pub dtype: i64,
    /// -1 where open.
    pub dims: Vec<i64>,
}

/// One attribute of a node; numbers that are no integers, texts and tensors are kept in the file but not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribute {
    pub name: String,
    pub int: Option<i64>,
    pub ints: Vec<i64>,
}

/// One step of a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub op: String,
    /// Empty: ONNX's own operators.
    pub domain: String,
    /// An empty name stands for an optional input that is left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<Attribute>,
}

impl Node {
    /// The integer attribute of this name.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attributes.iter().find(|attribute| attribute.name == name)?.int
    }

    /// The input at `index`, where it is not left out.
    pub fn input(&self, index: usize) -> Option<&str> {
        self.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Its name, or its first output's where it has none.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { self.outputs.first().map_or("", String::as_str) } else { &self.name }
    }
}

/// Where a weight lies that is not in the graph's own file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// Relative to the graph's folder. Not checked here.
    pub location: String,
    pub offset: u64,
    /// `None`: to the end of the file.
    pub length: Option<u64>,
}

/// One constant: a weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Initializer {
    pub name: String,
    pub dims: Vec<i64>,
    pub dtype: i64,
    pub external: Option<External>,
}

impl Initializer {
    /// The bytes that it takes, from its sizes and type; packed types round up.
    pub fn bytes(&self) -> u64 {
        let elements = self.dims.iter().map(|size| u64::try_from(*size).unwrap_or(0)).fold(1_u64, u64::saturating_mul);
        elements.saturating_mul(type_bits(self.dtype)).div_ceil(8)
    }
}

/// A set of operators and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opset {
    /// Empty: ONNX's own.
    pub domain: String,
    pub version: i64,
}

/// A read file, and the changes that [`Graph::bytes`] will write.
#[derive(Clone, Debug)]
pub struct Graph {
    file: Vec<u8>,
    /// The graph message in the file: with its tag, and its body alone.
    whole: Range<usize>,
    body: Range<usize>,
    /// The spans of `nodes` in the file, with their tags.
    spans: Vec<read::Span>,
    changes: patch::Changes,
    pub producer: String,
    pub opsets: Vec<Opset>,
    /// The graph's own nodes, in the file's order.
    pub nodes: Vec<Node>,
    /// Nodes of graphs in attributes and of functions; they can be looked at, not changed.
    pub inner: Vec<Node>,
    pub initializers: Vec<Initializer>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

impl Graph {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, GraphError> {
        use std::io::Read;
        let failed = |error: std::io::Error| GraphError::File(error.to_string());
        let file = std::fs::File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let large = |bytes| GraphError::Large { bytes };
        let room = usize::try_from(length).map_err(|_| large(length))?;
        if length > FILE_BYTES_MAX {
            return Err(large(length));
        }
        let mut bytes = Vec::with_capacity(room + 1);
        // The file may grow while it is read.
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(large(bytes.len() as u64));
        }
        Self::from_bytes(bytes)
    }

    /// Reads what is already in memory.
    pub fn from_bytes(file: Vec<u8>) -> Result<Self, GraphError> {
        read::graph(file)
    }

    /// The nodes with this operator, by number.
    pub fn nodes_of<'a>(&'a self, op: &'a str) -> impl Iterator<Item = (usize, &'a Node)> {
        self.nodes.iter().enumerate().filter(move |(_, node)| node.op == op)
    }

    /// Files beside the graph that hold weights, each once.
    pub fn external_files(&self) -> Vec<String> {
        let external = self.initializers.iter().filter_map(|initializer| initializer.external.as_ref());
        let mut files: Vec<String> = external.map(|external| external.location.clone()).collect();
        files.sort();
        files.dedup();
        files
    }
}

/// ONNX's element types that weights and ports have: number, name, bits.
const TYPES: [(i64, &str, u64); 18] = [
    (1, "float32", 32),
    (2, "uint8", 8),
    (3, "int8", 8),
    (4, "uint16", 16),
    (5, "int16", 16),
    (6, "int32", 32),
    (7, "int64", 64),
    (9, "bool", 8),
    (10, "float16", 16),
    (11, "float64", 64),
    (12, "uint32", 32),
    (13, "uint64", 64),
    (16, "bfloat16", 16),
    (17, "float8e4m3fn", 8),
    (19, "float8e5m2", 8),
    (21, "uint4", 4),
    (22, "int4", 4),
    (23, "float4e2m1", 4),
];

/// An element type's name.
pub fn type_name(dtype: i64) -> &'static str {
    TYPES.iter().find(|(number, ..)| *number == dtype).map_or("another type", |(_, name, _)| name)
}

fn type_bits(dtype: i64) -> u64 {
    TYPES.iter().find(|(number, ..)| *number == dtype).map_or(0, |(.., bits)| *bits)
}

#[cfg(test)]
mod tests;
