"""The graph in 4 bits: experts, projections, head and embedding in blocks, int8 activations, the router in float32.

Beside the inputs of export.graph it may have `query_seqlens` int32 [B], how many tokens of each row are real, and
`num_logits_to_keep` int64 scalar, how many last positions are scored (0: all).
"""
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from export.graph import MICROSOFT, Graph
from export.mid.quantise import blocks4


@dataclass(frozen=True)
class Recipe:
    """How the weights are stored. `block` 32, 64 or 128; a larger one has fewer scales to read."""

    block: int = 64
    head_block: int = 64
    query_seqlens: bool = True
    keep_logits: bool = True
    search: bool = True


class Graph4(Graph):
    """export.graph's decoder with 4-bit weights."""

    def __init__(self, shape, weights, recipe=Recipe()):
        super().__init__(shape, weights)
        self.recipe, self.packed_head = recipe, None

    def linear(self, value, matrix, name):
        rows, columns = matrix.shape
        block = self.recipe.block
        if name == "/head":
            block = self.recipe.head_block
            value = self._last_positions(value) if self.recipe.keep_logits else value
            whole, scales = self.packed_head
            packed, scales = whole.reshape(rows, columns // block, block // 2), scales.reshape(-1)
        else:
            packed, scales = blocks4(matrix, block, self.recipe.search)
            packed, scales = packed.reshape(rows, columns // block, block // 2), scales.reshape(-1)
        inputs = [value, self.constant(name + ".whole", packed), self.constant(name + ".scales", scales)]
        return self.node("MatMulNBits", inputs, name, domain=MICROSOFT, K=columns, N=rows, bits=4, block_size=block, accuracy_level=4)

    def embedding(self):
        block = self.recipe.head_block
        self.packed_head = blocks4(self.weight("embed_tokens.weight"), block, self.recipe.search)
        whole, scales = self.packed_head
        inputs = [self.constant("embed_tokens.whole", whole), "input_ids", self.constant("embed_tokens.scales", scales)]
        return self.node("GatherBlockQuantized", inputs, "/embed", domain=MICROSOFT, bits=4, block_size=block, gather_axis=0, quantize_axis=1)

    def attention(self, value, layer):
        mixed = super().attention(value, layer)
        if self.recipe.query_seqlens:
            node = next(node for node in reversed(self.nodes) if node.op_type == "GroupQueryAttention")
            node.input.extend([""] * (16 - len(node.input)) + ["query_seqlens"])
        return mixed

    def experts(self, value, layer):
        shape, block, base, name = self.shape, self.recipe.block, f"layers.{layer}.mlp", f"/layers.{layer}/moe"
        router = self.constant(f"{base}.gate", self.weight(f"{base}.gate.weight").T)
        scores = self.node("MatMul", [value, router], name + "/router")
        scores = self.node("Reshape", [scores, self.constant("as_tokens", np.array([-1, shape.num_experts], np.int64))], name + "/scores")
        wide, narrow = self.weight(f"{base}.experts.gate_up_proj"), self.weight(f"{base}.experts.down_proj")
        half = shape.moe_intermediate_size
        wide = np.stack([wide[:, :half], wide[:, half:]], axis=2).reshape(wide.shape)  # gate and up rows alternate
        inputs = [value, scores]
        for title, matrix in (("wide", wide), ("narrow", narrow)):
            whole, scales = blocks4(matrix, block, self.recipe.search)
            inputs += [self.constant(f"{base}.{title}.whole", whole), self.constant(f"{base}.{title}.scales", scales), ""]
        return self.node("QMoE", inputs[:-1], name, domain=MICROSOFT, k=shape.num_experts_per_tok, activation_type="swiglu", swiglu_fusion=1,
                         activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1, expert_weight_bits=4, block_size=block, accuracy_level=4)

    def _last_positions(self, value):
        """The last `num_logits_to_keep` positions of [B, S, H]; starting at -0 keeps all."""
        wanted = self.node("Neg", ["num_logits_to_keep"], "/keep/negative")
        wanted = self.node("Reshape", [wanted, self.constant("as_list", np.array([1], np.int64))], "/keep/start")
        end, axis = self.constant("far_end", np.array([2**31], np.int64)), self.constant("axis_one", np.array([1], np.int64))
        return self.node("Slice", [value, wanted, end, axis], "/keep")

    def _assemble(self):
        model = super()._assemble()
        if self.recipe.query_seqlens:
            model.graph.input.append(helper.make_tensor_value_info("query_seqlens", TensorProto.INT32, ["batch_size"]))
        if self.recipe.keep_logits:
            model.graph.input.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
            model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "kept_length"
        return model


def bytes_a_token(recipe, dense, experts):
    """Bytes of weights that one token needs at batch 1, with float32 scales: (as stored, as the kernels pack them).

    The kernels keep a float32 sum beside each block's scale.
    """
    def size(weights, block, beside):
        return weights // 2 + weights // block * beside
    head, rest = dense
    return tuple(size(head, recipe.head_block, beside) + size(rest + experts, recipe.block, beside) for beside in (4, 8))
