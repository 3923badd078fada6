"""Runs an exported graph with ONNX Runtime, as the checks and the judge's offline row need it."""
import numpy as np
import onnxruntime


TRIES = 400  # best tokens that are tried against `allowed`


class Session:
    """Greedy decoding on the CPU; past and present are separate arrays here."""

    def __init__(self, model, shape, cache=np.float32, threads=2):
        """model: path or serialised bytes; cache: what keys and values are kept in."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves PyTorch beside it
        self.shape, self.cache = shape, cache
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.ragged = any(i.name == "query_seqlens" for i in self.session.get_inputs())
        self.past_names = [f"past_key_values.{n}.{part}" for n in range(shape.num_hidden_layers) for part in ("key", "value")]
        self.present_names = [name.replace("past_key_values", "present") for name in self.past_names]

    def empty(self, rows=1):
        """A past of length 0."""
        none = np.zeros((rows, self.shape.num_key_value_heads, 0, self.shape.head_dim), self.cache)
        return {name: none for name in self.past_names}

    def _fresh(self, ids, fresh):
        """The feed of `query_seqlens`, where the graph has it: every token of a row is new unless `fresh` says less."""
        return {"query_seqlens": np.asarray(fresh or [ids.shape[1]] * ids.shape[0], np.int32)} if self.ragged else {}

    def run(self, ids, past, mask=None):
        """ids [B, S] -> (logits [B, S, V], the new past)."""
        ids = np.asarray(ids, np.int64)
        mask = np.ones((ids.shape[0], past[self.past_names[0]].shape[2] + ids.shape[1]), np.int64) if mask is None else mask
        outputs = self.session.run(["logits", *self.present_names], {"input_ids": ids, "attention_mask": mask, **self._fresh(ids, None), **past})
        return outputs[0], dict(zip(self.past_names, outputs[1:]))

    def run_shared(self, ids, mask, buffers, fresh=None):
        """One Run with past and present bound to the same OrtValues, which are longer than the mask; `fresh` [B]: new tokens of each row."""
        binding, ids = self.session.io_binding(), np.asarray(ids, np.int64)
        binding.bind_cpu_input("input_ids", ids)
        for name, value in self._fresh(ids, fresh).items():
            binding.bind_cpu_input(name, value)
        binding.bind_cpu_input("attention_mask", np.asarray(mask, np.int64))
        for past, present in zip(self.past_names, self.present_names):
            binding.bind_ortvalue_input(past, buffers[past])
            binding.bind_ortvalue_output(present, buffers[past])
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        return next(v.numpy() for v in binding.get_outputs() if len(v.shape()) == 3)

    def buffers(self, rows, length):
        """Zeroed shared past/present buffers: name -> OrtValue [rows, kv, length, d]."""
        size = (rows, self.shape.num_key_value_heads, length, self.shape.head_dim)
        return {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(size, self.cache)) for name in self.past_names}

    def greedy(self, prompt, most, stop=2, allowed=None):
        """Decodes the best token every time, or the best that `allowed(found so far, token)` lets through.

        (generated ids with the stop token, smallest margin between the two best logits, logits of the last prompt position)."""
        logits, past = self.run([prompt], self.empty())
        first = row = logits[0, -1]
        found, margin = [], float("inf")
        while len(found) < most:
            best = int(row.argmax())
            if allowed and not allowed(found, best):
                best = next((int(t) for t in np.argsort(-row)[:TRIES] if allowed(found, int(t))), best)
            second, top = np.partition(row, -2)[-2:]
            margin = min(margin, float(top - second))
            found.append(best)
            if best == stop:
                break
            logits, past = self.run([[best]], past)
            row = logits[0, -1]
        return found, margin, first
