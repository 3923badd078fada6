"""The difference between two scored runs on the same requests, with a paired bootstrap interval.

    python -m judge.offline --out a.jsonl …; python -m judge.offline --folder OTHER --out b.jsonl …
    python -m judge.compare a.jsonl b.jsonl
"""
import argparse
import json
import pathlib
import random

from judge.score import RESAMPLES


def paired(first, second, seed=1):
    """(difference in points, lowest, highest) of second minus first over pairs of flags, 95 % by resampling requests."""
    rng, steps = random.Random(seed), [int(b) - int(a) for a, b in zip(first, second, strict=True)]
    means = sorted(sum(rng.choices(steps, k=len(steps))) / len(steps) for _ in range(RESAMPLES))
    return tuple(100 * x for x in (sum(steps) / len(steps), means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("first", type=pathlib.Path)
    options.add_argument("second", type=pathlib.Path)
    options = options.parse_args()
    first, second = ({row["id"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())} for path in (options.first, options.second))
    if first.keys() != second.keys():
        raise SystemExit("the two runs did not answer the same requests")
    for title, verdicts in (("right", ("right",)), ("wrong actions and false calls", ("wrong action", "false call"))):
        flags = [[rows[key]["verdict"] in verdicts for key in first] for rows in (first, second)]
        change, low, high = paired(*flags)
        print(f"{title}: {sum(flags[0])} and {sum(flags[1])} of {len(first)}, difference {change:+.1f} points (95 %, paired bootstrap: {low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
