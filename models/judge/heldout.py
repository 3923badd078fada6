"""Writes the held-out requests and the splits; run once, before the training that they judge.

    python -m judge.heldout

heldout.jsonl: names, wording and tool words all from the held-out side of the border in corpus/split.py at once.
splits.jsonl: one thing held out at a time; each split has a dev half (for choices) and a test half (read once a release).
Rows that are there stay as they are; only files and splits that are missing are written.
"""
import json
import pathlib
import random

from corpus import turns
from corpus.check import differences
from corpus.declines import absent, ambiguous, foreign, incomplete
from corpus.layouts import system_text
from corpus.questions import ask, ask_group, threshold
from corpus.random_dialects import distractor
from corpus.scenes import Split, make_scene
from corpus.split import number_held_out

HERE = pathlib.Path(__file__).parent
SEED = "held-out 2"  # the first file was lopsided: 65 of its 79 calls named the device by one word
PLAN = [(turns.single, 64), (turns.group, 16), (turns.both, 10), (ask, 12), (ask_group, 4), (threshold, 4), (turns.stats, 6), (turns.rule, 6), (turns.timer, 10), (absent, 6), (ambiguous, 6), (incomplete, 6), (foreign, 10)]
ACTING = (turns.single, turns.group, turns.both, turns.rule, turns.timer, turns.stats)
NUMBERED = [(turns.single, 24), (turns.group, 4), (turns.rule, 4), (turns.timer, 8)]
COMPOSED = [(turns.group, 24), (turns.both, 16)]
SPLITS = {"T0 nothing held out": (Split(), (3, 16)), "T1 names": (Split(names=True), (3, 16)), "T2 wording": (Split(wording=True), (3, 16)), "T3 compositions": (Split(compositions=True), (3, 16), COMPOSED),
          "T4 numbers": (Split(numbers=True), (3, 16), NUMBERED), "T5 tools": (Split(tools=True), (3, 16)), "T6 26 to 40 devices": (Split(), (26, 41)), "T7 noise": (Split(noise=True), (3, 16))}
PER_HALF = 20


def request(rng, task, wanted_call, split, sizes):
    """(messages, tools, expected calls) of one request with at least three tools it does not need."""
    while True:
        scene = make_scene(rng, split, rng.randrange(*sizes))
        listed = scene.home.copy()
        try:
            made = task(scene)
        except LookupError:
            continue
        if made is None:
            continue
        messages, (actions, calls, home) = made
        if bool(calls) != wanted_call or len([m for m in messages if m["role"] == "user"]) > 1:
            continue
        if split.numbers and not any(number_held_out(value) for call in calls for value in call["arguments"].values() if isinstance(value, (int, float))):
            continue
        if differences(actions, calls, scene, home):
            raise SystemExit("the oracle disagrees with a held-out label")
        while len([t for t in scene.offered if t.name not in {c["name"] for c in calls}]) < 3:
            extra = distractor(rng)
            if extra.name not in {t.name for t in scene.offered} and (task is not foreign):
                scene.offered.append(extra)
            elif task is foreign:  # another tool could serve a foreign request; take a scene with enough of them
                break
        else:
            system = system_text(rng, listed, scene.states, scene.dialect.reference == "key")
            return [{"role": "system", "content": system}, messages[0]], [t.schema() for t in scene.offered], calls


def rows(plan, split, sizes, seed, title=""):
    """Rows of one split, in the plan's order."""
    number, made = 0, []
    for task, count in plan:
        for _ in range(count):
            rng = random.Random(f"{seed}-{title}-{number}")
            wanted = task in ACTING or (task is ask and number % 3 == 0)
            messages, tools, expected = request(rng, task, wanted, split, sizes)
            row = {"id": f"{task.__name__}-{number:03}"} | ({"split": f"{title}, {('dev', 'test')[number % 2]}"} if title else {})
            made.append(row | {"messages": messages, "tools": tools, "expected": expected})
            number += 1
    return made


def write(path, made):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    print(f"{path.name}: {len(made)} requests, {sum(bool(row['expected']) for row in made)} of them want calls")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main():
    write(HERE / "heldout.jsonl", read(HERE / "heldout.jsonl") or rows(PLAN, Split(True, True, True), (3, 16), SEED))
    small = [(task, max(2, round(count * 2 * PER_HALF / sum(c for _, c in PLAN) / 2) * 2)) for task, count in PLAN]
    known, made = read(HERE / "splits.jsonl"), []
    for title, (split, sizes, *plan) in SPLITS.items():
        old = [row for row in known if row["split"].startswith(f"{title}, ")]
        made += old or rows(plan[0] if plan else small, split, sizes, SEED, title)
    write(HERE / "splits.jsonl", made)


if __name__ == "__main__":
    main()
