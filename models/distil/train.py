"""Trains the default model on this machine's CPU until a deadline.

    nice -n 19 python -m distil.train --deadline 2026-01-31T18:00 [--run xs] [--workers 2]

The run lives in .runs/<run>/: `latest.pt` every ten minutes (a second start resumes from it), `log.csv`,
`final.pt` at the end. The rate falls to zero over the last fifth of the time (--decay-share); a file .runs/<run>/stop begins
that fall at once and ends the run within six minutes; a file `pause` saves and leaves.

glibc gives large blocks back at once and page faults then cost a third of the time, so start it with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184
"""
import argparse
import concurrent.futures
import datetime
import pathlib
import time

import torch

from distil.network import Network, compile_pieces
from distil.optimiser import Optimiser
from distil.workers import Workers
from export.restore import weights_of

RUNS = pathlib.Path(__file__).parents[1] / ".runs"
WARM_STEPS = 60
SAVE_SECONDS = 480
STOP_SECONDS = 330


def copy_share(tokens, lesson_tokens):
    """Copy lessons: most of the samples at first, a third while copying settles, then a few for ever."""
    return 0.75 if tokens < lesson_tokens else 0.35 if tokens < 2 * lesson_tokens else 0.04


class Clock:
    """Wall-clock schedule: 1 until the decay begins, then linear to 0 at the deadline."""

    def __init__(self, begin, deadline, decay_share):
        self.deadline, self.decay = deadline, (deadline - begin) * decay_share

    def hurry(self):
        if self.deadline - time.time() > STOP_SECONDS:
            self.deadline, self.decay = time.time() + STOP_SECONDS, STOP_SECONDS

    def scale(self):
        return max(0.0, min(1.0, (self.deadline - time.time()) / self.decay))


def save(path, optimiser, progress):
    torch.save({"state": optimiser.state, "progress": progress}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--deadline", required=True, help="UTC, YYYY-MM-DDTHH:MM")
    options.add_argument("--run", default="xs")
    options.add_argument("--begin", type=pathlib.Path, help="a shipped folder whose weights a new run starts from")
    options.add_argument("--begin-tokens", type=float, default=0, help="tokens that those weights have already seen")
    options.add_argument("--workers", type=int, default=2, help="processes")
    options.add_argument("--batch-tokens", type=int, default=3072, help="of each process")
    options.add_argument("--lesson-tokens", type=float, default=1.5e6)
    options.add_argument("--choice-share", type=float, default=0.2, help="of the packs that are lessons in choosing a tool")
    options.add_argument("--rate", type=float, default=1.0, help="part of the full rates at which this start runs")
    options.add_argument("--decay-share", type=float, default=0.2, help="last part of this start's time in which the rate falls")
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    folder = RUNS / options.run
    folder.mkdir(parents=True, exist_ok=True)
    deadline = datetime.datetime.fromisoformat(options.deadline).replace(tzinfo=datetime.timezone.utc).timestamp()
    clock = Clock(time.time(), deadline, options.decay_share)
    compile_pieces()
    network = Network().bfloat16()
    for layer in network.layers:
        layer.mlp.gate.float()
    optimiser = Optimiser(network)
    progress = {"tokens": 0, "told": 0, "made": 0}
    if (folder / "latest.pt").exists():
        stored = torch.load(folder / "latest.pt", weights_only=True)
        optimiser.state, progress = stored["state"], stored["progress"]
        with torch.no_grad():
            for name, weight in optimiser.named.items():
                weight.copy_(optimiser.state["master"][name])
    elif options.begin:
        optimiser.take(weights_of(options.begin / "model.onnx"))
        progress["tokens"] = int(options.begin_tokens)
    workers = Workers(network, options.workers, options.run, options.batch_tokens, progress["made"])
    pool = concurrent.futures.ThreadPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,))
    saved = shown = time.time()
    shown_tokens = progress["tokens"]
    sums = torch.zeros(3)
    with open(folder / "log.csv", "a", encoding="utf-8") as log:
        while time.time() < clock.deadline:
            figures, tokens, told, progress["made"], load = workers.gradients((copy_share(progress["tokens"], options.lesson_tokens), options.choice_share))
            optimiser.step(options.rate * min(1.0, optimiser.state["steps"] / WARM_STEPS) * clock.scale(), pool.map)
            progress["tokens"] += tokens
            progress["told"] += told
            sums += torch.tensor([*figures, 1.0])
            if optimiser.state["steps"] % 20 == 0:
                now = time.time()
                speed = (progress["tokens"] - shown_tokens) / (now - shown)
                shown, shown_tokens = now, progress["tokens"]
                line = f"{datetime.datetime.now(datetime.timezone.utc):%H:%M:%S},{optimiser.state['steps']},{progress['tokens']},{progress['told']},{sums[0] / sums[2]:.4f},{sums[1] / sums[2]:.4f},{load.max() * load.shape[1]:.2f},{clock.scale():.3f},{speed:.0f}"
                print(line, file=log, flush=True)
                sums.zero_()
            if (folder / "stop").exists():
                clock.hurry()
            if (folder / "pause").exists():
                save(folder / "latest.pt", optimiser, progress)
                (folder / "pause").unlink()
                return
            if time.time() - saved > SAVE_SECONDS:
                save(folder / "latest.pt", optimiser, progress)
                saved = time.time()
    save(folder / "final.pt", optimiser, progress)


if __name__ == "__main__":
    main()
