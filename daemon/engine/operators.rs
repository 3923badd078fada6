//! Which runtime a graph needs: the oldest version that has its operators, their inputs and their attributes.
//!
//! Read off the operators and CPU kernels that 1.20 to 1.32 list themselves. An operator that is not in the table, and the
//! version of ONNX's own set, are left to the runtime, which names them when it loads the graph.

use crate::engine::provider::Provider;
use crate::engine::runtime::RuntimeBuild;
use crate::fault::Fault;
use crate::model::graph::{Graph, Node};

/// What about an operator is young.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The operator.
    Whole,
    /// Its kernel on the CPU; elsewhere it is older.
    CpuKernel,
    /// An input, by place and name.
    Input(usize, &'static str),
    Attribute(&'static str),
}

use Part::{Attribute, CpuKernel, Input, Whole};

/// Operator of `com.microsoft`, part, minor version.
const NEEDS: [(&str, Part, u32); 32] = [
    ("MoE", CpuKernel, 23),
    ("MoE", Attribute("swiglu_fusion"), 23),
    ("MoE", Attribute("swiglu_limit_after_activation"), 32),
    ("QMoE", CpuKernel, 23),
    ("QMoE", Attribute("block_size"), 23),
    ("QMoE", Attribute("swiglu_fusion"), 23),
    ("QMoE", Input(11, "fc1_zero_points"), 24),
    ("QMoE", Input(14, "router_weights"), 25),
    ("QMoE", Attribute("quant_type"), 27),
    ("QMoE", Attribute("weights_prepacked"), 28),
    ("QMoE", Attribute("accuracy_level"), 31),
    ("QMoE", Attribute("swiglu_limit_after_activation"), 32),
    ("MoEGroupRouter", Whole, 32),
    ("GroupQueryAttention", Input(9, "position_ids"), 22),
    ("GroupQueryAttention", Input(10, "attention_bias"), 22),
    ("GroupQueryAttention", Input(11, "head_sink"), 23),
    ("GroupQueryAttention", Input(12, "k_scale"), 25),
    ("GroupQueryAttention", Attribute("kv_cache_bit_width"), 25),
    ("GroupQueryAttention", Input(14, "q_norm_weight"), 28),
    ("GroupQueryAttention", Attribute("sliding_window_cache"), 29),
    ("GroupQueryAttention", Input(16, "query_seqlens"), 32),
    ("MatMulNBits", Attribute("weight_prepacked"), 28),
    ("GatherBlockQuantized", Attribute("bits"), 23),
    ("CausalConvWithState", Whole, 25),
    ("LinearAttention", Whole, 25),
    ("MRotaryEmbedding", Whole, 29),
    ("LinearAttentionGate", Whole, 30),
    ("GatedRMSNorm", Whole, 30),
    ("GatedAdd", Whole, 30),
    ("GatedDeltaNet", CpuKernel, 32),
    ("VarlenCausalConvWithState", CpuKernel, 32),
    ("PagedAttention", Whole, 23),
];

/// What a graph needs beyond the least runtime: what, and the minor version; the youngest first.
pub fn needs(graph: &Graph, provider: Provider) -> Vec<(String, u32)> {
    let nodes = || graph.nodes.iter().chain(&graph.inner).filter(|node| node.domain == "com.microsoft");
    let mut found: Vec<(String, u32)> = NEEDS
        .iter()
        .filter(|(op, part, _)| nodes().any(|node| node.op == *op && uses(node, *part, provider)))
        .map(|(op, part, minor)| match part {
            Whole | CpuKernel => (format!("`{op}`"), *minor),
            Input(_, name) | Attribute(name) => (format!("`{op}` with `{name}`"), *minor),
        })
        .collect();
    found.sort_by_key(|(_, minor)| std::cmp::Reverse(*minor));
    found
}

fn uses(node: &Node, part: Part, provider: Provider) -> bool {
    match part {
        Whole => true,
        CpuKernel => provider == Provider::Cpu,
        Input(index, _) => node.input(index).is_some(),
        Attribute(name) => node.attributes.iter().any(|attribute| attribute.name == name),
    }
}

/// Refuses a graph that is too young for the loaded runtime, naming what it needs. A runtime that does not say its version
/// passes; it names what it does not know when it loads the graph.
pub fn check(model: &str, graph: &Graph, build: &RuntimeBuild, provider: Provider) -> Result<(), Fault> {
    let Some(minor) = build.minor() else { return Ok(()) };
    let missing: Vec<String> = needs(graph, provider)
        .into_iter()
        .filter(|(_, needed)| *needed > minor)
        .map(|(what, needed)| format!("{what} needs ONNX Runtime 1.{needed}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Fault::config(format!("model `{model}`: {}; `{}` is {}", missing.join(", "), build.path, build.version))
        .hint("install a newer ONNX Runtime and name it in `runtime.onnxruntime`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(version: &str) -> RuntimeBuild {
        RuntimeBuild { version: version.to_owned(), path: "/lib/libonnxruntime.so".to_owned() }
    }

    fn shipped() -> Graph {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        Graph::read(&root.join("models/default/model.onnx")).unwrap()
    }

    #[test]
    fn a_runtime_too_old_for_an_operator_is_refused_by_its_name() {
        let mut graph = shipped();
        check("m", &graph, &build("1.32.0"), Provider::Cpu).unwrap();
        let fault = check("m", &graph, &build("1.30.2"), Provider::Cpu).unwrap_err();
        assert!(fault.message.contains("`QMoE` with `accuracy_level` needs ONNX Runtime 1.31"), "{fault}");
        assert!(fault.message.contains("is 1.30.2"), "{fault}");
        let number = graph.nodes_of("GroupQueryAttention").next().unwrap().0;
        graph.add_node_input(number, 16, "query_seqlens").unwrap();
        let fault = check("m", &graph, &build("1.31.1"), Provider::Cpu).unwrap_err();
        assert!(
            fault.message.contains("`GroupQueryAttention` with `query_seqlens` needs ONNX Runtime 1.32"),
            "{fault}"
        );
        // What does not say its version is asked by loading the graph.
        check("m", &graph, &build("unknown"), Provider::Cpu).unwrap();
    }

    #[test]
    fn kernels_that_only_the_cpu_got_late_do_not_stop_a_gpu() {
        let graph = shipped();
        assert!(needs(&graph, Provider::Cpu).iter().any(|(what, _)| what == "`QMoE`"));
        assert!(!needs(&graph, Provider::Cuda).iter().any(|(what, _)| what == "`QMoE`"));
    }
}
