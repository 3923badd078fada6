use proptest::prelude::*;

use super::*;

fn shipped(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).join("model.onnx")).unwrap()
}

/// A small file in the format's words: fields that nobody here knows between those that are read.
fn small() -> Vec<u8> {
    use wire::{put_bytes, put_number};
    let message = |fill: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        fill(&mut out);
        out
    };
    let inner = message(&|out| {
        put_bytes(out, 1, &message(&|node| put_bytes(node, 4, b"Identity")));
    });
    let node = message(&|out| {
        for input in ["x", "", "w"] {
            put_bytes(out, 1, input.as_bytes());
        }
        put_bytes(out, 2, b"y");
        put_bytes(out, 3, b"n0");
        put_bytes(out, 4, b"If");
        put_bytes(out, 99, b"unknown");
        put_bytes(
            out,
            5,
            &message(&|attribute| {
                put_bytes(attribute, 1, b"then_branch");
                put_bytes(attribute, 6, &inner);
            }),
        );
        put_bytes(
            out,
            5,
            &message(&|attribute| {
                put_bytes(attribute, 1, b"axes");
                put_bytes(attribute, 8, &[1, 2]);
                put_number(attribute, 8, -3);
            }),
        );
    });
    let weight = message(&|out| {
        put_number(out, 1, 3);
        put_number(out, 1, 5);
        put_number(out, 2, 21);
        put_bytes(out, 8, b"w");
        for (key, value) in [("location", "w.bin"), ("offset", "8"), ("length", "8")] {
            put_bytes(
                out,
                13,
                &message(&|entry| {
                    put_bytes(entry, 1, key.as_bytes());
                    put_bytes(entry, 2, value.as_bytes());
                }),
            );
        }
        put_number(out, 14, 1);
    });
    let graph = message(&|out| {
        put_bytes(out, 1, &node);
        put_number(out, 77, 12);
        put_bytes(out, 5, &weight);
    });
    message(&|out| {
        put_number(out, 1, 10);
        put_bytes(out, 7, &graph);
        put_bytes(out, 2, b"tests");
        put_bytes(out, 8, &message(&|opset| put_number(opset, 2, 21)));
    })
}

#[test]
fn a_file_is_read_with_everything_that_it_holds() {
    let graph = Graph::from_bytes(small()).unwrap();
    assert_eq!((graph.producer.as_str(), graph.opsets[0].version, graph.nodes.len()), ("tests", 21, 1));
    let node = &graph.nodes[0];
    assert_eq!((node.op.as_str(), node.input(0), node.input(1), node.label()), ("If", Some("x"), None, "n0"));
    assert_eq!(node.attributes[1].ints, [1, 2, -3]);
    assert_eq!(graph.inner[0].op, "Identity");
    let weight = &graph.initializers[0];
    assert_eq!((weight.bytes(), type_name(weight.dtype), weight.dims.as_slice()), (8, "uint4", [3, 5].as_slice()));
    let external = External { location: "w.bin".to_owned(), offset: 8, length: Some(8) };
    assert_eq!((weight.external.as_ref(), graph.external_files()), (Some(&external), vec!["w.bin".to_owned()]));
}

#[test]
fn the_shipped_graphs_are_read() {
    let graph = Graph::from_bytes(shipped("default")).unwrap();
    assert!(graph.nodes_of("QMoE").count() > 0 && graph.nodes_of("GroupQueryAttention").count() > 0);
    assert_eq!(graph.inputs[0].name, "input_ids");
    assert_eq!((type_name(graph.inputs[0].dtype), graph.inputs[0].dims.as_slice()), ("int64", [-1, -1].as_slice()));
    assert!(graph.opsets.iter().any(|opset| opset.domain == "com.microsoft"));
    let bytes: u64 = graph.initializers.iter().map(Initializer::bytes).sum();
    let file = shipped("default").len() as u64;
    assert!(bytes < file && bytes > file * 9 / 10, "{bytes} bytes of weights in a file of {file}");
}

#[test]
fn a_change_keeps_every_other_byte() {
    let file = small();
    let mut graph = Graph::from_bytes(file.clone()).unwrap();
    assert_eq!(graph.bytes(), file);
    graph.add_node_input(0, 1, "left_out_before").unwrap();
    graph.add_node_input(0, 5, "query_seqlens").unwrap();
    graph.add_node_int(0, "accuracy_level", 4).unwrap();
    graph.add_input("query_seqlens", 6, &["batch"]).unwrap();
    let again = Graph::from_bytes(graph.bytes()).unwrap();
    assert_eq!(again.nodes[0].inputs, ["x", "left_out_before", "w", "", "", "query_seqlens"]);
    assert_eq!(again.nodes[0].int("accuracy_level"), Some(4));
    assert_eq!(again.inputs, [Port { name: "query_seqlens".to_owned(), dtype: 6, dims: vec![-1] }]);
    assert_eq!((&again.inner, &again.initializers, &again.opsets), (&graph.inner, &graph.initializers, &graph.opsets));
    // What nobody here knows is still there.
    let holds = |part: &[u8]| again.file.windows(part.len()).any(|window| window == part);
    assert!(holds(b"unknown") && holds(&[0xe8, 0x04, 12]));
    // Without the bytes that were added, the file has its old length.
    let added = "left_out_before".len() + (2 + 2 + 2 + "query_seqlens".len());
    assert!(again.file.len() > file.len() + added);
}

#[test]
fn what_is_there_already_is_not_written_over() {
    let mut graph = Graph::from_bytes(small()).unwrap();
    assert!(matches!(graph.add_node_input(0, 2, "x"), Err(GraphError::InputTaken { index: 2, .. })));
    assert!(matches!(graph.add_node_int(0, "axes", 1), Err(GraphError::AttributeTaken { .. })));
    assert_eq!(graph.add_node_int(1, "axes", 1), Err(GraphError::NoNode(1)));
    graph.add_input("x", 1, &[]).unwrap();
    assert_eq!(graph.add_input("x", 1, &[]), Err(GraphError::GraphInputTaken("x".to_owned())));
}

#[test]
fn what_is_no_graph_is_said_with_its_place() {
    assert_eq!(Graph::from_bytes(Vec::new()).unwrap_err(), GraphError::Graphs(0));
    let twice = [small(), small()].concat();
    assert_eq!(Graph::from_bytes(twice).unwrap_err(), GraphError::Graphs(2));
    assert!(Graph::from_bytes(b"<!DOCTYPE html>".to_vec()).is_err());
    assert!(matches!(Graph::read(Path::new("/no/such.onnx")), Err(GraphError::File(_))));
}

#[test]
fn graphs_in_graphs_and_their_number_are_bounded() {
    use wire::put_bytes;
    let mut nested = Vec::new();
    for _ in 0..=NESTING_MAX + 1 {
        let (mut attribute, mut node, mut graph) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut attribute, 6, &nested);
        put_bytes(&mut node, 5, &attribute);
        put_bytes(&mut graph, 1, &node);
        nested = graph;
    }
    let mut file = Vec::new();
    put_bytes(&mut file, 7, &nested);
    assert_eq!(Graph::from_bytes(file).unwrap_err(), GraphError::Deep);
    // Two bytes a node: a small file that would be a hundred times its size in memory.
    let (nodes, mut file) = ([0x0a, 0x00].repeat(ENTRIES_MAX + 1), Vec::new());
    put_bytes(&mut file, 7, &nodes);
    assert_eq!(Graph::from_bytes(file).unwrap_err(), GraphError::Many);
}

proptest! {
    #[test]
    fn truncated_and_mutated_bytes_are_an_error_or_a_graph_and_never_a_panic(
        cut in 0_usize..16_000,
        changes in prop::collection::vec((0_usize..16_000, any::<u8>()), 0..8),
    ) {
        for mut file in [shipped("tiny"), small()] {
            for (at, byte) in &changes {
                let at = at % file.len();
                file[at] = *byte;
            }
            file.truncate(file.len() - cut % file.len());
            if let Ok(mut graph) = Graph::from_bytes(file.clone()) {
                prop_assert_eq!(&graph.bytes(), &file);
                for number in 0..graph.nodes.len().min(4) {
                    graph.add_node_int(number, "fresh", -1).unwrap();
                }
                let again = Graph::from_bytes(graph.bytes()).unwrap();
                prop_assert_eq!(again.nodes, graph.nodes);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // The outcome does not matter, that there is one does.
        drop(Graph::from_bytes(bytes));
    }
}

#[test]
fn a_node_put_in_front_of_another_changes_what_that_one_reads_and_nothing_else() {
    let mut graph = Graph::from_bytes(shipped("default")).unwrap();
    let before = graph.clone();
    let (number, head) = graph
        .nodes
        .iter()
        .enumerate()
        .find(|(_, node)| node.outputs.iter().any(|output| output == "logits"))
        .map(|(number, node)| (number, node.clone()))
        .unwrap();
    let gather = Node {
        name: "/rows".into(),
        op: "Gather".into(),
        domain: String::new(),
        inputs: vec![head.inputs[0].clone(), "rows".into()],
        outputs: vec!["/rows/out".into()],
        attributes: vec![Attribute { name: "axis".into(), int: Some(1), ints: Vec::new() }],
    };
    graph.add_int64s("rows", &[3, -1]).unwrap();
    graph.insert_node(number, &gather).unwrap();
    graph.replace_node_input(number, 0, "/rows/out").unwrap();
    let after = Graph::from_bytes(graph.bytes()).unwrap();
    assert_eq!(after.nodes.len(), before.nodes.len() + 1);
    assert_eq!(after.nodes[number], gather);
    assert_eq!(after.nodes[number + 1].inputs[0], "/rows/out");
    assert_eq!(after.nodes[number + 1].inputs[1..], head.inputs[1..]);
    assert_eq!(
        (after.nodes[..number].to_vec(), after.nodes[number + 2..].to_vec()),
        (before.nodes[..number].to_vec(), before.nodes[number + 1..].to_vec())
    );
    let rows = after.initializers.last().unwrap();
    assert_eq!((rows.name.as_str(), rows.dims.as_slice(), rows.dtype), ("rows", [2].as_slice(), 7));
    assert_eq!(graph.add_int64s("rows", &[]), Err(GraphError::ConstantTaken("rows".into())));
    assert_eq!(graph.insert_node(1 << 20, &gather), Err(GraphError::NoNode(1 << 20)));
    assert!(matches!(graph.replace_node_input(number, 99, "x"), Err(GraphError::NoInput { index: 99, .. })));
}
