"""Proves the 4-bit graph on a small checkpoint of the same form.

    python -m export.mid.check

1. Against the float32 graph with the weights that the 4 bits stand for: what is left is the int8 activations.
2. `num_logits_to_keep` gives the last positions of the whole.
3. `query_seqlens`: rows of different lengths in one run, an idle one among them, give what each gives alone.
"""
import sys
from dataclasses import replace

import numpy as np
import onnxruntime

from export.graph import Graph
from export.mid import checkpoint
from export.mid.graph import Graph4, Recipe
from export.mid.quantise import blocks4, restore4

SHAPE = replace(checkpoint.SHAPE, vocab_size=512, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_experts=8, moe_intermediate_size=256)
ROOM = 64


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def restored(named, block):
    """The checkpoint after a round trip through 4 bits; norms and router stay."""
    found = {}
    for name, array in named.items():
        small = name.endswith(("norm.weight", "gate.weight"))
        found[name] = array if small else restore4(*blocks4(array, block), block)
    return found


def run(graph, ids, past=None, mask=None, **more):
    """Logits and the new past."""
    ids = np.asarray(ids, np.int64)
    empty = np.zeros((len(ids), SHAPE.num_key_value_heads, 0, SHAPE.head_dim), np.float32)
    names = [f"past_key_values.{layer}.{part}" for layer in range(SHAPE.num_hidden_layers) for part in ("key", "value")]
    feed = {"input_ids": ids, "attention_mask": np.ones(ids.shape, np.int64) if mask is None else mask} | {name: empty for name in names} | (past or {}) | more
    outputs = graph.run(["logits", *(name.replace("past_key_values", "present") for name in names)], feed)
    return outputs[0], dict(zip(names, outputs[1:]))


def ragged(graph, draw, lengths=(5, 1, 0, 8)):
    """Largest difference between rows of one run with `query_seqlens` and the same rows alone."""
    prompts = [draw.integers(3, SHAPE.vocab_size, (1, 12)) for _ in lengths]
    keep = {"num_logits_to_keep": np.array(0, np.int64)}
    shape = (len(lengths), SHAPE.num_key_value_heads, ROOM, SHAPE.head_dim)
    binding, ids, mask = graph.io_binding(), np.zeros((len(lengths), max(lengths)), np.int64), np.zeros((len(lengths), ROOM), np.int64)
    for row, (prompt, length) in enumerate(zip(prompts, lengths)):
        ids[row, :length] = prompt[0, :length]
        mask[row, :max(1, length)] = 1  # an idle row has a past, or the kernel refuses it
    for name, array in (("input_ids", ids), ("attention_mask", mask), ("query_seqlens", np.array(lengths, np.int32)), *keep.items()):
        binding.bind_cpu_input(name, array)
    for value in graph.get_inputs():
        if value.name.startswith("past"):
            cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            binding.bind_ortvalue_input(value.name, cache)
            binding.bind_ortvalue_output(value.name.replace("past_key_values", "present"), cache)
    binding.bind_output("logits")
    graph.run_with_iobinding(binding)
    together = next(value.numpy() for value in binding.get_outputs() if len(value.shape()) == 3)
    worst = 0.0
    for row, (prompt, length) in enumerate(zip(prompts, lengths)):
        if length:
            alone = run(graph, prompt[:, :length], query_seqlens=np.array([length], np.int32), **keep)[0][0]
            worst = max(worst, float(np.abs(together[row, :length] - alone).max()))
    return worst


def main():
    faults, draw = [], np.random.default_rng(1)
    named = checkpoint.weights(SHAPE)
    ids = draw.integers(3, SHAPE.vocab_size, (1, 24))
    lengths = {"query_seqlens": np.array([24], np.int32)}
    for block in (32, 64, 128):
        graph = session(Graph4(SHAPE, named, Recipe(block, block)).model())
        plain = session(Graph(SHAPE, restored(named, block), quantised=False).model())
        whole = run(graph, ids, num_logits_to_keep=np.array(0, np.int64), **lengths)[0][0]
        wanted = run(plain, ids)[0][0]
        original = run(session(Graph(SHAPE, named, quantised=False).model()), ids)[0][0]
        near = float(np.corrcoef(whole.ravel(), wanted.ravel())[0, 1])
        print(f"blocks of {block}: correlation with float32 {near:.5f} for the same weights, {np.corrcoef(whole.ravel(), original.ravel())[0, 1]:.4f} for the weights before quantisation")
        if near < 0.999:
            faults.append(f"blocks of {block}: the 4-bit graph is not the float32 graph ({near:.5f})")
        last = run(graph, ids, num_logits_to_keep=np.array(2, np.int64), **lengths)[0][0]
        if last.shape[0] != 2 or np.abs(last - whole[-2:]).max() > 0.05:
            faults.append(f"blocks of {block}: the last two positions {last.shape} are not those of the whole")
        difference = ragged(graph, draw)
        print(f"blocks of {block}: rows of one ragged run differ from the rows alone by at most {difference:.4f}")
        if difference > 0.25:
            faults.append(f"blocks of {block}: ragged rows differ by {difference}")
    print("\n".join("FAULT: " + fault for fault in faults) or "no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
