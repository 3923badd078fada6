"""Proof that labels are right: every gold call, run on the home, makes exactly the intended changes.

    python -m corpus.check [--samples 2000]

Also checked: the text pieces equal the chat template's rendering, and no wording stands on both sides of the border.
"""
import argparse
import collections
import json
import random
import sys

import jinja2.sandbox

from corpus.actions import intended
from corpus.render import pieces
from corpus.patterns import FOLDER, choices
from corpus.scenes import Split, conversation


def template():
    """The chat template, compiled as transformers compiles it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False)
    return environment.from_string((FOLDER.parents[1] / "default" / "chat_template.jinja").read_text(encoding="utf-8"))


def differences(actions, calls, scene, home):
    """Empty when the calls do what the actions mean."""
    meant, done = {}, {}
    for action in actions:
        meant |= intended(action, home)
    for call in calls:
        done |= scene.dialect.execute(call, home)
    return {} if meant == done else {"meant": meant, "done": done}


def wording_sides():
    """(patterns for training, patterns held out, patterns on both sides) over all wording files."""
    sides = [{p for path in FOLDER.glob("*.txt") if path.stem != "lists" for p in choices(path.stem, None, held)} for held in (False, True)]
    return len(sides[0]), len(sides[1]), len(sides[0] & sides[1])


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=2000)
    options.add_argument("--show", type=int, default=0)
    options = options.parse_args()
    compiled, faults, kinds = template(), 0, collections.Counter()
    for seed in range(options.samples):
        rng = random.Random(f"check-{seed}")
        held = seed % 5 == 4
        messages, tools, scene, checks = conversation(rng, Split(held, held, held))
        kinds[scene.dialect.title] += 1
        for actions, calls, home in checks:
            kinds["turns"] += 1
            kinds["calls"] += len(calls)
            try:
                fault = differences(actions, calls, scene, home)
            except ValueError as error:
                fault = str(error)
            if fault:
                faults += 1
                print(f"sample {seed}: {fault} {calls}", file=sys.stderr)
        ours = "".join(text for text, _ in pieces(messages, tools))
        if ours != compiled.render(messages=messages, tools=tools, add_generation_prompt=False):
            faults += 1
            print(f"sample {seed}: rendering differs", file=sys.stderr)
        if seed < options.show:
            print(ours, "\n" + "=" * 60)
    train, held, shared = wording_sides()
    faults += shared
    print(dict(kinds))
    print(f"wording: {train} patterns for training, {held} held out, {shared} on both sides")
    print(f"{options.samples} samples, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
