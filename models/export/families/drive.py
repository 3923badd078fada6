"""Runs any decoder graph by what it declares: the reference for the daemon's own driver.

A cache input is one whose name starts with `past`; its partner is the output whose name has `present` there instead.
`growing`: rank 4 with a symbolic third dimension, as long as what was read. `window`: the same but named `past_sliding_length`, it needs a buffer
of at least the window and wraps around in it. `fixed`: all else, zero at the start.
"""
import numpy as np
import onnxruntime
from onnx import TensorProto

BFLOAT16 = "tensor(bfloat16)"
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, BFLOAT16: np.uint16}  # NumPy has no bfloat16: its bits
KNOWN = {"input_ids", "attention_mask", "position_ids", "query_seqlens", "num_logits_to_keep"}


class Driver:
    """One session. `capacity`: growing caches are buffers of that length, bound as past and as present; None: arrays of their own, as long as what was read."""

    def __init__(self, model, heads, head_size, capacity=None, window=None):
        """model: path or bytes. heads, head_size: for dimensions that the graph leaves open. window: length of window caches, else `capacity`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # tiny graphs: a second thread only waits
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])
        self.heads, self.head_size, self.capacity, self.window = heads, head_size, capacity, window or capacity or 64
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.caches = {name: present(name) for name in self.inputs if name.startswith("past")}
        unknown = set(self.inputs) - set(self.caches) - KNOWN
        if unknown or not set(self.caches.values()) <= set(self.outputs):
            raise ValueError(f"inputs that no driver knows: {sorted(unknown)}")

    def kind(self, name):
        dims = self.inputs[name].shape
        if len(dims) != 4 or not isinstance(dims[2], str):
            return "fixed"
        return "window" if "sliding" in dims[2] else "growing"

    def kinds(self):
        return {self.kind(name) for name in self.caches}

    def empty(self, rows=1):
        """A state that has read nothing."""
        state = {}
        for name in self.caches:
            dims, kind = list(self.inputs[name].shape), self.kind(name)
            dims[0] = rows
            if kind != "fixed":
                dims[1] = dims[1] if isinstance(dims[1], int) else self.heads
                dims[2] = self.window if kind == "window" else self.capacity or 0
                dims[3] = dims[3] if isinstance(dims[3], int) else self.head_size
            if not all(isinstance(size, int) for size in dims):
                raise ValueError(f"`{name}` has open dimensions: {dims}")
            state[name] = np.zeros(dims, DTYPES[self.inputs[name].type])
        return state

    def feeds(self, ids, past, mask, new, positions, keep):
        """The inputs beside the caches. past [B]: tokens that each row holds; new [B]: tokens of `ids` that count."""
        ids = np.ascontiguousarray(ids, np.int64)
        rows, width = ids.shape
        values = {"input_ids": ids}
        if mask is None:
            total = past + new
            mask = np.arange(max(int(total.max()), width))[None] < total[:, None]
        values["attention_mask"] = np.ascontiguousarray(mask, np.int64)
        if positions is None:
            positions = past[:, None] + np.arange(width)[None]
        if "position_ids" in self.inputs and len(self.inputs["position_ids"].shape) == 3 and positions.ndim == 2:
            positions = np.broadcast_to(positions, (3, rows, width))
        values["position_ids"] = np.ascontiguousarray(positions, np.int64)
        values["query_seqlens"] = np.ascontiguousarray(new, np.int32)
        values["num_logits_to_keep"] = np.array(keep, np.int64)
        return {name: values[name] for name in self.inputs if name in KNOWN}

    def run(self, ids, state, past=0, new=None, mask=None, positions=None, keep=0):
        """ids [B, S] -> logits [B, S, V] in float32; the state is changed in place."""
        ids = np.atleast_2d(ids)
        past = np.broadcast_to(np.asarray(past), ids.shape[:1])
        new = np.full(ids.shape[0], ids.shape[1]) if new is None else np.asarray(new)
        values = self.feeds(ids, past, mask, new, positions, keep)
        binding = self.session.io_binding()
        for name, array in values.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        held = {name: self.value(name, array) for name, array in state.items()}
        for name, output in self.caches.items():
            binding.bind_ortvalue_input(name, held[name])
            if self.in_place(name):
                binding.bind_ortvalue_output(output, held[name])
            else:
                binding.bind_output(output)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        found = dict(zip([*self.caches.values(), "logits"], binding.get_outputs()))
        for name, output in self.caches.items():
            if not self.in_place(name):
                state[name] = found[output].numpy().copy()
        return found["logits"].numpy().astype(np.float32)

    def in_place(self, name):
        """Whether past and present of this cache are one buffer."""
        return bool(self.capacity) and self.kind(name) != "fixed"

    def value(self, name, array):
        """A cache array as a tensor that looks into it."""
        if self.inputs[name].type == BFLOAT16:
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, TensorProto.BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def greedy(self, prompt, steps):
        """The best token, `steps` times, read one by one after the prompt."""
        state, tokens = self.empty(), []
        row = self.run([prompt], state)[0, -1]
        while True:
            tokens.append(int(row.argmax()))
            if len(tokens) == steps:
                return tokens
            row = self.run([tokens[-1:]], state, past=len(prompt) + len(tokens) - 1)[0, -1]


def present(name):
    """The output that continues a cache input."""
    return name.replace("past_key_values", "present", 1) if name.startswith("past_key_values") else name.replace("past", "present", 1)
