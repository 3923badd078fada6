"""A bare ONNX Runtime loop in Python over variants of a graph, interleaved: to explore, not a row of the bench.

    python tests/bench/bare.py [--rounds 9] [--steps 40] [--rows 1] [--past 128] NAME=GRAPH[,key=value...] ...

Each variant lives in a process of its own and decodes in turn. Keys are session config entries; `pattern=0` switches the
memory pattern off, `threads=N` sets threads. Prints the median and the 10th and 90th percentile of its steps in ms, and the
median of the CPU time, which a busy machine disturbs least with `threads=1`.
"""
import argparse
import multiprocessing
import time

import numpy as np
import onnxruntime

ROOM = 640


class Loop:
    """Buffers bound once; a step writes the ids, the mask and runs."""

    def __init__(self, graph, rows, past, settings):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(settings.pop("threads", 2))
        options.enable_mem_pattern = settings.pop("pattern", "1") == "1"
        options.log_severity_level = 3
        for key, value in settings.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.binding, self.draw, self.rows = self.session.io_binding(), np.random.default_rng(1), rows
        self.lengths = past + 7 * np.arange(rows)
        self.ids, self.mask = np.zeros((rows, 1), np.int64), np.zeros((rows, ROOM), np.int64)
        self.binding.bind_cpu_input("input_ids", self.ids)
        self.binding.bind_cpu_input("attention_mask", self.mask)
        wanted = {value.name: value for value in self.session.get_inputs()}
        if "query_seqlens" in wanted:
            self.binding.bind_cpu_input("query_seqlens", np.ones(rows, np.int32))
        if "num_logits_to_keep" in wanted:
            self.binding.bind_cpu_input("num_logits_to_keep", np.array(1, np.int64))
        vocabulary = self.session.get_outputs()[0].shape[2]
        self.logits = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((rows, 1, vocabulary), np.float32))
        self.binding.bind_ortvalue_output("logits", self.logits)
        for name, value in wanted.items():
            if name.startswith("past_key_values"):
                held = self.draw.standard_normal((rows, value.shape[1], ROOM, value.shape[3])).astype(np.float32)
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(held)
                self.binding.bind_ortvalue_input(name, cache)
                self.binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        self.vocabulary = vocabulary

    def steps(self, count):
        """Milliseconds of each step, by the clock and of the CPU."""
        times = []
        for step in range(count):
            self.ids[:] = self.draw.integers(3, self.vocabulary, (self.rows, 1))
            self.mask[:] = np.arange(ROOM)[None] < (self.lengths + step + 1)[:, None]
            begun, begun_cpu = time.perf_counter(), time.process_time()
            self.binding.bind_cpu_input("input_ids", self.ids)
            self.binding.bind_cpu_input("attention_mask", self.mask)
            self.session.run_with_iobinding(self.binding)
            times.append(((time.perf_counter() - begun) * 1e3, (time.process_time() - begun_cpu) * 1e3))
        return times


def serve(pipe, graph, rows, past, settings):
    loop = Loop(graph, rows, past, settings)
    while (count := pipe.recv()) is not None:
        pipe.send(loop.steps(count))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--rows", type=int, default=1)
    options.add_argument("--past", type=int, default=128)
    options.add_argument("variants", nargs="+")
    options = options.parse_args()
    pipes, times = {}, {}
    for text in options.variants:
        name, _, rest = text.partition("=")
        graph, *pairs = rest.split(",")
        pipe, far = multiprocessing.Pipe()
        settings = dict(pair.split("=", 1) for pair in pairs)
        multiprocessing.Process(target=serve, args=(far, graph, options.rows, options.past, settings), daemon=True).start()
        pipes[name], times[name] = pipe, []
    for pipe in pipes.values():  # warm up
        pipe.send(5)
        pipe.recv()
    for _ in range(options.rounds):
        for name, pipe in pipes.items():
            time.sleep(0.05)  # the threads of the one before stop spinning
            pipe.send(options.steps)
            times[name] += pipe.recv()[3:]
    for name, found in times.items():
        clock, cpu = np.array(found).T
        low, middle, high = np.percentile(clock, [10, 50, 90])
        print(f"{name:24} {middle:7.3f} ms ({low:.3f} to {high:.3f}), CPU {np.median(cpu):7.3f} ms, {options.rows * 1e3 / middle:7.1f} tokens/s")


if __name__ == "__main__":
    main()
