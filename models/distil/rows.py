"""The table of what distillation and experts are worth: networks trained alike, each with two seeds, scored on the same requests.

    nice -n 19 python -m distil.rows --row ce --seed 1   # trains, or goes on with, one row, then scores it into reference/rows/
    python -m distil.rows                                # the table of the rows that are scored

Every row has TOKENS tokens of the same stream (`distil.stream`, one a seed) and the same head start; `kd` learns from the `dense-total`
row of its seed, which has to be there.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys

from distil import headstart
from distil.checkpoint import RUNS
from judge.score import RESAMPLES

TOKENS = 15e6
KINDS_OF = {"ce": "xs", "kd": "xs", "random-router": "random-router", "dense-active": "dense-active", "dense-total": "dense-total"}
CONTROL = "ce"
FILES = ("splits", "heldout")
HERE = pathlib.Path(__file__).parents[1]
SCORED = HERE / "reference" / "rows"


def folder(row, seed):
    return RUNS / f"row-{row}-{seed}"


def train(row, seed):
    """Trains a row to its end, from wherever it was broken off."""
    path = folder(row, seed)
    if not (path / "latest.pt").exists():
        headstart.begin(path / "latest.pt", KINDS_OF[row], seed)
    order = [sys.executable, "-m", "distil.train", "--run", path.name, "--kind", KINDS_OF[row], "--tokens", str(TOKENS), "--stream", f"rows-{seed}"]
    if row == "kd":
        order += ["--teacher", str(folder("dense-total", seed) / "final.pt")]
    subprocess.run(order, cwd=HERE, check=True)


def score(row, seed):
    SCORED.mkdir(exist_ok=True)
    for name in FILES:
        subprocess.run([sys.executable, "-m", "judge.offline", "--checkpoint", str(folder(row, seed) / "final.pt"), "--file", f"judge/{name}.jsonl", "--out", str(SCORED / f"{row}-{seed}-{name}.jsonl")], cwd=HERE, check=True)


def verdicts(row):
    """request -> the verdicts of the row's seeds, over both files; {} where a row is not scored."""
    found = {}
    for path in sorted(SCORED.glob(f"{row}-[0-9]*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            found.setdefault(path.stem.rsplit("-", 1)[1] + " " + line["id"], []).append(line["verdict"])
    return found


def interval(values, seed=1):
    """(mean, low, high) in points, 95 % by resampling requests."""
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return tuple(100 * x for x in (sum(values) / len(values), means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]))


def shares(found, names):
    """Of every request, the share of seeds with one of these verdicts."""
    return {key: sum(v in names for v in seeds) / len(seeds) for key, seeds in found.items()}


def table():
    """Markdown lines: score, wrong actions and false calls, and the difference from the control on the same requests."""
    lines = ["| row | seeds | right (95 %) | wrong actions and false calls | against `" + CONTROL + "`, paired (95 %) |", "|---|---|---|---|---|"]
    control = shares(verdicts(CONTROL), ("right",))
    for row in KINDS_OF:
        found = verdicts(row)
        if not found:
            continue
        right, wrong = (shares(found, names) for names in (("right",), ("wrong action", "false call")))
        cells = [f"`{row}`", str(len(next(iter(found.values())))), "{:.1f} % ({:.1f} to {:.1f})".format(*interval(list(right.values()))), f"{100 * sum(wrong.values()) / len(wrong):.1f} %"]
        same = row != CONTROL and control.keys() == right.keys()
        cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*interval([right[key] - control[key] for key in right])) if same else "")
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
