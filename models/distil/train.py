"""Trains the default model, or one of its controls, on this machine's CPU until a deadline or for a number of tokens.

    nice -n 19 python -m distil.train --deadline 2026-01-31T18:00 [--run xs] [--workers 2]
    nice -n 19 python -m distil.train --tokens 15e6 --run NAME --kind dense-active [--teacher FILE]

The run lives in .runs/<run>/: `latest.pt` every eight minutes (a second start resumes from it), `log.csv`,
`final.pt` at the end. The rate falls to zero over the last fifth of the time or tokens (--decay-share); a file `pause` saves and
leaves. In a run with a deadline a file .runs/<run>/stop begins that fall at once and ends the run within six minutes.

glibc gives large blocks back at once and page faults then cost a third of the time, so start it with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184
"""
import argparse
import concurrent.futures
import datetime
import hashlib
import pathlib
import time

import torch

from distil.checkpoint import restore
from distil.kinds import KINDS
from distil.network import Network, compile_pieces
from distil.optimiser import Optimiser
from distil.schedule import Budget, Clock
from distil.stream import TOKENIZER
from distil.workers import Workers
from export.restore import weights_of

RUNS = pathlib.Path(__file__).parents[1] / ".runs"
WARM_STEPS = 60
SAVE_SECONDS = 480


def copy_share(tokens, lesson_tokens):
    """Copy lessons: most of the samples at first, a third while copying settles, then a few for ever."""
    return 0.75 if tokens < lesson_tokens else 0.35 if tokens < 2 * lesson_tokens else 0.1


def save(path, optimiser, progress):
    torch.save({"state": optimiser.state, "progress": progress}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def main():
    options = argparse.ArgumentParser()
    until = options.add_mutually_exclusive_group(required=True)
    until.add_argument("--deadline", help="UTC, YYYY-MM-DDTHH:MM")
    until.add_argument("--tokens", type=float, help="in all, those of earlier starts included")
    options.add_argument("--kind", choices=KINDS, default="xs")
    options.add_argument("--teacher", type=pathlib.Path, help="a checkpoint whose distribution over the answers' tokens is half of the loss")
    options.add_argument("--stream", help="seed of the samples; the run's name where nothing is said")
    options.add_argument("--seed", type=int, default=7, help="of the first weights")
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
    torch.manual_seed(options.seed)
    folder = RUNS / options.run
    folder.mkdir(parents=True, exist_ok=True)
    if options.tokens:
        schedule = Budget(options.tokens, options.decay_share)
    else:
        schedule = Clock(datetime.datetime.fromisoformat(options.deadline).replace(tzinfo=datetime.timezone.utc).timestamp(), options.decay_share)
    compile_pieces()
    network = Network(KINDS[options.kind].shape, KINDS[options.kind].router).half_width()
    optimiser = Optimiser(network)
    progress = {"tokens": 0, "told": 0, "made": [], "kind": options.kind}
    if (folder / "latest.pt").exists():
        stored = torch.load(folder / "latest.pt", weights_only=True)
        optimiser.state, progress = stored["state"], {"kind": "xs"} | stored["progress"]
        if progress["kind"] != options.kind:
            raise SystemExit(f"{folder.name} is a run of kind {progress['kind']}, not {options.kind}")
        with torch.no_grad():
            for name, weight in optimiser.named.items():
                weight.copy_(optimiser.state["master"][name])
    elif options.begin:
        optimiser.take(weights_of(options.begin / "model.onnx"))
        progress["tokens"] = int(options.begin_tokens)
    digest = hashlib.sha256(TOKENIZER.read_bytes()).hexdigest()
    if progress.setdefault("tokenizer", digest) != digest:
        raise SystemExit(f"{folder.name} began with another tokenizer than {TOKENIZER}: its tokens mean other words")
    if isinstance(progress["made"], int) or len(progress["made"]) != options.workers:  # of a run with other workers; none may tell a pack twice
        progress["made"] = [max(progress["made"], default=0) if isinstance(progress["made"], list) else progress["made"]] * options.workers
    teacher = options.teacher and restore(options.teacher).half_width()
    workers = Workers(network, options.workers, options.stream or options.run, options.batch_tokens, progress["made"], teacher)
    pool = concurrent.futures.ThreadPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,))
    saved = shown = time.time()
    shown_tokens = progress["tokens"]
    sums = torch.zeros(3)
    with open(folder / "log.csv", "a", encoding="utf-8") as log:
        while not schedule.over(progress["tokens"]):
            figures, tokens, told, progress["made"], load = workers.gradients((copy_share(progress["tokens"], options.lesson_tokens), options.choice_share))
            optimiser.step(options.rate * min(1.0, optimiser.state["steps"] / WARM_STEPS) * schedule.scale(progress["tokens"]), pool.map)
            progress["tokens"] += tokens
            progress["told"] += told
            sums += torch.tensor([*figures, 1.0])
            if optimiser.state["steps"] % 20 == 0:
                now = time.time()
                speed = (progress["tokens"] - shown_tokens) / (now - shown)
                shown, shown_tokens = now, progress["tokens"]
                line = f"{datetime.datetime.now(datetime.timezone.utc):%H:%M:%S},{optimiser.state['steps']},{progress['tokens']},{progress['told']},{sums[0] / sums[2]:.4f},{sums[1] / sums[2]:.4f},{load.max() * load.shape[1]:.2f},{schedule.scale(progress['tokens']):.3f},{speed:.0f}"
                print(line, file=log, flush=True)
                sums.zero_()
            if options.deadline and (folder / "stop").exists():
                schedule.hurry()
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
