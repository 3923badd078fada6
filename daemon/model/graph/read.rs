//! File to [`Graph`]. Field numbers are those of `onnx.proto`.

use std::ops::Range;

use crate::model::graph::wire::{Content, Field, Fields};
use crate::model::graph::{
    Attribute, ENTRIES_MAX, External, Graph, GraphError, Initializer, NESTING_MAX, Node, Opset, Port, patch,
};

/// Where a node lies in the file.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// With its tag.
    pub(super) whole: Range<usize>,
    pub(super) body: Range<usize>,
    /// Its inputs' fields, in order.
    pub(super) inputs: Vec<Range<usize>>,
}

/// What may still be read, so that a small file cannot ask for much memory.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, entries: usize) -> Result<(), GraphError> {
        self.0 = self.0.checked_sub(entries).ok_or(GraphError::Many)?;
        Ok(())
    }
}

/// What a graph message holds.
#[derive(Default)]
struct Parts {
    nodes: Vec<Node>,
    spans: Vec<Span>,
    inner: Vec<Node>,
    initializers: Vec<Initializer>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

pub(super) fn graph(file: Vec<u8>) -> Result<Graph, GraphError> {
    let mut budget = Budget(ENTRIES_MAX);
    let (mut producer, mut opsets, mut inner) = (String::new(), Vec::new(), Vec::new());
    let mut found: Option<(Range<usize>, Range<usize>, Parts)> = None;
    let mut graphs = 0;
    for field in Fields::of_file(&file) {
        let field = field?;
        match field.number {
            2 => producer = field.text("producer's name")?,
            7 => {
                graphs += 1;
                let mut parts = Parts::default();
                graph_message(&field, 0, &mut budget, &mut parts)?;
                found = Some((field.start..field.end, body(&field), parts));
            }
            8 => {
                budget.spend(1)?;
                opsets.push(opset(&field)?);
            }
            25 => {
                for part in field.message("function")? {
                    let part = part?;
                    if part.number == 7 {
                        node(&part, 1, &mut budget, &mut inner)?;
                    }
                }
            }
            _ => {}
        }
    }
    let Some((whole, body, mut parts)) = found.filter(|_| graphs == 1) else {
        return Err(GraphError::Graphs(graphs));
    };
    parts.inner.append(&mut inner);
    Ok(Graph {
        file,
        whole,
        body,
        spans: parts.spans,
        changes: patch::Changes::default(),
        producer,
        opsets,
        nodes: parts.nodes,
        inner: parts.inner,
        initializers: parts.initializers,
        inputs: parts.inputs,
        outputs: parts.outputs,
    })
}

fn body(field: &Field<'_>) -> Range<usize> {
    match field.content {
        Content::Bytes(bytes, start) => start..start + bytes.len(),
        _ => field.end..field.end,
    }
}

fn graph_message(field: &Field<'_>, depth: usize, budget: &mut Budget, parts: &mut Parts) -> Result<(), GraphError> {
    if depth > NESTING_MAX {
        return Err(GraphError::Deep);
    }
    for part in field.message("graph")? {
        let part = part?;
        match part.number {
            1 => {
                let span = node_span(&part, budget)?;
                let read = node(&part, depth, budget, &mut parts.inner)?;
                parts.nodes.push(read);
                parts.spans.push(span);
            }
            5 => parts.initializers.push(initializer(&part, budget)?),
            11 => parts.inputs.push(port(&part, budget)?),
            12 => parts.outputs.push(port(&part, budget)?),
            _ => {}
        }
    }
    Ok(())
}

fn node_span(field: &Field<'_>, budget: &mut Budget) -> Result<Span, GraphError> {
    let mut inputs = Vec::new();
    for part in field.message("node")? {
        let part = part?;
        if part.number == 1 {
            budget.spend(1)?;
            inputs.push(part.start..part.end);
        }
    }
    Ok(Span { whole: field.start..field.end, body: body(field), inputs })
}

/// Reads a node; the nodes of graphs in its attributes go into `inner`.
fn node(field: &Field<'_>, depth: usize, budget: &mut Budget, inner: &mut Vec<Node>) -> Result<Node, GraphError> {
    budget.spend(1)?;
    let mut node = Node::default();
    for part in field.message("node")? {
        let part = part?;
        match part.number {
            1 => {
                budget.spend(1)?;
                node.inputs.push(part.text("input's name")?);
            }
            2 => {
                budget.spend(1)?;
                node.outputs.push(part.text("output's name")?);
            }
            3 => node.name = part.text("node's name")?,
            4 => node.op = part.text("operator's name")?,
            5 => node.attributes.push(attribute(&part, depth, budget, inner)?),
            7 => node.domain = part.text("domain")?,
            _ => {}
        }
    }
    Ok(node)
}

fn attribute(
    field: &Field<'_>,
    depth: usize,
    budget: &mut Budget,
    inner: &mut Vec<Node>,
) -> Result<Attribute, GraphError> {
    budget.spend(1)?;
    let mut attribute = Attribute::default();
    for part in field.message("attribute")? {
        let part = part?;
        match part.number {
            1 => attribute.name = part.text("attribute's name")?,
            3 => attribute.int = Some(part.number("attribute's number")?),
            8 => numbers(&part, "attribute's numbers", budget, &mut attribute.ints)?,
            6 | 11 => {
                let mut parts = Parts::default();
                graph_message(&part, depth + 1, budget, &mut parts)?;
                inner.append(&mut parts.nodes);
                inner.append(&mut parts.inner);
            }
            _ => {}
        }
    }
    Ok(attribute)
}

fn numbers(field: &Field<'_>, what: &'static str, budget: &mut Budget, into: &mut Vec<i64>) -> Result<(), GraphError> {
    // A packed number takes at least one byte.
    budget.spend(match field.content {
        Content::Bytes(bytes, _) => bytes.len(),
        _ => 1,
    })?;
    field.numbers(what, into)
}

fn initializer(field: &Field<'_>, budget: &mut Budget) -> Result<Initializer, GraphError> {
    budget.spend(1)?;
    let mut initializer = Initializer::default();
    let (mut external, mut outside) = (External::default(), false);
    for part in field.message("initializer")? {
        let part = part?;
        match part.number {
            1 => numbers(&part, "tensor's sizes", budget, &mut initializer.dims)?,
            2 => initializer.dtype = part.number("tensor's type")?,
            8 => initializer.name = part.text("tensor's name")?,
            13 => external_entry(&part, &mut external)?,
            14 => outside = part.number("tensor's place")? == 1,
            _ => {}
        }
    }
    initializer.external = outside.then_some(external);
    Ok(initializer)
}

fn external_entry(field: &Field<'_>, external: &mut External) -> Result<(), GraphError> {
    let what = "tensor's place";
    let (mut key, mut value) = (String::new(), String::new());
    for part in field.message(what)? {
        let part = part?;
        match part.number {
            1 => key = part.text(what)?,
            2 => value = part.text(what)?,
            _ => {}
        }
    }
    let number = || value.parse::<u64>().map_err(|_| GraphError::Kind { what, at: field.start });
    match key.as_str() {
        "location" => external.location = value,
        "offset" => external.offset = number()?,
        "length" => external.length = Some(number()?),
        _ => {}
    }
    Ok(())
}

fn port(field: &Field<'_>, budget: &mut Budget) -> Result<Port, GraphError> {
    budget.spend(1)?;
    let mut port = Port { name: String::new(), dtype: 0, dims: Vec::new() };
    for piece in field.message("graph's input or output")? {
        let piece = piece?;
        match piece.number {
            1 => port.name = piece.text("input's or output's name")?,
            2 => {
                for kind in piece.message("type")? {
                    let kind = kind?;
                    if kind.number == 1 {
                        tensor_type(&kind, budget, &mut port)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(port)
}

fn tensor_type(field: &Field<'_>, budget: &mut Budget, port: &mut Port) -> Result<(), GraphError> {
    for piece in field.message("tensor's type")? {
        let piece = piece?;
        match piece.number {
            1 => port.dtype = piece.number("tensor's type")?,
            2 => {
                for size in piece.message("shape")? {
                    let size = size?;
                    if size.number != 1 {
                        continue;
                    }
                    budget.spend(1)?;
                    let mut known = -1;
                    for piece in size.message("size")? {
                        let piece = piece?;
                        if piece.number == 1 {
                            known = piece.number("size")?;
                        }
                    }
                    port.dims.push(known);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn opset(field: &Field<'_>) -> Result<Opset, GraphError> {
    let mut opset = Opset::default();
    for part in field.message("operator set")? {
        let part = part?;
        match part.number {
            1 => opset.domain = part.text("domain")?,
            2 => opset.version = part.number("operator set's version")?,
            _ => {}
        }
    }
    Ok(opset)
}
