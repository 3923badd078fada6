"""The programs that are compared, each behind one call that gives a number."""
import atexit
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
MOED = pathlib.Path(os.environ.get("MOED_BINARY", ROOT / "target" / "release" / "moed"))
MODELS = {"mid": BENCH / "models" / "mid" / "onnx", "default": ROOT / "models" / "default"}
# what genai runs: what its own builder made of the checkpoint, and our graph without what it does not know, which it runs faster
GENAI = {
    "mid": {"onnxruntime-genai": BENCH / "models" / "mid" / "genai", "onnxruntime-genai on our graph": BENCH / "models" / "mid" / "plain"},
    "default": {"onnxruntime-genai": ROOT / "models" / "default"},
}
FOUR_BITS = ("Q4_0", "Q4_0-pure", "Q4_1", "Q4_K_S", "Q4_K_S-pure", "Q4_K_M", "IQ4_NL", "IQ4_XS", "IQ4_XS-pure", "MXFP4_MOE")
# As many threads as the peers get (left to itself moed measures how many are best); models are made ready once.
ENGINE = ("engine.threads = 2", f'model.prepared = "{BENCH}/prepared"')
PAST = 128
STEPS = 32
THREADS = 2


class Failed(Exception):
    """A program that did not do what it was asked to."""


def output(*command, cwd=ROOT):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}")
    return done.stdout


def moed(model, rows, rounds=1, calls=None):
    """`moed bench`: row name -> list of samples. `calls` is a file of requests with tools."""
    wanted = [part for row in rows for part in ("--row", row)] + (["--calls", calls] if calls else [])
    config = BENCH / "moed.toml"
    config.write_text("".join(f"{line}\n" for line in ENGINE), encoding="utf-8")
    report = json.loads(output(MOED, "bench", MODELS[model], "--config", config, "--json", "--rounds", rounds, *wanted))
    return {row["name"]: row["samples"] for row in report["rows"]}


def own_time(model, streams, rounds):
    """The bare loop against the engine's step, microseconds by round: [{streams, bare_us, step_us}]."""
    wanted = [part for number in streams for part in ("--streams", number)]
    found = output("cargo", "bench", "--quiet", "--locked", "--bench", "own_time", "--", MODELS[model], "--rounds", rounds, *wanted)
    return json.loads(found)["rows"]


def gguf(model, kind):
    return BENCH / "models" / model / "gguf" / f"{kind}.gguf"


def llama_types(model):
    return [kind for kind in FOUR_BITS if gguf(model, kind).exists()]


def llama_bench(model, kind, prompt, answer):
    """llama-bench, tokens/s: of a prompt of so many tokens from nothing, or of an answer after PAST tokens."""
    depth = PAST if answer else 0
    found = json.loads(output(BENCH / "llama/bin/llama-bench", "-m", gguf(model, kind), "-p", prompt, "-n", answer, "-d", depth, "-t", THREADS, "-r", 1, "-o", "json"))
    return found[0]["avg_ts"]


def llama_batched(model, kind, streams):
    """llama-batched-bench with one shared prompt: number of streams -> tokens/s of decoding."""
    room = PAST + (STEPS + 8) * max(streams)
    found = output(BENCH / "llama/bin/llama-batched-bench", "-m", gguf(model, kind), "-c", room + 256, "-npp", PAST, "-ntg", STEPS, "-npl", ",".join(map(str, streams)), "-pps",
                   "-t", THREADS, "--output-format", "jsonl")
    lines = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
    return {line["pl"]: line["speed_tg"] for line in lines}


class Genai:
    """onnxruntime-genai in a process of its own, which sleeps while others are measured."""

    def __init__(self, folder):
        worker = pathlib.Path(__file__).with_name("genai_worker.py")
        self.process = subprocess.Popen([sys.executable, worker, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        atexit.register(self.process.kill)

    def decode(self, streams):
        """tokens/s of all streams together after PAST tokens."""
        self.process.stdin.write(f"{streams} {PAST} {STEPS}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"genai's worker ended with {self.process.wait()}")
        return float(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def versions():
    """What was compared, by name."""
    from importlib.metadata import version

    cpu = next((line.split(": ", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), "unknown")
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo", encoding="utf-8") if line.startswith("MemTotal"))
    stamp = BENCH / "llama" / "stamp"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory / 1e6, 1), "kernel": os.uname().release, "moed": commit,
            "onnxruntime": version("onnxruntime"), "onnxruntime-genai": version("onnxruntime-genai"), "llama.cpp": f"as in {stamp.read_text().strip()}" if stamp.exists() else None}
