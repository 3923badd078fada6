//! The smallest graph that shows whether a provider computes: one product of two matrices.

use crate::model::graph::wire::{put_bytes, put_number};

/// Rows and columns.
pub const SIDE: usize = 2;
pub const INPUT: &str = "x";
pub const OUTPUT: &str = "y";

const FLOAT: i64 = 1;

/// `y = x · x` as an ONNX file, of an age that every runtime reads.
pub fn graph() -> Vec<u8> {
    let port = |name: &str| {
        let (mut shape, mut tensor, mut kind, mut port) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut size = Vec::new();
            put_number(&mut size, 1, 2);
            put_bytes(&mut shape, 1, &size);
        }
        put_number(&mut tensor, 1, FLOAT);
        put_bytes(&mut tensor, 2, &shape);
        put_bytes(&mut kind, 1, &tensor);
        put_bytes(&mut port, 1, name.as_bytes());
        put_bytes(&mut port, 2, &kind);
        port
    };
    let (mut node, mut graph, mut opset, mut file) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut node, 1, INPUT.as_bytes());
    put_bytes(&mut node, 1, INPUT.as_bytes());
    put_bytes(&mut node, 2, OUTPUT.as_bytes());
    put_bytes(&mut node, 4, b"MatMul");
    put_bytes(&mut graph, 1, &node);
    put_bytes(&mut graph, 2, b"probe");
    put_bytes(&mut graph, 11, &port(INPUT));
    put_bytes(&mut graph, 12, &port(OUTPUT));
    put_number(&mut opset, 2, 17);
    put_number(&mut file, 1, 8);
    put_bytes(&mut file, 7, &graph);
    put_bytes(&mut file, 8, &opset);
    file
}

/// What goes in, row by row.
pub fn input() -> Vec<f32> {
    vec![1.0, 2.0, 3.0, 4.0]
}

/// What must come out; small whole numbers are exact in every precision.
pub fn output() -> Vec<f32> {
    vec![7.0, 10.0, 15.0, 22.0]
}
