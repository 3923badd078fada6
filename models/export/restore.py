"""Reads the weights back out of a shipped graph, so that it can be checked without the training run."""
import numpy as np
import onnx
from onnx import numpy_helper

from export.quantise import restore


def weights_of(path):
    """name -> float32 array under the names of distil.network, from a quantised graph of export.graph."""
    stored = {c.name: numpy_helper.to_array(c) for c in onnx.load(path).graph.initializer}
    found = {name: array for name, array in stored.items() if name.endswith("norm.weight")}

    def matrix(name):
        whole, scales = stored[name + ".whole"], stored[name + ".scales"]
        whole = whole.reshape(whole.shape[0], -1) if name.startswith("/") else whole
        return restore(whole, scales.reshape(*whole.shape[:-1], -1))

    found["embed_tokens.weight"] = matrix("embed_tokens")
    layers = sum(name.endswith(".mlp.gate") for name in stored)
    for layer in range(layers):
        base = f"layers.{layer}"
        joined = matrix(f"/{base}/qkv")
        sizes = stored["qkv_sizes"]
        for part, rows in zip("qkv", np.split(joined, np.cumsum(sizes)[:-1])):
            found[f"{base}.self_attn.{part}_proj.weight"] = rows
        found[f"{base}.self_attn.o_proj.weight"] = matrix(f"/{base}/o")
        found[f"{base}.mlp.gate.weight"] = stored[f"{base}.mlp.gate"].T
        wide = matrix(f"{base}.mlp.wide")
        found[f"{base}.mlp.experts.gate_up_proj"] = np.concatenate([wide[:, 0::2], wide[:, 1::2]], axis=1)
        found[f"{base}.mlp.experts.down_proj"] = matrix(f"{base}.mlp.narrow")
    return {name: np.ascontiguousarray(array) for name, array in found.items()}
