"""Which kernels a step or a prompt spends its time in, by ONNX Runtime's own profile.

    .bench/venv/bin/python tests/bench/shares.py MODEL.onnx [--rows 8] [--tokens 1] [--past 128] [--threads 2] [--runs 40]

Rows have `past` tokens and a few more each, and read `tokens` new ones. One warm half of the runs is left out.
"""
import argparse
import collections
import json
import os
import pathlib
import tempfile

import numpy as np
import onnxruntime

RAGGED_BY = 7


def session(path, threads, prefix):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling, options.profile_file_prefix = True, prefix
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(inputs, rows, tokens, past, width, draw):
    """Arrays of everything but the caches."""
    mask = np.zeros((rows, width), np.int64)
    for row in range(rows):
        mask[row, : past + RAGGED_BY * row + tokens] = 1
    known = {"input_ids": draw.integers(3, 4000, (rows, tokens)), "attention_mask": mask, "query_seqlens": np.full(rows, tokens, np.int32), "num_logits_to_keep": np.array(1, np.int64)}
    return {name: value for name, value in known.items() if name in inputs}


def run(model, rows, tokens, past, runs):
    """One shared buffer is past and present, as in the daemon."""
    inputs = {port.name: port for port in model.get_inputs()}
    width = past + RAGGED_BY * rows + tokens
    caches, draw = {}, np.random.default_rng(1)
    for name in (name for name in inputs if name.startswith("past")):
        heads, size = inputs[name].shape[1], inputs[name].shape[3]
        caches[name] = onnxruntime.OrtValue.ortvalue_from_numpy(draw.standard_normal((rows, heads, width, size)).astype(np.float32))
    for _ in range(runs):
        binding = model.io_binding()
        for name, value in feeds(inputs, rows, tokens, past, width, draw).items():
            binding.bind_cpu_input(name, value)
        for name, cache in caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        binding.bind_output("logits")
        model.run_with_iobinding(binding)
    return pathlib.Path(model.end_profiling())


def shares(profile):
    """[(operator, microseconds a run)] of the second half of the runs, the longest first."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    starts = [event["ts"] for event in events if event.get("name") == "model_run"]
    counted, spent = starts[len(starts) // 2 :], collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time") and event["ts"] >= counted[0]:
            spent[event["args"]["op_name"]] += event["dur"] / len(counted)
    return spent.most_common()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("model", type=pathlib.Path)
    for name, default in (("rows", 8), ("tokens", 1), ("past", 128), ("threads", 2), ("runs", 40)):
        options.add_argument(f"--{name}", type=int, default=default)
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = session(options.model, options.threads, os.path.join(folder, "profile"))
        found = shares(run(model, options.rows, options.tokens, options.past, options.runs))
    whole = sum(time for _, time in found)
    print(f"{options.model}, {options.rows} rows of {options.tokens} new tokens after {options.past}: {whole / 1e3:.2f} ms of kernels a run")
    for operator, time in found[:8]:
        print(f"  {operator:32} {time:10.0f} us {100 * time / whole:5.1f} %")


if __name__ == "__main__":
    main()
