"""Whether every expert weight of a checkpoint reached the graph's scores.

An exporter may drop the routed experts without a word, and the graph runs. So each expert weight is looked up among the constants that
the logits depend on, by its numbers in sorted order: exporters transpose and interleave, none changes a number in float32.
"""
import hashlib

import numpy as np
from onnx import numpy_helper


def fingerprint(array):
    return hashlib.sha256(np.sort(np.asarray(array, np.float32), axis=None).tobytes()).hexdigest()


def used_constants(graph, output="logits"):
    """Names of the initialisers that an output depends on."""
    makers = {name: node for node in graph.node for name in node.output if name}
    pending, seen = [output], set()
    while pending:
        name = pending.pop()
        if name and name not in seen:
            seen.add(name)
            pending += makers[name].input if name in makers else []
    return {constant.name for constant in graph.initializer} & seen


def lost(model, state):
    """Expert weights of the checkpoint that the logits do not depend on."""
    used = used_constants(model.graph)
    present = {fingerprint(numpy_helper.to_array(constant)) for constant in model.graph.initializer if constant.name in used}
    return sorted(name for name, tensor in state.items() if "expert" in name and fingerprint(tensor.float().numpy()) not in present)
