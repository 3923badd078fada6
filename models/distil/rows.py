"""The table of what distillation and experts are worth: networks trained alike, each with two seeds, scored on the same requests.

    nice -n 19 python -m distil.rows --row ce --seed 1   # trains one row with one seed, or goes on with it, and scores it into reference/rows/
    python -m distil.rows                                # the table of what is scored

Every row has TOKENS tokens of the same stream (`distil.stream`, one a seed) and the same head start; `kd` learns from the `dense-total`
row of its seed, which comes first. Scored are `distil.measure`'s fresh packs and the dev halves of the splits: the test halves are for what is shipped.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys

import torch
from tokenizers import Tokenizer

from distil import headstart
from distil.checkpoint import RUNS, restore, weights
from distil.kinds import kind_of
from distil.measure import SIDES, measured, packs
from distil.stream import TOKENIZER
from export.graph import Graph
from export.session import Session
from judge.offline import Answerer, read_calls
from judge.score import RESAMPLES, verdict

TOKENS, PACKS = 15e6, 60
KINDS_OF = {"ce": "xs", "kd": "xs", "random-router": "random-router", "dense-active": "dense-active", "dense-total": "dense-total"}
CONTROL = "ce"
HERE = pathlib.Path(__file__).parents[1]
SCORED = HERE / "reference" / "rows"


def folder(row, seed):
    return RUNS / f"row-{row}-{seed}"


def train(row, seed):
    """Trains a row to its end, from wherever it was broken off."""
    path = folder(row, seed)
    if (path / "final.pt").exists():
        return
    if not (path / "latest.pt").exists():
        headstart.begin(path / "latest.pt", KINDS_OF[row], seed)
    order = [sys.executable, "-m", "distil.train", "--run", path.name, "--kind", KINDS_OF[row], "--tokens", str(TOKENS), "--stream", f"rows-{seed}"]
    if row == "kd":
        order += ["--teacher", str(folder("dense-total", seed) / "final.pt")]
    subprocess.run(order, cwd=HERE, check=True)


def score(row, seed):
    """Writes reference/rows/ROW-SEED.json: of every side the loss, and of each of its packs the share of units wholly right; and the verdicts on the dev halves."""
    path = folder(row, seed) / "final.pt"
    torch.set_num_threads(1)
    coder, network = Tokenizer.from_file(str(TOKENIZER)), restore(path).half_width().eval()
    losses, shares = {}, {}
    for side, split in SIDES.items():
        each = [measured(network, [sample]) for sample in packs(coder, split, PACKS)]
        losses[side] = sum(loss for loss, _, _ in each) / len(each)
        shares[side] = [right / units for _, right, units in each]
    named, progress = weights(path)
    shape = kind_of(progress).shape
    answerer = Answerer(Session(Graph(shape, named).model().SerializeToString(), shape))
    dev = [row for row in map(json.loads, (HERE / "judge" / "splits.jsonl").read_text(encoding="utf-8").splitlines()) if row["split"].endswith(", dev")]
    verdicts = [verdict(row, read_calls(answerer.text(row["messages"], row["tools"]))) for row in dev]
    SCORED.mkdir(exist_ok=True)
    (SCORED / f"{row}-{seed}.json").write_text(json.dumps({"tokens": progress["tokens"], "loss": losses, "packs": shares, "dev": verdicts}) + "\n", encoding="utf-8")


def scored(row):
    """seed -> what `score` wrote."""
    return {int(path.stem.rsplit("-", 1)[1]): json.loads(path.read_text(encoding="utf-8")) for path in sorted(SCORED.glob(f"{row}-[0-9]*.json"))}


def interval(values, seed=1):
    """(mean, low, high) in points, 95 % by resampling packs: what one home's requests have in common counts once."""
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return tuple(100 * x for x in (sum(values) / len(values), means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]))


def by_pack(found):
    """The mean over seeds of every pack's share, all sides in a row."""
    return [sum(values) / len(values) for values in zip(*([share for side in SIDES for share in one["packs"][side]] for one in found.values()))]


def table():
    """Markdown lines. The intervals hold for these seeds; each seed's own figure beside them says how much a seed does."""
    lines = ["| row | units right, all sides (95 %) | each seed | " + " | ".join(SIDES) + f" | dev halves: right, wrong or false | against `{CONTROL}`, same seeds (95 %) |", "|" + "---|" * (len(SIDES) + 5)]
    control = scored(CONTROL)
    for row in KINDS_OF:
        found = scored(row)
        if not found:
            continue
        cells = [f"`{row}`", "{:.1f} % ({:.1f} to {:.1f})".format(*interval(by_pack(found))), ", ".join(f"{interval(by_pack({seed: one}))[0]:.1f}" for seed, one in found.items())]
        cells += [f"{100 * sum(sum(one['packs'][side]) / len(one['packs'][side]) for one in found.values()) / len(found):.1f} %" for side in SIDES]
        dev = [v for one in found.values() for v in one["dev"]]
        cells.append(f"{100 * dev.count('right') / len(dev):.1f} %, {100 * (dev.count('wrong action') + dev.count('false call')) / len(dev):.1f} %")
        seeds = sorted(found.keys() & control.keys())
        if row != CONTROL and seeds:
            pairs = zip(by_pack({seed: found[seed] for seed in seeds}), by_pack({seed: control[seed] for seed in seeds}))
            cells.append("{:+.1f} ({:+.1f} to {:+.1f}), {}".format(*interval([a - b for a, b in pairs]), f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"))
        else:
            cells.append("")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--row", choices=KINDS_OF)
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    if options.row:
        train(options.row, options.seed)
        score(options.row, options.seed)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
