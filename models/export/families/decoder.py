"""Our exporter for decoder families: grouped-query attention, or a cache that grows by Concat; dense, softmax-routed or DeepSeek-routed experts.

It extends the default model's graph writer. `Form` says what a graph looks like from outside, the checkpoint says the rest: biases, norms of
query and key, which layers have experts. A weight of the checkpoint that no node takes is an error.
"""
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from export.families import rotary, sizes
from export.graph import MICROSOFT, Graph


@dataclass(frozen=True)
class Form:
    """The graph's interface."""

    concat: bool = False  # Optimum's form: past and present joined by Concat, plain MatMul and Softmax
    positions: int = 0  # rank of `position_ids`; 0: positions come from the mask
    query_seqlens: bool = False  # int32 [B]: how many tokens of each row count
    keep: bool = False  # int64 scalar `num_logits_to_keep`; 0 keeps all
    cache: str = "FLOAT"  # or FLOAT16, BFLOAT16: caches of that type around a float32 graph


def export(family, model):
    """The finished ModelProto, of the text part alone; raises ValueError when a weight of it was left over."""
    config = model.config.get_text_config()
    return Decoder(sizes.shape(config), sizes.weights(model), Form(**family.options)).model()


class Decoder(Graph):
    """A Graph in float32 whose attention and layers follow the checkpoint."""

    def __init__(self, shape, weights, form):
        super().__init__(shape, weights, quantised=False)
        self.form = form

    def numbers(self, *values):
        """A constant list of int64."""
        return self.constant("int64." + "_".join(map(str, values)), np.array(values, np.int64))

    def times(self, value, factor, name):
        """The value times a number; nothing where that is 1."""
        return value if factor == 1 else self.node("Mul", [value, self.constant(f"float32.{factor}", np.float32(factor))], name)

    def projection(self, value, base, name):
        """A linear layer with its bias, if it has one."""
        out = self.linear(value, self.weight(base + ".weight"), name)
        bias = base + ".bias"
        return self.node("Add", [out, self.constant(bias, self.weight(bias))], name + "/bias") if bias in self.weights else out

    def as_heads(self, value, layer, which, count):
        """[B, S, count * d] -> normed where the checkpoint has a norm of this kind, same dims."""
        normed = f"layers.{layer}.self_attn.{which}_norm.weight" in self.weights
        return self.heads_norm(value, layer, which, count * self.shape.head_dim) if normed else value

    def attention(self, value, layer):
        shape, base, name = self.shape, f"layers.{layer}.self_attn", f"/layers.{layer}"
        query, key, values = (self.projection(value, f"{base}.{which}_proj", f"{name}/{which}") for which in "qkv")
        query = self.as_heads(query, layer, "q", shape.num_attention_heads)
        key = self.as_heads(key, layer, "k", shape.num_key_value_heads)
        mixed = (self.concat_attention if self.form.concat else self.grouped_attention)(query, key, values, layer)
        return self.projection(mixed, f"{base}.o_proj", f"{name}/o")

    def past(self, layer, part):
        """The name of a cache in float32."""
        name = f"past_key_values.{layer}.{part}"
        return self.node("Cast", [name], f"/layers.{layer}/past_{part}", to=TensorProto.FLOAT) if self.form.cache != "FLOAT" else name

    def present(self, layer, part):
        """(name to write a cache to in float32, what to do after)."""
        name = f"present.{layer}.{part}"
        if self.form.cache == "FLOAT":
            return name, lambda: None
        full = f"/layers.{layer}/present_{part}"
        return full, lambda: self.node("Cast", [full], full + "/half", [name], to=TensorProto.DataType.Value(self.form.cache))

    def grouped_attention(self, query, key, values, layer):
        shape, name = self.shape, f"/layers.{layer}/attention"
        turned = self.form.positions > 0  # GroupQueryAttention would count positions from the mask
        if turned:
            query, key = (self.joined(self.turn(self.split(part, heads, f"{name}/{which}"), f"{name}/{which}"), heads, f"{name}/{which}")
                          for part, heads, which in ((query, shape.num_attention_heads, "q"), (key, shape.num_key_value_heads, "k")))
        inputs = [query, key, values, self.past(layer, "key"), self.past(layer, "value"), "seqlens_k", "total_sequence_length"]
        inputs += ["", ""] if turned else ["cos_cache", "sin_cache"]
        if self.form.query_seqlens:
            inputs += [""] * (16 - len(inputs)) + ["query_seqlens"]
        ends = [self.present(layer, part) for part in ("key", "value")]
        out = self.node("GroupQueryAttention", inputs, name, [name + "/out", *(end[0] for end in ends)], MICROSOFT, num_heads=shape.num_attention_heads, kv_num_heads=shape.num_key_value_heads,
                        scale=shape.attention_scale, do_rotary=0 if turned else 1, rotary_interleaved=0, local_window_size=shape.window)
        for _, finish in ends:
            finish()
        return out

    def split(self, value, heads, name):
        """[B, S, heads * d] -> [B, heads, S, d]."""
        apart = self.node("Reshape", [value, self.numbers(0, 0, heads, self.shape.head_dim)], name + "/apart")
        return self.node("Transpose", [apart], name + "/forward", perm=[0, 2, 1, 3])

    def joined(self, value, heads, name):
        """[B, heads, S, d] -> [B, S, heads * d]."""
        back = self.node("Transpose", [value], name + "/back", perm=[0, 2, 1, 3])
        return self.node("Reshape", [back, self.numbers(0, 0, heads * self.shape.head_dim)], name + "/joined")

    def turn(self, value, name):
        """Rotary positions on [B, heads, S, d], by the cosines and sines [B, 1, S, d] of these tokens."""
        half = self.shape.head_dim // 2
        parts = [name + "/low", name + "/high"]
        self.node("Split", [value, self.numbers(half, half)], name + "/halves", parts, axis=-1)
        swapped = self.node("Concat", [self.node("Neg", [parts[1]], name + "/negative"), parts[0]], name + "/swapped", axis=-1)
        return self.node("Add", [self.node("Mul", [value, "cosines"], name + "/cos"), self.node("Mul", [swapped, "sines"], name + "/sin")], name + "/turned")

    def concat_attention(self, query, key, values, layer):
        shape, name = self.shape, f"/layers.{layer}/attention"
        kv, group = shape.num_key_value_heads, shape.num_attention_heads // shape.num_key_value_heads
        query = self.turn(self.split(query, shape.num_attention_heads, name + "/q"), name + "/q")
        fresh = {"key": self.turn(self.split(key, kv, name + "/k"), name + "/k"), "value": self.split(values, kv, name + "/v")}
        whole = {}
        for part, value in fresh.items():
            output, finish = self.present(layer, part)
            grown = self.node("Concat", [self.past(layer, part), value], f"{name}/{part}", [output], axis=2)
            finish()
            wide = self.node("Unsqueeze", [grown, self.numbers(2)], f"{name}/{part}/wide")
            repeated = self.node("Expand", [wide, self.numbers(1, 1, group, 1, 1)], f"{name}/{part}/repeated")
            whole[part] = self.node("Reshape", [repeated, self.numbers(0, kv * group, -1, shape.head_dim)], f"{name}/{part}/heads")
        across = self.node("Transpose", [whole["key"]], name + "/across", perm=[0, 1, 3, 2])
        scores = self.node("Mul", [self.node("MatMul", [query, across], name + "/scores"), self.constant("scale", np.float32(shape.attention_scale))], name + "/scaled")
        masked = self.node("Add", [scores, "visible"], name + "/masked")
        mixed = self.node("MatMul", [self.node("Softmax", [masked], name + "/softmax", axis=-1), whole["value"]], name + "/mixed")
        return self.joined(mixed, shape.num_attention_heads, name + "/o")

    def visibility(self):
        """`visible` [B, 1, S, T]: 0 where a token may look, very negative where not (later, or masked)."""
        size = {}
        for which, source in (("new", "input_ids"), ("total", "attention_mask")):
            dims = self.node("Shape", [source], f"/mask/{which}/shape", start=1, end=2)
            size[which] = self.node("Squeeze", [dims, self.numbers(0)], f"/mask/{which}")
        zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
        first = self.node("Sub", [size["total"], size["new"]], "/mask/first")
        rows = self.node("Unsqueeze", [self.node("Range", [first, size["total"], one], "/mask/rows"), self.numbers(1)], "/mask/column")
        causal = self.node("LessOrEqual", [self.node("Range", [zero, size["total"], one], "/mask/places"), rows], "/mask/causal")
        counted = self.node("Unsqueeze", [self.node("Cast", ["attention_mask"], "/mask/counted", to=TensorProto.BOOL), self.numbers(1, 2)], "/mask/wide")
        allowed = self.node("And", [causal, counted], "/mask/allowed")
        self.node("Where", [allowed, self.constant("open", np.float32(0)), self.constant("shut", np.float32(-1e9))], "/mask/visible", ["visible"])

    def mlp(self, value, base, name):
        gate, up = (self.projection(value, f"{base}.{which}_proj", f"{name}/{which}") for which in ("gate", "up"))
        active = self.node("Mul", [gate, self.node("Sigmoid", [gate], name + "/sigmoid")], name + "/silu")
        return self.projection(self.node("Mul", [active, up], name + "/gated"), f"{base}.down_proj", f"{name}/down")

    def feed_forward(self, value, layer):
        base, name = f"layers.{layer}.mlp", f"/layers.{layer}/mlp"
        if f"{base}.gate.weight" not in self.weights:
            return self.mlp(value, base, name)
        balanced = f"{base}.gate.e_score_correction_bias" in self.weights
        routed = self.times((self.balanced_experts if balanced else self.experts)(value, layer), self.shape.routed_scale, name + "/scaled")
        if f"{base}.shared_experts.gate_proj.weight" not in self.weights:
            return routed
        return self.node("Add", [routed, self.mlp(value, f"{base}.shared_experts", f"{name}/shared")], name + "/sum")

    def balanced_experts(self, value, layer):
        """DeepSeek's choice: the best by sigmoid plus bias, weighed by the sigmoids alone.

        MoE takes a softmax of its router scores, so it is given the logarithms of the chosen sigmoids and nothing of the others.
        """
        shape, base, name = self.shape, f"layers.{layer}.mlp", f"/layers.{layer}/router"
        scores = self.node("MatMul", [value, self.constant(f"{base}.gate", self.weight(f"{base}.gate.weight").T)], name)
        gates = self.node("Sigmoid", [self.node("Reshape", [scores, self.numbers(-1, shape.num_experts)], name + "/tokens")], name + "/sigmoid")
        bias = f"{base}.gate.e_score_correction_bias"
        ranked = self.node("Add", [gates, self.constant(bias, self.weight(bias))], name + "/ranked")
        best = [name + "/best", name + "/chosen"]
        self.node("TopK", [ranked, self.numbers(shape.num_experts_per_tok)], name + "/top", best, axis=-1)
        weights = self.node("Log", [self.node("GatherElements", [gates, best[1]], name + "/weights", axis=1)], name + "/log")
        none = self.node("Expand", [self.constant("shut_out", np.full((1, shape.num_experts), -1e4, np.float32)), self.node("Shape", [gates], name + "/shape")], name + "/none")
        routes = self.node("ScatterElements", [none, best[1], weights], name + "/routes", axis=1)
        return self.mixture(value, routes, layer)

    def mixture(self, value, routes, layer):
        """The experts as one node. value [B, S, H], routes [B * S, E]."""
        shape, base = self.shape, f"layers.{layer}.mlp.experts"
        wide, narrow = self.weight(f"{base}.gate_up_proj"), self.weight(f"{base}.down_proj")
        half = shape.moe_intermediate_size
        wide = np.stack([wide[:, :half], wide[:, half:]], axis=2).reshape(wide.shape)  # gate and up rows lie alternately
        inputs = [value, routes, self.constant(f"{base}.wide", wide), "", self.constant(f"{base}.narrow", narrow)]
        return self.node("MoE", inputs, f"/layers.{layer}/moe", domain=MICROSOFT, k=shape.num_experts_per_tok, activation_type="swiglu", swiglu_fusion=1,
                         activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1)

    def model(self):
        if self.form.concat:
            self.visibility()
        else:
            self.lengths()
        rotary.tables(self)
        shape = self.shape
        hidden = self.times(self.embedding(), shape.embedding_scale, "/embed/scaled")
        normed = self.norm(hidden, "layers.0.input_layernorm.weight", "/layers.0/input_norm")
        for layer in range(shape.num_hidden_layers):
            mixed = self.times(self.attention(normed, layer), shape.residual_scale, f"/layers.{layer}/attention_scaled")
            normed, hidden = self.skip_norm(hidden, mixed, f"layers.{layer}.post_attention_layernorm.weight", f"/layers.{layer}/post_norm")
            fed = self.times(self.feed_forward(normed, layer), shape.residual_scale, f"/layers.{layer}/mlp_scaled")
            last = layer + 1 == shape.num_hidden_layers
            following = "norm.weight" if last else f"layers.{layer + 1}.input_layernorm.weight"
            normed, hidden = self.skip_norm(hidden, fed, following, "/final_norm" if last else f"/layers.{layer + 1}/input_norm")
        if self.form.keep:
            start = self.node("Unsqueeze", [self.node("Neg", ["num_logits_to_keep"], "/keep/negative"), self.numbers(0)], "/keep/start")
            normed = self.node("Slice", [normed, start, self.numbers(2**63 - 1), self.numbers(1)], "/keep")
        head = "lm_head.weight" if "lm_head.weight" in self.weights else "embed_tokens.weight"
        self.times(self.linear(normed, self.weight(head), "/head"), shape.logits_scale, "/head/scaled")
        self.nodes[-1].output[0] = "logits"
        left = set(self.weights) - self.used
        if left:
            raise ValueError(f"weights that no node uses: {sorted(left)}")
        return self._finished()

    def _finished(self):
        """The parent's model with this form's inputs and cache types."""
        model, form = self._assemble(), self.form
        def add(name, kind, dims):
            model.graph.input.insert(2, helper.make_tensor_value_info(name, kind, dims))
        if form.keep:
            add("num_logits_to_keep", TensorProto.INT64, [])
            model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "num_logits_to_keep"
        if form.query_seqlens:
            add("query_seqlens", TensorProto.INT32, ["batch_size"])
        if form.positions:
            add("position_ids", TensorProto.INT64, [3, "batch_size", "sequence_length"][3 - form.positions:])
        for value in [*model.graph.input, *model.graph.output]:
            if form.concat and value.name.startswith("present"):
                value.type.tensor_type.shape.dim[2].dim_param = "past_sequence_length + sequence_length"
            if value.name.startswith(("past", "present")):
                value.type.tensor_type.elem_type = TensorProto.DataType.Value(form.cache)
        return model
