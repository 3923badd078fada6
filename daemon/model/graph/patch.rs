//! Small changes to a [`Graph`]: an input or an attribute for a node, another input instead of one, a node before another,
//! an input or a constant for the graph.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::graph::wire::{put_bytes, put_number};
use crate::model::graph::{Attribute, Graph, GraphError, Initializer, Node, Port};

/// What to write differently.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// By node number.
    nodes: BTreeMap<usize, NodeChange>,
    /// Appended to the graph's body.
    graph: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct NodeChange {
    /// Nodes, written whole, in front of this one.
    before: Vec<u8>,
    /// Fields of the file that are written differently.
    instead: Vec<(Range<usize>, Vec<u8>)>,
    /// Appended to the node's body.
    after: Vec<u8>,
}

/// `AttributeProto.type` of a whole number.
const ATTRIBUTE_INT: i64 = 2;
/// `TensorProto.data_type` of an int64.
const INT64: i64 = 7;

impl Graph {
    /// Gives a node an input at `index`; inputs between its last and this one are left out.
    pub fn add_node_input(&mut self, number: usize, index: usize, name: &str) -> Result<(), GraphError> {
        let node = self.nodes.get_mut(number).ok_or(GraphError::NoNode(number))?;
        if let Some(input) = node.input(index) {
            let (node, input) = (node.label().to_owned(), input.to_owned());
            return Err(GraphError::InputTaken { node, index, input });
        }
        let change = self.changes.nodes.entry(number).or_default();
        let mut field = Vec::new();
        put_bytes(&mut field, 1, name.as_bytes());
        if index < node.inputs.len() {
            // A place that is left out in the file; one that an earlier change left out was appended, and stays so.
            let Some(span) = self.spans[number].inputs.get(index) else {
                let (node, input) = (node.label().to_owned(), String::new());
                return Err(GraphError::InputTaken { node, index, input });
            };
            change.instead.push((span.clone(), field));
            name.clone_into(&mut node.inputs[index]);
        } else {
            for _ in node.inputs.len()..index {
                put_bytes(&mut change.after, 1, b"");
                node.inputs.push(String::new());
            }
            change.after.append(&mut field);
            node.inputs.push(name.to_owned());
        }
        Ok(())
    }

    /// Lets a node read `name` at `index` instead of what it reads there now.
    pub fn replace_node_input(&mut self, number: usize, index: usize, name: &str) -> Result<(), GraphError> {
        let node = self.nodes.get_mut(number).ok_or(GraphError::NoNode(number))?;
        let Some((span, input)) = self.spans[number].inputs.get(index).zip(node.inputs.get_mut(index)) else {
            return Err(GraphError::NoInput { node: node.label().to_owned(), index });
        };
        let mut field = Vec::new();
        put_bytes(&mut field, 1, name.as_bytes());
        let instead = &mut self.changes.nodes.entry(number).or_default().instead;
        instead.retain(|(known, _)| known != span);
        instead.push((span.clone(), field));
        name.clone_into(input);
        Ok(())
    }

    /// Puts a node in front of node `number`; the numbers of the nodes that were read stay what they are.
    pub fn insert_node(&mut self, number: usize, node: &Node) -> Result<(), GraphError> {
        if number >= self.spans.len() {
            return Err(GraphError::NoNode(number));
        }
        let mut body = Vec::new();
        for (field, names) in [(1, &node.inputs), (2, &node.outputs)] {
            for name in names {
                put_bytes(&mut body, field, name.as_bytes());
            }
        }
        put_bytes(&mut body, 3, node.name.as_bytes());
        put_bytes(&mut body, 4, node.op.as_bytes());
        for attribute in &node.attributes {
            put_bytes(&mut body, 5, &int_attribute(&attribute.name, attribute.int.unwrap_or_default()));
        }
        put_bytes(&mut body, 7, node.domain.as_bytes());
        put_bytes(&mut self.changes.nodes.entry(number).or_default().before, 1, &body);
        Ok(())
    }

    /// Gives the graph a constant list of numbers.
    pub fn add_int64s(&mut self, name: &str, values: &[i64]) -> Result<(), GraphError> {
        if self.initializers.iter().any(|known| known.name == name) {
            return Err(GraphError::ConstantTaken(name.to_owned()));
        }
        let length = i64::try_from(values.len()).unwrap_or(i64::MAX);
        let mut tensor = Vec::new();
        put_number(&mut tensor, 1, length);
        put_number(&mut tensor, 2, INT64);
        put_bytes(&mut tensor, 8, name.as_bytes());
        put_bytes(&mut tensor, 9, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        put_bytes(&mut self.changes.graph, 5, &tensor);
        self.initializers.push(Initializer { name: name.to_owned(), dims: vec![length], dtype: INT64, external: None });
        Ok(())
    }

    /// Gives a node a whole-number attribute that it does not have.
    pub fn add_node_int(&mut self, number: usize, name: &str, value: i64) -> Result<(), GraphError> {
        let node = self.nodes.get_mut(number).ok_or(GraphError::NoNode(number))?;
        if node.attributes.iter().any(|attribute| attribute.name == name) {
            let (node, attribute) = (node.label().to_owned(), name.to_owned());
            return Err(GraphError::AttributeTaken { node, attribute });
        }
        let attribute = int_attribute(name, value);
        put_bytes(&mut self.changes.nodes.entry(number).or_default().after, 5, &attribute);
        node.attributes.push(Attribute { name: name.to_owned(), int: Some(value), ints: Vec::new() });
        Ok(())
    }

    /// Gives the graph an input, after those that it has. Each size is a name.
    pub fn add_input(&mut self, name: &str, dtype: i64, dims: &[&str]) -> Result<(), GraphError> {
        if self.inputs.iter().any(|input| input.name == name) {
            return Err(GraphError::GraphInputTaken(name.to_owned()));
        }
        let (mut shape, mut tensor, mut kind, mut port) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for dim in dims {
            let mut size = Vec::new();
            put_bytes(&mut size, 2, dim.as_bytes());
            put_bytes(&mut shape, 1, &size);
        }
        put_number(&mut tensor, 1, dtype);
        put_bytes(&mut tensor, 2, &shape);
        put_bytes(&mut kind, 1, &tensor);
        put_bytes(&mut port, 1, name.as_bytes());
        put_bytes(&mut port, 2, &kind);
        put_bytes(&mut self.changes.graph, 11, &port);
        self.inputs.push(Port { name: name.to_owned(), dtype, dims: vec![-1; dims.len()] });
        Ok(())
    }

    /// Whether [`Graph::bytes`] gives anything else than the file that was read.
    pub fn is_changed(&self) -> bool {
        !self.changes.nodes.is_empty() || !self.changes.graph.is_empty()
    }

    /// The file with its changes.
    pub fn bytes(&self) -> Vec<u8> {
        if !self.is_changed() {
            return self.file.clone();
        }
        let mut body = Vec::with_capacity(self.body.len() + self.changes.graph.len());
        let mut at = self.body.start;
        for (number, change) in &self.changes.nodes {
            let span = &self.spans[*number];
            body.extend_from_slice(&self.file[at..span.whole.start]);
            body.extend_from_slice(&change.before);
            put_bytes(&mut body, 1, &self.node_body(&span.body, change));
            at = span.whole.end;
        }
        body.extend_from_slice(&self.file[at..self.body.end]);
        body.extend_from_slice(&self.changes.graph);
        let mut file = Vec::with_capacity(self.file.len() + (body.len() - self.body.len()) + 16);
        file.extend_from_slice(&self.file[..self.whole.start]);
        put_bytes(&mut file, 7, &body);
        file.extend_from_slice(&self.file[self.whole.end..]);
        file
    }

    fn node_body(&self, span: &Range<usize>, change: &NodeChange) -> Vec<u8> {
        let mut instead: Vec<&(Range<usize>, Vec<u8>)> = change.instead.iter().collect();
        instead.sort_by_key(|(span, _)| span.start);
        let (mut body, mut at) = (Vec::new(), span.start);
        for (field, bytes) in instead {
            body.extend_from_slice(&self.file[at..field.start]);
            body.extend_from_slice(bytes);
            at = field.end;
        }
        body.extend_from_slice(&self.file[at..span.end]);
        body.extend_from_slice(&change.after);
        body
    }
}

fn int_attribute(name: &str, value: i64) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(&mut body, 1, name.as_bytes());
    put_number(&mut body, 3, value);
    put_number(&mut body, 20, ATTRIBUTE_INT);
    body
}
