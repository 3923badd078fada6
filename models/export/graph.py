"""Writes Qwen3MoeForCausalLM as an ONNX graph in the ONNX Runtime GenAI layout.

Inputs `input_ids` [B, S], `attention_mask` [B, T] (int64) and `past_key_values.N.key|value` [B, kv, P, d];
outputs `logits` [B, S, V] and `present.N.key|value`. Past and present may be one buffer longer than the
mask. GroupQueryAttention derives positions from the mask, so there is no position input.

The int32 input `query_seqlens` [B] says how many of a row's S tokens are new, so that rows of one Run may read
chunks of different lengths, right-padded; the mask's sum stays the length of the row with its new tokens.
"""
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.quantise import BLOCK, blocks8

MICROSOFT = "com.microsoft"
QUERY_SEQLENS = 16  # its place among the inputs of GroupQueryAttention


class Graph:
    """Collects nodes and initialisers; `shape` is distil.network.Shape, `weights` name -> float32 array.

    `ragged` adds `query_seqlens`, which ONNX Runtime GenAI and runtimes before 1.32 do not know.
    """

    caches = TensorProto.FLOAT  # what keys and values are kept in

    def __init__(self, shape, weights, quantised=True, ragged=True):
        self.shape, self.weights, self.quantised, self.ragged = shape, weights, quantised, ragged
        self.nodes, self.constants, self.used = [], [], set()

    def weight(self, name):
        self.used.add(name)
        return np.ascontiguousarray(self.weights[name], dtype=np.float32)

    def constant(self, name, array):
        if name not in {c.name for c in self.constants}:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator, inputs, name, outputs=None, domain="", **attributes):
        """Adds a node; returns its first output's name."""
        outputs = outputs or [name + "/out"]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def linear(self, value, matrix, name):
        """value [..., K] times matrix [N, K] transposed."""
        if not self.quantised:
            return self.node("MatMul", [value, self.constant(name + ".weight", matrix.T)], name)
        whole, scales = blocks8(matrix)
        rows, columns = matrix.shape
        packed = self.constant(name + ".whole", whole.reshape(rows, columns // BLOCK, BLOCK))
        return self.node("MatMulNBits", [value, packed, self.constant(name + ".scales", scales.reshape(-1))], name, domain=MICROSOFT,
                         K=columns, N=rows, bits=8, block_size=BLOCK, accuracy_level=4)

    def norm(self, value, weight_name, name):
        gamma = self.constant(weight_name, self.weight(weight_name))
        return self.node("SimplifiedLayerNormalization", [value, gamma], name, axis=-1, epsilon=self.shape.rms_norm_eps, stash_type=1)

    def skip_norm(self, value, skip, weight_name, name):
        """Norm of value + skip; returns (normed, sum)."""
        gamma = self.constant(weight_name, self.weight(weight_name))
        outputs = [name + "/out", "", "", name + "/sum"]
        self.node("SkipSimplifiedLayerNormalization", [value, skip, gamma], name, outputs, MICROSOFT, epsilon=self.shape.rms_norm_eps)
        return outputs[0], outputs[3]

    def embedding(self):
        table = self.weight("embed_tokens.weight")
        if not self.quantised:
            return self.node("Gather", [self.constant("embed_tokens.weight", table), "input_ids"], "/embed")
        whole, scales = blocks8(table)
        inputs = [self.constant("embed_tokens.whole", whole), "input_ids", self.constant("embed_tokens.scales", scales)]
        return self.node("GatherBlockQuantized", inputs, "/embed", domain=MICROSOFT, bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=1)

    def lengths(self):
        """seqlens_k [B] and total_sequence_length (scalar), both int32, from the mask."""
        summed = self.node("ReduceSum", ["attention_mask", self.constant("axis_one", np.array([1], np.int64))], "/lengths/sum", keepdims=0)
        last = self.node("Sub", [summed, self.constant("one", np.array(1, np.int64))], "/lengths/last")
        self.node("Cast", [last], "/lengths/seqlens", ["seqlens_k"], to=TensorProto.INT32)
        size = self.node("Shape", ["attention_mask"], "/lengths/shape", start=1, end=2)
        width = self.node("Squeeze", [size, self.constant("axis_zero", np.array([0], np.int64))], "/lengths/width")
        self.node("Cast", [width], "/lengths/total", ["total_sequence_length"], to=TensorProto.INT32)

    def rotary(self):
        shape = self.shape
        frequency = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
        angles = np.arange(shape.max_position_embeddings)[:, None] * frequency.astype(np.float32)[None, :]
        self.constant("cos_cache", np.cos(angles).astype(np.float32))
        self.constant("sin_cache", np.sin(angles).astype(np.float32))

    def heads_norm(self, value, layer, which, size):
        """RMS norm of every head: [B, S, heads * d] seen as [B, S, heads, d]."""
        name = f"/layers.{layer}/{which}_norm"
        split = self.node("Reshape", [value, self.constant("as_heads", np.array([0, 0, -1, self.shape.head_dim], np.int64))], name + "/split")
        normed = self.norm(split, f"layers.{layer}.self_attn.{which}_norm.weight", name)
        return self.node("Reshape", [normed, self.constant(f"as_row_{size}", np.array([0, 0, size], np.int64))], name + "/join")

    def attention(self, value, layer):
        shape, base = self.shape, f"layers.{layer}.self_attn"
        queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        stacked = np.concatenate([self.weight(f"{base}.{p}_proj.weight") for p in "qkv"])
        name = f"/layers.{layer}"
        joined = self.linear(value, stacked, f"{name}/qkv")
        parts = [f"{name}/{p}" for p in "qkv"]
        self.node("Split", [joined, self.constant("qkv_sizes", np.array([queries, keys, keys], np.int64))], f"{name}/split", parts, axis=-1)
        query = self.heads_norm(parts[0], layer, "q", queries)
        key = self.heads_norm(parts[1], layer, "k", keys)
        inputs = [query, key, parts[2], f"past_key_values.{layer}.key", f"past_key_values.{layer}.value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
        if self.ragged:
            inputs += [""] * (QUERY_SEQLENS - len(inputs)) + ["query_seqlens"]
        outputs = [f"{name}/attention/out", f"present.{layer}.key", f"present.{layer}.value"]
        mixed = self.node("GroupQueryAttention", inputs, f"{name}/attention", outputs, MICROSOFT, num_heads=shape.num_attention_heads,
                          kv_num_heads=shape.num_key_value_heads, scale=float(shape.head_dim**-0.5), do_rotary=1, rotary_interleaved=0)
        return self.linear(mixed, self.weight(f"{base}.o_proj.weight"), f"{name}/o")

    def route(self, value, layer):
        """The router's scores [B, S, experts], computed in float32."""
        router = self.constant(f"layers.{layer}.mlp.gate", self.weight(f"layers.{layer}.mlp.gate.weight").T)
        return self.node("MatMul", [value, router], f"/layers.{layer}/moe/router")

    def experts(self, value, layer):
        """Router and the experts as one node; gate and up rows lie alternately."""
        shape, base, name = self.shape, f"layers.{layer}.mlp", f"/layers.{layer}/moe"
        scores = self.node("Reshape", [self.route(value, layer), self.constant("as_tokens", np.array([-1, shape.num_experts], np.int64))], name + "/scores")
        wide, narrow = self.weight(f"{base}.experts.gate_up_proj"), self.weight(f"{base}.experts.down_proj")
        half = shape.moe_intermediate_size
        wide = np.stack([wide[:, :half], wide[:, half:]], axis=2).reshape(wide.shape)
        attributes = dict(k=shape.num_experts_per_tok, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1)
        if not self.quantised:
            inputs = [value, scores, self.constant(f"{base}.wide", wide), "", self.constant(f"{base}.narrow", narrow)]
            return self.node("MoE", inputs, name, domain=MICROSOFT, **attributes)
        inputs = [value, scores]
        for title, matrix in (("wide", wide), ("narrow", narrow)):
            whole, scales = blocks8(matrix)
            inputs += [self.constant(f"{base}.{title}.whole", whole), self.constant(f"{base}.{title}.scales", scales), ""]
        return self.node("QMoE", inputs[:-1], name, domain=MICROSOFT, expert_weight_bits=8, block_size=BLOCK, accuracy_level=4, **attributes)

    def head(self, value):
        """Scores of every token, float32; the table of the embedding is the head's too."""
        return self.linear(value, self.weight("embed_tokens.weight"), "/head")

    def model(self):
        """The finished ModelProto; raises ValueError when a weight of the checkpoint was left over."""
        shape = self.shape
        self.lengths()
        self.rotary()
        hidden = self.embedding()
        normed = self.norm(hidden, "layers.0.input_layernorm.weight", "/layers.0/input_norm")
        for layer in range(shape.num_hidden_layers):
            mixed = self.attention(normed, layer)
            normed, hidden = self.skip_norm(hidden, mixed, f"layers.{layer}.post_attention_layernorm.weight", f"/layers.{layer}/post_norm")
            routed = self.experts(normed, layer)
            last = layer + 1 == shape.num_hidden_layers
            following = "norm.weight" if last else f"layers.{layer + 1}.input_layernorm.weight"
            normed, hidden = self.skip_norm(hidden, routed, following, "/final_norm" if last else f"/layers.{layer + 1}/input_norm")
        self.head(normed)
        self.nodes[-1].output[0] = "logits"
        left = set(self.weights) - self.used
        if left:
            raise ValueError(f"weights that no node uses: {sorted(left)}")
        return self._assemble()

    def _assemble(self):
        shape, floats, longs = self.shape, TensorProto.FLOAT, TensorProto.INT64

        def value(name, dtype, dims):
            return helper.make_tensor_value_info(name, dtype, dims)
        inputs = [value("input_ids", longs, ["batch_size", "sequence_length"]), value("attention_mask", longs, ["batch_size", "total_sequence_length"])]
        if self.ragged:
            inputs.append(value("query_seqlens", TensorProto.INT32, ["batch_size"]))
        outputs = [value("logits", floats, ["batch_size", "sequence_length", shape.vocab_size])]
        for layer in range(shape.num_hidden_layers):
            for part in ("key", "value"):
                dims = ["batch_size", shape.num_key_value_heads, "past_sequence_length", shape.head_dim]
                inputs.append(value(f"past_key_values.{layer}.{part}", self.caches, dims))
                outputs.append(value(f"present.{layer}.{part}", self.caches, dims[:2] + ["present_sequence_length", shape.head_dim]))
        graph = helper.make_graph(self.nodes, "moed", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="moed")
        model.ir_version = 10
        return model
