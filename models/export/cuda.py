"""The model's form for a GPU: float16, and only operators that ONNX Runtime's CUDA provider has had since 1.31.

    python -m export.cuda [--checkpoint FILE] [--out default/cuda] [--prompts 200]

Without a checkpoint the weights are read back from the shipped graph. The folder is a whole model folder of its own; inside the
model's folder, under the name `cuda`, the daemon takes it by itself where it computes on a GPU.

QMoE's weights have another layout on the GPU, which only a GPU can pack, and a model of this size gains nothing by it: so the
experts are the float MoE node. What can be proved without a GPU is proved: the graph runs on the CPU (ONNX Runtime puts casts
around what the CPU has in float32 only), and its greedy answers are compared with transformers' in float32.
"""
import argparse
import pathlib
import sys
import tomllib

import numpy as np
from onnx import TensorProto

from distil.checkpoint import as_transformers, shippable
from distil.network import Shape
from export.check import agreement
from export.folder import copy_texts, golden, manifest
from export.graph import Graph
from export.prompts import FOLDER, prompts
from export.restore import weights_of
from export.session import Session

AGREE = 0.98  # of the answers; float16 decides near ties otherwise


class Half(Graph):
    """Float16 weights, activations and caches; the router and the scores in float32."""

    caches = TensorProto.FLOAT16

    def __init__(self, shape, named):
        super().__init__(shape, named, quantised=False, ragged=False)

    def constant(self, name, array, whole=False):
        return super().constant(name, array if whole or array.dtype != np.float32 else array.astype(np.float16))

    def cast(self, value, name, kind):
        return self.node("Cast", [value], name, to=kind)

    def route(self, value, layer):
        """A router in float16 would send tokens to other experts; the node wants its scores in float16 all the same."""
        name = f"/layers.{layer}/moe/router"
        router = self.constant(f"layers.{layer}.mlp.gate", self.weight(f"layers.{layer}.mlp.gate.weight").T, whole=True)
        scores = self.node("MatMul", [self.cast(value, name + "/wide", TensorProto.FLOAT), router], name)
        return self.cast(scores, name + "/half", TensorProto.FLOAT16)

    def head(self, value):
        return self.cast(super().head(value), "/scores", TensorProto.FLOAT)


def write(named, folder, shape=Shape()):
    """Writes the folder; (session of its graph on the CPU, number of golden prompts)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(Half(shape, named).model().SerializeToString())
    copy_texts(folder, shape, dtype="float16", providers=[{"cuda": {}}])
    session = Session(str(folder / "model.onnx"), shape, np.float16)
    goldens = golden(session)
    name = tomllib.loads((FOLDER / "manifest.toml").read_text(encoding="utf-8"))["name"]
    (folder / "manifest.toml").write_text(manifest(folder, goldens, name, ("cuda", "cpu")), encoding="utf-8")
    return session, len(goldens)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--checkpoint", type=pathlib.Path)
    options.add_argument("--out", type=pathlib.Path, default=FOLDER / "cuda")
    options.add_argument("--prompts", type=int, default=200)
    options = options.parse_args()
    named = shippable(options.checkpoint)[0] if options.checkpoint else weights_of(FOLDER / "model.onnx")
    session, goldens = write(named, options.out)
    print(f"{options.out}: {goldens} golden prompts, {sum(p.stat().st_size for p in options.out.iterdir()) / 1e6:.1f} MB")
    same, _ = agreement(session, as_transformers(named), prompts(options.prompts, "reference"))
    print(f"greedy answers on the CPU equal to transformers float32: {same}/{options.prompts}; no GPU was asked")
    return 0 if goldens and same >= AGREE * options.prompts else 1


if __name__ == "__main__":
    sys.exit(main())
