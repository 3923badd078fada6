"""Proof that the judge's own parts agree: gold calls fit their tools at every prefix, broken ones do not, right is right.

    python -m judge.check
"""
import json
import pathlib
import sys

from corpus.render import call_text
from judge.fitting import fits
from judge.score import coverage, verdict

FILES = ("heldout.jsonl", "splits.jsonl", "heldout_first.jsonl")


def faults(row):
    """What is wrong with one request, as sentences."""
    text, tools, found = "\n".join(map(call_text, row["expected"])), row["tools"], []
    if verdict(row, row["expected"]) != "right":
        found.append("its own calls are not right")
    if not text:
        return found
    if not all(fits(text[:end], tools, False) for end in range(len(text) + 1)) or not fits(text, tools, True):
        found.append("its own calls do not fit its tools")
    first = row["expected"][0]
    for wrong in ({"name": first["name"] + "x", "arguments": first["arguments"]}, {"name": first["name"], "arguments": first["arguments"] | {"nothing": 1}}):
        if fits(call_text(wrong), tools, True):
            found.append(f"a call that no tool offers fits: {wrong}")
        if verdict(row, [wrong, *row["expected"][1:]]) != "wrong action":
            found.append(f"a wrong call is not a wrong action: {wrong}")
    if verdict(row, []) != "no call" or fits(text[:-1], tools, True):
        found.append("silence or half a call passes")
    return found


def counted():
    """What is wrong with the coverage on a case that is known, as sentences."""
    sure, right = [5.0, 4.0, 3.0, 3.0, 2.0], [True, True, True, False, True]
    cases = [(coverage(sure, right, 1.0), (0.4, 4.0)), (coverage(sure, right, 0.8), (1.0, 2.0)), (coverage(sure, [False] * 5), (0.0, float("inf")))]
    return [f"coverage is {found}, not {wanted}" for found, wanted in cases if found != wanted]


def main():
    total = wrong = 0
    for name in FILES:
        for line in (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8").splitlines():
            row, total = json.loads(line), total + 1
            for fault in faults(row):
                wrong += 1
                print(f"{name} {row['id']}: {fault}", file=sys.stderr)
    for fault in counted():
        wrong += 1
        print(fault, file=sys.stderr)
    print(f"judge: {total} requests, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
