"""`make bench`: moed beside a bare ONNX Runtime loop, onnxruntime-genai and llama.cpp, interleaved on the same two cores.

    .bench/venv/bin/python tests/bench/run.py [--pairs 20] [--row NAME]... [--list] [--out tests/reports]

Every row is a series of pairs, ours and the peer's measured one after the other; its ratio is the median of the paired ratios
with a bootstrap interval, and a bar is met when the lower bound clears it. Writes bench.json, plots and the table.
`--row` measures only rows whose name holds NAME, and only what they need; such a run writes into bench.json only these rows.
Every row says at which commit, when and under what load it was measured; one that could not be is there as failed.
"""
import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np

import peers
import plot
import serving
import table
from pairs import Rows

MODEL_NAMES = {"mid": "497M", "default": "default"}
STREAMS = (8, 32)
CLIENTS = (1, 8, 32)
SCREEN = 3  # looks at each quantisation before the fastest two are chosen
OWN_US, OWN_SHARE = 60.0, 1 / 1.03
STARTS_S, IDLE_PERCENT, ANONYMOUS_MB, RESIDENT = 1.0, 0.3, 60.0, 1.7


def plural(number, noun):
    return f"{number} {noun}{'s' if number > 1 else ''}"


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Bench:
    """The rows and what is asked for."""

    def __init__(self, options):
        self.pairs, self.only, self.types = options.pairs, options.row, {}
        self.about = machine()
        self.rows = Rows({"commit": self.about["moed"], "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0]})
        self.known = []
        self.path = options.out / "bench.json"

    def wants(self, *names):
        self.known += names
        return any(not self.only or any(part in name for part in self.only) for name in names)

    def add(self, name, *pair, **more):
        if self.wants(name):
            self.rows.add(name, *pair, **more)

    def missing(self, failures):
        """Rows that were asked for and are not there: a bar must not vanish with its row."""
        asked = (name for name in dict.fromkeys(self.known) if not self.only or any(part in name for part in self.only))
        return [self.rows.missing(name, "; ".join(failures) or "no such figure was given") for name in asked if name not in self.rows.held]

    def each_pair(self, what):
        for number in range(self.pairs):
            say(f"{what}: pair {number + 1} of {self.pairs}")
            yield number


def screen(bench, model):
    """Tokens/s of every 4-bit quantisation, and the two fastest for decoding and for reading."""
    kinds, found = peers.llama_types(model), {}
    for _ in range(min(SCREEN, bench.pairs)):
        for kind in kinds:
            one = found.setdefault(kind, {"decode": [], "prefill": []})
            one["decode"].append(peers.llama_bench(model, kind, 0, 64))
            one["prefill"].append(peers.llama_bench(model, kind, 512, 0))
    medians = {kind: {what: float(np.median(values)) for what, values in one.items()} for kind, one in found.items()}
    bench.types[model] = medians

    def best(what, count):
        return sorted(medians, key=lambda kind: -medians[kind][what])[:count]

    say(f"{model}: fastest in decoding {best('decode', 2)}, in reading {best('prefill', 1)}")
    return best("decode", 2), best("prefill", 1)[0]


def fastest(bench, model):
    """The 4-bit type that decodes fastest: of this run's screening, else of the stored run's, else of one made now."""
    known = bench.types.get(model)
    if not known and bench.path.exists():
        known = json.loads(bench.path.read_text(encoding="utf-8"))["machine"]["llama_types"].get(model)
    return max(known, key=lambda kind: known[kind]["decode"]) if known else screen(bench, model)[0][0]


def kernels(bench, model):
    """The model by itself: decoding, reading, many streams."""
    title = MODEL_NAMES[model]
    decode = [f"{title}: decode, 1 stream, tokens/s, llama.cpp, {place} of its 4-bit types" for place in ("fastest", "second")]
    prefill = f"{title}: prefill 512, tokens/s, llama.cpp, fastest of its 4-bit types"
    batched = {streams: f"{title}: decode, {streams} streams, tokens/s, llama-batched-bench" for streams in STREAMS}
    genai = {(peer, streams): f"{title}: decode, {plural(streams, 'stream')}, tokens/s, {peer}" for peer in peers.GENAI[model] for streams in (1, *STREAMS)}
    if not bench.wants(*decode, prefill, *batched.values(), *genai.values()) or bench.pairs == 0:
        return
    ours = [f"decode_{streams}" for streams in (1, *STREAMS)] + ["prefill_512"]
    leaders, reader = screen(bench, model) if bench.wants(*decode, prefill, *batched.values()) else ([], None)
    asked = {peer for (peer, _), name in genai.items() if bench.wants(name)}
    workers = {peer: peers.Genai(folder) for peer, folder in peers.GENAI[model].items() if peer in asked}
    mid = model == "mid"
    for _ in bench.each_pair(f"{title}, the model by itself"):
        found = {name: samples[-1] for name, samples in peers.moed(model, ours).items()}
        if bench.wants(*decode):
            for place, kind in enumerate(leaders):
                bench.add(decode[place], found["decode_1"], peers.llama_bench(model, kind, 0, 64), bar=1.0 if mid else None, of=kind)
        if bench.wants(prefill):
            bench.add(prefill, found["prefill_512"], peers.llama_bench(model, reader, 512, 0), bar=1.1 if mid else None, of=reader)
        if bench.wants(*batched.values()):
            for streams, speed in peers.llama_batched(model, leaders[0], STREAMS).items():
                bench.add(batched[streams], found[f"decode_{streams}"], speed, of=leaders[0])
        for (peer, streams), name in genai.items():
            if bench.wants(name):
                bench.add(name, found[f"decode_{streams}"], workers[peer].decode(streams), bar=2.0 if streams > 1 else None)
    for worker in workers.values():
        worker.close()


def served(bench, model):
    """End to end: clients of both servers, the same prompts, the same number of tokens."""
    title = MODEL_NAMES[model]
    names = {clients: f"{title}: {plural(clients, 'client')}, tokens/s, llama-server" for clients in CLIENTS}
    if not bench.wants(*names.values()):
        return
    kind = fastest(bench, model)
    prompts = serving.Prompts(model)
    with serving.Moed(model) as moed, serving.Llama(model, kind) as llama:
        serving.throughput(moed, prompts.some(2))
        serving.throughput(llama, prompts.some(2))
        for _ in bench.each_pair(f"{title}, end to end"):
            for clients, name in names.items():
                if bench.wants(name):
                    asked = prompts.some(clients)
                    ours, theirs = serving.throughput(moed, asked), serving.throughput(llama, asked)
                    bench.add(name, ours, theirs, bar=1.5 if clients > 1 else None, of=kind)


def own_time(bench):
    """What a step costs beyond the bare loop's, plus what the engine does between two steps."""
    share = {streams: f"497M: own time, {plural(streams, 'stream')}, us a step, bare loop" for streams in (1, 8)}
    absolute = "default: own time, 1 stream, us a token, at most"
    if bench.wants(*share.values()):
        between = peers.moed("mid", ["between_1", "between_8"], bench.pairs)
        for row in peers.own_time("mid", (1, 8), bench.pairs):
            streams = row["streams"]
            for bare, step, rest in zip(row["bare_us"], row["step_us"], between[f"between_{streams}"]):
                bench.add(share[streams], step + rest, bare, bar=OWN_SHARE, more_is_better=False)
    if bench.wants(absolute):
        between = peers.moed("default", ["between_1"], bench.pairs)["between_1"]
        (row,) = peers.own_time("default", (1,), bench.pairs)
        for bare, step, rest in zip(row["bare_us"], row["step_us"], between):
            bench.add(absolute, max(step - bare, 0.0) + rest, OWN_US, bar=1.0, more_is_better=False)


def alone(bench):
    """Rows that have a number to keep instead of a peer."""
    ready, idle, cached = "default: start to ready, s, at most", "default: idle, % of a core, at most", "497M: first token, cached prefix, ms, cold"
    calls, formed = "default: tool calls, forced tokens in pieces, ms, one by one", "default: JSON that follows a schema, tokens/s, free text"
    anonymous, resident = "497M: anonymous memory, MB, cache + 60", "497M: peak resident memory, MB, 1.7 x weights + cache"
    if bench.wants(ready):
        with serving.Moed("default", slots=8, room=0):
            pass  # the first start makes the model ready
        for _ in bench.each_pair("starts"):
            with serving.Moed("default", slots=8, room=0) as server:
                bench.add(ready, server.ready_s, STARTS_S, bar=1.0, more_is_better=False)
    if bench.wants(idle):
        for _ in range(min(bench.pairs, 5)):
            bench.add(idle, peers.moed("default", ["idle"])["idle"][0], IDLE_PERCENT, bar=1.0, more_is_better=False)
    if bench.wants(cached):
        found = peers.moed("mid", ["first_token"], bench.pairs)
        # An engine that keeps no prefixes has no such row.
        for ours, cold in zip(found.get("first_token_cached", []), found["first_token_cold"]):
            bench.add(cached, ours, cold, bar=10.0, more_is_better=False)
    if bench.wants(calls):
        found = peers.moed("default", ["calls"], bench.pairs, peers.ROOT / "models" / "judge" / "heldout.jsonl")
        for fast, slow in zip(found["calls_forced_in_pieces"], found["calls_one_by_one"]):
            bench.add(calls, fast, slow, bar=1.3, more_is_better=False)
    if bench.wants(formed):
        found = peers.moed("default", ["json"], bench.pairs)
        for json_speed, free in zip(found["json_schema"], found["json_free_text"]):
            bench.add(formed, json_speed, free)
    if bench.wants(anonymous):
        for _ in range(min(bench.pairs, 5)):
            memory = filled(slots=8)
            bench.add(anonymous, memory["anonymous"], memory["cache"] + ANONYMOUS_MB, bar=1.0, more_is_better=False)
    if bench.wants(resident):
        weights = sum(path.stat().st_size for path in peers.MODELS["mid"].glob("model.onnx*")) / 1e6
        for _ in range(min(bench.pairs, 5)):
            memory = filled(slots=8, prepare="never")
            bench.add(resident, memory["resident_peak"], RESIDENT * weights + memory["cache"], bar=1.0, more_is_better=False)


def filled(**settings):
    """Megabytes by kind of a server of the 497 M model that has used every token of every slot, and what is kept of prompts, twice over."""
    prompts = serving.Prompts("mid")
    with serving.Moed("mid", **settings):
        pass  # the first start makes the model ready
    with serving.Moed("mid", **settings) as server:
        for _ in range(2):
            serving.throughput(server, prompts.filling(settings["slots"]))
        return {name.split('"')[1]: value / 1e6 for name, value in server.metrics().items() if name.startswith("moed_memory_bytes")}


def machine():
    """What the figures were taken on and with."""
    stored = peers.BENCH / "models" / "bytes.json"
    return peers.versions() | {"bytes_a_token": json.loads(stored.read_text()) if stored.exists() else {}}


def merged(path, report, only):
    """The report, or the stored one with the rows of this run in place of theirs."""
    if not only or not path.exists():
        return report
    stored = json.loads(path.read_text(encoding="utf-8"))
    fresh = {row["name"]: row for row in report["rows"]}
    rows = [fresh.pop(row["name"], row) for row in stored["rows"]]
    types = stored["machine"].get("llama_types", {}) | report["machine"]["llama_types"]
    return {"machine": report["machine"] | {"llama_types": types}, "rows": rows + list(fresh.values())}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--row", action="append", default=[])
    options.add_argument("--list", action="store_true")
    options.add_argument("--out", type=pathlib.Path, default=peers.ROOT / "tests" / "reports")
    options = options.parse_args()
    # On a larger machine too: two cores for everybody.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: peers.THREADS])
    bench = Bench(options)
    if options.list:
        bench.only = ["\0"]
    begun, failures = time.time(), []
    steps = [(kernels, "mid"), (kernels, "default"), (served, "mid"), (served, "default"), (own_time,), (alone,)]
    for step, *arguments in steps:
        try:
            step(bench, *arguments)
        except peers.Failed as failure:
            failures.append(f"{step.__name__} {' '.join(arguments)}: {failure}")
            say(f"FAILED {failures[-1]}")
    if options.list:
        print("\n".join(dict.fromkeys(bench.known)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    path = bench.path
    rows = bench.rows.finished() + bench.missing(failures)
    report = merged(path, {"machine": bench.about | {"llama_types": bench.types}, "rows": rows}, options.row)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plot.write(report, options.out)
    print(table.markdown(report))
    say(f"{(time.time() - begun) / 60:.1f} minutes, {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
