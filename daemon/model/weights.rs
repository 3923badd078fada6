//! What a graph's weights say that its inputs and outputs leave open, or that its config contradicts. Pure.

use std::collections::BTreeSet;

use crate::model::graph::{Graph, Initializer, Node};

/// The size of an attention head from the table of its rotation, which holds half of it a position. For a rotation that
/// covers the whole head; where it does not, the runtime refuses the cache that is made of it.
pub fn rotated_head_size(graph: &Graph) -> Option<usize> {
    let tables = graph.initializers.iter().filter(|initializer| initializer.name.contains("cos_cache"));
    let widths: BTreeSet<i64> = tables.filter_map(|table| table.dims.get(1).copied()).collect();
    let width = widths.first().filter(|_| widths.len() == 1)?;
    usize::try_from(*width).ok().filter(|width| *width > 0).map(|width| 2 * width)
}

/// Refuses a graph that lost its experts on the way: exporters drop what they do not know without a word, and what is left
/// runs and answers nonsense. `experts` is what the model's config says that each layer has, `layers` how many have them.
pub fn check_experts(graph: &Graph, experts: usize, layers: Option<usize>) -> Result<(), String> {
    let used = used(graph);
    let of_experts = |weight: &&Initializer| {
        let stacked = weight.dims.len() > 2 && usize::try_from(weight.dims[0]) == Ok(experts);
        stacked || weight.name.contains("expert")
    };
    let weights: Vec<&Initializer> = graph.initializers.iter().filter(of_experts).collect();
    if let Some(idle) = weights.iter().find(|weight| !used.contains(weight.name.as_str())) {
        return Err(format!("the weight `{}` is in the graph and no output depends on it", idle.name));
    }
    let mixtures: Vec<&Node> = graph.nodes.iter().chain(&graph.inner).filter(|node| is_mixture(node)).collect();
    for node in &mixtures {
        // Input 2 is the first weight of all experts, one behind another.
        let weight = node.input(2).and_then(|name| graph.initializers.iter().find(|weight| weight.name == name));
        if let Some(had) = weight.and_then(|weight| weight.dims.first())
            && usize::try_from(*had) != Ok(experts)
        {
            return Err(format!("the node `{}` has {had} experts, the model's config says {experts}", node.label()));
        }
    }
    // Spelled out one by one, or a node each; either way the layer is in the weights' names, or there is one node a layer.
    let named: BTreeSet<&str> = weights.iter().filter_map(|weight| layer(&weight.name)).collect();
    let had = mixtures.len().max(named.len());
    if let Some(layers) = layers.filter(|layers| had > 0 && had < *layers) {
        return Err(format!(
            "the model's config says that {layers} layers have experts, in the graph {had} do: the export lost the others"
        ));
    }
    // Without a node for mixtures, experts may be spelled out one by one.
    let numbers: BTreeSet<usize> = weights.iter().filter_map(|weight| expert_number(&weight.name)).collect();
    if mixtures.is_empty() && numbers.len() < experts {
        return Err(format!(
            "the model's config says {experts} experts a layer, the graph has the weights of {} (no `MoE` or `QMoE` node): the export lost them",
            numbers.len()
        ));
    }
    Ok(())
}

/// The names that the graph's outputs depend on. What graphs in attributes read counts as used.
fn used(graph: &Graph) -> BTreeSet<&str> {
    let outputs = graph.outputs.iter().map(|port| &port.name);
    let inner = graph.inner.iter().flat_map(|node| &node.inputs);
    let mut used: BTreeSet<&str> = outputs.chain(inner).map(String::as_str).collect();
    // Nodes stand behind what they read.
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|output| used.contains(output.as_str())) {
            used.extend(node.inputs.iter().map(String::as_str));
        }
    }
    used
}

fn is_mixture(node: &Node) -> bool {
    node.domain == "com.microsoft" && ["MoE", "QMoE"].contains(&node.op.as_str())
}

/// The 0 in `model.layers.0.mlp.experts.7.down_proj.weight`.
fn layer(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once("layers")?;
    let number = rest.trim_start_matches(['.', '_', '/']).split(['.', '_', '/']).next()?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(number).filter(|number| !number.is_empty())
}

/// The number in `model.layers.0.mlp.experts.7.down_proj.weight`.
fn expert_number(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("experts")?;
    rest.trim_start_matches(['.', '_', '/']).split(['.', '_', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::model::graph::Graph;

    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/families").join(name)
    }

    fn family(name: &str) -> Graph {
        Graph::read(&path(name).join("model.onnx")).unwrap()
    }

    #[test]
    fn the_experts_of_a_config_must_be_in_the_graph_and_used() {
        for name in ["qwen3-moe", "lfm2-moe", "gpt-oss", "deepseek-routing"] {
            let layers = crate::model::folder::Folder::load(&path(name)).unwrap().hints.mixtures;
            assert_eq!(check_experts(&family(name), 8, layers), Ok(()), "{name}");
            let more = layers.map(|layers| layers + 1);
            let error = check_experts(&family(name), 8, more).unwrap_err();
            assert!(error.contains("the export lost the others"), "{name}: {error}");
        }
        let error = check_experts(&family("qwen3-moe"), 4, None).unwrap_err();
        assert!(error.contains("has 8 experts, the model's config says 4"), "{error}");
        let error = check_experts(&family("qwen3"), 8, None).unwrap_err();
        assert!(error.contains("says 8 experts a layer, the graph has the weights of 0"), "{error}");
        let mut idle = family("qwen3-moe");
        let number = idle.nodes_of("MoE").next().unwrap().0;
        let weight = idle.nodes.remove(number).inputs[2].clone();
        let error = check_experts(&idle, 8, None).unwrap_err();
        assert_eq!(error, format!("the weight `{weight}` is in the graph and no output depends on it"));

        // The node is there and reads its weights, but what it gives is passed by.
        let mut passed = family("qwen3-moe");
        let given = passed.nodes_of("MoE").next().unwrap().1.outputs[0].clone();
        for input in passed.nodes.iter_mut().flat_map(|node| &mut node.inputs).filter(|input| **input == given) {
            "/layers.0/post_norm/out".clone_into(input);
        }
        assert!(check_experts(&passed, 8, None).unwrap_err().contains("no output depends on it"));
    }

    #[test]
    fn experts_that_are_spelled_out_count_one_by_one() {
        let mut graph = family("qwen3");
        let weight = graph.initializers[0].clone();
        for expert in 0..4 {
            let name = format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
            graph.initializers.push(Initializer { name: name.clone(), ..weight.clone() });
            graph.nodes[0].inputs.push(name);
        }
        assert_eq!(check_experts(&graph, 4, Some(1)), Ok(()));
        assert!(check_experts(&graph, 5, None).unwrap_err().contains("the weights of 4"));
    }

    #[test]
    fn a_head_size_comes_from_the_table_of_its_rotation() {
        assert_eq!(rotated_head_size(&family("qwen3-moe")), Some(16));
        let mut graph = family("qwen3-moe");
        graph.initializers.retain(|weight| !weight.name.contains("cos_cache"));
        assert_eq!(rotated_head_size(&graph), None);
    }
}
