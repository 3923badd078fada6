"""Writes the held-out requests; run once, before training, and never again.

    python -m judge.heldout > judge/heldout.jsonl

Names, wording and tool words all come from the held-out side of the border in corpus/split.py.
"""
import json
import random

from corpus import turns
from corpus.check import differences
from corpus.layouts import system_text
from corpus.random_dialects import distractor
from corpus.scenes import Split, make_scene

PLAN = [(turns.single, 48), (turns.group, 12), (turns.both, 8), (turns.ask, 8), (turns.threshold, 3), (turns.rule, 4), (turns.timer, 5), (turns.absent, 4), (turns.ambiguous, 4), (turns.foreign, 4)]


def request(rng, task, wanted_call):
    """(messages, tools, expected calls) of one request with at least three tools it does not need."""
    while True:
        scene = make_scene(rng, Split(True, True, True), rng.randrange(3, 16))
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
        if differences(actions, calls, scene, home):
            raise SystemExit("the oracle disagrees with a held-out label")
        while len([t for t in scene.offered if t.name not in {c["name"] for c in calls}]) < 3:
            extra = distractor(rng)
            if extra.name not in {t.name for t in scene.offered}:
                scene.offered.append(extra)
        system = system_text(rng, listed, scene.states, scene.dialect.reference == "key")
        return [{"role": "system", "content": system}, messages[0]], [t.schema() for t in scene.offered], calls


def main():
    number = 0
    for task, count in PLAN:
        for _ in range(count):
            rng = random.Random(f"held-out-{number}")
            wanted = task in (turns.single, turns.group, turns.both, turns.rule, turns.timer) or (task is turns.ask and number % 4 == 0)
            messages, tools, expected = request(rng, task, wanted)
            print(json.dumps({"id": f"{task.__name__}-{number:03}", "messages": messages, "tools": tools, "expected": expected}, ensure_ascii=False))
            number += 1


if __name__ == "__main__":
    main()
